"""Text as blocks of tokens, for language models.

Shapes: N blocks, L tokens of each, V tokens of the vocabulary.
"""

import functools
import itertools
import lzma
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from kdcourse import _files
from kdcourse._random import generator
from kdcourse.data.arrays import stratified
from kdcourse.data.dataset import SPLITS, Split, with_digest
from kdcourse.data.masked import masked
from kdcourse.data.tokens import Text, backend, check_length, checked_texts, digest_of
from kdcourse.tasks import Tokens

NOVELS = ("Emma", "Mansfield Park", "Northanger Abbey", "Persuasion", "Pride and Prejudice",
          "Sense and Sensibility")
STRETCHES = 20  # of each novel: one validates, one tests, the others train
OBJECTIVES = ("next", "masked")


def text(name: str = "austen", length: int = 64, vocabulary: int = 512, objective: str = "next",
         seed: int = 0, train: int | None = None, val: int | None = None, test: int | None = None,
         mask: float = 0.15, views: int | None = None) -> Text:
    """Load the six novels of Jane Austen (4.0 million characters, public domain) as blocks of
    tokens. They ship with the package; nothing is downloaded.

    name: "austen", the only one.
    length: L, tokens in a block.
    vocabulary: V, the tokens of a byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909, section
        3.2) that the library `tokenizers` learns from all six novels: "[MASK]", the 256 bytes, and
        V - 257 merges. It is the same for every seed, length and objective, so models with other
        settings share it.
    objective: "next": y[n] is the token after x[n], also at the end of a block. "masked": see mask.
    seed: of the stretches that are held out, of what `train`, `val`, `test` select, and of masks.
    train, val, test: numbers of blocks, drawn evenly from the novels; None: all.
    mask: for "masked", the probability with which a token has an answer. 80 % of these are replaced
        by [MASK], 10 % by a token drawn from the vocabulary, 10 % stay as they are (BERT: Devlin et
        al. 2019, arXiv:1810.04805, section 3.1); y is -100 at all others. Validation and test have
        one mask, which belongs to the seed.
    views: for "masked", the number of different masks of the training blocks; epoch e has view
        1 + e % views. None: a new mask in every epoch, which `kd.Cached` refuses.

    Each novel is cut, between paragraphs, into 20 stretches of nearly equal length. By the seed one
    of them validates, one tests and 18 train. Blocks follow each other without overlap and never
    leave their stretch (neighbours of one split count as one), so no block of one split has text of
    another; fewer than L + 1 tokens at the end of a stretch are left out. Ids x [N, L] are int32,
    y [N, L] int64; all lie on the device. One shift has been made: compare logits[n] with y[n].

    The parameters hold the first digits of the SHA-256 of the tokenizer's JSON, and of all blocks.

    Raises `ValueError` for an unknown name or objective, a vocabulary below 257 or larger than the
    merges that the novels have, numbers of blocks below 1 or above what there is, and blocks longer
    than a stretch. Raises `ModuleNotFoundError` without `tokenizers`.

    >>> data = text(length=32, train=1000, val=100, test=100)
    >>> data.train.x.shape, data.groups[int(data.group["val"][0])], len(data.classes)
    (torch.Size([1000, 32]), 'Emma', 512)
    >>> bool((data.train.x[:, 1:] == data.train.y[:, :-1]).all())
    True
    """
    if name != "austen":
        raise ValueError(f"Expected the text 'austen', got {name!r}. For your own text use "
                         "kd.data.from_texts(texts, tokenizer).")
    _check(length, objective, mask, views)
    if vocabulary < 257:
        raise ValueError(f"Expected a vocabulary of at least 257 tokens, the 256 bytes and [MASK], "
                         f"got {vocabulary}.")
    tokenizer, novels = _austen(int(vocabulary))
    pieces = {part: [] for part in SPLITS}
    for number, stretches in enumerate(novels):
        order = torch.randperm(STRETCHES, generator=generator(seed, "stretches", number)).tolist()
        pieces["val"].append(stretches[order[0]])
        pieces["test"].append(stretches[order[1]])
        low, high = sorted(order[:2])
        runs = stretches[:low], stretches[low + 1 : high], stretches[high + 1 :]
        pieces["train"] += [_joined(run) for run in runs if run]
    return _dataset({"name": "austen", "length": length, "vocabulary": vocabulary}, pieces,
                    tokenizer, NOVELS, objective, seed, mask, views,
                    {"train": train, "val": val, "test": test})


