"""Published weights: the last table of notation.md, and the docstrings."""

import functools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import oracles, oracles_attention, oracles_feature, oracles_relation
from helpers.laws import randn

from kdcourse import losses
from kdcourse.taps import Output

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "notation.md").read_text("utf-8")
B, K, H, W, M = 6, 5, 4, 4, 40  # M training samples
ROWS = dict(re.findall(r"^\| (?!method|---)(.*?) \| .* \| `(.*?)`[^|]*\|$",
                       PAGE.split("tab-published")[1].split("\n:::")[0], re.M))


def views(seed):
    """What student and teacher return; the teacher's vectors are wider."""
    outputs = []
    for side, letter in enumerate("st"):
        at = lambda i, *shape, side=side: 1.5 * randn(B, *shape, seed=100 * seed + 10 * side + i)  # noqa: E731
        taps = {f"{letter}1": at(1, 3, 8, 8), f"{letter}2": at(2, 4, H, W),
                f"{letter}3": at(3, 6, 2, 2), letter: at(4, 7 + side), "h": at(5, 9, 8 + side),
                "v": at(6, 9, 12), "a": at(7, 2, 9, 9).softmax(-1),
                "maps": at(9, K, 8 - 4 * side, 8), "b1": at(10, 10, 8 + side),
                "b2": at(11, 10, 8 + side), "norm": at(12, 10, 8 + side),
                "qkv": at(13, 4, 3 * 48 * (1 + side))}
        outputs.append(Output(at(8, K), taps, torch.arange(B)))
    return outputs


# --- what is published, in NumPy. s, t: the tensors by name; of: the terms of the objective ------


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def squares(a, b):
    return ((a - b) ** 2).mean()


def direction(x, axis=-1):
    return x / np.sqrt((x**2).sum(axis, keepdims=True))


def through(layer, x):
    """The result of a trained layer."""
    with torch.no_grad():
        return layer(torch.as_tensor(x)).numpy()


def drawn(term, shape):
    """The numbers behind a mask, which are always the same without gradients."""
    with torch.no_grad():
        return term.noise(shape, torch.zeros(())).numpy()


def attention(x):
    return direction((x**2).mean(1).reshape(B, -1))


def at(i, s, t):
    return squares(attention(s[f"s{i}"]), attention(t[f"t{i}"]))


def at_of_the_paper(s, t, of):
    gap = attention(s["s2"]) - attention(t["t2"])
    beta = 1000 / (H * W * B)
    return beta / 2 * np.sqrt((gap**2).sum(1)).sum()


def averaged(x, size):
    return x.reshape(*x.shape[:2], size, x.shape[2] // size, size, -1).mean((3, 5))


def flow(first, last):
    size = last.shape[2]
    return np.einsum("bphw,bqhw->bpq", averaged(first, size), last) / size**2


def fsp(s, t, of):
    pairs = ("1", "2"), ("2", "3")
    return sum(squares(flow(s["s" + a], s["s" + b]), flow(t["t" + a], t["t" + b]))
               for a, b in pairs)


def nst(s, t, of):
    total = 0
    for i in "123":
        a, b = (direction(x.reshape(*x.shape[:2], -1)) for x in (s["s" + i], t["t" + i]))
        kernel = lambda x, y: (np.einsum("bin,bjn->bij", x, y) ** 2).mean((1, 2))  # noqa: E731
        total += (kernel(b, b) + kernel(a, a) - 2 * kernel(a, b)).mean()
    return 50 * total


def hint(s, t, of):
    convolution, norm, _ = of["Hint"].regressor
    weight, bias = (p.detach().numpy() for p in convolution.parameters())
    x = np.einsum("bchw,oc->bohw", s["s2"], weight[:, :, 0, 0]) + bias[:, None, None]
    x = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + norm.eps)
    return 100 * squares(np.maximum(x, 0), t["t2"])


def vid(s, t, of):
    total = 0
    for i, term in zip("123", of.values(), strict=True):
        with torch.no_grad():
            mean = term.mean(torch.as_tensor(s["s" + i])).numpy()
            variance = term.variance_C.numpy()[:, None, None]
        total += 0.5 * ((mean - t["t" + i]) ** 2 / variance + np.log(variance)).mean()
    return total


