"""What every scheme is, and distillation from a teacher that was trained before.

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
from kdcourse.tasks import ONE_LABEL, Task
from kdcourse.teachers import Teacher, as_teacher


@dataclasses.dataclass(eq=False)
class Edge:
    """One student that learns from one teacher, or from the labels alone, in one forward pass.

    student, teacher: outputs of this forward pass; teacher is None where only labels are compared.
        A peer comes in as `output.detached()`, so that no gradient reaches it.
    objective: compares the two, such as `1.0 * KD(T=4)`; kept by the scheme as an attribute, so
        that its projections are trained and saved.
    name: stands in front of the terms in the history: "1" makes "1.CE", "" leaves "CE".
    weight: of the whole edge, in the loss and in the history. Terms of the same name are added up
        there, so three peers with a weight of 1/3 each give their mean.
    """

    student: Output
    teacher: Output | None
    objective: losses.Objective
    name: str = ""
    weight: float = 1.0

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The unweighted loss of each term by name. Where the logits are not rows by themselves
        they are cut into rows here, and so are the labels, once for all terms."""
        student, teacher = self.student, self.teacher
        if not batch.task.plain and any(term.on_rows for term in self.objective.terms.values()):
            cut = batch.task.rows(student.logits, batch.x, batch.y, batch.total)
            student = dataclasses.replace(student, rows=cut)
            if teacher is not None:
                theirs = batch.task.flat(teacher.logits) if self._compared() else teacher.logits
                teacher = dataclasses.replace(teacher, rows=cut._replace(logits=theirs))
        return self.objective.losses(student, teacher, batch.y)

    def _compared(self) -> bool:
        """Whether some term compares the logits of the two."""
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
        if self.teacher is None or not self._compared():
            return
        ours, theirs = task.outputs(self.student.logits), task.outputs(self.teacher.logits)
        if ours != theirs:
            raise ValueError(
                f"Expected student and teacher to know the same classes, got {ours} and {theirs}. "
                f"Give the student {theirs} outputs, or take a teacher for {ours} classes.")


@dataclasses.dataclass
class Outcome:
    """One step: what is minimised, and what is logged.

    loss: the scalar that is minimised. parts: its unweighted terms by name, scalars.
    logits: those of the first edge's student, [B, K] or as the task says.
    notes: further scalars by name, on the device of the loss, that are logged and not minimised.
    """

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    logits: torch.Tensor
    notes: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)


