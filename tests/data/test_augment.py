"""Views: drawn again exactly as they were, whatever the batch, the order or the device."""

import math

import pytest
import torch
from torchvision.transforms.v2 import functional as vision

import kdcourse as kd
from kdcourse._key import key_of
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


# --- against torchvision, on images that are not square -----------------------------------------


def wide(height=12, width=20):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(2))


def affine(x, margin=24, angle=0.0, translate=(0, 0), scale=1.0):
    """torchvision's map of the image whose edge is repeated outside of it."""
    padded = vision.pad(x, [margin] * 4, padding_mode="edge")
    moved = vision.affine(padded, angle=angle, translate=list(translate), scale=scale,
                          shear=[0.0, 0.0], interpolation=vision.InterpolationMode.BILINEAR)
    return moved[..., margin:-margin, margin:-margin]


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (13, 9), (8, 8)])
@pytest.mark.parametrize(("augment", "numbers", "expected"), [
    ({"degrees": 30}, {"angle": 1.0}, lambda x: affine(x, angle=-30)),
    ({"degrees": 30}, {"angle": -0.5}, lambda x: affine(x, angle=15)),
    ({"rotate": math.pi / 2}, {"angle": 1.0}, lambda x: affine(x, angle=-90)),
    ({"scale": (0.5, 2)}, {"size": 1.0}, lambda x: affine(x, scale=2)),
    ({"scale": (0.5, 2)}, {"size": -1.0}, lambda x: affine(x, scale=0.5)),
    ({"scale": 0.2}, {"size": 0.5}, lambda x: affine(x, scale=1.1)),
    ({"degrees": 20, "scale": (0.8, 1.2)}, {"angle": 0.5, "size": 1.0},
     lambda x: affine(x, angle=-10, scale=1.2)),
    ({"flip": 0.5}, {"flip": -0.01}, vision.horizontal_flip),
    ({"degrees": 20, "flip": True}, {"angle": 0.5, "flip": -1.0},
     lambda x: vision.horizontal_flip(affine(x, angle=-10))),
    ({"shift": 0.25}, {"dx": 1.0, "dy": -1.0},
     lambda x: affine(x, translate=(-x.shape[3] / 4, x.shape[2] / 4))),
])
def test_the_affine_map_is_that_of_torchvision(shape, augment, numbers, expected):
    x = wide(*shape)
    torch.testing.assert_close(Augment(**augment)(x, drawn(**numbers)), expected(x), rtol=1e-4,
                               atol=1e-4)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (32, 32)])
@pytest.mark.parametrize(("pixels", "flip"), [(4, 0), (4, 0.5), (1, 1), (2, 0)])
def test_the_standard_crop_is_a_window_of_the_padded_image(shape, pixels, flip):
    """Every draw is exactly one of torchvision's crops, and all of them occur equally often."""
    places = 2 * pixels + 1
    x, rng = wide(*shape), torch.Generator().manual_seed(0)
    padded = vision.pad(x, [pixels] * 4)
    windows = {}
    for top in range(places):
        for left in range(places):
            one = vision.crop(padded, top, left, *shape)
            for mirrored in {0: [0], 1: [1]}.get(flip, [0, 1]):
                windows[(vision.horizontal_flip(one) if mirrored else one).numpy().tobytes()] = 0
    N = 40 * len(windows)
    drawn_N7 = 2 * torch.rand(N, 7, generator=rng) - 1
    for view in Augment(crop=pixels, flip=flip)(x.expand(N, -1, -1, -1), drawn_N7):
        windows[view.numpy().tobytes()] += 1  # a KeyError where it is none of them
    counts = torch.tensor(list(windows.values())).float()
    expected = N / len(windows)
    chi2 = ((counts - expected).square() / expected).sum()
    assert chi2 < len(windows) - 1 + 5 * (2 * len(windows)) ** 0.5


def test_the_limits_of_a_crop_at_the_ends_of_the_draw():
    x = wide()
    for d, start in ((-1.0, 0), (1.0, 8)):
        expected = vision.crop(vision.pad(x, [4] * 4), start, start, 12, 20)
        assert torch.equal(Augment(crop=4)(x, drawn(dx=d, dy=d)), expected)


def test_a_crop_comes_before_what_else_is_done():
    x, numbers = wide(), {"dx": 0.3, "dy": -0.7, "angle": 0.4, "flip": -0.5, "size": 0.3}
    limits = {"degrees": 15, "scale": (0.9, 1.3), "flip": 0.5, "erase": 0.2}
    both = Augment(crop=3, **limits)(x, drawn(**numbers))
    cropped = Augment(crop=3)(x, drawn(**numbers))
    assert torch.equal(both, Augment(**limits)(cropped, drawn(**numbers)))