def ofd(s, t, of):
    total = 0
    for i, term in zip("321", of.values(), strict=True):
        with torch.no_grad():
            source = term.connector(torch.as_tensor(s["s" + i])).numpy()
        target = t["t" + i]
        margin = [channel[channel < 0].mean() for channel in target.swapaxes(0, 1)]
        target = np.maximum(target, np.array(margin)[:, None, None])
        counted = (source > target) | (target > 0)
        total += ((source - target) ** 2 * counted).sum() / 2 ** (3 - int(i))
    return total / B / 1000


def review(s, t, of):
    results, deeper = [], None
    for i, fusion in reversed(list(zip("123", of["ReviewKD"].fusions, strict=True))):
        with torch.no_grad():
            result, deeper = fusion(torch.as_tensor(s["s" + i]), deeper, t["t" + i].shape[2:])
        results.insert(0, result.numpy())
    return 5 * oracles_feature.review(results, [t["t" + i] for i in "123"]).mean()


def factors(s, t, of):
    term = of["FT"]
    sides = through(term.translator, s["s3"]), through(term.paraphraser.encoder, t["t3"])
    return 500 * oracles_feature.factor_transfer(*sides).mean()


def boundaries(s, t, of):
    total = 0
    for i, term in zip("321", of.values(), strict=True):
        source = through(term.connector, s["s" + i])
        values = oracles_feature.activation_boundaries(source, t["t" + i])
        total += 3 * values.sum() / 1000 / B / 2 ** (3 - int(i))
    return total


def class_maps(s, t, of, weight=15, normalize=False):
    return weight * oracles_feature.class_attention(s["maps"], t["maps"], 2, normalize).mean()


def mgd(s, t, of):
    term = of["MGD"]
    kept = drawn(term, (B, 6, 1, 1)) >= 0.15
    return 7e-5 * ((through(term.generate, s["s3"] * kept) - t["t3"]) ** 2).sum() / B


def vitkd(s, t, of):
    term = of["ViTKD"]
    patches = lambda x: x[:, 1:].swapaxes(1, 2).reshape(B, -1, 3, 3)  # noqa: E731
    paths = "b1", "b2", "norm"
    ours = [through(f, patches(s[path])) for f, path in zip(term.align, paths, strict=True)]
    theirs = [patches(t[path]) for path in paths]
    low = sum(((a - b) ** 2).sum() for a, b in zip(ours[:2], theirs[:2], strict=True)) / B
    order = drawn(term, (B, 9)).argsort(1).argsort(1)
    masked = (order >= 4).reshape(B, 1, 3, 3)  # 5 of 9 patches: the half, rounded up
    token = term.mask_token.detach().numpy()[:, None, None]
    made = through(term.generate, np.where(masked, token, ours[2]))
    high = (((made - theirs[2]) * masked) ** 2).sum() / B / 0.5
    return 3e-5 * low + 3e-6 * high + nkd(s, t, of, gamma=1)


def ickd(s, t, of):
    source = through(of["ICKD"].connector, s["s3"])
    return 4 * oracles_feature.channel_correlation(source, t["t3"]).mean()


def srrl(s, t, of):
    source = through(of["SRRL"].connector, s["s3"]).mean((2, 3))
    weight = of["SRRL"].weight.numpy()
    return oracles_feature.softmax_regression(source, t["t3"].mean((2, 3)), weight).mean()


def semckd(s, t, of):
    term, errors = of["SemCKD"], np.zeros((B, 3, 3))

    def embedded(x, layer):  # the similarities, with 0 for the 58 samples that lack in the batch
        x = x.reshape(B, -1)
        return direction(through(layer, np.pad(x @ x.T, ((0, 0), (0, 64 - B)))))
    for i, j in np.ndindex(3, 3):
        a, b = s[f"s{i + 1}"], t[f"t{j + 1}"]
        size = min(a.shape[2], b.shape[2])
        made = through(term.projectors[3 * i + j], averaged(a, size))
        errors[:, i, j] = ((made - averaged(b, size)) ** 2).mean((1, 2, 3))
    queries, keys = (np.stack([embedded(side[f"{letter}{i + 1}"], layers[i]) for i in range(3)], 1)
                     for side, letter, layers in ((s, "s", term.queries), (t, "t", term.keys)))
    weights = np.exp(log_softmax(queries @ keys.swapaxes(1, 2)))
    return soft(s, t) + 400 * (weights * errors).sum((1, 2)).mean() / 3


