"""Losses on inner tensors: what their papers promise, and what they train.

The laws that hold for every loss are in `test_laws.py`.
"""

import copy
import itertools
import math

import pytest
import torch
from conftest import network
from helpers.laws import each, randn
from torch import nn

import kdcourse as kd
from kdcourse import losses
from kdcourse.losses import AT, CE, FSP, NST, VID, Hint
from kdcourse.losses.feature.projections import on_one_grid

MAP, WIDE = randn(2, 8, 4, 4, seed=1), randn(2, 6, 8, 8, seed=2)
TOKENS, PATCHES = randn(2, 17, 8, seed=3), randn(2, 16, 5, seed=4)  # with and without class token
VECTOR, LONG = randn(2, 8, seed=5), randn(2, 5, seed=6)

# Terms that train something, with a student and a teacher for them.
TRAINED = {
    "Hint": (Hint, WIDE, MAP),
    "Hint, smaller student": (Hint, MAP, WIDE),
    "Hint 1x1": (lambda: Hint(projection="1x1"), WIDE, MAP),
    "Hint code": (lambda: Hint(projection="code"), WIDE, MAP),
    "Hint, tokens": (Hint, TOKENS, randn(2, 17, 5)),
    "Hint, vectors": (Hint, VECTOR, LONG),
    "VID": (VID, WIDE, MAP),
    "VID, tokens": (lambda: VID(hidden=6), TOKENS, randn(2, 17, 5)),
    "VID, vectors": (VID, VECTOR, LONG),
}
trained = pytest.mark.parametrize(("make", "student", "teacher"), TRAINED.values(), ids=TRAINED)

# Terms that take maps and tokens of any size and width.
ANY = {
    "Hint": Hint, "Hint 1x1": lambda: Hint(projection="1x1"), "AT": AT, "NST": NST,
    "VID": lambda: VID(hidden=64),  # (a few narrow ReLUs are dead at some places)
    "AT paper": lambda: AT(variant="paper"), "NST linear": lambda: NST(kernel="linear"),
    "NST gaussian": lambda: NST(kernel="gaussian"),
}
anything = pytest.mark.parametrize("make", ANY.values(), ids=ANY)


def built(make, student, teacher, seed=0):
    term = make()
    term.build(student, teacher, seed)
    return term


def tokens_of(x_BCHW, extra=1):
    """The map as a sequence, behind `extra` tokens of 9."""
    patches = x_BCHW.flatten(2).transpose(1, 2)
    return torch.cat([torch.full_like(patches[:, :1], 9).expand(-1, extra, -1), patches], 1)


def scrambled(term):
    """Everything that the term trains, moved away from where it started."""
    with torch.no_grad():
        for i, parameter in enumerate(term.parameters()):
            parameter += 0.1 * randn(*parameter.shape, seed=i)
    return term


# --- maps, tokens, vectors ----------------------------------------------------------------------


@anything
@pytest.mark.parametrize(("student", "teacher"),
                         list(itertools.permutations([MAP, WIDE, TOKENS, PATCHES], 2)))
def test_maps_and_tokens_meet(make, student, teacher):
    student = student.clone().requires_grad_()
    term = built(make, student, teacher)
    values = term.values(student, teacher)
    assert values.shape == (2,)
    assert torch.isfinite(values).all()
    values.sum().backward()
    unused = student.grad.abs().sum(-1) == 0 if student.ndim == 3 else torch.zeros(1)
    # Every place counts, but not the class token, which has none.
    assert unused.nonzero().tolist() == ([[0, 0], [1, 0]] if student.shape[1] == 17 else [])


@anything
@pytest.mark.parametrize("extra", [0, 1, 2, 5])
def test_a_sequence_is_the_map_of_its_patches(make, extra):
    term = built(make, WIDE, MAP)
    expected = term(WIDE, MAP)
    torch.testing.assert_close(term(tokens_of(WIDE, extra), MAP), expected)
    torch.testing.assert_close(term(WIDE, tokens_of(MAP, extra)), expected)
    torch.testing.assert_close(term(tokens_of(WIDE, extra), tokens_of(MAP, extra)), expected)


