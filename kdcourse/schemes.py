"""HOW it is transferred: what a training step minimises, and with whom.

A scheme's `forward(batch)` computes everything that one step minimises. The loop does not know
which scheme it runs. Shapes: B batch, K classes.
"""

import copy
import dataclasses

import torch
from torch import nn

from kdcourse import losses, models
from kdcourse.data import Batch, Dataset, generator
from kdcourse.models import View
from kdcourse.teachers import Teacher, as_teacher


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
        self._check_outputs(data)
        self.objective.check(data)

    def _check_outputs(self, data: Dataset) -> None:
        for student in self.students:
            for name, p in student.named_parameters():
                if p.is_floating_point() and p.dtype != torch.float32:
                    raise ValueError(
                        f"Expected a student with weights in float32, got {name} in {p.dtype}. "
                        'Call student.float(); half precision is Recipe(precision="bf16").'
                    )
            outputs = models.predict(student, data.train.head(2)).shape[1]
            if outputs < len(data.classes):
                raise ValueError(
                    f"Expected a student with an output for each of the {len(data.classes)} "
                    f"classes of {data.name}, got {outputs}. Make it with "
                    f"classes={len(data.classes)}."
                )

    def after_step(self) -> None:
        """Called after each optimiser step: here that of the teachers, which moves an `EMA`.

        Override it for curricula and the like, and call `super().after_step()`. Do not change a
        `Live` teacher in it: a checkpoint would not keep that. A teacher that changes is an `EMA`,
        or a subclass of `Teacher` with `saved = True`.
        """
        for part in self.children():
            if isinstance(part, Teacher):
                part.after_step()

    def frozen_tensors(self) -> set[str]:
        """The names of parameters and buffers of teachers that are not saved. They never change, so
        checkpoints and processes leave them alone."""
        return {f"{path}.{name}" for path, part in self.named_modules()
                if isinstance(part, Teacher) and not part.saved
                for name, _ in [*part.named_parameters(), *part.named_buffers()]}

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
        self.teacher.tap(self.objective.teacher_paths)

    def _check_apart(self, teacher) -> None:
        ours = {id(p) for p in self.student.parameters()}
        theirs = teacher.parameters() if isinstance(teacher, nn.Module) else []
        if any(id(p) in ours for p in theirs):
            raise ValueError(
                "Expected a teacher with weights of its own, got one that shares them with the "
                "student. Use copy.deepcopy(model) for the teacher."
            )

    def views(self, batch: Batch) -> tuple[View, View]:
        student, _ = super().views(batch)
        return student, self.teacher(batch, self.objective.teacher_paths)

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

    def __repr__(self):
        return f"{super().__repr__()[:-1]}, teacher={self.teacher!r})"


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

    def __init__(self, students, objective=None):
        students = list(students)
        if len(students) < 2:
            raise ValueError(f"Expected at least two students that learn from each other, got "
                             f"{len(students)}. For one student use Supervised or Distiller.")
        objective = losses.CE() + losses.KD(T=1) if objective is None else objective
        super().__init__(students[0], objective)
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
        of_labels, of_peers = self.objective.apart()
        if of_peers is None:
            raise ValueError("Expected an objective with a term on a teacher, which a peer can be, "
                             f"got {self.objective!r}. Add, for example, KD(T=1).")
        count = range(len(students))
        self.of_labels = nn.ModuleList(copy.deepcopy(of_labels) for _ in count if of_labels)
        self.of_peers = nn.ModuleDict({f"{i}_from_{j}": copy.deepcopy(of_peers)
                                       for i in count for j in count if i != j})
        self._all_taps = [models.taps(student, _paths(self.objective)) for student in students]
        self._sentence = repr(self.objective)
        self.objective = None  # its copies are what is trained

    @property
    def students(self) -> list[nn.Module]:
        return [self.student, *self.peers]

    def _seen(self, batch: Batch) -> list[View]:
        views = [taps(batch.x) for taps in self._all_taps]
        for view in views:
            view.index = batch.index
        return views

    def _directions(self, views):
        """Student i, peer j as a fixed teacher, and the objective between them."""
        fixed = [view.detached() for view in views]
        for i, view in enumerate(views):
            for j, peer in enumerate(fixed):
                if i != j:
                    yield i, view, peer, self.of_peers[f"{i}_from_{j}"]

    def forward(self, batch: Batch) -> Outcome:
        views = self._seen(batch)
        parts, loss = {}, 0.0
        for i, (view, objective) in enumerate(zip(views, self.of_labels), start=1):
            terms = objective.parts(view, None, batch.y)
            loss = loss + objective.total(terms)
            parts |= {f"{i}.{name}": value for name, value in terms.items()}
        share = 1 / (len(views) - 1)
        for i, view, peer, objective in self._directions(views):
            terms = objective.parts(view, peer, batch.y)
            loss = loss + share * objective.total(terms)
            for name, value in terms.items():
                name = f"{i + 1}.{name}"
                parts[name] = parts.get(name, 0) + share * value
        return Outcome(loss, parts, views[0].logits)

    @torch.no_grad()
    def build(self, batch: Batch, seed: int) -> None:
        with models.evaluating(self), torch.compiler.set_stance("force_eager"):
            views = self._seen(batch)
            known = {view.logits.shape[1] for view in views}
            if len(known) > 1:
                raise ValueError(f"Expected students that know the same classes, got outputs for "
                                 f"{sorted(known)}.")
            for number, (_, view, peer, objective) in enumerate(self._directions(views)):
                objective.build(view, peer, generator(seed, "mutual", number).initial_seed())
            for view, objective in zip(views, self.of_labels):
                objective.build(view, None, seed)
            self(batch)  # a mistake in shapes shows here, not later

    def check(self, data: Dataset) -> None:
        self._check_outputs(data)
        for objective in [*self.of_labels, *self.of_peers.values()]:
            objective.check(data)

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

    def __init__(self, model: nn.Module, exits, objective=None):
        default = 0.7 * losses.CE() + 0.3 * losses.KD(T=3)
        super().__init__(model, default if objective is None else objective)
        self.exits = (exits,) if isinstance(exits, str) else tuple(exits)
        if not self.exits:
            raise ValueError("Expected at least one exit, such as \"layer1\", got none.")
        of_labels, of_end = self.objective.apart()
        if of_labels is None or of_end is None:
            raise ValueError(f"Expected an objective with a term on the labels and one on a "
                             f"teacher, got {self.objective!r}. For example 0.7 * CE() + 0.3 * "
                             "KD(T=3).")
        self._sentence = repr(self.objective)
        self.of_end = of_labels.unweighted()
        self.of_exits = nn.ModuleList(copy.deepcopy(self.objective) for _ in self.exits)
        self.objective = None
        self.heads = None
        paths = [*self.exits, *_paths(self.of_exits[0])]
        self._taps = models.taps(model, paths)

    def _seen(self, batch: Batch) -> tuple[View, list[View]]:
        """What the end says, and each exit."""
        end = self._taps(batch.x)
        end.index = batch.index
        exits = [View(head(end.taps[path]), end.taps, batch.index)
                 for path, head in zip(self.exits, self.heads or [])]
        return end, exits

    def forward(self, batch: Batch) -> Outcome:
        end, exits = self._seen(batch)
        parts = self.of_end.parts(end, None, batch.y)
        loss = self.of_end.total(parts)
        for path, view, objective in zip(self.exits, exits, self.of_exits):
            terms = objective.parts(view, end.detached(), batch.y)
            loss = loss + objective.total(terms)
            parts |= {f"{path}.{name}": value for name, value in terms.items()}
        return Outcome(loss, parts, end.logits)

    @torch.no_grad()
    def build(self, batch: Batch, seed: int) -> None:
        with models.evaluating(self), torch.compiler.set_stance("force_eager"):
            if self.heads is None:
                end, _ = self._seen(batch)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(generator(seed, "exits").initial_seed())
                    heads = [_Head(end.taps[path], end.logits.shape[1]) for path in self.exits]
                self.heads = nn.ModuleList(heads).eval().to(end.logits.device)
            end, exits = self._seen(batch)
            for number, (view, objective) in enumerate(zip(exits, self.of_exits)):
                objective.build(view, end, generator(seed, "exits", number).initial_seed())
            self.of_end.build(end, None, seed)
            self(batch)

    def check(self, data: Dataset) -> None:
        self._check_outputs(data)
        for objective in [self.of_end, *self.of_exits]:
            objective.check(data)

    def exit(self, path: str) -> nn.Module:
        """A network that answers from this exit and computes nothing behind it: a copy, in eval
        mode. Raises `ValueError` for a path that is no exit or was not trained yet."""
        if path not in self.exits or self.heads is None:
            raise ValueError(f"Expected one of the exits {list(self.exits)} after training, got "
                             f"{path!r}{'' if self.heads else ' before it'}.")
        model = models.alone(self.student)
        return models.Early(model, path, copy.deepcopy(self.heads[self.exits.index(path)])).eval()

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


def _paths(objective) -> list[str]:
    """The paths of both sides, for schemes whose teacher is a network of their own."""
    return [*objective.student_paths, *objective.teacher_paths]


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
