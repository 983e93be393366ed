"""What is wrong with a set-up, before an hour is spent on it."""

import contextlib

import torch

from kdcourse.data import Dataset
from kdcourse.doctor import copies, plan, step, teacher
from kdcourse.doctor.findings import Diagnosis, Finding
from kdcourse.doctor.setup import Setup
from kdcourse.schemes import Scheme
from kdcourse.taps import device_of, evaluating

__all__ = ["Diagnosis", "Finding", "doctor"]


def doctor(scheme: Scheme, data: Dataset, optimizer=None, schedule=None,
           steps: int | None = None) -> Diagnosis:
    """Look at a set-up on one batch, and list what is wrong with it before it is trained.

    optimizer: yours, if you train in a loop of your own; `fit` makes its own.
    schedule, steps: likewise a scheduler of torch that is stepped once in each of so many steps.

    Examined are

    * whether all fits together; where it does not, nothing else is;
    * the step: loss and gradients that are not finite, terms that do not depend on the student,
      parameters without a gradient, half precision;
    * each teacher: train mode, weights that would be trained, state that it writes to, chance in
      its answers, answers that depend on the rest of the batch, stored answers of other samples,
      probabilities in place of logits;
    * its accuracy on up to 500 validation samples: at chance, below the student's, or much better
      with another normalisation or another order of its outputs;
    * terms of your own with a temperature `T` (by `kdcourse.checks.broken_laws`), and peers that
      are not detached;
    * the optimiser: parameters that are missing or the teacher's; and a warm-up without an end.

    All runs on a copy: no mode, gradient, buffer or random state of yours is changed.

    Returns a `Diagnosis`: a list of `Finding(problem, why, remedy)`, which prints as numbered
    sentences; empty when nothing was found. Raises `TypeError` for what is no scheme, and for a
    scheme that cannot be copied.

    >>> from kdcourse import data, models, schemes
    >>> glyphs = data.glyphs(train=72, val=72, test=36)
    >>> student, untrained = models.convnet(width=8, seed=0), models.convnet(width=8, seed=1)
    >>> doctor(schemes.Distiller(student, untrained), glyphs)
    1. The teacher is hardly better than guessing: right on ... of 72 ...
    >>> doctor(schemes.Supervised(student), glyphs).ok
    True
    """
    if (schedule is None) != (steps is None):
        raise ValueError("Expected schedule and steps together, got only one. Say in how many "
                         "steps you train: epochs * batches.")
    if not isinstance(scheme, Scheme):
        raise TypeError(f"Expected a scheme such as Distiller(student, teacher), got "
                        f"{type(scheme).__name__}.")
    device = device_of(scheme.student)
    with copies.left_as_it_was(scheme), copies.seeded(device), \
            torch.inference_mode(False), torch.enable_grad(), \
            torch.compiler.set_stance("force_eager"):
        setup = Setup(scheme, data, device)
        if not step.fits(setup):
            return setup.diagnosis
        finite = step.one_step(setup)
        step.own_terms(setup)
        with contextlib.ExitStack() as eval_mode:
            for network in (setup.scheme, *setup.networks):
                eval_mode.enter_context(evaluating(network))
            for source in setup.teachers:
                teacher.answers(source)
                teacher.accuracy(source)
        if optimizer is not None:
            step.optimiser(setup, optimizer)
        if finite:
            plan.peers(setup)
            plan.mixed_precision(setup)
        if schedule is not None:
            plan.schedule(setup, schedule, steps)
        return setup.diagnosis
