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
# In [chapter 1](01_hinton.ipynb) the teacher was larger than its student, and had seen other images. In 2018 Furlanello and others trained a network on the outputs of a network of the *same* size, trained on the *same* images, and the student became better than its teacher {cite:p}`furlanello2018`. No image was added, and no weight.
#
# Where does the gain come from? And is it still there when the baseline is as strong as one can make it?
#
# ```{admonition} In this chapter
# :class: note
# **You will be able to**
# - train born-again generations in a short loop, with a new start and a true copy,
# - measure the effect: generation 1 minus labels only *from the same start*, over weak and strong baselines,
# - compare it with what as many trainings buy otherwise,
# - separate, in a network with early exits, deep supervision from self-teaching,
# - say what keeps self-distillation without labels (DINO, BYOL) from a constant output.
#
# **You need** [chapter 1](01_hinton.ipynb): the loss, the augmentation, the paired difference.
#
# **Reading time** about 26 minutes, exercises not counted.
# ```

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:  # on Colab only: the package is not there yet
    # %pip install -q "kdcourse @ git+https://github.com/kdcourse/kdcourse"

# %%
import contextlib
import copy
import functools
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from torch import nn

import kdcourse as kd
from kdcourse.losses import CE, KD, LabelSmoothing, TfKD

kd.plot.style()

# %% [markdown]
# What this chapter costs on a computer, read from the recorded results:

# %% [markdown] tags=["opening-time"]
#

# %% [markdown]
# ## The bet
#
# Generation 0 is a small network that learned from labels. Generation 1 is the same network from another start; it learns from the labels and from the outputs of generation 0. Images are augmented, and everything is tuned. The effect is generation 1 minus labels only *from the start of generation 1*.

# %% tags=["hide-input"]
contrast_bet = kd.explore.bet(
    "In chapter 1 a teacher that was trained on 40,000 other images helped the same student, with "
    "the same augmentation. How much of that gain does generation 0 bring as the teacher?",
    ["More than half.", "Less than half, but some.", "Nothing that five seeds show, or a loss."],
    "08/contrast")
contrast_bet

# %% tags=["hide-input"]
budget_bet = kd.explore.bet(
    "Generation 1 costs two trainings. What is more accurate for that price?",
    ["Generation 1.", "One network, trained twice as long with labels only.",
     "About equal: five seeds cannot tell."], "08/budget")
budget_bet

# %% [markdown]
# ## See it first
#
# A toy world first. A class can often be recognised by several features, a car by its wheels or by its windows; {cite:t}`allenzhu2023` call them **views**. Their argument: a network learns the view that is ahead at its random start. When that suffices for the training images, the gradient is nearly 0, and the other view is hardly learned. Another start learns other views. *Soft* outputs depend on the learned views, so a student that matches them learns these views, too.
#
# Here are ten classes with two views each, patterns of 8 × 8 pixels. A picture has nine places: two show the views of its class, four weaker traces of other classes, and noise is everywhere.

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


def world_with(share):
    """300 training pictures, of which `share` show one view only; test pictures all do."""
    rng = torch.Generator().manual_seed(1)
    shows, one = torch.full((300,), 2), torch.rand(300, generator=rng) < share
    shows[one] = torch.randint(2, (int(one.sum()),), generator=rng)
    return kd.data.from_arrays(*draw(shows, rng), val=draw(torch.full((500,), 2), rng),
                               test=draw(halves(1000), rng), name=f"two views, {share:.0%} alone")


# %% mystnb={"image": {"alt": "Three rows, one for each of three classes: the two patterns that are its views, a picture of 24 by 24 pixels in which both occur among other patterns and noise, and a picture with the first view only."}}
rare, frequent = world_with(0.03), world_with(0.3)
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
# `rare` has 300 training pictures, of which about three in a hundred show one view only; in `frequent` it is thirty in a hundred. The test pictures all show **one view only**, so that accuracy tells which views are learned. The network is that of the paper's theory: four filters for each class, an activation that is flat near zero, the sum over all places.

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


def small(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        filters = nn.Conv2d(1, 4 * K, 8, stride=8, bias=False)
        nn.init.normal_(filters.weight, std=0.0125)
    return nn.Sequential(kd.models.Normalize(), filters, Slow(), Total())


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
            "views": [x for pair in zip(*by_view) for x in pair]}


# %% tags=["hide-input"]
def world(seed):
    four = [learn(rare, 100 * i + seed) for i in range(4)]
    together, own = kd.Ensemble(four), 400 + seed  # own: another start
    other = learn(frequent, seed)
    networks = {
        **{f"start {i + 1}, labels only": network for i, network in enumerate(four)},
        "start 5, labels only": learn(rare, own),
        "start 5, born again": learn(rare, own, four[0]),
        "start 5, from all four": learn(rare, own, together),
        "start 5, 4 times as long": learn(rare, own, epochs=160),
        "four averaged": together}
    found = {name: known(one, rare) for name, one in networks.items()}
    for name, teacher in (("labels only", None), ("born again", other)):
        one = learn(frequent, own, teacher)
        found[f"frequent, {name}"] = known(one, frequent)
    return found


# %% [markdown]
# Five starts with labels only; "born again" learns from start 1. Runs that take long are recorded: the next cell loads the rows of exactly this code and data, or computes them.

# %%
toy = kd.experiment.record(world, range(5), name="views that are learned",
                           split="test", baseline="start 5, labels only",
                           results="08")

# %% mystnb={"image": {"alt": "Heat map with nine rows, four networks with labels only, a fifth start with labels only, born again, from all four and trained four times as long, and the four averaged, and twenty columns, two views for each of ten classes. Bright cells are views that a network recognises alone. Rows of single networks have dark cells, in other places for each start; the row of the average has none."}} tags=["hide-input"]
shown = [arm for arm in toy.arms if not arm.startswith("frequent")]
table = np.array([toy.values(arm, "views")[0] for arm in shown])
figure, ax = plt.subplots(figsize=(6.4, 4.2))
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
def apart(first, second, unit=" points"):
    """The paired difference of two lists, seed by seed, in points."""
    seeds = min(len(first), len(second))  # unequal in smoke mode only
    return told_as(kd.measure.paired_difference(first[:seeds], second[:seeds]), unit)


