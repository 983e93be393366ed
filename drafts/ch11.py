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
# # Which part of a teacher's output does the student learn from?
#
# In [chapter 1](01_hinton.ipynb) a teacher's output made a student more accurate. With its wrong classes shuffled, or spread evenly, no gain was shown, neither at the weight 0.9 nor at 0.25. So how sure the teacher is of the label does not explain the gain by itself. Do the wrong classes explain it by themselves? And must they be those of *this* image, or are those of its class enough?
#
# Papers disagree: one reports that a part of the gain stays when the wrong classes are shuffled {cite:p}`furlanello2018`, another that a fixed target with equal wrong classes is comparable to a real teacher {cite:p}`yuan2020`.
#
# Here the output is split into two parts, and each is exchanged on its own.
#
# ```{admonition} In this chapter
# :class: note
# **You will be able to**
# - split an output into the label's probability and the shares of the wrong classes, and join two such parts again,
# - build targets that change one part only, and match their softness at the temperature that is used,
# - read main effects and an interaction from a table of arms,
# - tell the bias of a student from its variance over training sets.
#
# **You need** [chapter 1](01_hinton.ipynb): soft labels, temperature, the loss, paired differences.
#
# **Reading time** about 25 minutes, exercises not counted.
# ```

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:  # on Colab only: the package is not there yet
    # %pip install -q "kdcourse @ git+https://github.com/kdcourse/kdcourse"

# %%
import contextlib
import dataclasses
import functools
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown

import kdcourse as kd
from kdcourse.losses import CE, DKD, KD, LabelSmoothing, Loss

kd.plot.style()

# %% [markdown]
# What this chapter costs on a computer, read from the recorded results:

# %% [markdown] tags=["opening-time"]
# Opening it with the recorded results: **67 s**. Computing all 130 runs anew: **65 minutes** on 1 CPU thread (x86_64, AVX512, Linux).

# %% [markdown]
# ## The bet
#
# Student, teacher, images and loss are those of chapter 1: 4,000 augmented images, 0.1 × labels + 0.9 × teacher at $T = 4$. Only the teacher's output is changed. It has two parts: the probability of the label, and the **shares** of the wrong classes in what is left.

# %% tags=["hide-input"]
rest_bet = kd.explore.bet(
    "Every image gets the same label probability, the mean of all. The shares of the wrong "
    "classes are the teacher's for this image. By how many points does the test accuracy differ "
    "from labels only?", (-5, 5), "11/rest", unit="points", step=0.1)
rest_bet

# %% tags=["hide-input"]
part_bet = kd.explore.bet(
    "One part of the teacher's output is replaced by an average. Which costs more accuracy?",
    ["One label probability for all images.",
     "For each class, one list of shares of the wrong classes.",
     "About equal: five seeds cannot tell."], "11/average")
part_bet

# %% [markdown]
# ## See it first
#
# The teacher of chapter 1, and its probabilities at $T = 4$ for the training images.

# %%
data = kd.data.glyphs(train=4000, seed=0)
x, y = data.train.x, data.train.y
teacher = kd.teacher("glyphs")
outputs_val = kd.models.predict(teacher, data.val.x)
right = kd.measure.accuracy(outputs_val, data.val.y)
print(f"the teacher on our validation images: {right:.1%}")

# %%
p = (kd.models.predict(teacher, x) / 4).softmax(1)
own = F.one_hot(y, 36).bool()
sure, nearest = p[own], p.masked_fill(own, 0).argmax(1)

# %% [markdown]
# The images of a B with the six lowest and the six highest probabilities of the B. Below each is the most probable wrong class.

# %% mystnb={"image": {"alt": "Twelve small images of the letter B in two rows, each with the teacher's probability for the B above it and the most probable wrong class below it. In the upper row the letters are faint or distorted and the probabilities are low; in the lower row they are clear and the probabilities are high."}}
places = (y == data.classes.index("B")).nonzero()[:, 0]
order = places[sure[places].argsort()]
figure, axes = plt.subplots(2, 6, figsize=(6.4, 3))
for ax, i in zip(axes.flat, [*order[:6], *order[-6:]]):
    ax.imshow(x[i, 0], cmap="gray")
    ax.set_title(f"{sure[i]:.0%}", loc="center")
    ax.set(xticks=[], yticks=[], xlabel=data.classes[nearest[i]])
axes[0, 0].set_ylabel("lowest"), axes[1, 0].set_ylabel("highest");

# %% [markdown]
# All twelve have the same label. Its probability differs a lot from image to image, and so does the nearest wrong class. These are the two parts.

# %% mystnb={"image": {"alt": "Diagram. An image goes into the teacher. Its output is split into the confidence, which is the probability of the label, and the shares of the wrong classes. Each part is kept or exchanged. Joined again they are the target of the student."}} tags=["hide-input"]
ax = kd.plot.diagram({
    "teacher": (0, 1, kd.plot.ORANGE, "teacher's\noutput, T = 4"),
    "sure": (1.35, 2, kd.plot.ORANGE, "confidence: the\nlabel's probability"),
    "rest": (1.35, 0, kd.plot.ORANGE, "shares of the\nwrong classes"),
    "target": (2.75, 1, kd.plot.RED, "target"),
    "student": (3.6, 1, kd.plot.BLUE, "student")}, [
    ("teacher", "sure"), ("teacher", "rest"), ("sure", "target", "keep or\nexchange"),
    ("rest", "target", "keep or\nexchange"), ("target", "student")])
ax.set_title("Split, exchange, join");


# %% [markdown]
# ## The idea
#
# ### By hand, on three classes
#
# Chapter 1's example: the classes are O, 0 and X, the label is O, and $T = 4$ makes the logits $(5, 3, -3)$ into $p = (0.57, 0.35, 0.08)$. Split it:
#
# - the **confidence** is the label's probability, $s = 0.57$;
# - the **rest** is how the other 0.43 are shared, $r = (0.82, 0.18)$ for 0 and X.
#
# Together $p = (s, (1 - s)\, r)$. The loss splits in the same way {cite:p}`zhao2022`. For a student with the parts $s'$ and $r'$,
#
# $$\mathrm{KL}(p \,\|\, p') = \mathrm{KL}(s \,\|\, s') + (1 - s)\, \mathrm{KL}(r \,\|\, r')$$
#
# where the first term compares two outcomes, "the label" and "not the label". So the confidence acts twice: it is the target of the first term, and it sets the weight of the second. The less sure the teacher is, the more the rest counts.
#
# In plain PyTorch, for outputs of any shape `[…, N, K]`:

# %%
def split(p, label):
    own = F.one_hot(label, p.shape[-1]).bool()
    sure = (p * own).sum(-1, keepdim=True)
    return sure, p.masked_fill(own, 0) / (1 - sure)

def join(sure, rest, label):
    own = F.one_hot(label, rest.shape[-1]).bool()
    return torch.where(own, sure, (1 - sure) * rest)


# %% [markdown]
# Shuffling the wrong classes keeps the confidence, and how soft the output is, for each image. Only *which* class gets which share is lost:

