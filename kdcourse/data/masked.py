"""Masked text: some tokens are hidden, and a network says which they were.

Shapes: N blocks, B batch, L tokens of each.
"""

import dataclasses
from collections.abc import Iterator

import torch

from kdcourse import _files
from kdcourse._random import generator
from kdcourse.data.augment import Augmented, view_of
from kdcourse.data.dataset import Batch, Split
from kdcourse.tasks import Tokens


@dataclasses.dataclass(frozen=True)
class Masked(Augmented):
    """A training split of masked text; in every view other tokens are masked. View 0, which a pass
    without a seed sees, has a mask of its own. `views` and `seed` are those of `Augmented`.

    token: the id of the mask. share: of the tokens that have an answer. ordinary: ids of the tokens
    that may be masked, and that may stand in a masked one's place: all but special tokens.
    """

    token: int = 0
    share: float = 0.15
    ordinary: torch.Tensor | None = None

    def digest(self) -> str:
        """SHA-256 of the blocks and of how they are masked."""
        return _files.digest(Split.digest(self), [self.token, self.share, self.views, self.seed])

    def identity(self):
        """Blocks and masks: its part of the key of recorded results."""
        return [*Split.identity(self), self.token, self.share, self.views, self.seed]

    def batches(self, size: int, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """Yield batches as `Split.batches` does; with a seed, in the view of the epoch."""
        for batch in Split.batches(self, size, seed, epoch):
            if seed is not None:
                view = view_of(epoch, self.views)
                part = self.at(batch.index, view)
                batch = dataclasses.replace(batch, x=part.x, y=part.y, view=view)
            yield batch

    def at(self, index: torch.Tensor, view: int) -> Split:
        """Return the blocks `index` in that view, with their answers."""
        split = self[index.to(self.x.device)]
        if view == 0:
            return split
        if view not in self._drawn:
            self._drawn.clear()  # one view is in use at a time
            rng = generator(self.seed, "view", view)
            self._drawn[view] = [one.to(self.x.device) for one in _draw(self, rng)]
        drawn = [one[index.to(self.x.device)] for one in self._drawn[view]]
        return Split(*_hidden(_whole(split), *drawn, self.token, self.share), task=self.task)

    def seen(self, index: torch.Tensor, view: int) -> torch.Tensor:
        """Return the inputs of the blocks `index` in that view."""
        return self.at(index, view).x


def _whole(split: Split) -> torch.Tensor:
    """Give the tokens [N, L] of masked blocks as they were."""
    return torch.where(split.y == Tokens.ignore, split.x, split.y.to(split.x.dtype))


def _draw(split: Masked, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw for each token a number from 0 to 1, of special tokens 1, and another token."""
    u_NL = torch.rand(split.x.shape, generator=rng)
    special = ~torch.isin(_whole(split).cpu(), split.ordinary)
    places = torch.randint(len(split.ordinary), split.x.shape, generator=rng)
    return u_NL.masked_fill_(special, 1), split.ordinary[places]


def _hidden(tokens, u, other, token: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask where u is below 0.8 of the share, put the other token below 0.9, keep it below 1."""
    y = torch.where(u < share, tokens.long(), Tokens.ignore)
    x = torch.where(u < 0.9 * share, other, tokens)
    return torch.where(u < 0.8 * share, token, x).to(tokens.dtype), y


def masked(splits: dict, tokenizer, own, seed: int, share: float, views: int | None) -> dict:
    """Mask the blocks of all splits."""
    name = getattr(tokenizer, "mask_token", None)
    name = name or next((n for n in ("[MASK]", "<mask>") if own.token_to_id(n) is not None), None)
    if name is None:
        raise ValueError("Expected a tokenizer with a mask token for objective='masked', got one "
                         "without. tokenizer.add_special_tokens(['[MASK]']) adds it.")
    special = {number for number, token in own.get_added_tokens_decoder().items() if token.special}
    ordinary = torch.tensor(sorted(set(own.get_vocab().values()) - special), dtype=torch.int32)
    settings = {"token": own.token_to_id(name), "share": share, "ordinary": ordinary,
                "views": views, "seed": seed, "task": Tokens()}
    found = {}
    for part, split in splits.items():
        plain = Masked(split.x, torch.full_like(split.y, Tokens.ignore), **settings)
        drawn = _draw(plain, generator(seed, "mask", part))
        found[part] = Masked(*_hidden(split.x, *drawn, settings["token"], share), **settings)
    return found | {part: found[part][:] for part in ("val", "test")}  # plain splits
