"""A language model as teacher of one with more or fewer outputs. B batch, N tokens, K classes."""

import math

import torch
import torch.nn.functional as F

from kdcourse.data import Batch, Dataset
from kdcourse.outputs import Kept
from kdcourse.taps import Output
from kdcourse.teachers.base import Teacher
from kdcourse.teachers.live import as_teacher


class Vocabulary(Teacher):
    """A teacher whose outputs and the student's are for the same tokens, but not equally many.

    Models of one family have one tokenizer and outputs beyond it, of which no number is a token
    (Qwen2.5: 151,936 outputs up to 3B, 152,064 from 7B). Only tokens that both sides have are
    compared; the others are -inf on both sides, so that they have no probability.

    theirs, ours: of teacher and student, `{token: number}` as of `tokenizer.get_vocab()`, or the
        list of tokens.

    Raises `ValueError` where a number is one token here and another there: both networks read the
    same numbers, so one tokenizer is needed. For others see `kdcourse.losses.ULD`.

    >>> from torch import nn
    >>> teacher = Vocabulary(nn.Embedding(5, 5), ["a", "b", "c"], {"a": 0, "b": 1, "c": 2, "d": 3})
    >>> teacher.common
    tensor([ True,  True,  True, False])
    >>> Vocabulary(nn.Embedding(3, 3), ["a", "b"], ["b", "a"])
    Traceback (most recent call last):
    ...
    ValueError: Expected one token for each number on both sides, got 2 that differ, such as 0: \
'a' of the teacher, 'b' of the student. ULD() takes other tokenizers.
    """

    def __init__(self, teacher, theirs, ours):
        super().__init__()
        self.teacher = as_teacher(teacher)
        theirs, ours = _by_number(theirs, "teacher"), _by_number(ours, "student")
        numbers = {token: number for number, token in theirs.items()}
        differ = [number for number, token in sorted(ours.items())
                  if theirs.get(number, token) != token or numbers.get(token, number) != number]
        if differ:
            number = differ[0]
            raise ValueError(
                f"Expected one token for each number on both sides, got {len(differ)} that differ, "
                f"such as {number}: {theirs.get(number)!r} of the teacher, {ours[number]!r} of the "
                "student. ULD() takes other tokenizers.")
        both = ours.keys() & theirs.keys()
        if not both:
            raise ValueError(f"Expected tokens that both sides have, got none among {len(theirs)} "
                             f"of the teacher and {len(ours)} of the student.")
        count = max(*ours, *theirs) + 1
        common = torch.tensor([number in both for number in range(count)])
        self.register_buffer("common", common, persistent=False)

    @property
    def uses_labels(self) -> bool:
        """True where the teacher's outputs depend on labels."""
        return self.teacher.uses_labels

    def forward(self, batch: Batch, paths: tuple[str, ...] = ()) -> Output:
        output = self.teacher(batch, paths)
        if output.kept is not None:
            raise ValueError("Expected all logits of a teacher with another vocabulary, got stored "
                             "ones. Make Cached(Vocabulary(teacher, …), data, top=…).")
        output.logits, output.kept = self._named(output.logits), Kept(common=self.common)
        return output

    def _named(self, logits: torch.Tensor) -> torch.Tensor:
        common = F.pad(self.common, (0, logits.shape[-1] - len(self.common)))
        return logits.masked_fill(~common.to(logits.device), -math.inf)

    def predict(self, x, y=None) -> torch.Tensor | None:
        """Compute the teacher's logits for any inputs, -inf for tokens that only it has."""
        logits = self.teacher.predict(x, y)
        return None if logits is None else self._named(logits)

    def tap(self, paths: tuple[str, ...]) -> None:
        """Raise `ValueError` unless the teacher has modules at these paths."""
        self.teacher.tap(paths)

    def check(self, data: Dataset) -> None:
        """Call `check` of the teacher."""
        self.teacher.check(data)

    def after_step(self) -> None:
        """Call `after_step` of the teacher."""
        self.teacher.after_step()

    def identity(self):
        """Give the teacher and the tokens in common, by which recorded results are found."""
        return [self.teacher, self.common]

    def __repr__(self):
        return f"Vocabulary({self.teacher!r}, {int(self.common.sum())} tokens)"


def _by_number(vocabulary, who: str) -> dict[int, str]:
    """Give {number: token}. Raises `ValueError` for two tokens with one number."""
    pairs = vocabulary if isinstance(vocabulary, dict) else {
        token: number for number, token in enumerate(vocabulary)}
    found = {number: token for token, number in pairs.items()}
    if len(found) < len(vocabulary) or not all(isinstance(number, int) for number in found):
        raise ValueError(f"Expected the {who}'s vocabulary as {{token: number}}, each number once, "
                         f"or as a list of tokens, each once, got {len(vocabulary)} entries with "
                         f"{len(found)} numbers.")
    return found
