"""Letters and digits, drawn in many typefaces.

Shapes: N samples, C channels, H W height and width.
"""

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from kdcourse import _files
from kdcourse._random import generator
from kdcourse.data.dataset import Dataset, Split, with_digest

GLYPHS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# The text faces that every matplotlib from 3.8 on ships, byte for byte the same.
FACES = tuple(
    [f"DejaVu{family}{style}" for family in ("Sans", "SansMono")
     for style in ("", "-Bold", "-Oblique", "-BoldOblique")]
    + [f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")]
    + [f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")]
    + ["cmr10", "cmb10", "cmss10", "cmtt10"]
)


@functools.cache
def _atlas() -> tuple[torch.Tensor, str]:
    """Every glyph in every face, [faces, 36, 48, 48] in [0, 1], and the SHA-256 of it all."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    side, height = 48, 34  # the canvas, and how tall the capital H stands on it, in pixels
    atlas = np.zeros((len(FACES), len(GLYPHS), side, side), dtype=np.uint8)
    for i, face in enumerate(FACES):
        # The basic layout engine: the other one depends on a library that is not everywhere.
        font = functools.partial(ImageFont.truetype, str(folder / f"{face}.ttf"),
                                 layout_engine=ImageFont.Layout.BASIC)
        _, top, _, bottom = font(size=100).getbbox("H")
        scaled = font(size=round(100 * height / (bottom - top)))
        for j, glyph in enumerate(GLYPHS):
            left, top, right, bottom = scaled.getbbox(glyph)
            canvas = Image.new("L", (side, side))
            corner = ((side - left - right) / 2, (side - top - bottom) / 2)
            ImageDraw.Draw(canvas).text(corner, glyph, fill=255, font=scaled)
            atlas[i, j] = np.asarray(canvas)
    return torch.from_numpy(atlas).float() / 255, _files.digest(atlas.tobytes())


def _draw_glyphs(count: int, size: int, rng: torch.Generator) -> Split:
    atlas, _ = _atlas()

    def uniform(low, high, *shape):
        return torch.rand(count, *shape, generator=rng) * (high - low) + low

    y = torch.randperm(count, generator=rng) % len(GLYPHS)  # as balanced as the count allows
    face = torch.randint(len(FACES), (count,), generator=rng)
    angle, shear = uniform(-0.25, 0.25), uniform(-0.25, 0.25)  # radians; share of the height
    scale, shift = uniform(0.7, 1.0), uniform(-0.12, 0.12, 2) * 2  # grid units: the image is 2 wide
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # From a position in the image to one on the glyph: matrix @ (position - shift).
    matrix = torch.stack([cos, sin + shear * cos, -sin, cos - shear * sin], 1).view(count, 2, 2)
    grid_map = torch.cat([matrix, -matrix @ shift[:, :, None]], 2)
    ink, paper = uniform(0.5, 1.0), uniform(0.0, 0.4, 1, 4, 4)  # grey values
    noise = uniform(0.0, 0.15)
    x = torch.empty(count, 1, size, size)
    for part in torch.arange(count).split(2000):  # keeps the memory small
        grid = F.affine_grid(grid_map[part], (len(part), 1, size, size), align_corners=False)
        glyph = F.grid_sample(atlas[face[part], y[part]][:, None], grid, align_corners=False)
        ground = F.interpolate(paper[part], size=(size, size), mode="bicubic", align_corners=False)
        image = ground + (ink[part, None, None, None] - ground) * glyph
        image += noise[part, None, None, None] * torch.randn(image.shape, generator=rng)
        x[part] = (image.clamp(0, 1) * 255).round() / 255  # 8 bits, as in an image file
    return Split(x, y)


def glyphs(train: int = 4000, val: int = 2000, test: int = 4000, seed: int = 0, size: int = 28):
    """Draw 36 classes (0-9 and A-Z) in 20 typefaces. Nothing is downloaded.

    Each image [1, size, size] in [0, 1] is a glyph of a face that ships with matplotlib: turned by
    up to 0.25 rad, sheared by up to 0.25, scaled by 0.7 to 1, moved by up to 12 % of the width,
    on a cloudy background, with noise of up to 0.15. O and 0, I and 1, S and 5 look alike.

    The three splits are drawn from three different streams of `seed`: the same call gives the
    same images, another seed other ones. A longer split does not begin with a shorter one.

    Raises `ValueError` when a split is empty.

    >>> data = glyphs(train=100, val=50, test=50)
    >>> data.train.x.shape, len(data.classes)
    (torch.Size([100, 1, 28, 28]), 36)
    """
    counts = {"train": train, "val": val, "test": test}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"Expected at least one sample in {name}, got {count}.")
    splits = {name: _draw_glyphs(count, size, generator(seed, "glyphs", name))
              for name, count in counts.items()}
    params = {"name": "glyphs", **counts, "seed": seed, "size": size}
    return with_digest(Dataset(**splits, classes=tuple(GLYPHS), params=params))


def glyphs_fingerprint() -> str:
    """SHA-256 of the pictures that `glyphs` draws from: of font files and rasteriser."""
    return _atlas()[1]
