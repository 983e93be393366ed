"""Schemes whose students have a large vocabulary: the last layer is computed some rows at a time.

Shapes: B sequences, N positions, M rows that count, V outputs, D features.
"""

import contextlib
import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse.data import Batch
from kdcourse.losses import Objective
from kdcourse.losses.chunked import Side, cuts, terms_by_chunk
from kdcourse.outputs import Logits
from kdcourse.schemes.edges import Edge
from kdcourse.taps import unwrapped
from kdcourse.tasks import Tokens
from kdcourse.teachers import Live


class Heads:
    """Where the last linear layers are. student, teacher: their module paths."""

    def __init__(self, student: str, teacher: str | None = None):
        self.paths = {"student": student, "teacher": teacher or student}

    def inputs(self, who: str) -> str:
        """Give the path at which the layer's input is tapped."""
        return f"{self.paths[who]}:input"

    def layer(self, model: nn.Module, who: str) -> nn.Linear:
        """Find the layer. Raises `ValueError` where it is no plain linear layer."""
        model = unwrapped(model)
        while isinstance(model, Logits):
            model = unwrapped(model.model)
        layer = model.get_submodule(self.paths[who])  # `taps` has said it where there is none
        if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward:
            raise ValueError(f"Expected a linear layer (nn.Linear) at {self.paths[who]!r} of the "
                             f"{who}, got {type(layer).__name__}. Name the last layer, which makes "
                             "logits, or leave out head=….")
        return layer

    @torch.compiler.disable
    def edge(self, scheme, batch: Batch, teacher=None, paths=(), whole: bool = False) -> Edge:
        """Run student and teacher without their last layers; with them, and a look at whether these
        are the last step indeed, where `whole`."""
        check_terms(scheme.objective, batch.task)
        networks = {"student": scheme.student}
        if isinstance(teacher, Live):
            networks["teacher"], paths = teacher.model, (*paths, self.inputs("teacher"))
        layers = {who: self.layer(network, who) for who, network in networks.items()}
        with contextlib.ExitStack() as skipped:
            if not whole:
                for layer in dict.fromkeys(layers.values()):
                    skipped.enter_context(_identity(layer))
            student = scheme.output(batch)
            answers = None if teacher is None else teacher(batch, paths)
        if whole:
            for who, output in (("student", student), ("teacher", answers)):
                if who in layers:
                    self._compare(output, layers[who], who)
            return Edge(student, answers, scheme.objective)
        sides = {}
        for who, output in (("student", student), ("teacher", answers)):
            if who in layers:
                layer, hidden = layers[who], output.taps[self.inputs(who)]
                sides[who] = Side("hidden", hidden, layer.weight, layer.bias)
                output.without_logits(f"Expected no reading of the {who}'s logits in a step with "
                                      "head=…, which are never there as a whole.")
            elif output is not None:
                if output.kept is not None:
                    raise ValueError("Expected a teacher with all of the student's logits for "
                                     "head=…, got stored parts of them or another vocabulary. "
                                     "Leave out head=…, or use a live teacher with the same one.")
                sides[who] = Side("teacher_hidden", output.logits, None, None)
        return HeadEdge(student, answers, scheme.objective, sides=sides)

    def _compare(self, output, layer, who: str) -> None:
        x, logits = output.taps[self.inputs(who)].detach(), output.logits.detach()
        made = F.linear(x.to(layer.weight.dtype), layer.weight, layer.bias)
        if made.shape != logits.shape or not torch.allclose(
                made.float(), logits.float(), rtol=1e-2, atol=1e-2 * float(logits.abs().max())):
            raise ValueError(
                f"Expected the logits of the {who} to be what {self.paths[who]!r} returns, got "
                "others. A step after it (a scale, a soft cap) would be left out: leave out "
                "head=…, or name the last layer.")


@dataclasses.dataclass(eq=False)
class HeadEdge(Edge):
    """An edge of which no logits are there: terms on logits are computed some rows at a time."""

    sides: dict[str, Side] = dataclasses.field(default_factory=dict)

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Compute the unweighted terms by name; the sum with its gradient is kept for `total`."""
        task, y, terms = batch.task, batch.y, self.objective.terms
        weights = self.objective.weights
        on_rows = {name: term for name, term in terms.items() if term.on_rows}
        if y is not None and not task.hard(y):
            raise ValueError("Expected token ids [B, N] as labels with head=…, got soft ones "
                             f"{list(y.shape)}, as large as the logits. Leave head=… out.")
        labels = None if y is None else y.flatten()
        counts, sides = task.weight(batch.x, y), dict(self.sides)
        if counts is not None:
            kept = (counts > 0).nonzero().squeeze(1)
            labels = None if labels is None else labels[kept]
            for side in sides.values():
                if len(side.rows) != len(counts):
                    raise ValueError(f"Expected a label for each of {len(side.rows)} positions of "
                                     f"the head's input, got {len(counts)}.")
                side.rows = side.rows.index_select(0, kept)
        whole = None
        if batch.whole is not None:
            every, share, _ = batch.whole
            whole = (task.labels(every), task.weight(None, every), share)
        self.sum, parts = terms_by_chunk(
            Objective([(weights[name], term) for name, term in on_rows.items()]),
            sides["student"], sides.get("teacher"), labels, batch.total, whole=whole)
        found = dict(zip(on_rows, parts.unbind(), strict=True))
        for name, term in terms.items():
            if name not in on_rows:
                found[name] = term(self.student, self.teacher, y)
                self.sum = self.sum + weights[name] * found[name]
        return {name: found[name] for name in terms}

    def total(self, losses) -> torch.Tensor:
        return self.sum


def check_terms(objective: Objective, task) -> None:
    """Raise `ValueError` for terms and tasks that cannot be computed some rows at a time."""
    if not isinstance(task, Tokens):
        raise ValueError(f"Expected data of tokens (task=kd.tasks.Tokens()) with head=…, got "
                         f"{task!r}. For other tasks leave it out.")
    if task.partly:
        raise ValueError(f"Expected the same positions for all terms with head=…, got {task!r}, in "
                         "which a term without labels counts more of them. Leave out head=….")
    refused = [term for term in objective.terms.values() if term.on_rows and not cuts(term)]
    if refused or not any(term.on_rows for term in objective.terms.values()):
        got = repr(refused[0]) if refused else repr(objective)
        raise ValueError(f"Expected terms on logits with one value per row and no trained parts, "
                         f"for head=…, and inner tensors beside them, got {got}. Leave out "
                         "head=….")


@contextlib.contextmanager
def _identity(layer: nn.Module):
    """Let a layer return its input in the block."""
    before = vars(layer).get("forward")
    layer.forward = lambda x: x
    try:
        yield
    finally:
        if before is None:
            del layer.forward
        else:
            layer.forward = before
