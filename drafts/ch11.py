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
# In [chapter 1](01_hinton.ipynb) a teacher's output made a student more accurate. With its wrong classes shuffled, or spread evenly, no gain was shown, neither at the weight 0.9 nor at 0.25. So the label's probability alone does not explain the gain. Do the wrong classes alone? And must they be those of *this* image, or are those of its class enough?
#
# Other papers found that they matter less: in one a part of the gain stays when the wrong classes are shuffled {cite:p}`furlanello2018`, in another a fixed target with equal wrong classes is comparable to a real teacher {cite:p}`yuan2020`.
#
# Here the output is split into two parts, and each is exchanged.
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
# **Reading time** about 24 minutes, exercises not counted.
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
    "One part of the teacher's output is replaced by that of the class's mean output, the other is "
    "kept. Which costs more accuracy?",
    ["The label probability of the class.", "The shares of the class.",
     "The seeds cannot tell."], "11/class")
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
# All twelve have the same label. Its probability differs a lot, and so does the nearest wrong class. These are the two parts.

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
# In plain PyTorch, for outputs of any shape `[…, N, K]`, with a check of the formula:

# %%
def split(p, label):
    own = F.one_hot(label, p.shape[-1]).bool()
    sure = (p * own).sum(-1, keepdim=True)
    return sure, p.masked_fill(own, 0) / (1 - sure)

def join(sure, rest, label):
    own = F.one_hot(label, rest.shape[-1]).bool()
    return torch.where(own, sure, (1 - sure) * rest)

def KL(p, q):
    return (p * (p / q).log()).nansum(-1)  # 0 log 0 counts as 0

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
q = torch.tensor([[0.4, 0.4, 0.2]])  # a student
s1, r1 = split(q, label)
two = KL(torch.cat([s, 1 - s], 1), torch.cat([s1, 1 - s1], 1))
print(f"KL {KL(join(s, r, label), q).item():.4f}, as two terms",
      f"{(two + (1 - s)[0] * KL(r, r1)).item():.4f}")
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
# What each target does to an untrained student: choose a target.

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
# An arm is named *confidence / rest*. The first and the last confidence, each with the three rests, make six arms. In this **factorial** design the effect of one part can be read at each level of the other. The confidence of the class has two arms: with the rest of this image, and with that of the class (**class averages**). *This image / even* is called **confidence only**, *same for all / this image* **rest only**. More arms:
#
# - **shuffled**: the confidence of this image, its wrong classes in another order; that order is drawn for each image, or once for each class (**shuffled by class**), so that all images of a class agree;
# - **confidence as target only** and **as weight only**: in the first term or in the second the confidence of this image, in the other the mean of all;
# - **NCKD** {cite:p}`zhao2022`: the second term alone, without the weight $1 - s$.

# %%
augmented = kd.augmented(data, views=20, shift=0.1, degrees=11, scale=0.15)
given, hot = kd.Cached(teacher, augmented), F.one_hot(y, 36).float()
logits = given.logits  # [20 views, 4000 images, 36]

def parts(logits):
    p = (logits / 4).softmax(-1)
    mean = hot.T @ p.mean(0) / hot.sum(0)[:, None]
    (sure, rest), (s, r) = split(p, y), split(mean[y], y)
    return ({"this image": sure, "class": s, "same for all": sure.mean()},
            {"this image": rest, "class": r, "even": (1 - hot) / 35})


# %%
def target_of(logits, confidence, rest):
    sure, share = parts(logits)
    return 4 * join(sure[confidence], share[rest], y).log()

def told(outputs, name):
    return kd.Cached.of(outputs.expand(20, 4000, 36), augmented, name)

objective = 0.1 * CE() + 0.9 * KD(T=4)
def taught(stored, loss=objective):
    return lambda seed: kd.Distiller(net(seed), stored, loss)

cells = [("this image", "class"), ("same for all", "this image"),
         ("same for all", "class"), ("same for all", "even"),
         ("class", "this image")]
stored = {f"{c} / {r}": told(target_of(logits, c, r), f"{c} / {r}")
          for c, r in cells}


# %% tags=["hide-input"]
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

