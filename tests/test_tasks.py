"""Labels, tokens, pixels, numbers and no labels: against loops, and from end to end."""

import copy
import dataclasses
import functools
import math
import os

import pytest
import torch
import torch.nn.functional as F
from conftest import network, state
from helpers.processes import run
from torch import nn

import kdcourse as kd
from kdcourse import losses, tasks
from kdcourse.data import Batch, Split

N, K, L, WORDS = 40, 5, 6, 11


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


class Tagger(nn.Module):
    """What a model of transformers looks like: arguments by name, an output with `.logits`."""

    @dataclasses.dataclass
    class Answer:
        logits: torch.Tensor

    def __init__(self, width=8):
        super().__init__()
        self.embed, self.hidden = nn.Embedding(WORDS, width), nn.Linear(width, width)
        self.head = nn.Linear(width, K)

    def forward(self, input_ids, attention_mask=None):
        x = self.hidden(self.embed(input_ids))
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        return self.Answer(self.head(torch.tanh(x)))


def tagger(seed=0, width=8):
    return seeded(lambda: Tagger(width), seed)


def segmenter(seed=0, width=4):
    return seeded(lambda: nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
                                        nn.Conv2d(width, 3, 1)), seed)


def perceptron(outputs, seed=0, width=8):
    return seeded(lambda: nn.Sequential(nn.Linear(7, width), nn.Tanh(),
                                        nn.Linear(width, outputs)), seed)


def lengths(count=N):
    return 1 + integers(L, count, seed=3)


def tagged():
    mask = (torch.arange(L) < lengths()[:, None]).long()
    ids = integers(WORDS, N, L)
    return {"input_ids": ids, "attention_mask": mask}, (ids % K).masked_fill(mask == 0, -100)


def dataset(kind):
    if kind == "tokens":
        return kd.data.from_arrays(*tagged(), task=tasks.Tokens(), name="tags")
    if kind == "pixels":
        y = integers(3, N, 8, 8, seed=1)
        y[:, :2] = 255
        return kd.data.from_arrays(rand(N, 1, 8, 8), y, task=tasks.Pixels(ignore=255),
                                   classes=3, name="pixels")
    x = rand(N, 7)
    if kind == "labels":
        return kd.data.from_arrays(x, (x[:, :3] > 0).long(), task=tasks.Labels(), name="labels")
    if kind == "numbers":
        return kd.data.from_arrays(x, x[:, :2] + x[:, 2:4], task=tasks.Numbers(), name="numbers")
    if kind == "unlabelled":
        return kd.data.from_arrays(x, None, task=tasks.Unlabelled(), name="unlabelled")
    return kd.data.from_arrays(x, integers(3, N), name="classes")


NETS = {"tokens": tagger, "pixels": segmenter, "classes": functools.partial(perceptron, 3),
        "labels": functools.partial(perceptron, 3), "numbers": functools.partial(perceptron, 2),
        "unlabelled": functools.partial(perceptron, 3)}
KINDS = list(NETS)
RECIPE = kd.Recipe(epochs=2, batch=8, lr=0.01)


def scheme_of(kind, seed=0):
    objective = {"numbers": losses.SquaredError() + 0.5 * losses.LogitMSE(),
                 "unlabelled": 1.0 * losses.KD(T=2)}.get(kind, losses.CE() + losses.KD(T=2))
    hint = {"tokens": "hidden", "pixels": "0"}.get(kind, "0")
    objective = objective + 0.1 * losses.Hint(hint, hint)
    return kd.Distiller(NETS[kind](seed), NETS[kind](seed=9, width=12), objective)


