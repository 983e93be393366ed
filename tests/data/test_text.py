"""Text as blocks of tokens, masked text, sentences: every token at its place, in one split."""

import hashlib
import lzma
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kdcourse as kd
from kdcourse import losses
from kdcourse._key import key_of
from kdcourse.data import NOVELS, from_texts, sentences, text
from kdcourse.data.dataset import SPLITS

tokenizers = pytest.importorskip("tokenizers")
WHOLE = lzma.decompress((Path(kd.data.__file__).parent / "austen.txt.xz").read_bytes()).decode()
MASK = 0  # the id of "[MASK]"
# Any characters, of one to four bytes each, with no letter of Austen's missing.
ODD = "Größe, naïve — “quoted” 模型 🙂\t end.\n\n" * 40


@pytest.fixture(scope="module")
def austen():
    return text()


@pytest.fixture(scope="module")
def tokenizer(austen):
    return austen.tokenizer


@pytest.fixture(scope="module")
def words():
    """A tokenizer of transformers, with special tokens around a sentence, and words as tokens."""
    transformers = pytest.importorskip("transformers")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = special + [f"w{n}" for n in range(40)]
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(
        {name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]")


def decoded(data, ids) -> str:
    return data.tokenizer.decode(ids.flatten().tolist(), skip_special_tokens=False)


def blocks(data, part):
    """The text of each block, by its novel."""
    found = {name: [] for name in data.groups}
    split = getattr(data, part)
    for ids, number in zip(split.x, data.group[part].tolist(), strict=True):
        found[data.groups[number]].append(decoded(data, ids))
    return found


# --- blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 5, 16])
def test_every_position_answers_the_token_after_it(tokenizer, length):
    data = from_texts([ODD], tokenizer, length, val=[ODD[3:]], test=[ODD[7:]])
    for part, source in zip(SPLITS, (ODD, ODD[3:], ODD[7:]), strict=True):
        ids, split = tokenizer.encode(source).ids, getattr(data, part)
        assert len(split) == (len(ids) - 1) // length
        for n in range(len(split)):
            for j in range(length):
                place = n * length + j
                assert (int(split.x[n, j]), int(split.y[n, j])) == (ids[place], ids[place + 1])


def test_joined_blocks_are_the_text_byte_for_byte(tokenizer):
    train = from_texts([ODD], tokenizer, 1, val=[ODD], test=[ODD]).train  # no token is left over
    ids = torch.cat([train.x.flatten(), train.y[-1]]).tolist()
    assert tokenizer.decode(ids).encode() == ODD.encode()


def test_blocks_of_the_novels_are_their_text(austen):
    """Those of a stretch follow each other, so joined they stand in the novel as they are."""
    starts = [re.search(f"^{name}$", WHOLE, re.MULTILINE | re.IGNORECASE).start()
              for name in NOVELS]
    assert starts[0] == 0 and starts == sorted(starts)
    novels = dict(zip(NOVELS, map(slice, starts, [*starts[1:], len(WHOLE)]), strict=True))
    covered = 0
    for part in ("val", "test"):
        for name, found in blocks(austen, part).items():
            joined, novel = "".join(found), WHOLE[novels[name]]
            assert joined in novel
            assert 0.04 < len(joined) / len(novel) < 0.06
            covered += len(joined)
    covered += len(decoded(austen, austen.train.x))
    assert len(WHOLE) - covered < 3 * 6 * 5 * 65  # at most a block's tokens for each run


def test_no_block_is_in_two_splits(austen):
    joined = {part: "".join(block for found in blocks(austen, part).values() for block in found)
              for part in SPLITS}
    for part in ("val", "test"):
        for other in set(SPLITS) - {part}:
            for ids in getattr(austen, part).x:
                block = decoded(austen, ids)
                assert block not in joined[other], block


def test_ids_are_small_and_answers_are_labels(austen):
    for part in SPLITS:
        split = getattr(austen, part)
        assert (split.x.dtype, split.y.dtype) == (torch.int32, torch.int64)
        assert split.x.shape == split.y.shape == (len(split), 64)
        assert len(austen.group[part]) == len(split)
    assert len(austen.classes) == 512 and austen.classes[MASK] == "[MASK]"
    assert [austen.tokenizer.token_to_id(name) for name in austen.classes] == list(range(512))


def test_characters_per_token_turn_nats_into_bits_per_character(austen):
    for part in SPLITS:
        answers = getattr(austen, part).y
        characters = len(decoded(austen, answers))
        assert austen.characters[part] == pytest.approx(characters / answers.numel(), rel=1e-6)
    few = text(val=50)
    assert few.characters["val"] == len(decoded(few, few.val.y)) / (50 * 64)
    assert few.characters["val"] != austen.characters["val"]


def test_numbers_of_blocks_are_drawn_from_all_novels(austen):
    few = text(train=600, val=60, test=60)
    assert [len(getattr(few, part)) for part in SPLITS] == [600, 60, 60]
    for part in SPLITS:
        counts = np.bincount(few.group[part], minlength=6) / len(few.group[part])
        whole = np.bincount(austen.group[part], minlength=6) / len(austen.group[part])
        assert abs(counts - whole).max() < 0.01
        assert set(map(tuple, getattr(few, part).x.tolist())) <= set(
            map(tuple, getattr(austen, part).x.tolist()))


# --- the same again -----------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["next", "masked"])
def test_a_seed_decides_the_data(objective):
    settings = {"objective": objective, "train": 200, "val": 50, "test": 50}
    first, again, other = text(**settings), text(**settings), text(**settings, seed=1)
    assert repr(first) == repr(again) and first.digest() == again.digest()
    assert key_of(first) == key_of(again)
    assert not torch.equal(first.val.x, other.val.x)
    assert repr(first) != repr(other) and key_of(first) != key_of(other)


def test_the_parameters_know_the_tokenizer_and_the_content(austen, tokenizer):
    digest = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    assert digest.startswith(austen.params["tokenizer"]) and len(austen.params["tokenizer"]) == 12
    other = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    other.add_special_tokens(["[NEW]"])
    texts = [ODD] * 3
    one, two = from_texts(texts, tokenizer), from_texts(texts, other)
    assert torch.equal(one.train.x, two.train.x)
    assert key_of(one) != key_of(two)
    assert key_of(one) != key_of(from_texts([ODD, ODD, "." + ODD], tokenizer))


def test_changed_blocks_have_another_key(austen):
    data = text(train=50, objective="masked")
    before = key_of(data)
    data.train.x[0, 0] += 1
    assert key_of(data) != before


@pytest.mark.long
def test_another_process_learns_the_same_tokens(austen):
    code = "import kdcourse as kd; print(kd.data.text())"
    for threads in ("1", "3"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              encoding="utf-8", check=True,
                              env=os.environ | {"RAYON_NUM_THREADS": threads})
        assert done.stdout.strip() == repr(austen)


def test_the_import_of_the_package_does_not_import_tokenizers():
    code = ("import sys; sys.modules['tokenizers'] = sys.modules['transformers'] = None\n"
            "import kdcourse as kd\n"
            "try: kd.data.text()\n"
            "except ModuleNotFoundError as error: print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          encoding="utf-8", check=True)
    assert 'pip install "kdcourse[language]"' in done.stdout


# --- masks --------------------------------------------------------------------------------------


def epoch(data, number, size=100):
    """Inputs and answers of the training blocks in an epoch, in the order of the blocks."""
    found = list(data.train.batches(size, seed=3, epoch=number))
    order = torch.cat([batch.index for batch in found]).argsort()
    assert {batch.view for batch in found} == {found[0].view}
    return torch.cat([b.x for b in found])[order], torch.cat([b.y for b in found])[order]


def between(count, total, share):
    """Whether a count lies within five standard deviations of a binomial draw."""
    return abs(count - share * total) < 5 * (share * (1 - share) * total) ** 0.5


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_masks_are_those_of_bert(share):
    settings = {"train": 3000, "val": 1000, "test": 100}
    plain, data = text(**settings), text(**settings, objective="masked", mask=share)
    views = [(data.train.x, data.train.y), epoch(data, 0), epoch(data, 1)]
    for tokens, (x, y) in [*((plain.train.x, view) for view in views),
                           (plain.val.x, (data.val.x, data.val.y))]:
        chosen = y != -100
        count = int(chosen.sum())
        assert between(count, y.numel(), share)
        assert torch.equal(x[~chosen], tokens[~chosen])  # what has no answer stays
        assert torch.equal(y[chosen], tokens[chosen].long())  # the answer is the token
        kept = int((x == tokens)[chosen].sum())
        assert between(int((x[chosen] == MASK).sum()), count, 0.8)
        assert between(kept, count, 0.1 + 0.1 / 511)  # a drawn token may be the same
        drawn = x[chosen & (x != tokens) & (x != MASK)]
        assert between(len(drawn), count, 0.1 * 510 / 511)
        assert (drawn > 0).all() and len(drawn.unique()) > 400  # from the whole vocabulary


def test_every_epoch_has_a_mask_of_its_own_and_views_come_again():
    data = text(objective="masked", train=100)
    first, second = epoch(data, 0), epoch(data, 1)
    assert not torch.equal(first[1], second[1])
    assert all(map(torch.equal, first, epoch(data, 0, size=10)))  # whatever the batch
    data = text(objective="masked", train=100, views=2)
    views = [epoch(data, number) for number in range(3)]
    assert all(map(torch.equal, views[0], views[2]))
    assert not torch.equal(views[0][0], views[1][0])
    (batch,) = data.train.batches(100)  # without a seed: view 0
    assert batch.view == 0 and torch.equal(batch.y, data.train.y)


def test_special_tokens_are_neither_masked_nor_put_in_a_place(words):
    texts = [" ".join(f"w{(7 * n + j) % 40}" for j in range(3)) for n in range(400)]
    data = from_texts(texts, words, 8, "masked", mask=0.9)
    assert data.params["mask"] == 0.9
    x, y = epoch(data, 0, 10)
    whole = torch.where(y == -100, x, y.int())
    assert (whole == words.sep_token_id).sum() > 0.2 * whole.numel()  # they close each text
    assert (y[whole == words.sep_token_id] == -100).all()
    put = x[(y != -100) & (x != words.mask_token_id)]
    assert (put > 4).all()


def test_a_teacher_stores_its_answers_to_every_view():
    data = text(objective="masked", train=64, val=16, test=16, length=8, views=3)
    teacher, student = network(1), network(2)
    cached = kd.Cached(teacher, data)
    assert cached.logits.shape == (3, 64, 8, 512)
    kd.checks.aligned(cached, data)
    for number in range(3):
        batch = next(data.train.batches(16, seed=0, epoch=number))
        assert torch.equal(data.train.seen(batch.index, batch.view), batch.x)
        found = [kd.Distiller(student, one, losses.KD(T=2))(batch).loss
                 for one in (cached, kd.Live(teacher))]
        torch.testing.assert_close(*found)
    with pytest.raises(ValueError, match=r"stated number of views .* with views=…"):
        kd.Cached(teacher, text(objective="masked", train=64, length=8))


# --- own texts ----------------------------------------------------------------------------------


def test_texts_are_split_whole_and_closed(words):
    texts = [f"w{n} " * 9 for n in range(40)]
    data = from_texts(texts, words, 10, seed=1)
    assert [len(getattr(data, part)) for part in SPLITS] == [31, 3, 3]  # one token follows the last
    seen = {part: set(getattr(data, part).x.unique().tolist()) - {3} for part in SPLITS}
    assert not seen["train"] & seen["val"] and not seen["val"] & seen["test"]
    for part in SPLITS:
        split = getattr(data, part)
        assert (split.x[:, -1] == words.sep_token_id).all()
        assert torch.equal(split.x[:, 0] - 5, data.group[part].int())  # w7 is text 7
    assert from_texts(texts, words, 10, end="[MASK]").train.x[0, -1] == 4
    assert not torch.equal(data.val.x, from_texts(texts, words, 10, seed=2).val.x)


def test_a_tokenizer_that_cuts_and_pads_is_not_asked_to(tokenizer):
    cutting = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    cutting.enable_truncation(4)
    cutting.enable_padding(length=9)
    one, two = (from_texts([ODD] * 3, some, 16) for some in (tokenizer, cutting))
    assert torch.equal(one.train.x, two.train.x)
    assert cutting.truncation and cutting.padding  # it stays as it was
    assert two.tokenizer is cutting


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda t, w: text("bronte"), r"text 'austen', got 'bronte'. .*from_texts"),
    (lambda t, w: text(length=0), "length as a number of tokens of at least 1, got 0"),
    (lambda t, w: text(length=10**6), "at least 1000001 tokens in a row in train.*Lower length"),
    (lambda t, w: text(vocabulary=256), r"at least 257 tokens, the 256 bytes and .*, got 256"),
    (lambda t, w: text(objective="mlm"), "objective 'next' or 'masked', got 'mlm'"),
    (lambda t, w: text(objective="masked", mask=15), "mask as a share .* got 15"),
    (lambda t, w: text(views=2), "views .* for objective='masked', got 2 for 'next'"),
    (lambda t, w: text(objective="masked", views=0), "views as a number of at least 1.*got 0"),
    (lambda t, w: text(train=10**6), r"\(the samples of austen, train\), got \[1000000\]"),
    (lambda t, w: text(val=0), "sizes of at least 1"),
    (lambda t, w: from_texts(ODD, t), "list of texts in train, got one string. Pass .text"),
    (lambda t, w: from_texts([], t), "at least one text in train, got 0 without a word"),
    (lambda t, w: from_texts([" ", "\n"], t), "at least one text in train, got 2 without a word"),
    (lambda t, w: from_texts([ODD, None], t), "strings in train, got NoneType as number 1"),
    (lambda t, w: from_texts([ODD, ODD], t), "at least 3 texts to split, got 2. .*val="),
    (lambda t, w: from_texts(["a", "b", "c"], t), "at least 65 tokens in a row in train.*got 1"),
    (lambda t, w: from_texts([ODD] * 3, str.split), "tokenizers.Tokenizer, or .* got method_desc"),
    (lambda t, w: from_texts([ODD] * 3, tokenizers.Tokenizer(tokenizers.models.BPE())),
     "tokenizer with at least 2 tokens, got 0. Train it"),
    (lambda t, w: from_texts(["w1 no no"] * 30, w), r"got 60 of 120 tokens that are \[UNK\]"),
    (lambda t, w: from_texts([ODD] * 3, t, end="</s>"), "end as a token of the voc.*'</s"),
    (lambda t, w: from_texts([ODD] * 3, bytes_only(), objective="masked"), "with a mask token"),
    (lambda t, w: sentences(["w1", ""], [0, 1], t), "one token in each .* number 1, ''. Leave"),
    (lambda t, w: sentences(["w1"] * 9, [0] * 9, w, val=["w1"]), r"val=\(texts, labels\), got l"),
    (lambda t, w: sentences([], [], w), "at least one text in train, got 0"),
    (lambda t, w: sentences(["w1"] * 9, [0] * 8, w), "as many labels as inputs in train, got 8"),
])
def test_what_does_not_fit_gets_a_sentence(make, sentence, tokenizer, words):
    with pytest.raises(ValueError, match=sentence):
        make(tokenizer, words)


