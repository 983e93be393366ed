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
# # Which parts of a long training recipe carry a distilled student?
#
# A public recipe distils BEiT-B, a vision transformer, into a ResNet-50 that reaches [81.91 % on ImageNet](https://github.com/Deci-AI/super-gradients/blob/00bb65a5e1faa137a268f6cb9cfe35223c1fa312/src/super_gradients/recipes/imagenet_resnet50_kd.yaml). Beside the teacher it has mixed images, RandAugment, LAMB, warm-up, averaged weights and more. The number is that of all together. Whoever copies the recipe wants to know which parts to keep.
#
# Here the recipe is made small. Each part is added to a plain training and removed from the full one.
#
# ```{admonition} In this chapter
# :class: note
# **You will be able to**
# - write the recipe's training step in plain PyTorch, with mixed images for both networks,
# - measure a part of a recipe from both ends, and say why the two results differ,
# - separate what a teacher adds from what the recipe adds without one,
# - average weights so that batch normalisation still fits them.
#
# **You need** [chapter 1](01_hinton.ipynb): the loss, paired differences, why both sides are tuned.
#
# **Reading time** about 19 minutes, exercises not counted.
# ```

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:  # on Colab only: the package is not there yet
    # %pip install -q "kdcourse @ git+https://github.com/kdcourse/kdcourse"

# %%
import contextlib
import copy
import dataclasses
import functools
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from timm.optim import Lamb

import kdcourse as kd
from kdcourse.data.augment import Augmented
from kdcourse.losses import CE, KD

kd.plot.style()

# %% [markdown]
# What this chapter costs on a computer, read from the recorded results:

# %% [markdown] tags=["opening-time"]
#

# %% [markdown]
# ## The bet
#
# Student and images are those of chapter 1, the teacher is a vision transformer. The plain recipe and the full one each get a search for learning rate and weight decay, with and without the teacher.

# %% tags=["hide-input"]
recipe_bet = kd.explore.bet(
    "Both students learn from the teacher. By how many points is the one with the full recipe more "
    "accurate on the test images than the one with the plain recipe?", (-5, 15), "12/recipe",
    unit="points", step=0.5)
recipe_bet

# %% tags=["hide-input"]
teacher_bet = kd.explore.bet(
    "What the teacher adds to labels only is measured with the plain recipe, and with the full "
    "one. With the full recipe it adds …",
    ["more.", "less.", "about as much: five seeds cannot tell."], "12/teacher")
teacher_bet

# %% [markdown]
# ## See it first
#
# **MixUp** {cite:p}`zhang2018mixup` blends two images, **CutMix** {cite:p}`yun2019` pastes a rectangle of one into another. The label is mixed by the same share. **RandAugment** {cite:p}`cubuk2020` applies operations that are drawn for each image; ours, in small, are two of brightness, contrast, sharpness and fewer grey levels, and stronger shifts, turns and scales. All this is drawn for each image and each of 20 views, so a teacher's outputs can be stored.

# %%
data = kd.data.glyphs(train=4000, seed=0)
teacher = kd.teacher("glyphs-vit")
y, every = data.train.y, torch.arange(4000)


# %% tags=["hide-cell"]
def strengthened(x, drawn):
    """Two of four operations on each image [B, 1, H, W]. drawn: [B, 4], from -1 to 1."""
    operations = (
        lambda x, m: x + 0.3 * m,  # brightness
        lambda x, m: x.mean((2, 3), keepdim=True) * (1 - 2**m) + 2**m * x,  # contrast
        lambda x, m: x + m * (x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),  # sharpness
        lambda x, m: (x * (4 * m + 7).round()).round() / (4 * m + 7).round())  # grey levels
    for which, amount in (drawn[:, :2].T, drawn[:, 2:].T):
        number = (2 * (which + 1)).long().clamp(0, 3)
        for k, operation in enumerate(operations):
            chosen = number == k
            x[chosen] = operation(x[chosen], amount[chosen, None, None, None]).clamp(0, 1)
    return x


# %% tags=["hide-cell"]
@functools.cache
def partner(view):
    """The image that each image is mixed with."""
    return torch.from_numpy(np.random.default_rng([0, view]).permutation(len(data.train)))


# %% tags=["hide-cell"]
@functools.cache
def numbers(view):
    """For each image the share it keeps, the middle of a box, and four numbers, [N, 7]."""
    rng, N = np.random.default_rng([1, view]), len(data.train)
    alpha = 0.2 if view % 2 else 1.0  # odd views are for MixUp, even ones for CutMix
    made = [rng.beta(alpha, alpha, N), *rng.uniform(-1, 1, (6, N))]
    return torch.tensor(np.stack(made, 1), dtype=torch.float32)


# %% tags=["hide-cell"]
def mask(index, view):
    """The weight of an image in each pixel of the mixed image, [B, 1, H, W]."""
    drawn, size = numbers(view)[index], data.shape[1:]
    keep = drawn[:, 0, None, None]
    if view % 2:
        return keep[..., None].expand(-1, 1, *size)
    rows, columns = ((torch.linspace(-1, 1, side) - middle[:, None]).abs() < (1 - keep[:, 0]).sqrt()
                     for side, middle in zip(size, drawn[:, 1:3].T))
    return 1 - (rows[:, None, :, None] & columns[:, None, None, :]).float()


# %% tags=["hide-cell"]
def moved(strong):
    """The data in 20 views: the standard ones, or half as strong again."""
    size = 1.5 if strong else 1
    return kd.augmented(data, views=20, shift=0.1 * size, degrees=11 * size, scale=0.15 * size)


# %% tags=["hide-cell"]
@functools.cache
def pixels(strong, view):
    """All training images in a view, before they are mixed, as bytes."""
    x = moved(strong).train.seen(every, view)
    return (255 * (strengthened(x, numbers(view)[:, 3:]) if strong else x)).round().byte()


def alone(strong, view, index):
    """Some training images in a view, before they are mixed."""
    return pixels(strong, view)[index] / 255


