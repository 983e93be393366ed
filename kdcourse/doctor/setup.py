"""What is examined: a copy of the scheme, one batch, the teachers; nothing of the user's changes.

Shapes: B batch, K classes, N samples, M rows.
"""

import contextlib
import dataclasses
import itertools
import random

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from kdcourse._modules import untouched
from kdcourse._random import seeded
from kdcourse._trees import each, first, pieces
from kdcourse.data import Batch, Split
from kdcourse.doctor.findings import Diagnosis, Finding
from kdcourse.taps import copied, device_of, logits_of
from kdcourse.tasks import Classes
from kdcourse.teachers import Ensemble, Teacher


@contextlib.contextmanager
def isolated(scheme):
    """Draw from seed 0, and afterwards restore the random generators, the scheme's modes, the
    devices of its teachers, and the buffers of the scheme and of all modules that were called.

    Yields a dict of the called modules, outer ones first: whether the first call was in train mode.
    """
    called, device = {}, device_of(scheme.student)

    def note(module, args=None):
        if module not in called:
            called[module] = module.training
            for buffer in module.buffers(recurse=False):
                stack.callback(_restore, buffer, buffer.detach().clone())

    with torch.inference_mode(False), torch.enable_grad(), contextlib.ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        stack.enter_context(seeded(0, device))
        for teacher in scheme.teachers.values():
            for tensor in [*teacher.parameters(), *teacher.buffers()][:1]:
                stack.callback(teacher.to, tensor.device)
        # The copy that is examined shares the teachers.
        stack.enter_context(untouched(part for teacher in scheme.teachers.values()
                                      for network in teacher.networks()
                                      for part in network.modules()))
        for module in scheme.modules():
            stack.callback(setattr, module, "training", module.training)
            note(module)
        stack.enter_context(register_module_forward_pre_hook(note))
        yield called


@torch.no_grad()
def _restore(buffer: torch.Tensor, value: torch.Tensor) -> None:
    if buffer.shape != value.shape:  # an observer got its first batch
        buffer.data = value
    elif not buffer.equal(value):
        buffer.copy_(value)


class Setup:
    """The set-up that is examined.

    original, scheme: the user's scheme, and the copy of it that is run; `teachers` are the copy's,
        `originals` the user's.
    train: the training split; batch: its first samples, as a training step gets them; where some
        have no label, a batch with one.
    terms: those of all objectives by name.
    networks: those that the teachers run, students left out. called: see `isolated`.
    """

    def __init__(self, scheme, data, called: dict):
        self.original, self.data, self.called = scheme, data, called
        self.diagnosis, self.device = Diagnosis(), device_of(scheme.student)
        shared = [part for split in (data.train, data.val) for part in (
            (split, split.x, split.y) if isinstance(split, Split) else (split, split.loader))]
        try:
            self.scheme = copied(scheme, [data, *shared])
        except Exception as error:
            raise TypeError(f"Expected a scheme that copy.deepcopy can copy, to look at the copy; "
                            f"got {type(error).__name__}: {error}") from error
        self.scheme.to(self.device)
        self.train = data.train.to(self.device)
        self.batch = self._first()
        self.terms = {name: term for objective in self.scheme.objectives()
                      for name, term in objective.terms.items()}
        names = list(scheme.teachers)
        if not names and isinstance(getattr(scheme, "teacher", None), nn.Module):
            names = ["teacher"]  # a network that a user's scheme calls by itself
        self.originals = [getattr(scheme, name) for name in names]
        self.teachers = [ExaminedTeacher(self, getattr(self.scheme, name),
                                         f"{name}: " if names[1:] else "") for name in names]
        students = {*nn.ModuleList([*scheme.students, *self.scheme.students]).modules()}
        self.networks = list(dict.fromkeys(network for teacher in self.teachers
                                           for network in teacher.networks()
                                           if network not in students))

    def _first(self) -> Batch:
        """Give the first batch; where some samples have no label, the first of 20 with one."""
        found = None
        for batch in itertools.islice(self.batches(32), 20):
            found = batch if found is None else found
            if len(labelled(batch)):
                return batch
        return found

    def batches(self, size: int, epoch: int = 0):
        """Yield shuffled training batches of at most `size` samples, as a training step gets them;
        of a stream the loader's, cut to that size."""
        if isinstance(self.train, Split):
            return self.train.batches(min(size, len(self.train)), seed=0, epoch=epoch)
        return (batch[:size] for batch in self.train.batches(None, 0, epoch))

    def look(self, what: str) -> None:
        self.diagnosis.looked.append(what)

    def report(self, problem: str, why: str, remedy: str) -> None:
        self.diagnosis.append(Finding(problem, why, remedy))


