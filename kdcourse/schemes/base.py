"""The base of all schemes; training from labels, and from a teacher that was trained before.

Shapes: B batch, K classes.
"""

import dataclasses
import itertools

import torch
from torch import nn

from kdcourse import losses
from kdcourse._random import generator
from kdcourse.data import Batch, Dataset
from kdcourse.taps import Output, alone, describe, evaluating, predict
from kdcourse.taps import taps as taps_of
from kdcourse.tasks import ONE_LABEL, Task, each
from kdcourse.teachers import Teacher, as_teacher


@dataclasses.dataclass(eq=False)
class Edge:
    """One student that learns from one teacher, or from the labels alone, in one forward pass.

    student, teacher: outputs of this forward pass; teacher is None where only labels are compared.
        For a peer pass `output.detached()`, so that no gradient reaches it.
    objective: compares the two, such as `1.0 * KD(T=4)`; an attribute of the scheme, so that its
        projections are trained and saved.
    name: prefix of the terms in the history: "1" makes "1.CE", "" leaves "CE".
    weight: of the whole edge, in the loss and in the history. Terms of the same name are added up
        there, so three peers with a weight of 1/3 each give their mean.
    """

    student: Output
    teacher: Output | None
    objective: losses.Objective
    name: str = ""
    weight: float = 1.0

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Compute the unweighted loss of each term by name. Logits and labels that are not rows by
        themselves are cut into rows here, once for all terms."""
        student, teacher = self.student, self.teacher
        if not batch.task.plain and any(term.on_rows for term in self.objective.terms.values()):
            cut = batch.task.rows(student.logits, batch.x, batch.y, batch.total)
            student = dataclasses.replace(student, rows=cut)
            if teacher is not None:
                logits = teacher.logits
                logits = batch.task.flat(logits) if self._compares_logits() else logits
                teacher = dataclasses.replace(teacher, rows=cut._replace(logits=logits))
        return self.objective.losses(student, teacher, batch.y)

    def _compares_logits(self) -> bool:
        return any(term.on_rows and term.needs_teacher and not (
            term.student_paths and term.teacher_paths) for term in self.objective.terms.values())

    def check(self, task: Task = ONE_LABEL) -> None:
        """Raise `TypeError` for an objective that is none, and `ValueError` where a term compares
        logits of student and teacher for other classes, or classes where there are none."""
        if not isinstance(self.objective, losses.Objective):
            raise TypeError(f"Expected an objective on an edge, got "
                            f"{type(self.objective).__name__}. Keep one in the scheme's __init__: "
                            "self.objective = losses.as_objective(KD(T=4)).")
        for term in self.objective.terms.values():
            if term.needs_classes and not task.has_classes:
                raise ValueError(f"Expected terms that compare numbers for {task!r}, got {term!r}, "
                                 "which compares classes. Use SquaredError() and LogitMSE(), or "
                                 "set needs_classes = False on a term of your own.")
        if self.teacher is None or not self._compares_logits():
            return
        ours, theirs = task.outputs(self.student.logits), task.outputs(self.teacher.logits)
        if ours != theirs:
            raise ValueError(
                f"Expected student and teacher to have the same classes, got {ours} and {theirs}. "
                f"Give the student {theirs} outputs, or take a teacher for {ours} classes.")


@dataclasses.dataclass
class Outcome:
    """The result of one forward pass.

    loss: the scalar that is minimised. parts: its unweighted terms by name, scalars.
    logits: of the first edge's student, [B, K] or as the task says.
    notes: further scalars by name, on the device of the loss, that are logged and not minimised.
    """

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    logits: torch.Tensor
    notes: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)


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

    partner = "its peers"  # `report`: whom a student without a teacher is compared with
    seed_name = "edges"  # part of the seeds of projections, so the recorded rows depend on it

    def __init__(self, student: nn.Module, objective=None):
        super().__init__()
        if not isinstance(student, nn.Module):
            raise TypeError(f"Expected a network (nn.Module) as student, got "
                            f"{type(student).__name__}. Pass the model itself.")
        self.student = student
        self.objective = None if objective is None else losses.as_objective(objective)
        self._taps = None

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
        return {name: part for name, part in self._modules.items() if isinstance(part, Teacher)}

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
        return [self.students, self.objectives(), list(self.teachers.items())]

    def networks(self) -> dict[str, nn.Module]:
        """Give copies of what can be used after training, by name, as `export` makes them."""
        copies = [alone(student) for student in self.students]
        names = [f"student {i}" for i in range(1, len(copies) + 1)] if copies[1:] else ["student"]
        return dict(zip(names, copies, strict=True))

    def partners(self, name: str, names: list[str]) -> list[str]:
        """Choose whom `report` compares a network with: the teachers, or the others in `names`."""
        return list(self.teachers) or [other for other in names if other != name]

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

    def with_inputs(self, batch: Batch) -> Batch:
        """Give the batch with the scheme's own `inputs`."""
        x = self.inputs(batch)
        return batch if x is batch.x else dataclasses.replace(batch, x=x)

    def forward(self, batch: Batch) -> Outcome:
        batch = self.with_inputs(batch)
        return outcome(self.edges(batch), batch)

    @torch.no_grad()
    def build(self, batch: Batch, seed: int) -> None:
        """Check that everything fits, and make what must be trained, before the optimiser exists.

        Runs in eval mode, so batch statistics stay as they are. Calling it twice changes nothing.
        Raises `ValueError` where classes or shapes do not fit.
        """
        with evaluating(self), torch.compiler.set_stance("force_eager"):
            batch = self.with_inputs(batch)
            edges, numbers = list(self.edges(batch)), itertools.count()
            for edge in edges:
                edge.check(batch.task)
            for edge in edges:
                own = seed
                if edge.teacher is not None and len(edges) > 1:  # projections that differ
                    own = generator(seed, self.seed_name, next(numbers)).initial_seed()
                edge.objective.build(edge.student, edge.teacher, own)
            outcome(edges, batch)  # raises for shapes that do not fit

    def check(self, data: Dataset) -> None:
        """Raise `ValueError` when students, objectives or teachers do not fit the data."""
        for student in self.students:
            for name, p in student.named_parameters():
                if p.is_floating_point() and p.dtype != torch.float32:
                    raise ValueError(
                        f"Expected a student with weights in float32, got {name} in {p.dtype}. "
                        'Call student.float(); half precision is Recipe(precision="bf16").')
            data.task.check_output(predict(student, data.train.head(2)), data.classes, data.name)
            if data.val.shape != data.train.shape:
                self._check_size(student, data)
        for part in (*self.objectives(), *self.teachers.values()):
            part.check(data)

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
        return f"{type(self).__name__}({', '.join(parts)})"


