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
# # When does distillation help, and from whom?
#
# The same teacher raised the accuracy of the same student by more than ten points, or by nothing that five seeds can show. Only the student's augmentation differed ([below](#four-baselines)). So gains can only be compared over fair baselines, and each paper has another one.
#
# Here one task stays the same, small images of digits and letters. What changes is the baseline, the teacher, the student, the number of images, the length of the training, the labels. The result is a [map](#the-map).
#
# ```{admonition} In this chapter
# :class: note
# **You will be able to**
# - compare conditions fairly: equally many steps, the same search for both arms,
# - read from an interval whether a teacher helped, hurt, or whether one cannot tell,
# - find out whether a gain comes from more data, from better labels or from a weak baseline,
# - choose a teacher, and say what to tune first.
#
# **You need** [chapter 1](01_hinton.ipynb): the loss, the paired difference, its interval.
#
# **Reading time** about 26 minutes, exercises not counted.
# ```

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:  # on Colab only: the package is not there yet
    # %pip install -q "kdcourse @ git+https://github.com/kdcourse/kdcourse"

# %% tags=["hide-input"]
import contextlib
import functools
import io

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from scipy import stats

# %%
import torch
import torch.nn.functional as F

import kdcourse as kd
from kdcourse.losses import CE, KD, HardLabel, LabelSmoothing

kd.plot.style()

# %% [markdown] tags=["opening-time"]
# Opening it with the recorded results: **108 s**. Computing all 777 runs anew: **399 minutes** on 1 CPU thread (x86_64, AVX2, Linux) and 1 CPU thread (x86_64, AVX512, Linux).

# %% [markdown]
# ## The bet
#
# Student, images and augmentation are those of chapter 1. Both arms get the same search.

# %% tags=["hide-input"]
short_bet = kd.explore.bet(
    "Both students train for 15 epochs in place of 60. A teacher of the same 4,000 images …",
    ["helps.", "makes no difference that these seeds can show.", "hurts."], "09/short")
short_bet

# %% tags=["hide-input"]
wrong_bet = kd.explore.bet(
    "40 of 100 training labels are wrong. The teacher learned from these same labels. By how many "
    "points does it change the student's accuracy on rightly labelled test images?",
    (-10, 20), "09/wrong-labels", unit="points", step=0.5)
wrong_bet


# %% [markdown]
# ## See it first
#
# Two functions make the images of all conditions. The first gives a share of the training images another label, drawn at random. Validation and test labels are always right.

# %%
def with_wrong_labels(data, share):
    draw = torch.Generator().manual_seed(0)
    x, y = data.train.x, data.train.y
    others = (y + torch.randint(1, 36, y.shape, generator=draw)) % 36
    changed = torch.rand(len(y), generator=draw) < share
    return kd.data.from_arrays(
        x, torch.where(changed, others, y), data.classes,
        val=(data.val.x, data.val.y), test=(data.test.x, data.test.y),
        name=f"glyphs, {share:.0%} of the labels wrong")


# %%
@functools.cache
def images(train=4000, wrong=0.0, augment=True, views=20, seed=0):
    data = kd.data.glyphs(train=train, seed=seed)
    if wrong:
        data = with_wrong_labels(data, wrong)
    if not augment:
        return data
    return kd.augmented(data, views=views, shift=0.1, degrees=11, scale=0.15)


# %% [markdown]
# 40 of 100 labels are wrong here: above each image its label, red where wrong; below, the answer of chapter 1's teacher.

# %% mystnb={"image": {"alt": "Sixteen small images of digits and letters in two rows. Above each is its label, five of them red and wrong; below each is the teacher's answer, which is the right class nearly everywhere."}}
right, noisy = images().train, images(wrong=0.4).train
answers = kd.models.predict(kd.teacher("glyphs"), right.x[:16]).argmax(1)
figure, axes = plt.subplots(2, 8, figsize=(6.4, 2.8))
for i, ax in enumerate(axes.flat):
    color = "black" if noisy.y[i] == right.y[i] else kd.plot.RED
    ax.imshow(right.x[i, 0], cmap="gray")
    ax.set_title(images().classes[noisy.y[i]], color=color, loc="center")
    ax.set(xticks=[], yticks=[], xlabel=images().classes[answers[i]])

# %% [markdown]
# (four-baselines)=
# ### One teacher, four baselines
#
# The teacher learned from 40,000 other images. Its student gets plain or augmented images; learning rate and weight decay are the package's default or [searched](#protocol), always for both arms alike.

# %%
objective = 0.1 * CE() + 0.9 * KD(T=4)

def labels(width=16, loss=None):
    return lambda seed: kd.Supervised(net(width, seed), loss)

def taught(name, width=16, loss=objective, **seen):
    teacher = outputs(name, **seen)
    return lambda seed: kd.Distiller(net(width, seed), teacher, loss)

def net(width, seed):
    return kd.models.convnet(width=width, classes=36, seed=seed)


# %%
def around(lr, decay):
    return [(lr / 4, decay), (4 * lr, decay),
            (lr, decay / 4), (lr, 4 * decay)]

def recipe(setting, epochs):
    return kd.Recipe(epochs=epochs, lr=setting[0], weight_decay=setting[1],
                     validate_every=epochs)


# %% [markdown]
# A teacher is trained when a run first needs its outputs; recorded runs need none.

# %% tags=["hide-cell"]
class Later(kd.teachers.Teacher):
    """A network's outputs for the student's images, computed when a run first needs them."""
    def __init__(self, name, network, view="same", **seen):
        super().__init__()
        self.name, self.network, self.view, self.seen = name, network, view, seen

    @functools.cached_property
    def stored(self):
        with torch.enable_grad():  # a teacher's outputs have no gradient, its training does
            data, network = images(**self.seen), self.network()
        if self.view == "same":
            return kd.Cached(network, data)
        plain = kd.models.predict(network, data.train.x)  # to the images without augmentation
        return kd.Cached.of(plain.expand(data.train.views, *plain.shape), data, self.name)

    def forward(self, batch, paths=()):
        return self.stored.to(batch.x.device)(batch, paths)

    def predict(self, x, y=None):
        return kd.models.predict(self.network(), x)

    def identity(self):
        return [self.network, self.view, self.seen]

    def __repr__(self):
        return f"{self.name} ({self.view} view, {self.seen})"


# %% tags=["hide-cell"]
@functools.cache
def outputs(name, **how):
    return Later(name, ask[name], **how)


# %% tags=["hide-cell"]
@functools.cache
def trained(network, width=16, train=4000, wrong=0.0, epochs=30, lr=0.01, decay=0.05, source=None):
    """A network trained on the student's images, by labels or by the outputs of `source`."""
    model = network(width=width, seed=0)
    scheme = kd.Supervised(model) if source is None else kd.Distiller(model, source, objective)
    own = kd.Recipe(epochs=epochs, lr=lr, weight_decay=decay, validate_every=epochs)
    kd.fit(scheme, images(train, wrong), own, seed=0)
    return kd.export(scheme)


# %% tags=["hide-cell"]
def trial(arms, keys, seen, epochs, seeds):
    """Validation accuracy of (arm, setting), mean over the seeds."""
    table = kd.compare({key: arms[key[0]] for key in keys}, seen,
                       {key: recipe(key[1], epochs) for key in keys}, seeds, results="09")
    return {key: table.mean(key) for key in keys}


# %% tags=["hide-cell"]
def best_of(score, arm, count=1):
    """The settings of an arm with the highest scores, best first."""
    own = (key for key in score if key[0] == arm)
    return sorted(own, key=score.get, reverse=True)[:count]


# %% tags=["hide-cell"]
def untried(arms, score, first):
    """The neighbours of each arm's best setting that have not been tried."""
    near = [(arm, one) for arm in arms for one in around(*best_of(score, arm)[0][1])]
    return [key for key in near if key not in first]


# %% tags=["hide-cell"]
def search(arms, seen, epochs, starts):
    first, three = {}, {}  # scores of one seed, means of three

    def go_on(new):  # from each arm's best to its neighbours, until none is better
        while new:
            first.update(trial(arms, new, seen, epochs, [0]))
            new = untried(arms, first, first)

    for start in starts:
        go_on([(arm, start) for arm in arms if (arm, start) not in first])
    while top := [key for arm in arms for key in best_of(first, arm, 3) if key not in three]:
        three |= trial(arms, top, seen, epochs, [0, 6, 7])
        go_on(untried(arms, three, first))  # the neighbours of the winner of three seeds
    return {arm: best_of(three, arm)[0][1] for arm in arms}, first


# %% tags=["hide-cell"]
START, SECOND = (0.08, 0.025), (0.32, 0.0015625)
searched = {}  # for the table of the searches


