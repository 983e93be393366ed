"""Schemes with head=…: the training of the whole logits, which are nowhere."""

import copy
import dataclasses

import pytest
import torch
from helpers.processes import run
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import kdcourse as kd
from kdcourse.losses import CE, DIST, JS, KD, Hint

V = 97


class Language(nn.Module):
    """Ids [B, N] to logits [B, N, V], by way of `body`."""

    def __init__(self, seed, width=8, tied=False, cap=None, bias=True):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed, self.body = nn.Embedding(V, width), nn.Linear(width, width)
            self.lm_head = nn.Linear(width, V, bias=bias)
            nn.init.normal_(self.lm_head.weight)
        self.cap = cap
        if tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, input_ids):
        logits = self.lm_head(self.body(self.embed(input_ids)).tanh())
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


class Other(nn.Module):
    """The last layer elsewhere."""

    def __init__(self):
        super().__init__()
        self.inner = Language(7, width=12)

    def forward(self, input_ids):
        return {"logits": self.inner(input_ids), "loss": None}


@pytest.fixture(scope="module")
def data():
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(V, (40, 12), generator=rng)
    y = torch.randint(V, (40, 12), generator=rng)
    y[torch.rand(40, 12, generator=rng) < 0.5] = -100
    return kd.data.from_arrays({"input_ids": ids}, y, task=kd.tasks.Tokens(),
                               classes=[str(i) for i in range(V)])


OBJECTIVES = {
    "two terms": lambda: 0.1 * CE() + 0.9 * KD(T=2),
    "one": lambda: JS(0.4),
    "and inner tensors": lambda: CE() + 2.0 * Hint("body", "body") + KD(),
    "class weights": lambda: CE(weight=torch.arange(1.0, V + 1)) + KD(),
}


def pair(objective, teacher=None, head="lm_head", **student):
    """The scheme with head and without, of the same networks."""
    teacher = Language(1, width=12) if teacher is None else teacher
    return [kd.Distiller(Language(0, **student), teacher, objective(), head=one)
            for one in (head, None)]


def alike(one, other, batch):
    for scheme in (one, other):
        scheme.build(batch[:4], 0)
        scheme.train()
    found, expected = one(batch), other(batch)
    assert list(found.parts) == list(expected.parts)
    for name, part in expected.parts.items():
        torch.testing.assert_close(found.parts[name], part)
    torch.testing.assert_close(found.loss, expected.loss)
    assert found.logits is None
    found.loss.backward()
    expected.loss.backward()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.any_device
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("student", [{}, {"tied": True}, {"bias": False}])
def test_a_step_has_the_loss_and_the_gradients_of_the_whole(data, name, student):
    alike(*pair(OBJECTIVES[name], **student), next(data.train.batches(16)))


@pytest.mark.any_device
@pytest.mark.parametrize("teacher", [
    lambda data: Other(), lambda data: kd.Live(Language(1)),
    lambda data: kd.Cached(Language(1), data),
    lambda data: kd.Ensemble([Language(1), Language(2)])])
def test_teachers(data, teacher):
    made = teacher(data)
    head = ("lm_head", "inner.lm_head") if isinstance(made, Other) else "lm_head"
    alike(*pair(OBJECTIVES["two terms"], made, head), next(data.train.batches(16)))


@pytest.mark.any_device
def test_labels_alone(data):
    alike(*(kd.Supervised(Language(0), head=head) for head in ("lm_head", None)),
          next(data.train.batches(16)))


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", ["and inner tensors", "class weights"])
def test_a_training_is_that_of_the_whole(data, name, accumulate):
    recipe = kd.Recipe(epochs=2, batch=16, lr=0.01, accumulate=accumulate)
    histories = []
    schemes = pair(OBJECTIVES[name])
    for scheme in schemes:
        histories.append(kd.fit(scheme, data, recipe, seed=0))
        scheme.cpu()
    one, other = histories
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert one["val_accuracy"] == other["val_accuracy"]
    for a, b in zip(*(scheme.student.parameters() for scheme in schemes), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert kd.export(schemes[0])(torch.zeros(1, 3).long()).shape == (1, 3, V)


PROGRAM = """
import json, os, sys, torch, torch.distributed as dist
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import kdcourse as kd
from schemes.test_head import Language, OBJECTIVES, data
world, folder, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
scheme = kd.Distiller(Language(0), Language(1), OBJECTIVES["two terms"](), head="lm_head")
recipe = kd.Recipe(epochs=2, batch=16, lr=0.01)
history = kd.fit(scheme, data.__wrapped__(), recipe, seed=0)
rank = dist.get_rank() if world > 1 else 0
torch.save(scheme.student.state_dict(), os.path.join(folder, f"{{rank}}.pt"))
with open(os.path.join(folder, f"{{rank}}.json"), "w") as file:
    json.dump({{"loss": history["loss"]}}, file)
"""


@pytest.mark.any_device
def test_two_processes_train_what_one_would(tmp_path, request):
    program = PROGRAM.format(tests=str(request.config.rootpath / "tests"))
    (one, *_), (two, other) = (run(tmp_path / str(world), world, "", program) for world in (1, 2))
    for history, weights in (two, other):
        assert history["loss"] == pytest.approx(one[0]["loss"], rel=1e-4)
        for name, value in one[1].items():
            torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=1e-3)


