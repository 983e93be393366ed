"""The hidden laws of assignment 1. `nox -s grade` reads this file; the references
are its own, in float64, from the formulas.

Each law asks for one thing and leaves the others out, so that a mistake costs its own points: a
factor cancels where a direction is asked for. Where a factor is asked for, the inputs have a
symmetry that leaves but one direction to any loss made of the two softmaxes (`two_sided`,
`pointed`), so that also there nobody gets points without the random inputs. What calls another
answer finds a right one in its place (`x["right"]`, a text).

The worker sends what the submission gave; ratios, signs and differences are formed by `read`.

Shapes: B batch, K classes.
"""

import functools
import inspect

import torch

from grader import Assignment, Law
from grader.parts import numbers, slopes_of, uniform, whole

# --- what stands in the place of a submission's own functions -------------------------------------


def soft_term(student, teacher, T):
    log_q, log_p = ((z / T).log_softmax(1) for z in (student, teacher.detach()))
    return T**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean()


def soft_gradient(student, teacher, T):
    return T * ((student / T).softmax(1) - (teacher / T).softmax(1)) / len(student)


# --- the references -------------------------------------------------------------------------------


def log_p(logits_BK, T):
    """Log-probabilities at temperature T."""
    z = logits_BK.double() / T
    z = z - z.amax(1, keepdim=True)
    return z - z.exp().sum(1, keepdim=True).log()


def kl(teacher_BK, student_BK, T=1.0):
    """KL(p || q) in nats: sum over classes, mean over samples."""
    p, q = log_p(teacher_BK, T), log_p(student_BK, T)
    return (p.exp() * (p - q)).sum(1).mean()


def pull(student_BK, teacher_BK, T=1.0):
    """q - p."""
    return log_p(student_BK, T).exp() - log_p(teacher_BK, T).exp()


def unit(array):
    return array / array.norm()


def along(found, reference):
    """With the sign of `reference`: the sign costs its points elsewhere."""
    return found if (found * reference).sum() > 0 else -found


with_slopes = functools.partial(Law, uses=(slopes_of,))


def logits(rng, B, K):
    return 2 * torch.randn(B, K, generator=rng)


def pair(rng):
    B, K = whole(rng, 4, 9), whole(rng, 5, 12)
    return {"s": logits(rng, B, K), "t": logits(rng, B, K), "T": uniform(rng, 2, 6)}


def two_sided(rng):
    """Two classes, and rows that are alike but for a constant and which class is on top.

    Any loss made of the two softmaxes has the same gradient in each row, but for the sign that the
    row has: its direction is known, whatever the formula, and its size is not.
    """
    B, T = whole(rng, 6, 10), uniform(rng, 2, 6)
    sides = torch.randint(2, (B, 1), generator=rng) * 2.0 - 1
    s, t = (size * sides * torch.tensor([0.5, -0.5]) + 3 * torch.randn(B, 1, generator=rng)
            for size in (uniform(rng, 1.5, 3), -uniform(rng, 1.5, 3)))
    return {"s": s, "t": t, "T": T, "n": whole(rng, 2, 5), "s1": s / T, "t1": t / T}


# --- q1: log-probabilities ------------------------------------------------------------------------


def softened(given, x):
    return given.log_softened(x["z"].clone(), x["T"])


def softened_high(given, x):
    return given.log_softened(x["z"].clone(), x["T"])


def softened_far(given, x):
    return given.log_softened(x["z"].clone(), x["T"])


def draw_softened(rng):
    z = logits(rng, whole(rng, 2, 8), whole(rng, 3, 12))
    return {"z": z, "T": uniform(rng, 2, 6)}


def draw_high(rng):
    return {"z": uniform(rng, 500, 1500) + logits(rng, 4, 6), "T": 1.0}


def draw_far(rng):
    z = -200 - 600 * torch.rand(4, 6, generator=rng)
    z[torch.arange(4), torch.randint(6, (4,), generator=rng)] = 0
    # The constants: else the logits are the answer.
    return {"z": z + 20 - 40 * torch.rand(4, 1, generator=rng), "T": 1.0}


def expect_softened(x):
    return log_p(x["z"], x["T"])


# --- q2: the soft term ----------------------------------------------------------------------------


