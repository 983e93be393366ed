"""Cards with sliders over real numbers: a teacher's logits, a gradient, a divergence.

Shapes: N images, K classes.
"""

import math

import numpy as np

from ._inputs import as_images, as_labels, as_logits, finite, nine_digits, softmax
from ._page import Explorable, expect, table, to_array


def temperature(logits, classes, images=None, labels=None, T=4.0, title=None, top=8) -> Explorable:
    """A temperature slider over real logits: what a softened teacher says about a few images.

    The reader picks an image and moves T from 1 to 20, and sees softmax(logits / T), its entropy
    in bits (and 2^entropy: as if so many classes were equally likely), the share of the wrong
    classes, and the ratio of the first two among them. Without `labels` the teacher's first choice
    takes the place of the true class.

    logits: [N, K], N from 1 to 16; a list, an array, or a tensor on any device.
    classes: K names, in the order of the logits.
    images: [N, 1, H, W] or [N, 3, H, W] in [0, 1]; larger ones are shrunk to 96 pixels.
    labels: [N] class numbers.
    T: where the slider starts, above 0.
    title: what stands above, instead of "What the teacher says at temperature T".
    top: so many classes have a bar of their own, the others share one (all have one when K is at
    most top + 2).

    Raises `ValueError` for other shapes, values that are not finite, T <= 0, labels outside 0 to
    K - 1.

    >>> print(temperature([[6.0, 2.0, 0.0]], ["O", "0", "Q"], labels=[0], T=2))
    What the teacher says at temperature T = 2
    Image 1, O: 84.4 % O, 11.4 % 0, 4.2 % Q; wrong classes 15.6 %, entropy 0.76 bits
    """
    classes = [str(name) for name in classes]
    z_NK = as_logits("logits", logits, classes)
    expect(finite(T) and T > 0, "T", "a temperature above 0", repr(T), "usual values are 1 to 20")
    expect(finite(top) and top >= 2, "top", "a number of at least 2", repr(top), "8 is usual")
    labels = None if labels is None else as_labels(labels, *z_NK.shape)
    images = None if images is None else as_images(images, len(z_NK))

    heading = str(title) if title else "What the teacher says at temperature T"
    text = f"{heading} (T = {T:g})" if title else f"{heading} = {T:g}"
    others = "besides the first" if labels is None else "wrong classes"
    lines, rows = [text], []
    for i, z_K in enumerate(z_NK):
        p_K = softmax(z_K, T)
        bits = -(p_K * np.log2(np.maximum(p_K, 1e-300))).sum()
        order = np.argsort(-z_K, kind="stable")
        answer = order[0] if labels is None else labels[i]
        first = ", ".join(f"{100 * p_K[k]:.1f} % {classes[k]}" for k in order[:3])
        wrong = f"{100 * np.delete(p_K, answer).sum():.1f} %"
        name = f"Image {i + 1}" + ("" if labels is None else f", {classes[answer]}")
        lines.append(f"{name}: {first}; {others} {wrong}, entropy {bits:.2f} bits")
        rows.append((name, (first, wrong, f"{bits:.2f}"), images and images[i]))
    heads = ("Image", "First three", others.capitalize(), "Entropy (bits)")
    still = (table(text, heads, rows) +
             "<p>In the book, and in a notebook that is trusted, a slider moves T here.</p>")
    data = {"title": heading, "classes": classes, "logits": nine_digits(z_NK), "labels": labels,
            "images": images, "top": top}
    state = {"T": float(T), "index": 0}
    return Explorable("temperature", data, state, still, "\n".join(lines))


