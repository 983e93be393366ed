"""Language models: ours against those of transformers, what they see, and what they write."""

import copy
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import state
from helpers import language
from helpers.language import LENGTH, V, ids, mask

import kdcourse as kd
from kdcourse import models
from kdcourse.losses import CE, KD, AttentionKL, AttentionMSE, HiddenMSE, SelfRelation
from kdcourse.losses import ValueRelation as ValueRelationOf
from kdcourse.models import bert, generate, gpt

BOTH = pytest.mark.parametrize("make", [gpt, bert], ids=["gpt", "bert"])
THEIRS = {"gpt": language.gpt2, "bert": language.bert}


def small(make, dim=16, seed=0, depth=2, **settings):
    return make(V, dim, depth, 2, LENGTH, seed=seed, **settings)


def lively(make, seed=0):
    """In float64, with weights so large that attention is far from uniform."""
    return language.random(lambda: small(make, seed=seed), seed)


# --- against transformers -----------------------------------------------------------------------


@BOTH
@torch.no_grad()
def test_it_is_the_model_of_transformers(make):
    theirs = language.random(functools.partial(THEIRS[make.__name__], depth=3))
    x = {"input_ids": ids(), "attention_mask": mask()}
    real = mask() == 1
    model = language.ours(theirs)
    expected = theirs(**x, output_hidden_states=True, output_attentions=True)
    one, other = expected.attentions[2].unbind(1)
    assert (one - other).abs().max() > 0.1  # heads that are alike would hide a mistake
    found = kd.taps(model, ["embed", *(f"blocks.{i}" for i in range(3)), "last",
                            *(f"blocks.{i}.attn.softmax" for i in range(3))])(**x)
    close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-10)
    close(found.logits[real], expected.logits[real])
    close(model(ids()), theirs(ids()).logits)
    # the last hidden state that GPT-2 of transformers gives is behind the last norm
    hidden = ["embed", "blocks.0", "blocks.1", "last" if make is gpt else "blocks.2"]
    for path, other in zip(hidden, expected.hidden_states, strict=True):
        close(found.taps[path][real], other[real])
    for i, other in enumerate(expected.attentions):
        close(found.taps[f"blocks.{i}.attn.softmax"].transpose(1, 2)[real],
              other.transpose(1, 2)[real])


