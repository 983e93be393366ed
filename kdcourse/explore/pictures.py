"""Cards with sliders over real numbers: a teacher's logits, a gradient, a divergence.

Shapes: N images, K classes.
"""

import numpy as np

from ._inputs import expect, finite, nine_digits, samples, softmax, to_array
from ._page import Explorable, in_the_book, table


def temperature(logits, classes, images=None, labels=None, T=4.0, title=None, top=8) -> Explorable:
    """Show softmax(logits / T) of a few images, with a slider for T from 1 to 20.

    For one image: the probabilities, their entropy in bits and 2^entropy (as if so many classes
    were equally likely), the share of the wrong classes, and the ratio of the first two of these.

    logits: [N, K], N from 1 to 16; a list, an array, or a tensor on any device.
    classes: K names, in the order of the logits.
    images: [N, 1, H, W] or [N, 3, H, W] in [0, 1]; larger ones are shrunk to 96 pixels.
    labels: [N] class numbers; without them the likeliest class stands for the true one.
    T: where the slider starts, above 0. title: the heading.
    top: how many classes have a bar each; the others share one, unless they are at most two.

    Raises `ValueError` for other shapes and values that are not finite or out of range.

    >>> print(temperature([[6.0, 2.0, 0.0]], ["O", "0", "Q"], labels=[0], T=2))
    What the teacher says at temperature T = 2
    Image 1, O: 84.4 % O, 11.4 % 0, 4.2 % Q; wrong classes 15.6 %, entropy 0.76 bits
    """
    (z_NK,), classes, images, labels, names = samples(
        {"logits": logits}, classes, images, labels, top, unlabelled=True)
    expect(finite(T) and T > 0, "T", "a temperature above 0", repr(T), "usual values are 1 to 20")
    heading = str(title) if title else "What the teacher says at temperature T"
    text = f"{heading} (T = {T:g})" if title else f"{heading} = {T:g}"
    others = "besides the first" if labels is None else "wrong classes"
    lines, rows = [text], []
    for i, z_K in enumerate(z_NK):
        p_K = softmax(z_K, T)
        bits = -(p_K * np.log2(np.maximum(p_K, 1e-300))).sum()
        order = np.argsort(-z_K, kind="stable")
        first = ", ".join(f"{100 * p_K[k]:.1f} % {classes[k]}" for k in order[:3])
        right = order[0] if labels is None else labels[i]
        wrong = f"{100 * np.delete(p_K, right).sum():.1f} %"
        lines.append(f"{names[i]}: {first}; {others} {wrong}, entropy {bits:.2f} bits")
        rows.append((first, wrong, f"{bits:.2f}"))
    heads = ("Image", "First three", others.capitalize(), "Entropy (bits)")
    still = table(text, heads, names, rows, images) + in_the_book("a slider moves T")
    data = {"title": heading, "classes": classes, "logits": nine_digits(z_NK), "labels": labels,
            "images": images, "top": top}
    return Explorable("temperature", data, {"T": float(T), "index": 0}, still, "\n".join(lines))


def push(student, teacher, labels, classes, images=None, T=4.0, alpha=0.9, top=6) -> Explorable:
    """Show minus the gradient of Hinton's loss by class, with sliders for T (1 to 20) and alpha.

    For one image, the loss is (1 - alpha) CE(y, q_1) + alpha T² KL(p_T || q_T). The label pushes
    the student's logits by (1 - alpha) (y - q_1), the teacher by alpha T (p_T - q_T).

    student, teacher: logits [N, K] on the same N images, 1 to 16.
    labels, classes, images: as for `temperature`.
    top: how many classes are shown, those that are pushed most.

    Raises `ValueError` for other shapes and values out of range.

    >>> print(push([[0.0, 0.0]], [[2.0, 0.0]], [0], ["O", "0"], T=1, alpha=0.5))
    What pushes the student at T = 1, alpha = 0.5
    Image 1, O: the label pushes O by +0.250, the teacher by +0.190
    """
    (z_NK, v_NK), classes, images, labels, names = samples(
        {"student": student, "teacher": teacher}, classes, images, labels, top)
    expect(finite(T) and 1 <= T <= 20, "T", "a temperature from 1 to 20", repr(T), "4 is usual")
    expect(finite(alpha) and 0 <= alpha <= 1, "alpha", "a weight from 0 to 1", repr(alpha),
           "0.9 is usual")
    heading = f"What pushes the student at T = {T:g}, alpha = {alpha:g}"
    lines, rows = [heading], []
    for name, z_K, v_K, y in zip(names, z_NK, v_NK, labels, strict=True):
        hard = f"{(1 - alpha) * (1 - softmax(z_K)[y]):+.3f}"
        soft = f"{alpha * T * (softmax(v_K, T) - softmax(z_K, T))[y]:+.3f}"
        lines.append(f"{name}: the label pushes {classes[y]} by {hard}, the teacher by {soft}")
        rows.append((hard, soft))
    heads = ("Image", "Label pushes its logit", "Teacher pushes it")
    still = table(heading, heads, names, rows, images) + in_the_book("T and alpha can be moved")
    data = {"classes": classes, "labels": labels, "student": nine_digits(z_NK),
            "teacher": nine_digits(v_NK), "images": images, "top": min(int(top), len(classes))}
    state = {"index": 0, "T": float(T), "alpha": float(alpha)}
    return Explorable("push", data, state, still, "\n".join(lines))


