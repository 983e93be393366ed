"""Data sets of tokens, and what their makers have in common.

Shapes: N blocks or sentences, L tokens of each.
"""

import dataclasses
from collections.abc import Sequence

from kdcourse import _files
from kdcourse.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Text(Dataset):
    """A data set of tokens; its classes are the tokens of the vocabulary.

    tokenizer: turns text into ids, and ids into text: `data.tokenizer.decode(ids.tolist())`.
    characters: by split, characters of text per token. Of tokens of different lengths, compare bits
        per character: nats per token / (ln 2 · characters["val"]).
    groups, group: names of texts, and by split the number [N] of the text of each block (of its
        first token): a label for probes. None for sentences.
    """

    tokenizer: object = dataclasses.field(default=None, repr=False, compare=False)
    characters: dict | None = dataclasses.field(default=None, repr=False, compare=False)
    groups: tuple[str, ...] | None = dataclasses.field(default=None, repr=False, compare=False)
    group: dict | None = dataclasses.field(default=None, repr=False, compare=False)

    __repr__ = Dataset.__repr__  # else the dataclass writes its own


def backend(tokenizer):
    """Give a copy, as a `tokenizers.Tokenizer` that neither cuts nor pads. Raises `ValueError` for
    anything else, and for one without tokens."""
    own = getattr(tokenizer, "backend_tokenizer", tokenizer)  # of transformers
    if not hasattr(own, "encode_batch") or not hasattr(own, "to_str"):
        raise ValueError("Expected a tokenizers.Tokenizer, or one of transformers that is built on "
                         f"it (tokenizer.is_fast), got {type(tokenizer).__name__}.")
    if own.get_vocab_size() < 2:
        raise ValueError("Expected a tokenizer with at least 2 tokens, got "
                         f"{own.get_vocab_size()}. Train it first.")
    own = type(own).from_str(own.to_str())
    own.no_padding()
    own.no_truncation()
    return own


def digest_of(own) -> str:
    """Give the first digits of the SHA-256 of a tokenizer's JSON."""
    return _files.digest(own.to_str().encode())[:12]


def checked_texts(texts: Sequence[str], part: str) -> list[str]:
    """Check texts. Raises `ValueError` for one string, for none, and for what is no string."""
    if isinstance(texts, str):
        raise ValueError(f"Expected a list of texts in {part}, got one string. Pass [text].")
    texts = list(texts)
    wrong = [number for number, one in enumerate(texts) if not isinstance(one, str)]
    if wrong:
        raise ValueError(f"Expected strings in {part}, got {type(texts[wrong[0]]).__name__} as "
                         f"number {wrong[0]}. Drop missing texts, or replace them.")
    if not any(map(str.strip, texts)):
        raise ValueError(f"Expected at least one text in {part}, got {len(texts)} without a word.")
    return texts


def check_length(length: int) -> None:
    """Raise `ValueError` unless this is a number of tokens."""
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"Expected length as a number of tokens of at least 1, got {length!r}.")
