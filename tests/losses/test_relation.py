"""Relations between samples: what is special about each of them."""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import network, state
from helpers import oracles_relation as oracles
from helpers.laws import randn
from torch import nn

import kdcourse as kd
from kdcourse.losses import (
    CC,
    CRD,
    PKT,
    SP,
    RKDAngle,
    RKDDistance,
    correlation_congruence,
    crd,
    pkt,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from kdcourse.taps import Output

FUNCTIONS = {
    "rkd_distance, paper": lambda s, t: rkd_distance(s, t, "paper"),
    "rkd_distance, code": lambda s, t: rkd_distance(s, t, "code"),
    "rkd_angle, paper": lambda s, t: rkd_angle(s, t, "paper"),
    "rkd_angle, code": lambda s, t: rkd_angle(s, t, "code"),
    "similarity_preserving": similarity_preserving,
    "correlation_congruence": correlation_congruence,
    "correlation_congruence, rbf": lambda s, t: correlation_congruence(s, t, "rbf"),
    "correlation_congruence, bilinear": lambda s, t: correlation_congruence(s, t, "bilinear"),
    "pkt, paper": lambda s, t: pkt(s, t, "paper"),
    "pkt, code": lambda s, t: pkt(s, t, "code"),
}
every = pytest.mark.parametrize("name", FUNCTIONS)
RKD = [name for name in FUNCTIONS if name.startswith("rkd")]


def pair(B=6, s=4, t=5):
    return randn(B, s, seed=1), randn(B, t, seed=2)


def turn(D, seed=0):
    """A random rotation of D dimensions."""
    return torch.linalg.qr(randn(D, D, seed=seed)).Q


def grown(D):
    """A factor of its own for each of D samples."""
    return torch.linspace(0.3, 4, D, dtype=torch.float64)[:, None]


def gradient(function, student, *rest):
    student = student.clone().requires_grad_()
    loss = function(student, *rest)
    return loss.detach(), torch.autograd.grad(loss, student)[0]


# --- what the papers claim ----------------------------------------------------------------------


@every
def test_turning_the_features_of_a_side_changes_nothing(name):
    s, t = pair()
    value = FUNCTIONS[name](s, t)
    assert value > 1e-6
    torch.testing.assert_close(FUNCTIONS[name](s @ turn(4), t), value)
    torch.testing.assert_close(FUNCTIONS[name](s, t @ turn(5, seed=1)), value)


@every
def test_scaling_a_side_changes_nothing(name):
    s, t = pair()
    for a, b in ((7.0, 1.0), (1.0, 0.01), (1e-12, 1e12), (1e25, 1e25)):
        torch.testing.assert_close(FUNCTIONS[name](a * s, b * t), FUNCTIONS[name](s, t))
        single = FUNCTIONS[name]((a * s).float(), (b * t).float())
        torch.testing.assert_close(single.double(), FUNCTIONS[name](s, t), rtol=1e-4, atol=1e-6)


@every
def test_moving_a_side_matters_only_where_angles_are_seen_from_0(name):
    s, t = pair()
    moved = FUNCTIONS[name](s + 3, t)
    if name in RKD:
        torch.testing.assert_close(moved, FUNCTIONS[name](s, t))
    else:
        assert not torch.allclose(moved, FUNCTIONS[name](s, t), rtol=1e-3)


@every
def test_scaling_single_samples_matters_only_without_cosines(name):
    s, t = pair()
    scaled = FUNCTIONS[name](s * grown(6), t)
    if name.startswith(("corr", "pkt")):
        torch.testing.assert_close(scaled, FUNCTIONS[name](s, t))
    else:
        assert not torch.allclose(scaled, FUNCTIONS[name](s, t), rtol=1e-3)


@every
def test_a_turned_and_scaled_teacher_is_matched(name):
    _, t = pair()
    value, slope = gradient(FUNCTIONS[name], 3 * t @ turn(5), t)
    assert abs(value) < 1e-12
    assert slope.abs().max() < 1e-7  # exactly 0 but for the 1e-7 in the code of PKT


@every
def test_wider_features_with_nothing_in_them_change_nothing(name):
    s, t = pair()
    wider = torch.cat([s, torch.zeros_like(s)], 1)
    torch.testing.assert_close(FUNCTIONS[name](wider, t), FUNCTIONS[name](s, t))


@every
def test_maps_and_tokens_are_flattened(name):
    s, t = randn(4, 3, 2, 2, seed=1), randn(4, 5, 2, seed=2)
    torch.testing.assert_close(FUNCTIONS[name](s, t), FUNCTIONS[name](s.flatten(1), t.flatten(1)))


@pytest.mark.parametrize(("function", "power"), [(rkd_distance, 2), (rkd_angle, 3)])
def test_the_code_of_rkd_is_the_papers_sum_over_all_entries(function, power):
    for B in (3, 5, 8):
        s, t = pair(B)
        torch.testing.assert_close(function(s, t, "code"), function(s, t, "paper") / B**power)
    s = torch.cat([s[:1], s[:1], s[2:]])  # two samples alike
    for variant in ("paper", "code"):
        expected = getattr(oracles, function.__name__)(s.numpy(), t.numpy(), variant)
        np.testing.assert_allclose(function(s, t, variant), expected, rtol=1e-9)


def theirs_clamped(x):
    """The relative distances of lenscloth/RKD (commit 0a6c3c0, metric/loss.py, utils.py): squared
    distances of at least 1e-12, the diagonal 0, divided by the mean of what is above 0."""
    squares = np.maximum(((x[:, None] - x[None]) ** 2).sum(2), 1e-12)
    distances = np.sqrt(squares) * (1 - np.eye(len(x)))
    return distances / distances[distances > 0].mean()


@pytest.mark.parametrize("equal", [
    [(0, 1)], [(0, 1), (2, 3)], [(0, 1), (0, 2), (0, 3)],
    [(0, None), (1, None)],  # two rows of zeros, as of dead ReLUs
])
@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_samples_that_coincide_count_in_rkds_mean_distance(equal, side):
    """The clamp leaves a distance of 1e-6 between equal samples, which is above 0."""
    s, t = (x.clone() for x in pair(7))
    for x in {"student": [s], "teacher": [t], "both": [s, t]}[side]:
        for one, other in equal:
            x[one] = 0 if other is None else x[other]
    gap = np.abs(theirs_clamped(s.numpy()) - theirs_clamped(t.numpy()))
    expected = np.where(gap < 1, gap**2 / 2, gap - 1 / 2).mean()
    np.testing.assert_allclose(rkd_distance(s, t, "code"), expected, rtol=1e-5)


def test_far_outliers_count_linearly_in_rkd():
    s, t = torch.eye(9)[:, :1] * 100, randn(9, 4, seed=3).float()  # one sample far, the rest alike
    expected = oracles.rkd_distance(s.numpy(), t.numpy())
    np.testing.assert_allclose(rkd_distance(s, t, "paper"), expected, rtol=1e-5)
    theirs = oracles.relative_distances(oracles.rows(t.numpy()))
    assert max(abs(9 / 2 - theirs[0, i]) for i in range(1, 9)) > 1  # it has such an outlier


@pytest.mark.parametrize("function", [rkd_distance, FUNCTIONS["rkd_distance, paper"],
                                      FUNCTIONS["pkt, paper"]])
def test_two_samples_say_nothing_about_relative_distances(function):
    value, slope = gradient(function, *pair(2))
    assert abs(value) < 1e-12 and slope.abs().max() < 1e-12


def test_similarity_preserving_has_a_bound():
    B = 8
    alike, other = torch.ones(B, 1), torch.tensor([1.0, -1] * (B // 2))[:, None]
    value = similarity_preserving(other, alike)
    assert float(value) == pytest.approx(2 / B)  # rows at a right angle
    for seed in range(20):
        s, t = randn(B, 2, seed=seed), randn(B, 2, seed=seed + 100)
        assert 0 < similarity_preserving(s, t) < 4 / B


def test_the_taylor_series_tends_to_the_gaussian():
    s, t = pair()
    exact = correlation_congruence(s, t, "rbf", gamma=0.7)
    gaps = [abs(correlation_congruence(s, t, gamma=0.7, order=P) - exact) for P in (1, 3, 6, 20)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-12 < gaps[0]


def test_correlation_congruence_hardly_depends_on_the_batch_size():
    s, t = pair()
    for function in (correlation_congruence, lambda s, t: correlation_congruence(s, t, "rbf")):
        torch.testing.assert_close(function(s.repeat(3, 1), t.repeat(3, 1)), function(s, t))


def test_how_the_batch_size_enters_the_similarities():
    s, t = pair()
    twice = s.repeat(2, 1), t.repeat(2, 1)
    torch.testing.assert_close(similarity_preserving(*twice), similarity_preserving(s, t) / 2)
    torch.testing.assert_close(pkt(*twice, "code"), pkt(s, t, "code") / 2, rtol=1e-4, atol=0)
    assert pkt(*twice, "paper") > 1.5 * pkt(s, t, "paper")


def test_the_code_of_pkt_has_its_least_value_just_beside_the_teacher():
    _, t = pair()
    value, slope = gradient(lambda s: pkt(s, t, "code"), t)
    assert value == 0
    assert 0 < slope.abs().max() < 1e-7
    _, slope = gradient(lambda s: pkt(s, t, "paper"), t)
    assert slope.abs().max() < 1e-15


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_opposite_directions_leave_pkt_finite(variant):
    s = torch.tensor([[1.0], [-2.0], [3.0]])  # one dimension: every cosine is 1 or -1
    t = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    for a, b in ((s, t), (t, s), (s, -s), (s, s.abs())):
        value, slope = gradient(lambda x, b=b: pkt(x, b, variant), a)
        assert math.isfinite(value) and slope.isfinite().all()
        np.testing.assert_allclose(value, oracles.pkt(a.numpy(), b.numpy(), variant), rtol=1e-3,
                                   atol=1e-6)


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RKD)
def test_close_points_far_from_0_keep_their_digits(name):
    t = randn(6, 4, seed=1)
    far = (randn(6, 4, seed=2) + 4096).float()  # a float32 near 4096 is exact to 0.0005
    expected = FUNCTIONS[name](far.double(), t)
    assert FUNCTIONS[name](far, t.float()).item() == pytest.approx(expected.item(), rel=1e-5)

    def gram(x):  # what a product of matrices would make of it
        square = x.square().sum(1)
        return (square[:, None] + square - 2 * x @ x.T).clamp(min=0)

    exact = torch.cdist(far.double(), far.double()).square()
    assert (gram(far) - exact).abs().max() > 0.1 * exact.max()


@pytest.mark.parametrize("name", RKD)
def test_two_close_points_and_a_far_one(name):
    s = torch.tensor([[0.0, 0.0], [1e-3, 0.0], [0.0, 1e-3], [1e4, 0.0]])
    t = randn(4, 2, seed=1)
    assert FUNCTIONS[name](s, t.float()).item() == pytest.approx(
        FUNCTIONS[name](s.double(), t).item(), rel=1e-5)


@every
def test_identical_samples_are_finite_and_where_all_are_nothing_pulls_them_apart(name):
    s, t = (x.float() for x in pair())
    s = torch.cat([s[:1], s[:1], s[2:]])
    value, slope = gradient(FUNCTIONS[name], s, t)
    assert value.isfinite() and slope.isfinite().all()
    flat, level = gradient(FUNCTIONS[name], s[:1].repeat(6, 1), t)
    assert flat.isfinite() and level.isfinite().all()
    if name != "similarity_preserving":  # there the lengths matter, and can still be told apart
        assert level.abs().max() < 1e-5


@every
def test_a_sample_of_zeros_gets_no_gradient_where_it_has_no_direction(name):
    s, t = (x.float() for x in pair())
    s[0] = 0
    value, slope = gradient(FUNCTIONS[name], s, t)
    assert value.isfinite() and slope.isfinite().all()
    if name.startswith(("corr", "pkt")):
        assert not slope[0].any()
    assert slope[1:].any()


# --- bad input ----------------------------------------------------------------------------------


@every
def test_a_batch_that_is_too_small(name):
    least = 3 if "angle" in name else 2
    s, t = pair(least - 1)
    with pytest.raises(ValueError, match=rf"at least {least} samples .* got {least - 1}\. Raise"):
        FUNCTIONS[name](s, t)


@every
def test_two_batch_sizes_and_whole_numbers(name):
    with pytest.raises(ValueError, match=r"one batch, got \[4, 3, 2, 2\] and \[5, 6\]"):
        FUNCTIONS[name](torch.zeros(4, 3, 2, 2), torch.zeros(5, 6))
    with pytest.raises(ValueError, match=r"Expected teacher features .*int64"):
        FUNCTIONS[name](torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64))


@pytest.mark.parametrize(("call", "message"), [
    (lambda s, t: rkd_distance(s, t, "mean"), 'variant "paper" or "code", got \'mean\''),
    (lambda s, t: rkd_angle(s, t, "mean"), 'variant "paper" or "code"'),
    (lambda s, t: pkt(s, t, "kl"), 'variant "paper" or "code"'),
    (lambda s, t: correlation_congruence(s, t, "mmd"), "kernel .* got 'mmd'"),
    (lambda s, t: correlation_congruence(s, t, gamma=0), "gamma above 0, got 0"),
    (lambda s, t: correlation_congruence(s, t, gamma=math.nan), "gamma above 0, got nan"),
    (lambda s, t: correlation_congruence(s, t, order=0), "order .* got 0"),
    (lambda s, t: correlation_congruence(s, t, order=1.5), r"order .* got 1\.5"),
    (lambda s, t: RKDDistance(variant="mean"), "variant"),
    (lambda s, t: RKDAngle(variant="mean"), "variant"),
    (lambda s, t: PKT(variant="mean"), "variant"),
    (lambda s, t: CC(kernel="gauss"), "kernel"),
    (lambda s, t: CC(gamma=-1), "gamma"),
    (lambda s, t: CC(order=0), "order"),
])
def test_settings_that_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call(*pair())


# --- modules ------------------------------------------------------------------------------------

TERMS = {
    "RKDDistance": (RKDDistance, rkd_distance),
    "RKDAngle": (RKDAngle, rkd_angle),
    "SP": (SP, similarity_preserving),
    "CC": (CC, correlation_congruence),
    "PKT": (PKT, pkt),
}
terms = pytest.mark.parametrize("name", TERMS)
RECIPE = kd.Recipe(epochs=1, batch=36)


def test_they_say_what_they_are():
    assert repr(RKDDistance()) == "RKDDistance(variant='code')"
    assert repr(RKDAngle("a", "b", variant="paper")) == "RKDAngle('a', 'b', variant='paper')"
    assert repr(SP("a", "b")) == "SP('a', 'b')"
    assert repr(CC()) == "CC(kernel='taylor', gamma=0.4, order=2)"
    assert repr(CC(kernel="rbf")) == "CC(kernel='rbf', gamma=0.4)"
    assert repr(CC(kernel="bilinear")) == "CC(kernel='bilinear')"
    assert repr(PKT()) == "PKT(variant='code')"
    assert repr(CRD("a", "b", negatives=8)) == (
        "CRD('a', 'b', dim=128, negatives=8, T=0.07, momentum=0.5, variant='code')")


@terms
def test_logits_without_paths_and_taps_with_them(name):
    term, function = TERMS[name]
    (s, t), (a, b) = pair(), (randn(6, 2, 3, 3, seed=5), randn(6, 4, 2, seed=6))
    views = Output(s, {"x": a}), Output(t, {"y": b})
    torch.testing.assert_close(term()(*views), function(s, t))
    torch.testing.assert_close(term("x", "y")(*views), function(a, b))
    assert term().per_sample is False
    assert not list(term().parameters()) and not term().state_dict()
    with pytest.raises(ValueError, match=rf"{name}\(.*one batch"):
        term()(s, t[:3])


@terms
def test_they_train_in_a_scheme(name, data):
    term, _ = TERMS[name]
    student, teacher = network(0), network(1, width=6)
    objective = kd.losses.CE() + 0.5 * term() + 0.5 * term("2", "2")
    scheme = kd.Distiller(student, teacher, objective)
    before = state(scheme)
    history = kd.fit(scheme, data, RECIPE)
    assert math.isfinite(history[f"{name}_2"][0])
    assert state(scheme) != before


# --- crd, the function --------------------------------------------------------------------------


def embeddings(B=4, N=6, D=3, seed=0):
    def sphere(*shape, seed):
        x = randn(*shape, seed=seed)
        return x / x.norm(dim=-1, keepdim=True)
    return (sphere(B, D, seed=seed + 1), sphere(B, D, seed=seed + 2),
            sphere(B, N, D, seed=seed + 3))


def test_vectors_of_zeros_are_told_apart_by_chance():
    a, p, b = (0 * x for x in embeddings())
    # h = 1 / (1 + 6/12) for all: log(3/2) for the positive and log 3 for each negative
    assert crd(a, p, b, 12).item() == pytest.approx(math.log(1.5) + 6 * math.log(3))
    value, slope = gradient(lambda x: crd(x, p, b, 12), a)
    assert value.isfinite() and slope.isfinite().all()


def test_a_normalizer_counts_like_more_noise():
    a, p, b = embeddings()
    torch.testing.assert_close(crd(a, p, b, 12, normalizer=4.0), crd(a, p, b, 3))
    torch.testing.assert_close(crd(a, p, b, 12, normalizer=torch.tensor(4.0)), crd(a, p, b, 3))


def test_the_gradient_leads_to_the_positive_and_away_from_negatives():
    a, p, b = embeddings()
    _, slope = gradient(lambda x: crd(x, p, 0 * b, 12, 1.0), a)
    assert ((slope * p).sum(1) < 0).all()
    _, slope = gradient(lambda x: crd(x, 0 * p, b[:, :1], 12, 1.0), a)
    assert ((slope * b[:, 0]).sum(1) > 0).all()


def test_the_smallest_temperature_is_finite():
    a, p, b = (x.float() for x in embeddings())
    for T in (1e-3, 1e-6, 1e6):
        value, slope = gradient(lambda x, T=T: crd(x, p, b, 12, T), a)
        assert value.isfinite() and slope.isfinite().all()


def test_minus_the_loss_and_log_N_is_at_most_the_information_shared():
    # M samples, each with a direction of its own, the same on both sides: log M nats are shared.
    M, D = 8, 8
    a = torch.eye(D, dtype=torch.float64)
    others = torch.stack([torch.cat([a[:i], a[i + 1:]]) for i in range(M)])
    N = others.shape[1]
    bounds = [math.log(N) - crd(a, a, others, M, T).item() for T in (1.0, 0.5, 0.2, 0.05)]
    assert max(bounds) <= math.log(M)


@pytest.mark.parametrize(("change", "message"), [
    ({"anchor_BD": torch.zeros(4)}, r"Expected student \(anchor\) features .* got \[4\]"),
    ({"positive_BD": torch.zeros(5, 3)}, r"got \[4, 3\], \[5, 3\] and \[4, 6, 3\]"),
    ({"negatives_BND": torch.zeros(4, 3)}, r"negative features of shape \[B, N, D\]"),
    ({"negatives_BND": torch.zeros(4, 6, 2)}, r"got \[4, 3\], \[4, 3\] and \[4, 6, 2\]"),
    ({"negatives_BND": torch.zeros(4, 0, 3)}, "something in them"),
    ({"samples": 0}, "samples .* got 0"),
    ({"samples": None}, "samples .* got None"),
    ({"temperature": 0}, r"temperature above 0, got 0\. .* 0\.07"),
    ({"normalizer": 0.0}, "normalizer above 0"),
    ({"reduction": "sum"}, "reduction"),
])
def test_what_crd_refuses(change, message):
    a, p, b = embeddings()
    arguments = {"anchor_BD": a, "positive_BD": p, "negatives_BND": b, "samples": 12} | change
    with pytest.raises(ValueError, match=message):
        crd(arguments.pop("anchor_BD"), **arguments)


# --- CRD, the term ------------------------------------------------------------------------------

M = 20
CLASSES = torch.arange(M) % 4
INDEX = torch.tensor([3, 0, 7, 12, 19, 5])
FEATURES = randn(6, 5, seed=1).float(), randn(6, 2, 2, 2, seed=2).float()


def built(seed=0, **settings):
    settings = {"dim": 4, "negatives": 9, "classes": CLASSES} | settings
    term = CRD(**settings)
    term.build(*FEATURES, seed)
    return term


def buffers(term):
    """The state that a step may write, as one comparable value."""
    return (*(b.nan_to_num(nan=-1e9).numpy().tobytes() for _, b in term.named_buffers()),
            term.step)


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_term_is_the_function_in_both_directions(variant, dtype):
    term = built(variant=variant).to(dtype)
    s, t = (x.to(dtype) for x in FEATURES)
    for _ in range(3):  # the first batch decides on Z; then the memories have changed
        with torch.no_grad():
            heads = [nn.functional.normalize(head(x.flatten(1)))
                     for head, x in zip(term.heads, (s, t), strict=True)]
            memories = term.memory_teacher.clone(), term.memory_student.clone()
            negatives = term._draw(INDEX, False)
            expected = 0
            for side, (anchor, memory) in enumerate(zip(heads, memories, strict=True)):
                if variant == "code" and term.step == 0:
                    seen = torch.cat([INDEX[:, None], negatives], 1)
                    scores = (anchor[:, None] * memory[seen]).sum(2) / term.T
                    z = (scores.exp().mean() * M).log()
                elif variant == "code":
                    z = term.log_z[side]
                else:
                    z = torch.zeros(())
                expected = expected + crd(anchor, memory[INDEX], memory[negatives], M, term.T,
                                          z.exp(), reduction="none")
        values = term.values(s, t, index=INDEX)
        torch.testing.assert_close(values, expected.to(values), rtol=2e-5, atol=1e-5)


def test_z_is_of_the_first_training_batch():
    term = built()
    assert term.log_z.isnan().all()
    term.eval()(*FEATURES, index=INDEX)
    assert term.log_z.isnan().all()
    term.train()(*FEATURES, index=INDEX)
    first = term.log_z.clone()
    assert first.isfinite().all()
    term(*(3 - x for x in FEATURES), index=INDEX + 1 - 1)
    assert torch.equal(term.log_z, first)
    assert built(variant="paper").log_z is None


def test_with_z_a_negative_of_chance_costs_about_1_over_N():
    """Why the code's variant is the default: see the docstring."""
    code, paper = (built(variant=v, negatives=4000, samples=M).eval() for v in ("code", "paper"))
    assert code(*FEATURES, index=INDEX) < 2 * (1 + math.log(4001)) + 30
    assert paper(*FEATURES, index=INDEX) > 10 * code(*FEATURES, index=INDEX)


def test_negatives_come_from_other_classes_and_from_all_of_them():
    term = built(negatives=4000)
    drawn = term._draw(INDEX, False)
    assert drawn.shape == (6, 4000)
    for row, sample in zip(drawn, INDEX, strict=True):
        others = torch.arange(M)[CLASSES[sample] != CLASSES]
        counts = torch.bincount(row, minlength=M)
        assert (counts > 0).nonzero()[:, 0].tolist() == others.tolist()
        expected = 4000 / len(others)
        assert (counts[others] - expected).abs().max() < 5 * math.sqrt(expected)


def test_classes_of_different_sizes_in_any_order():
    classes = torch.tensor([2, 0, 0, 9, 0, 2, 0])  # numbers without gaps are not needed
    term = CRD(dim=2, negatives=500, classes=classes)
    term.build(*FEATURES, 0)
    for sample, row in enumerate(term._draw(torch.arange(7), False)):
        others = torch.arange(7)[classes != classes[sample]]
        assert sorted(set(row.tolist())) == others.tolist()


def test_without_classes_only_the_sample_itself_is_left_out():
    term = built(classes=None, samples=M, negatives=2000)
    for row, sample in zip(term._draw(INDEX, False), INDEX, strict=True):
        assert sorted(set(row.tolist())) == [i for i in range(M) if i != sample]


def test_what_is_written_and_when():
    term = built()
    before = buffers(term)
    with torch.no_grad():
        value = term(*FEATURES, index=INDEX)
    assert buffers(term) == before
    assert torch.equal(term.eval()(*FEATURES, index=INDEX), value)  # the same negatives
    assert buffers(term) == before
    old = term.memory_student.clone(), term.memory_teacher.clone()
    assert torch.equal(term.train()(*FEATURES, index=INDEX), value)  # read first, then written
    assert term.step == 1
    for side, memory in enumerate((term.memory_student, term.memory_teacher)):
        new = nn.functional.normalize(term.heads[side](FEATURES[side].flatten(1)))
        expected = nn.functional.normalize(0.5 * old[side][INDEX] + 0.5 * new)
        torch.testing.assert_close(memory[INDEX], expected)
        rest = [i for i in range(M) if i not in INDEX]
        assert torch.equal(memory[rest], old[side][rest])
    assert not any(b.requires_grad for b in term.buffers())


def test_momentum_0_remembers_the_last_embedding():
    term = built(momentum=0.0)
    term(*FEATURES, index=INDEX)
    new = nn.functional.normalize(term.heads[0](FEATURES[0]))
    torch.testing.assert_close(term.memory_student[INDEX], new)


def test_the_memory_is_on_the_sphere_from_the_start():
    term = built(negatives=3)
    for memory in (term.memory_student, term.memory_teacher):
        assert memory.shape == (M, 4)
        torch.testing.assert_close(memory.norm(dim=1), torch.ones(M))
    assert not torch.equal(term.memory_student, term.memory_teacher)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_of_zeros_and_opposite_embeddings_are_finite(dtype):
    term = built()
    features = [(0 * x).to(dtype).requires_grad_() for x in FEATURES]
    nn.init.zeros_(term.heads[0].bias)
    for _ in range(2):
        loss = term(*features, index=INDEX)
        assert loss.isfinite()
        loss.backward()
        assert features[0].grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in term.parameters())
    term.memory_student[INDEX] = -nn.functional.normalize(
        term.heads[0](FEATURES[0]).detach())  # cancels the new embedding at momentum 0.5
    term(*FEATURES, index=INDEX)
    assert term(*FEATURES, index=INDEX).isfinite()


def test_both_heads_and_the_student_learn_but_not_the_teacher():
    term = built()
    s, t = (x.clone().requires_grad_() for x in FEATURES)
    term(s, t, index=INDEX).backward()
    assert t.grad is None
    assert s.grad.abs().min(1).values.max() > 0
    assert [name for name, _ in term.named_parameters()] == [
        "heads.0.weight", "heads.0.bias", "heads.1.weight", "heads.1.bias"]
    assert all(p.grad is not None and p.grad.any() for p in term.parameters())


def test_a_backward_pass_after_the_memory_was_written_again():
    term, other = built(), built()
    first, second = term(*FEATURES, index=INDEX), term(*FEATURES, index=INDEX)
    (first + second).backward()
    for _ in range(2):
        other(*FEATURES, index=INDEX).backward()
    for a, b in zip(term.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_autocast_changes_nothing_in_the_term():
    term, other = built(), built()
    with torch.autocast("cpu", torch.bfloat16):
        inside = term(*FEATURES, index=INDEX)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, other(*FEATURES, index=INDEX))
    assert buffers(term) == buffers(other)


def test_build_is_idempotent_and_of_its_seed_alone():
    before = torch.get_rng_state()
    term = built(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    was = state(term)
    term.build(*FEATURES, 3)
    term.build(*FEATURES, 4)
    assert state(term) == was
    torch.manual_seed(5)
    assert state(built(seed=3)) == was
    assert state(built(seed=4)) != was
    term(*FEATURES, index=INDEX)
    assert torch.equal(built(seed=3)._draw(INDEX, False), built(seed=3)._draw(INDEX, False))
    assert not torch.equal(built(seed=3)._draw(INDEX, False), built(seed=4)._draw(INDEX, False))
    assert not torch.equal(term._draw(INDEX, False), built(seed=3)._draw(INDEX, False))  # step 1


def test_the_global_generator_is_left_alone_in_a_step():
    term, before = built(), torch.get_rng_state()
    term(*FEATURES, index=INDEX)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_that_is_loaded_goes_on_the_same_way():
    term = built(seed=1)
    for _ in range(3):
        term(*FEATURES, index=INDEX)
    other = built(seed=2)
    other.load_state_dict(term.state_dict())
    assert state(other) == state(term)
    for _ in range(3):
        assert torch.equal(other(*FEATURES, index=INDEX), term(*FEATURES, index=INDEX))
    assert state(other) == state(term)


def test_a_copy_has_a_memory_of_its_own():
    term = built()
    other = copy.deepcopy(term)
    was = state(other)
    term(*FEATURES, index=INDEX)
    assert state(other) == was
    other(*FEATURES, index=INDEX)
    assert state(other) == state(term)


def test_ids_of_any_whole_type():
    assert torch.equal(built()(*FEATURES, index=INDEX.int()), built()(*FEATURES, index=INDEX))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: CRD(dim=0), "dim .* got 0"),
    (lambda: CRD(negatives=1.5), r"negatives .* got 1\.5"),
    (lambda: CRD(T=0), "temperature above 0"),
    (lambda: CRD(momentum=1.0), "momentum from 0 to below 1"),
    (lambda: CRD(variant="z"), "variant"),
    (lambda: CRD(samples=1), "samples .* at least 2, got 1"),
    (lambda: CRD(classes=torch.zeros(4)), r"class numbers \[M\].* got \[4\]"),
    (lambda: CRD(classes=torch.arange(4), samples=5), r"class numbers \[5\].* got \[4\]"),
    (lambda: CRD(classes=torch.zeros(4, dtype=torch.int64)), "at least two classes"),
    (lambda: built()(*FEATURES), r"CRD\(.*sample ids \[6\] .*got None.*index=index"),
    (lambda: built()(*FEATURES, index=INDEX[:4]), r"sample ids \[6\] .*got \[4\]"),
    (lambda: built()(*FEATURES, index=INDEX.float()), r"sample ids \[6\]"),
    (lambda: built()(FEATURES[0], FEATURES[1][:2], index=INDEX), "one batch"),
    (lambda: CRD(samples=M)(*FEATURES, index=INDEX), r"Expected build\(\) to be called first"),
    (lambda: CRD().build(*FEATURES, 0), r"size of the training set.*CRD\(samples="),
])
def test_what_the_term_refuses(make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()


def test_the_data_set_gives_size_and_classes(data):
    term = CRD()
    term.check(data)
    assert term.samples == 144
    order = term.others.order.clone()
    term.check(data)
    assert torch.equal(term.others.order, order)
    assert (data.train.y[order].diff() >= 0).all()
    few = kd.data.glyphs(train=72, val=36, test=36, size=12)
    with pytest.raises(ValueError, match=r"CRD\(.*the 144 samples.*got 72 in glyphs"):
        term.check(few)
    with pytest.raises(ValueError, match=r"the 20 samples.*got 144"):
        CRD(samples=20).check(data)
    own = torch.arange(144) % 2  # given by hand, these stay
    given = CRD(classes=own)
    given.check(data)
    assert given.others.size.tolist() == [72] * 144


def test_soft_labels_count_as_their_largest():
    y = torch.eye(3)[torch.arange(30) % 3] * 0.8 + 0.2 / 3
    soft = kd.data.from_arrays(torch.rand(30, 4), y)
    hard = soft.train.y.argmax(1)
    term = CRD()
    term.check(soft)
    assert torch.equal(term.others.size, torch.bincount(hard)[hard])
    one = kd.data.from_arrays(torch.rand(30, 4), torch.zeros(30, dtype=torch.int64), classes="ab")
    with pytest.raises(ValueError, match=r"CRD\(.*at least two classes"):
        CRD().check(one)


def crd_scheme(seed=0, **settings):
    term = CRD("2", "2", **{"dim": 8, "negatives": 50} | settings)
    return kd.Distiller(network(seed), network(1, width=6), kd.losses.CE() + 0.1 * term)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_crd_trains_in_a_scheme(data, variant):
    scheme = crd_scheme(variant=variant)
    scheme.check(data)
    scheme.build(next(data.train.batches(2)), 0)
    term = scheme.objective.terms["CRD"]
    was, heads = buffers(term), state(term.heads)
    scheme.build(next(data.train.batches(4)), 1)
    assert (buffers(term), state(term.heads)) == (was, heads)
    history = kd.fit(scheme, data, RECIPE)
    assert math.isfinite(history["CRD"][0])
    assert term.step == 4
    assert state(term.heads) != heads
    old = built(samples=144, classes=None, dim=8).memory_student
    assert (term.memory_student != old).any(1).all()  # every sample was seen


@pytest.mark.parametrize("step", [5, 7])
def test_a_resumed_training_draws_the_same_negatives(data, tmp_path, step):
    recipe = kd.Recipe(epochs=2, batch=36)
    whole, broken, other = crd_scheme(), crd_scheme(), crd_scheme(seed=7)
    kd.fit(whole, data, recipe, seed=3)
    count = iter(range(1, 100))

    def after_step():
        if next(count) == step:
            raise KeyboardInterrupt

    broken.after_step = after_step
    file = tmp_path / "run.safetensors"
    kd.fit(broken, data, recipe, seed=3, checkpoint=file)
    kd.fit(other, data, recipe, seed=3, checkpoint=file)
    assert state(other) == state(whole)


def test_the_embeddings_of_one_sample_meet():
    """Free student features: in a few steps each is nearer to its own teacher than to others."""
    B = 8
    s, t = randn(B, 4, seed=1).float().requires_grad_(), torch.eye(B)
    term = CRD(dim=6, negatives=20, samples=B)
    term.build(s, t, 0)
    optimizer = torch.optim.Adam([s, *term.parameters()], lr=0.05)
    index, losses = torch.arange(B), []
    for _ in range(60):
        loss = term(s, t, index=index)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    ours, theirs = (nn.functional.normalize(head(x)) for head, x in
                    zip(term.heads, (s, t), strict=True))
    assert (ours @ theirs.T).argmax(1).tolist() == index.tolist()

