"""Padding in losses on transformers, the rows of masked language models, and the objectives of
DistilBERT and TinyBERT as sums of terms that exist."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import oracles, oracles_attention
from torch import nn

import kdcourse as kd
from kdcourse import losses
from kdcourse.data import Batch

LENGTHS = (5, 2, 3)
MASK = (torch.arange(5) < torch.tensor(LENGTHS)[:, None]).long()


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cut(x, b):
    """The real tokens of a sample: hidden states or values; attention in both directions."""
    n = LENGTHS[b]
    if isinstance(x, tuple):
        return tuple(cut(part, b) for part in x)
    one = x[b : b + 1]
    return one[..., :n, :n] if one.shape[-1] == one.shape[-2] == 5 else one[..., :n, :]


def three(seed):
    return tuple(randn(3, 2, 5, 4, seed=seed + i) for i in range(3))


CASES = {  # function with a mask or None, inputs, oracle
    "hidden_mse": (losses.hidden_mse, lambda seed: randn(3, 5, 4, seed=seed),
                   oracles_attention.hidden_mse),
    "hidden_cosine": (losses.hidden_cosine, lambda seed: randn(3, 5, 4, seed=seed),
                      oracles_attention.hidden_cosine),
    "attention_mse": (losses.attention_mse, lambda seed: randn(3, 2, 5, 5, seed=seed),
                      oracles_attention.attention_mse),
    "attention_kl of scores": (
        lambda s, t, **more: losses.attention_kl(s, t, scores=True, **more),
        lambda seed: randn(3, 2, 5, 5, seed=seed), oracles_attention.attention_kl),
    "value_relation": (losses.value_relation, lambda seed: randn(3, 2, 5, 4, seed=seed),
                       oracles_attention.value_relation),
    "self_relation": (losses.self_relation, three, oracles_attention.self_relation),
}


def arrays(x):
    return tuple(map(arrays, x)) if isinstance(x, tuple) else x.numpy()


@pytest.mark.parametrize("name", CASES)
def test_padding_does_not_count(name):
    """Each sample has the loss, and the gradient, of its real tokens alone."""
    function, make, oracle = CASES[name]
    s, t = make(0), make(10)
    expected = [float(oracle(arrays(cut(s, b)), arrays(cut(t, b)))[0]) for b in range(3)]
    found = function(s, t, mask_BN=MASK, reduction="none")
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert float(function(s, t, mask_BN=MASK)) == pytest.approx(np.mean(expected))
    whole = function(s, t, reduction="none")
    torch.testing.assert_close(function(s, t, mask_BN=torch.ones(3, 5), reduction="none"), whole)
    assert abs(whole[1:] - found[1:]).min() > 1e-3  # without a mask padding counts
    parts = list(s) if isinstance(s, tuple) else [s]
    for part in parts:
        part.requires_grad_()
    slopes = torch.autograd.grad(function(s, t, mask_BN=MASK), parts)
    for slope in slopes:
        for b, n in enumerate(LENGTHS):
            assert slope[b, ..., n:, :].abs().sum() == 0
            if slope.shape[-1] == 5:
                assert slope[b, ..., n:].abs().sum() == 0
    with pytest.raises(ValueError, match=r"a mask of shape \[3, 5\], .*got \[3, 4\]"):
        function(s, t, mask_BN=MASK[:, :4].double())
    nothing = function(s, t, mask_BN=torch.zeros(3, 5))  # no real token at all
    assert float(nothing.detach()) == 0
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(nothing, parts))


def test_probabilities_of_a_model_that_masks_its_keys():
    s, t = (randn(3, 2, 5, 5, seed=seed) for seed in (0, 1))
    keys = MASK[:, None, None] == 0
    p, q = (x.masked_fill(keys, -math.inf).softmax(-1) for x in (t, s))
    torch.testing.assert_close(losses.attention_kl(q, p, mask_BN=MASK),
                               losses.attention_kl(s, t, scores=True, mask_BN=MASK))


# --- a masked language model of transformers ------------------------------------------------------

V, TEXT = 20, 6


def bert(seed, layers=1, width=16):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=V, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=TEXT, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.BertForMaskedLM._from_config(config, attn_implementation="eager")


def texts(count=24, seed=0):
    """Ids, attention masks of several lengths, and labels for a third of the real tokens."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, V, (count, TEXT), generator=random)
    mask = (torch.arange(TEXT) < torch.randint(3, TEXT + 1, (count, 1), generator=random)).long()
    masked = (torch.rand(count, TEXT, generator=random) < 0.4) & (mask > 0)
    masked[:, 0] = True
    return {"input_ids": ids.where(~masked, 2), "attention_mask": mask}, ids.where(masked, -100)


def data_of(x, y):
    half = ({name: part[:8] for name, part in x.items()}, y[:8])
    return kd.data.from_arrays(x, y, classes=V, val=half, test=half,
                               task=kd.tasks.Tokens(partly=True))


def hidden(layers):
    return f"bert.encoder.layer.{layers - 1}"


