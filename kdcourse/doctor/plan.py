"""Peers that learn together, mixed precision, and a schedule that does not fit the training."""

import copy
import itertools
import warnings

import torch

from kdcourse.doctor.setup import first_three, not_finite, reaches


def peers(setup) -> None:
    """Does the loss of an edge send a gradient into the student that teaches on it?"""
    scheme, students = setup.scheme.train(), setup.scheme.students
    if len(students) < 2:
        return
    setup.look("peers are fixed teachers to each other: no gradient flows from one to another")
    pairs = set()
    for edge in scheme.edges(scheme.with_inputs(setup.batch)):
        attached = [tensor for tensor in (edge.teacher.logits, *edge.teacher.taps.values())
                    if tensor.requires_grad] if edge.teacher else []
        loss = edge.objective.total(edge.losses(setup.batch)) if attached else None
        if attached and reaches(loss, attached):
            pairs.add(" and ".join(str(number) for number, student in enumerate(students, 1)
                                   if reaches(loss, student.parameters())))
    if pairs:
        setup.report(
            f"The peers are not detached (students {first_three(sorted(pairs))}).",
            "Each is then pulled towards the other, and the losses of all pile up in each.",
            "Detach what comes from the peer, answers and features: Edge(student, "
            "peer.detached(), …), or kd(student, peer.detach(), T).")


def mixed_precision(setup) -> None:
    """Does the loss survive half precision?"""
    setup.look("the loss is finite in mixed precision, too")
    for dtype in (torch.bfloat16, torch.float16):
        try:
            with torch.autocast(setup.device.type, dtype):
                bad = not_finite(setup.scheme.train()(setup.batch))
        except RuntimeError:  # no such arithmetic for a layer on this device
            continue
        if bad:
            setup.report(
                f"The loss is not finite in mixed precision ({str(dtype).removeprefix('torch.')}; "
                f"part: {bad}).",
                "Half precision knows no numbers above 65504 or no fine steps between them.",
                'Call .float() on what goes into it, or train with Recipe(precision="fp32").')
            return


def schedule(setup, given, steps: int) -> None:
    """Does the learning rate come down again before the training ends?"""
    setup.look("the learning rate has left its warm-up before the training ends")
    plan, rates = copy.deepcopy(given), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimiser makes no steps here
        for _ in range(steps):
            rates.append(max(group["lr"] for group in plan.optimizer.param_groups))
            plan.step()
    if rates[0] < rates[-1] and all(a <= b for a, b in itertools.pairwise(rates)):
        setup.report(
            f"The warm-up is longer than the training: after {steps} steps the learning rate is "
            f"still rising, from {rates[0]:.3g} to {rates[-1]:.3g}.",
            "The student never trains at the rate that you chose.",
            "Let the warm-up take a tenth of the steps, for example. Does it count steps, not "
            "epochs?")
