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
# A public recipe distils BEiT-B, a vision transformer, into a ResNet-50 that reaches [81.91 % on ImageNet](https://github.com/Deci-AI/super-gradients/blob/00bb65a5e1faa137a268f6cb9cfe35223c1fa312/src/super_gradients/recipes/imagenet_resnet50_kd.yaml). Beside the teacher it has mixed images, RandAugment, LAMB, warm-up, averaged weights and more. That number belongs to all the parts together. Which of them matter?
#
# Here the recipe is made small. Each part is added to a plain training, and removed from the full one. Both ends, and mixing, are also measured without the teacher.
#
# ```{admonition} In this chapter
# :class: note
# **You will be able to**
# - write the recipe's training step in plain PyTorch, with mixed images for both networks,
# - measure a part of a recipe from both ends, and read the difference of the two results,
# - separate what a teacher adds from what the recipe adds without one,
# - average weights so that batch normalisation still fits them.
#
# **You need** [chapter 1](01_hinton.ipynb): the loss, paired differences, why both sides are tuned.
#
# **Reading time** about 22 minutes, exercises not counted.
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
    "What the teacher adds to labels only is measured with the plain recipe, where its weight is "
    "0.5, and with the full one, where it is 0.8. With the full recipe it adds …",
    ["more.", "less.", "about as much: five seeds cannot tell."], "12/teacher")
teacher_bet

# %% [markdown]
# ## See it first
#
# **MixUp** {cite:p}`zhang2018mixup` blends two images, **CutMix** {cite:p}`yun2019` pastes a rectangle of one into another. The label is mixed by the same share. **RandAugment** {cite:p}`cubuk2020` applies operations that are drawn for each image. Our **stronger views** are a small version: two draws of brightness, contrast, sharpness or fewer grey levels, and shifts, turns and scales half as large again.
#
# All this is drawn for each image and each of 20 views, so that a teacher's outputs can be stored. Epoch $e$, counted from 0, has view $1 + e \bmod 20$. Odd views are for MixUp, even ones for CutMix.

# %%
data = kd.data.glyphs(train=4000, seed=0)
y, every = data.train.y, torch.arange(len(data.train))


# %% tags=["hide-cell"]
@functools.cache
def source(of):
    """The images of the student, or those of the teacher, which are others."""
    return data if of == "student" else kd.data.glyphs(train=40000, val=2000, test=36, seed=2000)


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
def partner(view, of="student"):
    """The image that each image is mixed with."""
    N = len(source(of).train)
    return torch.from_numpy(np.random.default_rng([0, view]).permutation(N))


# %% tags=["hide-cell"]
@functools.cache
def numbers(view, of="student"):
    """For each image the share it keeps, the middle of a box, and four numbers, [N, 7]."""
    rng, N = np.random.default_rng([1, view]), len(source(of).train)
    alpha = 0.2 if view % 2 else 1.0  # odd views are for MixUp, even ones for CutMix
    made = [rng.beta(alpha, alpha, N), *rng.uniform(-1, 1, (6, N))]
    return torch.tensor(np.stack(made, 1), dtype=torch.float32)


# %% tags=["hide-cell"]
def mask(index, view, of="student"):
    """The weight of an image in each pixel of the mixed image, [B, 1, H, W]."""
    drawn, size = numbers(view, of)[index], data.shape[1:]
    keep = drawn[:, 0, None, None]
    if view % 2:
        return keep[..., None].expand(-1, 1, *size)
    rows, columns = ((torch.linspace(-1, 1, side) - middle[:, None]).abs() < (1 - keep[:, 0]).sqrt()
                     for side, middle in zip(size, drawn[:, 1:3].T))
    return 1 - (rows[:, None, :, None] & columns[:, None, None, :]).float()


# %% tags=["hide-cell"]
def moved(strong, of="student"):
    """The data in 20 views: the standard ones, or half as strong again."""
    size = 1.5 if strong else 1
    return kd.augmented(source(of), views=20, shift=0.1 * size, degrees=11 * size,
                        scale=0.15 * size)


# %% tags=["hide-cell"]
@functools.cache
def pixels(strong, view, of="student"):
    """All training images in a view, before they are mixed, as bytes."""
    split = moved(strong, of).train
    x = split.seen(torch.arange(len(split)), view)
    return (255 * (strengthened(x, numbers(view, of)[:, 3:]) if strong else x)).round().byte()


def alone(strong, view, index, of="student"):
    """Some training images in a view, before they are mixed."""
    return pixels(strong, view, of)[index] / 255


# %% tags=["hide-cell"]
def soft_labels(index, view, mix, smooth, of="student"):
    """The labels of these images in a view, mixed and smoothed, [B, 36]."""
    all_labels = F.one_hot(source(of).train.y, 36).float()
    label = all_labels[index]
    if mix:
        share = mask(index, view, of).mean((2, 3))
        label = share * label + (1 - share) * all_labels[partner(view, of)[index]]
    return (1 - smooth) * label + smooth / 36


# %% tags=["hide-cell"]
class Views(Augmented):
    """Augmented views that may also be strengthened and mixed; smooth: of the labels."""

    strong, mix, smooth, of = False, False, 0.0, "student"

    def identity(self):
        return [*super().identity(), self.strong, self.mix, self.smooth, self.of]

    def seen(self, index, view):
        index = index.cpu()
        if view == 0:  # as they are
            return self.x[index.to(self.x.device)]
        x = alone(self.strong, view, index, self.of)
        if self.mix:
            kept, other = mask(index, view, self.of), partner(view, self.of)[index]
            x = kept * x + (1 - kept) * alone(self.strong, view, other, self.of)
        return x.to(self.x.device)

    def batches(self, size, seed=None, epoch=0):
        for batch in super().batches(size, seed, epoch):
            if (self.mix or self.smooth) and seed is not None:
                y = soft_labels(batch.index.cpu(), batch.view, self.mix, self.smooth, self.of)
                batch = dataclasses.replace(batch, y=y.to(batch.y.device))
            yield batch


# %% tags=["hide-cell"]
@functools.cache
def images(strong, mix, smooth=0.0, views=20, of="student"):
    """The data in these views."""
    made = moved(strong, of)
    seen = made.train
    kept = {"strong": strong, "mix": mix, "smooth": smooth}
    kind = type("Views", (Views,), kept | {"of": of})  # with these attributes
    train = kind(seen.x, seen.y, seen.augment, views, seen.seed)
    kept["views"] = views
    return dataclasses.replace(made, train=train, made="", params=made.params | kept)