# %% tags=["hide-input"]
def of_five(arm):
    return told_as(toy.difference(f"start 5, {arm}", "start 5, labels only"))


lowest = min(toy.mean(arm, "both views") for arm in toy.arms)
Markdown(f"""
A pair of columns is one class: a single start often has one bright and one dark cell there. On
pictures with *both* views no network has less than {lowest:.1%} (mean of five seeds), so the dark
cells do not show in training. On pictures with one view, start 5 with labels only is right on
{toy.mean("start 5, labels only"):.0%}. From the same start: born again {of_five("born again")},
from all four {of_five("from all four")}, four times as long {of_five("4 times as long")}. The four
averaged are right on {toy.mean("four averaged"):.0%}.

**And with a better baseline?** Where 30 % of the training pictures show one view only, labels
alone bring {toy.mean("frequent, labels only"):.0%}, and born again changes that by
{told_as(toy.difference("frequent, born again", "frequent, labels only"))}.
""")

# %% [markdown]
# This is a demonstration, not evidence about photographs: we chose a world in which a network can leave views out. It does predict something: a network of the same kind can pass on only what the baseline leaves out.
#
# Now on glyphs, with the control that most reports lack:

# %% mystnb={"image": {"alt": "Diagram. Generation 0 with start A passes its outputs, with weight 0.9, to generation 1 with start B, and that to generation 2 with start C. All get the same images and labels. Above generation 1 is the control: start B with labels only. The effect is the difference of the two."}} tags=["hide-input"]
ax = kd.plot.diagram({
    "control": (1.6, 2.1, kd.plot.GREY, "another start:\nstart B, labels only"),
    "0": (0, 1, "black", "generation 0\nstart A"),
    "1": (1.6, 1, kd.plot.BLUE, "generation 1\nstart B"),
    "2": (3.2, 1, kd.plot.BLUE, "generation 2\nstart C"),
    "labels": (1.6, 0, kd.plot.GREY, "the same images and labels")}, [
    ("labels", "0", "× 1"), ("labels", "1", "× 0.1"), ("labels", "2", "× 0.1"),
    ("0", "1", "outputs\n× 0.9"), ("1", "2", "outputs\n× 0.9"),
    ("1", "control", "the effect: their difference", "--")])
ax.figure.set_size_inches(6.4, 4)
ax.set_title("Born again, and its control");

# %% [markdown]
# ## The idea
#
# ### By hand, on three classes
#
# The classes are O, 0 and X, the label is O. Three teachers that need no larger network: **label smoothing** {cite:p}`szegedy2016`; a **virtual teacher**, made of the label and softened {cite:p}`yuan2020`; and a trained network of the same kind, whose logits are $v = (5, 3, -3)$.

# %%
twin = torch.tensor([5.0, 3, -3])
virtual = torch.tensor([0.99, 0.005, 0.005]).log()
for name, p in {"the label": torch.tensor([1.0, 0, 0]),
                "label smoothing": torch.tensor([0.94, 0.03, 0.03]),
                "virtual teacher, T = 4": (virtual / 4).softmax(0),
                "its twin, T = 4": (twin / 4).softmax(0)}.items():
    print(f"{name:24s}", *(f"{x:.3f}" for x in p))

# %% [markdown]
# Only the twin separates the 0 from the X.
#
# ### The loop
#
# Generation $g$ starts from new random weights, and its teacher is generation $g - 1$:
#
# $$L_g = (1-\alpha)\,\mathrm{CE}(y, q_1) + \alpha\,T^2\,\mathrm{KL}\bigl(p^{(g-1)}_T \,\|\, q_T\bigr)$$
#
# It is Hinton's loss with another teacher. The loop has $T = 1$, as Furlanello et al.; their generations learn from the outputs alone, ours also from the labels ($\alpha = 0.5$). The experiment tunes both.

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

# %% [markdown]
# Generation 0, generation 1, and another start:

# %%
orders = {"generation 0": 100, "generation 1": 1, "another start": 1}
made = {}
for name, seed in orders.items():
    torch.manual_seed(seed)  # order of the images
    teacher = made["generation 0"] if name == "generation 1" else None
    made[name] = generation(net(seed), teacher, x, y)
    print(f"{name}: {val_accuracy(made[name]):.1%}")

# %% [markdown]
# One short run each, untuned, so no result yet. The last two are to be compared: generation 0 has another start, so its distance to generation 1 holds luck as well.
#
# Two things must be right. The student needs a **new start**: one that starts as its own teacher has a KD term of 0. And the teacher must be a **copy**, or it changes with the student: see [Break it](#break-it-08). In the package, `kd.Distiller(net(1), teacher, 0.5 * CE() + 0.5 * KD(T=1))` is the inner part, and `kd.fit` the loop.

# %% [markdown]
# ## The experiment
#
# ### Three baselines
#
# 4,000 glyphs and the convnet of chapter 1, 60 epochs. What changes is the care for the baseline:
#
# | baseline | images | rate and weight decay |
# |---|---|---|
# | plain, untuned | as they are | the package's default |
# | plain, tuned | as they are | searched |
# | augmented, tuned | 20 versions of each, shifted, turned, scaled as in chapter 1 | searched |
#
# For each: generation 0, generation 1, and **another start**, labels only with exactly the start and the order of images that generation 1 has. The effect is generation 1 minus another start, paired over five seeds. Beside it, for the same baselines, **a teacher that knows more**: chapter 1's, trained on 40,000 other images, minus labels only.

# %%
augmented = kd.augmented(data, views=20, shift=0.1, degrees=11, scale=0.15)
images = {"plain, untuned": data, "plain, tuned": data,
          "augmented, tuned": augmented}
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
def near(at, factors):
    """The neighbours of a setting, whose last two numbers are rate and decay."""
    around = [(*at[:place], round(value, 8), *at[place + 1:])
              for place, factor in enumerate(factors)
              for value in (at[place] / factor, at[place] * factor)]
    return [one for one in around if one[-2] < 2 and one[-1] < 2 and one != at]


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
    return best, {arm: score[arm, at] for arm, at in best.items()}