# --- every task from end to end -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_training_report_doctor_and_export(kind):
    data, scheme = dataset(kind), scheme_of(kind)
    history = kd.fit(scheme, data, RECIPE, device="cpu")
    assert all(math.isfinite(value) for value in history["loss"])
    score = history.rows[-1].get("val_accuracy", history.rows[-1].get("val_r2"))
    assert list(history.validated.values())[-1:] == [score] * (score is not None)
    report = kd.report(scheme, data)
    for name in ("student", "teacher"):
        assert report.rows[name]["macs"] > 0 and report.rows[name]["latency_ms"] > 0
    row, text = report.rows["student"], repr(report)
    if kind == "unlabelled":
        assert score is None and "accuracy" not in row and 0 <= row["agreement"] <= 1
    elif kind == "numbers":
        assert score <= 1 and row["r2"] <= 1 and row["teacher_rmse"] > 0
        assert all(name in text for name in ("R²", "RMSE", "RMSE to teacher"))
    else:
        assert 0 <= score <= 1 and 0 <= row["accuracy"] <= 1 and 0 <= row["agreement"] <= 1
    found = kd.doctor(scheme_of(kind), data)
    assert not any("fit() stops" in finding.why for finding in found), found
    student = kd.export(scheme)
    torch.testing.assert_close(kd.models.predict(student, data.val.x),
                               kd.models.predict(scheme.student, data.val.x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_goes_on_to_the_last_bit(kind, tmp_path):
    data, file = dataset(kind), tmp_path / "run.safetensors"
    whole, broken, again = (scheme_of(kind) for _ in range(3))
    kd.fit(whole, data, RECIPE, device="cpu")
    steps = iter(range(1, 99))

    def stop():
        if next(steps) == 6:
            raise KeyboardInterrupt

    broken.after_step = stop
    kd.fit(broken, data, RECIPE, device="cpu", checkpoint=file)
    assert len(kd.fit(again, data, RECIPE, device="cpu", checkpoint=file)) == 2
    assert state(again.student) == state(whole.student)


@pytest.mark.parametrize("kind", KINDS)
def test_a_comparison(kind, home):
    found = kd.compare({"a": lambda seed: scheme_of(kind, seed),
                        "b": lambda seed: scheme_of(kind, seed + 5)}, dataset(kind), RECIPE,
                       seeds=[0, 1])
    assert found.main == {"numbers": "r2", "unlabelled": "agreement"}.get(kind, "accuracy")
    assert f"{found.main} (val)" in repr(found) and len(found.rows) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_stored_answers_train_the_same_student(kind, tmp_path):
    data, students = dataset(kind), []
    objective = losses.LogitMSE() if kind == "numbers" else losses.KD(T=2)
    teacher = NETS[kind](seed=9, width=12)
    for make in (lambda: kd.Live(teacher), lambda: kd.Cached(teacher, data, tmp_path / "a.st"),
                 lambda: kd.Cached(teacher, data, tmp_path / "a.st"),
                 lambda: kd.Ensemble([teacher, copy.deepcopy(teacher)], [1, 2])):
        scheme = kd.Distiller(NETS[kind](), make(), 1.0 * copy.deepcopy(objective))
        kd.fit(scheme, data, RECIPE, device="cpu")
        students.append(scheme.student.state_dict())
    for other in students[1:]:
        torch.testing.assert_close(other, students[0])


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_and_patience(kind):
    recipe = dataclasses.replace(RECIPE, accumulate=3, patience=1)
    if kind == "unlabelled":
        with pytest.raises(ValueError, match=r"labels to validate with, for Recipe\(patience"):
            kd.fit(scheme_of(kind), dataset(kind), recipe)
        recipe = dataclasses.replace(recipe, patience=None)
    assert len(kd.fit(scheme_of(kind), dataset(kind), recipe, device="cpu")) >= 1


# --- rows against independent computations ------------------------------------------------------


class Fixed(nn.Module):
    """A network whose output is its weight, so that its gradient is that of the logits."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output.clone())

    def forward(self, x):
        return self.output[: len(x)]


def step(task, student, y, objective, teacher=None):
    """Value and gradient at the student's output of one step."""
    student = Fixed(student)
    scheme = (kd.Supervised(student, objective) if teacher is None
              else kd.Distiller(student, Fixed(teacher), objective))
    loss = scheme(Batch(torch.zeros(len(student.output), 1), y, None, task=task)).loss
    loss.backward()
    return loss.detach(), student.output.grad


def agree(found, z, loss):
    """The same value and gradient as this function of the logits."""
    z = z.clone().requires_grad_()
    expected = loss(z)
    expected.backward()
    torch.testing.assert_close(found[0], expected.detach())
    torch.testing.assert_close(found[1], z.grad)


@pytest.mark.parametrize("ignore", [-100, 3])
def test_tokens_are_cross_entropy_with_an_ignored_label(ignore):
    z, y = rand(4, 6, K), integers(K, 4, 6)
    y[0, 3:] = y[2, :] = ignore
    found = step(tasks.Tokens(ignore=ignore), z, y, losses.CE())
    agree(found, z, lambda z: F.cross_entropy(z.transpose(1, 2), y, ignore_index=ignore))


def test_tokens_without_any_label_have_a_loss_of_0():
    loss, gradient = step(tasks.Tokens(), rand(2, 3, K), torch.full((2, 3), -100), losses.CE())
    assert loss == 0 and not gradient.any()


def test_what_an_ignored_token_says_does_not_matter():
    z, y = rand(4, 6, K), integers(K, 4, 6)
    y[:, 4:] = -100
    broken = z.clone()
    broken[:, 4:] = 1e9
    for term in (losses.CE(), losses.LabelSmoothing(0.1)):
        (a, _), (b, gradient) = (step(tasks.Tokens(), logits, y, copy.deepcopy(term))
                                 for logits in (z, broken))
        assert a == b and not gradient[:, 4:].any()


def test_distillation_of_tokens_is_a_loop_over_those_that_count():
    z, v, y = rand(3, 5, K), rand(3, 5, K, seed=1), integers(K, 3, 5)
    y[1, 2:] = y[2, 4:] = -100
    found = step(tasks.Tokens(), z, y, 2.0 * losses.KD(T=3) + losses.DKD(T=2), v)
    places = [(b, n) for b in range(3) for n in range(5) if y[b, n] != -100]

    def loop(z):
        kd_rows = [9 * F.kl_div((z[at] / 3).log_softmax(0), (v[at] / 3).softmax(0),
                                reduction="sum") for at in places]
        dkd_rows = [losses.dkd(z[at][None], v[at][None], y[at][None], T=2) for at in places]
        return 2 * torch.stack(kd_rows).mean() + torch.stack(dkd_rows).mean()

    agree(found, z, loop)


def test_a_relation_of_rows_sees_those_that_count():
    z, v, y = rand(3, 5, K), rand(3, 5, K, seed=1), integers(K, 3, 5)
    y[:, 3:] = -100
    found = step(tasks.Tokens(), z, y, losses.DIST(), v)
    agree(found, z, lambda z: losses.dist(z[:, :3].flatten(0, 1), v[:, :3].flatten(0, 1)))


def test_without_labels_the_mask_says_which_tokens_count():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    z, v = rand(2, 3, K), rand(2, 3, K, seed=1)

    class Named(Fixed):
        def forward(self, ids, attention_mask):
            return self.output

    scheme = kd.Distiller(Named(z), Named(v), 1.0 * losses.KD(T=1))
    x = {"ids": torch.zeros(2, 3).long(), "attention_mask": mask}
    loss = scheme(Batch(x, None, None, task=tasks.Tokens())).loss
    torch.testing.assert_close(loss, losses.kd(z[mask == 1], v[mask == 1], T=1))


def test_several_labels_are_binary_cross_entropy():
    z, y = rand(4, 6), integers(2, 4, 6)
    for labels in (y, y.float(), rand(4, 6, seed=2).sigmoid()):
        agree(step(tasks.Labels(), z, labels, losses.CE()), z,
              lambda z, y=labels: F.binary_cross_entropy_with_logits(z, y.float()))


def test_several_labels_are_distilled_as_bernoulli_distributions():
    z, v, T = rand(4, 6), rand(4, 6, seed=1), 3

    def bernoulli(z):
        p, q = (v / T).sigmoid(), (z / T).sigmoid()
        return T**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()

    agree(step(tasks.Labels(), z, integers(2, 4, 6), 1.0 * losses.KD(T=T), v), z, bernoulli)


def test_pixels_are_a_loop():
    z, v, y = rand(2, 3, 4, 5), rand(2, 3, 4, 5, seed=1), integers(3, 2, 4, 5)
    y[0, :, 0] = 255
    found = step(tasks.Pixels(ignore=255), z, y, losses.CE() + losses.KD(T=2), v)

    def loop(z):
        values = []
        for b in range(2):
            for i in range(4):
                for j in range(5):
                    if y[b, i, j] != 255:
                        one, other = z[b, :, i, j], v[b, :, i, j]
                        values.append(-one.log_softmax(0)[y[b, i, j]] + 4 * F.kl_div(
                            (one / 2).log_softmax(0), (other / 2).softmax(0), reduction="sum"))
        return torch.stack(values).mean()

    agree(found, z, loop)


def test_numbers_are_squared_errors():
    z, v, y = rand(4, 3), rand(4, 3, seed=1), rand(4, 3, seed=2)
    found = step(tasks.Numbers(), z, y, losses.SquaredError() + losses.LogitMSE("sum"), v)
    agree(found, z, lambda z: F.mse_loss(z, y) + (z - v).square().sum(1).mean())


def test_soft_and_smoothed_labels_of_tokens_and_pixels():
    z, y = rand(2, 4, 3), integers(3, 2, 4)
    y[0, 2:] = -100
    agree(step(tasks.Tokens(), z, y, losses.LabelSmoothing(0.2)), z, lambda z: F.cross_entropy(
        z.transpose(1, 2), y, label_smoothing=0.2))
    soft = rand(2, 4, 3, seed=2).softmax(-1) * (y != -100)[..., None]  # a row of zeros: no label
    kept = y != -100
    agree(step(tasks.Tokens(), z, soft, losses.CE()), z,
          lambda z: F.cross_entropy(z[kept], soft[kept]))
    pixels = z.transpose(1, 2)[..., None].contiguous()
    agree(step(tasks.Pixels(), pixels, soft.transpose(1, 2)[..., None], losses.CE()), pixels,
          lambda z: F.cross_entropy(z[..., 0].transpose(1, 2)[kept], soft[kept]))


def test_another_output_of_a_network_is_cut_into_rows_as_well():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, K), nn.Linear(4, K)

        def forward(self, x):
            return self.one(x) + 0 * self.two(x)

    student, x, y = seeded(TwoHeads), rand(2, 3, 4), integers(K, 2, 3)
    y[0, 1] = -100
    loss = kd.Supervised(student, losses.CE("two"))(Batch(x, y, None, task=tasks.Tokens())).loss
    torch.testing.assert_close(loss, F.cross_entropy(student.two(x).flatten(0, 1), y.flatten()))


# --- one weighted mean over parts and processes -------------------------------------------------


class Noting(torch.optim.SGD):
    """An optimiser that keeps the gradients of the first step."""

    def step(self, closure=None):
        if not hasattr(self, "first"):
            self.first = {p: p.grad.clone() for group in self.param_groups
                          for p in group["params"]}
        return super().step(closure)


def first_gradients(scheme, data, **settings):
    """The gradients of the student in the first step, by name, and the history."""
    made = []

    def make(groups, lr):
        made.append(Noting(groups, lr))
        return made[0]

    history = kd.fit(scheme, data, kd.Recipe(epochs=1, batch=16, lr=0.1, optimizer=make,
                                             schedule="cosine", **settings), device="cpu")
    return {name: made[0].first[p] for name, p in scheme.student.named_parameters()}, history


def test_ragged_tokens_in_parts_have_the_gradient_of_the_batch():
    data = dataset("tokens")
    batch = next(data.train.batches(16, seed=0))
    student, teacher = tagger(), tagger(9, 12)
    objective = losses.CE() + losses.KD(T=2)
    found, history = first_gradients(kd.Distiller(copy.deepcopy(student), teacher, objective),
                                     data, accumulate=3)
    assert len({int((part.y != -100).sum()) for part in batch.split(3)}) > 1  # ragged
    _, plain = first_gradients(kd.Distiller(copy.deepcopy(student), teacher, objective), data)
    for name in ("loss", "CE", "KD"):
        assert history[name] == pytest.approx(plain[name], rel=1e-5)
    z, v = student(**batch.x).logits, teacher(**batch.x).logits.detach()
    kept = batch.y != -100
    loss = F.cross_entropy(z.transpose(1, 2), batch.y) + 4 * F.kl_div(
        (z[kept] / 2).log_softmax(1), (v[kept] / 2).softmax(1), reduction="batchmean")
    loss.backward()
    torch.testing.assert_close(found, {name: p.grad for name, p in student.named_parameters()})


PROGRAM = """
import json, sys, torch, torch.distributed as dist
from torch import nn
torch.set_num_threads(1)
import kdcourse as kd
from kdcourse import losses, tasks
world, folder, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
draw = torch.Generator().manual_seed(0)
x, y = torch.randint(11, (48, 6), generator=draw), torch.randint(5, (48, 6), generator=draw)
y[torch.arange(6) >= torch.randint(1, 7, (48, 1), generator=draw)] = -100


def net(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Embedding(11, 8), nn.Tanh(), nn.Linear(8, 5))


rank = int(__import__("os").environ.get("RANK", 0))
if kind == "memory":
    data = kd.data.from_arrays(x, y, val=(x[:9], y[:9]), test=(x[:9], y[:9]),
                               task=tasks.Tokens(), name="tags")
else:  # each process reads its own half of every batch; one alone reads both
    size, parts = 12 // world, []
    order = torch.arange(48).view(4, 12)
    mine = [rows[rank * size : (rank + 1) * size] for rows in order]
    loader = [(x[rows], y[rows]) for rows in mine]
    data = kd.data.from_loaders(loader, [(x[:9], y[:9])], classes=5, task=tasks.Tokens(),
                                name="stream")
scheme = kd.Distiller(net(0), net(1), losses.CE() + losses.KD(T=2) + losses.DKD())
recipe = kd.Recipe(epochs=2, batch=12, lr=0.1, optimizer="sgd", accumulate=2)
history = kd.fit(scheme, data, recipe, device="cpu")
assert world == (dist.get_world_size() if dist.is_initialized() else 1)
json.dump(history.to_dict(), open(f"{folder}/{rank}.json", "w"))
torch.save(scheme.state_dict(), f"{folder}/{rank}.pt")
"""


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="gloo on Windows is another story")
@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_ragged_tokens_in_two_processes_train_what_one_would(tmp_path, kind):
    ((alone, weights),) = run(tmp_path / "one", 1, kind, PROGRAM)
    pair = run(tmp_path / "two", 2, kind, PROGRAM)
    assert len(pair) == 2
    for history, theirs in pair:
        torch.testing.assert_close(theirs, weights, rtol=1e-3, atol=1e-5)
        for ours, row in zip(alone["rows"], history["rows"], strict=True):
            for column in ("loss", "CE", "KD", "DKD", "val_accuracy"):
                assert row[column] == pytest.approx(ours[column], rel=1e-4), column


