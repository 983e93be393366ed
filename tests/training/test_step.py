"""A captured step trains what the eager one trains, for everything that `fit` can do; and a step
that a graph would change stays eager, with the reason. The graph is `helpers.graph`'s on a CPU, and
CUDA's where there is a GPU."""

import copy
import dataclasses
import random
import re

import numpy as np
import pytest
import torch
from conftest import network, restless
from helpers.graph import CPUGraphs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kdcourse as kd
from kdcourse import losses
from kdcourse.schemes import Edge, Outcome, Scheme, Supervised
from kdcourse.training import step as steps

RECIPE = kd.Recipe(epochs=3, batch=24, lr=0.01)  # 6 steps an epoch
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU"))]


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that trainings on a CPU made."""
    made = []

    def make(device):
        made.append(CPUGraphs(device))
        return made[-1]

    monkeypatch.setitem(steps.GRAPHS, "cpu", make)
    return made


def trained(make, data, recipe=RECIPE, device="cpu", **settings):
    scheme = make()
    history = kd.fit(scheme, data, recipe, device=device, **settings)
    return scheme, history


def captured(recipe=RECIPE, **changes):
    return dataclasses.replace(recipe, capture=True, **changes)


def same(one, other, exact: bool):
    """Both trainings, of (scheme, history), gave the same."""
    (scheme, history), (again, found) = one, other
    states = [{**s.state_dict(), **dict(s.named_buffers())} for s in (scheme, again)]
    assert states[0].keys() == states[1].keys()
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-3, "atol": 1e-4}
    for name, value in states[0].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(states[1][name], value, msg=name, equal_nan=True,
                                       **tolerance)
    for row, expected in zip(found.rows, history.rows, strict=True):
        row, expected = ({k: v for k, v in r.items() if k != "seconds"} for r in (row, expected))
        assert row == (expected if exact else pytest.approx(expected, rel=1e-3, abs=1e-4))


def compare(make, data, recipe=RECIPE, device="cpu", **settings):
    """Train eagerly and captured; return the captured training."""
    expected = trained(make, data, recipe, device, **settings)
    found = trained(make, data, captured(recipe), device, **settings)
    assert found[1].step == "captured"
    assert expected[1].step == "eager"
    same(expected, found, exact=device == "cpu")
    return found


def resnet(seed=1):
    return kd.models.resnet(depth=8, width=4, stem_stride=2, size=12, seed=seed)


def vit(seed=0):
    return kd.models.vit(dim=16, depth=3, heads=2, patch=4, size=12, seed=seed)


def objective(weight, term):
    return losses.CE() + weight * term


def distiller(term, weight=0.1, teacher=resnet, student=network):
    return lambda data: kd.Distiller(student(), teacher(), objective(weight, term()))


def linear(*sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(*sizes, 36)


class Adversary(Scheme):
    """Groups of parameters with settings of their own."""

    def __init__(self):
        super().__init__(restless(), losses.CE())
        self.head = linear(36)

    def edges(self, batch):
        output = self.output(batch)
        changed = dataclasses.replace(output, logits=self.head(output.logits))
        return [Edge(output, None, self.objective), Edge(changed, None, self.objective, "head")]

    def groups(self):
        rest = [*self.student.parameters()]
        return [{"params": [*rest[:1]], "ascend": True, "lr": 0.01},
                {"params": rest[1:], "every": 2},
                {"params": self.head.parameters(), "optimizer": "sgd"}]


class Noisy(Supervised):
    """Inputs that are drawn on the device, and notes."""

    def inputs(self, batch):
        return batch.x + 0.1 * torch.randn_like(batch.x)

    def forward(self, batch):
        found = super().forward(batch)
        return Outcome(found.loss, found.parts, found.logits, {"norm": found.logits.norm()})


def augmented(data, views):
    return kd.augmented(data, views=views, shift=0.1)


BLOCKS = ["1.blocks.0", "1.blocks.1", "1.blocks.2"]
KL = losses.CE() + losses.KD(T=2)
SCHEMES = {  # a function of the data
    "labels, dropout, batch statistics": lambda data: Supervised(restless()),
    "live teacher": lambda data: kd.Distiller(restless(), resnet()),
    "cached teacher": lambda data: kd.Distiller(restless(), kd.Cached(resnet(), data)),
    "ensemble": lambda data: kd.Distiller(
        network(), kd.Ensemble([network(1), network(2)], weights="confidence")),
    "average": lambda data: kd.Distiller(restless(), network(1)).averaged(0.9),
    "mean teacher": lambda data: (lambda net: kd.Distiller(net, kd.EMA(net, 0.9)))(restless()),
    "mutual": lambda data: kd.Mutual([restless(), network(1)]),
    "exits": lambda data: kd.MultiExit(resnet(), ["layer1", "layer2"]),
    "groups": lambda data: Adversary(),
    "inputs, notes": lambda data: Noisy(network()),
    "CRD": distiller(lambda: losses.CRD(negatives=20, dim=8)),
    "CTKD": distiller(lambda: losses.CTKD(epochs=2), 1),
    "CTKD, linear": distiller(lambda: losses.CTKD(epochs=1, schedule="linear"), 1),
    "MGD": distiller(lambda: losses.MGD("4", "layer2")),
    "ViTKD": distiller(lambda: losses.ViTKD(BLOCKS, BLOCKS), 1e-3, lambda: vit(1), vit),
    "Hint": distiller(lambda: losses.Hint("4", "layer2")),
    "RKD": distiller(lambda: losses.RKDAngle("9:input", "fc:input")),
    "DIST": distiller(losses.DIST),
    "OFD": distiller(lambda: losses.OFD("3", "layer2.0.relu:input"), 1e-3),
    "ReviewKD": distiller(lambda: losses.ReviewKD(["2", "4"], ["layer1", "layer2"])),
    "VID": distiller(lambda: losses.VID("4", "layer2")),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_trains_the_same_student(data, graphs, name, device):
    compare(lambda: SCHEMES[name](data), data, device=device)
    if device == "cpu":
        (made,) = graphs
        assert (made.warm, made.captures, made.replays) == (3, 1, 15)


def by_hand(groups, lr):
    return torch.optim.RMSprop(groups, lr)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("settings", [
    {"optimizer": "sgd"}, {"schedule": "cosine"}, {"clip": 0.1}, {"accumulate": 3},
    {"precision": "bf16", "channels_last": False}, {"patience": 1, "lr": 0.1},
    {"optimizer": by_hand, "validate_every": 2}], ids=lambda one: ", ".join(one))
def test_every_setting_trains_the_same_student(data, graphs, settings, device):
    compare(lambda: kd.Distiller(restless(), network(1)), data,
            dataclasses.replace(RECIPE, **settings), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("views", [None, 1, 2])
def test_views_and_their_stored_answers(data, graphs, views, device):
    """The view of a batch is a number in Python, another one in each epoch."""
    seen = augmented(data, views)
    store = kd.Live if views is None else lambda teacher: kd.Cached(teacher, seen)
    teacher = store(network(1))
    for accumulate in (1, 2):
        compare(lambda: kd.Distiller(network(), teacher, KL), seen,
                dataclasses.replace(RECIPE, accumulate=accumulate), device)


def stream(data, size=24):
    split = data.train
    pairs = TensorDataset(split.x, split.y, torch.arange(len(split)))
    val = DataLoader(TensorDataset(data.val.x, data.val.y), 36)
    return kd.data.from_loaders(DataLoader(pairs, size, shuffle=True), val, classes=data.classes)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"top": 5, "T": 2}], ids=str)
def test_answers_on_disk(data, graphs, tmp_path, settings, accumulate, device):
    """They are read in Python, by the ids of the batch, before the graph runs."""
    def make():
        return kd.Distiller(network(), kd.Cached(network(1), stream(data), tmp_path / "answers",
                                                 **settings), KL)
    compare(make, stream(data), dataclasses.replace(RECIPE, accumulate=accumulate), device)


class Words(nn.Module):
    """Classifies sequences of tokens [B, N], which may be masked."""

    def __init__(self, each=False):
        super().__init__()
        self.each = each
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 5)

    def forward(self, ids, mask=None):
        x = self.table(ids)
        return self.head(x if self.each else x.mean(1))


@pytest.mark.parametrize("device", DEVICES)
def test_a_dict_of_inputs_and_labels_of_tokens(graphs, device):
    x = {"ids": torch.randint(11, (60, 6), generator=torch.Generator().manual_seed(0))}
    x["mask"] = torch.ones(60, 6)
    y = (x["ids"] % 5).masked_fill(x["ids"] == 3, -100)
    data = kd.data.from_arrays(x, y, task=kd.tasks.Tokens())
    for accumulate in (1, 2):
        compare(lambda: kd.Distiller(Words(True), Words(True), KL), data,
                kd.Recipe(epochs=3, batch=12, accumulate=accumulate), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lengths", [[6], [6, 4], [3, 4, 5, 6, 7, 8]])
def test_batches_of_several_lengths(graphs, lengths, device):
    """Each has a graph of its own, up to a number of them; the others stay eager."""
    random = torch.Generator().manual_seed(0)
    batches = [torch.randint(11, (8, n), generator=random) for n in lengths * 6]
    loader = [({"ids": ids}, ids[:, 0] % 5) for ids in batches]
    data = kd.data.from_loaders(loader, loader[: len(lengths)], classes=list("abcde"))
    recipe = kd.Recipe(epochs=2, batch=8)
    compare(lambda: Supervised(Words()), data, recipe, device)
    if device == "cpu":
        assert graphs[0].captures == min(len(lengths), steps.SHAPES)
        assert graphs[0].replays == 9 * min(len(lengths), steps.SHAPES)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("term", ["KD", "CRD", "CTKD"])
def test_a_checkpoint_does_not_depend_on_the_step(data, graphs, tmp_path, term, device):
    """Broken off in one and resumed in the other, it ends with the student of either."""
    make = lambda: SCHEMES[{"KD": "live teacher"}.get(term, term)](data)  # noqa: E731
    whole = trained(make, data, device=device)
    for first, second in ((RECIPE, captured()), (captured(), RECIPE)):
        file = tmp_path / f"{first.capture}.safetensors"
        kd.fit(make(), data, first, device=device, checkpoint=file, on_epoch=Stop(2))
        found = trained(make, data, second, device=device, checkpoint=file)
        assert found[1].step == ("captured" if second.capture else "eager")
        same(whole, found, exact=device == "cpu")


class Stop:
    def __init__(self, epoch):
        self.epoch = epoch

    def __call__(self, row):
        if row["epoch"] == self.epoch:
            raise KeyboardInterrupt


def test_the_recipe_is_not_another_one_for_recorded_results():
    from kdcourse._key import key_of

    assert key_of(captured()) == key_of(RECIPE)
    assert "capture=True" in repr(captured())
    with pytest.raises(ValueError, match=r"Expected capture True or False, got 'yes'"):
        kd.Recipe(capture="yes")


# --- what stays eager, and why ------------------------------------------------------------------


class Counts(nn.Sequential):
    """A forward pass with a count in Python."""

    count = 0

    def forward(self, x):
        self.count += 1
        return super().forward(x) * (1 + 0.1 * self.count)


class Keeps(nn.Sequential):
    """Binds a new tensor to an attribute, which the next step reads."""

    mean = None

    def forward(self, x):
        x = super().forward(x)
        before = 0 if self.mean is None else self.mean
        self.mean = 0.9 * before + 0.1 * x.detach().mean()
        return x - before


class Draws(nn.Sequential):
    """Draws numbers in Python."""

    draw = staticmethod(random.random)

    def forward(self, x):
        return super().forward(x) * (0.5 + self.draw())


class Own(nn.Sequential):
    """Draws numbers from a generator of its own."""

    def forward(self, x):
        self.random = getattr(self, "random", None) or random.Random(0)
        return super().forward(x) * (0.5 + self.random.random())


class Decides(nn.Sequential):
    """Looks at a value."""

    def forward(self, x):
        x = super().forward(x)
        return x if x.mean() > 1e9 else 2 * x


class Picks(nn.Sequential):
    """Indexes by a mask."""

    def forward(self, x):
        x = super().forward(x)
        x = x + 0 * x[x > 0].sum()
        return x


class Curriculum(Supervised):
    """A weight that grows after each step."""

    weight = 1.0

    def forward(self, batch):
        found = super().forward(batch)
        return Outcome(self.weight * found.loss, found.parts, found.logits)

    def after_step(self):
        super().after_step()
        self.weight += 0.1


class Unfreezes(Supervised):
    """Trains one layer more after each step: a parameter's own flag, no attribute."""

    def after_step(self):
        super().after_step()
        parameters = [*self.student.parameters()]
        self.turn = getattr(self, "turn", 0) + 1
        parameters[self.turn % len(parameters)].requires_grad_(self.turn % 3 > 0)