# %%
def shuffled(values, label):
    hot = F.one_hot(label, values.shape[-1])
    chance = torch.Generator().manual_seed(0)
    mixed = (hot + torch.rand(hot.shape, generator=chance)).argsort(1)
    straight = hot.argsort(dim=1, stable=True)  # the label comes last
    swap = torch.empty_like(mixed).scatter_(1, mixed, straight)
    return values.gather(-1, swap.expand(values.shape))


# %%
label = torch.tensor([0])
s, r = split((torch.tensor([[5.0, 3.0, -3.0]]) / 4).softmax(1), label)
swapped, even = r[:, [0, 2, 1]], torch.tensor([[0.0, 0.5, 0.5]])
for name, q in {"output": join(s, r, label),
                "confidence only": join(s, even, label),
                "rest only, s = 0.7": join(torch.tensor(0.7), r, label),
                "shuffled rest": join(s, swapped, label)}.items():
    print(f"{name:19s}", q[0].numpy().round(2))

# %% [markdown]
# Any probabilities can stand in for a teacher: `kd.Cached.of(logits, data, name)` takes logits, and $4 \log p$ are logits whose softmax at $T = 4$ is $p$.
#
# These targets for one of the images above, and one more: its own confidence with the rest of its class's mean output. Rest only gets the mean confidence of these plain images.

# %%
i = order[3:4]
s, r = split(p[i], y[i])
mean = p[y == y[i]].mean(0, keepdim=True)
variants = {"output": p[i],
            "confidence only": join(s, (~own[i]) / 35, y[i]),
            "rest only": join(sure.mean(), r, y[i]),
            "rest of the class": join(s, split(mean, y[i])[1], y[i]),
            "shuffled rest": shuffled(p[i], y[i])}

# %% mystnb={"image": {"alt": "An image of a B and five bar charts with a bar for each of the 36 classes, sorted by the teacher's output: the output, and the targets confidence only, rest only, rest of the class and shuffled rest. Confidence only has the same bar for the B and equal bars for all others; rest only has a larger bar for the B, cut at 25 % and marked by two white lines, and the others in the teacher's proportions; rest of the class has the same bar for the B and other shares; in shuffled rest the same bars stand at other classes."}} tags=["hide-input"]
rank = p[i[0]].argsort(descending=True)
label = int(y[i[0]])
figure, axes = plt.subplots(2, 3, figsize=(6.4, 4.2))
axes[0, 0].imshow(x[i[0], 0], cmap="gray"), axes[0, 0].axis("off")
for ax, (name, q) in zip(axes.flat[1:], variants.items()):
    colors = [kd.plot.BLUE if k == label else kd.plot.GREY for k in rank]
    ax.bar(range(36), q[0, rank], color=colors, width=1)
    cut = q[0, label].item() > 0.25  # two white lines across the bar
    ax.plot([-1, 1], [0.195, 0.205], [-1, 1], [0.205, 0.215], color="white", lw=2 * cut)
    ax.text(int((rank == label).nonzero()) + 1.5, 0.225, f"{data.classes[label]}: "
            f"{q[0, label]:.0%}" + " (bar cut)" * cut, color=kd.plot.BLUE, weight="bold",
            fontsize=11)
    ax.set(ylim=(0, 0.25), xticks=[], xlabel="36 classes"), ax.grid(False)
    ax.set_title(name, fontsize=11), ax.yaxis.set_major_formatter("{x:.0%}")


# %% [markdown]
# What each target does to an untrained student: choose a target (1 to 5, in the order of the bar charts).

# %%
def net(seed):
    return kd.models.convnet(width=16, classes=36, seed=seed)

untrained = kd.models.predict(net(0), x[i]).expand(5, 36)
kd.explore.push(untrained, 4 * torch.cat([*variants.values()]).log(),
                y[i].expand(5), data.classes, x[i].expand(5, 1, 28, 28))

# %% [markdown]
# ## The experiment
#
# ### Two parts, each at several levels
#
# | level | confidence | rest |
# |---|---|---|
# | this image | the label's probability for this view | the shares for this view |
# | class | that of the class's mean output | those of the class's mean output |
# | same for all | its mean over all images | even: 1/35 each |
#
# The first and the last confidence, each with the three rests, make six arms. In this **factorial** design the effect of one part can be read at each level of the other.
#
# The output itself and "confidence only" are arms of chapter 1. So are four more: **wrong classes shuffled**, with the confidence of this image; **class averages**, both parts of the class; **even softness**, one label probability for all and even wrong classes; and **label smoothing**. Even softness is the virtual teacher of {cite:t}`yuan2020`, with the teacher's mean entropy at $T = 4$; *same for all / even* has its mean confidence instead, which is lower.
#
# "Rest only" is the teacher's rest with *one confidence for all*, which also fixes the weight $1 - s$ of the second term. **NCKD** {cite:p}`zhao2022` is that term alone, without the weight.

# %%
augmented = kd.augmented(data, views=20, shift=0.1, degrees=11, scale=0.15)
given, hot = kd.Cached(teacher, augmented), F.one_hot(y, 36).float()
logits = given.logits  # [20 views, 4000 images, 36]

def parts(logits):
    p = (logits / 4).softmax(-1)
    mean = hot.T @ p.mean(0) / hot.sum(0)[:, None]
    (sure, rest), (_, of_class) = split(p, y), split(mean[y], y)
    return ({"this image": sure, "same for all": sure.mean()},
            {"this image": rest, "class": of_class, "even": (1 - hot) / 35})


# %%
def target(logits, confidence, rest):
    sure, share = parts(logits)
    return 4 * join(sure[confidence], share[rest], y).log()

def told(outputs, name):
    return kd.Cached.of(outputs.expand(20, 4000, 36), augmented, name)

objective = 0.1 * CE() + 0.9 * KD(T=4)
def taught(stored, loss=objective):
    return lambda seed: kd.Distiller(net(seed), stored, loss)

cells = [("this image", "class"), ("same for all", "this image"),
         ("same for all", "class"), ("same for all", "even")]
stored = {f"{c} / {r}": told(target(logits, c, r), f"{c} / {r}")
          for c, r in cells}


# %% [markdown]
# **Weighted labels** are the labels only, each weighted by the teacher's confidence, as in {cite:t}`furlanello2018`.

# %%
class WeightedCE(Loss):
    """Weigh each label by the teacher's probability for it, at T = 4."""
    needs_labels = True

    def __init__(self, mean):
        super().__init__(mean=mean)

    def values(self, student, teacher, labels):
        s = (teacher / 4).softmax(1).gather(1, labels[:, None])[:, 0]
        cost = F.cross_entropy(student, labels, reduction="none")
        return s / self.mean * cost

mean_sure = parts(logits)[0]["same for all"].item()
# 0.545 is mean_sure of the teacher of the recorded rows. It divides the
# loss; a teacher trained elsewhere has a slightly different one.
weighted = WeightedCE(0.545)
print(f"mean confidence: {sure.mean():.3f} on the plain images, "
      f"{mean_sure:.3f} on the augmented views")

# %%
orders = torch.stack([torch.randperm(
    35, generator=torch.Generator().manual_seed(k)) for k in range(36)])