# --- inputs, labels, scores ---------------------------------------------------------------------


def test_inputs_by_name_keep_their_types():
    data = dataset("tokens")
    assert {part.dtype for part in data.train.x.values()} == {torch.int64}
    assert data.shape == {"input_ids": (L,), "attention_mask": (L,)}
    assert len(data.train) == 32 and len(data.train[:3]) == 3
    parts = next(data.train.batches(8, seed=0)).split(3)
    assert [len(part) for part in parts] == [3, 3, 2] and parts[0].task == tasks.Tokens()


def test_token_ids_stay_integers_and_other_whole_numbers_become_floats():
    ids, y = integers(WORDS, N, L), integers(K, N, L)
    assert kd.data.from_arrays(ids, y, task=tasks.Tokens()).train.x.dtype == torch.int64
    assert kd.data.from_arrays(ids, y[:, 0]).train.x.dtype == torch.float32
    frames = kd.data.from_arrays(rand(N, L, 4), y, task=tasks.Tokens())
    assert frames.shape == (L, 4)


def test_a_loader_of_batches_as_collators_make_them():
    x, y = tagged()
    batches = []
    for start in range(0, N, 8):
        rows = slice(start, start + 8)
        longest = int(x["attention_mask"][rows].sum(1).max())  # padded to the batch
        batches.append({name: part[rows, :longest] for name, part in x.items()}
                       | {"labels": y[rows, :longest]})
    data = kd.data.from_loaders(batches, batches[:2], classes=K, task=tasks.Tokens(), name="tags")
    history = kd.fit(scheme_of("tokens"), data, RECIPE, device="cpu")
    assert len(data.train) == N and 0 <= history["val_accuracy"][-1] <= 1


