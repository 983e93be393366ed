"""DistilBERT: directions of hidden states. B batch, N tokens, D features."""

import torch  # noqa: F401 - for the example

from kdcourse.losses import inputs
from kdcourse.losses.attention.pairs import HiddenLoss, mean_of_real, token_mask, tokens_pair
from kdcourse.losses.numerics import unit


@inputs.full_precision
def hidden_cosine(student_BND, teacher_BND, reduction: str = "mean", mask_BN=None):
    r"""Compute one minus the cosine between hidden states.

    .. math:: L = \frac{1}{N} \sum_n \left(1 -
        \frac{h^S_n \cdot h^T_n}{\lVert h^S_n \rVert \, \lVert h^T_n \rVert}\right)

    Sanh et al. 2019 (DistilBERT, arXiv:1910.01108): the cosine embedding loss, one of three.
    Raises `ValueError` for shapes that do not fit.

    student_BND, teacher_BND: hidden states [B, N, D], of one shape. A map [B, C, H, W] counts as H
        W tokens, a vector [B, D] as one. The cosine of a token of zeros counts as 0.
    mask_BN: 0 for tokens that are padding: the mean is over the real ones of each sample. (The
        authors' code takes one mean over all real tokens of a batch, so long texts count more.)

    >>> states = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    >>> hidden_cosine(states, torch.tensor([[[5.0, 0.0], [5.0, 0.0]]]))  # (0 + 1) / 2
    tensor(0.5000)
    """
    student_BND, teacher_BND = tokens_pair(student_BND, teacher_BND)
    cosine_BN = (unit(student_BND) * unit(teacher_BND)).sum(2)
    if mask_BN is not None:
        mask_BN = token_mask(mask_BN, student_BND)
        return inputs.reduce(mean_of_real(1 - cosine_BN, mask_BN), reduction)
    return inputs.reduce((1 - cosine_BN).mean(1), reduction)


class HiddenCosine(HiddenLoss, function=hidden_cosine):
    """Match the directions of hidden states: `hidden_cosine`.

    Published weight: 1 for the last hidden state, beside 5 for `KD(T=2)` on all words and 2 for the
    cross-entropy of the masked ones, for BERT-base to DistilBERT
    (huggingface/transformers-research-projects, distillation/README.md: `alpha_cos`, `alpha_ce`,
    `alpha_mlm`; T and the batch, 5 sequences times 50 accumulated for each process, are defaults of
    train.py). The example of that page for several GPUs has 0.33 three times. The paper has none.

    project: True trains a matrix without bias on the student's features first; False never does;
        None only where the widths differ (DistilBERT's agree).
    """
