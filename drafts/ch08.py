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
# # Can a network teach itself?
#
# In [chapter 1](01_hinton.ipynb) the teacher was larger than its student, and had seen other images. In 2018 Furlanello and others trained a network on the outputs of a network of the *same* size, trained on the *same* images, and the student was more accurate than its teacher {cite:p}`furlanello2018`.
#
# Where does such a gain come from? And is it still there when the baseline is as strong as one can make it?
#
# ```{admonition} In this chapter
# :class: note
# **You will be able to**
# - train born-again generations in a short loop, with a new start and a true copy,
# - measure the effect: generation 1 minus labels only *from the same start*, for weak and strong baselines,
# - compare it with what as many trainings bring otherwise,
# - separate deep supervision from self-teaching in a network with early exits,
# - say what keeps self-distillation without labels from a constant output.
#
# **You need** [chapter 1](01_hinton.ipynb): the loss, the augmentation, the paired difference.
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

# %%
import copy

import torch
import torch.nn.functional as F
from torch import nn

import kdcourse as kd
from kdcourse.losses import CE, KD

kd.plot.style()

# %% [markdown] tags=["opening-time"]
#

# %% [markdown]
# ## The bet
#
# Generation 0 is a small network that learned from labels. Generation 1 is the same network from another start; it learns from the labels and from the outputs of generation 0. Images are augmented, and everything is tuned.

# %% tags=["hide-input"]
gain_bet = kd.explore.bet(
    "By how many points is generation 1 more accurate than a network with labels only that has the "
    "same start? (In chapter 1, on the same images, a teacher of 40,000 other images brought 1 to "
    "2.)", (-2, 3), "08/gain", unit="points", step=0.1)
gain_bet

# %% tags=["hide-input"]
budget_bet = kd.explore.bet(
    "Generation 1 costs two trainings. What is the most accurate for that price?",
    ["Generation 1.", "One network, trained twice as long with labels only.",
     "Two networks with labels only, averaged (both have to run later).",
     "These seeds cannot tell."], "08/budget")
budget_bet

# %% [markdown]
# ## See it first
#
# A toy first. A class can often be recognised by several features, a car by its wheels or by its windows; {cite:t}`allenzhu2023` call them **views**. Their argument: a network learns the view that is ahead at its random start. When that suffices for the training images, the gradient is nearly 0, and the other view is hardly learned. Another start learns other views. A student that matches *soft* outputs learns its teacher's views, too.
#
# Ten classes have two views each, patterns of 8 × 8 pixels. A picture has nine places: two show the views of its class, four have weaker traces of other classes.

# %% tags=["hide-cell"]
from scipy.linalg import hadamard

K = 10
waves = torch.tensor(hadamard(8)).float()  # +1 and -1; any two rows are perpendicular
patterns = torch.einsum("ai,bj->abij", waves, waves).reshape(64, 8, 8)
rng = torch.Generator().manual_seed(0)
views = patterns[1 + torch.randperm(63, generator=rng)[: 2 * K]].view(K, 2, 8, 8)

# %% tags=["hide-cell"]
def draw(shows, rng):
    """Pictures of 3x3 places. shows[i]: 0 or 1 for one view alone, 2 for both."""
    count = len(shows)
    y, every = torch.arange(count) % K, torch.arange(count)
    amount = torch.zeros(count, 9, K, 2)  # of each view, at each place
    places = torch.rand(count, 9, generator=rng).argsort(1)
    for view in (0, 1):
        strength = 0.8 + 0.4 * torch.rand(count, generator=rng)
        amount[every, places[:, view], y, view] = strength * (shows != 1 - view)
    for place in (2, 3, 4, 5):  # weaker traces of other classes
        other = (y + torch.randint(1, K, (count,), generator=rng)) % K
        which = torch.randint(2, (count,), generator=rng)
        amount[every, places[:, place], other, which] = 0.4 * torch.rand(count, generator=rng)
    patches = torch.einsum("npkv,kvij->npij", amount, views)
    patches += 0.5 * torch.randn(patches.shape, generator=rng)
    pictures = patches.view(count, 3, 3, 8, 8).transpose(2, 3).reshape(count, 1, 24, 24)
    return 0.5 + 0.25 * pictures, y


# %% tags=["hide-cell"]
def halves(count):
    return torch.arange(count) // (count // 2)


# %% tags=["hide-cell"]
def world_with(share):
    """300 training pictures, of which `share` show one view only; test pictures all do."""
    rng = torch.Generator().manual_seed(1)
    shows, one = torch.full((300,), 2), torch.rand(300, generator=rng) < share
    shows[one] = torch.randint(2, (int(one.sum()),), generator=rng)
    return kd.data.from_arrays(*draw(shows, rng), val=draw(torch.full((500,), 2), rng),
                               test=draw(halves(1000), rng), name=f"two views, {share:.0%} alone")

# %% mystnb={"image": {"alt": "Three rows, one for each of three classes: the two patterns that are its views, a picture of 24 by 24 pixels in which both occur among other patterns and noise, and a picture with the first view only."}}
rare = world_with(0.03)
figure, axes = plt.subplots(3, 4, figsize=(6.4, 4.9))
for k, row in enumerate(axes):
    shown = *views[k], rare.val.x[k, 0], rare.test.x[k, 0]
    for ax, picture in zip(row, shown):
        ax.imshow(picture, cmap="gray")
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"class {k}")
for ax, name in zip(axes[0], ("view 1", "view 2", "both", "view 1 only")):
    ax.set_title(name)


# %% [markdown]
# `rare` has 300 training pictures; about three in a hundred show one view only. The test pictures all show **one view only**, so that accuracy tells which views are learned. The network is that of the paper's theory: four filters for each class, an activation that is flat near zero, the sum over all places.

# %% tags=["hide-cell"]
class Slow(nn.Module):
    """Flat near 0, then a ReLU."""

    def forward(self, x):
        x = x.relu()
        return torch.where(x < 1, x**3 / 3, x - 2 / 3)

# %% tags=["hide-cell"]
class Total(nn.Module):
    def forward(self, x):
        return x.reshape(len(x), K, -1).sum(2)  # over four filters and nine places