@BOTH
def test_its_gradients_are_those_of_transformers(make):
    theirs = language.random(THEIRS[make.__name__])
    model, y = language.ours(theirs), ids(seed=5)
    F.cross_entropy(theirs(ids()).logits.flatten(0, 1), y.flatten()).backward()
    F.cross_entropy(model(ids()).flatten(0, 1), y.flatten()).backward()
    base = theirs.transformer if make is gpt else theirs.bert.embeddings
    expected = (base.wte if make is gpt else base.word_embeddings).weight.grad
    torch.testing.assert_close(model.tokens.weight.grad, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("top_k", [None, 1])
def test_greedy_texts_are_those_of_transformers(top_k):
    theirs = language.random(language.gpt2)
    theirs.generation_config.eos_token_id = None
    expected = theirs.generate(ids(length=3), max_new_tokens=12, do_sample=False, pad_token_id=0)
    for model in (language.ours(theirs), theirs):
        drawn = {} if top_k is None else {"generator": torch.Generator()}
        found = generate(model, ids(length=3), 12, 0 if top_k is None else 1.0, top_k, **drawn)
        assert torch.equal(found, expected)
    assert len(expected.unique()) > 3


# --- what a token sees --------------------------------------------------------------------------


@torch.no_grad()
def test_what_comes_later_moves_nothing():
    model, x = lively(gpt), ids()
    for n in range(1, x.shape[1]):
        other = x.clone()
        other[:, n:] = (x[:, n:] + 1) % V
        found, before = model(other), model(x)
        torch.testing.assert_close(found[:, :n], before[:, :n], rtol=0, atol=1e-12)
        assert not torch.isclose(found[:, n], before[:, n]).all(1).any()
    found, before = lively(bert)(other), lively(bert)(x)
    assert not torch.isclose(found, before).all(2).any()  # in an encoder everything sees it


@BOTH
@torch.no_grad()
def test_padding_moves_nothing(make):
    model, x, real = lively(make), ids(), mask()
    found = model(x, real)
    torch.testing.assert_close(model(x, real.bool()), found)
    torch.testing.assert_close(model((x + 7 * (1 - real)) % V, real)[real == 1], found[real == 1])
    for row, length in enumerate(real.sum(1).tolist()):
        alone = model(x[row : row + 1, :length])
        torch.testing.assert_close(found[row : row + 1, :length], alone, rtol=0, atol=1e-12)
    if make is bert:  # else it would see the padding
        assert not torch.isclose(model(x), found)[real.sum(1) < 9].any()


@BOTH
def test_a_text_of_padding_alone_is_finite(make):
    """Also for the gradient, and where padding comes first, as some tokenizers do it."""
    model, real = lively(make), mask().flip(1)
    real[0] = 0
    loss = model(ids(), real).square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@BOTH
@torch.no_grad()
def test_what_can_be_tapped(make):
    model, x = lively(make), {"input_ids": ids(), "attention_mask": mask()}
    path = "blocks.1.attn"
    found = kd.taps(model, [f"{path}.{name}" for name in (
        "query", "key", "value", "softmax:input", "softmax", "proj:input")])(**x).taps
    q, k, v = (found[f"{path}.{name}"].unflatten(2, (2, 8)) for name in ("query", "key", "value"))
    scores, attention = found[f"{path}.softmax:input"], found[f"{path}.softmax"]
    for b, a, n, m in torch.cartesian_prod(*map(torch.arange, scores.shape)).tolist():
        seen = m == n or ((m < n or make is bert) and bool(mask()[b, m]))
        expected = float(q[b, n, a] @ k[b, m, a]) / 8**0.5 if seen else -math.inf
        assert float(scores[b, a, n, m]) == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(attention, scores.softmax(3))
    torch.testing.assert_close(found[f"{path}.proj:input"], torch.einsum(
        "banm,bmad->bnad", attention, v).flatten(2))


# --- how it is made -----------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("v", "dim", "depth", "length"), [(20, 16, 2, 16), (7, 12, 3, 5)])
def test_number_of_parameters(make, tied, v, dim, depth, length):
    model = make(v, dim, depth, 2, length, tied=tied)
    rest = 2 * dim if make is gpt else v + dim**2 + 5 * dim
    expected = v * dim * (2 - tied) + length * dim + depth * (12 * dim**2 + 13 * dim) + rest
    assert kd.measure.parameters(model) == expected
    assert (model.head.weight is model.tokens.weight) == tied


@BOTH
def test_weights_come_from_the_seed_alone(make):
    torch.manual_seed(1)
    first, before = state(small(make, seed=3)), torch.get_rng_state()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert state(small(make, seed=3)) == first != state(small(make, seed=4))
    assert small(make).spec == (f"{make.__name__}(vocabulary=20, dim=16, depth=2, heads=2, "
                                "length=16, tied=True, dropout=0.0, std=0.02)")


@BOTH
@pytest.mark.parametrize("std", [0.02, 0.1])
def test_the_first_weights_are_those_of_the_papers(make, std):
    model = make(300, 64, 8, 2, 200, std=std)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            expected = 1.0 if "norm" in name or name in (
                "last.weight", "last.2.weight", "embed.0.weight") else 0.0
            if name.endswith("bias"):
                expected = 0.0
            assert (parameter == expected).all(), name
        else:
            last = make is gpt and name.endswith(("attn.proj.weight", "mlp.2.weight"))
            expected = std / 4 if last else std  # 4 = √(2 * 8)
            assert parameter.std().item() == pytest.approx(expected, rel=0.06), name
            assert abs(parameter.mean().item()) < 0.1 * expected, name


@pytest.mark.parametrize(("call", "message"), [
    (lambda: gpt(V, 16, 2, 3), "heads that divide dim 16, got 3"),
    (lambda: bert(V, 16, 2, 0), "heads of at least 1, got 0"),
    (lambda: gpt(0, 16, 2, 2), "vocabulary of at least 1, got 0"),
    (lambda: small(gpt)(ids(length=17)), "at most 16 tokens, got 17. Cut the texts, or"),
    (lambda: small(bert)(ids(), mask()[0]), r"of the shape of the ids, \[5, 9\], got \[9\]"),
    (lambda: generate(small(gpt), ids(), 2), "unless the temperature is 0, generator=.*None.$"),
    (lambda: generate(small(gpt), ids(), 2, -1, None, torch.Generator()), "of at least 0"),
    (lambda: generate(small(gpt), ids(), 2, 1, 0, torch.Generator()), "top_k None or at least 1"),
    (lambda: generate(small(gpt), ids(), 9, 0), "at most 16 tokens, got 17"),
])
def test_what_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@BOTH
def test_dropout_is_everywhere_and_only_in_training(make):
    model, x = small(make, dropout=0.4), ids()
    assert torch.equal(model.eval()(x), small(make)(x))
    model.train()
    found = kd.taps(model, ["embed", "blocks.0.attn.softmax", "blocks.0.attn.drop"])(x).taps
    assert 0.2 < (found["embed"] == 0).float().mean() < 0.6
    attention = found["blocks.0.attn.softmax"]  # before dropout
    torch.testing.assert_close(attention.sum(3), torch.ones(5, 2, 9))
    assert 0.2 < (found["blocks.0.attn.drop"] == 0)[attention > 0].float().mean() < 0.6
    kept = kd.taps(model, ["blocks.0.drop#2", "blocks.0.drop#1"])(x).taps.values()
    assert all(0.2 < (value == 0).float().mean() < 0.6 for value in kept)


# --- where it runs ------------------------------------------------------------------------------


@BOTH
def test_in_bfloat16(make):
    device = kd.default_device()
    model = small(make, std=0.2).to(device)
    x, real = ids().to(device), mask().to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = model(x, real)
    assert found.dtype == torch.bfloat16
    expected = model(x, real)
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)
    found.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@BOTH