# %% tags=["hide-cell"]
def study(title, arms, seen, epochs=60, seeds=range(1, 6), starts=(START,), also=None):
    with contextlib.redirect_stdout(io.StringIO()):  # a line for each round
        best, tried = search(arms, seen, epochs, starts)
    budget = {arm: recipe(best[arm], epochs) for arm in arms}
    table = kd.compare(arms, seen, budget, seeds, split="test", also=also, results="09")
    for arm in arms:
        searched[title, arm] = (*best[arm], sum(key[0] == arm for key in tried), table)
    return best, table


# %% tags=["hide-cell"]
def points(ours, baseline, unit=100):
    """The mean paired difference and its interval (in smoke mode only, of unequal lists)."""
    count = min(len(ours), len(baseline))
    return [unit * v for v in kd.measure.paired_difference(ours[:count], baseline[:count])]


# %% tags=["hide-cell"]
entries = {}  # of the map: (group, condition) -> [gain in points, change of the NLL]


def enter(group, condition, table, arm, baseline="labels", against=None):
    other = against or table
    entries[group, condition] = [points(table.values(arm, quantity), other.values(
        baseline, quantity), unit) for quantity, unit in (("accuracy", 100), ("nll", 1))]


# %% tags=["hide-cell"]
def text(triple, unit=" points"):
    n = 2 if not unit or min(map(abs, triple[1:])) < 0.05 else 1  # an end that would round to 0
    mean, low, high = (f"{value:+.{n}f}" for value in triple)
    return f"{mean}{unit} ({low} to {high})".replace("-", "−")


# %% tags=["hide-cell"]
def gain(group, condition):
    mean, _, interval = text(entries[group, condition][0]).partition(" (")
    return f"**{mean}** ({interval}"


def nll(group, condition):
    return text(entries[group, condition][1], "")


# %% tags=["hide-cell"]
def between(table, arm, other="labels"):
    """The paired difference of two arms of a table, in points."""
    return [100 * value for value in table.difference(arm, other)]


# %% tags=["hide-cell"]
def draw_arm(ax, place, values, color):
    """A dot for each seed, below them the mean and its 95 % interval."""
    mean, low, high = kd.measure.interval(values)
    ax.plot(values, [place - 0.1] * len(values), "o", color=color, alpha=0.45, ms=6, mew=0)
    ax.plot([low, high], [place + 0.1] * 2, color=color, lw=3)
    ax.plot(mean, place + 0.1, "D", color=color, ms=7)


# %% tags=["hide-cell"]
def draw_arms(rows, title, height=None, label="test accuracy"):
    """rows: (place, name or "", values, colour)."""
    ax = plt.subplots(figsize=(6.4, height or 1 + 0.55 * len(rows)))[1]
    for place, _, values, color in rows:
        draw_arm(ax, place, values, color)
    named = [(place, name) for place, name, *_ in rows if name]
    ax.set_yticks(*zip(*named), fontsize=11), ax.grid(visible=False, axis="y")
    ax.set(ylim=(rows[-1][0] + 0.5, -0.6), xlabel=f"{label} (dots: seeds; bar: 95 % interval)")
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    ax.locator_params(axis="x", nbins=6)
    ax.figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=12.5)
    return ax


# %%
load, train = functools.cache(kd.teacher), functools.partial
many = "ResNet, 40,000 others"
ask = {many: train(load, "glyphs")}

def pair(name, width=16, **seen):
    return {"labels": labels(width), name: taught(name, width, **seen)}

# %%
default = kd.Recipe(epochs=60, validate_every=60)
rough = {seen: kd.compare(pair(many, augment=seen), images(augment=seen),
                          default, range(1, 6), split="test", results="09")
         for seen in (False, True)}
_, plain = study("plain images", pair(many, augment=False),
                 images(augment=False))
_, base = study("4,000 images", pair(many), images(),
                starts=(START, SECOND))

# %% tags=["hide-input"]
four = {"plain, default": rough[False], "plain, tuned": plain,
        "augmented, default": rough[True], "augmented, tuned": base}
for name, table in four.items():
    enter("Baseline", name, table, many)

# %% mystnb={"image": {"alt": "Test accuracy with labels only, in black, and with the teacher, in orange, for four baselines: plain and augmented images, each with default and with tuned rate and decay. A dot for each of five seeds, the mean and its interval. With plain images and default settings the two are far apart; with augmented images and default settings they cover each other."}} tags=["hide-input"]
rows = []
for place, (name, table) in enumerate(four.items()):
    rows += [(place, name, table.values("labels"), "black"),
             (place + 0.35, "", table.values(many), kd.plot.ORANGE)]
ax = draw_arms(rows, "The weakest baseline shows the largest gain", 3.9)
for color, name in (("black", "labels only"), (kd.plot.ORANGE, "with the teacher")):
    ax.plot([], [], "D", color=color, label=name)
ax.legend(loc="lower left");

# %% tags=["hide-input"]
Markdown(f"""
The gain is {gain('Baseline', 'plain, default')} over the weakest baseline,
{gain('Baseline', 'plain, tuned')} once both arms are tuned, and
{gain('Baseline', 'augmented, tuned')} over the strongest. A weak baseline can also hide a gain: at
the default rate, too low for augmented images, it is {gain('Baseline', 'augmented, default')}.
""")

# %% [markdown]
# In the figures black is labels only, blue a teacher of the student's own images and labels, orange one with other images or labels, grey a control.

# %% mystnb={"image": {"alt": "Diagram of distillation with the conditions that are varied. Images, 500 to 40,000, plain or augmented, go to the teacher and to the student. The teacher differs in its images, its size and the view it gets; the student has 2,000 or 26,000 weights. Labels are right or wrong. All meet in the loss, and training is short or long."}} tags=["hide-input"]
ax = kd.plot.diagram({
    "images": (0, 1, kd.plot.GREY, "images\n500 … 40,000,\nplain or augmented"),
    "teacher": (1.55, 2, kd.plot.ORANGE, "teacher: its images,\nits size, its view"),
    "student": (1.55, 0, kd.plot.BLUE, "student\nlarge or small"),
    "labels": (1.55, 1, kd.plot.GREY, "labels: right,\n20 % or 40 % wrong"),
    "loss": (3.1, 1, kd.plot.RED, "loss, for 15, 60\nor 120 epochs")}, [
    ("images", "teacher"), ("images", "student"), ("teacher", "loss", "× 0.9"),
    ("labels", "loss", "× 0.1"), ("student", "loss")])
ax.set_title("What is varied");

# %% [markdown]
# ## The idea
#
# ### By hand, on three classes
#
# Take a doubtful image. If many people labelled images like it, 6 of 10 labels would be O, 2 would be 0 and 2 would be D. The student should output $p = (0.6, 0.2, 0.2)$. The training set does not contain $p$, but:
#
# - **One label**, a draw from $p$. It is right on average, but its squared distance from $p$ is $1 - \sum_k p_k^2 = 0.56$ on average, and $0.56 / n$ for the mean of $n$ such labels. That spread is the **variance** of the labels.
# - **A teacher's output**, say $\hat p = (0.5, 0.3, 0.2)$. If it learned from other images, it does not depend on this label, but it is off by $0.1^2 + 0.1^2 = 0.02$, however many images there are. That is its squared **bias**.
#
# The two are equal at $n = 0.56 / 0.02 = 28$. {cite:t}`menon2021` derive such a trade-off for distillation. With labels that are really drawn:

# %%
p = torch.tensor([0.6, 0.2, 0.2])

def distance(n, repeats=2000):
    labels = torch.multinomial(p.expand(repeats, 3), n, replacement=True)
    mean = F.one_hot(labels, 3).float().mean(1)
    return ((mean - p) ** 2).sum(1).mean().item()

counts = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
teachers = {"good": torch.tensor([0.58, 0.22, 0.20]),
            "fair": torch.tensor([0.50, 0.30, 0.20]),
            "bad": torch.tensor([0.20, 0.60, 0.20])}

# %% mystnb={"image": {"alt": "Squared distance from the right probabilities against the number of labels, both on logarithmic axes. The line of the labels falls; three horizontal lines belong to a bad, a fair and a good teacher and are crossed at about 2, 28 and 700 labels."}} tags=["hide-input"]
figure, ax = plt.subplots()
ax.loglog(counts, [distance(n) for n in counts], "o-", color="black")
ax.text(1.6, 0.55, "mean of n labels")
for name, guess in teachers.items():
    off = ((guess - p) ** 2).sum()
    ax.axhline(off, color=kd.plot.ORANGE)
    left = name == "good"  # the line of the labels is on the right there
    ax.text(1.1 if left else 1900, off * 1.15, f"{name} teacher", ha="left" if left else "right")
ax.set(xlabel="number of labels n", ylabel="squared distance from p", ylim=(1e-4, 1.5),
       title="The better the teacher, the more labels match it");


# %% [markdown]
# No image has 28 labels, but a network gives similar images similar outputs, so the labels of neighbours count, too. A teacher of the *same* labels can help in this way alone: if it averages over neighbours better than the student. Four predictions follow. A teacher helps more with **fewer images**, with **wrong labels** and with a **baseline that overfits**, and an **inaccurate teacher** hurts.
#
# ### Helped, hurt, or cannot tell
#
# Each gain is a paired difference over five seeds (ten for the small student at 60 epochs and for 15 epochs). In plain Python, for five:

# %%
def verdict(ours, baseline):
    gaps = 100 * np.subtract(ours, baseline)  # points, seed by seed
    half = 2.776 * gaps.std(ddof=1) / np.sqrt(5)  # Student's t, five seeds
    low, high = gaps.mean() - half, gaps.mean() + half
    return "helped" if low > 0 else "hurt" if high < 0 else "cannot tell"

print(verdict([0.93, 0.93, 0.92, 0.94, 0.93],
              [0.91, 0.92, 0.91, 0.92, 0.92]))
print(verdict([0.92, 0.93, 0.92, 0.94, 0.93],
              [0.92, 0.94, 0.91, 0.91, 0.92]))

# %% [markdown]
# (protocol)=
# ## The experiment
#
# ### One protocol for all conditions
#
# | what | how |
# |---|---|
# | loss | 0.1 × labels + 0.9 × teacher, $T = 4$, as in chapter 1, unless other values are named |
# | budget | 1,860 steps of 128 images, however many there are: 60 epochs of 4,000, 6 of 40,000, 620 of 500 (only the section on length differs) |
# | search | AdamW, one-cycle; peak rate and weight decay in factors of 4, on the validation images, for all arms of a table alike: from a setting to its best neighbour until none is better; two more seeds for the best three; then the winner's neighbours, until all have been tried |
# | test | seeds that the search has not used: five; for the small student and 15 epochs five more, added after the first five had been seen |
#
# The search of one arm with one seed, to carry away:

# %%
def climb(accuracy, start):
    """accuracy(rate, decay): of a training, on validation images."""
    score, best = {}, start
    while new := [at for at in (best, *around(*best)) if at not in score]:
        score |= {at: accuracy(*at) for at in new}
        best = max(score, key=score.get)
    return best, score

def made_up(lr, decay):  # in place of a training; best at (0.3, 0.002)
    return -np.log(lr / 0.3) ** 2 - np.log(decay / 0.002) ** 2

best, score = climb(made_up, (0.08, 0.025))
print(f"best {best}, {len(score)} settings tried")

# %% [markdown]
# ### The teachers

# %%
resnet = train(kd.models.resnet, depth=8, stem_stride=2)
convnet = train(trained, kd.models.convnet, epochs=60, lr=0.08)
ask |= {
    "ResNet": train(load, "glyphs-4000"),
    "wide ResNet": train(trained, resnet, width=32),
    "the student's twin": convnet,
    "a smaller network": train(convnet, width=4),
    "ResNet of 500": train(trained, resnet, train=500, epochs=310),
    "20 % wrong": train(trained, resnet, wrong=0.2),
    "40 % wrong": train(trained, resnet, wrong=0.4)}
ask["assistant"] = train(convnet, decay=0.0125, source=outputs("ResNet"))


# %% tags=["hide-cell"]
def alone(number):
    network, val = list(ask.values())[number](), images().val
    right = kd.measure.accuracy(kd.models.predict(network, val.x), val.y)
    weights = sum(p.numel() for p in network.parameters())
    return {"teacher": {"accuracy": right, "weights": weights}}

alone_row = kd.experiment.record(alone, range(len(ask)), results="09",
                             name="the teachers, by their number")
itself = dict(zip(ask, alone_row.values("teacher")))


# %% tags=["hide-cell"]
first = len(ask)
ask |= {"tuned twin": train(convnet, lr=0.32, decay=0.0015625),
        "ResNet, 20 views": train(trained, resnet)}
later = kd.experiment.record(alone, range(first, len(ask)), results="09", name="more teachers")
itself |= dict(zip(list(ask)[first:], later.values("teacher")))
sizes = dict(zip(ask, alone_row.values("teacher", "weights") + later.values("teacher", "weights")))

# %% tags=["remove-input"]
own = "the student’s images"
details = {many: ("40,000 other images", "plain", 4), "ResNet": (own, "new in every epoch", 30),
           "ResNet of 500": ("500 images", 20, 310), "20 % wrong": (f"{own}, wrong labels", 20, 30),
           "40 % wrong": (f"{own}, wrong labels", 20, 30), "the student's twin": (own, 20, 60),
           "tuned twin": (own, 20, 60), "a smaller network": (own, 20, 60),
           "assistant": (f"{own}, the ResNet’s outputs", 20, 60)}
lines = "\n".join(f"| {name} | {itself[name]:.1%} | {sizes[name]:,} | "
                  + " | ".join(map(str, details.get(name, (own, 20, 30)))) + " |"
                  for name in ask)

# %% tags=["hide-input"]
Markdown(f"""
| teacher | validation accuracy | weights | trained on | views of each | epochs |
|---|---|---|---|---|---|
{lines}
""")

# %% [markdown]
# A twin is the student's own network with labels only, at rate 0.08 and decay 0.05, or tuned, (0.32, 0.0016). (Both have the start of seed 0; the search of their students uses it, the test does not.) In the arm "plain view" the ResNet gets the image *without* augmentation, whatever view the student gets.

# %%
soft = 0.5 * CE() + 0.5 * KD(T=1)
known = [many, "ResNet", "ResNet, 20 views", "wide ResNet",
         "the student's twin", "tuned twin", "a smaller network"]
arms = {"labels": labels()} | {name: taught(name) for name in known[:-1]}
arms["twin, T = 1, weight 0.5"] = taught("tuned twin", loss=soft)
arms[known[-1]] = taught(known[-1])
arms["ResNet, plain view"] = taught("ResNet", view="plain")
found, base = study("4,000 images", arms, images(),
                    starts=(START, SECOND))

# %% tags=["hide-input"]
COLORS = {"labels": "black", many: kd.plot.ORANGE, "a smaller network": kd.plot.GREY,
          "ResNet, plain view": kd.plot.GREY}

def with_teachers(table, title, names):
    """The arms of a table, and below the name of each its teacher's own accuracy."""
    rows = [(place, f"{arm}\n(itself {itself[names[arm]]:.1%})" if names.get(arm) in itself
             else arm, table.values(arm), COLORS.get(arm, kd.plot.BLUE))
            for place, arm in enumerate(table.arms)]
    return draw_arms(rows, title)


# %% tags=["remove-input"]
for name in base.arms[2:]:
    enter("Teacher", name, base, name)
entries["Teacher", many] = entries["Baseline", "augmented, tuned"]
helped = [name for name in base.arms[1:] if entries["Teacher", name][0][1] > 0]
del entries["Teacher", many]  # it stands in the group "Baseline"

# %% mystnb={"image": {"alt": "Test accuracy of the student with labels only, in black, and with nine arms of a teacher, a dot for each of five seeds, the mean and its interval; below each teacher's name its own accuracy. The student of the teacher of 40,000 other images is far right, that of the smaller network lies outside on the left."}} tags=["hide-input"]
names = dict.fromkeys(ask) | {name: name for name in ask} | {
    "ResNet, plain view": "ResNet", "twin, T = 1, weight 0.5": "tuned twin"}
title = f"{len(helped)} of {len(base.arms) - 1} arms with a teacher are shown to gain"
ax = with_teachers(base, title, names)
ax.set_xlim(0.905, 0.949)
low_place = base.arms.index("a smaller network")
ax.text(0.9055, low_place, f"← {base.mean('a smaller network'):.1%}", va="center");

# %% tags=["remove-input"]
def validated(table, arm):
    """The validation accuracy of the tested students, seed by seed."""
    return [curve[-1][2] for curve in table.values(arm, "curve")]

wider_same = between(base, "wide ResNet", "ResNet, 20 views")
on_val = points(validated(base, "ResNet"), validated(base, "labels"))
fresh_minus = between(base, "ResNet", "ResNet, 20 views")

# %% tags=["hide-input"]
Markdown(f"""
Against labels only:

- **ResNet, 40,000 others**: {gain('Baseline', 'augmented, tuned')}.
- **ResNet**, which saw a new view of the student's images in every epoch:
  {gain('Teacher', 'ResNet')}; on the validation images, the same runs, {text(on_val)}.
- **ResNet, 20 views**: {gain('Teacher', 'ResNet, 20 views')}. The ResNet is {text(fresh_minus)}
  ahead; with one network of each kind, the views may not be the reason.
- **wide ResNet**: {gain('Teacher', 'wide ResNet')}. It has
  {sizes['wide ResNet'] / sizes['ResNet']:.1f} times the weights and is {text(wider_same)} from the
  ResNet of 20 views, trained alike: no effect of the width is shown.
- **Twins**: {gain('Teacher', "the student's twin")}; tuned, and as accurate as labels only,
  {gain('Teacher', 'tuned twin')}; READ: with $T = 1$ and weight 0.5
  {gain('Teacher', 'twin, T = 1, weight 0.5')}.
- **a smaller network**: {gain('Teacher', 'a smaller network')}.
- **plain view**: {gain('Teacher', 'ResNet, plain view')}, and
  {text(between(base, 'ResNet, plain view', 'ResNet'))} from the same view, as in
  {{cite:t}}`beyer2022`.
""")