@pytest.mark.parametrize("make", [Hint, lambda: VID(hidden=64)])
def test_a_class_token_takes_part_where_both_have_one(make):
    teacher = randn(2, 17, 5)
    student = TOKENS.clone().requires_grad_()
    built(make, TOKENS, teacher)(student, teacher).backward()
    assert (student.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("make", [Hint, VID])
def test_vectors_meet_vectors_only(make):
    assert torch.isfinite(built(make, VECTOR, LONG)(VECTOR, LONG))
    for student, teacher in ((VECTOR, MAP), (MAP, VECTOR), (VECTOR, TOKENS)):
        with pytest.raises(ValueError, match=r"both vectors \[B, D\], or both maps or tokens, got"):
            built(make, student, teacher)


@pytest.mark.parametrize("make", [AT, NST])
def test_a_vector_has_no_places(make):
    with pytest.raises(ValueError, match=r"student features of shape \[B, N, D\] or .* \[2, 8\]"):
        make()(VECTOR, VECTOR)


@anything
def test_tokens_that_fill_no_square_are_refused(make):
    with pytest.raises(ValueError, match=r"student tokens that fill a square grid.*\[2, 12, 8\]"):
        built(make, randn(2, 12, 8), MAP)(randn(2, 12, 8), MAP)


@anything
def test_two_batches_are_refused(make):
    with pytest.raises(ValueError, match=r"one batch, got \[2, 8, 4, 4\] and \[1, 8, 4, 4\]"):
        built(make, MAP, MAP[:1])(MAP, MAP[:1])


@pytest.mark.parametrize("make", [AT, lambda: AT(variant="paper"), NST,
                                  lambda: NST(kernel="linear"), lambda: NST(kernel="gaussian")])
@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1e10, 1e25])
def test_the_scale_of_a_layer_does_not_matter(make, scale):
    student, teacher = WIDE.float(), MAP.float()
    term, expected = make(), make()(WIDE, MAP).float()
    torch.testing.assert_close(term(scale * student, teacher), expected)
    torch.testing.assert_close(term(student, scale * teacher), expected)
    student = (scale * student).requires_grad_()
    term(student, teacher).backward()
    at_one = WIDE.clone().requires_grad_()
    term(at_one, MAP).backward()
    torch.testing.assert_close(student.grad * scale, at_one.grad.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [AT, NST])
def test_each_sample_has_a_scale_of_its_own(make):
    sizes = torch.tensor([1e-20, 1e15]).view(2, 1, 1, 1)
    expected = make().values(WIDE, MAP).float()
    torch.testing.assert_close(make().values(WIDE.float() * sizes, MAP.float()), expected)


@pytest.mark.parametrize("make", [AT, NST, lambda: NST(kernel="gaussian")])
def test_what_is_dead_gets_no_gradient(make):
    student = WIDE.float()
    student[0] = 0  # a whole sample
    student[1, 2] = 0  # a channel
    student.requires_grad_()
    make()(student, MAP.float()).backward()
    assert student.grad[0].abs().max() == 0
    if make is not AT:  # (in AT the gradient of |0|² is 0 as well)
        assert student.grad[1, 1].abs().max() > 0
    assert student.grad[1, 2].abs().max() == 0


# --- hints --------------------------------------------------------------------------------------


def test_the_paper_s_hint_is_half_the_sum():
    other = randn(2, 8, 4, 4, seed=9)
    paper, mean = (losses.hint(MAP, other, variant) for variant in ("paper", "mean"))
    torch.testing.assert_close(paper, mean * 8 * 4 * 4 / 2)


@pytest.mark.parametrize(("student", "kernel"), [((8, 8), (5, 5)), ((4, 4), (1, 1)),
                                                 ((6, 9), (3, 6)), ((2, 7), (1, 4))])