@torch.no_grad()
def test_it_can_be_exported(make):
    model, batch = small(make).eval(), torch.export.Dim("batch", min=2)
    tokens = torch.export.Dim("tokens", min=2, max=LENGTH)
    program = torch.export.export(model, (ids(), mask()), dynamic_shapes=(2 * [
        {0: batch, 1: tokens}]))
    for count, length in ((5, 9), (3, 16)):
        x = ids(count, length), mask(count, length)
        torch.testing.assert_close(program.module()(*x), model(*x))


# --- in a training ------------------------------------------------------------------------------


def texts(kind):
    x, real = ids(40), mask(40)
    following = torch.cat([x[:, 1:], torch.full((40, 1), -100)], 1)
    padded = torch.cat([real[:, 1:], real[:, :1]], 1) == 0
    hidden = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    inputs, y = {
        "ids": (x, following),
        "dict": ({"input_ids": x, "attention_mask": real}, following.masked_fill(padded, -100)),
        "masked": ({"input_ids": x.masked_fill(hidden, 0), "attention_mask": real},
                   x.masked_fill(~hidden | (real == 0), -100)),
        "classes": ({"input_ids": x, "attention_mask": real}, x[:, 0] % 3),
    }[kind]
    if kind == "classes":
        return kd.data.from_arrays(inputs, y, name=kind)
    return kd.data.from_arrays(inputs, y, classes=V, task=kd.tasks.Tokens(), name=kind)


