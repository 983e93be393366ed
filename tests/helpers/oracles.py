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


# --- response -----------------------------------------------------------------------------------


def kl(log_a, log_b):
    """KL(a || b) of one pair of rows of log-probabilities; a class without any adds nothing."""
    return sum(math.exp(a) * (a - b) for a, b in zip(log_a, log_b, strict=True) if math.exp(a) > 0)


def answers(student, teacher, T):
    """(log q, log p), sample by sample."""
    return [(log_softmax(s, T), log_softmax(t, T)) for s, t in zip(student, teacher, strict=True)]


def reverse_kl(student, teacher, T):
    """T² KL(q || p), one value per sample."""
    return np.array([T**2 * kl(log_q, log_p) for log_q, log_p in answers(student, teacher, T)])


def jensen_shannon(student, teacher, beta, T, variant):
    """Agarwal et al. 2024, equation 1; "scaled": over beta (1 - beta), and its two limits."""
    values = []
    for log_q, log_p in answers(student, teacher, T):
        if beta in (0, 1):
            ends = kl(log_p, log_q) if beta == 0 else kl(log_q, log_p)
            values.append(T**2 * ends if variant == "scaled" else 0.0)
            continue
        log_m = [math.log(beta * math.exp(p) + (1 - beta) * math.exp(q))
                 for q, p in zip(log_q, log_p, strict=True)]
        D = beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)
        values.append(T**2 * (D / (beta * (1 - beta)) if variant == "scaled" else D))
    return np.array(values)


def mixed(log_a, log_b, share):
    """log(share a + (1 - share) b)."""
    sums = [share * math.exp(a) + (1 - share) * math.exp(b)
            for a, b in zip(log_a, log_b, strict=True)]
    return [math.log(x) if x > 0 else -math.inf for x in sums]


def skew_kl(student, teacher, alpha, T):
    """T² KL(p || alpha p + (1 - alpha) q), one value per sample (Ko et al. 2024, section 3.1)."""
    return np.array([T**2 * kl(log_p, mixed(log_p, log_q, alpha))
                     for log_q, log_p in answers(student, teacher, T)])


def skew_reverse_kl(student, teacher, alpha, T):
    """T² KL(q || (1 - alpha) p + alpha q), one value per sample."""
    return np.array([T**2 * kl(log_q, mixed(log_q, log_p, alpha))
                     for log_q, log_p in answers(student, teacher, T)])


def symmetric_kl(student, teacher, beta, T):
    """T² times the weighted mean of both KL divergences, one value per sample."""
    return np.array([T**2 * ((1 - beta) * kl(log_p, log_q) + beta * kl(log_q, log_p))
                     for log_q, log_p in answers(student, teacher, T)])


def total_variation(student, teacher, T):
    """Half the sum of |p - q|, one value per sample."""
    return np.array([
        sum(abs(math.exp(p) - math.exp(q)) for q, p in zip(log_q, log_p, strict=True)) / 2
        for log_q, log_p in answers(student, teacher, T)
    ])


def uld(student, teacher, T=1.0):
    """Boizard et al. 2024: sum of |q - p| of the sorted probabilities, one value per sample."""
    found = []
    for s, t in zip(student, teacher, strict=True):
        q, p = (sorted(softmax([z / T for z in x]), reverse=True) for x in (s, t))
        count = max(len(q), len(p))
        q, p = q + [0.0] * (count - len(q)), p + [0.0] * (count - len(p))
        found.append(sum(abs(a - b) for a, b in zip(q, p, strict=True)))
    return np.array(found)


def dkd_parts(student, teacher, labels, T):
    """TCKD and NCKD of Zhao et al. 2022, equations 2 to 7, without T²; one pair per sample."""
    pairs = []
    for s, t, y in zip(student, teacher, labels, strict=True):
        binary, others = [], []
        for row in (s, t):
            rest = [float(z) for k, z in enumerate(row) if k != int(y)]
            top = max(rest)
            together = top + T * math.log(sum(math.exp((z - top) / T) for z in rest))
            binary.append(log_softmax([row[int(y)], together], T))
            others.append(log_softmax(rest, T))
        pairs.append((kl(binary[1], binary[0]), kl(others[1], others[0])))
    return np.array(pairs)


def dkd(student, teacher, labels, alpha, beta, T, ddof=None):
    """Zhao et al. 2022, equation 8, times T²; of z-scores unless `ddof` is None."""
    student, teacher = z_scores(student, ddof), z_scores(teacher, ddof)
    return np.array([T**2 * (alpha * target + beta * others)
                     for target, others in dkd_parts(student, teacher, labels, T)])


def nkd(student, teacher, labels, gamma, T):
    """Yang et al. 2023: cross-entropy of the target at temperature 1, and of the others at T."""
    values = []
    for s, t, y in zip(student, teacher, labels, strict=True):
        others = [[float(z) for k, z in enumerate(row) if k != int(y)] for row in (s, t)]
        values.append(-softmax(t)[int(y)] * log_softmax(s)[int(y)]
                      + gamma * T**2 * cross(softmax(others[1], T), log_softmax(others[0], T)))
    return np.array(values)