# %% tags=["hide-cell"]
@dataclasses.dataclass(frozen=True)
class Views(Augmented):
    """Augmented views that may also be strengthened and mixed."""

    strong: bool = False
    mix: bool = False

    def identity(self):
        return [*super().identity(), self.strong, self.mix]

    def seen(self, index, view):
        index = index.cpu()
        if view == 0:  # as they are
            return self.x[index.to(self.x.device)]
        x = alone(self.strong, view, index)
        if self.mix:
            kept = mask(index, view)
            x = kept * x + (1 - kept) * alone(self.strong, view, partner(view)[index])
        return x.to(self.x.device)

    def batches(self, size, seed=None, epoch=0):
        for batch in super().batches(size, seed, epoch):
            if self.mix and seed is not None:
                index, y = batch.index.cpu(), F.one_hot(self.y.cpu(), 36).float()
                share = mask(index, batch.view).mean((2, 3))
                y = share * y[index] + (1 - share) * y[partner(batch.view)[index]]
                batch = dataclasses.replace(batch, y=y.to(batch.y.device))
            yield batch


# %% tags=["hide-cell"]
@functools.cache
def images(strong, mix):
    """The data in these views."""
    made = moved(strong)
    seen = made.train
    train = Views(seen.x, seen.y, seen.augment, seen.views, seen.seed, strong, mix)
    return dataclasses.replace(made, train=train, made="",
                               params=made.params | {"strong": strong, "mix": mix})


# %% tags=["hide-cell"]
@functools.cache
def given(strong, mix):
    """The teacher's outputs for these views, stored."""
    return kd.Cached(teacher, images(strong, mix))


# %% tags=["hide-cell"]
def example(view, about=0.6):
    """A mixed image that keeps about this share, its label, and the teacher's probabilities."""
    share, y = mask(every, view).mean((1, 2, 3)), data.train.y
    i = (share - about).abs().argmin()[None]
    first, second = (F.one_hot(y[j], 36)[0] for j in (i, partner(view)[i]))
    x = images(True, True).train.seen(i, view)
    label = share[i] * first + (1 - share[i]) * second
    return x[0], label, kd.models.predict(teacher, x).softmax(1)[0]


# %% mystnb={"image": {"alt": "Two mixed training images, the first blended by MixUp, the second with a rectangle pasted by CutMix. Beside each, as bars, the mixed label, which has two classes, and the teacher's probabilities for the mixed image."}}
figure, axes = plt.subplots(2, 3, figsize=(6.4, 4.4))
for row, view in zip(axes, (3, 2)):  # MixUp, CutMix
    x, label, p = example(view)
    k = (2 * label + p).topk(4).indices
    kd.plot.probabilities(
        x, {"mixed label": label[k], "teacher": p[k]},
        [data.classes[place] for place in k], 4, row)
figure.tight_layout()

# %% [markdown]
# The mixed label follows the shares, whatever can be seen. The teacher gets the mixed image itself, and names what that looks like to it. {cite:t}`beyer2022` call this **function matching**: both networks get the same input, however strange, and the student copies the output.

# %% mystnb={"image": {"alt": "Diagram of the recipe. An image is strengthened and mixed with a partner; the mixed image goes to the student, and through an input adapter to the teacher. The loss weighs the mixed label by 0.2 and the teacher by 0.8. LAMB with warm-up trains the student; behind it are its moving average and the mean of the best epochs, which is what is used."}} tags=["hide-input"]
BLUE, GREY, ORANGE, RED = kd.plot.BLUE, kd.plot.GREY, kd.plot.ORANGE, kd.plot.RED
ax = kd.plot.diagram({
    "image": (0, 1, GREY, "two images,\nRandAugment,\nmixed"),
    "adapter": (1.3, 2, GREY, "input\nadapter"),
    "teacher": (2.5, 2, ORANGE, "teacher:\ntransformer"),
    "student": (1.9, 1, BLUE, "student:\nconvnet"),
    "label": (1.9, 0, GREY, "labels, mixed"),
    "loss": (3.7, 1, RED, "loss;\nwarm-up,\nLAMB"),
    "mean": (3.7, 0, BLUE, "averaged\nweights")}, [
    ("image", "adapter"), ("adapter", "teacher"), ("image", "student"), ("student", "loss"),
    ("teacher", "loss", "× 0.8"), ("label", "loss", "× 0.2"), ("loss", "mean", "", "--")])
ax.figure.set_size_inches(6.8, 3.6)
ax.set_title("The recipe: one input, two networks");

# %% [markdown]
# ## The idea
#
# ### By hand, on three classes
#
# The classes are O, 0 and X. An O (share 0.7) is blended with an X (0.3). A student at $\tfrac13$ each is pushed by *target minus output*. The teacher sees an O that is a little narrow, and hardly an X, with logits $v = (3, 2, 0)$:

# %%
v3, q = torch.tensor([3.0, 2, 0]), torch.full((3,), 1 / 3)
label3 = torch.tensor([0.7, 0, 0.3])
both = 0.2 * label3 + 0.8 * v3.softmax(0)
for name, target in {"mixed label": label3, "teacher": v3.softmax(0),
                     "0.2 and 0.8": both}.items():
    print(f"{name:12s} target", *(f"{p:.2f}" for p in target),
          "  push", *(f"{p:+.2f}" for p in target - q))

# %% [markdown]
# The mixed label pushes the 0 down as far as it can; the teacher leaves it above $\tfrac14$.
#
# **The input adapter.** A loader often normalises images for the student, and another teacher wants other numbers. ImageNet's mean and deviation for red are 0.485 and 0.229; BEiT takes 0.5 and 0.5. A pixel $r = 0.8$ reaches the student as $x = 1.38$; the teacher must get $(0.229\,x + 0.485 - 0.5) / 0.5 = 0.6$. (The course's networks take $r$ and normalise for themselves.)
#
# ### In plain PyTorch
#
# Two images `x` and `x2` of each sample, the weight `mask` of the first in each pixel:

