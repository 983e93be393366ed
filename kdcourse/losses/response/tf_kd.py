"""A teacher computed from the label. B batch, K classes; z: the student's logits, q: softmax."""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss
from kdcourse.losses.response.hinton import kd


def virtual_teacher(student_BK, labels, a: float = 0.99, T: float = 20.0, variant: str = "paper",
                    reduction: str = "mean"):
    r"""Distil from a virtual teacher: probability `a` for the label, the rest spread evenly.

    .. math:: L = T^2\,\mathrm{KL}(p^d_T \,\|\, q), \qquad
        p^d_k = \begin{cases} a & k = y \\ (1-a)/(K-1) & k \ne y \end{cases}

    Yuan et al. 2020 (Tf-KD_reg, arXiv:1909.11723), section 4, equation 9, with T² as everywhere
    here (divide the paper's α by T²). The logits that T divides are log p^d. With a below 1, a
    class that the student rules out (-inf) makes the loss +inf. Raises `ValueError` for settings
    out of range and for shapes that do not match.

    student_BK: logits [B, K], K at least 2. labels: class numbers [B].
    a: probability of the right class, in (0, 1]. Paper: 0.9 and more.
    T: temperature, above 0. Paper: 20 and more.
    variant: "paper" as above. "code", the authors' on CIFAR-100: the teacher is softmax(p^d / T),
        far more even, the student is not softened, without T² (their code also divides by K).

    >>> y = torch.tensor([1])
    >>> virtual_teacher(torch.tensor([[0.25, 0.75]]).log(), y, a=0.75)  # the same distribution
    tensor(0.)
    """
    _check_settings(a, T, variant)
    student_BK = inputs.logits(student_BK, "student")
    labels_B1 = inputs.class_numbers(student_BK, labels)[:, None]
    K = student_BK.shape[1]
    p_BK = torch.full_like(student_BK, (1 - a) / (K - 1)).scatter(1, labels_B1, a)
    if variant == "code":
        return kd(student_BK, p_BK / T, 1, reduction)
    return kd(student_BK, p_BK.log(), T, reduction)


class TfKD(Loss, function=virtual_teacher):
    """Distil without a teacher: `virtual_teacher`. T² is included in variant "paper".

    Published weights belong to variant "code" with a = 0.99. The authors' code has (1 - α) for the
    labels and α m / K for this, on CIFAR-100 at batch 128 (params.json in experiments/
    base_experiments/ of yuanli2333/Teacher-free-Knowledge-Distillation): ResNet-18 α 0.1, T 20,
    m 100, which is `0.9 * CE() + 0.1 * TfKD(T=20, variant="code")`; MobileNetV2 α 0.95, T 40, m 1;
    ShuffleNetV2 α 0.95, T 10, m 1; GoogLeNet α 0.1, T 40, m 50, at batch 64. No weight makes the
    same of variant "paper".
    """
    needs_teacher = False

    def __init__(self, a: float = 0.99, T: float = 20.0, variant: str = "paper",
                 student=None, teacher=None):
        _check_settings(a, T, variant)
        super().__init__(student, teacher, a=a, T=T, variant=variant)


def _check_settings(a, T, variant) -> None:
    inputs.check(0 < a <= 1, "a probability a above 0 and up to 1", a)
    inputs.check_temperature(T)
    inputs.check_choice("variant", variant, ("paper", "code"))
