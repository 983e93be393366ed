"""Several teachers whose logits are averaged.

Shapes: M teachers, B batch, K classes, N samples.
"""

import torch
from torch import nn

from kdcourse.data import Batch, Dataset
from kdcourse.taps import Output
from kdcourse.tasks import ONE_LABEL
from kdcourse.teachers.base import Teacher
from kdcourse.teachers.live import as_teacher


class Ensemble(Teacher):
    """Average the logits of several teachers.

    At any temperature that is the (normalised) geometric mean of their softened outputs, one of the
    two means in Hinton, Vinyals & Dean 2015, section 2 (arXiv:1503.02531).

    teachers: networks or teachers; each keeps its own transform.
    weights: "mean"; or one number per teacher, at least 0; or "confidence": for each sample the
        softmax over the teachers of their log-probability of the label (in the spirit of Zhang et
        al. 2022, "Confidence-Aware Multi-Teacher Knowledge Distillation", arXiv:2201.00007; their
        weights are another function of the same cross-entropy). Where all of them give the label no
        mass, and without labels (in `predict`), the plain mean.

    Raises `ValueError` for no teachers, and weights that do not fit.

    >>> from kdcourse import models
    >>> Ensemble([models.convnet(width=8, seed=s) for s in range(3)]).predict(
    ...     torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 36])
    """

    saved = True  # has no state of its own; each of its teachers is saved or not

    def __init__(self, teachers, weights="mean"):
        super().__init__()
        self.teachers = nn.ModuleList(map(as_teacher, teachers))
        if not self.teachers:
            raise ValueError("Expected at least one teacher, got none.")
        self.weights = weights
        if not isinstance(weights, str):
            shares = torch.tensor([float(weight) for weight in weights])
            if (len(shares) != len(self.teachers) or (shares < 0).any()
                    or not 0 < shares.sum() < torch.inf):
                raise ValueError(f"Expected {len(self.teachers)} weights of at least 0, finite "
                                 f"and not all 0, one per teacher, got {list(weights)}.")
            self.register_buffer("_shares_M", shares / shares.sum(), persistent=False)
        elif weights not in ("mean", "confidence"):
            raise ValueError('Expected weights "mean", "confidence" or one number per teacher, got '
                             f"{weights!r}.")

    @property
    def uses_labels(self) -> bool:
        """True with weights of "confidence", and where a teacher in it uses labels."""
        return self.weights == "confidence" or any(t.uses_labels for t in self.teachers)

    def identity(self):
        """Give the teachers and their weights, by which recorded results are found."""
        return [list(self.teachers), self.weights]

    def forward(self, batch: Batch, paths: tuple[str, ...] = ()) -> Output:
        self.tap(paths)
        if self.weights == "confidence" and batch.task != ONE_LABEL:
            raise ValueError(f'Expected weights "mean" or numbers for {batch.task!r}, got '
                             '"confidence", which needs one label per sample, for all samples.')
        outputs = [teacher(batch) for teacher in self.teachers]
        if any(output.kept is not None for output in outputs):
            raise ValueError("Expected all logits of each teacher in an ensemble, got stored ones "
                             "with top=…, or another vocabulary. Make Cached(Ensemble(…), data, "
                             "path, top=…), or Vocabulary(Ensemble(…), …).")
        return Output(self._averaged([output.logits for output in outputs], batch.y),
                      index=batch.index)

    def _averaged(self, logits, labels=None) -> torch.Tensor:
        if len({each.shape for each in logits}) > 1:
            raise ValueError("Expected teachers with the same classes, got logits of shapes "
                             f"{[list(each.shape) for each in logits]}.")
        logits_MBK = torch.stack([each.to(logits[0].device).float() for each in logits])
        if self.weights == "confidence" and labels is not None:
            log_p, labels = logits_MBK.log_softmax(-1), labels.to(logits_MBK.device)
            if labels.ndim == 1:
                labels = labels[:, None] == torch.arange(log_p.shape[-1], device=labels.device)
            # A masked class has a logit of -inf, and 0 * -inf is NaN: such products are set to 0.
            log_p_MB = log_p.mul(labels).masked_fill(labels == 0, 0).sum(-1)
            no_mass_B = log_p_MB.isneginf().all(0)
            shares_MB1 = log_p_MB.masked_fill(no_mass_B, 0).softmax(0)[..., None]
            return (shares_MB1 * logits_MBK).masked_fill(shares_MB1 == 0, 0).sum(0)
        if isinstance(self.weights, str):
            return logits_MBK.mean(0)
        shares_M = self._shares_M.to(logits_MBK)
        left_out = (shares_M == 0).view(-1, *[1] * (logits_MBK.ndim - 1))  # 0 * -inf is NaN
        return torch.einsum("m,m...->...", shares_M, logits_MBK.masked_fill(left_out, 0))

    def tap(self, paths: tuple[str, ...]) -> None:
        """Raise `ValueError` for any path: there are several networks."""
        if paths:
            raise ValueError(f"Expected one teacher for the taps {list(paths)}, got an ensemble. "
                             "Distil its logits, or take the layers of one network.")

    def predict(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor | None:
        """Compute logits [N, K] for any inputs; None where one of the teachers returns None.

        y: labels [N], or soft [N, K], where they are known: then weights are as in training.
        """
        logits = [teacher.predict(x, y) for teacher in self.teachers]
        return None if any(each is None for each in logits) else self._averaged(logits, y)

    def check(self, data: Dataset) -> None:
        """Call `check` of every teacher."""
        for teacher in self.teachers:
            teacher.check(data)

    def networks(self) -> list[nn.Module]:
        """List the networks of all teachers, each once."""
        return list(dict.fromkeys(n for teacher in self.teachers for n in teacher.networks()))

    def after_step(self) -> None:
        """Call `after_step` of every teacher."""
        for teacher in self.teachers:
            teacher.after_step()

    def __repr__(self):
        weights = "" if self.weights == "mean" else f", weights={self.weights!r}"
        return f"Ensemble({[*self.teachers]!r}{weights})"