# %%
def recipe_loss(student, teacher, adapter, x, x2, y, y2, mask, alpha=0.8):
    mixed = mask * x + (1 - mask) * x2
    share = mask.mean((1, 2, 3))  # the area that was really kept
    z = student(mixed)
    with torch.no_grad():
        v = teacher(adapter(mixed))
    labels = (share * F.cross_entropy(z, y, reduction="none")
              + (1 - share) * F.cross_entropy(z, y2, reduction="none"))
    told = F.kl_div(z.log_softmax(1), v.log_softmax(1),
                    log_target=True, reduction="batchmean")  # T = 1
    return (1 - alpha) * labels.mean() + alpha * told


# %% [markdown]
# In the package mixing is a matter of the data; the rest is the usual objective. The same number:

# %%
batch = next(images(True, True).train.batches(64, seed=0, epoch=1))
i, other = batch.index, partner(2)[batch.index]  # epoch 1 has view 2
student = kd.models.convnet(width=16, classes=36, seed=0)
above = recipe_loss(student, teacher, lambda x: x, alone(True, 2, i),
                    alone(True, 2, other), y[i], y[other], mask(i, 2))
package = kd.Distiller(student, teacher, 0.2 * CE() + 0.8 * KD(T=1))
print(f"above {above:.4f}   package {package(batch).loss:.4f}")


# %% [markdown]
# ## The experiment
#
# | part | plain | full |
# |---|---|---|
# | MixUp and CutMix, half of the views each | – | yes |
# | RandAugment, in small | – | yes |
# | weight decay on biases and norms | yes | – |
# | warm-up, 3 of 60 epochs, before the cosine | – | yes |
# | weight α of the teacher | 0.5 | 0.8 |
# | optimiser | AdamW | LAMB {cite:p}`you2020` |
# | moving average of the weights (EMA) {cite:p}`tarvainen2017` | – | yes |
# | mean of the ten best epochs | – | yes |
#
# **Warm-up**: the rate rises during the first steps, in which gradients are large. **Decay** pulls weights towards 0, where the scales of batch normalisation need not be {cite:p}`he2019`. **LAMB** makes the step of a layer proportional to the size of its weights, for very large batches. The **moving average** $\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta$ takes the noise of single steps out of the weights; the **mean of the best epochs** does the same from farther apart {cite:p}`izmailov2018`. The adapter is no option: without it the teacher is another one.
#
# Everything else is shared: the standard views of this course, cosine, $T = 1$ as in the recipe, batch 128. The recipe's own numbers: MixUp with Beta(0.2, 0.2), CutMix with Beta(1, 1), α 0.8 where the library's default is 0.5, 5 of 610 epochs warm-up. Its EMA is over 10,000 steps, twelve of its epochs; ours over 50, one and a half.

# %%
@dataclasses.dataclass(frozen=True)
class Parts:
    mix: bool = False
    strong: bool = False
    exempt: bool = False  # biases and norms have no decay
    warm: bool = False
    alpha: float = 0.5  # 0: labels only
    lamb: bool = False
    T: float = 1

plain = Parts()
full = Parts(mix=True, strong=True, exempt=True, warm=True,
             alpha=0.8, lamb=True)


# %% [markdown]
# Averages need no training of their own. One training keeps the student, its moving average, and both after each of the last 20 epochs; the ten best of these on the validation images are averaged, weights and batch statistics alike. So each training is judged in four ways.

# %% tags=["hide-cell"]
class Kept:
    """Keeps the states of student and average after each of the last 20 epochs."""

    steps, kept = 0, ()

    def after_step(self):
        super().after_step()
        self.steps += 1
        if self.steps % 31 == 0:  # an epoch
            now = [{name: t.clone() for name, t in net.state_dict().items()}
                   for net in (self.student, self.judged)]
            self.kept = [*self.kept[-19:], now]


# %% tags=["hide-cell"]
class Distilled(Kept, kd.Distiller):
    pass


class Labelled(Kept, kd.Supervised):
    pass


# %% tags=["hide-cell"]
def right(net, split):
    return kd.measure.accuracy(kd.models.predict(net, split.x), split.y)


# %% tags=["hide-cell"]
def mean_of_best(net, states, count=10):
    """The mean of the states that are best on the validation images, as a network."""
    net = copy.deepcopy(net)

    def on_val(state):
        net.load_state_dict(state)
        return right(net, data.val)

    best = sorted(states or [net.state_dict()], key=on_val)[-count:]
    net.load_state_dict({name: torch.stack([state[name].double() for state in best]).mean(0)
                         for name in best[0]})
    return net


# %% tags=["hide-cell"]
def judged(scheme, split):
    """Right: the last weights, EMA, the mean of the ten best epochs, the same of EMA."""
    nets = [scheme.student, scheme.judged]
    means = [mean_of_best(net, [pair[place] for pair in scheme.kept])
             for place, net in enumerate(nets)]
    return [right(net, split) for net in (*nets, *means)]


# %% tags=["hide-cell"]
LAST, EMA, BEST, BEST_EMA = range(4)
said = {part: kd.models.predict(teacher, x) for part, x in (
    ("train", data.train.x), ("test", data.test.x))}


# %% tags=["hide-cell"]
def distance(scheme, split):
    """KL from the teacher to the averaged student: on plain training images, on test images."""
    parts = {"train": data.train, "test": data.test}
    return [kd.measure.teacher_kl(kd.models.predict(scheme.judged, part.x), said[name])
            for name, part in parts.items()]


# %%
def scheme(parts, seed, of=None):
    net = kd.models.convnet(width=16, classes=36, seed=seed)
    a = parts.alpha
    if a == 0:
        return Labelled(net, CE()).averaged(0.98)
    told = KD(T=parts.T)
    objective = told if a == 1 else round(1 - a, 2) * CE() + a * told
    of = of or given(parts.strong, parts.mix)
    return Distilled(net, of, objective).averaged(0.98)


# %% [markdown]
# `kd.Recipe` leaves biases and norms without decay by itself. To add the decay again takes an optimiser of one's own:

# %%
def adamw(groups, lr):
    return torch.optim.AdamW(groups, lr)

