"""Centred kernel alignment: against loops over pairs and quadruples of samples, and its laws."""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import network, restless, state
from torch import nn
from torchvision.transforms import v2

import kdcourse as kd
from kdcourse import measure


def features(N, *shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(N, *shape)))


def gram(x):
    x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    return [[sum(a * b for a, b in zip(one, other, strict=True)) for other in x] for one in x]


def hsic_loop(K, L):
    """Gretton et al. 2005: the sum over all pairs of the doubly centred entries."""
    N = range(len(K))

    def centred(M, i, j):
        return (M[i][j] - np.mean([M[i][q] for q in N]) - np.mean([M[q][j] for q in N])
                + np.mean([M[q][r] for q in N for r in N]))

    return sum(centred(K, i, j) * centred(L, i, j) for i in N for j in N)


def hsic_quadruples(K, L):
    """Song et al. 2012: the mean over all quadruples of different samples, a U-statistic."""
    terms = [K[i][j] * (L[i][j] + L[q][r] - 2 * L[i][q])
             for i, j, q, r in itertools.permutations(range(len(K)), 4)]
    return np.mean(terms)


@pytest.mark.parametrize(("debiased", "hsic"), [(False, hsic_loop), (True, hsic_quadruples)])
@pytest.mark.parametrize("shapes", [((3,), (4,)), ((3,), (20,)), ((20,), (30,)),
                                    ((2, 3, 3), (5,))])
def test_cka_is_that_of_a_loop(debiased, hsic, shapes):
    a, b = features(8, *shapes[0]) + 3, features(8, *shapes[1], seed=1)
    b.view(8, -1)[:, 0] += a.view(8, -1)[:, 0]  # something in common
    K, L = gram(a), gram(b)
    expected = hsic(K, L) / math.sqrt(hsic(K, K) * hsic(L, L))
    assert measure.cka(a, b, debiased) == pytest.approx(expected, rel=1e-9)


laws = pytest.mark.parametrize("debiased", [False, True])
sizes = pytest.mark.parametrize(("D", "E"), [(5, 8), (60, 5), (60, 90)])


@laws
@sizes
def test_laws_of_cka(debiased, D, E):
    a, b = features(40, D), features(40, E, seed=1)
    b[:, :3] += 2 * a[:, :3]
    found = measure.cka(a, b, debiased)
    assert 0.01 < found < 0.99
    assert measure.cka(a, a, debiased) == pytest.approx(1)
    assert measure.cka(b, a, debiased) == pytest.approx(found)  # symmetric
    rotation = torch.linalg.qr(features(D, D, seed=2)).Q
    assert measure.cka(a @ rotation, b, debiased) == pytest.approx(found)
    assert measure.cka(-1e-7 * a, 1e9 * b, debiased) == pytest.approx(found)
    assert measure.cka(a + features(D, seed=3), b, debiased) == pytest.approx(found)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert measure.cka(a[order], b[order], debiased) == pytest.approx(found)
    assert measure.cka(a[order], b, debiased) != pytest.approx(found, abs=1e-3)
    stretched = a * torch.linspace(0.1, 3, D, dtype=a.dtype)  # linear, but no rotation
    assert measure.cka(stretched, b, debiased) != pytest.approx(found, abs=1e-3)
    assert measure.cka(a.float(), b.float(), debiased) == pytest.approx(found, rel=1e-5)


def test_scales_that_would_overflow():
    a, b = features(20, 5), features(20, 7, seed=1)
    found = measure.cka(a, b)
    assert measure.cka(1e100 * a, 1e-100 * b) == pytest.approx(found)


def test_unrelated_features_look_alike_only_when_biased():
    pairs = [(features(30, 300, seed=s), features(30, 300, seed=1000 + s)) for s in range(40)]
    biased = [measure.cka(a, b) for a, b in pairs]
    unbiased = [measure.cka(a, b, debiased=True) for a, b in pairs]
    assert np.mean(biased) > 0.8
    error = np.std(unbiased) / math.sqrt(len(pairs))
    assert abs(np.mean(unbiased)) < 4 * error
    assert error < 0.02
    assert min(unbiased) < 0  # that is what unbiased means


