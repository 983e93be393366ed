"""The hidden laws of assignment 3. `python -m kdcourse.grading` reads this file; the references
are its own, in float64, from the formulas.

What is built from other functions finds right ones in their place (`x["right"]`, a text), so that
a mistake in one of them costs its own points and no others.

Shapes: B batch, D features.
"""

import inspect

import torch

from kdcourse.grading import Assignment, Law

# --- what stands in the place of a submission's own functions -------------------------------------


def distances(x):
    squares = (x[:, None] - x[None]).square().sum(2)
    some = squares > 0
    return torch.where(some, torch.where(some, squares, 1).sqrt(), 0)


def relative(far):
    mean = far.sum() / (len(far) * (len(far) - 1))
    return far / torch.where(mean > 0, mean, 1)


def huber(a, b):
    gap = (a - b).abs()
    return torch.where(gap <= 1, gap * gap / 2, gap - 0.5)


def cosines(x):
    way = torch.nn.functional.normalize(x[:, None] - x[None], dim=2)
    return torch.einsum("ijd,kjd->ijk", way, way)


def right(*functions):
    return "\n\n".join(["import torch", *map(inspect.getsource, functions)])


BEFORE_Q4 = right(distances, relative, huber)  # and before q5
BEFORE_Q6 = right(distances, relative, huber, cosines)

# --- the references -------------------------------------------------------------------------------


def apart(x_BD):
    """Distances, by loops, with gradients of 0 between equal samples."""
    x = x_BD.double()
    rows = []
    for a in x:
        squares = [(a - b).square().sum() for b in x]
        rows.append(torch.stack([s.sqrt() if s > 0 else s.detach() for s in squares]))
    return torch.stack(rows)


def over_mean(far_BB):
    far, B = far_BB.double(), len(far_BB)
    mean = far[~torch.eye(B, dtype=torch.bool)].sum() / (B * (B - 1))
    return far / mean if mean > 0 else far * 0


def angles(x_BD):
    """[i, j, k]: the cosine at sample j between i and k; 0 where there is no direction."""
    x = x_BD.double()
    B, table = len(x), []
    for i in range(B):
        for j in range(B):
            for k in range(B):
                a, b = x[i] - x[j], x[k] - x[j]
                some = bool(a.any()) and bool(b.any())
                table.append(a @ b / (a @ a).sqrt() / (b @ b).sqrt() if some else 0 * a.sum())
    return torch.stack(table).reshape(B, B, B)


def gradient(function, x, weight):
    x = x.double().requires_grad_()
    (function(x) * weight.double()).sum().backward()
    return x.grad


def whole(rng, low, high):
    return int(torch.randint(low, high + 1, (), generator=rng))


def points(rng, B=None, D=None):
    B, D = B or whole(rng, 5, 8), D or whole(rng, 3, 9)
    return torch.randn(B, D, generator=rng)


def two_equal(rng):
    x = points(rng)
    x[1] = x[0]
    return x


# --- q1: distances --------------------------------------------------------------------------------


def far_apart(given, x):
    return given.distances(x["x"].clone())


def far_from_zero(given, x):
    one = torch.eye(len(x["x"]))  # on the diagonal, instead of 0 / 0
    near = given.distances(x["x"] - 1000) + one  # this difference is exact
    return (given.distances(x["x"].clone()) + one) / near


def slopes(given, x):
    z = x["x"].clone().requires_grad_()
    (given.distances(z) * x["w"]).sum().backward()
    return z.grad


def slopes_at_equal(given, x):
    z = x["x"].clone().requires_grad_()
    far = given.distances(z)
    (far[0, 1] + far[1, 0]).backward()
    return z.grad


def draw_slopes(rng):
    x = points(rng)
    return {"x": x.double(), "w": torch.rand(len(x), len(x), generator=rng).double()}


# --- q2: over their mean --------------------------------------------------------------------------


def relatives(given, x):
    return given.relative(x["far"].clone())


