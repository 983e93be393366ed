"""The rows of losses on logits."""

import oracles
from laws import Law, randn

from kdcourse import losses


def same(teacher):
    return teacher.clone()


def soft_labels(B=5, seed=0, K=7):
    return randn(B, K, seed=seed + 1, scale=2), None, randn(B, K, seed=seed + 3).softmax(1)


ROWS = [
    *[Law("kd", f"T={T}",
          call=lambda s, t, y, T=T: losses.kd(s, t, T),
          values=lambda s, t, y, T=T: losses.kd(s, t, T, "none"),
          oracle=lambda s, t, y, T=T: oracles.kd(s, t, T),
          term=lambda T=T: losses.KD(T),
          tempered=lambda T: lambda s, t, y: losses.kd(s, t, T),
          equal=same, classes=True)
      for T in (0.5, 4, 20.0)],
    Law("soft_cross_entropy", "",
        call=lambda s, t, y: losses.soft_cross_entropy(s, t, 3),
        values=lambda s, t, y: losses.soft_cross_entropy(s, t, 3, "none"),
        oracle=lambda s, t, y: oracles.soft_cross_entropy(s, t, 3),
        tempered=lambda T: lambda s, t, y: losses.soft_cross_entropy(s, t, T),
        classes=True),
    Law("cross_entropy", "",
        call=lambda s, t, y: losses.cross_entropy(s, y),
        values=lambda s, t, y: losses.cross_entropy(s, y, "none"),
        oracle=lambda s, t, y: oracles.cross_entropy(s, y),
        term=losses.CE, uses_teacher=False, classes=True),
    Law("cross_entropy", "soft labels",
        call=lambda s, t, y: losses.cross_entropy(s, y),
        values=lambda s, t, y: losses.cross_entropy(s, y, "none"),
        oracle=lambda s, t, y: oracles.cross_entropy(s, y),
        example=soft_labels, uses_teacher=False),
    Law("label_smoothing", "",
        call=lambda s, t, y: losses.label_smoothing(s, y, 0.2),
        values=lambda s, t, y: losses.label_smoothing(s, y, 0.2, "none"),
        oracle=lambda s, t, y: oracles.label_smoothing(s, y, 0.2),
        term=lambda: losses.LabelSmoothing(0.2), uses_teacher=False, classes=True),
]
