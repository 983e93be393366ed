"""The instance relationship graph. The laws of every loss are in `test_laws.py`."""

import math

import pytest
import torch
from conftest import network
from helpers.laws import randn

import kdcourse as kd
from kdcourse.losses import CE, IRG, instance_graph


def test_vertices_are_compared_where_the_shapes_agree():
    student, same, other = randn(4, 3), randn(4, 3, seed=1), randn(4, 5, seed=1)
    edges = instance_graph(student, same, vertices=False)
    vertices = (student - same).square().mean()
    for setting in (None, True):
        torch.testing.assert_close(instance_graph(student, same, setting), edges + vertices)
    assert instance_graph(student, other) == instance_graph(student, other, False)
    for wide in (other, randn(4, 2, 3)):
        with pytest.raises(ValueError, match=r"vertices of one shape, got \[4, 3\] .*\[4, [56]\]"):
            instance_graph(student, wide, vertices=True)


def test_edges_have_no_scale_and_no_origin():
    student, teacher = randn(5, 3), randn(5, 4, seed=1)
    expected = instance_graph(student, teacher)
    for scale, shift in ((1e-20, 0.0), (1e15, 0.0), (1.0, 300.0)):
        found = instance_graph(scale * student.float() + shift, teacher.float())
        torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-6)


def test_layers_come_in_pairs():
    x = randn(4, 3)
    for layers in (2, 4, 0):
        with pytest.raises(ValueError, match=f"student features, alone or with .* got {layers}"):
            instance_graph((x,) * layers, (x,) * 3)
    with pytest.raises(ValueError, match="as many layers of student and teacher, got 3 and 1"):
        instance_graph((x, x, x), x)
    with pytest.raises(ValueError, match="one path of the teacher, or that and pairs of layers"):
        IRG(["a", "b", "c"], ["a", "b"])
    for wrong in ("yes", 2):
        with pytest.raises(ValueError, match="vertices True, False or None"):
            IRG(vertices=wrong)


@pytest.mark.parametrize("make", [
    IRG, lambda: IRG("9:input", "fc:input"),
    lambda: IRG(["9:input", "4", "6"], ["fc:input", "layer2", "layer3"]),
    lambda: IRG(["9:input", "2", "4", "4", "6"],
                ["fc:input", "layer1", "layer2", "layer2", "layer3"], vertices=False)])
def test_it_trains_in_a_scheme(data, make):
    teacher = kd.models.resnet(depth=8, width=4, stem_stride=2, size=12)
    scheme = kd.Distiller(network(), teacher, CE() + 0.005 * make())
    history = kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36))
    assert math.isfinite(history["loss"][-1])


def test_the_repr_leaves_out_what_was_not_said():
    assert repr(IRG("a", "b")) == "IRG('a', 'b')"
    assert repr(IRG("a", "b", vertices=False)) == "IRG('a', 'b', vertices=False)"