MODELS = {  # kind of texts, a model by width, a path of hidden states
    "gpt, ids": ("ids", lambda dim: small(gpt, dim), "blocks.1"),
    "gpt, a dict": ("dict", lambda dim: small(gpt, dim), "blocks.1"),
    "bert": ("masked", lambda dim: small(bert, dim), "blocks.1"),
    "GPT-2, ids": ("ids", lambda dim: language.gpt2(dim), "transformer.h.1"),
    "GPT-2, a dict": ("dict", lambda dim: language.gpt2(dim), "transformer.h.1"),
    "BERT": ("masked", lambda dim: language.bert(dim=dim), "bert.encoder.layer.1"),
    "BERT, classes": ("classes", lambda dim: language.bert(
        "SequenceClassification", dim, num_labels=3), "bert.encoder.layer.1"),
}
RECIPE = kd.Recipe(epochs=2, batch=8, lr=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_training_report_doctor_and_export(name, tmp_path):
    kind, make, path = MODELS[name]
    data = texts(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, teacher = make(8), make(12)

    def scheme():
        return kd.Distiller(copy.deepcopy(first), teacher, CE() + KD(T=2) + HiddenMSE(path, path))

    runs = [scheme(), scheme()]
    for run in runs:
        history = kd.fit(run, data, RECIPE, checkpoint=tmp_path / "run.safetensors")
        assert all(math.isfinite(value) for value in history["loss"])
    assert state(runs[0].student) == state(runs[1].student)
    run = runs[0]
    row = kd.report(run, data).rows["student"]
    assert 0 <= row["accuracy"] <= 1 and row["macs"] > 0
    tied = sum(p.numel() for p in run.student.parameters())  # shared weights are counted once
    assert row["parameters"] == tied
    assert not any("fit() stops" in finding.why for finding in kd.doctor(scheme(), data))
    small = kd.export(run)
    x = data.val.x if isinstance(data.val.x, dict) else {"input_ids": data.val.x}
    x = {key: value.to(kd.default_device()) for key, value in x.items()}
    expected = run.student.eval()(**x)
    expected = getattr(expected, "logits", expected)
    found = small(**x)
    torch.testing.assert_close(getattr(found, "logits", found), expected)
    stored = kd.Distiller(copy.deepcopy(first), kd.Cached(teacher, data), CE() + KD(T=2))
    assert math.isfinite(kd.fit(stored, data, RECIPE)["loss"][-1])


def test_the_terms_of_one_step_are_those_of_a_loop():
    data, student, teacher = texts("dict"), lively(gpt, 1), lively(gpt, 2)
    batch = next(data.train.batches(8))
    with torch.no_grad():
        found = kd.Distiller(student, teacher, CE() + KD(T=2))(batch).parts
    s, t = (model(**batch.x).detach() for model in (student, teacher))
    ce = kl = count = 0
    for b, n in (batch.y != -100).nonzero().tolist():
        ce -= float(s[b, n].log_softmax(0)[batch.y[b, n]])
        p, log_q = (t[b, n] / 2).softmax(0), (s[b, n] / 2).log_softmax(0)
        kl += 4 * float((p * (p.log() - log_q)).sum())
        count += 1
    assert float(found["CE"]) == pytest.approx(ce / count, rel=1e-5)
    assert float(found["KD"]) == pytest.approx(kl / count, rel=1e-5)


@pytest.mark.parametrize("make", [gpt, bert], ids=["gpt", "bert"])
@pytest.mark.parametrize("term", [
    lambda: AttentionMSE(*2 * ["blocks.1.attn.softmax:input"]),
    lambda: AttentionKL(*2 * ["blocks.1.attn.softmax:input"], scores=True),
    lambda: AttentionKL(*2 * ["blocks.1.attn.softmax"]),
    lambda: ValueRelationOf(*2 * ["blocks.1.attn.value"], heads=2),
    lambda: SelfRelation(*2 * [[f"blocks.1.attn.{name}" for name in ("query", "key", "value")]],
                         heads=4),
    lambda: HiddenMSE("embed", "embed"),
], ids=["scores", "KL of scores", "KL", "values", "relations", "embeddings"])
def test_losses_on_transformers(make, term):
    data = texts("dict" if make is gpt else "masked")
    student = small(make, 8, std=0.3)
    before = state(student)
    history = kd.fit(kd.Distiller(student, small(make, 12, 1, std=0.3), 1.0 * term()), data, RECIPE)
    assert all(math.isfinite(value) and value > 0 for value in history["loss"])
    assert state(student) != before
    assert all(torch.isfinite(p).all() for p in student.parameters())


# --- texts that a model writes ------------------------------------------------------------------


def drawn(seed=0):
    return {"generator": torch.Generator().manual_seed(seed)}


def test_texts_come_from_the_generator_alone():
    model, before = lively(gpt).train(), torch.get_rng_state()
    first = generate(model, ids(length=3), 6, **drawn())
    assert first.shape == (5, 9) and torch.equal(first[:, :3], ids(length=3))
    assert torch.equal(torch.get_rng_state(), before) and model.training
    torch.manual_seed(5)
    assert torch.equal(generate(model, ids(length=3), 6, **drawn()), first)
    assert not torch.equal(generate(model, ids(length=3), 6, **drawn(1)), first)
    assert torch.equal(generate(model, ids(length=3), 0, **drawn()), ids(length=3))


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (2.0, 4)])
def test_tokens_are_drawn_by_their_probability(temperature, top_k):
    """Two tokens of 4,000 texts against their joint probability, in standard errors."""
    model, count = small(gpt, std=0.5).eval(), 4000
    texts = generate(model, ids(1, 2).expand(count, 2), 2, temperature, top_k, **drawn(3))
    follow = torch.zeros(V, V)
    follow.index_put_((texts[:, 2], texts[:, 3]), torch.tensor(1.0), accumulate=True)

    def probability(x):
        z = model(x)[:, -1].detach() / temperature
        if top_k:
            z[z < z.sort(descending=True).values[:, top_k - 1 : top_k]] = -math.inf
        return z.softmax(1)

    first = probability(ids(1, 2))[0]
    second = probability(torch.cat([ids(1, 2).expand(V, 2), torch.arange(V)[:, None]], 1))
    expected = first[:, None] * second
    assert (follow[expected == 0] == 0).all()
    error = (follow / count - expected) / (expected * (1 - expected) / count).sqrt().clamp(1e-9)
    assert error[expected * count > 5].abs().max() < 4.5
    assert (expected * count > 5).sum() > 10


def test_texts_on_a_device():
    device = kd.default_device()
    model = small(gpt, std=0.3)
    expected = generate(model, ids(length=3), 6, **drawn())
    found = generate(model.to(device), ids(length=3), 6, **drawn())
    assert found.device.type == "cpu" and found.shape == expected.shape
    assert (found == expected).float().mean() > 0.5  # rounding may turn a draw, and what follows
    assert generate(model, ids(length=3).to(device), 2, 0).device.type == device.type
    assert set(models.__all__) >= {"gpt", "bert", "generate"}
