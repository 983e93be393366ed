"""The base of all schemes.

Shapes: B batch, K classes.
"""

import contextlib
import dataclasses
import itertools
import warnings
import weakref

import torch
from torch import nn

from kdcourse import losses
from kdcourse._modules import check_whole, untouched
from kdcourse._random import generator
from kdcourse._trees import each
from kdcourse.data import Batch, Dataset
from kdcourse.data.dataset import refuse_inputs
from kdcourse.outputs import running
from kdcourse.schemes.edges import Edge, Outcome, outcome
from kdcourse.taps import Output, clean_copy, describe, evaluating, first_output, predict, unwrapped
from kdcourse.taps import taps as taps_of
from kdcourse.teachers import EMA, Teacher

_HELD = weakref.WeakSet()  # frozen parts of students that a scheme, not the user, put in eval mode


class Scheme(nn.Module):
    """The base of all schemes. A new scheme is one method, `edges`; by default the student learns
    from the labels, by `objective`.

    Objectives that are attributes of a subclass are built and trained; teachers (`kd.Live`,
    `kd.Cached`, `kd.Ensemble`, `kd.EMA`) are checked against the data and reported.

    student: any `nn.Module` that returns logits [B, K], or those of another task (`kd.tasks`).
    objective: such as `CE()`; None where all edges have objectives of their own.

    Raises `TypeError` for a student that is no network.

    >>> from kdcourse import models
    >>> from kdcourse.teachers import Live
    >>> class TwoTeachers(Scheme):
    ...     def __init__(self, student, first, second):
    ...         super().__init__(student, 0.2 * losses.CE() + 0.8 * losses.KD(T=4))
    ...         self.first, self.second = Live(first), Live(second)
    ...         self.from_second = 0.5 * losses.DKD()
    ...
    ...     def edges(self, batch):
    ...         student = self.output(batch)
    ...         yield Edge(student, self.first(batch), self.objective)
    ...         yield Edge(student, self.second(batch), self.from_second, "second")
    >>> scheme = TwoTeachers(*(models.mlp(hidden=(8,), seed=seed) for seed in range(3)))
    >>> list(scheme(Batch(torch.rand(4, 1, 28, 28), torch.arange(4), torch.arange(4))).parts)
    ['CE', 'KD', 'second.DKD']
    """

    scored = True  # False where `check` found that the student's output has no score
    partner = "its peers"  # `report`: whom a student without a teacher is compared with
    seed_name = "edges"  # part of the seeds of projections, so the recorded rows depend on it

    def __init__(self, student: nn.Module, objective=None):
        super().__init__()
        if not isinstance(student, nn.Module):
            raise TypeError(f"Expected a network (nn.Module) as student, got "
                            f"{type(student).__name__}. Pass the model itself.")
        self.student = student
        self.objective = None if objective is None else losses.as_objective(objective)
        self._taps, self._average, self._resting = None, None, set()

    def edges(self, batch: Batch):
        """Run students and teachers; return or yield an `Edge` for each pair that is compared. The
        logits of the first edge's student become those of the `Outcome`."""
        return [Edge(self.output(batch), None, self.objective)]

    def inputs(self, batch: Batch):
        """Give the inputs of a step, for students and teachers alike: by default `batch.x`.

        Override it for generated samples or another modality. Called once per step, and in
        `build`. `kd.Cached` has outputs for the original samples only.
        """
        return batch.x

    @property
    def students(self) -> list[nn.Module]:
        """The networks that are kept after training; most schemes have one."""
        return [self.student]

    @property
    def teachers(self) -> dict[str, Teacher]:
        """The teachers by the name of their attribute; a plain network is none."""
        return {name: part for name, part in self._modules.items()
                if isinstance(part, Teacher) and part is not self._average}

    def averaged(self, decay: float = 0.999) -> "Scheme":
        r"""Judge and keep the moving average of the student in its place; return the scheme.

        .. math:: \bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta
            \quad\text{after every step}

        See `kd.EMA` for batch statistics. Validation, early stopping, `report`, `compare` and
        `export` use the average from here on; checkpoints keep it beside the student, which is
        trained as before. Of several students, and of one with exits, the first and the whole
        network are averaged. Call it once the student has its first weights.

        decay: d, from 0 to below 1. Raises `ValueError` for another one.

        >>> from kdcourse import models
        >>> scheme = Scheme(models.mlp(hidden=(8,)), losses.CE()).averaged(decay=0.9)
        >>> scheme.judged is scheme.student
        False
        """
        self._average = EMA(self.student, decay)
        return self

    @property
    def judged(self) -> nn.Module:
        """The network that is validated, reported and exported: the student, or its average."""
        return self.student if self._average is None else self._average.model

    def objectives(self) -> list[losses.Objective]:
        """List every objective of the scheme."""
        return [module for module in self.modules() if isinstance(module, losses.Objective)]

    def groups(self) -> list[dict]:
        """List groups of parameters, each with settings of its own; all are kept in checkpoints.

        By default one group of everything that has a gradient. A group has "params" and, where it
        differs, "lr" (a factor of the recipe's rate), "weight_decay", "every" (only every n-th
        step), "ascend" (the gradient is reversed: an adversary) and "optimizer" (as in `Recipe`).
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def identity(self):
        """Give students, objectives and teachers, by which recorded results are found."""
        average = [] if self._average is None else [["averaged", self._average.decay]]
        return [self.students, self.objectives(), list(self.teachers.items()), *average]

    def networks(self) -> dict[str, nn.Module]:
        """Give copies of what can be used after training, by name, as `export` makes them."""
        copies = [clean_copy(network) for network in [self.judged, *self.students[1:]]]
        names = [f"student {i}" for i in range(1, len(copies) + 1)] if copies[1:] else ["student"]
        return dict(zip(names, copies, strict=True))

    def partners(self, name: str, names: list[str]) -> list[str]:
        """Choose whom `report` compares a network with: the teachers, or the others in `names`."""
        return list(self.teachers) or [other for other in names if other != name]

    @property
    def reads_logits(self) -> bool:
        """False where all terms compare inner tensors of the students."""
        return any(not term.student_paths and not term.needs_paths
                   for one in self.objectives() for term in one.terms.values())

    def tap(self, *paths: str) -> None:
        """Attach hooks to the students for all paths of the objectives, and for `paths`.

        The first step does it by itself. Call it at the end of `__init__` to have the paths checked
        there, or with the teacher's paths where one student teaches another. Raises `ValueError`
        for the path of no module.
        """
        paths = [*paths, *(path for one in self.objectives() for path in one.student_paths)]
        self._taps = [taps_of(student, paths) for student in self.students]

    def output(self, batch: Batch, number: int = 0) -> Output:
        """Run one of the `students` on `batch.x`: logits, tapped tensors and sample ids."""
        if self._taps is None:
            self.tap()
        taps, x = self._taps[number], batch.x
        output = taps(**x) if isinstance(x, dict) else taps(x)
        output.index = batch.index
        return output

    def whole_logits(self):
        """Make a context in which a step computes all logits at once, and each term has a gradient
        of its own, as the doctor wants it; by default steps always do."""
        return contextlib.nullcontext()

    def with_inputs(self, batch: Batch) -> Batch:
        """Give the batch with the scheme's own `inputs`."""
        x = self.inputs(batch)
        return batch if x is batch.x else dataclasses.replace(batch, x=x)

    def forward(self, batch: Batch = None, *others, **named) -> Outcome:
        if not isinstance(batch, Batch) or others or named:
            refuse_inputs(batch, *others, **named)
        batch = self.with_inputs(batch)
        return outcome(self.edges(batch), batch)

    def train(self, mode: bool = True) -> "Scheme":
        """Set the mode of all but teachers, which stay in eval mode, and of what was frozen.

        In a student that is in train mode, a part that was put in eval mode stays in it. So do
        layers with running statistics (batch normalisation) whose parameters are all frozen by
        `requires_grad_(False)` (without parameters: those of the module around them), and modules
        that a teacher shares. A student in eval mode as a whole is trained in train mode.
        """
        students = [unwrapped(student) for student in self.students]
        resting = set()
        for student in students:
            parts = set(student.modules())
            resting |= {part for part in parts if not part.training and part not in _HELD} if (
                student.training) else self._resting & parts
        self._resting = resting
        super().train(mode)
        if mode:
            shared = {part for teacher in self.teachers.values() for part in teacher.modules()}
            held = {part for student in students for part in student.modules() if part in shared}
            for student in students:
                held |= set(_frozen_norms(student))
            _HELD.update(held - resting)
            for part in held | resting:
                part.training = False
        return self

    @contextlib.contextmanager
    def looking(self, batch: Batch):
        """Look at a forward pass in the block: students in train mode (eval mode for one sample),
        all else in eval mode; what this writes to networks is put back. Nothing is compiled."""
        students = {part for student in self.students for part in student.modules()}
        own = {part for one in self.objectives() for part in one.modules()} - students
        rest = [part for part in self.modules()
                if part is not self and part not in own and not isinstance(part, Teacher)]
        with evaluating(self), untouched(rest), torch.compiler.set_stance("force_eager"):
            if len(batch) > 1:
                Scheme.train(self)  # not a subclass's `train`, which may count its calls
                for part in self.modules():
                    part.training &= part in students
            yield

    @torch.no_grad()
    def build(self, batch: Batch, seed: int) -> None:
        """Check that everything fits, and make what must be trained, before the optimiser exists.

        Students run in train mode, as in a step; parameters, buffers (batch statistics, observers)
        and random generators are left as they were. Calling it twice changes nothing.

        Raises `ValueError` where classes or shapes do not fit, where a network's code fails, and
        for a tensor of the student that a term compares and that has no gradient; `RuntimeError`
        for a tapped module that is not called in train mode; `TypeError` where a term needs logits
        and an output has none, or several.
        """
        if not isinstance(batch, Batch):
            refuse_inputs(batch)
        with self.looking(batch):
            batch = self.with_inputs(batch)
            with torch.enable_grad(), running("student or teacher in train mode", batch.x):
                edges, numbers = list(self.edges(batch)), itertools.count()
            for edge in edges:
                edge.check(batch.task)
                edge.check_gradients(self.students)
            for edge in edges:
                own = seed
                if edge.teacher is not None and len(edges) > 1:  # projections that differ
                    own = generator(seed, self.seed_name, next(numbers)).initial_seed()
                edge.objective.build(edge.student, edge.teacher, own)
            outcome(edges, batch)  # raises for shapes that do not fit

    def check(self, data: Dataset) -> None:
        """Raise `ValueError` when students, objectives or teachers do not fit the data."""
        for student in self.students:
            check_whole(student, "student")
            for name, p in student.named_parameters():
                if p.is_floating_point() and p.dtype != torch.float32:
                    raise ValueError(
                        f"Expected a student with weights in float32, got {name} in {p.dtype}. "
                        'Call student.float(); half precision is Recipe(precision="bf16").')
            with untouched(student.modules()):
                self._check_output(student, data)
                if data.val.shape != data.train.shape:
                    self._check_size(student, data)
        for part in (*self.objectives(), *self.teachers.values()):
            part.check(data)

    def _check_output(self, student: nn.Module, data: Dataset) -> None:
        why, reads = "", self.reads_logits
        try:
            output = first_output(student, data.train.head(2), "student")
            data.task.check_output(output, data.classes, data.name)
            if not reads and data.task.outputs(output) != len(data.classes):
                why = f"Its output is {list(output.shape)} for {len(data.classes)} classes."
        except (TypeError, ValueError) as error:
            if reads:
                raise
            why = str(error)
        if student is self.student:
            self.scored = not why
            if why and getattr(data.val, "first", data.val).y is not None:
                warnings.warn(f"The student is trained on inner tensors and not validated: {why}",
                              stacklevel=4)

    @staticmethod
    def _check_size(student: nn.Module, data: Dataset) -> None:
        """Raise `ValueError` unless the student takes validation images of another size."""
        try:
            predict(student, data.val.head(2))
        except Exception as error:  # each library has its own for a wrong shape
            raise ValueError(
                f"Expected a student that takes inputs of shape {each(list, data.val.shape)}, "
                f"those of the validation, as well as {each(list, data.train.shape)}, got "
                f"{type(error).__name__}: {error}. Bring both to one size.") from error

    def after_step(self) -> None:
        """Call `after_step` of the teachers. Called by `fit` after each step of the optimiser.

        Override it for curricula and the like, and call `super().after_step()`. Do not change a
        `Live` teacher in it, as a checkpoint would not keep that: a teacher that changes is an
        `EMA`, or a subclass of `Teacher` with `saved = True`.
        """
        for part in self._modules.values():
            if isinstance(part, Teacher):
                part.after_step()

    def frozen_tensors(self) -> set[str]:
        """Name the parameters and buffers of teachers that are not saved. They never change, so
        they are not written to checkpoints and not sent to other processes."""
        return {f"{path}.{name}" for path, part in self.named_modules()
                if isinstance(part, Teacher) and not part.saved
                for name, _ in [*part.named_parameters(), *part.named_buffers()]}

    def __repr__(self):
        parts = [describe(self.student)]
        for name, part in sorted(self._modules.items(), key=lambda item: item[0] in self.teachers):
            if name == "objective" and part is not None:
                parts.append(repr(part))
            elif isinstance(part, losses.Objective) or name in self.teachers:
                parts.append(f"{name}={part!r}")
        average = "" if self._average is None else f".averaged({self._average.decay})"
        return f"{type(self).__name__}({', '.join(parts)}){average}"


