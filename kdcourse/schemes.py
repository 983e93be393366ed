"""HOW it is transferred: who learns from whom in a training step, and by which objective.

A scheme lists its edges; `forward`, `build` and `check` are written once, in `Scheme`. The loop
does not know which scheme it runs. Shapes: B batch, K classes.
"""

import copy
import dataclasses
import itertools

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from kdcourse import losses, models
from kdcourse.data import Batch, Dataset, generator
from kdcourse.models import View
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

    student: View
    teacher: View | None
    objective: losses.Objective
    name: str = ""
    weight: float = 1.0

    def __post_init__(self):
        if not isinstance(self.objective, losses.Objective):
            raise TypeError(f"Expected an objective on an edge, got "
                            f"{type(self.objective).__name__}. Keep one in the scheme's __init__: "
                            "self.objective = losses.as_objective(KD(T=4)).")

    def named(self, term: str) -> str:
        """The name of one of the objective's terms in the history."""
        return f"{self.name}.{term}" if self.name else term

    def check_classes(self) -> None:
        """Raise `ValueError` where student and teacher have logits for other classes."""
        if self.teacher is None:
            return
        ours, theirs = self.student.logits.shape[1], self.teacher.logits.shape[1]
        if ours != theirs:
            raise ValueError(
                f"Expected student and teacher to know the same classes, got {ours} and {theirs}. "
                f"Give the student {theirs} outputs, or take a teacher for {ours} classes.")


@dataclasses.dataclass
class Outcome:
    """One step: what is minimised, and what is logged.

    loss: the scalar that is minimised. parts: its unweighted terms by name, scalars.
    logits: those of the first edge's student, [B, K].
    notes: further scalars by name, on the device of the loss, that are logged and not minimised.

    Raises `ValueError` for a note with the name of a part.
    """

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    logits: torch.Tensor
    notes: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if taken := {"loss", *self.parts} & self.notes.keys():
            raise ValueError(f"Expected notes with names of their own, got {sorted(taken)}, which "
                             "are parts of the loss. Give them other names.")


