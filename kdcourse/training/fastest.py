"""Measuring which precision and which layout of images are fastest here."""

import copy
import dataclasses
import itertools
import math
import time

import torch

from kdcourse import _files
from kdcourse._machine import default_device
from kdcourse._random import seeded
from kdcourse.data import check_dataset
from kdcourse.schemes import check_scheme
from kdcourse.training.fit import enough_memory, lay_out, out_of_memory
from kdcourse.training.processes import Team
from kdcourse.training.recipe import Recipe, as_recipe
from kdcourse.training.step import autocast


def fastest(scheme, data, recipe: Recipe | None = None, device=None) -> Recipe:
    """Return the recipe with the precision and the layout of images whose steps are fastest.

    Each of the four makes a few steps on a copy of the scheme; one that fails in bf16 is left out.
    Several processes choose the same. A recorded result belongs to one precision, so name that in
    its recipe: the fastest one differs from machine to machine.

    Raises what `fit` raises before its first step.

    >>> import kdcourse as kd
    >>> data = kd.data.glyphs(train=128, val=36, test=36)
    >>> fastest(kd.Supervised(kd.models.mlp(hidden=(8,))), data).precision in ("fp32", "bf16")
    True
    """
    check_scheme(scheme)
    check_dataset(data)
    recipe = as_recipe(recipe)
    if _files.smoke():
        return recipe
    device = torch.device(device) if device is not None else default_device()
    team = Team(sharded=False)
    scheme.check(data)
    scheme.to(device)
    batch = next(data.train.to(device).batches(recipe.batch, 0))
    with enough_memory(recipe, device):
        scheme.build(batch[:4], 0)
    part = batch.split(recipe.accumulate)[0]
    recipes = [dataclasses.replace(recipe, precision=precision, channels_last=last)
               for precision, last in itertools.product(("fp32", "bf16"), (True, False))]
    seconds = torch.full((len(recipes),), math.inf, device=device)
    trials, failed = [copy.deepcopy(scheme).train() for _ in recipes], set()
    with enough_memory(recipe, device), seeded(0, device):
        for turn in range(7):  # interleaved, so that a busy moment hits all of them
            for number, candidate in enumerate(recipes):
                if number in failed:
                    continue
                lay_out(trials[number], candidate.channels_last)  # copies share a live teacher
                start = time.perf_counter()
                try:
                    with autocast(candidate, device):
                        loss = trials[number](part).loss
                    loss.backward()
                    float(loss.detach())  # wait for the device
                except RuntimeError as error:
                    if candidate.precision == "fp32" or out_of_memory(error):
                        raise
                    failed.add(number)
                    continue
                if turn > 1:
                    taken = time.perf_counter() - start
                    seconds[number] = min(taken, float(seconds[number]))
    return recipes[int(team.sum(seconds).argmin())]
