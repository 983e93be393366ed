"""The hidden laws of assignment 1. `python -m kdcourse.grading` reads this file; the references
are its own, in float64, from the formulas.

Each law asks for one thing and leaves the others out, so that a mistake costs its own points: a
factor cancels where a direction is asked for, and the other way round. What calls another answer
finds a right one in its place (`x["right"]`, a text).

Shapes: B batch, K classes.
"""

import inspect

import torch

from kdcourse.grading import Assignment, Law

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


def uniform(rng, low, high):
    return low + (high - low) * float(torch.rand((), generator=rng))


def whole(rng, low, high):
    return int(torch.randint(low, high + 1, (), generator=rng))


def logits(rng, B, K):
    return 2 * torch.randn(B, K, generator=rng)


def pair(rng):
    B, K = whole(rng, 4, 9), whole(rng, 5, 12)
    return {"s": logits(rng, B, K), "t": logits(rng, B, K), "T": uniform(rng, 2, 6)}


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
    return {"z": z, "T": 1.0}


def expect_softened(x):
    return log_p(x["z"], x["T"])


# --- q2: the soft term ----------------------------------------------------------------------------


def direction(given, x):
    s = x["s"].clone().requires_grad_()
    loss = given.soft_term(s, x["t"].clone(), 1.0)
    assert loss.requires_grad, "no gradient reaches the student"
    loss.backward()
    assert s.grad is not None, "no gradient reaches the student"
    return s.grad / s.grad.norm()


def zero(given, x):
    s, t = x["s"], x["t"]
    apart = given.soft_term(s.clone(), t.clone(), 1.0)
    return 1 + given.soft_term(s.clone(), s.clone(), 1.0) / apart


def squared(given, x):
    s, t, T = x["s"], x["t"], x["T"]
    return given.soft_term(s.clone(), t.clone(), T) / given.soft_term(s / T, t / T, 1.0)


def summed(given, x):
    # Minus the value at agreement, so that a cross-entropy counts as well.
    s, t = x["s"], x["s"].flip(1)  # a pair whose divergence is the same in both directions
    same = given.soft_term(t.clone(), t.clone(), 1.0)
    return (given.soft_term(s.clone(), t.clone(), 1.0) - same).abs()


def batched(given, x):
    s, t, T = x["s"], x["t"], x["T"]
    twice = given.soft_term(torch.cat([s, s]), torch.cat([t, t]), T)
    return twice / given.soft_term(s.clone(), t.clone(), T)


def frozen(given, x):
    s, t = x["s"].clone().requires_grad_(), x["t"].clone().requires_grad_()
    loss = given.soft_term(s, t, x["T"])
    assert loss.requires_grad, "no gradient reaches the student"
    loss.backward()
    assert s.grad is not None, "no gradient reaches the student"
    return 1 + (0 if t.grad is None else t.grad.norm() / s.grad.norm())


def extreme(given, x):
    values, finite = [], []
    for size in (x["a"], x["a"] / 2):
        s = torch.tensor([[-size, 0.0, size]]).requires_grad_()
        loss = given.soft_term(s, torch.tensor([[size, 0.0, -size]]), 1.0)
        loss.backward()
        values.append(loss.detach())
        finite.append(float(torch.isfinite(s.grad).all()))
    return {"ratio": values[0] / values[1], "finite": finite}


def expect_direction(x):
    g = pull(x["s"], x["t"])
    return g / g.norm()


def draw_one(rng):
    return {"s": logits(rng, 1, whole(rng, 5, 12))}


# --- q3: the full loss ----------------------------------------------------------------------------


def draw_labelled(rng):
    x = pair(rng)
    B, K = x["s"].shape
    y = torch.randint(K, (B,), generator=rng)
    other = (y + 1 + torch.randint(K - 1, (B,), generator=rng)) % K
    return x | {"y": y, "other": other, "u": logits(rng, B, K), "alpha": uniform(rng, 0.1, 0.4),
                "right": inspect.getsource(soft_term)}


