"""Peers that learn together, mixed precision, and a schedule that does not fit the training."""

import collections
import copy
import dataclasses
import itertools
import warnings

import torch
from torch.overrides import TorchFunctionMode

from kdcourse.data import generator
from kdcourse.diagnosis import copies
from kdcourse.diagnosis.visit import some


def peers(visit) -> None:
    """Is each student a fixed teacher to the others?

    What a peer sends without a gradient is held fixed, then the peer gets other weights. The
    gradient of a student stays what it was, unless something came from the peer with a gradient:
    answers or features, in whatever loss.
    """
    if len(visit.twin.students) < 2:
        return
    notes = []
    try:
        first, fed = _gradients(visit, _Noting(notes))
        again, _ = _gradients(visit, _Repeating(notes))
        moved = [_gradients(visit, _Repeating(notes), other)[0] for other in range(len(first))]
    except Exception:  # it cannot be run a second time, or takes another course then
        return
    visit.look("peers are fixed teachers to each other: no gradient flows from one to another")
    pulled = []
    for i, j in itertools.combinations(range(len(first)), 2):
        if (i, j) in fed or (j, i) in fed:  # one is built on the other: no peers
            continue
        for one, other in ((i, j), (j, i)):
            chance = (first[one] - again[one]).abs().max()  # runs on a GPU differ a little
            close = torch.maximum(10 * chance, 1e-5 * again[one].abs().max())
            if (moved[other][one] - again[one]).abs().max() > close:
                pulled.append(f"{i + 1} and {j + 1}")
                break
    if pulled:
        visit.report(
            f"The peers are not detached (students {some(pulled)}).",
            "A student is then pulled towards what its peer does not know yet, and the losses of "
            "all pile up in each.",
            "Detach what comes from the peer, answers and features: kd(student, peer.detach(), T).")


def _gradients(visit, watch, other: int | None = None):
    """The gradient of each student, and the pairs (i, j) in which i goes into what j answers.

    other: this student gets other weights before. A copy takes the step: it leaves no trace.
    """
    twin = copies.twin_of(visit.twin, visit.data).train()
    count = collections.Counter(id(p) for student in twin.students for p in student.parameters())
    own = [[p for p in student.parameters() if p.requires_grad and count[id(p)] == 1]
           for student in twin.students]
    answers = {}
    for number, student in enumerate(twin.students):
        student.register_forward_hook(
            lambda module, args, output, number=number: answers.__setitem__(number, output))
    if other is not None:
        rng = generator(0, "doctor", other)
        for p in own[other]:
            drawn = torch.randn(p.shape, generator=rng).to(p)
            p.data += drawn * (0.5 * p.detach().square().mean().sqrt() + 0.01)
    batch = dataclasses.replace(visit.batch, x=visit.batch.x.clone())
    with copies.chance_untouched(visit.device), watch:
        loss = twin(batch).loss
    fed = set()
    for j, answer in answers.items():
        sums = [part.sum() for part in copies.inside(answer)
                if isinstance(part, torch.Tensor) and part.requires_grad]
        fed |= {(i, j) for i in range(len(own)) if i != j and sums
                and _flat(sum(sums), own[i]).any()}
    return [_flat(loss, parameters) for parameters in own], fed


def _flat(value, parameters) -> torch.Tensor:
    """The gradient as one vector, in which a 0 stands first: there may be no parameters."""
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True,
                                materialize_grads=True) if parameters else ()
    return torch.cat([value.detach().new_zeros(1), *(slope.flatten() for slope in found)])


class _Noting(TorchFunctionMode):
    """Notes every result of torch that carries no gradient."""

    def __init__(self, notes: list):
        super().__init__()
        self.notes = notes

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.notes.append((getattr(function, "__name__", ""), _note(result)))
        return result


class _Repeating(TorchFunctionMode):
    """Gives the noted results once more, in their order; what carries a gradient is computed."""

    def __init__(self, notes: list):
        super().__init__()
        self.notes = iter(notes)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name, note = next(self.notes, (None, None))
        if name != getattr(function, "__name__", ""):
            raise RuntimeError("Expected the same course as before, got another.")
        return _repeated(result, note, args)


def _note(result):
    if isinstance(result, torch.Tensor):
        return None if result.requires_grad else result.clone()  # it may be overwritten later
    if isinstance(result, (tuple, list)):
        return [_note(part) for part in result]
    return result if isinstance(result, (bool, int, float)) else None


def _repeated(result, note, args=()):
    if note is None:
        return result
    if isinstance(result, torch.Tensor):
        if args and result is args[0]:  # written in place: others hold it, too
            if not torch.equal(result, note):
                with torch.no_grad():
                    result.copy_(note)
            return result
        # Where nothing differs the result itself: others may see the same memory.
        return result if torch.equal(result, note) else note.clone()
    if isinstance(result, (tuple, list)):
        return type(result)([_repeated(*pair) for pair in zip(result, note, strict=True)])
    return note


def mixed_precision(visit) -> None:
    """Does the loss survive half precision?"""
    visit.look("the loss is finite in mixed precision, too")
    for dtype in (torch.bfloat16, torch.float16):
        try:
            with torch.autocast(visit.device.type, dtype):
                outcome = visit.twin.train()(visit.batch)
        except RuntimeError:  # no such arithmetic for a layer on this device
            continue
        bad = [name for name, part in outcome.parts.items() if not torch.isfinite(part).all()]
        if bad or not torch.isfinite(outcome.loss):
            visit.report(
                f"The loss is not finite in mixed precision ({str(dtype).removeprefix('torch.')}; "
                f"part: {', '.join(bad) or 'the weighted sum'}).",
                "Half precision knows no numbers above 65504 or no fine steps between them.",
                "Compute that part in float32: call .float() on what goes into it, or train with "
                'Recipe(precision="fp32").')
            return


def schedule(visit, given, steps: int) -> None:
    """Does the learning rate come down again before the training ends?"""
    visit.look("the learning rate has left its warm-up before the training ends")
    plan = copy.deepcopy(given)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimiser makes no steps here
        for _ in range(steps):
            rates.append(max(group["lr"] for group in plan.optimizer.param_groups))
            plan.step()
    rising = all(a <= b for a, b in itertools.pairwise(rates)) and rates[0] < rates[-1]
    if rising:
        visit.report(
            f"The warm-up is longer than the training: after {steps} steps the learning rate is "
            f"still rising, from {rates[0]:.3g} to {rates[-1]:.3g}.",
            "The student never trains at the rate that you chose.",
            "Let the warm-up take a share of the steps, a tenth for example, and count steps, not "
            "epochs.")