class Scheme(nn.Module):
    """The base of all schemes. A new scheme is one method, `edges`; by default the student learns
    from the labels, by `objective`.

    What a subclass keeps as attributes is found: objectives are built and trained, teachers
    (`kd.Live`, `kd.Cached`, `kd.Ensemble`, `kd.EMA`) checked against the data and reported.

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

    partner = "its peers"  # what `report` calls those that a student without a teacher agrees with
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
        """Run students and teachers; return or yield the `Edge`s, who learns from whom. The logits
        of the first edge's student are those of the `Outcome`."""
        return [Edge(self.output(batch), None, self.objective)]

    def inputs(self, batch: Batch):
        """The inputs of a step, for students and teachers alike: by default `batch.x`.

        Override it for generated samples or another modality. Called once per step, and in
        `build`. `kd.Cached` answers for the original samples only.
        """
        return batch.x

    @property
    def students(self) -> list[nn.Module]:
        """The networks that are trained to classify; most schemes have one."""
        return [self.student]

    @property
    def teachers(self) -> dict[str, Teacher]:
        """The teachers by the name of their attribute; a plain network is none."""
        return {name: part for name, part in self._modules.items() if isinstance(part, Teacher)}

    def objectives(self) -> list[losses.Objective]:
        """Every objective that the scheme keeps."""
        return [module for module in self.modules() if isinstance(module, losses.Objective)]

    def groups(self) -> list[dict]:
        """Parameters that are trained alike, each group with settings of its own.

        By default one group of everything that has a gradient. A group has "params" and, where it
        differs, "lr" (a factor of the recipe's rate), "weight_decay", "every" (only every n-th
        step), "ascend" (the gradient is reversed: an adversary) and "optimizer" (as in `Recipe`).
        All of them are kept in checkpoints.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def identity(self):
        """Students, objectives and teachers: what recorded results are found by."""
        return [self.students, self.objectives(), list(self.teachers.items())]

    def networks(self) -> dict[str, nn.Module]:
        """Copies of what can be used after training, by name, each as `export` makes it."""
        copies = [alone(student) for student in self.students]
        names = [f"student {i}" for i in range(1, len(copies) + 1)] if copies[1:] else ["student"]
        return dict(zip(names, copies, strict=True))

    def partners(self, name: str, names: list[str]) -> list[str]:
        """Whom `report` compares a network with: the teachers, or the others among the `names`."""
        return list(self.teachers) or [other for other in names if other != name]

    def tap(self, *paths: str) -> None:
        """Attach hooks to the students for all that the objectives read there, and for `paths`.

        Happens by itself in the first step. Call it at the end of `__init__` to have the paths
        checked there, or with the teacher's paths where one student teaches another. Raises
        `ValueError` for the path of no module.
        """
        paths = [*paths, *(path for one in self.objectives() for path in one.student_paths)]
        self._taps = [taps_of(student, paths) for student in self.students]

    def output(self, batch: Batch, number: int = 0) -> Output:
        """Run a student on `batch.x`: logits, tapped tensors and sample ids. number: which of
        `students`."""
        if self._taps is None:
            self.tap()
        taps, x = self._taps[number], batch.x
        output = taps(**x) if isinstance(x, dict) else taps(x)
        output.index = batch.index
        return output

    def with_inputs(self, batch: Batch) -> Batch:
        """The batch with the scheme's own `inputs`."""
        x = self.inputs(batch)
        return batch if x is batch.x else dataclasses.replace(batch, x=x)

    def forward(self, batch: Batch) -> Outcome:
        batch = self.with_inputs(batch)
        return outcome(self.edges(batch), batch)

    @torch.no_grad()
    def build(self, batch: Batch, seed: int) -> None:
        """Check that everything fits, and make what must be trained, before the optimiser exists.

        Runs in eval mode and writes nothing: batch statistics stay as they are. Calling it twice
        changes nothing. Raises `ValueError` where classes or shapes do not fit.
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
        for part in (*self.objectives(), *self.teachers.values()):
            part.check(data)

    def after_step(self) -> None:
        """Called after each optimiser step: here that of the teachers, which moves an `EMA`.

        Override it for curricula and the like, and call `super().after_step()`. Do not change a
        `Live` teacher in it: a checkpoint would not keep that. A teacher that changes is an `EMA`,
        or a subclass of `Teacher` with `saved = True`.
        """
        for teacher in self.teachers.values():
            teacher.after_step()

    def frozen_tensors(self) -> set[str]:
        """The names of parameters and buffers of teachers that are not saved. They never change, so
        checkpoints and processes leave them alone."""
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
    """Evaluate the objective of each edge, and add them up."""
    loss, logits, parts = None, None, {}
    for edge in edges:
        terms = edge.losses(batch)
        total = edge.objective.total(terms)
        if edge.weight != 1:
            total = edge.weight * total
            terms = {term: edge.weight * value for term, value in terms.items()}
        for term, value in terms.items():
            name = f"{edge.name}.{term}" if edge.name else term
            parts[name] = parts[name] + value if name in parts else value
        loss = total if loss is None else loss + total
        logits = edge.student.logits if logits is None else logits
    if loss is None:
        raise ValueError("Expected at least one Edge from edges(batch), got none.")
    return Outcome(loss, parts, logits)


class Supervised(Scheme):
    """A student and the labels: the baseline that every distillation is measured against.

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
    """Offline distillation: a frozen teacher, a student that learns.

    student: any `nn.Module` that returns logits [B, K].
    teacher: a network (it is frozen: eval mode, no gradients), or a teacher: `Live`, `Cached`,
        `Ensemble`, `EMA`, or a `Teacher` of your own.
    objective: such as `0.1 * CE() + 0.9 * KD(T=4)`, the default.

    Raises `ValueError` when student and teacher are the same object or share weights; in `build`,
    when they do not answer for the same classes.

    >>> from kdcourse import models
    >>> Distiller(models.convnet(width=8, seed=0), models.convnet(width=16, seed=1)).objective
    0.1 * CE() + 0.9 * KD(T=4)
    """

    def __init__(self, student: nn.Module, teacher, objective=None):
        super().__init__(student, losses.hinton() if objective is None else objective)
        self._check_apart(teacher)
        self.teacher = as_teacher(teacher)
        self._teacher_paths = self.objective.teacher_paths
        self.teacher.tap(self._teacher_paths)
        self.tap()

    def _check_apart(self, teacher) -> None:
        ours = {id(p) for p in self.student.parameters()}
        theirs = teacher.parameters() if isinstance(teacher, nn.Module) else []
        if any(id(p) in ours for p in theirs):
            raise ValueError(
                "Expected a teacher with weights of its own, got one that shares them with the "
                "student. Use copy.deepcopy(model) for the teacher."
            )

    def edges(self, batch: Batch) -> list[Edge]:
        return [Edge(self.output(batch), self.teacher(batch, self._teacher_paths), self.objective)]


def export(scheme: Scheme) -> nn.Module:
    """The trained student alone, ready to be used, saved or exported further.

    A copy in eval mode: no hooks, no projections or other parts of the objective, no teacher, not
    compiled. The scheme stays as it is and can go on training.

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
