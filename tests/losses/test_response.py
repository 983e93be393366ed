"""Losses on logits, beyond the laws of `test_laws.py`."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import network
from helpers import oracles

import kdcourse as kd
from kdcourse import losses
from kdcourse.losses import (
    CE,
    DIST,
    DKD,
    JS,
    KD,
    TV,
    HardLabel,
    LabelSmoothing,
    LogitMSE,
    LogitStd,
    ReverseKL,
    TfKD,
)
from kdcourse.taps import Output

INF = math.inf


def logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(shape, generator=kd.data.generator(seed), dtype=torch.float64)


def example(B=5, K=7):
    """Logits of a student and a teacher, labels, soft labels."""
    y = torch.arange(B) % K
    return logits(B, K, seed=1), logits(B, K, seed=2), y, logits(B, K, seed=3).softmax(1)


def gradient(loss, s, *rest):
    """Of the mean of a loss, for the student."""
    s = s.clone().requires_grad_()
    loss(s, *rest).mean().backward()
    return s.grad


def centred(x):
    return x - x.mean(1, keepdim=True)


# One value per sample, as a function of (s, t, y).
DIVERGENCES = {
    "kd": lambda s, t, y, T=3: losses.kd(s, t, T, "none"),
    "reverse_kl": lambda s, t, y, T=3: losses.reverse_kl(s, t, T, "none"),
    "jensen_shannon 0.1": lambda s, t, y, T=3: losses.jensen_shannon(s, t, 0.1, T, "scaled",
                                                                     "none"),
    "jensen_shannon 0.5": lambda s, t, y, T=3: losses.jensen_shannon(s, t, 0.5, T, "scaled",
                                                                     "none"),
    "jensen_shannon 0.9": lambda s, t, y, T=3: losses.jensen_shannon(s, t, 0.9, T, "scaled",
                                                                     "none"),
    "jensen_shannon paper": lambda s, t, y, T=3: losses.jensen_shannon(s, t, 0.3, T, "paper",
                                                                       "none"),
    "total_variation": lambda s, t, y, T=3: losses.total_variation(s, t, T, "none"),
    "dkd": lambda s, t, y, T=3: losses.dkd(s, t, y, 1, 8, T, "none"),
}
SCALED = [name for name in DIVERGENCES if name.startswith(("kd", "reverse", "jensen"))
          and "paper" not in name]  # these agree at large T
OTHERS = {
    "soft_cross_entropy": lambda s, t, y: losses.soft_cross_entropy(s, t, 3, "none"),
    "cross_entropy": lambda s, t, y: losses.cross_entropy(s, y, "none"),
    "label_smoothing": lambda s, t, y: losses.label_smoothing(s, y, 0.2, "none"),
    "hard_label": lambda s, t, y: losses.hard_label(s, t, 0.2, "none"),
    "virtual_teacher": lambda s, t, y: losses.virtual_teacher(s, y, reduction="none"),
    "virtual_teacher code": lambda s, t, y: losses.virtual_teacher(s, y, variant="code",
                                                                   reduction="none"),
    "logit_standardization": lambda s, t, y: losses.logit_standardization(s, t, reduction="none"),
    "dist": lambda s, t, y: losses.dist(s, t),
}
every_divergence = pytest.mark.parametrize("name", DIVERGENCES)


# --- what does not matter, and what agreement means ---------------------------------------------


@pytest.mark.parametrize("name", DIVERGENCES | OTHERS)
def test_a_constant_added_to_all_logits_changes_nothing(name):
    s, t, y, _ = example()
    loss = (DIVERGENCES | OTHERS)[name]
    shift = logits(len(s), 1, seed=9, scale=30)
    torch.testing.assert_close(loss(s + shift, t - shift, y), loss(s, t, y))


@every_divergence
@pytest.mark.parametrize("T", [0.5, 1, 4, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exactly_zero_with_zero_gradient_where_both_agree(name, T, dtype):
    t, y = logits(6, 10).to(dtype), torch.arange(6)
    loss = DIVERGENCES[name]
    assert torch.equal(loss(t, t, y, T), torch.zeros(6, dtype=dtype))
    assert gradient(loss, t, t, y, T).abs().max() <= 32 * T * torch.finfo(dtype).eps


@every_divergence
@pytest.mark.parametrize("T", [1, 4])
def test_rises_with_every_step_away_from_the_teacher(name, T):
    t, y = logits(4, 6), torch.arange(4)
    for seed in range(10):
        away = logits(4, 6, seed=100 + seed)
        path = [float(DIVERGENCES[name](t + share * away, t, y, T).mean())
                for share in (0, 0.01, 0.1, 0.5, 1)]
        assert path == sorted(path)
        assert path[1] > 0


# --- temperature --------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 3, 10])
def test_the_gradient_of_kd_is_T_times_q_minus_p(T):
    s, t, y, _ = example()
    expected = T * ((s / T).softmax(1) - (t / T).softmax(1)) / len(s)
    torch.testing.assert_close(gradient(DIVERGENCES["kd"], s, t, y, T), expected)


@pytest.mark.parametrize("name", SCALED)
def test_T_squared_makes_the_gradient_tend_to_a_constant(name):
    # softmax(z / T) = (1 + (z - mean z) / T) / K + O(1/T²), so T (q - p) tends to the difference
    # of the centred logits over K. The rest falls at least as 1/T.
    s, t, y, _ = example(5, 7)
    limit = (centred(s) - centred(t)) / 7 / len(s)
    at = {T: gradient(DIVERGENCES[name], s, t, y, T) for T in (1, 100, 1000)}
    gap = {T: float((g - limit).norm() / limit.norm()) for T, g in at.items()}
    assert gap[1] > 0.2  # and it is far from constant at small T
    assert gap[1000] < 0.005
    assert 9 < gap[100] / gap[1000] < 110
    # Without T² it would vanish as 1/T².
    bare = [float((gradient(DIVERGENCES[name], s, t, y, T) / T**2).norm()) for T in (1000, 10000)]
    assert bare[0] / bare[1] == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("name", SCALED)
def test_at_large_T_it_is_the_squared_distance_of_centred_logits(name):
    s, t, y, _ = example(5, 7)
    limit = losses.logit_mse(centred(s), centred(t), reduction="none") / 7
    torch.testing.assert_close(DIVERGENCES[name](s, t, y, 1e5), limit, rtol=1e-3, atol=0)


def test_at_large_T_dkd_compares_the_target_with_the_mean_of_the_others():
    s, t, y, _ = example(5, 7)
    gap = s - t
    own = gap.gather(1, y[:, None])[:, 0]
    others = torch.stack([torch.cat([row[:k], row[k + 1:]]) for row, k in zip(gap, y, strict=True)])
    target = (own - others.mean(1)).square() * 6 / (2 * 7**2)
    rest = centred(others).square().sum(1) / (2 * 6)
    torch.testing.assert_close(losses.dkd(s, t, y, 1, 0, 1e5, "none"), target, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(losses.dkd(s, t, y, 0, 1, 1e5, "none"), rest, rtol=1e-3, atol=1e-4)


def test_total_variation_falls_with_T():
    s, t, y, _ = example()
    sizes = [float(gradient(DIVERGENCES["total_variation"], s, t, y, T).norm()) for T in (1e3, 1e4)]
    assert sizes[0] / sizes[1] == pytest.approx(10, rel=0.01)
    assert (losses.total_variation(s, t, 0.01, "none") <= 1).all()


def test_correlations_do_not_shrink_with_T():
    s, t, *_ = example()
    size = lambda T, v: float(  # noqa: E731
        gradient(lambda s: losses.dist(s, t, T=T, variant=v), s).norm())
    assert size(1e4, "paper") / size(1e3, "paper") == pytest.approx(1, rel=0.01)
    for T in (4, 10, 100):  # at thousands all probabilities are so even that the code's 1e-8 counts
        assert size(T, "code") / size(T, "paper") == pytest.approx(T**2, rel=0.01)


# --- soft and hard labels -----------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 4, 16])
def test_cross_entropy_with_soft_targets_has_the_same_gradient_and_another_value(T):
    s, t, *_ = example()
    ours, other = s.clone().requires_grad_(), s.clone().requires_grad_()
    kl, ce = losses.kd(ours, t, T), losses.soft_cross_entropy(other, t, T)
    kl.backward(), ce.backward()
    torch.testing.assert_close(ours.grad, other.grad, rtol=1e-12, atol=1e-15)
    entropy = np.mean([oracles.entropy(row, T) for row in t.numpy()])
    assert (ce - kl).item() == pytest.approx(T**2 * entropy, rel=1e-12)


def test_temperature_one_against_one_hot_is_the_cross_entropy():
    s, _, y, _ = example()
    sure = torch.full_like(s, -INF).scatter(1, y[:, None], 0.0)
    torch.testing.assert_close(losses.kd(s, sure, 1, "none"), losses.cross_entropy(s, y, "none"))


def test_label_smoothing_lies_between_the_labels_and_uniform():
    s, _, y, _ = example()
    uniform = torch.full_like(s, 1 / s.shape[1])
    torch.testing.assert_close(losses.label_smoothing(s, y, 0.0), losses.cross_entropy(s, y))
    torch.testing.assert_close(losses.label_smoothing(s, y, 1.0), losses.cross_entropy(s, uniform))


def test_hard_label_listens_to_the_first_choice_only():
    s, t, y, _ = example()
    choice = t.argmax(1)
    assert (choice != y).any()
    for smoothing in (0, 0.1):
        expected = losses.label_smoothing(s, choice, smoothing, "none")
        torch.testing.assert_close(losses.hard_label(s, t, smoothing, "none"), expected)
    other = torch.where(t == t.amax(1, keepdim=True), t, t.flip(1) - 100)
    assert torch.equal(losses.hard_label(s, other), losses.hard_label(s, t))
    assert torch.equal(losses.hard_label(s, 0 * t), losses.cross_entropy(s, 0 * y))  # all equal


def test_hard_label_is_half_of_deit():
    s, t, y, _ = example()
    objective = 0.5 * CE() + 0.5 * HardLabel()
    expected = (F.cross_entropy(s, y) + F.cross_entropy(s, t.argmax(1))) / 2
    torch.testing.assert_close(objective(s, t, y), expected)


def virtual(y, K, a):
    return torch.full((len(y), K), (1 - a) / (K - 1), dtype=torch.float64).scatter(1, y[:, None], a)


@pytest.mark.parametrize("T", [1, 20])
def test_a_virtual_teacher_is_a_teacher_with_these_logits(T):
    s, _, y, _ = example()
    v = virtual(y, 7, 0.9).log()
    torch.testing.assert_close(losses.virtual_teacher(s, y, 0.9, T, reduction="none"),
                               losses.kd(s, v, T, "none"))
    at = losses.virtual_teacher(v + 3, y, 0.9, T)
    torch.testing.assert_close(at, torch.zeros_like(at))


def test_a_virtual_teacher_at_temperature_one_is_label_smoothing():
    s, _, y, _ = example()
    smoothing = 0.2
    a = 1 - smoothing + smoothing / 7
    entropy = oracles.entropy(virtual(y, 7, a)[0].log().numpy())
    torch.testing.assert_close(losses.virtual_teacher(s, y, a, 1, reduction="none"),
                               losses.label_smoothing(s, y, smoothing, "none") - entropy)
    torch.testing.assert_close(losses.virtual_teacher(s, y, 1, 1), losses.cross_entropy(s, y))


def test_how_sure_the_two_virtual_teachers_are():
    # the numbers of the docstring: the student at which the gradient vanishes
    y, p = torch.tensor([0]), virtual(torch.tensor([0]), 10, 0.99)
    for variant, top, v in (("paper", 0.135, p.log() / 20), ("code", 0.105, p / 20)):
        assert round(float(v.softmax(1)[0, 0]), 3) == top
        s = v * (20 if variant == "paper" else 1)
        loss = lambda s, v=variant: losses.virtual_teacher(s, y, variant=v)  # noqa: E731
        assert gradient(loss, s).abs().max() < 1e-12


# --- Jensen and Shannon -------------------------------------------------------------------------


def js(s, t, beta, T=1, variant="scaled"):
    return losses.jensen_shannon(s, t, beta, T, variant, "none")


@pytest.mark.parametrize("T", [1, 4])
def test_the_ends_of_jensen_shannon_are_kd_and_reverse_kl(T):
    s, t, *_ = example()
    torch.testing.assert_close(js(s, t, 0, T), losses.kd(s, t, T, "none"), rtol=0, atol=0)
    torch.testing.assert_close(js(s, t, 1, T), losses.reverse_kl(s, t, T, "none"), rtol=0, atol=0)
    torch.testing.assert_close(losses.reverse_kl(s, t, T), losses.kd(t, s, T))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("end", [0, 1])
def test_jensen_shannon_has_no_jump_at_its_ends(dtype, end):
    s, t = (logits(5, 7, seed=seed, scale=0.7).to(dtype) for seed in (1, 2))
    value, slope = js(s, t, end), gradient(js, s, t, end)
    noise = 2e-6 if dtype == torch.float32 else 1e-13
    last = None
    for step in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-9, 1e-12, 1e-30, 1e-300):
        beta = abs(end - step)
        gap = (js(s, t, beta) - value).abs().max() / value.abs().max()
        slopes = (gradient(js, s, t, beta) - slope).abs().max() / slope.abs().max()
        assert gap <= 10 * step + noise  # linear, and division adds no noise
        assert slopes <= 30 * step + 10 * noise
        assert last is None or gap <= last + noise
        last = gap


def test_jensen_shannon_moves_from_one_end_to_the_other():
    s, t, *_ = example()
    for beta in (0, 1e-7, 0.2, 0.5, 0.7, 1):
        torch.testing.assert_close(js(s, t, beta), js(t, s, 1 - beta))  # either may be first
    # where both nearly agree, beta does not matter: the curvature is the same
    near = [float(js(t + 1e-4 * s, t, beta).mean()) for beta in (0, 0.1, 0.5, 0.9, 1)]
    np.testing.assert_allclose(near, near[0], rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("gap", "beta"), [(5, 0.1), (35, 0.3), (35, 1e-16), (100, 1e-20),
                                           (200, 1e-3), (INF, 1e-30)])
def test_jensen_shannon_of_answers_that_have_little_in_common(dtype, gap, beta):
    # p = (0, 1), q = (1 - e, e)
    e = math.exp(-gap) / (1 + math.exp(-gap))
    of_p = -math.log(beta + (1 - beta) * e) / (1 - beta)
    of_q = (1 - e) * -math.log1p(-beta) - (e * math.log1p(beta * (1 / e - 1)) if e else 0)
    s, t = torch.tensor([[0, -gap]], dtype=dtype), torch.tensor([[-INF, 0]], dtype=dtype)
    assert float(js(s, t, beta)) == pytest.approx(of_p + of_q / beta, rel=1e-5)
    assert torch.isfinite(gradient(js, s, t, beta)).all()
    if beta >= 1e-3:  # 1 - beta is a number of its own
        assert float(js(t, s, 1 - beta)) == pytest.approx(of_p + of_q / beta, rel=1e-5)


def test_the_paper_divergence_vanishes_at_both_ends():
    s, t, *_ = example()
    for beta in (0.2, 0.5):
        torch.testing.assert_close(js(s, t, beta, 1, "paper"),
                                   beta * (1 - beta) * js(s, t, beta))
    ruled_out = s.clone()
    ruled_out[:, 3] = -INF
    for ours, theirs in ((s, t), (ruled_out, t), (s, ruled_out)):  # 0 also where KL is +inf
        for beta in (0, 1):
            assert float(js(ours, theirs, beta, 1, "paper").abs().max()) == 0
            slopes = gradient(lambda z, v, b: js(z, v, b, 1, "paper"), ours, theirs, beta)
            assert float(slopes.abs().max()) == 0
    for T in (1, 3):  # Huszár 2015, cited there: D / beta tends to KL(p || q)
        torch.testing.assert_close(js(s, t, 1e-6, T, "paper") / 1e-6, losses.kd(s, t, T, "none"),
                                   rtol=1e-4, atol=0)
        torch.testing.assert_close(js(s, t, 1 - 1e-6, T, "paper") / 1e-6,
                                   losses.reverse_kl(s, t, T, "none"), rtol=1e-4, atol=0)
    apart = torch.tensor([[0.0, -INF]]), torch.tensor([[-INF, 0.0]])
    assert float(js(*apart, 0.5, 1, "paper")) == pytest.approx(math.log(2))  # its largest value


# --- decoupled ----------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 4])
def test_kd_is_tckd_plus_what_the_teacher_leaves_of_nckd(T):  # equation 7
    s, t, y, _ = example()
    target, others = losses.dkd(s, t, y, 1, 0, T, "none"), losses.dkd(s, t, y, 0, 1, T, "none")
    sure = (t / T).softmax(1).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(target + (1 - sure) * others, losses.kd(s, t, T, "none"))
    torch.testing.assert_close(losses.dkd(s, t, y, 0.5, 8, T, "none"), 0.5 * target + 8 * others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 100, 1e4])
def test_with_two_classes_there_are_no_others(dtype, scale):
    s, t, y = (x.to(dtype) for x in (scale * logits(6, 2), scale * logits(6, 2, seed=1))), 0, 0
    s, t = s
    y = torch.arange(6) % 2
    others = lambda s: losses.dkd(s, t, y, 0, 8, 4, "none")  # noqa: E731
    assert torch.equal(others(s), torch.zeros(6, dtype=dtype))
    assert torch.equal(gradient(others, s), torch.zeros_like(s))
    torch.testing.assert_close(losses.dkd(s, t, y, 1, 8, 4), losses.kd(s, t, 4))


def test_a_teacher_that_rules_out_all_others_leaves_the_label():
    s, _, y, _ = example()
    sure = torch.full_like(s, -INF).scatter(1, y[:, None], 0.0)
    loss = lambda s: losses.dkd(s, sure, y, 1, 8, 1, "none")  # noqa: E731
    torch.testing.assert_close(loss(s), losses.cross_entropy(s, y, "none"))
    torch.testing.assert_close(gradient(loss, s), gradient(F.cross_entropy, s, y))
    both = gradient(loss, sure)
    assert torch.equal(both, torch.zeros_like(both))
    wrong = torch.roll(sure, 1, 1)
    assert float(losses.dkd(s, wrong, y, 1, 0, 1).isfinite())
    assert float(losses.dkd(sure, s, y, 0, 1, 1)) == INF  # the student knows of no other class


# --- logits, with and without shift and scale ---------------------------------------------------


def test_the_three_squared_distances_differ_by_a_factor():
    s, t, *_ = example()
    half, whole, mean = (losses.logit_mse(s, t, v, "none") for v in ("half", "sum", "mean"))
    torch.testing.assert_close(whole, 2 * half)
    torch.testing.assert_close(mean, whole / 7)
    torch.testing.assert_close(mean.mean(), F.mse_loss(s, t))
    assert float(losses.logit_mse(t + 1, t)) == pytest.approx(3.5)  # a shift counts


def test_standardised_logits_have_no_shift_and_no_scale():
    s, t, *_ = example()
    value = losses.logit_standardization(s, t, 2, reduction="none")
    scale, shift = logits(5, 1, seed=8).exp(), logits(5, 1, seed=9)
    for other in (scale * s + shift, 1e-6 * s, 1e6 * s):
        torch.testing.assert_close(losses.logit_standardization(other, t, 2, reduction="none"),
                                   value)
    assert (losses.logit_standardization(-s, t, 2, reduction="none") - value).abs().min() > 1e-3
    slopes = [gradient(losses.logit_standardization, c * s, t).norm() for c in (1, 10)]
    assert slopes[0] / slopes[1] == pytest.approx(10)  # the gradient is divided by the spread
    standard = (s - s.mean(1, keepdim=True)) / s.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(losses.logit_standardization(s, standard), torch.tensor(0.).double())


@pytest.mark.parametrize("T", [1, 2, 4])
def test_the_code_of_logit_standardization_is_the_paper_at_another_temperature(T):
    s, t, *_ = example()
    inner = T * math.sqrt(7 / 6)
    torch.testing.assert_close(losses.logit_standardization(s, t, T, "code"),
                               losses.logit_standardization(s, t, inner) * (T / inner) ** 2)
    z, v = ((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in (s, t))
    torch.testing.assert_close(losses.logit_standardization(s, t, T, "code"), losses.kd(z, v, T))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0, 0.1, -7.3, 1e4])
def test_logits_without_spread_stand_for_the_uniform_distribution(dtype, constant):
    t = logits(3, 7).to(dtype)
    flat = torch.full_like(t, constant)
    loss = losses.logit_standardization
    value = (t - t.mean(1, keepdim=True)) / t.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(loss(flat, t), losses.kd(torch.zeros_like(t), value, 2))
    assert torch.equal(gradient(loss, flat, t), torch.zeros_like(t))
    assert float(loss(flat, flat)) == 0
    assert gradient(lambda s: losses.dist(s, t, gamma=0), flat).abs().max() == 0


def test_two_classes_are_always_plus_and_minus_one():
    s, t = torch.tensor([[0.0, 3.0], [5.0, 1.0]]), torch.tensor([[1.0, 2.0], [0.0, 9.0]])
    values = losses.logit_standardization(s, t, reduction="none")
    assert values[0] == 0 < values[1]
    assert gradient(losses.logit_standardization, s, t).abs().max() < 1e-6


def test_dist_is_one_minus_the_correlation():
    s, t, *_ = example()
    q, p = s.softmax(1).numpy(), t.softmax(1).numpy()
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    assert float(losses.dist(s, t, gamma=0)) == pytest.approx(inter)
    assert float(losses.dist(s, t, beta=0)) == pytest.approx(intra)
    assert float(losses.dist(s, t, 2, 3)) == pytest.approx(2 * inter + 3 * intra)
    assert float(losses.dist(s, t, T=4, variant="code")) == pytest.approx(
        16 * float(losses.dist(s, t, T=4)), rel=1e-5)  # the code adds 1e-8
    # shift and scale of the probabilities do not count
    toward_even = (0.3 * t.softmax(1) + 0.1).log()  # each row the same way, so columns too
    assert float(losses.dist(toward_even, t)) == pytest.approx(0, abs=1e-12)


def dist_of_the_repository(s, t, T):
    """hunto/image_classification_sota at commit 6f7a70a, lib/models/losses/dist_kd.py, in NumPy."""
    def distance(a, b):
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return 1 - ((a * b).sum(1) / (lengths + 1e-8)).mean()

    q, p = ((x / T).softmax(1).numpy() for x in (s, t))
    return T**2 * (distance(q, p) + distance(q.T, p.T))


@pytest.mark.parametrize("sure", [0, 6, 12, 20, 40])
@pytest.mark.parametrize("T", [1, 4])
def test_dist_of_the_repository_damps_classes_without_probability(T, sure):
    """With confident networks and T = 1 most columns of 1,000 classes are of that kind."""
    s, t = (torch.randn(32, 1000, generator=kd.data.generator(i)).double() for i in range(2))
    for x in (s, t):
        x[torch.arange(32), torch.arange(32)] += sure
    expected = dist_of_the_repository(s, t, T)
    assert float(losses.dist(s, t, T=T, variant="code")) == pytest.approx(expected, rel=1e-9)
    single = losses.dist(s.float(), t.float(), T=T, variant="code")
    assert float(single) == pytest.approx(expected, rel=1e-4)
    assert torch.isfinite(gradient(lambda s: losses.dist(s, t, T=T, variant="code"), s)).all()
    paper = T**2 * float(losses.dist(s, t, T=T))
    if T == 1 and sure >= 20:
        assert paper < 0.9 * expected
    if sure == 0:
        assert paper == pytest.approx(expected, rel=0.01)


def test_flat_rows_have_no_gradient_in_the_code_of_dist():
    flat, sloped = torch.zeros(3, 4), torch.arange(12.0).view(3, 4) ** 1.5
    loss = lambda s, t: losses.dist(s, t, variant="code")  # noqa: E731
    for s, t in ((flat, sloped), (sloped, flat), (flat, flat)):
        assert float(loss(s, t)) == pytest.approx(2)
    assert gradient(loss, flat, sloped).abs().max() == 0


def test_the_code_of_total_variation_multiplies_by_the_square_of_T():
    """MANGA-UOFA/fdistill at commit 8e2ff7c, summa/kd.py, `calc_tvd_loss`."""
    s, t, *_ = example()
    for T in (1, 2, 4.0):
        q, p = ((x / T).softmax(1).numpy() for x in (s, t))
        theirs = (0.5 * np.abs(q - p)).sum(1).mean() * T**2
        assert float((T**2 * losses.TV(T))(s, t)) == pytest.approx(theirs)


@pytest.mark.parametrize("K", [3, 10, 100])
def test_smoothing_over_the_wrong_classes_is_ours_with_another_share(K):
    """Tf-KD's code, `loss_label_smoothing`, gives each wrong class ε / (K - 1)."""
    s, y = torch.randn(6, K, generator=kd.data.generator(0)).double(), torch.arange(6) % K
    share = 0.1
    labels = torch.full((6, K), share / (K - 1)).double()
    labels[torch.arange(6), y] = 1 - share
    theirs = -(s.log_softmax(1) * labels).sum() / 6
    torch.testing.assert_close(losses.label_smoothing(s, y, share * K / (K - 1)), theirs)


