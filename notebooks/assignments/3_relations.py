"""The hidden laws of assignment 3. `nox -s grade` reads this file; the references
are its own, in float64, from the formulas.

What is built from other functions finds right ones in their place (`x["right"]`, a text), so that
a mistake in one of them costs its own points and no others. For the same reason some laws use
inputs on which many wrong formulas give what the right one gives, up to a factor: `triangles`, or
students of which each is the teacher or another one, moved.

The worker sends what the submission gave; ratios and the like are formed by `read`.

Shapes: B batch, D features.
"""

import functools
import inspect

import torch

from grader import Assignment, Law
from grader.parts import numbers, slopes_of, uniform, whole

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
    x = x.double().clone().requires_grad_()
    (function(x) * weight.double()).sum().backward()
    return x.grad


def points(rng, B=None, D=None):
    B, D = B or whole(rng, 5, 8), D or whole(rng, 3, 9)
    return torch.randn(B, D, generator=rng)


def two_equal(rng):
    x = points(rng)
    one, other = torch.randperm(len(x), generator=rng)[:2]
    x[one] = x[other]
    return x


def turn(rng, D=4):
    return torch.linalg.qr(torch.randn(D, D, generator=rng))[0]


def unit(array):
    return array / array.norm()


with_slopes = functools.partial(Law, uses=(slopes_of,))


# --- q1: distances --------------------------------------------------------------------------------


def far_apart(given, x):
    return given.distances(x["x"].clone())


def far_from_zero(given, x):
    return [given.distances(x["x"].clone()), given.distances(x["near"].clone())]


def slopes(given, x):
    z = x["x"].clone().requires_grad_()
    return slopes_of((given.distances(z) * x["w"]).sum(), z)[0]


def slopes_at_equal(given, x):
    z = x["x"].clone().requires_grad_()
    return slopes_of((given.distances(z) * x["w"]).sum(), z)[0]


def read_far_from_zero(found, x):
    """Other powers of the distance count as well; which one it is, the close points tell."""
    far, near = (pairs(numbers(one)) for one in found)
    power = near.log().std() / pairs(apart(x["near"])).log().std()
    far = far ** (1 / power)
    return far / far.mean()


def pairs(far_BB):
    return far_BB[~torch.eye(len(far_BB), dtype=torch.bool)]


def draw_slopes(rng):
    x = points(rng)
    return {"x": x.double(), "w": torch.rand(len(x), len(x), generator=rng).double()}


def draw_slopes_at_equal(rng):
    """Two equal samples, and two others whose distance gives the gradient a direction."""
    x = points(rng).double()
    w = torch.zeros(len(x), len(x)).double()
    a, b, c, d = torch.randperm(len(x), generator=rng)[:4]
    x[b] = x[a]
    w[a, b] = w[b, a] = w[c, d] = 1
    return {"x": x, "w": w}


def draw_far_from_zero(rng):
    x = 1000 + points(rng, 32, 4)
    return {"x": x, "near": x - 1000}  # this difference is exact


def expect_far_from_zero(x):
    far = pairs(apart(x["x"]))
    return far / far.mean()


# --- q2: over their mean --------------------------------------------------------------------------


def relatives(given, x):
    return given.relative(x["far"].clone())


def relative_slopes(given, x):
    far = x["far"].clone().requires_grad_()
    return slopes_of((given.relative(far) * x["w"]).sum(), far)[0]


def relative_nothing(given, x):
    return [given.relative(far.clone()) for far in x["far"]]


def read_relative_slopes(found, x):
    # The diagonal, 0 in every table of distances, is left out: its slope hangs on how the mean is
    # written.
    return unit(pairs(numbers(found)))


def read_relative_nothing(found, x):
    found = numbers(found)
    return found / found[0].norm()


def draw_far(rng):
    return {"far": apart(two_equal(rng)).float()}


def draw_far_slopes(rng):
    far = apart(points(rng))
    return {"far": far, "w": torch.rand(far.shape, generator=rng).double()}


def draw_nothing(rng):
    """Distances, the same in another unit of length, and none."""
    far = apart(points(rng)).float()
    return {"far": [far, uniform(rng, 2, 5) * far, 0 * far]}