# %% [markdown]
# ### A small student, and teachers of three sizes
#
# The student of width 4 has fewer than a tenth of the weights. The fourth of its teachers, all of the same 4,000 images, is an **assistant** {cite:p}`mirzadeh2020`: a convnet of width 16 that was itself distilled from the ResNet. $T$ and the teacher's weight are changed one by one, and together.

# %%
four_sizes = {"convnet": "the student's twin", "ResNet": "ResNet",
              "wide ResNet": "wide ResNet", "assistant": "assistant"}
arms = {size: taught(name, width=4) for size, name in four_sizes.items()}
for name, loss in {"T = 1": 0.1 * CE() + 0.9 * KD(T=1),
                   "weight 0.5": 0.5 * CE() + 0.5 * KD(T=4),
                   "T = 1, weight 0.5": soft}.items():
    arms[f"ResNet, {name}"] = taught("ResNet", 4, loss)
ten = [*range(1, 6), *range(8, 13)]
_, small = study("small student", {"labels": labels(4)} | arms, images(),
                 seeds=ten)

# %% tags=["remove-input"]
for name in small.arms[1:]:
    enter("Small student", name, small, name)
changed = [name for name in small.arms if name.startswith("ResNet, ")]
middle = 100 * np.median(np.subtract(small.values("ResNet"), small.values("labels")))
few_weights = sum(p.numel() for p in net(4, 0).parameters())

# %% mystnb={"image": {"alt": "Test accuracy of a student of width 4 with labels only, in black, and with four teachers of different sizes at T = 4 and weight 0.9 and with the ResNet at three other settings of T and weight, a dot for each of ten seeds, the mean and its interval."}} tags=["hide-input"]
with_teachers(small, "READ: small student: T and weight, not the teacher, matter", four_sizes);

# %% tags=["hide-input"]
Markdown(f"""
At $T = 4$ and weight 0.9 the ResNet changes the small student by
{gain('Small student', 'ResNet')} (median of the ten differences {middle:+.1f}), the convnet by
{gain('Small student', 'convnet')}. Instead of the ResNet the wide ResNet:
{text(between(small, 'wide ResNet', 'ResNet'))}; the assistant:
{text(between(small, 'assistant', 'ResNet'))}.

READ (which of the two matters, is a gain shown?): against $T = 4$ and 0.9 the ResNet with $T = 1$
is {text(between(small, 'ResNet, T = 1', 'ResNet'))}, with weight 0.5
{text(between(small, 'ResNet, weight 0.5', 'ResNet'))}, with both
{text(between(small, 'ResNet, T = 1, weight 0.5', 'ResNet'))}. Against labels only:
{text(between(small, 'ResNet, T = 1'))}, {text(between(small, 'ResNet, weight 0.5'))},
{text(between(small, 'ResNet, T = 1, weight 0.5'))}.
""".replace("median of the ten differences -", "median of the ten differences −"))

# %% [markdown]
# ### Number of images
#
# A ResNet of the student's own images brings no data; the teacher of 40,000 others does. With 500 images, 20 views of each come back often, so labels only also gets ever new views. And 40,000 images **without labels** (3 views of each) get the outputs of the ResNet of 4,000, with weight 1.

# %%
own = "ResNet of 500"
arms = {"labels": labels(), "of these": taught(own, train=500),
        "of 40,000": taught(many, train=500)}
_, few = study("500 images", arms, images(500), epochs=620)

_, fresh = study("500 images, ever new views", {"labels": labels()},
                 images(500, views=None), 620, starts=[(0.32, 0.1)])

# %%
large = {"train": 40000, "views": 3}  # six epochs: each view twice
arms = {"labels": labels(), "of 40,000": taught(many, **large),
        "no labels": taught("ResNet", loss=KD(T=4), **large)}
_, lots = study("40,000 images", arms, images(**large), epochs=6)

# %% tags=["remove-input"]
enter("Images", "500, teacher of these", few, "of these")
enter("Images", "… against ever new views", few, "of these", against=fresh)
enter("Images", "500, teacher of 40,000", few, "of 40,000")
enter("Images", "40,000, teacher of others", lots, "of 40,000")
enter("Images", "40,000 without labels", lots, "no labels", against=base)
added = points(lots.values("no labels"), base.values("ResNet"))
new_views = points(fresh.values("labels"), few.values("labels"))

# %% mystnb={"image": {"alt": "Gain in points against the number of training images on a logarithmic axis. Orange, a teacher of 40,000 other images, at 500, 4,000 and 40,000 images: the gain falls towards zero. Blue, a teacher of the student's own images, at 500 and 4,000 images: it falls as well and lies below. A hollow blue marker at 500 stands for ever new views. Bars are 95 percent intervals."}} tags=["hide-input"]
figure, ax = plt.subplots()
own_color, other = kd.plot.BLUE, kd.plot.ORANGE
for at, key, color in (
        (580, ("Images", "500, teacher of 40,000"), other),
        (4500, ("Baseline", "augmented, tuned"), other),
        (40000, ("Images", "40,000, teacher of others"), other),
        (500, ("Images", "500, teacher of these"), own_color),
        (4000, ("Teacher", "ResNet"), own_color),
        (430, ("Images", "… against ever new views"), own_color)):
    mean, low, high = entries[key][0]
    ax.errorbar(at, mean, [[mean - low], [high - mean]], fmt="o", capsize=4, color=color,
                mfc="white" if at == 430 else color)
for color, name in ((other, "teacher of 40,000 others"), (own_color, "teacher of the same images")):
    ax.plot([], [], "o", color=color, label=name)
ax.plot([], [], "o", color=own_color, mfc="white", label="the same, against ever new views")
ax.axhline(0, color="black", lw=1), ax.legend(fontsize=10.5), ax.minorticks_off()
ax.set(xscale="log", xlabel="training images", ylabel="gain, points",
       title="The fewer images, the larger the gain")
ax.set_xticks((500, 4000, 40000), ("500", "4,000", "40,000")), ax.minorticks_off();

# %% tags=["hide-input"]
Markdown(f"""
- **500 images**: {gain('Images', '500, teacher of these')} with a teacher of the same 500. READ
  (is the gain still there?): ever new views change labels only by {text(new_views)}; against that
  the same students are {gain('Images', '… against ever new views')}. The teacher of 40,000 brings
  {gain('Images', '500, teacher of 40,000')}.
- **40,000 images**, as many as the teacher had: {gain('Images', '40,000, teacher of others')}.
  Five seeds cannot tell.
- **40,000 images without labels**: {gain('Images', '40,000 without labels')} over labels only with
  4,000, of which {text(added)} are over the same teacher on 4,000 images; from 40,000 labels
  {text(between(lots, 'no labels'))}.
""")


# %% [markdown]
# ### Length of the training
#
# 15, 60 and 120 epochs, each with its own search. The teacher is the ResNet.

# %%
short, long, small_long = (
    study(title, pair("ResNet", width), images(), epochs, seeds, [start])[1]
    for title, width, epochs, seeds, start in (
        ("15 epochs", 16, 15, ten, SECOND),
        ("120 epochs", 16, 120, range(1, 6), SECOND),
        ("small, 120 epochs", 4, 120, range(1, 6), (0.32, 0.00625))))

# %% mystnb={"image": {"alt": "Two panels, the student of width 16 at 15, 60 and 120 epochs and the small student at 60 and 120: test accuracy with labels only, in black, and with the ResNet, in blue, each with its 95 percent interval. In the left panel the two lines come closer with longer training."}} tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.6))
lengths = {"width 16": {15: short, 60: base, 120: long}, "width 4": {60: small, 120: small_long}}
for ax, (name, tables) in zip(axes, lengths.items()):
    for arm, color, shift in (("labels", "black", 0.97), ("ResNet", kd.plot.BLUE, 1.03)):
        bars = np.array([table.interval(arm) for table in tables.values()]).T
        ax.errorbar([shift * at for at in tables], bars[0], np.abs(bars[1:] - bars[0]), fmt="o-",
                    color=color, label=arm, capsize=3)
    ax.set(xscale="log", xlabel=f"epochs, {name}", xlim=(min(tables) / 1.3, 160))
    ax.set_xticks(list(tables), list(map(str, tables))), ax.minorticks_off()
    ax.yaxis.set_major_formatter("{x:.0%}")
axes[0].set_title("Longer training: a smaller gain")
axes[0].set_ylabel("test accuracy"), axes[0].legend(loc="lower right");

# %% tags=["remove-input"]
enter("Training", "15 epochs", short, "ResNet")
enter("Training", "120 epochs", long, "ResNet")
enter("Small student", "ResNet, 120 epochs", small_long, "ResNet")
gaps = [100 * np.subtract(table.values("ResNet"), table.values("labels"))
        for table in (long, short)]