def direction(given, x):
    s = x["s"].clone().requires_grad_()
    return slopes_of(given.soft_term(s, x["t"].clone(), 1.0), s)[0]


def zero(given, x):
    return [[given.soft_term(s.clone(), t.clone(), 1.0) for s, t in pairs]
            for pairs in (x["apart"], x["same"])]


def squared(given, x):
    s, s1 = x["s"].clone().requires_grad_(), x["s1"].clone().requires_grad_()
    values = [given.soft_term(s, x["t"].clone(), x["T"]),
              given.soft_term(s1, x["t1"].clone(), 1.0)]
    return {"values": values, "slopes": slopes_of(values[0], s) + slopes_of(values[1], s1)}


def summed(given, x):
    return [given.soft_term(x["s"].clone(), x["t"].clone(), 1.0),
            given.soft_term(x["t"].clone(), x["t"].clone(), 1.0)]


def batched(given, x):
    found = []
    for n in (1, x["n"]):
        s = torch.cat([x["s"]] * n).requires_grad_()
        found += slopes_of(given.soft_term(s, torch.cat([x["t"]] * n), x["T"]), s)
    return found


def frozen(given, x):
    s, t = x["s"].clone().requires_grad_(), x["t"].clone().requires_grad_()
    return slopes_of(given.soft_term(s, t, x["T"]), s, t)


def extreme(given, x):
    values, slopes = [], []
    for one in x["s"]:
        s = one.clone().requires_grad_()
        loss = given.soft_term(s, one.flip(1), 1.0)
        slopes += slopes_of(loss, s)
        values.append(loss)
    return {"values": values, "slopes": slopes}


def read_zero(found, x):
    found = numbers(found)
    return found / found[0].sum()


def read_squared(found, x):
    values, (at_T, at_1) = numbers(found["values"]), map(numbers, found["slopes"])
    return {"value": values[0] / values[1],
            "slope": along(at_T, expect_squared(x)["slope"]) / at_1.norm()}


def read_summed(found, x):
    # Minus the value at agreement, so that a cross-entropy counts as well.
    same, apart = numbers(found[1]), numbers(found[0])
    return (apart - same).abs()


def read_batched(found, x):
    once, copies = map(numbers, found)
    return along(copies, expect_batched(x)) / once.norm()


def read_frozen(found, x):
    s, t = found[0].double(), found[1]
    t = torch.zeros_like(s) if t is None else t.double()
    return torch.stack([along(s, pull(x["s"], x["t"], x["T"])), t]) / s.norm()


def read_extreme(found, x):
    values, slopes = numbers(found["values"]), numbers(found["slopes"])
    return values / values.sum() + 0 * slopes.sum((1, 2))  # NaN where a gradient is not finite


def draw_agreement(rng):
    """Pairs with the same divergence in both directions, and pairs with none."""
    B, K = whole(rng, 4, 9), whole(rng, 5, 12)
    s = [logits(rng, B, K) for _ in range(3)]
    return {"apart": [[one, one.flip(1)] for one in s], "same": [[one, one] for one in s]}


def draw_one(rng):
    """A pair whose divergence is the same in both directions."""
    s = logits(rng, 1, whole(rng, 5, 12))
    return {"s": s, "t": s.flip(1)}


def draw_extreme(rng):
    """Logits in the hundreds; the teacher has them in the opposite order."""
    spread = torch.tensor([-1.0, -1 / 3, 1 / 3, 1.0])
    return {"s": [uniform(rng, 200, 500) * spread[torch.randperm(4, generator=rng)][None]
                  for _ in range(4)]}


def expect_direction(x):
    return unit(pull(x["s"], x["t"]))


def expect_zero(x):
    values = torch.stack([kl(t, s) for s, t in x["apart"]])
    return torch.stack([values, torch.zeros(3)]) / values.sum()


def expect_squared(x):
    value, slope = kl(x["t"], x["s"], x["T"]), x["T"] * pull(x["s"], x["t"], x["T"])
    return {"value": x["T"] ** 2 * value / kl(x["t1"], x["s1"]),
            "slope": slope / pull(x["s1"], x["t1"]).norm()}


def expect_batched(x):
    return torch.cat([unit(pull(x["s"], x["t"], x["T"])) / x["n"]] * x["n"])


