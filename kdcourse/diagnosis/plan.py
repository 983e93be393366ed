"""Peers that learn together, mixed precision, and a schedule that does not fit the training."""

import copy
import itertools
import warnings

import torch

from kdcourse.data import generator
from kdcourse.diagnosis.visit import some


def peers(visit) -> None:
    """Is each student a fixed teacher to the others?"""
    students = visit.twin.students
    if len(students) < 2:
        return
    visit.look("peers are fixed teachers to each other: no gradient flows from one to another")
    answers, hooks = {}, []
    for number, student in enumerate(students):
        hooks.append(student.register_forward_hook(
            lambda module, args, output, number=number: answers.__setitem__(number, output)))
    try:
        outcome = visit.twin.train()(visit.batch)
    finally:
        for hook in hooks:
            hook.remove()
    logits = {number: answer for number, answer in answers.items()
              if isinstance(answer, torch.Tensor) and answer.requires_grad}
    pulled = []
    for i, j in itertools.permutations(sorted(logits), 2):
        # With a fixed peer the gradient of student i is a number times its own answers: it changes
        # with the peer's answers, but no path leads back to them.
        (slope,) = torch.autograd.grad(outcome.loss, logits[i], create_graph=True,
                                       allow_unused=True)
        if slope is None or not slope.requires_grad:
            continue
        weights = torch.randn(slope.shape, generator=generator(0, "doctor", i, j)).to(slope)
        (back,) = torch.autograd.grad((slope * weights).sum(), logits[j], retain_graph=True,
                                      allow_unused=True)
        if back is not None and back.abs().max() > 0:
            pulled.append(f"{i + 1} and {j + 1}")
    if pulled:
        visit.report(
            f"The peers are not detached (students {some(pulled)}).",
            "A student is then pulled towards what its peer does not know yet, and the losses of "
            "all pile up in each.",
            "Detach the answers of the peer: kd(student, peer.detach(), T).")


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
