"""The output of any network: its logits, and which of several entries they are.

Shapes: B batch, K classes, M rows, k classes that were kept.
"""

import contextlib
import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse._trees import each
from kdcourse.layouts import Layout
from kdcourse.tasks import Rows


def with_rest(logits_MK: torch.Tensor, places_Mk: torch.Tensor, T: float = 1.0) -> torch.Tensor:
    """Give the logits of these classes, and of all others as one more class, [M, k + 1].

    softmax(· / T) are the same probabilities, those of the others added up. places_Mk: the numbers
    of k distinct classes for each row.

    >>> with_rest(torch.tensor([[3.0, 1.0, 1.0]]).log(), torch.tensor([[0]])).exp()
    tensor([[3.0000, 2.0000]])
    """
    logits_MK = logits_MK if logits_MK.dtype == torch.float64 else logits_MK.float()
    others = (logits_MK if T == 1 else logits_MK / T).scatter(1, places_Mk, -math.inf)
    empty = others.detach().amax(1, keepdim=True) == -math.inf  # logsumexp's gradient were NaN
    rest = others.masked_fill(empty, 0).logsumexp(1, keepdim=True).masked_fill(empty, -math.inf)
    return torch.cat([logits_MK.gather(1, places_Mk), T * rest], 1)


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a teacher's logits are of, where not of each class that the student has.

    places: [B, …, k], the numbers of k distinct classes: the logits [B, …, k + 1] are of those, and
        the last one of all other classes together. None: of all classes.
    T: the only temperature at which softmax(logits / T) is the teacher's; None: any.
    drawn: True where the probabilities are shares of draws from the teacher.
    common: [C], True for each class number that stands for the same on both sides; None: for all.
    """

    places: torch.Tensor | None = None
    T: float | None = None
    drawn: bool = False
    common: torch.Tensor | None = None

    def check(self, term) -> None:
        """Raise `ValueError` where these logits are not enough for a term."""
        T = self.T
        if self.places is None:
            return
        if not term.softened or getattr(term, "T", T) != T:
            raise ValueError(
                f"Expected a loss on softmax(logits / {T:g}) for the largest logits of a teacher, "
                f"stored with T={T:g} and the others as one class, got {term!r}. Use a loss such "
                f"as KD(T={T:g}), make Cached(…, top=…, T=…) for the temperature of this one, or "
                "store all logits.")
        if self.drawn and not term.linear:
            raise ValueError(
                f"Expected a loss that is linear in the teacher's probabilities for draws from "
                f"them, such as KD(T={T:g}), got {term!r}: of it they give no unbiased estimate. "
                "Use Cached(…, top=…).")

    def matched(self, student_MK: torch.Tensor, teacher_MC: torch.Tensor):
        """Give logits of both sides for the same classes. What only one side has is -inf on both
        sides, so that it has no probability: a 0 would be a logit like any other."""
        if self.common is not None:
            K = student_MK.shape[1]
            missing_K = ~F.pad(self.common, (0, K - len(self.common)))
            student_MK = student_MK.masked_fill(missing_K, -math.inf)
            if self.places is None:
                teacher_MC = F.pad(teacher_MC, (0, K - teacher_MC.shape[1]), value=-math.inf)
                teacher_MC = teacher_MC.masked_fill(missing_K, -math.inf)
        if self.places is not None:
            student_MK = with_rest(student_MK, self.places.flatten(0, -2), self.T)
        return student_MK, teacher_MC


@dataclasses.dataclass(repr=False)
class Output:
    """The result of a model for a batch: `logits` [B, K] (in another task of another shape), tapped
    tensors by module path, the sample ids `index` [B] where they are known, the `rows` that the
    logits were cut into, where they are none by themselves, and the `layouts` of tapped tensors
    that the model states. kept: of a teacher, which classes the logits are of; None: all. mask:
    [B, N], 0 for tokens that are padding; None where none is stated.

    A model whose output has no logits, or several tensors that could be logits, still has taps:
    only reading `logits` raises `TypeError`, with what was found (see `Logits`).
    """

    logits: torch.Tensor
    taps: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    index: torch.Tensor | None = None
    rows: Rows | None = None
    layouts: dict[str, Layout] = dataclasses.field(default_factory=dict)
    kept: Kept | None = None
    mask: torch.Tensor | None = None
    _why = None  # not annotated, so no field: the reason for which there are no logits
    has_logits = True  # False where the model's output had no logits, or several

    def detached(self) -> "Output":
        """Give the same numbers, through which no gradient flows."""
        taps = {}
        for name, tensor in self.taps.items():
            taps[name] = tensor.detach()
        if not self.has_logits:
            return Output(None, taps, self.index, layouts=self.layouts).without_logits(self._why)
        return Output(self.logits.detach(), taps, self.index, layouts=self.layouts, kept=self.kept)

    def without_logits(self, why: str) -> "Output":
        """Take the logits away; reading them raises `TypeError` with this sentence."""
        del self.logits
        self._why, self.has_logits = why, False
        return self

    def with_rows(self, rows: Rows) -> "Output":
        """Give the same output, cut into rows."""
        return self.replaced(rows=rows)

    def replaced(self, **fields) -> "Output":
        """Give the same output with other fields than these."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)
                 if field.name != "logits"} | fields
        if not self.has_logits:
            return Output(None, **found).without_logits(self._why)
        return Output(self.logits, **found)

    def __getattr__(self, name):  # called for an attribute that is not there
        if name == "logits" and not self.has_logits:
            raise TypeError(self._why)
        raise AttributeError(f"An Output has no attribute {name!r}.")

    def __repr__(self):
        shown = [f"{name}={_shown(value)}" for name, value in vars(self).items()
                 if name not in ("_why", "has_logits")]
        return f"Output({', '.join(shown)})"