# %% tags=["hide-input"]
class AsWeight(Loss):
    """T² (KL of one confidence for all + (1 - s) KL of the rest), T = 4: s is the weight only."""
    needs_labels = True

    def __init__(self, mean):
        super().__init__(mean=mean)

    def values(self, student, teacher, labels):
        own = F.one_hot(labels, student.shape[1]).bool()
        log_q, log_p = ((z / 4).log_softmax(1) for z in (student, teacher))
        others_q, others_p = (z.masked_fill(own, -torch.inf).logsumexp(1) for z in (log_q, log_p))
        first = (self.mean * (np.log(self.mean) - log_q[own])
                 + (1 - self.mean) * (np.log(1 - self.mean) - others_q))
        p = log_p.exp().masked_fill(own, 0)  # (1 - s) r
        gap = log_p - others_p[:, None] - log_q + others_q[:, None]
        return 16 * (first + (p * gap).sum(1))

roles = {"confidence as target only": 0.1 * CE() + 0.9 * DKD(1, 0.46, T=4),
         "confidence as weight only": 0.1 * CE() + 0.9 * AsWeight(0.54)}

# %%
orders = torch.stack([torch.randperm(
    35, generator=torch.Generator().manual_seed(k)) for k in range(36)])
places = (1 - hot).bool()  # one order of the wrong classes for each class
rest = logits[:, places].view(20, 4000, 35)
alike = logits.masked_scatter(places, rest.gather(
    2, orders[y].expand(20, 4000, 35)))

# %%
new = {name: taught(made) for name, made in stored.items()
       if name != "class / this image"}
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
known |= {name: taught(made) for name, made in stored.items()
          if name not in (*new, "class / this image")}


# %% [markdown]
# ### One search for every arm
#
# The search of chapter 1: two seeds on the validation images for each pair of learning rate and weight decay, from one pair to its best neighbour, until no neighbour is better. The new arms start where labels only and the teacher ended. Two seeds can choose by chance. So the three best pairs of four arms, on which the conclusions rest, get three seeds more: labels only, the whole output, rest only, and the rest of the class. The two roles of the confidence have the whole output's pair.
#
# Rows that were recorded for exactly this code and data are loaded; the others are computed.

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
budget = {name: recipe(*at) for name, at in settings.items()}

# %% tags=["hide-input"]
whole, near = "this image / this image", "this image / class"
rest_only, of_class = "same for all / this image", "class / this image"
arms = known | new | {of_class: taught(stored[of_class]),
                      "NCKD, label weight 1": taught(given, CE() + DKD(0, 1, T=4))}
arms |= {name: taught(given, loss) for name, loss in roles.items()}

def by_five(name):
    pairs = sorted((at for arm, at in score if arm == name), key=lambda at: -score[name, at])[:3]
    table = kd.compare(dict.fromkeys(pairs, arms[name]), augmented,
                       {at: recipe(*at) for at in pairs}, range(2, 5), teacher=teacher,
                       results="11")
    return max(pairs, key=lambda at: 2 * score[name, at] + 3 * table.mean(at))


# %% tags=["hide-input"]
with contextlib.redirect_stdout(io.StringIO()):
    best, scores = search({name: arms[name] for name in (of_class, "NCKD, label weight 1")},
                          settings["labels only"], "11")
    score |= scores
    four = ("labels only", whole, near, rest_only)
    chosen = settings | best | {name: by_five(name) for name in four}
chosen |= dict.fromkeys(roles, chosen[whole])

# %% tags=["hide-input"]
lines = [f"| {name} | {at[0]:g} | {at[1]:g} | {sum(key[0] == name for key in score)} | "
         + (f"{score[name, at]:.1%}" if (name, at) in score else "–")
         + (" | by five seeds" if name in four else " | ") + " |" for name, at in chosen.items()]
Markdown("<details><summary>The chosen settings (confidence / rest)</summary>\n\n"
         "| arm | rate | weight decay | pairs tried | validation accuracy, two seeds | chosen "
         "|\n|---|---|---|---|---|---|\n"
         + "\n".join(lines) + "\n\nMost searches were run on another computer, with a teacher "
         "of the same code that was trained there.\n\n</details>")