class Scheme(nn.Module):
    """The base of all schemes. A new scheme is one method, `edges`; by default the student learns
    from the labels, by `objective`.

    What a subclass keeps as attributes is found: objectives are built and trained, teachers
    (`kd.Live`, `kd.Cached`, `kd.Ensemble`, `kd.EMA`) checked against the data and reported.

    student: any `nn.Module` that returns logits [B, K].
    objective: such as `CE()`; None where all edges have objectives of their own.

    Raises `TypeError` for a student that is no network.

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

    def inputs(self, batch: Batch) -> torch.Tensor:
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

    def networks(self) -> dict[str, nn.Module]:
        """Copies of what can be used after training, by name, each as `export` makes it."""
        copies = [models.alone(student) for student in self.students]
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
        self._taps = [models.taps(student, paths) for student in self.students]

    def outputs(self, batch: Batch) -> list[View]:
        """Run every student on `batch.x`: logits, tapped tensors and sample ids of each."""
        if self._taps is None:
            self.tap()
        outputs = [taps(batch.x) for taps in self._taps]
        for output in outputs:
            output.index = batch.index
        return outputs

    def output(self, batch: Batch) -> View:
        """Run the student of a scheme with one: `outputs(batch)[0]`."""
        return self.outputs(batch)[0]

    def with_inputs(self, batch: Batch) -> Batch:
        """The batch with the scheme's own `inputs`."""
        x = self.inputs(batch)
        return batch if x is batch.x else dataclasses.replace(batch, x=x)

    def forward(self, batch: Batch) -> Outcome:
        batch = self.with_inputs(batch)
        return _outcome(self.edges(batch), batch)

    @torch.no_grad()
    def build(self, batch: Batch, seed: int) -> None:
        """Check that everything fits, and make what must be trained, before the optimiser exists.

        Runs in eval mode and writes nothing: batch statistics stay as they are. Calling it twice
        changes nothing. Raises `ValueError` where classes or shapes do not fit.
        """
        with models.evaluating(self), torch.compiler.set_stance("force_eager"):
            batch = self.with_inputs(batch)
            edges, numbers = list(self.edges(batch)), itertools.count()
            for edge in edges:
                edge.check_classes()
            for edge in edges:
                own = seed
                if edge.teacher is not None and len(edges) > 1:  # projections that differ
                    own = generator(seed, self.seed_name, next(numbers)).initial_seed()
                edge.objective.build(edge.student, edge.teacher, own)
            _outcome(edges, batch)  # raises for shapes that do not fit

    def check(self, data: Dataset) -> None:
        """Raise `ValueError` when students, objectives or teachers do not fit the data."""
        for student in self.students:
            for name, p in student.named_parameters():
                if p.is_floating_point() and p.dtype != torch.float32:
                    raise ValueError(
                        f"Expected a student with weights in float32, got {name} in {p.dtype}. "
                        'Call student.float(); half precision is Recipe(precision="bf16").')
            outputs = models.predict(student, data.train.head(2)).shape[1]
            if outputs < len(data.classes):
                raise ValueError(
                    f"Expected a student with an output for each of the {len(data.classes)} "
                    f"classes of {data.name}, got {outputs}. Make it with "
                    f"classes={len(data.classes)}.")
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
        parts = [models.describe(self.student)]
        for name, part in sorted(self._modules.items(), key=lambda item: item[0] in self.teachers):
            if name == "objective" and part is not None:
                parts.append(repr(part))
            elif isinstance(part, losses.Objective) or name in self.teachers:
                parts.append(f"{name}={part!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


def _outcome(edges, batch: Batch) -> Outcome:
    """Evaluate the objective of each edge, and add them up."""

    def added(value, edge, total=None):
        value = value if edge.weight == 1 else edge.weight * value
        return value if total is None else total + value

    loss = logits = None
    parts = {}
    for edge in edges:
        terms = edge.objective.parts(edge.student, edge.teacher, batch.y)
        loss = added(edge.objective.total(terms), edge, loss)
        for term, value in terms.items():
            name = edge.named(term)
            parts[name] = added(value, edge, parts.get(name))
        logits = edge.student.logits if logits is None else logits
    if loss is None:
        raise ValueError("Expected at least one Edge from edges(batch), got none.")
    return Outcome(loss, parts, logits)


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
        self.tap()


class Distiller(Scheme):
    """Offline distillation: a frozen teacher, a student that learns.

    student: any `nn.Module` that returns logits [B, K].
    teacher: a network (it is frozen: eval mode, no gradients), or a teacher: `Live`, `Cached`,
        `Ensemble`, `EMA`, or a `Teacher` of your own.
    objective: such as `0.1 * CE() + 0.9 * KD(T=4)`, the default.

    Raises `ValueError` when student and teacher are the same object or share weights; in `build`,
    when they do not answer for the same classes.

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


class Mutual(Scheme):
    """Deep mutual learning: students that learn together, each from the labels and all its peers.

    For each student: the objective's terms of the labels, once, plus its terms of a teacher, with
    each peer in the place of the teacher, averaged over the peers. No gradient reaches a peer. The
    losses of all students are added, so each is trained as if alone with frozen peers.

    Zhang et al. 2018, "Deep Mutual Learning" (arXiv:1706.00384), with `CE() + KD(T=1)`, the
    default. The paper updates the students in turn; here all take the step together.

    students: two or more networks for the same classes, of one kind or of several.
    objective: such as `CE() + KD(T=1)`. Every student, and every direction between two, has a copy
        of its own, projections included.

    `student` is the first of them: the one whose accuracy is shown while training. Parts in the
    history are called "1.CE", "1.KD", "2.CE" …; the gradient norm is clipped over all students.

    Raises `ValueError` for fewer than two students, for students that share weights, and for an
    objective without a term on a teacher.

    >>> scheme = Mutual([models.convnet(width=8, seed=0), models.mlp(hidden=(32,), seed=1)])
    >>> len(scheme.students)
    2
    """

    seed_name = "mutual"

    def __init__(self, students, objective=None):
        students = list(students)
        if len(students) < 2:
            raise ValueError(f"Expected at least two students that learn from each other, got "
                             f"{len(students)}. For one student use Supervised or Distiller.")
        super().__init__(students[0])
        owners: dict[int, int] = {}
        for number, student in enumerate(students):
            if not isinstance(student, nn.Module):
                raise TypeError(f"Expected networks (nn.Module) as students, got "
                                f"{type(student).__name__}.")
            for p in student.parameters():
                if owners.setdefault(id(p), number) != number:
                    raise ValueError("Expected students with weights of their own, got two that "
                                     "share some. Make each with a seed of its own.")
        self.peers = nn.ModuleList(students[1:])
        objective = losses.as_objective(
            losses.CE() + losses.KD(T=1) if objective is None else objective)
        of_labels, of_peers = objective.apart()
        if of_peers is None:
            raise ValueError("Expected an objective with a term on a teacher, which a peer can be, "
                             f"got {objective!r}. Add, for example, KD(T=1).")
        count = range(len(students))
        self.of_labels = nn.ModuleList(copy.deepcopy(of_labels) for _ in count if of_labels)
        self.of_peers = nn.ModuleDict({f"{i}_from_{j}": copy.deepcopy(of_peers)
                                       for i in count for j in count if i != j})
        self._sentence = repr(objective)
        self.tap(*objective.teacher_paths)

    @property
    def students(self) -> list[nn.Module]:
        return [self.student, *self.peers]

    def edges(self, batch: Batch) -> list[Edge]:
        outputs = self.outputs(batch)
        fixed = [output.detached() for output in outputs]
        edges = [Edge(output, None, objective, f"{i}") for i, (output, objective)
                 in enumerate(zip(outputs, self.of_labels), start=1)]
        return edges + [
            Edge(output, peer, self.of_peers[f"{i}_from_{j}"], f"{i + 1}", 1 / len(self.peers))
            for i, output in enumerate(outputs) for j, peer in enumerate(fixed) if i != j]

    def __repr__(self):
        students = ", ".join(models.describe(student) for student in self.students)
        return f"Mutual([{students}], {self._sentence})"


class MultiExit(Scheme):
    """Be your own teacher: exits inside a network learn from its end, and can be used early.

    At each exit a small classifier (1x1 convolution, batch normalisation, ReLU, mean over the
    places, linear) answers from what the network knows there. The end learns from the labels; each
    exit from the labels and, as from a fixed teacher, from the end.

    Zhang et al. 2019, "Be Your Own Teacher" (arXiv:1905.08094), whose classifiers are deeper and
    whose weight of the labels falls where that of the teacher rises; it also matches features:
    `Hint` does that as one more term.

    model: any network that returns logits [B, K].
    exits: module paths, from early to late, of maps [B, C, H, W], tokens [B, N, D] or vectors; as
        in `taps`, so "fc:input" and "block[1]" are such, too.
    objective: such as `0.7 * CE() + 0.3 * KD(T=3)`, the default. The end takes its terms of the
        labels, with weight 1 for each; every exit a copy of all of it.

    After training `scheme.exit("layer1")` is a network that stops there, and `kd.export(scheme)`
    the whole one without exits. Parts in the history are called "CE" for the end and "layer1.CE",
    "layer1.KD" … for the exits.

    Raises `ValueError` for no exits, for unknown paths, and for an objective without a term on a
    teacher.

    >>> scheme = MultiExit(models.resnet(depth=8, width=8), ["layer1", "layer2"])
    >>> scheme.exits
    ('layer1', 'layer2')
    """

    seed_name, partner = "exits", "the end"

    def __init__(self, model: nn.Module, exits, objective=None):
        super().__init__(model)
        self.exits = (exits,) if isinstance(exits, str) else tuple(exits)
        if not self.exits:
            raise ValueError("Expected at least one exit, such as \"layer1\", got none.")
        objective = losses.as_objective(
            0.7 * losses.CE() + 0.3 * losses.KD(T=3) if objective is None else objective)
        of_labels, of_end = objective.apart()
        if of_labels is None or of_end is None:
            raise ValueError(f"Expected an objective with a term on the labels and one on a "
                             f"teacher, got {objective!r}. For example 0.7 * CE() + 0.3 * KD(T=3).")
        self.of_end = of_labels.unweighted()
        self.of_exits = nn.ModuleList(copy.deepcopy(objective) for _ in self.exits)
        self.heads = None
        self._sentence = repr(objective)
        self.tap(*self.exits, *objective.teacher_paths)

    def edges(self, batch: Batch) -> list[Edge]:
        end = self.output(batch)
        edges = [Edge(end, None, self.of_end)]
        for path, head, objective in zip(self.exits, self.heads or [], self.of_exits):
            exit = View(head(end.taps[path]), end.taps, batch.index)
            edges.append(Edge(exit, end.detached(), objective, path))
        return edges

    @torch.no_grad()
    def build(self, batch: Batch, seed: int) -> None:
        if self.heads is None:
            with models.evaluating(self), torch.compiler.set_stance("force_eager"):
                end = self.output(self.with_inputs(batch))
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(generator(seed, "exits").initial_seed())
                    heads = [_Head(end.taps[path], end.logits.shape[1]) for path in self.exits]
                self.heads = nn.ModuleList(heads).to(end.logits.device)
            self._shape = batch.x.shape[1:]
        super().build(batch, seed)

    def exit(self, path: str) -> nn.Module:
        """A network that answers from this exit and computes nothing behind it: a copy in eval
        mode, without the weights behind the exit (None, as for a layer without a bias).

        Raises `ValueError` for a path that is no exit or was not trained yet.
        """
        if path not in self.exits or self.heads is None:
            raise ValueError(f"Expected one of the exits {list(self.exits)} after training, got "
                             f"{path!r}{'' if self.heads else ' before it'}.")
        head = copy.deepcopy(self.heads[self.exits.index(path)])
        exit = models.Early(models.alone(self.student), path, head).eval()
        with torch.no_grad(), _Reads() as reads:
            exit(torch.zeros(1, *self._shape, device=models.device_of(exit)))
        for module in exit.modules():
            own = dict([*module.named_parameters(recurse=False),
                        *module.named_buffers(recurse=False)])
            if not any(id(tensor) in reads.tensors for tensor in own.values()):
                for name in own:
                    setattr(module, name, None)
        return exit

    def networks(self) -> dict[str, nn.Module]:
        exits = {f"exit {path}": self.exit(path) for path in self.exits if self.heads is not None}
        return exits | super().networks()

    def partners(self, name: str, names: list[str]) -> list[str]:
        return [] if name == "student" else ["student"]

    def __repr__(self):
        return f"MultiExit({models.describe(self.student)}, {list(self.exits)}, {self._sentence})"


class _Head(nn.Module):
    """A small classifier on a layer; `like` shows what the layer looks like."""

    def __init__(self, like: torch.Tensor, classes: int):
        super().__init__()
        width = like.shape[1 if like.ndim != 3 else 2]
        self.mix = nn.Linear(width, width, bias=False)  # on every place: a 1x1 convolution
        self.norm, self.fc = nn.BatchNorm1d(width), nn.Linear(width, classes)

    def forward(self, x):
        mixed_BND = self.mix(losses.as_tokens(x))
        normed_BND = self.norm(mixed_BND.flatten(0, 1)).view_as(mixed_BND)
        return self.fc(torch.relu(normed_BND).mean(1))


class _Reads(TorchFunctionMode):
    """Notes the tensors that go into functions of torch: a module's weights may be read without a
    call of the module, as those of `out_proj` in `nn.MultiheadAttention`."""

    def __init__(self):
        super().__init__()
        self.tensors = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.tensors |= set(map(id, tree_leaves((args, kwargs))))
        return function(*args, **(kwargs or {}))


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
    return models.alone(scheme.student)