welch = stats.ttest_ind(*gaps, equal_var=False).confidence_interval()
shrinks = [gaps[0].mean() - gaps[1].mean(), *welch]  # of 120 epochs minus 15
same_cost = points(base.values("ResNet"), long.values("labels"))

# %% tags=["hide-input"]
Markdown(f"""
After 15 epochs the gain is {gain('Training', '15 epochs')}, after 120 epochs
{gain('Training', '120 epochs')}: it shrinks, by {text(shrinks)} (Welch, five seeds against ten).
For the small student after 120 epochs: {gain('Small student', 'ResNet, 120 epochs')}.

**Equal compute?** The ResNet's student at 60 epochs is {text(same_cost)} from labels only at 120.
The training of the teacher comes on top.
""")

# %% [markdown]
# ### Wrong labels
#
# 20 or 40 of 100 training labels are wrong. One teacher has 40,000 other images with right labels, the other the student's images *with the same wrong labels*. At 40 there are two controls: labels only with **label smoothing** (the best of four shares, then the same search), and the same teacher's most likely class as the label.

# %% tags=["hide-cell"]
def shares(network):
    """Of the wrongly labelled training images: the shares with the true class, the wrong label
    and neither."""
    right, given = images().train, images(wrong=0.4).train
    wrong = right.y != given.y
    said = kd.models.predict(network, right.x[wrong]).argmax(1)
    true, label = (said == part.y[wrong] for part in (right, given))
    return [part.float().mean().item() for part in (true, label, ~(true | label))]


# %% tags=["hide-cell"]
def on_wrong(scheme, split):
    return shares(kd.export(scheme))


also = {"on wrong labels": on_wrong}

# %%
noise, chosen = {}, {}
for wrong in (0.2, 0.4):
    same = taught(f"{100 * wrong:.0f} % wrong", wrong=wrong)
    arms = {"labels": labels(), "same labels": same,
            "right labels": taught(many, wrong=wrong)}
    chosen[wrong], noise[wrong] = study(
        f"{wrong:.0%} wrong labels", arms, images(wrong=wrong),
        starts=[SECOND], also=also if wrong == 0.4 else None)

# %% tags=["hide-cell"]
smoothed = {share: labels(loss=LabelSmoothing(share)) for share in (0.1, 0.2, 0.4, 0.6)}
with contextlib.redirect_stdout(io.StringIO()):
    score = trial(smoothed, [(share, chosen[0.4]["labels"]) for share in smoothed],
                  images(wrong=0.4), 60, [0])
share = max(score, key=score.get)[0]
_, smooth = study("40% wrong labels", {"label smoothing": smoothed[share]}, images(wrong=0.4),
                  starts=[chosen[0.4]["labels"]], also=also)
hard = taught("40 % wrong", loss=0.1 * CE() + 0.9 * HardLabel(), wrong=0.4)
answered = kd.compare({"its classes": hard}, images(wrong=0.4),
                      recipe(chosen[0.4]["same labels"], 60), range(1, 6), split="test",
                      also=also, results="09")

# %% tags=["remove-input"]
for wrong, table in noise.items():
    enter("Labels", f"{wrong:.0%} wrong, teacher of these", table, "same labels")
    if wrong == 0.4:
        enter("Labels", "… its classes as labels", answered, "its classes", against=table)
    enter("Labels", f"{wrong:.0%} wrong, right teacher", table, "right labels")
lines = "\n".join(
    f"- **{wrong:.0%} wrong**: {table.mean('labels'):.1%} with labels only; teacher of the same "
    f"wrong labels {gain('Labels', f'{wrong:.0%} wrong, teacher of these')}; teacher of right "
    f"labels {gain('Labels', f'{wrong:.0%} wrong, right teacher')}." for wrong, table in
    noise.items())

# %% tags=["remove-input"]
untouched = points(noise[0.4].values("right labels"), base.values(many))
smoothing = points(smooth.values("label smoothing"), noise[0.4].values("labels"))
over_smooth = points(noise[0.4].values("same labels"), smooth.values("label smoothing"))
over_hard = points(noise[0.4].values("same labels"), answered.values("its classes"))
ece = {wrong: points(table.values("same labels", "ece"), table.values("labels", "ece"))
       for wrong, table in noise.items()}

# %% tags=["hide-input"]
Markdown(f"""
{lines}

With 40 of 100 wrong and a teacher of right labels, the student is {text(untouched)} from the one
with all labels right: no cost is shown.

READ (does the teacher beat both controls?): label smoothing, share {share}, brings
{text(smoothing)}; the teacher of the same wrong labels is {text(over_smooth)} from it, and
{text(over_hard)} from its own most likely classes.
""")

# %% [markdown]
# (the-map)=
# ## The map

# %% tags=["hide-cell"]
def verdict_of(low, high, better=1):
    """Colour and marker: helped, hurt, or cannot tell."""
    low, high = sorted((better * low, better * high))
    return ((kd.plot.BLUE, "D") if low > 0 else (kd.plot.RED, "s") if high < 0
            else (kd.plot.GREY, "o"))


# %% tags=["hide-cell"]
def draw_map(entries, marginal):
    """One row per condition: gain, interval, verdict, and on the right the change of the NLL."""
    groups = list(dict.fromkeys(group for group, _ in entries))
    rows = [key for group in groups
            for key in [(group, None), *(key for key in entries if key[0] == group)]]
    figure, ax = plt.subplots(figsize=(6.4, 0.9 + 0.28 * len(rows)), layout="none")
    figure.subplots_adjust(left=0.39, right=0.79, top=0.955, bottom=0.065)
    beside = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 11}
    for place, (group, condition) in enumerate(rows):
        if condition is None:
            ax.text(-0.93, place, group, **beside | {"weight": "bold", "fontsize": 12})
            continue
        (mean, low, high), (change, *ends) = entries[group, condition]
        color, mark = verdict_of(low, high)
        ax.plot([low, high], [place, place], color=color, lw=2.5)
        ax.plot(mean, place, mark, color=color, ms=6,
                mfc="white" if (group, condition) in marginal else color)
        ax.text(1.02, place, f"{mean:+.1f}".replace("-", "−"), color=color, **beside)
        ax.text(1.25, place, f"{change:+.2f}".replace("-", "−"), **beside,
                color=verdict_of(*ends, better=-1)[0])
    named = [(i, condition) for i, (_, condition) in enumerate(rows) if condition]
    ax.set_yticks(*zip(*named), fontsize=11), ax.tick_params(axis="y", length=0)
    ax.text(1.02, -1.1, "gain", **beside), ax.text(1.25, -1.1, "NLL", **beside)
    return ax, len(rows)


# %% tags=["remove-input"]
order = ["Baseline", "Teacher", "Small student", "Images", "Training", "Labels"]
entries = {key: entries[key] for group in order for key in entries if key[0] == group}
seeds_of = {key: 10 if (key[0] == "Small student" and "120" not in key[1])
            or key[1] == "15 epochs" else 5 for key in entries}


# %% tags=["remove-input"]
def holds_at_99(triple, count):
    """Whether the 99 % interval excludes 0 as the 95 % interval does. count: of seeds."""
    mean, low, high = triple
    half = (high - low) / 2 * stats.t.ppf(0.995, count - 1) / stats.t.ppf(0.975, count - 1)
    return low <= 0 <= high or abs(mean) > half


# %% tags=["remove-input"]
marginal = {key for key, (triple, _) in entries.items() if not holds_at_99(triple, seeds_of[key])}
kinds = {"helped": sum(gained[1] > 0 for gained, _ in entries.values()),
         "hurt": sum(gained[2] < 0 for gained, _ in entries.values())}
kinds["cannot tell"] = len(entries) - sum(kinds.values())
tens = sum(count == 10 for count in seeds_of.values())

# %% mystnb={"image": {"alt": "A map with one row per condition in six groups. A blue diamond means that the teacher helped, a grey dot that its seeds cannot tell, a red square that it hurt; a hollow marker that it would not hold at 99 percent. A bar is the 95 percent interval. On the right the gain in points and the change of the negative log-likelihood, blue where it fell, red where it rose."}} tags=["hide-input"]
ax, count = draw_map(entries, marginal)
ax.axvline(0, color="black", lw=1), ax.set_xscale("symlog", linthresh=2)
ticks = (-20, -5, -2, -1, 0, 1, 2, 5, 20)
ax.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks], fontsize=10)
ax.minorticks_off()
ax.set(ylim=(count - 0.5, -1.6), xlim=(-38, 30), xlabel="gain in points (logarithmic beyond ±2)")
for color, mark, name in ((kd.plot.BLUE, "D", "helped"), (kd.plot.GREY, "o", "cannot tell"),
                          (kd.plot.RED, "s", "hurt")):
    ax.plot([], [], mark, color=color, label=name)
ax.legend(ncols=3, fontsize=10, loc="upper center", bbox_to_anchor=(0.3, -0.04), handlelength=0.7)
ax.figure.suptitle("Large gains: few images, wrong labels, weak baselines", x=0.01, ha="left",
                   weight="bold", fontsize=12.5);

