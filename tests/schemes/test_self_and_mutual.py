"""Students that teach each other, and networks that teach themselves."""

import copy

import pytest
import torch
from conftest import network, restless, state
from torch import nn

import kdcourse as kd
from kdcourse import losses
from kdcourse.losses import CE, KD
from kdcourse.taps import Early

RECIPE = kd.Recipe(epochs=1, batch=36)


def batch_of(data, size=8):
    return next(data.train.batches(size))


def gradients(scheme, batch):
    scheme.zero_grad()
    scheme(batch).loss.backward()
    return [None if p.grad is None else p.grad.clone() for p in scheme.parameters()]


# --- mutual learning ----------------------------------------------------------------------------


def peers(count=3):
    return [network(seed, width=4 + 2 * seed) for seed in range(count)]


def mutual(count=3, objective=None):
    return kd.Mutual(peers(count), objective)


@pytest.mark.parametrize("count", [2, 3])
def test_each_learns_from_the_labels_and_from_the_mean_over_its_peers(data, count):
    scheme, batch = mutual(count, 0.5 * CE() + 2 * KD(T=3)), batch_of(data)
    scheme.build(batch, 0)
    outcome = scheme.eval()(batch)
    z = [student(batch.x) for student in scheme.students]
    total = 0
    for i in range(count):
        ce = losses.cross_entropy(z[i], batch.y)
        kl = sum(losses.kd(z[i], z[j], 3) for j in range(count) if j != i) / (count - 1)
        torch.testing.assert_close(outcome.parts[f"{i + 1}.CE"], ce)
        torch.testing.assert_close(outcome.parts[f"{i + 1}.KD"], kl)
        total = total + 0.5 * ce + 2 * kl
    torch.testing.assert_close(outcome.loss, total)
    torch.testing.assert_close(outcome.logits, z[0])


def test_peers_are_detached(data):
    """Each student's gradient is the one it gets alone, with frozen copies of its peers."""
    scheme, batch = mutual(), batch_of(data)
    scheme.build(batch, 0)
    gradients(scheme.eval(), batch)
    for i, student in enumerate(scheme.students):
        alone, others = copy.deepcopy(student), [
            copy.deepcopy(peer) for j, peer in enumerate(scheme.students) if j != i]
        alone.zero_grad()
        loss = losses.cross_entropy(alone(batch.x), batch.y)
        for peer in others:
            with torch.no_grad():
                answer = peer(batch.x)
            loss = loss + losses.kd(alone(batch.x), answer, 1) / 2
        loss.backward()
        for ours, expected in zip(student.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, expected.grad)


def test_every_student_learns(data):
    scheme = mutual()
    before = [state(student) for student in scheme.students]
    history = kd.fit(scheme, data, RECIPE)
    assert all(state(s) != old for s, old in zip(scheme.students, before, strict=True))
    assert {"1.CE", "1.KD", "3.CE", "3.KD"} <= history.rows[0].keys()


def test_every_direction_has_projections_of_its_own(data):
    scheme, batch = mutual(3, CE() + KD(T=1) + 0.01 * losses.Hint("2", "2")), batch_of(data)
    scheme.build(batch, 0)
    weights = [p for name, p in scheme.named_parameters() if "regressor.weight" in name]
    assert len(weights) == 6
    widths = sorted((p.shape[1], p.shape[0]) for p in weights)  # from student i to peer j
    assert widths == [(4, 6), (4, 8), (6, 4), (6, 8), (8, 4), (8, 6)]
    assert all(gradient is not None for gradient in gradients(scheme, batch))
    before = state(scheme)
    scheme.build(batch, 1)
    assert state(scheme) == before  # nothing is made twice
    kd.fit(scheme, data, RECIPE)
    assert state(kd.export(scheme)) == state(scheme.student)


def test_mutual_learning_goes_on_from_a_checkpoint(data, tmp_path):
    file, recipe = tmp_path / "run.safetensors", kd.Recipe(epochs=3, batch=36)
    whole, broken, again = (kd.Mutual([restless(0), restless(1)]) for _ in range(3))
    kd.fit(whole, data, recipe)
    steps = iter(range(1, 99))

    def stop():
        if next(steps) == 6:
            raise KeyboardInterrupt

    broken.after_step = stop
    kd.fit(broken, data, recipe, checkpoint=file)
    kd.fit(again, data, recipe, checkpoint=file)
    assert state(again) == state(whole)