def expect_frozen(x):
    g = unit(pull(x["s"], x["t"], x["T"]))
    return torch.stack([g, torch.zeros_like(g)])


def expect_extreme(x):
    values = torch.stack([kl(s.flip(1), s) for s in x["s"]])
    return values / values.sum()


# --- q3: the full loss ----------------------------------------------------------------------------


def draw_labelled(rng):
    x = pair(rng)
    B, K = x["s"].shape
    y = torch.randint(K, (B,), generator=rng)
    other = (y + 1 + torch.randint(K - 1, (B,), generator=rng)) % K
    return x | {"y": y, "other": other, "u": logits(rng, B, K), "alpha": uniform(rng, 0.1, 0.4),
                "right": inspect.getsource(soft_term)}


def draw_votes(rng):
    """Several labellings of the same two-sided samples. Any cross-entropy grows with the number of
    labels that are not on top, and with nothing else: its scale and its zero are left out.
    """
    x = two_sided(rng)
    top, B = x["s"].argmax(1), len(x["s"])
    flips = torch.randint(2, (6, B), generator=rng)
    flips[0], flips[1] = 0, 1
    return x | {"ys": (top + flips[torch.randperm(6, generator=rng)]) % 2,
                "t": logits(rng, B, 2), "u": logits(rng, B, 2),
                "right": inspect.getsource(soft_term)}


def hard_part(given, x):
    exec(x["right"], getattr(given.full_loss, "__globals__", {}))
    return [[given.full_loss(x["s"].clone(), x["t"].clone(), y.clone(), T, 0.5) for y in x["ys"]]
            for T in (x["T"], 1.0)]


def alpha_zero(given, x):
    exec(x["right"], getattr(given.full_loss, "__globals__", {}))
    return [[given.full_loss(x["s"].clone(), t.clone(), y.clone(), x["T"], 0.0) for y in x["ys"]]
            for t in (x["t"], x["u"])]


def shares(given, x):
    exec(x["right"], getattr(given.full_loss, "__globals__", {}))
    return [[given.full_loss(x["s"].clone(), x["t"].clone(), y.clone(), 1.0, alpha)
             for y in (x["y"], x["other"])] for alpha in (x["alpha"], 1 - x["alpha"])]


def soft_part(given, x):
    exec(x["right"], getattr(given.full_loss, "__globals__", {}))
    return [[given.full_loss(x["s"].clone(), t.clone(), x["y"].clone(), x["T"], alpha)
             for t in (x["t"], x["u"])] for alpha in (x["alpha"], 1 - x["alpha"])]


def read_hard_part(found, x):
    found = numbers(found)  # another labelling: the soft part stays and falls out
    return unit(found - found.mean(1, keepdim=True))


def read_alpha_zero(found, x):
    found = numbers(found)
    return unit(found - found.mean())


def read_moved(found, x):
    """What a change changes, for a pair of weights and its mirror image together."""
    found = numbers(found)
    return (found[:, 0] - found[:, 1]).sum()


def hard(x, y):
    return -log_p(x["s"], 1.0).gather(1, y[:, None]).mean()


def expect_votes(x):
    values = torch.stack([hard(x, y) for y in x["ys"]])
    return unit((values - values.mean()).repeat(2, 1))


def expect_soft(x):
    return x["T"] ** 2 * (kl(x["t"], x["s"], x["T"]) - kl(x["u"], x["s"], x["T"]))


# --- q4: the gradient by hand ---------------------------------------------------------------------


def slope(given, x):
    return given.soft_gradient(x["s"].clone(), x["t"].clone(), 1.0)


def sign(given, x):
    return given.soft_gradient(x["s"].clone(), x["t"].clone(), x["T"])


def slope_of_T(given, x):
    return [given.soft_gradient(x["s"].clone(), x["t"].clone(), x["T"]),
            given.soft_gradient(x["s1"].clone(), x["t1"].clone(), 1.0)]


def slope_of_B(given, x):
    return [given.soft_gradient(torch.cat([x["s"]] * n), torch.cat([x["t"]] * n), x["T"])
            for n in (x["n"], 1)]


def by_hand(given, x):
    with torch.inference_mode():  # here nothing can be differentiated
        try:
            return given.soft_gradient(x["s"].clone(), x["t"].clone(), x["T"])
        except NotImplementedError:  # a RuntimeError, too
            raise
        except RuntimeError:
            return "autograd"