def lamb(groups, lr):
    return Lamb(groups, lr)

def for_all(groups):
    decay = groups[0]["weight_decay"]
    return [group | {"weight_decay": decay} for group in groups]


# %% tags=["hide-cell"]
def adamw_all(groups, lr):
    return adamw(for_all(groups), lr)


def lamb_all(groups, lr):
    return lamb(for_all(groups), lr)


# %% tags=["hide-cell"]
OPTIMIZERS = {(False, False): adamw_all, (False, True): adamw,
              (True, False): lamb_all, (True, True): lamb}


# %%
def recipe(parts, rate, decay, epochs=60):
    return kd.Recipe(
        epochs=epochs, lr=rate, weight_decay=decay, schedule="cosine",
        warmup=0.05 if parts.warm else 0.0, validate_every=epochs,
        optimizer=OPTIMIZERS[parts.lamb, parts.exempt])


# %% [markdown]
# **The search**, on the validation images, from one setting to its best neighbour: learning rate × 2 and / 2, decay × 5 and / 5. Plain and full recipe have one each, with the teacher and with labels only. Another optimiser has other rates, so AdamW in the full recipe and LAMB in the plain one are searched as well. All other parts are tried at the settings of their end. Recorded runs are loaded; a run of other code, data or settings is computed.

# %% tags=["hide-cell"]
def trained(parts, setting, seeds, split="val", of=None, epochs=60, **also):
    """The rows of one arm."""
    with contextlib.redirect_stdout(io.StringIO()):
        return kd.compare(
            {"arm": lambda seed: scheme(parts, seed, of)}, images(parts.strong, parts.mix),
            recipe(parts, *setting, epochs), seeds, split=split, also={"judged": judged} | also,
            results="12").rows


# %% tags=["hide-cell"]
def near(setting):
    rate, decay = setting
    around = [(rate * 2, decay), (rate / 2, decay), (rate, decay * 5), (rate, decay / 5)]
    return [(round(r, 8), round(d, 8)) for r, d in around if d < 2]


# %% tags=["hide-cell"]
def search(parts, place, start, decide=True):
    """The best setting, and how many were tried. decide: a second seed for the best two."""
    def score(setting, seeds):
        return np.mean([row["judged"][place] for row in trained(parts, setting, seeds)])

    found, new = {}, [start]
    while new:
        found |= {setting: score(setting, [0]) for setting in new}
        new = [one for one in near(max(found, key=found.get)) if one not in found]
    two = sorted(found, key=found.get)[-2:]
    return max(two, key=lambda one: score(one, [0, 1]) if decide else found[one]), len(found)


# %% tags=["hide-cell"]
def without_teacher(parts):
    return dataclasses.replace(parts, alpha=0)


# %% tags=["hide-cell"]
ENDS = {"plain": (plain, LAST, (0.08, 0.01)), "full": (full, BEST_EMA, (0.02, 0.02))}
at = {name: search(*end) for name, end in ENDS.items()}
for name, (parts, place, _) in ENDS.items():
    at[f"{name}, labels only"] = search(without_teacher(parts), place, at[name][0])
at["plain, LAMB"] = search(dataclasses.replace(plain, lamb=True), LAST, at["full"][0], False)
at["full, AdamW"] = search(dataclasses.replace(full, lamb=False), BEST_EMA, at["plain"][0], False)

# %% tags=["hide-input"]
Markdown("<details><summary>The settings that were found</summary>\n\n"
         "| recipe | rate | decay | settings tried |\n|---|---|---|---|\n" + "\n".join(
             f"| {name} | {rate:g} | {decay:g} | {count} |"
             for name, ((rate, decay), count) in at.items()) + "\n\n</details>")

# %% [markdown]
# The test images, once, with five seeds that no search has used:

# %% tags=["hide-cell"]
CHANGED = {"MixUp, CutMix": "mix", "RandAugment": "strong", "no decay on biases": "exempt",
           "warm-up": "warm", "α 0.8 for 0.5": "alpha", "LAMB for AdamW": "lamb"}
rows = []


# %% tags=["hide-cell"]
def on_test(name, parts, place, setting, of=None):
    """Adds the rows of an arm, with what is right as `right`."""
    found = trained(parts, at[setting][0], range(2, 7), split="test", of=of, distance=distance)
    rows.extend(row | {"arm": name, "right": row["judged"][place]} for row in found)


# %% tags=["hide-cell"]
on_test("plain", plain, LAST, "plain")
on_test("full", full, BEST_EMA, "full")
for name, field in CHANGED.items():
    swapped = {"lamb": ("plain, LAMB", "full, AdamW")}.get(field, ("plain", "full"))
    on_test(f"plain + {name}", dataclasses.replace(plain, **{field: getattr(full, field)}), LAST,
            swapped[0])
    on_test(f"full − {name}", dataclasses.replace(full, **{field: getattr(plain, field)}),
            BEST_EMA, swapped[1])
for name, added, removed in (("moving average", EMA, BEST), ("mean of best epochs", BEST, EMA)):
    on_test(f"plain + {name}", plain, added, "plain")
    on_test(f"full − {name}", full, removed, "full")

# %% tags=["hide-cell"]
for end, (parts, place, _) in ENDS.items():
    of_labels, of_mixed = without_teacher(parts), dataclasses.replace(
        without_teacher(parts), mix=not parts.mix)
    on_test(f"{end}, labels only", of_labels, place, f"{end}, labels only")
    sign = "+" if end == "plain" else "−"
    on_test(f"{end}, labels only {sign} MixUp, CutMix", of_mixed, place, f"{end}, labels only")
on_test("full, no labels", dataclasses.replace(full, alpha=1.0), BEST_EMA, "full")
on_test("full, T = 4", dataclasses.replace(full, T=4), BEST_EMA, "full")


# %% tags=["hide-cell"]
def outputs_mixed():
    """The teacher's outputs for two images, mixed: it never gets a mixed image."""
    found = []
    for view, p in enumerate(given(True, False).logits.softmax(2), 1):
        share = mask(every, view).mean((2, 3))
        found.append((share * p + (1 - share) * p[partner(view)]).clamp_min(1e-30).log())
    return kd.Cached.of(torch.stack(found), images(True, True), "outputs mixed")