class Largest(TorchDispatchMode):
    found = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor):
                self.found = max(self.found, x.numel())
        return result


@pytest.mark.any_device
def test_no_tensor_of_a_step_holds_all_logits(monkeypatch):
    """Of 1,024 positions; chunks have 256 rows."""
    x = torch.randint(V, (64, 16), generator=torch.Generator().manual_seed(0))
    batch = kd.data.Batch({"input_ids": x}, x, torch.arange(64), task=kd.tasks.Tokens())
    sizes = []
    for scheme in pair(OBJECTIVES["two terms"]):
        scheme.build(batch[:4], 0)
        with Largest() as seen:
            scheme.train()(batch).loss.backward()
        sizes.append(seen.found)
    assert sizes == [256 * V, 1024 * V]


def test_networks_stay_what_they_are(data):
    scheme = pair(OBJECTIVES["two terms"])[0]
    batch = next(data.train.batches(8))
    scheme.build(batch[:4], 0)
    scheme(batch)
    assert "forward" not in vars(scheme.student.lm_head)
    assert scheme.student(batch.x["input_ids"]).shape == (8, 12, V)
    twin = copy.deepcopy(scheme)
    torch.testing.assert_close(twin(batch).loss, scheme(batch).loss)
    broken = kd.Distiller(Language(0), Language(1), CE(), head="lm_head")
    with pytest.raises(TypeError):
        broken(kd.data.Batch({"no_such": batch.x["input_ids"]}, batch.y, batch.index,
                             task=batch.task))
    assert "forward" not in vars(broken.student.lm_head)


def test_the_doctor_says_what_it_says_without(data):
    one, other = (str(kd.doctor(scheme, data)) for scheme in pair(OBJECTIVES["and inner tensors"]))
    assert one == other
    assert not pair(OBJECTIVES["one"])[0]._whole


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda: pair(lambda: CE() + DIST())[0], "one value per row and no trained parts"),
    (lambda: pair(lambda: Hint("body", "body"))[0], "Expected terms on logits"),
    (lambda: pair(OBJECTIVES["one"], cap=1.0)[0], "A step after it .a scale, a soft cap"),
    (lambda: pair(OBJECTIVES["one"], Language(1, cap=1.0))[0], "logits of the teacher to be what"),
    (lambda: pair(OBJECTIVES["one"], head="body")[0], "logits of the student to be what 'body'"),
    (lambda: pair(OBJECTIVES["one"], head="embed")[0], "Expected a linear layer .* got Embedding"),
    (lambda: pair(OBJECTIVES["one"], head="no_such"), "Expected the path of a module"),
    (lambda: pair(OBJECTIVES["one"], head=("lm_head", "inner.lm_head")), "Expected the path of a"),
])
def test_what_does_not_fit_is_refused(data, make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make().build(next(data.train.batches(4)), 0)


def test_the_largest_logits_alone_are_refused(data):
    """With or without the rest as one class; they are not those of all rows that the head has."""
    largest = kd.Cached(Language(1), data, top=8, T=2.0)
    with pytest.raises(ValueError, match="a teacher with all of the student's logits for head"):
        pair(lambda: KD(T=2), largest)[0](next(data.train.batches(4)))


def test_another_vocabulary_is_refused(data):
    names = [str(k) for k in range(V)]
    other = kd.teachers.Vocabulary(Language(1), names, names[:-1])
    with pytest.raises(ValueError, match="a teacher with all of the student's logits for head"):
        pair(lambda: KD(T=1), other)[0](next(data.train.batches(4)))


def test_terms_that_count_other_positions_are_refused(data):
    """With `partly` the labels are those of some tokens, and other terms count all real ones."""
    partly = dataclasses.replace(data, task=kd.tasks.Tokens(partly=True))
    scheme = kd.Distiller(Language(0), Language(1), head="lm_head")
    with pytest.raises(ValueError, match="Expected the same positions for all terms with head"):
        scheme.build(next(partly.train.batches(4)), 0)


def test_other_tasks_are_refused(data):
    images = kd.data.glyphs(train=36, val=36, test=36, size=12)
    net = kd.models.mlp(hidden=(8,), size=12)
    scheme = kd.Supervised(net, head="3")
    with pytest.raises(ValueError, match=r"Expected data of tokens \(task=kd.tasks.Tokens\(\)\)"):
        scheme.build(next(images.train.batches(4)), 0)
    batch = next(data.train.batches(4))
    soft = torch.full((4, 12, V), 1 / V)
    scheme = kd.Supervised(Language(0), head="lm_head")
    with pytest.raises(ValueError, match=r"Expected token ids \[B, N\] as labels"):
        scheme(kd.data.Batch(batch.x, soft, batch.index, task=batch.task))
