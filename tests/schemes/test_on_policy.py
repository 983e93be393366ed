"""Distillation on the student's own texts: whose texts, which places count, and that they are drawn
from the student."""

import math

import numpy as np
import pytest
import torch
from conftest import state
from helpers import oracles
from torch import nn

import kdcourse as kd
from kdcourse import losses
from kdcourse.data import Batch
from kdcourse.schemes import continued
from kdcourse.teachers import Vocabulary

V, N = 7, 6


class Language(nn.Module):
    """A causal language model: a mean of what was read, and dropout."""

    def __init__(self, seed, words=V):
        super().__init__()
        self.table, self.head = nn.Embedding(words, 8), nn.Linear(8, words)
        self.dropout = nn.Dropout(0.2)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))

    def forward(self, input_ids, attention_mask=None):
        x = self.table(input_ids)
        steps = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return self.head(self.dropout(x + x.cumsum(1) / steps))


def texts(count=24, seed=0):
    """Ids, masks of padding, and next tokens, -100 in the prompt (2 or 3 tokens) and padding."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (count, N), generator=random)
    place = torch.arange(N)
    length = torch.randint(4, N + 1, (count, 1), generator=random)
    prompt = torch.randint(2, 4, (count, 1), generator=random)
    y = ids.roll(-1, 1).where((place >= prompt - 1) & (place < length - 1), -100)
    return {"input_ids": ids, "attention_mask": (place < length).long()}, y, prompt[:, 0]


def data_of(x, y):
    half = ({name: part[:6] for name, part in x.items()}, y[:6])
    return kd.data.from_arrays(x, y, classes=V, val=half, test=half, task=kd.tasks.Tokens())


def whole(seed=0):
    x, y, prompt = texts(seed=seed)
    return Batch(x, y, torch.arange(len(y)), task=kd.tasks.Tokens()), prompt


RECIPE = kd.Recipe(epochs=3, batch=8, lr=0.01)


# --- whose texts --------------------------------------------------------------------------------


def test_without_own_texts_it_is_a_distiller_to_the_bit():
    found = []
    for make in (kd.Distiller, lambda *given: kd.OnPolicy(*given, share=0)):
        student = Language(0)
        history = kd.fit(make(student, Language(1), losses.CE() + losses.KD(T=2)),
                         data_of(*texts()[:2]), RECIPE, seed=3)
        found.append((state(student.cpu()), history["loss"]))
    assert found[0] == found[1]


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_the_share_of_batches_with_own_texts(share):
    batch, _ = whole()
    scheme = kd.OnPolicy(Language(0), Language(1), share=share).train()
    own = [scheme.with_inputs(batch) is not batch for _ in range(400)]
    assert np.mean(own) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 400))
    again = kd.OnPolicy(Language(0), Language(1), share=share).train()
    assert own == [again.with_inputs(batch) is not batch for _ in range(400)]
    other = kd.OnPolicy(Language(0), Language(1), share=0.5, seed=1).train()
    assert own != [other.with_inputs(batch) is not batch for _ in range(400)]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("kind", ["dict", "tensor"])
def test_texts_come_from_the_student(temperature, kind):
    """Pairs of tokens behind a prompt against their exact probabilities: chi-square, V² cells."""
    student, many = Language(0).eval(), 20_000
    ids = torch.randint(V, (1, 4), generator=torch.Generator().manual_seed(5)).repeat(many, 1)
    x = {"input_ids": ids} if kind == "dict" else ids
    y = ids.roll(-1, 1)
    scheme = kd.OnPolicy(student, Language(1), share=1.0, prompt=2, temperature=temperature)
    written = scheme.with_inputs(Batch(x, y, None, task=kd.tasks.Tokens())).x
    written = written["input_ids"] if kind == "dict" else written
    assert torch.equal(written[:, :2], ids[:, :2])
    with torch.no_grad():
        def after(text):
            return (student(text)[0, -1].double() / temperature).softmax(0)

        first = after(ids[:1, :2])
        expected = torch.stack([first[a] * after(torch.tensor([[*ids[0, :2], a]]))
                                for a in range(V)])
    counts = torch.bincount(written[:, 2] * V + written[:, 3], minlength=V * V).double()
    expected = many * expected.flatten()
    large = expected > 5
    chi = ((counts - expected).square() / expected)[large].sum()
    degrees = int(large.sum()) - 1
    assert abs(chi - degrees) < 5 * math.sqrt(2 * degrees)
    assert counts[~large].sum() == pytest.approx(float(expected[~large].sum()),
                                                 abs=5 * float(expected[~large].sum() + 1) ** 0.5)


def test_the_most_probable_tokens():
    model, x = Language(0).eval(), torch.randint(V, (5, N))
    found = continued(model, x, torch.full((5,), 2), torch.rand(5, N), temperature=0)
    for n in range(2, N):
        assert torch.equal(found[:, n], model(found[:, :n])[:, -1].argmax(1))


# --- which places count -------------------------------------------------------------------------


@pytest.mark.parametrize("end", [None, 3])
@pytest.mark.parametrize("objective", [
    lambda: losses.KD(T=1), lambda: losses.ReverseKL(T=1),
    lambda: losses.JS(0.1, T=1, variant="paper"), lambda: losses.SkewKL()])
def test_the_loss_counts_what_was_written(end, objective):
    """By a loop over texts, against oracles: from the last token of the prompt to the end."""
    batch, prompts = whole()
    student, teacher = Language(0).eval(), Language(1)
    scheme = kd.OnPolicy(student, teacher, objective(), share=1.0, end=end).eval()
    written = scheme.with_inputs(batch)
    loss = scheme(batch).loss  # the same draws, as it does not train
    s, t = (net.eval()(**written.x).detach().double().numpy() for net in (student, teacher))
    oracle = {"KD": lambda a, b: oracles.kd(a, b, 1), "JS": lambda a, b: oracles.jensen_shannon(
        a, b, 0.1, 1, "paper"), "ReverseKL": lambda a, b: oracles.reverse_kl(a, b, 1),
        "SkewKL": lambda a, b: oracles.skew_kl(a, b, 0.1, 1)}[type(objective()).__name__]
    values = []
    for b, prompt in enumerate(prompts.tolist()):
        text = written.x["input_ids"][b].tolist()
        assert text[:prompt] == batch.x["input_ids"][b, :prompt].tolist()
        for n in range(prompt - 1, N):
            if n >= prompt and text[n] == end:
                break
            values.append(oracle(s[b, n][None], t[b, n][None])[0])
        # What is read: the prompt and what was written, not the data's padding.
        stop = n + 1 if end in text[prompt:] else N
        assert written.x["attention_mask"][b].tolist() == [1] * stop + [0] * (N - stop)
    assert float(loss.detach()) == pytest.approx(np.mean(values), rel=1e-5)
    assert int((written.y != -100).sum()) == len(values)


def test_the_gradient_is_that_of_given_texts():
    """No gradient flows through the draws, and the student writes in eval mode."""
    batch, _ = whole()
    scheme = kd.OnPolicy(Language(0), Language(1), losses.KD(T=1), share=1.0)
    modes = []
    scheme.student.register_forward_pre_hook(lambda m, args, kwargs: modes.append(
        (m.training, torch.is_grad_enabled())), with_kwargs=True)
    scheme.train().student.dropout.p = 0.0
    written, scheme.calls = scheme.with_inputs(batch), 0
    assert modes == [(False, False)] * (N - 1)
    assert scheme.student.training and scheme.student.dropout.training
    slopes = torch.autograd.grad(scheme(batch).loss, list(scheme.student.parameters()))
    given = kd.Distiller(scheme.student, Language(1), losses.KD(T=1))
    for ours, theirs in zip(slopes, torch.autograd.grad(
            given(written).loss, list(scheme.student.parameters())), strict=True):
        assert torch.equal(ours, theirs)


def test_texts_without_labels_or_answers_stay():
    x, y, _ = texts()
    y[::2] = -100
    batch = Batch(x, y, None, task=kd.tasks.Tokens())
    written = kd.OnPolicy(Language(0), Language(1), share=1.0).with_inputs(batch)
    assert torch.equal(written.x["input_ids"][::2], x["input_ids"][::2])
    assert torch.equal(written.x["attention_mask"][::2], x["attention_mask"][::2])
    assert (written.y[::2] == -100).all()
    assert (written.y[1::2] != -100).any(1).all()


def test_outputs_that_are_no_tokens_are_not_written():
    student, teacher = Language(0, words=V + 4), Language(1)
    with torch.no_grad():
        student.head.bias[V:] += 20
    names = [f"w{number}" for number in range(V)]
    scheme = kd.OnPolicy(student, Vocabulary(teacher, names, names), share=1.0)
    batch, _ = whole()
    assert scheme.with_inputs(batch).x["input_ids"].max() < V
    assert torch.isfinite(scheme(batch).loss)


# --- trainings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 2])
def test_a_training_that_was_stopped_goes_on_the_same(tmp_path, stop):
    x, y, _ = texts()
    data, found = data_of(x, y), []

    def run(path, after=None):
        scheme = kd.OnPolicy(Language(0), Language(1), losses.JS(0.5), share=0.6)

        def on_epoch(row):
            if row["epoch"] == after:
                raise KeyboardInterrupt

        kd.fit(scheme, data, RECIPE, seed=2, checkpoint=path, on_epoch=on_epoch)
        return state(scheme.student.cpu())

    found.append(run(tmp_path / "whole.safetensors"))
    run(tmp_path / "parts.safetensors", stop)
    found.append(run(tmp_path / "parts.safetensors"))
    assert found[0] == found[1]


def test_it_learns_what_the_teacher_says_of_its_own_texts():
    """Letters that follow each other: on its own texts the student comes near to the teacher."""
    student, teacher = nn.Embedding(V, V), nn.Embedding(V, V)
    with torch.no_grad():
        student.weight.zero_()
        teacher.weight.copy_(2 * torch.randn(V, V, generator=torch.Generator().manual_seed(1)))
    ids = torch.randint(V, (64, N), generator=torch.Generator().manual_seed(0))
    data = kd.data.from_arrays({"input": ids}, ids.roll(-1, 1), classes=V, task=kd.tasks.Tokens())
    scheme = kd.OnPolicy(student, teacher, losses.ReverseKL(T=1), share=1.0, ids="input")
    history = kd.fit(scheme, data, kd.Recipe(epochs=40, batch=32, lr=0.1))
    assert history["loss"][-1] < history["loss"][0] / 10


def test_a_model_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=V, n_positions=N, n_embd=8, n_layer=1, n_head=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student, teacher = (transformers.GPT2LMHeadModel(config) for _ in range(2))
    scheme = kd.OnPolicy(student, teacher, losses.JS(0.5), share=0.7, end=2)
    history = kd.fit(scheme, data_of(*texts()[:2]), RECIPE)
    assert all(math.isfinite(row["loss"]) for row in history.rows)
    assert repr(scheme).endswith(", share=0.7)")
    assert repr(scheme.averaged(0.9)).endswith(", share=0.7).averaged(0.9)")


# --- what is refused ----------------------------------------------------------------------------


def test_what_cannot_be():
    student, teacher, data = Language(0), Language(1), data_of(*texts()[:2])
    for settings, message in (
            ({"share": 1.5}, "share between 0 and 1"), ({"temperature": 0}, "temperature of"),
            ({"prompt": 0}, "prompt of at least 1"),
            ({"objective": losses.CE() + losses.KD()}, r"compare with the teacher alone.*CE\(\)"),
            ({"objective": 1.0 * losses.DKD()}, r"compare with the teacher alone.*DKD\(")):
        with pytest.raises(ValueError, match=message):
            kd.OnPolicy(student, teacher, **settings)
    cached = kd.Cached(teacher, data)
    with pytest.raises(ValueError, match="got stored answers to those of the data"):
        kd.OnPolicy(student, cached)
    kd.OnPolicy(student, cached, share=0)
    with pytest.raises(ValueError, match="whole batches for texts by the student"):
        kd.fit(kd.OnPolicy(student, teacher, share=1.0), data,
               kd.Recipe(epochs=1, batch=8, accumulate=2))
    images = kd.data.glyphs(train=36, val=36, test=36, size=12)
    scheme = kd.OnPolicy(nn.Sequential(nn.Flatten(), nn.Linear(144, 36)),
                         nn.Sequential(nn.Flatten(), nn.Linear(144, 36)))
    with pytest.raises(ValueError, match=r"a label for each token, kd.tasks.Tokens\(\)"):
        scheme.check(images)


def test_rows_of_comparisons_tell_shares_apart():
    from kdcourse._key import key_of

    keys = {key_of(kd.OnPolicy(Language(0), Language(1), **more)).exact
            for more in ({}, {"share": 0.2}, {"temperature": 2.0}, {"seed": 1}, {"end": 3},
                         {"prompt": 2})}
    assert len(keys) == 6