# %% tags=["hide-cell"]
stored = {name: kd.Cached(knowing, seen) for name, seen in images.items()}
default = (kd.Recipe().lr, kd.Recipe().weight_decay)
tuned, taught_at = {"plain, untuned": default}, {"plain, untuned": default}
with contextlib.redirect_stdout(io.StringIO()):  # a line for each step of the search
    for name in list(images)[1:]:
        both = {"labels only": labels_arm, "+ teacher": teacher_arm(stored[name])}
        found, on_two = chapter_1(both, images[name])
        tuned[name], taught_at[name] = found["labels only"], found["+ teacher"]

# %% [markdown]
# Three functions make every network of the experiment. `tuned` holds rate and decay of labels only, for each baseline; `at` is the temperature, the weight ratio $w = \alpha / (1 - \alpha)$, rate and decay of a student.

# %%
def trained(scheme, name, seed, pair):
    kd.fit(scheme, images[name], recipe(*pair), seed)
    return kd.export(scheme)

@functools.cache
def labels_only(name, seed):
    return trained(kd.Supervised(net(seed)), name, seed, tuned[name])

@functools.lru_cache(maxsize=8)
def outputs(name, teacher):
    return kd.Cached(teacher, images[name])

def taught(teacher, name, seed, at):
    T, w, *pair = at
    objective = (CE() + w * KD(T=T)) * (1 / (1 + w))
    scheme = kd.Distiller(net(seed), outputs(name, teacher), objective)
    return trained(scheme, name, seed, pair)


# %%
@functools.cache
def born(g, name, seed, at):
    """Generation g of one line."""
    if g == 0:
        return labels_only(name, 100 + seed)
    own = seed if g == 1 else 100 * g + seed  # start and order
    return taught(born(g - 1, name, seed, at), name, own, at)


# %% [markdown]
# **The search** is the same for every new arm of this chapter: its own parameters (for generation 1 temperature and α), learning rate and weight decay, on the validation images. No best value is at an edge of what was tried.
#
# <details><summary>The search in detail</summary>
#
# From the settings of labels only, from one setting to its best neighbour until none is better. Neighbours are temperature × 2 and / 2, $w = \alpha / (1 - \alpha)$ × 3 and / 3 for generations (which start from $T = 4$, α = 0.9 and from $T = 1$, α = 0.5), $w$ × 2 and / 2 for the other arms, rate × 4 and / 4, decay × 5 and / 5; rate and decay below 2. This with one seed; a second seed for the best three decides, and the neighbours of the winner are tried as well. Labels only and the teacher that knows more have the settings of chapter 1's search: two seeds for each setting, at $T = 4$ and α = 0.9.
#
# </details>

# %% tags=["hide-cell"]
def search(measure, starts, factors):
    """The best setting, and the scores of the first seed. measure: of settings and seeds."""
    score, new = {}, list(starts)

    def untried(at):
        return [one for one in near(at, factors) if one not in score]

    while new:
        while new:
            score |= measure(new, [0])
            new = untried(max(score, key=score.get))
        three = sorted(score, key=score.get)[-3:]
        decided = measure(three, [0, 1])
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
paper = (1.0, 1.0)  # T of the born-again paper, and α / (1 - α)
chosen = {"generation 1, plain, untuned": ((4.0, 9.0, *default), {})}
with contextlib.redirect_stdout(io.StringIO()):
    for name in list(images)[1:]:
        chosen[f"generation 1, {name}"] = search(
            on_val(lambda at, seed, name=name: born(1, name, seed, at), f"generation 1, {name}"),
            [(4.0, 9.0, *tuned[name]), (*paper, *tuned[name])], (2, 3, 4, 5))


# %%
def family(name, at, seed):
    networks = {"another start": labels_only(name, seed),
                "generation 0": born(0, name, seed, at),
                "generation 1": born(1, name, seed, at)}
    return {arm: tested(one) for arm, one in networks.items()}

def tested(network):
    on_test, on_train = (kd.models.predict(network, part.x)
                         for part in (data.test, data.train))
    return kd.measure.evaluate(on_test, data.test.y) | {
        "train": kd.measure.accuracy(on_train, data.train.y)}


# %% tags=["remove-output"]
lines = {name: kd.experiment.record(
    functools.partial(family, name, chosen[f"generation 1, {name}"][0]),
    range(5), name=f"generations, {name}", split="test", results="08")
    for name in images}

# %% tags=["hide-cell"]
# The teacher that knows more, and labels only: rows of chapter 1, but for the untuned baseline.
arms = {name: {"labels only": labels_arm, "+ teacher": teacher_arm(stored[name])}
        for name in images}
settings = {name: {"labels only": recipe(*tuned[name]), "+ teacher": recipe(*taught_at[name])}
            for name in images}
first, *others = images

# %% tags=["hide-cell"]
more = {first: kd.compare({"+ teacher": arms[first]["+ teacher"]}, data,
                          recipe(*default), range(5), split="test", results="08")}
more |= {name: kd.compare(arms[name], images[name], settings[name], range(5), split="test",
                          teacher=knowing, results="01") for name in others}
pairs = {name: (more[name].values("+ teacher"), (lines if name == first else more)[name].values(
    "another start" if name == first else "labels only")) for name in images}


# %% tags=["remove-input"]
def paired(first, second):
    """Mean, low and high of the paired difference, in points."""
    seeds = min(len(first), len(second))  # unequal in smoke mode only
    return [100 * v for v in kd.measure.paired_difference(first[:seeds], second[:seeds])]

# %% tags=["remove-input"]
effects = {name: {"generation 1": paired(line.values("generation 1"),
                                         line.values("another start")),
                  "a teacher that knows more": paired(*pairs[name])}
           for name, line in lines.items()}

# %% mystnb={"image": {"alt": "For the three baselines, plain and untuned, plain and tuned, augmented and tuned: the points that generation 1 gains over another start, in blue, and the points that a teacher that knows more gains over labels only, in orange, each with its 95 percent interval over five seeds. A line at zero is labels only."}} tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 3.9))
for who, color, mark, up in (("generation 1", kd.plot.BLUE, "o", -0.13),
                             ("a teacher that knows more", kd.plot.ORANGE, "s", 0.13)):
    mid, low, high = np.transpose([effects[name][who] for name in images])
    ax.errorbar(mid, np.arange(3) + up, xerr=(mid - low, high - mid), fmt=mark, ms=7, lw=2,
                capsize=4, color=color, label=who)
    for place, value in enumerate(mid):
        ax.annotate(f"{value:+.1f}".replace("-", "−"), (value, place + up), (0, 7), fontsize=10,
                    textcoords="offset points", ha="center", color=color)