def push(student, teacher, labels, classes, images=None, T=4.0, alpha=0.9, top=6) -> Explorable:
    """What pushes the student: minus the gradient of Hinton's loss, by class, at T and alpha.

    For one image, the loss is (1 - alpha) CE(y, q_1) + alpha T² KL(p_T || q_T). The label pushes
    the student's logits by (1 - alpha) (y - q_1), the teacher by alpha T (p_T - q_T). The reader
    picks the image, T (1 to 20) and alpha (0 to 1).

    student, teacher: logits [N, K] on the same N images, 1 to 16.
    labels: [N] class numbers. classes: K names.
    images: [N, 1, H, W] or [N, 3, H, W] in [0, 1]; larger ones are shrunk to 96 pixels.
    top: so many classes are shown, those that are pushed most.

    Raises `ValueError` for other shapes, T outside 1 to 20, alpha outside 0 to 1.

    >>> print(push([[0.0, 0.0]], [[2.0, 0.0]], [0], ["O", "0"], T=1, alpha=0.5))
    What pushes the student at T = 1, alpha = 0.5
    Image 1, O: the label pushes O by +0.250, the teacher by +0.190
    """
    classes = [str(name) for name in classes]
    z_NK, v_NK = as_logits("student", student, classes), as_logits("teacher", teacher, classes)
    expect(z_NK.shape == v_NK.shape, "teacher", f"logits of shape {list(z_NK.shape)}, as the "
           "student's", list(v_NK.shape), "ask both about the same images")
    labels = as_labels(labels, *z_NK.shape)
    images = None if images is None else as_images(images, len(z_NK))
    expect(finite(T) and 1 <= T <= 20, "T", "a temperature from 1 to 20", repr(T), "4 is usual")
    expect(finite(alpha) and 0 <= alpha <= 1, "alpha", "a weight from 0 to 1", repr(alpha),
           "0.9 is usual")
    expect(finite(top) and top >= 2, "top", "a number of at least 2", repr(top), "6 is usual")
    heading = f"What pushes the student at T = {T:g}, alpha = {alpha:g}"
    lines, rows = [heading], []
    for i, (z_K, v_K, y) in enumerate(zip(z_NK, v_NK, labels, strict=True)):
        hard = (1 - alpha) * (1 - softmax(z_K)[y])
        soft = alpha * T * (softmax(v_K, T) - softmax(z_K, T))[y]
        lines.append(f"Image {i + 1}, {classes[y]}: the label pushes {classes[y]} by {hard:+.3f}, "
                     f"the teacher by {soft:+.3f}")
        rows.append((f"Image {i + 1}, {classes[y]}", (f"{hard:+.3f}", f"{soft:+.3f}"),
                     images and images[i]))
    still = (table(heading, ("Image", "Label pushes its logit", "Teacher pushes it"), rows) +
             "<p>In the book, and in a notebook that is trusted, T and alpha can be moved here."
             "</p>")
    data = {"classes": classes, "labels": labels, "student": nine_digits(z_NK),
            "teacher": nine_digits(v_NK), "images": images, "top": min(int(top), len(classes))}
    state = {"index": 0, "T": float(T), "alpha": float(alpha)}
    return Explorable("push", data, state, still, "\n".join(lines))


def gallery(images, labels, classes, answers, title="Who sees what?", top=4) -> Explorable:
    """What several networks say about the same images, side by side.

    The reader picks an image, or a confusion of the first network, and sees the classes to which
    each network gives most.

    images: [N, 1, H, W] or [N, 3, H, W] in [0, 1], 1 to 40 of them; None shows names only.
    labels: [N] class numbers. classes: K names.
    answers: by name of the network, its logits [N, K], for example
        {"teacher": ..., "labels only": ..., "distilled": ...}.
    top: so many classes are shown for each network.

    Raises `ValueError` for other shapes, and when there is no network.

    >>> print(gallery(None, [1], ["O", "0"], {"teacher": [[0, 2]], "student": [[1, 0]]}))
    Who sees what?
    Image 1, 0: teacher says 0 (88.1 %), student says O (73.1 %)
    """
    classes = [str(name) for name in classes]
    given = isinstance(answers, dict) and len(answers) > 0
    expect(given, "answers", "a dict of logits by name of the network", repr(answers)[:60],
           "write {'teacher': logits, ...}")
    z_MNK = [as_logits(str(name), z, classes, most=40) for name, z in answers.items()]
    names, N = [str(name) for name in answers], len(z_MNK[0])
    for name, z_NK in zip(names, z_MNK, strict=True):
        expect(len(z_NK) == N, name, f"logits of {N} images, as {names[0]}", len(z_NK),
               "ask all of them about the same images")
    labels = as_labels(labels, N, len(classes))
    images = None if images is None else as_images(images, N)
    expect(finite(top) and top >= 2, "top", "a number of at least 2", repr(top), "4 is usual")
    lines, rows = [str(title)], []
    for i, y in enumerate(labels):
        said = [f"{classes[z_NK[i].argmax()]} ({100 * softmax(z_NK[i]).max():.1f} %)"
                for z_NK in z_MNK]
        name = f"Image {i + 1}, {classes[y]}"
        lines.append(f"{name}: " + ", ".join(
            f"{network} says {what}" for network, what in zip(names, said, strict=True)))
        rows.append((name, said, images and images[i]))
    still = table(str(title), ("Image", *names), rows)
    data = {"title": str(title), "classes": classes, "labels": labels, "names": names,
            "logits": nine_digits(z_MNK), "images": images, "top": min(int(top), len(classes))}
    return Explorable("gallery", data, {"index": 0}, still, "\n".join(lines))


