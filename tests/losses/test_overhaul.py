"""Overhaul distillation: what is special about it."""

import numpy as np
import pytest
import torch
import torchvision
from helpers import oracles_feature as oracles
from helpers.trained import built, maps
from torch import nn

import kdcourse as kd
from kdcourse.losses import OFD, margins, overhaul


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
            *(kd.Output(x[:, 0, 0], {path: x}) for path in "ab"))
    with pytest.raises(ValueError, match="features of one batch"):
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