ax.axvline(0, color="black", lw=1.2), ax.grid(False, axis="y"), ax.legend()
ax.set_yticks(range(3), [f"{name}\n(labels only: {line.mean('another start'):.1%})"
                         for name, line in lines.items()])
ax.set(ylim=(2.5, -0.5), xlabel="points gained over labels only, test images (95 % interval)",
       title="READ: one message, such as: what is left on a strong baseline");


# %% tags=["hide-input"]
def gain(arm, baseline="another start", name="augmented, tuned", unit=" points"):
    return apart(lines[name].values(arm), lines[name].values(baseline), unit)


# %% tags=["remove-input"]
rows = "\n".join(
    f"| {name} | **{gain('generation 1', name=name, unit='')}** | "
    f"{apart(*pairs[name], unit='')} | {gain('generation 1', 'generation 0', name, '')} | "
    f"{100 * (line.mean('another start', 'train') - line.mean('another start')):.1f} |"
    for name, line in lines.items())
strong = lines["augmented, tuned"]
match = np.corrcoef(strong.values("generation 1"), strong.values("another start"))[0, 1]
T_plain, T_best = (f"T = {at[0]:g} and α = {at[1] / (1 + at[1]):.2g}" for at in (
    chosen[f"generation 1, {name}"][0] for name in others))

# %% tags=["hide-input"]
Markdown(f"""
In points, with 95 % intervals over five seeds. "Overfit" is the training accuracy of another start
minus its test accuracy.

| baseline | generation 1 minus another start | knowing teacher minus labels only | \
generation 1 minus generation 0 | overfit |
|---|---|---|---|---|
{rows}

The search chose {T_plain} (plain) and {T_best} (augmented) for generation 1.
At the strongest baseline its pairs have a correlation of {match:.2f}.
""")

# %% [markdown]
# READ: two or three sentences. What self-distillation gains over the weak baseline and over the strong one, whether the interval holds 0, and what the teacher that knows more gains over the same baselines (with the paired contrast below). One sentence on the fourth column: pairing with generation 0 gives another number and a wider interval, because the starts differ. One on the last: does the gain fall with the overfit?

# %% tags=["hide-input"]
minus = {name: np.subtract(line.values("generation 1"), line.values("another start"))
         for name, line in lines.items()}
theirs = {name: np.subtract(*(values[: len(minus[name])] for values in pairs[name]))
          for name in images}
lost = [apart(list(gap[first]), list(gap["augmented, tuned"])) for gap in (minus, theirs)]

# %% tags=["hide-input"]
Markdown(f"""
At the strongest baseline, the gain from the teacher that knows more minus that of generation 1:
{apart(list(theirs["augmented, tuned"]), list(minus["augmented, tuned"]))}. From the weakest to the
strongest baseline the gain shrinks: generation 1 by {lost[0]}, the other teacher by {lost[1]}.
""")

# %% tags=["hide-input"]
rows = "\n".join(
    f"| {name} | {', '.join(f'{v:g}' for v in at[:-2])} | {at[-2]:g} | {at[-1]:g} | "
    f"{len(score) or '–'} |" for name, (at, score) in chosen.items())
first_seed = "; ".join(
    f"{name} {score[(*paper, *tuned[name])]:.1%}, the best {max(score.values()):.1%}"
    for name, score in ((name, chosen[f"generation 1, {name}"][1]) for name in others))

# %% tags=["hide-input"]
Markdown(f"""
<details><summary>The settings</summary>

| arm | T, w (generations); w; steps | rate | decay | settings tried |
|---|---|---|---|---|
{rows}

Labels only: {"; ".join(f"{name}: rate {lr:g}, decay {wd:g}" for name, (lr, wd) in tuned.items())}.

T = 1, as in the paper, and α = 0.5, validation images, first seed: {first_seed}.

</details>
""")

# %% [markdown]
# ### What as many trainings buy
#
# From here on everything is at the strongest baseline. Generations 2 and 3 have the settings of generation 1. The same number of trainings could be spent otherwise: one network trained **twice as long** with labels only (its rate and weight decay are those of [chapter 9](09_when_does_it_help.ipynb)'s search for 120 epochs), **four networks averaged** (four must run later), or these **four distilled into one**. Three ways need one training only:
#
# - **Early exits**: small classifiers on inner layers {cite:p}`zhang2019byot`. That extra classifiers with *labels only* help is older, **deep supervision** {cite:p}`lee2015`. What is new is that the end of the network teaches them. So there are two arms, $\mathrm{CE} + w\,\mathrm{KD}$ at each exit with $w = 0$ and with $w$ searched.
# - **A moving average as the teacher** {cite:p}`tarvainen2017`: $\bar\theta \leftarrow d\,\bar\theta + (1-d)\,\theta$ after each step. Its control is that average alone: train with labels only and use $\bar\theta$.
# - **Label smoothing**, from chapter 1, whose share was tuned there.

# %%
def exits(w):
    loss = CE() + w * KD(T=3)
    return lambda seed: kd.MultiExit(net(seed), ["2", "4"], loss)

def mean_teacher(w):
    def arm(seed):
        student = net(seed)
        average = kd.EMA(student, decay=0.99)
        return kd.Distiller(student, average, CE() + w * KD(T=4))
    return arm

# %% tags=["hide-cell"]
def by_compare(arm):
    """`measure` for `search`, with `kd.compare`. arm: of the value that is searched."""
    def measure(settings, seeds):
        table = kd.compare({at: arm(at[0]) for at in settings}, augmented,
                           {at: recipe(*at[1:]) for at in settings}, seeds, results="08")
        return {at: table.mean(at) for at in settings}
    return measure


# %% tags=["hide-cell"]
def averaged(steps):
    decay = 1 - 1 / steps
    return lambda seed: kd.Supervised(net(seed)).averaged(decay)


