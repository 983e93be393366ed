"""The rows of losses on inner tensors."""

import torch

from helpers import oracles_feature as oracles
from helpers.laws import Law, each, randn
from kdcourse import losses


def pair(student=(2, 3, 3), teacher=None, scale=1.0):
    """An example of two tensors with these shapes of a sample."""
    def example(B=5, seed=0):
        return (randn(B, *student, seed=seed + 1, scale=scale),
                randn(B, *(teacher or student), seed=seed + 2, scale=scale), None)

    return example


def layers(student, teacher):
    """An example of two layers on each side."""
    def example(B=5, seed=0):
        sides = [tuple(randn(B, *shape, seed=seed + 2 * i + j) for j, shape in enumerate(side))
                 for i, side in enumerate((student, teacher))]
        return *sides, None

    return example


def levels(*shapes):
    """An example maker: a tuple of maps on both sides."""
    def example(B=5, seed=0):
        s, t = (tuple(randn(B, *shape, seed=seed + 10 * side + i) for i, shape in enumerate(shapes))
                for side in (1, 2))
        return s, t, None
    return example


def same(teacher):
    return each(torch.clone, teacher)


def row(function, setting, *arguments, oracle, **more):
    """A row of a loss that is called as function(student, teacher, *arguments, reduction)."""
    loss = getattr(losses, function)
    return Law(function, setting, kind="features",
               call=lambda s, t, y: loss(s, t, *arguments),
               values=lambda s, t, y: loss(s, t, *arguments, reduction="none"),
               oracle=lambda s, t, y: oracle(s, t, *arguments), **more)


def on_grids(oracle, extra):
    """An oracle that takes the student's tokens as a map, after `extra` tokens without a place."""
    def wrapped(s, t, *arguments):
        return oracle([oracles.grid(tokens, extra) for tokens in s], t, *arguments)

    return wrapped


VARIANCES = torch.tensor([0.3, 2.0], dtype=torch.float64)
WEIGHT = randn(3, 4, seed=9)
MARGIN = torch.tensor([-0.8, -0.1, 0.0], dtype=torch.float64)


def vid_oracle(channel=0):
    return lambda s, t, variances, variant="paper": oracles.vid(s, t, variances.tolist(), variant,
                                                                channel)