def relative_slopes(given, x):
    far = x["far"].clone().requires_grad_()
    (given.relative(far) * x["w"]).sum().backward()
    # The diagonal, 0 in every table of distances, is left out: its slope hangs on how the mean is
    # written.
    found = far.grad * (1 - torch.eye(len(far), dtype=far.dtype))
    return found / found.norm()


def relative_nothing(given, x):
    return given.relative(torch.zeros(x["B"], x["B"]))


def draw_far(rng):
    return {"far": apart(two_equal(rng)).float()}


def draw_far_slopes(rng):
    far = apart(points(rng))
    return {"far": far, "w": torch.rand(far.shape, generator=rng).double()}


def expect_relative_slopes(x):
    slope = gradient(over_mean, x["far"], x["w"]) * (1 - torch.eye(len(x["far"])))
    return slope / slope.norm()


# --- q3: Huber ------------------------------------------------------------------------------------


def huber_near(given, x):
    return given.huber(x["a"].clone(), x["b"].clone())


def huber_far(given, x):
    return given.huber(x["a"].clone(), x["b"].clone())


def draw_gap(rng, low, high):
    a = torch.randn(4, 5, generator=rng)
    gap = low + (high - low) * torch.rand(4, 5, generator=rng)
    return {"a": a, "b": a + gap * (torch.rand(4, 5, generator=rng) - 0.5).sign()}


def expect_huber(x):
    gap = (x["a"].double() - x["b"].double()).abs()
    return torch.where(gap <= 1, gap**2 / 2, gap - 0.5)


# --- q4: the distance loss ------------------------------------------------------------------------


def distance_value(given, x):
    exec(x["right"], getattr(given.distance_loss, "__globals__", {}))
    return given.distance_loss(x["s"].clone(), x["t"].clone())


def distance_teacher(given, x):
    exec(x["right"], getattr(given.distance_loss, "__globals__", {}))
    s, t = x["s"].clone().requires_grad_(), x["t"].clone().requires_grad_()
    loss = given.distance_loss(s, t)
    assert loss.requires_grad, "no gradient reaches the student"
    loss.backward()
    assert s.grad is not None, "no gradient reaches the student"
    return 1 + (0 if t.grad is None else t.grad.norm() / s.grad.norm())


def distance_moved(given, x):
    exec(x["right"], getattr(given.distance_loss, "__globals__", {}))
    loss = given.distance_loss(x["s"].clone(), x["t"].clone())
    return torch.stack([torch.as_tensor(given.distance_loss(moved.clone(), x["t"].clone()))
                        for moved in x["moved"]]) / loss


def distance_widths(given, x):
    exec(x["right"], getattr(given.distance_loss, "__globals__", {}))
    wide = torch.cat([x["t"], torch.zeros(len(x["t"]), 7)], 1)
    return (given.distance_loss(x["s"].clone(), wide)
            / given.distance_loss(x["s"].clone(), x["t"].clone()))


def distance_slopes(given, x):
    exec(x["right"], getattr(given.distance_loss, "__globals__", {}))
    s = x["s"].clone().requires_grad_()
    loss = given.distance_loss(s, x["t"].clone())
    assert loss.requires_grad, "no gradient reaches the student"
    loss.backward()
    assert s.grad is not None, "no gradient reaches the student"
    return s.grad / s.grad.norm()


def draw_two(rng):
    B = whole(rng, 5, 8)
    return {"s": points(rng, B, 4), "t": points(rng, B, 4), "right": BEFORE_Q4}


def draw_two_exactly(rng):
    x = draw_two(rng)
    return x | {"s": x["s"].double(), "t": x["t"].double()}


def draw_moved(rng):
    x = draw_two(rng)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=rng))
    size = 0.3 + 3 * float(torch.rand((), generator=rng))
    shift = torch.randn(4, generator=rng)
    return x | {"moved": [x["s"] @ turn, x["s"] + shift, size * x["s"]]}


def distance_reference(s, t):
    return expect_huber({"a": over_mean(apart(s)), "b": over_mean(apart(t))}).sum()


def slope_of(reference, x):
    s = x["s"].double().requires_grad_()
    reference(s, x["t"]).backward()
    return s.grad / s.grad.norm()