@pytest.mark.parametrize("kind", ["classes", "tokens", "pixels", "labels"])
def test_without_labels_every_task_distils(kind):
    data = dataset(kind)
    x = {"x": data.train.x, "val": (data.val.x, None), "test": (data.test.x, None)}
    bare = kd.data.from_arrays(x["x"], None, val=x["val"], test=x["test"], task=data.task,
                               classes=len(data.classes))
    terms = 1.0 * losses.KD(T=2)
    scheme = kd.Distiller(NETS[kind](), NETS[kind](seed=9, width=12), terms)
    assert not kd.fit(scheme, bare, RECIPE, device="cpu").validated
    assert "agreement" in kd.report(scheme, bare).rows["student"]
    assert kd.doctor(scheme, bare).looked
    with pytest.raises(ValueError, match=r"got none\. Bring data with labels"):
        kd.fit(kd.Supervised(NETS[kind]()), bare, RECIPE)


def test_without_labels_the_classes_must_be_said():
    with pytest.raises(ValueError, match="Expected classes where there are no labels"):
        kd.data.from_arrays(rand(N, 7), None)


@pytest.mark.parametrize(("task", "z", "y", "expected"), [
    (tasks.Tokens(), [[[2.0, 0], [0, 2]], [[2, 0], [2, 0]]], [[0, 0], [0, -100]], 2 / 3),
    (tasks.Pixels(), [[[[2.0, 0]], [[0, 2]]]], [[[0, 0]]], 1 / 2),
    (tasks.Labels(), [[2.0, -1, 1]], [[1, 0, 0]], 2 / 3),
    (tasks.Numbers(), [[1.0], [2], [3]], [[1.0], [2], [4]], 1 - 1 / (14 / 3)),
    (tasks.Classes(), [[2.0, 0], [0, 2]], [0, 0], 1 / 2),
])
def test_scores(task, z, y, expected):
    rows = task.rows(torch.tensor(z), y=torch.tensor(y))
    assert task.score(task.sums(rows)) == pytest.approx(expected)
    found = kd.measure.evaluate(torch.tensor(z), torch.tensor(y), torch.tensor(z), task)
    assert found["r2" if task == tasks.Numbers() else "accuracy"] == pytest.approx(expected)