def _shown(value) -> str:
    """Show a tensor by its shape: its numbers fill a page."""
    if isinstance(value, torch.Tensor):
        return str(list(value.shape))
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r}: {_shown(one)}' for name, one in value.items())}}}"
    if isinstance(value, Kept):
        parts = [f"{name}={_shown(one)}" for name, one in vars(value).items() if one is not None]
        return f"Kept({', '.join(parts)})"
    if isinstance(value, Rows):
        parts = zip(value._fields, value, strict=True)
        return f"Rows({', '.join(f'{name}={_shown(one)}' for name, one in parts)})"
    return repr(value)


def logits_of(output) -> torch.Tensor:
    """Find the logits in a model's output. Raises `TypeError` where there are none, or several.

    A tensor [B, K, …] are logits; of an object its `.logits`; of a tuple or a dict its "logits", or
    its first tensor with two or more dimensions, unless another one has as many (a second head).
    A scheme checks whether their shape fits the task.
    """
    if isinstance(output, torch.Tensor) and output.ndim >= 2:
        return output
    if hasattr(output, "logits") and not isinstance(output, tuple):
        output = output.logits
    entries = {"": output}
    if isinstance(output, dict):
        entries = {"logits": output["logits"]} if "logits" in output else output
    elif isinstance(output, (tuple, list)):
        entries = dict(zip(getattr(output, "_fields", range(len(output))), output))
    found = {name: entry for name, entry in entries.items()
             if isinstance(entry, torch.Tensor) and entry.ndim >= 2}
    logits = next(iter(found.values()), None)
    alike = [name for name, entry in found.items() if entry.ndim == logits.ndim]
    if len(alike) == 1:
        return logits
    if alike:
        shown = ", ".join(f"{name!r} {list(found[name].shape)}" for name in alike)
        raise TypeError(
            f"Expected one tensor of logits from the model, got several that could be logits: "
            f"{shown}. Choose one: kd.Logits(model, {alike[0]!r}), or have every term on logits "
            f'name a module, such as CE("head") and HardLabel(student="head_dist").')
    got = (f"shape {list(output.shape)}" if isinstance(output, torch.Tensor) else
           f"a {type(output).__name__} of {_kinds(entries)}" if entries.keys() != {""} else
           type(output).__name__)
    raise TypeError(
        f"Expected logits of shape [B, K] from the model, got {got}. Wrap the model so that "
        "forward returns logits [B, K], or has them in .logits; where they lie deeper in a tuple "
        'or a dict, say where: kd.Logits(model, "out"). Terms on features and relations need none.')


def _kinds(entries: dict) -> str:
    return ", ".join(f"{name!r} ({type(entry).__name__})" for name, entry in entries.items())