def sp(s, t, of):
    rows = [direction(x.reshape(B, -1) @ x.reshape(B, -1).T) for x in (s["s3"], t["t3"])]
    return 3000 * ((rows[1] - rows[0]) ** 2).sum() / B**2


def cc(s, t, of):
    def kernel(x):
        x = direction(x) @ direction(x).T
        return np.exp(-0.8) * (1 + 0.8 * x + 0.8**2 / 2 * x**2)
    return 100 * squares(kernel(s["s"]), kernel(t["t"]))


def smooth_l1(a, b):
    gap = np.abs(a - b)
    return np.where(gap < 1, gap**2 / 2, gap - 1 / 2).mean()


def rkd(s, t, of):
    def distances(x):
        x = np.sqrt(((x[:, None] - x[None]) ** 2).sum(2))
        return x / x[x > 0].mean()

    def angles(x):
        x = x[None] - x[:, None]
        x = x / np.maximum(np.sqrt((x**2).sum(2, keepdims=True)), 1e-12)
        return x @ x.swapaxes(1, 2)

    s, t = s["s"], t["t"]
    return (25 * smooth_l1(distances(s), distances(t)) + 50 * smooth_l1(angles(s), angles(t)))


def pkt(s, t, of):
    def neighbours(x):
        kernel = (direction(x) @ direction(x).T + 1) / 2
        return kernel / kernel.sum(1, keepdims=True)
    q, p = neighbours(s["s"]), neighbours(t["t"])
    return 30000 * (p * np.log((p + 1e-7) / (q + 1e-7))).mean()


def irg(s, t, of):
    return soft(s, t) + 0.005 * oracles_relation.instance_graph(s["s"], t["t"])


def soft(s, t, T=4):
    return oracles.kd(s["logits"], t["logits"], T).mean()


def crd(s, t, of):
    term, total = of["CRD"], 0
    negatives = term._draw(torch.arange(B), False).numpy()
    with torch.no_grad():
        anchors = [direction(head(torch.as_tensor(x)).numpy())
                   for head, x in zip(term.heads, (s["s"], t["t"]), strict=True)]
    for anchor, memory in zip(anchors, (term.memory_teacher, term.memory_student), strict=True):
        scores = np.exp(anchor @ memory.numpy().T / 0.07)
        positive, others = scores[np.arange(B), np.arange(B)], np.take_along_axis(
            scores, negatives, 1)
        Z = M * np.concatenate([positive, others.ravel()]).mean()
        noise = negatives.shape[1] / M
        h = lambda x, Z=Z, noise=noise: x / Z / (x / Z + noise)  # noqa: E731
        total -= (np.log(h(positive)).sum() + np.log(1 - h(others)).sum()) / B
    q, p = log_softmax(s["logits"] / 4), log_softmax(t["logits"] / 4)
    return 0.8 * total + 16 * (np.exp(p) * (p - q)).sum() / B


def tinybert(s, t, of):
    matrix = of["HiddenMSE"].projection.weight.detach().numpy()
    return squares(s["a"], t["a"]) + squares(s["h"] @ matrix.T, t["h"])


def minilm(s, t, of):
    def relation(v):
        v = v.reshape(B, 9, 2, 6).swapaxes(1, 2)
        return log_softmax(v @ v.swapaxes(2, 3) / np.sqrt(6))
    kl = lambda p, q: (np.exp(p) * (p - q)).sum(-1).mean()  # noqa: E731
    return kl(np.log(t["a"]), np.log(s["a"])) + kl(relation(t["v"]), relation(s["v"]))


def minilm2(s, t, of):
    heads = lambda x: x.reshape(B, 4, 48, -1).swapaxes(1, 2)  # noqa: E731
    sides = [[heads(x) for x in np.split(side["qkv"], 3, 2)] for side in (s, t)]
    return oracles_attention.self_relation(*sides).mean()


def nkd(s, t, of, gamma=1.5, T=1):
    return oracles.nkd(s["logits"], t["logits"], np.arange(B) % K, gamma, T).mean()


def labels(s, smoothing=0):
    q = log_softmax(s["logits"])
    return -((1 - smoothing) * q[np.arange(B), np.arange(B) % K] + smoothing * q.mean(1)).mean()


def ofa(s, t, of):
    term = oracles.ofa(s["logits"], t["logits"], np.arange(B) % K, 1, 1, "code").mean()
    return labels(s, 0.1) + term