class Settings(Supervised):
    """A weight of a term that changes after each step."""

    def after_step(self):
        super().after_step()
        self.objective.weights["CE"] *= 0.99


class Chooses(Scheme):
    """Asks a teacher with stored answers about samples in another order."""

    def __init__(self, data):
        super().__init__(network(), KL)
        self.teacher = kd.Cached(network(1), data)

    def edges(self, batch):
        batch = dataclasses.replace(batch, x=batch.x.flip(0), y=batch.y.flip(0),
                                    index=batch.index.flip(0))
        return [Edge(self.output(batch), self.teacher(batch), self.objective)]


def of(kind):
    def make(data):
        return Supervised(kind(nn.Flatten(), linear(144)))
    return make


def hooked(data):
    student = network()
    student[0].register_forward_hook(lambda *_: None)
    return Supervised(student)


def hooked_parameter(data):
    student = network()
    next(student.parameters()).register_hook(lambda gradient: 2 * gradient)
    return Supervised(student)


def numpy_draws(data):
    scheme = of(Draws)(data)
    scheme.student.draw = np.random.random
    return scheme


REFUSED = {
    "a count": (of(Counts), r"student.count changes from \d+ to \d+ in the passes"),
    "a tensor that is kept": (of(Keeps), r"student.mean changes .*in the passes"),
    "random": (of(Draws), "draws random numbers in Python"),
    "numpy.random": (numpy_draws, "draws random numbers in Python"),
    "a generator of its own": (of(Own), "student.random changes"),
    "a decision": (of(Decides), r"reads values of a tensor in Python \(_local_scalar_dense|item"),
    "a mask": (of(Picks), "indexes by a mask"),
    "a curriculum": (lambda data: Curriculum(network()), "weight changes .*between steps"),
    "unfreezing": (lambda data: Unfreezes(network()), "changes.* between steps"),
    "a weight": (lambda data: Settings(network()), "objective.weights changes between steps"),
    "other samples": (Chooses, "samples that the scheme chose"),
    "a hook": (hooked, "student.0 has a hook"),
    "a hook of a parameter": (hooked_parameter, r"student.0\S* has a hook|student\S+ has a hook"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_step_that_a_graph_would_change_stays_eager(data, graphs, name):
    make, why = REFUSED[name]
    if name == "other samples":
        data = augmented(data, 2)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    expected = trained(lambda: make(data), data)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    found = trained(lambda: make(data), data, captured())
    assert found[1].step.startswith("eager: ")
    assert re.search(why, found[1].step), found[1].step
    same(expected, found, exact=True)


def test_what_is_known_before_the_first_step(data, graphs):
    for recipe, settings, why in (
            (captured(compile=True), {}, "compile=True"),
            (captured(), {"on_step": lambda step: None}, "on_step")):
        scheme = Supervised(network())
        if recipe.compile:
            scheme.forward = scheme.forward  # nothing is compiled before the first call
            assert why in steps.make_step(scheme, scheme, None, recipe, torch.device("cpu")).name
        else:
            assert why in kd.fit(scheme, data, recipe, **settings).step
    assert not graphs


def test_without_cuda_it_says_so(data):
    history = kd.fit(Supervised(network()), data, captured(epochs=1), device="cpu")
    assert history.step == "eager: graphs are captured on CUDA devices, and this is cpu"
    short = kd.fit(Supervised(network()), data, kd.Recipe(epochs=1, batch=72), device="cpu")
    assert short.step == "eager"


class Epochs(Supervised):
    """Changes a weight once in an epoch: the step is captured anew."""

    weight, count = 1.0, 0

    def forward(self, batch):
        found = super().forward(batch)
        return Outcome(self.weight * found.loss, found.parts, found.logits)

    def train(self, mode=True):
        if mode:
            self.weight *= 0.7
        return super().train(mode)


def test_a_change_between_epochs_is_captured_anew(data, graphs):
    expected = trained(lambda: Epochs(restless()), data)
    found = trained(lambda: Epochs(restless()), data, captured())
    same(expected, found, exact=True)
    assert found[1].step == "captured" and graphs[0].captures == 3


def test_a_capture_that_fails_leaves_the_training_as_it_was(data, graphs, monkeypatch):
    def fail(self, function, generators):
        raise RuntimeError("CUDA error: operation not permitted\nmore")

    monkeypatch.setattr(CPUGraphs, "capture", fail)
    expected = trained(lambda: SCHEMES["CRD"](data), data)
    found = trained(lambda: SCHEMES["CRD"](data), data, captured())
    assert found[1].step == ("eager: the capture failed (RuntimeError: CUDA error: operation not "
                             "permitted)")
    same(expected, found, exact=True)


def test_a_loss_that_becomes_nan_is_found(data, graphs):
    class Breaks(Supervised):
        def __init__(self):
            super().__init__(network())
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, batch):
            found = super().forward(batch)
            self.steps.add_(1)
            bad = torch.where(self.steps == 9, torch.nan, 1.0)
            return Outcome(found.loss * bad, found.parts, found.logits)

    with pytest.raises(FloatingPointError, match="at step 9"):
        kd.fit(Breaks(), data, captured(), device="cpu")
    assert graphs[0].replays == 9  # steps 4 to 12: the end of the epoch is where one looks


def test_no_gradient_is_left_and_the_scheme_can_be_copied(data, graphs):
    scheme, _ = trained(lambda: SCHEMES["live teacher"](data), data, captured(epochs=1))
    assert all(p.grad is None for p in scheme.parameters())
    copy.deepcopy(scheme)
    kd.fit(scheme, data, RECIPE, device="cpu")


# --- the step does not wait for the device --------------------------------------------------------


@pytest.mark.parametrize("name", ["live teacher", "cached teacher", "CRD", "average"])
@DEVICES[1].marks[0]
def test_no_replay_waits_for_the_gpu(data, name):
    scheme, made = SCHEMES[name](data), []
    after = scheme.after_step

    def watch():
        after()
        made.append(1)
        # The first steps are eager and the fourth is captured; between epochs values are read.
        inside = len(made) > 6 and len(made) % 6 in range(1, 6)
        torch.cuda.set_sync_debug_mode("error" if inside else "default")

    scheme.after_step = watch
    try:
        history = kd.fit(scheme, data, captured(), device="cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert history.step == "captured" and len(made) == 18


def test_the_graph_of_the_tests_is_as_strict_as_that_of_cuda(data, graphs):
    """Values that Python counts stay what they were; reading one is an error; nothing is done at
    the capture."""
    x, made = torch.zeros(3), CPUGraphs(torch.device("cpu"))
    count = [0]

    def function():
        count[0] += 1
        x.add_(count[0])

    replay = made.capture(function, [])
    assert x.tolist() == [0, 0, 0]
    replay()
    replay()
    assert x.tolist() == [2, 2, 2] and count == [1]
    for read in (lambda: x.sum().item(), lambda: x.nonzero(), lambda: x[x > 0],
                 lambda: bool(x[0] > 0)):
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            made.capture(read, [])
