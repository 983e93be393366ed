"""Sentences, for classes and for similarity.

Shapes: N sentences, L tokens of each, K classes.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kdcourse.data.arrays import from_arrays
from kdcourse.data.tokens import Text, backend, check_length, checked_texts, digest_of
from kdcourse.tasks import ONE_LABEL, Unlabelled


def sentences(texts: Sequence[str], labels, tokenizer, length: int | None = None, val=None,
              test=None, classes=None, seed: int = 0, name: str = "sentences") -> Text:
    """Make a data set of sentences: x is a dict of `input_ids` and `attention_mask`, int32 [N, L].

    texts: N sentences. labels: [N] whole numbers from 0 on, or soft [N, K], as for `from_arrays`;
        None: none, for terms that compare with a teacher.
    tokenizer: as for `from_texts`; it adds its special tokens, such as [CLS] and [SEP].
    length: L; longer sentences are cut. None: that of the longest, of all splits.
    val, test: pairs `(texts, labels)`; what is not given is split off, stratified, by `seed`.
    classes: names of the classes, or their number.

    The attention mask is 1 for tokens and 0 for padding. A network must use it, or its answer to a
    sentence depends on the longest one; those of transformers take both by name.

    Raises `ValueError` for no texts, what is no text, sentences without a token, and what
    `from_arrays` refuses.

    >>> from kdcourse.data.text import text
    >>> tokenizer = text(train=100).tokenizer
    >>> data = sentences(["It is good.", "It is bad."] * 50, [1, 0] * 50, tokenizer)
    >>> data.train.x["attention_mask"].shape, data.classes
    (torch.Size([80, 6]), ('0', '1'))
    """
    pairs = {"train": (texts, labels)}
    for part, pair in {"val": val, "test": test}.items():
        if pair is not None:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(f"Expected {part}=(texts, labels), got {type(pair).__name__}.")
            pairs[part] = pair
    own = backend(tokenizer)
    if length is not None:
        check_length(length)
        own.enable_truncation(length)
    found = {part: own.encode_batch(checked_texts(some, part)) for part, (some, _) in pairs.items()}
    longest = length or max(len(one.ids) for some in found.values() for one in some)
    for part, some in found.items():
        ids = np.full((len(some), longest), getattr(tokenizer, "pad_token_id", None) or 0, np.int32)
        kept = np.zeros_like(ids)
        for row, one in enumerate(some):
            if not one.ids:
                raise ValueError(f"Expected at least one token in each sentence of {part}, got none"
                                 f" in number {row}, {pairs[part][0][row]!r}. Leave it out.")
            ids[row, : len(one.ids)], kept[row, : len(one.ids)] = one.ids, 1
        pairs[part] = {"input_ids": ids, "attention_mask": kept}, pairs[part][1]
    data = from_arrays(*pairs["train"], classes, pairs.get("val"), pairs.get("test"), seed, name,
                       Unlabelled() if labels is None else ONE_LABEL)
    fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    fields["params"] = data.params | {"tokenizer": digest_of(own)}
    return Text(**fields, tokenizer=tokenizer)
