"""A teacher that is the moving average of the student."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kdcourse.taps import clean_copy, describe, unwrapped
from kdcourse.teachers.live import Live


class EMA(Live):
    r"""A teacher with the exponential moving average of a network's weights, usually the student's:
    a mean teacher (Tarvainen & Valpola 2017, section 2, arXiv:1703.01780).

    .. math:: \bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta \quad\text{after every step}

    It starts as a copy of the network. Batch statistics are averaged as the weights are, so that
    they belong to the averaged weights; whole numbers (counters, index tables) are copied.

    model: the network that is followed; the average is `teacher.model`.
    decay: d, from 0 to below 1. About 1 / (1 - d) steps are averaged.

    `fit` calls `scheme.after_step()`, which moves the average; in a loop of your own call it after
    `optimizer.step()`. The average is saved in `state_dict()` and in checkpoints. A copy of a
    scheme has an average of its own, which follows the student of the copy.

    Raises `TypeError` for what is no network, `ValueError` for a decay out of range.

    >>> from kdcourse import models
    >>> student = models.convnet(width=8)
    >>> teacher = EMA(student, decay=0.9)
    >>> _ = nn.init.ones_(student[-1].bias)  # a step of 1, from 0
    >>> teacher.after_step()
    >>> round(float(teacher.model[-1].bias.mean()), 6)
    0.1
    """

    saved = True

    def __init__(self, model: nn.Module, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"Expected a decay from 0 to below 1, got {decay}.")
        super().__init__(clean_copy(model) if isinstance(model, nn.Module) else model)
        self.decay = decay
        self._followed = (model,)  # in a tuple, or the student would be a part of the teacher

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the average with the present weights of the network."""
        followed = unwrapped(self._followed[0])
        pairs = [*zip(self.model.parameters(), followed.parameters(), strict=True),
                 *zip(self.model.buffers(), followed.buffers(), strict=True)]
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        # torch's AveragedModel reads its count of steps from the device in every step, and rounds
        # averaged whole numbers down; the average itself is the same.
        get_ema_multi_avg_fn(self.decay)(*map(list, zip(*averaged, strict=True)), None)
        for mean, new in pairs:
            if not mean.is_floating_point():
                mean.copy_(new)

    def identity(self):
        """Give the average and the decay, by which recorded results are found."""
        return [*super().identity(), self.decay]

    def __repr__(self):
        return f"EMA({describe(self.model)}, decay={self.decay})"
