"""Universal logit distillation. B batch, K classes of the student, J of the teacher."""

import math  # noqa: F401 - for the example

import torch  # noqa: F401 - for the example
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss


def uld(student_BK, teacher_BJ, T: float = 1.0, reduction: str = "mean"):
    r"""Compute the absolute difference of the sorted probabilities, for two vocabularies.

    .. math:: L = \sum_i |q_{(i)} - p_{(i)}|, \qquad q_{(1)} \ge q_{(2)} \ge \dots, \quad
        p_{(1)} \ge p_{(2)} \ge \dots

    Boizard et al. 2024 (arXiv:2402.12030), section 3: of two models with other tokenizers only the
    sizes of the probabilities are compared. The smaller vocabulary is filled up with probability 0.
    Between 0 and 2. **It does not see which token has a probability**: a student that gives the
    teacher's numbers to other tokens has loss 0, so it only makes sense beside the labels. No
    factor T² is included, as in the authors' code. Raises `ValueError` for T <= 0, and for logits
    that are not [B, K] and [B, J].

    student_BK, teacher_BJ: logits of the same places; with two tokenizers the n-th token of an
        answer is compared with the n-th one of the other side.

    >>> s = torch.tensor([[0.0, math.log(3)]])  # 1/4, 3/4
    >>> uld(s, torch.tensor([[math.log(3), 0.0]])), uld(s, torch.zeros(1, 4))  # 0; then 1/2 + 2/4
    (tensor(0.), tensor(1.))
    """
    inputs.check_temperature(T)
    student_BK = inputs.logits(student_BK, "student")
    teacher_BJ = inputs.logits(teacher_BJ, "teacher")
    if len(student_BK) != len(teacher_BJ):
        raise inputs.shape_error("logits of as many rows", student_BK, teacher_BJ)
    teacher_BJ = inputs.fixed(student_BK, teacher_BJ)
    q, p = ((x / T).softmax(1).sort(1, descending=True).values for x in (student_BK, teacher_BJ))
    more = p.shape[1] - q.shape[1]
    q, p = F.pad(q, (0, max(more, 0))), F.pad(p, (0, max(-more, 0)))
    return inputs.reduce((q - p).abs().sum(1), reduction)


class ULD(Loss, function=uld):
    """Match the sizes of the probabilities, whatever the tokens are called: `uld`.

    Published weight: 1.5, with 1 for the labels, for Llama-2-7b-chat to Pythia-410m at batch 4,
    on answers by the teacher (Nicolas-BZRD/llm-recipes, configs/distillation.py,
    models/distillation_model.py, README.md of 0431a3c). Their code takes the mean over each answer
    first, then over the answers; here each token counts the same.
    """

    same_classes = False

    def __init__(self, T: float = 1.0, student=None, teacher=None):
        inputs.check_temperature(T)
        super().__init__(student, teacher, T=T)