class OutputError(TypeError):
    """A model's output lacks the entry that `Logits` was told to choose."""


# Not of shapes, nor of memory.
OWN_CODE = (AssertionError, AttributeError, LookupError, NotImplementedError, TypeError)


@contextlib.contextmanager
def running(who: str, x, kinds=OWN_CODE):
    """Turn errors of these kinds, of a network's own code in the block, into a `ValueError` that
    says which network got which inputs; the error is its cause. `OutputError` stays, and so do our
    own sentences of this type, and a full memory."""
    try:
        yield
    except (OutputError, MemoryError, torch.OutOfMemoryError):
        raise
    except kinds as error:
        own = isinstance(error, TypeError) and str(error).startswith("Expected")
        if own or "can't allocate memory" in str(error):
            raise
        raise ValueError(
            f"Expected a {who} that runs on inputs {shown_inputs(x)}, got {type(error).__name__}: "
            f"{error}. {remedy(error, x)}") from error


def remedy(error: Exception, x, otherwise: str = "") -> str:
    """Say what may help a network that failed on inputs with this error; `otherwise` where the
    error is none that is known."""
    if isinstance(error, AssertionError) and "target" in str(error):
        return ("A network that takes targets in train mode, such as a detector, computes its own "
                "loss: distil the part that takes images alone (a detector's backbone), or write "
                "the loop, with the functions in kd.losses.")
    if isinstance(x, dict) and isinstance(error, TypeError) and "argument" in str(error):
        return ("The entries of a dict are the arguments of its forward, by name: leave out what "
                "it does not take, add what it lacks, or wrap it.")
    if isinstance(error, IndexError) and "out of range in self" in str(error):
        return ("An embedding got a number that is not below its size. Are the token ids those of "
                "this network's tokenizer, and are sequences no longer than it takes?")
    if isinstance(x, torch.Tensor) and x.is_floating_point() and "indices" in str(error):
        return ("Token ids stay whole numbers in a dict, as the argument of that name: "
                'from_arrays({"input_ids": x}, y).')
    return otherwise or ("Does it take such inputs, and does its forward read only what is there? "
                         "Print what goes into it, and what the network inside it returns.")


def shown_inputs(x) -> str:
    """Describe inputs, a tensor or a dict, by shape and dtype."""
    shown = each(lambda t: f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}", x)
    return shown if isinstance(shown, str) else str(shown).replace("'", "")


class Logits(nn.Module):
    """Choose which entry of a model's output are its logits, for a student or a teacher.

    For networks with several heads, or with features beside the logits: `Logits(model, "out")` for
    a segmenter of torchvision, `Logits(model, "logits")` for a GoogLeNet with auxiliary heads,
    `Logits(model, 1)` for a tuple (features, logits). A single tensor, which many of these networks
    return in eval mode, stays what it is. Module paths (`taps`) remain those of the model.

    model: any network. entry: the name of a field or of an entry of a dict, or the place in a
        tuple.

    Raises `OutputError`, a `TypeError`, when called, for an output without that entry.

    >>> class Heads(nn.Module):
    ...     def forward(self, x):
    ...         return x, 2 * x
    >>> Logits(Heads(), 1)(torch.ones(1, 2))
    tensor([[2., 2.]])
    """

    def __init__(self, model: nn.Module, entry: str | int):
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"Expected a network (nn.Module), got {type(model).__name__}. Pass the "
                            "model itself.")
        self.model, self.entry = model, entry

    def forward(self, *args, **kwargs):
        output, entry = self.model(*args, **kwargs), self.entry
        if isinstance(output, torch.Tensor):
            return output
        try:
            named = isinstance(entry, str) and not isinstance(output, dict)
            chosen = getattr(output, entry) if named else output[entry]
        except (AttributeError, IndexError, KeyError, TypeError):
            chosen = None
        if not isinstance(chosen, torch.Tensor):
            raise OutputError(f"Expected a tensor as the entry {entry!r} of the output of "
                              f"{type(self.model).__name__}, got {type(output).__name__} with "
                              f"{type(chosen).__name__} there. Choose another entry.")
        return chosen

    def identity(self):
        """Give the model and the entry, by which recorded results are found."""
        return [self.model, self.entry]
