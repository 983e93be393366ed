"""Losses that use a classifier: class activation maps (CAT-KD), the teacher's (SimKD, SRRL).

The laws that hold for every loss are in `test_laws.py`, those of trained terms in
`test_trained.py`.
"""

import math

import numpy as np
import pytest
import torch
from conftest import network, state
from helpers import oracles_feature as oracles
from helpers.trained import built, linear, maps
from torch import nn

import kdcourse as kd
from kdcourse._key import key_of
from kdcourse.losses import (
    CATKD,
    CE,
    SRRL,
    SimKD,
    class_attention,
    class_maps,
    softmax_regression,
)

RECIPE = kd.Recipe(epochs=1, batch=36)


def resnet(seed=0, **more):
    return kd.models.resnet(depth=8, width=4, stem_stride=2, seed=seed, **more).eval()


def scrambled(term):
    """The term in eval mode, with weights and statistics away from where they started."""
    with torch.no_grad():
        for i, (name, x) in enumerate(term.state_dict().items()):
            if x.is_floating_point():
                noise = 0.2 * maps(*x.shape, seed=i)
                x.add_(noise.abs() if name.endswith("running_var") else noise)
    return term.eval()


# --- class activation maps ----------------------------------------------------------------------

NETWORKS = {  # a network, and the paths of its last map and its classifier
    "resnet": (resnet, "layer3", "fc"),
    "convnet": (lambda: network(0), "6", "9"),
    "no bias": (lambda: nn.Sequential(nn.Conv2d(1, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                      nn.Linear(5, 3, bias=False)), "0", "3"),
    "compiled, nested": (lambda: torch.compile(nn.Sequential(nn.Identity(), resnet())),
                         "1.layer3", "1.fc"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_class_maps_have_the_logits_as_mean(name):
    make, layer, classifier = NETWORKS[name]
    model, x = make().eval(), torch.rand(3, 1, 12, 12)
    before = state(model)
    converted = class_maps(model, layer, classifier)
    plain = getattr(model, "_orig_mod", model)
    output = kd.taps(converted, ["head.maps"])(x)
    tapped = kd.taps(plain, [layer])(x)
    torch.testing.assert_close(output.logits, tapped.logits)
    linear = plain.get_submodule(classifier)
    expected = torch.einsum("kc,bchw->bkhw", linear.weight, tapped.taps[layer])
    torch.testing.assert_close(output.taps["head.maps"], expected)
    assert state(model) == before
    count = sum(p.numel() for p in plain.parameters())
    assert sum(p.numel() for p in converted.parameters()) == count
    shared = {p.data_ptr() for p in plain.parameters()}
    assert not shared & {p.data_ptr() for p in converted.parameters()}


def test_class_maps_name_what_they_need():
    for layer, classifier, said in (("layer9", "fc", "path of a module.*'layer9'"),
                                    ("layer3", "head", r"linear layer as classifier, got 'head'"),
                                    ("layer3", "layer3", "linear layer.*Sequential"),
                                    ("layer3", "", "linear layer as classifier, got ''")):
        with pytest.raises(ValueError, match=said):
            class_maps(resnet(), layer, classifier)


def test_CATKD_trains_converted_networks(data):
    student, teacher = (class_maps(net, *paths) for net, *paths in (
        (network(0), "6", "9"), (resnet(1, size=12, classes=data.test.y.unique().numel()),
                                 "layer3", "fc")))
    before, first = state(teacher), state(student)
    scheme = kd.Distiller(student, teacher, CE() + 40 * CATKD("head.maps", "head.maps"))
    history = kd.fit(scheme, data, RECIPE)
    assert math.isfinite(history["loss"][-1])
    assert state(teacher) == before and state(student) != first
    exported, x = kd.export(scheme), data.test.x[:5]
    torch.testing.assert_close(exported(x), student.eval()(x))
    assert kd.taps(exported, ["head.maps"])(x).taps["head.maps"].ndim == 4


def test_maps_of_other_classes_are_refused():
    for wrong in (maps(2, 4, 3, 3), maps(2, 6, 3, 3)):
        with pytest.raises(ValueError, match=r"as many classes, got \[2, 5, 3, 3\] and \[2, [46]"):
            class_attention(maps(2, 5, 3, 3), wrong)
    with pytest.raises(ValueError, match=r"student features of shape \[B, C, H, W\], got \[2, 5\]"):
        CATKD("fc", "fc").build(*[kd.Output(maps(2, 5), {"fc": maps(2, 5)})] * 2, 0)
    for grid in (0, 2.0, "2"):
        with pytest.raises(ValueError, match="grid to be a whole number of at least 1"):
            CATKD(grid=grid)


def test_CATKD_does_not_depend_on_the_scale_if_normalised():
    student, teacher = maps(3, 4, 5, 5), maps(3, 4, 5, 5, seed=1)
    expected = class_attention(student, teacher)
    for scale in (1e-20, 1e15):
        torch.testing.assert_close(class_attention(scale * student, teacher), expected)
    assert repr(CATKD("a", "b", grid=4)) == "CATKD('a', 'b', grid=4, normalize=True)"


# --- the teacher's classifier -------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), [((3, 5, 4), (6, 3, 6)), ((3, 2, 2), (4, 4, 4)),
                                              ((3, 3, 3), (5, 3, 3))])
def test_SimKD_is_the_error_behind_its_projector(ours, theirs):
    student, teacher = maps(2, *ours), maps(2, *theirs, seed=1)
    term = SimKD("a", "b")
    term.build(student, teacher, 0)
    scrambled(term)
    expected = []
    for s, t in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        s = oracles.stack(s, term.projector)
        s, t = oracles.on_one_grid(s, t)
        expected.append(np.mean([(a - b) ** 2 for a, b in zip(s.ravel(), t.ravel())]))
    np.testing.assert_allclose(term.values(student, teacher).detach(), expected, rtol=1e-5)


def test_SimKD_at_another_image_size():
    term, _ = built("SimKD")
    for size in (2, 7):
        assert torch.isfinite(term(maps(4, 3, size, size), maps(4, 6, size, size)))


def test_the_network_of_SimKD_is_student_projector_and_the_teachers_classifier(data):
    student, teacher = network(0), resnet(1, size=12)
    term = SimKD("6", "layer3")
    scheme = kd.Distiller(student, teacher, 1.0 * term)
    kd.fit(scheme, data, RECIPE)
    trained = term.network(kd.export(scheme), teacher.fc)
    x = data.test.x[:5]
    scheme.eval()
    features = kd.taps(scheme.student, ["6"])(x).taps["6"]
    expected = teacher.fc(term.projector(features).mean((2, 3)))
    torch.testing.assert_close(trained(x), expected)
    before = state(trained)
    with torch.no_grad():
        for part in (*term.parameters(), *teacher.fc.parameters(), *scheme.student.parameters()):
            part.add_(1)
    assert state(trained) == before  # nothing is shared
    with pytest.raises(ValueError, match="one before build"):
        SimKD("6", "layer3").network(student, teacher.fc)
    with pytest.raises(ValueError, match=r"classifier as a network.*got str"):
        term.network(student, "fc")
    with pytest.raises(ValueError, match=r"path of the student's map, got \[\]"):
        built("SimKD, no paths")[0].network(student, teacher.fc)


def test_SimKD_refuses_what_is_no_map_and_other_factors():
    with pytest.raises(ValueError, match=r"teacher features of shape \[B, C, H, W\], got \[4, 6\]"):
        SimKD().build(maps(4, 3, 2, 2), maps(4, 6), 0)
    for factor in (0, 0.5):
        with pytest.raises(ValueError, match="factor to be a whole number"):
            SimKD(factor=factor)
    with pytest.raises(ValueError, match=r"factor of at most 6.* got 7"):
        SimKD(factor=7).build(maps(4, 3, 2, 2), maps(4, 6, 2, 2), 0)


@pytest.mark.parametrize("ours", [(3, 6, 4), (5,), (3, 1, 1)])
@pytest.mark.parametrize("theirs", [(5, 3, 4), (5,)])
def test_SRRL_is_the_loss_behind_connector_and_classifier(ours, theirs):
    student, teacher, classifier = maps(3, *ours), maps(3, *theirs, seed=1), linear(5, 4)
    term = SRRL("a", "b", classifier=classifier, beta=0.3)
    term.build(student, teacher, 0)
    scrambled(term.connector)
    term.eval()
    means = []
    for x, layers in ((student, term.connector), (teacher, ())):
        images = x.double().numpy().reshape(*x.shape[:2], *(x.shape[2:] or (1, 1)))
        means.append([oracles.stack(image, layers).mean((1, 2)) for image in images])
    expected = oracles.softmax_regression(*means, classifier.weight.double().tolist(), 0.3)
    np.testing.assert_allclose(term.values(student, teacher).detach(), expected, rtol=1e-4)


def test_the_bias_of_the_classifier_cancels():
    """The second summand is the error of the logits, as the authors compute it."""
    s, t, classifier = maps(4, 5), maps(4, 5, seed=1), linear(5, 7)
    expected = (s - t).square().mean() + (classifier(s) - classifier(t)).square().mean()
    torch.testing.assert_close(softmax_regression(s, t, classifier.weight), expected)


def test_SRRL_trains_in_a_scheme_and_leaves_the_classifier(data):
    teacher = resnet(1, size=12)
    for paths in (("9:input", "fc:input"), ("6", "layer3")):
        term = SRRL(*paths, classifier=teacher.fc)
        scheme = kd.Distiller(network(0), teacher, CE() + 1.0 * term)
        history = kd.fit(scheme, data, RECIPE)
        assert math.isfinite(history["loss"][-1])
        assert torch.equal(term.weight, teacher.fc.weight)
        assert term.weight is not teacher.fc.weight and not term.weight.requires_grad


def test_the_key_of_SRRL_depends_on_the_classifier():
    terms = [SRRL("a", "b", classifier=linear(5, 4)) for _ in range(2)]
    terms.append(SRRL("a", "b", classifier=nn.Linear(5, 4)))
    keys = [key_of(term) for term in terms]
    assert keys[0] == keys[1] != keys[2]
    assert repr(terms[0]) == repr(terms[1]) != repr(terms[2])
    assert repr(terms[0]).startswith("SRRL('a', 'b', classifier=4 classes#")


def test_SRRL_names_what_it_needs():
    for wrong in (None, nn.Conv2d(5, 4, 1), "fc", torch.ones(4, 5)):
        with pytest.raises(ValueError, match=r"last layer \(nn.Linear\) as classifier, got"):
            SRRL("a", "b", classifier=wrong)
    for width in (4, 6):
        with pytest.raises(ValueError, match=rf"5 inputs of its classifier, got \[2, {width}, 1"):
            SRRL(classifier=linear(5, 4)).build(maps(2, 3), maps(2, width), 0)
    for weight in (torch.ones(5), torch.ones(4, 6), None):
        with pytest.raises(ValueError, match=r"weight of the teacher's classifier, \[K, 5\], got"):
            softmax_regression(maps(2, 5), maps(2, 5), weight)
    for beta in (-1, math.inf, math.nan):
        with pytest.raises(ValueError, match="a weight beta of 0 or more"):
            SRRL(classifier=linear(5, 4), beta=beta)
