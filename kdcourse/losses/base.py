"""What every loss is: a term with a formula, and sums of weighted terms.

Shapes: B batch, K classes.
"""

import contextlib
import copy
import math

import torch
from torch import nn

from kdcourse._key import arguments
from kdcourse.data import generator
from kdcourse.models import View


class Loss(nn.Module):
    """One term of an objective: compares the student's view of a batch with the teacher's.

    A subclass writes `values(student, teacher, labels)`, always in that order: one number per
    sample [B]; or, where a number per sample makes no sense (relations between samples), one
    scalar, and sets `per_sample = False`. It is handed tensors: the logits [B, K] of both sides,
    or what was tapped at the module paths `student` and `teacher` (several paths: a tuple of
    tensors). The term itself is called with tensors too, or with the views that a scheme passes.

    student, teacher: module paths, as for `kdcourse.taps`; None stands for the logits.

    Terms can be weighted and added: `0.1 * CE() + 0.9 * KD(T=4)` is an `Objective`.
    """

    per_sample = True  # values() gives one number per sample, and the loss is their mean
    needs_teacher = True
    needs_paths = False  # compares inner tensors: the logits will not do
    student_paths: tuple[str, ...] = ()
    teacher_paths: tuple[str, ...] = ()

    def __init__(self, student=None, teacher=None):
        super().__init__()
        self.student_paths, self.teacher_paths = _paths(student), _paths(teacher)

    def check(self, data) -> None:
        """Look at the data set before training, where a term needs to (a memory bank's size)."""

    def build(self, student, teacher, seed: int) -> None:
        """Make what must be trained (projections), now that the shapes are known. Called before
        the optimiser exists, possibly more than once; makes nothing twice and writes nothing else.
        Outside a scheme, call it yourself with the first batch. student, teacher: as in a call."""

    def values(self, student, teacher=None, labels=None) -> torch.Tensor:
        """One loss per sample, [B]; a scalar where `per_sample` is False. Takes tensors."""
        raise NotImplementedError

    def forward(self, student, teacher=None, labels=None) -> torch.Tensor:
        student, teacher = self.pick(student, teacher)
        with self.named():
            return self.values(student, teacher, labels).mean()

    def pick(self, student, teacher=None):
        """What this term compares, out of two views: tensors, or tuples of them. Tensors stay."""
        return (self._look(student, self.student_paths, "student"),
                self._look(teacher, self.teacher_paths, "teacher"))

    def _look(self, view, paths, who):
        if not isinstance(view, View):
            return view
        if not paths:
            if self.needs_paths:
                raise ValueError(f"Expected module paths to compare, got {self!r} without one of "
                                 f"the {who}. Write, for example, "
                                 f'{type(self).__name__}("layer2", "layer3").')
            return view.logits
        missing = [path for path in paths if path not in view.taps]
        if missing:
            raise ValueError(f"Expected a view of the {who} with {missing[0]!r} in it, got "
                             f"{sorted(view.taps)}. Tap it: kd.taps(model, {list(paths)}).")
        found = tuple(view.taps[path] for path in paths)
        return found[0] if len(found) == 1 else found

    @contextlib.contextmanager
    def named(self):
        """Puts this term, with its paths, in front of what a function says of its arguments."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self!r}: {error}") from None

    def made(self, seed: int, like: torch.Tensor, make) -> nn.Module:
        """`make()`, drawn from `seed` alone, where `like` lies, in its precision (float32 at least)
        and in this term's mode (train or eval); torch's global generator stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = make()
        module.train(self.training)  # a batch statistic must not see what `build` looks at
        return module.to(like.device, torch.promote_types(like.dtype, torch.float32))

    def _load_from_state_dict(self, state, prefix, local, strict, missing, unexpected, errors):
        known = len(unexpected)
        super()._load_from_state_dict(state, prefix, local, strict, missing, unexpected, errors)
        if len(unexpected) > known:
            errors.append(f"{self!r}: Expected what this term trains to be made before it is "
                          "loaded. Call scheme.build(batch, seed) first.")

    def identity(self):
        """The arguments and the paths: what recorded results are found by."""
        return [arguments(self, without=("student", "teacher")), self.student_paths,
                self.teacher_paths]

    def __repr__(self):
        paths = [f"{who}={_shown(path)}" for who, path in
                 (("student", self.student_paths), ("teacher", self.teacher_paths)) if path]
        return f"{type(self).__name__}({', '.join(filter(None, [self.extra_repr(), *paths]))})"

    def __mul__(self, weight):
        return Objective([(weight, self)])

    __rmul__ = __mul__

    def __add__(self, other):
        return Objective([(1.0, self)]) + other

    def __radd__(self, other):  # sum() starts from 0
        return Objective([(1.0, self)]) if other == 0 else NotImplemented