# %% [markdown]
# The recipe's teacher was trained on mixed and distorted images, too. So ours, a vision transformer, learns from the labels of 40,000 other images in the same strong and mixed views:

# %% tags=["hide-cell"]
@functools.cache
def teacher():
    model = kd.models.vit(dim=64, depth=4, patch=8, stem="conv", seed=0)
    scheme = kd.Supervised(model)
    kd.fit(scheme, images(True, True, views=TEACHER_EPOCHS, of="teacher"),
           kd.Recipe(epochs=TEACHER_EPOCHS, lr=4e-3, validate_every=TEACHER_EPOCHS), seed=0)
    return kd.export(scheme)


# %% tags=["hide-cell"]
TEACHER_EPOCHS = 12


@functools.cache
def without_augmentation():
    """The same training on the images as they are."""
    model = kd.models.vit(dim=64, depth=4, patch=8, stem="conv", seed=0)
    scheme = kd.Supervised(model)
    kd.fit(scheme, source("teacher"), kd.Recipe(epochs=TEACHER_EPOCHS, lr=4e-3,
                                                validate_every=TEACHER_EPOCHS), seed=0)
    return kd.export(scheme)


@functools.cache
def of_the_4000():
    """A teacher of the student's own images: a ResNet."""
    return kd.teacher("glyphs-4000")


# %% tags=["hide-cell"]
class Later(kd.teachers.Teacher):
    """A network's outputs for these views, each computed when a run first needs it.

    asked: with the "same" image, each of the two "apart", or the "plain" one.
    """

    def __init__(self, network, strong, mix, views=20, asked="same"):
        super().__init__()
        self.network, self.asked, self.seen = network, asked, (strong, mix, views)

    def forward(self, batch, paths=()):
        logits = outputs(self, batch.view)[batch.index.cpu()]
        return kd.Output(logits.to(batch.x.device), index=batch.index)

    def predict(self, x, y=None):
        return kd.models.predict(self.network(), x)

    def identity(self):
        return [self.network, self.asked, self.seen]

    def __repr__(self):
        return f"{self.network.__name__} (strong, mix, views: {self.seen}, asked {self.asked})"


# %% tags=["hide-cell"]
@functools.cache
def outputs(later, view):
    """The logits of a `Later` for all training images in a view, [N, K]."""
    with torch.enable_grad():  # a teacher's outputs have no gradient, its training does
        network = later.network()
    strong, mix, views = later.seen
    if later.asked == "plain":
        return kd.models.predict(network, data.train.x)
    if later.asked == "apart":
        unmixed = outputs(given(strong, False, views, later.network), view)
        return mixed_up(unmixed.softmax(1), view)
    return kd.models.predict(network, images(strong, mix, views=views).train.seen(every, view))


# %% tags=["hide-cell"]
def mixed_up(p, view):
    """Logits of the mean of two images' probabilities [N, K], weighed as the images are."""
    share = mask(every, view).mean((2, 3))
    return (share * p + (1 - share) * p[partner(view)]).clamp_min(1e-30).log()


# %% tags=["hide-cell"]
@functools.cache
def given(strong, mix, views=20, network=teacher, asked="same"):
    """The outputs of a teacher for these views."""
    return Later(network, strong, mix, views, asked)


# %% [markdown]
# It is trained when a run first needs it (some minutes); recorded results need no teacher, and what is shown of it here is recorded, too.

# %% tags=["hide-cell"]
def example(view, about=0.6):
    """An image that keeps about this share when it is mixed: its place and its mixed label."""
    share = mask(every, view).mean((1, 2, 3))
    i = (share - about).abs().argmin()[None]
    first, second = (F.one_hot(y[j], 36)[0] for j in (i, partner(view)[i]))
    return i, share[i] * first + (1 - share[i]) * second


def labelled(logits, mix):
    """How often the largest logit, [N, K] in each view, is that of the label, or of the larger
    share."""
    found = []
    for view, v in enumerate(logits, 1):
        first = mask(every, view).mean((1, 2, 3)) >= 0.5 if mix else torch.ones(len(y)).bool()
        found.append((v.argmax(1) == torch.where(first, y, y[partner(view)])).float().mean())
    return float(np.mean(found))


def both_named(logits, view):
    """How often both classes are the two largest logits, where 40 to 60 of 100 are kept."""
    v, share, y2 = logits[view - 1], mask(every, view).mean((1, 2, 3)), y[partner(view)]
    half = ((share - 0.5).abs() < 0.1) & (y != y2)
    two = v.topk(2, 1).indices.sort(1).values
    return float((two == torch.stack([y, y2], 1).sort(1).values).all(1)[half].float().mean())


# %% tags=["hide-cell"]
KINDS = {"standard": (False, False), "stronger": (True, False), "mixed": (True, True)}


def accuracies(seed):
    """What share of images each teacher gets right, and what ours gives for two mixed images."""
    made = {}
    for name, network in (("teacher", teacher), ("no augmentation", without_augmentation),
                          ("own 4,000", of_the_4000)):
        made[name] = {"validation": right(network(), data.val)}
        for kind, (strong, mix) in KINDS.items():
            logits = [outputs(given(strong, mix, network=network), view) for view in range(1, 5)]
            made[name][kind] = labelled(logits, mix)
        made[name] |= {f"both {view}": both_named(logits, view) for view in (1, 2)}
    for view in (3, 2):
        x = images(True, True).train.seen(example(view)[0], view)
        p = kd.models.predict(teacher(), x).softmax(1)[0]
        made["teacher"][f"p {view}"] = p.tolist()
    return made


def right(net, split):
    return kd.measure.accuracy(kd.models.predict(net, split.x), split.y)


# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    teachers = kd.experiment.record(
        accuracies, [0], name="the teachers' accuracy", results="12",
        of=[images(*kind) for kind in KINDS.values()])