def test_dist_of_the_same_answers_is_exactly_zero_even_where_they_are_tiny():
    t = logits(4, 6).float()
    t[:, 2] -= 60  # e-26: its squares are 0 in float32
    t[:, 3] = -INF
    assert float(losses.dist(t, t)) == 0
    assert torch.isfinite(gradient(losses.dist, t, t)).all()
    s = t.clone()
    s[:, 2] = t[:, 2].flip(0)
    expected = losses.dist(s.double(), t.double())
    assert expected > 0.01
    torch.testing.assert_close(losses.dist(s, t).double(), expected, rtol=1e-4, atol=0)


def test_dist_of_what_is_flat():
    flat, sloped = torch.zeros(3, 4), torch.arange(12.0).view(3, 4) ** 1.5
    assert float(losses.dist(flat, flat)) == 0
    assert float(losses.dist(flat, sloped)) == float(losses.dist(sloped, flat)) == 2  # all 1
    assert gradient(losses.dist, flat, sloped).abs().max() == 0


def test_two_of_anything_correlate_without_a_gradient():
    s, t, *_ = example(6, 2)
    assert gradient(lambda s: losses.dist(s, t, gamma=0), s).abs().max() < 1e-12
    assert gradient(lambda s: losses.dist(s, t, beta=0), s).abs().max() > 1e-3
    s, t, *_ = example(2, 6)
    assert gradient(lambda s: losses.dist(s, t, beta=0), s).abs().max() < 1e-12
    assert gradient(lambda s: losses.dist(s, t, gamma=0), s).abs().max() > 1e-3