def from_texts(texts: Sequence[str], tokenizer, length: int = 64, objective: str = "next",
               val: Sequence[str] | None = None, test: Sequence[str] | None = None, seed: int = 0,
               end: str | None = None, mask: float = 0.15, views: int | None = None,
               name: str = "texts") -> Text:
    """Make blocks of tokens of your own texts, as `text` does of novels.

    texts: of any lengths. Those of one split follow each other, each closed by the token `end`, and
        are cut into blocks of `length` tokens, which may hold the end of one text and the beginning
        of the next. What is left at the end of the split is left out.
    tokenizer: a `tokenizers.Tokenizer`, or one of transformers that is built on it.
    val, test: texts of their own. What is not given is drawn from `texts` by `seed`: 10 % of them,
        at least one. A text is in one split only.
    end: by default the tokenizer's `eos_token` or `sep_token`; without one nothing closes a text.
    objective, mask, views: as for `text`. Special tokens are never masked.

    Raises `ValueError` for no texts, what is no text, too few to split, fewer than `length` + 1
    tokens in a split, an untrained tokenizer, one whose vocabulary lacks a fifth of the text, and
    for the objective "masked" one without a mask token.

    >>> from kdcourse.data.text import text
    >>> tokenizer = text(train=100).tokenizer
    >>> texts = [f"Number {n} is followed by number {n + 1}." for n in range(100)]
    >>> data = from_texts(texts, tokenizer, length=16)
    >>> data.tokenizer.decode(data.val.x[0].tolist())
    'Number 9 is followed by nu'
    """
    _check(length, objective, mask, views)
    given = {part: checked_texts(some, part) for part, some in
             {"train": texts, "val": val, "test": test}.items() if some is not None}
    missing = [part for part in SPLITS if part not in given]
    encoded, own = {}, backend(tokenizer)
    end = end or getattr(tokenizer, "eos_token", None) or getattr(tokenizer, "sep_token", None)
    if end and own.token_to_id(end) is None:
        raise ValueError(f"Expected end as a token of the vocabulary, got {end!r}.")
    closing = [own.token_to_id(end)] if end else []
    for part, some in given.items():
        found = own.encode_batch(some, add_special_tokens=False)
        encoded[part] = [_piece(one, number, closing) for number, one in enumerate(found)]
        _check_known(own, encoded[part], part)
    if missing:
        whole, count = encoded["train"], len(encoded["train"])
        share = max(1, round(0.1 * count))
        if count <= share * len(missing):
            raise ValueError(f"Expected at least {len(missing) + 1} texts to split, got {count}. "
                             "Cut them into chapters, or pass val=[…] and test=[…].")
        order = torch.randperm(count, generator=generator(seed, "texts")).tolist()
        for part in missing:
            encoded[part] = [whole[place] for place in sorted(order[:share])]
            order = order[share:]
        encoded["train"] = [whole[place] for place in sorted(order)]
    pieces = {part: [_joined(encoded[part])] for part in SPLITS}
    names = tuple(map(str, range(max(map(len, given.values())))))
    return _dataset({"name": name, "length": length}, pieces, tokenizer, names, objective, seed,
                    mask, views, {})


class _Piece(NamedTuple):
    """Tokens that follow each other: ids, where each ends in the text, the number of the text."""

    ids: np.ndarray
    ends: np.ndarray
    source: np.ndarray


def _piece(encoding, source: int, closing: Sequence[int] = ()) -> _Piece:
    ends = [0, *(end for _, end in encoding.offsets)]
    ends += [ends[-1]] * len(closing)
    return _Piece(np.array([*encoding.ids, *closing], np.int32), np.array(ends[1:], np.int64),
                  np.full(len(ends) - 1, source))


def _joined(pieces: Sequence[_Piece]) -> _Piece:
    shifts = np.cumsum([0, *(piece.ends[-1] if len(piece.ends) else 0 for piece in pieces)])
    ends = [piece.ends + shift for piece, shift in zip(pieces, shifts[:-1], strict=True)]
    return _Piece(np.concatenate([piece.ids for piece in pieces]), np.concatenate(ends),
                  np.concatenate([piece.source for piece in pieces]))