# --- q5: cosines ----------------------------------------------------------------------------------


def cosine_values(given, x):
    exec(x["right"], getattr(given.cosines, "__globals__", {}))
    return given.cosines(x["x"].clone())


def cosine_slopes(given, x):
    exec(x["right"], getattr(given.cosines, "__globals__", {}))
    z = x["x"].clone().requires_grad_()
    (given.cosines(z) ** 3).sum().backward()  # the same for any order of i, j, k
    return z.grad


def cosines_at_equal(given, x):
    exec(x["right"], getattr(given.cosines, "__globals__", {}))
    z = x["x"].clone().requires_grad_()
    found = given.cosines(z)
    (found ** 3).sum().backward()
    return {"zeros": int((found.detach().abs() < 1e-4).sum()),
            "finite": int(torch.isfinite(z.grad).sum())}


def expect_cosine_slopes(x):
    z = x["x"].double().requires_grad_()
    (angles(z) ** 3).sum().backward()
    return z.grad


def expect_at_equal(x):
    return {"zeros": int((angles(x["x"]).abs() < 1e-4).sum()), "finite": x["x"].numel()}


# --- q6: the angle loss ---------------------------------------------------------------------------


def angle_value(given, x):
    exec(x["right"], getattr(given.angle_loss, "__globals__", {}))
    return given.angle_loss(x["s"].clone(), x["t"].clone())


def angle_teacher(given, x):
    exec(x["right"], getattr(given.angle_loss, "__globals__", {}))
    s, t = x["s"].clone().requires_grad_(), x["t"].clone().requires_grad_()
    loss = given.angle_loss(s, t)
    assert loss.requires_grad, "no gradient reaches the student"
    loss.backward()
    assert s.grad is not None, "no gradient reaches the student"
    return 1 + (0 if t.grad is None else t.grad.norm() / s.grad.norm())


def angle_moved(given, x):
    exec(x["right"], getattr(given.angle_loss, "__globals__", {}))
    s, t = x["s"], x["t"]
    wide = torch.cat([t, torch.zeros(len(t), 7)], 1)
    found = [given.angle_loss(moved.clone(), t.clone()) for moved in x["moved"]]
    found.append(given.angle_loss(s.clone(), wide))
    return (torch.stack([torch.as_tensor(value) for value in found])
            / given.angle_loss(s.clone(), t.clone()))


def angle_slopes(given, x):
    exec(x["right"], getattr(given.angle_loss, "__globals__", {}))
    s = x["s"].clone().requires_grad_()
    loss = given.angle_loss(s, x["t"].clone())
    assert loss.requires_grad, "no gradient reaches the student"
    loss.backward()
    assert s.grad is not None, "no gradient reaches the student"
    return s.grad / s.grad.norm()


def with_cosines(draw):
    return lambda rng: draw(rng) | {"right": BEFORE_Q6}


def angle_reference(s, t):
    B = len(s)
    i, j, k = torch.meshgrid(*[torch.arange(B)] * 3, indexing="ij")
    three = (i != j) & (j != k) & (i != k)
    return expect_huber({"a": angles(s), "b": angles(t)})[three].sum()


Q4, Q5, Q6 = ("distance_loss",), ("cosines",), ("angle_loss",)


def one(x):
    return torch.tensor(1.0)


