"""Forward and backward pass of a training step: operation by operation, or as a CUDA graph."""

import contextlib
import dataclasses

import torch

from kdcourse._feed import Feeds, NotCaptured
from kdcourse._trees import each, first
from kdcourse.training.fixed import HostReads, PythonState, why_not
from kdcourse.training.history import Log

WARM_UP = 3  # eager steps before a capture: libraries choose their algorithms in the first
SHAPES = 4  # graphs for batches of different shapes; further shapes stay eager


def autocast(recipe, device: torch.device):
    """Make the context of the forward pass, with the recipe's precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


def make_step(scheme, model, team, recipe, device: torch.device, on_step=None):
    """Make the step of a training, captured where the recipe says so and nothing prevents it."""
    eager = Eager(model, team, recipe, device)
    if not recipe.capture:
        return eager
    eager.name = why_not(scheme, recipe, team, on_step, device, GRAPHS)
    return eager if eager.name else Captured(eager, scheme, GRAPHS[device.type](device))


class Eager:
    """Run the passes operation by operation. Gradients are in `.grad` afterwards."""

    name = "eager"  # for the history

    def __init__(self, model, team, recipe, device):
        self.model, self.team, self.recipe = model, team, recipe
        self.precision = autocast(recipe, device)

    def __call__(self, number: int, batch, log: Log):
        """Run step `number`; return the last micro-batch and its outcome."""
        for part, share in self.team.parts(batch, self.recipe, self.model):
            with self.precision:
                outcome = self.model(part)
            (outcome.loss * share).backward()
            log.add(number, outcome, share)
        return part, outcome


class Captured:
    """Replay the passes as a graph: the first `WARM_UP` steps of each shape of a batch are eager,
    then the step is captured, and from there on only its inputs are copied to where it reads them.

    The optimiser steps outside of the graph (fused: a few kernels), so that schedules, clipping,
    groups, averages and optimisers of one's own are those of the eager step.

    Before each step the plain attributes of all modules are compared: a change would not reach the
    graph, so the step is captured anew, and stays eager where it happens often.
    """

    def __init__(self, eager: Eager, scheme, backend):
        self.eager, self.backend, self.graphs = eager, backend, {}
        self.state = PythonState(scheme)
        self.reason, self.changes, self.replays = None, 0, 0

    @property
    def name(self) -> str:
        """How the steps were made, for the history."""
        if self.reason:
            return f"eager: {self.reason}"
        return "captured" if self.replays else f"eager: the first {WARM_UP} steps always are"

    def __call__(self, number: int, batch, log: Log):
        if self.reason is None:
            self._compare()
        if self.reason is not None:
            return self.eager(number, batch, log)
        key = _shapes(batch)
        if key not in self.graphs and len(self.graphs) == SHAPES:
            found = self.eager(number, batch, log)
        else:
            graph = self.graphs.get(key)
            if graph is None:
                graph = self.graphs[key] = _Graph(batch, self)
            found = graph.step(number, batch, log)
            if graph.replay is not None and not graph.feeds.entries:
                return found  # no Python of the scheme ran
        if self.reason is not None:
            self.graphs.clear()
        self.state.accept()
        return found

    def _compare(self) -> None:
        """Forget the graphs where Python's state was changed since the last step."""
        changed = self.state.changed()
        if changed is None:
            return
        self.graphs.clear()
        self.changes += 1
        if self.changes > 3 and self.replays < 20 * self.changes:
            self.reason = f"{changed} between steps, and a graph keeps what it was captured with"


class _Graph:
    """The passes for batches of one shape. Tensors here stay where they are: a graph reads and
    writes addresses."""

    def __init__(self, batch, whole: Captured):
        self.whole, self.steps, self.replay = whole, 0, None
        self.batch = dataclasses.replace(batch, **{
            name: each(torch.clone, value) for name, value in _tensors(batch).items()})
        self.feeds = Feeds()
        self.log, self.found, self.gradients = Log(whole.eager.team), None, []

    def step(self, number: int, batch, log: Log):
        whole, self.steps = self.whole, self.steps + 1
        self.feeds.view = batch.view
        for name, value in _tensors(batch).items():
            _copy(getattr(self.batch, name), value)
        if self.replay is None and self.steps > WARM_UP:
            self._capture(number)
        if self.replay is None:
            with whole.backend.warming():
                if whole.reason is None and self.steps == WARM_UP:
                    return self._watched(number, log)
                return whole.eager(number, self._fresh(), log)
        self.feeds.refresh()
        self.replay()
        whole.replays += 1
        for p, gradient in self.gradients:
            p.grad = gradient
        (part, outcome), kept = self.found, self.log
        for values, share in zip(kept.values, kept.shares):
            log.add(number, outcome, share, values.clone())
        return part, outcome

    def _watched(self, number: int, log: Log):
        """Run the last eager step; find out whether a graph would do the same, and what the step
        takes from Python."""
        whole = self.whole
        tensors = [t for value in _tensors(self.batch).values()
                   for t in (value.values() if isinstance(value, dict) else [value])]
        with (whole.state.watching() as state, HostReads(first(self.batch.x).device) as reads,
              self.feeds.collecting(tensors, state.excepted, reads.excepted)):
            found = whole.eager(number, self._fresh(), log)
        whole.reason = self.feeds.found or reads.found or state.found
        return found

    def _capture(self, number: int) -> None:
        whole, self.log = self.whole, Log(self.whole.eager.team)

        def passes():
            self.found = whole.eager(number, self._fresh(), self.log)

        try:
            with self.feeds.replaced():
                self.replay = whole.backend.capture(passes, whole.state.generators)
        except (RuntimeError, NotCaptured) as error:
            self.replay = None
            text = str(error).strip().partition("\n")[0]
            whole.reason = f"the capture failed ({type(error).__name__}: {text})"
        for p in whole.state.parameters:
            if self.replay is not None and p.grad is not None:
                self.gradients.append((p, p.grad))
            p.grad = None  # also what a capture that failed has left

    def _fresh(self):
        """Give the batch as a new object with new tensors of the same memory: some terms tell
        batches apart by their `index`."""
        index = self.batch.index
        return dataclasses.replace(self.batch, index=None if index is None else index.detach())


class CudaGraphs:
    """Graphs of `torch.cuda`; those of one training share their memory."""

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    @contextlib.contextmanager
    def warming(self):
        """Run steps before a capture on another stream, as torch.cuda.graph requires."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def capture(self, function, generators):
        """Record what the function does on the GPU, without doing it; return what replays it."""
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            if generator.device.type == "cuda":
                graph.register_generator_state(generator)
        # Threads of a data loader may use CUDA meanwhile: "thread_local" allows that.
        with torch.cuda.device(self.device), torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            function()
        return graph.replay


GRAPHS = {"cuda": CudaGraphs}  # by type of device


def _tensors(batch) -> dict:
    """The tensors of a batch by field, of a dict a dict."""
    found = {name: getattr(batch, name) for name in ("x", "y", "index", "total", "ids")}
    return {name: value for name, value in found.items() if value is not None}


def _shapes(batch) -> tuple:
    """What is the same for all batches of one graph."""
    shape = lambda t: (t.shape, t.dtype, t.device)  # noqa: E731
    shapes = [(name, tuple(each(shape, value).items()) if isinstance(value, dict)
               else shape(value)) for name, value in _tensors(batch).items()]
    return (batch.task, batch.view > 0, *shapes)


def _copy(target, value) -> None:
    if isinstance(target, dict):
        for name, tensor in target.items():
            tensor.copy_(value[name], non_blocking=True)
    else:
        target.copy_(value, non_blocking=True)