# %% [markdown]
# ### A prediction
#
# Which share of the differences between the targets of all views does the class explain? One minus the squared differences within the classes, divided by those between all images:

# %%
def explained(values):  # [views, images, …]
    means = (hot.T @ values.mean(0)) / hot.sum(0)[:, None]
    within = (values - means[y]).square().sum()
    mean = values.mean((0, 1))
    return (1 - within / (values - mean).square().sum()).item()

s, r = split((logits / 4).softmax(-1), y)
print(f"confidence {explained(s):.0%}, rest {explained(r):.0%}")


# %% [markdown]
# The class explains most of the shares of the wrong classes, and little of the confidence. If a student needs what its targets say about this image, the confidence of the class should cost more than the rest of the class.
#
# ### The result
#
# Once, on the test images: five seeds for each arm. All arms of this table were trained on one computer, with one teacher; those of chapter 1 were trained again.

# %%
def on_test(names, seeds=5):
    own = {name: recipe(*chosen[name]) for name in names}
    return kd.compare({name: arms[name] for name in names}, augmented, own,
                      range(seeds), split="test", teacher=teacher,
                      results="11")

crossed = [f"{c} / {r}" for c in ("this image", "same for all")
           for r in ("this image", "class", "even")]
others = ["class averages", of_class, "shuffled", "shuffled by class",
          "NCKD", "NCKD, label weight 1"]
final = on_test(["labels only", *crossed, *others, *roles])
three = (whole, near, of_class)
ten = on_test(three, seeds=10)


# %% tags=["hide-input"]
def text(triple, unit=" points"):
    mean, low, high = triple
    n = 2 if min(abs(low), abs(high)) < 0.05 else 1  # an end that would round to 0
    return f"{mean:+.{n}f}{unit} ({low:+.{n}f} to {high:+.{n}f})".replace("-", "−")

def against(arm, baseline="labels only", table=None, unit=" points"):
    return text([100 * v for v in (table or final).difference(arm, baseline)], unit)

def together(*tables):  # the seeds that all of them have
    seeds = [{row["seed"] for row in table.rows} for table in tables]
    rows = [row for table in tables for row in table.rows
            if row["seed"] in set.intersection(*seeds)]
    return dataclasses.replace(tables[0], rows=rows)


# %% mystnb={"image": {"alt": "The difference in test accuracy to labels only, with its interval and a dot for each seed, for four kinds of the rest: shuffled, even, of the class, of this image. A blue line joins the arms with the confidence of this image. It rises from one point below labels only with an even rest to one point above it with the rest of the class and a little more with that of this image. A grey line, one confidence for all, runs about one point below the blue one and ends at labels only. Two green diamonds, the confidence of the class, lie near the grey line. The shuffled rest, with the confidence of this image, is two points below labels only."}} tags=["hide-input"]
columns = ("even", "class", "this image")
figure, ax = plt.subplots(figsize=(6.4, 4))
for confidence, color, mark, move in (("this image", kd.plot.BLUE, "o", 0.05),
                                      ("same for all", kd.plot.GREY, "s", -0.05)):
    ends = 100 * np.array([final.difference(f"{confidence} / {r}") for r in columns])
    mid, lows, highs = ends.T
    for place, rest in enumerate(columns):
        gaps = np.subtract(final.values(f"{confidence} / {rest}"), final.values("labels only"))
        ax.plot([place + 1 + 3 * move] * len(gaps), 100 * gaps, ".", color=color, alpha=0.6)
    ax.errorbar(np.arange(1, 4) + move, mid, (mid - lows, highs - mid), fmt=f"{mark}-", ms=8,
                lw=2, capsize=4, color=color, label=f"confidence: {confidence}")