def norms(given, x):
    exec(x["right"], getattr(given.norms_without_T2, "__globals__", {}))
    return given.norms_without_T2(x["s"].clone(), x["t"].clone(), x["Ts"])


def read_slope(found, x):
    return numbers(found).abs()


def read_sign(found, x):
    return numbers(found).sign()


def read_slope_of_T(found, x):
    at_T, at_1 = map(numbers, found)
    return along(at_T, expect_slope_of_T(x)) / at_1.norm()


def read_slope_of_B(found, x):
    copies, once = map(numbers, found)
    return along(copies, expect_batched(x)) / once.norm()


def read_by_hand(found, x):
    return unit(along(numbers(found), pull(x["s"], x["t"], x["T"])))


def read_norms(found, x):
    return numbers(found)


def expect_slope_of_T(x):
    return x["T"] * pull(x["s"], x["t"], x["T"]) / pull(x["s1"], x["t1"]).norm()


def expect_by_hand(x):
    return unit(pull(x["s"], x["t"], x["T"]))


def expect_norms(x):
    return torch.stack([pull(x["s"], x["t"], T).norm() / T / len(x["s"]) for T in x["Ts"]])


def pointed(rng):
    """Student and teacher have one class each on top, by as much, and two constants besides: the
    difference of their log-probabilities has the direction of that of their probabilities.
    """
    B, K, T, size = whole(rng, 4, 9), whole(rng, 5, 12), uniform(rng, 2, 6), uniform(rng, 1, 4)
    tops = torch.stack([torch.randperm(K, generator=rng)[:2] for _ in range(B)])
    s, t = (size * torch.nn.functional.one_hot(top, K) + torch.randn(B, 1, generator=rng)
            for top in tops.T)
    return {"s": s, "t": t, "T": T, "n": whole(rng, 2, 5), "s1": s / T, "t1": t / T}


def draw_apart(rng):
    """A teacher that is sure, a student that knows nothing: no sign is in doubt."""
    B = whole(rng, 3, 6)
    peaked = torch.tensor([4.0, 0.0, -1.0, -2.0])
    order = torch.stack([torch.randperm(4, generator=rng) for _ in range(B)])
    return {"s": torch.zeros(B, 4), "t": peaked[order], "T": uniform(rng, 1, 2)}


def draw_single(rng):
    K = whole(rng, 5, 12)
    return {"s": logits(rng, 1, K), "t": logits(rng, 1, K)}


def draw_norms(rng):
    return pair(rng) | {"Ts": [1.0, uniform(rng, 1.5, 3), uniform(rng, 4, 12)],
                        "right": inspect.getsource(soft_gradient)}


# --- q5: weights of others ------------------------------------------------------------------------


def without_squared(given, x):
    w, T, K = x["w"], x["T"], x["K"]
    return [[given.their_weight(w, T, K, has, sums) for has in (False, True)]
            for sums in (True, False)]


def class_mean(given, x):
    w, T, K = x["w"], x["T"], x["K"]
    return [[given.their_weight(w, T, K, has, sums) for sums in (False, True)]
            for has in (False, True)]


def read_without_squared(found, x):
    found = numbers(found)
    return found[:, 0] / found[:, 1]


def read_class_mean(found, x):
    found = numbers(found)
    return {"ratios": found[:, 0] / found[:, 1], "ours": found[1, 1]}


def draw_weights(rng):
    return {"w": uniform(rng, 0.1, 1), "T": uniform(rng, 1.5, 8), "K": whole(rng, 3, 100)}


Q1, Q2, Q3, Q4, Q5 = (("log_softened",), ("soft_term",), ("full_loss",),
                      ("soft_gradient",), ("their_weight",))

