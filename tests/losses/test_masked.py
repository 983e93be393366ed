"""Losses behind random masks: MGD and ViTKD.

What every trained term keeps is in `test_trained.py`.
"""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import network, state
from helpers import oracles_feature as oracles
from helpers.trained import TRAINED, built, maps
from torch import nn

import kdcourse as kd
from kdcourse.losses import CE, MGD, ViTKD

RECIPE = kd.Recipe(epochs=1, batch=36)
MASKED = [name for name in TRAINED if name.startswith(("MGD", "ViTKD"))]
masked = pytest.mark.parametrize("name", MASKED)


def noise_of(monkeypatch, term):
    """Record the numbers that a term draws."""
    drawn, draw = [], term.noise
    monkeypatch.setattr(term, "noise", lambda *a: drawn.append(draw(*a)) or drawn[-1])
    return drawn


def squares(a, b):
    return sum((x - y) ** 2 for x, y in zip(np.ravel(a), np.ravel(b), strict=True))


# --- against loops ------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), [((3, 6, 4), (5, 3, 4)), ((4, 3, 3), (4, 3, 3)),
                                              ((2, 2, 2), (6, 4, 4))])
@pytest.mark.parametrize("mask", ["channel", "place"])
@pytest.mark.parametrize("share", [0.0, 0.15, 0.65])
def test_MGD_generates_the_teachers_map_from_a_part(monkeypatch, ours, theirs, mask, share):
    student, teacher = maps(3, *ours), maps(3, *theirs, seed=1)
    term = MGD("a", "b", share=share, mask=mask)
    term.build(student, teacher, 0)
    assert isinstance(term.align, nn.Identity) is (ours[0] == theirs[0])
    drawn, expected = noise_of(monkeypatch, term), []
    found = term.values(student, teacher)
    for s, t, u in zip(student.double().numpy(), teacher.double().numpy(), drawn[0].numpy(),
                       strict=True):
        s, t = oracles.on_one_grid(s, t)
        s = oracles.stack(s, [term.align])
        for c, h, w in np.ndindex(s.shape):
            if (u[c, 0, 0] if mask == "channel" else u[0, h, w]) < share:
                s[c, h, w] = 0
        expected.append(squares(oracles.stack(s, term.generate), t))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4)


