"""Several processes that train one scheme under `torchrun`; nearly always there is one."""

import contextlib
import copy
import dataclasses
import os

import torch
from torch import nn


class Team:
    """The processes that train together; nearly always one.

    sharded: whether each of them reads a part of the training data, not all of it.
    """

    def __init__(self, sharded: bool):
        self.sharded = sharded
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.distributed.is_initialized():
            from accelerate import PartialState  # a second to import

            PartialState()  # init_process_group
        self.size, self.rank = 1, 0
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.size, self.rank = torch.distributed.get_world_size(), torch.distributed.get_rank()

    def plan(self, train, batch: int, device) -> tuple[int, int]:
        """How many samples a batch of `train` holds in this process, and the steps per epoch."""
        if not self.sharded or self.size == 1:
            return batch, len(train) // batch
        train.check_parts()
        if batch % self.size:
            raise ValueError(f"Expected Recipe(batch=…) to be a multiple of the {self.size} "
                             f"processes, each with a loader of its own, got {batch}.")
        size = batch // self.size
        steps = torch.tensor(len(train) // size, device=device)
        return size, int(self.least(steps))  # ranks must take equally many steps: all-reduce waits

    def wrap(self, scheme, device, part):
        """The scheme, with gradients averaged over the processes."""
        if self.size == 1:
            return scheme
        # DDP hangs on unused parameters; a trial backward on a copy finds out if there are any.
        trial = copy.deepcopy(scheme).train()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            trial(part).loss.backward()
        unused = any(p.grad is None for p in trial.parameters() if p.requires_grad)
        ids = [device.index] if device.type == "cuda" else None
        # Every process has the same teacher, so DDP need not send it, stored answers above all.
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            scheme, scheme.frozen_tensors())
        return nn.parallel.DistributedDataParallel(scheme, device_ids=ids,
                                                   find_unused_parameters=unused)

    def same(self, scheme) -> None:
        """Batch statistics and the like as the first process has them: one student for all."""
        if self.size > 1:
            frozen = scheme.frozen_tensors()
            for buffer in [b for name, b in scheme.named_buffers() if name not in frozen]:
                values = buffer.contiguous()
                torch.distributed.broadcast(values, 0)
                buffer.copy_(values)

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        """The values of each process."""
        if self.size == 1:
            return [values]
        found = [torch.empty_like(values) for _ in range(self.size)]
        torch.distributed.all_gather(found, values)
        return found

    def share(self, batch):
        """The samples of a batch that this process computes."""
        if self.size == 1 or self.sharded:
            return batch
        if len(batch) < self.size:
            raise ValueError(f"Expected a batch of at least one sample for each of {self.size} "
                             f"processes, got {len(batch)}. Raise Recipe(batch=…).")
        return batch[self.rank::self.size]

    def parts(self, batch, recipe, model):
        """This process's share of a batch in micro-batches, with the weight of each gradient."""
        pieces = self.share(batch).split(recipe.accumulate)
        weight = batch.task.weight(batch.x, batch.y)
        rows = None  # that count in the whole batch, where it is cut
        if weight is not None and (len(pieces) > 1 or self.size > 1):
            rows = self.sum(weight.sum()) if self.sharded else weight.sum()
        for piece in pieces:
            whole = piece is pieces[-1] or self.size == 1
            share = len(piece) / recipe.batch
            if rows is not None:
                piece = dataclasses.replace(piece, total=rows.clamp(min=1) * share)
            with contextlib.nullcontext() if whole else model.no_sync():
                # The mean over the processes of these weighted means is the mean over the batch.
                yield piece, share * self.size

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def least(self, value: torch.Tensor) -> torch.Tensor:
        """The smallest over all processes."""
        if self.size > 1:
            torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MIN)
        return value