# %% tags=["hide-cell"]
on_test("full, outputs mixed", full, BEST_EMA, "full", outputs_mixed())
final = kd.experiment.Comparison(rows, "plain", "right")


# %% tags=["hide-input"]
def told_as(triple, unit=" points"):
    mean, low, high = (100 * value for value in triple)
    n = 2 if min(abs(low), abs(high)) < 0.05 else 1  # an end that would round to 0
    return f"{mean:+.{n}f}{unit} ({low:+.{n}f} to {high:+.{n}f})".replace("-", "−")


def gap(name, other, unit=" points"):
    return told_as(final.difference(name, other), unit)


# %% tags=["hide-input"]
def more(first, second):
    """How much larger one paired difference is than another, each a pair of arms."""
    one, two = (np.subtract(*(final.values(arm) for arm in pair)) for pair in (first, second))
    return kd.measure.paired_difference(list(one), list(two))


# %% tags=["hide-input"]
brings = {name: ((f"plain + {name}", "plain"), ("full", f"full − {name}"))
          for name in (*CHANGED, "moving average", "mean of best epochs")}


# %% tags=["remove-input"]
def drawn_at(ax, place, pair, color):
    """One row: a dot for each seed, the mean and its interval, in points."""
    points = 100 * np.subtract(*(final.values(arm) for arm in pair))
    mid, low, high = kd.measure.interval(list(points))
    ax.plot(points, [place + 0.22] * len(points), ".", color=color, alpha=0.6)
    ax.errorbar(mid, place, xerr=[[mid - low], [high - mid]], fmt="o", ms=7, lw=2, capsize=4,
                color=color)
    ax.annotate(f"{mid:+.1f}".replace("-", "−"), (mid, place), (0, 7), fontsize=10, color=color,
                textcoords="offset points", ha="center")


# %% mystnb={"image": {"alt": "Two panels side by side with one row for each of eight parts of the recipe: MixUp and CutMix, RandAugment, no decay on biases, warm-up, alpha, LAMB, moving average, mean of best epochs. Left: the points of test accuracy that the part brings when it is added to the plain recipe. Right: the points that it brings in the full recipe, that is full minus full without it. Each row has a dot for each of five seeds, the mean and a 95 percent interval; a line at zero is no effect."}} tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(6.8, 5), sharey=True, sharex=True)
for place, pairs in enumerate(brings.values()):
    for ax, pair in zip(axes, pairs):
        drawn_at(ax, place, pair, BLUE)
for ax, title in zip(axes, ("added to plain", "in full: full − without it")):
    ax.axvline(0, color="black", lw=1.2), ax.grid(False, axis="y")
    ax.set(title=title, xlabel="points")
axes[0].set_yticks(range(len(brings)), brings), axes[0].set_ylim(len(brings) - 0.5, -0.8)
figure.suptitle("READ: which parts carry the student", x=0.02, ha="left", fontweight="bold")
figure.tight_layout()

# %% tags=["hide-input"]
alone = 100 * sum(final.difference(*pair[0])[0] for pair in brings.values())
Markdown(f"""
Plain {final.mean("plain"):.1%}, full {final.mean("full"):.1%}: full minus plain is
{gap("full", "plain")}. The eight parts, each added to plain alone, sum to {alone:+.1f} points.
""".replace("-", "−"))

# %% [markdown]
# READ: four sentences. (1) Is the full recipe ahead, by the interval? (2) Which parts does the left panel separate from 0, and which the right one? (3) Where do the two differ, and by what: a part that only helps beside others, or one that others make superfluous? (4) Is the sum of the single gains more or less than the whole?
#
# ### What does the teacher add to an equally good recipe?

# %% tags=["hide-input"]
by_end = more(("full", "full, labels only"), ("plain", "plain, labels only"))
mixing = {"plain, labels only": ("plain, labels only + MixUp, CutMix", "plain, labels only"),
          "plain, teacher": ("plain + MixUp, CutMix", "plain"),
          "full, labels only": ("full, labels only", "full, labels only − MixUp, CutMix"),
          "full, teacher": ("full", "full − MixUp, CutMix")}


# %% tags=["remove-input"]
def percent(arm):
    return f"{final.mean(arm):.1%}"


by_teacher = "\n".join(
    f"| {end} | {percent(f'{end}, labels only')} | {percent(end)} | "
    f"{gap(end, f'{end}, labels only', '')} |" for end in ENDS)
by_mixing = "\n".join(f"| {name} | {gap(*pair, '')} |" for name, pair in mixing.items())

# %% tags=["hide-input"]
Markdown(f"""
| recipe | labels only | teacher | teacher adds, points |
|---|---|---|---|
{by_teacher}

With the full recipe the teacher adds {told_as(by_end)} more than with the plain one. Without a
teacher the recipe alone brings {gap("full, labels only", "plain, labels only")}.

| MixUp and CutMix, in | bring, points |
|---|---|
{by_mixing}
""")

# %% [markdown]
# READ: three sentences. Does the recipe or the teacher bring more? Does the teacher add more with the full recipe, and is that shown? Does mixing do more for a student with a teacher than for one whose labels alone are mixed?
#
# ### Controls

# %% tags=["hide-input"]
controls = ("full, outputs mixed", "full, no labels", "full, T = 4")
Markdown("| control | minus full, points |\n|---|---|\n" + "\n".join(
    f"| {name} | {gap(name, 'full', '')} |" for name in controls))

# %% [markdown]
# *Outputs mixed*: the teacher gets the two images one by one, and its two outputs are mixed by the share, as labels are. READ: three sentences. Does the teacher have to see the mixed image itself? Are labels needed at all beside it? Is $T = 1$ the right temperature here?
#
# ### Was it long enough?