def ofa(student, teacher, labels, gamma, T, variant):
    """Hao et al. 2023: "paper" as printed; "code" as the authors' repository has it."""
    values = []
    for s, t, y in zip(student, teacher, labels, strict=True):
        weights = [((p + (k == int(y))) ** gamma - (k == int(y))) if variant == "code"
                   else (1 + p) ** gamma if k == int(y) else p
                   for k, p in enumerate(softmax(t, T))]
        values.append(cross(weights, log_softmax(s, T)))
    return np.array(values)


def logit_mse(student, teacher, variant):
    """Ba & Caruana 2014, equation 1, per sample, and without the half, and the mean."""
    factor = {"half": 1 / 2, "sum": 1.0, "mean": 1 / len(student[0])}[variant]
    return np.array([
        factor * sum((float(z) - float(v)) ** 2 for z, v in zip(s, t, strict=True))
        for s, t in zip(student, teacher, strict=True)
    ])


def squared_error(student, targets):
    """The mean squared difference, per sample."""
    return np.array([sum((float(z) - float(y)) ** 2 for z, y in zip(s, t, strict=True)) / len(s)
                     for s, t in zip(student, targets, strict=True)])


def centred(row):
    """A row minus its mean, or None where that is nothing but rounding."""
    mean = sum(float(x) for x in row) / len(row)
    away = [float(x) - mean for x in row]
    return away if sum(x * x for x in away) > 1e-24 * sum(float(x) ** 2 for x in row) else None


def z_score(row, T, ddof):
    """Sun et al. 2024, algorithm 1; a row without spread has score 0."""
    away = centred(row)
    if away is None:
        return [0.0 for _ in row]
    sigma = math.sqrt(sum(x * x for x in away) / (len(row) - ddof))
    return [x / sigma / T for x in away]


def logit_standardization(student, teacher, T, variant):
    """Sun et al. 2024, algorithm 2; the authors' code divides the variance by K - 1."""
    ddof = 0 if variant == "paper" else 1
    return np.array([
        T**2 * kl(log_softmax(z_score(t, T, ddof)), log_softmax(z_score(s, T, ddof)))
        for s, t in zip(student, teacher, strict=True)
    ])


def z_scores(x, ddof):
    """Rows of z-scores; None leaves them as they are."""
    return x if ddof is None else [z_score(row, 1, ddof) for row in x]


def gram(rows):
    """Inner products of all pairs of rows."""
    return [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows]
            for one in rows]


def mlkd(student, teacher, temperatures, instance, batch, classes, ddof=None):
    """Jin et al. 2023: KL of samples, Gram matrices of samples and of classes, added over T."""
    B, K = len(student), len(student[0])
    loss = 0.0
    for T in temperatures:
        q, p = ([softmax(row, T) for row in x] for x in (student, teacher))
        loss += instance * sum(kd(z_scores(student, ddof), z_scores(teacher, ddof), T)) / B
        for weight, size, one, other in ((batch, B, q, p),
                                         (classes, K, [*zip(*q, strict=True)],
                                          [*zip(*p, strict=True)])):
            loss += weight / size * sum(
                (a - b) ** 2 for row_a, row_b in zip(gram(one), gram(other), strict=True)
                for a, b in zip(row_a, row_b, strict=True))
    return loss


def pearson_distance(a, b, eps=0.0):
    """1 - correlation; two flat rows agree, and one flat row correlates with nothing. The authors'
    code adds an eps to the denominator, and flat rows have 0 above it."""
    a, b = centred(a), centred(b)
    if a is None or b is None:
        return 0.0 if a is b and not eps else 1.0
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - product / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)) + eps)


def dist(student, teacher, beta, gamma, T, variant):
    """Huang et al. 2022: inter-class over rows, intra-class over columns, both means."""
    q, p = ([softmax(row, T) for row in x] for x in (student, teacher))
    eps = 1e-8 if variant == "code" else 0.0
    rows = [pearson_distance(a, b, eps) for a, b in zip(q, p, strict=True)]
    columns = [pearson_distance(a, b, eps) for a, b in
               zip(zip(*q, strict=True), zip(*p, strict=True), strict=True)]
    loss = beta * sum(rows) / len(rows) + gamma * sum(columns) / len(columns)
    return loss * (T**2 if variant == "code" else 1)


def hard_label(student, teacher, smoothing):
    """Touvron et al. 2021, equation 3: the teacher's part, without its weight of 1/2."""
    choices = [max(range(len(t)), key=lambda k, t=t: float(t[k])) for t in teacher]
    return label_smoothing(student, choices, smoothing)


def virtual_teacher(student, labels, a, T, variant):
    """Yuan et al. 2020, equations 8 and 9, times T²; "code": as the authors' code has it, with a
    sum over classes."""
    values = []
    for s, y in zip(student, labels, strict=True):
        K = len(s)
        p = [a if k == int(y) else (1 - a) / (K - 1) for k in range(K)]
        if variant == "code":
            values.append(kl(log_softmax(p, T), log_softmax(s)))
        else:
            soft = [x ** (1 / T) for x in p]
            log_soft = [math.log(x / sum(soft)) for x in soft]
            values.append(T**2 * kl(log_soft, log_softmax(s, T)))
    return np.array(values)