@laws
def test_features_that_say_nothing(debiased):
    a = features(10, 4)
    for constant in (torch.zeros(10, 3), torch.full((10, 3), 0.1), torch.ones(10, 50).half(),
                     0.1 + 1e-8 * torch.rand(10, 3)):
        assert math.isnan(measure.cka(a, constant, debiased))
        assert math.isnan(measure.cka(constant, constant, debiased))
    for value in (math.nan, math.inf):
        broken = features(10, 30)
        broken[3, 4] = value
        assert math.isnan(measure.cka(a, broken, debiased))
    assert not math.isnan(measure.cka(a, 1000 + 0.01 * torch.rand(10, 3), debiased))


def test_features_that_cannot_be_compared():
    with pytest.raises(ValueError, match="same samples, got 5 and 6 of them"):
        measure.cka(features(5, 3), features(6, 3))
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        measure.cka(features(1, 3), features(1, 3))
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        measure.cka(features(3, 3), features(3, 3), debiased=True)
    assert 0 <= measure.cka(features(4, 3), torch.arange(4)) <= 1  # one number per sample


# --- layers of networks -------------------------------------------------------------------------


def layers(model, paths, x):
    """What the modules return, by hooks of our own."""
    found, modules = {}, dict(model.named_modules())
    handles = [modules[path].register_forward_hook(
        lambda module, args, out, path=path: found.setdefault(path, out.detach().clone()))
        for path in paths]
    was = model.training
    model.eval()(x)
    model.train(was)
    for handle in handles:
        handle.remove()
    return [found[path] for path in paths]


@laws
def test_the_matrix_is_that_of_every_pair(data, debiased):
    model_a, model_b = network(0), restless()
    paths_a, paths_b = ["1", "3", "9"], ["0", "2"]
    x = data.test.x
    before = state(model_a), state(model_b)
    table = measure.cka_matrix(model_a, paths_a, model_b, paths_b, x, debiased=debiased)
    assert (state(model_a), state(model_b)) == before
    assert model_b.training
    assert table.shape == (3, 2)
    assert table.dtype == torch.float64
    for i, a in enumerate(layers(model_a, paths_a, x)):
        for j, b in enumerate(layers(model_b, paths_b, x)):
            assert float(table[i, j]) == pytest.approx(measure.cka(a, b, debiased), rel=1e-4)
    small = measure.cka_matrix(model_a, paths_a, model_b, paths_b, x, batch=7, debiased=debiased)
    torch.testing.assert_close(small, table, rtol=1e-4, atol=1e-6)


def test_a_network_with_itself(data):
    model, paths = network(), ["1", "3", "5"]
    table = measure.cka_matrix(model, paths, model, paths, data.test.x)
    torch.testing.assert_close(table.diag(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(table, table.T)
    assert (table[0, 1:] < 0.999).all()
    assert measure.cka_matrix(model, "1", model, "3", data.test.x).shape == (1, 1)


def test_a_live_teacher_sees_what_it_wants(data):
    inner, student = kd.models.convnet(width=8, size=24), network()
    live = kd.Live(inner, v2.Compose([v2.Resize(24, antialias=True), v2.Normalize([0.3], [0.2])]))
    table = measure.cka_matrix(live, ["3"], student, ["3"], data.test.x)
    (a,), (b,) = layers(inner, ["3"], live.transform(data.test.x)), layers(student, ["3"],
                                                                         data.test.x)
    assert float(table) == pytest.approx(measure.cka(a, b), rel=1e-4)
    other = measure.cka_matrix(inner, ["3"], student, ["3"], data.test.x)
    assert float(table) != pytest.approx(float(other), abs=1e-3)


def test_a_dead_layer_is_no_number_and_the_others_are(data):
    model = network()
    nn.init.zeros_(model[-1].weight)
    table = measure.cka_matrix(model, ["1", "9"], model, ["1", "9"], data.test.x)
    assert table.isnan().tolist() == [[False, True], [True, True]]


def test_taps_of_a_scheme_still_work_afterwards(data):
    scheme = kd.Distiller(network(0), network(1), kd.losses.CE() + kd.losses.Hint("1", "1"))
    measure.cka_matrix(scheme.student, ["1"], scheme.teacher, ["1"], data.test.x)
    history = kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36))
    assert len(history) == 1


def test_layers_that_are_not_there(data):
    with pytest.raises(ValueError, match="Expected the path of a module"):
        measure.cka_matrix(network(), ["layer9"], network(), ["1"], data.test.x)
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        measure.cka_matrix(network(), ["1"], network(), ["1"], data.test.x[:1])