def test_the_score_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    z, y = rand(50, 3), rand(50, 3, seed=1) + 1e4
    expected = metrics.r2_score(y.double().numpy(), z.double().numpy(),
                                multioutput="variance_weighted")
    assert kd.measure.r2(z, y) == pytest.approx(expected)
    both = [tasks.Numbers().sums(tasks.Numbers().rows(z[part], y=y[part]))
            for part in (slice(0, 20), slice(20, 50))]
    assert tasks.Numbers().score(sum(both)) == pytest.approx(expected)


# --- what does not fit, in a sentence -----------------------------------------------------------


@pytest.mark.parametrize(("task", "x", "y", "sentence"), [
    (tasks.Tokens(), integers(9, 20, L), integers(5, 20, L) - 1, "labels from 0 to .*got -1 to 3"),
    (tasks.Tokens(), integers(9, 20, L), rand(20, L), "whole numbers as labels in train, got"),
    (tasks.Labels(), rand(20, 7), integers(3, 20, 4), "each from 0 to 1"),
    (tasks.Labels(), rand(20, 7), integers(2, 20), r"shape \[N, 20\] in train"),
    (tasks.Numbers(), rand(20, 7), rand(20, 2) / 0, "finite targets"),
    (tasks.Unlabelled(), rand(20, 7), integers(2, 20), r"no labels in train for Unlabelled\(\)"),
])
def test_wrong_labels(task, x, y, sentence):
    with pytest.raises(ValueError, match=sentence):
        kd.data.from_arrays(x, y, task=task)


