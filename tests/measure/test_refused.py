"""What measures must not take: a sentence, or the right number, in the place of a wrong one."""

import math

import pytest
import torch

from kdcourse import measure

WITH_LABELS = {
    "accuracy": measure.accuracy, "top_k": lambda z, y: measure.top_k(z, y, 2),
    "nll": measure.nll, "ece": measure.ece, "reliability": measure.reliability,
    "per_class": lambda z, y: measure.per_class(z, y, 3), "confusion": measure.confusion,
    "evaluate": measure.evaluate,
}
WITH_TEACHER = {"agreement": measure.agreement, "teacher_kl": measure.teacher_kl}
SOFTENED = {name: WITH_LABELS[name] for name in ("nll", "ece", "reliability", "evaluate")} | {
    "entropy": lambda z, y: measure.entropy(z),
    "teacher_kl": lambda z, y: measure.teacher_kl(z, z + 1)}
z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
y = torch.tensor([0, 1, 2, 2, 1, 0])


def every(table):
    return pytest.mark.parametrize("function", table.values(), ids=table)


@every(WITH_LABELS)
@pytest.mark.parametrize("labels", [
    y[:, None], y[None], y[:5], y[:1], y.view(2, 3), torch.eye(4)[y], torch.eye(3)[y][:5],
    y + 1, y - 1, y.where(y > 0, -100), y + 0.5, 2 * torch.eye(3)[y], torch.ones(6, 3),
    torch.full((6, 3), math.nan), torch.randn(6, 3), None, y.tolist(), y.numpy(),
    torch.full((6,), math.nan)])
def test_labels_that_do_not_fit(function, labels):
    if function is measure.evaluate and not isinstance(labels, torch.Tensor):
        return  # None stands for no labels
    with pytest.raises(ValueError, match="Expected "):
        function(z, labels)


@every(WITH_LABELS)
@pytest.mark.parametrize("as_labels", [
    torch.Tensor.int, torch.Tensor.byte, torch.Tensor.double, lambda y: torch.eye(3)[y],
    lambda y: torch.eye(3)[y].long(), lambda y: 0.7 * torch.eye(3)[y] + 0.1])
def test_labels_in_another_form_are_the_same(function, as_labels):
    labels = as_labels(y)
    if function in (measure.nll, measure.evaluate) and labels.ndim == 2:
        return  # soft labels have another likelihood
    assert str(function(z, labels)) == str(function(z, y))


@every(WITH_LABELS | WITH_TEACHER)
@pytest.mark.parametrize("logits", [z[:0], z[:, :1], z[0], z[None], z.argmax(1), None])
def test_logits_that_do_not_fit(function, logits):
    if function is measure.evaluate and logits is None:
        return
    with pytest.raises(ValueError, match="Expected "):
        function(logits, y if function in WITH_LABELS.values() else z)


@every(WITH_TEACHER)
@pytest.mark.parametrize("teacher", [z[:1], z[:5], z[:, :2], z[:, :1], z.argmax(1), z.T])
def test_teachers_that_do_not_fit(function, teacher):
    with pytest.raises(ValueError, match="Expected "):
        function(z, teacher)