# %% tags=["hide-cell"]
def small(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        filters = nn.Conv2d(1, 4 * K, 8, stride=8, bias=False)
        nn.init.normal_(filters.weight, std=0.0125)
    return nn.Sequential(kd.models.Normalize(), filters, Slow(), Total())

# %% tags=["hide-cell"]
def hide(pictures, copies=10):
    """Copies of the training pictures; in each, two of the nine places are grey."""
    rng, (x, y) = torch.Generator().manual_seed(2), (pictures.train.x, pictures.train.y)
    x, y = x.repeat(copies, 1, 1, 1), y.repeat(copies)
    places = torch.rand(len(x), 9, generator=rng).argsort(1)[:, :2]
    grey = torch.zeros(len(x), 9).scatter_(1, places, 1).view(-1, 1, 3, 3)
    grey = grey.repeat_interleave(8, 2).repeat_interleave(8, 3) > 0
    return kd.data.from_arrays(
        torch.where(grey, 0.5, x), y, val=(pictures.val.x, pictures.val.y),
        test=(pictures.test.x, pictures.test.y), name=f"{pictures.name}, places hidden")


# %% tags=["hide-cell"]
def learn(pictures, start, teacher=None, epochs=40):
    quick = kd.Recipe(epochs=epochs, batch=50, lr=0.1, optimizer="sgd", weight_decay=0.0,
                      validate_every=epochs)
    scheme = (kd.Supervised(small(start)) if teacher is None else kd.Distiller(
        small(start), kd.Cached(teacher, pictures), 0.1 * CE() + 0.9 * KD(T=4)))
    kd.fit(scheme, pictures, quick, start)
    return kd.export(scheme)


# %% tags=["hide-cell"]
def asked(network, x):
    return (network.predict(x) if isinstance(network, kd.Ensemble)
            else kd.models.predict(network, x))


# %% tags=["hide-cell"]
def known(network, pictures):
    """Accuracy on test pictures, view by view, and on pictures with both views."""
    alone, both = asked(network, pictures.test.x), asked(network, pictures.val.x)
    second = halves(1000).bool()
    by_view = [kd.measure.per_class(alone[part], pictures.test.y[part], K)
               for part in (~second, second)]
    return {"accuracy": kd.measure.accuracy(alone, pictures.test.y),
            "both views": kd.measure.accuracy(both, pictures.val.y),
            "views": [x for two in zip(*by_view) for x in two]}


# %% tags=["hide-input"]
def world(seed):
    one, two, three, four, five = (100 * i + seed for i in range(5))  # starts
    firsts = [learn(rare, start) for start in (one, two, three, four)]
    together, first_hidden = kd.Ensemble(firsts), learn(hidden, one, epochs=4)
    networks = {
        "start 1, labels only": firsts[0], "start 2, labels only": firsts[1],
        "start 5, labels only": learn(rare, five),
        "start 5, born again": learn(rare, five, firsts[0]),
        "start 1, born again": learn(rare, one, firsts[0]),
        "start 5, from all four": learn(rare, five, together),
        "start 5, 4 times as long": learn(rare, five, epochs=160),
        "four averaged": together,
        "hidden, labels only": learn(hidden, five, epochs=4),
        "hidden, born again": learn(hidden, five, first_hidden, epochs=4)}
    return {name: known(network, rare) for name, network in networks.items()}


# %% [markdown]
# "Born again" learns from the network of start 1: a network of start 5, and, as a control, one of start 1 itself. In the figure, bright cells are views that a network recognises alone. Runs that take long are recorded: the next cell loads the rows of exactly this code and data, or computes them.

# %%
hidden = hide(rare)
toy = kd.experiment.record(world, range(5), name="views that are learned",
                           split="test", baseline="start 5, labels only",
                           results="08")

# %% mystnb={"image": {"alt": "Heat map with eight rows, networks of three starts with labels only, the third start born again from the first, the first start born again from itself, the third start taught by four networks and trained four times as long, and the four networks averaged, and twenty columns, two views for each of ten classes. Bright cells are views that a network recognises alone. Rows of single networks with labels only have dark cells, in other places for each start; the row of the average has none."}} tags=["hide-input"]
shown = [arm for arm in toy.arms if not arm.startswith("hidden")]
table = np.array([toy.values(arm, "views")[0] for arm in shown])
figure, ax = plt.subplots(figsize=(6.4, 3.9))
drawn = ax.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto")
figure.colorbar(drawn, label="right, test pictures of this view", format="{x:.0%}",
                location="bottom", shrink=0.7)
for edge in np.arange(1.5, 19, 2):
    ax.axvline(edge, color="white", lw=2)
ax.set_yticks(range(len(table)), shown, fontsize=10)
ax.set_xticks(np.arange(0.5, 20, 2), range(K))
ax.set(xlabel="class, two views each")
ax.set_title("Each start learns other views (seed 0)"), ax.grid(visible=False);


# %% tags=["hide-input"]
def told_as(triple, unit=" points"):
    mean, low, high = (100 * value for value in triple)
    n = 2 if min(abs(low), abs(high)) < 0.05 else 1  # an end that would round to 0
    return f"{mean:+.{n}f}{unit} ({low:+.{n}f} to {high:+.{n}f})".replace("-", "−")


# %% tags=["hide-input"]
def gap(first, second):
    """First minus second, seed by seed (of unequal length in smoke mode only)."""
    return [a - b for a, b in zip(first, second)]


# %% tags=["hide-input"]
def apart(first, second, unit=" points"):
    return told_as(kd.measure.interval(gap(first, second)), unit)


# %% tags=["hide-input"]
def changed_by(arm, start="start 5"):
    return told_as(toy.difference(f"{start}, {arm}", f"{start}, labels only"))


# %% tags=["hide-input"]
lowest = min(toy.mean(arm, "both views") for arm in toy.arms)
Markdown(f"""
A single start often has one bright and one dark cell for a class. On pictures with *both* views no
network has less than {lowest:.1%} (mean of five seeds), so the dark cells do not show in training.
On pictures with one view, start 5 with labels only is right on
{toy.mean("start 5, labels only"):.0%}. From the same start: born again {changed_by("born again")},
from all four {changed_by("from all four")}, four times as long {changed_by("4 times as long")}.
Start 1, taught by itself: {changed_by("born again", "start 1")}. The four averaged are right on
{toy.mean("four averaged"):.0%}.

**With augmentation**, two of nine places hidden: labels only is right on
{toy.mean("hidden, labels only"):.0%}; born again changes that by
{told_as(toy.difference("hidden, born again", "hidden, labels only"))}.
""")

# %% [markdown]
# READ: one sentence on start 1 taught by itself (the multi-view argument predicts no new view), one on augmentation (does it leave anything for generation 1?).
#
# This is a demonstration, not evidence about photographs: we chose a world in which a network can do without a view. It predicts that generation 1 gains only where the baseline has not learned what its teacher has. Now glyphs:

# %% mystnb={"image": {"alt": "Diagram. Generation 0 with start A passes its outputs, with weight alpha, to generation 1 with start B, and that to generation 2 with start C. All get the same images and labels. Above generation 1 is the control: start B with labels only. The effect is the difference of the two."}} tags=["hide-input"]
ax = kd.plot.diagram({
    "control": (1.6, 2.1, kd.plot.GREY, "labels only,\nsame start B"),
    "0": (0, 1, "black", "generation 0\nstart A"),
    "1": (1.6, 1, kd.plot.BLUE, "generation 1\nstart B"),
    "2": (3.2, 1, kd.plot.BLUE, "generation 2\nstart C"),
    "labels": (1.6, 0, kd.plot.GREY, "the same images and labels")}, [
    ("labels", "0", "× 1"), ("labels", "1", "× (1 − α)"), ("labels", "2", "× (1 − α)"),
    ("0", "1", "outputs\n× α"), ("1", "2", "outputs\n× α"),
    ("1", "control", "the effect: their difference", "--")])
ax.figure.set_size_inches(6.4, 4)
ax.set_title("Born again, and its control");

# %% [markdown]
# ## The idea
#
# ### By hand, on three classes
#
# The classes are O, 0 and X, the label is O. Two teachers without a network are **label smoothing** {cite:p}`szegedy2016` and a **virtual teacher**, made of the label and softened {cite:p}`yuan2020`. The third is a trained network of the student's kind, its **twin**, with logits $v = (5, 3, -3)$.

# %%
twin = torch.tensor([5.0, 3, -3])
virtual = torch.tensor([0.99, 0.005, 0.005]).log()
for name, p in {"the label": torch.tensor([1.0, 0, 0]),
                "label smoothing": torch.tensor([0.94, 0.03, 0.03]),
                "virtual teacher, T = 4": (virtual / 4).softmax(0),
                "its twin, T = 4": (twin / 4).softmax(0)}.items():
    print(f"{name:24s}", *(f"{x:.3f}" for x in p))

# %% [markdown]
# Only the twin separates the 0 from the X. The virtual teacher is label smoothing with another share.
#
# ### The loop
#
# Generation $g$ starts from new random weights, and its teacher is generation $g - 1$:
#
# $$L_g = (1-\alpha)\,\mathrm{CE}(y, q_1) + \alpha\,T^2\,\mathrm{KL}\bigl(p^{(g-1)}_T \,\|\, q_T\bigr)$$
#
# The loop has $T = 1$, as Furlanello et al., and $\alpha = 0.5$; most of their generations learn from the outputs alone. The experiment searches both.

# %%
def net(seed):
    return kd.models.convnet(width=16, classes=36, seed=seed)

def soft_loss(z, v, T=1):
    log_q, log_p = ((a / T).log_softmax(1) for a in (z, v.detach()))
    kl = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return T**2 * kl


# %%
def generation(student, teacher, x, y, epochs=10, after=lambda: None):
    optimizer = torch.optim.AdamW(student.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.08, epochs)
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(128):
            z = student.train()(x[i])
            loss = F.cross_entropy(z, y[i])
            if teacher is not None:
                loss = 0.5 * loss + 0.5 * soft_loss(z, teacher(x[i]))
            optimizer.zero_grad(), loss.backward(), optimizer.step()
        schedule.step(), after()
    return copy.deepcopy(student).eval()  # a copy, which stays as it is


# %%
data = kd.data.glyphs(train=4000, seed=0)
x, y = data.train.x, data.train.y

def val_accuracy(network):
    outputs = kd.models.predict(network, data.val.x)
    return kd.measure.accuracy(outputs, data.val.y)

# %%
orders = {"generation 0": 100, "generation 1": 1, "labels only": 1}
made = {}
for name, seed in orders.items():
    torch.manual_seed(seed)  # order of the images
    teacher = made["generation 0"] if name == "generation 1" else None
    made[name] = generation(net(seed), teacher, x, y)
    print(f"{name}: {val_accuracy(made[name]):.1%}")

# %% [markdown]
# One short run each, untuned, so no result yet. The last two are to be compared; generation 0 has another start.
#
# The teacher must be a **copy**, or it changes with the student: see [Break it](#break-it-08). In the package: `kd.Distiller(net(1), teacher, 0.5 * CE() + 0.5 * KD(T=1))`, and `kd.fit` for the loop.

# %% [markdown]
# ## The experiment
#
# ### Three baselines
#
# 4,000 glyphs and the convnet of chapter 1, 60 epochs. The baselines differ in augmentation and tuning:
#
# | baseline | images | rate and weight decay |
# |---|---|---|
# | plain, untuned | as they are | the package's default |
# | plain, tuned | as they are | searched |
# | augmented, tuned | 20 versions of each, as in chapter 1 | searched |
#
# For each: generation 0, generation 1, and **labels only, same start**, with the start and the order of images of generation 1. The effect is generation 1 minus that. Beside it, **a teacher that knows more**: chapter 1's, of 40,000 other images. The strongest baseline has ten seeds, the others five; the search has used none of them.
#
# In [chapter 9](09_when_does_it_help.ipynb) a twin as the teacher cost accuracy, at $T = 4$ and α = 0.9. Here both are searched; weak baselines, the start, later generations and the price are new.

# %%
augmented = kd.augmented(data, views=20, shift=0.1, degrees=11, scale=0.15)
images = {"plain, untuned": data, "plain, tuned": data,
          "augmented, tuned": augmented}
weakest, plain, best_name = images
knowing = kd.teacher("glyphs")
print(f"the teacher that knows more: {val_accuracy(knowing):.1%}")

def recipe(lr, wd):
    return kd.Recipe(epochs=60, lr=lr, weight_decay=wd, validate_every=5)


# %% tags=["hide-cell"]
# The search of chapter 1, for labels only and for the teacher that knows more: its recorded rows.
def labels_arm(seed):
    return kd.Supervised(net(seed))


def teacher_arm(stored):
    return lambda seed: kd.Distiller(net(seed), stored, 0.1 * CE() + 0.9 * KD(T=4))


# %% tags=["hide-cell"]
ALPHAS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)


