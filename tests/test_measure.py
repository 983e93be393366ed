"""Measures: against loops, scikit-learn, SciPy and formulas."""

import json
import math

import numpy as np
import oracles
import pytest
import torch
from conftest import network, restless, state
from sklearn import metrics
from torch import nn

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


def test_html_is_escaped():
    html = measure.html_table(["", "<b>"], [["a & b", "<i>"]], "<script>")
    assert "<script>" not in html
    assert "<i>" not in html
    assert "<b>" not in html
    assert "a &amp; b" in html
