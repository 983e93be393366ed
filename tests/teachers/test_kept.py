"""Stored answers of large vocabularies: what the rest as one class loses, what renormalising does,
that draws are unbiased, and vocabularies of other lengths."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import network, restless, state
from torch import nn

import kdcourse as kd
from kdcourse import losses
from kdcourse.data import Batch
from kdcourse.outputs import Kept, with_rest
from kdcourse.teachers import Vocabulary
from kdcourse.teachers.kept import Storage

V = 11


class Language(nn.Module):
    """A language model of V words: logits [B, N, V]."""

    def __init__(self, seed, words=V):
        super().__init__()
        self.table, self.head = nn.Embedding(words, 6), nn.Linear(6, words)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))

    def forward(self, ids):
        return self.head(self.table(ids))


def texts(count=40, length=5):
    ids = torch.randint(V, (count, length), generator=torch.Generator().manual_seed(0))
    y = ids.roll(-1, 1)
    y[:, -1] = -100
    return kd.data.from_arrays({"ids": ids}, y, classes=V, task=kd.tasks.Tokens())


def logits(rows=30, classes=50, seed=0, scale=2.0):
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed),
                               dtype=torch.float64)


def of_top(teacher, k, T=1.0):
    storage = Storage(top=k, T=T)
    found = storage.of(teacher, torch.arange(len(teacher)))
    found = {name: x.double() if x.is_floating_point() else x for name, x in found.items()}
    return kd.Output(torch.cat([T * found["values"], T * found["rest"][:, None]], 1),
                     kept=Kept(found["places"].long(), T))


# --- the rest as one class ----------------------------------------------------------------------


@pytest.mark.parametrize("T", [1.0, 2.5])
@pytest.mark.parametrize("k", [1, 7, 49])
def test_what_the_rest_as_one_class_loses_is_known(k, T):
    """KL = KL over k + 1 classes + p_rest KL within the rest, by a loop in float64."""
    s, t = logits(), logits(seed=1)
    merged = losses.KD(T=T)(kd.Output(s), of_top(t, k, T))
    p, q, lost = (t / T).softmax(1).numpy(), (s / T).softmax(1).numpy(), []
    for a, b in zip(p, q, strict=True):
        rest = np.argsort(-a)[k:]
        inside = sum(a[i] / a[rest].sum() * np.log(a[i] / a[rest].sum() * b[rest].sum() / b[i])
                     for i in rest)
        lost.append(a[rest].sum() * inside)
    assert min(lost) >= -1e-15
    whole = np.mean((p * np.log(p / q)).sum(1))
    assert float(merged) / T**2 + np.mean(lost) == pytest.approx(whole, rel=1e-5)


def minimised(loss, student):
    """Fit free logits."""
    z = student.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        loss(z).backward()
        optimizer.step()
    return z.detach()


def test_what_renormalising_does_to_a_free_student():
    """Of a teacher with half of its mass outside of the k largest: with the rest as a class the
    student puts as much there. Renormalised teacher: nothing. Renormalised on both sides: whatever
    it had at the start, as the loss does not see it."""
    teacher, start = logits(4, 200, scale=1.5), logits(4, 200, seed=2, scale=0.1)
    kept = of_top(teacher, 16)
    places = kept.kept.places
    p, inside = teacher.softmax(1), lambda z: float(z.softmax(1).gather(1, places).sum(1).mean())
    ours = minimised(lambda z: losses.KD(T=1)(kd.Output(z), kept), start)
    assert inside(ours) == pytest.approx(inside(teacher), abs=1e-3)
    assert 0.3 < inside(teacher) < 0.7
    top = p.gather(1, places)
    top = top / top.sum(1, keepdim=True)
    one = minimised(lambda z: F.kl_div(z.log_softmax(1).gather(1, places), top,
                                       reduction="batchmean"), start)
    assert inside(one) > 0.95
    both = minimised(lambda z: losses.kd(z.gather(1, places), top.log(), T=1), start)
    moved = (both + 3).scatter(1, places, both.gather(1, places))  # more mass outside
    assert inside(moved) < inside(both) / 10
    for z in (both, moved):
        assert float(losses.kd(z.gather(1, places), top.log(), T=1)) < 1e-4
    full = losses.kd(ours, teacher, T=1)
    assert full < losses.kd(one, teacher, T=1)
    assert full < losses.kd(moved, teacher, T=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_merging_is_exact_and_keeps_precision(dtype):
    z, places = logits(6, 9).to(dtype), torch.arange(6)[:, None] + torch.tensor([0, 2])
    found = with_rest(z, places, 1.0)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    p = z.double().softmax(1)
    kept = p.gather(1, places)
    expected = torch.cat([kept, 1 - kept.sum(1, keepdim=True)], 1)
    torch.testing.assert_close(found.softmax(1).double(), expected, rtol=1e-5, atol=1e-6)
    all_but = z.clone().fill_(-math.inf).scatter(1, places, 1.0).requires_grad_()
    merged = with_rest(all_but, places, 1.0)
    assert merged[:, -1].isneginf().all()
    merged.log_softmax(1)[:, 0].sum().backward()
    assert all_but.grad.isfinite().all()


def test_training_in_memory_is_that_of_a_loop(tmp_path):
    """By ids, with a file, with views, on any device, and the same student as from the loader."""
    data, students = texts(), []
    for path in (None, tmp_path / "answers.safetensors", tmp_path / "answers.safetensors"):
        cached = kd.Cached(Language(1), data, path, top=4)
        assert cached.top == 4 and repr(cached).endswith("top=4, T=1, 18 bytes a row)")
        student = Language(2)
        kd.fit(kd.Distiller(student, cached, losses.KD(T=1)), data, kd.Recipe(epochs=2, batch=8))
        students.append(state(student.cpu()))
    assert len(set(students)) == 1
    batch = next(data.train.batches(8, 3))
    live, found = Language(1)(**batch.x).detach(), cached.cpu()(batch)
    torch.testing.assert_close(found.logits[..., :4].exp(), live.softmax(-1).topk(4).values,
                               rtol=3e-3, atol=1e-4)
    torch.testing.assert_close(found.logits[..., 4].exp(),
                               1 - live.softmax(-1).topk(4).values.sum(-1), rtol=3e-3, atol=2e-3)
    assert torch.equal(found.kept.places, live.topk(4).indices)
    with pytest.raises(ValueError, match="all logits in memory, got top=4, T=1"):
        _ = cached.logits
    for settings in ({}, {"top": 5}, {"draws": 4}, {"top": 4, "dtype": torch.float32}):
        with pytest.raises(ValueError, match=r"to be of (top|draws|dtype) .*not used"):
            kd.Cached(Language(1), data, tmp_path / "answers.safetensors", **settings)
    whole = tmp_path / "whole.safetensors"
    kd.Cached(Language(1), data, whole)
    with pytest.raises(ValueError, match="to be of top 4, got None"):
        kd.Cached(Language(1), data, whole, top=4)


def test_views_in_memory(data):
    views = kd.augmented(data, views=3, shift=0.2)
    teacher = restless()
    cached, live = kd.Cached(teacher, views, top=36 - 1, dtype=torch.float32), kd.Live(teacher)
    for seed in range(3):
        batch = next(views.train.batches(20, seed=seed))
        found, p = cached(batch), live(batch).logits.softmax(1)
        torch.testing.assert_close(found.logits[:, :-1].exp(), p.gather(1, found.kept.places))
    assert len(kd.fit(kd.Distiller(network(), cached, losses.KD(T=1)), views,
                      kd.Recipe(epochs=2, batch=36))) == 2


@pytest.mark.parametrize("settings", [{"top": 3}, {"draws": 5}])
def test_a_file_is_compared_with_the_teacher(tmp_path, settings):
    data, path, teacher = texts(), tmp_path / "answers.safetensors", Language(1)
    cached = kd.Cached(teacher, data, path, **settings)
    cached._compare(path, data)
    with torch.no_grad():
        teacher.head.weight.mul_(1.2)
    with pytest.raises(ValueError, match="got others for a few samples"):
        cached._compare(path, data)


def test_large_numbers_take_four_bytes():
    assert Storage(top=32).bytes([50_000]) == 32 * (2 + 4) + 4
    half = Storage(top=32, dtype=torch.float16)
    assert half.bytes([50_000]) == 130
    assert half.bytes([152_064]) == 194
    assert Storage(draws=12, dtype=torch.float16).bytes([50_000]) == 60
    teacher = torch.zeros(2, 100_000)
    teacher[0, 70_000], teacher[1, 65_535] = 9, 9
    found = half.unpacked(half.packed(half.of(teacher, torch.arange(2))), None)[1]
    assert found.places[:, 0].tolist() == [70_000, 65_535]
    small = torch.zeros(1, 65_536)
    small[0, 65_535], small[0, 40_000] = 9, 8
    found = half.unpacked(half.packed(half.of(small, torch.arange(1))), None)[1]
    assert found.places[0, :2].tolist() == [65_535, 40_000]


# --- draws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1.0, 2.0])
def test_the_mean_gradient_of_draws_is_that_of_the_whole_teacher(T):
    student, teacher = logits(1, 20).float(), logits(1, 20, seed=1).float()
    many, storage = 20_000, Storage(draws=6, T=T, dtype=torch.float32)
    z = student.expand(many, -1).clone().requires_grad_()
    found = storage.of(teacher.expand(many, -1), torch.arange(many))
    assert (found["counts"].sum(1) == 6).all()
    output, kept = storage.unpacked(storage.packed(found), None)
    losses.KD(T=T)(kd.Output(z), kd.Output(output, kept=kept)).backward()
    slopes = z.grad.double() * many
    whole = student.clone().requires_grad_()
    losses.kd(whole, teacher, T=T).backward()
    error = slopes.std(0) / many**0.5
    away = (slopes.mean(0) - whole.grad[0].double()) / error.clamp(min=1e-9)
    assert away.abs().max() < 4.5
    truncated = student.clone().requires_grad_()  # which the six largest, renormalised, are not
    p = teacher.div(T).softmax(1)
    kept = torch.zeros_like(p).scatter(1, p.topk(6).indices, p.topk(6).values)
    losses.kd(truncated, T * (kept / kept.sum()).log(), T=T).backward()
    assert ((truncated.grad[0].double() - whole.grad[0].double()) / error).abs().max() > 20


def test_draws_of_a_sample_are_its_own_and_stay(tmp_path):
    data = texts()
    cached = kd.Cached(Language(1), data, draws=7)
    again = kd.Cached(Language(1), data, draws=7)
    other = kd.Cached(Language(1), data, draws=7, seed=1)
    batch = next(data.train.batches(16, 0))
    first = cached(batch)
    assert first.kept.drawn
    assert torch.equal(first.logits, again(batch).logits)
    assert not torch.equal(first.logits, other(batch).logits)
    p = first.logits.exp()
    torch.testing.assert_close(p.sum(-1), torch.ones(16, 5))
    assert (p[..., -1] == 0).all()
    assert (7 * p).sub((7 * p).round()).abs().max() < 1e-5  # shares of seven
    same = batch.x["ids"] == batch.x["ids"][0, 0]  # the same teacher's row, other draws
    assert len({tuple(row.tolist()) for row in first.logits[same]}) > 1
    history = kd.fit(kd.Distiller(Language(2), cached, losses.KD(T=1)), data,
                     kd.Recipe(epochs=2, batch=8))
    assert all(math.isfinite(row["loss"]) for row in history.rows)
    for term in (losses.ReverseKL(T=1), losses.JS(T=1), losses.TV(T=1), losses.SkewKL()):
        with pytest.raises(ValueError, match="linear in the teacher's probabilities for draws"):
            kd.Distiller(Language(2), cached.cpu(), term)(batch)
    for settings, message in (({"draws": 300}, "up to 255 draws"), ({"draws": 0}, "draws as a num"),
                              ({"draws": 3, "top": 3}, "or top=…, got draws=3 and top=3")):
        with pytest.raises(ValueError, match=message):
            kd.Cached(Language(1), data, **settings)


# --- vocabularies -------------------------------------------------------------------------------


def words(count):
    return {f"w{number}": number for number in range(count)}


@pytest.mark.parametrize(("ours", "theirs"), [(14, V), (V, 14), (V, V), (14, 16)])
@pytest.mark.parametrize("objective", [lambda: losses.KD(T=2), lambda: losses.ReverseKL(T=2),
                                       lambda: losses.JS(T=2), lambda: losses.TV(T=2)])
def test_longer_vocabularies_are_masked_classes(ours, theirs, objective):
    """The loss is that of the first nine outputs, which have names, whatever the others hold."""
    student, teacher, named = Language(1, ours), Language(2, theirs), 9
    batch = Batch({"ids": torch.randint(named, (3, 4), generator=torch.Generator().manual_seed(1))},
                  torch.zeros(3, 4).long(), torch.arange(3), task=kd.tasks.Tokens())
    scheme = kd.Distiller(student, Vocabulary(teacher, words(named), words(ours)), objective())
    scheme.build(batch, 0)
    s, t = student(**batch.x)[..., :named].flatten(0, 1), teacher(**batch.x)[..., :named]
    expected = objective()(s, t.flatten(0, 1).detach())
    found = scheme(batch).loss
    torch.testing.assert_close(found, expected)
    slopes = torch.autograd.grad(found, student.head.weight)[0]
    torch.testing.assert_close(slopes, torch.autograd.grad(expected, student.head.weight)[0])
    if ours > named:
        assert slopes[named:].abs().max() == 0
    with torch.no_grad():
        teacher.head.bias[named:] += 7  # a padded output of 0 would count: so would this one
        student.head.bias[named:] -= 3
    torch.testing.assert_close(scheme(batch).loss, expected)


@pytest.mark.parametrize(("ours", "theirs"), [(14, V), (9, V)])
def test_the_largest_of_a_longer_vocabulary(ours, theirs):
    data, student, teacher = texts(), Language(1, max(ours, V)), Language(2, theirs)
    named = Vocabulary(teacher, words(9), words(ours))
    with torch.no_grad():
        teacher.head.bias[9:] += 9  # unnamed outputs are no answers
    cached = kd.Cached(named, data, top=3, dtype=torch.float32)
    batch = next(data.train.batches(8, 0))
    assert cached(batch).kept.places.max() < 9
    s = student(**batch.x)[..., :9].flatten(0, 1)
    t = teacher(**batch.x)[..., :9].flatten(0, 1).detach()
    places = t.topk(3).indices
    expected = losses.kd(*(with_rest(x, places) for x in (s, t)), T=1, reduction="none")
    expected = expected[(batch.y != -100).flatten()].mean()
    torch.testing.assert_close(kd.Distiller(student, cached, losses.KD(T=1))(batch).loss, expected)


def test_other_names_are_refused():
    teacher = Language(0)
    for theirs, ours in ((["a", "b"], ["b", "a"]), ({"a": 0, "b": 1}, {"a": 0, "b": 2}),
                         (["a", "b"], ["a", "c"])):
        with pytest.raises(ValueError, match=r"one token for each number on both sides, got ."):
            Vocabulary(teacher, theirs, ours)
    with pytest.raises(ValueError, match="tokens that both sides have, got none"):
        Vocabulary(teacher, {"a": 0}, {"b": 1})
    with pytest.raises(ValueError, match=r"teacher's vocabulary as .*each number once"):
        Vocabulary(teacher, {"a": 0, "b": 0}, {"a": 0})
    batch = Batch({"ids": torch.zeros(2, 3).long()}, None, torch.arange(2), task=kd.tasks.Tokens())
    with pytest.raises(ValueError, match=r"same classes, got 14 and 11.*Vocabulary"):
        kd.Distiller(Language(1, 14), teacher, losses.KD()).build(batch, 0)
    named = Vocabulary(teacher, words(9), words(9))
    with pytest.raises(ValueError, match=r"all logits of each teacher in an .*Vocabulary\("):
        kd.Distiller(Language(1), kd.Ensemble([named, Language(2)]), losses.KD()).build(batch, 0)
    data = texts()
    with pytest.raises(ValueError, match=r"got stored ones. Make Cached"):
        Vocabulary(kd.Cached(teacher, data, top=3), words(9), words(9))(data.train.batches(4)
                                                                       .__next__())