# %% tags=["hide-cell"]
def near(at, steps):
    """The settings one step away. steps: a factor, a list of values, or None, for each number."""
    found = []
    for place, step in enumerate(steps):
        if step is ALPHAS:
            i = ALPHAS.index(at[place])
            values = ALPHAS[max(i - 1, 0):i] + ALPHAS[i + 1:i + 2]
        else:
            values = [] if step is None else [at[place] / step, at[place] * step]
        found += [(*at[:place], round(value, 8), *at[place + 1:]) for value in values]
    return [one for one in found if one[-2] < 2 and one[-1] < 2]


# %% tags=["hide-cell"]
def chapter_1(arms, seen):
    best, score = dict.fromkeys(arms, (0.32, 0.01)), {}
    while new := [(arm, at) for arm in arms for at in [best[arm], *near(best[arm], (4, 5))]
                  if (arm, at) not in score]:
        table = kd.compare({key: arms[key[0]] for key in new}, seen,
                           {key: recipe(*key[1]) for key in new}, range(2), teacher=knowing,
                           results="01")
        score |= {key: table.mean(key) for key in new}
        best = {arm: max((key for key in score if key[0] == arm), key=score.get)[1]
                for arm in arms}
    return best, {arm: sum(key[0] == arm for key in score) for arm in arms}


# %% tags=["hide-cell"]
stored = {name: kd.Cached(knowing, seen) for name, seen in images.items()}
default = (kd.Recipe().lr, kd.Recipe().weight_decay)
tuned, taught_at, tried = {weakest: default}, {weakest: default}, {}
with contextlib.redirect_stdout(io.StringIO()):  # a line for each step of the search
    for name in (plain, best_name):
        both = {"labels only": labels_arm, "+ teacher": teacher_arm(stored[name])}
        found, tried[name] = chapter_1(both, images[name])
        tuned[name], taught_at[name] = found["labels only"], found["+ teacher"]

# %% [markdown]
# `tuned` holds rate and decay of labels only, for each baseline; `at` is $T$, α, rate and decay of a student.

# %%
def trained(scheme, name, seed, lr_wd):
    kd.fit(scheme, images[name], recipe(*lr_wd), seed)
    return kd.export(scheme)

@functools.cache
def labels_only(name, seed):
    return trained(kd.Supervised(net(seed)), name, seed, tuned[name])

@functools.lru_cache(maxsize=8)
def outputs(name, teacher):
    return kd.Cached(teacher, images[name])

def taught(answers, name, seed, at):
    T, alpha, *lr_wd = at
    objective = (1 - alpha) * CE() + alpha * KD(T=T)
    scheme = kd.Distiller(net(seed), answers, objective)
    return trained(scheme, name, seed, lr_wd)


# %%
@functools.cache
def born(g, name, seed, at):
    """Generation g of one line."""
    if g == 0:
        return labels_only(name, 100 + seed)
    own = seed if g == 1 else 100 * g + seed  # start and order
    teacher = born(g - 1, name, seed, at)
    return taught(outputs(name, teacher), name, own, at)


# %% [markdown]
# **The search** is on the validation images, with seeds 0 and 1. For generation 1: $T$ and α, and at the strongest baseline rate and decay, too.
#
# <details><summary>The search in detail</summary>
#
# From the rate and decay of labels only, and for generation 1 from $T = 4$, α = 0.9 and from $T = 1$, α = 0.5; from one setting to its best neighbour until none is better. Neighbours are $T$ × 2 and / 2, the next α of 0.1, 0.25, 0.5, 0.75, 0.9, 0.97 and 1, rate × 4 and / 4, decay × 5 and / 5 (rate and decay below 2). This with one seed; a second one decides between the best two, and the neighbours of the winner are tried as well. Exits that the end teaches start from α = 0.25 and have $T = 3$. Labels only and the teacher that knows more have chapter 1's search: two seeds for each setting, for the teacher at $T = 4$ and α = 0.9.
#
# Not searched are generations 2 and 3, four distilled and the controls (the settings of generation 1), and the mean teacher ($T$ and α of generation 1, rate and decay of labels only, $d = 0.99$).
#
# </details>

# %% tags=["hide-cell"]
def search(measure, starts, steps):
    """The best setting, and the scores of the first seed. measure: of settings and seeds."""
    score, new = {}, list(starts)

    def untried(at):
        return [one for one in near(at, steps) if one not in score]

    while new:
        while new:
            score |= measure(new, [0])
            new = untried(max(score, key=score.get))
        two = sorted(score, key=score.get)[-2:]
        decided = measure(two, [0, 1])
        best = max(decided, key=decided.get)
        new = untried(best)
    return best, score


# %% tags=["hide-cell"]
def on_val(function, what):
    """`measure` for `search`: the recorded validation accuracy of the network that `function`
    makes from a setting and a seed."""
    def measure(settings, seeds):
        score = {}
        for at in settings:
            table = kd.experiment.record(functools.partial(validated, function, at), seeds,
                                         name=what, results="08")
            score[at] = table.mean("network")
        return score
    return measure


# %% tags=["hide-cell"]
def validated(function, at, seed):
    return {"network": {"setting": list(at), "accuracy": val_accuracy(function(at, seed))}}


# %% tags=["hide-cell"]
four_nine, one_half = (4.0, 0.9), (1.0, 0.5)  # chapter 1's T and α; the paper's T
chosen = {weakest: ((*four_nine, *default), {})}
with contextlib.redirect_stdout(io.StringIO()):
    for name, steps in ((plain, (2, ALPHAS, None, None)), (best_name, (2, ALPHAS, 4, 5))):
        chosen[name] = search(
            on_val(lambda at, seed, name=name: born(1, name, seed, at), f"generation 1, {name}"),
            [(*pair, *tuned[name]) for pair in (four_nine, one_half)], steps)


# %%
def family(name, at, seed):
    own, zero = labels_only(name, seed), born(0, name, seed, at)
    networks = {"labels only": own, "generation 0": zero,
                "generation 1": born(1, name, seed, at),
                "two averaged": kd.Ensemble([own, zero])}
    return {arm: tested(one) for arm, one in networks.items()}

# %% tags=["hide-cell"]
def tested(network):
    on_test, on_train = (asked(network, part.x)
                         for part in (data.test, data.train))
    return kd.measure.evaluate(on_test, data.test.y) | {
        "train": kd.measure.accuracy(on_train, data.train.y)}


# %% tags=["remove-output"]
five, ten = range(2, 7), range(2, 12)  # seeds
lines = {name: kd.experiment.record(
    functools.partial(family, name, chosen[name][0]),
    ten if name == best_name else five,
    name=f"generations, {name}", split="test", results="08")
    for name in images}
strong = lines[best_name]

# %% tags=["hide-cell"]
def both_chapters(arm, settings, seeds, seen=augmented):
    """Test accuracy of one arm: seeds that chapter 1 has recorded, and the others."""
    found = []
    for results, part in (("01", [seed for seed in seeds if seed < 5]),
                          ("08", [seed for seed in seeds if seed >= 5])):
        found += kd.compare({"arm": arm}, seen, settings, part, split="test", teacher=knowing,
                            results=results).values("arm")
    return found


# %% tags=["hide-cell"]
def of_chapter_1(scheme):
    """Test accuracy of an arm of chapter 1, augmented, 60 epochs, seeds 0 to 4."""
    rows = [row for row in kd.experiment.recorded("01") if row["split"] == "test"
            and "views=20" in row["data"] and "epochs=60" in row["recipe"]
            and row["scheme"].endswith(scheme)]
    return [row["accuracy"] for row in sorted(rows, key=lambda row: row["seed"])]


