"""Overhaul, knowledge review and losses for transformers: what is special about each of them."""

import copy
import math

import numpy as np
import oracles_transformer as oracles
import pytest
import timm
import torch
import torchvision
from conftest import network, state
from laws import randn
from torch import nn

import kdcourse as kd
from kdcourse.losses.feature.overhaul import OFD, margins, overhaul
from kdcourse.losses.feature.review import ReviewKD, review
from kdcourse.losses.feature.transformer import (
    AttentionKL,
    AttentionMSE,
    HiddenCosine,
    HiddenMSE,
    ValueRelation,
    attention_kl,
    attention_mse,
    hidden_cosine,
    hidden_mse,
    value_relation,
)

RECIPE = kd.Recipe(epochs=1, batch=36)


def maps(*shape, seed=0):
    return randn(*shape, seed=seed).float()


def one(loss):
    """The only term of an objective, once it is part of a scheme."""
    return next(iter(loss.objective.terms.values()))


# --- what every term that trains something keeps ------------------------------------------------

TRAINED = {  # how to make the term, and what it compares
    "OFD": (lambda: OFD("a", "b"), (maps(4, 3, 5, 5), maps(4, 6, 5, 5, seed=1))),
    "OFD, margin": (lambda: OFD("a", "b", margin=-torch.ones(6)),
                    (maps(4, 3, 5, 5), maps(4, 6, 5, 5, seed=1))),
    "ReviewKD": (lambda: ReviewKD(["a", "b"], ["c", "d"], width=4),
                 ((maps(4, 3, 6, 6), maps(4, 5, 3, 3)),
                  (maps(4, 6, 8, 8, seed=1), maps(4, 2, 4, 4, seed=1)))),
    "HiddenMSE": (lambda: HiddenMSE("a", "b"), (maps(4, 5, 3), maps(4, 5, 6, seed=1))),
    "HiddenCosine": (lambda: HiddenCosine("a", "b"), (maps(4, 5, 3), maps(4, 5, 6, seed=1))),
}
trained = pytest.mark.parametrize("name", TRAINED)


def built(name, seed=0):
    make, features = TRAINED[name]
    term = make()
    term.build(*features, seed)
    return term, features


@trained
def test_build_is_needed_happens_once_and_follows_the_seed(name):
    make, features = TRAINED[name]
    term = make()
    with pytest.raises(ValueError, match=r"Expected build.* to be called first"):
        term(*features)
    before = torch.get_rng_state()
    term.build(*features, 3)
    assert torch.equal(before, torch.get_rng_state())
    first = state(term)
    term.build(*features, 4)
    assert state(term) == first
    assert state(built(name, 3)[0]) == first
    assert state(built(name, 4)[0]) != first


@trained
def test_everything_in_it_is_trained_and_nothing_of_the_teacher(name):
    term, (student, teacher) = built(name)
    wish = lambda x: (tuple(part.requires_grad_() for part in x)  # noqa: E731
                      if isinstance(x, tuple) else x.requires_grad_())
    student, teacher = wish(copy.deepcopy(student)), wish(copy.deepcopy(teacher))
    loss = term(student, teacher)
    assert loss.shape == ()
    loss.backward()
    parameters = list(term.parameters())
    assert parameters
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)
    for x in (student if isinstance(student, tuple) else [student]):
        assert x.grad is not None
    for x in (teacher if isinstance(teacher, tuple) else [teacher]):
        assert x.grad is None
    assert term.values(student, teacher).shape == (4,)


@trained
def test_it_can_be_copied_saved_and_loaded(name):
    term, features = built(name)
    term(*features)  # moves statistics
    term.eval()
    again, _ = built(name, seed=9)
    assert state(again) != state(term)
    again.load_state_dict(term.state_dict())
    again.eval()
    assert torch.equal(again(*features), term(*features))
    other = copy.deepcopy(term)
    assert not {id(p) for p in other.parameters()} & {id(p) for p in term.parameters()}
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    assert torch.equal(again(*features), term(*features))
    assert repr(other) == repr(term)


@trained
def test_it_gets_smaller_by_training_the_term_alone(name):
    term, features = built(name)
    start = float(term(*features).detach())
    optimizer = torch.optim.SGD(term.parameters(), lr=1e-2 / max(1, start))
    for _ in range(20):
        optimizer.zero_grad()
        term(*features).backward()
        optimizer.step()
    assert float(term(*features).detach()) < start