places = (1 - hot).bool()  # one order of the wrong classes for each class
rest = logits[:, places].view(20, 4000, 35)
alike = logits.masked_scatter(places, rest.gather(
    2, orders[y].expand(20, 4000, 35)))

# %%
new = {name: taught(made) for name, made in stored.items()}
new["weighted labels"] = taught(given, weighted)
new["NCKD"] = taught(given, 0.1 * CE() + 0.9 * DKD(0, 1, T=4))
new["shuffled by class"] = taught(told(alike, "shuffled by class"))


# %% tags=["hide-input"]
def labels_only(seed):  # these arms are those of chapter 1, whose rows are loaded
    return kd.Supervised(net(seed))

mean = (hot.T @ (logits / 4).softmax(-1).mean(0)) / hot.sum(0)[:, None]
entropy = kd.measure.entropy(logits.flatten(0, 1), T=4).mean().item()
height = np.linspace(0, 20, 2001)  # of the right logit, the others are 0
evenly = kd.measure.entropy(torch.tensor(height)[:, None] * hot[:1], T=4)
a = height[(evenly - entropy).abs().argmin()]
surest = (logits / 4).softmax(-1)[:, range(4000), y]
margin = 4 * (35 * surest / (1 - surest)).log()
same = kd.Cached(kd.teacher("glyphs-4000"), augmented)
stored |= {
    "this image / this image": given,
    "this image / even": told(margin[..., None] * hot, "confidence only"),
    "shuffled": told(shuffled(logits, y), "wrong classes shuffled"),
    "class averages": told(4 * mean.log()[y], "class averages"),
    "even softness": told(torch.tensor(a).float() * hot, "even softness"),
    "teacher of the same 4,000": same}
known = {"labels only": labels_only}
known |= {name: taught(made) for name, made in stored.items() if name not in new}


# %% [markdown]
# ### One search for every arm
#
# The search of chapter 1: two seeds on the validation images for each pair of learning rate and weight decay, from one pair to its best neighbour, until no neighbour is better. The new arms start where labels only and the teacher ended.
#
# Rows that were recorded for exactly this code and data are loaded; the others are computed. `results="01"` are rows of chapter 1.

# %% tags=["hide-input"]
def recipe(lr, wd):
    return kd.Recipe(epochs=60, lr=lr, weight_decay=wd, validate_every=5)

def around(lr, wd):
    near = [(lr, wd), (lr / 4, wd), (4 * lr, wd), (lr, wd / 5), (lr, 5 * wd)]
    return [(round(a, 8), round(b, 8)) for a, b in near]

def search(arms, start, chapter):
    best, score = dict.fromkeys(arms, start), {}
    while missing := [(arm, at) for arm in arms for at in around(*best[arm])
                      if (arm, at) not in score]:
        table = kd.compare({key: arms[key[0]] for key in missing}, augmented,
                           {key: recipe(*key[1]) for key in missing}, range(2),
                           teacher=teacher, results=chapter)
        score |= {key: table.mean(key) for key in missing}
        for arm in arms:
            best[arm] = max([key for key in score if key[0] == arm], key=score.get)[1]
    return best, score


# %% tags=["hide-input"]
def smoothed(share):
    return lambda seed: kd.Supervised(net(seed), LabelSmoothing(share))

with contextlib.redirect_stdout(io.StringIO()):  # a line for each step of the search
    settings, score = search(known, (0.32, 0.01), "01")
    trial = kd.compare({share: smoothed(share) for share in (0.01, 0.03, 0.1, 0.3)}, augmented,
                       recipe(*settings["labels only"]), range(2), teacher=teacher, results="01")
    known["label smoothing"] = smoothed(trial.best())
    more = search({"label smoothing": known["label smoothing"]}, (0.32, 0.01), "01")
    found = search(new, settings["labels only"], "11")
    for best, scores in (more, found):
        settings |= best
        score |= scores

# %% tags=["hide-input"]
arms = known | new
lines = [f"| {name} | {settings[name][0]:g} | {settings[name][1]:g} | "
         f"{sum(key[0] == name for key in score)} | {score[name, settings[name]]:.1%} |"
         for name in arms]
Markdown("<details><summary>The chosen settings (confidence / rest)</summary>\n\n"
         "| arm | rate | weight decay | pairs tried | validation accuracy "
         "|\n|---|---|---|---|---|\n"
         + "\n".join(lines) + "\n\n</details>")

# %% [markdown]
# ### The result
#
# Once, on the test images: five seeds for each arm, at the settings of its search.

# %%
budget = {name: recipe(*at) for name, at in settings.items()}

def tested(arms, results):
    own = {name: budget[name] for name in arms}
    return kd.compare(arms, augmented, own, seeds=range(5), split="test",
                      teacher=teacher, results=results)

def together(*tables):  # the seeds that all of them have
    seeds = [{row["seed"] for row in table.rows} for table in tables]
    rows = [row for table in tables for row in table.rows
            if row["seed"] in set.intersection(*seeds)]
    return dataclasses.replace(tables[0], rows=rows)

final = together(tested(known, "01"), tested(new, "11"))


# %% tags=["hide-input"]
def text(triple, unit=" points"):
    mean, low, high = triple
    return f"{mean:+.1f}{unit} ({low:+.1f} to {high:+.1f})".replace("-", "−")

def against(arm, baseline="labels only"):
    return text([100 * value for value in final.difference(arm, baseline)])


# %% mystnb={"image": {"alt": "The difference in test accuracy to labels only, with its interval and a dot for each seed, for four kinds of the rest: shuffled, even, of the class, of this image. A blue line joins the arms with the confidence of this image, a grey one those with one confidence for all; the shuffled rest has a blue marker only. The blue line rises from below labels only with an even rest to above it with the rest of the class and that of this image; the grey line rises, too, and ends just below labels only."}} tags=["hide-input"]
columns = ("even", "class", "this image")
figure, ax = plt.subplots(figsize=(6.4, 4))
for confidence, color, mark, move in (("this image", kd.plot.BLUE, "o", 0.05),
                                      ("same for all", kd.plot.GREY, "s", -0.05)):
    ends = 100 * np.array([final.difference(f"{confidence} / {r}") for r in columns])
    mid, lows, highs = ends.T
    for place, rest in enumerate(columns):
        gaps = np.subtract(final.values(f"{confidence} / {rest}"), final.values("labels only"))
        ax.plot([place + 1 + 3 * move] * 5, 100 * gaps, ".", color=color, alpha=0.6)
    ax.errorbar(np.arange(1, 4) + move, mid, (mid - lows, highs - mid), fmt=f"{mark}-", ms=8,
                lw=2, capsize=4, color=color, label=f"confidence: {confidence}")
mid, low, high = (100 * value for value in final.difference("shuffled"))
gaps = np.subtract(final.values("shuffled"), final.values("labels only"))
ax.plot([0.15] * 5, 100 * gaps, ".", color=kd.plot.BLUE, alpha=0.6)
ax.errorbar([0.05], [mid], ([mid - low], [high - mid]), fmt="o", ms=8, lw=2, capsize=4,
            color=kd.plot.BLUE)