# %% mystnb={"image": {"alt": "Two mixed training images, the first blended by MixUp, the second with a rectangle pasted by CutMix. Beside each, as bars, the mixed label, which has two classes, and the teacher's probabilities for the mixed image."}}
figure, axes = plt.subplots(2, 3, figsize=(6.4, 4.4))
for row, view in zip(axes, (3, 2)):  # odd: MixUp, even: CutMix
    i, label = example(view)
    x = images(True, True).train.seen(i, view)[0]
    p = torch.tensor(teachers.values("teacher", f"p {view}")[0])
    k = (2 * label + p).topk(4).indices
    kd.plot.probabilities(
        x, {"mixed label": label[k], "teacher": p[k]},
        [data.classes[place] for place in k], 4, row)

# %% [markdown]
# The mixed label follows the shares. The teacher's probabilities are computed from the mixed image, and may have another order and other classes. {cite:t}`beyer2022` call this **function matching**: both networks get the same input, and the student learns the teacher's output for it.
#
# The recipe draws MixUp's share from Beta(0.2, 0.2), and so do we. For more than half of the images the smaller share is then below 0.05, which is hardly a mixture.

# %% tags=["hide-input"]
lines = "\n".join(
    f"| {name} | " + " | ".join(f"{teachers.values(arm, kind)[0]:.1%}"
                               for kind in ("validation", *KINDS)) + " |"
    for name, arm in (("the teacher: strong and mixed views", "teacher"),
                      ("a control: no augmentation", "no augmentation"),
                      ("a control: a ResNet, the student's own 4,000 images", "own 4,000")))
Markdown(f"""
How often each teacher is right. The last three columns are the student's training images in four
views each: the standard ones of this course, the stronger ones, and these when mixed, where the
class of the larger share counts as right.

| trained on | validation images | standard views | stronger views | mixed |
|---|---|---|---|---|
{lines}
""")

# %% [markdown]
# READ: one sentence: where the teacher trained on these views is ahead of the one without augmentation.