def test_the_regressor_takes_the_student_to_the_size_of_the_teacher(student, kernel):
    student = randn(2, 3, *student)
    term = built(Hint, student, MAP)
    assert isinstance(term.regressor, nn.Conv2d)
    assert term.regressor.kernel_size == kernel
    assert term.regressor.weight.shape[:2] == (8, 3)
    assert torch.isfinite(term(student, MAP))


def test_a_hint_of_1x1_has_one_weight_for_a_pair_of_channels():
    assert built(lambda: Hint(projection="1x1"), WIDE, MAP).regressor.kernel_size == (1, 1)


def test_a_hint_is_the_function_behind_its_regressor():
    term = built(Hint, WIDE, MAP)
    expected = losses.hint(term.regressor(WIDE), MAP)
    torch.testing.assert_close(term(WIDE, MAP), expected)
    small = built(Hint, MAP, WIDE)  # the larger teacher is averaged: 2 x 2 places become one
    teacher = WIDE.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
    torch.testing.assert_close(small(MAP, WIDE), losses.hint(small.regressor(MAP), teacher))
    pooled = built(lambda: Hint(projection="1x1", variant="mean"), WIDE, MAP)
    student = WIDE.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
    torch.testing.assert_close(pooled(WIDE, MAP),
                               losses.hint(pooled.regressor(student), MAP, "mean"))
    tokens = built(Hint, TOKENS, TOKENS)
    torch.testing.assert_close(tokens(TOKENS, TOKENS),
                               losses.hint(tokens.regressor(TOKENS), TOKENS))


def test_a_hint_can_be_fulfilled():
    term = built(Hint, WIDE, MAP)
    assert term(WIDE, MAP) > 0
    with torch.no_grad():
        assert term(WIDE, term.regressor(WIDE)) == 0


def test_a_hint_without_a_projection_trains_nothing_and_needs_equal_shapes():
    term = built(lambda: Hint(projection=None), MAP, MAP)
    assert not list(term.parameters())
    assert term(MAP, MAP) == 0
    with pytest.raises(ValueError, match=r"one shape, got \[2, 6, 8, 8\] and \[2, 8, 4, 4\]"):
        term.build(WIDE, MAP, 0)


@pytest.mark.parametrize(("size", "kind", "kernel", "stride"), [
    ((8, 8), nn.Conv2d, (3, 3), (2, 2)), ((2, 2), nn.ConvTranspose2d, (4, 4), (2, 2)),
    ((4, 4), nn.Conv2d, (1, 1), (1, 1)), ((7, 9), nn.Conv2d, (4, 6), (1, 1)),
])
def test_the_regressor_of_published_tables(size, kind, kernel, stride):
    student = randn(2, 3, *size)
    term = built(lambda: Hint(projection="code"), student, MAP)
    layer, norm, relu = term.regressor
    assert type(layer) is kind and (layer.kernel_size, layer.stride) == (kernel, stride)
    assert type(norm) is nn.BatchNorm2d and type(relu) is nn.ReLU
    result = layer(student)
    mean, variance = (f(result, (0, 2, 3), keepdim=True) for f in (torch.mean, torch.var))
    places = result[:, 0].numel()
    result = (result - mean) / (variance * (places - 1) / places + 1e-5).sqrt()
    torch.testing.assert_close(term(student, MAP), (result.clamp(min=0) - MAP).square().mean())
    if size == (4, 4):
        torch.testing.assert_close(term(tokens_of(student), tokens_of(MAP)), term(student, MAP))


@pytest.mark.parametrize("size", [(3, 3), (1, 1), (2, 4), (4, 3)])
def test_the_regressor_of_published_tables_has_no_layer_for_other_sizes(size):
    with pytest.raises(ValueError, match=r'half as large, got .*\. Use projection="paper"'):
        built(lambda: Hint(projection="code"), randn(2, 3, *size), MAP)
    with pytest.raises(ValueError, match=r"features of shape \[B, N, D\] or"):
        built(lambda: Hint(projection="code"), VECTOR, LONG)