ax.axhline(0, color="black", lw=1.2, ls="--")
ax.text(-0.3, 0, "labels only", va="bottom", fontsize=11)
ax.set_xticks(range(4), ["shuffled", "even", "of the class", "of this image"])
ax.set(xlim=(-0.4, 3.4), xlabel="rest: the shares of the wrong classes",
       ylabel="points against labels only")
ax.set_title("Weight 0.9: no gain is shown from either part alone")
ax.legend(loc="lower right");


# %% tags=["hide-input"]
def seeds(confidence, rest):
    return 100 * np.array(final.values(f"{confidence} / {rest}"))

def effects(pairs):
    """The paired differences at each level of the other part, then their mean."""
    gaps = [ours - theirs for ours, theirs in pairs]
    return [kd.measure.interval(list(gap)) for gap in [np.mean(gaps, 0), *gaps]]

rows = ("this image", "same for all")
of_confidence = effects([(seeds("this image", r), seeds("same for all", r))
                         for r in reversed(columns)])
of_rest = {f"{one} instead of {other}": effects([(seeds(c, one), seeds(c, other)) for c in rows])
           for one, other in (("this image", "even"), ("class", "even"), ("this image", "class"))}

# %% tags=["hide-input"]
whole, near = "this image / this image", "this image / class"
crossed = (seeds("this image", "this image") - seeds("same for all", "this image")
           - seeds("this image", "even") + seeds("same for all", "even"))

def small(triple):
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*triple).replace("-", "−")

Markdown(f"""
- **Rest only**: {against('same for all / this image')} against labels only, and
  {against('same for all / this image', whole)} from the teacher's whole output. No gain is shown.
- **The rest of the class**, with the confidence of this image: {against(near)} against labels
  only; the whole output {against(whole)}. Accuracy cannot tell the two apart,
  {against(near, whole)}. The negative log-likelihood
  of the test labels can: {small(final.difference(near, whole, 'nll'))}, which is worse; so can
  the divergence from the teacher, {small(final.difference(near, whole, 'teacher_kl'))}.
- **Interaction**: the confidence of this image instead of one for all changes the accuracy by
  {text(of_confidence[1])} with the rest of this image, and by {text(of_confidence[3])} with an
  even rest. The first minus the second is {text(kd.measure.interval(list(crossed)))}. Main effects
  are in the fold.

All intervals are over seeds: teacher, training images and test images are one draw each.
""")

# %% tags=["hide-input"]
pairs = {name: np.corrcoef(final.values(name), final.values("labels only"))[0, 1] for name in (
    whole, near, "same for all / this image", "same for all / class")}

# %% tags=["hide-input"]
lines = "\n".join(f"| {name} | {' | '.join(text(one, '') for one in found)} |"
                  for name, found in of_rest.items())
told_pairs = ", ".join(f"{name} {r:.2f}" for name, r in pairs.items()).replace("-", "−")
Markdown(f"""
<details><summary>Main effects, and correlation over the seeds</summary>

**Confidence** of this image instead of the same for all, in points:

| mean | with the rest of this image | of the class | even |
|---|---|---|---|
| {' | '.join(text(one, '') for one in of_confidence)} |

**Rest**, in points:

| rest | mean | with the confidence of this image | same for all |
|---|---|---|---|
{lines}

The correlation of
an arm with labels only over the seeds (confidence / rest): {told_pairs}. Where it is negative,
pairing makes the interval wider, not narrower.

</details>
""")

# %% [markdown]
# ### Chosen again, by five seeds
#
# The three best pairs of rate and decay of four arms, with three more seeds on the validation images; the best by all five, on the test images:

# %% tags=["hide-input"]
def by_five(name):
    pairs = sorted((at for arm, at in score if arm == name), key=lambda at: -score[name, at])[:3]
    table = kd.compare({at: arms[name] for at in pairs}, augmented,
                       {at: recipe(*at) for at in pairs}, range(2, 5), teacher=teacher,
                       results="11")
    return max(pairs, key=lambda at: 2 * score[name, at] + 3 * table.mean(at))

with contextlib.redirect_stdout(io.StringIO()):
    chosen = {name: by_five(name) for name in ("labels only", whole, near,
                                               "same for all / this image")}
    moved = [name for name in chosen if chosen[name] != settings[name]]
    other = kd.compare({name: arms[name] for name in moved}, augmented,
                       {name: recipe(*chosen[name]) for name in moved}, range(5), split="test",
                       teacher=teacher, results="11") if moved else None

# %% tags=["hide-input"]
def at_five(name):
    return 100 * np.array((other if name in moved else final).values(name))

again = {name: kd.measure.interval(list(at_five(name) - at_five("labels only")))
         for name in chosen if name != "labels only"}
lines = "\n".join(f"| {name} | {text(again[name], '')} | {against(name).replace(' points', '')} | "
                  f"{'another pair' if name in moved else 'the same pair'} |" for name in again)
Markdown(f"""
| against labels only, in points | chosen by five seeds | by two | |
|---|---|---|---|
{lines}

For labels only five seeds choose {'another' if 'labels only' in moved else 'the same'} pair.
""")

# %% [markdown]
# ### At a smaller weight
#
# All of this is at the weight 0.9 and $T = 4$. Here is 0.25, with the settings found at 0.9 (shuffled: with those of labels only).

# %% tags=["hide-input"]
four = {"whole output": whole, "confidence only": "this image / even",
        "class averages": "class averages", "shuffled": "shuffled"}
two = {"rest only": "same for all / this image", "rest of the class": near}
lighter = 0.75 * CE() + 0.25 * KD(T=4)
arms_25 = {"labels only": labels_only} | {
    name: taught(stored[arm], lighter) for name, arm in four.items()}
budget_25 = {name: budget[four.get(name, name)] for name in arms_25}
budget_25["shuffled"] = budget["labels only"]
with contextlib.redirect_stdout(io.StringIO()):
    quarter = kd.compare(arms_25, augmented, budget_25, range(5), split="test", teacher=teacher,
                         results="01")
    quarter = together(quarter, kd.compare(
        {name: taught(stored[arm], lighter) for name, arm in two.items()}, augmented,
        {name: budget[arm] for name, arm in two.items()}, range(5), split="test",
        teacher=teacher, results="11"))
lines = "\n".join(f"| {name} | {text([100 * value for value in quarter.difference(name)], '')} | "
                  f"{against(arm)} |" for name, arm in (four | two).items())
Markdown(f"""
| against labels only, in points | weight 0.25 | weight 0.9 |
|---|---|---|
{lines.replace(' points', '')}

At 0.25, too, the whole output and the rest of the class are above labels only. The other four are
neither shown above nor below.
""")

# %% [markdown]
# ### Is it the order of the wrong classes, or only the softness?
#
# An even rest is softer than the teacher's, a shuffled rest is not. Its order is drawn once for each image, or once for each class (**shuffled by class**), so that all images of a class agree.

