"""HOW it is transferred: what a training step minimises, and with whom.

A scheme's `forward(batch)` computes everything that one step minimises. The loop does not know
which scheme it runs. Shapes: B batch, K classes.
"""

import copy
import dataclasses

import torch
from torch import nn

from kdcourse import losses, models, teachers
from kdcourse.data import Batch, Dataset
from kdcourse.models import View


@dataclasses.dataclass
class Outcome:
    """One step: the scalar `loss`, its unweighted `parts` by name, and `logits` [B, K]."""

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    logits: torch.Tensor


class Scheme(nn.Module):
    """The common ground of all schemes: a student, and an objective of its own.

    A new scheme overrides `forward`, and `views` where it has more to show to `build`.
    """

    def __init__(self, student: nn.Module, objective):
        super().__init__()
        if not isinstance(student, nn.Module):
            raise TypeError(f"Expected a network (nn.Module) as student, got "
                            f"{type(student).__name__}. Pass the model itself.")
        self.student = student
        self.objective = losses.as_objective(objective)
        self._taps = models.taps(student, self.objective.student_paths)

    @property
    def students(self) -> list[nn.Module]:
        """All networks that are trained; most schemes have one."""
        return [self.student]

    def views(self, batch: Batch) -> tuple[View, View | None]:
        """What student and teacher say about a batch."""
        view = self._taps(batch.x)
        view.index = batch.index
        return view, None

    @torch.no_grad()
    def build(self, batch: Batch, seed: int) -> None:
        """Check that everything fits, and make what must be trained, before the optimiser exists.

        Runs in eval mode and writes nothing: batch statistics stay as they are. Calling it twice
        changes nothing.
        """
        with models.evaluating(self), torch.compiler.set_stance("force_eager"):
            student, teacher = self.views(batch)
            self.objective.build(student, teacher, seed)
            self.objective(student, teacher, batch.y)  # a mistake in shapes shows here, not later

    def forward(self, batch: Batch) -> Outcome:
        student, teacher = self.views(batch)
        parts = self.objective.parts(student, teacher, batch.y)
        return Outcome(self.objective.total(parts), parts, student.logits)

    def check(self, data: Dataset) -> None:
        """Raise `ValueError` when the scheme does not fit the data."""
        for student in self.students:
            outputs = models.predict(student, data.train.x[:2]).shape[1]
            if outputs < len(data.classes):
                raise ValueError(
                    f"Expected a student with an output for each of the {len(data.classes)} "
                    f"classes of {data.name}, got {outputs}. Make it with "
                    f"classes={len(data.classes)}."
                )
        self.objective.check(data)

    def after_step(self) -> None:
        """Called after each optimiser step (moving averages, curricula)."""

    def __repr__(self):
        return f"{type(self).__name__}({models.describe(self.student)}, {self.objective!r})"


class Supervised(Scheme):
    """A student and the labels: the baseline that every distillation is measured against.

    >>> Supervised(models.convnet(width=8))
    Supervised(convnet(width=8, channels=1, classes=36, size=28), CE())
    """

    def __init__(self, student: nn.Module, objective=None):
        super().__init__(student, losses.CE() if objective is None else objective)
        if self.objective.needs_teacher:
            raise ValueError(f"Expected an objective without a teacher, got {self.objective!r}. "
                             "Use Distiller(student, teacher, objective).")


class Distiller(Scheme):
    """Offline distillation: a frozen teacher, a student that learns.

    student: any `nn.Module` that returns logits [B, K].
    teacher: a network (it is frozen: eval mode, no gradients), or `Live`, `Cached`.
    objective: such as `0.1 * CE() + 0.9 * KD(T=4)`, the default.

    Raises `ValueError` when student and teacher are the same object or share weights; in `build`,
    when they do not answer for the same classes.

    >>> Distiller(models.convnet(width=8, seed=0), models.convnet(width=16, seed=1)).objective
    0.1 * CE() + 0.9 * KD(T=4)
    """

    def __init__(self, student: nn.Module, teacher, objective=None):
        super().__init__(student, losses.hinton() if objective is None else objective)
        self._check_apart(teacher)
        self.teacher = teachers.as_teacher(teacher)
        if self.objective.teacher_paths:
            self.teacher.tap(self.objective.teacher_paths)

    def _check_apart(self, teacher) -> None:
        model = teacher if isinstance(teacher, nn.Module) else getattr(teacher, "model", None)
        if isinstance(model, nn.Module):
            ours = {id(p) for p in self.student.parameters()}
            if any(id(p) in ours for p in model.parameters()):
                raise ValueError(
                    "Expected a teacher with weights of its own, got one that shares them with the "
                    "student. Use copy.deepcopy(model) for the teacher."
                )

    def views(self, batch: Batch) -> tuple[View, View]:
        student, _ = super().views(batch)
        paths = self.objective.teacher_paths
        return student, self.teacher(batch, paths) if paths else self.teacher(batch)

    @torch.no_grad()
    def build(self, batch: Batch, seed: int) -> None:
        with models.evaluating(self):
            student, teacher = self.views(batch)
        ours, theirs = student.logits.shape[1], teacher.logits.shape[1]
        if ours != theirs:
            raise ValueError(
                f"Expected student and teacher to know the same classes, got {ours} and {theirs}. "
                f"Give the student {theirs} outputs, or take a teacher for {ours} classes."
            )
        super().build(batch, seed)

    def check(self, data: Dataset) -> None:
        super().check(data)
        self.teacher.check(data)

    def _apply(self, move, *args, **kwargs):
        # .to(device) must take the teacher along although it is not a registered module.
        super()._apply(move, *args, **kwargs)
        self.teacher.to(models.device_of(self.student))
        return self

    def __repr__(self):
        return f"{super().__repr__()[:-1]}, teacher={self.teacher!r})"


def export(scheme: Scheme) -> nn.Module:
    """The trained student alone, ready to be used, saved or exported further.

    A copy in eval mode: no hooks, no projections or other parts of the objective, no teacher, not
    compiled. The scheme stays as it is and can go on training.

    >>> from kdcourse.losses import CE, KD
    >>> scheme = Distiller(models.convnet(width=8), models.convnet(width=16), CE() + KD())
    >>> type(export(scheme)).__name__
    'Sequential'
    """
    if not isinstance(scheme, Scheme):
        raise TypeError(f"Expected a scheme such as Distiller(student, teacher), got "
                        f"{type(scheme).__name__}.")
    student = models.unwrapped(copy.deepcopy(scheme.student))
    return models.untap(student).eval()
