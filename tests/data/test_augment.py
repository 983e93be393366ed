"""Views: drawn again exactly as they were, whatever the batch, the order or the device."""

import math

import pytest
import torch

import kdcourse as kd
from kdcourse.data.augment import Augment


def views(data, **limits):
    return kd.augmented(data, **({"views": 3, "shift": 0.1, "rotate": 0.3, "scale": 0.2,
                                  "flip": True, "erase": 0.3} | limits))


def test_seed_view_and_index_reproduce_a_view(data):
    seen = views(data).train
    shown = {}
    for seed, size in ((0, 16), (5, 9)):  # other orders, other batches
        for epoch in range(6):
            for batch in seen.batches(size, seed, epoch):
                for index, x in zip(batch.index.tolist(), batch.x, strict=True):
                    key = (batch.view, index)
                    torch.testing.assert_close(shown.setdefault(key, x), x, rtol=0, atol=1e-6)
    assert {view for view, _ in shown} == {1, 2, 3}
    assert len(shown) == 3 * 144
    assert not torch.equal(shown[1, 0], shown[2, 0])
    again = views(data).train
    assert torch.equal(again.seen(torch.arange(8), 2), seen.seen(torch.arange(8), 2))
    assert not torch.equal(views(data, seed=1).train.seen(torch.arange(8), 2),
                           seen.seen(torch.arange(8), 2))


def test_ever_new_views(data):
    seen = views(data, views=None).train
    assert [next(seen.batches(16, 0, epoch)).view for epoch in range(5)] == [1, 2, 3, 4, 5]


def test_in_order_and_without_a_seed_the_samples_are_plain(data):
    seen = views(data)
    batch = next(seen.train.batches(16))
    assert batch.view == 0
    assert torch.equal(batch.x, data.train.x[:16])
    assert torch.equal(seen.val.x, data.val.x)
    assert torch.equal(seen.train.seen(torch.arange(4), 0), data.train.x[:4])


def test_labels_and_ids_stay_with_their_samples(data):
    for batch in views(data).train.batches(16, 3, 2):
        assert torch.equal(batch.y, data.train.y[batch.index])


def drawn(**numbers):
    names = ["dx", "dy", "angle", "size", "flip", "left", "top"]
    return torch.tensor([[numbers.get(name, 0.0) for name in names]])


def image(size=8):
    return torch.rand(1, 2, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("augment", "numbers", "expected"), [
    (Augment(shift=0.25), {"dx": 1.0}, lambda x: torch.cat([x[..., 2:], x[..., -1:], x[..., -1:]],
                                                           -1)),
    (Augment(shift=0.25), {"dy": -1.0}, lambda x: torch.cat([x[..., :1, :], x[..., :1, :],
                                                             x[..., :-2, :]], -2)),
    (Augment(rotate=math.pi / 2), {"angle": 1.0}, lambda x: torch.rot90(x, 1, (-2, -1))),
    (Augment(rotate=math.pi / 2), {"angle": -1.0}, lambda x: torch.rot90(x, -1, (-2, -1))),
    (Augment(flip=True), {"flip": -0.1}, lambda x: x.flip(-1)),
    (Augment(flip=True), {"flip": 0.1}, lambda x: x),
    (Augment(shift=0.2, rotate=1, scale=0.2), {}, lambda x: x),
])
def test_what_one_draw_does(augment, numbers, expected):
    torch.testing.assert_close(augment(image(), drawn(**numbers)), expected(image()),
                               rtol=1e-4, atol=1e-5)


def test_a_larger_scale_shows_a_smaller_part():
    x = torch.zeros(1, 1, 32, 32)
    x[..., 12:20, 12:20] = 1  # 64 places
    for size, area in ((1.0, 64 * 1.5**2), (-1.0, 64 * 0.5**2)):
        assert float(Augment(scale=0.5)(x, drawn(size=size)).sum()) == pytest.approx(area, rel=0.05)


@pytest.mark.parametrize(("left", "top", "corner"), [(-1, -1, (0, 0)), (1, -1, (0, 6)),
                                                     (-1, 1, (6, 0)), (1, 1, (6, 6))])
def test_what_is_erased_is_a_grey_square(left, top, corner):
    x = torch.ones(1, 1, 8, 8)
    shown = Augment(erase=0.25)(x, drawn(left=left, top=top))
    row, column = corner
    expected = x.clone()
    expected[..., row:row + 2, column:column + 2] = 0.5
    assert torch.equal(shown, expected)


def test_augmentation_draws_from_nowhere_else(data):
    before = torch.get_rng_state()
    list(views(data).train.batches(16, 0, 0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("call", "message"), [
    (lambda data: kd.augmented(data, shift=1.0), "shift from 0 to below 1, got 1.0"),
    (lambda data: kd.augmented(data, scale=-0.1), "scale from 0 to below 1"),
    (lambda data: kd.augmented(data, rotate=-1), "rotate of at least 0 radians"),
    (lambda data: kd.augmented(data, views=0), "at least 1 view"),
    (lambda data: kd.augmented(kd.data.from_arrays(torch.rand(90, 4), torch.arange(90) % 3)),
     r"images \[C, H, W\] to augment"),
])
def test_limits_that_cannot_be(data, call, message):
    with pytest.raises(ValueError, match=message):
        call(data)