def expect_relative_slopes(x):
    return unit(pairs(gradient(over_mean, x["far"], x["w"])))


def expect_relative_nothing(x):
    return torch.stack([over_mean(far) for far in x["far"]]) / over_mean(x["far"][0]).norm()


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
    return slopes_of(given.distance_loss(s, t), s, t)


def distance_moved(given, x):
    exec(x["right"], getattr(given.distance_loss, "__globals__", {}))
    return [given.distance_loss(s.clone(), t.clone()) for s, t in x["pairs"]]


def distance_widths(given, x):
    exec(x["right"], getattr(given.distance_loss, "__globals__", {}))
    return [given.distance_loss(s.clone(), t.clone()) for s, t in x["pairs"]]


def distance_slopes(given, x):
    exec(x["right"], getattr(given.distance_loss, "__globals__", {}))
    s = x["s"].clone().requires_grad_()
    return slopes_of(given.distance_loss(s, x["t"].clone()), s)[0]


def read_triangles(found, x):
    """The student's gradient without the part that only changes its size, and the teacher's."""
    s, t = numbers(found[0]), found[1]
    t = torch.zeros_like(s) if t is None else t.double()
    size = unit(x["s"].double() - x["s"].double().mean(0))
    part = s - (s * size).sum() * size
    return torch.stack([part, t]) / part.norm()


def read_slopes(found, x):
    return unit(numbers(found))


def read_pairs(found, x):
    found = numbers(found)
    return found / found.max()


def draw_two(rng):
    B = whole(rng, 5, 8)
    return {"s": points(rng, B, 4), "t": points(rng, B, 4), "right": BEFORE_Q4}


def draw_two_exactly(rng):
    x = draw_two(rng)
    return x | {"s": x["s"].double(), "t": x["t"].double()}


def triangles(rng):
    """A flat one for the student and a pointed one for the teacher, both with two equal sides.

    Where only relations count, their symmetry leaves one direction to the gradient: the student
    becomes taller and narrower. A loss that wants another size as well has a second one.
    """
    found = {"right": BEFORE_Q4}
    place = torch.randperm(3, generator=rng)
    for name, half, high in (("s", uniform(rng, 1.0, 1.5), uniform(rng, 0.5, 1.0)),
                             ("t", uniform(rng, 0.3, 0.6), uniform(rng, 2.5, 3.5))):
        flat = torch.tensor([[0, high, 0, 0], [-half, 0, 0, 0], [half, 0, 0, 0]])[place]
        found[name] = flat @ turn(rng) + torch.randn(4, generator=rng)
    return found


def students(rng, x, number):
    """In random order the teacher, where the loss is 0, and another one, where it is not."""
    chosen = torch.randint(2, (number,), generator=rng)
    chosen[:2] = torch.tensor([0, 1])
    return [x["ts"[int(one)]] for one in chosen[torch.randperm(number, generator=rng)]]


def draw_moved(rng):
    x = draw_two(rng)
    moved = [uniform(rng, 0.3, 3) * one @ turn(rng) + torch.randn(4, generator=rng)
             for one in students(rng, x, 10)]
    return {"pairs": [[one, x["t"]] for one in moved], "right": x["right"]}


def draw_widths(rng):
    x = draw_two(rng)
    both = (x["t"], widened(x["t"]))
    return {"pairs": [[one, t] for t in both for one in students(rng, x, 5)], "right": x["right"]}


def draw_moved_and_wide(rng):
    x = draw_moved(rng)
    x["pairs"] = [[s, t if place % 2 else widened(t)] for place, (s, t) in enumerate(x["pairs"])]
    return x


def widened(x):
    return torch.cat([x, torch.zeros(len(x), 7)], 1)


def distance_reference(s, t):
    return expect_huber({"a": over_mean(apart(s)), "b": over_mean(apart(t))}).sum()


def slope_of(reference, x):
    s = x["s"].double().clone().requires_grad_()
    reference(s, x["t"]).backward()
    return unit(s.grad)


def expect_triangles(reference):
    def expect(x):
        g = slope_of(reference, x)
        return torch.stack([g, torch.zeros_like(g)])
    return expect