# --- other people's code ------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 4, 16])
@pytest.mark.parametrize("log_target", [True, False])
def test_agrees_with_torch_kl_div(T, log_target):
    s, t, *_ = example()
    target = (t / T).log_softmax(1) if log_target else (t / T).softmax(1)
    theirs = F.kl_div((s / T).log_softmax(1), target, reduction="batchmean", log_target=log_target)
    torch.testing.assert_close(losses.kd(s, t, T), T**2 * theirs)


def test_agrees_with_timm_on_a_whole_step():
    tasks = pytest.importorskip("timm.task", reason="this timm has no distillation task")
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = timm.create_model("test_resnet", num_classes=10).eval()
        teacher = timm.create_model("test_resnet", num_classes=10).eval()
        x, y = torch.rand(4, 3, 64, 64), torch.arange(4)
    task = tasks.LogitDistillationTask(student, teacher, criterion=torch.nn.CrossEntropyLoss(),
                                       temperature=4.0, task_loss_weight=0.1,
                                       device=torch.device("cpu"), verbose=False).eval()
    theirs = task(x, y)
    theirs["loss"].backward()
    expected = {name: p.grad.clone() for name, p in student.named_parameters()}
    student.zero_grad()
    scheme = kd.Distiller(student, teacher, losses.hinton(T=4, alpha=0.9)).eval()
    ours = scheme(kd.data.Batch(x, y, torch.arange(4)))
    ours.loss.backward()
    torch.testing.assert_close(ours.parts["KD"], theirs["kd_loss"])
    torch.testing.assert_close(ours.parts["CE"], theirs["task_loss"])
    torch.testing.assert_close(ours.loss, theirs["loss"])
    for name, p in student.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], msg=name)