def gallery(images, labels, classes, answers, title="Who sees what?", top=4) -> Explorable:
    """Show the likeliest classes of several networks for one image, chosen from all or from a
    confusion of the first network.

    images, labels, classes: as for `temperature`, 1 to 40 images; None shows names only.
    answers: by name of the network, its logits [N, K]: {"teacher": ..., "labels only": ...}.
    top: how many classes are shown for each network.

    Raises `ValueError` for other shapes, and when there is no network.

    >>> print(gallery(None, [1], ["O", "0"], {"teacher": [[0, 2]], "student": [[1, 0]]}))
    Who sees what?
    Image 1, 0: teacher says 0 (88.1 %), student says O (73.1 %)
    """
    expect(isinstance(answers, dict) and answers, "answers",
           "a dict of logits by name of the network", repr(answers)[:60],
           "write {'teacher': logits, ...}")
    z_MNK, classes, images, labels, names = samples(answers, classes, images, labels, top, most=40)
    networks, title = [str(name) for name in answers], str(title)
    rows = [[f"{classes[z_K.argmax()]} ({100 * softmax(z_K).max():.1f} %)" for z_K in z_MK]
            for z_MK in zip(*z_MNK, strict=True)]
    lines = [f"{name}: " + ", ".join(map(" says ".join, zip(networks, row, strict=True)))
             for name, row in zip(names, rows, strict=True)]
    still = table(title, ("Image", *networks), names, rows, images)
    data = {"title": title, "classes": classes, "labels": labels, "names": networks,
            "logits": nine_digits(z_MNK), "images": images, "top": min(int(top), len(classes))}
    return Explorable("gallery", data, {"index": 0}, still, "\n".join([title, *lines]))


