"""Losses on logits of 2022 to 2024, beyond the laws of `test_laws.py`."""

import math
import os

import pytest
import torch
from conftest import network
from helpers import oracles
from helpers.laws import logits
from helpers.processes import run

import kdcourse as kd
from kdcourse import losses
from kdcourse._key import key_of
from kdcourse.losses import CE, CTKD, DKD, MLKD, NKD, OFA, SkewKL, SkewReverseKL, SymmetricKL

# --- several levels -----------------------------------------------------------------------------


@pytest.mark.parametrize("T", [(4,), (1, 3), (2, 3, 4, 5, 6)])
def test_the_instance_level_is_kd_at_every_temperature(T):
    s, t, _ = logits()
    expected = sum(losses.kd(s, t, one) for one in T)
    torch.testing.assert_close(losses.mlkd(s, t, T, 1, 0, 0), expected)


@pytest.mark.parametrize("times", [2, 3])
def test_how_the_levels_grow_with_the_batch(times):
    """A batch repeated n times: n² as many pairs of samples over n B, and n times the Gram matrix
    of the classes, squared."""
    s, t, _ = logits()
    for weights, factor in (((1, 0, 0), 1), ((0, 1, 0), times), ((0, 0, 1), times**2)):
        once = losses.mlkd(s, t, (2, 4), *weights)
        more = losses.mlkd(s.repeat(times, 1), t.repeat(times, 1), (2, 4), *weights)
        torch.testing.assert_close(more, factor * once)


