"""DeiT's hard distillation. B batch, K classes; v: teacher's logits, q: student's softmax."""

import math

import torch  # noqa: F401 - for the example
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss


def hard_label(student_BK, teacher_BK, smoothing: float = 0.0, reduction: str = "mean"):
    r"""Compute the cross-entropy with the teacher's most likely class as the label.

    .. math:: L = -\log q_{y_t}, \qquad y_t = \arg\max_k v_k

    Touvron et al. 2021 (DeiT, arXiv:2012.12877), section 4, equation 3. The paper's objective is
    `0.5 * CE() + 0.5 * HardLabel()`; only its labels of the data are smoothed, by 0.1. Raises
    `ValueError` for smoothing outside [0, 1] and for logits that are not [B, K], of one shape.

    student_BK, teacher_BK: logits [B, K]. Of equal largest logits the first counts.
    smoothing: share ε of the uniform distribution, in [0, 1], as in `label_smoothing`. Above 0, a
        class that the student rules out (-inf) makes the loss +inf.

    >>> hard_label(torch.zeros(1, 4), torch.tensor([[0.0, 3.0, 1.0, 2.0]]))  # log 4
    tensor(1.3863)
    """
    inputs.check_share("smoothing", smoothing)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    values_B = F.cross_entropy(student_BK, teacher_BK.argmax(1), label_smoothing=smoothing,
                               reduction="none")
    values_B = values_B.masked_fill(teacher_BK.isnan().any(1), math.nan)  # argmax takes NaN first
    return inputs.reduce(values_B, reduction)


class HardLabel(Loss, function=hard_label):
    """Take the teacher's most likely class as the label: `hard_label`.

    Published weight: 0.5 with 0.5 for the labels, for RegNetY-16GF to DeiT-B on ImageNet at batch
    1024 (Touvron et al., equation 3 and table 9; facebookresearch/deit, main.py,
    `--distillation-alpha`, and run_with_submitit.py: 64 on each of 16 GPUs). There the labels are
    smoothed by 0.1 and mixed, and go to the class token's head, the teacher's to the distillation
    token's. The soft distillation beside it in their table 3 has weight 0.1 at T = 3 in the paper
    (section 6): `0.9 * CE() + 0.1 * KD(T=3)`, but the code divides its second term by the 1,000
    classes.
    """

    def __init__(self, smoothing: float = 0.0, student=None, teacher=None):
        inputs.check_share("smoothing", smoothing)
        super().__init__(student, teacher, smoothing=smoothing)

    def extra_repr(self):
        return super().extra_repr() if self.smoothing else ""
