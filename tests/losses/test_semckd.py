"""SemCKD. What every trained term keeps is in `test_trained.py`."""

import math

import numpy as np
import pytest
import torch
from conftest import network, state
from helpers import oracles_feature as oracles
from helpers.laws import each
from helpers.trained import maps

import kdcourse as kd
from kdcourse.losses import CE, SemCKD

STUDENTS = (maps(4, 3, 6, 4), maps(4, 4, 3, 3, seed=1))
TEACHERS = (maps(4, 2, 6, 6, seed=2), maps(4, 16, 5, seed=3), maps(4, 3, 2, 2, seed=4))


def embedded(vector, layers):
    """Two linear layers with ReLU between, then length 1, as loops."""
    first, _, second = layers
    for layer, last in ((first, False), (second, True)):
        weight, bias = layer.weight.double().tolist(), layer.bias.double().tolist()
        vector = [sum(w * a for w, a in zip(row, vector, strict=True)) + b
                  for row, b in zip(weight, bias, strict=True)]
        vector = vector if last else [max(0.0, a) for a in vector]
    return oracles.direction(vector)


@pytest.mark.parametrize("batch", [8, 13])
@pytest.mark.parametrize("B", [4, 3, 1])
def test_it_is_the_weighted_error_of_every_pair(batch, B):
    students, teachers = (each(lambda x: x[:B], side) for side in (STUDENTS, TEACHERS))
    term = SemCKD(["a", "b"], ["a", "b", "c"], batch=batch)
    term.build(students, teachers, 0)
    with torch.no_grad():
        for i, norm in enumerate(m for m in term.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.running_mean.copy_(0.3 * maps(len(norm.running_mean), seed=i))
            norm.bias.fill_(0.2)
    term.eval()
    sides = [[[oracles.grid(image, 0) if image.ndim == 2 else image for image in x.double().numpy()]
              for x in side] for side in (students, teachers)]

    def places(layer, b):
        row = [float((layer[b] * other).sum()) for other in layer]
        return row + [0.0] * (batch - len(row))

    expected, attention = [], []
    for b in range(B):
        queries, keys = ([embedded(places(layer, b), embedding)
                          for layer, embedding in zip(side, layers, strict=True)]
                         for side, layers in zip(sides, (term.queries, term.keys), strict=True))
        total = 0.0
        for i, s in enumerate(sides[0]):
            scores = [math.exp(sum(q * k for q, k in zip(queries[i], key, strict=True)))
                      for key in keys]
            attention.append([score / sum(scores) for score in scores])
            for j, t in enumerate(sides[1]):
                small, target = oracles.on_one_grid(s[b], t[b])
                made = oracles.stack(small, term.projectors[i * len(TEACHERS) + j])
                total += attention[-1][j] * np.mean((made - target) ** 2) / len(STUDENTS)
        expected.append(total)
    np.testing.assert_allclose(term.values(students, teachers).detach(), expected, rtol=1e-4)
    found = term.attention(students, teachers).detach()
    np.testing.assert_allclose(found.flatten(0, 1), attention, rtol=1e-4)


@pytest.mark.parametrize(("ours", "theirs"), [
    (["2", "4", "6"], ["layer1", "layer2", "layer3"]), (["4"], ["layer1", "layer2"]),
    ("6", "layer3")])
def test_it_trains_in_a_scheme(data, ours, theirs):
    teacher = kd.models.resnet(depth=8, width=4, stem_stride=2, size=12)
    before = state(teacher)
    scheme = kd.Distiller(network(), teacher, CE() + SemCKD(ours, theirs, batch=36))
    history = kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36))
    assert math.isfinite(history["loss"][-1])
    assert state(teacher) == before
    larger = kd.Distiller(network(), teacher, CE() + SemCKD(ours, theirs, batch=10))
    with pytest.raises(ValueError, match=r"SemCKD.*at most 10 samples, got 3\d\. Make the term"):
        kd.fit(larger, data, kd.Recipe(epochs=1, batch=36))


def test_what_does_not_fit_is_refused():
    for batch in (None, 7, 8.0, "64"):
        with pytest.raises(ValueError, match="the batch size, at least 8, got"):
            SemCKD("a", "b", batch=batch)
    term = SemCKD(batch=8)
    for wrong in ((), None, "layer1"):
        with pytest.raises(ValueError, match="student features of one layer or more"):
            term.build(wrong, TEACHERS, 0)
    for few in (TEACHERS[0][:3], TEACHERS[2][:1]):
        with pytest.raises(ValueError, match=r"one batch, got \[4, 3, 6, 4\] and \[[13], "):
            term.build(STUDENTS, (TEACHERS[0], few), 0)