def expect_pairs(reference):
    def expect(x):
        values = torch.stack([reference(s, t) for s, t in x["pairs"]])
        return values / values.max()
    return expect


# --- q5: cosines ----------------------------------------------------------------------------------


def cosine_values(given, x):
    exec(x["right"], getattr(given.cosines, "__globals__", {}))
    return given.cosines(x["x"].clone())


def cosine_slopes(given, x):
    exec(x["right"], getattr(given.cosines, "__globals__", {}))
    z = x["x"].clone().requires_grad_()
    return slopes_of((given.cosines(z) ** 3).sum(), z)[0]  # the same for any order of i, j, k


def cosines_at_equal(given, x):
    exec(x["right"], getattr(given.cosines, "__globals__", {}))
    z = x["x"].clone().requires_grad_()
    found = given.cosines(z)
    return [found, *slopes_of((found ** 3).sum(), z)]


def read_at_equal(found, x):
    cosines, slopes = map(numbers, found)
    return zeros(cosines) + 0 * slopes.sum(1)  # NaN for a sample whose gradient is not finite


def zeros(cosines_BBB):
    """How many zeros each sample takes part in, whatever the order of i, j, k."""
    none = cosines_BBB.abs() < 1e-4
    return (none.sum((1, 2)) + none.sum((0, 2)) + none.sum((0, 1))).double()


def draw_at_equal(rng):
    """Two equal samples, and no right angles besides."""
    while True:
        x = two_equal(rng).double()
        some = angles(x)
        if not ((some != 0) & (some.abs() < 2e-3)).any():
            return {"x": x, "right": BEFORE_Q4}


def expect_cosine_slopes(x):
    z = x["x"].double().clone().requires_grad_()
    (angles(z) ** 3).sum().backward()
    return z.grad


def expect_at_equal(x):
    return zeros(angles(x["x"]))


# --- q6: the angle loss ---------------------------------------------------------------------------


def angle_value(given, x):
    exec(x["right"], getattr(given.angle_loss, "__globals__", {}))
    return given.angle_loss(x["s"].clone(), x["t"].clone())


def angle_teacher(given, x):
    exec(x["right"], getattr(given.angle_loss, "__globals__", {}))
    s, t = x["s"].clone().requires_grad_(), x["t"].clone().requires_grad_()
    return slopes_of(given.angle_loss(s, t), s, t)


def angle_moved(given, x):
    exec(x["right"], getattr(given.angle_loss, "__globals__", {}))
    return [given.angle_loss(s.clone(), t.clone()) for s, t in x["pairs"]]


def angle_slopes(given, x):
    exec(x["right"], getattr(given.angle_loss, "__globals__", {}))
    s = x["s"].clone().requires_grad_()
    return slopes_of(given.angle_loss(s, x["t"].clone()), s)[0]


def with_cosines(draw):
    return lambda rng: draw(rng) | {"right": BEFORE_Q6}


def angle_reference(s, t):
    B = len(s)
    i, j, k = torch.meshgrid(*[torch.arange(B)] * 3, indexing="ij")
    three = (i != j) & (j != k) & (i != k)
    return expect_huber({"a": angles(s), "b": angles(t)})[three].sum()


Q4, Q5, Q6 = ("distance_loss",), ("cosines",), ("angle_loss",)