for name, color, mark, place in (("shuffled", kd.plot.BLUE, "o", 0.05),
                                 ("class averages", kd.plot.GREEN, "D", 1.76),
                                 (of_class, kd.plot.GREEN, "D", 2.76)):
    mid, low, high = (100 * value for value in final.difference(name))
    gaps = np.subtract(final.values(name), final.values("labels only"))
    side = 0.1 if place < 1 else -0.1
    ax.plot([place + side] * len(gaps), 100 * gaps, ".", color=color, alpha=0.6)
    ax.errorbar([place], [mid], ([mid - low], [high - mid]), fmt=mark, ms=8, lw=2, capsize=4,
                color=color, label="confidence: of the class" if name == of_class else None)
ax.axhline(0, color="black", lw=1.2, ls="--")
ax.text(-0.3, 0, "labels only", va="bottom", fontsize=11)
ax.set_xticks(range(4), ["shuffled", "even", "of the class", "of this image"])
ax.set(xlim=(-0.4, 3.4), xlabel="rest: the shares of the wrong classes",
       ylabel="points against labels only", title="Each part adds, and the wrong classes add more")
ax.legend(loc="lower right");


# %% tags=["hide-input"]
def seeds(name):
    return 100 * np.array(final.values(name))

def gap(*names):  # signs alternate: a - b - c + d
    signs = (1, -1, -1, 1)
    return text(kd.measure.interval(list(sum(k * seeds(n) for k, n in zip(signs, names)))))

def mean_of(ours, theirs, unit=" points"):
    gaps = np.mean([seeds(a) - seeds(b) for a, b in zip(ours, theirs)], 0)
    return text(kd.measure.interval(list(gaps)), unit)

both = ("this image", "same for all")
with_rest = {rest: [f"{c} / {rest}" for c in both] for rest in columns}
sure_of = [[f"{c} / {r}" for r in reversed(columns)] for c in both]

# %% tags=["hide-input"]
square = (whole, rest_only, "this image / even", "same for all / even")
Markdown(f"""
- **Each part adds.** On average over three rests, the confidence of this image instead of one for
  all brings {mean_of(*sure_of)}. On average over two confidences, the rest of this image instead of
  an even one brings {mean_of(with_rest['this image'], with_rest['even'])}. No interaction is shown,
  {gap(*square)}.
- **Most of the rest is that of its class.** The rest of the class instead of an even one brings
  {mean_of(with_rest['class'], with_rest['even'])}; that of this image instead of the class's
  {mean_of(with_rest['this image'], with_rest['class'])}.
- **Against labels only** a gain is shown for the whole output, {against(whole)}, and for the
  confidence of this image with the rest of its class, {against(near)}. Rest only:
  {against(rest_only)}; confidence only: {against('this image / even')}.
- **Image or class?** With ten seeds, the rest of the class instead of this image's costs
  {against(near, whole, ten)}, the confidence of the class instead of this image's
  {against(of_class, whole, ten)}; the second minus the first is
  {against(of_class, near, ten)}. So the prediction holds. Class averages, with both of the class,
  are {against('class averages')} from labels only.

All intervals are over seeds: teacher, training images and test images are one draw each. There are
more than 60 of them, so some that just leave out 0 do so by chance.
""")

# %% tags=["hide-input"]
pairs = {name: np.corrcoef(final.values(name), final.values("labels only"))[0, 1]
         for name in crossed}
told_pairs = ", ".join(f"{name} {r:.2f}" for name, r in pairs.items()).replace("-", "−")
lines = []
for one, other in (("this image", "even"), ("class", "even"), ("this image", "class")):
    ours, theirs = with_rest[one], with_rest[other]
    lines.append(f"| {one} instead of {other} | {mean_of(ours, theirs, '')} | "
                 + " | ".join(against(a, b, unit="") for a, b in zip(ours, theirs)) + " |")
lines = "\n".join(lines)
Markdown(f"""
<details><summary>Main effects, and correlation over the seeds</summary>

**Confidence** of this image instead of the same for all, in points:

| mean | with the rest of this image | of the class | even |
|---|---|---|---|
| {mean_of(*sure_of, '')} | {' | '.join(against(a, b, unit='') for a, b in zip(*sure_of))} |

**Rest**, in points:

| rest | mean | with the confidence of this image | same for all |
|---|---|---|---|
{lines}

The correlation of an arm with labels only over the seeds (confidence / rest): {told_pairs}. Where
it is negative, pairing makes the interval wider, not narrower.

</details>
""")