def test_agrees_with_timm_on_labels():
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

    s, _, y, soft = example()
    torch.testing.assert_close(losses.label_smoothing(s, y, 0.1),
                               LabelSmoothingCrossEntropy(0.1)(s, y))
    torch.testing.assert_close(losses.cross_entropy(s, soft), SoftTargetCrossEntropy()(s, soft))


# --- classes ruled out --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*DIVERGENCES, "soft_cross_entropy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ruled_out", [-INF, -1e4])  # -1e4 underflows to probability 0
def test_a_class_that_both_rule_out_adds_exactly_zero(name, dtype, ruled_out):
    s, t, y, _ = (x.to(dtype) if x.is_floating_point() else x for x in example())
    loss = (DIVERGENCES | OTHERS)[name]
    column = torch.full((len(s), 1), ruled_out, dtype=dtype)
    more = torch.cat([s, column], 1), torch.cat([t, column], 1), y
    torch.testing.assert_close(loss(*more), loss(s, t, y))  # the same problem without the class
    slopes = gradient(loss, *more)
    torch.testing.assert_close(slopes[:, :-1], gradient(loss, s, t, y))
    assert slopes[:, -1].abs().max() == 0


FINITE = [name for name in DIVERGENCES if "kl" not in name]


@pytest.mark.parametrize("name", [*FINITE, "soft_cross_entropy"])
@pytest.mark.parametrize("ruled_out", [-INF, -1e4])
def test_a_class_that_the_teacher_rules_out_is_no_trouble(name, ruled_out):
    s, t, y, _ = (x.float() if x.is_floating_point() else x for x in example())
    t[:, -1] = ruled_out
    loss = (DIVERGENCES | OTHERS)[name]
    near = t.clone()
    near[:, -1] = -1e3  # probability 0 as well
    torch.testing.assert_close(loss(s, t, y), loss(s, near, y))
    assert torch.isfinite(loss(s, t, y)).all()
    assert torch.isfinite(gradient(loss, s, t, y)).all()