@dataclasses.dataclass
class ExaminedTeacher:
    """A teacher in a set-up: a `Teacher`, or a plain network that the scheme calls by itself.

    prefix: stands in front of its findings, where a scheme has several teachers.
    """

    setup: Setup
    module: nn.Module
    prefix: str
    name: str = "The teacher"

    def look(self, what: str) -> None:
        self.setup.look(f"{self.prefix}{what}")

    def report(self, problem: str, why: str, remedy: str) -> None:
        self.setup.report(f"{self.prefix}{problem}", why, remedy)

    def with_members(self) -> list["ExaminedTeacher"]:
        """List the teachers in an ensemble, and in ensembles in it; after them the teacher."""
        members = _members(self.module) if isinstance(self.module, Ensemble) else []
        return [*(dataclasses.replace(self, module=member, name=f"Teacher {i} of the ensemble")
                  for i, member in enumerate(members, 1)), self]

    def networks(self) -> list[nn.Module]:
        """List the networks that run for an answer, also those that only a function holds."""
        if not isinstance(self.module, Teacher):
            return [self.module]
        self.setup.called.clear()
        self.answer(self.setup.batch)
        found = [module for module in self.setup.called if not isinstance(module, Teacher)
                 and next(module.parameters(), None) is not None]
        inner = {part for module in found for part in module.modules() if part is not module}
        return [module for module in found if module not in inner]

    def answer(self, batch: Batch) -> torch.Tensor | None:
        """Return the logits [B, K] for training samples; None where a plain network has none,
        and where they are not of all classes."""
        if isinstance(self.module, Teacher):
            with contextlib.suppress(Exception):  # whatever its own code raises
                output = self.module(batch)
                return output.logits.float().cpu() if output.kept is None else None
        return None

    def predict(self, x: torch.Tensor, y=None) -> torch.Tensor | None:
        """Return the logits [N, K] for any inputs; None where there are none."""
        x = each(lambda t: t.to(self.setup.device), x)
        with contextlib.suppress(Exception):  # it may return None, or not take these inputs
            if isinstance(self.module, Teacher):
                return self.module.predict(x, y).float().cpu()
            return torch.cat([self._in_scheme(part) for part in pieces(x, 100)])
        return None

    def _in_scheme(self, x: torch.Tensor) -> torch.Tensor:
        """Run the scheme, which may change the inputs of a network that it calls."""
        outputs, batch = [], self.setup.batch
        samples = batch[torch.arange(len(first(x))) % len(batch)]  # any labels will do
        with self.module.register_forward_hook(lambda *call: outputs.append(call[2])):
            self.setup.scheme(dataclasses.replace(samples, x=x))
        return logits_of(outputs[0]).float().cpu()


def labelled(part):
    """Give the samples of a batch or a split that have a label: all, where every one has."""
    known = part.task.weight(part.x, part.y) if isinstance(part.task, Classes) else None
    return part if known is None else part[known.nonzero()[:, 0]]


def _members(ensemble: Ensemble) -> list[Teacher]:
    return [member for teacher in ensemble.teachers for member in (
        _members(teacher) if isinstance(teacher, Ensemble) else [teacher])]


def report_probabilities(found, who: str, logits: torch.Tensor, task) -> None:
    """Report logits that are outputs of a softmax. found: a `Setup` or an `ExaminedTeacher`."""
    with contextlib.suppress(ValueError):  # a teacher's features
        rows_MK = task.flat(logits)
        if task.has_classes and (rows_MK >= 0).all() and ((rows_MK.sum(1) - 1).abs() < 1e-3).all():
            found.report(f"The {who} answers with probabilities, where logits belong.",
                         "The softmax of a softmax is almost uniform: hardly anything is learned.",
                         "Take the softmax off its end.")


def parameters(*networks: nn.Module) -> list[nn.Parameter]:
    """List the parameters of several networks, each once."""
    return list(nn.ModuleList(networks).parameters())


def first_three(names: list[str]) -> str:
    """Join the first three names, for a sentence."""
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