# %% [markdown]
# ### On which classes?
#
# Chapter 1's controls lose on 1 and I, 0 and O, which look alike. The groups were picked on the same test images: their intervals are too narrow. Against labels only, in points:

# %% tags=["hide-input"]
twins = [data.classes.index(k) for k in "1I0O"]
groups = {"all": [*range(36)], "1, I, 0, O": twins,
          "the other 32": [k for k in range(36) if k not in twins]}

def on(table, arm, group):
    ours, theirs = (np.array(table.values(name, "per_class"))[:, groups[group]].mean(1)
                    for name in (arm, "labels only"))
    return text(kd.measure.interval(list(100 * (ours - theirs))), "")

shown = {"whole output": whole, "rest of the class": near, "confidence of the class": of_class,
         "class averages": "class averages", "rest only": rest_only,
         "confidence only": "this image / even", "shuffled": "shuffled",
         "one even target": "same for all / even"}
Markdown("| arm | all | 1, I, 0, O | the other 32 |\n|---|---|---|---|\n" + "\n".join(
    f"| {label} | " + " | ".join(on(final, arm, group) for group in groups) + " |"
    for label, arm in shown.items()) + """

The whole output and the rest of the class gain on the 32. Confidence only and class averages lose
on 1, I, 0 and O, and no change is shown on the 32. For rest only it is the other way round: it
gains on the four, and no change is shown on the 32.
""")

# %% [markdown]
# ### At a smaller weight
#
# All of this is at the weight 0.9. Here is 0.25, with the settings found at 0.9:

# %% tags=["hide-input"]
lighter = 0.75 * CE() + 0.25 * KD(T=4)
few = {"whole output": whole, "rest of the class": near, "rest only": rest_only,
       "confidence only": "this image / even"}
with contextlib.redirect_stdout(io.StringIO()):
    quarter = kd.compare({label: taught(stored[arm], lighter) for label, arm in few.items()},
                         augmented, {label: recipe(*chosen[arm]) for label, arm in few.items()},
                         range(5), split="test", teacher=teacher, results="11")
quarter = together(quarter, final)
lines = "\n".join(f"| {label} | {against(label, table=quarter, unit='')} | "
                  f"{against(arm, unit='')} |" for label, arm in few.items())
Markdown(f"""
| against labels only, points | weight 0.25 | weight 0.9 |
|---|---|---|
{lines}

At 0.25 the whole output is ahead of rest only by {against('whole output', 'rest only', quarter)}
and of confidence only by {against('whole output', 'confidence only', quarter)}.
""")

# %% [markdown]
# ### Two roles of the confidence, and the order of the wrong classes

# %% tags=["hide-input"]
target, weight = roles
Markdown(f"""
- **As target only** the confidence of this image is {against(target, whole)} from the whole output,
  **as weight only** {against(weight, whole)}; the first minus the second is
  {against(target, weight)}. So it acts mostly as the target of the first term.
- **Order or softness?** A shuffled rest is exactly as soft as the teacher's, an even rest is
  softer. Shuffled is {against('shuffled', whole)} from the whole output; so softness does not
  explain the loss. **Shuffled by class** is {against('shuffled by class')} from labels only
  and {against('shuffled by class', 'shuffled')} from shuffled.
- **NCKD**: {against('NCKD')} against labels only. It leaves the label's probability to the labels;
  with the label weight 1, as in the paper, it is {against('NCKD, label weight 1')}. No gain
  is shown.
""")

# %% [markdown]
# ### Cheaper targets, and a teacher that has seen no other images
#
# These arms were recorded with chapter 1's, on its computer, and are compared with its labels only. **Weighted labels** are weighted by the teacher's confidence. **Even softness**, one label probability for all and even wrong classes, has the teacher's mean entropy, like a virtual teacher {cite:p}`yuan2020`. The **teacher of the same 4,000** was trained on the student's own images; with its parts the settings are those that two seeds chose for the first teacher. Class averages stand here once more: another training of the teacher can move a difference by half a point.