@trained
def test_autocast_and_half_precision_change_little(name):
    term, features = built(name)
    term.eval()  # no statistics that move from call to call
    plain = term(*features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(term(*features), plain)
    half = [tuple(x.bfloat16() for x in side) if isinstance(side, tuple) else side.bfloat16()
            for side in features]
    assert term(*half).dtype == torch.float32
    torch.testing.assert_close(term(*half), plain, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("term", [
    lambda: OFD("3", "layer2.0.relu:input"), lambda: OFD("1", "layer2.0.relu:input"),
    lambda: 0.5 * OFD("3", "layer2.0.relu:input") + OFD("5", "layer3.0.relu:input"),
    lambda: ReviewKD(["2", "4", "6"], ["layer1", "layer2", "layer3"]),
    lambda: ReviewKD(["4", "6", "9:input"], ["layer2.0.relu:input", "layer3", "fc:input"]),
    lambda: HiddenMSE("4", "layer2"), lambda: HiddenCosine("9:input", "fc:input"),
])
def test_it_trains_in_a_scheme(data, term):
    teacher = kd.models.resnet(depth=8, width=4, stem_stride=2, size=12)
    scheme = kd.Distiller(network(), teacher, kd.losses.CE() + 1e-3 * term())
    before = state(teacher)
    history = kd.fit(scheme, data, RECIPE)
    assert all(math.isfinite(row["loss"]) for row in history.rows)
    assert state(teacher) == before
    kd.export(scheme)


def test_build_in_a_scheme_writes_no_statistics(data):
    teacher = kd.models.resnet(depth=8, width=4, stem_stride=2, size=12)
    objective = OFD("3", "layer2.0.relu:input") + ReviewKD(["4"], ["layer3"])
    scheme = kd.Distiller(network(), teacher, objective)
    batch = next(iter(data.train.batches(36, 0, 0)))
    scheme.build(batch, 0)
    norms = [m for m in scheme.objective.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 3
    assert all(int(norm.num_batches_tracked) == 0 for norm in norms)
    assert float(scheme.objective.terms["OFD"].negative_count.sum()) == 0
    scheme(batch).loss.backward()  # a loop that never calls train(): the scheme is in train mode
    assert all(int(norm.num_batches_tracked) == 1 for norm in norms)
    scheme.eval()
    scheme(batch)
    assert all(int(norm.num_batches_tracked) == 1 for norm in norms)


# --- overhaul -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (0.3, 2), (-1, 0.5), (1, 0.5), (2.9, 1),
                                           (-8, 1)])
def test_margins_are_the_mean_where_a_gaussian_is_negative(mean, std):
    for sign in (1, -1):
        found = margins(torch.tensor([float(mean)]), torch.tensor([sign * float(std)]))
        assert float(found) == pytest.approx(oracles.mean_where_negative(mean, std), rel=1e-4)


def test_margins_of_channels_that_are_hardly_ever_negative():
    norm = nn.BatchNorm2d(6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.1, 0.0, 0.0, 1.0]))
        norm.bias.copy_(torch.tensor([3.5, 9.0, 50.0, 2.0, -2.0, -50.0]))
    found = margins(norm)
    assert not found.requires_grad
    expected = torch.tensor([-3.0, -6.0, -0.3, 0.0, -2.0, -50.0])
    torch.testing.assert_close(found, expected)
    assert margins(norm.double()).dtype == torch.float64
    assert margins(norm.bfloat16()).dtype == torch.float32


def test_margins_say_what_they_need():
    with pytest.raises(ValueError, match=r"with weight and bias, got BatchNorm2d.*measure"):
        margins(nn.BatchNorm2d(3, affine=False))
    with pytest.raises(ValueError, match=r"of one shape \[C\], got \[3\] and \[2\]"):
        margins(torch.zeros(3), torch.ones(2))
    with pytest.raises(ValueError, match=r"of one shape \[C\], got \[3\] and NoneType"):
        margins(torch.zeros(3))
    with pytest.raises(ValueError, match=r"got \[3, 1\] and \[3, 1\]"):
        margins(torch.zeros(3, 1), torch.ones(3, 1))


def test_overhaul_is_0_below_the_margin_and_quadratic_elsewhere():
    margin = torch.tensor([-1.0])
    at = lambda s, t: float(overhaul(torch.full((1, 1, 1, 1), s),  # noqa: E731
                                     torch.full((1, 1, 1, 1), t), margin))
    assert at(-1.0, -7.0) == at(-3.0, -7.0) == at(-0.5, -0.5) == at(-0.7, -0.5) == 0
    assert at(-0.5, -7.0) == 0.25  # not down to the teacher, only to the margin
    assert at(-0.25, -0.5) == 0.0625
    assert at(1.0, 3.0) == at(5.0, 3.0) == 4
    assert at(0.0, 0.0) == at(-9.0, 0.0) == 0