def triple_loss(s, t, h_s, h_t, x, y, T=2.0):
    """5 KD on all real tokens, 2 CE on masked ones, 1 - cosine of real ones, as loops (Sanh et al.
    2019; the cosine's mean is taken in each text first)."""
    real, labelled = x["attention_mask"].numpy() > 0, y.numpy() != -100
    s, t, h_s, h_t = (value.detach().double().cpu().numpy() for value in (s, t, h_s, h_t))
    kd_, ce, cosine = [], [], []
    for b in range(len(y)):
        inside = []
        for n in range(TEXT):
            if real[b, n]:
                kd_.append(oracles.kd(s[b, n][None], t[b, n][None], T)[0])
                a, c = h_s[b, n], h_t[b, n]
                inside.append(1 - a @ c / np.sqrt(a @ a) / np.sqrt(c @ c))
            if labelled[b, n]:
                ce.append(-oracles.log_softmax(s[b, n])[int(y[b, n])])
        cosine.append(np.mean(inside))
    return 5 * np.mean(kd_) + 2 * np.mean(ce) + np.mean(cosine)


def distilbert(student, teacher, layers=1):
    return kd.Distiller(student, teacher, 5 * losses.KD(T=2) + 2 * losses.CE()
                        + losses.HiddenCosine(hidden(layers), hidden(2)))


def test_the_triple_loss_is_a_sum_of_terms():
    student, teacher, (x, y) = bert(0), bert(1, layers=2), texts()
    batch = Batch(x, y, torch.arange(len(y)), task=kd.tasks.Tokens(partly=True))
    scheme = distilbert(student, teacher)
    scheme.build(batch, 0)
    found = scheme(batch)
    s, t = (kd.taps(net.eval(), [hidden(count)])(**x)
            for net, count in ((student, 1), (teacher, 2)))
    expected = triple_loss(s.logits, t.logits, s.taps[hidden(1)], t.taps[hidden(2)], x, y)
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-5)
    # each counts rows of its own
    padded, masked = x["attention_mask"] == 0, y != -100
    assert set(found.parts) == {"KD", "CE", "HiddenCosine"}
    for places, moves in ((padded, set()), (masked, {"KD", "CE"}),
                          (~padded & ~masked, {"KD"})):
        more = 3.0 * places.double()[..., None] * F.one_hot(torch.tensor(4), V)
        student.cls.predictions.decoder.register_forward_hook(lambda m, i, o, a=more: o + a.to(o))
        changed = scheme(batch).parts
        student.cls.predictions.decoder._forward_hooks.clear()
        assert {name for name in changed if changed[name] != found.parts[name]} == moves
    plain = kd.tasks.Tokens().rows(s.logits, x, y)
    assert int(plain.without_labels().weight.sum()) == int(masked.sum())