ASSIGNMENT = Assignment("1_loss", "Write the KD loss and defend T²", (
    Law("q1", 1, Q1, draw_softened, softened, expect_softened,
        "Expected the logarithm of the softmax of logits / T, one row per sample."),
    Law("q1", 1, Q1, draw_high, softened_high, expect_softened,
        "Expected numbers for logits near 1000, where e to their power is too large for a "
        "computer. Adding a constant to a row changes no probability."),
    Law("q1", 1, Q1, draw_far, softened_far, expect_softened,
        "Expected the right logarithm for classes with next to no probability: it is a plain "
        "number, although the probability itself is rounded to 0."),
    with_slopes("q2", 2, Q2, pair, direction, expect_direction,
        "Expected the gradient of KL(p || q), p the teacher's and q the student's probabilities. "
        "It has another direction when the two are swapped, or when a logarithm is missing.",
        read=lambda found, x: unit(numbers(found))),
    Law("q2", 1, Q2, draw_agreement, zero, expect_zero,
        "Expected 0 where student and teacher agree. Else a curve that falls to 0.7 says nothing.",
        read=read_zero),
    with_slopes("q2", 1, Q2, two_sided, squared, expect_squared,
        "Expected T² times the divergence of the softened answers, both sides at T. Else another "
        "temperature silently is another weight.", read=read_squared),
    Law("q2", 1, Q2, draw_one, summed, lambda x: kl(x["t"], x["s"]),
        "Expected the sum over the classes. A mean makes the term K times weaker, for K classes.",
        read=read_summed),
    with_slopes("q2", 1, Q2, two_sided, batched, expect_batched,
        "Expected the mean over the samples: the same batch twice has the same loss.",
        read=read_batched),
    with_slopes("q2", 1, Q2, two_sided, frozen, expect_frozen,
        "Expected no gradient for the teacher, who is not to learn here.", read=read_frozen),
    with_slopes("q2", 1, Q2, draw_extreme, extreme, expect_extreme,
        "Expected a finite value and gradient for logits in the hundreds, and a value that grows "
        "with them. A network in trouble has such logits, and there the loss must still pull.",
        read=read_extreme),
    Law("q3", 1, Q3, draw_votes, hard_part, expect_votes,
        "Expected the labels' part at temperature 1, whatever T is: else the student is trained "
        "for an answer that nobody asks it for.", read=read_hard_part),
    Law("q3", 1, Q3, draw_votes, alpha_zero, expect_votes,
        "Expected alpha to weigh the soft term: at alpha = 0 the teacher must not matter.",
        read=read_alpha_zero),
    Law("q3", 1, Q3, draw_labelled, shares, lambda x: hard(x, x["y"]) - hard(x, x["other"]),
        "Expected the labels' part, the mean cross-entropy of the student's logits, to count "
        "1 - alpha, so that the two weights add up to 1.", read=read_moved),
    Law("q3", 1, Q3, draw_labelled, soft_part, expect_soft,
        "Expected the soft part to be what soft_term gives at T, once, times its weight.",
        read=read_moved),
    Law("q4", 2, Q4, draw_single, slope, lambda x: pull(x["s"], x["t"]).abs(),
        "Expected the difference of the two sides' probabilities, for one sample at T = 1.",
        read=read_slope),
    Law("q4", 1, Q4, draw_apart, sign, lambda x: pull(x["s"], x["t"], x["T"]).sign(),
        "Expected the other sign: a gradient points uphill, and the optimiser steps against it.",
        read=read_sign),
    Law("q4", 1, Q4, pointed, slope_of_T, expect_slope_of_T,
        "Expected the factor that T² and the chain rule through logits / T leave together.",
        read=read_slope_of_T),
    Law("q4", 1, Q4, pointed, slope_of_B, expect_batched,
        "Expected each sample to count 1 / B, as the loss is a mean over the batch.",
        read=read_slope_of_B),
    Law("q4", 1, Q4, pointed, by_hand, expect_by_hand,
        "Expected a gradient by hand, without autograd.", read=read_by_hand),
    Law("q4", 1, ("norms_without_T2",), draw_norms, norms, expect_norms,
        "Expected the length of the whole gradient [B, K] at each temperature, of the term "
        "without T².", read=read_norms),
    Law("q5", 2, Q5, draw_weights, without_squared,
        lambda x: torch.tensor([x["T"] ** 2] * 2),
        "Expected the weight to carry what their term lacks: T².", read=read_without_squared),
    Law("q5", 1, Q5, draw_weights, class_mean,
        lambda x: {"ratios": torch.tensor([x["K"]] * 2), "ours": x["w"]},
        "Expected the weight to undo the mean over classes, and to stay as it is where their term "
        "is ours.", read=read_class_mean),
))