def test_overhaul_needs_a_margin_for_every_channel():
    x = torch.zeros(2, 3, 4, 4)
    for wrong, said in ((torch.zeros(2), r"\[3\], got \[2\]"), (-1.0, r"\[3\], got float"),
                        (torch.zeros(3, 1), r"\[3\], got \[3, 1\]")):
        with pytest.raises(ValueError, match=f"one margin per channel.*{said}"):
            overhaul(x, x, wrong)
    with pytest.raises(ValueError, match=r"margins of at most 0, got 0\.5"):
        OFD("a", "b", margin=torch.tensor([-1.0, 0.5]))
    with pytest.raises(ValueError, match=r"OFD.*\[3\], got \[2\]"):
        (1.0 * OFD("a", "b", margin=-torch.ones(2))).build(
            *(kd.models.View(x[:, 0, 0], {path: x}) for path in "ab"))
    with pytest.raises(ValueError, match="agree in the batch"):
        OFD("a", "b").build(x, x[:1], 0)


def test_OFD_is_overhaul_behind_its_connector():
    term, (student, teacher) = built("OFD, margin")
    term.eval()
    with torch.no_grad():
        term.connector[1].running_mean.copy_(torch.linspace(-1, 1, 6))
        term.connector[1].running_var.copy_(torch.linspace(0.5, 2, 6))
        term.connector[1].bias.fill_(0.3)
    parts = {name: x.double().numpy() for name, x in term.connector.state_dict().items()}
    norm = [parts[f"1.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
    moved = [oracles.normalised(oracles.convolved(x, parts["0.weight"], None, 0), norm)
             for x in student.double().numpy()]
    expected = oracles.overhaul(moved, teacher.double().numpy(), [-1.0] * 6)
    np.testing.assert_allclose(term.values(student, teacher).detach(), expected, rtol=1e-5)
    assert repr(term).startswith("OFD('a', 'b', margin=6 channels around -1#")


def test_OFD_measures_the_margin_in_training_only():
    term = OFD("a", "b")
    student, teacher = maps(4, 3, 5, 5), maps(4, 2, 5, 5, seed=1)
    teacher[:, 1] = teacher[:, 1].abs()  # never negative
    term.build(student, teacher, 0)
    term.eval()

    def expected(*batches):
        negative = torch.cat([x[:, 0].flatten() for x in batches])
        return [float(negative[negative < 0].mean()), 0.0]

    def measured(x):
        return term._measured(x).tolist()

    assert measured(teacher) == pytest.approx(expected(teacher))  # nothing seen yet: the batch's
    assert float(term.negative_count.sum()) == 0
    term.train()
    with torch.no_grad():
        term(student, teacher)
    assert float(term.negative_count.sum()) == 0
    term(student, teacher)
    more = maps(4, 2, 5, 5, seed=2)
    more[:, 1] = more[:, 1].abs()
    term(student, more)
    count = int((teacher < 0).sum() + (more < 0).sum())
    assert int(term.negative_count.sum()) == count
    term.eval()
    assert measured(maps(4, 2, 5, 5, seed=3))[0] == pytest.approx(expected(teacher, more)[0])
    once = torch.tensor([-2.0, 1.0]).view(1, 2, 1, 1)  # a single negative response
    term = OFD("a", "b")
    term.build(maps(1, 3, 1, 1), once, 0)
    assert measured(once) == [-2, 0]
    assert "negative_sum" in term.state_dict()
    assert repr(term) == "OFD('a', 'b')"


def test_OFD_averages_the_larger_map():
    term = OFD("a", "b", margin=-torch.ones(2))
    student, teacher = maps(3, 4, 4, 4), maps(3, 2, 8, 8, seed=1)
    term.build(student, teacher, 0)
    term.eval()
    small = nn.functional.avg_pool2d(teacher, 2)
    torch.testing.assert_close(term(student, teacher), term(student, small))
    torch.testing.assert_close(term(student, small),
                               overhaul(term.connector(student), small, -torch.ones(2)))


def test_where_the_pre_activations_lie():
    """The paths that OFD's docstring gives."""
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for depth, path in ((8, "layer2.0.relu:input"), (14, "layer2.1.relu:input")):
        seen = kd.taps(kd.models.resnet(depth=depth, width=4, channels=3),
                       [path, "layer2"])(x).taps
        assert seen[path].min() < 0
        assert torch.equal(seen[path].relu(), seen["layer2"])
    model = torchvision.models.resnet18(num_classes=3).eval()
    tapped = kd.taps(model, ["layer2.1.relu#2:input", "layer2"])
    with pytest.raises(RuntimeError, match="overwrote it in place"):
        tapped(x)
    model.layer2[1].relu.inplace = False
    seen = tapped(x).taps
    assert torch.equal(seen["layer2.1.relu#2:input"].relu(), seen["layer2"])


# --- knowledge review ---------------------------------------------------------------------------


def test_review_sees_a_shift_at_every_scale_and_detail_at_one():
    teacher = torch.zeros(1, 1, 8, 8)
    assert float(review(teacher + 3, teacher)) == pytest.approx(9)
    checkers = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    weights = 1 + 1 / 2 + 1 / 4 + 1 / 8
    assert float(review(teacher + checkers, teacher)) == pytest.approx(1 / weights)
    halves = torch.ones(8, 8)
    halves[:, 4:] = -1
    assert float(review(teacher + halves, teacher)) == pytest.approx((weights - 1 / 8) / weights)


@pytest.mark.parametrize(("size", "weights"), [
    ((1, 1), 1), ((2, 2), 1.5), ((3, 3), 1.75), ((4, 4), 1.75), ((5, 5), 1.875), ((5, 2), 1.5)])
def test_review_leaves_out_grids_that_are_not_smaller(size, weights):
    detail = torch.zeros(1, 2, *size)
    detail[0, 0, 0, 0], detail[0, 1, 0, 0] = 1, -1
    plain = float(detail.square().mean())
    coarse = [grid for grid in (4, 2, 1) if grid < min(size)]
    pooled = [float(nn.functional.adaptive_avg_pool2d(detail, g).square().mean()) for g in coarse]
    expected = (plain + sum(p / 2 ** (i + 1) for i, p in enumerate(pooled))) / weights
    assert float(review(detail, 0 * detail)) == pytest.approx(expected)


def test_review_adds_levels_up():
    s, t = ([maps(3, 2, 5, 5, seed=seed), maps(3, 4, 2, 2, seed=seed)] for seed in (0, 1))
    torch.testing.assert_close(review(s, t), review(s[0], t[0]) + review(s[1], t[1]))
    with pytest.raises(ValueError, match=r"as many levels, got \[\[3, 2, 5, 5\].*and \[\[3, 2"):
        review(s, t[:1])
    with pytest.raises(ValueError, match="student maps of one batch"):
        review([s[0], s[1][:2]], [t[0], t[1][:2]])
    with pytest.raises(ValueError, match=r"Expected student maps.*got tuple"):
        review((), ())


def test_ReviewKD_is_review_behind_its_fusions():
    term, (students, teachers) = built("ReviewKD")
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():  # statistics and scales that matter
        for norm in (m for m in term.modules() if isinstance(m, nn.BatchNorm2d)):
            for part in (norm.weight, norm.bias, norm.running_mean):
                part.copy_(torch.randn(part.shape, generator=noise))
            norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=noise) + 0.5)
    term.eval()
    parts = {name: x.double().numpy() for name, x in term.fusions.state_dict().items()}

    def norm(path):
        return [parts[f"{path}.{name}"] for name in ("weight", "bias", "running_mean",
                                                     "running_var")]

    layers = [{
        "enter": parts[f"{i}.enter.0.weight"], "enter_norm": norm(f"{i}.enter.1"),
        "attend": (parts["0.attend.0.weight"], parts["0.attend.0.bias"]) if i == 0 else None,
        "leave": parts[f"{i}.leave.0.weight"], "leave_norm": norm(f"{i}.leave.1"),
    } for i in range(2)]
    assert "1.attend.0.weight" not in parts  # nothing is deeper than the deepest
    sizes = [x.shape[2:] for x in teachers]
    results = [oracles.fused([x[b].double().numpy() for x in students], layers, sizes)
               for b in range(4)]
    moved = [np.stack(level) for level in zip(*results, strict=True)]
    expected = oracles.review(moved, [x.double().numpy() for x in teachers])
    np.testing.assert_allclose(term.values(students, teachers).detach(), expected, rtol=1e-4)


