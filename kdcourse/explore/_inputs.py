"""Arguments of the cards: checked, and made small enough for a page.

Shapes: M networks, N images, K classes, C channels, H W height and width.
"""

import math
import numbers

import numpy as np

from ._page import png


def finite(x) -> bool:
    return isinstance(x, numbers.Real) and not isinstance(x, bool) and math.isfinite(x)


def expect(met, what: str, expected: str, got, advice: str) -> None:
    if not met:
        raise ValueError(f"{what}: expected {expected}, got {got}; {advice}")


def to_array(name: str, value) -> np.ndarray:
    """Make a float64 array of an array, a tensor on any device, or lists of them."""
    try:
        array = np.asarray(_without_torch(value), dtype=np.float64)
    except (TypeError, ValueError):
        expect(False, name, "an array of numbers", type(value).__name__,
               "pass a list, array or tensor")
    expect(np.isfinite(array).all(), name, "finite numbers", "NaN or infinity", "check the input")
    return array


def _without_torch(value):
    if hasattr(value, "detach"):  # a tensor of torch, which this folder does not import
        return value.detach().cpu().double().numpy()
    return [_without_torch(one) for one in value] if isinstance(value, (list, tuple)) else value


def samples(logits: dict, classes, images, labels, top, most: int = 16, unlabelled=False) -> tuple:
    """Check logits by name, [N, K] each, with what belongs to the same N images.

    Returns logits [M][N, K] in float64, class names, images as data addresses or None, labels (None
    where that is allowed), and a name for each image.
    """
    classes, z_MNK = [str(name) for name in classes], []
    for name, value in logits.items():
        z_NK = to_array(str(name), value)
        expect(z_NK.ndim == 2 and 1 <= len(z_NK) <= most and z_NK.shape[1] >= 2, name,
               f"[N, K] with 1 to {most} images and at least 2 classes", list(z_NK.shape),
               "pick a few rows, such as logits[:9]")
        expect(len(classes) == z_NK.shape[1], "classes",
               f"{z_NK.shape[1]} names, one for each column of {name}", len(classes),
               "pass the names in the order of the logits")
        z_MNK.append(z_NK)
        expect(len(z_NK) == len(z_MNK[0]), name,
               f"logits of {len(z_MNK[0])} images, as {next(iter(logits))}", len(z_NK),
               "pass all logits for the same images")
    N, K = z_MNK[0].shape
    if images is not None:
        x_NCHW = to_array("images", images)
        shape = list(x_NCHW.shape)
        expect(len(shape) == 4 and shape[0] == N and shape[1] in (1, 3) and 0 not in shape,
               "images", f"[{N}, 1, H, W] or [{N}, 3, H, W]", shape,
               "pass one image for each row of logits, channels first")
        expect(x_NCHW.min() >= 0 and x_NCHW.max() <= 1, "images", "values in [0, 1]",
               f"{x_NCHW.min():.3g} to {x_NCHW.max():.3g}", "pass them before normalisation")
        images = [png(x_CHW) for x_CHW in x_NCHW]
    names = [f"Image {i + 1}" for i in range(N)]
    if labels is not None or not unlabelled:
        y_N = to_array("labels", labels)
        expect(y_N.shape == (N,) and (y_N == np.rint(y_N)).all(), "labels",
               f"{N} whole numbers, one for each image",
               f"{y_N.ravel()[:3].tolist()}... of shape {list(y_N.shape)}", "pass class numbers")
        expect(((y_N >= 0) & (y_N < K)).all(), "labels", f"class numbers from 0 to {K - 1}",
               f"{y_N.min():.0f} to {y_N.max():.0f}", "number the classes from 0")
        labels = y_N.astype(int).tolist()
        names = [f"{name}, {classes[y]}" for name, y in zip(names, labels, strict=True)]
    expect(finite(top) and top >= 2, "top", "a number of at least 2", repr(top), "leave it out")
    return z_MNK, classes, images, labels, names


def nine_digits(z) -> list:
    """Round to nine digits, which tell any two float32 numbers apart."""
    return [nine_digits(row) if np.ndim(row) else float(f"{row:.9g}") for row in z]


def softmax(z_K, T: float = 1.0) -> np.ndarray:
    p_K = np.exp((z_K - z_K.max()) / T)
    return p_K / p_K.sum()
