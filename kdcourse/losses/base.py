"""Terms, and weighted sums of terms. B batch, K classes."""

import copy
import math
import numbers

import torch
from torch import nn

from kdcourse._key import unlike_defaults
from kdcourse._random import generator, seeded
from kdcourse.layouts import Layout, arranged, random_order
from kdcourse.taps import Output


class Loss(nn.Module):
    """Compare the student's output for a batch with the teacher's: one term of an objective.

    A subclass names its function, `class KD(Loss, function=kd)`, which is called with student and
    teacher (student and labels where `needs_teacher` is False), the settings that were passed to
    `super().__init__`, and `reduction="none"`. Or it writes `values(student, teacher, labels)`.
    Both return one number per sample [B], or one scalar with `per_sample = False`. Their arguments
    are the logits [B, K] of both sides, or the tensors at the module paths (of several, a tuple).

    student, teacher: module paths, as for `kdcourse.taps`; None stands for the logits.

    A term that compares with a teacher and reads the labels, too, states `needs_labels = True`.
    Where some samples have no label (`kd.tasks.Classes(ignore=-100)`) it gets a class for all and
    its mean is over those with a label; a term that does not state it gets None for the labels.

    A term is called with tensors, or with a scheme's outputs. Terms can be weighted and added:
    `0.1 * CE() + 0.9 * KD(T=4)` is an `Objective`.
    """

    per_sample = True  # one number per sample, and the loss is their mean
    needs_teacher = True
    needs_labels = False  # reads the labels; without a teacher True, unless a class says otherwise
    needs_paths = False  # compares inner tensors, never the logits
    on_rows = True  # compares rows [M, K], one per label; else what was tapped, as it is
    softened = False  # compares softmax(logits / T), and keeps its meaning where classes are merged
    linear = False  # the teacher's probabilities enter linearly, but for what has no gradient
    same_classes = True  # compares outputs of student and teacher class by class
    masks = False  # `values` takes mask_BN, by which tokens that are padding do not count
    by_labels = False  # divides by what depends on the labels: of the whole batch, not of a part
    needs_classes = True  # takes a row for the logits of classes, not for any numbers
    omitted: tuple[str, ...] = ()  # settings that the repr leaves out while they are None
    edition = 1  # raised when a default or the formula changes: older rows are not found by its key
    student_paths: tuple[str, ...] = ()
    teacher_paths: tuple[str, ...] = ()
    _settings: tuple[str, ...] = ()
    _untrained: list["Loss"] | None = None  # a copy, made when a scheme took this term

    def __init_subclass__(cls, function=None, **more):
        super().__init_subclass__(**more)
        if function is not None:
            cls.function = staticmethod(function)
        if "needs_teacher" in vars(cls) and "needs_labels" not in vars(cls):
            cls.needs_labels = not cls.needs_teacher

    def __init__(self, student=None, teacher=None, **settings):
        super().__init__()
        self.student_paths, self.teacher_paths = _paths(student), _paths(teacher)
        if settings and type(self).__init__ is Loss.__init__:
            raise TypeError(f"Expected no settings for {type(self).__name__}, got {settings}.")
        self._settings = tuple(settings)
        for name, value in settings.items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value, persistent=False)  # moves with the scheme
            else:
                setattr(self, name, value)
        self.register_load_state_dict_pre_hook(_refuse_unbuilt)

    def check(self, data) -> None:
        """Check the data set before training; a memory bank takes its size from it."""

    def build(self, student, teacher, seed: int) -> None:
        """Make what must be trained (projections) from a first batch, before the optimiser exists.
        Called more than once, but makes nothing twice. student, teacher: as in a call."""

    def settings(self) -> dict:
        """Give the settings by name, as they are now."""
        return {name: getattr(self, name) for name in self._settings}

    def values(self, student, teacher=None, labels=None, **more) -> torch.Tensor:
        """Compute one loss per sample, [B]; a scalar where `per_sample` is False. Takes tensors."""
        settings = more | ({"reduction": "none"} if self.per_sample else {})
        for name in self._settings:
            settings[name] = getattr(self, name)
        return self.function(student, teacher if self.needs_teacher else labels, **settings)

    def forward(self, student, teacher=None, labels=None) -> torch.Tensor:
        rows = self._rows(student)
        mask = student.mask if self.masks and isinstance(student, Output) else None
        student, teacher = self.pick(student, teacher)
        try:
            if rows is None:
                more = {} if mask is None else {"mask_BN": mask}
                return self.reduced(self.values(student, teacher, labels, **more), labels)
            if not self.per_sample and rows.weight is not None:
                kept = rows.weight > 0  # one number for all rows has no weights; synchronises
                if not kept.any():
                    return (student * 0).sum()
                found = [t if t is None else t[kept] for t in (student, teacher, rows.labels)]
                return self.values(*found)
            return self.reduced(self.values(student, teacher, rows.labels), rows.labels, rows)
        except ValueError as error:
            raise self.named(error) from None

    def _rows(self, student):
        """Give the rows that this term compares, with what it reads of their labels; None where
        there are none, or where it compares tensors as they are."""
        rows = student.rows if isinstance(student, Output) else None
        if rows is None or not (self.on_rows or (rows.task.partly and self.needs_labels)):
            return None
        return rows if self.needs_labels else rows.without_labels()

    def reduced(self, values, labels=None, rows=None) -> torch.Tensor:
        """Take the mean of the values, over the rows that count."""
        return values.mean() if rows is None else rows.mean(values)

    def pick(self, student, teacher=None):
        """Pick the tensors (or tuples) to compare out of both outputs. Tensors stay as they are."""
        picked = []
        for output, paths, who in ((student, self.student_paths, "student"),
                                   (teacher, self.teacher_paths, "teacher")):
            if isinstance(output, Output):
                rows = output.rows if self.on_rows else None
                if paths or self.needs_paths:
                    output = self._tapped(output, paths, who)
                    output = output if rows is None else rows.task.flat(output)
                else:
                    if output.kept is not None and self.needs_teacher:
                        output.kept.check(self)
                    # A teacher that is not compared need not have logits.
                    needed = who == "student" or self.needs_teacher or output.has_logits
                    output = rows.logits if rows is not None else output.logits if needed else None
            picked.append(output)
        if (isinstance(teacher, Output) and teacher.kept is not None and self.needs_teacher
                and not (self.teacher_paths or self.needs_paths)):
            picked = teacher.kept.matched(*picked)
        return tuple(picked)

    def _tapped(self, output, paths, who):
        if not paths:
            raise ValueError(f"Expected module paths to compare, got {self!r} without one of "
                             f'the {who}. Write, for example, {type(self).__name__}("layer2", '
                             '"layer3").')
        missing = [path for path in paths if path not in output.taps]
        if missing:
            raise ValueError(f"Expected an output of the {who} with {missing[0]!r} in it, got "
                             f"{sorted(output.taps)}. Tap it: kd.taps(model, {list(paths)}).")
        found = tuple(output.taps[path] for path in paths)
        return found[0] if len(found) == 1 else found

    def named(self, error: ValueError) -> ValueError:
        """Prefix an error with this term and its paths."""
        return ValueError(f"{self!r}: {error}")

    def seeded(self, seed: int, like: torch.Tensor, make) -> nn.Module:
        """Call `make()` seeded by `seed`; torch's global generator stays as it was. The module gets
        the device and precision of `like` (float32 at least) and this term's mode."""
        with seeded(seed):
            module = make()
        module.train(self.training)  # build() runs in eval mode: batch statistics must not move
        return module.to(like.device, torch.promote_types(like.dtype, torch.float32))

    def _take(self) -> "Loss":
        """Give this term to a first scheme, and copies of it, as it was then, to later ones."""
        if self._untrained is not None:
            return copy.deepcopy(self._untrained[0])._take()
        self._untrained = [copy.deepcopy(self)]  # in a list, or it would be a submodule
        return self

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={_text(value)}" for name, value in self.settings().items()
                         if value is not None or name not in self.omitted)

    def identity(self):
        """Give the settings that differ from their default, and the paths, by which recorded
        results are found."""
        changed = unlike_defaults(type(self), self.settings())
        edition = [self.edition] if self.edition > 1 else []
        return [changed, self.student_paths, self.teacher_paths, *edition]

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
    """Compare inner tensors: `Hint("layer2", "layer3")`, the student's path first."""

    needs_paths = True
    on_rows = needs_classes = False
    # How tapped tensors whose layout the model states come to `values`: None, as they are; "maps",
    # as maps [B, C, H, W]; "places", as maps too, but two sequences of one layout as they are.
    takes: str | None = None

    def pick(self, student, teacher=None):
        picked = super().pick(student, teacher)
        sides = _stated(student, self.student_paths), _stated(teacher, self.teacher_paths)
        for output, x, layouts, who in zip((student, teacher), picked, sides, _WHO):
            if isinstance(output, Output):
                _check_tokens(output, x, layouts, who)
        if self.takes is None:
            return picked
        one, other = picked
        ordered = any(layout.order for side in sides for layout in side if layout)
        sequences = all(isinstance(x, torch.Tensor) and x.ndim == 3 for x in picked)
        if (self.takes == "places" and sequences and one.shape[1] == other.shape[1]
                and (sides[0] == sides[1] or ([None] in sides and not ordered))):
            return picked
        return (_laid_out(one, sides[0], "student", self.student_paths),
                _laid_out(other, sides[1], "teacher", self.teacher_paths))

    def __repr__(self):
        paths = [_shown(path) for path in (self.student_paths, self.teacher_paths)]
        while paths and paths[-1] == "None":  # a path of the teacher alone is still the second
            paths.pop()
        return f"{type(self).__name__}({', '.join(filter(None, [*paths, self.extra_repr()]))})"


