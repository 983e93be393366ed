"""Training from the labels alone, and from a teacher that was trained before.

Shapes: B batch, K classes.
"""

import contextlib

from torch import nn

from kdcourse import losses
from kdcourse.data import Batch
from kdcourse.schemes.base import Scheme
from kdcourse.schemes.edges import Edge
from kdcourse.schemes.head import Heads
from kdcourse.teachers import Live, as_teacher


class OneStudent(Scheme):
    """One student, whose last layer may be computed some rows at a time."""

    def __init__(self, student: nn.Module, objective, head):
        super().__init__(student, objective)
        names = [head] if isinstance(head, str) else [] if head is None else list(head)
        self.heads, self._whole = Heads(*names) if names else None, False

    def edge(self, batch: Batch, teacher=None, paths=()) -> Edge:
        """Run the student, and a teacher where there is one."""
        if self.heads is not None:
            return self.heads.edge(self, batch, teacher, paths, self._whole)
        return Edge(self.output(batch), None if teacher is None else teacher(batch, paths),
                    self.objective)

    def tap(self, *paths: str) -> None:
        super().tap(*paths, *([self.heads.inputs("student")] if self.heads else []))

    @contextlib.contextmanager
    def whole_logits(self):
        before, self._whole = self._whole, True
        try:
            yield
        finally:
            self._whole = before

    def build(self, batch: Batch, seed: int) -> None:
        with self.whole_logits():  # of a few samples, so they fit
            super().build(batch, seed)


class Supervised(OneStudent):
    """Train a student on the labels: the baseline of every distillation. head: as in `Distiller`.

    >>> from kdcourse import models
    >>> Supervised(models.convnet(width=8))
    Supervised(convnet(width=8, channels=1, classes=36, size=28), CE())
    """

    def __init__(self, student: nn.Module, objective=None, *, head: str | None = None):
        super().__init__(student, losses.CE() if objective is None else objective, head)
        if self.objective.needs_teacher:
            raise ValueError(f"Expected an objective without a teacher, got {self.objective!r}. "
                             "Use Distiller(student, teacher, objective).")
        self.tap()

    def edges(self, batch: Batch) -> list[Edge]:
        return [self.edge(batch)]


class Distiller(OneStudent):
    """Train a student with a frozen teacher: offline distillation.

    student: any `nn.Module` that returns logits [B, K].
    teacher: a network (it is frozen: eval mode, no gradients), or a teacher: `Live`, `Cached`,
        `Ensemble`, `EMA`, or a `Teacher` of your own.
    objective: such as `0.1 * CE() + 0.9 * KD(T=4)`, the default.
    head: for language models with a large vocabulary, the path of the last linear layer, such as
        "lm_head"; two paths, the student's first, where the teacher's is another. In a step these
        layers are not run as a whole, but for 256 positions with a label at a time, so that the
        logits of all are never in memory: `kdcourse.losses.chunked`. Value and gradient are the
        same. Which positions have a label is read from the device, and such a step is not compiled.

    Raises `ValueError` when student and teacher share weights that are trained (a frozen base may
    be shared, as with LoRA: freeze it first); in `build`, when their classes differ in number and a
    term compares logits.

    >>> from kdcourse import models
    >>> Distiller(models.convnet(width=8, seed=0), models.convnet(width=16, seed=1)).objective
    0.1 * CE() + 0.9 * KD(T=4)
    """

    def __init__(self, student: nn.Module, teacher, objective=None, *,
                 head: str | tuple[str, str] | None = None):
        super().__init__(student, losses.hinton() if objective is None else objective, head)
        theirs = set(teacher.parameters()) if isinstance(teacher, nn.Module) else set()
        shared = theirs.intersection(student.parameters())
        trained = {p for p in student.parameters() if p.requires_grad}
        if shared and (shared & trained or not trained):
            raise ValueError("Expected a teacher with weights of its own, got one that shares them "
                             "with the student. Use copy.deepcopy(model) for the teacher, or "
                             "freeze what the two share first: shared.requires_grad_(False).")
        self.teacher = as_teacher(teacher)
        self._teacher_paths = self.objective.teacher_paths
        taps_head = self.heads is not None and isinstance(self.teacher, Live)
        more = [self.heads.inputs("teacher")] if taps_head else []
        self.teacher.tap((*self._teacher_paths, *more))
        self.tap()

    def edges(self, batch: Batch) -> list[Edge]:
        return [self.edge(batch, self.teacher, self._teacher_paths)]