# %% tags=["hide-cell"]
soft = "0.1 * CE() + 0.9 * KD(T=4), teacher=Cached(teacher('glyphs-4000')))"
same_images, smoothed, plain_1 = map(of_chapter_1, (
    soft, "LabelSmoothing(smoothing=0.01))", "size=28), CE())"))


# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    more = {name: both_chapters(teacher_arm(stored[name]), recipe(*taught_at[name]),
                                ten if name == best_name else five, images[name])
            for name in (plain, best_name)}
    more[weakest] = kd.compare(
        {"+ teacher": teacher_arm(stored[weakest])}, data, recipe(*default), five, split="test",
        results="08").values("+ teacher")

# %% tags=["hide-cell"]
def from_start_a(name, at, seed):
    """Generation 1 with the start and the order of generation 0."""
    zero = born(0, name, seed, at)
    return {"generation 1": tested(taught(outputs(name, zero), name, 100 + seed, at))}


# %% tags=["hide-cell"]
own_start = {name: kd.experiment.record(
    functools.partial(from_start_a, name, chosen[name][0]), five, split="test",
    name=f"generation 1 from the start of generation 0, {name}", results="08")
    for name in (weakest, best_name)}


# %% tags=["remove-input"]
gains = {name: {"generation 1": gap(line.values("generation 1"), line.values("labels only")),
                "a teacher that knows more": gap(more[name], line.values("labels only"))}
         for name, line in lines.items()}

# %% mystnb={"image": {"alt": "For the three baselines, plain and untuned, plain and tuned, augmented and tuned: the points that generation 1 gains over labels only from the same start, in blue, and the points that a teacher that knows more gains, in orange, each with its 95 percent interval. A line at zero is labels only."}} tags=["hide-input"]
BLUE, GREY, ORANGE = kd.plot.BLUE, kd.plot.GREY, kd.plot.ORANGE
figure, ax = plt.subplots(figsize=(6.4, 4.2))
for who, color, mark, up in (("generation 1", BLUE, "o", -0.16),
                             ("a teacher that knows more", ORANGE, "s", 0.2)):
    for place, name in enumerate(images):
        mid, low, high = (100 * v for v in kd.measure.interval(gains[name][who]))
        ax.errorbar(mid, place + up, xerr=[[mid - low], [high - mid]], fmt=mark, ms=7, lw=2,
                    capsize=4, color=color, label=who if place == 0 else None)
        ax.annotate(f"{mid:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−"),
                    (mid, place + up), (0, 8), fontsize=10, textcoords="offset points",
                    ha="center", color=color)
ax.axvline(0, color="black", lw=1.2), ax.grid(False, axis="y"), ax.legend()
ax.set_yticks(range(3), [f"{name}\n(labels only: {line.mean('labels only'):.1%})"
                         for name, line in lines.items()])
ax.set(ylim=(2.5, -0.6), xlabel="points over labels only, test images (95 %)",
       title="READ: one message, such as: what is left on a strong baseline");


# %% tags=["hide-input"]
def against(arm, baseline="labels only", name=best_name):
    return told_as(lines[name].difference(arm, baseline))


# %% tags=["hide-input"]
def start_a(name):
    return apart(own_start[name].values("generation 1"), lines[name].values("generation 0"))


def removed(name):
    """The share of the errors of labels only that generation 1 does not make."""
    return np.mean(gains[name]["generation 1"]) / (1 - lines[name].mean("labels only"))


# %% tags=["remove-input"]
rows = "\n".join(
    f"| {name} | {removed(name):.0%} | "
    f"{np.divide(*(np.mean(values) for values in gains[name].values())):.0%}"
    f" | {told_as(line.difference('generation 1', 'generation 0'), '')} | "
    f"{line.mean('labels only', 'train'):.1%} |" for name, line in lines.items()).replace("-", "−")
match = np.corrcoef(strong.values("generation 1"), strong.values("labels only"))[0, 1]
lost = [apart(gains[weakest][who], gains[best_name][who]) for who in gains[weakest]]
counts = tried[best_name] | {"generation 1": len(chosen[best_name][1])}
ahead = apart(*(gains[best_name][who] for who in ("a teacher that knows more", "generation 1")))

# %% tags=["hide-input"]
Markdown(f"""
| baseline | errors that generation 1 removes | its gain, share of the other teacher's | \
generation 1 minus generation 0, points | training accuracy, labels only |
|---|---|---|---|---|
{rows}

At the strongest baseline the teacher that knows more is ahead of generation 1 by {ahead}
(correlation of the pairs of generation 1: {match:.2f}). From the weakest to the strongest baseline
(seeds 2 to 6) the gain of generation 1 shrinks by {lost[0]}, the other by {lost[1]}.

**From start A**, that of its teacher, generation 1 minus generation 0: {start_a(weakest)} at the
weakest baseline, {start_a(best_name)} at the strongest.
""")

# %% [markdown]
# READ: (1) what generation 1 gains over the weak and over the strong baseline, whether the interval holds 0, and the other teacher beside it; (2) pairing with generation 0 gives another number and a wider interval; (3) the strongest baseline underfits (its training accuracy), so nothing here is about networks that fit all images; (4) start A: is a new start needed?
#
# **Is it the setting?** At the strongest baseline, five seeds, generation 1 with two settings that were not searched, at the rate and decay of labels only:

# %% tags=["hide-cell"]
start, at_best = tuned[best_name], chosen[best_name][0]
unsearched = {"T = 4, α = 0.9": (*four_nine, *start), "T = 1, α = 0.5": (*one_half, *start)}


def as_published(seed):
    return {name: tested(born(1, best_name, seed, at)) for name, at in unsearched.items()}


# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    untuned = kd.experiment.record(as_published, five, name="generation 1, settings not searched",
                                   split="test", results="08")

# %% tags=["hide-input"]
another = strong.values("labels only")
Markdown("; ".join(
    f"{name}: {apart(untuned.values(name), another)}" for name in unsearched) + f""" (searched:
{apart(strong.values("generation 1")[:5], another)}). Settings tried: {counts["generation 1"]}, for
labels only {counts["labels only"]}.

<details><summary>The settings</summary>

| arm | T | α | rate | decay |
|---|---|---|---|---|
""" + "\n".join(f"| {arm}, {name} | {T} | {alpha} | {lr:g} | {wd:g} |" for name in images
                for arm, T, alpha, lr, wd in (
                    ("labels only", "–", "–", *tuned[name]),
                    ("+ teacher", 4, 0.9, *taught_at[name]),
                    ("generation 1", *(f"{v:g}" for v in chosen[name][0][:2]),
                     *chosen[name][0][2:]))) + "\n\n</details>")

# %% [markdown]
# READ: one sentence on the settings.
#
# ### What as many trainings bring
#
# From here on all is at the strongest baseline. The trainings could go into one network **twice as long** with labels only, **two or four networks averaged**, **four distilled into one**, or a **larger teacher of the same 4,000 images** (chapter 1's rows). Two ways need one training only:
#
# - **Early exits**: small classifiers on inner layers {cite:p}`zhang2019byot`. With *labels only* they are older: **deep supervision** {cite:p}`lee2015`. New is that the end of the network teaches them. So there are two arms, α = 0 and α searched.
# - **A moving average as the teacher** {cite:p}`tarvainen2017`: $\bar\theta \leftarrow d\,\bar\theta + (1-d)\,\theta$ after each step. Its control: train with labels only and use $\bar\theta$. Both are judged by their averages.

# %%
def exits(alpha):
    loss = (1 - alpha) * CE() + alpha * KD(T=3)
    return lambda seed: kd.MultiExit(net(seed), ["2", "4"], loss)

def averaged(seed):
    return kd.Supervised(net(seed)).averaged(0.99)

def mean_teacher(seed):
    T, alpha, *_ = at_best
    student = net(seed)
    average = kd.EMA(student, decay=0.99)
    objective = (1 - alpha) * CE() + alpha * KD(T=T)
    return kd.Distiller(student, average, objective).averaged(0.99)

# %% tags=["hide-cell"]
def by_compare(arm):
    """`measure` for `search`, with `kd.compare`. arm: of the value that is searched."""
    def measure(settings, seeds):
        table = kd.compare({at: arm(at[0]) for at in settings}, augmented,
                           {at: recipe(*at[1:]) for at in settings}, seeds, results="08")
        return {at: table.mean(at) for at in settings}
    return measure


# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    chosen["exits, labels only"] = search(by_compare(exits), [(0.0, *start)], (None, 4, 5))
    chosen["exits, taught"] = search(by_compare(exits), [(0.25, *start)], (ALPHAS, 4, 5))


