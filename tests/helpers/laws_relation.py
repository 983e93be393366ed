"""The rows of losses on relations between samples."""

import torch

from helpers import oracles_relation as oracles
from helpers.laws import Law, each, randn
from kdcourse import losses


def same(teacher):
    return teacher.clone()


def widths(s=3, t=3):
    """An example maker: vectors of these widths."""
    return lambda B=5, seed=0: (randn(B, s, seed=seed + 1), randn(B, t, seed=seed + 2), None)


def maps(B=5, seed=0):
    """A map on one side, tokens on the other."""
    return randn(B, 2, 2, 2, seed=seed + 1), randn(B, 3, 2, seed=seed + 2), None


def contrast(B=5, seed=0):
    """Anchors [B, D], and on the other side [B, 4, D], of which the first is the positive."""
    s, t = randn(B, 3, seed=seed + 1), randn(B, 4, 3, seed=seed + 2)
    return s / s.norm(dim=-1, keepdim=True), t / t.norm(dim=-1, keepdim=True), None


def graphs(*shapes):
    """An example maker: features of both sides, and pairs of layers with these shapes."""
    def example(B=5, seed=0):
        return *[tuple(randn(B, *shape, seed=seed + 10 * side + i) for i, shape in
                       enumerate(shapes)) for side in (1, 2)], None
    return example


def rows_of(function, term, settings, least=2, exact=True):
    """Rows of a relation: in every setting, with equal and with different widths, with maps."""
    ours, loop = getattr(losses, function), getattr(oracles, function)
    examples = {"": widths(), "other width": widths(3, 2), "maps": maps}
    for number, setting in enumerate(settings):
        for name, example in examples.items():
            if number and name:  # the shapes have nothing to do with the variant
                continue
            yield Law(
                function,
                ", ".join(filter(None, [*(f"{k}={v}" for k, v in setting.items()), name])),
                call=lambda s, t, y, setting=setting: ours(s, t, **setting),
                oracle=lambda s, t, y, setting=setting: loop(s, t, **setting),
                term=lambda setting=setting: term(**setting),
                example=example, least=least, kind="features",
                equal=same if exact or setting["variant"] == "paper" else None)


ROWS = [
    *rows_of("rkd_distance", losses.RKDDistance, [{"variant": "paper"}, {"variant": "code"}]),
    *rows_of("rkd_angle", losses.RKDAngle, [{"variant": "paper"}, {"variant": "code"}], least=3),
    *rows_of("similarity_preserving", losses.SP, [{}]),
    *rows_of("correlation_congruence", losses.CC,
             [{}, {"gamma": 1.5, "order": 5}, {"kernel": "rbf"}, {"kernel": "bilinear"}]),
    # The code's 1e-7 moves its least value off the teacher; test_relation.py says how far.
    *rows_of("pkt", losses.PKT, [{"variant": "paper"}, {"variant": "code"}], exact=False),
    *rows_of("instance_graph", losses.IRG, [{}, {"vertices": False}, {"vertices": True}]),
    *[Law("instance_graph", name,
          call=lambda s, t, y: losses.instance_graph(s, t),
          oracle=lambda s, t, y: oracles.instance_graph(s, t), term=losses.IRG,
          example=example, least=2, kind="features", equal=lambda t: each(torch.clone, t))
      for name, example in (("a pair of layers", graphs((3,), (2, 2, 1), (2, 2, 1))),
                            ("two pairs", graphs((3,), (2,), (3,), (2, 1), (2,))))],
    *[Law("crd", f"temperature={T}, normalizer={Z}",
          call=lambda s, t, y, T=T, Z=Z: losses.crd(s, t[:, 0], t, 50, T, Z),
          values=lambda s, t, y, T=T, Z=Z: losses.crd(s, t[:, 0], t, 50, T, Z, "none"),
          oracle=lambda s, t, y, T=T, Z=Z: oracles.crd(s, t[:, 0], t, 50, T, Z or 1.0),
          term=lambda: losses.CRD(samples=6), projects=True,
          example=contrast, kind="features")
      for T, Z in ((0.5, None), (0.2, 60.0))],
]