def test_a_student_of_another_task_or_with_too_few_outputs():
    for kind, student, sentence in [
            ("tokens", lambda: Named(), r"shape \[B, N, K\]"),
            ("pixels", lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), r"\[B, K, H, W\]"),
            ("classes", lambda: nn.Unflatten(1, (7, 1)), r"shape \[B, K\]"),
            ("labels", functools.partial(perceptron, 4), "exactly one output for each of the 3"),
            ("numbers", functools.partial(perceptron, 3), "exactly one output for each of the 2"),
            ("classes", functools.partial(perceptron, 2), "an output for each of the 3")]:
        with pytest.raises(ValueError, match=sentence):
            kd.fit(kd.Supervised(student(), losses.SquaredError()), dataset(kind), RECIPE)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(L, K)

    def forward(self, input_ids, attention_mask):
        return self.head(input_ids.float())


def test_logits_of_another_size_than_the_labels():
    data = dataset("pixels")
    coarse = nn.Sequential(nn.Conv2d(1, 3, 2, stride=2))
    with pytest.raises(ValueError, match=r"labels for each of the rows .*3, 4, 4.*\[4, 8, 8\]"):
        kd.fit(kd.Supervised(coarse), data, RECIPE)


class Sized(nn.Module):
    """A segmenter whose logits have a size of their own."""

    def __init__(self, *size):
        super().__init__()
        self.model, self.size = segmenter(), size

    def forward(self, x):
        return F.interpolate(self.model(x), self.size)