def virtual(w):
    """The virtual teacher; 0.1 is the weight of the authors' code for a ResNet-18."""
    return lambda seed: kd.Supervised(net(seed), (1 - w) * CE() + w * TfKD(T=20, variant="code"))


# %% tags=["hide-cell"]
best_name = "augmented, tuned"
start = tuned[best_name]
at_best = chosen[f"generation 1, {best_name}"][0]


@functools.cache
def four(seed):
    """Four starts with labels only: that of generation 1, generation 0, and two more."""
    return kd.Ensemble([labels_only(best_name, own)
                        for own in (seed, 100 + seed, 200 + seed, 300 + seed)])


# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    chosen["four distilled"] = search(
        on_val(lambda at, seed: taught(four(seed), best_name, seed, at), "four distilled"),
        [at_best], (2, 3, 4, 5))
    chosen["exits, labels only"] = search(by_compare(exits), [(0.0, *start)], (1, 4, 5))
    chosen["exits, taught"] = search(by_compare(exits), [(0.5, *start)], (2, 4, 5))
    chosen["mean teacher"] = search(by_compare(mean_teacher), [(0.5, *start)], (2, 4, 5))
# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    # The training is that of labels only, so only the number of averaged steps is searched.
    chosen["average of labels only"] = search(by_compare(averaged), [(100.0, *start)],
                                              (2, 1, 1))
    chosen["virtual teacher"] = search(by_compare(virtual), [(0.1, *start)], (2, 1, 1))
    virtual_at = {w: by_compare(virtual)([(w, *start)], [0, 1])[(w, *start)]
                  for w in (0.1, chosen["virtual teacher"][0][0])}


# %% tags=["hide-cell"]
def continued(at, at_four, seed):
    networks = {f"generation {g}": born(g, best_name, seed, at) for g in (2, 3)}
    networks["four averaged"] = four(seed)
    networks["four distilled"] = taught(four(seed), best_name, seed, at_four)
    networks["another image"] = misled(seed, at)
    rows = {arm: tested_any(one) for arm, one in networks.items()}
    return rows | {"groups": groups(seed, at)}


# %% tags=["hide-cell"]
following = torch.arange(4000)  # the next image of the same class
for k in range(36):
    members = (y == k).nonzero()[:, 0]
    following[members] = members.roll(1)


# %% tags=["hide-cell"]
def misled(seed, at):
    """Generation 1 with generation 0's outputs for another image of the class."""
    right = outputs(best_name, born(0, best_name, seed, at))
    T, w, *pair = at
    wrong = kd.Cached.of(right.logits[:, following], augmented, "another image")
    scheme = kd.Distiller(net(seed), wrong, (CE() + w * KD(T=T)) * (1 / (1 + w)))
    return trained(scheme, best_name, seed, pair)


# %% tags=["hide-cell"]
def tested_any(network):
    if not isinstance(network, kd.Ensemble):
        return tested(network)
    return kd.measure.evaluate(network.predict(data.test.x), data.test.y)


# %% tags=["hide-cell"]
def groups(seed, at):
    """Test images that one of generation 0 and another start names rightly: who else does?"""
    def right(network):
        return kd.models.predict(network, data.test.x).argmax(1) == data.test.y

    zero, one = (right(born(g, best_name, seed, at)) for g in (0, 1))
    another, third = (right(labels_only(best_name, own)) for own in (seed, 200 + seed))
    found = {}
    for name, part in {"only generation 0": zero & ~another,
                       "only another start": another & ~zero}.items():
        found |= {f"{name}: count": int(part.sum()),
                  f"{name}: generation 1": one[part].float().mean().item(),
                  f"{name}: third start": third[part].float().mean().item()}
    return found


# %% tags=["hide-cell"]
def inside(scheme, split):
    """Test accuracy of the exits, from the first on."""
    return [kd.measure.accuracy(kd.models.predict(scheme.exit(path), split.x), split.y)
            for path in scheme.exits]


# %% tags=["hide-cell"]
thresholds = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


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
        functools.partial(continued, at_best, chosen["four distilled"][0]), range(5),
        name="more generations, four networks, another image", split="test", results="08")
    deep = {name: exits(chosen[name][0][0]) for name in ("exits, labels only", "exits, taught")}
    ends = kd.compare(deep, augmented, {name: recipe(*chosen[name][0][1:]) for name in deep},
                      range(5), split="test", also={"exits": inside, "early": early},
                      results="08")
# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    one_training = {"mean teacher": mean_teacher(chosen["mean teacher"][0][0]),
                    "average of labels only": averaged(chosen["average of labels only"][0][0])}
    single = kd.compare(one_training, augmented, {
        "mean teacher": recipe(*chosen["mean teacher"][0][1:]),
        "average of labels only": recipe(*start)}, range(5), split="test", results="08")
# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    # Rows of chapter 1: label smoothing and labels only.
    smooth = kd.compare(
        {"labels only": labels_arm,
         "label smoothing": lambda seed: kd.Supervised(net(seed), LabelSmoothing(0.01))},
        augmented, {"labels only": recipe(*start), "label smoothing": recipe(0.32, 0.01)},
        range(5), split="test", teacher=knowing, results="01")
    # Twice as long, with the rate and decay that chapter 9's search found for 120 epochs.
    twice = kd.compare({"labels only": labels_arm}, augmented,
                       kd.Recipe(epochs=120, lr=0.32, weight_decay=0.000390625,
                                 validate_every=120),
                       range(5), split="test", results="08")

# %% tags=["remove-input"]
another = strong.values("another start")
plain_1 = smooth.values("labels only")  # labels only in the rows of chapter 1
BLUE, GREY, ORANGE = kd.plot.BLUE, kd.plot.GREY, kd.plot.ORANGE
buys = {  # name: trainings, colour, accuracies, those of labels only
    "label smoothing": (1, GREY, smooth.values("label smoothing"), plain_1),
    "average of labels only": (1, GREY, single.values("average of labels only"), another),
    "mean teacher": (1, BLUE, single.values("mean teacher"), another),
    "exits, labels only": (1, GREY, ends.values("exits, labels only"), another),
    "exits, taught by the end": (1, BLUE, ends.values("exits, taught"), another),
    "generation 1": (2, BLUE, strong.values("generation 1"), another),
    "twice as long": (2, ORANGE, twice.values("labels only"), another),
    "generation 2": (3, BLUE, rest.values("generation 2"), another),
    "generation 3": (4, BLUE, rest.values("generation 3"), another),
    "four averaged, 4 to run": (4, ORANGE, rest.values("four averaged"), another),
    "four distilled": (5, ORANGE, rest.values("four distilled"), another)}