# %% tags=["hide-input"]
Markdown(f"""
All three with the confidence of this image: the even rest is
{against('this image / even', 'this image / this image')} from the teacher's, and the shuffled one
{against('shuffled', 'this image / this image')}. The shuffled target is exactly as soft as the
teacher's, so softness does not explain why it is less accurate. Shuffled minus even is
{against('shuffled', 'this image / even')}. **Shuffled by class** is {against('shuffled by class')}
from labels only, and {against('shuffled by class', 'shuffled')} from shuffled. One wrong order for
all images of a class costs more than a new one for each image.
""")

# %% [markdown]
# ### Cheaper targets

# %% tags=["hide-input"]
name = "NCKD, label weight 1"
strict = {name: taught(given, CE() + DKD(0, 1, T=4))}
with contextlib.redirect_stdout(io.StringIO()):
    (at,), _ = (list(part.values()) for part in search(strict, settings["labels only"], "11"))
    final = together(final, kd.compare(strict, augmented, recipe(*at), range(5), split="test",
                                       teacher=teacher, results="11"))

# %% tags=["hide-input"]
Markdown(f"""
- **Weighted labels**: {against('weighted labels')} against labels only. No gain is shown.
- **NCKD**: {against('NCKD')} against labels only. It does not train the label's probability, which
  is left to the labels; with the label weight 1, as in the paper, it is
  {against('NCKD, label weight 1')}, and {against('NCKD, label weight 1', whole)} from the whole
  output.
- **Label smoothing**, {against('label smoothing')}; **class averages**,
  {against('class averages')}; **even softness**, {against('even softness')}: none is shown to be
  above labels only.
- **The confidence of this image in place of the class's**, with the rest of the class in both, is
  {against('this image / class', 'class averages')}.
""")

# %% [markdown]
# ### With a teacher that has seen no other images
#
# The teacher so far was trained on 40,000 other images. A second one was trained on the student's own 4,000. With its outputs, at the settings found above; so these arms are less tuned than labels only:

# %%
few = {"confidence only": ("this image", "even"),
       "rest only": ("same for all", "this image"),
       "both": ("this image", "this image")}
ours = {name: taught(told(target(same.logits, *cell), f"{name}, 4000"))
        for name, cell in few.items()}
budget |= {name: budget[" / ".join(cell)] for name, cell in few.items()}
final = together(final, tested(ours, "11"))

# %% tags=["hide-input"]
lines = "\n".join(f"| {name} | {against(name)} | {against(' / '.join(cell))} |"
                  for name, cell in few.items())
Markdown(f"""
| against labels only | teacher of the same 4,000 | teacher of 40,000 |
|---|---|---|
{lines}

None of the three is shown to be above labels only at these settings. Both parts together are
ahead of rest only by {against('both', 'rest only')} and of confidence only by
{against('both', 'confidence only')}. Tuned for it, both parts bring
{against('teacher of the same 4,000')} (chapter 1).
""")


# %% [markdown]
# ## Why
#
# ### How much the class explains
#
# The share of the differences between images that the class explains: one minus the squared differences within the classes, divided by those between all images.

# %%
def explained(values):
    means = (hot.T @ values) / hot.sum(0)[:, None]
    within = (values - means[y]).square().sum()
    return (1 - within / (values - values.mean(0)).square().sum()).item()

s, r = split(p, y)
print(f"confidence {explained(s):.0%}, rest {explained(r):.0%}")


# %% [markdown]
# The class explains most of the shares of the wrong classes, and little of the confidence.
#
# ### Bias and variance
#
# A student's error has two parts. Train it on many training sets: how far is the *mean* of these students from the right probabilities (**bias**), and how far are single students from their mean (**variance**)? {cite:t}`menon2021` bound the risk of a distilled student by two terms of this kind.
#
# The right probabilities are unknown. In their place we put the mean $b$ of two other teachers of the same kind: ResNets, each trained on 40,000 images of its own.
#
# - **Targets**: the squared distance of each from $b$ at $T = 4$, where the loss compares.
# - **Students**: five pairs, on the test images at $T = 1$. Each student has 4,000 new training images, a new start and a new order of batches. For a pair with the probabilities $q_1$, $q_2$, the mean of $(q_1 - b) \cdot (q_2 - b)$ estimates the squared bias, that of $\|q_1 - q_2\|^2 / 2$ the variance.

# %% tags=["hide-input"]
@functools.cache
def references():
    found = []
    for n in (1, 2):
        network = kd.models.resnet(depth=8, stem_stride=2, seed=n)
        others = kd.data.glyphs(train=40000, seed=1000 + n)
        kd.fit(kd.Supervised(network), others, kd.Recipe(epochs=4, lr=0.01, validate_every=4),
               seed=n)
        found.append(network)
    return found

def best_estimate(images):
    return [kd.models.predict(network, images).softmax(1) for network in references()]

def distances(seed):
    ours = best_estimate(augmented.train.seen(torch.arange(4000), 1))
    at_4 = [(q.log() / 4).softmax(1) for q in [(ours[0] + ours[1]) / 2, *ours]]
    correct = kd.measure.accuracy(sum(best_estimate(data.val.x)), data.val.y)
    made = {name: (one.logits[0] / 4).softmax(1) for name, one in stored.items()}
    found = {name: {"distance": (q - at_4[0]).square().sum(1).mean().item()}
             for name, q in made.items()}
    return found | {"estimate": {"distance": (at_4[1] - at_4[2]).square().sum(1).mean().item(),
                                 "accuracy": correct}}


# %% tags=["hide-input"]
def draws(pair):
    found, best = {}, sum(best_estimate(data.test.x)) / 2
    for seed in (2 * pair + 1, 2 * pair + 2):
        images = kd.augmented(kd.data.glyphs(train=4000, seed=seed), views=20, shift=0.1,
                              degrees=11, scale=0.15)
        told, hot = kd.Cached(teacher, images), F.one_hot(images.train.y, 36).float()
        mean = (hot.T @ (told.logits / 4).softmax(-1).mean(0)) / hot.sum(0)[:, None]
        fixed = (4 * mean.log()[images.train.y]).expand(20, 4000, 36)
        schemes = {"labels only": kd.Supervised(net(seed)),
                   "teacher": kd.Distiller(net(seed), told, objective),
                   "class averages": kd.Distiller(
                       net(seed), kd.Cached.of(fixed, images, "class averages"), objective)}
        for name, scheme in schemes.items():
            at = budget["this image / this image" if name == "teacher" else name]
            kd.fit(scheme, images, at, seed=seed)
            q = kd.models.predict(scheme.student, data.test.x).softmax(1)
            found.setdefault(name, []).append(q)
    return {name: {"bias": ((one - best) * (two - best)).sum(1).mean().item(),
                   "variance": (one - two).square().sum(1).mean().item() / 2}
            for name, (one, two) in found.items()}