def check_scheme(scheme) -> None:
    """Raise `TypeError` for anything but a scheme."""
    if isinstance(scheme, Scheme):
        return
    remedy = (" For a network alone: kd.Supervised(network)." if isinstance(scheme, nn.Module) else
              " Is it in another argument's place?")
    raise TypeError(f"Expected a scheme such as Distiller(student, teacher), got "
                    f"{type(scheme).__name__}.{remedy}")


def _frozen_norms(module: nn.Module, frozen: bool = False):
    """Yield the layers with running statistics in frozen parts of a module."""
    own = list(module.parameters())
    frozen = not any(p.requires_grad for p in own) if own else frozen
    if frozen and getattr(module, "running_mean", None) is not None:
        yield module
    for child in module.children():
        yield from _frozen_norms(child, frozen)


def export(scheme: Scheme) -> nn.Module:
    """Copy the trained student, to be used, saved or exported further.

    The copy is in eval mode and not compiled, without hooks, teacher or parts of the objective. The
    scheme stays as it is, so its training can go on. Of an `averaged` scheme it is the average.

    >>> from kdcourse import models
    >>> from kdcourse.schemes import Distiller
    >>> scheme = Distiller(models.convnet(width=8), models.convnet(width=16))
    >>> type(export(scheme)).__name__
    'Sequential'
    """
    check_scheme(scheme)
    return clean_copy(scheme.judged)