# %% tags=["remove-input"]
bought = {name: paired(*lists) for name, (_, _, *lists) in buys.items()}

# %% mystnb={"image": {"alt": "For eleven ways to spend one to five trainings: points gained over labels only with 95 percent intervals over five seeds. Blue are networks that learn from themselves or from an earlier generation, orange are other ways to spend as many trainings, grey are ways that need no teacher. A line at zero is one network with labels only."}} tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 5.2))
for place, (name, (trainings, color, *_)) in enumerate(buys.items()):
    mid, low, high = bought[name]
    ax.errorbar(mid, place, xerr=[[mid - low], [high - mid]], fmt="o", ms=7, lw=2, capsize=4,
                color=color)
for color, text in ((BLUE, "learns from itself or its like"), (ORANGE, "spent otherwise"),
                    (GREY, "no teacher")):
    ax.plot([], [], "o", color=color, label=text)
ax.axvline(0, color="black", lw=1.2), ax.grid(False, axis="y"), ax.legend(fontsize=10)
ax.set_yticks(range(len(buys)), [f"{name} ({n})" for name, (n, *_) in buys.items()])
ax.invert_yaxis()
ax.set(xlabel="points gained over labels only, test images (95 % interval)",
       title="READ: what one to five trainings buy");

# %% tags=["hide-input"]
Markdown(f"""
In brackets the number of trainings. **Generation 1 minus twice as long**:
{apart(strong.values("generation 1"), twice.values("labels only"))}. **Generation 3 minus four
distilled**: {apart(rest.values("generation 3"), rest.values("four distilled"))}. **From
generation 1 to generation 3**: {apart(rest.values("generation 3"), strong.values("generation 1"))}.

**Averages.** Mean teacher minus the average of labels only, which has no teacher:
{apart(single.values("mean teacher"), single.values("average of labels only"))}.

**Virtual teacher**, on validation images, two seeds: {", ".join(
    f"weight {w:g}: {right:.1%}" for w, right in virtual_at.items())} (0.1 is published); labels
only {on_two["labels only"]:.1%}.
""")

# %% [markdown]
# READ: three sentences. (1) generation 1 against twice as long; (2) which of the ways is best, and which of the blue ones the interval separates from 0; whether generations 2 and 3 add anything; (3) label smoothing, virtual teacher: soft labels without a network.
#
# ### Early exits: who does the work?

# %% tags=["hide-input"]
def at_exit(arm):
    """Test accuracy of exit 1, exit 2 and the end: seed by seed."""
    return np.column_stack([ends.values(arm, "exits"), ends.values(arm)])


# %% tags=["remove-input"]
alone, helped = (at_exit(arm) for arm in ("exits, labels only", "exits, taught"))
rows = "\n".join(
    f"| {name} | {apart(list(helped[:, i]), list(alone[:, i]), '')} | {alone[:, i].mean():.1%} | "
    f"{helped[:, i].mean():.1%} |" for i, name in enumerate(("exit 1", "exit 2", "the end")))

# %% tags=["hide-input"]
Markdown(f"""
| classifier | taught minus labels only, points | labels only | taught by the end |
|---|---|---|---|
{rows}

The end, with exits that get labels only, minus a network without exits:
{apart(ends.values("exits, labels only"), another)}. The search chose
w = {chosen["exits, taught"][0][0]:g}.
""")

# %% [markdown]
# READ: deep supervision or self-teaching? What the teaching adds at each exit (each interval), what the exits with labels only add at the end, and in words how often exit 1 is right.
#
# ### Control: another image
#
# Generation 1 again, but the output of generation 0 is that for *another image of the same class*, with the settings that were found for generation 1.

# %% tags=["hide-input"]
wrong = rest.values("another image")
Markdown(f"""
**Another image** minus generation 1: {apart(wrong, strong.values("generation 1"))}; minus another
start: {apart(wrong, another)}.
""")

# %% [markdown]
# READ: one sentence. Does the output have to be about this image, or is the class enough?
#
# ## Why
#
# If generation 1 takes over what generation 0 has learned, it must show on the test images that *only generation 0* names rightly, and another start does not. If it also keeps what its own start brings, it must show on those that *only another start* names rightly: by construction, labels only from this start are right on none of the first and on all of the second. But a network may also be right on both groups because it is a good network. So a **third start** with labels only, which is related to neither, is drawn beside it.

# %% mystnb={"image": {"alt": "For two groups of test images, those that only generation 0 names rightly and those that only another start names rightly: the share that generation 1 names rightly, in blue, and the share of a third start with labels only, in grey, five seeds each with mean and 95 percent interval. Black marks show labels only from the start of generation 1: none of the first group and all of the second."}} tags=["hide-input"]
names = ("only generation 0", "only another start")
figure, ax = plt.subplots(figsize=(6.4, 3.2))
for who, color, mark, up in (("generation 1", BLUE, "o", -0.13), ("third start", GREY, "s", 0.13)):
    for place, name in enumerate(names):
        values = rest.values("groups", f"{name}: {who}")
        mid, low, high = kd.measure.interval(values)
        ax.plot(values, [place + up] * len(values), ".", color=color, alpha=0.5)
        ax.errorbar(mid, place + up, xerr=[[mid - low], [high - mid]], fmt=mark, ms=8, lw=2,
                    capsize=4, color=color, label=who if place == 0 else None)
ax.plot([0, 1], [0, 1], "D", color="black", label="labels only, its start")
counts = [np.mean(rest.values("groups", f"{name}: count")) for name in names]
ax.set_yticks([0, 1], [f"right: {name}\n({count:.0f} of 4,000 images)"
                       for name, count in zip(names, counts)])
ax.set(ylim=(1.5, -0.5), xlim=(-0.04, 1.04), xlabel="share that is named rightly",
       title="READ: what generation 1 has from whom")