@pytest.mark.parametrize("flip", [0, 0.1, 0.5, True, 0.9, 1])
def test_flip_is_a_probability(flip):
    white = torch.zeros(4000, 1, 8, 8)
    white[..., 0] = 1
    data = kd.augmented(kd.data.from_arrays(white, torch.arange(4000) % 4), views=1, flip=flip)
    share = float((data.train.seen(torch.arange(3200), 1)[:, 0, 0, -1] > 0.5).float().mean())
    expected = 0.5 if flip is True else flip
    assert abs(share - expected) <= 4 * (expected * (1 - expected) / 3200) ** 0.5


def test_true_is_a_half_to_the_bit(data):
    places = torch.arange(50)
    one, other = (kd.augmented(data, views=2, shift=0.1, flip=flip).train for flip in (True, 0.5))
    assert torch.equal(one.seen(places, 1), other.seen(places, 1))


def test_degrees_are_radians_in_another_unit(data):
    places = torch.arange(50)
    one, other = (kd.augmented(data, views=2, **limit).train.seen(places, 1)
                  for limit in ({"degrees": 90}, {"rotate": math.pi / 2}))
    assert torch.equal(one, other)


def test_recorded_rows_of_augmented_data_keep_their_key(data):
    """The params, and so the key, of limits that there were before are what they were."""
    seen = kd.augmented(data, views=6, shift=0.1, rotate=0.2, scale=0.1, erase=0.35)
    assert seen.params["augment"] == {"shift": 0.1, "rotate": 0.2, "scale": 0.1, "flip": False,
                                      "erase": 0.35}
    cropped = kd.augmented(data, views=6, crop=4, flip=0.5)
    assert cropped.params["augment"]["crop"] == 4
    assert len({key_of(one).exact for one in (
        data, seen, cropped, kd.augmented(data, views=6, crop=3, flip=0.5))}) == 4


def test_augmentation_draws_from_nowhere_else(data):
    before = torch.get_rng_state()
    list(views(data).train.batches(16, 0, 0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("call", "message"), [
    (lambda data: kd.augmented(data, shift=1.0), "shift from 0 to below 1, got 1.0"),
    (lambda data: kd.augmented(data, scale=-0.1), "scale from 0 to below 1"),
    (lambda data: kd.augmented(data, rotate=-1), "rotate of at least 0 radians"),
    (lambda data: kd.augmented(data, shift=4), "shift from 0 to below 1, got 4.*crop=4"),
    (lambda data: kd.augmented(data, rotate=15), "radians, up to π, got 15.*write degrees=15"),
    (lambda data: kd.augmented(data, rotate=90.0), "radians, up to π, got 90.0"),
    (lambda data: kd.augmented(data, rotate=3), "radians, up to π, got 3.*degrees=3"),
    (lambda data: kd.augmented(data, degrees=200), "degrees from 0 to 180, got 200"),
    (lambda data: kd.augmented(data, degrees=(-5, 5)), "a number as degrees, got"),
    (lambda data: kd.augmented(data, rotate=0.1, degrees=5), "rotate or degrees, got both"),
    (lambda data: kd.augmented(data, scale=(1.2, 0.8)), r"pair \(smallest, largest\).*\(1.2, 0.8"),
    (lambda data: kd.augmented(data, scale=(0, 1)), r"factors above 0, got \(0, 1\)"),
    (lambda data: kd.augmented(data, scale=(1, 2, 3)), "pair"),
    (lambda data: kd.augmented(data, scale=(0.8, "b")), "a number as scale"),
    (lambda data: kd.augmented(data, scale=1.2), r"scale from 0 to below 1, got 1.2.*\(0.8, 1.2\)"),
    (lambda data: kd.augmented(data, flip=-0.1), "flip as a probability from 0 to 1, got -0.1"),
    (lambda data: kd.augmented(data, flip=2), "flip as a probability"),
    (lambda data: kd.augmented(data, flip="yes"), "a number as flip, got 'yes'"),
    (lambda data: kd.augmented(data, flip=math.nan), "flip as a probability"),
    (lambda data: kd.augmented(data, crop=0.125), "whole number of pixels .* got 0.125"),
    (lambda data: kd.augmented(data, crop=-1), "whole number of pixels"),
    (lambda data: kd.augmented(data, crop=True), "whole number of pixels"),
    (lambda data: kd.augmented(data, crop=4, shift=0.1), "shift or crop, got both"),
    (lambda data: kd.augmented(data, views=0), "at least 1 view"),
    (lambda data: kd.augmented(kd.data.from_arrays(torch.rand(90, 4), torch.arange(90) % 3)),
     r"images \[C, H, W\] to augment"),
])
def test_limits_that_cannot_be(data, call, message):
    with pytest.raises(ValueError, match=message):
        call(data)