ASSIGNMENT = Assignment("3_relations", "RKD from the paper's equations, with gradients", (
    Law("q1", 1, ("distances",), lambda rng: {"x": points(rng)}, far_apart,
        lambda x: apart(x["x"]), "Expected the Euclidean distance of every two samples, [B, B]."),
    Law("q1", 1, ("distances",), draw_slopes, slopes,
        lambda x: gradient(apart, x["x"], x["w"]),
        "Expected the gradient of the distances, finite also for the zeros on the diagonal, where "
        "the slope of a square root is infinite.", tolerance=1e-6),
    Law("q1", 1, ("distances",), lambda rng: {"x": two_equal(rng).double()}, slopes_at_equal,
        lambda x: torch.zeros_like(x["x"]),
        "Expected a gradient of 0 between two equal samples: one pair of equal images in a batch "
        "would else end a training."),
    Law("q1", 1, ("distances",), lambda rng: {"x": 1000 + points(rng, 32, 4)}, far_from_zero,
        lambda x: torch.ones(32, 32),
        "Expected close points far from 0 to keep their digits. Differences do; squares minus "
        "products lose them.", tolerance=1e-2),
    Law("q2", 1, ("relative",), draw_far, relatives, lambda x: over_mean(x["far"]),
        "Expected the distances over their mean, which is taken over the B (B - 1) pairs of two "
        "different samples, also where two of them coincide."),
    Law("q2", 1, ("relative",), draw_far_slopes, relative_slopes, expect_relative_slopes,
        "Expected the gradient to go through the mean as well: it depends on the student too.",
        tolerance=1e-6),
    Law("q2", 1, ("relative",), lambda rng: {"B": whole(rng, 3, 6)}, relative_nothing,
        lambda x: torch.zeros(x["B"], x["B"]),
        "Expected zeros where all distances are 0, not 0 / 0."),
    Law("q3", 1, ("huber",), lambda rng: draw_gap(rng, 0.0, 0.95), huber_near, expect_huber,
        "Expected half the square of a gap of up to 1, entry by entry."),
    Law("q3", 1, ("huber",), lambda rng: draw_gap(rng, 1.05, 4.0), huber_far, expect_huber,
        "Expected a straight line for a gap above 1, which meets the parabola at 1."),
    Law("q4", 1, Q4, draw_two, distance_value, lambda x: distance_reference(x["s"], x["t"]),
        "Expected the sum over all ordered pairs: each pair counts twice, and nothing is "
        "averaged. A weight from a paper means its formula."),
    Law("q4", 1, Q4, draw_two, distance_teacher, one,
        "Expected no gradient for the teacher, who is not to learn here."),
    Law("q4", 1, Q4, draw_moved, distance_moved, lambda x: torch.ones(3),
        "Expected the same loss when the student's samples are turned, shifted or scaled together: "
        "their relations stay."),
    Law("q4", 1, Q4, draw_two, distance_widths, one,
        "Expected a teacher of another width to fit, and columns of zeros to change nothing."),
    Law("q4", 1, Q4, draw_two_exactly, distance_slopes,
        lambda x: slope_of(distance_reference, x),
        "Expected the whole gradient of the formula for the student. A part of it is cut off.",
        tolerance=1e-6),
    Law("q5", 2, Q5, lambda rng: {"x": points(rng), "right": BEFORE_Q4}, cosine_values,
        lambda x: angles(x["x"]),
        "Expected at [i, j, k] the cosine of the angle at sample j, between i and k."),
    Law("q5", 1, Q5, lambda rng: {"x": points(rng).double(), "right": BEFORE_Q4}, cosine_slopes,
        expect_cosine_slopes,
        "Expected the gradient of the cosines: finite, and through the lengths too.",
        tolerance=1e-6),
    Law("q5", 1, Q5, lambda rng: {"x": two_equal(rng).double(), "right": BEFORE_Q4},
        cosines_at_equal, expect_at_equal,
        "Expected a cosine of 0 where a sample has no direction to its equal, and finite "
        "gradients."),
    Law("q6", 1, Q6, with_cosines(draw_two), angle_value,
        lambda x: angle_reference(x["s"], x["t"]),
        "Expected the sum over all ordered triplets of three different samples, not a mean."),
    Law("q6", 1, Q6, with_cosines(draw_two), angle_teacher, one,
        "Expected no gradient for the teacher, who is not to learn here."),
    Law("q6", 1, Q6, with_cosines(draw_moved), angle_moved, lambda x: torch.ones(4),
        "Expected the same loss when the samples are turned, shifted or scaled together, and for "
        "a teacher of another width."),
    Law("q6", 1, Q6, with_cosines(draw_two_exactly), angle_slopes,
        lambda x: slope_of(angle_reference, x),
        "Expected the whole gradient of the formula for the student. A part of it is cut off.",
        tolerance=1e-6),
))
