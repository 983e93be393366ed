"""TinyBERT: hidden states and attention. B batch, A heads, N tokens, D features."""

import torch  # noqa: F401 - for the example

from kdcourse.losses import inputs
from kdcourse.losses.attention.pairs import HiddenLoss, attention_pair, tokens_pair
from kdcourse.losses.base import FeatureLoss

HEADS = ("same", "mean")


def hidden_mse(student_BND, teacher_BND, reduction: str = "mean"):
    r"""Compute the mean squared error between hidden states.

    .. math:: L = \frac{1}{N D} \sum_{n, d} (h^S_{nd} - h^T_{nd})^2

    Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding", equation 8
    (arXiv:1909.10351); with embeddings instead, equation 9. There the student's states first pass a
    trained matrix, :math:`H^S W_h`: `HiddenMSE` holds it. Mean over tokens, features and samples.

    student_BND, teacher_BND: hidden states [B, N, D], of one shape. A map [B, C, H, W] counts as H
        W tokens, a vector [B, D] as one. No gradient reaches the teacher.
    reduction: "mean", or "none" for one value per sample, [B].

    It grows with the square of the scale: a few large features decide. Raises `ValueError` for
    other shapes, and for different numbers of tokens or widths.

    >>> hidden_mse(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0, 5.0]]]))  # (0 + 3²) / 2
    tensor(4.5000)
    """
    student_BND, teacher_BND = tokens_pair(student_BND, teacher_BND)
    return inputs.reduce((student_BND - teacher_BND).square().mean((1, 2)), reduction)


class HiddenMSE(HiddenLoss, function=hidden_mse):
    """Match hidden states: `hidden_mse`. Trains a matrix without bias on the student's features,
    also where the widths agree: TinyBERT's :math:`W_h`.

    project: False compares the features as they are; None makes a matrix only where widths differ.
    """

    def __init__(self, student=None, teacher=None, *, project: bool | None = True):
        super().__init__(student, teacher, project=project)


def attention_mse(student_BANN, teacher_BANN, heads: str = "same", reduction: str = "mean"):
    r"""Compute the mean squared error between attention matrices.

    .. math:: L = \frac{1}{A} \sum_a \mathrm{MSE}(A^S_a, A^T_a)

    Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding", equation 7
    (arXiv:1909.10351). Mean over heads, queries, keys and samples. TinyBERT compares the scores
    :math:`Q K^\top / \sqrt d` before the softmax, which it found to learn faster; give either those
    or attention after the softmax, whose entries are near 1/N, so that the loss is small.

    student_BANN, teacher_BANN: attention [B, A, N, N]. No gradient reaches the teacher.
    heads: "same" compares head with head, so both need as many. "mean" averages over each side's
        heads first, for models with different numbers of them (not in the paper).
    reduction: "mean", or "none" for one value per sample, [B].

    A masked place, with a score of -inf on both sides, adds 0. The official code sets scores below
    -100 to 0 instead, on each side separately. Raises `ValueError` for other shapes, and for sizes
    that differ.

    >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    >>> attention_mse(student, torch.full((1, 1, 2, 2), 0.5))  # (4 * 0.5²) / 4
    tensor(0.2500)
    """
    inputs.check_choice("heads", heads, HEADS)
    student, teacher = attention_pair(student_BANN, teacher_BANN, heads == "same")
    if heads == "mean":
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    masked = student.isneginf() & teacher.isneginf()
    error = student.masked_fill(masked, 0) - teacher.masked_fill(masked, 0)
    return inputs.reduce(error.square().mean((1, 2, 3)), reduction)


class AttentionMSE(FeatureLoss, function=attention_mse):
    """Match attention, before or after the softmax: `attention_mse`. Trains nothing."""

    def __init__(self, student=None, teacher=None, *, heads: str = "same"):
        inputs.check_choice("heads", heads, HEADS)
        super().__init__(student, teacher, heads=heads)
