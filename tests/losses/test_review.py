"""Knowledge review: what is special about it."""

import numpy as np
import pytest
import torch
from helpers import oracles_feature as oracles
from helpers.trained import built, maps
from torch import nn

from kdcourse.losses import ReviewKD, review


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
    with pytest.raises(ValueError, match=r"and one batch, got \[\[3, 2, 5, 5\].*and \[\[3, 2"):
        review(s, t[:1])
    with pytest.raises(ValueError, match="levels and one batch, got"):
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
    with pytest.raises(ValueError, match="width to be a whole number of at least 1, got 0"):
        ReviewKD("a", "b", width=0)
    with pytest.raises(ValueError, match=r"levels and one batch, got \[\[2, 3, 4, 4\]\] and \[\[3"):
        ReviewKD("a", "b").build(maps(2, 3, 4, 4), maps(3, 3, 4, 4), 0)
    with pytest.raises(ValueError, match="tokens that fill a square grid"):
        ReviewKD("a", "b").build(maps(2, 7, 4), maps(2, 3, 4, 4), 0)
    assert repr(ReviewKD(["a", "b"], ["c", "d"], width=9)) == (
        "ReviewKD(['a', 'b'], ['c', 'd'], width=9)")