@pytest.mark.parametrize(("student", "teacher", "million"), [
    ((64, 56, 56), (512, 7, 7), 82), ((256, 28, 28), (1024, 14, 14), 59),
    ((32, 112, 112), (128, 14, 14), 40)])
def test_a_regressor_of_many_million_weights_is_refused(student, teacher, million):
    with pytest.raises(ValueError, match=rf"most 20 million .* got {million} million.*1x1"):
        Hint("a", "b").build(torch.zeros(1, *student), torch.zeros(1, *teacher), 0)
    if student[1] != 2 * teacher[1]:
        with pytest.raises(ValueError, match=rf"got {million} million"):
            Hint(projection="code").build(torch.zeros(2, *student), torch.zeros(2, *teacher), 0)
    assert built(lambda: Hint(projection="1x1"), torch.zeros(1, *student), torch.zeros(1, *teacher))


# --- attention transfer -------------------------------------------------------------------------


def test_attention_does_not_ask_which_channel_is_active():
    expected = losses.attention_transfer(MAP, TOKENS, variant="paper")
    order = torch.randperm(8, generator=kd.data.generator(0))
    for same in (MAP[:, order], -MAP, torch.cat([MAP, MAP], 1)):
        torch.testing.assert_close(losses.attention_transfer(same, TOKENS, variant="paper"),
                                   expected)


def test_the_places_of_attention_may_be_renamed():
    order = torch.randperm(16, generator=kd.data.generator(0))
    moved = [x.flatten(2)[:, :, order].unflatten(2, (4, 4)) for x in (MAP, MAP.exp())]
    torch.testing.assert_close(losses.attention_transfer(*moved),
                               losses.attention_transfer(MAP, MAP.exp()))


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_the_code_of_attention_transfer_squares_and_averages(p):
    paper, code = (losses.attention_transfer(WIDE, MAP, p, variant, "none")
                   for variant in ("paper", "code"))
    torch.testing.assert_close(code, paper**2 / 16)
    assert (paper > 0).all()
    assert (paper < math.sqrt(2)).all()


def test_a_finer_attention_map_is_averaged():
    teacher = MAP.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert losses.attention_transfer(MAP, teacher, variant="paper") < 1e-7
    # |a|² is averaged, not a: these two cells have the mean activation 0.
    student = torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]])
    assert losses.attention_transfer(student, torch.ones(1, 1, 1, 1)) == 0


def test_the_distance_of_attention_has_a_slope_up_to_the_teacher():
    lengths = []
    for step in (1e-2, 1e-4):
        student = (MAP + step * randn(*MAP.shape, seed=7)).requires_grad_()
        losses.attention_transfer(student, MAP, variant="paper").backward()
        lengths.append(float(student.grad.norm()))
    assert lengths[1] == pytest.approx(lengths[0], rel=0.1)


# --- FSP ----------------------------------------------------------------------------------------


FIRST, LAST = randn(2, 3, 4, 4, seed=1), randn(2, 5, 2, 2, seed=2)
OTHER = randn(2, 3, 4, 4, seed=3), randn(2, 5, 2, 2, seed=4)


def test_the_flow_of_a_larger_layer_is_that_of_its_maxima_and_in_the_code_of_its_means():
    largest = FIRST.unflatten(2, (2, 2)).unflatten(4, (2, 2)).amax((3, 5))
    for variant in ("paper", "mean"):
        torch.testing.assert_close(losses.fsp((FIRST, LAST), OTHER, variant),
                                   losses.fsp((largest, LAST), OTHER, variant))
    average = FIRST.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5))
    torch.testing.assert_close(losses.fsp((FIRST, LAST), OTHER), losses.fsp((average, LAST), OTHER))
    torch.testing.assert_close(losses.fsp((LAST, FIRST), OTHER[::-1]),
                               losses.fsp((FIRST, LAST), OTHER))  # G is transposed