# %% tags=["hide-cell"]
@functools.cache
def four(seed):
    """Four starts with labels only: that of generation 1, generation 0, and two more."""
    return kd.Ensemble([labels_only(best_name, own)
                        for own in (seed, 100 + seed, 200 + seed, 300 + seed)])


# %% tags=["hide-cell"]
def continued(at, seed):
    networks = {f"generation {g}": born(g, best_name, seed, at) for g in (2, 3)}
    networks |= {"four averaged": four(seed), "four distilled": taught(
        outputs(best_name, four(seed)), best_name, seed, at)}
    return {arm: tested(one) for arm, one in networks.items()}


# %% tags=["hide-cell"]
following = torch.arange(4000)  # the next image of the same class
for k in range(36):
    members = (y == k).nonzero()[:, 0]
    following[members] = members.roll(1)


def another_image(logits, T):
    return logits[:, following]


# %% tags=["hide-cell"]
def confidence_only(logits, T):
    """The label keeps its probability at T; the other 35 share the rest evenly."""
    sure = (logits / T).softmax(-1)[:, range(4000), y].clamp(1e-6, 1 - 1e-6)
    return (T * (35 * sure / (1 - sure)).log())[..., None] * F.one_hot(y, 36)


# %% tags=["hide-cell"]
def controlled(at, seed):
    """Generation 1 with something else in place of generation 0's outputs."""
    right, found = outputs(best_name, born(0, best_name, seed, at)).logits, {}
    for name, change in {"another image": another_image,
                         "confidence only": confidence_only}.items():
        answers = kd.Cached.of(change(right, at[0]), augmented, name)
        found[name] = tested(taught(answers, best_name, seed, at))
    return found | {"groups": groups(seed, at)}


# %% tags=["hide-cell"]
def groups(seed, at):
    """Test images that one of generation 0 and start B, labels only, has right: who else does?"""
    def right(network):
        return kd.models.predict(network, data.test.x).argmax(1) == data.test.y

    zero, own = right(born(0, best_name, seed, at)), right(labels_only(best_name, seed))
    others = {"generation 1": right(born(1, best_name, seed, at)),
              "unrelated generation 1": right(born(1, best_name, seed + 5, at)),
              "third start": right(labels_only(best_name, 200 + seed))}
    found = {}
    for name, part in {"generation 0": zero & ~own, "start B": own & ~zero}.items():
        found[f"{name}: count"] = int(part.sum())
        found |= {f"{name}: {who}": named[part].float().mean().item()
                  for who, named in others.items()}
    return found


# %% tags=["hide-cell"]
def inside(scheme, split):
    """Test accuracy of the exits, from the first on."""
    return [kd.measure.accuracy(kd.models.predict(scheme.exit(path), split.x), split.y)
            for path in scheme.exits]


# %% tags=["hide-cell"]
thresholds = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


# %% tags=["hide-cell"]
def early(scheme, split):
    """For exercise 3: for each threshold the share of operations, then the accuracy."""
    cut = [*(scheme.exit(path) for path in scheme.exits), kd.export(scheme)]
    logits = [kd.models.predict(network, split.x) for network in cut]
    price = torch.tensor([float(kd.measure.macs(network, data.shape)) for network in cut])
    sure = torch.stack([z.softmax(1).amax(1) for z in logits])
    named, found = torch.stack([z.argmax(1) for z in logits]), []
    for threshold in thresholds:
        passed = sure >= threshold
        passed[-1] = True
        used = passed.int().argmax(0)
        right = named.gather(0, used[None])[0] == split.y
        found.append([(price[used].mean() / price[-1]).item(), right.float().mean().item()])
    return [share for share, _ in found] + [right for _, right in found]


# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    rest = kd.experiment.record(
        functools.partial(continued, at_best), five, name="more generations, four networks",
        split="test", results="08")
    controls = kd.experiment.record(
        functools.partial(controlled, at_best), five, name="generation 1, other outputs",
        split="test", results="08")
    deep = {name: exits(chosen[name][0][0]) for name in ("exits, labels only", "exits, taught")}
    ends = kd.compare(deep, augmented, {name: recipe(*chosen[name][0][1:]) for name in deep},
                      ten, split="test", also={"exits": inside, "early": early}, results="08")
# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    single = kd.compare({"average": averaged, "mean teacher": mean_teacher}, augmented,
                        recipe(*start), five, split="test", results="08")
    twice = both_chapters(labels_arm, kd.Recipe(
        epochs=120, lr=start[0], weight_decay=start[1], validate_every=20), ten)

# %% tags=["remove-input"]
one, two = strong.values("generation 1"), strong.values("two averaged")
buys = {  # name: trainings, colour, accuracies, those of labels only
    "average of labels only": (1, GREY, single.values("average"), another),
    "average of a mean teacher": (1, BLUE, single.values("mean teacher"), another),
    "exits, labels only": (1, GREY, ends.values("exits, labels only"), another),
    "exits, taught by the end": (1, BLUE, ends.values("exits, taught"), another),
    "generation 1": (2, BLUE, one, another),
    "twice as long": (2, ORANGE, twice, another),
    "two averaged, 2 to run": (2, ORANGE, two, another),
    "larger teacher, same images": (2, ORANGE, same_images, plain_1),
    "generation 3": (4, BLUE, rest.values("generation 3"), another),
    "four averaged, 4 to run": (4, ORANGE, rest.values("four averaged"), another),
    "four distilled": (5, ORANGE, rest.values("four distilled"), another)}
# %% tags=["remove-input"]
bought = {name: [100 * v for v in kd.measure.interval(gap(*lists))]
          for name, (_, _, *lists) in buys.items()}

# %% [markdown]
# In brackets the number of trainings. Blue: the teacher is a network of the student's kind.

# %% mystnb={"image": {"alt": "For eleven ways to spend one to five trainings: points gained over labels only with 95 percent intervals. Blue are networks that learn from themselves or from a network of their own kind, orange are other ways to spend as many trainings, grey are ways without a teacher. A line at zero is one network with labels only."}} tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 5.2))
for place, (name, (_, color, *_)) in enumerate(buys.items()):
    mid, low, high = bought[name]
    ax.errorbar(mid, place, xerr=[[mid - low], [high - mid]], fmt="o", ms=7, lw=2, capsize=4,
                color=color)
for color, text in ((BLUE, "teacher of its own kind"), (ORANGE, "other ways"),
                    (GREY, "no teacher")):
    ax.plot([], [], "o", color=color, label=text)
ax.axvline(0, color="black", lw=1.2), ax.grid(False, axis="y"), ax.legend(fontsize=10)
ax.set_yticks(range(len(buys)), [f"{name} ({n})" for name, (n, *_) in buys.items()])
ax.invert_yaxis()
ax.set(xlabel="points over labels only, test images (95 %)",
       title="READ: what one to five trainings bring");

# %% tags=["hide-input"]
Markdown(f"""
**Generation 1 minus twice as long**: {apart(one, twice)}; **minus two averaged**:
{apart(one, two)}. **Generation 3 minus generation 1**: {apart(rest.values("generation 3"), one)};
**minus four distilled**: {apart(rest.values("generation 3"), rest.values("four distilled"))}.
**Mean teacher's average minus the average of labels only**:
{apart(single.values("mean teacher"), single.values("average"))}.

If no way had an effect, one of {len(bought)} intervals would lie above 0 by chance in
{1 - 0.975 ** len(bought):.0%} of the cases.
""")

# %% [markdown]
# READ: (1) generation 1 against twice as long, two averaged, and the larger teacher of the same images; (2) which ways the interval separates from 0, and whether later generations add anything; (3) the mean teacher against its control.
#
# ### Early exits: who does the work?

# %% tags=["hide-input"]
def at_exit(arm):
    """Test accuracy of exit 1, exit 2 and the end: seed by seed."""
    return np.column_stack([ends.values(arm, "exits"), ends.values(arm)])


# %% tags=["remove-input"]
alone, helped = (at_exit(arm) for arm in ("exits, labels only", "exits, taught"))
rows = "\n".join(
    f"| {name} | {apart(helped[:, i], alone[:, i], '')} | {alone[:, i].mean():.1%} | "
    f"{helped[:, i].mean():.1%} |" for i, name in enumerate(("exit 1", "exit 2", "the end")))

# %% tags=["hide-input"]
Markdown(f"""
| classifier | taught minus labels only, points | labels only | taught by the end |
|---|---|---|---|
{rows}

The end, with exits that get labels only, minus a network without exits:
{apart(ends.values("exits, labels only"), another)}. The search chose
α = {chosen["exits, taught"][0][0]:g} ({len(chosen["exits, taught"][1])} settings; labels only
{len(chosen["exits, labels only"][1])}).
""")

# %% [markdown]
# READ: deep supervision or self-teaching? What the teaching adds at each exit, what the exits with labels only add at the end, and how often exit 1 is right.
#
# ### Controls: another image, confidence only
#
# Generation 1 again, with the output for *another image of the same class*; or with the label's probability alone, the rest divided evenly. {cite:t}`zhang2020instance` see self-distillation as label smoothing with a share for each image, which the second keeps.