# %% tags=["hide-input"]
def draws_of_parts(pair):
    found, best = {}, sum(best_estimate(data.test.x)) / 2
    at = {"confidence only": "this image / even", "rest only": "same for all / this image"}
    for seed in (2 * pair + 1, 2 * pair + 2):
        images = kd.augmented(kd.data.glyphs(train=4000, seed=seed), views=20, shift=0.1,
                              degrees=11, scale=0.15)
        label = images.train.y
        sure, rest = split((kd.Cached(teacher, images).logits / 4).softmax(-1), label)
        even = (1 - F.one_hot(label, 36).float()) / 35
        for name, q in {"confidence only": join(sure, even, label),
                        "rest only": join(sure.mean(), rest, label)}.items():
            scheme = kd.Distiller(net(seed), kd.Cached.of(4 * q.log(), images, name), objective)
            kd.fit(scheme, images, budget[at[name]], seed=seed)
            q = kd.models.predict(scheme.student, data.test.x).softmax(1)
            found.setdefault(name, []).append(q)
    return {name: {"bias": ((one - best) * (two - best)).sum(1).mean().item(),
                   "variance": (one - two).square().sum(1).mean().item() / 2}
            for name, (one, two) in found.items()}

# %% tags=["hide-input"]
measured = kd.experiment.record(distances, range(1), name="distance of the targets from the best "
                                "estimate", of=[augmented], results="11")
spread = kd.experiment.record(draws, range(5), name="bias and variance over training sets",
                              of=[augmented], split="test", results="11")
spread = together(spread, kd.experiment.record(
    draws_of_parts, range(5), name="bias and variance over training sets, one part", of=[augmented],
    split="test", results="11"))

# %% mystnb={"image": {"alt": "Test accuracy against the mean squared distance of the target from two other teachers, a named marker for each of ten targets: blue circles with the rest of this image, green squares with that of the class, grey triangles for an even or shuffled rest. A dashed line marks labels only. Three targets are above it, the whole output, this image / class and the teacher of the same 4,000, and they are the nearest; this image / even is nearer than the six others and below the line."}} tags=["hide-input"]
names = [*stored]
beside = {"this image / this image": (8, 4, "left"), "this image / class": (8, 0, "left"),
          "teacher of the same 4,000": (8, -12, "left"),
          "same for all / this image": (8, 3, "left"), "same for all / class": (8, -10, "left"),
          "class averages": (-8, -4, "right"), "shuffled": (-8, -4, "right"),
          "same for all / even": (8, 2, "left"), "even softness": (0, -17, "center")}
figure, ax = plt.subplots(figsize=(6.4, 4))
kinds = {"rest of this image": (kd.plot.BLUE, "o"), "rest of the class": (kd.plot.GREEN, "s"),
         "even or shuffled": (kd.plot.GREY, "v")}
for name in names:
    kind = (0 if name.endswith(("/ this image", "4,000")) else 1 if "class" in name else 2)
    color, mark = [*kinds.values()][kind]
    place = measured.mean(name, "distance"), final.mean(name)
    ax.plot(*place, mark, color=color, ms=8)
    dx, dy, side = beside.get(name, (0, 8, "center"))
    ax.annotate(name, place, (dx, dy), textcoords="offset points", ha=side, fontsize=10)
for name, (color, mark) in kinds.items():
    ax.plot([], [], mark, color=color, label=name)
ax.axhline(final.mean("labels only"), color="black", lw=1.2, ls="--")
ax.text(0.089, final.mean("labels only"), "labels only", va="bottom", ha="right", fontsize=10)
ax.yaxis.set_major_formatter("{x:.1%}"), ax.legend(fontsize=10)
ax.set(xlim=(0.01, 0.09), ylim=(0.904, 0.948), ylabel="test accuracy",
       xlabel="squared distance of the target from two other teachers",
       title="Only the three nearest targets are above labels only");

# %% tags=["hide-input"]
places = np.array([[measured.mean(name, "distance"), final.mean(name)] for name in names])
places = places[places[:, 1].argsort()]  # the three best are last
r, r_others = (np.corrcoef(some.T)[0, 1] for some in (places, places[:-3]))
away = {arm: f"{measured.mean(arm, 'distance'):.3f}" for arm in (*names, "estimate")}

Markdown(f"""
The two other teachers together are right on {measured.mean('estimate', 'accuracy'):.1%} of the
validation images, our teacher on {right:.1%}; the distance between the two is {away['estimate']}.
The whole output lies about as near to their mean: {away['this image / this image']}. Over the
{len(names)} targets, the correlation of distance and accuracy is {r:.2f}; without the three best
targets it is {r_others:.2f}. So it rests mostly on those three.

""".replace("-0.", "−0."))

# %% mystnb={"image": {"alt": "Squared bias and variance of students with labels only, with the teacher, with its confidence only, with its rest only and with class averages: a marker with its interval and five dots for each. The squared bias is about the same for labels only and the teacher, larger for rest only and class averages, and largest for confidence only. The variance is as large with confidence only as with labels only, a little smaller with rest only and class averages, and about half as large with the teacher."}} tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 3.4))
bars = ["labels only", "teacher", "confidence only", "rest only", "class averages"]
for k, (name, color) in enumerate(zip(bars, ("black", kd.plot.BLUE, kd.plot.ORANGE,
                                             kd.plot.GREEN, kd.plot.GREY))):
    for place, quantity in enumerate(("bias", "variance")):
        mid, low, high = spread.interval(name, quantity)
        ax.errorbar(place + 0.16 * (k - 2), mid, [[mid - low], [high - mid]], fmt="osD^v"[k], ms=7,
                    lw=2, capsize=4, color=color, label=None if place else name)
        ax.plot([place + 0.16 * (k - 2) + 0.05] * 5, spread.values(name, quantity), ".",
                color=color, alpha=0.6)
ax.set_xticks([0, 1], ["squared bias", "variance"])
ax.set(ylim=(0, None), xlim=(-0.5, 1.5), ylabel="squared distance",
       title="With the teacher, the variance is about half")
ax.grid(False, axis="x"), ax.legend(fontsize=10, loc="lower right");


# %% tags=["hide-input"]
def level(quantity):
    return f"{spread.mean('labels only', quantity):.3f}"

def part(quantity, name):
    return small(spread.difference(name, "labels only", quantity))

Markdown(f"""
Against labels only ({level('bias')} squared bias, {level('variance')} variance):

- **with the teacher** the squared bias changes by {part('bias', 'teacher')}, the variance by
  {part('variance', 'teacher')};
- **with confidence only** by {part('bias', 'confidence only')} and
  {part('variance', 'confidence only')};
- **with rest only** by {part('bias', 'rest only')} and {part('variance', 'rest only')};
- **with class averages** by {part('bias', 'class averages')} and
  {part('variance', 'class averages')}.

With the teacher the variance, over training sets, starts and orders together, is about half; no
change of the bias is shown. Rest only and class averages lower the variance less, and raise the
bias. Confidence only raises the bias, and no change of its variance is shown. At $T = 1$ the
distance also contains calibration: the expected calibration error of the students above is
{final.mean('labels only', 'ece'):.3f} with labels only, {final.mean(whole, 'ece'):.3f} with the
teacher.
""")

# %% [markdown]
# ## Score the bet

# %% tags=["hide-input"]
rest_only, low, high = (100 * value for value in final.difference("same for all / this image"))
kd.explore.score(rest_bet, rest_only, interval=(low, high), digits=1)