def hard_part(given, x):
    exec(x["right"], getattr(given.full_loss, "__globals__", {}))
    s, t = x["s"], x["t"]  # other labels: the soft part stays and falls out
    moved = [given.full_loss(s.clone(), t.clone(), x["y"], T, 0.5)
             - given.full_loss(s.clone(), t.clone(), x["other"], T, 0.5) for T in (x["T"], 1.0)]
    return moved[0] / moved[1]


def alpha_zero(given, x):
    exec(x["right"], getattr(given.full_loss, "__globals__", {}))
    s, y, T = x["s"], x["y"], x["T"]
    one, two = (given.full_loss(s.clone(), t.clone(), y, T, 0.0) for t in (x["t"], x["u"]))
    return two / one


def shares(given, x):
    exec(x["right"], getattr(given.full_loss, "__globals__", {}))
    s, t = x["s"], x["t"]  # at T = 1, and a pair of weights and its mirror image
    moved = [given.full_loss(s.clone(), t.clone(), x["y"], 1.0, alpha)
             - given.full_loss(s.clone(), t.clone(), x["other"], 1.0, alpha)
             for alpha in (x["alpha"], 1 - x["alpha"])]
    return moved[0] + moved[1]


def soft_part(given, x):
    exec(x["right"], getattr(given.full_loss, "__globals__", {}))
    s, t, u, T = x["s"], x["t"], x["u"], x["T"]
    moved = [given.full_loss(s.clone(), t.clone(), x["y"], T, alpha)
             - given.full_loss(s.clone(), u.clone(), x["y"], T, alpha)
             for alpha in (x["alpha"], 1 - x["alpha"])]
    return moved[0] + moved[1]


def hard(x, y):
    return -log_p(x["s"], 1.0).gather(1, y[:, None]).mean()


def expect_soft(x):
    return x["T"] ** 2 * (kl(x["t"], x["s"], x["T"]) - kl(x["u"], x["s"], x["T"]))


# --- q4: the gradient by hand ---------------------------------------------------------------------


def slope(given, x):
    return given.soft_gradient(x["s"].clone(), x["t"].clone(), 1.0).abs()


def sign(given, x):
    return torch.sign(given.soft_gradient(x["s"].clone(), x["t"].clone(), x["T"]))


def slope_of_T(given, x):
    s, t, T = x["s"], x["t"], x["T"]
    one = given.soft_gradient(s / T, t / T, 1.0)
    return given.soft_gradient(s.clone(), t.clone(), T).norm() / one.norm()


def slope_of_B(given, x):
    s, t, T = x["s"], x["t"], x["T"]
    twice = given.soft_gradient(torch.cat([s, s]), torch.cat([t, t]), T)
    return twice[: len(s)].norm() / given.soft_gradient(s.clone(), t.clone(), T).norm()


def by_hand(given, x):
    with torch.inference_mode():  # here nothing can be differentiated
        s, t = x["s"].clone(), x["t"].clone()
        g = given.soft_gradient(s, t, x["T"])
        return g.abs().sum() / g.abs().sum()


def norms(given, x):
    exec(x["right"], getattr(given.norms_without_T2, "__globals__", {}))
    found = given.norms_without_T2(x["s"].clone(), x["t"].clone(), x["Ts"])
    return torch.as_tensor(found).double()


def expect_norms(x):
    return torch.stack([pull(x["s"], x["t"], T).norm() / T / len(x["s"]) for T in x["Ts"]])


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
    return [given.their_weight(w, T, K, False, sums) / given.their_weight(w, T, K, True, sums)
            for sums in (True, False)]