# %% tags=["hide-input"]
both_of = {
    "confidence only": ("this image", "even"), "rest only": ("same for all", "this image"),
    "both parts": ("this image", "this image")}
names = {"confidence only": "confidence only", "rest only": "rest only", "both parts": "both"}
first = ("labels only", "class averages", "label smoothing", "even softness",
         "teacher of the same 4,000")
with contextlib.redirect_stdout(io.StringIO()):
    budget |= {name: budget[" / ".join(both_of[label])] for label, name in names.items()}
    earlier = together(
        kd.compare({name: arms[name] for name in first}, augmented,
                   {name: budget[name] for name in first}, range(5), split="test",
                   teacher=teacher, results="01"),
        kd.compare({"weighted labels": arms["weighted labels"]}, augmented,
                   budget["weighted labels"], range(5), split="test", teacher=teacher,
                   results="11"),
        kd.compare({f"{name}, same 4,000": taught(told(target_of(same.logits, *cell),
                                                       f"{names[name]}, 4000"))
                    for name, cell in both_of.items()}, augmented,
                   {f"{name}, same 4,000": budget[" / ".join(cell)]
                    for name, cell in both_of.items()},
                   range(5), split="test", teacher=teacher, results="11"))
lines = "\n".join(f"| {name} | {against(name, table=earlier, unit='')} |"
                  for name in earlier.arms if name != "labels only")
Markdown(f"""
| arm | minus labels only, points |
|---|---|
{lines}

Only the teacher of the same 4,000, with settings of its own, is shown to be above labels only.
""")


# %% [markdown]
# ## Why
#
# Train a student on many training sets: how far is the *mean* of these students from the right probabilities (**bias**), and how far are single students from their mean (**variance**)? Soft targets near the right probabilities lower the variance of the loss, and their distance adds a bias to the risk {cite:p}`menon2021,zhou2021`. Here both are measured on the students.
#
# The right probabilities are unknown. In their place we put the mean $b$ of two other teachers of the same kind, each trained on 40,000 images of its own; so what favours our teacher may favour them as well. Five pairs of students, on the test images at $T = 1$: each has 4,000 new training images, a new start and a new order of batches. For a pair with the probabilities $q_1$, $q_2$, the mean of $(q_1 - b) \cdot (q_2 - b)$ estimates the squared bias, that of $\|q_1 - q_2\|^2 / 2$ the variance; their sum is the mean squared distance from $b$.

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
spread = kd.experiment.record(draws, range(5), name="bias and variance over training sets",
                              of=[augmented], split="test", results="11")
spread = together(spread, kd.experiment.record(
    draws_of_parts, range(5), name="bias and variance over training sets, one part", of=[augmented],
    split="test", results="11"))

# %% mystnb={"image": {"alt": "Squared bias, variance and their sum for students with labels only, with the teacher, with its confidence only, with its rest only and with class averages: a marker with its interval and five dots for each. The squared bias is about the same for labels only and the teacher, larger for rest only and class averages, and largest for confidence only. The variance is as large with confidence only as with labels only, a little smaller with rest only and class averages, and about half as large with the teacher. The sum is smallest with the teacher, largest with confidence only, and about that of labels only for the two others."}} tags=["hide-input"]
def values(name, quantity):
    if quantity == "sum":
        return np.add(*(spread.values(name, one) for one in ("bias", "variance")))
    return np.array(spread.values(name, quantity))

figure, ax = plt.subplots(figsize=(6.4, 3.8))
bars = {"labels only": "black", "teacher": kd.plot.BLUE, "confidence only": kd.plot.ORANGE,
        "rest only": kd.plot.PURPLE, "class averages": kd.plot.GREEN}
for k, (name, color) in enumerate(bars.items()):
    for place, quantity in enumerate(("bias", "variance", "sum")):
        mid, low, high = kd.measure.interval(list(values(name, quantity)))
        ax.errorbar(place + 0.16 * (k - 2), mid, [[mid - low], [high - mid]], fmt="osD^v"[k], ms=7,
                    lw=2, capsize=4, color=color, label=None if place else
                    "whole output" if name == "teacher" else name)
        ax.plot([place + 0.16 * (k - 2) + 0.05] * len(values(name, quantity)),
                values(name, quantity), ".", color=color, alpha=0.6)
