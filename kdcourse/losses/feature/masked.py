"""What losses with random masks share. B batch."""

import torch

from kdcourse._feed import fed
from kdcourse._random import generator
from kdcourse.losses.base import FeatureLoss


class Masked(FeatureLoss):
    """Compare features behind a random mask: a new one in every training step; always the same in
    eval mode and without gradients, so that values can be compared. The seed is `build`'s;
    checkpoints keep it, and how many masks were drawn. Several processes draw the same."""

    seed, step = 0, 0

    @torch.compiler.disable  # the count of steps is Python's, and differs at each
    def noise(self, shape, like: torch.Tensor) -> torch.Tensor:
        """Draw numbers from 0 to 1 of this shape, on the device of `like`."""
        trains = self.training and torch.is_grad_enabled()

        def draw():
            random = generator(self.seed, "mask", self.step if trains else -1)
            self.step += trains
            return torch.rand(shape, generator=random)

        return fed(draw, like.device)

    def get_extra_state(self):
        return torch.tensor([self.seed, self.step])

    def set_extra_state(self, state):
        self.seed, self.step = state.tolist()