@pytest.mark.parametrize("size", [(4, 4), (16, 16), (4, 16), (2, 32)])  # two of 64 pixels, too
@pytest.mark.parametrize("objective", [
    lambda: losses.CE() + losses.KD(T=2), lambda: losses.DIST(), lambda: losses.LogitMSE()])
def test_segmenters_of_two_sizes_name_both(size, objective):
    H, W = size
    with pytest.raises(ValueError, match=rf"of one size, \[B, K, H, W\], got \[4, 3, 8, 8\] and "
                                         rf"\[4, 3, {H}, {W}\].*F.interpolate\(logits, size"):
        kd.fit(kd.Distiller(segmenter(), Sized(H, W), objective()), dataset("pixels"), RECIPE)


def test_taggers_of_two_lengths_name_both():
    teacher = kd.Live(tagger(), transform=lambda x: {"input_ids": x["input_ids"][:, 1:]})
    with pytest.raises(ValueError, match=rf"of one size, \[B, N, K\], got \[\d, {L}, {K}\] and "
                                         rf"\[\d, {L - 1}, {K}\].*the same tokens for both"):
        kd.fit(kd.Distiller(tagger(), teacher), dataset("tokens"), RECIPE)


def test_features_of_segmenters_of_two_sizes_are_compared():
    scheme = kd.Distiller(segmenter(), Sized(4, 4), losses.CE() + losses.Hint("0", "model.0"))
    assert len(kd.fit(scheme, dataset("pixels"), RECIPE, device="cpu")) == 2


def test_terms_that_compare_classes_do_not_fit_numbers():
    with pytest.raises(ValueError, match=r"compare numbers for Numbers\(\), got CE\(\)"):
        kd.fit(kd.Supervised(NETS["numbers"]()), dataset("numbers"), RECIPE)


def test_a_teacher_for_other_classes_teaches_features_only():
    data, student = dataset("classes"), NETS["classes"]()
    teacher = perceptron(11, 9)
    scheme = kd.Distiller(student, teacher, losses.CE() + losses.Hint("0", "0"))
    assert len(kd.fit(scheme, data, RECIPE, device="cpu")) == 2
    assert "accuracy" in kd.report(scheme, data).rows["student"]
    with pytest.raises(ValueError, match="the same classes, got 3 and 11"):
        kd.fit(kd.Distiller(NETS["classes"](), teacher, losses.CE() + losses.KD()), data, RECIPE)