# %% tags=["hide-input"]
Markdown("\n".join(["| instead of generation 0's output | minus generation 1 | minus labels only |",
                    "|---|---|---|"] + [
    f"| {name} | {apart(controls.values(name), one, '')} | "
    f"{apart(controls.values(name), another, '')} |"
    for name in ("another image", "confidence only")]))

# %% [markdown]
# READ: one sentence for each. Does the output have to be about this image? Does it need the wrong classes?
#
# ## Why
#
# If generation 1 takes over what generation 0 has learned, it must show on the test images that *only generation 0* names rightly, and its control, start B with labels only, does not. If it also keeps what start B brings, it must show on those that *only start B* names rightly. But it may be right on both groups only because it is more accurate. So two unrelated networks are drawn beside it: a **third start** with labels only, and an **unrelated generation 1**, with another start and teacher.

# %% mystnb={"image": {"alt": "For two groups of test images, those that only generation 0 names rightly and those that only start B with labels only names rightly: the share that generation 1 names rightly, in blue, that of an unrelated generation 1, in orange, and that of a third start with labels only, in grey, five seeds each with mean and 95 percent interval."}} tags=["hide-input"]
names = ("generation 0", "start B")
figure, ax = plt.subplots(figsize=(6.4, 3.4))
for who, color, mark, up in (("generation 1", BLUE, "o", -0.2), ("unrelated generation 1", ORANGE,
                             "^", 0), ("third start", GREY, "s", 0.2)):
    for place, name in enumerate(names):
        values = controls.values("groups", f"{name}: {who}")
        mid, low, high = kd.measure.interval(values)
        ax.plot(values, [place + up] * len(values), ".", color=color, alpha=0.5)
        ax.errorbar(mid, place + up, xerr=[[mid - low], [high - mid]], fmt=mark, ms=8, lw=2,
                    capsize=4, color=color, label=who if place == 0 else None)
counts = [np.mean(controls.values("groups", f"{name}: count")) for name in names]
ax.set_yticks([0, 1], [f"right: only {name}\n({count:.0f} of 4,000 images)"
                       for name, count in zip(names, counts)])
ax.set(ylim=(1.5, -0.5), xlabel="share that is named rightly",
       title="READ: what generation 1 has from whom")
ax.xaxis.set_major_formatter("{x:.0%}"), ax.grid(False, axis="y"), ax.legend(fontsize=10);


# %% tags=["hide-input"]
def beyond(group, who):
    """Generation 1 minus another network on a group."""
    return apart(*(controls.values("groups", f"{group}: {one}") for one in ("generation 1", who)))


# %% tags=["hide-input"]
Markdown(f"""
Generation 1 minus the unrelated generation 1: {beyond(names[0], "unrelated generation 1")} on the
images that only generation 0 names rightly, {beyond(names[1], "unrelated generation 1")} on those
that only start B names rightly. Minus the third start: {beyond(names[0], "third start")} and
{beyond(names[1], "third start")}.
""")

# %% [markdown]
# READ: two sentences. Does generation 1 take over from its teacher, and keep from its own start, more than an unrelated generation 1 would (the multi-view prediction)? The two groups have about the same size, so what is won in one can be lost in the other.
#
# The other explanation is regularisation. {cite:t}`mobahi2020` prove for a simpler model that a few rounds reduce overfitting, and more lead to underfitting. It needs no new start: READ start A, above.

# %% [markdown]
# ## Without labels
#
# "Self-distillation" often means learning **without labels**. In DINO {cite:p}`caron2021` and BYOL {cite:p}`grill2020` the teacher is a moving average of the student. Each gets another version of the same image, and the student matches the teacher's output. A constant output would match perfectly: the **collapse**. DINO prevents it in two ways. **Centering** subtracts from the teacher's logits their running mean, so that no output wins for all images. **Sharpening** divides by a small temperature, so that the output is not uniform. BYOL has neither; its student has one more part, a predictor. Here DINO learns from small scans of digits:

# %%
def without_labels(student, x, center=True, T=0.04, epochs=40):
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.003)
    mean = torch.zeros(32)  # of the teacher's logits
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(128):
            a, b = changed(x[i]), changed(x[i])  # shifted, turned, noisy
            z = student(torch.cat([a, b]))
            v = teacher(torch.cat([b, a]))
            target = ((v - mean) / T).softmax(1)
            log_q = (z / 0.1).log_softmax(1)
            loss = -(target * log_q).sum(1).mean()
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            if center:
                mean.lerp_(v.mean(0), 0.1)
            pairs = zip(teacher.parameters(), student.parameters())
            for average, new in pairs:
                average.lerp_(new.detach(), 0.05)
    return teacher


# %% tags=["hide-cell"]
scans = kd.data.digits()


def changed(x):
    augment = kd.data.augment.Augment(shift=0.1, degrees=15, scale=0.15)
    moved = augment(x, 2 * torch.rand(len(x), 7) - 1)
    return moved + 0.1 * torch.randn(x.shape)


# %% tags=["hide-cell"]
def encoder(seed):
    """64 pixels to 32 outputs; the seed is also that of views and order."""
    torch.manual_seed(seed)
    layers = [nn.Flatten()]
    for one, other in ((64, 256), (256, 64), (64, 64)):
        layers += [nn.Linear(one, other), nn.BatchNorm1d(other), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 32))


# %% tags=["hide-cell"]
def one_label(network, draws=20):
    """Accuracy with one labelled image for each class: that of the nearest output, by cosine."""
    train, test = (network.eval()(part.x).detach() for part in (scans.train, scans.test))
    middle, right = train.mean(0), []
    near = F.normalize(test - middle, dim=1) @ F.normalize(train - middle, dim=1).T
    rng = torch.Generator().manual_seed(0)
    for _ in range(draws):
        order = torch.randperm(len(train), generator=rng)
        shown = torch.stack([order[scans.train.y[order] == k][0] for k in range(10)])
        right.append((near[:, shown].argmax(1) == scans.test.y).float().mean().item())
    return {"accuracy": np.mean(right)} | in_use(test)


# %% tags=["hide-cell"]
def in_use(outputs):
    """The number of outputs that are in use (the exponential of an entropy)."""
    def number(q):
        return -(q * q.clamp_min(1e-12).log()).sum(-1).mean()

    q = (outputs / 0.1).softmax(1)
    return {"over all images": number(q.mean(0)).exp().item(), "for one image":
            number(q).exp().item()}


# %% tags=["hide-cell"]
def unlabelled(seed):
    x = scans.train.x
    networks = {"untrained": encoder(seed), "the pixels themselves": nn.Flatten(),
                "DINO": without_labels(encoder(seed), x),
                "without centering": without_labels(encoder(seed), x, center=False),
                "without sharpening": without_labels(encoder(seed), x, T=0.1)}
    return {name: one_label(network) for name, network in networks.items()}


# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    blind = kd.experiment.record(unlabelled, range(5), name="without labels", split="test",
                                 results="08")

# %% mystnb={"image": {"alt": "Six rows of eight scans of handwritten digits. In each row are scans for which one output of a network that was trained without labels is the largest; nearly all of a row are the same digit."}} tags=["hide-input"]
found = kd.models.predict(without_labels(encoder(0), scans.train.x), scans.train.x)
largest = found.argmax(1)
common = torch.bincount(largest, minlength=32).argsort(descending=True)[:6]
figure, axes = plt.subplots(6, 8, figsize=(6.4, 5))
for row, k in zip(axes, common):
    row[0].set_ylabel(f"output {int(k)}", rotation=0, ha="right", va="center")
    for ax, i in zip(row, (largest == k).nonzero()[:, 0]):
        ax.imshow(scans.train.x[i, 0], cmap="gray")
        ax.set(xticks=[], yticks=[])
figure.suptitle("Scans with the same largest output: no label was used", fontsize=12);

# %% tags=["remove-input"]
rows = "\n".join(
    f"| {arm} | {told_as(blind.difference(arm, 'untrained'), '') if arm != 'untrained' else '–'} | "
    f"{blind.mean(arm):.1%} | {blind.mean(arm, 'over all images'):.1f} | "
    f"{blind.mean(arm, 'for one image'):.1f} |" for arm in blind.arms if "pixels" not in arm)

# %% tags=["hide-input"]
Markdown(f"""
**One labelled scan for each digit**; every test scan gets the label of the nearest output (mean of
20 draws). Outputs in use: the exponential of the entropy, at most 32.

| 32 outputs | minus untrained, points | right | in use, all images | in use, one image |
|---|---|---|---|---|
{rows}

The nearest of ten *pictures* is right on {blind.mean("the pixels themselves"):.1%}: DINO is
{told_as(blind.difference("DINO", "the pixels themselves"))} from it.
""")

