"""Multi-level logit distillation. B batch, K classes; q, p: softmax of student and teacher at T."""

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss
from kdcourse.losses.numerics import kl
from kdcourse.losses.response.logit_std import check_standardize, z_scores

TEMPERATURES = (2, 3, 4, 5, 6)


@inputs.full_precision
def mlkd(student_BK, teacher_BK, T=TEMPERATURES, instance: float = 1.0, batch: float = 1.0,
         classes: float = 1.0, standardize: str | None = None):
    r"""Match the predictions at several temperatures, on three levels: sample, batch and class.

    .. math:: L = \sum_T \left( w_i \frac{T^2}{B} \sum_b \mathrm{KL}(p_b \,\|\, q_b)
        + \frac{w_b}{B} \lVert P P^\top - Q Q^\top \rVert_F^2
        + \frac{w_c}{K} \lVert P^\top P - Q^\top Q \rVert_F^2 \right)

    Jin et al. 2023, "Multi-Level Logit Distillation" (CVPR), also called MLLD: instance, batch and
    class level; P and Q are the probabilities [B, K]. This is the loss of the authors' repository
    (Jin-Ying/Multi-Level-Logit-Distillation), with T² in the first term only. The second grows with
    the batch as B, the third as B², so weights belong to a batch size. The second makes a matrix
    [B, B]: where a row is a token or a pixel, take batch=0. Raises `ValueError` for settings out of
    range and for logits that are not [B, K], of one shape.

    student_BK, teacher_BK: logits [B, K].
    T: temperatures above 0, as a tuple; a single number is one temperature.
    instance, batch, classes: weights :math:`w_i, w_b, w_c`, 0 or more, not all 0.
    standardize: None, or take z-scores of the logits on the instance level (Sun et al. 2024,
        arXiv:2403.01427; as in their code, not on the others): "paper" divides the variance by K,
        "code" by K - 1. Needs finite logits.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> mlkd(s, t)
    tensor(0.)
    >>> one, other = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])  # (1, 0) and (0, 1)
    >>> mlkd(one, other, T=1, instance=0, batch=1, classes=0)  # both have length 1
    tensor(0.)
    >>> mlkd(one, other, T=1, instance=0, batch=0, classes=1)  # (1² + 1²) / 2 classes
    tensor(1.)
    """
    T = _check_settings(T, instance, batch, classes, standardize)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    B, K = student_BK.shape
    log_q, log_p = _log_softmaxes(student_BK, T), _log_softmaxes(teacher_BK, T)
    total = 0
    if batch or classes:
        q, p = log_q.exp(), log_p.exp()
    if batch:
        total = total + batch / B * (p @ p.mT - q @ q.mT).square().sum()
    if classes:
        total = total + classes / K * (p.mT @ p - q.mT @ q).square().sum()
    if instance:
        if standardize:
            log_q, log_p = (_log_softmaxes(z_scores(x, standardize), T)
                            for x in (student_BK, teacher_BK))
        divergences = kl(log_p, log_q).mean(1).unbind()
        total = total + instance * sum(t**2 * one for t, one in zip(T, divergences, strict=True))
    return total


class MLKD(Loss, function=mlkd):
    """Match samples, batch and classes at several temperatures: `mlkd`. T² is included.

    Published weight: 0.9 with 0.1 for the labels, for all pairs on CIFAR-100 at batch 64
    (Jin-Ying/Multi-Level-Logit-Distillation, mdistiller/distillers/KD_ours.py and engine/cfg.py).
    Their masks of the half of the samples (classes) with the least confidence multiply sums that
    are already taken, a factor of 1/2, so on the weakly augmented images it is `0.1 * CE() +
    0.45 * MLKD()`. To it they add 0.1 times the labels and 0.9 times `kd` at T = 3, 4 and 5 on a
    second, strongly augmented view, and 0.9 times `kd` at T = 2 and 6 on the weak one. On ImageNet
    at batch 512 both weights are 0.5, and a 1 stands for the 4.

    With standardised logits the weight is 9, or 6, and a 2 stands for the 4 (README.md of
    sunshangquan/logit-standardization-KD): `0.1 * CE() + 4.5 * MLKD(T=(2, 2, 3, 5, 6),
    standardize="code")`, and so for `kd`.
    """

    per_sample = False
    omitted = ("standardize",)

    def __init__(self, T=TEMPERATURES, instance: float = 1.0, batch: float = 1.0,
                 classes: float = 1.0, student=None, teacher=None, *,
                 standardize: str | None = None):
        T = _check_settings(T, instance, batch, classes, standardize)
        super().__init__(student, teacher, T=T, instance=instance, batch=batch, classes=classes,
                         standardize=standardize)


def _check_settings(T, instance, batch, classes, standardize) -> tuple:
    T = tuple(T) if isinstance(T, tuple | list) else (T,)
    inputs.check(len(T) > 0, "at least one temperature T", T)
    for one in T:
        inputs.check_temperature(one)
    inputs.check_weights(instance=instance, batch=batch, classes=classes)
    check_standardize(standardize)
    return T


def _log_softmaxes(x_BK, T) -> torch.Tensor:
    """Give the log-probabilities at every temperature, [temperatures, B, K]."""
    return F.log_softmax(torch.stack([x_BK / one for one in T]), dim=2)