def bytes_only():
    own = tokenizers.Tokenizer(tokenizers.models.BPE())
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator([], tokenizers.trainers.BpeTrainer(initial_alphabet=alphabet))
    return own


# --- sentences ----------------------------------------------------------------------------------


def test_sentences_are_padded_and_the_mask_says_so(words):
    texts = [" ".join(["w3"] * (1 + n % 5)) for n in range(50)]
    data = sentences(texts, [n % 2 for n in range(50)], words, classes=["even", "odd"])
    assert data.classes == ("even", "odd") and data.tokenizer is words
    assert [len(getattr(data, part)) for part in SPLITS] == [40, 5, 5]
    for part in SPLITS:
        x = getattr(data, part).x
        for ids, mask in zip(x["input_ids"].tolist(), x["attention_mask"].tolist(), strict=True):
            count = sum(mask)
            assert mask == [1] * count + [0] * (7 - count)
            assert ids == [2] + [8] * (count - 2) + [3] + [0] * (7 - count)
    cut = sentences(texts, None, words, length=4)
    assert cut.train.y is None and cut.train.x["input_ids"].shape == (40, 4)
    assert cut.train.x["input_ids"][:, 2:].min() == 0 and cut.train.x["input_ids"].max() == 8
    assert (cut.train.x["input_ids"] == 3).sum() == 40  # a sentence that is cut ends, too
    long = sentences(texts[:10], [0, 1] * 5, words, val=(["w1 " * 20], [1]), test=(["w2"], [0]))
    assert long.train.shape == {"input_ids": (22,), "attention_mask": (22,)}  # the longest of all
    assert key_of(data) != key_of(sentences(texts, [0] * 50, words, classes=2))