# %% tags=["hide-input"]
Markdown(f"""
A teacher helped in {kinds['helped']} of {len(entries)} conditions and hurt in {kinds['hurt']}; in
{kinds['cannot tell']} the seeds cannot tell. READ: the losses belong to twins, a smaller network,
and the convnet as the teacher of the small student. {tens} rows have ten seeds, the others five.
Without any effect about {0.05 * len(entries):.1f} of {len(entries)} intervals would exclude 0 by
chance; the {len(marginal)} with hollow markers would not exclude it at 99 %.

**Helped means accuracy.** The **negative log-likelihood** (NLL, smaller is better) judges the
probabilities, and can disagree. With 40 % wrong labels the teacher of these changes it by
{nll('Labels', '40% wrong, teacher of these')}, and the calibration error rises by {text(ece[0.4])}
(20 %: {text(ece[0.2])}). The small student from the ResNet: {nll('Small student', 'ResNet')}; READ:
with $T = 1$ and weight 0.5 {nll('Small student', 'ResNet, T = 1, weight 0.5')}.
""")

# %% [markdown]
# Where nothing else is said, a row is the student of 25,748 weights with 4,000 augmented images, 60 epochs, $T = 4$, weight 0.9. "Baseline" has the teacher of 40,000 other images, "Training" the ResNet. More than one thing changes with 40,000 images (3 views), without labels (weight 1, too), and with $T = 1$ and weight 0.5. Each teacher, the 500 images and the wrong labels are one draw.

# %% tags=["hide-input"]
lines = "\n".join(
    f"| {title} | {arm} | {lr:g} | {decay:.2g} | {tried} | "
    + ("–" if arm == "labels" or "labels" not in table.arms else
       f"{np.corrcoef(table.values(arm), table.values('labels'))[0, 1]:.2f}".replace("-", "−"))
    + " |" for (title, arm), (lr, decay, tried, table) in searched.items())
Markdown(f"""<details><summary>All searches</summary>

| images | arm | rate | decay | settings tried | correlation with labels only, test seeds |
|---|---|---|---|---|---|
{lines}

Starts: (0.08, 0.025); with 4,000 images at 60 epochs also (0.32, 0.0016), where labels only had
ended. Other lengths and wrong labels start there (small student: (0.32, 0.0063)), ever new views at
(0.32, 0.1), where labels only with 500 images ended, label smoothing where labels only ended.

</details>""")

# %% [markdown]
# ## Why
#
# ### On wrongly labelled images
#
# What can a teacher of the *same* wrong labels add? For the wrongly labelled training images (40 of 100, without augmentation) a network names the true class, the wrong label that it was trained on, or neither:

# %% tags=["hide-cell"]
wrong_teacher = ask["40 % wrong"]

def asked(seed):
    return {"the teacher": {"on wrong labels": shares(wrong_teacher())}}


# %% tags=["hide-cell"]
said = {"the teacher of these labels": kd.experiment.record(
    asked, [0], name="the teacher's answers on wrong labels", results="09").values(
    "the teacher", "on wrong labels")}
said |= {name: table.values(arm, "on wrong labels") for name, table, arm in (
    ("labels only", noise[0.4], "labels"), ("label smoothing", smooth, "label smoothing"),
    ("student of the teacher", noise[0.4], "same labels"),
    ("student of its classes", answered, "its classes"),
    ("student of right labels", noise[0.4], "right labels"))}
said = {name: 100 * np.mean(values, 0) for name, values in said.items()}

# %% mystnb={"image": {"alt": "Six stacked bars, each of 100 percent of the wrongly labelled training images: the share for which the network names the true class, in green, the wrong label that it was trained on, in red, and neither, in grey. The rows are the teacher of these labels, labels only, label smoothing, the student of the teacher, the student of its classes and the student of a teacher of right labels."}} tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 3.6))
for place, parts in enumerate(said.values()):
    left = 0
    for part, color in zip(parts, (kd.plot.GREEN, kd.plot.RED, kd.plot.GREY)):
        ax.barh(place, part, left=left, color=color, height=0.7)
        if part > 4:
            ax.text(left + part / 2, place, f"{part:.0f}", ha="center", va="center", color="white",
                    weight="bold")
        left += part
for color, name in ((kd.plot.GREEN, "true class"), (kd.plot.RED, "wrong label"),
                    (kd.plot.GREY, "neither")):
    ax.bar(0, 0, color=color, label=name)
ax.set_yticks(range(len(said)), said), ax.invert_yaxis(), ax.grid(visible=False)
ax.set(xlim=(0, 100), xlabel="wrongly labelled training images, %")
figure.suptitle("READ: the teacher names the true class of most", x=0.01, ha="left",
                weight="bold", fontsize=12.5)
ax.legend(ncols=3, fontsize=10.5, loc="upper center", bbox_to_anchor=(0.4, -0.2));

# %% tags=["hide-input"]
true = {name: f"{parts[0]:.0f} %" for name, parts in said.items()}
Markdown(f"""
READ (has the teacher learned fewer of the wrong labels than labels only?): the teacher names the
true class of {true['the teacher of these labels']}, labels only of {true['labels only']}, the
student of the teacher of {true['student of the teacher']}. So for these images its outputs are
nearer to the truth than the labels. On the validation images the teachers of wrong labels are right
on {itself['20 % wrong']:.0%} and {itself['40 % wrong']:.0%}.
""")

# %% [markdown]
# ### How far is the teacher ahead?
#
# The teacher's validation accuracy minus that of labels only, against the gain. (Both contain labels only, which alone correlates them.) On the diagonal a student equals its teacher. The smaller network, 30 points behind, lies outside; squares without a name have $T = 4$ and weight 0.9.

# %% tags=["hide-cell"]
def spot(table, arm, teacher, said, against=None):
    """(lead, gain, what is written beside it)."""
    other = against or table
    lead = 100 * (itself[teacher] - np.mean(validated(other, "labels")))
    return lead, points(table.values(arm), other.values("labels"))[0], said


# %% tags=["hide-cell"]
data_teacher = [spot(*one) for one in (
    (rough[False], many, many, "plain, default"), (rough[True], many, many, "augmented, default"),
    (plain, many, many, "plain, tuned"), (few, "of 40,000", many, "500"),
    (base, many, many, "4,000"), (lots, "of 40,000", many, "40,000"),
    (noise[0.2], "right labels", many, "20 % wrong"),
    (noise[0.4], "right labels", many, "40 % wrong"))]

# %% tags=["hide-cell"]
same_data = [spot(*one) for one in (
    (few, "of these", "ResNet of 500", "500"),
    (noise[0.2], "same labels", "20 % wrong", "20 % wrong"),
    (noise[0.4], "same labels", "40 % wrong", "40 % wrong"),
    (short, "ResNet", "ResNet", "15 epochs"), (long, "ResNet", "ResNet", "120 epochs"),
    (lots, "no labels", "ResNet", "without labels", base),
    *((base, name, name, name) for name in known[1:-1]),
    (base, "twin, T = 1, weight 0.5", "tuned twin", "T = 1, weight 0.5"))]

# %% tags=["hide-cell"]
small_spots = [spot(small, size, name, "") for size, name in four_sizes.items()]
small_spots += [spot(small, name, "ResNet", name.removeprefix("ResNet, ")) for name in changed]
small_spots += [spot(small_long, "ResNet", "ResNet", "120 epochs")]
SHIFTS = {("D", "plain, default"): (-84, 7), ("D", "plain, tuned"): (-74, -4),
          ("o", "20 % wrong"): (8, -8), ("o", "ResNet"): (-52, -3),
          ("o", "T = 1, weight 0.5"): (7, 3), ("o", "without labels"): (-92, 0),
          ("o", "120 epochs"): (-76, -7), ("o", "ResNet, 20 views"): (-66, -17),
          ("o", "wide ResNet"): (7, 3), ("D", "40,000"): (7, 4), ("s", "T = 1"): (7, -13),
          ("s", "weight 0.5"): (7, 4), ("s", "120 epochs"): (-36, -17)}

# %% mystnb={"image": {"alt": "Two panels of gain in points against the teacher's own accuracy minus that of labels only. Upper panel, all conditions: for the large student points lie between the line of 0 and the diagonal and rise from left to right, with one exception 14 points ahead whose gain is about 0; hollow squares of the small student lie at 23 to 29 points ahead with gains around or below 0. Lower panel, the small leads enlarged and named: twins near 0 lose up to a point; teachers 4 to 6 points ahead gain from 0 to 2 points."}} tags=["hide-input"]
figure, (top, zoom) = plt.subplots(2, 1, figsize=(6.4, 7.4), height_ratios=[1.25, 1])
for found_spots, color, mark, name in (
        (data_teacher, kd.plot.ORANGE, "D", "teacher with other data or labels"),
        (same_data, kd.plot.BLUE, "o", "teacher of the same images and labels"),
        (small_spots, kd.plot.BLUE, "s", "the same, student of width 4")):
    fill = {"mfc": "white"} if mark == "s" else {}
    for i, (lead, gained, named) in enumerate(found_spots):
        near = lead < 7.5
        for ax in (top, zoom) if near else (top,):
            ax.plot(lead, gained, mark, color=color, ms=6, **fill,
                    label=name if i == 0 and ax is top else None)
        shift = SHIFTS.get((mark, named), (7, -4))
        (zoom if near else top).annotate(named, (lead, gained), shift, fontsize=10,
                                         textcoords="offset points")