ax.xaxis.set_major_formatter("{x:.0%}"), ax.grid(False, axis="y"), ax.legend(fontsize=10);


# %% tags=["hide-input"]
def share(group, who):
    return rest.values("groups", f"{group}: {who}")


# %% tags=["hide-input"]
Markdown(f"""
Of the images that only generation 0 names rightly, generation 1 names
{np.mean(share(names[0], "generation 1")):.0%} rightly, the third start
{np.mean(share(names[0], "third start")):.0%}: a difference of
{apart(share(names[0], "generation 1"), share(names[0], "third start"))}. Of those that only another
start names rightly it is {np.mean(share(names[1], "generation 1")):.0%} and
{np.mean(share(names[1], "third start")):.0%}:
{apart(share(names[1], "generation 1"), share(names[1], "third start"))}.
""")

# %% [markdown]
# READ: two sentences. Does generation 1 take over from its teacher and keep from its own start more than an unrelated network would (the multi-view prediction)? What that means for the effect on a strong baseline: the two groups have about the same size, so what is won in one can be lost in the other.
#
# The other explanation is regularisation. {cite:t}`mobahi2020` prove for a simpler model that each round leaves fewer functions to fit with: a few rounds reduce overfitting, more lead to underfitting. It predicts an effect where the baseline overfits, the last column of the table above.

# %% [markdown]
# ## Without labels
#
# Today "self-distillation" mostly means learning **without labels**. In DINO {cite:p}`caron2021` and BYOL {cite:p}`grill2020` the teacher is a moving average of the student. Each gets another view of the same image, and the student matches the teacher's output. A constant output would match perfectly: that is the **collapse**. DINO prevents it in two steps. **Centering** subtracts from the teacher's logits their running mean, so that no output wins for all images. **Sharpening** divides by a small temperature, so that the output is not uniform. BYOL has neither, but one more part in the student. DINO on small scans of digits:

# %%
def without_labels(student, x, center=True, T=0.04, epochs=40):
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.003)
    mean = torch.zeros(32)  # of the teacher's logits
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(128):
            a, b = view(x[i]), view(x[i])  # shifted, turned, noisy
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


def view(x):
    augment = kd.data.augment.Augment(shift=0.1, degrees=15, scale=0.15)
    moved = augment(x, 2 * torch.rand(len(x), 7) - 1)
    return moved + 0.1 * torch.randn(x.shape)


# %% tags=["hide-cell"]
def encoder(seed):
    """64 pixels to 32 outputs; the seed is also that of views and order."""
    torch.manual_seed(seed)
    sizes, layers = (64, 256, 64, 64), [nn.Flatten()]
    for one, other in zip(sizes, sizes[1:]):
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
ours, gains = minus["augmented, tuned"], theirs["augmented, tuned"]
count = min(len(ours), len(gains))  # unequal in smoke mode only
_, low, high = kd.measure.interval(list(ours[:count] - 0.5 * gains[:count]))
_, own_low, own_high = kd.measure.interval(list(ours))
half, some, none = contrast_bet.choices
held = [half] * (high > 0) + [some] * (low < 0 < own_high) + [none] * (own_low <= 0)
kd.explore.score(contrast_bet, held, note=f"Generation 1: {gain('generation 1')}; the teacher of "
                 f"40,000: {apart(*pairs['augmented, tuned'])}.")

# %% tags=["hide-input"]
mid, low, high = paired(strong.values("generation 1"), twice.values("labels only"))
first_, longer_, equal_ = budget_bet.choices
held = [first_] * (low > 0) + [longer_] * (high < 0) + [equal_] * (low <= 0 <= high)
kd.explore.score(budget_bet, held, note="Generation 1 minus twice as long: "
                 f"{apart(strong.values('generation 1'), twice.values('labels only'))}.")

# %% [markdown]
# ## What did not work

# %% tags=["hide-input"]
nothing = [name for name, (_, low, high) in bought.items() if low <= 0]
Markdown(f"""
- **Not shown to beat labels only** with one training at the strongest baseline:
  {", ".join(nothing) or "none of the eleven ways"}.
- **More generations**: from 1 to 3,
  {apart(rest.values("generation 3"), strong.values("generation 1"))}.
""")

# %% [markdown]
# (break-it-08)=
# ## Break it
#
# In Python `teacher = model` makes no copy: it is a second name for one object. A public library (KD_Lib, [`BANN.py`](https://github.com/SforAiDl/KD_Lib/blob/0b8525b6aacf98e3464520ef629b4a4f16ff69a4/KD_Lib/KD/vision/BANN/BANN.py), still so in the newest version we found) hands one model over as teacher *and* as student. When the student then gets its new start, so does the teacher. The same mistake, planted in the loop from above:

# %%
def next_generation(make_teacher):
    model, rows = copy.deepcopy(made["generation 0"]), []
    teacher = make_teacher(model)
    model.load_state_dict(net(1).state_dict())  # a new start

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
def draw(runs):
    figure, axes = plt.subplots(1, 3, figsize=(6.8, 3))
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


draw(runs)

# %% [markdown]
# The cross-entropy falls and the accuracy rises: nothing looks wrong. But the KD part is 0 in every epoch. The divergence of a network with itself is 0, and so is its gradient; what is left is half of the cross-entropy, and AdamW rescales gradients. The repair is a copy:

# %%
runs["repaired"] = next_generation(lambda m: copy.deepcopy(m).eval())
runs["labels only"] = next_generation(lambda model: None)