ROWS = [
    row("hint", "maps", "paper", oracle=oracles.hint, example=pair(), equal=same,
        term=lambda: losses.Hint(variant="paper"), projects=True),
    row("hint", "maps, mean", "mean", oracle=oracles.hint, example=pair(), equal=same,
        term=lambda: losses.Hint(projection=None, variant="mean")),
    row("hint", "maps, by a convolution, normalisation and ReLU", "mean", oracle=oracles.hint,
        example=pair(), term=lambda: losses.Hint(projection="code"), projects=True),
    row("hint", "tokens", "paper", oracle=oracles.hint, example=pair((5, 4)), equal=same,
        term=lambda: losses.Hint(projection=None, variant="paper")),
    row("hint", "vectors", "paper", oracle=oracles.hint, example=pair((4,)), equal=same),

    row("attention_transfer", "p=2", 2, "paper", oracle=oracles.attention_transfer, example=pair(),
        equal=same, term=lambda: losses.AT(variant="paper")),
    row("attention_transfer", "p=2, code", 2, "code", oracle=oracles.attention_transfer,
        example=pair(), equal=same, term=lambda: losses.AT(variant="code")),
    row("attention_transfer", "p=1", 1, "paper", oracle=oracles.attention_transfer, example=pair(),
        equal=same, term=lambda: losses.AT(p=1, variant="paper")),
    row("attention_transfer", "p=3, other channels and sizes", 3, "paper",
        oracle=oracles.attention_transfer, example=pair((2, 4, 3), (4, 3, 2)),
        term=lambda: losses.AT(p=3, variant="paper")),
    row("attention_transfer", "tokens and a map", 2, "code",
        oracle=on_grids(oracles.attention_transfer, 1), example=pair((10, 2), (4, 2, 2))),

    row("fsp", "", "paper", oracle=oracles.fsp, equal=same,
        term=lambda: losses.FSP(variant="paper"),
        example=layers([(2, 2, 2), (4, 2, 2)], [(2, 2, 2), (4, 2, 2)])),
    *[row("fsp", f"{variant}, other sizes", variant, oracle=oracles.fsp,
          term=lambda variant=variant: losses.FSP(variant=variant),
          example=layers([(2, 4, 3), (1, 2, 2)], [(2, 2, 2), (1, 3, 3)]))
      for variant in ("mean", "code")],

    *[row("nst", kernel, kernel, oracle=oracles.nst, example=pair(), equal=same,
          term=lambda kernel=kernel: losses.NST(kernel=kernel))
      for kernel in ("poly", "linear", "gaussian")],
    *[row("nst", f"{kernel}, other channels and sizes", kernel, oracle=oracles.nst,
          example=pair((2, 3, 2), (4, 2, 3)))
      for kernel in ("poly", "gaussian")],
    row("nst", "tokens and a map", "linear", oracle=on_grids(oracles.nst, 0),
        example=pair((4, 2), (2, 2, 2))),

    row("vid", "maps", VARIANCES, "paper", oracle=vid_oracle(), example=pair(),
        term=lambda: losses.VID(variant="paper"), projects=True),
    row("vid", "maps, mean", VARIANCES, "mean", oracle=vid_oracle(), example=pair()),
    row("vid", "tokens", VARIANCES, "paper", oracle=vid_oracle(channel=1), example=pair((5, 2))),
    row("vid", "vectors", VARIANCES, "paper", oracle=vid_oracle(), example=pair((2,))),

    Law("overhaul", "",
        call=lambda s, t, y: losses.overhaul(s, t, MARGIN),
        values=lambda s, t, y: losses.overhaul(s, t, MARGIN, "none"),
        oracle=lambda s, t, y: oracles.overhaul(s, t, MARGIN.tolist()),
        example=pair((3, 2, 3)), term=lambda: losses.OFD("a", "b", margin=MARGIN), kind="features",
        projects=True, equal=lambda t: torch.maximum(t, MARGIN.to(t)[:, None, None])),
    Law("review", "",
        call=lambda s, t, y: losses.review(s, t),
        values=lambda s, t, y: losses.review(s, t, "none"),
        oracle=lambda s, t, y: oracles.review(s, t),
        example=levels((2, 5, 6), (1, 3, 2), (3, 1, 1)),
        term=lambda: losses.ReviewKD(["a", "b"], ["a", "b"]), kind="features", projects=True,
        equal=same),
    Law("review", "one level",
        call=lambda s, t, y: losses.review(s, t),
        values=lambda s, t, y: losses.review(s, t, "none"),
        oracle=lambda s, t, y: oracles.review([s], [t]),
        example=pair((2, 4, 4)), kind="features", equal=same),

    row("class_attention", "normalised, other sizes", 2, True, oracle=oracles.class_attention,
        example=pair((3, 4, 5), (3, 5, 3)), term=losses.CATKD),
    row("class_attention", "as they are", 3, False, oracle=oracles.class_attention,
        example=pair((3, 4, 4)), equal=same, term=lambda: losses.CATKD(grid=3, normalize=False)),
    *[row("hint", f"of {name}", "mean", oracle=oracles.hint, example=pair(), equal=same,
          term=term, projects=True)
      for name, term in (("SimKD", losses.SimKD), ("SemCKD", lambda: losses.SemCKD(batch=8)))],

    row("factor_transfer", "code, other sizes", oracle=oracles.factor_transfer,
        example=pair((2, 4, 3), (2, 3, 5)), projects=True,
        term=lambda: losses.FT("a", "b", paraphraser=losses.Paraphraser(2))),
    row("factor_transfer", "paper", "paper", oracle=oracles.factor_transfer, example=pair(),
        equal=same),
    row("activation_boundaries", "maps", oracle=oracles.activation_boundaries, projects=True,
        example=pair(), equal=torch.sign, term=losses.AB),
    row("activation_boundaries", "vectors, margin 0.3", 0.3, example=pair((6,)),
        oracle=oracles.activation_boundaries),
    *[Law("hint", f"of {term.__name__}",  # both sum the squares
          call=lambda s, t, y: 2 * losses.hint(s, t, "paper"),
          values=lambda s, t, y: 2 * losses.hint(s, t, "paper", "none"),
          oracle=lambda s, t, y: 2 * oracles.hint(s, t), example=pair(), equal=same,
          term=term, projects=True, kind="features")
      for term in (losses.MGD, losses.ViTKD)],
    row("channel_correlation", "maps", oracle=oracles.channel_correlation, example=pair(),
        equal=same, term=losses.ICKD, projects=True),
    row("channel_correlation", "tokens and a map", example=pair((17, 3), (3, 2, 2)),
        oracle=on_grids(oracles.channel_correlation, 1)),
    *[row("softmax_regression", f"beta={beta}", WEIGHT, beta, equal=same, projects=True,
          oracle=lambda s, t, weight, beta: oracles.softmax_regression(s, t, weight.tolist(), beta),
          term=lambda: losses.SRRL(classifier=torch.nn.Linear(4, 3)), example=pair((4,)))
      for beta in (1.0, 0.3)],
]
