"""Formulas written out as loops in float64, from the papers: what the package is compared with.

Nothing here uses torch, or anything of kdcourse.
"""

import math

import numpy as np


def log_softmax(row, T=1.0):
    """log softmax(row / T) of one row of logits."""
    scaled = [float(z) / T for z in row]
    top = max(scaled)
    norm = top + math.log(sum(math.exp(z - top) for z in scaled))
    return [z - norm for z in scaled]


def softmax(row, T=1.0):
    return [math.exp(z) for z in log_softmax(row, T)]


def cross(p, log_q):
    """-sum p log q, where a class without probability adds nothing, whatever q says of it."""
    return sum(-a * b for a, b in zip(p, log_q, strict=True) if a > 0)


def entropy(row, T=1.0):
    return cross(softmax(row, T), log_softmax(row, T))


def kd(student, teacher, T):
    """T² KL(p || q), one value per sample (Hinton et al. 2015, section 2)."""
    return np.array([
        T**2 * (cross(softmax(t, T), log_softmax(s, T)) - entropy(t, T))
        for s, t in zip(student, teacher, strict=True)
    ])


def soft_cross_entropy(student, teacher, T):
    """-T² sum p log q, one value per sample."""
    return np.array([
        T**2 * cross(softmax(t, T), log_softmax(s, T))
        for s, t in zip(student, teacher, strict=True)
    ])


def cross_entropy(student, labels):
    """-log q of the label, or -sum y log q; one value per sample."""
    return np.array([
        cross(one_hot(y, len(s)), log_softmax(s)) for s, y in zip(student, labels, strict=True)
    ])


def label_smoothing(student, labels, smoothing):
    """Szegedy et al. 2016, section 7: the labels mixed with the uniform distribution."""
    K = len(student[0])
    mixed = [[(1 - smoothing) * a + smoothing / K for a in one_hot(y, K)] for y in labels]
    return cross_entropy(student, mixed)


def one_hot(label, classes):
    if np.ndim(label) == 1:
        return [float(a) for a in label]
    return [float(k == int(label)) for k in range(classes)]


def slope(function, x, step=1e-4):
    """The gradient of a scalar function of an array, by central differences."""
    x = np.array(x, dtype=np.float64)
    result = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        result[place] = (function(up) - function(down)) / (2 * step)
    return result