def test_the_flow_grows_with_the_fourth_power():
    small = losses.fsp((FIRST, LAST), OTHER, "paper")
    large = losses.fsp((3 * FIRST, 3 * LAST), each(lambda x: 3 * x, OTHER), "paper")
    torch.testing.assert_close(large, 81 * small)
    torch.testing.assert_close(losses.fsp((FIRST, LAST), OTHER, "mean"), small / (3 * 5))
    equal = [FIRST, LAST.repeat_interleave(2, 2).repeat_interleave(2, 3)]  # nothing is pooled
    torch.testing.assert_close(losses.fsp(equal, each(lambda x: -2 * x, equal)),
                               losses.fsp(equal, each(lambda x: -2 * x, equal), "mean"))


def test_the_flow_forgets_the_place_and_a_common_sign():
    first, last = FIRST[:, :, :2, :2], LAST
    moved = [x.flip(2, 3) for x in (first, last)]
    assert losses.fsp(moved, (first, last)) < 1e-12
    assert losses.fsp((-first, -last), (first, last)) == 0
    assert losses.fsp((-first, last), (first, last)) > 0
    wide = [x.repeat_interleave(3, 3) for x in (first, last)]  # another size, the same mean
    assert losses.fsp(wide, (first, last)) < 1e-12


def test_flow_asks_for_pairs_of_equal_width():
    for wrong in (FIRST, (FIRST,), (FIRST, LAST, LAST), "layer1"):
        with pytest.raises(ValueError, match=r"student features as a pair \(first, last\)"):
            losses.fsp(wrong, OTHER)
        with pytest.raises(ValueError, match=r"teacher features as a pair \(first, last\)"):
            losses.fsp(OTHER, wrong)
    with pytest.raises(ValueError, match=r"channels in the last layer, got \[2, 5, 2, 2\] and "
                                         r"\[2, 3, 4, 4\]"):
        losses.fsp((FIRST, LAST), (FIRST, FIRST))
    with pytest.raises(ValueError, match=r"FSP.*channels in the first layer"):
        kd.losses.as_objective(FSP()).build((FIRST, LAST), (LAST, LAST))
    with pytest.raises(ValueError, match=r"student layers of one batch, got \[2, 3.*\[1, 5"):
        losses.fsp((FIRST, LAST[:1]), (FIRST, LAST[:1]))
    for paths in (("a", "b"), (["a", "b"], "b"), (["a"], ["a", "b"]), (["a", "b"], ["a"] * 3)):
        with pytest.raises(ValueError, match="Expected two module paths of the"):
            FSP(*paths)
    assert repr(FSP(["a", "b"], ["c", "d"])) == "FSP(['a', 'b'], ['c', 'd'], variant='code')"


# --- NST ----------------------------------------------------------------------------------------


kernels = pytest.mark.parametrize("kernel", ["linear", "poly", "gaussian"])


@kernels
def test_the_channels_are_a_set(kernel):
    order = torch.randperm(8, generator=kd.data.generator(0))
    sizes = randn(2, 8, 1, 1, seed=8).exp()
    for same in (MAP[:, order], torch.cat([MAP, MAP], 1), MAP * sizes):
        assert losses.nst(same, MAP, kernel).abs() < 1e-12
    assert losses.nst(MAP[:, :4], MAP, kernel) > 1e-3


@kernels
def test_a_discrepancy_is_symmetric_and_not_negative(kernel):
    values = losses.nst(WIDE[:, :, :4, :4], MAP, kernel, "none")
    assert (values > 0).all()
    torch.testing.assert_close(losses.nst(MAP, WIDE[:, :, :4, :4], kernel, "none"), values)


