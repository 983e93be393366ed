"""Inter-channel correlation. The laws that hold for every loss are in `test_laws.py`."""

import math

import numpy as np
import pytest
import torch
from conftest import network, state
from helpers import oracles_feature as oracles
from helpers.trained import maps

import kdcourse as kd
from kdcourse.losses import CE, ICKD, channel_correlation


@pytest.mark.parametrize(("ours", "theirs"), [((3, 6, 4), (5, 3, 4)), ((4, 3, 3), (4, 3, 3)),
                                              ((6, 2, 2), (2, 5, 5))])
def test_ICKD_is_the_loss_behind_its_connector(ours, theirs):
    student, teacher = maps(3, *ours), maps(3, *theirs, seed=1)
    term = ICKD("a", "b")
    term.build(student, teacher, 0)
    term.eval()
    with torch.no_grad():
        term.connector[1].running_mean.copy_(torch.linspace(-1, 1, theirs[0]))
        term.connector[1].bias.fill_(0.3)
    moved = [oracles.stack(s, term.connector) for s in student.double().numpy()]
    expected = oracles.channel_correlation(moved, teacher.double().numpy())
    np.testing.assert_allclose(term.values(student, teacher).detach(), expected, rtol=1e-4)


def test_where_in_the_image_does_not_matter():
    student, teacher = maps(2, 3, 4, 4), maps(2, 3, 5, 2, seed=1)
    places = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    moved = student.flatten(2)[:, :, places].view_as(student)
    expected = channel_correlation(student, teacher)
    torch.testing.assert_close(channel_correlation(moved, teacher), expected)
    for scale in (1e-20, 1e15):
        torch.testing.assert_close(channel_correlation(scale * student, teacher), expected)


def test_it_trains_in_a_scheme(data):
    teacher = kd.models.vit(dim=8, depth=1, heads=2, patch=4, size=12)
    before = state(teacher)
    for paths in (("6", "1.blocks.0"), ("4", "1.blocks.0")):
        scheme = kd.Distiller(network(), teacher, CE() + 4 * ICKD(*paths))
        history = kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36))
        assert math.isfinite(history["loss"][-1])
    assert state(teacher) == before


def test_other_channels_are_refused_and_vectors():
    for width in (2, 4):
        with pytest.raises(ValueError, match=rf"many channels, got \[2, 3, 2, 2\].*\[2, {width}"):
            channel_correlation(maps(2, 3, 2, 2), maps(2, width, 2, 2))
    with pytest.raises(ValueError, match=r"teacher features of shape \[B, N, D\] or.*\[2, 3\]"):
        ICKD().build(maps(2, 3, 2, 2), maps(2, 3), 0)