# %% [markdown]
# READ: two sentences. What is learned without a label, and the two collapses, which the last two columns show: without centering few outputs for all images, without sharpening (T = 0.1, as the student) all outputs for every image. This is small, and not a reproduction: DINO has Vision Transformers, many crops and ImageNet.

# %% [markdown]
# ## Score the bet

# %% tags=["hide-input"]
mean, low, high = (100 * v for v in strong.difference("generation 1", "labels only"))
kd.explore.score(gain_bet, mean, interval=(low, high), digits=1, note="The teacher of 40,000: "
                 f"{told_as(kd.measure.interval(gains[best_name]['a teacher that knows more']))}.")

# %% tags=["hide-input"]
ways = dict(zip(budget_bet.choices, (one, twice, two)))
lows = {(a, b): kd.measure.interval(gap(ways[a], ways[b]))[1] for a in ways for b in ways}
# The highest lower end of another way minus this one, and the lowest of this one minus another.
low_beaten = {a: max(lows[b, a] for b in set(ways) - {a}) for a in ways}
low_ahead = {a: min(lows[a, b] for b in set(ways) - {a}) for a in ways}
held = ([a for a in ways if low_beaten[a] <= 0]
        + budget_bet.choices[3:] * (max(low_ahead.values()) <= 0))
kd.explore.score(budget_bet, held, note=f"Generation 1 minus twice as long: {apart(one, twice)}; "
                 f"minus two averaged: {apart(one, two)}.")

# %% [markdown]
# ## What did not work

# %% tags=["hide-input"]
nothing = [name for name, (_, low, high) in bought.items() if low <= 0]
Markdown(f"""
- **Not shown to gain** at the strongest baseline:
  {"; ".join(nothing) or f"none of the {len(bought)} ways"}.
- **Softness without a network**: label smoothing (chapter 1, its share tuned) brings
  {apart(smoothed, plain_1)}.
""")

# %% [markdown]
# (break-it-08)=
# ## Break it
#
# In Python `teacher = model` makes no copy: it is a second name for one object. A public library (KD_Lib, [`BANN.py`](https://github.com/SforAiDl/KD_Lib/blob/0b8525b6aacf98e3464520ef629b4a4f16ff69a4/KD_Lib/KD/vision/BANN/BANN.py), still so in the newest version we found) hands one model over as teacher *and* as student. It then loads the best weights into the teacher and the first weights into the student, so both have the first weights. (These are the same in every generation.) The same mistake, planted in the loop from above:

# %%
def next_generation(make_teacher):
    model, rows = copy.deepcopy(made["generation 0"]), []
    teacher = make_teacher(model)
    model.load_state_dict(net(1).state_dict())  # first weights

    def look():
        z, v = (kd.models.predict(m, x) for m in (model, teacher or model))
        rows.append([F.cross_entropy(z, y).item(),
                     soft_loss(z, v).item(), val_accuracy(model)])

    torch.manual_seed(1)
    generation(model, teacher, x, y, after=look)
    return np.array(rows)

# %%
runs = {"planted": next_generation(lambda model: model)}

# %% mystnb={"image": {"alt": "Three panels over ten epochs for the planted run: the cross-entropy falls, the KD part is 0 in every epoch, the validation accuracy rises."}} tags=["hide-input"]
def curves(runs):
    _, axes = plt.subplots(1, 3, figsize=(6.8, 3))
    looks = {"planted": (kd.plot.RED, "s-"), "repaired": (BLUE, "o-"),
             "labels only": ("black", "--")}
    for i, (ax, title) in enumerate(zip(axes, ("CE", "KD", "validation accuracy"))):
        for name, rows in runs.items():
            color, line = looks[name]
            if (name, title) != ("labels only", "KD"):
                ax.plot(range(1, 11), rows[:, i], line, ms=4, color=color, label=name)
        ax.set(xlabel="epoch", title=title, ylim=(-0.05 * rows[:, i].max(), None))
    axes[0].set_ylabel("loss, nats"), axes[0].legend(fontsize=9.5)
    axes[2].yaxis.set_major_formatter("{x:.0%}")


curves(runs)

# %% [markdown]
# The cross-entropy falls and the accuracy rises. But the KD part is 0 in every epoch: so is the divergence of a network with itself, and its gradient. What is left is half of the cross-entropy, and AdamW rescales gradients. The repair is a copy:

# %%
runs["repaired"] = next_generation(lambda m: copy.deepcopy(m).eval())
runs["labels only"] = next_generation(lambda model: None)

# %% mystnb={"image": {"alt": "The same three panels with two more runs. The repaired run has a KD part that starts high and falls. The planted run has the accuracy of labels only."}} tags=["hide-input"]
curves(runs)

# %% tags=["hide-input"]
ended = {name: rows[-1, 2] for name, rows in runs.items()}
Markdown("Validation accuracy after ten epochs, one run each: "
         + ", ".join(f"{name} {right:.1%}" for name, right in ended.items())
         + f". The largest KD value of the planted run is {runs['planted'][:, 1].max():.3g}.")

# %% [markdown]
# The package's `Distiller` refuses the planted version before the first step:

# %%
model = net(1)
try:
    kd.Distiller(model, model)
except ValueError as finding:
    print(finding)


# %% [markdown]
# ## Exercises
#
# Each has a cell to fill in, and a check.
#
# ### 1. Warm up: move the average
#
# One step of the moving average: every floating-point number of `average` becomes `decay` times itself plus the rest of the student's, batch statistics included; whole numbers (counters) are copied.

# %% tags=["exercise-stub"]
def move(average, student, decay):
    raise NotImplementedError


# %% tags=["exercise-check"]
with kd.checks.any_loss.report_stub():
    average, student = net(0).requires_grad_(False), net(1).train()
    student(data.train.x[:64])  # now its batch statistics differ
    old, new = (copy.deepcopy(m.state_dict()) for m in (average, student))
    move(average, student, 0.75)
    for name, got in average.state_dict().items():
        a, b = old[name], new[name]
        if not got.is_floating_point():
            assert got.equal(b), f"In {name}: copy whole numbers."
        elif not torch.allclose(got, 0.75 * a + 0.25 * b):
            raise AssertionError(
                f"In {name}: " + (
                    "inverted, got decay times the student."
                    if torch.allclose(got, 0.25 * a + 0.75 * b) else
                    "nothing changed. Write into the tensor, in place; "
                    "parameters() leaves out the batch statistics."
                    if got.equal(a) else "got another value."))


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def move(average, student, decay):
#     with torch.no_grad():
#         for old, new in zip(average.state_dict().values(), student.state_dict().values()):
#             if old.is_floating_point():
#                 old.lerp_(new, 1 - decay)
#             else:
#                 old.copy_(new)
# ```
#
# **What you should see:** ✓. `state_dict()` gives the tensors themselves, with the buffers, so writing into them changes the network.
#
# </details>
#
# ### 2. Build: learn from several teachers
#
# `kd.Ensemble` averages *logits*. Hinton's paper has another mean as well: that of the softened *probabilities* {cite:p}`hinton2015`. Write the loss with it, $T^2\,\mathrm{KL}(\bar p \,\|\, q_T)$ with $\bar p = \frac{1}{M}\sum_m p^{(m)}_T$, for a `student` `[B, K]` and a list `teachers` of such logits. It must stay finite for extreme logits.

# %% tags=["exercise-stub"]
def ensemble_kd(student, teachers, T):
    raise NotImplementedError


# %% tags=["exercise-check"]
def reference(student, teachers, T=3):
    p = torch.stack([(v / T).softmax(1) for v in teachers]).mean(0)
    return kd.losses.kd(student, T * p.detach().log(), T)

kd.checks.same_loss(
    lambda student, teachers: ensemble_kd(student, teachers, 3),
    reference, (8, 10), [(8, 10)] * 3)