@every(SOFTENED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_probabilities_are_no_logits(function, dtype):
    with pytest.raises(ValueError, match=r"Expected logits, got .*softmax at the end"):
        function(z.softmax(1).to(dtype), y)
    with pytest.raises(ValueError, match=r"Expected logits, got .*softmax at the end"):
        function(torch.eye(3)[y].to(dtype), y)
    function(z.log_softmax(1).to(dtype), y)  # their logarithm will do


@pytest.mark.parametrize("broken", [[0], [1, 2], [0, 1, 2]])
def test_logits_that_are_not_numbers_are_no_answer(broken):
    bad = z.clone()
    bad[:2, broken] = math.nan
    right = (z.argmax(1) == y).tolist()
    assert measure.accuracy(bad, y) == pytest.approx(sum(right[2:]) / 6)
    assert measure.top_k(bad, y, 1) == measure.accuracy(bad, y)
    assert measure.agreement(bad, z) == measure.agreement(z, bad) == pytest.approx(4 / 6)
    assert measure.agreement(bad, bad) == pytest.approx(4 / 6)
    shares = measure.per_class(bad, y, 3)
    assert shares[0] == pytest.approx(right[5] / 2)
    assert shares[1] == pytest.approx(right[4] / 2)
    for value in (measure.nll(bad, y), measure.ece(bad, y), measure.teacher_kl(bad, z),
                  measure.teacher_kl(z, bad), float(measure.entropy(bad)[:2].sum())):
        assert math.isnan(value)
    assert sum(row["count"] for row in measure.reliability(bad, y)) == 4
    with pytest.raises(ValueError, match="got NaN in 2 samples"):
        measure.confusion(bad, y)
    found = measure.evaluate(bad, y, z)
    assert found["accuracy"] == measure.accuracy(bad, y)
    assert math.isnan(found["ece"])


def test_infinite_logits():
    bad = z.clone()
    bad[0, 0], bad[1, 1] = math.inf, -math.inf  # sample 0 is sure; sample 1 rules its label out
    assert measure.accuracy(bad[:1], y[:1]) == 1
    assert math.isnan(measure.ece(bad, y))  # the softmax of inf is no number
    assert measure.nll(bad[1:], y[1:]) == math.inf
    assert 0 <= measure.ece(bad[1:], y[1:]) <= 1


@pytest.mark.parametrize("function", [measure.r2, measure.rmse])
@pytest.mark.parametrize(("outputs", "targets"), [
    (z[:, :1], z[:, 0]), (z[:, 0], z[:, :1]), (z[:, 0], z[:, 0]), (z, z[:1]), (z, z[:, :1]),
    (z[:0], z[:0]), (z, z.T), (z, z[:5])])
def test_numbers_of_other_shapes(function, outputs, targets):
    with pytest.raises(ValueError, match=r"one shape \[N, D\]"):
        function(outputs, targets)


@pytest.mark.parametrize("labels", [y[:, None], y[:1].expand(6, 1), torch.ones(6, 3),
                                    y.where(y > 0, -100), y + 0.5])
def test_retrieval_with_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match="Expected "):
        measure.recall_at_1(z, labels)


@pytest.mark.parametrize("maps", [z[None, :3, :3], 2 * z[:3].softmax(1)[None], z[None, :3] * 0,
                                  torch.full((1, 2, 3, 3), math.nan),
                                  torch.nn.functional.dropout(torch.full((1, 3, 3), 1 / 3), 0.5)])
def test_attention_that_is_no_distribution(maps):
    with pytest.raises(ValueError, match="after the softmax, whose rows sum to 1"):
        measure.attention_rollout([maps])
    for dtype in (torch.float16, torch.bfloat16):
        rolled = measure.attention_rollout([z[None, :3].softmax(2).to(dtype)])
        torch.testing.assert_close(rolled.sum(2), torch.ones(1, 3), atol=1e-2, rtol=0)


@pytest.mark.parametrize("level", [95, 0, 1, -0.5, math.nan])
def test_levels_that_are_no_share(level):
    with pytest.raises(ValueError, match="level between 0 and 1"):
        measure.interval([1.0, 2.0], level)
    with pytest.raises(ValueError, match="level between 0 and 1"):
        measure.paired_difference([1.0, 2.0], [1.0, 3.0], level)


@pytest.mark.parametrize("T", [0, -1, math.inf, math.nan])
def test_entropy_at_no_temperature(T):
    with pytest.raises(ValueError, match="temperature T above 0"):
        measure.entropy(z, T)


@pytest.mark.parametrize("bins", [0, -3, 1.5])
def test_no_bins(bins):
    for function in (measure.ece, measure.reliability):
        with pytest.raises(ValueError, match="bins to be a whole number"):
            function(z, y, bins)