def ctkd(s, t, of):
    return 0.1 * labels(s) + 0.9 * soft(s, t, 1 + 20 / (1 + np.exp(-1)))  # at the first step


def mlkd(s, t, of):
    """The masks multiply numbers, not samples: each sum counts by the share of a mask, a half."""
    total = 0
    for T in (2, 3, 4, 5, 6):
        q, p = (np.exp(log_softmax(x["logits"] / T)) for x in (s, t))
        total += soft(s, t, T) + ((p @ p.T - q @ q.T) ** 2).sum() / B
        total += ((p.T @ p - q.T @ q) ** 2).sum() / K
    return 0.1 * labels(s) + 0.9 * total / 2


def dist(s, t, of, eps=1e-8):
    q, p = (np.exp(log_softmax(x["logits"] / 4)) for x in (s, t))

    def relation(a, b):
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        lengths = np.sqrt((a**2).sum(1)) * np.sqrt((b**2).sum(1))
        return 1 - ((a * b).sum(1) / (lengths + eps)).mean()
    return 2 * 4**2 * (relation(q, p) + relation(q.T, p.T))


def standardised(s, t, of):
    q, p = (log_softmax((x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True) / 2)
            for x in (s["logits"], t["logits"]))
    return 9 * 2**2 * (np.exp(p) * (p - q)).sum(1).mean()


def virtual(s, t, of, alpha, T, multiplier):
    """As on CIFAR-100: the mean over 100 classes."""
    made = np.full((B, K), 0.01 / (K - 1))
    made[np.arange(B), np.arange(B) % K] = 0.99
    p, q = log_softmax(made / T), log_softmax(s["logits"])
    divergence = (np.exp(p) * (p - q)).sum(1).mean() / 100
    return (1 - alpha) * labels(s) + alpha * multiplier * divergence


def deit(s, t, of):
    chosen = log_softmax(s["logits"])[np.arange(B), t["logits"].argmax(1)]
    return 0.5 * labels(s, 0.1) - 0.5 * chosen.mean()


def skewed(s, t, of, reverse=False):
    first, other = (np.exp(log_softmax(x["logits"])) for x in ((s, t) if reverse else (t, s)))
    return (first * np.log(first / (0.1 * first + 0.9 * other))).sum(1).mean()


def tv(s, t, of):
    return 0.25 * np.abs(np.exp(log_softmax(s["logits"]))
                         - np.exp(log_softmax(t["logits"]))).sum(1).mean()


def sorted_probabilities(s, t, of):
    q, p = (np.sort(np.exp(log_softmax(x["logits"])), 1) for x in (s, t))
    return 1.5 * np.abs(q - p).sum(1).mean()


PUBLISHED = {
    "FitNets": hint, "AT": lambda s, t, of: 1000 * sum(at(i, s, t) for i in (1, 2, 3)),
    "AT, the paper": at_of_the_paper, "FSP": fsp, "NST": nst, "VID": vid, "OFD": ofd,
    "ReviewKD": review, "SP": sp, "CC": cc, "RKD": rkd, "RKD, as printed": rkd, "PKT": pkt,
    "CRD": crd, "TinyBERT": tinybert, "MiniLM": minilm, "FT": factors, "AB": boundaries,
    "CAT-KD": class_maps,
    "CAT-KD, two architectures": functools.partial(class_maps, weight=40, normalize=True),
    "SimKD": lambda s, t, of: squares(through(of["SimKD"].projector, s["s3"]), t["t3"]),
    "MGD": mgd, "ViTKD": vitkd, "ICKD": ickd, "SRRL": srrl, "SemCKD": semckd, "IRG": irg,
    "MiniLMv2": minilm2, "NKD": nkd, "NKD, CIFAR-100": functools.partial(nkd, gamma=3.5, T=3),
    "OFA": ofa, "CTKD": ctkd, "MLKD": mlkd, "DIST": dist,
    "DIST, the paper's formula": functools.partial(dist, eps=0),
    "Logit standardisation": lambda s, t, of: 0.1 * labels(s) + standardised(s, t, of),
    "Logit standardisation, ImageNet": standardised,
    "Tf-KD": functools.partial(virtual, alpha=0.1, T=20, multiplier=100),
    "Tf-KD, MobileNetV2": functools.partial(virtual, alpha=0.95, T=40, multiplier=1),
    "Logits": lambda s, t, of: squares(s["logits"], t["logits"]), "DeiT": deit,
    "Skewed KL": skewed, "Skewed reverse KL": functools.partial(skewed, reverse=True), "TV": tv,
    "ULD": sorted_probabilities,
}
WITHOUT_LABELS = {  # or with labels of another weight or kind
    "FSP", "TinyBERT", "MiniLM", "AB", "SimKD", "MiniLMv2", "OFA", "CTKD", "MLKD",
    "Logit standardisation", "Tf-KD", "Tf-KD, MobileNetV2", "Logits", "DeiT", "Skewed KL",
    "Skewed reverse KL", "TV"}