def test_a_teacher_without_classes_teaches_features_only():
    data = dataset("tokens")

    class Encoder(Tagger):
        def forward(self, input_ids, attention_mask):  # as models without a head
            return {"last_hidden_state": self.hidden(self.embed(input_ids)).flatten(1)}

    scheme = kd.Distiller(tagger(), seeded(Encoder), losses.CE() + losses.Hint("hidden", "hidden"))
    assert len(kd.fit(scheme, data, RECIPE, device="cpu")) == 2
    rows = kd.report(scheme, data).rows
    assert rows["teacher"]["macs"] > 0 and "accuracy" not in rows["teacher"]
    assert not any("fit() stops" in finding.why for finding in kd.doctor(scheme, data))


def test_labels_do_not_follow_an_image_that_is_moved():
    with pytest.raises(ValueError, match="a label for each pixel"):
        kd.augmented(dataset("pixels"), shift=0.1)


def test_confidence_needs_one_label_per_sample():
    teachers = kd.Ensemble([tagger(1), tagger(2)], "confidence")
    with pytest.raises(ValueError, match="one label per sample"):
        kd.fit(kd.Distiller(tagger(), teachers), dataset("tokens"), RECIPE)


# --- keys, compilation, other schemes -----------------------------------------------------------


def test_the_task_is_a_part_of_the_key_unless_it_is_the_usual_one(data):
    from kdcourse._key import key_of

    plain = dataset("classes")
    assert plain.identity() == dataclasses.replace(plain, task=tasks.Classes()).identity()
    tokens = dataset("tokens")
    other = dataclasses.replace(tokens, task=tasks.Tokens(mask="mask"))
    assert key_of(tokens) != key_of(other)
    assert other.val.task == tasks.Tokens(mask="mask")


@pytest.mark.long
@pytest.mark.usefixtures("inductor")
def test_a_step_is_compiled():
    data, students = dataset("tokens"), []
    for compile in (False, True):
        scheme = scheme_of("tokens")
        kd.fit(scheme, data, dataclasses.replace(RECIPE, compile=compile, accumulate=2),
               device="cpu")
        students.append(scheme.student.state_dict())
    torch.testing.assert_close(*students, rtol=1e-3, atol=1e-4)


def test_mutual_learning_and_exits(data):
    tags = dataset("tokens")
    mutual = kd.Mutual([tagger(0), tagger(1, 12)])
    assert len(kd.fit(mutual, tags, RECIPE, device="cpu")) == 2
    assert kd.doctor(kd.Mutual([tagger(0), tagger(1, 12)]), tags).looked
    assert len(kd.report(mutual, tags).rows) == 2
    exits = kd.MultiExit(NETS["labels"](), ["0"])
    several = dataset("labels")
    assert len(kd.fit(exits, several, RECIPE, device="cpu")) == 2
    assert exits.exit("0")(several.val.x).shape == (len(several.val), 3)


def test_one_label_per_image_stays_as_it_was(data):
    scheme = kd.Distiller(network(), network(1, width=8))
    batch = next(data.train.batches(12, seed=0))
    z, v = scheme.student(batch.x), scheme.teacher(batch).logits
    loss = scheme(batch).loss
    assert loss == 0.1 * losses.cross_entropy(z, batch.y) + 0.9 * losses.kd(z, v)
    assert isinstance(data.train, Split) and data.task == tasks.Classes()


@pytest.mark.parametrize("task", [kd.tasks.Classes(), kd.tasks.Tokens(), kd.tasks.Pixels(),
                                  kd.tasks.Labels()])
def test_the_score_of_rows_that_are_not_numbers(task):
    shape, labels = {"Classes": ((6, 3), (6,)), "Tokens": ((2, 3, 4), (2, 3)), "Labels": ((6, 3), (
        6, 3)), "Pixels": ((2, 3, 4, 5), (2, 4, 5))}[type(task).__name__]
    broken, zeros = torch.full(shape, math.nan), torch.zeros(labels, dtype=torch.long)
    assert task.score(task.sums(task.rows(broken, y=zeros))) == 0
    assert task.score(task.sums(task.rows(0 * torch.ones(shape), y=zeros))) == 1  # class 0