def class_mean(given, x):
    w, T, K = x["w"], x["T"], x["K"]
    found = [given.their_weight(w, T, K, has, False) / given.their_weight(w, T, K, has, True)
             for has in (True, False)]
    return [*found, given.their_weight(w, T, K, True, True) / w]


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
    Law("q2", 2, Q2, pair, direction, expect_direction,
        "Expected the gradient of KL(p || q), p the teacher's and q the student's probabilities. "
        "It has another direction when the two are swapped, or when a logarithm is missing."),
    Law("q2", 1, Q2, pair, zero, lambda x: torch.tensor(1.0),
        "Expected 0 where student and teacher agree. Else a curve that falls to 0.7 says nothing."),
    Law("q2", 1, Q2, pair, squared, lambda x: torch.tensor(x["T"] ** 2),
        "Expected T² times the divergence of the softened answers, both sides at T. Else another "
        "temperature silently is another weight."),
    Law("q2", 1, Q2, draw_one, summed, lambda x: kl(x["s"].flip(1), x["s"]),
        "Expected the sum over the classes. A mean makes the term K times weaker, for K classes."),
    Law("q2", 1, Q2, pair, batched, lambda x: torch.tensor(1.0),
        "Expected the mean over the samples: the same batch twice has the same loss."),
    Law("q2", 1, Q2, pair, frozen, lambda x: torch.tensor(1.0),
        "Expected no gradient for the teacher, who is not to learn here."),
    Law("q2", 1, Q2, lambda rng: {"a": uniform(rng, 150, 300)}, extreme,
        lambda x: {"ratio": torch.tensor(2.0), "finite": [1.0, 1.0]},
        "Expected a finite value and gradient for logits in the hundreds, and a value that grows "
        "with them. A network in trouble has such logits, and there the loss must still pull."),
    Law("q3", 1, Q3, draw_labelled, hard_part, lambda x: torch.tensor(1.0),
        "Expected the labels' part at temperature 1, whatever T is: else the student is trained "
        "for an answer that nobody asks it for."),
    Law("q3", 1, Q3, draw_labelled, alpha_zero, lambda x: torch.tensor(1.0),
        "Expected alpha to weigh the soft term: at alpha = 0 the teacher must not matter."),
    Law("q3", 1, Q3, draw_labelled, shares, lambda x: hard(x, x["y"]) - hard(x, x["other"]),
        "Expected the labels' part, the mean cross-entropy of the student's logits, to count "
        "1 - alpha, so that the two weights add up to 1."),
    Law("q3", 1, Q3, draw_labelled, soft_part, expect_soft,
        "Expected the soft part to be what soft_term gives at T, once, times its weight."),
    Law("q4", 2, Q4, draw_single, slope, lambda x: pull(x["s"], x["t"]).abs(),
        "Expected the difference of the two sides' probabilities, for one sample at T = 1."),
    Law("q4", 1, Q4, draw_apart, sign, lambda x: pull(x["s"], x["t"], x["T"]).sign(),
        "Expected the other sign: a gradient points uphill, and the optimiser steps against it."),
    Law("q4", 1, Q4, pair, slope_of_T, lambda x: torch.tensor(x["T"]),
        "Expected the factor that T² and the chain rule through logits / T leave together."),
    Law("q4", 1, Q4, pair, slope_of_B, lambda x: torch.tensor(0.5),
        "Expected each sample to count 1 / B, as the loss is a mean over the batch."),
    Law("q4", 1, Q4, pair, by_hand, lambda x: torch.tensor(1.0),
        "Expected a gradient by hand, without autograd."),
    Law("q4", 1, ("norms_without_T2",), draw_norms, norms, expect_norms,
        "Expected the length of the whole gradient [B, K] at each temperature, of the term "
        "without T²."),
    Law("q5", 2, Q5, draw_weights, without_squared,
        lambda x: [torch.tensor(x["T"] ** 2)] * 2,
        "Expected the weight to carry what their term lacks: T²."),
    Law("q5", 1, Q5, draw_weights, class_mean,
        lambda x: [torch.tensor(float(x["K"]))] * 2 + [torch.tensor(1.0)],
        "Expected the weight to undo the mean over classes, and to stay as it is where their term "
        "is ours."),
))