@pytest.mark.parametrize(("ours", "theirs", "extra"), [(3, 5, 0), (4, 4, 1), (6, 2, 5)])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_ViTKD_mimics_the_first_blocks_and_generates_the_last(monkeypatch, ours, theirs, extra,
                                                              share):
    students = tuple(maps(2, 16 + extra, ours, seed=i) for i in range(3))
    teachers = tuple(maps(2, 16 + extra, theirs, seed=i) for i in range(3, 6))
    term = ViTKD(["a", "b", "c"], ["a", "b", "c"], alpha=0.7, beta=0.4, share=share)
    term.build(students, teachers, 0)
    with torch.no_grad():
        term.mask_token.copy_(torch.linspace(-1, 1, theirs))
    drawn, expected = noise_of(monkeypatch, term), []
    found = term.values(students, teachers)
    for b, u in enumerate(drawn[0].numpy()):
        sides = [[oracles.grid(x[b].double().numpy(), extra) for x in side]
                 for side in (students, teachers)]
        s = [oracles.stack(x, [align]) for x, align in zip(sides[0], term.align, strict=True)]
        low = squares(s[0], sides[1][0]) + squares(s[1], sides[1][1])
        hidden = np.argsort(u)[int(16 * (1 - share)):]
        for n in hidden:
            s[2][:, n // 4, n % 4] = term.mask_token.detach().numpy()
        made = oracles.stack(s[2], term.generate)
        high = sum(squares(made[:, n // 4, n % 4], sides[1][2][:, n // 4, n % 4]) for n in hidden)
        expected.append(0.7 * low + 0.4 / share * high)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4)


# --- masks --------------------------------------------------------------------------------------


@masked
def test_masks_follow_the_seed_and_the_step_and_nothing_global(monkeypatch, name):
    term, features = built(name)
    drawn = noise_of(monkeypatch, term)
    before = torch.get_rng_state()
    for _ in range(2):
        term(*features)
    other, _ = built(name, seed=1)
    again, _ = built(name)
    for fresh in (other, again):
        drawn.append(fresh.noise(drawn[0].shape, drawn[0]))
    with torch.no_grad():
        term(*features)
    term.eval()
    term(*features)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[0], drawn[3])
    assert torch.equal(drawn[4], drawn[5])  # outside of training it is always the same
    term.train()
    term(*features)
    assert not torch.equal(drawn[6], drawn[1])
    fresh = built(name)[0]
    steps = [fresh.noise(drawn[0].shape, drawn[0]) for _ in range(3)]
    assert torch.equal(drawn[6], steps[2])  # and none is used up there


@masked
def test_a_checkpoint_continues_the_masks(name):
    term, features = built(name)
    term(*features)
    again, _ = built(name, seed=5)
    again.load_state_dict(copy.deepcopy(term.state_dict()))
    for _ in range(2):
        assert torch.equal(again(*features), term(*features))


@pytest.mark.parametrize("share", [0.0, 0.15, 0.65])
def test_the_share_that_is_masked(monkeypatch, share):
    term = MGD(share=share, mask="place")
    x = maps(8, 2, 20, 20)
    term.build(x, x, 0)
    drawn = noise_of(monkeypatch, term)
    term(x, x)
    assert float((drawn[0] < share).double().mean()) == pytest.approx(share, abs=0.03)


def test_as_many_patches_of_each_sample_are_masked():
    term = ViTKD(share=0.3)
    layers = (maps(5, 16, 4), maps(5, 16, 4))
    term.build(layers, layers, 0)
    found = term._masked(torch.zeros(5, 4, 4, 4))
    assert found.sum((1, 2, 3)).tolist() == [16 - int(16 * 0.7)] * 5


# --- in a scheme --------------------------------------------------------------------------------


def vit(dim, seed):
    return kd.models.vit(dim=dim, depth=3, heads=2, patch=4, size=12, seed=seed)


VIT = ["1.blocks.0", "1.blocks.1", "1.norm"]


@pytest.mark.parametrize(("make", "student", "teacher"), [
    (lambda: 7e-5 * MGD("6", "6"), lambda: network(0), lambda: network(1, width=16)),
    (lambda: 2e-5 * MGD("6", "1.norm", mask="place", share=0.65), lambda: network(0),
     lambda: vit(16, 1)),
    (lambda: 1.0 * ViTKD(VIT, VIT), lambda: vit(8, 0), lambda: vit(16, 1)),
])
def test_it_trains_in_a_scheme(data, make, student, teacher):
    teacher = teacher()
    scheme = kd.Distiller(student(), teacher, CE() + make())
    before = state(teacher)
    scheme.build(next(data.train.batches(36)), 0)
    first = [p.detach().clone() for p in scheme.objective.parameters()]
    history = kd.fit(scheme, data, RECIPE)
    assert math.isfinite(history["loss"][-1])
    assert state(teacher) == before
    assert first and not any(map(torch.equal, first, scheme.objective.parameters()))


# --- refusals -----------------------------------------------------------------------------------


def test_settings_out_of_range_are_refused():
    for share in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="a share of 0 to below 1, got"):
            MGD(share=share)
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="a share above 0 and below 1, got"):
            ViTKD(share=share)
    with pytest.raises(ValueError, match='mask "channel" or "place", got'):
        MGD(mask="token")
    with pytest.raises(ValueError, match="a weight beta of 0 or more"):
        ViTKD(beta=-1)
    with pytest.raises(ValueError, match="as many paths of the teacher as of the student"):
        ViTKD(["a", "b"], ["a"])


def test_features_that_do_not_fit_are_refused():
    x = maps(2, 16, 4)
    with pytest.raises(ValueError, match=r"student features of two layers or more.*norm"):
        ViTKD().build(x, x, 0)
    with pytest.raises(ValueError, match="as many layers of student and teacher, got 3 and 2"):
        ViTKD().build((x, x, x), (x, x), 0)
    for wrong in (maps(2, 16), maps(2, 12, 4)):
        with pytest.raises(ValueError, match=r"Expected student .* got \[2, (16|12, 4)\]"):
            ViTKD().build((x, wrong), (x, x), 0)
    for other in (maps(2, 4), maps(2, 4, 3, 3)):
        with pytest.raises(ValueError, match=r"student features of shape \[B, N, D\] or.*\[2, 4\]"):
            MGD().build(maps(2, 4), other, 0)