# %% mystnb={"image": {"alt": "Diagram of the recipe. An image is strengthened and mixed with a partner; the mixed image goes to the student, and through an input adapter to the teacher. The loss weighs the mixed label by 0.2 and the teacher by 0.8. LAMB with warm-up trains the student; behind it are its moving average and the mean of the best epochs, which is what is used."}} tags=["hide-input"]
BLUE, GREY, ORANGE, RED = kd.plot.BLUE, kd.plot.GREY, kd.plot.ORANGE, kd.plot.RED
ax = kd.plot.diagram({
    "image": (0, 1, GREY, "two images,\nstronger views,\nmixed"),
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
# The classes are O, 0 and X. An O (share 0.7) is blended with an X (0.3). The gradient moves a student at $\tfrac13$ each by *target minus output*. The O is a little narrow and the X is faint: the teacher's logits are $v = (3, 2, 0)$.

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
# **The input adapter.** Where the data loader normalises images for the student, they must be converted for a teacher that was trained with another mean and deviation. ImageNet's mean and deviation for red are 0.485 and 0.229; BEiT takes 0.5 and 0.5. A pixel $r = 0.8$ reaches the student as $x = 1.38$; the teacher must get $(0.229\,x + 0.485 - 0.5) / 0.5 = 0.6$. (The course's networks take $r$ and normalise it themselves.)
#
# ### In plain PyTorch
#
# Two images `x` and `x2` of each sample, and the weight `keep` of the first in each pixel:

# %%
def recipe_loss(student, teacher, adapter, x, x2, y, y2, keep, alpha=0.8):
    mixed = keep * x + (1 - keep) * x2
    share = keep.mean((1, 2, 3))  # of the pixels
    z = student(mixed)
    with torch.no_grad():
        v = teacher(adapter(mixed))
    labels = (share * F.cross_entropy(z, y, reduction="none")
              + (1 - share) * F.cross_entropy(z, y2, reduction="none"))
    copied = F.kl_div(z.log_softmax(1), v.log_softmax(1),
                      log_target=True, reduction="batchmean")  # T = 1
    return (1 - alpha) * labels.mean() + alpha * copied


# %% [markdown]
# In the package mixing is a matter of the data; the rest is the usual objective. The same number:

# %%
batch = next(images(True, True).train.batches(64, seed=0, epoch=1))
view = 1 + 1 % 20  # that of epoch 1
i, other = batch.index, partner(view)[batch.index]
student = kd.models.convnet(width=16, classes=36, seed=0)
network = kd.models.resnet(depth=8, width=16, stem_stride=2, seed=1).eval()
above = recipe_loss(student, network, lambda x: x, alone(True, view, i),
                    alone(True, view, other), y[i], y[other], mask(i, view))
package = kd.Distiller(student, network, 0.2 * CE() + 0.8 * KD(T=1))
print(f"above {above:.4f}   package {package(batch).loss:.4f}")


# %% [markdown]
# ## The experiment
#
# | part | plain | full |
# |---|---|---|
# | MixUp and CutMix, half of the views each | – | yes |
# | stronger views | – | yes |
# | weight decay on biases and norms | yes | – |
# | warm-up, 3 of 60 epochs, before the cosine | – | yes |
# | weight α of the teacher | 0.5 | 0.8 |
# | optimiser | AdamW | LAMB {cite:p}`you2020` |
# | moving average of the weights (EMA) {cite:p}`tarvainen2017` | – | yes |
# | mean of the ten best epochs | – | yes |
#
# **Warm-up**: the rate rises during the first steps, in which gradients are large. **Decay** pulls weights towards 0, which the scales of batch normalisation do not need {cite:p}`he2019`. **LAMB** makes the step of a layer proportional to the size of its weights; it was made for very large batches. The **moving average** $\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta$ takes the noise of single steps out of the weights; the **mean of the best epochs** averages weights that lie further apart. The adapter is not measured: without it the teacher would get wrong inputs.
#
# Shared by all arms: the standard views of this course, cosine, batch 128, $T = 1$ as in the recipe, and gradients clipped at norm 1, as the recipe's LAMB does. LAMB adapts the steps only of weights that have decay. So beside LAMB, decay on biases and norms changes two things at once. The recipe has CutMix with Beta(1, 1), as we do, α 0.8 where the library's default is 0.5, and 5 of 610 epochs warm-up. Its EMA is over 10,000 steps, twelve of its epochs; ours over 50, one and a half.

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
    smooth: float = 0.0  # label smoothing
    course: bool = False  # the optimiser's settings of chapter 1

plain = Parts()
full = Parts(mix=True, strong=True, exempt=True, warm=True,
             alpha=0.8, lamb=True)


# %% [markdown]
# Averages need no training of their own. One training keeps the student and its moving average after each of the last 20 epochs, and so gives four networks:
#
# | | last epoch | mean of the ten epochs that are best on validation images |
# |---|---|---|
# | student | **plain** | plain + mean of best epochs; full − moving average |
# | moving average | plain + moving average; full − mean of best epochs | **full** |
#
# In a mean the batch statistics are averaged like the weights, as in the recipe. {cite:t}`izmailov2018` average weights trained at a high rate, and compute the statistics anew. In our last 20 epochs the cosine falls from a quarter of the rate to 0, so these weights are close to each other, and we expect little from this part.

# %% tags=["hide-cell"]
EPOCH = len(data.train) // 128  # steps


class Kept:
    """Keeps the states of student and average after each of the last 20 epochs."""

    steps, kept = 0, ()

    def after_step(self):
        super().after_step()
        self.steps += 1
        if self.steps % EPOCH == 0:
            now = [{name: t.clone() for name, t in net.state_dict().items()}
                   for net in (self.student, self.judged)]
            self.kept = [*self.kept[-19:], now]


# %% tags=["hide-cell"]
class Distilled(Kept, kd.Distiller):
    pass


class Labelled(Kept, kd.Supervised):
    pass


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
LAST, EMA, BEST, BEST_EMA = range(4)


@functools.lru_cache(1)
def four(scheme):
    """The last weights, EMA, the mean of the ten best epochs, the same of EMA."""
    nets = [scheme.student, scheme.judged]
    means = [mean_of_best(net, [pair[place] for pair in scheme.kept])
             for place, net in enumerate(nets)]
    return nets + means


# %% tags=["hide-cell"]
def judged(scheme, split):
    """The accuracy of the four networks."""
    return [right(net, split) for net in four(scheme)]


def on_val(scheme, split):
    """The same on the validation images, whatever the split."""
    return [right(net, data.val) for net in four(scheme)]


# %% tags=["hide-cell"]
@functools.cache
def said(part):
    """The teacher's logits for the plain images."""
    with torch.enable_grad():
        network = teacher()
    return kd.models.predict(network, getattr(data, part).x)


# %% tags=["hide-cell"]
def nearness(scheme, split):
    """For each of the four: KL from the teacher on plain training images, on test images, and the
    share of test images for which both name the same class."""
    found = []
    for net in four(scheme):
        train, test = (kd.models.predict(net, part.x) for part in (data.train, data.test))
        found.append([kd.measure.teacher_kl(train, said("train")),
                      kd.measure.teacher_kl(test, said("test")),
                      kd.measure.agreement(test, said("test"))])
    return found


# %%
def scheme(parts, seed, of=None):
    net = kd.models.convnet(width=16, classes=36, seed=seed)
    a = parts.alpha
    if a == 0:
        return Labelled(net, CE()).averaged(0.98)
    objective = round(1 - a, 2) * CE() + a * KD(T=parts.T)
    of = of or given(parts.strong, parts.mix)
    return Distilled(net, of, objective).averaged(0.98)


# %% [markdown]
# `kd.Recipe` leaves biases and norms without decay by itself. To add the decay again, we make the optimiser ourselves:

# %%
def adamw(groups, lr):
    return torch.optim.AdamW(groups, lr)

def lamb(groups, lr):
    return Lamb(groups, lr)


# %%
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
def recipe(parts, rate, decay):
    if parts.course:  # one-cycle: a warm-up of 30 % of the steps
        return kd.Recipe(epochs=60, lr=rate, weight_decay=decay,
                         validate_every=60)
    return kd.Recipe(
        epochs=60, lr=rate, weight_decay=decay, schedule="cosine",
        warmup=0.05 if parts.warm else 0.0, clip=1.0, validate_every=60,
        optimizer=OPTIMIZERS[parts.lamb, parts.exempt])


# %% [markdown]
# **The search**, on the validation images with two seeds, moves from a setting to a better neighbour until none is left: learning rate × 2 and / 2, decay × 5 and / 5. These arms have one of their own: plain and full, both with mixing, no decay on biases, warm-up and LAMB exchanged, and both with labels only; and chapter 1's recipe with the teacher, with labels only, and with mixing. Recorded runs are loaded; a run of other code, data or settings is computed.
#
# All other arms have the settings of the arm with which they are compared. **Chapter 1's recipe** is a reference: AdamW, one-cycle with warm-up in 30 % of the steps, no decay on biases and norms, no clipping, $T = 4$ and α = 0.9.

# %% tags=["hide-cell"]
def trained(parts, setting, seeds, split="val", of=None, **also):
    """The rows of one arm."""
    seen = images(parts.strong, parts.mix, parts.smooth)
    with contextlib.redirect_stdout(io.StringIO()):
        return kd.compare({"arm": lambda seed: scheme(parts, seed, of)}, seen,
                          recipe(parts, *setting), seeds, split=split,
                          also={"judged": judged} | also, results="12").rows


# %% tags=["hide-cell"]
def near(setting):
    rate, decay = setting
    around = [(rate * 2, decay), (rate / 2, decay), (rate, decay * 5), (rate, decay / 5)]
    return [(round(r, 8), round(d, 8)) for r, d in around]


# %% tags=["hide-cell"]
def search(parts, place, start):
    """A setting that is better than its four neighbours, and how many were tried."""
    found, left = {}, [start]
    while left:
        rows = trained(parts, left[0], [0, 1])
        found[left[0]] = np.mean([row["judged"][place] for row in rows])
        best = max(found, key=found.get)
        left = [one for one in near(best) if one not in found]
    return best, len(found)


# %% tags=["hide-cell"]
ENDS = {"plain": (plain, LAST, (0.08, 0.01)), "full": (full, BEST_EMA, (0.02, 0.02))}
SIGN, OTHER = {"plain": "+", "full": "−"}, {"plain": "full", "full": "plain"}
CHANGED = {"MixUp, CutMix": "mix", "stronger views": "strong", "no decay on biases": "exempt",
           "warm-up": "warm", "α 0.8 for 0.5": "alpha", "LAMB for AdamW": "lamb"}


def changed(end, name):
    """An arm that has one part from the other end: its name, and all parts."""
    field = CHANGED[name]
    of_other = {field: getattr(ENDS[OTHER[end]][0], field)}
    return f"{end} {SIGN[end]} {name}", dataclasses.replace(ENDS[end][0], **of_other)


def without_teacher(parts):
    return dataclasses.replace(parts, alpha=0)


# %% tags=["hide-cell"]
as_in_1 = Parts(T=4, alpha=0.9, course=True)
of_1 = {"chapter 1": as_in_1, "chapter 1, labels only": without_teacher(as_in_1),
        "chapter 1 + MixUp, CutMix": dataclasses.replace(as_in_1, mix=True)}
at = {name: search(*end) for name, end in ENDS.items()}
at |= {name: search(parts, LAST, (0.32, 0.002)) for name, parts in of_1.items()}
for end, (parts, place, _) in ENDS.items():
    at[f"{end}, labels only"] = search(without_teacher(parts), place, at[end][0])
    for name in ("MixUp, CutMix", "no decay on biases", "warm-up", "LAMB for AdamW"):
        arm, swapped = changed(end, name)
        start = OTHER[end] if name == "LAMB for AdamW" else end
        at[arm] = search(swapped, place, at[start][0])

# %% tags=["hide-input"]
Markdown("<details><summary>The settings that were found</summary>\n\n"
         "| arm | rate | decay | settings tried |\n|---|---|---|---|\n" + "\n".join(
             f"| {name} | {rate:g} | {decay:g} | {count} |"
             for name, ((rate, decay), count) in at.items()) + "\n\n</details>")

# %% [markdown]
# The test images, once, with five seeds that no search has used:

# %% tags=["hide-cell"]
rows = []


def on_test(name, parts, place, setting, of=None):
    """Adds the rows of an arm: what the network of this place gets `right`, and how `near` it is.
    setting: the arm whose search it takes, where it has none of its own."""
    found = trained(parts, at.get(name, at[setting])[0], range(2, 7), split="test", of=of,
                    on_val=on_val, nearness=nearness)
    rows.extend(row | {"arm": name, "right": row["judged"][place], "near": row["nearness"][place]}
                for row in found)


# %% tags=["hide-cell"]
for end, (parts, place, _) in ENDS.items():
    on_test(end, parts, place, end)
    for part in CHANGED:
        on_test(*changed(end, part), place, end)
for name, added, removed in (("moving average", EMA, BEST), ("mean of best epochs", BEST, EMA)):
    on_test(f"plain + {name}", plain, added, "plain")
    on_test(f"full − {name}", full, removed, "full")

# %% tags=["hide-cell"]
for end, (parts, place, _) in ENDS.items():
    name, on_labels = f"{end}, labels only", without_teacher(parts)
    on_test(name, on_labels, place, name)
    on_test(f"{name} {SIGN[end]} MixUp, CutMix",
            dataclasses.replace(on_labels, mix=not parts.mix), place, name)
    on_test(f"{name}, smoothed", dataclasses.replace(on_labels, smooth=0.1), place, name)
for name, parts in of_1.items():
    on_test(name, parts, LAST, name)


# %% tags=["hide-cell"]
on_test("full, outputs mixed", full, BEST_EMA, "full", given(True, True, asked="apart"))
on_test("full, teacher of the 4,000", full, BEST_EMA, "full",
        given(True, True, network=of_the_4000))
on_test("full, teacher not augmented", full, BEST_EMA, "full",
        given(True, True, network=without_augmentation))
unmixed = "full − MixUp, CutMix"
for name, asked in (("fixed view", {"asked": "plain"}),
                    ("teacher not augmented", {"network": without_augmentation})):
    on_test(f"{unmixed}, {name}", dataclasses.replace(full, mix=False), BEST_EMA, unmixed,
            given(True, False, **asked))
final = kd.experiment.Comparison(rows, "plain", "right")


# %% tags=["hide-cell"]
def best_on_labels():
    """The arm on labels only, and the place of its network, that are best on validation images."""
    choices = [(arm, place) for arm in final.arms if "labels only" in arm for place in range(4)]
    return max(choices, key=lambda one: np.mean([scores[one[1]]
                                                 for scores in final.values(one[0], "on_val")]))


chosen, best_place = best_on_labels()
rows.extend([row | {"arm": "best on labels", "right": row["judged"][best_place]}
             for row in rows if row["arm"] == chosen])


# %% tags=["hide-input"]
def told_as(triple, unit=" points"):
    mean, low, high = (100 * value for value in triple)
    n = 2 if min(abs(low), abs(high)) < 0.05 else 1  # an end that would round to 0
    return f"{mean:+.{n}f}{unit} ({low:+.{n}f} to {high:+.{n}f})".replace("-", "−")


def gap(name, other, unit=" points"):
    return told_as(final.difference(name, other), unit)


# %% tags=["hide-input"]
def by_seed(pair):
    return np.subtract(*(final.values(arm) for arm in pair))


def more(first, second):
    """How much larger one paired difference is than another, each a pair of arms."""
    return kd.measure.paired_difference(list(by_seed(first)), list(by_seed(second)))


# %% tags=["hide-input"]
brings = {name: ((f"plain + {name}", "plain"), ("full", f"full − {name}"))
          for name in (*CHANGED, "moving average", "mean of best epochs")}
brings = dict(sorted(brings.items(), key=lambda part: -final.difference(*part[1][1])[0]))


# %% tags=["remove-input"]
def drawn_at(ax, place, pair, color):
    """One row: a dot for each seed, the mean and its interval, in points."""
    points = 100 * by_seed(pair)
    mid, low, high = kd.measure.interval(list(points))
    ax.plot(points, [place + 0.22] * len(points), ".", color=color, alpha=0.6)
    ax.errorbar(mid, place, xerr=[[mid - low], [high - mid]], fmt="o", ms=7, lw=2, capsize=4,
                color=color)
    ax.annotate(f"{mid:+.1f}".replace("-", "−"), (mid, place), (0, 7), fontsize=10, color=color,
                textcoords="offset points", ha="center")


# %% mystnb={"image": {"alt": "Two panels side by side with one row for each of eight parts of the recipe, in the order of the right panel: MixUp and CutMix, stronger views, no decay on biases, warm-up, alpha, LAMB, moving average, mean of best epochs. Left: the points of test accuracy that the part brings when it is added to the plain recipe. Right: the points that it brings in the full recipe, that is full minus full without it. Each row has a dot for each of five seeds, the mean and a 95 percent interval; a line at zero is no effect, and to its right the part helps."}} tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(6.8, 5), sharey=True, sharex=True)
for place, pairs in enumerate(brings.values()):
    for ax, pair in zip(axes, pairs):
        drawn_at(ax, place, pair, BLUE)
for ax, title in zip(axes, ("added to plain", "in full: full − without it")):
    ax.axvline(0, color="black", lw=1.2), ax.grid(False, axis="y")
    ax.set(title=title, xlabel="points; above 0 it helps")
axes[0].set_yticks(range(len(brings)), brings), axes[0].set_ylim(len(brings) - 0.5, -0.8)
figure.suptitle("READ: which parts carry the student", x=0.02, ha="left", fontweight="bold")

# %% tags=["hide-input"]
in_sum = list(sum(by_seed(pairs[0]) for pairs in brings.values()))
whole = list(by_seed(("full", "plain")))
Markdown(f"""
Plain {final.mean("plain"):.1%}, full {final.mean("full"):.1%}: full minus plain is
{gap("full", "plain")}. The gains of the eight parts, each added to plain alone, sum to
{told_as(kd.measure.interval(in_sum))}; minus the whole that is
{told_as(kd.measure.paired_difference(in_sum, whole))}.

<details><summary>Right panel minus left panel, points</summary>

| part | in full minus added to plain |
|---|---|
""" + "\n".join(f"| {name} | {told_as(more(pairs[1], pairs[0]), '')} |"
                for name, pairs in brings.items()) + "\n\n</details>")

# %% [markdown]
# READ: five sentences. (1) Is the full recipe ahead, by the interval? (2) Which parts does the left panel separate from 0, and which the right one? (Of sixteen such intervals 0.8 exclude 0 by chance.) (3) For which parts does right minus left exclude 0, and in which direction? (4) Is the sum of the single gains shown to be more or less than the whole? (5) With which parts is nothing shown, and what do their intervals exclude?

# %% tags=["hide-input"]
def percent(arm):
    return f"{final.mean(arm):.1%}"


Markdown(f"""
**Chapter 1's recipe**, with this teacher: {percent("chapter 1")}. To that, full is
{gap("full", "chapter 1")}, plain {gap("plain", "chapter 1")}. Mixed images change it by
{gap("chapter 1 + MixUp, CutMix", "chapter 1")}, its teacher adds
{gap("chapter 1", "chapter 1, labels only")} to labels only, {percent("chapter 1, labels only")}.
""")

# %% [markdown]
# READ: is the full recipe ahead of chapter 1's, or behind? What do plain and full lack?

# %% tags=["hide-input"]


def in_four_ways(arm):
    means = np.mean(final.values(arm, "judged"), 0)
    return f"| {arm} | " + " | ".join(f"{value:.1%}" for value in means) + " |"


ways = "\n".join(in_four_ways(f"{end}{also}") for end in ENDS for also in ("", ", labels only"))
Markdown(f"""<details><summary>Four arms judged in all four ways</summary>

| | last | moving average | mean of ten | mean of ten averages |
|---|---|---|---|---|
{ways}

</details>""")

# %% [markdown]
# ### What does the teacher add to an equally good recipe?
#
# Label smoothing of 0.1, which the recipe has, may help a student on labels most. So the teacher is also compared with the **best on labels**: of the seven arms on labels only, each judged in four ways, the one that is best on the validation images.

# %% tags=["hide-input"]
by_end = more(("full", "full, labels only"), ("plain", "plain, labels only"))
mixing = {"plain, labels only": ("plain, labels only + MixUp, CutMix", "plain, labels only"),
          "plain, teacher": ("plain + MixUp, CutMix", "plain"),
          "full, labels only": ("full, labels only", "full, labels only − MixUp, CutMix"),
          "full, teacher": ("full", "full − MixUp, CutMix")}
with_teacher = [told_as(more(mixing[f"{end}, teacher"], mixing[f"{end}, labels only"]))
                for end in ENDS]


# %% tags=["remove-input"]
by_teacher = "\n".join(
    f"| {end} | {percent(f'{end}, labels only')} | {percent(end)} | "
    f"{gap(end, f'{end}, labels only', '')} | {gap(end, 'best on labels', '')} |" for end in ENDS)
by_mixing = "\n".join(f"| {name} | {gap(*pair, '')} |" for name, pair in mixing.items())
smoothed = [gap(f"{end}, labels only, smoothed", f"{end}, labels only") for end in ENDS]

# %% tags=["hide-input"]
Markdown(f"""
| recipe | labels only | teacher | teacher adds | minus best on labels |
|---|---|---|---|---|
{by_teacher}

Best on labels is *{chosen}* ({percent("best on labels")}). Smoothing brings {smoothed[0]} in plain
and {smoothed[1]} in full. With the full recipe the teacher adds {told_as(by_end)} more than with
the plain one. Without a teacher the recipe brings
{gap("full, labels only", "plain, labels only")}.

| MixUp and CutMix, in | bring, points |
|---|---|
{by_mixing}

With the teacher minus on labels: {with_teacher[0]} in plain, {with_teacher[1]} in full.
""")

# %% [markdown]
# READ: four sentences. Does the recipe or the teacher bring more? Is the teacher ahead of the best on labels, at both ends? Does it add more with the full recipe, and is that shown? (The two ends also differ in α.) Does mixing do more for a student with a teacher than on labels? (On labels mixing has no search of its own.)
#
# ### Controls

# %% tags=["hide-input"]
CONTROLS = (("full, teacher not augmented", "full"),
            (f"{unmixed}, teacher not augmented", unmixed),
            ("full, outputs mixed", "full"), ("full, teacher of the 4,000", "full"),
            (f"{unmixed}, fixed view", unmixed))
same_data = gap("full, teacher of the 4,000", "full, labels only")
Markdown("| control | compared with | control minus that, points |\n|---|---|---|\n" + "\n".join(
    f"| {name} | {other} | {gap(name, other, '')} |" for name, other in CONTROLS) + f"""

The teacher of the 4,000 minus full with labels only: {same_data}.
""")

# %% [markdown]
# - *Not augmented*: a teacher of the same kind that was trained as long on plain images. READ: does the teacher have to be trained on the views that it is asked about? With mixing and without?
# - *Outputs mixed*: the teacher gets the two images one by one, and its two outputs are mixed by the share. READ: does the teacher have to get the mixed image itself?
# - *Teacher of the 4,000*: it has seen no other image than the student, in the standard views. READ: how much of what the teacher adds to full remains? (Chapter 1 has such a teacher in a plain training.)
# - *Fixed view*: the student gets stronger views, and the teacher's output for the plain image. READ: does the teacher have to get the same view?
#
# ## Why
#
# A student that copies its teacher on the views of training may still differ from it elsewhere. So we measure the distance (KL at $T = 1$) twice: on the plain training images, and on test images that neither was trained on. It is that of the network whose accuracy is reported.

# %% mystnb={"image": {"alt": "Scatter plot. Across: distance to the teacher on plain training images, upwards: on test images, one point for each arm, mean of five seeds. A dashed diagonal is where both are equal. Black: plain recipe and plain with a part added. Blue: full recipe and full with a part removed. Grey: labels only."}} tags=["hide-input"]
ax = plt.subplots(figsize=(6.4, 4))[1]
arms = [arm for arm in final.arms if not any(part in arm for part in
                                              ("chapter 1", "4,000", "not augmented", "best on"))]
near_to = {arm: np.mean(final.values(arm, "near"), 0) for arm in arms}
on_labels = [arm for arm in arms if "labels only" in arm]
taught = {end: [arm for arm in arms if arm.startswith(end) and arm not in on_labels]
          for end in ENDS}
for label, color, names in (
        ("labels only", GREY, on_labels), ("plain, or with a part", "black", taught["plain"]),
        ("full, or changed", BLUE, taught["full"])):
    ax.plot(*np.array([near_to[arm][:2] for arm in names]).T, "o", color=color, label=label)
ax.plot([0, ax.get_xlim()[1]], [0, ax.get_xlim()[1]], "--", color=GREY, lw=1)
ax.set(xlabel="distance on training images", ylabel="distance on test images",
       title="READ: nearer on new images, or only on old ones")
ax.legend();

# %% tags=["hide-input"]
def correlations(end):
    """Over the arms of an end: accuracy with both distances and with agreement."""
    accuracy = [final.mean(arm) for arm in taught[end]]
    found = (np.corrcoef([near_to[arm][k] for arm in taught[end]], accuracy)[0, 1]
             for k in range(3))
    return " | ".join(f"{value:.2f}" for value in found).replace("-", "−")


lines = "\n".join(
    f"| {end} | {near_to[end][0]:.2f} | {near_to[end][1]:.2f} | {near_to[end][2]:.1%} | "
    f"{correlations(end)} |" for end in ENDS)
Markdown(f"""
| | distance, training | test | agreement, test | accuracy with the first | second | third |
|---|---|---|---|---|---|---|
{lines}

The last three columns are correlations over {len(taught["plain"])} arms of plain and
{len(taught["full"])} of full, all with the teacher.
""")

# %% [markdown]
# READ: two sentences. Does the full recipe narrow the gap between training and test images, and by being farther away on the former? Within each end, which of the three goes with accuracy? (The arms of an end share most settings, and agreement with a teacher that is mostly right is close to accuracy: this shows no cause.)
#
# ## Score the bet

# %% tags=["hide-input"]
mid, low, high = (100 * value for value in final.difference("full", "plain"))
kd.explore.score(recipe_bet, mid, interval=(low, high), tolerance=0.5, digits=1)

# %% tags=["hide-input"]
_, low, high = by_end
more_, less_, same_ = teacher_bet.choices
held = [more_] * (high > 0) + [less_] * (low < 0) + [same_] * (low <= 0 <= high)
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
# Mixed precision and several GPUs are parts of the recipe, too. They are there to save time; [how fast is it](speed.ipynb) measures the first. Longer trainings were not tried.
#
# (break-it-12)=
# ## Break it
#
# A mistake of a library that many use, [ema-pytorch](https://github.com/lucidrains/ema-pytorch/blob/d65f4e3031067055a944282583afc5702d8592ad/ema_pytorch/ema_pytorch.py#L112) ([reported](https://github.com/lucidrains/ema-pytorch/issues/8) and repaired in 2023): the loop over *buffers* asked for `named_parameters`, so batch statistics were never averaged. Here it is again:

# %%
def parameters_only(average, student, d=0.98):
    for mean, new in zip(average.parameters(), student.parameters()):
        mean.data.lerp_(new.data, 1 - d)


# %%
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

# %% mystnb={"image": {"alt": "Validation accuracy by epoch. The student rises; its average stays far below, near the dotted line of chance."}} tags=["hide-input"]
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

# %% tags=["hide-input"]
Markdown(f"""
After the last epoch the student is right on {planted[-1, 0]:.0%} of the validation images, its
average on {planted[-1, 1]:.0%}; chance is {1 / 36:.0%}.
""")

# %% [markdown]
# READ: is the average at chance, or only far below the student? Training is untouched, and no error is raised. But the average normalises with the statistics of a network that was never trained: mean 0, variance 1. A check that fits into any code:

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
        if mean.is_floating_point():
            mean.data.lerp_(new.data, 1 - d)
        else:  # the number of batches
            mean.data.copy_(new.data)

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
    want = torch.zeros(3, 9)
    want[0, 3], want[0, 5], want[1, 0] = 0.7, 0.3, 1
    want[2, 7], want[2, 1] = 0.2, 0.8
    assert torch.allclose(mine, want, atol=1e-5), (
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
# ### 3. Explore: are both classes the teacher's first two?
#
# For logits `v` [B, K] of mixed images: in which of them are the two largest logits those of `y` and `y2`, in any order? Give booleans [B]; where both labels are one class, whether it is the largest. Bet first: for how many of the CutMix images that keep about half?

# %% tags=["exercise-stub"]
def both_first(v, y, y2):
    raise NotImplementedError


# %% tags=["exercise-check"]
with kd.checks.any_loss.report_stub():
    first, flat = [4, 3, 0, 0.5], [0.03, 0.01, 0, 0.02]
    v8 = torch.tensor([first, [3, 4, 0, 0.5], first, first, first,
                       [4, 0, 0.5, 3], flat, flat])
    a, b = torch.tensor([[0, 0, 0, 0, 1, 1, 0, 1], [1, 1, 3, 0, 1, 2, 3, 2]])
    mine = both_first(v8, a, b)
    assert mine.shape == (8,) and mine.dtype == torch.bool, (
        f"Expected booleans [8], got {mine.dtype} {list(mine.shape)}.")
    assert mine[0] and mine[1], "The two may come in any order."
    assert not mine[2], "Row 2: only one of the labels is among the two."
    assert not mine[5], "Row 5: 0 and 3 are the largest, not 1 and 2."
    assert mine[6] and not mine[7], (
        "Rows 6 and 7: logits are close together, and the order counts.")
    assert mine[3] and not mine[4], "Labels of one class: is it the largest?"


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def both_first(v, y, y2):
#     two = v.topk(2, dim=1).indices.sort(1).values
#     named = torch.stack([y, y2], 1).sort(1).values
#     return torch.where(y == y2, v.argmax(1) == y, (two == named).all(1))
# ```
#
# **What you should see:** the numbers in the next fold.
#
# </details>

# %% tags=["hide-input"]
named = [teachers.values("teacher", f"both {view}")[0] for view in (1, 2)]
Markdown(f"""
Both classes are the teacher's first two, of images that keep 40 to 60 of 100 parts: MixUp
{named[0]:.0%}, CutMix {named[1]:.0%}.
""")

# %% [markdown]
# ## Quiz

# %% tags=["remove-input"]
kd.explore.question(
    "A part brings +2.0 points (1.4 to 2.6) when it is added to plain, and +0.1 (−0.4 to +0.6) in "
    "the full recipe. What do these two intervals show?",
    {"It helps plain; in full it brings less than a point.":
         "The first excludes 0, the second everything above 0.6.",
     "It does nothing in the full recipe.":
         "The second interval holds 0, but also gains of half a point.",
     "Other parts of the full recipe do the same.":
         "Possible, but there are other reasons. A run without those parts would tell."},
    name="12/both-ends", answer="It helps plain")

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
library = "https://github.com/Deci-AI/super-gradients/blob/00bb65a5e1faa137a268f6cb9cfe35223c1fa312"
kd_page, labels_page = (f"{library}/src/super_gradients/recipes/imagenet_resnet50{kind}.yaml"
                        for kind in ("_kd", ""))
bit_page = ("https://github.com/google-research/big_vision/blob/"
            "2f3f493af048dbfd97555ff6060f31a0e686f17f/big_vision/configs/proj/distill/README.md")
here, labels = (f"{percent(f'plain{end}')}, {percent(f'full{end}')}"
                for end in ("", ", labels only"))
Markdown(f"""
| | teacher | epochs | accuracy |
|---|---|---|---|
| [the recipe]({kd_page}) | BEiT-B | 610 | 81.91 % |
| [the same library on labels]({labels_page}) | none | 400 | 79.47 % |
| {{cite:t}}`wightman2021`, A1 | none | 600 | 80.4 % |
| {{cite:t}}`he2019`, ResNet-50-D: on labels, with teacher | ResNet-152-D | 120 | 78.31 %, 78.67 % |
| the same with MixUp | ResNet-152-D | 200 | 79.15 %, 79.29 % |
| {{cite:t}}`beyer2022` | BiT | 300, 9,600 | 80.3 %, 82.3 % |
| [their released student]({bit_page}) | BiT | | 82.8 % |
| {{cite:t}}`hao2023vanilla`: KD, no further loss | | | 83.1 % |
| here, glyphs: plain, full | ViT | 60 | {here} |
| here, labels only: plain, full | none | 60 | {labels} |
""")

# %% [markdown]
# None of the published ones has an interval. The recipe comes without a run on labels only, and its ten epochs were chosen on the images that are reported. Nearest is the same library's recipe on labels: the same MixUp, CutMix, smoothing and RandAugment, but SGD, no moving average, each image once in an epoch and 400 epochs. It is 2.4 points below ([both](https://github.com/Deci-AI/super-gradients/tree/00bb65a5e1faa137a268f6cb9cfe35223c1fa312/src/super_gradients/recipes)). A1 has LAMB, the same mixing and no moving average either, but binary cross-entropy: 1.5 points below {cite:p}`wightman2021`. How much BEiT brings to the recipe itself, we have not found published.
#
# The second bet can be read in the table of {cite:t}`he2019`: the teacher adds 0.36 points without MixUp and 0.14 with it. With their teacher, a ResNet, Inception-V3 and MobileNet became worse. {cite:t}`beyer2022` compare a teacher of one fixed view, the same view for both and the same mixed view for both; in their published configuration all images are mixed and labels are not used. There mixing pays with long training only; ours is short.
#
# What differs from the recipe: its labels are smoothed by 0.1, images come in three versions each, the batch has 1,536 images, the rate stays at its end for the last ten epochs, and BEiT-B {cite:p}`bao2022` was trained before on the fourteen million images of ImageNet-21k, first without labels, then [with them](https://huggingface.co/timm/beit_base_patch16_224.in22k_ft_in22k_in1k).
#
# LAMB was made for batches of thousands {cite:p}`you2020`; ours have 128. Later optimisers, such as Muon {cite:p}`jordan2024`, were not tried.
#
# **What to expect on your images.** `python -m kdcourse.distil` is the recipe for folders of images, on one GPU or, by `torchrun`, on several; [its page](#own-recipe-script) says how, and `--without` leaves parts out. `--without teacher` is the missing run.
#
# ## Take-away

# %% tags=["hide-input"]
Markdown(f"""
1. **READ: which parts.** Full minus plain is {gap("full", "plain")}, both with the teacher and both
   tuned. Mixing brings {gap(*brings["MixUp, CutMix"][0])} added to plain and
   {gap(*brings["MixUp, CutMix"][1])} in full.
2. **READ: teacher or recipe.** The teacher adds {gap("full", "full, labels only")} to the full
   recipe on labels, and {gap("full", "best on labels")} to the best arm on labels. Without a
   teacher the recipe brings {gap("full, labels only", "plain, labels only")}.
3. **Measure a part from both ends**, and run the recipe without the teacher, too: that run shows
   what the teacher adds.
""")

# %% [markdown]
# ## Cost
#
# A training makes 238,080 forward and backward passes of the student. The teacher's training makes 480,000 of the transformer. Its outputs for 20 views are computed once for each of four kinds of views: 320,000 forward passes; the controls make as many. By machine and day:

# %% [markdown] tags=["cost-table"]
#