class Objective(nn.Module):
    """Add weighted terms, in order. Made by `0.1 * CE() + 0.9 * KD(T=4)`.

    `terms` are those that were given, not copies, and named after their class; a second term of one
    kind gets `_2` and so on. Raises `ValueError` for the same term, one object, twice.
    """

    def __init__(self, pairs: list[tuple[float, Loss]]):
        super().__init__()
        self.weights: dict[str, float] = {}
        self.terms = nn.ModuleDict()
        for weight, term in pairs:
            if not isinstance(weight, (int, float)) or not math.isfinite(weight):
                raise TypeError(f"Expected a finite number as the weight of {term!r}, got "
                                f"{weight!r}. Write, for example, 0.9 * {term!r}.")
            if any(term is other for other in self.terms.values()):
                raise ValueError(f"Expected each term once in an objective, got the same {term!r} "
                                 "twice. Add its weights, or make a second one.")
            kind = type(term).__name__
            number = 1 + sum(type(other).__name__ == kind for other in self.terms.values())
            name = kind if number == 1 else f"{kind}_{number}"
            self.weights[name] = float(weight)
            self.terms[name] = term

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

    def split_by_teacher(self) -> tuple["Objective | None", "Objective | None"]:
        """Split into the terms without a teacher and those with one; None for no terms."""
        groups = ([], [])
        for weight, term in self._pairs():
            groups[term.needs_teacher].append((weight, term))
        return tuple(Objective(group) if group else None for group in groups)

    def unweighted(self) -> "Objective":
        """Give each of the same terms the weight 1."""
        return Objective([(1.0, term) for term in self.terms.values()])

    def check(self, data) -> None:
        """Call `check` of every term."""
        for term in self.terms.values():
            term.check(data)

    @torch.no_grad()
    def build(self, student, teacher=None, seed: int = 0) -> None:
        """Call `build` of every term, each with randomness of its own."""
        for name, term in self.terms.items():
            if term._untrained is None:
                term._take()
            try:
                term.build(student, teacher, generator(seed, "objective", name).initial_seed())
            except ValueError as error:
                raise term.named(error) from None

    def losses(self, student, teacher=None, labels=None) -> dict[str, torch.Tensor]:
        """Compute the loss of every term by name: a scalar each, *without* its weight."""
        found = {}
        for name, term in self.terms.items():
            found[name] = term(student, teacher, labels)
        return found

    def total(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """Add up the weighted `losses`."""
        total = 0
        for name, loss in losses.items():
            total = total + self.weights[name] * loss
        return total

    def forward(self, student, teacher=None, labels=None) -> torch.Tensor:
        return self.total(self.losses(student, teacher, labels))

    def identity(self):
        """Give the weights and the terms."""
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
        return " + ".join(repr(term) if weight == 1 else f"{weight:.10g} * {term!r}"
                          for weight, term in self._pairs())


def as_objective(loss) -> Objective:
    """Make the objective of a scheme, which trains the given terms themselves.

    A term that is part of an earlier scheme is copied as it was before that was built, so that no
    trained weights pass from one scheme to the next.
    """
    if isinstance(loss, Loss):
        loss = Objective([(1.0, loss)])
    if not isinstance(loss, Objective):
        kind = type(loss).__name__
        got = f"the {kind} {loss.__name__}" if hasattr(loss, "__name__") else kind
        remedy = ("Call the class, for a term." if isinstance(loss, type) else
                  "Add the terms, each with its weight." if isinstance(loss, (list, tuple, dict))
                  else "The term of a function is a class, such as KD(T=4) for kd; one of your own "
                  "is a subclass of kdcourse.losses.Loss.")
        raise TypeError("Expected a loss such as 0.1 * CE() + 0.9 * KD(T=4), got "
                        f"{got.replace('type', 'class')}. {remedy}")
    return Objective([(weight, term._take()) for weight, term in loss._pairs()])


def _refuse_unbuilt(term, state, prefix, local, strict, missing, unexpected, errors):
    """Add an error for a state with tensors of parts that `build` has not made yet."""
    known = {key.split(".")[0] for key in term.state_dict()}
    given = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    if strict and given - known:
        errors.append(f"{term!r}: Expected what this term trains to be made before it is "
                      "loaded. Call scheme.build(batch, seed) first.")


def _paths(given) -> tuple[str, ...]:
    several = isinstance(given, (tuple, list))
    paths = () if given is None else tuple(given) if several else (given,)
    if not all(isinstance(path, str) for path in paths):
        raise TypeError(f"Expected a module path such as \"layer2\", or several, got {given!r}.")
    return paths


def _stated(output, paths) -> list[Layout | None]:
    """List the layouts that the model of an output states, one for each path."""
    return [output.layouts.get(path) if isinstance(output, Output) else None for path in paths]


def _check_tokens(output: Output, x, layouts, who: str) -> None:
    """Raise `ValueError` for tapped tokens in a random order, and for those with the samples on the
    second axis."""
    B = len(output.logits) if output.has_logits and output.logits is not None else None
    for tensor, layout in zip(x if isinstance(x, tuple) else (x,), layouts):
        if layout is not None and layout.order == "random":
            raise ValueError(random_order(who, list(tensor.shape)))
        if B is not None and tensor.ndim == 3 and tensor.shape[0] != B == tensor.shape[1]:
            raise ValueError(f"Expected {who} tokens [B, N, D] of {B} samples, got "
                             f"{list(tensor.shape)}, with the samples on the second axis. Set "
                             "batch_first=True in the model, or transpose them in a wrapper.")


_WHO = ("student", "teacher")


def _laid_out(x, layouts, who: str, paths):
    """Give tensors whose layout is stated as maps; others stay as they are."""
    if not any(layouts):
        return x
    tensors = x if isinstance(x, tuple) else (x,)
    found = tuple(tensor if layout is None else arranged(tensor, layout, f"{who} {path!r}")
                  for tensor, layout, path in zip(tensors, layouts, paths, strict=True))
    return found if isinstance(x, tuple) else found[0]


def _shown(paths: tuple[str, ...]) -> str:
    return repr([*paths] if len(paths) > 1 else paths[0] if paths else None)


def _text(setting) -> str:
    is_number = isinstance(setting, numbers.Real) and not isinstance(setting, bool)
    return f"{setting:.10g}" if is_number else repr(setting)
