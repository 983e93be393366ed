"""Factor transfer and activation boundaries, whose papers train in two stages.

The laws that hold for every loss are in `test_laws.py`, those of trained terms in
`test_trained.py`.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import network, state
from helpers import oracles_feature as oracles
from helpers.trained import built, maps
from torch import nn

import kdcourse as kd
from kdcourse._key import key_of
from kdcourse.losses import AB, CE, FT, Paraphraser, activation_boundaries, factor_transfer

RECIPE = kd.Recipe(epochs=1, batch=36)


def resnet(seed=1):
    return kd.models.resnet(depth=8, width=4, stem_stride=2, seed=seed).eval()


# --- factors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "rate", "factors"), [(6, 0.5, 3), (5, 0.75, 4), (3, 2, 6)])
def test_a_paraphraser_is_three_convolutions_and_three_transposed_ones(channels, rate, factors):
    paraphraser = Paraphraser(channels, rate)
    x = maps(2, channels, 4, 3)
    factor = paraphraser.encoder(x)
    assert factor.shape == (2, factors, 4, 3)
    assert paraphraser(x).shape == x.shape
    for image, expected in zip(x.double().numpy(), factor.detach().numpy(), strict=True):
        found = oracles.stack(image, paraphraser.encoder)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    kinds = [type(layer) for layer in paraphraser.decoder]
    assert kinds == [nn.ConvTranspose2d, nn.LeakyReLU] * 3


def test_a_paraphraser_follows_its_seed_and_leaves_the_global_one():
    before = torch.get_rng_state()
    assert state(Paraphraser(4)) == state(Paraphraser(4)) != state(Paraphraser(4, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    for wrong, said in (((0,), "channels to be a whole number"), ((4, 0.1), "rate that leaves")):
        with pytest.raises(ValueError, match=said):
            Paraphraser(*wrong)


def test_FT_is_the_distance_of_translator_and_paraphraser():
    term, (student, teacher) = built("FT")
    factors = [[oracles.stack(x, part) for x in side.double().numpy()]
               for side, part in ((student, term.translator),
                                  (teacher, term.paraphraser.encoder))]
    expected = oracles.factor_transfer(*factors)
    np.testing.assert_allclose(term.values(student, teacher).detach(), expected, rtol=1e-4)


def test_FT_trains_in_a_scheme_and_leaves_the_paraphraser(data):
    student, teacher = network(0), resnet()
    paraphraser = Paraphraser(16)
    term = FT("6", "layer3", paraphraser=paraphraser)
    first = state(paraphraser)
    scheme = kd.Distiller(student, teacher, CE() + 500 * term)
    history = kd.fit(scheme, data, RECIPE)
    assert math.isfinite(history["loss"][-1])
    assert state(term.paraphraser) == state(paraphraser) == first
    assert all(p.requires_grad for p in paraphraser.parameters())  # the copy is frozen


def test_the_key_of_FT_depends_on_the_paraphraser():
    make = lambda seed: FT("a", "b", paraphraser=Paraphraser(4, seed=seed))  # noqa: E731
    keys = [key_of(make(seed)) for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]


def test_FT_names_what_it_needs():
    for wrong in (None, nn.Conv2d(4, 2, 3), "trained"):
        with pytest.raises(ValueError, match="trained Paraphraser of the teacher's layer, got"):
            FT("a", "b", paraphraser=wrong)
    term = FT(paraphraser=Paraphraser(4))
    for teacher in (maps(2, 5, 3, 3), maps(2, 3, 3, 3)):
        with pytest.raises(ValueError, match=r"4 channels of the paraphraser, got \[2, [35], 3, 3"):
            term.build(maps(2, 4, 3, 3), teacher, 0)
    with pytest.raises(ValueError, match=r"one shape, got \[2, 4, 3, 3\] and \[2, 5, 3, 3\]"):
        factor_transfer(maps(2, 4, 3, 3), maps(2, 5, 3, 3))
    with pytest.raises(ValueError, match='variant "code" or "paper"'):
        FT(paraphraser=Paraphraser(4), variant="mean")


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_the_scale_of_a_factor_does_not_matter(variant):
    student, teacher = maps(2, 3, 4, 4), maps(2, 3, 4, 4, seed=1)
    expected = factor_transfer(student, teacher, variant)
    for scale in (1e-20, 1e15):
        torch.testing.assert_close(factor_transfer(scale * student, teacher, variant), expected)


# --- activation boundaries ----------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.5, 1.0, 3.0])
def test_only_the_side_of_the_teacher_counts(margin):
    """Written out for one neuron: distance to the margin on the teacher's side, squared."""
    for s, t in itertools.product((-4.0, -margin, -0.2, 0.0, 0.2, margin, 4.0), (-9.0, 0.0, 0.1)):
        side = 1 if t > 0 else -1
        expected = max(0.0, margin - side * s) ** 2
        found = activation_boundaries(torch.tensor([[s]]), torch.tensor([[t]]), margin)
        assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize(("ours", "theirs"), [((3, 4, 4), (5, 4, 4)), ((3, 6, 4), (2, 3, 5))])
def test_AB_is_the_loss_behind_its_connector(ours, theirs):
    student, teacher = maps(3, *ours), maps(3, *theirs, seed=1)
    term = AB("a", "b", margin=0.7)
    term.build(student, teacher, 0)
    term.eval()
    with torch.no_grad():
        term.connector[1].running_mean.copy_(torch.linspace(-1, 1, theirs[0]))
        term.connector[1].bias.fill_(0.3)
    moved = [oracles.on_one_grid(oracles.stack(s, term.connector), t)
             for s, t in zip(student.double().numpy(), teacher.double().numpy(), strict=True)]
    expected = oracles.activation_boundaries(*zip(*moved, strict=True), 0.7)
    np.testing.assert_allclose(term.values(student, teacher).detach(), expected, rtol=1e-4)


def test_AB_is_a_first_stage(data):
    """As the paper trains it: boundaries alone, then the labels alone, with the same student."""
    student, teacher = network(0), resnet()
    stage = kd.Distiller(student, teacher, 3e-3 * AB("5:input", "layer3.0.relu:input")
                         + 1.5e-3 * AB("3:input", "layer2.0.relu:input"))
    kd.fit(stage, data, RECIPE)
    assert student is stage.student
    history = kd.fit(kd.Supervised(student), data, RECIPE)
    assert math.isfinite(history["loss"][-1])


def test_AB_refuses_other_margins_and_what_is_no_map():
    for margin in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="margin above 0"):
            AB(margin=margin)
        with pytest.raises(ValueError, match="margin above 0"):
            activation_boundaries(maps(2, 3), maps(2, 3), margin)
    with pytest.raises(ValueError, match=r"student features of shape \[B, C, H, W\], got \[2, 3\]"):
        AB().build(maps(2, 3), maps(2, 3, 2, 2), 0)
