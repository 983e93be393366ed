"""The rows of losses on logits."""

import torch

from helpers import oracles
from helpers.laws import Law, logits, randn
from kdcourse import losses


def same(teacher):
    return teacher.clone()


def soft_labels(B=5, seed=0, K=7):
    return randn(B, K, seed=seed + 1, scale=2), None, randn(B, K, seed=seed + 3).softmax(1)


def two_vocabularies(more):
    """An example maker: a teacher with so many classes more."""
    return lambda B=5, seed=0: (randn(B, 7, seed=seed + 1, scale=2),
                                randn(B, 7 + more, seed=seed + 2, scale=2), torch.arange(B) % 7)


def numbers(B=5, seed=0, D=3):
    return randn(B, D, seed=seed + 1), None, randn(B, D, seed=seed + 2)


DDOF = {None: None, "paper": 0, "code": 1}  # by `standardize`: the variance over K - ddof

ROWS = [
    *[Law("kd", f"T={T}",
          call=lambda s, t, y, T=T: losses.kd(s, t, T),
          values=lambda s, t, y, T=T: losses.kd(s, t, T, "none"),
          oracle=lambda s, t, y, T=T: oracles.kd(s, t, T),
          term=lambda T=T: losses.KD(T),
          tempered=lambda T: lambda s, t, y: losses.kd(s, t, T),
          equal=same, classes=True)
      for T in (0.5, 4, 20.0)],
    Law("soft_cross_entropy", "",
        call=lambda s, t, y: losses.soft_cross_entropy(s, t, 3),
        values=lambda s, t, y: losses.soft_cross_entropy(s, t, 3, "none"),
        oracle=lambda s, t, y: oracles.soft_cross_entropy(s, t, 3),
        tempered=lambda T: lambda s, t, y: losses.soft_cross_entropy(s, t, T),
        classes=True),
    Law("cross_entropy", "",
        call=lambda s, t, y: losses.cross_entropy(s, y),
        values=lambda s, t, y: losses.cross_entropy(s, y, "none"),
        oracle=lambda s, t, y: oracles.cross_entropy(s, y),
        term=losses.CE, uses_teacher=False, classes=True),
    Law("cross_entropy", "soft labels",
        call=lambda s, t, y: losses.cross_entropy(s, y),
        values=lambda s, t, y: losses.cross_entropy(s, y, "none"),
        oracle=lambda s, t, y: oracles.cross_entropy(s, y),
        example=soft_labels, uses_teacher=False),
    Law("label_smoothing", "",
        call=lambda s, t, y: losses.label_smoothing(s, y, 0.2),
        values=lambda s, t, y: losses.label_smoothing(s, y, 0.2, "none"),
        oracle=lambda s, t, y: oracles.label_smoothing(s, y, 0.2),
        term=lambda: losses.LabelSmoothing(0.2), uses_teacher=False, classes=True, masked="inf"),
    Law("label_smoothing", "soft labels",
        call=lambda s, t, y: losses.label_smoothing(s, y, 0.2),
        values=lambda s, t, y: losses.label_smoothing(s, y, 0.2, "none"),
        oracle=lambda s, t, y: oracles.label_smoothing(s, y, 0.2),
        example=soft_labels, uses_teacher=False, masked="inf"),
    *[Law("reverse_kl", f"T={T}",
          call=lambda s, t, y, T=T: losses.reverse_kl(s, t, T),
          values=lambda s, t, y, T=T: losses.reverse_kl(s, t, T, "none"),
          oracle=lambda s, t, y, T=T: oracles.reverse_kl(s, t, T),
          term=lambda T=T: losses.ReverseKL(T),
          tempered=lambda T: lambda s, t, y: losses.reverse_kl(s, t, T),
          equal=same, classes=True)
      for T in (1, 4.0)],
    *[Law("jensen_shannon", f"beta={beta} T={T} {variant}",
          call=lambda s, t, y, a=(beta, T, variant): losses.jensen_shannon(s, t, *a),
          values=lambda s, t, y, a=(beta, T, variant): losses.jensen_shannon(s, t, *a, "none"),
          oracle=lambda s, t, y, a=(beta, T, variant): oracles.jensen_shannon(s, t, *a),
          term=lambda a=(beta, T, variant): losses.JS(*a),
          tempered=lambda T, beta=beta, variant=variant: (
              lambda s, t, y: losses.jensen_shannon(s, t, beta, T, variant)),
          equal=same, classes=True)
      for beta, T, variant in [(0.5, 1, "scaled"), (0.1, 4, "scaled"), (0.8, 2, "scaled"),
                               (0, 2, "scaled"), (1, 2, "scaled"), (1e-3, 1, "scaled"),
                               (0.999, 1, "scaled"), (0.5, 2, "paper"), (0.3, 1, "paper")]],
    *[Law(function.__name__, f"{setting}={share} T={T}",
          call=lambda s, t, y, f=function, a=(share, T): f(s, t, *a),
          values=lambda s, t, y, f=function, a=(share, T): f(s, t, *a, "none"),
          oracle=lambda s, t, y, f=oracle, a=(share, T): f(s, t, *a),
          term=lambda kind=kind, a=(share, T): kind(*a),
          tempered=lambda T, f=function, share=share: lambda s, t, y: f(s, t, share, T),
          equal=same, classes=True)
      for function, oracle, kind, setting, shares in [
          (losses.skew_kl, oracles.skew_kl, losses.SkewKL, "alpha", (0, 0.1, 0.6)),
          (losses.skew_reverse_kl, oracles.skew_reverse_kl, losses.SkewReverseKL, "alpha",
           (0, 0.1, 0.6)),
          (losses.symmetric_kl, oracles.symmetric_kl, losses.SymmetricKL, "beta", (0, 0.5, 0.9))]
      for share, T in zip(shares, (2, 1, 3), strict=True)],
    *[Law("uld", f"T={T}" if more == 0 else f"{more} more classes of the teacher",
          call=lambda s, t, y, T=T: losses.uld(s, t, T),
          values=lambda s, t, y, T=T: losses.uld(s, t, T, "none"),
          oracle=lambda s, t, y, T=T: oracles.uld(s, t, T),
          example=logits if more == 0 else two_vocabularies(more),
          term=lambda T=T: losses.ULD(T), equal=same, classes=more == 0,
          kind="logits" if more == 0 else "two vocabularies")
      for T, more in ((1, 0), (3.0, 0), (1, 3), (1, -2))],
    *[Law("total_variation", f"T={T}",
          call=lambda s, t, y, T=T: losses.total_variation(s, t, T),
          values=lambda s, t, y, T=T: losses.total_variation(s, t, T, "none"),
          oracle=lambda s, t, y, T=T: oracles.total_variation(s, t, T),
          term=lambda T=T: losses.TV(T), equal=same, classes=True)
      for T in (1, 3)],
    *[Law("dkd", f"alpha={alpha} beta={beta} T={T}",
          call=lambda s, t, y, a=(alpha, beta, T): losses.dkd(s, t, y, *a),
          values=lambda s, t, y, a=(alpha, beta, T): losses.dkd(s, t, y, *a, "none"),
          oracle=lambda s, t, y, a=(alpha, beta, T): oracles.dkd(s, t, y, *a),
          term=lambda a=(alpha, beta, T): losses.DKD(*a),
          tempered=lambda T, a=(alpha, beta): lambda s, t, y: losses.dkd(s, t, y, *a, T),
          equal=same, classes=True)
      for alpha, beta, T in [(1, 8, 4), (1, 0, 1), (0, 1, 1), (0.5, 2, 10)]],
    *[Law("dkd", f"alpha={alpha} beta={beta} T={T} standardize={how}",
          call=lambda s, t, y, a=(alpha, beta, T), h=how: losses.dkd(s, t, y, *a, standardize=h),
          values=lambda s, t, y, a=(alpha, beta, T), h=how: losses.dkd(s, t, y, *a, "none",
                                                                       standardize=h),
          oracle=lambda s, t, y, a=(alpha, beta, T), h=how: oracles.dkd(s, t, y, *a, DDOF[h]),
          term=lambda a=(alpha, beta, T), h=how: losses.DKD(*a, standardize=h),
          tempered=lambda T, a=(alpha, beta), h=how: (
              lambda s, t, y: losses.dkd(s, t, y, *a, T, standardize=h)),
          equal=lambda t: 3 * t + 1, classes=True, masked="no")
      for alpha, beta, T, how in [(9, 72, 2, "code"), (1, 2, 1, "paper")]],
    *[Law("mlkd", f"T={T} weights={weights} standardize={how}",
          call=lambda s, t, y, a=(T, *weights, how): losses.mlkd(s, t, *a),
          oracle=lambda s, t, y, a=(T, *weights, DDOF[how]): oracles.mlkd(s, t, *a),
          term=lambda a=(T, *weights), h=how: losses.MLKD(*a, standardize=h),
          equal=same, classes=True,
          masked="no" if how else "counts" if weights[2] else "adds 0")
      for T, weights, how in [((2, 3, 4, 5, 6), (1, 1, 1), None), ((4, 1), (1, 0, 0), None),
                              ((0.5,), (0, 2, 0), None), ((1, 3), (0, 0, 3), None),
                              ((2, 2, 3, 5, 6), (4.5, 1, 2), "code"),
                              ((3,), (1, 0.5, 0), "paper")]],
    *[Law("ctkd", f"T={T}",
          call=lambda s, t, y, T=T: losses.ctkd(s, t, torch.tensor(T)),
          values=lambda s, t, y, T=T: losses.ctkd(s, t, torch.tensor(T), reduction="none"),
          oracle=lambda s, t, y, T=T: oracles.kd(s, t, T),
          term=lambda: losses.CTKD(samples=5), projects=True,
          tempered=lambda T: lambda s, t, y: losses.ctkd(s, t, torch.tensor(T)),
          equal=same, classes=True)
      for T in (0.5, 4.0)],
    *[Law("nkd", f"gamma={gamma} T={T}",
          call=lambda s, t, y, a=(gamma, T): losses.nkd(s, t, y, *a),
          values=lambda s, t, y, a=(gamma, T): losses.nkd(s, t, y, *a, "none"),
          oracle=lambda s, t, y, a=(gamma, T): oracles.nkd(s, t, y, *a),
          term=lambda a=(gamma, T): losses.NKD(*a),
          tempered=(lambda T, gamma=gamma: lambda s, t, y: losses.nkd(s, t, y, gamma, T))
          if gamma else None,
          classes=True)
      for gamma, T in [(1.5, 1), (3.5, 3), (0, 1)]],
    *[Law("ofa", f"gamma={gamma} T={T} {variant}",
          call=lambda s, t, y, a=(gamma, T, variant): losses.ofa(s, t, y, *a),
          values=lambda s, t, y, a=(gamma, T, variant): losses.ofa(s, t, y, *a, "none"),
          oracle=lambda s, t, y, a=(gamma, T, variant): oracles.ofa(s, t, y, *a),
          term=lambda a=(gamma, T, variant): losses.OFA(*a), classes=True)
      for gamma, T, variant in [(1, 1, "code"), (1.5, 1, "code"), (0.5, 2, "code"),
                                (1, 1, "paper"), (1.5, 2, "paper")]],
    *[Law("logit_mse", variant,
          call=lambda s, t, y, v=variant: losses.logit_mse(s, t, v),
          values=lambda s, t, y, v=variant: losses.logit_mse(s, t, v, "none"),
          oracle=lambda s, t, y, v=variant: oracles.logit_mse(s, t, v),
          term=lambda v=variant: losses.LogitMSE(v), equal=same, classes=True, masked="no")
      for variant in ("half", "sum", "mean")],
    *[Law("logit_standardization", f"T={T} {variant}",
          call=lambda s, t, y, a=(T, variant): losses.logit_standardization(s, t, *a),
          values=lambda s, t, y, a=(T, variant): losses.logit_standardization(s, t, *a, "none"),
          oracle=lambda s, t, y, a=(T, variant): oracles.logit_standardization(s, t, *a),
          term=lambda a=(T, variant): losses.LogitStd(*a),
          tempered=lambda T, v=variant: lambda s, t, y: losses.logit_standardization(s, t, T, v),
          equal=equal, classes=True, masked="no")
      for T, variant, equal in [(2, "paper", lambda t: 3 * t + 1), (1, "paper", same),
                                (2, "code", same)]],
    *[Law("dist", f"beta={beta} gamma={gamma} T={T} {variant}",
          call=lambda s, t, y, a=(beta, gamma, T, variant): losses.dist(s, t, *a),
          oracle=lambda s, t, y, a=(beta, gamma, T, variant): oracles.dist(s, t, *a),
          term=lambda a=(beta, gamma, T, variant): losses.DIST(*a),
          equal=same if variant == "paper" else None,  # the code's 1e-8 leaves a little
          classes=True, least=2 if gamma else 1, masked="counts")
      for beta, gamma, T, variant in [(1, 1, 1, "paper"), (2, 0.5, 4, "paper"), (1, 1, 4, "code"),
                                      (1, 0, 1, "paper"), (0, 1, 1, "paper"), (2, 1, 1, "code")]],
    *[Law("hard_label", f"smoothing={smoothing}",
          call=lambda s, t, y, e=smoothing: losses.hard_label(s, t, e),
          values=lambda s, t, y, e=smoothing: losses.hard_label(s, t, e, "none"),
          oracle=lambda s, t, y, e=smoothing: oracles.hard_label(s, t, e),
          term=lambda e=smoothing: losses.HardLabel(e), classes=True,
          masked="inf" if smoothing else "adds 0")
      for smoothing in (0.0, 0.1)],
    *[Law("virtual_teacher", f"a={a} T={T} {variant}",
          call=lambda s, t, y, b=(a, T, variant): losses.virtual_teacher(s, y, *b),
          values=lambda s, t, y, b=(a, T, variant): losses.virtual_teacher(s, y, *b, "none"),
          oracle=lambda s, t, y, b=(a, T, variant): oracles.virtual_teacher(s, y, *b),
          term=lambda b=(a, T, variant): losses.TfKD(*b),
          tempered=(lambda T, a=a: lambda s, t, y: losses.virtual_teacher(s, y, a, T))
          if variant == "paper" else None,
          uses_teacher=False, classes=True, masked="inf")
      for a, T, variant in [(0.99, 20, "paper"), (0.9, 2, "paper"), (0.99, 20, "code")]],
    Law("squared_error", "",
        call=lambda s, t, y: losses.squared_error(s, y),
        values=lambda s, t, y: losses.squared_error(s, y, "none"),
        oracle=lambda s, t, y: oracles.squared_error(s, y),
        example=numbers, term=losses.SquaredError, uses_teacher=False, masked="no"),
]
