"""Losses on logits of a large vocabulary, without the logits of all rows in memory.

Shapes: M rows, m rows of a chunk, V outputs of the head (the vocabulary), D features.
"""

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss, Objective
from kdcourse.taps import Output
from kdcourse.tasks import Rows, Tokens


def chunked(loss, hidden, weight, teacher_hidden=None, teacher_weight=None, labels=None, *,
            bias=None, teacher_bias=None, total=None, ignore: int = -100, chunk: int = 256):
    r"""Compute a loss on the logits of a head, `chunk` rows at a time, and its gradients with it.

    .. math:: L = \frac{1}{n} \sum_{i:\, y_i \ne \mathrm{ignore}}
        \ell(W h_i + b,\; W^t h^t_i + b^t,\; y_i)

    Value and gradients are those of the loss on all logits at once; n is the number of rows that
    count. The gradients are computed in the forward pass, while the logits of a chunk are there, so
    that [m, V] and not [M, V] numbers are in memory, beside the gradients [M, D] and [V, D]. Rows
    whose label is `ignore` are left out before the projection; which they are is read from the
    device.

    loss: terms on logits, such as `0.1 * CE() + 0.9 * KD(T=4)`, in one pass; or a function of
        (student_MV, teacher_MV, labels_M) with one value per row, [M].
    hidden: what goes into the student's last linear layer, [..., D]. weight: of this layer, [V, D].
        bias: [V], or None.
    teacher_hidden, teacher_weight, teacher_bias: the same of the teacher, whose D may differ; no
        gradient reaches them. Without teacher_weight, teacher_hidden are logits [..., V].
    labels: what each position should predict, [...], shifted already; None: all rows count.
    total: n, where these rows are a part of a larger batch (accumulation, processes): the number of
        labels in all of it. The parts' losses then add up to that of the whole. (DDP takes the mean
        of gradients: multiply the loss by the number of processes.) None: of these rows. Where none
        counts, the loss is 0.
    chunk: rows at a time. More is faster up to a point, and takes about 30 bytes · V for each row.

    Products are computed in the precision of the weight, or that of autocast, as the layer itself
    would; the loss and the sum of the weight's gradient in float32 at least. The result may be
    scaled and added to others. A second derivative is refused with a `RuntimeError`. Raises
    `ValueError` for shapes that do not fit, for terms that compare more than one row at a time or
    are trained themselves (`DIST`, `MLKD`, `CTKD`, all on inner tensors), and for `total` beside
    class weights.

    The idea of gradients in the forward pass is that of Hsu et al. 2024 (Liger Kernel,
    arXiv:2410.10989), section 3.2, there for single losses.

    >>> from kdcourse.losses import CE, KD
    >>> h, W = torch.eye(3), torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    >>> chunked(0.5 * CE() + 0.5 * KD(T=1), h, W, h, W, torch.tensor([0, 1, -100]), chunk=1)
    tensor(0.5016)
    """
    inputs.check_count("chunk", chunk)
    student = Side("hidden", hidden, weight, bias)
    teacher = None if teacher_hidden is None else Side("teacher_hidden", teacher_hidden,
                                                        teacher_weight, teacher_bias)
    shape = hidden.shape[:-1]
    for given, what in ((labels, "labels"), (None if teacher is None else teacher_hidden[..., 0],
                                             "teacher_hidden")):
        if given is not None and given.shape != shape:
            raise ValueError(f"Expected {what} for each of the rows of hidden, {list(shape)}, got "
                             f"{list(given.shape)}. One label and one vector for each position.")
    if labels is not None:
        labels = labels.to(hidden.device).flatten()
        kept = (labels != ignore).nonzero().squeeze(1)
        labels = labels[kept]
        student.rows = student.rows.index_select(0, kept)
        if teacher is not None:
            teacher.rows = teacher.rows.index_select(0, kept)
    return terms_by_chunk(_objective(loss), student, teacher, labels, total, chunk)[0]