def test_padding_does_not_change_what_a_network_says(words):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=45, hidden_size=16, num_hidden_layers=2,
                                     num_attention_heads=2, intermediate_size=32, num_labels=2)
    model = transformers.BertForSequenceClassification(config).eval()
    texts = [" ".join(f"w{(n + j) % 40}" for j in range(1 + n % 6)) for n in range(30)]
    data = sentences(texts, [n % 2 for n in range(30)], words, length=12)
    x = data.train.x
    with torch.no_grad():
        padded = model(**x).logits
        for n, mask in enumerate(x["attention_mask"]):
            alone = model(input_ids=x["input_ids"][n : n + 1, : mask.sum()]).logits
            torch.testing.assert_close(padded[n], alone[0], rtol=0, atol=1e-5)
    history = kd.fit(kd.Supervised(model), data, kd.Recipe(epochs=1, batch=8))
    assert 0 <= history["val_accuracy"][0] <= 1


# --- from end to end ----------------------------------------------------------------------------


class Language(nn.Module):
    """An embedding, a convolution over three tokens (the last ones, or those around), a head."""

    def __init__(self, causal, classes=512, width=32):
        super().__init__()
        self.embed, self.mix = nn.Embedding(classes, width), nn.Conv1d(width, width, 3)
        self.sides, self.head = (2, 0) if causal else (1, 1), nn.Linear(width, classes)

    def forward(self, x):
        h = F.pad(self.embed(x).movedim(2, 1), self.sides)
        return self.head(self.mix(h).relu().movedim(1, 2))