def test_a_student_that_believes_what_the_teacher_rules_out_is_infinitely_wrong_the_other_way():
    s, t, *_ = example()
    t[2, 3] = -INF
    assert losses.reverse_kl(s, t, reduction="none").isinf().tolist() == [False, False, True] + (
        [False] * 2)
    assert losses.jensen_shannon(s, t, 1) == INF
    assert losses.reverse_kl(s, t) == INF


@pytest.mark.parametrize("name", ["kd", "soft_cross_entropy", "dkd"])
def test_a_student_that_rules_out_what_the_teacher_does_not_is_infinitely_wrong(name):
    s, t, y, _ = example()
    s[2, 3] = -INF
    values = (DIVERGENCES | OTHERS)[name](s, t, y)
    assert values[2] == INF
    assert torch.isfinite(values[[0, 1, 3, 4]]).all()


@pytest.mark.parametrize("name", ["reverse_kl", "total_variation", *(
    name for name in DIVERGENCES if name.startswith("jensen"))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_divergences_only_count_what_a_student_rules_out(name, dtype):
    s, t, y, _ = (x.to(dtype) if x.is_floating_point() else x for x in example())
    s[2, 3] = -INF
    near = s.clone()
    near[2, 3] = -3e3
    loss = DIVERGENCES[name]
    torch.testing.assert_close(loss(s, t, y), loss(near, t, y))
    slopes = gradient(loss, s, t, y)
    assert torch.isfinite(slopes).all()
    torch.testing.assert_close(slopes, gradient(loss, near, t, y))


def test_a_class_without_label_probability_adds_exactly_zero():
    s, soft = torch.tensor([[0.0, 0.0, -INF]]), torch.tensor([[0.5, 0.5, 0.0]])
    assert float(losses.cross_entropy(s, soft)) == pytest.approx(math.log(2))


# --- bad input ----------------------------------------------------------------------------------

two, three = torch.zeros(4, 2), torch.zeros(4, 3)
BAD = [
    (lambda: losses.kd(two, two, T=0), "temperature T above 0, got 0"),
    (lambda: losses.kd(two, two, T=-1), "temperature T above 0, got -1"),
    (lambda: losses.kd(two, two, T=math.nan), "temperature T above 0, got nan"),
    (lambda: losses.kd(two, two, T=INF), "temperature T above 0, got inf"),
    (lambda: KD(T=0), "temperature T above 0"),
    (lambda: losses.kd(two, three), r"one shape \[B, K\], got \[4, 2\] and \[4, 3\].*same classes"),
    (lambda: losses.kd(two, two[:3]), r"one shape .* got \[4, 2\] and \[3, 2\]"),
    (lambda: losses.kd(two[0], two[0]), r"student logits of shape \[B, K\], got \[2\]"),
    (lambda: losses.kd(two, two[None]), r"teacher logits of shape \[B, K\], got \[1, 4, 2\]"),
    (lambda: losses.kd([[0.0]], two), r"student logits of shape \[B, K\], got list"),
    (lambda: losses.kd(two[:0], two[:0]), r"student logits with something in them, got \[0, 2\]"),
    (lambda: losses.kd(two, None), r"teacher logits of shape \[B, K\], got NoneType"),
    (lambda: losses.kd(two, two, reduction="sum"), 'reduction "mean" or "none", got \'sum\''),
    (lambda: losses.soft_cross_entropy(two, three), "one shape"),
    (lambda: losses.cross_entropy(two, None), "labels of shape .* got none"),
    (lambda: losses.cross_entropy(two, torch.zeros(3).long()), r"labels of shape \[4\].*got \[3\]"),
    (lambda: losses.cross_entropy(two, three), r"labels of shape \[4\] \(or \[4, 2\], soft\), got"),
    (lambda: losses.cross_entropy(two, torch.zeros(4)), "whole numbers as labels, got torch.float"),
    (lambda: losses.cross_entropy(two, torch.zeros(4).bool()), "whole numbers as labels, got"),
    (lambda: losses.cross_entropy(two, torch.zeros(4).long(), "sum"), 'reduction "mean" or "none"'),
    (lambda: losses.label_smoothing(two, torch.zeros(4).long(), 1.5), "between 0 and 1, got 1.5"),
    (lambda: LabelSmoothing(-0.1), "smoothing between 0 and 1, got -0.1"),
    (lambda: losses.reverse_kl(two, three), "one shape"),
    (lambda: losses.reverse_kl(two, two, T=0), "temperature T above 0, got 0"),
    (lambda: ReverseKL(T=0), "temperature T above 0"),
    (lambda: losses.jensen_shannon(two, two, beta=1.5), "beta between 0 and 1, got 1.5"),
    (lambda: losses.jensen_shannon(two, two, beta=math.nan), "beta between 0 and 1, got nan"),
    (lambda: losses.jensen_shannon(two, two, variant="other"), 'variant "scaled" or "paper", got'),
    (lambda: losses.jensen_shannon(two, three), "one shape"),
    (lambda: JS(beta=-1), "beta between 0 and 1, got -1"),
    (lambda: JS(variant="x"), 'variant "scaled" or "paper"'),
    (lambda: JS(T=-1), "temperature T above 0"),
    (lambda: losses.total_variation(two, three), "one shape"),
    (lambda: TV(T=0), "temperature T above 0"),
    (lambda: losses.dkd(two, three, torch.zeros(4).long()), "one shape"),
    (lambda: losses.dkd(two, two, None), "labels of shape .* got none"),
    (lambda: losses.dkd(two, two, two), "class numbers .* got soft labels .*argmax"),
    (lambda: losses.dkd(two, two, torch.zeros(4).long(), alpha=-1), "weight alpha of 0 or more"),
    (lambda: losses.dkd(two, two, torch.zeros(4).long(), T=0), "temperature T above 0"),
    (lambda: DKD(beta=-1), "weight beta of 0 or more, got -1"),
    (lambda: DKD(alpha=INF), "weight alpha of 0 or more, got inf"),
    (lambda: DKD(alpha=0, beta=0), "weight above 0 for alpha or beta, got 0 for all"),
    (lambda: DKD(T=0), "temperature T above 0"),
    (lambda: losses.logit_mse(two, two, "quarter"), 'variant "half" or "sum" or "mean", got'),
    (lambda: losses.logit_mse(two, three), "one shape"),
    (lambda: LogitMSE("quarter"), 'variant "half" or "sum" or "mean", got'),
    (lambda: losses.logit_standardization(two, two, T=0), "temperature T above 0"),
    (lambda: losses.logit_standardization(two, two, variant="x"), 'variant "paper" or "code", got'),
    (lambda: LogitStd(T=0), "temperature T above 0"),
    (lambda: LogitStd(variant="x"), 'variant "paper" or "code", got'),
    (lambda: losses.dist(two[:1], two[:1]), "at least 2 samples .* got 1. Use a larger batch"),
    (lambda: losses.dist(two, two, gamma=-1), "weight gamma of 0 or more, got -1"),
    (lambda: losses.dist(two, two, variant="x"), 'variant "paper" or "code", got'),
    (lambda: DIST(beta=math.nan), "weight beta of 0 or more, got nan"),
    (lambda: DIST(T=0), "temperature T above 0"),
    (lambda: DIST(variant="x"), 'variant "paper" or "code", got'),
    (lambda: losses.hard_label(two, three), "one shape"),
    (lambda: losses.hard_label(two, two, smoothing=2), "smoothing between 0 and 1, got 2"),
    (lambda: HardLabel(2), "smoothing between 0 and 1, got 2"),
    (lambda: losses.virtual_teacher(two, two), "class numbers .* got soft labels"),
    (lambda: losses.virtual_teacher(two, None), "labels of shape .* got none"),
    (lambda: losses.virtual_teacher(two[:, :1], torch.zeros(4).long()), "2 classes or more, got"),
    (lambda: losses.virtual_teacher(two, torch.zeros(4).long(), a=0), "probability a .* got 0"),
    (lambda: TfKD(a=1.5), "probability a above 0 and up to 1, got 1.5"),
    (lambda: TfKD(T=0), "temperature T above 0"),
    (lambda: TfKD(variant="x"), 'variant "paper" or "code", got'),
    (lambda: losses.hinton(alpha=1.5), "alpha between 0 .* and 1 .*, got 1.5"),
    (lambda: losses.hinton(alpha=-0.1), "alpha between 0 .* and 1 .*, got -0.1"),
    (lambda: losses.hinton(alpha=math.nan), "alpha between 0 .* and 1 .*, got nan"),
    (lambda: losses.hinton(T=-2), "temperature T above 0, got -2"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_gets_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_of_any_whole_number_type(dtype):
    s, _, y, _ = example()
    torch.testing.assert_close(losses.cross_entropy(s, y.to(dtype)), losses.cross_entropy(s, y))


# --- modules ---------------------------------------------------------------------------------


TERMS = [
    (CE(), "CE()"),
    (LabelSmoothing(0.3), "LabelSmoothing(smoothing=0.3)"),
    (KD(T=3), "KD(T=3)"),
    (ReverseKL(), "ReverseKL(T=1)"),
    (JS(0.25), "JS(beta=0.25, T=1, variant='scaled')"),
    (TV(), "TV(T=1)"),
    (DKD(), "DKD(alpha=1, beta=8, T=4)"),
    (LogitMSE(), "LogitMSE(variant='half')"),
    (LogitStd(), "LogitStd(T=2, variant='paper')"),
    (DIST(gamma=2), "DIST(beta=1, gamma=2, T=1, variant='paper')"),
    (HardLabel(), "HardLabel()"),
    (HardLabel(0.1), "HardLabel(smoothing=0.1)"),
    (TfKD(), "TfKD(a=0.99, T=20, variant='paper')"),
]


@pytest.mark.parametrize(("term", "sentence"), TERMS)
def test_a_term_reads_as_it_is_written(term, sentence):
    assert repr(term) == sentence
    made = eval(sentence, vars(losses))
    s, t, y, _ = example()
    assert torch.equal(made(s, t, y), term(s, t, y))
    assert made.needs_teacher is (type(term) not in (CE, LabelSmoothing, TfKD))
    assert not list(made.parameters())


@pytest.mark.parametrize("kind", sorted({type(term) for term, _ in TERMS}, key=str))
def test_a_term_looks_where_it_is_told(kind):
    s, t, y, _ = example()
    term = kind(student="exit", teacher="head.fc")
    assert repr(term).endswith("student='exit', teacher='head.fc')")
    views = Output(0 * s, {"exit": s}), Output(0 * t, {"head.fc": t})
    torch.testing.assert_close(term(*views, y), kind()(s, t, y))
    torch.testing.assert_close(kind()(Output(s), Output(t), y), kind()(s, t, y))
    with pytest.raises(ValueError, match=r"an output of the student with 'exit' in it"):
        term(Output(s), views[1], y)


def test_a_complaint_names_the_term():
    with pytest.raises(ValueError, match=r"DIST\(beta=1, .*\): Expected at least 2 samples"):
        DIST()(two[:1], two[:1])


def test_every_term_trains_a_student(data):
    student, before = network(0), network(0)
    objective = sum(term for term, _ in TERMS)
    scheme = kd.Distiller(student, network(1), objective)
    history = kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36), seed=0)
    assert len(scheme.objective.terms) == len(TERMS)
    assert history.rows
    for p, q in zip(student.parameters(), before.parameters(), strict=True):
        assert torch.isfinite(p).all()
        assert not torch.equal(p, q)


def test_a_virtual_teacher_needs_nobody(data):
    scheme = kd.Supervised(network(), 0.1 * CE() + 0.9 * TfKD())
    assert kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36), seed=0).rows