def test_ReviewKD_takes_vectors_and_tokens_for_maps():
    students = (maps(3, 17, 6), maps(3, 8))
    teachers = (maps(3, 5, 4, 4, seed=1), maps(3, 12, seed=1))
    term = ReviewKD(["a", "b"], ["c", "d"])
    term.build(students, teachers, 0)
    assert term.fusions[0].enter[0].out_channels == 8  # the width of the deepest level
    term.eval()
    as_maps = ((students[0][:, 1:].transpose(1, 2).reshape(3, 6, 4, 4),
                students[1][:, :, None, None]), (teachers[0], teachers[1][:, :, None, None]))
    torch.testing.assert_close(term(students, teachers), term(*as_maps))


def test_ReviewKD_says_what_it_needs():
    with pytest.raises(ValueError, match=r"as many paths.*\['a', 'b'\] and \['c'\]"):
        ReviewKD(["a", "b"], "c")
    with pytest.raises(ValueError, match="width of at least 1, got 0"):
        ReviewKD("a", "b", width=0)
    with pytest.raises(ValueError, match=r"levels and one batch, got \[\[2, 3, 4, 4\]\] and \[\[3"):
        ReviewKD("a", "b").build(maps(2, 3, 4, 4), maps(3, 3, 4, 4), 0)
    with pytest.raises(ValueError, match="tokens that fill a square grid"):
        ReviewKD("a", "b").build(maps(2, 7, 4), maps(2, 3, 4, 4), 0)
    assert repr(ReviewKD(["a", "b"], ["c", "d"], width=9)) == (
        "ReviewKD(['a', 'b'], ['c', 'd'], width=9)")