@torch.compiler.disable
def terms_by_chunk(objective, student, teacher, labels, total=None, chunk: int = 256, whole=None):
    """Compute the weighted sum of terms over selected rows, with gradients, and the terms [n] by
    themselves, unweighted and without. student, teacher: a `Side`. whole: as in `Rows`."""
    by_labels = [term for term in objective.terms.values() if term.by_labels]
    if by_labels and whole is None:
        if total is not None:
            raise ValueError(f"Expected no total beside class weights or ignore_index, got {total} "
                             f"and {by_labels[0]!r}: its mean is divided by more than the number "
                             "of labels. Leave one of them out.")
        whole = (labels, None, 1)
    M, device = len(student.rows), student.rows.device
    total = torch.as_tensor(max(M, 1) if total is None else total, device=device)
    ones = student.rows.new_ones(M, dtype=torch.float32)

    def evaluate(logits_mV, part):
        own = None if labels is None else labels[part]
        rows = Rows(logits_mV, own, ones[part], total, Tokens(), whole)
        output = Output(logits_mV).with_rows(rows)
        answers = None
        if teacher is not None:
            with torch.no_grad():
                answers = teacher.logits(part)
            answers = Output(answers).with_rows(rows._replace(logits=answers))
        parts = objective.losses(output, answers)
        # Times M, a row's gradient is near 1, which no half precision rounds to 0.
        return M * objective.total(parts), torch.stack([*parts.values()]).detach()

    graded = [torch.is_grad_enabled() and x is not None and x.requires_grad
              for x in (student.rows, student.weight, student.bias)]
    return inputs.full_precision(_Head.apply)(evaluate, chunk, student, graded,
                                              len(objective.terms), student.rows, student.weight,
                                              student.bias)


class Side:
    """Rows [M, D], and the linear layer that makes logits of them; None for logits as rows."""

    def __init__(self, name: str, hidden, weight, bias):
        optional = {f"the bias of {name}", "the weight of teacher_hidden"}
        for x, what, ndim in ((hidden, name, None), (weight, f"the weight of {name}", 2),
                              (bias, f"the bias of {name}", 1)):
            fits = isinstance(x, torch.Tensor) and x.is_floating_point() and (
                x.ndim >= 2 if ndim is None else x.ndim == ndim)
            if not fits and not (x is None and what in optional):
                expected = {None: "[..., D]", 2: "[V, D]", 1: "[V]"}[ndim]
                raise ValueError(f"Expected {what} of shape {expected}, got {inputs.described(x)}.")
        if weight is not None and (weight.shape[1] != hidden.shape[-1] or (
                bias is not None and len(bias) != len(weight))):
            raise ValueError(f"Expected {name} [..., D], a weight [V, D] and a bias [V] that fit, "
                             f"got {list(hidden.shape)}, {list(weight.shape)} and "
                             f"{None if bias is None else list(bias.shape)}. Take what goes into "
                             "the last linear layer, and this layer's own weight.")
        self.rows, self.weight, self.bias = hidden.flatten(0, -2), weight, bias
        device, self._layer = hidden.device.type, None
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        dtype = hidden.dtype if weight is None else weight.dtype
        self.dtype = (torch.get_autocast_dtype(device) if autocast and dtype != torch.float64
                      else dtype)

    def layer(self):
        """Give weight and bias in the precision of the products, converted once."""
        if self._layer is None:
            self._layer = [None if x is None else x.detach().to(self.dtype)
                           for x in (self.weight, self.bias)]
        return self._layer

    def logits(self, part: slice) -> torch.Tensor:
        """Compute the logits of some rows, in float32 at least."""
        rows = self.rows.detach()[part]
        if self.weight is None:
            return inputs.floats(rows)
        return inputs.floats(F.linear(rows.to(self.dtype), *self.layer()))