ax.set_xticks([0, 1, 2], ["squared bias", "variance", "sum"])
ax.set(ylim=(0, None), xlim=(-0.5, 2.5), ylabel="squared distance",
       title="Of these targets, only the whole output lowers the sum")
ax.grid(False, axis="x"), ax.legend(fontsize=10, loc="upper left");


# %% tags=["hide-input"]
def part(name, quantity):
    change = values(name, quantity) - values("labels only", quantity)
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*kd.measure.interval(list(change))).replace(
        "-", "−")

told_as = {"teacher": "whole output"}
lines = "\n".join(
    f"| {told_as.get(name, name)} | " + " | ".join(part(name, q) for q in (
        "bias", "variance", "sum")) + " |" for name in list(bars)[1:])
level = [f"{values('labels only', q).mean():.3f}" for q in ("bias", "variance", "sum")]
Markdown(f"""
| minus labels only | squared bias | variance | sum |
|---|---|---|---|
{lines}

Labels only have {level[0]} + {level[1]} = {level[2]}. With the whole output the variance is about
half, and no change of the bias is shown. Rest only and class averages lower the variance less and
raise the bias: no change of the sum is shown. Confidence only raises the bias. At $T = 1$ the
distance also contains calibration.
(Rest only has the pair of rate and decay that two seeds chose.)
""")

# %% [markdown]
# ## Score the bet

# %% tags=["hide-input"]
mean, low, high = (100 * value for value in final.difference(rest_only))
kd.explore.score(rest_bet, mean, interval=(low, high), digits=1)

# %% tags=["hide-input"]
_, low, high = ten.difference(of_class, near)
one, other, equal = part_bet.choices
held = [one] * (low < 0) + [other] * (high > 0) + [equal] * (low < 0 < high)
kd.explore.score(part_bet, held, note="Confidence of the class minus rest of the class, ten seeds: "
                 f"{against(of_class, near, ten)}.")

# %% [markdown]
# ## What did not work

# %% tags=["hide-input"]
def nearest_three():
    sure, share = parts(logits)
    rest = share["this image"]
    top = rest.topk(3, dim=-1)
    left = (1 - top.values.sum(-1, keepdim=True)) / 32
    three = torch.where(rest > 0, left, 0.0).scatter(-1, top.indices, top.values)
    return told(4 * join(sure["this image"], three, y).log(), "three")

with contextlib.redirect_stdout(io.StringIO()):
    three_or_all = kd.compare({"all": taught(given), "three": taught(nearest_three())}, augmented,
                              recipe(*chosen[whole]), range(5), teacher=teacher, results="11")

# %% tags=["hide-input"]
below = [name for name in final.arms if final.difference(name)[2] < 0]
told_below = "; ".join(f"{name} {against(name, unit='')}" for name in below)
Markdown(f"""
- **Below labels only**, with the whole interval, at the weight 0.9: {told_below}.
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
    quick = kd.Recipe(epochs=6, lr=0.08, weight_decay=0.01)
    return kd.compare(arms, data, quick, seeds=range(2))

broken = raced(labels=labels_only, shuffled=taught(
    kd.Cached.of(4 * made.log(), data, "shuffled")))

# %% mystnb={"image": {"alt": "Validation accuracy by epoch with labels only and with the shuffled outputs, two seeds each. With labels only it rises; with the shuffled outputs it stays at chance."}}
kd.plot.curves(broken).set_title("Shuffled outputs: nothing is learned");


# %% [markdown]
# No error is raised: each target sums to 1 and is exactly as soft as the teacher's. But the parts can be compared with those of the output:

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
# With the confidence of this image, does a student need the shares of all wrong classes, or of the three nearest? Bet first. Then compare "all" with "three" on the validation images, five seeds, the teacher's settings for both. `parts(logits)[1]["this image"]` are the shares of all views; flatten the views, use `keep_three`, and join.

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
#                       recipe(*chosen[whole]), range(5), teacher=teacher, results="11")
# ```
#
# **What you should see:** the picture below, drawn from recorded rows.
#
# </details>

# %% mystnb={"image": {"alt": "Validation accuracy with the shares of all wrong classes and with those of the three nearest, a dot for each of five seeds. All is higher."}} tags=["hide-input"]
kd.plot.dots(three_or_all).set_title("Exercise 3: all wrong classes, or three");

# %% tags=["hide-input"]
Markdown(f"""
Three minus all: {text([100 * value for value in three_or_all.difference("three", "all")])} on
validation images, at settings tuned for all.
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
    "A control has the confidence of this image and an even rest, and is worse than the teacher. "
    "Somebody concludes that the order of the wrong classes matters. What else differs?",
    {"The control is softer.": "An even rest has the largest entropy that there is. The shuffled "
                               "rest does not: it is as soft as the teacher's, image by image.",
     "Its confidence is another one.": "The confidence was kept; only the shares of the wrong "
                                       "classes changed.",
     "Nothing else.": "Two things changed together: the order, and how unequal the shares are."},
    name="11/softer", answer="The control is softer")

