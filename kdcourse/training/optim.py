"""Optimisers and their schedules."""

import math

import torch
from torch import nn

DEFAULTS = {"lr": 1.0, "weight_decay": None, "every": 1, "ascend": False, "optimizer": None}


class Optimisers:
    """The optimisers of a training and their schedules: one for each kind that the scheme's
    `groups` name, usually one."""

    def __init__(self, scheme, recipe, device, steps: int):
        self.clip, self.parameters = recipe.clip, []
        self.groups = [DEFAULTS | group for group in scheme.groups()]
        self._check(scheme)
        kinds = list(dict.fromkeys(group["optimizer"] or recipe.optimizer for group in self.groups))
        self.optimizers = [
            _optimizer(kind, [part for group in self.groups for part in _decayed(group, recipe)
                              if (group["optimizer"] or recipe.optimizer) == kind], recipe, device)
            for kind in kinds]
        self.schedules = [_schedule(optimizer, recipe, steps) for optimizer in self.optimizers]
        for optimizer in self.optimizers:
            optimizer.zero_grad()  # gradients of an earlier training or of the caller

    def _check(self, scheme) -> None:
        trained = {id(p): name for name, p in scheme.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError("Expected something to train, got a scheme without trainable "
                             "parameters. Was the student frozen (requires_grad_(False))?")
        for group in self.groups:
            unknown = group.keys() - DEFAULTS.keys() - {"params"}
            if unknown:
                raise ValueError(f"Expected groups with {['params', *DEFAULTS]}, got "
                                 f"{sorted(unknown)}.")
            group["params"] = list(group["params"])
            self.parameters += group["params"]
        given = [id(p) for p in self.parameters]
        left = [name for key, name in trained.items() if key not in given]
        if left or len(set(given)) < len(given):
            raise ValueError("Expected every trainable parameter in exactly one of the scheme's "
                             f"groups, got {', '.join(left[:3]) or 'some twice'}"
                             f"{' in none' if left else ''}.")

    def step(self, number: int) -> None:
        """Clip the gradients, and step the groups that are due in this step of the training."""
        for group in self.groups:
            if group["ascend"]:
                for p in group["params"]:
                    p.grad = None if p.grad is None else -p.grad
            if number % group["every"]:
                for p in group["params"]:
                    p.grad = None
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for optimizer, schedule in zip(self.optimizers, self.schedules):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


def _decayed(group: dict, recipe) -> list[dict]:
    """Split a group in two: weight decay is for matrices and kernels, not for biases and norms."""
    decay = recipe.weight_decay if group["weight_decay"] is None else group["weight_decay"]
    rate = {} if group["lr"] == 1 else {"lr": group["lr"] * recipe.lr}
    return [{"params": [p for p in group["params"] if p.ndim > 1], "weight_decay": decay, **rate},
            {"params": [p for p in group["params"] if p.ndim <= 1], "weight_decay": 0.0, **rate}]


def _optimizer(kind, groups: list[dict], recipe, device) -> torch.optim.Optimizer:
    if callable(kind):
        made = kind(groups, recipe.lr)
        if not isinstance(made, torch.optim.Optimizer):
            raise TypeError("Expected an optimiser from the function in Recipe(optimizer=…), got "
                            f"{type(made).__name__}. Return it.")
        return made
    fused = device.type in ("cpu", "cuda")
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)


def _schedule(optimizer, recipe, steps: int):
    if recipe.schedule == "one-cycle":
        rise = float(recipe.warmup)
        if math.isclose(rise * steps, 1):
            rise *= 1 + 1e-6  # PyTorch divides by rise * steps - 1
        peaks = [group["lr"] for group in optimizer.param_groups]
        own = callable(recipe.optimizer)  # whose momentum stays as it was set
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, peaks, steps, pct_start=rise, cycle_momentum=not own)
    rising, per_epoch = recipe.warmup * steps, steps / recipe.epochs

    def share(step):
        if isinstance(recipe.schedule, tuple):
            return 0.1 ** sum(step >= round(epoch * per_epoch) for epoch in recipe.schedule)
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)
