"""Training one scheme with several processes, under `torchrun`."""

import contextlib
import copy
import dataclasses
import os

import torch
from torch import nn

from kdcourse._random import kept


class _LossOnly(nn.Module):
    """Run a scheme; only its loss has a gradient. DDP waits for the gradient of every parameter
    that it finds behind any output, also of those that reach the logits and not the loss."""

    def __init__(self, scheme):
        super().__init__()
        self.scheme = scheme

    def forward(self, batch):
        found = self.scheme(batch)
        return dataclasses.replace(
            found, logits=None if found.logits is None else found.logits.detach(),
            **{field: {name: value.detach() if isinstance(value, torch.Tensor) else value
                       for name, value in getattr(found, field).items()}
               for field in ("parts", "notes")})


class Team:
    """The processes that train together; usually one.

    sharded: True when each of them reads a part of the training data, not all of it.
    """

    def __init__(self, sharded: bool):
        self.sharded, self.by_labels = sharded, False
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.distributed.is_initialized():
            from accelerate import PartialState  # a second to import

            PartialState()  # init_process_group
        self.size, self.rank = 1, 0
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.size, self.rank = torch.distributed.get_world_size(), torch.distributed.get_rank()

    def plan(self, train, batch: int, device) -> tuple[int, int]:
        """Compute the samples of a batch of `train` in this process, and the steps per epoch."""
        if not self.sharded or self.size == 1:
            return batch, len(train) // batch
        train.check_parts()
        if batch % self.size:
            raise ValueError(f"Expected Recipe(batch=…) to be a multiple of the {self.size} "
                             f"processes, each with a loader of its own, got {batch}.")
        size = batch // self.size
        steps = torch.tensor(len(train) // size, device=device)
        return size, int(self.least(steps))  # with unequal numbers of steps the all-reduce hangs

    def wrap(self, scheme, device, part):
        """Wrap the scheme, so that gradients are averaged over the processes."""
        self.by_labels = any(term.by_labels for one in scheme.objectives()
                             for term in one.terms.values())
        if self.size == 1:
            return scheme
        # DDP hangs on unused parameters, so a backward pass of a copy finds out if there are any.
        trial = copy.deepcopy(scheme).train()
        with kept(device):
            trial(part).loss.backward()
        unused = any(p.grad is None for p in trial.parameters() if p.requires_grad)
        ids = [device.index] if device.type == "cuda" else None
        model, frozen = scheme, scheme.frozen_tensors()
        if unused:
            model, frozen = _LossOnly(scheme), {f"scheme.{name}" for name in frozen}
        # Every process has the same teacher, whose weights or stored logits need not be sent.
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            model, frozen)
        return nn.parallel.DistributedDataParallel(model, device_ids=ids,
                                                   find_unused_parameters=unused)

    def same(self, scheme) -> None:
        """Copy buffers, such as batch statistics, from the first process to all."""
        if self.size > 1:
            frozen = scheme.frozen_tensors()
            for buffer in [b for name, b in scheme.named_buffers() if name not in frozen]:
                values = buffer.contiguous()
                torch.distributed.broadcast(values, 0)
                buffer.copy_(values)

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Collect the values of each process."""
        if self.size == 1:
            return [values]
        found = [torch.empty_like(values) for _ in range(self.size)]
        torch.distributed.all_gather(found, values)
        return found

    def share(self, batch):
        """Take the samples of a batch that this process computes."""
        if self.size == 1 or self.sharded:
            return batch
        if len(batch) < self.size:
            raise ValueError(f"Expected a batch of at least one sample for each of {self.size} "
                             f"processes, got {len(batch)}. Raise Recipe(batch=…).")
        return batch[self.rank::self.size]

    def parts(self, batch, recipe, model):
        """Give this process's share of a batch in micro-batches, each with the weight of its
        gradient: usually the batch itself, with weight 1."""
        if self.size == recipe.accumulate == 1:
            return [(batch, 1.0)]
        return self._parts(batch, recipe, model)

    def _parts(self, batch, recipe, model):
        pieces = self.share(batch).split(recipe.accumulate)
        weight = batch.task.weight(batch.x, batch.y)
        if weight is not None:  # by the rows that count in the whole batch
            real = batch.task.weight(batch.x, None) if batch.task.partly else None
            rows = weight.sum() if real is None else torch.stack([weight.sum(), real.sum()])
            rows = self.sum(rows) if self.sharded else rows
        labels = batch.y if self.by_labels else None
        if labels is not None and self.sharded:
            labels = torch.cat(self.gather(labels.contiguous()))
        for number, piece in enumerate(pieces, start=1):
            share = len(piece) / recipe.batch
            if labels is not None:
                piece = dataclasses.replace(piece, whole=(labels, share, piece.y))
            if weight is not None:
                piece = dataclasses.replace(piece, total=rows.clamp(min=1) * share)
            last = number == len(pieces) or self.size == 1
            with contextlib.nullcontext() if last else model.no_sync():
                # The mean over the processes of these weighted means is the mean over the batch.
                yield piece, share * self.size

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add up over all processes."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def least(self, value: torch.Tensor) -> torch.Tensor:
        """Take the smallest over all processes."""
        if self.size > 1:
            torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MIN)
        return value
