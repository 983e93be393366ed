"""Relations between samples, written out as loops in float64 from the papers.

Nothing here uses torch, or anything of kdcourse.
"""

import itertools
import math

import numpy as np


def rows(x):
    """One list of numbers per sample."""
    return [[float(v) for v in np.ravel(sample)] for sample in x]


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def length(a):
    return math.sqrt(dot(a, a))


def minus(a, b):
    return [x - y for x, y in zip(a, b, strict=True)]


def cosine(a, b):
    """0 where one of both has no direction."""
    return 0.0 if not any(a) or not any(b) else dot(a, b) / (length(a) * length(b))


def huber(a, b):
    """Park et al. 2019: quadratic up to 1, linear beyond."""
    return 0.5 * (a - b) ** 2 if abs(a - b) <= 1 else abs(a - b) - 0.5


def relative_distances(x):
    """{(i, j): |x_i - x_j| / mean}, for i != j."""
    distances = {(i, j): length(minus(x[i], x[j]))
                 for i, j in itertools.permutations(range(len(x)), 2)}
    mean = sum(distances.values()) / len(distances)
    return {pair: d / mean if mean else 0.0 for pair, d in distances.items()}


def rkd_distance(student, teacher, variant="paper"):
    """Park et al. 2019, section 3.2: summed over pairs; in the code, the mean of a B x B table."""
    s, t = (relative_distances(rows(x)) for x in (student, teacher))
    total = sum(huber(s[pair], t[pair]) for pair in s)
    return total / len(student) ** 2 if variant == "code" else total


def rkd_angle(student, teacher, variant="paper"):
    """Park et al. 2019, section 3.2: over triplets of different samples; in the code, the mean
    over all triplets."""
    s, t = rows(student), rows(teacher)
    total, B = 0.0, len(s)
    for i, j, k in itertools.product(range(B), repeat=3):
        if variant == "code" or len({i, j, k}) == 3:
            a, b = (cosine(minus(x[i], x[j]), minus(x[k], x[j])) for x in (s, t))
            total += huber(a, b)
    return total / B**3 if variant == "code" else total


def similarity_preserving(student, teacher):
    """Tung & Mori 2019, equations 1 to 4."""
    def similarity_rows(x):
        result = []
        for a in x:
            row = [dot(a, b) for b in x]
            size = length(row)
            result.append([v / size if size else 0.0 for v in row])
        return result

    s, t = similarity_rows(rows(student)), similarity_rows(rows(teacher))
    B = len(s)
    return sum((t[i][j] - s[i][j]) ** 2 for i in range(B) for j in range(B)) / B**2


def correlation_congruence(student, teacher, kernel="taylor", gamma=0.4, order=2):
    """Peng et al. 2019: kernels of vectors of unit length."""
    def of(a, b):
        if kernel == "bilinear":
            return cosine(a, b)
        if kernel == "rbf":
            a, b = ([v / length(x) for v in x] for x in (a, b))
            return math.exp(-gamma * dot(minus(a, b), minus(a, b)))
        return sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * cosine(a, b) ** p
                   for p in range(order + 1))

    s, t = rows(student), rows(teacher)
    B = len(s)
    return sum((of(t[i], t[j]) - of(s[i], s[j])) ** 2 for i in range(B) for j in range(B)) / B**2


def instance_graph(student, teacher, vertices=None):
    """Liu et al. 2019 (IRG): vertices, edges and transformations, each as a mean over entries."""
    def edges(x):
        table = [[dot(minus(a, b), minus(a, b)) for b in x] for a in x]
        largest = max(map(max, table))
        return [[d / largest for d in row] for row in table]

    def mse(a, b):
        squares = [(x - y) ** 2 for one, other in zip(a, b, strict=True)
                   for x, y in zip(one, other, strict=True)]
        return sum(squares) / len(squares)

    sides = [x if isinstance(x, tuple) else (x,) for x in (student, teacher)]
    (s, *s_layers), (t, *t_layers) = [[rows(x) for x in side] for side in sides]
    alike = np.shape(s) == np.shape(t)
    total = mse(edges(s), edges(t)) + (mse(s, t) if vertices or (vertices is None and alike) else 0)
    for i in range(0, len(s_layers), 2):
        (s1, s2), (t1, t2) = s_layers[i:i + 2], t_layers[i:i + 2]
        total += (mse(edges(s1), edges(s2)) - mse(edges(t1), edges(t2))) ** 2
        if all(side[i + 1].shape == side[i + 2].shape for side in sides):
            total += (mse(s1, s2) - mse(t1, t2)) ** 2
    return total


def neighbours(x, itself, least):
    """Passalis & Tefas 2018: [[p(j | i) for j] for i], by the cosine kernel."""
    result = []
    for i in range(len(x)):
        kernel = [max(least, (cosine(x[i], x[j]) + 1) / 2) if itself or i != j else 0.0
                  for j in range(len(x))]
        result.append([k / sum(kernel) for k in kernel])
    return result


def pkt(student, teacher, variant="paper"):
    """Passalis & Tefas 2018: Kullback-Leibler divergences of neighbourhoods, summed; in the code
    with the diagonal, 1e-7 in the logarithm, and the mean over all entries."""
    code = variant == "code"
    s, t = (neighbours(rows(x), code, 0.0 if code else 1e-7) for x in (student, teacher))
    B, eps = len(s), 1e-7 if code else 0.0
    total = sum(t[i][j] * math.log((t[i][j] + eps) / (s[i][j] + eps))
                for i in range(B) for j in range(B) if code or i != j)
    return total / B**2 if code else total


def crd(anchors, positives, negatives, samples, temperature, normalizer=1.0):
    """Tian et al. 2020, equations 18 and 19; one value per anchor."""
    values = []
    for a, positive, others in zip(anchors, positives, negatives, strict=True):
        noise = len(others) / samples

        def h(b, a=a, noise=noise):
            score = math.exp(dot(a, b) / temperature) / normalizer
            return score / (score + noise)

        values.append(-math.log(h(positive)) - sum(math.log(1 - h(b)) for b in others))
    return np.array(values)