def divergence(means=(-2.0, 2.0), stds=(0.7, 0.7), weights=(0.6, 0.4), mean=0.0,
               std=1.0) -> Explorable:
    """Show forward against reverse KL of a normal distribution to a mixture of two.

    Sliders move the mean and the standard deviation of the student; buttons go downhill on
    KL(teacher ‖ student) or KL(student ‖ teacher), both in nats.

    means, stds, weights: of the teacher's two components; the weights are made to sum to 1.
    mean, std: of the student at the start.

    Raises `ValueError` for anything but pairs, and values out of range.

    >>> print(divergence(mean=-2, std=0.7))
    One bump for two: student with middle -2 and width 0.7
    KL(teacher ‖ student) 5.864 nats, KL(student ‖ teacher) 0.506 nats
    """
    m, s, w = to_array("means", means), to_array("stds", stds), to_array("weights", weights)
    shapes = [list(x.shape) for x in (m, s, w)]
    expect(shapes == [[2]] * 3, "means", "means, stds and weights of two bumps, a number each",
           shapes, "pass three pairs")
    for name, value in (("stds", s), ("weights", w)):
        expect((value > 0).all(), name, "numbers above 0", value.tolist(), "leave empty bumps out")
    expect(finite(mean), "mean", "a number", repr(mean), "0 is usual")
    expect(finite(std) and std > 0, "std", "a number above 0", repr(std), "1 is usual")
    low, high = float((m - 4 * s).min()), float((m + 4 * s).max())
    expect(low <= mean <= high, "mean", f"a number from {low:g} to {high:g}", mean,
           "start among the bumps")
    narrowest, widest = round(float(s.min()) / 4, 2), round((high - low) / 3, 2)
    expect(narrowest <= std <= widest, "std", f"a width from {narrowest:g} to {widest:g}", std,
           "start with a width like the bumps'")

    def log_normal(mean, std):
        return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)

    def kl(log_p, log_q):
        return float((np.exp(log_p) * (log_p - log_q)).sum() * (x[1] - x[0]))

    x, w = np.linspace(2 * low - high, 2 * high - low, 1601), w / w.sum()
    teacher = np.logaddexp(*(np.log(w[i]) + log_normal(m[i], s[i]) for i in range(2)))
    student = log_normal(mean, std)
    first = f"One bump for two: student with middle {mean:g} and width {std:g}"
    second = (f"KL(teacher ‖ student) {kl(teacher, student):.3f} nats, "
              f"KL(student ‖ teacher) {kl(student, teacher):.3f} nats")
    hint = in_the_book("two sliders move the student")
    still = f"<p><strong>{first}.</strong> {second}.</p>{hint}"
    data = {"means": m.tolist(), "stds": s.tolist(), "weights": w.tolist(), "low": low,
            "high": high, "narrowest": narrowest, "widest": widest}
    state = {"mean": float(mean), "std": float(std)}
    return Explorable("divergence", data, state, still, f"{first}\n{second}")


def layers(tables, rows, columns, steps=None, rows_title="student", columns_title="teacher",
           unit="Epoch", title="Which layers see alike?") -> Explorable:
    """Show how alike the layers of two networks are (such as `kd.measure.cka_matrix`), by step.

    tables: [S, R, C] or [R, C], from 0 to 1: for each of S steps a table of R rows, C columns.
    rows, columns: the names of the layers.
    steps: S names, such as the epochs; 1 to S when left out. unit: what a step is.

    Raises `ValueError` for other shapes, and for values outside 0 to 1.

    >>> print(layers([[[0.2, 0.1]], [[0.3, 0.9]]], ["conv1"], ["stem", "layer1"], steps=[0, 10]))
    Which layers see alike?
    Epoch 0: most alike are conv1 and stem, 0.20
    Epoch 10: most alike are conv1 and layer1, 0.90
    """
    t_SRC = to_array("tables", tables)
    t_SRC = t_SRC[None] if t_SRC.ndim == 2 else t_SRC
    rows, columns = [str(name) for name in rows], [str(name) for name in columns]
    expect(t_SRC.ndim == 3 and t_SRC.shape[1:] == (len(rows), len(columns)) and t_SRC.size,
           "tables", f"[S, {len(rows)}, {len(columns)}], a row and a column for each name",
           list(t_SRC.shape), "pass the names in the order of the table")
    expect(t_SRC.min() >= 0 and t_SRC.max() <= 1 + 1e-6, "tables", "values from 0 to 1",
           f"{t_SRC.min():.3g} to {t_SRC.max():.3g}", "pass a similarity such as CKA")
    steps = [str(step) for step in (range(1, len(t_SRC) + 1) if steps is None else steps)]
    expect(len(steps) == len(t_SRC), "steps", f"{len(t_SRC)} names, one for each table",
           len(steps), "leave them out to count")
    lines = [str(title)]
    for step, t_RC in zip(steps, t_SRC, strict=True):
        r, c = np.unravel_index(t_RC.argmax(), t_RC.shape)
        lines.append(f"{unit} {step}: most alike are {rows[r]} and {columns[c]}, {t_RC[r, c]:.2f}")
    last = [[f"{x:.2f}" for x in row] for row in t_SRC[-1]]
    still = table(f"{title} {unit} {steps[-1]}", ("", *columns), rows, last)
    data = {"title": str(title), "tables": nine_digits(t_SRC.clip(0, 1)), "rows": rows,
            "columns": columns, "steps": steps, "unit": str(unit), "rows_title": str(rows_title),
            "columns_title": str(columns_title)}
    return Explorable("layers", data, {"step": len(steps) - 1}, still, "\n".join(lines))