# %% tags=["hide-cell"]
lengths = {}
for name, (parts, place, _) in ENDS.items():
    for epochs in (60, 120):
        found = trained(parts, at[name][0], range(2), epochs=epochs)
        lengths[name, epochs] = np.mean([row["judged"][place] for row in found])

# %% tags=["hide-input"]
Markdown("**Twice as many epochs**, validation images, two seeds: " + "; ".join(
    f"{name} {lengths[name, 60]:.1%} to {lengths[name, 120]:.1%}" for name in ENDS) + ".")

# %% [markdown]
# READ: one sentence: does the full recipe gain more from the length? Strong augmentation is said to need it.
#
# ## Why
#
# A student that copies its teacher on the views that it sees may still differ from it elsewhere. So we measure the distance (KL at $T = 1$) twice: on the training images, and on test images that neither saw, for the moving average of each student.

# %% mystnb={"image": {"alt": "Scatter plot. Across: distance to the teacher on plain training images, upwards: on test images, one point for each arm, mean of five seeds. A dashed diagonal is where both are equal. Black: plain recipe and plain with a part added. Blue: full recipe and full with a part removed. Grey: labels only."}} tags=["hide-input"]
ax = plt.subplots(figsize=(6.4, 4))[1]
arms = [arm for arm in final.arms if not any(part in arm for part in ("average", "best", "T = 4"))]
near_to = {arm: np.mean(final.values(arm, "distance"), 0) for arm in arms}
for label, color, fits in (
        ("labels only", GREY, lambda arm: "labels only" in arm),
        ("plain, or with a part", "black", lambda arm: "labels" not in arm and arm[:5] == "plain"),
        ("full, or changed", BLUE, lambda arm: "only" not in arm and arm[:4] == "full")):
    ax.plot(*np.array([near_to[arm] for arm in arms if fits(arm)]).T, "o", color=color, label=label)
ax.plot([0, ax.get_xlim()[1]], [0, ax.get_xlim()[1]], "--", color=GREY, lw=1)
ax.set(xlabel="distance on training images", ylabel="distance on test images",
       title="READ: nearer on new images, or only on old ones")
ax.legend();

# %% tags=["hide-input"]
told = [arm for arm in arms if "only" not in arm]
slope = [np.corrcoef([near_to[arm][place] for arm in told], [final.mean(arm) for arm in told])[0, 1]
         for place in (0, 1)]
Markdown(f"""
Training images {near_to["plain"][0]:.2f}, test images {near_to["plain"][1]:.2f} with the plain
recipe; {near_to["full"][0]:.2f} and {near_to["full"][1]:.2f} with the full one. Over the
{len(told)} arms with a teacher the correlation of accuracy with the distance is {slope[0]:.2f} on
training images and {slope[1]:.2f} on test images.
""".replace("-0", "−0"))

# %% [markdown]
# READ: two sentences. Does the full recipe close the gap between training and test images, and by being farther away on the former? Which of the two distances goes with accuracy? (Arms of one end share most of their settings, so this is a picture, not a proof.)
#
# ## Score the bet

# %% tags=["hide-input"]
mid, low, high = (100 * value for value in final.difference("full", "plain"))
kd.explore.score(recipe_bet, mid, interval=(low, high), digits=1)

# %% tags=["hide-input"]
_, low, high = by_end
more_, less_, same_ = teacher_bet.choices
held = [more_] * (low > 0) + [less_] * (high < 0) + [same_] * (low <= 0 <= high)
kd.explore.score(teacher_bet, held, note=f"Full minus plain: {told_as(by_end)}.")

# %% [markdown]
# ## What did not work

# %% tags=["hide-input"]
shown = {end: [name for name, pairs in brings.items() if final.difference(*pairs[end])[1] <= 0]
         for end in (0, 1)}
harm = [f"{name} ({'in full' if end else 'added'})" for name, pairs in brings.items()
        for end in (0, 1) if final.difference(*pairs[end])[2] < 0]
Markdown(f"""
- **Not shown to help when added to plain**: {"; ".join(shown[0]) or "none"}.
- **Not shown to help in the full recipe**: {"; ".join(shown[1]) or "none"}.
- **Shown to cost accuracy**: {"; ".join(harm) or "none"}.
""")

# %% [markdown]
# Mixed precision and several GPUs are parts of the recipe, too. They change the time, hardly the result; [how fast is it](speed.ipynb) measures the first.
#
# (break-it-12)=
# ## Break it
#
# A mistake of a library that many use, [ema-pytorch](https://github.com/lucidrains/ema-pytorch/blob/d65f4e3031067055a944282583afc5702d8592ad/ema_pytorch/ema_pytorch.py#L112) ([reported](https://github.com/lucidrains/ema-pytorch/issues/8) and repaired in 2023): the loop over *buffers* asked for `named_parameters`, so batch statistics were never averaged. Here it is again:

# %%
def parameters_only(average, student, d=0.98):
    for mean, new in zip(average.parameters(), student.parameters()):
        mean.data.lerp_(new.data, 1 - d)

def short_run(update, epochs=8):
    student = kd.models.convnet(width=16, classes=36, seed=0)
    average, rows = copy.deepcopy(student), []
    optimizer = torch.optim.AdamW(student.parameters(), 0.02)
    for epoch in range(epochs):
        for b in easy.train.batches(128, seed=0, epoch=epoch):
            loss = F.cross_entropy(student.train()(b.x), b.y)
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            update(average, student)
        rows.append([right(net, data.val) for net in (student, average)])
    return average, np.array(rows)


# %%
easy = images(False, False)
broken, planted = short_run(parameters_only)

# %% mystnb={"image": {"alt": "Validation accuracy by epoch. The student rises; its average stays near the dotted line of chance."}} tags=["hide-input"]
def draw(runs):
    axes = plt.subplots(1, 2, figsize=(6.6, 3), sharey=True)[1]
    for ax, (name, points) in zip(axes, runs.items()):
        for values, label, color, mark in zip(points.T, ("student", "its average"),
                                              ("black", BLUE), "os"):
            ax.plot(range(1, len(values) + 1), values, f"{mark}-", ms=5, color=color, label=label)
        ax.axhline(1 / 36, color=GREY, ls=":", label="chance")
        ax.set(title=name, xlabel="epoch", ylim=(0, 1))
    axes[0].set_ylabel("validation accuracy"), axes[0].legend(fontsize=10)
    axes[1].set_visible(len(runs) > 1)


