"""Self-distillation: teacher and student are parts of one network.

Shapes: B batch, K classes, C channels, H W height and width, N tokens, D features.
"""

import copy

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from kdcourse import losses
from kdcourse._random import generator, seeded
from kdcourse._trees import call, each
from kdcourse.data import Batch
from kdcourse.schemes.base import Scheme
from kdcourse.schemes.edges import Edge
from kdcourse.taps import Early, Output, clean_copy, describe, device_of


class MultiExit(Scheme):
    """Train exits inside a network with its end as their teacher.

    An exit is a small classifier on a layer (1x1 convolution, batch normalisation, ReLU, mean over
    places, linear). The end is trained with the labels; each exit with the labels and with the end,
    to which no gradient flows from there.

    Zhang et al. 2019, "Be Your Own Teacher" (arXiv:1905.08094). Their classifiers are deeper, their
    weight of the labels falls where that of the teacher rises, and they also match features, which
    `Hint` does as one more term.

    model: any network that returns logits [B, K].
    exits: paths as in `taps`, from early to late, of maps [B, C, H, W], tokens [B, N, D] or
        vectors.
    objective: such as `0.7 * CE() + 0.3 * KD(T=3)`, the default, of which every exit has a copy.
        The end has the terms on the labels, with weight 1 for each.

    After training `scheme.exit("layer1")` is a network that stops there, and `kd.export(scheme)`
    the whole one without exits. Terms in the history are called "CE" for the end and "layer1.CE",
    "layer1.KD" … for the exits.

    Raises `ValueError` for no exits, for unknown paths, and for an objective without a term on a
    teacher.

    >>> from kdcourse import models
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
        of_labels, of_end = objective.split_by_teacher()
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
            exit = Output(head(end.taps[path]), end.taps, batch.index)
            edges.append(Edge(exit, end.detached(), objective, path))
        return edges

    @torch.no_grad()
    def build(self, batch: Batch, seed: int) -> None:
        if self.heads is None:
            with self.looking(batch):
                end = self.output(self.with_inputs(batch))
                with seeded(generator(seed, "exits").initial_seed()):
                    classes = batch.task.outputs(end.logits)
                    heads = [_Head(end.taps[path], classes) for path in self.exits]
                self.heads = nn.ModuleList(heads).to(end.logits.device)
            self._like = each(lambda t: torch.zeros_like(t[:1]), batch.x)
        super().build(batch, seed)

    def exit(self, path: str) -> nn.Module:
        """Copy the network up to this exit, in eval mode. Nothing behind it is computed; the
        weights there are None, as for a layer without a bias.

        Raises `ValueError` for a path that is no exit or was not trained yet.
        """
        if path not in self.exits or self.heads is None:
            raise ValueError(f"Expected one of the exits {list(self.exits)} after training, got "
                             f"{path!r}{'' if self.heads else ' before it'}.")
        head = copy.deepcopy(self.heads[self.exits.index(path)])
        exit = Early(clean_copy(self.student), path, head).eval()
        with torch.no_grad(), _Reads() as reads:
            call(exit, each(lambda t: t.to(device_of(exit)), self._like))
        for module in exit.modules():
            own = dict([*module.named_parameters(recurse=False),
                        *module.named_buffers(recurse=False)])
            if not any(id(tensor) in reads.tensors for tensor in own.values()):
                for name in own:
                    setattr(module, name, None)
        return exit

    def identity(self):
        return [*super().identity(), self.exits]

    def networks(self) -> dict[str, nn.Module]:
        exits = {f"exit {path}": self.exit(path) for path in self.exits if self.heads is not None}
        return exits | super().networks()

    def partners(self, name: str, names: list[str]) -> list[str]:
        return [] if name == "student" else ["student"]

    def __repr__(self):
        return f"MultiExit({describe(self.student)}, {list(self.exits)}, {self._sentence})"


class _Head(nn.Module):
    """A small classifier on a layer; `like`: an output of the layer."""

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
    """Records the tensors that are arguments of torch functions. Hooks on modules would miss some:
    `nn.MultiheadAttention` reads the weights of `out_proj` without calling it."""

    def __init__(self):
        super().__init__()
        self.tensors = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.tensors |= set(map(id, tree_leaves((args, kwargs))))
        return function(*args, **(kwargs or {}))