def divergence(means=(-2.0, 2.0), stds=(0.7, 0.7), weights=(0.6, 0.4), mean=0.0,
               std=1.0) -> Explorable:
    """Forward against reverse KL: one normal distribution in the place of a mixture.

    The reader moves the middle and the width of the student's bump, sees KL(teacher ‖ student) and
    KL(student ‖ teacher) in nats, and can go downhill on either.

    means, stds, weights: of the teacher's two bumps; the weights are made to sum to 1.
    mean, std: of the student's bump at the start.

    Raises `ValueError` for anything but pairs, widths or weights that are not above 0.

    >>> print(divergence(mean=-2, std=0.7))
    One bump for two: student with middle -2 and width 0.7
    KL(teacher ‖ student) 5.864 nats, KL(student ‖ teacher) 0.506 nats
    """
    mixture = [to_array(name, value) for name, value in
               (("means", means), ("stds", stds), ("weights", weights))]
    m, s, w = mixture
    expect(m.shape == s.shape == w.shape == (2,), "means",
           "means, stds and weights of two bumps, a number each",
           [list(x.shape) for x in mixture], "pass three pairs")
    for name, value in (("stds", s), ("weights", w)):
        expect((value > 0).all(), name, "numbers above 0", value.tolist(), "leave empty bumps out")
    expect(finite(mean), "mean", "a number", repr(mean), "0 is usual")
    expect(finite(std) and std > 0, "std", "a number above 0", repr(std), "1 is usual")
    w = w / w.sum()
    low, high = float((m - 4 * s).min()), float((m + 4 * s).max())
    widest = round((high - low) / 3, 2)
    expect(low <= mean <= high, "mean", f"a number from {low:g} to {high:g}", mean,
           "start among the bumps")
    narrowest = round(float(s.min()) / 4, 2)
    expect(narrowest <= std <= widest, "std", f"a width from {narrowest:g} to {widest:g}", std,
           "start with a width like the bumps'")

    x = np.linspace(2 * low - high, 2 * high - low, 1601)
    log_p = np.logaddexp.reduce([np.log(wi) + _log_normal(x, mi, si)
                                 for mi, si, wi in zip(m, s, w, strict=True)])
    log_q = _log_normal(x, mean, std)
    forward = float((np.exp(log_p) * (log_p - log_q)).sum() * (x[1] - x[0]))
    reverse = float((np.exp(log_q) * (log_q - log_p)).sum() * (x[1] - x[0]))
    first = f"One bump for two: student with middle {mean:g} and width {std:g}"
    second = (f"KL(teacher ‖ student) {forward:.3f} nats, KL(student ‖ teacher) {reverse:.3f} nats")
    still = (f"<p><strong>{first}.</strong> {second}.</p><p>In the book, and in a notebook that is "
             "trusted, two sliders move the student here.</p>")
    data = {"means": m.tolist(), "stds": s.tolist(), "weights": w.tolist(), "low": low,
            "high": high, "narrowest": narrowest, "widest": widest}
    state = {"mean": float(mean), "std": float(std)}
    return Explorable("divergence", data, state, still, f"{first}\n{second}")


def layers(tables, rows, columns, steps=None, rows_title="student", columns_title="teacher",
           unit="Epoch", title="Which layers see alike?") -> Explorable:
    """How alike the layers of two networks are (such as `kd.measure.cka_matrix`), step by step.

    tables: [S, R, C] or [R, C], from 0 to 1: for each of S steps a table of R rows, C columns.
    rows, columns: the names of the layers.
    steps: S names, such as the epochs; 1 to S when left out.
    unit: what a step is.

    Raises `ValueError` for other shapes, and for values outside 0 to 1.

    >>> print(layers([[[0.2, 0.1]], [[0.3, 0.9]]], ["conv1"], ["stem", "layer1"], steps=[0, 10]))
    Which layers see alike?
    Epoch 0: most alike are conv1 and stem, 0.20
    Epoch 10: most alike are conv1 and layer1, 0.90
    """
    t_SRC = to_array("tables", tables)
    t_SRC = t_SRC[None] if t_SRC.ndim == 2 else t_SRC
    rows, columns = [str(name) for name in rows], [str(name) for name in columns]
    expect(t_SRC.ndim == 3 and t_SRC.shape[1:] == (len(rows), len(columns)) and t_SRC.size > 0,
           "tables", f"[S, {len(rows)}, {len(columns)}], a row and a column for each name",
           list(t_SRC.shape), "pass the names in the order of the table")
    inside = (t_SRC >= 0).all() and (t_SRC <= 1 + 1e-6).all()
    expect(inside, "tables", "values from 0 to 1", f"{t_SRC.min():.3g} to {t_SRC.max():.3g}",
           "pass a likeness such as CKA")
    steps = [str(step) for step in (range(1, len(t_SRC) + 1) if steps is None else steps)]
    expect(len(steps) == len(t_SRC), "steps", f"{len(t_SRC)} names, one for each table",
           len(steps), "leave them out to count")
    lines = [str(title)]
    for step, t_RC in zip(steps, t_SRC, strict=True):
        r, c = np.unravel_index(t_RC.argmax(), t_RC.shape)
        lines.append(f"{unit} {step}: most alike are {rows[r]} and {columns[c]}, {t_RC[r, c]:.2f}")
    last = [(name, [f"{x:.2f}" for x in line], None)
            for name, line in zip(rows, t_SRC[-1], strict=True)]
    still = table(f"{title} {unit} {steps[-1]}", ("", *columns), last)
    data = {"title": str(title), "tables": nine_digits(t_SRC.clip(0, 1)), "rows": rows,
            "columns": columns, "steps": steps, "unit": str(unit), "rows_title": str(rows_title),
            "columns_title": str(columns_title)}
    return Explorable("layers", data, {"step": len(steps) - 1}, still, "\n".join(lines))


def _log_normal(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)