# %% tags=["hide-input"]
_, low, high = final.difference("this image / class", "same for all / this image")
one, other, equal = part_bet.choices
held = [one] * (high > 0) + [other] * (low < 0) + [equal] * (low < 0 < high)
kd.explore.score(part_bet, held, note="The rest of the class minus one confidence for all: "
                 f"{against('this image / class', 'same for all / this image')}.")

# %% [markdown]
# ## What did not work

# %% tags=["hide-input"]
below = [name for name in arms if final.difference(name)[2] < 0]
told_below = "; ".join(f"{name} {against(name)}" for name in below)
Markdown(f"""
- **Below labels only**, with the whole interval, at the weight 0.9: {told_below}.
- **The shares of the three nearest classes** (exercise 3) keep only a part of the gain.
""")

# %% [markdown]
# (break-it-11)=
# ## Break it
#
# A random order of all 36 classes for each image is one line, and it moves the label's probability as well. That mistake is made here; the students are trained on the plain images.

# %%
chance = torch.Generator().manual_seed(0)
anything = torch.rand(p.shape, generator=chance).argsort(1)
made = p.gather(1, anything)  # planted: the label is moved, too

def raced(**arms):
    quick = kd.Recipe(epochs=8, lr=0.08, weight_decay=0.01)
    return kd.compare(arms, data, quick, seeds=range(2))

broken = raced(labels=labels_only, shuffled=taught(
    kd.Cached.of(4 * made.log(), data, "shuffled")))

# %% mystnb={"image": {"alt": "Validation accuracy by epoch with labels only and with the shuffled outputs, two seeds each. With labels only it rises; with the shuffled outputs it stays at chance."}}
kd.plot.curves(broken).set_title("Shuffled outputs: nothing is learned");


# %% [markdown]
# Does the wrong order make training fail? No error is raised: each target sums to 1 and is exactly as soft as the teacher's. But the parts can be compared with those of the output:

# %%
def check(made):
    (s, r), (s_made, r_made) = split(p, y), split(made, y)
    for name, one, other in (("confidence", s, s_made), ("rest", r, r_made)):
        one, other = one.sort(1).values, other.sort(1).values
        same = torch.allclose(one, other, atol=1e-4)
        print("✓" if same else "✗", name, "as in the output, but for order")

check(made)

# %% [markdown]
# **Repair it**: write `made = shuffled(p, y)` in the first cell of this section, and run the section again. What you should see:

# %% tags=["hide-input"]
made = shuffled(p, y)
check(made)
mended = raced(repaired=taught(kd.Cached.of(4 * made.log(), data, "mended")))

# %% mystnb={"image": {"alt": "The same curves and a third one, of the repaired target, which rises like that of labels only."}}
kd.plot.curves(together(broken, mended)).set_title("Repaired: it learns");


# %% [markdown]
# ## Exercises
#
# Each has a cell to fill in and a check, which prints "not done yet" until then.
#
# ### 1. Warm up: how sure at which temperature?
#
# The label's logit is `gap`, the other K − 1 logits are 0. Write the label's probability at temperature T, without a softmax function.

# %% tags=["exercise-stub"]
def label_probability(gap, K, T):
    raise NotImplementedError


# %% tags=["exercise-check"]
try:
    for gap_, K, T in ((7.04, 36, 1), (7.04, 36, 4), (2.0, 10, 2)):
        found = float(label_probability(gap_, K, T))
        soft = (torch.tensor([gap_] + [0.0] * (K - 1)) / T).softmax(0)[0]
        assert abs(found - soft) < 1e-3, (
            f"Expected {soft:.3f}, got {found:.3f}. Divide by T first; "
            "every wrong class counts with e⁰ = 1.")
except NotImplementedError:
    print("Not done yet: label_probability raises NotImplementedError.")