def name_of(row):
    return row.split(", {cite")[0]


def test_the_table_has_these_rows():
    assert {name_of(row) for row in ROWS} == set(PUBLISHED)


@pytest.mark.parametrize("row", ROWS, ids=name_of)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_published_weight_and_the_objective_beside_it(row, seed):
    student, teacher = views(seed)
    y = torch.arange(B) % K
    names = vars(losses) | {
        "B": B, "H": H, "W": W, "CRD": functools.partial(losses.CRD, samples=M, negatives=30),
        "CTKD": functools.partial(losses.CTKD, samples=M), "paraphraser": losses.Paraphraser(6),
        "teacher": SimpleNamespace(fc=torch.nn.Linear(6, K).double())}
    objective = losses.as_objective(eval(ROWS[row], names))
    objective.build(student, teacher, seed)
    s, t = ({name: x.numpy() for name, x in (view.taps | {"logits": view.logits}).items()}
            for view in (student, teacher))
    with torch.no_grad():
        ours = float(objective(student, teacher, y))  # writes no memory without gradients
    theirs = PUBLISHED[name_of(row)](s, t, {name: term for name, term in objective.terms.items()
                                            if name != "CE"})
    if name_of(row) not in WITHOUT_LABELS:
        theirs -= log_softmax(s["logits"])[np.arange(B), y].mean()
    assert ours == pytest.approx(theirs, rel=1e-10)


def test_every_loss_states_its_published_weight():
    ours = {name for name in losses.__all__ if isinstance(getattr(losses, name), type)}
    of_labels = {"Loss", "FeatureLoss", "Objective", "CE", "LabelSmoothing", "SquaredError"}
    stated = re.compile(r"^ *(Published weights?\b|No published weight:)", re.M)
    missing = [name for name in sorted(ours - of_labels)
               if not stated.search(getattr(losses, name).__doc__)]
    assert missing == []


def test_where_a_published_weight_was_read():
    """Each names a repository of the list with commits, or a paper's section, or another class; the
    list has none that neither pages nor docstrings name."""
    commits = dict(re.findall(
        r"^\* \[(.*?)\]\(https://github.com/\1/tree/([0-9a-f]{40})\)$", PAGE, re.M))
    assert len(commits) > 30
    documented = [getattr(losses, name).__doc__ for name in losses.__all__
                  if isinstance(getattr(losses, name), type)]
    weights = [" ".join(part for part in text.split("\n\n") if "ublished weight" in part)
               for text in documented]
    short = [name.split("/")[1] for name in commits]
    elsewhere = r"section\s+\d|`GKDTrainer`|which says\s+where|minimised alone"
    for text in filter(None, weights):
        assert any(name in text for name in short) or re.search(elsewhere, text), text
    text = " ".join([*weights, PAGE.split("(sources-read)=")[0],
                     (ROOT / "book" / "own_model.md").read_text("utf-8")])
    assert [name for name in short if name not in text] == []


def test_a_student_that_fsp_has_prepared_is_then_trained_on_labels(data):
    """The two stages of the docstring: the head is untouched by the first."""
    import kdcourse as kd

    student, teacher = (kd.models.resnet(depth=8, width=4, size=12, seed=seed) for seed in (0, 1))
    paths = ["layer1", "layer2"], ["layer2", "layer3"]
    objective = losses.FSP(paths[0], paths[0]) + losses.FSP(paths[1], paths[1])
    head = student.fc.weight.detach().clone()
    recipe = kd.Recipe(epochs=3, batch=16, lr=0.01)
    first = kd.fit(kd.Distiller(student, teacher, objective), data, recipe)
    assert first["loss"][-1] < first["loss"][0]
    assert torch.equal(student.fc.weight, head)
    kd.fit(kd.Supervised(student), data, recipe)
    assert not torch.equal(student.fc.weight, head)