class _Head(torch.autograd.Function):
    """The loss of all chunks. Its gradients are computed with it, and wait for the backward pass.
    """

    @staticmethod
    def forward(ctx, evaluate, chunk, student, graded, count, hidden, weight, bias):
        exact = torch.promote_types(weight.dtype, torch.float32)
        of_hidden = torch.zeros_like(hidden) if graded[0] else None
        of_weight, of_bias = (torch.zeros_like(x, dtype=exact) if needed else None
                              for x, needed in zip((weight, bias), graded[1:], strict=True))
        loss, parts = hidden.new_zeros((), dtype=exact), hidden.new_zeros(count, dtype=exact)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = student.logits(part).requires_grad_(any(graded))
            with torch.enable_grad():
                value, terms = evaluate(logits, part)
            loss, parts = loss + value.detach() / len(hidden), parts + terms
            if not any(graded):
                continue
            (of_logits,) = torch.autograd.grad(value, logits)
            del value, logits
            if of_bias is not None:
                of_bias += of_logits.sum(0)
            of_logits = of_logits.to(student.dtype)
            if of_hidden is not None:
                of_hidden[part] = (of_logits @ student.layer()[0]).to(hidden.dtype)
            if of_weight is not None:
                _add_product(of_weight, of_logits.T, hidden[part].to(student.dtype))
            del of_logits
        student._layer = None
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        ctx.scale, ctx.dtypes = max(len(hidden), 1), (hidden.dtype, weight.dtype, exact)
        ctx.mark_non_differentiable(parts)
        return loss, parts

    @staticmethod
    def backward(ctx, slope, _):
        if torch.is_grad_enabled():
            raise RuntimeError("Expected a first derivative of a chunked loss, got a second one "
                               "(create_graph=True), for which the logits of all rows are needed. "
                               "Compute the loss on whole logits.")
        slope = slope / ctx.scale
        # In place, unless the graph is kept for another backward pass: [V, D] may be gigabytes.
        scaled = torch.mul if _keeps_graph() else torch.Tensor.mul_
        found = [None if x is None else scaled(x, slope).to(dtype)
                 for x, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)]
        return None, None, None, None, None, *found


def _add_product(total, a, b) -> None:
    """Add a @ b, in place and without a copy where the precision is the same."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _keeps_graph() -> bool:
    """Tell whether this backward pass was called with retain_graph=True; True where torch does not
    say."""
    tell = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if tell is None else tell()


class _PerRow(Loss):
    """A function with one value per row, as a term."""

    needs_labels = True

    def __init__(self, function):
        super().__init__()
        self.per_row = function

    def values(self, student, teacher=None, labels=None):
        values_m = self.per_row(student, teacher, labels)
        if not isinstance(values_m, torch.Tensor) or values_m.shape != student.shape[:1]:
            raise ValueError(f"Expected one value per row, [{len(student)}], from the function, "
                             f"got {inputs.described(values_m)}. Sum over the classes, and leave "
                             'the mean to chunked: reduction="none".')
        return values_m


def _objective(loss) -> Objective:
    """Make an objective of what was given. Raises `ValueError` for terms that cannot be cut."""
    if callable(loss) and not isinstance(loss, (Loss, Objective)):
        loss = _PerRow(loss)
    objective = Objective([(1.0, loss)]) if isinstance(loss, Loss) else loss
    if not isinstance(objective, Objective):
        raise TypeError("Expected a loss such as 0.1 * CE() + 0.9 * KD(T=4), or a function of "
                        f"(student, teacher, labels), got {type(loss).__name__}.")
    for term in objective.terms.values():
        if not cuts(term):
            raise ValueError(f"Expected terms with one value per row of logits and without trained "
                             f"parts, got {term!r}. Compute it by itself, and add it to the loss.")
    return objective


def cuts(term: Loss) -> bool:
    """Tell whether a term can be computed some rows of logits at a time."""
    return (term.on_rows and term.per_sample and type(term).forward is Loss.forward
            and not (term.needs_paths or term.student_paths or term.teacher_paths)
            and next(term.parameters(), None) is None)