def outcome(edges, batch: Batch) -> Outcome:
    """Evaluate the objective of each edge, and add the losses up."""
    loss, logits, parts = None, None, {}
    for edge in edges:
        terms = edge.losses(batch)
        total = edge.objective.total(terms)
        if edge.weight != 1:
            total = edge.weight * total
        for term, value in terms.items():
            name = f"{edge.name}.{term}" if edge.name else term
            value = value if edge.weight == 1 else edge.weight * value
            parts[name] = parts[name] + value if name in parts else value
        loss = total if loss is None else loss + total
        logits = edge.student.logits if logits is None else logits
    if loss is None:
        raise ValueError("Expected at least one Edge from edges(batch), got none.")
    return Outcome(loss, parts, logits)


class Supervised(Scheme):
    """Train a student on the labels: the baseline of every distillation.

    >>> from kdcourse import models
    >>> Supervised(models.convnet(width=8))
    Supervised(convnet(width=8, channels=1, classes=36, size=28), CE())
    """

    def __init__(self, student: nn.Module, objective=None):
        super().__init__(student, losses.CE() if objective is None else objective)
        if self.objective.needs_teacher:
            raise ValueError(f"Expected an objective without a teacher, got {self.objective!r}. "
                             "Use Distiller(student, teacher, objective).")
        self.tap()


class Distiller(Scheme):
    """Train a student with a frozen teacher: offline distillation.

    student: any `nn.Module` that returns logits [B, K].
    teacher: a network (it is frozen: eval mode, no gradients), or a teacher: `Live`, `Cached`,
        `Ensemble`, `EMA`, or a `Teacher` of your own.
    objective: such as `0.1 * CE() + 0.9 * KD(T=4)`, the default.

    Raises `ValueError` when student and teacher share weights; in `build`, when their classes
    differ in number.

    >>> from kdcourse import models
    >>> Distiller(models.convnet(width=8, seed=0), models.convnet(width=16, seed=1)).objective
    0.1 * CE() + 0.9 * KD(T=4)
    """

    def __init__(self, student: nn.Module, teacher, objective=None):
        super().__init__(student, losses.hinton() if objective is None else objective)
        theirs = set(teacher.parameters()) if isinstance(teacher, nn.Module) else set()
        if not theirs.isdisjoint(student.parameters()):
            raise ValueError("Expected a teacher with weights of its own, got one that shares them "
                             "with the student. Use copy.deepcopy(model) for the teacher.")
        self.teacher = as_teacher(teacher)
        self._teacher_paths = self.objective.teacher_paths
        self.teacher.tap(self._teacher_paths)
        self.tap()

    def edges(self, batch: Batch) -> list[Edge]:
        return [Edge(self.output(batch), self.teacher(batch, self._teacher_paths), self.objective)]


def export(scheme: Scheme) -> nn.Module:
    """Copy the trained student, to be used, saved or exported further.

    The copy is in eval mode and not compiled, without hooks, teacher or parts of the objective. The
    scheme stays as it is, so its training can go on.

    >>> from kdcourse.losses import CE, KD
    >>> from kdcourse import models
    >>> scheme = Distiller(models.convnet(width=8), models.convnet(width=16), CE() + KD())
    >>> type(export(scheme)).__name__
    'Sequential'
    """
    if not isinstance(scheme, Scheme):
        raise TypeError(f"Expected a scheme such as Distiller(student, teacher), got "
                        f"{type(scheme).__name__}.")
    return alone(scheme.student)