def test_a_copy_of_mutual_learning_is_independent(data):
    scheme = mutual(2)
    other, before = copy.deepcopy(scheme), state(scheme)
    kd.fit(other, data, RECIPE)
    assert state(scheme) == before


def test_mutual_learning_reads_as_it_is_written():
    assert repr(kd.Mutual([network(0), network(1)])) == (
        "Mutual([convnet(width=4, channels=1, classes=36, size=12), "
        "convnet(width=4, channels=1, classes=36, size=12)], CE() + KD(T=1))")


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: kd.Mutual([network()]), ValueError, "at least two students .* got 1"),
    (lambda: kd.Mutual([network(), "net"]), TypeError, "networks .* got str"),
    (lambda: kd.Mutual([network(), network(1)], CE()), ValueError, r"a peer can be, got CE\(\)"),
    (lambda: kd.Mutual([(n := network()), nn.Sequential(n)]), ValueError, "two that share some"),
])
def test_students_that_cannot_learn_together(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_peers_must_know_the_same_classes(data):
    with pytest.raises(ValueError, match=r"the same classes, got 36 and 40\. Give"):
        kd.fit(kd.Mutual([network(), network(classes=40)]), data, RECIPE)


# --- exits --------------------------------------------------------------------------------------


def model(seed=0):
    return kd.models.resnet(depth=8, width=8, seed=seed)


def exits(objective=None, paths=("layer1", "layer2")):
    return kd.MultiExit(model(), paths, objective)


def test_every_exit_learns_from_the_labels_and_from_the_end(data):
    scheme, batch = exits(0.6 * CE() + 0.4 * KD(T=2)), batch_of(data)
    scheme.build(batch, 0)
    outcome = scheme.eval()(batch)
    seen = kd.taps(scheme.student, ["layer1", "layer2"])(batch.x)
    end = seen.logits
    total = losses.cross_entropy(end, batch.y)
    torch.testing.assert_close(outcome.parts["CE"], total)
    for path, head in zip(("layer1", "layer2"), scheme.heads, strict=True):
        answer = head(seen.taps[path])
        ce, kl = losses.cross_entropy(answer, batch.y), losses.kd(answer, end, 2)
        torch.testing.assert_close(outcome.parts[f"{path}.CE"], ce)
        torch.testing.assert_close(outcome.parts[f"{path}.KD"], kl)
        total = total + 0.6 * ce + 0.4 * kl
    torch.testing.assert_close(outcome.loss, total)
    torch.testing.assert_close(outcome.logits, end)


def test_the_end_does_not_learn_from_its_exits(data):
    """With only a teacher's terms at the exits, the last layer sees the labels alone."""
    scheme, batch = exits(0.0 * CE() + KD(T=2)), batch_of(data)
    scheme.build(batch, 0)
    gradients(scheme.eval(), batch)
    ours = scheme.student.fc.weight.grad.clone()
    alone = copy.deepcopy(scheme.student)
    alone.zero_grad()
    losses.cross_entropy(alone(batch.x), batch.y).backward()
    torch.testing.assert_close(ours, alone.fc.weight.grad)
    assert not torch.allclose(scheme.student.stem[0].weight.grad, alone.stem[0].weight.grad)


@pytest.mark.parametrize("path", ["layer1", "layer2"])
def test_an_exit_stops_early_and_answers_the_same(data, path):
    scheme = exits()
    kd.fit(scheme, data, RECIPE)
    early, x = scheme.cpu().exit(path), data.val.x[:6]
    calls = []
    for name, module in early.model.named_modules():
        module.register_forward_pre_hook(lambda module, args, name=name: calls.append(name))
    answer = early(x)
    assert "layer3" not in calls
    assert "fc" not in calls
    assert ("layer2" in calls) is (path == "layer2")
    tapped = kd.taps(scheme.student.eval(), [path])(x).taps[path]
    head = scheme.heads.eval()[scheme.exits.index(path)]
    torch.testing.assert_close(answer, head(tapped))
    assert kd.models.predict(early, x).shape == (6, 36)
    first = state(early)
    kd.fit(scheme, data, RECIPE)
    assert state(early) == first  # a copy


def test_an_early_exit_costs_less(data):
    scheme = exits()
    kd.fit(scheme, data, RECIPE)
    costs = [kd.measure.macs(scheme.exit(path), data.shape) for path in scheme.exits]
    assert costs[0] < costs[1] < kd.measure.macs(kd.export(scheme), data.shape)
    slow = copy.deepcopy(scheme)
    slow.student.layer2 = Sleeps(slow.student.layer2)
    seconds = {path: kd.measure.latency(slow.exit(path), data.shape, seconds=0.2)
               for path in slow.exits}
    first, second = (value[0] if isinstance(value, tuple) else value for value in seconds.values())
    assert first < second


class Sleeps(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        import time

        time.sleep(0.02)
        return self.inner(x)


def test_every_part_of_an_exit_is_trained(data):
    scheme, batch = exits(), batch_of(data)
    scheme.build(batch, 0)
    assert all(gradient is not None for gradient in gradients(scheme, batch))
    before = state(scheme.heads)
    scheme.build(batch, 1)
    assert state(scheme.heads) == before
    kd.fit(scheme, data, RECIPE)
    assert state(scheme.heads) != before
    assert state(kd.export(scheme)) == state(scheme.student)


def test_building_exits_writes_nothing(data):
    scheme = exits().train()
    before, torch_state = state(scheme.student), torch.get_rng_state()
    scheme.build(batch_of(data, 2), 0)
    assert state(scheme.student) == before
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(module.training for module in scheme.modules())


def test_exits_of_a_transformer(data):
    vit = kd.models.vit(dim=16, depth=2, heads=2, patch=4, size=12)
    scheme = kd.MultiExit(vit, ["1.blocks.0"])
    kd.fit(scheme, data, RECIPE)
    assert kd.models.predict(scheme.exit("1.blocks.0"), data.val.x).shape == (72, 36)


class Pair(nn.Module):
    """Returns a tuple, as the blocks of transformers do."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = nn.Conv2d(inputs, outputs, 3, 2, 1)

    def forward(self, x):
        return torch.relu(self.layer(x)), None, -self.layer(x)


class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu, self.fc = Pair(1, 8), Pair(8, 16), nn.ReLU(), nn.Linear(16, 36)

    def forward(self, x):
        x = self.relu(self.b(self.relu(self.a(x)[0]))[0])
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(("path", "behind"), [
    ("a", ["b", "relu", "fc"]), ("a[2]", ["b", "relu", "fc"]), ("relu#1", ["b", "fc"]),
    ("relu#2", ["fc"]), ("b:input", ["fc"]), ("fc:input", [])])
def test_an_exit_is_written_like_a_tap(data, path, behind, smoke):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        scheme = kd.MultiExit(Pairs(), [path])
    kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36))
    tapped = kd.taps(scheme.cpu().student.eval(), [path])(data.val.x).taps[path]
    expected = scheme.heads.eval()[0](tapped)
    early = scheme.exit(path)
    for exit in (early, copy.deepcopy(early), kd.models.clean_copy(early)):
        calls = []
        for name, module in exit.model.named_children():
            module.register_forward_hook(lambda *_, name=name, calls=calls: calls.append(name))
        torch.testing.assert_close(exit(data.val.x), expected)
        assert not set(calls) & set(behind)
    assert list(kd.report(scheme, data).rows) == [f"exit {path}", "student"]
    assert kd.measure.parameters(early) <= kd.measure.parameters(scheme.student) + (
        kd.measure.parameters(scheme.heads[0])) - 17 * 36  # without the last layer


def test_an_exit_that_the_model_never_comes_to(data):
    early = Early(Pairs(), "relu#3", nn.Identity())
    with pytest.raises(RuntimeError, match="the model to call 'relu#3', but it did not"):
        early(data.val.x)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: exits(paths=()), "at least one exit"),
    (lambda: exits(paths=["layer9"]), "path of a module in ResNet, got 'layer9'"),
    (lambda: exits(CE()), r"one on a teacher, got CE\(\)"),
    (lambda: exits(KD()), r"a term on the labels and one on a teacher, got KD"),
    (lambda: exits().exit("layer1"), r"'layer2'\] after training, got 'layer1' before it"),
])
def test_exits_that_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()