ASSIGNMENT = Assignment("3_relations", "RKD from the paper's equations, with gradients", (
    Law("q1", 1, ("distances",), lambda rng: {"x": points(rng)}, far_apart,
        lambda x: apart(x["x"]), "Expected the Euclidean distance of every two samples, [B, B]."),
    with_slopes("q1", 1, ("distances",), draw_slopes, slopes,
        lambda x: gradient(apart, x["x"], x["w"]),
        "Expected the gradient of the distances, finite also for the zeros on the diagonal, where "
        "the slope of a square root is infinite.", tolerance=1e-6),
    with_slopes("q1", 1, ("distances",), draw_slopes_at_equal, slopes_at_equal,
        lambda x: unit(gradient(apart, x["x"], x["w"])),
        "Expected a gradient of 0 between two equal samples: one pair of equal images in a batch "
        "would else end a training.", read=read_slopes),
    Law("q1", 1, ("distances",), draw_far_from_zero, far_from_zero, expect_far_from_zero,
        "Expected close points far from 0 to keep their digits. Differences do; squares minus "
        "products lose them.", read=read_far_from_zero),
    Law("q2", 1, ("relative",), draw_far, relatives, lambda x: over_mean(x["far"]),
        "Expected the distances over their mean, which is taken over the B (B - 1) pairs of two "
        "different samples, also where two of them coincide."),
    with_slopes("q2", 1, ("relative",), draw_far_slopes, relative_slopes, expect_relative_slopes,
        "Expected the gradient to go through the mean as well: it depends on the student too.",
        read=read_relative_slopes, tolerance=1e-6),
    Law("q2", 1, ("relative",), draw_nothing, relative_nothing, expect_relative_nothing,
        "Expected zeros where all distances are 0, not 0 / 0, and else the same in any unit of "
        "length.", read=read_relative_nothing),
    Law("q3", 1, ("huber",), lambda rng: draw_gap(rng, 0.0, 0.95), huber_near, expect_huber,
        "Expected half the square of a gap of up to 1, entry by entry."),
    Law("q3", 1, ("huber",), lambda rng: draw_gap(rng, 1.05, 4.0), huber_far, expect_huber,
        "Expected a straight line for a gap above 1, which meets the parabola at 1."),
    Law("q4", 1, Q4, draw_two, distance_value, lambda x: distance_reference(x["s"], x["t"]),
        "Expected the sum over all ordered pairs: each pair counts twice, and nothing is "
        "averaged. A weight from a paper means its formula."),
    with_slopes("q4", 1, Q4, triangles, distance_teacher, expect_triangles(distance_reference),
        "Expected no gradient for the teacher, who is not to learn here.", read=read_triangles),
    Law("q4", 1, Q4, draw_moved, distance_moved, expect_pairs(distance_reference),
        "Expected the same loss when the student's samples are turned, shifted or scaled together: "
        "their relations stay.", read=read_pairs),
    Law("q4", 1, Q4, draw_widths, distance_widths, expect_pairs(distance_reference),
        "Expected a teacher of another width to fit, and columns of zeros to change nothing.",
        read=read_pairs),
    with_slopes("q4", 1, Q4, draw_two_exactly, distance_slopes,
        lambda x: slope_of(distance_reference, x),
        "Expected the whole gradient of the formula for the student. A part of it is cut off.",
        read=read_slopes, tolerance=1e-6),
    Law("q5", 2, Q5, lambda rng: {"x": points(rng), "right": BEFORE_Q4}, cosine_values,
        lambda x: angles(x["x"]),
        "Expected at [i, j, k] the cosine of the angle at sample j, between i and k."),
    with_slopes("q5", 1, Q5, lambda rng: {"x": points(rng).double(), "right": BEFORE_Q4},
        cosine_slopes, expect_cosine_slopes,
        "Expected the gradient of the cosines: finite, and through the lengths too.",
        tolerance=1e-6),
    with_slopes("q5", 1, Q5, draw_at_equal, cosines_at_equal, expect_at_equal,
        "Expected a cosine of 0 where a sample has no direction to its equal, and finite "
        "gradients.", read=read_at_equal),
    Law("q6", 1, Q6, with_cosines(draw_two), angle_value,
        lambda x: angle_reference(x["s"], x["t"]),
        "Expected the sum over all ordered triplets of three different samples, not a mean."),
    with_slopes("q6", 1, Q6, with_cosines(triangles), angle_teacher,
        expect_triangles(angle_reference),
        "Expected no gradient for the teacher, who is not to learn here.", read=read_triangles),
    Law("q6", 1, Q6, with_cosines(draw_moved_and_wide), angle_moved,
        expect_pairs(angle_reference),
        "Expected the same loss when the samples are turned, shifted or scaled together, and for "
        "a teacher of another width.", read=read_pairs),
    with_slopes("q6", 1, Q6, with_cosines(draw_two_exactly), angle_slopes,
        lambda x: slope_of(angle_reference, x),
        "Expected the whole gradient of the formula for the student. A part of it is cut off.",
        read=read_slopes, tolerance=1e-6),
))
