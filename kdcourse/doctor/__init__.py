"""What is wrong with a set-up, before an hour is spent on it."""

import torch
from torch import nn

from kdcourse.data import Dataset, check_dataset
from kdcourse.doctor import accuracy, answers, own, step
from kdcourse.doctor.findings import Diagnosis, Finding
from kdcourse.doctor.setup import Setup, isolated
from kdcourse.schemes import Scheme, check_scheme
from kdcourse.taps import evaluating

__all__ = ["Diagnosis", "Finding", "doctor"]


def doctor(scheme: Scheme, data: Dataset, optimizer=None, schedule=None,
           steps: int | None = None) -> Diagnosis:
    """Examine a set-up on one batch, and list what is wrong with it before it is trained.

    optimizer: yours, if you train in a loop of your own; `fit` makes its own.
    schedule, steps: likewise a scheduler of torch that is stepped once in each of so many steps.

    Examined are whether all fits together (where it does not, nothing else is), and

    * one step: loss and gradients, also in half precision, terms that do not depend on the student,
      parameters without a gradient, modules that are left out of some steps or stay in eval mode,
      peers that are not detached;
    * each teacher: train mode, changes to it, answers that vary or belong to other samples;
    * its accuracy on up to 500 validation samples, also with other inputs or another class order;
    * terms of your own with a temperature `T` (by `kdcourse.checks.broken_laws`), the optimiser's
      parameters, and a warm-up without an end.

    All runs on a copy: no mode, gradient, buffer or random state of yours is changed.

    Returns a `Diagnosis`: a list of `Finding(problem, why, remedy)`, which prints as numbered
    sentences; empty when nothing was found. Raises `TypeError` for what is no scheme, data set or
    optimiser, and for a scheme that cannot be copied; `ValueError` for a schedule without steps.

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
    check_scheme(scheme)
    check_dataset(data)
    if optimizer is not None and not hasattr(optimizer, "param_groups"):
        raise TypeError(f"Expected an optimiser of torch that you made, got {optimizer!r}. "
                        "Leave it out for kd.fit, which makes its own.")
    with isolated(scheme) as called, torch.compiler.set_stance("force_eager"):
        setup = Setup(scheme, data, called)
        if not step.fits(setup):
            return setup.diagnosis
        finite = step.examine(setup)
        own.examine_terms(setup)
        with evaluating(nn.ModuleList([setup.scheme, *setup.networks])):
            for teacher in setup.teachers:
                answers.examine(teacher)
                accuracy.examine(teacher)
        if optimizer is not None:
            own.examine_optimizer(setup, optimizer)
        if finite:
            step.examine_peers(setup)
            step.examine_half_precision(setup)
        if schedule is not None:
            own.examine_schedule(setup, schedule, steps)
        return setup.diagnosis