def network(seed, causal=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Language(causal)


@pytest.mark.parametrize("objective", ["next", "masked"])
def test_the_loss_is_that_of_pytorch(objective):
    data = text(objective=objective, train=64, val=16, test=16, length=16)
    batch, student = next(data.train.batches(16, seed=0)), network(0)
    logits = student(batch.x)
    expected = F.cross_entropy(logits.flatten(0, 1), batch.y.flatten(), ignore_index=-100)
    torch.testing.assert_close(kd.Supervised(student)(batch).loss, expected)


@pytest.mark.parametrize("objective", ["next", "masked"])
def test_networks_learn_from_text_and_rows_are_found_again(objective, home, capsys):
    settings = {"objective": objective, "train": 2000, "val": 100, "test": 60, "length": 16}
    data, causal = text(**settings), objective == "next"
    recipe = kd.Recipe(epochs=4, batch=20, lr=1e-2)
    teacher = network(0, causal)
    history = kd.fit(kd.Supervised(teacher), data, recipe)
    answers = data.val.y[data.val.y >= 0]
    assert history["val_accuracy"][-1] > 1.4 * answers.bincount().max() / len(answers)
    scheme = kd.Distiller(network(1, causal), teacher, losses.KD(T=1))
    kd.fit(scheme, data, kd.Recipe(epochs=1, batch=20))
    report = kd.report(scheme, data)
    assert "agree" in str(report)

    def arms():
        return {"KD": lambda seed: kd.Distiller(network(seed, causal), teacher, losses.KD(T=1))}

    capsys.readouterr()
    runs = [kd.compare(arms(), again, kd.Recipe(epochs=1, batch=20), seeds=range(2),
                       results="text")
            for again in (data, text(**settings))]
    said = capsys.readouterr().out
    assert "0 loaded, 2 computed" in said and "2 loaded, 0 computed" in said
    assert runs[0].values("KD") == runs[1].values("KD")