# %% tags=["remove-input"]
kd.explore.question(
    "A control gives the label 0.97 at T = 1, as a teacher may do on average. "
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
def error(arm, table=None):
    mean, low, high = (100 * (1 - value) for value in (table or final).interval(arm))
    return f"{mean:.1f} ({high:.1f} to {low:.1f})"

Markdown(f"""
| error, % | CIFAR-100, DenseNet-112-33 | DenseNet-80-120 | here, 95 % interval |
|---|---|---|---|
| labels only | 18.25 | 16.87 | {error('labels only')} |
| the output (BAN) | 16.95 | 16.00 | {error(whole)} |
| wrong classes shuffled (DKPP) | 17.84 | 16.34 | {error('shuffled')} |
| weighted labels (CWTM) | 17.84 | 17.12 | {error('weighted labels', earlier)} |
""")

# %% [markdown]
# What differs: their teacher is as large as its student and was trained on the same images, and is the line "labels only"; $T = 1$ and no labels in the loss; they permute all classes but the teacher's first, and weight by its largest probability. One run each, no error bars. In all four of their networks, of which these are the smallest and the largest, the shuffled outputs are better than labels, and the whole output is better still. Here the shuffled outputs are worse than labels.
#
# {cite:t}`tang2020` name two of these parts: the confidence rescales the gradient of an example, and the wrong classes tell how classes are related. {cite:t}`zhao2022` call NCKD the prominent reason why logit distillation works.
#
# ## Take-away

# %% tags=["hide-input"]
Markdown(f"""
1. **Both parts, the wrong classes more.** The rest of this image instead of an even one brings
   {mean_of(with_rest['this image'], with_rest['even'])}, the confidence of this image instead of
   one for all {mean_of(*sure_of)}. Where one of them is the same for all, no gain over labels
   only is shown.
2. **The confidence must be the image's; the rest is mostly its class's.** The confidence of the
   class costs {against(of_class, whole, ten)}, the rest of the class {against(near, whole, ten)}.
3. **Of four kinds of target, only the whole output lowers the distance of the students from two
   other teachers**, by their variance: {part('teacher', 'variance')}.
""")

# %% [markdown]
# ## Cost
#
# Every arm makes the same number of steps: 240,000 forward and backward passes of the student in a run. The targets are computed once, from 80,000 forward passes of each teacher.

# %% tags=["hide-input"]
rows = kd.experiment.recorded("11")
pairs = sum("bias and variance" in str(row.get("scheme")) for row in rows)
Markdown(f"""
The {len(rows)} recorded runs are {len(rows) - pairs} trainings and {pairs} rows of bias and
variance, of four or six trainings each; the latter also need two ResNets. Rows of chapter 1 that
are loaded are not counted. By machine and day:
""")

# %% [markdown] tags=["cost-table"]
# | runs | seeds | time | hardware | torch | Python | date |
# |---|---|---|---|---|---|---|
# | 130 | 5 | 65 minutes | 1 CPU thread (x86_64, AVX512, Linux) | 2.15.0 | 3.11.7 | 2026-11-29 |
