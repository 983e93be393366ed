"""Measures: against loops, scikit-learn, SciPy and formulas."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import network, restless, state
from helpers import oracles
from sklearn import metrics
from torch import nn
from torchvision.transforms import v2

import kdcourse as kd
from kdcourse import measure


def example(N=200, K=5, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(N, K))
    labels = np.where(rng.random(N) < 0.6, logits.argmax(1), rng.integers(0, K, N))
    return torch.from_numpy(logits), torch.from_numpy(labels)


def one_hot(labels, K=5):
    return torch.eye(K)[labels]


# --- right, calibrated, alike -------------------------------------------------------------------


def test_accuracy_and_likelihood_are_those_of_scikit_learn():
    logits, labels = example()
    assert measure.accuracy(logits, labels) == pytest.approx(
        metrics.accuracy_score(labels, logits.argmax(1)))
    assert measure.nll(logits, labels) == pytest.approx(
        metrics.log_loss(labels, logits.softmax(1), labels=range(5)))


def loop_over_bins(logits, labels, bins):
    """Guo et al. 2017, equations 2 to 5, with bins (low, high]."""
    rows = [{"count": 0, "sure": 0.0, "right": 0} for _ in range(bins)]
    for row, label in zip(logits.numpy(), labels.tolist(), strict=True):
        p = oracles.softmax(row)
        which = next(b for b in range(bins) if max(p) <= (b + 1) / bins or b == bins - 1)
        rows[which]["count"] += 1
        rows[which]["sure"] += max(p)
        rows[which]["right"] += int(np.argmax(row)) == label
    return rows


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_reliability_and_ece_are_those_of_a_loop(bins):
    logits, labels = example()
    expected = loop_over_bins(logits, labels, bins)
    rows = measure.reliability(logits, labels, bins)
    assert [row["count"] for row in rows] == [row["count"] for row in expected]
    gap = 0.0
    for i, (ours, loop) in enumerate(zip(rows, expected, strict=True)):
        assert (ours["low"], ours["high"]) == (i / bins, (i + 1) / bins)
        if loop["count"] == 0:
            assert ours["confidence"] is None
            assert ours["accuracy"] is None
        else:
            assert ours["confidence"] == pytest.approx(loop["sure"] / loop["count"])
            assert ours["accuracy"] == pytest.approx(loop["right"] / loop["count"])
            gap += abs(loop["right"] - loop["sure"]) / len(labels)
    assert measure.ece(logits, labels, bins) == pytest.approx(gap)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    half = torch.zeros(4, 2)  # both classes at exactly 1/2
    assert [row["count"] for row in measure.reliability(half, torch.ones(4).long(), 2)] == [4, 0]
    assert measure.reliability(half, torch.ones(4).long(), 4)[1]["count"] == 4


def test_ece_of_known_networks():
    sure = torch.tensor([[100.0, 0.0]] * 10)
    assert measure.ece(sure, torch.zeros(10).long()) == pytest.approx(0)  # confidence 1: last bin
    assert measure.ece(sure, torch.ones(10).long()) == pytest.approx(1)
    honest = torch.tensor([[math.log(0.7), math.log(0.3)]] * 10)
    assert measure.ece(honest, torch.tensor([0] * 7 + [1] * 3)) == pytest.approx(0, abs=1e-6)
    assert measure.ece(honest, torch.tensor([0] * 3 + [1] * 7)) == pytest.approx(0.4, abs=1e-6)


def test_agreement_and_divergence():
    s, t = example()[0], example(seed=1)[0]
    same = np.mean([np.argmax(a) == np.argmax(b)
                    for a, b in zip(s.numpy(), t.numpy(), strict=True)])
    assert measure.agreement(s, t) == pytest.approx(same)
    assert measure.agreement(s, s) == 1
    assert measure.teacher_kl(s, t) == pytest.approx(oracles.kd(s.numpy(), t.numpy(), 1).mean())
    assert measure.teacher_kl(s, s) == 0


@pytest.mark.parametrize("T", [0.5, 1, 8])
def test_entropy(T):
    logits, _ = example()
    expected = [oracles.entropy(row, T) for row in logits.numpy()]
    np.testing.assert_allclose(measure.entropy(logits, T), expected, rtol=1e-10)
    assert measure.entropy(torch.zeros(1, 36)).item() == pytest.approx(math.log(36))
    assert measure.entropy(torch.tensor([[0.0, -math.inf, -math.inf]])).item() == 0


def test_confusion_is_that_of_scikit_learn():
    logits, labels = example()
    expected = metrics.confusion_matrix(labels, logits.argmax(1), labels=range(5))
    assert np.array_equal(measure.confusion(logits, labels), expected)


def test_accuracy_by_class():
    logits, labels = example()
    labels[labels == 3] = 2
    confusion = metrics.confusion_matrix(labels, logits.argmax(1), labels=range(5))
    for k, found in enumerate(measure.per_class(logits, labels, 5)):
        if k == 3:
            assert found is None
        else:
            assert found == pytest.approx(confusion[k, k] / confusion[k].sum())


@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k_is_that_of_scikit_learn(k):
    logits, labels = example()
    expected = metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(5))
    assert measure.top_k(logits, labels, k) == pytest.approx(expected)
    assert measure.top_k(logits, one_hot(labels), k) == measure.top_k(logits, labels, k)
    assert measure.top_k(logits.half(), labels, 1) == measure.accuracy(logits.half(), labels)


def test_top_k_of_ties_and_of_what_is_no_number():
    flat, labels = torch.zeros(5, 5), torch.arange(5)
    for k in range(1, 6):  # the first class counts as the largest
        assert measure.top_k(flat, labels, k) == pytest.approx(k / 5)
    assert measure.top_k(flat, labels, 1) == measure.accuracy(flat, labels)
    broken = torch.full((4, 9), math.nan)
    assert measure.top_k(broken, torch.zeros(4).long(), 5) == 0
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"from 1 to the number of classes, 5, got {k}"):
            measure.top_k(flat, labels, k)


def recall_by_loops(features, labels, metric):
    """Every pair by itself, in float64; ties count by the share of them that is right."""
    x = np.asarray(features, dtype=np.float64).reshape(len(features), -1)
    hits = []
    for i, own in enumerate(x):
        others = [j for j in range(len(x)) if j != i]
        if metric == "cosine":
            far = [-own @ x[j] / np.linalg.norm(own) / np.linalg.norm(x[j]) for j in others]
        else:
            far = [np.linalg.norm(own - x[j]) for j in others]
        near = [j for j, d in zip(others, far, strict=True) if d <= min(far) + 1e-9]
        if any(labels[j] == labels[i] for j in others):
            hits.append(np.mean([float(labels[j] == labels[i]) for j in near]))
    return np.mean(hits)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("batch", [1, 7, 500])
def test_recall_is_that_of_a_loop(metric, batch):
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 6, 60))
    x = torch.from_numpy(rng.normal(size=(60, 2, 3))).float() + one_hot(labels, 6).view(60, 2, 3)
    x *= torch.from_numpy(rng.uniform(0.1, 5, size=(60, 1, 1)))  # lengths tell the metrics apart
    found = measure.recall_at_1(x, labels, metric, batch)
    assert found == pytest.approx(recall_by_loops(x, labels.tolist(), metric), abs=1e-12)
    assert 0.2 < found < 0.9
    assert measure.recall_at_1(x, one_hot(labels, 6), metric, batch) == found  # soft labels
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert measure.recall_at_1(x[order], labels[order], metric, batch) == pytest.approx(found)
    assert measure.recall_at_1(1e18 * x, labels, metric, batch) == pytest.approx(found)
    assert measure.recall_at_1(x.double() * 1e-200, labels, metric) == pytest.approx(found)


def test_recall_knows_what_its_metric_may_ignore():
    rng = np.random.default_rng(0)
    labels, x = torch.arange(400) % 4, torch.from_numpy(rng.normal(size=(400, 3)))
    cosine, euclidean = (measure.recall_at_1(x, labels, m) for m in ("cosine", "euclidean"))
    assert measure.recall_at_1(x + 1e4, labels, "euclidean") == euclidean  # moved
    assert measure.recall_at_1(x + 5, labels) != cosine
    stretched = x * torch.from_numpy(rng.uniform(0.1, 9, size=(400, 1)))
    assert measure.recall_at_1(stretched, labels) == cosine
    assert measure.recall_at_1(stretched, labels, "euclidean") != euclidean


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_recall_of_ties_and_of_samples_without_a_partner(metric):
    labels = torch.tensor([0, 0, 0, 1, 1])
    # Everything looks the same: chance, which is 2 of 4 for three samples and 1 of 4 for two.
    for same in (torch.full((5, 3), 0.1), torch.zeros(5, 3)):
        assert measure.recall_at_1(same, labels, metric) == pytest.approx((3 * 0.5 + 2 * 0.25) / 5)
    # Copies are neighbours; a sample is never its own.
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert measure.recall_at_1(x, torch.tensor([0, 0, 1, 1]), metric) == 1
    assert measure.recall_at_1(x, torch.tensor([0, 1, 0, 1]), metric) == 0
    # The last one is alone in its class: not asked, but it can be in the way.
    x = torch.tensor([[1.0, 0.0], [1.0, 0.4], [1.0, 0.1]])
    assert measure.recall_at_1(x, torch.tensor([0, 0, 1]), metric) == 0
    assert measure.recall_at_1(x[:2], torch.tensor([0, 0]), metric) == 1
    assert math.isnan(measure.recall_at_1(x, torch.tensor([0, 1, 2]), metric))
    assert math.isnan(measure.recall_at_1(torch.full((2, 1), torch.nan), torch.tensor([0, 0])))


def test_recall_that_cannot_be():
    x = torch.rand(4, 2)
    with pytest.raises(ValueError, match="same samples, at least 2, got 4 and 3"):
        measure.recall_at_1(x, torch.zeros(3))
    with pytest.raises(ValueError, match="at least 2, got 1 and 1"):
        measure.recall_at_1(x[:1], torch.zeros(1))
    with pytest.raises(ValueError, match='"cosine" or "euclidean", got \'dot\''):
        measure.recall_at_1(x, torch.zeros(4), "dot")


def test_evaluate_is_all_of_them():
    (logits, labels), teacher = example(), example(seed=1)[0]
    assert measure.evaluate(logits, labels, teacher) == {
        "accuracy": measure.accuracy(logits, labels), "nll": measure.nll(logits, labels),
        "ece": measure.ece(logits, labels), "agreement": measure.agreement(logits, teacher),
        "teacher_kl": measure.teacher_kl(logits, teacher)}
    assert list(measure.evaluate(logits, labels)) == ["accuracy", "nll", "ece"]


def test_soft_labels_count_as_their_largest_class():
    logits, labels = example()
    soft = one_hot(labels)
    for function in (measure.accuracy, measure.nll, measure.ece):
        assert function(logits, soft) == pytest.approx(function(logits, labels))
    assert measure.reliability(logits, soft) == measure.reliability(logits, labels)
    assert measure.per_class(logits, soft, 5) == measure.per_class(logits, labels, 5)
    assert torch.equal(measure.confusion(logits, soft), measure.confusion(logits, labels))


# --- size and speed -----------------------------------------------------------------------------


def conv_macs(inputs, outputs, side, kernel=3):
    return inputs * outputs * kernel**2 * side**2


def transformer_macs(n=17, D=64, depth=4):
    """Queries, keys and values, their products, the projection, and the MLP of twice the width."""
    layer = n * D * 3 * D + 2 * n * n * D + n * D * D + 2 * n * D * 2 * D
    return 16 * 49 * D + depth * layer + 36 * D


@pytest.mark.parametrize(("model", "shape", "expected"), [
    (nn.Linear(10, 5), (10,), 50),
    (nn.Conv2d(3, 8, 3, padding=1), (3, 16, 16), conv_macs(3, 8, 16)),
    (nn.Conv2d(3, 8, 5, stride=2, padding=2), (3, 16, 16), conv_macs(3, 8, 8, 5)),
    (nn.Conv2d(8, 8, 3, padding=1, groups=4), (8, 16, 16), conv_macs(8, 8, 16) // 4),
    (kd.models.mlp(hidden=(32,)), (1, 28, 28), 784 * 32 + 32 * 36),
    (kd.models.convnet(width=16), (1, 28, 28),
     conv_macs(1, 16, 14) + conv_macs(16, 32, 7) + conv_macs(32, 64, 4) + 64 * 36),
    (kd.models.vit(), (1, 28, 28), transformer_macs()),
])
def test_multiply_accumulates_by_the_formula(model, shape, expected):
    model.train()
    assert measure.macs(model, shape) == expected
    assert model.training


def test_parameters_are_counted_once():
    shared = nn.Linear(3, 3)
    assert measure.parameters(nn.Sequential(shared, shared, nn.Linear(3, 1))) == 12 + 4


def test_latency_measures_and_leaves_no_trace(smoke):
    model = restless()
    before, threads = state(model), torch.get_num_threads()
    median, spread = measure.latency(model, (1, 12, 12))
    assert 0 < median < 1000
    assert spread >= 0
    assert torch.get_num_threads() == threads
    assert state(model) == before
    assert model.training


def test_a_slower_network_takes_longer(smoke):
    quick, slow = nn.Linear(8, 8), nn.Sequential(*[nn.Linear(512, 512) for _ in range(20)])
    assert measure.latency(slow, (512,), batch=8)[0] > measure.latency(quick, (8,))[0]


# --- several seeds ------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("count", [2, 5, 30])
def test_intervals_are_those_of_scipy(level, count):
    from scipy import stats

    rng = np.random.default_rng(count)
    ours, other = rng.normal(0.7, 0.01, count), rng.normal(0.6, 0.02, count)
    mean, low, high = measure.interval(list(ours), level)
    expected = stats.ttest_1samp(ours, 0).confidence_interval(level)
    assert (mean, low, high) == pytest.approx((ours.mean(), *expected))
    mean, low, high = measure.paired_difference(list(ours), list(other), level)
    expected = stats.ttest_rel(ours, other).confidence_interval(level)
    assert (mean, low, high) == pytest.approx(((ours - other).mean(), *expected))


def test_one_run_says_nothing_about_the_spread():
    mean, low, high = measure.interval([0.5])
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_intervals_that_cannot_be():
    with pytest.raises(ValueError, match="at least one value, got none"):
        measure.interval([])
    with pytest.raises(ValueError, match="pairs, got 2 and 3 values"):
        measure.paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])


# --- the report ---------------------------------------------------------------------------------


def test_the_report_shows_the_teacher_beside_the_student(data, smoke):
    student, teacher = network(0), network(1, width=8)
    scheme = kd.Distiller(student, teacher)
    before = state(student), state(teacher)
    report = kd.report(scheme, data)
    assert list(report.rows) == ["teacher", "student"]
    logits = kd.models.predict(student, data.test.x)
    against = kd.models.predict(teacher, data.test.x)
    row = report.rows["student"]
    assert {key: row[key] for key in ("accuracy", "nll", "ece", "agreement", "teacher_kl")} == (
        pytest.approx(measure.evaluate(logits, data.test.y, against)))
    assert row["parameters"] == measure.parameters(student)
    assert row["macs"] == measure.macs(student, data.shape)
    assert row["latency_ms"] > 0
    assert "agreement" not in report.rows["teacher"]
    assert (state(student), state(teacher)) == before
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_the_report_in_text_and_html(data, smoke):
    report = kd.report(kd.Distiller(network(0), kd.Cached(network(1), data)), data, split="val")
    text, html = repr(report), report._repr_html_()
    for word in ("glyphs, 72 samples of the val split", "teacher", "student", "accuracy", "ECE",
                 "parameters", "MACs", "latency"):
        assert word in text
        assert word in html
    lines = text.splitlines()[1:]
    assert len({len(line) for line in lines}) == 1  # columns are aligned
    assert next(line for line in lines if line.startswith("agrees")).split()[-2] == "–"


def test_a_report_without_a_teacher(data, smoke):
    report = kd.report(kd.Supervised(network()), data)
    assert list(report.rows) == ["student"]
    assert "agrees" not in repr(report)


COSTS = {"parameters", "macs", "file_mb", "latency_ms", "latency_iqr_ms", "throughput",
         "throughput_iqr", "peak_mb"}


def test_the_report_has_every_quantity(data, smoke):
    scheme = kd.Distiller(network(0), network(1, width=8))
    report = kd.report(scheme, data, batch=16)
    right = {"accuracy", "top5", "nll", "ece"}
    assert set(report.rows["teacher"]) == right | COSTS
    assert set(report.rows["student"]) == right | COSTS | {"agreement", "teacher_kl"}
    of_numbers = {"r2", "rmse", "teacher_rmse"}  # which tests/test_tasks.py asks for
    assert set(report.FORMATS) - of_numbers == set(report.rows["student"])  # all of it is shown
    assert all(value > 0 for row in report.rows.values()
               for key, value in row.items() if key in COSTS)
    student = kd.export(scheme)
    row = report.rows["student"]
    assert row["top5"] == measure.top_k(kd.models.predict(student, data.test.x), data.test.y)
    assert row["file_mb"] == measure.file_mb(student)
    assert row["peak_mb"] == pytest.approx(measure.peak_memory(student, data.shape), rel=1e-3)
    assert "throughput, batch 16" in repr(report)
    assert report.to_dict()["batch"] == 16
    assert report.to_dict()["threads"] == torch.get_num_threads()


def test_few_classes_have_no_top_5(smoke):
    data = kd.data.from_arrays(torch.rand(100, 1, 12, 12), torch.arange(100) % 5)
    report = kd.report(kd.Supervised(network(classes=5)), data)
    assert "top5" not in report.rows["student"]
    assert "top-5" not in repr(report)


def test_a_teacher_is_asked_as_it_wants_to_be(data, smoke):
    inner = kd.models.mlp(hidden=(16,), size=24)
    live = kd.Live(inner, v2.Compose([v2.Resize(24, antialias=True), v2.Normalize([0.3], [0.2])]))
    x = torch.nn.functional.interpolate(data.test.x, (24, 24), mode="bilinear", antialias=True)
    logits = kd.models.predict(inner, (x - 0.3) / 0.2)
    for teacher in (live, kd.Cached(live, data)):
        row = kd.report(kd.Distiller(network(), teacher), data).rows["teacher"]
        assert row["nll"] == pytest.approx(measure.nll(logits, data.test.y), rel=1e-5)
        assert row["parameters"] == measure.parameters(inner)
        assert row["macs"] == 24 * 24 * 16 + 16 * 36
        assert row["latency_ms"] > 0


def test_an_ensemble_costs_the_sum_of_its_networks(data, smoke):
    members = [network(0, width=8), kd.models.mlp(hidden=(16,), size=24)]
    teacher = kd.Ensemble([members[0], kd.Live(members[1], v2.Resize(24, antialias=True))])
    row = kd.report(kd.Distiller(network(1), teacher), data).rows["teacher"]
    assert row["parameters"] == sum(measure.parameters(member) for member in members)
    assert row["macs"] == measure.macs(members[0], (1, 12, 12)) + measure.macs(members[1],
                                                                              (1, 24, 24))
    assert row["file_mb"] == pytest.approx(sum(map(measure.file_mb, members)), abs=1e-3)
    assert row["nll"] == pytest.approx(measure.nll(teacher.predict(data.test.x), data.test.y))


def test_a_teacher_without_a_network_costs_nothing_here(data, smoke):
    class Elsewhere(kd.teachers.Teacher):
        """Answers that come over a wire."""

        def forward(self, batch, paths=()):
            return kd.Output(self.predict(batch.x))

        def predict(self, x, y=None):
            return x.flatten(1)[:, :36]

    report = kd.report(kd.Distiller(network(), Elsewhere()), data)
    assert set(report.rows["teacher"]) == {"accuracy", "top5", "nll", "ece"}
    student = kd.models.predict(network(), data.test.x)
    assert report.rows["student"]["agreement"] == measure.agreement(
        student, data.test.x.flatten(1)[:, :36])
    stored = kd.Cached.of(torch.zeros(len(data.train), 36), data, name="zeros")
    assert list(kd.report(kd.Distiller(network(), stored), data).rows) == ["student"]


def test_a_teacher_for_colours_is_measured_on_grey_images(data, smoke):
    teacher = kd.Live(network(1, channels=3), v2.RGB())
    report = kd.report(kd.Distiller(network(), teacher), data)
    assert report.rows["teacher"]["latency_ms"] > 0


def test_students_that_learn_from_each_other_stand_side_by_side(data, smoke):
    students = [network(0), network(1, width=8), network(2)]
    report = kd.report(kd.Mutual(students), data)
    assert list(report.rows) == ["student 1", "student 2", "student 3"]
    logits = [kd.models.predict(student, data.test.x) for student in students]
    for i, (row, student) in enumerate(zip(report.rows.values(), students, strict=True)):
        peers = [other for j, other in enumerate(logits) if j != i]
        assert row["parameters"] == measure.parameters(student)
        assert row["accuracy"] == measure.accuracy(logits[i], data.test.y)
        assert row["agreement"] == pytest.approx(
            np.mean([measure.agreement(logits[i], peer) for peer in peers]))
        assert row["teacher_kl"] == pytest.approx(
            np.mean([measure.teacher_kl(logits[i], peer) for peer in peers]))
    assert "agrees with its peers" in repr(report)


def test_every_exit_is_a_column_with_what_it_needs(data, smoke):
    model = kd.models.resnet(depth=8, width=8, size=12)
    scheme = kd.MultiExit(model, ["layer1", "layer2"])
    assert list(kd.report(scheme, data).rows) == ["student"]  # there are no exits yet
    kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36))
    before = state(scheme)
    report = kd.report(scheme, data)
    assert state(scheme) == before
    assert list(report.rows) == ["exit layer1", "exit layer2", "student"]
    first, second = ([model.stem, model.layer1], [model.stem, model.layer1, model.layer2])
    for name, parts, head in (("exit layer1", first, scheme.heads[0]),
                              ("exit layer2", second, scheme.heads[1])):
        row = report.rows[name]
        assert row["parameters"] == sum(map(measure.parameters, [*parts, head]))
        whole = sum(map(measure.file_mb, [*parts, head]))
        assert row["file_mb"] == pytest.approx(whole, rel=0.1)  # one header, with longer names
        exit_NK = kd.models.predict(scheme.exit(name.removeprefix("exit ")), data.test.x)
        end_NK = kd.models.predict(model, data.test.x)
        assert row["nll"] == pytest.approx(measure.nll(exit_NK, data.test.y))
        assert row["agreement"] == measure.agreement(exit_NK, end_NK)
        if report.device != "pretend":  # which does not count its memory
            assert row["peak_mb"] < report.rows["student"]["peak_mb"]
    assert report.rows["student"]["parameters"] == measure.parameters(model)
    assert "agrees with the end" in repr(report)


def test_the_student_is_measured_without_hooks_and_keeps_them(data, smoke):
    seen = []

    class Counts(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            hooks = [*self._forward_hooks.values(), *self.inner._forward_hooks.values()]
            seen.append([type(hook).__name__ for hook in hooks])
            return self.inner(x)

    student = Counts(network())
    objective = kd.losses.CE() + kd.losses.Hint("inner", "1")
    scheme = kd.Distiller(student, network(1), objective)
    kd.report(scheme, data)
    hooked = [names for names in seen if names]  # one pass: peak memory has hooks of its own
    assert len(hooked) == 1 and "_Tap" not in hooked[0]
    assert len(student.inner._forward_hooks) == 1


def test_a_report_on_data_from_a_loader(data, smoke):
    from torch.utils.data import DataLoader, TensorDataset

    from kdcourse.data.loaders import from_loaders

    loaders = [DataLoader(TensorDataset(part.x, part.y), batch_size=36)
               for part in (data.train, data.val, data.test)]
    stream = from_loaders(*loaders, classes=36)
    scheme = kd.Distiller(network(0), network(1))
    ours, plain = kd.report(scheme, stream), kd.report(scheme, data)
    assert "72 samples of the test split" in ours.title
    for name, row in plain.rows.items():
        for key in set(row) - {key for key in COSTS if key not in ("parameters", "macs")}:
            assert ours.rows[name][key] == pytest.approx(row[key], rel=1e-5)


def test_a_report_on_what_is_no_scheme(data):
    with pytest.raises(TypeError, match=r"such as Distiller.*Sequential.*Supervised\(network\)"):
        kd.report(network(), data)


def test_everything_public_is_at_hand():
    for name in measure.__all__:
        assert callable(getattr(measure, name)), name
        assert getattr(measure, name).__doc__, name
    assert kd.report is measure.report


def test_html_is_escaped():
    html = measure.html_table(["", "<b>"], [["a & b", "<i>"]], "<script>")
    assert "<script>" not in html
    assert "<i>" not in html
    assert "<b>" not in html
    assert "a &amp; b" in html