def test_the_terms_do_not_see_padding():
    """Longer padding, and other ids in it, move nothing."""
    student, teacher, (x, y) = bert(0).eval(), bert(1, layers=2), texts()
    keep = x["attention_mask"].sum(1) <= 4
    x, y = {name: part[keep] for name, part in x.items()}, y[keep]
    values = []
    for width, ids in ((TEXT, 0), (4, 0), (TEXT, 7)):
        other = {name: part[:, :width].clone() for name, part in x.items()}
        other["input_ids"][other["attention_mask"] == 0] = ids
        batch = Batch(other, y[:, :width], torch.arange(len(y)),
                      task=kd.tasks.Tokens(partly=True))
        scheme = distilbert(student, teacher)
        values.append(float(scheme.eval()(batch).loss.detach()))
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-5)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_parts_of_a_batch_add_up(accumulate):
    """Labels and real tokens are counted over the whole batch, each for its terms."""
    weights = []
    for parts in (1, accumulate):
        student = bert(0)
        scheme = kd.Distiller(student, bert(1, layers=2), 5 * losses.KD(T=2) + 2 * losses.CE())
        kd.fit(scheme, data_of(*texts()), kd.Recipe(epochs=1, batch=12, accumulate=parts, lr=0.01,
                                                    optimizer="sgd"))
        weights.append(torch.cat([p.detach().cpu().flatten() for p in student.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_a_whole_training_report_and_doctor():
    data = data_of(*texts(48))
    scheme = distilbert(bert(0), bert(1, layers=2))
    history = kd.fit(scheme, data, kd.Recipe(epochs=2, batch=12, lr=0.003))
    assert all(math.isfinite(row["loss"]) for row in history.rows)
    shown = repr(kd.report(scheme, data))
    assert "rows of Tokens(ignore=-100, mask='attention_mask', partly=True)" in shown
    kd.doctor(scheme, data)


def test_tinyberts_four_terms():
    """Embeddings and hidden states behind matrices, scores before the softmax, and the gradient of
    the soft cross-entropy; padding counts nowhere."""
    student, teacher, (x, y) = bert(0, width=8), bert(1, layers=2), texts()
    scores = "bert.encoder.layer.{}.attention.self[1]"
    terms = [losses.HiddenMSE("bert.embeddings", "bert.embeddings"),
             losses.HiddenMSE(hidden(1), hidden(2)),
             losses.AttentionMSE(scores.format(0), scores.format(1))]
    scheme = kd.Distiller(student, teacher, terms[0] + terms[1] + terms[2] + losses.KD(T=1))
    batch = Batch(x, y, torch.arange(len(y)), task=kd.tasks.Tokens(partly=True))
    scheme.build(batch, 0)
    found = scheme(batch)
    paths = [terms[0].student_paths[0], hidden(1), scores.format(0)]
    their = ["bert.embeddings", hidden(2), scores.format(1)]
    s, t = kd.taps(student.eval(), paths)(**x), kd.taps(teacher, their)(**x)
    real = x["attention_mask"].numpy() > 0
    parts = list(found.parts.values())
    for number, term in enumerate(terms):
        a, b = (view.taps[path].detach().double() for view, path in
                ((s, paths[number]), (t, their[number])))
        if number < 2:
            a = a @ term.projection.weight.detach().double().T
            each = [(a - b).square()[i][real[i]].mean() for i in range(len(y))]
        else:
            each = [(a - b).square()[i][:, real[i]][:, :, real[i]].mean() for i in range(len(y))]
        torch.testing.assert_close(parts[number].detach().double(), torch.stack(each).mean(),
                                   rtol=1e-4, atol=1e-7)
    real = torch.from_numpy(real)
    soft = losses.soft_cross_entropy(s.logits[real], t.logits[real].detach(), T=1)
    ours = torch.autograd.grad(losses.kd(s.logits[real], t.logits[real].detach(), T=1), s.logits,
                               retain_graph=True)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(soft, s.logits)[0])


@pytest.mark.parametrize("term", [
    lambda: losses.AttentionKL(*2 * ["bert.encoder.layer.0.attention.self[1]"]),
    lambda: losses.ValueRelation(*2 * ["bert.encoder.layer.0.attention.self.value"], heads=2),
    lambda: losses.SelfRelation(*2 * [[f"bert.encoder.layer.0.attention.self.{part}"
                                       for part in ("query", "key", "value")]], heads=4)])
def test_minilm_with_padding_and_one_label_for_each_text(term):
    """The mask is read in every task; padding and what is in it do not matter."""
    student, teacher, (x, _) = bert(0).eval(), bert(1), texts()
    values = []
    keep = x["attention_mask"].sum(1) <= 4
    for width, ids in ((TEXT, 0), (4, 0), (TEXT, 7)):
        other = {name: part[keep][:, :width].clone() for name, part in x.items()}
        other["input_ids"][other["attention_mask"] == 0] = ids
        batch = Batch(other, None, torch.arange(int(keep.sum())), task=kd.tasks.Unlabelled())
        values.append(float(kd.Distiller(student, teacher, term()).eval()(batch).loss.detach()))
    assert values[0] > 0
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-4)


# --- two vocabularies ---------------------------------------------------------------------------


class Words(nn.Module):
    def __init__(self, seed, words):
        super().__init__()
        self.words = words
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.table = nn.Embedding(V, words)

    def forward(self, ids):
        return self.table(ids)


@pytest.mark.parametrize("words", [9, 14])
def test_uld_of_two_vocabularies_in_a_scheme(words):
    student, teacher = Words(0, 11), Words(1, words)
    ids = torch.randint(V, (20, 4), generator=torch.Generator().manual_seed(0))
    y = (ids % 11).where(torch.arange(4) < 3, -100)
    data = kd.data.from_arrays({"ids": ids}, y, classes=11, task=kd.tasks.Tokens())
    scheme = kd.Distiller(student, teacher, losses.CE() + 1.5 * losses.ULD())
    batch = next(data.train.batches(8, 0))
    scheme.build(batch, 0)
    known = (batch.y != -100).flatten().numpy()
    rows = [net(**batch.x).detach().double().flatten(0, 1).numpy()[known]
            for net in (student, teacher)]
    expected = oracles.uld(*rows).mean()
    assert float(scheme(batch).parts["ULD"].detach()) == pytest.approx(expected, rel=1e-5)
    assert len(kd.fit(scheme, data, kd.Recipe(epochs=2, batch=8))) == 2
    with pytest.raises(ValueError, match=r"the same classes, got 11 and .*ULD\(\)"):
        kd.Distiller(Words(0, 11), Words(1, words), losses.KD()).build(batch, 0)


def test_uld_does_not_see_which_token():
    """Its blind spot: the same numbers on other tokens are loss 0."""
    teacher = randn(6, 9)
    student = teacher.roll(1, 1)
    assert float(losses.uld(student, teacher)) == pytest.approx(0, abs=1e-14)
    assert losses.kd(student, teacher, T=1) > 0.5
    with pytest.raises(ValueError, match=r"as many rows, got \[6, 9\] and \[5, 9\]"):
        losses.uld(student, teacher[:5])