# --- hidden states ------------------------------------------------------------------------------


def test_cosine_ignores_length_and_MSE_does_not():
    s, t = maps(3, 4, 5), maps(3, 4, 5, seed=1)
    torch.testing.assert_close(hidden_cosine(7 * s, 0.2 * t), hidden_cosine(s, t))
    assert float(hidden_cosine(3 * t, t)) == pytest.approx(0, abs=1e-6)
    assert float(hidden_cosine(-t, t)) == pytest.approx(2, abs=1e-6)
    assert float(hidden_mse(3 * t, t)) == pytest.approx(4 * float(t.square().mean()))
    turn = torch.linalg.qr(maps(5, 5, seed=2))[0]
    for loss in (hidden_cosine, hidden_mse):
        torch.testing.assert_close(loss(s @ turn, t @ turn), loss(s, t))


@pytest.mark.parametrize("size", [0, 1e-44, 1e-30, 1e-6, 1e15, 1e30])
def test_cosine_of_extreme_lengths(size):
    s = (maps(3, 4, 5) * size).requires_grad_()
    t = maps(3, 4, 5, seed=1)
    loss = hidden_cosine(s, t)
    loss.backward()
    assert torch.isfinite(s.grad).all()
    if size < 1e-40:  # numbers that have lost their digits count as 0
        assert float(loss.detach()) == pytest.approx(1)
        assert s.grad.abs().max() <= 1  # not 1 / eps
    else:
        torch.testing.assert_close(loss, hidden_cosine(maps(3, 4, 5), t))


def test_places_of_a_map_are_tokens_and_a_vector_is_one():
    a, b = maps(2, 3, 4, 4), maps(2, 16, 3, seed=1)
    for loss in (hidden_mse, hidden_cosine):
        torch.testing.assert_close(loss(a, b), loss(a.flatten(2).transpose(1, 2), b))
        torch.testing.assert_close(loss(a[:, :, 0, 0], b[:, 0]),
                                   loss(a[:, None, :, 0, 0], b[:, :1]))


def test_hidden_states_that_do_not_fit():
    s = maps(2, 17, 8)
    for loss in (hidden_mse, hidden_cosine):
        with pytest.raises(ValueError, match=r"\[2, 17, 8\] and \[2, 16, 8\].*class token"):
            loss(s, s[:, 1:])
        with pytest.raises(ValueError, match=r"\[2, 17, 8\] and \[2, 17, 4\].*build"):
            loss(s, s[:, :, :4])
    for term in (HiddenMSE, HiddenCosine):
        with pytest.raises(ValueError, match=r"with as many tokens, got \[2, 17, 8\] and \[2, 16"):
            term("a", "b").build(s, s[:, 1:], 0)
        with pytest.raises(ValueError, match="of one width"):
            term("a", "b", project=False).build(s, s[:, :, :4], 0)
        with pytest.raises(ValueError, match="project True, False or None, got 'yes'"):
            term("a", "b", project="yes")


