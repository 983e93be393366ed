"""Peers that learn together, mixed precision, and a schedule that does not fit the training."""

import copy
import itertools
import warnings

import torch

from kdcourse.doctor.setup import first_three


def peers(setup) -> None:
    """Does the loss of an edge send a gradient into the student that teaches on it?"""
    students = setup.scheme.students
    if len(students) < 2:
        return
    setup.look("peers are fixed teachers to each other: no gradient flows from one to another")
    scheme, pulled = setup.scheme.train(), set()
    for edge in scheme.edges(scheme.with_inputs(setup.batch)):
        told = [] if edge.teacher is None else [edge.teacher.logits, *edge.teacher.taps.values()]
        told = [tensor for tensor in told if tensor.requires_grad]
        loss = edge.objective.total(edge.losses(setup.batch)) if told else None
        slopes = _gradients(loss, told) if told and loss.requires_grad else []
        if any(slope is not None and slope.any() for slope in slopes):
            pulled.add(tuple(sorted({_behind(edge.student, students),
                                     _behind(edge.teacher, students)})))
    if pulled:
        pairs = [" and ".join(map(str, numbers)) for numbers in sorted(pulled)]
        setup.report(
            f"The peers are not detached (students {first_three(pairs)}).",
            "A student is then pulled towards what its peer does not know yet, and the losses of "
            "all pile up in each.",
            "Detach what comes from the peer, answers and features: Edge(student, "
            "peer.detached(), …), or kd(student, peer.detach(), T).")


def _behind(output, students) -> int:
    """The number of the student whose weights the logits depend on."""
    for number, student in enumerate(students, start=1):
        weights = [p for p in student.parameters() if p.requires_grad]
        if weights and any(slope is not None for slope in _gradients(output.logits.sum(), weights)):
            return number
    return 0


def _gradients(value, tensors):
    return torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True)


def mixed_precision(setup) -> None:
    """Does the loss survive half precision?"""
    setup.look("the loss is finite in mixed precision, too")
    for dtype in (torch.bfloat16, torch.float16):
        try:
            with torch.autocast(setup.device.type, dtype):
                outcome = setup.scheme.train()(setup.batch)
        except RuntimeError:  # no such arithmetic for a layer on this device
            continue
        bad = [name for name, part in outcome.parts.items() if not torch.isfinite(part).all()]
        if bad or not torch.isfinite(outcome.loss):
            setup.report(
                f"The loss is not finite in mixed precision ({str(dtype).removeprefix('torch.')}; "
                f"part: {', '.join(bad) or 'the weighted sum'}).",
                "Half precision knows no numbers above 65504 or no fine steps between them.",
                "Compute that part in float32: call .float() on what goes into it, or train with "
                'Recipe(precision="fp32").')
            return


def schedule(setup, given, steps: int) -> None:
    """Does the learning rate come down again before the training ends?"""
    setup.look("the learning rate has left its warm-up before the training ends")
    plan = copy.deepcopy(given)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimiser makes no steps here
        for _ in range(steps):
            rates.append(max(group["lr"] for group in plan.optimizer.param_groups))
            plan.step()
    rising = all(a <= b for a, b in itertools.pairwise(rates)) and rates[0] < rates[-1]
    if rising:
        setup.report(
            f"The warm-up is longer than the training: after {steps} steps the learning rate is "
            f"still rising, from {rates[0]:.3g} to {rates[-1]:.3g}.",
            "The student never trains at the rate that you chose.",
            "Let the warm-up take a share of the steps, a tenth for example, and count steps, not "
            "epochs.")