with kd.checks.any_loss.report_stub():
    for gap in (100, 500, 5000):
        far = gap * torch.tensor([[1.0, -1, 0]])
        loss = ensemble_kd(-far, [far, far], 1.0)
        assert loss.isfinite(), (
            f"Expected a finite loss for logits of ±{gap}, got "
            f"{loss.item()}: 0 × log 0 is NaN. See F.kl_div.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def ensemble_kd(student, teachers, T):
#     softened = [(teacher.detach() / T).softmax(1) for teacher in teachers]
#     p = torch.stack(softened).mean(0)
#     log_q = (student / T).log_softmax(1)
#     return T**2 * F.kl_div(log_q, p, reduction="batchmean")
# ```
#
# **What you should see:** ✓ twice. `kl_div` counts $0 \log 0$ as 0. Written as `p * (p.log() - log_q)`, the loss is NaN as soon as a softened probability is 0 in float32.
#
# </details>
#
# ### 3. Explore: stop when sure
#
# An exit can answer the easy images alone. Given the logits of all exits, from the first to the end, a list of `[N, K]`, return for each image the number of the *first* exit whose largest probability reaches the threshold; where none does, the end answers. How much arithmetic does a threshold save, and what does it cost?

# %% tags=["exercise-stub"]
def stop_when_sure(logits, threshold):
    raise NotImplementedError


# %% tags=["exercise-check"]
with kd.checks.any_loss.report_stub():
    sure = torch.tensor([[0.9, 0.2, 0.4], [0.6, 0.7, 0.3], [0.8, 0.9, 0.3]])
    logits = [torch.stack([p, (1 - p) / 2, (1 - p) / 2], 1).log() + 3
              for p in sure]  # three exits, three images
    got, strict = (stop_when_sure(logits, threshold).tolist()
                   for threshold in (0.5, 0.85))
    assert got != [0, 0, 0], (
        "Got exit 0 for all. The softmax gives probabilities.")
    assert got != [2, 2, 2] and got[2] == 2, (
        "Expected the end (2) where nobody is sure enough, and only "
        f"there, got {got}.")
    assert got == [0, 1, 2], (
        f"Expected the first that is sure enough, [0, 1, 2], got {got}. "
        "A later one would have to be computed first.")
    assert strict == [0, 2, 2], (
        f"At the threshold 0.85 expected [0, 2, 2], got {strict}.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def stop_when_sure(logits, threshold):
#     sure = torch.stack([z.softmax(1).amax(1) >= threshold for z in logits])
#     sure[-1] = True  # the end answers where nobody is sure
#     return sure.int().argmax(0)
# ```
#
# **What you should see:** the picture in the next fold, of the networks with exits from above.
#
# </details>

# %% mystnb={"image": {"alt": "Test accuracy against the mean share of operations for seven thresholds, from the exits that the end teaches and from exits with labels only, five seeds each. Some points carry their threshold."}} tags=["hide-cell"]
figure, ax = plt.subplots(figsize=(6.4, 3.6))
for arm, color in (("exits, taught", BLUE), ("exits, labels only", GREY)):
    shares, right = np.mean(ends.values(arm, "early"), 0).reshape(2, -1)
    ax.plot(shares, right, "o-", color=color, label=arm)
    for threshold, u, v in list(zip(thresholds, shares, right))[:: 3 if color == BLUE else 99]:
        ax.annotate(f"{threshold}", (u, v), (4, -14), textcoords="offset points", fontsize=10)
ax.set(xlabel="operations, share of the whole network", ylabel="test accuracy",
       title="Exercise 3: stop when sure")
ax.xaxis.set_major_formatter("{x:.0%}"), ax.yaxis.set_major_formatter("{x:.0%}"), ax.legend();

# %% [markdown]
# ## Quiz

# %% tags=["remove-input"]
kd.explore.question(
    "A report: generation 0 is right on 67.6 %, generation 1 on 68.9 %, and labels only, with the "
    "start and the order of generation 1, on 68.5 %. How large is the effect of the teacher?",
    {"0.4 points, and one pair does not tell more.":
         "Only this pair differs in nothing but the teacher. Its interval needs more seeds.",
     "1.3 points.": "Generation 0 has another start: the starts differ, too.",
     "0.9 points.": "That is the difference of the two starts, both with labels only."},
    name="08/pair", answer="0.4 points")

# %% tags=["remove-input"]
kd.explore.question(
    "In the heat map a row has a bright and a dark cell in the column pair of class 3. What will "
    "this network do with a picture of class 3 that shows both views?",
    {"Most probably name it rightly.":
         "One view is enough. That is why the training images left no gradient for the other one.",
     "Name it wrongly in half of the cases.": "Every picture with both views holds the view that "
                                              "it has learned.",
     "It depends on the other classes.": "The views of all classes are different."},
    name="08/heat-map", answer="Most probably")

# %% tags=["remove-input"]
kd.explore.question(
    "Exit 1 is right on 52.0 % with labels only and on 50.1 % when the end teaches it, interval of "
    "the difference −3.1 to −0.7. The end: 93.0 and 93.2, interval −0.3 to +0.7. A network without "
    "exits: 91.9, interval of the end with labels only minus this +0.4 to +1.8. What helped?",
    {"The exits, not the teaching.": "The end gains with exits that get labels only. The teaching "
                                     "costs exit 1 accuracy and shows no effect at the end.",
     "The teaching: 93.2 is the best number.": "Its interval to the exits with labels only holds "
                                               "0.",
     "Neither.": "93.0 against 91.9 is a gain from the exits; its interval does not hold 0."},
    name="08/exits", answer="The exits, not")

# %% tags=["remove-input"]
kd.explore.question(
    "A run without labels: the loss falls to 0.01 within three epochs, and every image has the "
    "same largest output. What happened?",
    {"It collapsed: teacher and student agree because the output is constant.":
         "Agreement alone rewards that. Look at the entropy of the mean output, not at the loss.",
     "It has learned the images.": "Then different images would have different outputs.",
     "The learning rate is too small.": "The loss fell; it is the solution that is useless."},
    name="08/collapse", answer="It collapsed")


# %% [markdown]
# ## In the literature
#
# Test errors of {cite:t}`furlanello2018` for DenseNets on CIFAR-100 (for 80-120 the teacher is the third of three together). Beside them, ours:

# %% tags=["hide-input"]
def errors(*lists):
    return " | ".join(f"{100 * (1 - np.mean(values)):.1f}" for values in lists)


weak = errors(*(lines[weakest].values(f"generation {g}") for g in (0, 1)))
best_row = errors(*(strong.values(f"generation {g}") for g in (0, 1)), *(
    rest.values(f"generation {g}") for g in (2, 3)))
together = errors(two), errors(rest.values("four averaged"))
# %% tags=["hide-input"]
Markdown(f"""
| test error in % | generation 0 | 1 | 2 | 3 | several together |
|---|---|---|---|---|---|
| DenseNet-112-33 | 18.25 | 17.61 | 17.22 | 16.59 | 15.77 (two), 15.68 (three) |
| DenseNet-90-60 | 17.69 | 16.62 | 16.44 | 16.72 | 15.39, 15.74 |
| DenseNet-80-80 | 17.16 | 16.26 | 16.30 | 15.50 | 15.46, 15.14 |
| DenseNet-80-120 | 16.87 | 16.13 | 16.13 | – | 15.13, 14.90 |
| here, plain, untuned | {weak} | – | – | – |
| here, augmented, tuned | {best_row} | {together[0]} (two starts), {together[1]} (four) |
""")

# %% [markdown]
# Their networks are large and trained long on 50,000 augmented images, with $T = 1$ and without labels; with labels added the four errors were higher. Generation 1 was trained from two starts, 16.95 and 17.61 for DenseNet-112-33 (the table has the second): they differ by as much as the smaller gain. On CIFAR-100 one Wide-ResNet (28-5) became worse. On CIFAR-10 five of eight networks gain, by 0.05 to 0.31; the two largest DenseNets and the largest Wide-ResNet became worse. Of their two controls, CWTM has no soft target: labels weighted by the teacher's confidence (17.84, 17.42, 17.16 and 17.12). DKPP permutes the wrong classes and gains in all four, other than in chapter 1. They have no labels only from the same start, and no network trained twice as long. A [re-run](https://github.com/amir4javar/born_again_networks) (ResNet-18, CIFAR-100, one seed) has accuracies of 78.01, 78.34, 79.34 and 79.42 %.
#
# {cite:t}`zhang2019byot` report 2.65 points on average from taught exits (0.61 to 4.07), with deeper exits and a feature loss. {cite:t}`stanton2021` find that students agree with their teachers less than one would think.
#
# ## Take-away

# %% tags=["hide-input"]
Markdown(f"""
1. **READ: a bit, no, or only when the baseline is weak.** Generation 1 minus labels only, same
   start: {against("generation 1", name=weakest)} on plain images without tuning,
   {against("generation 1")} on augmented images with tuning. There a larger teacher of the same
   images brings {apart(same_images, plain_1)}.
2. **READ: what the same trainings bring.** Generation 1 minus one network trained twice as long:
   {apart(one, twice)}, minus two averaged {apart(one, two)}; taught exits minus exits with labels
   only: {apart(ends.values("exits, taught"), ends.values("exits, labels only"))}.
3. **Compare with labels only from the same start, and look at the KD part.** Where it is 0 from the
   first step, teacher and student are one object; without labels, a loss near 0 can be a collapse.
""")

# %% [markdown]
# ## Cost
#
# A training makes 240,000 forward and backward passes. A later generation adds one training and 80,000 forward passes of its teacher (20 versions of 4,000 images, stored), "four distilled" 320,000, a mean teacher 240,000. Each setting of a search is a training, too.
#
# Every recorded run of this chapter, by machine and day; rows of chapter 1 are not counted:

# %% [markdown] tags=["cost-table"]
#