def test_when_there_is_a_matrix():
    s, wide = maps(2, 5, 4), maps(2, 5, 6, seed=1)
    made = lambda term, t: (term.build(s, t, 0), term.projection)[1]  # noqa: E731
    assert made(HiddenMSE("a", "b"), s).weight.shape == (4, 4)
    assert made(HiddenMSE("a", "b"), wide).bias is None
    assert made(HiddenMSE("a", "b", project=None), s) is None
    assert made(HiddenMSE("a", "b", project=False), s) is None
    assert made(HiddenCosine("a", "b"), s) is None
    assert made(HiddenCosine("a", "b"), wide).weight.shape == (6, 4)
    assert made(HiddenCosine("a", "b", project=True), s).weight.shape == (4, 4)
    assert repr(HiddenMSE("a", "b")) == "HiddenMSE('a', 'b', project=True)"


@pytest.mark.parametrize(("term", "function"), [(HiddenMSE, oracles.hidden_mse),
                                                (HiddenCosine, oracles.hidden_cosine)])
def test_hidden_terms_are_their_functions_behind_the_matrix(term, function):
    term, s, t = term("a", "b"), maps(3, 5, 4), maps(3, 5, 6, seed=1)
    term.build(s, t, 0)
    W = term.projection.weight.detach().double().numpy()
    expected = function(s.double().numpy() @ W.T, t.double().numpy())
    np.testing.assert_allclose(term.values(s, t).detach(), expected, rtol=1e-5)


# --- attention ----------------------------------------------------------------------------------


def test_heads_are_compared_one_by_one_unless_told():
    t = maps(2, 4, 3, 3)
    swapped = t[:, [1, 0, 3, 2]]
    assert float(attention_mse(swapped, t)) > 0
    assert float(attention_mse(swapped, t, "mean")) == pytest.approx(0, abs=1e-12)
    fewer = t.unflatten(1, (2, 2)).mean(2)
    with pytest.raises(ValueError, match=r'\[2, 2, 3, 3\] and \[2, 4, 3, 3\].*heads="mean"'):
        attention_mse(fewer, t)
    assert float(attention_mse(fewer, t, "mean")) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match=r'and \[2, 4, 3, 3\].*heads="mean"'):
        attention_kl(fewer, t)
    with pytest.raises(ValueError, match='heads "same" or "mean", got 3'):
        attention_mse(t, t, 3)
    with pytest.raises(ValueError, match='heads "same" or "mean", got 3'):
        AttentionMSE("a", "b", heads=3)
    with pytest.raises(ValueError, match="as many samples, heads and tokens"):
        attention_mse(t, t[:, :, :2, :2], "mean")


def test_masked_scores_count_for_nothing():
    s, t = maps(2, 2, 3, 3), maps(2, 2, 3, 3, seed=1)
    future = torch.ones(3, 3, dtype=torch.bool).triu(1)
    masked = [x.masked_fill(future, -math.inf).requires_grad_() for x in (s, t)]
    error = (s - t).masked_fill(future, 0).square().mean()
    torch.testing.assert_close(attention_mse(*masked), error)
    mean = (s.mean(1) - t.mean(1)).masked_fill(future, 0).square().mean()
    torch.testing.assert_close(attention_mse(*masked, "mean"), mean)
    for loss in (attention_mse(*masked), attention_mse(*masked, "mean"),
                 attention_kl(*masked, scores=True),
                 attention_kl(*(x.softmax(-1) for x in masked))):
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, masked[0])[0]).all()
    torch.testing.assert_close(attention_kl(*masked, scores=True),
                               attention_kl(*(x.softmax(-1) for x in masked)))
    assert attention_kl(masked[0], t, scores=True).isposinf()


def test_attention_kl_asks_the_teacher_first_and_knows_both_kinds():
    s, t = 3 * maps(2, 2, 4, 4), 3 * maps(2, 2, 4, 4, seed=1)
    p, q = t.softmax(-1), s.softmax(-1)
    torch.testing.assert_close(attention_kl(s, t, scores=True), attention_kl(q, p))
    torch.testing.assert_close(attention_kl(s + 5, t - 3, scores=True), attention_kl(q, p))
    by_torch = nn.functional.kl_div(q.log(), p, reduction="sum") / (2 * 2 * 4)
    torch.testing.assert_close(attention_kl(q, p), by_torch)
    assert float(attention_kl(p, q)) != pytest.approx(float(by_torch), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_kl_of_probabilities_that_are_0(dtype):
    rows = torch.tensor([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]], dtype=dtype).view(1, 1, 3, 3)
    same = rows.clone().requires_grad_()
    loss = attention_kl(same, rows)
    loss.backward()
    assert float(loss.detach()) == 0
    assert same.grad[0, 0, 2, :2].abs().max() == 0  # also off the simplex: nothing to do
    other = rows.roll(1, 3).requires_grad_()
    loss = attention_kl(other, rows)
    loss.backward()
    assert 1 < float(loss.detach()) < 100
    assert torch.isfinite(other.grad).all()
    least = torch.nextafter(torch.tensor(0.0, dtype=dtype), torch.tensor(1.0, dtype=dtype))
    nearly = torch.tensor([[least, 1.0]], dtype=dtype).view(1, 1, 1, 2).requires_grad_()
    attention_kl(nearly, torch.tensor([1.0, 0.0], dtype=dtype).view(1, 1, 1, 2)).backward()
    assert torch.isfinite(nearly.grad).all()