draw({"planted": planted})

# %% [markdown]
# Training is untouched, and no error is raised. But the average normalises with the statistics of a network that was never trained: mean 0, variance 1. A check that fits into any code:

# %%
def check_moved(average, start):
    still = [name for (name, now), then in
             zip(average.named_buffers(), start.buffers())
             if torch.equal(now, then)]
    print("never updated:", ", ".join(still[:2]) or "nothing")

check_moved(broken, kd.models.convnet(width=16, classes=36, seed=0))

# %% [markdown]
# The repair averages the statistics as the weights are. (`scheme.averaged()` and `kd.EMA` do so.)

# %% mystnb={"image": {"alt": "The planted run and beside it the repaired one, in which the average rises with the student."}}
def all_of_it(average, student, d=0.98):
    parameters_only(average, student, d)
    for mean, new in zip(average.buffers(), student.buffers()):
        mean.data.copy_(d * mean + (1 - d) * new)

mended, repaired = short_run(all_of_it)
check_moved(mended, kd.models.convnet(width=16, classes=36, seed=0))
draw({"planted": planted, "repaired": repaired})

# %% [markdown]
# ## Exercises
#
# Each has a cell to fill in and a check, which prints "not done yet" until then.
#
# ### 1. Warm up: the input adapter
#
# `x` [B, C, H, W] was normalised with `mean` and `std` of the student, numbers or tensors [C, 1, 1]. Give what a teacher with `mean_to` and `std_to` must get.

# %% tags=["exercise-stub"]
def adapted(x, mean, std, mean_to, std_to):
    raise NotImplementedError