@functools.cache
def _austen(vocabulary: int):
    """Learn a tokenizer; return it, and the pieces of each novel."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Expected the package tokenizers, which learns the vocabulary, "
                                  'got none. pip install "kdcourse[language]"') from error

    novels = _novels()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        (stretch for novel in novels for stretch in novel),
        trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["[MASK]"], show_progress=False,
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if tokenizer.get_vocab_size() < vocabulary:
        raise ValueError(f"Expected a vocabulary of at most {tokenizer.get_vocab_size()} tokens, "
                         f"all that can be learned from the novels, got {vocabulary}.")
    return tokenizer, [[_piece(one, number) for one in tokenizer.encode_batch(novel)]
                       for number, novel in enumerate(novels)]


def _novels() -> list[list[str]]:
    """Read the stretches of each novel; joined they are the text."""
    whole = lzma.decompress(Path(__file__).with_name("austen.txt.xz").read_bytes()).decode()
    starts = [re.search(f"^{title}$", whole, re.M | re.I).start() for title in NOVELS]
    novels = [whole[a:b] for a, b in zip(starts, [*starts[1:], len(whole)], strict=True)]
    gap = re.compile("\n\n+")  # between paragraphs
    cuts = [[0, *(gap.search(novel, len(novel) * n // STRETCHES).end()
                  for n in range(1, STRETCHES)), len(novel)] for novel in novels]
    return [[novel[a:b] for a, b in itertools.pairwise(cut)] for novel, cut in zip(novels, cuts)]


def _dataset(params: dict, pieces: dict[str, list[_Piece]], tokenizer, groups, objective: str,
             seed: int, mask: float, views: int | None, counts: dict) -> Text:
    """Cut pieces into blocks, and put what each position should answer beside them."""
    length, own = params["length"], backend(tokenizer)
    splits, group, characters = {}, {}, {}
    for part in SPLITS:
        tokens, of_text, lengths = _blocks(pieces[part], length)
        if not len(tokens):
            most = max(len(piece.ids) for piece in pieces[part])
            raise ValueError(f"Expected at least {length + 1} tokens in a row in {part}, for one "
                             f"block and the token after it, got {most}. Lower length={length}, or "
                             "bring more text.")
        if counts.get(part) is not None:
            (rows,) = stratified(of_text, [counts[part]], seed, f"{params['name']}, {part}")
            tokens, of_text, lengths = tokens[rows], of_text[rows], lengths[rows]
        splits[part] = Split(tokens[:, :-1].contiguous(), tokens[:, 1:].long(), task=Tokens())
        group[part], characters[part] = of_text, float(lengths.sum()) / (len(tokens) * length)
    params |= {"objective": objective, **{part: len(splits[part]) for part in SPLITS}, "seed": seed}
    if objective == "masked":
        splits = masked(splits, tokenizer, own, seed, mask, views)
        params |= {"mask": mask, "views": views}
    names = {number: token for token, number in own.get_vocab().items()}
    params |= {"tokenizer": digest_of(own),
               "sha256": _files.digest(*(split.digest() for split in splits.values()))[:12]}
    return with_digest(Text(
        **splits, classes=tuple(names.get(n, str(n)) for n in range(max(names) + 1)), params=params,
        task=Tokens(), tokenizer=tokenizer, characters=characters, groups=groups, group=group))


def _blocks(pieces: list[_Piece], length: int):
    """Cut into blocks, each with the token after it, [N, L + 1]; give with each the number of its
    text and the characters of its tokens but the first, which are those that it answers."""
    found = []
    for piece in pieces:
        starts = np.arange(max(0, len(piece.ids) - 1) // length) * length
        found.append((piece.ids[starts[:, None] + np.arange(length + 1)], piece.source[starts],
                      piece.ends[starts + length] - piece.ends[starts]))
    return [torch.from_numpy(np.concatenate(parts)) for parts in zip(*found, strict=True)]


def _check_known(own, pieces: list[_Piece], part: str) -> None:
    """Raise `ValueError` where a fifth of the tokens is the one for unknown text."""
    name = getattr(own.model, "unk_token", None)
    number = own.token_to_id(name) if name else None
    count = sum(len(piece.ids) for piece in pieces)
    unknown = sum(int((piece.ids == number).sum()) for piece in pieces)
    if number is not None and unknown > 0.2 * count:
        raise ValueError(f"Expected a vocabulary for the texts of {part}, got {unknown} of {count} "
                         f"tokens that are {name}, which stands for text that is not in it. Take a "
                         "larger vocabulary, or one of bytes.")


def _check(length: int, objective: str, mask: float, views: int | None) -> None:
    """Raise `ValueError` for settings that cannot be."""
    check_length(length)
    if objective not in OBJECTIVES:
        raise ValueError(f"Expected objective 'next' or 'masked', got {objective!r}.")
    if not 0 < mask < 1:
        raise ValueError(f"Expected mask as a share of the tokens, above 0 and below 1, got {mask}."
                         " BERT has 0.15.")
    if views is not None and (objective != "masked" or views < 1):
        raise ValueError("Expected views as a number of at least 1, for objective='masked', got "
                         f"{views} for {objective!r}.")