def test_attention_kl_of_rounded_probabilities_is_small_and_not_below_0():
    scores = maps(4, 2, 50, 50)
    exact = scores.softmax(-1)
    rounded = exact.bfloat16()
    for a, b in ((rounded, exact), (exact, rounded)):
        values = attention_kl(a, b, reduction="none")
        assert (values >= 0).all()
        assert values.max() < 1e-5


def test_attention_that_is_none():
    x = maps(2, 3, 4, 4)
    for wrong, seen in ((x[0], r"\[3, 4, 4\]"), (x.long(), r"\[2, 3, 4, 4\]"), (None, "NoneType"),
                        (x[:0], r"\[0, 3, 4, 4\]")):
        for loss in (attention_mse, attention_kl):
            with pytest.raises(ValueError, match=rf"student attention.*\[B, heads, N, N\].*{seen}"):
                loss(wrong, x)
            with pytest.raises(ValueError, match="teacher attention"):
                loss(x, wrong)
        with pytest.raises(ValueError, match=r"values of shape \[B, heads, N, d\], got"):
            value_relation(wrong, x)


# --- values -------------------------------------------------------------------------------------


def test_values_may_be_turned_and_be_of_other_widths():
    s, t = maps(2, 3, 5, 4), maps(2, 3, 5, 8, seed=1)
    turn = torch.linalg.qr(maps(4, 4, seed=2))[0]
    torch.testing.assert_close(value_relation(s @ turn, t), value_relation(s, t))
    assert float(value_relation(2 * s, t)) != pytest.approx(float(value_relation(s, t)), rel=1e-3)
    # zeros beside the values leave the products as they are, and √d grows
    wider = torch.cat([s, 0 * s], 3) * 2**0.25
    torch.testing.assert_close(value_relation(wider, t), value_relation(s, t))
    with pytest.raises(ValueError, match=r"\[2, 2, 5, 4\] and \[2, 3, 5, 8\].*ValueRelation"):
        value_relation(s[:, :2], t)
    with pytest.raises(ValueError, match="as many samples, heads and tokens"):
        value_relation(s[:, :, :4], t)


def test_values_are_cut_out_of_what_models_hold():
    B, N, A, d = 2, 5, 3, 4
    qkv = maps(B, N, 3 * A * d)
    v = qkv.reshape(B, N, 3, A, d).permute(2, 0, 3, 1, 4)[2]  # as timm does
    other = maps(B, A, N, 7, seed=1)
    expected = value_relation(v, other)
    torch.testing.assert_close(ValueRelation("a.qkv", "b", heads=A)(qkv, other), expected)
    torch.testing.assert_close(ValueRelation(heads=A, fused=True)(qkv, other), expected)
    torch.testing.assert_close(ValueRelation("a.qkv#2", "b", heads=A)(qkv, other), expected)
    torch.testing.assert_close(
        ValueRelation("a", "b", heads=A, fused=(True, False))(qkv, v.transpose(1, 2).flatten(2)),
        value_relation(v, v))
    plain = v.transpose(1, 2).flatten(2)
    torch.testing.assert_close(ValueRelation("a.value", "b", heads=A)(plain, other), expected)
    torch.testing.assert_close(ValueRelation("a.qkv", "b", heads=A, fused=False)(plain, other),
                               expected)


def test_ValueRelation_says_what_it_needs():
    x = maps(2, 5, 12)
    with pytest.raises(ValueError, match=r"ValueRelation.*got \[2, 5, 12\].*heads=4"):
        ValueRelation("a", "b")(x, x)
    with pytest.raises(ValueError, match=r"student values of 5 heads, got \[2, 5, 12\]"):
        ValueRelation("a", "b", heads=5)(x, x)
    with pytest.raises(ValueError, match="student queries, keys and values of 3 heads"):
        ValueRelation("qkv", "b", heads=3)(x, x)
    with pytest.raises(ValueError, match="heads to be a number of at least 1, got"):
        ValueRelation("a", "b", heads=(3, 4))
    with pytest.raises(ValueError, match="fused True, False, None or a pair"):
        ValueRelation("a", "b", heads=3, fused=(True, True, False))
    with pytest.raises(ValueError, match=r"student features of shape \[B, N, D\], got"):
        ValueRelation("a", "b", heads=3)(None, x)
    assert repr(ValueRelation("a", "b", heads=3)) == "ValueRelation('a', 'b', heads=3)"