class FeatureLoss(Loss):
    """A term on inner tensors: `Hint("layer2", "layer3")`, the student's path first."""

    needs_paths = True

    def __repr__(self):
        paths = [_shown(path) for path in (self.student_paths, self.teacher_paths)]
        while paths and paths[-1] == "None":  # a path of the teacher alone is still the second
            paths.pop()
        return f"{type(self).__name__}({', '.join(filter(None, [*paths, self.extra_repr()]))})"


class Objective(nn.Module):
    """A weighted sum of terms, in order. Made by `0.1 * CE() + 0.9 * KD(T=4)`.

    `terms` are named after their class; a second term of one kind gets `_2` and so on, so that
    both are logged. Every term is a copy: two objectives never share parameters.
    """

    def __init__(self, pairs: list[tuple[float, Loss]]):
        super().__init__()
        self.weights: dict[str, float] = {}
        self.terms = nn.ModuleDict()
        for weight, term in pairs:
            if not isinstance(weight, (int, float)) or not math.isfinite(weight):
                raise TypeError(f"Expected a finite number as the weight of {term!r}, got "
                                f"{weight!r}. Write, for example, 0.9 * {term!r}.")
            kind, name, count = type(term).__name__, type(term).__name__, 1
            while name in self.terms:
                count += 1
                name = f"{kind}_{count}"
            self.weights[name] = float(weight)
            self.terms[name] = copy.deepcopy(term)

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for term in self.terms.values())

    @property
    def student_paths(self) -> tuple[str, ...]:
        """The module paths of the student that some term looks at."""
        return tuple(dict.fromkeys(p for term in self.terms.values() for p in term.student_paths))

    @property
    def teacher_paths(self) -> tuple[str, ...]:
        """The module paths of the teacher that some term looks at."""
        return tuple(dict.fromkeys(p for term in self.terms.values() for p in term.teacher_paths))

    def apart(self) -> tuple["Objective | None", "Objective | None"]:
        """The terms without a teacher and those with one, as two objectives; None for no terms."""
        groups = ([], [])
        for weight, term in self._pairs():
            groups[term.needs_teacher].append((weight, term))
        return tuple(Objective(group) if group else None for group in groups)

    def unweighted(self) -> "Objective":
        """The same terms, each with weight 1."""
        return Objective([(1.0, term) for _, term in self._pairs()])

    def check(self, data) -> None:
        """`check` of every term."""
        for term in self.terms.values():
            term.check(data)

    @torch.no_grad()
    def build(self, student, teacher=None, seed: int = 0) -> None:
        """`build` of every term, each with randomness of its own."""
        for name, term in self.terms.items():
            with term.named():
                term.build(student, teacher, generator(seed, "objective", name).initial_seed())

    def parts(self, student, teacher=None, labels=None) -> dict[str, torch.Tensor]:
        """Every term by name, as a scalar and *without* its weight."""
        return {name: term(student, teacher, labels) for name, term in self.terms.items()}

    def total(self, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        """The weighted sum of `parts`."""
        return sum(self.weights[name] * part for name, part in parts.items())

    def forward(self, student, teacher=None, labels=None) -> torch.Tensor:
        return self.total(self.parts(student, teacher, labels))

    def identity(self):
        """The weights and the terms."""
        return self._pairs()

    def _pairs(self):
        return [(self.weights[name], term) for name, term in self.terms.items()]

    def __mul__(self, weight):
        if not isinstance(weight, (int, float)):
            return NotImplemented
        return Objective([(weight * inner, term) for inner, term in self._pairs()])

    __rmul__ = __mul__

    def __add__(self, other):
        if isinstance(other, Loss):
            other = Objective([(1.0, other)])
        if not isinstance(other, Objective):
            return NotImplemented
        return Objective(self._pairs() + other._pairs())

    def __radd__(self, other):
        return self if other == 0 else NotImplemented

    def __repr__(self):
        return " + ".join(
            repr(term) if weight == 1 else f"{weight:.10g} * {term!r}"
            for weight, term in self._pairs()
        )


def as_objective(loss) -> Objective:
    """A copy of an objective; a single term becomes an objective of one."""
    if isinstance(loss, Loss):
        return Objective([(1.0, loss)])
    if isinstance(loss, Objective):
        return copy.deepcopy(loss)
    raise TypeError(
        f"Expected a loss such as 0.1 * CE() + 0.9 * KD(T=4), got {type(loss).__name__}. "
        "Subclass kdcourse.losses.Loss to bring your own."
    )


def _paths(given) -> tuple[str, ...]:
    several = isinstance(given, (tuple, list))
    paths = () if given is None else tuple(given) if several else (given,)
    if not all(isinstance(path, str) for path in paths):
        raise TypeError(f"Expected a module path such as \"layer2\", or several, got {given!r}.")
    return paths


def _shown(paths: tuple[str, ...]) -> str:
    if not paths:
        return "None"
    return repr(paths[0]) if len(paths) == 1 else repr(list(paths))
