"""TinyBERT: hidden states and attention. B batch, A heads, N tokens, D features."""

import torch  # noqa: F401 - for the example

from kdcourse.losses import inputs
from kdcourse.losses.attention.pairs import (
    HiddenLoss,
    attention_pair,
    check_softmax,
    mean_of_real,
    token_mask,
    tokens_pair,
)
from kdcourse.losses.base import FeatureLoss

HEADS = ("same", "mean")


def hidden_mse(student_BND, teacher_BND, reduction: str = "mean", mask_BN=None):
    r"""Compute the mean squared error between hidden states.

    .. math:: L = \frac{1}{N D} \sum_{n, d} (h^S_{nd} - h^T_{nd})^2

    Jiao et al. 2020 (TinyBERT, arXiv:1909.10351), equation 8; equation 9 of embeddings. There the
    student's states first pass a trained matrix, :math:`H^S W_h`: `HiddenMSE` holds it. Raises
    `ValueError` for shapes that do not fit.

    student_BND, teacher_BND: hidden states [B, N, D], of one shape. A map [B, C, H, W] counts as H
        W tokens, a vector [B, D] as one.
    mask_BN: 0 for tokens that are padding, which then do not count. (The authors' code counts them,
        in all its terms.)

    >>> hidden_mse(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0, 5.0]]]))  # (0 + 3²) / 2
    tensor(4.5000)
    """
    student_BND, teacher_BND = tokens_pair(student_BND, teacher_BND)
    square_BND = (student_BND - teacher_BND).square()
    if mask_BN is not None:
        mask_BN = token_mask(mask_BN, student_BND)
        return inputs.reduce(mean_of_real(square_BND, mask_BN[..., None]), reduction)
    return inputs.reduce(square_BND.mean((1, 2)), reduction)


class HiddenMSE(HiddenLoss, function=hidden_mse):
    """Match hidden states: `hidden_mse`.

    Published weight: 1 for each layer, as for `AttentionMSE`, without labels, for BERT-base to
    TinyBERT (huawei-noah/Pretrained-Language-Model, TinyBERT/task_distill.py, batch 32).

    project: True trains a matrix without bias on the student's features, TinyBERT's :math:`W_h`;
        None only where the widths differ; False compares the features as they are.
    """

    def __init__(self, student=None, teacher=None, *, project: bool | None = True):
        super().__init__(student, teacher, project=project)


def attention_mse(student_BANN, teacher_BANN, heads: str = "same", reduction: str = "mean",
                  mask_BN=None):
    r"""Compute the mean squared error between attention matrices.

    .. math:: L = \frac{1}{A} \sum_a \mathrm{MSE}(A^S_a, A^T_a)

    Jiao et al. 2020 (TinyBERT, arXiv:1909.10351), equation 7, which compares the scores
    :math:`Q K^\top / \sqrt d`: training with them is faster than with attention after the softmax.
    A masked place, with a score of -inf on both sides, adds 0; the official code sets scores below
    -100 to 0 instead, on each side. Raises `ValueError` for shapes that do not fit.

    student_BANN, teacher_BANN: scores or attention [B, A, N, N].
    heads: "same" compares head with head, so both need as many. "mean" averages over each side's
        heads first, for different numbers of them (not in the paper).
    mask_BN: 0 for tokens that are padding, which then count neither as queries nor as keys.

    >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    >>> attention_mse(student, torch.full((1, 1, 2, 2), 0.5))  # (4 * 0.5²) / 4
    tensor(0.2500)
    """
    inputs.check_choice("heads", heads, HEADS)
    agree = (0, 1, 2, 3) if heads == "same" else (0, 2, 3)
    student, teacher = attention_pair(student_BANN, teacher_BANN, agree=agree)
    if heads == "mean":
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    masked = student.isneginf() & teacher.isneginf()
    error = student.masked_fill(masked, 0) - teacher.masked_fill(masked, 0)
    if mask_BN is not None:
        real_BN = token_mask(mask_BN, student)
        pairs_B1NN = (real_BN[:, :, None] & real_BN[:, None])[:, None]
        return inputs.reduce(mean_of_real(error.masked_fill(~pairs_B1NN, 0).square(), pairs_B1NN),
                             reduction)
    return inputs.reduce(error.square().mean((1, 2, 3)), reduction)


class AttentionMSE(FeatureLoss, function=attention_mse):
    """Match attention, before or after the softmax: `attention_mse`. Trains nothing.

    Published weight: 1 for each layer, beside `HiddenMSE`, which says where.
    """

    masks = True

    def __init__(self, student=None, teacher=None, *, heads: str = "same"):
        inputs.check_choice("heads", heads, HEADS)
        super().__init__(student, teacher, heads=heads)

    def build(self, student, teacher, seed):
        check_softmax(*self.pick(student, teacher))