# --- in the transformers of other people --------------------------------------------------------


def small_vit(seed, embed=32, heads=4, fused=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.models.vision_transformer.VisionTransformer(
            img_size=28, patch_size=7, in_chans=1, num_classes=5, embed_dim=embed, depth=2,
            num_heads=heads, mlp_ratio=2)
    for block in model.blocks:
        block.attn.fused_attn = fused
    return model.eval()


def test_the_paths_of_timm():
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    student, teacher = small_vit(0), small_vit(1, embed=48)
    paths = ["blocks.1", "blocks.1.attn.attn_drop:input", "blocks.1.attn.qkv"]
    views = [kd.taps(model, paths)(x) for model in (student, teacher)]
    hidden, attention, qkv = ([view.taps[path] for view in views] for path in paths)
    assert hidden[0].shape == (3, 17, 32)
    torch.testing.assert_close(attention[0].sum(3), torch.ones(3, 4, 17))
    assert qkv[1].shape == (3, 17, 144)
    for path, term in ((paths[0], HiddenMSE), (paths[0], HiddenCosine), (paths[1], AttentionMSE),
                       (paths[1], AttentionKL)):
        term = term(path, path)
        term.build(*views, 0)
        loss = term(*views)
        assert torch.isfinite(loss)
        assert loss > 0
        assert term.values(*term.pick(*views)).shape == (3,)
        loss.backward(retain_graph=True)
    values = [part.reshape(3, 17, 3, 4, -1)[:, :, 2].transpose(1, 2) for part in qkv]
    relation = ValueRelation(paths[2], paths[2], heads=4)
    torch.testing.assert_close(relation(*views), value_relation(*values))
    # what is cut out is what the block multiplies its attention with
    seen = kd.taps(student, ["blocks.1.attn.proj:input"])(x).taps["blocks.1.attn.proj:input"]
    torch.testing.assert_close((attention[0] @ values[0]).transpose(1, 2).flatten(2), seen)


def test_relation_heads_where_the_models_have_other_numbers():
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    path = "blocks.1.attn.qkv"
    views = [kd.taps(model, [path])(x) for model in (small_vit(0, heads=2),
                                                     small_vit(1, embed=48, heads=6))]
    for heads in (1, 2, 4):
        assert torch.isfinite(ValueRelation(path, path, heads=heads)(*views))


@pytest.mark.parametrize("term", [
    lambda: HiddenMSE("1.blocks.1", "1.blocks.1"), lambda: HiddenCosine("1.blocks.0", "1.norm"),
    lambda: AttentionMSE(*2 * ["1.blocks.1.attn.attn_drop:input"], heads="mean"),
    lambda: AttentionKL(*2 * ["1.blocks.0.attn.attn_drop:input"]),
    lambda: ValueRelation(*2 * ["1.blocks.1.attn.qkv"], heads=2),
    lambda: ReviewKD(["1.blocks.0", "1.blocks.1"], ["1.blocks.0", "1.blocks.1"]),
])
def test_a_vision_transformer_learns_from_another(data, term):
    nets = [kd.models.vit(dim=dim, depth=2, heads=2, patch=4, size=12, seed=dim)
            for dim in (8, 16)]
    for net in nets:
        for block in net[1].blocks:
            block.attn.fused_attn = False
    history = kd.fit(kd.Distiller(*nets, kd.losses.CE() + term()), data, RECIPE)
    assert all(math.isfinite(row["loss"]) for row in history.rows)


def test_the_paths_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, num_labels=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification._from_config(
            config, attn_implementation="eager").eval()
    layer = "bert.encoder.layer.1"
    paths = [layer, f"{layer}.attention.self[1]", f"{layer}.attention.self.value"]
    view = kd.taps(model, paths)(input_ids=torch.arange(12).view(2, 6))
    hidden, attention, value = (view.taps[path] for path in paths)
    assert hidden.shape == value.shape == (2, 6, 16)
    torch.testing.assert_close(attention.sum(3), torch.ones(2, 2, 6))
    assert attention_kl(attention, attention).equal(torch.tensor(0.0))
    assert float(ValueRelation(paths[2], paths[2], heads=2)(view, view).detach()) == pytest.approx(
        0, abs=1e-6)