for ax in (top, zoom):
    ax.axline((0, 0), slope=1, color=kd.plot.GREY, lw=1), ax.axhline(0, color="black", lw=1)
    ax.set(ylabel="gain, points")
top.set(xlim=(-3, 42), ylim=(-6, 22), title="Far ahead, and labels only tuned: a gain")
zoom.set(xlim=(-2, 8), ylim=(-2, 2.5), xlabel="teacher minus labels only, validation, points")
zoom.set_title("The left end, enlarged")
figure.legend(*top.get_legend_handles_labels(), fontsize=10.5, loc="outside lower center");

# %% tags=["remove-input"]
tuned_spots = [one for one in data_teacher if "default" not in one[2]] + same_data
far = [gained for lead, gained, _ in tuned_spots if lead > 8]
middle_spots = [gained for lead, gained, _ in tuned_spots if 3 < lead <= 8]
hidden_gain = data_teacher[1]
gap = {name: 100 * (table.mean("labels", "train_accuracy") - table.mean("labels"))
       for name, table in (("few", few), ("plain", plain), ("short", short), ("small", small))}

# %% tags=["hide-input"]
Markdown(f"""
With the student of width 16 and tuned arms, all {len(far)} teachers more than 8 points ahead
brought a gain, {min(far):.1f} points or more; the {len(middle_spots)} that are 3 to 8 points ahead
brought {min(middle_spots):.1f} to {max(middle_spots):.1f}. Not so with augmented images at the
default rate ({hidden_gain[0]:.0f} points ahead, {hidden_gain[1]:+.1f}) and READ the small student.

**Fidelity**, how often student and teacher agree on test images {{cite:p}}`stanton2021`, does not
rank teachers: {base.mean("the student's twin", "agreement"):.1%} with the twin,
{base.mean(many, "agreement"):.1%} with that of 40,000 others.

The four predictions:

- *Fewer images*: held.
- *Wrong labels*: held.
- *A baseline that overfits*: 500 images ({gap["few"]:.0f} points between training and test
  accuracy) and plain images ({gap["plain"]:.0f}) gain much, but 15 epochs ({gap["short"]:.1f})
  gain, too: overfitting is not needed.
- *An inaccurate teacher hurts*: READ: held for twins and a smaller network. Being ahead is not
  enough: two such teachers are not shown to help.
""".replace(", -", ", −"))

# %% [markdown]
# ## Score the bet

# %% tags=["hide-input"]
_, low, high = entries["Training", "15 epochs"][0]
helps, same, hurts = [choice["text"] for choice in short_bet.data["choices"]]
held = [helps] if low > 0 else [hurts] if high < 0 else [same]
kd.explore.score(short_bet, held, note="After 15 epochs: "
                 + text(entries["Training", "15 epochs"][0]) + ".")

# %% tags=["hide-input"]
mean, low, high = entries["Labels", "40% wrong, teacher of these"][0]
kd.explore.score(wrong_bet, mean, interval=(low, high), digits=1)

# %% [markdown]
# ## What did not work

# %% tags=["hide-input"]
Markdown(f"""
- **A larger teacher**, against one trained alike: {text(wider_same)}.
- **Outputs stored for plain images**, against the same view:
  {text(between(base, 'ResNet, plain view', 'ResNet'))}.
- **An assistant** for the small student, against the ResNet:
  {text(between(small, 'assistant', 'ResNet'))}.
""")

# %% [markdown]
# ## Break it
#
# Can a network teach another of its own kind? 500 images, three seeds, trained now:

# %%
def race(epochs):
    budget = {arm: recipe((0.08, 0.025), n) for arm, n in epochs.items()}
    return kd.compare(runs, images(500), budget, seeds=range(3))

twin = labels()(9)
kd.fit(twin, images(500), recipe((0.08, 0.025), 60), seed=9)
answers = kd.Cached(kd.export(twin), images(500))
runs = {"labels": labels(),
        "twin": lambda seed: kd.Distiller(net(16, seed), answers)}

# %%
raced = race({"labels": 30, "twin": 60})

# %% mystnb={"image": {"alt": "Validation accuracy of two arms with 500 images, three seeds each: the arm with the twin is more than ten points above the arm with labels only."}} tags=["hide-input"]
def draw_race(raced, title):
    rows = [(0, "labels", raced.values("labels"), "black"),
            (1, "twin", raced.values("twin"), kd.plot.BLUE)]
    draw_arms(rows, title, 2.4, "validation accuracy").set_xlim(0.15, 0.6)

draw_race(raced, "A twin seems to bring a large gain");

# %% [markdown]
# The gain is planted. A check that compares the arms' settings finds the mistake:

# %%
try:
    kd.checks.same_budget(raced, seeds=3)
except AssertionError as problem:
    print(problem)

# %% [markdown]
# **Repair it**, 60 epochs for both: labels only rises, and the gain is gone. Try other numbers.

# %%
repaired = race({"labels": 60, "twin": 60})
kd.checks.same_budget(repaired, seeds=3)
for table in (raced, repaired):
    print("twin minus labels:", text(between(table, "twin")))

# %% mystnb={"image": {"alt": "The same figure after the repair: labels only now lies about as high as the arm with the twin, or higher, and no gain is left."}} tags=["hide-input"]
draw_race(repaired, "The same number of epochs: no gain");

# %% [markdown]
# ## Exercises
#
# Each has a cell to fill in and a check. An unfinished exercise prints "not done yet" and stops nothing.
#
# ### 1. Warm up: read an interval
#
# `judge(low, high)` returns "helped", "hurt" or "cannot tell" for an interval in points. A fourth answer is "too small to matter": the whole interval lies within half a point of 0, whether it holds 0 or not.

# %% tags=["exercise-stub"]
def judge(low, high):
    raise NotImplementedError


# %% tags=["exercise-check"]
try:
    cases = {(0.4, 2.0): "helped", (-3.0, -0.1): "hurt",
             (0.2, 0.9): "helped", (-0.2, 0.9): "cannot tell",
             (-0.3, 0.4): "too small to matter",
             (0.1, 0.4): "too small to matter", (-0.8, 0.3): "cannot tell",
             (-0.4, -0.1): "too small to matter"}
    for (low, high), right in cases.items():
        found = judge(low, high)
        assert found == right, (
            f"Expected {right!r} for {low} to {high}, got {found!r}. Look "
            "at both ends of the interval, and begin with “too small”.")
except NotImplementedError:
    print("Not done yet: judge raises NotImplementedError.")