def test_the_levels_add_up_with_their_weights():
    s, t, _ = logits()
    parts = [losses.mlkd(s, t, 3, *weights) for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    torch.testing.assert_close(losses.mlkd(s, t, 3, 2, 0.5, 0.1),
                               2 * parts[0] + 0.5 * parts[1] + 0.1 * parts[2])


# --- standardised logits ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["paper", "code"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_standardised_losses_compare_neither_scale_nor_shift(how, scale):
    s, t, y = logits()
    moved = scale * s + 7
    for loss in (lambda s: losses.dkd(s, t, y, 9, 18, 2, standardize=how),
                 lambda s: losses.mlkd(s, t, (2, 5), 1, 0, 0, how)):
        torch.testing.assert_close(loss(moved), loss(s))


@pytest.mark.parametrize("how", ["paper", "code"])
def test_all_three_take_the_same_z_scores(how):
    s, t, y = logits()
    expected = losses.logit_standardization(s, t, 2, how)
    torch.testing.assert_close(losses.mlkd(s, t, 2, 1, 0, 0, how), expected)
    z, v = ((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=how == "code")
            for x in (s, t))
    torch.testing.assert_close(losses.kd(z, v, 2), expected)
    torch.testing.assert_close(losses.dkd(s, t, y, 9, 18, 2, standardize=how),
                               losses.dkd(z, v, y, 9, 18, 2))


def test_the_setting_leaves_what_was_there():
    assert repr(DKD()) == "DKD(alpha=1, beta=8, T=4)"
    assert repr(DKD(1, 2, 3, "fc")) == "DKD(alpha=1, beta=2, T=3, student='fc')"
    assert DKD(1, 2).identity() == [{"beta": 2}, (), ()]
    assert key_of(DKD(standardize="code")) != key_of(DKD()) == key_of(DKD(standardize=None))


# --- skewed and symmetric divergences -----------------------------------------------------------

SKEWED = {"skew_kl": ("kd", losses.skew_kl), "skew_reverse_kl": ("reverse_kl",
                                                                 losses.skew_reverse_kl)}
skewed = pytest.mark.parametrize("name", SKEWED)


@skewed
@pytest.mark.parametrize("T", [0.5, 1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_share_of_itself_it_is_the_divergence(name, T, dtype):
    s, t, _ = (x.to(dtype) if x.is_floating_point() else x for x in logits())
    plain, skew = SKEWED[name]
    expected = getattr(losses, plain)(s, t, T)
    torch.testing.assert_close(skew(s, t, 0, T), expected)
    for alpha in (1e-45, 1e-30, 1e-14):  # no jump at 0
        torch.testing.assert_close(skew(s, t, alpha, T), expected, rtol=1e-4, atol=1e-5)


@skewed
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exactly_zero_where_both_agree(name, alpha, dtype):
    _, t, _ = logits()
    t = t.to(dtype)
    assert torch.equal(SKEWED[name][1](t, t, alpha, 1, "none"), torch.zeros(5, dtype=dtype))


@skewed
@pytest.mark.parametrize("alpha", [1e-3, 0.1, 0.9])
@pytest.mark.parametrize("gap", [60.0, 1e3, float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_answers_that_have_nothing_in_common(name, alpha, gap, dtype):
    """KL(a || alpha a) = -log alpha: the largest value, finite."""
    s = torch.tensor([[0.0, -gap]], dtype=dtype, requires_grad=True)
    loss = SKEWED[name][1](s, s.detach().flip(1), alpha)
    torch.testing.assert_close(loss, -torch.tensor(alpha, dtype=dtype).log())
    assert torch.autograd.grad(loss, s)[0].isfinite().all()


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.7])
def test_jensen_shannon_is_made_of_both(alpha):
    """D_beta = beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q."""
    s, t, _ = logits()
    torch.testing.assert_close(
        losses.jensen_shannon(s, t, alpha, 2, "paper"),
        alpha * losses.skew_kl(s, t, alpha, 2)
        + (1 - alpha) * losses.skew_reverse_kl(s, t, 1 - alpha, 2))


@pytest.mark.parametrize("beta", [0, 0.25, 0.5, 1])
def test_the_symmetric_divergence_is_a_weighted_mean(beta):
    s, t, _ = logits()
    torch.testing.assert_close(
        losses.symmetric_kl(s, t, beta, 3),
        (1 - beta) * losses.kd(s, t, 3) + beta * losses.reverse_kl(s, t, 3))
    torch.testing.assert_close(losses.symmetric_kl(s, t), losses.symmetric_kl(t, s))


# --- a temperature that is trained ---------------------------------------------------------------


def gradients(loss, *x):
    x = [one.clone().requires_grad_() for one in x]
    return torch.autograd.grad(loss(*x), x)


@pytest.mark.parametrize("strength", [0.0, 0.3, torch.tensor(1.0, dtype=torch.float64)])
@pytest.mark.parametrize("T", [[0.7], [4.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
def test_the_gradient_of_the_temperature_is_reversed(strength, T):
    s, t, _ = logits()
    temperature = torch.tensor(T[0] if len(T) == 1 else T, dtype=torch.float64)
    T = T * len(s) if len(T) == 1 else T
    of_s, of_T = gradients(lambda s, T: losses.ctkd(s, t, T, strength), s, temperature)
    torch.testing.assert_close(of_s, gradients(lambda s: sum(
        losses.kd(one[None], other[None], T) for one, other, T in zip(s, t, T, strict=True)
    ) / len(s), s)[0])
    values = lambda x: sum(oracles.kd([a], [b], T)[0] for a, b, T in  # noqa: E731
                           zip(s.numpy(), t.numpy(), x, strict=True)) / len(s)
    slope = torch.from_numpy(oracles.slope(values, T))
    slope = slope.sum() if temperature.ndim == 0 else slope
    torch.testing.assert_close(of_T, -strength * slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("who", [(True, True), (False, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_that_is_ruled_out_gives_the_temperature_no_gradient(who, dtype):
    s, t, _ = (x.to(dtype) if x.is_floating_point() else x for x in logits())
    T = torch.tensor(3.0, dtype=dtype)
    for x, ruled_out in zip((s, t), who, strict=True):
        if ruled_out:
            x[:, 2] = -math.inf
    found = gradients(lambda s, T: losses.ctkd(s, t, T), s, T)
    assert all(one.isfinite().all() for one in found)
    if all(who):
        kept = [0, 1, 3, 4, 5, 6]
        expected = gradients(lambda s, T: losses.ctkd(s, t[:, kept], T), s[:, kept], T)
        torch.testing.assert_close(found[1], expected[1])


def built(**settings):
    s, t, _ = logits()
    term = CTKD(**{"samples": 20} | settings)
    term.build(s, t, 0)
    return term, s, t


@pytest.mark.parametrize(("schedule", "expected"), [
    ("linear", lambda e, epochs: e / epochs),
    ("cosine", lambda e, epochs: 0.5 - 0.5 * math.cos(math.pi * e / epochs))])
@pytest.mark.parametrize("epochs", [1, 3])
def test_the_strength_rises_with_the_samples(schedule, expected, epochs):
    term, s, t = built(schedule=schedule, epochs=epochs)
    for step in range(1, 4 * epochs + 3):  # 5 of 20 samples in each
        loss = term(s, t)
        assert term.strength == pytest.approx(expected(min(step / 4, epochs), epochs))
        (of_theta,) = torch.autograd.grad(loss, term.theta)
        share = float(term.theta.detach().sigmoid())
        (of_T,) = gradients(lambda T: losses.ctkd(s, t, T), term.temperature)
        torch.testing.assert_close(of_theta, term.strength * of_T * 20 * share * (1 - share),
                                   rtol=1e-6, atol=1e-9)


def test_what_does_not_train_does_not_count():
    term, s, t = built()
    with torch.no_grad():
        term(s, t)
    term.eval()(s, t)
    assert term.seen == 0
    term.train()(s, t)
    assert term.seen == 5
    other, _, _ = built()
    other.load_state_dict(term.state_dict())
    assert other.seen == 5 and other.strength == term.strength


@pytest.mark.parametrize("settings", [{"least": 1, "span": 20}, {"least": 2, "span": 3}])
def test_the_temperature_goes_where_the_loss_is_larger_and_stays_in_its_range(settings):
    term, s, t = built(**settings, epochs=1e-9)  # λ = 1 at once
    before = float(term(s, t).detach())
    assert float(term.temperature) == pytest.approx(
        settings["least"] + settings["span"] / (1 + math.exp(-1)))
    optimiser = torch.optim.SGD([term.theta], lr=1.0)
    for _ in range(30):
        optimiser.zero_grad()
        term(s, t).backward()
        optimiser.step()
    assert term(s, t) > before
    assert settings["least"] < term.temperature < sum(settings.values())


def test_a_scheme_counts_each_batch_once(data):
    recipe = kd.Recipe(epochs=2, batch=36)
    steps = len(data.train) // 36
    for scheme in (kd.Distiller(network(0), network(1), CE() + CTKD()),
                   kd.MultiExit(kd.models.resnet(depth=8, width=4), ["layer1", "layer2"],
                                CE() + CTKD())):
        kd.fit(scheme, data, recipe)
        terms = {id(part): part for part in scheme.modules() if isinstance(part, CTKD)}.values()
        for term in terms:
            assert term.seen == 2 * steps * 36
            assert float(term.temperature) != pytest.approx(1 + 20 / (1 + math.exp(-1)), abs=1e-7)
    assert kd.doctor(scheme, data).ok  # works on a copy
    assert term.seen == 2 * steps * 36
    halves = kd.Distiller(network(0), network(1), CE() + CTKD())
    kd.fit(halves, data, kd.Recipe(epochs=1, batch=36, accumulate=2))
    assert halves.objective.terms["CTKD"].seen == steps * 36


PROGRAM = """
import json, sys, torch, torch.distributed as dist
torch.set_num_threads(1)
import kdcourse as kd
data = kd.data.glyphs(train=144, val=72, test=72, size=12)
net = lambda seed: kd.models.mlp(hidden=(16,), size=12, seed=seed)
scheme = kd.Distiller(net(0), net(1), kd.losses.CE() + 20 * kd.losses.CTKD(span=2, epochs=1))
kd.fit(scheme, data, kd.Recipe(epochs=2, batch=36, optimizer="sgd", lr=0.5), device="cpu")
rank = dist.get_rank() if dist.is_initialized() else 0
json.dump(scheme.objective.terms["CTKD"].seen, open(f"{sys.argv[2]}/{rank}.json", "w"))
torch.save(scheme.state_dict(), f"{sys.argv[2]}/{rank}.pt")
"""


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="gloo on Windows is another story")
def test_two_processes_count_together(tmp_path):
    ((seen, alone),) = run(tmp_path / "one", 1, "", PROGRAM)
    assert seen == 288
    assert alone["objective.terms.CTKD.theta"] != pytest.approx(1, abs=1e-3)
    for count, state in run(tmp_path / "two", 2, "", PROGRAM):
        assert count == 288
        torch.testing.assert_close(state, alone)


def test_a_training_that_was_stopped_goes_on(data, tmp_path):
    def train(epochs_before_stop=None):
        scheme = kd.Distiller(network(0), network(1), CE() + CTKD(epochs=3))

        def stop(row):
            if row["epoch"] == epochs_before_stop:
                raise KeyboardInterrupt

        kd.fit(scheme, data, kd.Recipe(epochs=3, batch=36), on_epoch=stop,
               checkpoint=tmp_path / "run.safetensors" if epochs_before_stop != 0 else None)
        return scheme.objective.terms["CTKD"]

    whole = train(0)
    train(1)
    resumed = train(9)
    assert resumed.seen == whole.seen
    assert torch.equal(resumed.theta, whole.theta)


# --- the target class and the others ------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "T"), [(1.5, 1), (3.5, 3)])
def test_the_others_of_nkd_have_the_gradient_of_those_of_dkd(gamma, T):
    s, t, y = logits()
    target = lambda s: losses.nkd(s, t, y, 0)  # noqa: E731
    (found,) = gradients(lambda s: losses.nkd(s, t, y, gamma, T) - target(s), s)
    (expected,) = gradients(lambda s: losses.dkd(s, t, y, 0, gamma, T), s)
    torch.testing.assert_close(found, expected)
    (found,), p = gradients(target, s), t.softmax(1).gather(1, y[:, None])
    torch.testing.assert_close(found, p * (s.softmax(1) - torch.eye(7)[y]) / len(s))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nkd_where_the_others_or_the_target_are_ruled_out(dtype):
    s, y = torch.zeros(1, 3, dtype=dtype), torch.tensor([0])
    alone = torch.tensor([[0.0, -math.inf, -math.inf]], dtype=dtype)
    never = torch.tensor([[-math.inf, 0.0, 0.0]], dtype=dtype)
    log_2, log_3 = torch.tensor([2.0, 3.0], dtype=dtype).log()
    for student, teacher, expected in ((s, alone, log_3), (s, never, log_2), (never, never, log_2),
                                       (alone, alone, 0 * log_2)):
        torch.testing.assert_close(losses.nkd(student, teacher, y, 1), expected)
        (found,) = gradients(lambda s, t=teacher: losses.nkd(s, t, y, 1), student)
        assert found.isfinite().all()


@pytest.mark.parametrize("T", [1, 3])
def test_ofa_without_an_exponent_is_a_cross_entropy(T):
    s, t, y = logits()
    soft = losses.soft_cross_entropy(s, t, T) / T**2
    torch.testing.assert_close(losses.ofa(s, t, y, 1, T), soft)
    torch.testing.assert_close(losses.ofa(s, t, y, 1, T, "paper"),
                               soft + losses.cross_entropy(s / T, y))


@pytest.mark.parametrize("gamma", [0.5, 1, 2])
def test_ofa_of_a_teacher_that_is_sure_of_the_label(gamma):
    s, _, y = logits()
    sure = torch.eye(7, dtype=s.dtype)[y] * 1e4
    target = losses.cross_entropy(s, y)
    torch.testing.assert_close(losses.ofa(s, sure, y, gamma), (2**gamma - 1) * target)
    torch.testing.assert_close(losses.ofa(s, sure, y, gamma, variant="paper"), 2**gamma * target)


# --- all of them --------------------------------------------------------------------------------


@pytest.mark.parametrize(("term", "sentence"), [
    (MLKD(), "MLKD(T=(2, 3, 4, 5, 6), instance=1, batch=1, classes=1)"),
    (0.1 * CE() + 4.5 * MLKD([2, 5], batch=0, standardize="code"),
     "0.1 * CE() + 4.5 * MLKD(T=(2, 5), instance=1, batch=0, classes=1, standardize='code')"),
    (MLKD(3, student="fc"), "MLKD(T=(3,), instance=1, batch=1, classes=1, student='fc')"),
    (0.9 * CTKD(), "0.9 * CTKD(least=1, span=20, epochs=10, schedule='cosine')"),
    (CTKD(samples=9, student="fc"),
     "CTKD(least=1, span=20, epochs=10, schedule='cosine', samples=9, student='fc')"),
    (CE() + NKD(), "CE() + NKD(gamma=1.5, T=1)"),
    (CE() + 2 * OFA(1.5), "CE() + 2 * OFA(gamma=1.5, T=1, variant='code')"),
    (SkewKL(), "SkewKL(alpha=0.1, T=1)"),
    (SkewReverseKL(0.2, 2), "SkewReverseKL(alpha=0.2, T=2)"),
    (SymmetricKL(0.9), "SymmetricKL(beta=0.9, T=1)"),
    (DKD(9, 72, 2, standardize="code"), "DKD(alpha=9, beta=72, T=2, standardize='code')"),
])
def test_a_term_reads_as_it_is_written(term, sentence):
    assert repr(term) == sentence


X, Y = torch.zeros(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: MLKD(()), "at least one temperature"),
    (lambda: MLKD((2, 0)), "temperature T above 0, got 0"),
    (lambda: losses.mlkd(X, X, (4, -1)), "temperature T above 0, got -1"),
    (lambda: MLKD(instance=0, batch=0, classes=0), "above 0 for instance or batch or classes"),
    (lambda: losses.mlkd(X, X, batch=-1), "a weight batch of 0 or more, got -1"),
    (lambda: MLKD(standardize="yes"), "standardize None, .*, got 'yes'"),
    (lambda: DKD(standardize=True), 'standardize None, "paper" or "code", got True'),
    (lambda: CTKD(0), "a least temperature above 0, got 0"),
    (lambda: CTKD(span=-1), "a span of temperatures above 0, got -1"),
    (lambda: CTKD(epochs=0), "epochs above 0, got 0"),
    (lambda: CTKD(schedule="step"), 'schedule "cosine" or "linear", got \'step\''),
    (lambda: CTKD(samples=0), "size of the training set.* at least 1, got 0"),
    (lambda: CTKD()(X, X), r"build\(\) to be called first"),
    (lambda: CTKD().build(X, X, 0), r"size of the training set.*CTKD\(samples="),
    (lambda: losses.ctkd(X, X, 4.0), r"temperature of shape \[\] or \[2\].*got float"),
    (lambda: losses.ctkd(X, X, torch.ones(3)), r"temperature of shape \[\] or \[2\].*got \[3\]"),
    (lambda: NKD(-1), "a weight gamma of 0 or more, got -1"),
    (lambda: losses.nkd(X, X, Y, T=0), "temperature T above 0, got 0"),
    (lambda: losses.nkd(X, X, X.softmax(1)), r"class numbers.*argmax"),
    (lambda: OFA(0), "an exponent gamma above 0, got 0"),
    (lambda: OFA(variant="z"), 'variant "code" or "paper", got \'z\''),
    (lambda: losses.ofa(X, X, None), "labels of shape"),
    (lambda: SkewKL(1), "alpha from 0 to below 1, got 1"),
    (lambda: losses.skew_reverse_kl(X, X, -0.1), "alpha from 0 to below 1, got -0.1"),
    (lambda: losses.skew_kl(X, X, 0.1, 0), "temperature T above 0, got 0"),
    (lambda: SymmetricKL(1.5), "beta between 0 and 1, got 1.5"),
    (lambda: losses.dkd(X, X, Y, standardize="z"), "standardize None, .*, got 'z'"),
])
def test_bad_input_gets_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("term", [
    MLKD(), MLKD(standardize="code"), DKD(standardize="paper"), CTKD(), NKD(), OFA(),
    OFA(variant="paper"), SkewKL(), SkewReverseKL(), SymmetricKL()], ids=repr)
def test_every_term_trains_a_student(data, term):
    scheme = kd.Distiller(network(0), network(1), CE() + term)
    history = kd.fit(scheme, data, kd.Recipe(epochs=3, batch=36))
    assert all(map(math.isfinite, history[type(term).__name__]))
    assert history["CE"][-1] < history["CE"][0]