else:
    print("✓ It passes.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def label_probability(gap, K, T):
#     top = np.exp(gap / T)
#     return top / (top + K - 1)
# ```
#
# **What you should see:** ✓. A gap of 7.04 is 0.97 at T = 1 and 0.14 at T = 4: how soft a target is depends on the temperature.
#
# </details>
#
# ### 2. Build: keep the three nearest classes
#
# `keep_three(rest)` gets the shares of the wrong classes `[N, K]` (0 for the label, as `split` returns them). It keeps the three largest shares of each row, and spreads what is left evenly over the other wrong classes. The label keeps 0.

# %% tags=["exercise-stub"]
def keep_three(rest):
    raise NotImplementedError


# %% tags=["exercise-check"]
try:
    _, some = split(p[:200], y[:200])
    kept = keep_three(some.clone())
    top = some.topk(3, dim=1)
    assert torch.allclose(kept.gather(1, top.indices), top.values), (
        "Expected the three largest shares as they are, got others.")
    assert (kept[own[:200]] == 0).all(), (
        "Expected 0 for the label, got a share: 32 are left, not 33.")
    assert torch.allclose(kept.sum(1), torch.ones(200), atol=1e-4), (
        f"Expected shares that sum to 1, got {kept.sum(1).mean():.3f}.")
    others = kept.scatter(1, top.indices, 0)[~own[:200]].view(200, 35)
    spread = others.sort(1).values[:, 3:]
    assert (spread.max(1).values - spread.min(1).values).max() < 1e-6, (
        "Expected equal shares for the 32 others, got different ones.")
except NotImplementedError:
    print("Not done yet: keep_three raises NotImplementedError.")
else:
    print("✓ It passes.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def keep_three(rest):
#     top = rest.topk(3, dim=1)
#     left = 1 - top.values.sum(1, keepdim=True)
#     even = torch.where(rest > 0, left / (rest.shape[1] - 4), 0.0)
#     return even.scatter(1, top.indices, top.values)
# ```
#
# **What you should see:** ✓. If the label gets an even share, too, the check says so.
#
# </details>
#
# ### 3. Explore: are three classes enough?
#
# With the confidence of this image, does a student need the shares of all wrong classes, or of the three nearest? Bet first. Then compare "all" with "three" on the validation images, five seeds, the teacher's settings for both. `parts(logits)[1]["this image"]` are the shares of all views; flatten the views, use `keep_three`, and join. Settings chosen for one arm favour that arm: say so in your conclusion.

# %% tags=["exercise-stub"]
def three_enough():
    raise NotImplementedError


# %% tags=["exercise-check"]
try:
    enough = three_enough()
    kd.checks.same_budget(enough)
    assert set(enough.arms) == {"all", "three"}, (
        f"Expected the arms all and three, got {enough.arms}.")
    print(enough)
except NotImplementedError:
    print("Not done yet: three_enough raises NotImplementedError.")
else:
    print("✓ It passes.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def three_enough():
#     sure, share = parts(logits)
#     rest = share["this image"]
#     three = keep_three(rest.flatten(0, 1)).view(rest.shape)
#     made = told(4 * join(sure["this image"], three, y).log(), "three")
#     return kd.compare({"all": taught(given), "three": taught(made)}, augmented,
#                       budget["this image / this image"], range(5), teacher=teacher, results="11")
# ```
#
# **What you should see:** the picture below, drawn from recorded rows.
#
# </details>

# %% mystnb={"image": {"alt": "Validation accuracy with the shares of all wrong classes and with those of the three nearest, a dot for each of five seeds. All is higher."}} tags=["hide-input"]
def nearest_three():
    sure, share = parts(logits)
    rest = share["this image"]
    top = rest.topk(3, dim=-1)
    left = (1 - top.values.sum(-1, keepdim=True)) / 32
    three = torch.where(rest > 0, left, 0.0).scatter(-1, top.indices, top.values)
    return told(4 * join(sure["this image"], three, y).log(), "three")

expected = kd.compare({"all": taught(given), "three": taught(nearest_three())}, augmented,
                      budget["this image / this image"], range(5), teacher=teacher, results="11")
kd.plot.dots(expected).set_title("Exercise 3: all wrong classes, or three");

# %% tags=["hide-input"]
with contextlib.redirect_stdout(io.StringIO()):
    start = kd.compare({"labels": labels_only}, augmented, budget["labels only"], range(3),
                       teacher=teacher, results="01").mean("labels")
three, everything = (np.mean(expected.values(arm)[:3]) for arm in ("three", "all"))
Markdown(f"""
Three minus all: {text([100 * value for value in expected.difference("three", "all")])} on
validation images. By the three seeds that labels only has, too, three shares and an even remainder
keep {(three - start) / (everything - start):.0%} of the gain, at settings tuned for all.
""")

# %% [markdown]
# ## Quiz

# %% tags=["remove-input"]
kd.explore.question(
    "In the figure of the result, which two markers show what the confidence of this image brings "
    "when the wrong classes are all alike?",
    {"The blue and the grey one at “even”.":
        "The rest is even in both, and only the confidence is exchanged.",
     "The blue ones at “even” and at “of this image”.":
        "There the confidence is the same, and the rest is exchanged.",
     "The blue one at “of this image”, and the dashed line.":
        "That is the gain of the whole output, in which both parts are of this image."},
    name="11/arms", answer="The blue and the grey one")

# %% tags=["remove-input"]
kd.explore.question(
    "Students with class averages vary less than those with labels only, and are not shown to be "
    "more accurate. Which part of the figure of bias and variance fits that?",
    {"Their squared bias is larger.":
         "They are nearer to each other, and their mean is further from the two other teachers.",
     "Their variance is larger than with the teacher.":
         "It is, but it is below that of labels only, and the question is about these two.",
     "Their squared bias is that of labels only.": "Look again: the two intervals are apart."},
    name="11/bias", answer="Their squared bias is larger")

# %% tags=["remove-input"]
kd.explore.question(
    "A control has an even rest, and is worse than the teacher. Somebody concludes that the order "
    "of the wrong classes matters. What else differs?",
    {"The control is softer.": "An even rest has the largest entropy that there is. The shuffled "
                               "rest does not: it is as soft as the teacher's, image by image.",
     "Its confidence is another one.": "The confidence was kept; only the shares of the wrong "
                                       "classes changed.",
     "Nothing else.": "Two things changed together: the order, and how unequal the shares are."},
    name="11/softer", answer="The control is softer")

# %% tags=["remove-input"]
kd.explore.question(
    "A control gives the label 0.97 at T = 1, as the teacher does on average on the plain images. "
    "The loss has T = 4. Is the control matched?",
    {"That cannot be said before both are compared at T = 4.":
        "With equal wrong classes 0.97 at T = 1 is 0.14 at T = 4, almost uniform. The teacher's "
        "outputs are far less soft there.",
     "Yes, T is the same for both.": "The same T changes the two by different amounts: it depends "
                                     "on all logits.",
     "Yes, if both have the same accuracy.": "Accuracy depends on the order of the logits, "
                                             "softness on their sizes."},
    name="11/matched", answer="That cannot be said")


# %% [markdown]
# ## In the literature
#
# {cite:t}`furlanello2018` trained a second DenseNet on the outputs of a first, equal one, and took the outputs apart in two ways. Test errors in %, beside ours:

# %% tags=["hide-input"]
def error(arm):
    mean, low, high = (100 * (1 - value) for value in final.interval(arm))
    return f"{mean:.1f} ({high:.1f} to {low:.1f})"

Markdown(f"""
| error, % | CIFAR-100, DenseNet-112-33 | DenseNet-80-120 | here, 95 % interval |
|---|---|---|---|
| labels only | 18.25 | 16.87 | {error('labels only')} |
| the output (BAN) | 16.95 | 16.00 | {error(whole)} |
| wrong classes shuffled (DKPP) | 17.84 | 16.34 | {error('shuffled')} |
| labels weighted by the confidence (CWTM) | 17.84 | 17.12 | {error('weighted labels')} |
""")

# %% [markdown]
# What differs: their teacher is as large as its student and was trained on the same images, and is the line "labels only"; $T = 1$ and no labels in the loss; they permute all classes but the teacher's first. One run each, no error bars; these are the smallest and the largest of their four networks. In all four of their networks the shuffled outputs are better than labels, and the whole output is better than the shuffled one. Here the shuffled outputs are worse than labels. We have not run $T = 1$.
#
# {cite:t}`zhao2022` call NCKD the prominent reason why logit distillation works. {cite:t}`yuan2020` report results with a virtual teacher comparable to those with a real one; here it is below labels only.
#
# ## Take-away

# %% tags=["hide-input"]
Markdown(f"""
1. **A gain is shown only with both parts**, at the weights 0.9 and 0.25. At 0.9, against labels
   only: one even target for all {against('same for all / even')}, confidence only
   {against('this image / even')}, rest only {against('same for all / this image')}, both
   {against(whole)}.
2. **The rest of the class keeps a gain; its confidence does not.** With the rest it is
   {against(near)}. Accuracy cannot tell it from the whole output; the log-likelihood can, and is
   worse. With the confidence
   of the class, too, the accuracy changes by {against('class averages', near)}.
3. **With the teacher, students vary less** over training sets, starts and orders together: the
   variance changes by {part('variance', 'teacher')}, the squared bias by
   {part('bias', 'teacher')}.
""")

# %% [markdown]
# ## Cost
#
# Every arm makes the same number of steps: 240,000 forward and backward passes of the student in a run. The targets are computed once, from 80,000 forward passes of each teacher.

# %% tags=["hide-input"]
rows = kd.experiment.recorded("11")
trained = sum("Distiller" in str(row.get("scheme")) or "WeightedCE" in str(row.get("scheme"))
              for row in rows)
loaded = 2 * sum(key[0] not in new for key in score) + 6 + 40 + 20 + 1
Markdown(f"""
The {len(rows)} runs are {trained} trainings, {len(rows) - trained - 1} rows of four or six trainings each
(bias and variance) and one row of distances; the last two kinds also need two ResNets. About
{round(loaded, -1)} rows of chapter 1 are loaded and not counted. By machine and day:
""")

# %% [markdown] tags=["cost-table"]
# | runs | seeds | time | hardware | torch | Python | date |
# |---|---|---|---|---|---|---|
# | 130 | 5 | 65 minutes | 1 CPU thread (x86_64, AVX512, Linux) | 2.15.0 | 3.11.7 | 2026-11-29 |