# %% mystnb={"image": {"alt": "The same three panels with two more runs. The repaired run has a KD part that starts high and falls. The planted run has the accuracy of labels only."}} tags=["hide-input"]
draw(runs)

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
# Each has a cell to fill in and a check, which prints "not done yet" until then.
#
# ### 1. Warm up: move the average
#
# One step of the moving average: every number of `average` becomes `decay` times itself plus the rest of the student's, batch statistics included.

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
        wanted = 0.75 * old[name] + 0.25 * new[name]
        other = 0.25 * old[name] + 0.75 * new[name]
        if got.is_floating_point() and not torch.allclose(got, wanted):
            raise AssertionError(
                f"In {name}: " + (
                    "inverted, got decay times the student."
                    if torch.allclose(got, other) else
                    "nothing changed. Write into the tensor, in place; "
                    "parameters() leaves out the batch statistics."
                    if got.equal(old[name]) else "got another value."))


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
    logits = [torch.stack([p, (1 - p) / 2, (1 - p) / 2], 1).log()
              for p in sure]  # the largest of three probabilities
    got = stop_when_sure(logits, 0.5)
    assert got.tolist() != [2, 2, 2] and got[2] == 2, (
        "Expected the end (2) where nobody is sure enough, and only "
        f"there, got {got.tolist()}.")
    assert got.tolist() == [0, 1, 2], (
        "Expected the first exit that is sure enough, [0, 1, 2], got "
        f"{got.tolist()}. A later one would have to be computed first.")


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
     "1.3 points.": "Generation 0 has another start, so this holds luck as well.",
     "0.9 points.": "That is how far another start alone is from generation 0."},
    name="08/pair", answer="0.4 points")

# %% tags=["remove-input"]
kd.explore.question(
    "In the heat map a row has a bright and a dark cell in the column pair of class 3. What will "
    "this network do with a picture of class 3 that shows both views?",
    {"Name it rightly.": "One view is enough. That is why the training images left no gradient "
                         "for the other one.",
     "Name it wrongly in half of the cases.": "Every picture with both views holds the view that "
                                              "it has learned.",
     "It depends on the other classes.": "The views of all classes are different."},
    name="08/heat-map", answer="Name it rightly.")

# %% tags=["remove-input"]
kd.explore.question(
    "Exit 1 is right on 52.0 % with labels only and on 50.1 % when the end teaches it, interval of "
    "the difference −3.1 to −0.7. The end: 93.0 and 93.2, interval −0.3 to +0.7; a network without "
    "exits 91.9. What helped?",
    {"The exits, not the teaching.": "The end gains with exits that get labels only. The teaching "
                                     "costs exit 1 accuracy and shows no effect at the end.",
     "The teaching: 93.2 is the best number.": "Its interval to the exits with labels only holds "
                                               "0.",
     "Neither.": "93.0 against 91.9 is the gain from the exits."},
    name="08/exits", answer="The exits, not")

# %% tags=["remove-input"]
kd.explore.question(
    "A run without labels: the loss falls to 0.01 within three epochs, and the output has the same "
    "class for every image. What happened?",
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


weak = errors(*(lines[first].values(f"generation {g}") for g in (0, 1)))
best_row = errors(*(strong.values(f"generation {g}") for g in (0, 1)),
                  *(rest.values(arm) for arm in ("generation 2", "generation 3", "four averaged")))
# %% tags=["hide-input"]
Markdown(f"""
| test error in % | generation 0 | 1 | 2 | 3 | several together |
|---|---|---|---|---|---|
| DenseNet-112-33 | 18.25 | 17.61 | 17.22 | 16.59 | 15.77 (two), 15.68 (three) |
| DenseNet-90-60 | 17.69 | 16.62 | 16.44 | 16.72 | 15.39, 15.74 |
| DenseNet-80-80 | 17.16 | 16.26 | 16.30 | 15.50 | 15.46, 15.14 |
| DenseNet-80-120 | 16.87 | 16.13 | 16.13 | – | 15.13, 14.90 |
| here, plain, untuned | {weak} | – | – | – |
| here, augmented, tuned | {best_row} (four starts) |
""")

# %% [markdown]
# What differs: their networks are large and trained long on 50,000 augmented images, with $T = 1$ and without labels; with labels added all four DenseNets were worse. Generation 1 was trained from two starts, 16.95 and 17.61 for DenseNet-112-33: they differ by as much as the smaller gain. The table has the second. On CIFAR-10 one DenseNet gains (90-60: 3.81 to 3.5); the two largest (3.48 to 3.49, 3.37 to 3.54) and a Wide-ResNet (3.77 to 3.86) became worse. Their two controls keep only the teacher's confidence (CWTM) or permute the wrong classes (DKPP), as in chapter 1. We have found no table of theirs with labels only from another start, or with one network trained as long as two generations. A [re-run](https://github.com/amir4javar/born_again_networks) with a ResNet-18 on CIFAR-100, one seed, has 78.01 % and after it 78.34, 79.34 and 79.42 %.
#
# {cite:t}`zhang2019byot` report 2.65 points on average from taught exits (0.61 to 4.07), with deeper exits and a feature loss. {cite:t}`stanton2021` find that students agree with their teachers less than one would think. Two networks that teach each other (`kd.Mutual`) are mutual learning {cite:p}`zhang2018`; Noisy Student {cite:p}`xie2020` adds images without labels. With a linear classifier on features learned without labels, DINO reports 80.1 % on ImageNet (ViT-B, patches of 8), BYOL 74.3 % (ResNet-50).
#
# ## Take-away

# %% tags=["hide-input"]
Markdown(f"""
1. **READ: a bit, no, or only when the baseline is weak.** Generation 1 minus another start:
   {gain("generation 1", name=first)} on plain images without tuning,
   {gain("generation 1")} on augmented images with tuning. A teacher that knows more brings
   {apart(*pairs[first])} and {apart(*pairs["augmented, tuned"])}.
2. **READ: what the same trainings buy.** Generation 1 minus one network trained twice as long:
   {apart(strong.values("generation 1"), twice.values("labels only"))}; four averaged minus labels
   only: {apart(rest.values("four averaged"), another)}; taught exits minus exits with labels only:
   {apart(ends.values("exits, taught"), ends.values("exits, labels only"))}.
3. **Pair it with another start, and look at the KD part.** A second name for one object is no
   teacher; without labels, a constant output is no success.
""")

# %% [markdown]
# ## Cost
#
# A training makes 240,000 forward and backward passes. A later generation adds one training and 80,000 forward passes of its teacher (20 views of 4,000 images, stored); "four distilled" adds 320,000 to its five trainings, a mean teacher 240,000 to its one. Exits add little. Each setting of a search is a training, too.
#
# Every recorded run of this chapter, by machine and day; rows of chapters 1 and 9 are not counted:

# %% [markdown] tags=["cost-table"]
#