else:
    print("✓ It passes.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def judge(low, high):
#     if -0.5 <= low and high <= 0.5:
#         return "too small to matter"
#     return "helped" if low > 0 else "hurt" if high < 0 else "cannot tell"
# ```
#
# **What you should see:** ✓. "Too small to matter" says more than "cannot tell": it excludes any gain above half a point.
#
# </details>
#
# ### 2. Build: equal budgets
#
# `equal_epochs(count)` returns the number of epochs with which a set of so many images gets nearly as many steps as 60 epochs of 4,000, in batches of 128. A last incomplete batch is left out of every epoch.

# %% tags=["exercise-stub"]
def equal_epochs(count, batch=128):
    raise NotImplementedError


# %% tags=["exercise-check"]
try:
    for count, right in {500: 620, 40000: 6, 1000: 266, 6000: 40}.items():
        found = equal_epochs(count)
        assert found == right, (
            f"Expected {right} epochs for {count} images, got {found}. "
            f"One epoch has {count // 128} full batches, 60 of 4,000 have "
            "1,860.")
except NotImplementedError:
    print("Not done yet: equal_epochs raises NotImplementedError.")
else:
    print("✓ It passes.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def equal_epochs(count, batch=128):
#     steps = 60 * (4000 // batch)
#     return round(steps / (count // batch))
# ```
#
# **What you should see:** ✓. With 60 epochs of 40,000 images both arms would get ten times the training, and "more images" could not be told from "longer training".
#
# </details>
#
# ### 3. Explore: what is an image without a label worth?
#
# `images(seed=5)` has 4,000 images that the ResNet was not trained on. Compare two arms on them: "labels", their labels only, and "outputs", the ResNet's outputs only (`KD(T=4)` alone). Five seeds, one recipe for both, untuned. Bet first: by how many points do they differ on the validation images?

# %% tags=["exercise-stub"]
def without_labels():
    raise NotImplementedError


# %% tags=["exercise-check"]
try:
    unlabelled = without_labels()
    kd.checks.same_budget(unlabelled)
    assert set(unlabelled.arms) == {"labels", "outputs"}, (
        f"Expected the arms labels and outputs, got {unlabelled.arms}.")
    for row in unlabelled.rows:
        assert "seed=5" in row["data"], (
            "Expected images(seed=5), which the ResNet has not seen.")
        assert row["arm"] == "labels" or "CE" not in row["scheme"], (
            "Expected no labels in outputs: KD(T=4) alone.")
        assert "(same view, {})" not in row["scheme"], (
            "Expected outputs for images(seed=5): taught(…, seed=5).")
    print(unlabelled)
except NotImplementedError:
    print("Not done yet: without_labels raises NotImplementedError.")
else:
    print("✓ It passes.")

# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def without_labels():
#     both = {"labels": labels(), "outputs": taught("ResNet", loss=KD(T=4), seed=5)}
#     untuned = recipe((0.08, 0.025), 60)
#     return kd.compare(both, images(seed=5), untuned, range(5), results="09")
# ```
#
# **What you should see:** the picture below, drawn from recorded rows.
#
# </details>

# %% mystnb={"image": {"alt": "Validation accuracy with 4,000 labels, in black, and with the outputs of a teacher for the same 4,000 images without labels, in blue, a dot for each of five seeds."}} tags=["hide-input"]
both = {"labels": labels(), "outputs": taught("ResNet", loss=KD(T=4), seed=5)}
expected = kd.compare(both, images(seed=5), recipe((0.08, 0.025), 60), range(5), results="09")
draw_arms([(0, "labels", expected.values("labels"), "black"),
           (1, "outputs", expected.values("outputs"), kd.plot.BLUE)],
          "Exercise 3: outputs or labels, no difference shown", 2.4, "validation accuracy");

# %% tags=["hide-input"]
Markdown("<details><summary>In numbers</summary>\n\nOutputs minus labels: "
         f"{text(between(expected, 'outputs'))}.\n\n</details>")

# %% [markdown]
# ## Quiz

# %% tags=["remove-input"]
kd.explore.question(
    "A row of the map has the mean +0.4 and an interval from −0.2 to +1.0. What does it say?",
    {"Five seeds cannot tell whether the teacher helps here.":
        "The interval holds 0, so the sign is open. It does exclude a gain above 1 point.",
     "The teacher helps by 0.4 points.": "0.4 is the mean of five runs; the interval also holds a "
                                         "loss.",
     "The teacher makes no difference.":
         "No difference was shown, and none was excluded: gains up to 1 point are inside."},
    name="09/interval", answer="Five seeds cannot")

# %% tags=["remove-input"]
kd.explore.question(
    "In the figure of the labels and three teachers: with 10 labels for a kind of image, which "
    "targets are nearer to the right probabilities than the mean of the labels?",
    {"The good and the fair teacher.": "At n = 10 the line of the labels lies above those two and "
                                       "below the bad one.",
     "All three teachers.": "The bad teacher is crossed at about two labels: from there on labels "
                            "are better.",
     "None: labels are right on average.":
         "On average over many draws. Ten draws are still far from their average."},
    name="09/crossing", answer="The good and")

# %% tags=["remove-input"]
kd.explore.question(
    "With 500 images, the figure has a large gain from the teacher of 40,000 and another gain "
    "from a teacher of the same 500. Which of the two would you expect when you have 500 labelled "
    "images and nothing else?",
    {"That of the teacher of the same 500.":
        "Without further data there is no other teacher. The rest of the larger gain is data that "
        "you do not have.",
     "That of the teacher of 40,000.": "It was trained on 40,000 other labelled images, which you "
                                       "do not have.",
     "Their mean.": "The two arms answer different questions; averaging them answers none."},
    name="09/data", answer="That of the teacher of the same")

# %% tags=["remove-input"]
kd.explore.question(
    "A report: with a teacher the accuracy rises by 6 points, the negative log-likelihood stays, "
    "and the calibration error rises from 4 % to 15 %. The probabilities decide which images a "
    "person looks at. What now?",
    {"Use it after calibration: fit one temperature on validation images.":
        "The classes are named better, their probabilities are not. A temperature changes no "
        "predicted class.",
     "Use it: it is more accurate.": "The person would get the wrong images: the probabilities "
                                     "are further from how often it is right.",
     "Do not use it: distillation failed.": "The gain in accuracy is real, and the probabilities "
                                            "can be repaired."},
    name="09/calibration", answer="Use it after calibration")

# %% [markdown]
# ## In the literature

# %% tags=["hide-input"]
rows = [
    ("a larger teacher?",
     "CIFAR-100, ResNet-20: labels 69.06 %, from ResNet-56 70.66 %, from ResNet-110 70.67 % "
     "{cite:p}`tian2020`", f"wide ResNet instead of one trained alike: {text(wider_same)}"),
    ("an assistant?",
     "CIFAR-100, ResNet-8: labels 61.37 %, from ResNet-110 61.41 %, by way of ResNet-20 61.82 % "
     "{cite:p}`mirzadeh2020`", f"{text(between(small, 'assistant', 'ResNet'))} from the ResNet"),
    ("a twin?", "CIFAR-100, DenseNet-112-33, error: 18.25 %, born again 17.61 % "
     "{cite:p}`furlanello2018`", f"{text(entries['Teacher', 'tuned twin'][0])}"),
    ("wrong labels?", "label smoothing is competitive with loss correction {cite:p}`lukasik2020`; "
     "{cite:t}`li2017noisy` distil from a small clean set",
     f"teacher of the wrong labels minus label smoothing: {text(over_smooth)}"),
    ("images without labels?", "ImageNet, 300 million of them: 88.4 %, 2.0 above the best before "
     "{cite:p}`xie2020`", f"36,000 more: {text(added)}"),
    ("equal compute?", "if the teacher has to be trained for one student, labels alone are "
     "preferable {cite:p}`busbridge2025`",
     f"ResNet's student at 60 epochs minus labels only at 120: {text(same_cost)}")]
lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
Markdown("| question | paper | here |\n|---|---|---|\n" + lines)

# %% [markdown]
# What differs. {cite:t}`tian2020`: $T$ and weights as here, one learning rate for all arms. {cite:t}`mirzadeh2020`: one seed, numbers that the authors [name in their repository](https://github.com/imirzadeh/Teacher-Assistant-Knowledge-Distillation/issues/7). {cite:t}`furlanello2018`: $T = 1$, see [chapter 8](08_self_distillation.ipynb). {cite:t}`xie2020`: students at least as large as their teacher, several rounds. {cite:t}`busbridge2025`: language models. Trained very long, a student reaches even a large teacher {cite:p}`beyer2022`. {cite:t}`cho2019` found larger teachers often no better, and stop their training early, which was not tried here. {cite:t}`yuan2020` report gains from a smaller teacher; here it cost accuracy.
#
# ## Take-away

# %% tags=["hide-input"]
Markdown(f"""
1. **Few labels, or wrong ones at random: distil**, even from a teacher of the same images and
   labels. {text(entries['Images', '500, teacher of these'][0])} with 500 images,
   {text(entries['Labels', '40% wrong, teacher of these'][0])} with 40 % wrong labels, READ:
   {text(over_smooth)} over label smoothing (one draw of each). That is accuracy; with the wrong
   labels the NLL changes by {nll('Labels', '40% wrong, teacher of these')}, so calibrate.
2. **Many right labels: about a point at most**, {text(entries['Teacher', 'ResNet'][0])} from the
   best teacher of the same images. Tune rate, decay and augmentation first. READ: twins and a
   smaller network cost accuracy.
3. **A small student: tune $T$ and the weight first.** READ:
   {text(entries['Small student', 'ResNet'][0])} at $T = 4$ and 0.9,
   {text(entries['Small student', 'ResNet, T = 1, weight 0.5'][0])} at $T = 1$ and 0.5.
""")

# %% [markdown]
# ## Cost
#
# A run of 60 epochs is 238,080 forward and backward passes of the student, with or without a teacher. A teacher adds its own training, once, and a forward pass for every view: 80,000 for 20 views of 4,000 images.
#
# Every recorded run of this chapter, the teachers' own trainings included:

# %% [markdown] tags=["cost-table"]
# | runs | seeds | time | hardware | torch | Python | date |
# |---|---|---|---|---|---|---|
# | 44 | 9 | 86 minutes | 1 CPU thread (x86_64, AVX2, Linux) | 2.15.0 | 3.11.7 | 2026-11-29 |
# | 44 | 13 | 32 minutes | 1 CPU thread (x86_64, AVX2, Linux) | 2.15.0 | 3.11.7 | 2026-11-30 |
# | 310 | 9 | 118 minutes | 1 CPU thread (x86_64, AVX512, Linux) | 2.15.0 | 3.11.7 | 2026-11-28 |
# | 379 | 8 | 162 minutes | 1 CPU thread (x86_64, AVX512, Linux) | 2.15.0 | 3.11.7 | 2026-11-29 |
