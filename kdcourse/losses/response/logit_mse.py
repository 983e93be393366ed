"""Regression on the logits. B batch, K classes; z, v: logits of student and teacher."""

import torch  # noqa: F401 - for the example

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss

VARIANTS = ("half", "sum", "mean")


def logit_mse(student_BK, teacher_BK, variant: str = "half", reduction: str = "mean"):
    r"""Compute the squared distance of the logits.

    .. math:: L = \frac{1}{2} \sum_k (z_k - v_k)^2

    Ba & Caruana 2014 (arXiv:1312.6184), equation 1. As T grows, `kd` tends to this loss of the
    *centred* logits, divided by K. Raises `ValueError` for another variant and for logits that are
    not [B, K], of one shape.

    student_BK, teacher_BK: finite logits [B, K] (leave out classes that are ruled out).
    variant: "half" as above; "sum" without the 1/2, as in Kim et al. 2021 (arXiv:2105.08919);
        "mean" also divided by K, as in the code of Kim et al.

    >>> s, t = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]])
    >>> logit_mse(s, t), logit_mse(s, t, "sum"), logit_mse(s, t, "mean")  # of 3² = 9
    (tensor(4.5000), tensor(9.), tensor(4.5000))
    """
    inputs.check_choice("variant", variant, VARIANTS)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK, least=1)
    squares_BK = (student_BK - teacher_BK).square()
    values_B = squares_BK.mean(1) if variant == "mean" else squares_BK.sum(1)
    return inputs.reduce(values_B / 2 if variant == "half" else values_B, reduction)


class LogitMSE(Loss, function=logit_mse):
    """Regress on the teacher's logits: `logit_mse`. Of numbers, too.

    Published weight: 1 for variant "mean", without labels, for wide ResNets on CIFAR-100 at batch
    128 (Kim et al. 2021, α = 1; jhoon-oh/kd_data, code/image_classfication/, tools/losses.py and
    main.py). With "half" that is 2 / K.
    """

    needs_classes = False

    def __init__(self, variant: str = "half", student=None, teacher=None):
        inputs.check_choice("variant", variant, VARIANTS)
        super().__init__(student, teacher, variant=variant)
