"""The rows of losses on relations between samples."""

from helpers import oracles_relation as oracles
from helpers.laws import Law, randn
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
    *[Law("crd", f"temperature={T}, normalizer={Z}",
          call=lambda s, t, y, T=T, Z=Z: losses.crd(s, t[:, 0], t, 50, T, Z),
          values=lambda s, t, y, T=T, Z=Z: losses.crd(s, t[:, 0], t, 50, T, Z, "none"),
          oracle=lambda s, t, y, T=T, Z=Z: oracles.crd(s, t[:, 0], t, 50, T, Z or 1.0),
          term=lambda: losses.CRD(samples=6), projects=True,
          example=contrast, kind="features")
      for T, Z in ((0.5, None), (0.2, 60.0))],
]
