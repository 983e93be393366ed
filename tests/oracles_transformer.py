"""Loops in float64, from the papers: overhaul, knowledge review, and losses for transformers.

Nothing here uses torch, or anything of kdcourse.
"""

import math

import numpy as np
from oracles import log_softmax, softmax

# --- Heo et al. 2019 ----------------------------------------------------------------------------


def overhaul(student, teacher, margin):
    """Margin ReLU on the teacher, partial L2 distance, summed: one value per sample."""
    totals = []
    for s_map, t_map in zip(student, teacher, strict=True):
        total = 0.0
        for channel, m in enumerate(margin):
            for s, t in zip(s_map[channel].ravel(), t_map[channel].ravel(), strict=True):
                clipped = t if t > m else m
                if not s <= clipped <= 0:
                    total += (clipped - s) ** 2
        totals.append(total)
    return np.array(totals)


def mean_where_negative(mean, std):
    """E[x | x < 0] of a Gaussian, by adding up narrow columns."""
    width = 1e-4 * std
    low = min(mean, 0) - 12 * std
    x = np.arange(low + width / 2, 0, width)
    density = np.exp(-(((x - mean) / std) ** 2) / 2)
    return float((x * density).sum() / density.sum())


# --- Chen et al. 2021 ---------------------------------------------------------------------------


def averaged(image, grid):
    """One channel [H, W] averaged to grid x grid places: place i covers rows from floor(i H / grid)
    up to, not including, ceil((i + 1) H / grid)."""
    H, W = image.shape
    result = np.zeros((grid, grid))
    for i in range(grid):
        for j in range(grid):
            rows = range(math.floor(i * H / grid), math.ceil((i + 1) * H / grid))
            columns = range(math.floor(j * W / grid), math.ceil((j + 1) * W / grid))
            cells = [image[a, b] for a in rows for b in columns]
            result[i, j] = sum(cells) / len(cells)
    return result


def review(students, teachers):
    """Hierarchical context loss: one value per sample."""
    totals = np.zeros(len(students[0]))
    for student, teacher in zip(students, teachers, strict=True):
        for b, (s_map, t_map) in enumerate(zip(student, teacher, strict=True)):
            share, level = 1.0, 0.0
            shares = [1.0]
            level += np.mean([(s - t) ** 2 for s, t in zip(s_map, t_map, strict=True)])
            for grid in (4, 2, 1):
                if grid >= min(s_map.shape[1:]):
                    continue
                share = share / 2
                shares.append(share)
                level += share * np.mean([(averaged(s, grid) - averaged(t, grid)) ** 2
                                          for s, t in zip(s_map, t_map, strict=True)])
            totals[b] += level / sum(shares)
    return totals


def convolved(x, weight, bias, padding):
    """A convolution of one image [C, H, W], written out."""
    outputs, channels, size, _ = weight.shape
    _, H, W = x.shape
    padded = np.zeros((channels, H + 2 * padding, W + 2 * padding))
    padded[:, padding:padding + H, padding:padding + W] = x
    result = np.zeros((outputs, H, W))
    for o in range(outputs):
        for i in range(H):
            for j in range(W):
                patch = padded[:, i:i + size, j:j + size]
                result[o, i, j] = (patch * weight[o]).sum() + (0 if bias is None else bias[o])
    return result


def nearest(x, size):
    """An image [C, H, W] enlarged or thinned out: place i takes row floor(i H / size)."""
    _, H, W = x.shape
    rows = [i * H // size[0] for i in range(size[0])]
    columns = [j * W // size[1] for j in range(size[1])]
    return x[:, rows][:, :, columns]


def normalised(x, norm):
    """Batch normalisation with stored statistics, eps 1e-5; norm: weight, bias, mean, variance."""
    weight, bias, mean, variance = (np.asarray(part)[:, None, None] for part in norm)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def fused(images, layers, sizes):
    """Attention-based fusion of one sample's levels, shallow to deep (Chen et al. 2021, figure 3).

    images: [C, H, W] each. layers: dictionaries enter, enter_norm, attend (weight, bias; None in
    the deepest), leave, leave_norm. sizes: the teacher's heights and widths.
    """
    results, passed = [], None
    for x, layer, size in reversed(list(zip(images, layers, sizes, strict=True))):
        x = normalised(convolved(x, layer["enter"], None, 0), layer["enter_norm"])
        if layer["attend"] is not None:
            passed = nearest(passed, x.shape[1:])
            both = convolved(np.concatenate([x, passed]), *layer["attend"], 0)
            gates = 1 / (1 + np.exp(-both))
            x = gates[0] * x + gates[1] * passed
        passed = nearest(x, size)
        results.insert(0, normalised(convolved(passed, layer["leave"], None, 1),
                                     layer["leave_norm"]))
    return results


# --- transformers -------------------------------------------------------------------------------


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