# %% tags=["exercise-check"]
with kd.checks.any_loss.report_stub():
    r = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    m, s, m2, s2 = (torch.tensor(t)[:, None, None] for t in (
        [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], [0.5] * 3, [0.4] * 3))
    x = (r - m) / s
    mine = adapted(x, m, s, m2, s2)
    for said_of, mistake in {
            "normalised twice: undo the student's": (x - m2) / s2,
            "in [0, 1], not normalised for the teacher": r,
            "the way back, from teacher to student": (s2 * x + m2 - m) / s,
    }.items():
        assert not torch.allclose(mine, mistake, atol=1e-4), (
            f"This is {said_of}.")
    assert torch.allclose(mine, (r - m2) / s2, atol=1e-4), (
        "Expected the pixels (r - mean_to) / std_to, with r = std x + mean.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def adapted(x, mean, std, mean_to, std_to):
#     return (std * x + mean - mean_to) / std_to
# ```
#
# **What you should see:** ✓. `kd.Live(teacher, transform=…)` takes such a function.
#
# </details>
#
# ### 2. Build: the label of a mixed image
#
# `mask` [B, 1, H, W] is the weight of the first image in each pixel. Give the soft labels [B, K] for class numbers `y` and `y2`.

# %% tags=["exercise-stub"]
def mixed_label(y, y2, mask, classes):
    raise NotImplementedError


# %% tags=["exercise-check"]
with kd.checks.any_loss.report_stub():
    a, b = torch.tensor([3, 0, 7]), torch.tensor([5, 0, 1])
    kept = torch.ones(3, 1, 10, 10)
    kept[0, 0, :5, 4:], kept[2] = 0, 0.2
    mine = mixed_label(a, b, kept, 9)
    assert mine.shape == (3, 9), (
        f"Expected labels [3, 9], got {list(mine.shape)}.")
    assert torch.allclose(mine.sum(1), torch.ones(3)), (
        "Each row must sum to 1: where both are one class, add.")
    assert not torch.isclose(mine[0, 5], torch.tensor(0.7)), (
        "The two labels have changed places: y has the share that was kept.")
    assert torch.allclose(mine[[0, 2], [3, 7]], torch.tensor([0.7, 0.2])), (
        "Expected the mean of each image's own mask as the share of y.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def mixed_label(y, y2, mask, classes):
#     share = mask.mean((1, 2, 3))[:, None]
#     first, second = (F.one_hot(one, classes).float() for one in (y, y2))
#     return share * first + (1 - share) * second
# ```
#
# **What you should see:** ✓. The share is that of the pixels, not the number that was drawn: a box at the edge is cut off.
#
# </details>
#
# ### 3. Explore: does the teacher see both?
#
# For logits `v` [B, K] of mixed images: in which of them are the two largest logits those of `y` and `y2`, in any order? Give booleans [B]; where both labels are one class, whether it is the largest. Bet first: for how many of the CutMix images that keep about half?

# %% tags=["exercise-stub"]
def sees_both(v, y, y2):
    raise NotImplementedError


# %% tags=["exercise-check"]
with kd.checks.any_loss.report_stub():
    v5 = torch.tensor([[4.0, 3, 0, 0.5], [3, 4, 0, 0.5], [4, 3, 0, 0.5],
                       [4, 3, 0, 0.5], [4, 3, 0, 0.5]])
    a, b = torch.tensor([0, 0, 0, 0, 1]), torch.tensor([1, 1, 3, 0, 1])
    mine = sees_both(v5, a, b)
    assert mine.shape == (5,) and mine.dtype == torch.bool, (
        f"Expected booleans [5], got {mine.dtype} {list(mine.shape)}.")
    assert mine[0] and mine[1], "The two may come in any order."
    assert not mine[2], "Row 2: only one of the labels is among the two."
    assert mine[3] and not mine[4], "Labels of one class: is it the largest?"


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def sees_both(v, y, y2):
#     two = v.topk(2, dim=1).indices.sort(1).values
#     named = torch.stack([y, y2], 1).sort(1).values
#     return torch.where(y == y2, v.argmax(1) == y, (two == named).all(1))
# ```
#
# **What you should see:** the numbers in the next fold.
#
# </details>

# %% tags=["hide-cell"]
def named_both(view):
    """How often both classes are the two largest logits, where 40 to 60 of 100 are kept."""
    v, share = given(True, True).logits[view - 1], mask(every, view).mean((1, 2, 3))
    y2 = y[partner(view)]
    half = ((share - 0.5).abs() < 0.1) & (y != y2)
    two = v.topk(2, 1).indices.sort(1).values
    return (two == torch.stack([y, y2], 1).sort(1).values).all(1)[half].float().mean()


Markdown(f"""
Both classes are the teacher's first two, of images that keep 40 to 60 of 100 parts: MixUp
{named_both(1):.0%}, CutMix {named_both(2):.0%}.
""")

# %% [markdown]
# ## Quiz

# %% tags=["remove-input"]
kd.explore.question(
    "A part brings +2.0 points (1.4 to 2.6) when it is added to plain, and +0.1 (−0.4 to +0.6) in "
    "the full recipe. What is the simplest reading?",
    {"Other parts of the full recipe do what it does.":
         "Alone it helps; beside the others it is not shown to add anything.",
     "It does nothing.": "Added to plain its interval excludes 0.",
     "The full recipe was badly tuned.": "Possible, but nothing in these two numbers says so."},
    name="12/both-ends", answer="Other parts")

# %% tags=["remove-input"]
kd.explore.question(
    "With recipe A a network reaches 79.5 % on labels. With recipe B and a teacher it reaches "
    "81.9 %. How much did the teacher add?",
    {"One cannot say: labels only with recipe B is missing.":
         "Two things changed. The missing run separates them.",
     "2.4 points.": "That is recipe and teacher together.",
     "At most 2.4 points.": "Not even that: the recipe could cost accuracy without a teacher."},
    name="12/missing-run", answer="One cannot say")

# %% tags=["remove-input"]
kd.explore.question(
    "CutMix was drawn with a share of 0.6, but the box lay half outside the image, so 0.8 of the "
    "pixels are the first image's. What is the label's share?",
    {"0.8": "The label follows the pixels that are there.",
     "0.6": "That was the plan; the image is another one.",
     "0.7": "There is no reason to take the mean of the two."},
    name="12/area", answer="0.8")

# %% tags=["remove-input"]
kd.explore.question(
    "After training a student is right on 86 % of the validation images, its moving average over "
    "50 steps on 3 %, of 36 classes. What do you look at first?",
    {"The average's batch statistics.":
         "3 % is chance: the average was not moved as a whole, as in “Break it”.",
     "The decay: 50 steps are too few.": "Fewer steps bring the average nearer to the student.",
     "The learning rate.": "The student, which was trained with it, is right on 86 %."},
    name="12/average", answer="The average's batch")

# %% [markdown]
# ## In the literature
#
# Published ImageNet results of a ResNet-50 at 224 pixels, and ours:

# %% tags=["hide-input"]
page = "https://github.com/Deci-AI/super-gradients/tree/00bb65a5e1faa137a268f6cb9cfe35223c1fa312"
here, labels = (f"{percent(f'plain{end}')}, {percent(f'full{end}')}"
                for end in ("", ", labels only"))
Markdown(f"""
| | teacher | epochs | accuracy |
|---|---|---|---|
| {{cite:t}}`he2019`: published before; all refinements and a changed network (ResNet-50-D) | at the end | 120, 200 | 75.3 %, 79.29 % |
| {{cite:t}}`wightman2021`, A1: LAMB, mixing, RandAugment | none | 600 | 80.4 % |
| {{cite:t}}`beyer2022`, mixing, no labels | BiT | 300 | 80.3 % |
| the same | BiT | 9,600 | 82.3 % |
| [the recipe]({page}) | BEiT-B | 610 | 81.91 % |
| here, glyphs: plain, full | ViT | 60 | {here} |
| here, labels only: plain, full | none | 60 | {labels} |
""")

# %% [markdown]
# None of the published ones has an interval. The recipe comes without a run on labels only, and its ten epochs were chosen on the images that are reported. The nearest run on labels is A1: another recipe, nearly as long, and 1.5 points below {cite:p}`wightman2021`. How much of this BEiT brings, we have not found published.
#
# What differs: the recipe's labels are also smoothed by 0.1, images come in three versions each, the batch has 1,536 images, and BEiT-B {cite:p}`bao2022` was trained on ImageNet-21k, fourteen million images, before. {cite:t}`he2019` add their refinements one after another, so each number depends on the order; with a teacher of another family they found that distillation cost Inception-V3 and MobileNet accuracy. {cite:t}`beyer2022` compare a teacher of one fixed view, the same view for both and the same mixed view for both; mixing pays with long training only. With labels only their set-up is much worse, and overfits.
#
# LAMB was made for batches of thousands {cite:p}`you2020`; ours have 128. Later optimisers, such as Muon {cite:p}`jordan2024`, were not tried.
#
# **What to expect on your images.** `python -m kdcourse.distil` is the recipe for folders of images, on one GPU or, by `torchrun`, on several; [its page](#own-recipe-script) says how, and `--without` leaves parts out. `--without teacher` is the missing run.
#
# ## Take-away

# %% tags=["hide-input"]
Markdown(f"""
1. **READ: which parts.** Full minus plain is {gap("full", "plain")}, both with the teacher and both
   tuned. Mixing brings {gap(*brings["MixUp, CutMix"][0])} alone and
   {gap(*brings["MixUp, CutMix"][1])} beside the others.
2. **READ: teacher or recipe.** The teacher adds {gap("full", "full, labels only")} to the full
   recipe on labels, the recipe {gap("full, labels only", "plain, labels only")} without a teacher.
3. **Measure a part from both ends**, and run the recipe without the teacher, too: only that run
   says what the teacher adds.
""")

# %% [markdown]
# ## Cost
#
# A training makes 238,080 forward and backward passes of the student. The teacher's outputs for 20 views are stored once for each of four kinds of views: 320,000 forward passes. By machine and day:

# %% [markdown] tags=["cost-table"]
#