def test_linear_selectivity_compares_the_means():
    points = [nn.functional.normalize(x.flatten(2), dim=2) for x in (MAP, TOKENS_AS_MAP)]
    means = [x.mean(1) for x in points]
    torch.testing.assert_close(losses.nst(MAP, TOKENS, "linear", "none"),
                               (means[0] - means[1]).square().sum(1))


def test_polynomial_selectivity_compares_the_second_moments():
    points = [nn.functional.normalize(x.flatten(2), dim=2) for x in (MAP, TOKENS_AS_MAP)]
    moments = [x.transpose(1, 2) @ x / x.shape[1] for x in points]
    torch.testing.assert_close(losses.nst(MAP, TOKENS, "poly", "none"),
                               (moments[0] - moments[1]).square().sum((1, 2)))
    assert losses.nst(-MAP, MAP, "poly").abs() < 1e-12  # no sign in a second moment,
    assert losses.nst(-MAP, MAP, "linear") > 1e-3  # but one in a mean


TOKENS_AS_MAP = TOKENS[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


def test_one_gaussian_pair_by_hand():
    left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    # One channel each: the only pair has the distance² 2 = sigma², so k = exp(-1/2).
    expected = torch.tensor(2 - 2 * math.exp(-0.5))
    torch.testing.assert_close(losses.nst(left, right, "gaussian"), expected)


# --- VID ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "mean"])
def test_the_best_variance_is_the_mean_squared_error(variant):
    best = (MAP - TOKENS_AS_MAP).square().mean((0, 2, 3))
    at = best.clone().requires_grad_()
    lowest = losses.vid(MAP, TOKENS_AS_MAP, at, variant)
    lowest.backward()
    assert at.grad.abs().max() < 1e-12
    for factor in (0.5, 0.9, 1.1, 2):
        assert losses.vid(MAP, TOKENS_AS_MAP, factor * best, variant) > lowest
    each_C = (best.log() + 1) / 2  # log sigma + 1/2, for every place
    expected = each_C.sum() * 16 if variant == "paper" else each_C.mean()
    torch.testing.assert_close(lowest.detach(), expected)


def test_vid_is_the_likelihood_of_a_gaussian():
    variance = torch.linspace(0.5, 2, 8, dtype=torch.float64)
    scale = variance.sqrt()[:, None, None]
    gaussian = torch.distributions.Normal(MAP, scale)
    expected = -gaussian.log_prob(TOKENS_AS_MAP).sum((1, 2, 3)) - 8 * 16 * math.log(2 * math.pi) / 2
    torch.testing.assert_close(losses.vid(MAP, TOKENS_AS_MAP, variance, "paper", "none"), expected)


def test_the_variances_are_trained():
    term = built(VID, WIDE, MAP)
    assert "alpha" in dict(term.named_parameters())  # a plain list would hide them
    assert "alpha" in term.state_dict()
    torch.testing.assert_close(term.variance_C, torch.full((8,), 5.0, dtype=torch.float64))
    optimizer = torch.optim.Adam([term.alpha], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        term(WIDE, MAP).backward()
        optimizer.step()
    student, teacher = on_one_grid(WIDE, MAP)
    best = (term.mean(student) - teacher).square().mean((0, 2, 3))
    torch.testing.assert_close(term.variance_C, best, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("variance", [1e-4, 1.0, 100.0])
def test_the_variances_start_where_they_are_told(variance):
    term = built(lambda: VID(variance=variance), WIDE.float(), MAP.float())
    torch.testing.assert_close(term.variance_C, torch.full((8,), variance), rtol=1e-3, atol=0)
    with torch.no_grad():
        term.alpha.fill_(-1e4)
    loss = term(WIDE.float(), MAP.float())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in term.parameters())


def test_vid_asks_for_a_variance_per_channel():
    for wrong in (torch.ones(4), torch.ones(8, 1), 1.0, torch.ones(())):
        with pytest.raises(ValueError, match=r"one variance for each of the 8 channels, \[8\]"):
            losses.vid(MAP, TOKENS_AS_MAP, wrong)
    assert torch.isfinite(losses.vid(TOKENS, TOKENS + 1, torch.ones(8)))  # the features, here


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Hint(projection="linear"),
     'projection "paper" or "1x1" or "code" or "None", got \'linear\''),
    (lambda: Hint(variant="code"), 'variant "paper" or "mean", got \'code\''),
    (lambda: AT(variant="mean"), 'variant "paper" or "code", got \'mean\''),
    (lambda: AT(p=0.5), "a power p of at least 1, got 0.5"),
    (lambda: AT(p=math.inf), "a power p of at least 1, got inf"),
    (lambda: FSP(variant="sum"), 'variant "code" or "mean" or "paper", got \'sum\''),
    (lambda: NST(kernel="rbf"), 'kernel "poly" or "linear" or "gaussian", got \'rbf\''),
    (lambda: VID(variance=0), "a variance above 1e-05 to start from, got 0"),
    (lambda: VID(hidden=0), "hidden to be a whole number of at least 1"),
    (lambda: VID(variant="code"), 'variant "paper" or "mean", got \'code\''),
    (lambda: losses.hint(MAP, MAP, "code"), 'variant "paper" or "mean"'),
    (lambda: losses.hint(MAP, MAP, reduction="sum"), 'reduction "mean" or "none"'),
    (lambda: losses.attention_transfer(MAP, MAP, 0), "a power p of at least 1, got 0"),
    (lambda: losses.nst(MAP, MAP, "rbf"), 'kernel "poly"'),
    (lambda: losses.fsp((MAP, MAP), (MAP, MAP), "sum"), 'variant "code" or "mean" or "paper"'),
    (lambda: losses.vid(MAP, MAP, torch.ones(8), "sum"), 'variant "paper"'),
])
def test_settings_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_setting_shows():
    assert repr(Hint("a", "b")) == "Hint('a', 'b', projection='paper', variant='mean')"
    assert repr(AT("a", "b", p=1.5)) == "AT('a', 'b', p=1.5, variant='code')"
    assert repr(NST("a", "b")) == "NST('a', 'b', kernel='poly')"
    assert repr(VID("a", "b")) == "VID('a', 'b', variance=5, variant='mean')"
    assert repr(VID("a", "b", hidden=3)) == "VID('a', 'b', hidden=3, variance=5, variant='mean')"


