"""Losses on inner tensors as loops in float64, from the papers. Nothing of torch or kdcourse."""

import math

import numpy as np


def per_sample(function, *sides):
    """One value per sample."""
    return np.array([function(*parts) for parts in zip(*sides, strict=True)])


def grid(tokens_ND, extra):
    """A sequence without its first tokens as a square map [C][H][W], row by row."""
    patches = tokens_ND[extra:]
    side = round(math.sqrt(len(patches)))
    return np.array([[[patches[h * side + w][c] for w in range(side)] for h in range(side)]
                     for c in range(len(patches[0]))])


def bins(size, parts):
    """The stretches of `size` places that `parts` equal parts touch."""
    return [range(i * size // parts, -((-(i + 1) * size) // parts)) for i in range(parts)]


def shrunk(x_CHW, H, W, how):
    """Every channel on a coarser grid: the mean or the largest of each patch."""
    return np.array([[[how([channel[h][w] for h in rows for w in columns])
                       for columns in bins(len(channel[0]), W)]
                      for rows in bins(len(channel), H)] for channel in x_CHW])


def mean(values):
    return sum(values) / len(values)


def on_one_grid(a_CHW, b_CHW, how=mean):
    H, W = (min(len(a_CHW[0]), len(b_CHW[0])), min(len(a_CHW[0][0]), len(b_CHW[0][0])))
    return shrunk(a_CHW, H, W, how), shrunk(b_CHW, H, W, how)


def length(vector):
    return math.sqrt(sum(a * a for a in vector))


def direction(vector):
    size = length(vector)
    return [a / size for a in vector]


# --- Romero et al. 2015, equation 3 -------------------------------------------------------------


def hint(student, teacher, variant="paper"):
    def one(s, t):
        squares = [(a - b) ** 2 for a, b in zip(np.ravel(s), np.ravel(t), strict=True)]
        return 0.5 * sum(squares) if variant == "paper" else mean(squares)

    return per_sample(one, student, teacher)


# --- Zagoruyko & Komodakis 2017, equations 1 and 2 ----------------------------------------------


def attention_map(x_CHW, p):
    H, W = len(x_CHW[0]), len(x_CHW[0][0])
    return [[[sum(abs(channel[h][w]) ** p for channel in x_CHW) for w in range(W)]
             for h in range(H)]]


def attention_transfer(student, teacher, p=2, variant="paper"):
    def one(s, t):
        maps = on_one_grid(attention_map(s, p), attention_map(t, p))
        q_s, q_t = (direction(np.ravel(q)) for q in maps)
        difference = [a - b for a, b in zip(q_s, q_t, strict=True)]
        return length(difference) if variant == "paper" else mean([d * d for d in difference])

    return per_sample(one, student, teacher)


# --- Yim et al. 2017, equations 1 and 2 ---------------------------------------------------------


def fsp_matrix(first, last, pool):
    first, last = on_one_grid(first, last, pool)
    H, W = len(first[0]), len(first[0][0])
    return [[sum(f[h][w] * g[h][w] for h in range(H) for w in range(W)) / (H * W)
             for g in last] for f in first]


def fsp(student, teacher, variant="paper"):
    """In the paper the larger layer is max-pooled; the code averages it."""
    pool = mean if variant == "code" else max

    def one(s1, s2, t1, t2):
        squares = [(a - b) ** 2 for a, b in zip(np.ravel(fsp_matrix(s1, s2, pool)),
                                                np.ravel(fsp_matrix(t1, t2, pool)), strict=True)]
        return sum(squares) if variant == "paper" else mean(squares)

    return per_sample(one, *student, *teacher)


# --- Huang & Wang 2017, section 4 ---------------------------------------------------------------


def nst(student, teacher, kernel):
    def one(s, t):
        s, t = on_one_grid(s, t)
        s, t = ([direction(np.ravel(channel)) for channel in x] for x in (s, t))

        def dot(a, b):
            return sum(u * v for u, v in zip(a, b, strict=True))

        def apart(a, b):
            return sum((u - v) ** 2 for u, v in zip(a, b, strict=True))

        sigma2 = mean([apart(a, b) for a in t for b in s])
        k = {"linear": dot,
             "poly": lambda a, b: dot(a, b) ** 2,
             "gaussian": lambda a, b: math.exp(-apart(a, b) / (2 * sigma2))}[kernel]
        return (mean([k(a, b) for a in t for b in t]) + mean([k(a, b) for a in s for b in s])
                - 2 * mean([k(a, b) for a in t for b in s]))

    return per_sample(one, student, teacher)


# --- Ahn et al. 2019, equation 6 ----------------------------------------------------------------


def vid(student, teacher, variances, variant="paper", channel=0):
    """channel: which axis of a sample counts the channels."""

    def one(s, t):
        parts = [math.log(math.sqrt(variances[place[channel]]))
                 + (t[place] - s[place]) ** 2 / (2 * variances[place[channel]])
                 for place in np.ndindex(t.shape)]
        return sum(parts) if variant == "paper" else mean(parts)

    return per_sample(one, student, teacher)


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


# --- Guo et al. 2023, section 3 -----------------------------------------------------------------


def class_attention(student, teacher, size, normalize=True):
    def one(s_maps, t_maps):
        total = 0.0
        for s, t in zip(s_maps, t_maps, strict=True):
            s, t = (np.ravel(averaged(x, size)) for x in (s, t))
            if normalize:
                s, t = direction(s), direction(t)
            total += sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / size**2
        return total / len(s_maps)

    return per_sample(one, student, teacher)


# --- Kim et al. 2018, section 3 -----------------------------------------------------------------


def factor_transfer(student, teacher, variant="code"):
    def one(s, t):
        s, t = (direction(np.ravel(x)) for x in on_one_grid(s, t))
        parts = [abs(a - b) for a, b in zip(s, t, strict=True)]
        return mean(parts) if variant == "code" else sum(parts)

    return per_sample(one, student, teacher)


# --- Heo et al. 2019 (AAAI), section 3 ----------------------------------------------------------


def activation_boundaries(student, teacher, margin=1.0):
    def one(s, t):
        total = 0.0
        for a, b in zip(np.ravel(s), np.ravel(t), strict=True):
            if b > 0 and a < margin:
                total += (margin - a) ** 2
            elif b <= 0 and a > -margin:
                total += (margin + a) ** 2
        return total

    return per_sample(one, student, teacher)


# --- Liu et al. 2021, section 3 -----------------------------------------------------------------


def channel_correlation(student, teacher):
    def rows(x_CHW):
        channels = [np.ravel(channel) for channel in x_CHW]
        return [direction([sum(a * b for a, b in zip(one, other, strict=True))
                           for other in channels]) for one in channels]

    def one(s, t):
        return sum((a - b) ** 2 for s_row, t_row in zip(rows(s), rows(t), strict=True)
                   for a, b in zip(s_row, t_row, strict=True)) / len(s)

    return per_sample(one, student, teacher)


# --- Yang et al. 2021, section 3 ----------------------------------------------------------------


def softmax_regression(student, teacher, weight, beta=1.0):
    def one(s, t):
        logits = [[sum(w * a for w, a in zip(row, x, strict=True)) for row in weight]
                  for x in (s, t)]
        return (mean([(a - b) ** 2 for a, b in zip(s, t, strict=True)])
                + beta * mean([(a - b) ** 2 for a, b in zip(*logits, strict=True)]))

    return per_sample(one, student, teacher)


# --- layers of projectors -----------------------------------------------------------------------


def stack(image, layers):
    """One image [C, H, W] through a list of layers of torch, in eval mode, with the loops above."""
    for layer in layers:
        state = {name: part.double().numpy() for name, part in layer.state_dict().items()}
        kind = type(layer).__name__
        if kind == "Conv2d":
            image = convolved(image, state["weight"], state.get("bias"), layer.padding[0])
        elif kind == "BatchNorm2d":
            image = normalised(image, [state[name] for name in
                                       ("weight", "bias", "running_mean", "running_var")])
        elif kind == "AdaptiveAvgPool2d":
            image = shrunk(image, *layer.output_size, mean)
        elif kind in ("ReLU", "LeakyReLU"):
            image = np.where(image > 0, image, getattr(layer, "negative_slope", 0) * image)
        else:
            assert kind == "Identity"
    return image
