"""Losses on transformers as loops in float64, from the papers.

Nothing here uses torch, or anything of kdcourse.
"""

import math

import numpy as np

from helpers.oracles import log_softmax, softmax


def hidden_mse(student, teacher):
    """Jiao et al. 2020, equation 8, after the projection: one value per sample."""
    return np.array([
        sum((a - b) ** 2 for s, t in zip(one, other, strict=True) for a, b in
            zip(s, t, strict=True)) / (len(one) * len(one[0]))
        for one, other in zip(student, teacher, strict=True)
    ])


def hidden_cosine(student, teacher):
    """Sanh et al. 2019: one value per sample."""
    totals = []
    for one, other in zip(student, teacher, strict=True):
        losses = []
        for s, t in zip(one, other, strict=True):
            lengths = math.sqrt(sum(a * a for a in s)) * math.sqrt(sum(b * b for b in t))
            dot = sum(a * b for a, b in zip(s, t, strict=True))
            losses.append(1 - (dot / lengths if lengths else 0))
        totals.append(sum(losses) / len(losses))
    return np.array(totals)


def attention_mse(student, teacher):
    """Jiao et al. 2020, equation 7: one value per sample."""
    return np.array([
        sum(np.mean((s - t) ** 2) for s, t in zip(one, other, strict=True)) / len(one)
        for one, other in zip(student, teacher, strict=True)
    ])


def attention_kl(student, teacher):
    """Wang et al. 2020, section 3.1, for scores before the softmax: one value per sample."""
    totals = []
    for one, other in zip(student, teacher, strict=True):
        total, rows = 0.0, 0
        for s_head, t_head in zip(one, other, strict=True):
            for s, t in zip(s_head, t_head, strict=True):
                p, log_p, log_q = softmax(t), log_softmax(t), log_softmax(s)
                total += sum(a * (b - c) for a, b, c in zip(p, log_p, log_q, strict=True) if a > 0)
                rows += 1
        totals.append(total / rows)
    return np.array(totals)


def value_relation(student, teacher):
    """Wang et al. 2020, section 3.2: one value per sample."""

    def scores(values):
        return [[[[sum(a * b for a, b in zip(v, w, strict=True)) / math.sqrt(len(v))
                   for w in head] for v in head] for head in sample] for sample in values]

    return attention_kl(scores(student), scores(teacher))


def self_relation(students, teachers):
    """Wang et al. 2021, section 3: one value per sample."""
    return sum(value_relation(s, t) for s, t in zip(students, teachers, strict=True))