# --- what is trained ----------------------------------------------------------------------------


@trained
def test_nothing_can_be_computed_before_build(make, student, teacher):
    with pytest.raises(ValueError, match=r"Expected build\(\) to be called first"):
        make()(student, teacher)


@trained
def test_build_makes_nothing_twice(make, student, teacher):
    term = built(make, student, teacher)
    before = {name: (p, p.clone()) for name, p in term.named_parameters()}
    term.build(student, teacher, 7)
    after = dict(term.named_parameters())
    assert before.keys() == after.keys()
    assert before
    assert all(after[name] is p and torch.equal(p, value) for name, (p, value) in before.items())


@trained
def test_build_draws_from_its_seed_alone(make, student, teacher):
    state = torch.get_rng_state()
    first, again, other = (built(make, student, teacher, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    later = built(make, student, teacher, 1)
    torch.set_rng_state(state)
    for same in (again, later):
        assert all(map(torch.equal, first.parameters(), same.parameters()))
    assert not all(map(torch.equal, first.parameters(), other.parameters()))


@trained
def test_all_that_is_trained_gets_a_gradient_and_the_teacher_none(make, student, teacher):
    student, teacher = (x.clone().requires_grad_() for x in (student, teacher))
    term = built(make, student, teacher)
    term(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0
    for parameter in term.parameters():
        assert parameter.requires_grad
        assert parameter.grad.abs().max() > 0


@trained
def test_trained_parts_can_be_saved_and_loaded(make, student, teacher):
    term = scrambled(built(make, student, teacher))
    fresh = built(make, student, teacher, 3)
    assert fresh(student, teacher) != term(student, teacher)
    fresh.load_state_dict(term.state_dict())
    assert fresh(student, teacher) == term(student, teacher)
    with pytest.raises(RuntimeError, match=r"before it is loaded. Call scheme.build\("):
        make().load_state_dict(term.state_dict())


@trained
def test_a_copy_goes_its_own_way(make, student, teacher):
    term = built(make, student, teacher)
    twin, before = copy.deepcopy(term), term(student, teacher)
    assert twin(student, teacher) == before
    scrambled(twin)
    assert twin(student, teacher) != before
    assert term(student, teacher) == before


@trained
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_trained_parts_are_in_float32_at_least(make, student, teacher, dtype):
    student, teacher = student.to(dtype), teacher.to(dtype)
    term = built(make, student, teacher)
    wide = torch.promote_types(dtype, torch.float32)
    assert {p.dtype for p in term.parameters()} == {wide}
    assert term(student, teacher).dtype == wide


@trained
def test_shapes_alone_will_do(make, student, teacher):
    term = built(make, student, teacher).to("meta")
    assert term(student.to("meta"), teacher.to("meta")).shape == ()


@trained
def test_autocast_does_not_reach_the_projection(make, student, teacher):
    student, teacher = student.float(), teacher.float()
    term = built(make, student, teacher)
    expected = term.values(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(term.values(student, teacher), expected)


@pytest.mark.parametrize("call", [
    lambda first, last: losses.fsp((first, last), (2 * first, last)),
    lambda first, last: losses.nst(first, last),
    lambda first, last: losses.nst(first, last, "gaussian"),
], ids=["fsp", "nst", "nst gaussian"])
def test_gradients_are_those_without_autocast(call):
    def gradients(on):
        first, last = FIRST.float().requires_grad_(), LAST.float()
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            loss = call(first, last)
        return torch.autograd.grad(loss, first)[0]  # outside, as in a training loop

    assert torch.equal(gradients(True), gradients(False))
    assert gradients(True).abs().max() > 0


# --- in a scheme --------------------------------------------------------------------------------


TERMS = {
    "Hint": lambda: Hint("2", "4", variant="mean"),
    "Hint, wider student map": lambda: Hint("2", "6", variant="mean"),
    "Hint, vectors": lambda: Hint("8", "8", variant="mean"),
    "AT": lambda: AT("4", "4"),
    "AT, two sizes": lambda: AT("2", "4", variant="code"),
    "FSP": lambda: FSP(["1", "3"], ["1", "3"]),
    "NST": lambda: NST("4", "6"),
    "NST, gaussian": lambda: NST("4", "4", kernel="gaussian"),
    "VID": lambda: VID("4", "4", variant="mean"),
}


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_learns_with_it(data, name, precision):
    teacher = network(seed=1, width=4 if name == "FSP" else 8)
    scheme = kd.Distiller(network(), teacher, CE() + TERMS[name]())
    scheme.build(next(data.train.batches(2)), 0)
    [term] = [term for term in scheme.objective.terms.values() if term.needs_teacher]
    before = [p.detach().clone() for p in term.parameters()]
    assert len(before) == {"Hint": 2, "VID": 4}.get(type(term).__name__, 0)
    history = kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36, precision=precision), device="cpu")
    assert math.isfinite(history["loss"][-1])
    assert math.isfinite(history[type(term).__name__][-1])
    assert not any(map(torch.equal, before, term.parameters()))  # all of them have moved
    assert not any("objective" in key for key in kd.export(scheme).state_dict())


def test_a_term_that_does_not_fit_says_which_one(data):
    scheme = kd.Distiller(network(), network(seed=1, width=8), CE() + FSP(["1", "3"], ["1", "3"]))
    with pytest.raises(ValueError, match=r"FSP\(\['1', '3'\], \['1', '3'\].*channels in the first"):
        scheme.build(next(data.train.batches(2)), 0)
