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
# # Does a vision transformer learn more from soft labels, hard labels, or a distillation token?
#
# In 2021 Touvron and others trained vision transformers with a convnet as the teacher, and called them DeiT {cite:p}`touvron2021`. Their table says two surprising things. A **hard** label, the teacher's first choice and nothing else, taught more than its soft probabilities. And a second token, trained on the teacher alone, taught a little more again.
#
# But in the soft row of that table the teacher had a weight of 0.1, and the code divided its part by the 1,000 classes. What happens when soft and hard get the same search?
#
# ```{admonition} In this chapter
# :class: note
# **You will be able to**
# - write DeiT's three losses in plain PyTorch, and add a distillation token to a transformer,
# - compute how much of the gradient comes from the teacher, before you compare two losses,
# - tell from the teacher's outputs when a hard label says something that the label does not,
# - name the control that separates a distillation token from a second head.
#
# **You need** [chapter 1](01_hinton.ipynb): temperature, the loss, paired differences. Tokens and attention are explained in [chapter 6](06_vit_and_convnets.ipynb).
#
# **Reading time** about 24 minutes, exercises not counted.
# ```

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:  # on Colab only: the package is not there yet
    # %pip install -q "kdcourse @ git+https://github.com/kdcourse/kdcourse"

# %%
import contextlib
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from torch import nn

import kdcourse as kd
from kdcourse.losses import CE, KD, HardLabel, LabelSmoothing

kd.plot.style()

# %% [markdown]
# What this chapter costs on a computer, read from the recorded results:

# %% [markdown] tags=["opening-time"]
#

# %% [markdown]
# ## The bet
#
# A small vision transformer gets 4,000 images in 20 augmented views each. Its teacher, a convnet, sees the same views. Learning rate and weight decay are searched for every way to learn, the weight of the teacher for soft and for hard.

# %% tags=["hide-input"]
soft_bet = kd.explore.bet(
    "By how many points is the student with soft labels more accurate on the test images than the "
    "one with hard labels? (Below 0: hard is better.)", (-5, 5), "07/soft-hard", unit="points",
    step=0.1)
soft_bet

# %% tags=["hide-input"]
token_bet = kd.explore.bet(
    "The class token keeps the label; the hard label goes to a second token with a head of its "
    "own, and both heads answer together. Compared with the hard label on the class token, the "
    "student is …",
    ["more accurate.", "less accurate.", "about equal: ten seeds cannot tell."], "07/token")
token_bet

# %% [markdown]
# ## See it first
#
# A hard label differs from the label only where the teacher's first choice is another class. Two teachers, both ResNets: one was trained on 40,000 other images, the other on the student's own 4,000 with the same kind of augmentation, as DeiT's teacher was.

# %%
data = kd.data.glyphs(train=4000, seed=0)
augmented = kd.augmented(data, views=20, shift=0.1, degrees=11, scale=0.15)
y, every = data.train.y, torch.arange(4000)

# %%
teachers = {"40,000 others": kd.teacher("glyphs"),
            "the same 4,000": kd.teacher("glyphs-4000")}
stored = {name: kd.Cached(teacher, augmented)
          for name, teacher in teachers.items()}

# %%
for name, teacher in teachers.items():
    v = kd.models.predict(teacher, data.val.x)
    right = kd.measure.accuracy(v, data.val.y)
    other = (stored[name].logits.argmax(2) != y).float().mean()
    print(f"{name}: right on {right:.1%} of the validation images, "
          f"\n  first choice is not the label on {other:.1%} of the views")

# %% mystnb={"image": {"alt": "Two views of training images. Beside each, as bars: the label, the hard label and the soft label of the teacher at a temperature of 3. In the first row label and hard label are the same; in the second the hard label is another class. The soft label gives several classes a probability in both rows."}}
given = stored["40,000 others"]
v, seen = given.logits[0], augmented.train.seen(every, view=1)
new = v.argmax(1) != y
figure, axes = plt.subplots(2, 4, figsize=(6.8, 4.4))
for row, i in zip(axes, ((~new).nonzero()[0, 0], new.nonzero()[0, 0])):
    label, hard = F.one_hot(torch.stack([y[i], v[i].argmax()]), 36)
    kd.plot.probabilities(seen[i], {
        "label": label, "hard": hard, "soft, T = 3": (v[i] / 3).softmax(0)},
        data.classes, top=4, axes=row)
figure.tight_layout()

# %% [markdown]
# In the first row the hard label is the label, and adds nothing. In the second it is another class. The soft label says more in both: how sure the teacher is, and which classes come next.
#
# DeiT can give the two labels to two **tokens**. A class token is a learned vector that joins the tokens of the image; attention lets all tokens exchange what they hold, and a head reads the class from it. The distillation token is a second one:

# %% mystnb={"image": {"alt": "Diagram. 16 tokens of the view, a class token and a distillation token go into a transformer. Behind it the class token has a head that gets the label, with the weight one minus lambda, and the distillation token has another head that gets the teacher's label, with the weight lambda. The teacher sees the same view as the student."}} tags=["hide-input"]
ax = kd.plot.diagram({
    "class": (0, 2, "black", "class token"),
    "patches": (0, 1, kd.plot.GREY, "4 × 4 tokens\nof the view"),
    "token": (0, 0, kd.plot.BLUE, "distillation\ntoken"),
    "mix": (1.3, 1, kd.plot.GREY, "transformer:\nattention\namong all"),
    "head": (2.5, 2, "black", "head"),
    "head_dist": (2.5, 0, kd.plot.BLUE, "head"),
    "label": (3.7, 2, "black", "label"),
    "teacher": (3.7, 0, kd.plot.ORANGE, "teacher,\nsame view")}, [
    ("class", "mix"), ("patches", "mix"), ("token", "mix"), ("mix", "head"), ("mix", "head_dist"),
    ("label", "head", "× (1 − λ)"), ("teacher", "head_dist", "× λ")])
ax.figure.set_size_inches(6.8, 3.8)
ax.set_title("Two tokens, two heads, two labels");

# %% [markdown]
# ## The idea
#
# ### By hand, on three classes
#
# The classes are O, 0 and X. The label is O; the teacher's logits are $v = (3, 4, -3)$: its first choice is the 0. A student that starts at $\tfrac13$ each is pushed by *target minus output*, the negative gradient of the cross-entropy (the soft loss below multiplies the last row by $T$ = 3):

# %%
v3, q = torch.tensor([3.0, 4, -3]), torch.full((3,), 1 / 3)
for name, target in {"label": torch.tensor([1.0, 0, 0]),
                     "hard": F.one_hot(v3.argmax(), 3),
                     "soft, T = 1": v3.softmax(0),
                     "soft, T = 3": (v3 / 3).softmax(0)}.items():
    print(f"{name:12s} target", *(f"{p:.2f}" for p in target),
          "  push", *(f"{p:+.2f}" for p in target - q))

# %% [markdown]
# The hard label contradicts the label. The soft one at $T$ = 3 raises both, the O and the 0.
#
# ### Three losses
#
# $z$ are the student's logits, $y$ is the label, $y_t = \arg\max_k v_k$ the teacher's first choice:
#
# $$\text{soft:}\quad (1 - \lambda)\,\mathrm{CE}(y, z) + \lambda\, T^2\, \mathrm{KL}(p_T \,\|\, q_T)$$
#
# $$\text{hard:}\quad (1 - \lambda)\,\mathrm{CE}(y, z) + \lambda\, \mathrm{CE}(y_t, z)$$
#
# $$\text{token:}\quad (1 - \lambda)\,\mathrm{CE}(y, z^{\text{class}}) + \lambda\, \mathrm{CE}(y_t, z^{\text{distil}})$$
#
# The paper has λ = ½ for hard and token, and for soft "the typical values" $T$ = 3 and λ = 0.1 (section 6; at ICML $T$ = 3 or 1). Its equation 2 writes the student first, in the divergence and in the cross-entropy alike; its code computes both as usual. In plain PyTorch, with one token `first` and `second` are the same logits:

# %%
def deit_loss(first, second, v, y, lam, kind, T=3):
    labels = F.cross_entropy(first, y)
    if kind == "hard":
        told = F.cross_entropy(second, v.argmax(1))
    else:
        log_q, log_p = ((a / T).log_softmax(1) for a in (second, v))
        told = T**2 * F.kl_div(log_q, log_p, log_target=True,
                               reduction="batchmean")
    return (1 - lam) * labels + lam * told


# %% [markdown]
# ### The token
#
# Our student has three layers and a grid of 4 × 4 tokens with 32 numbers each. Its tokens come from three small convolutions {cite:p}`xiao2021`, the paper's from one matrix for each patch: which on 4,000 images stays behind [in the same 60 epochs](#long-enough-07).

# %%
def one_token(seed):
    return kd.models.vit(dim=32, depth=3, heads=4, patch=8,
                         stem="conv", init="lecun", seed=seed)

def mean_of_softmaxes(*logits):
    both = torch.stack([z.log_softmax(1) for z in logits])
    return both.logsumexp(0) - np.log(len(logits))  # log of the mean


# %% [markdown]
# The distillation token needs one more learned vector and one more head:

# %%
class TwoTokens(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.normalize, self.vit = one_token(seed)
        self.head, self.vit.head = self.vit.head, nn.Identity()
        rng = torch.Generator().manual_seed(1000 + seed)
        start = torch.randn(1, 1, 32, generator=rng)
        self.token = nn.Parameter(0.3 * start)
        self.head_dist = nn.Linear(32, 36)
        nn.init.normal_(self.head_dist.weight, std=32**-0.5, generator=rng)
        nn.init.zeros_(self.head_dist.bias)

    def both(self, x):
        patches = self.vit.patch_embed(self.normalize(x))
        first = self.vit.cls_token.expand(len(x), -1, -1)
        tokens = torch.cat([first, patches], 1) + self.vit.pos_embed
        token = self.token.expand(len(x), -1, -1)  # its place is learned
        tokens = self.vit.blocks(torch.cat([token, tokens], 1))
        tokens = self.vit.norm(tokens)  # place 0: distillation, 1: class
        return self.head(tokens[:, 1]), self.head_dist(tokens[:, 0])

    def forward(self, x):
        return mean_of_softmaxes(*self.both(x))


# %% [markdown]
# Which head answers? The paper adds the two softmaxes, and so do we. (Its code, and timm's, take the mean of the two *logits*.)
#
# In the package a term can be told which module of the student it looks at. The same number as above:

# %%
batch = next(augmented.train.batches(64, seed=0))
model = TwoTokens(0)
for kind, term in (("soft", KD(T=3, student="head_dist")),
                   ("hard", HardLabel(student="head_dist"))):
    objective = 0.5 * CE(student="head") + 0.5 * term
    package = kd.Distiller(model, given, objective)(batch).loss
    above = deit_loss(*model.both(batch.x), given(batch).logits,
                      batch.y, 0.5, kind)
    print(f"{kind}: above {above:.4f}   package {package:.4f}")

# %% [markdown]
# timm has the paper's networks (`deit_tiny_distilled_patch16_224` and larger), with heads of these names, and the loss, as `TokenDistillationTask`. On a network with random weights:

# %% tags=["hide-input"]
import timm
from timm.task import TokenDistillationTask

with torch.random.fork_rng():
    torch.manual_seed(0)
    deit = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, patch_size=8,
                             depth=2, num_classes=36)
    coloured = kd.data.Batch(torch.rand(8, 3, 32, 32), torch.arange(8), torch.arange(8))
teaching = kd.models.resnet(depth=8, channels=3, seed=1)  # any network that takes colours


# %% tags=["hide-input"]
def of_timm(kind):
    task = TokenDistillationTask(deit, kd.teachers.Live(teaching).model, nn.CrossEntropyLoss(),
                                 distill_type=kind, task_loss_weight=0.5, temperature=3.0,
                                 verbose=False)
    # this teacher normalises as the student does
    task.teacher.mean_kd, task.teacher.std_kd = task.student_mean, task.student_std
    return task.train()(coloured.x, coloured.y)["loss"].item()


# %% tags=["hide-input"]
for kind, term in (("soft", KD(T=3, student="head_dist")),
                   ("hard", HardLabel(student="head_dist"))):
    theirs, objective = of_timm(kind), 0.5 * CE(student="head") + 0.5 * term
    mine = kd.Distiller(deit, teaching, objective).train()(coloured).loss.item()
    print(f"{kind}: timm {theirs:.4f}   package {mine:.4f}")
deit.set_distilled_training(False)

# %% [markdown]
# ### How strong is the published soft term?
#
# DeiT's [`losses.py`](https://github.com/facebookresearch/deit/blob/7e160fe43f0252d17191b71cbb5826254114ea5b/losses.py) divides the soft term by `outputs_kd.numel()`, that is by samples *and* classes. The authors [say why](https://github.com/facebookresearch/deit/issues/61): it is what PyTorch did when the experiments ran, and a division by samples alone gave "slightly lower/similar performance" (they do not say with which λ). A student at its start, real images, a real teacher: the gradient of the teacher's part, as a multiple of that of the label's part.

# %%
z0 = kd.models.predict(one_token(0), data.val.x[:500])
v0 = kd.models.predict(teachers["40,000 others"], data.val.x[:500])

def push(loss):
    z = z0.clone().requires_grad_()
    loss(z, v0, data.val.y[:500]).backward()
    return z.grad.norm(dim=1).mean().item()

# %%
hard, soft = push(HardLabel()) / push(CE()), push(KD(T=3)) / push(CE())
for name, share in {"hard, λ = 1/2": hard,
                    "soft, λ = 0.9, as in chapter 1": 9 * soft,
                    "soft, λ = 0.1, formula": soft / 9,
                    "soft, λ = 0.1, divided by 36": soft / 9 / 36,
                    "soft, λ = 0.1, divided by 1,000": soft / 9e3}.items():
    print(f"{name:32s} {share:.2g}")

# %% [markdown]
# (The last line is our gradient divided by 1,000, not one of ImageNet.) So the published table compares a hard label of full weight with a soft label that, at the start of training, has almost none. Dividing by the samples alone did not help *them*. Here both weights get the same search.
#
# ## The experiment
#
# | arm | tokens | loss | weight that is searched |
# |---|---|---|---|
# | labels only | 1 | CE | – |
# | label smoothing | 1 | CE with the label smoothed by λ | λ |
# | soft | 1 | soft, $T$ = 3 | λ |
# | hard | 1 | hard | λ |
# | two tokens, labels | 2 | the label for both heads | – |
# | hard, second head | 1 | hard on a second head, same token | ½, or that of hard |
# | hard, token | 2 | DeiT's: hard on the second head | ½, or that of hard |
# | soft, token | 2 | soft on the second head | ½, or that of soft |
#
# Two questions: **soft minus hard**, and **token minus second head**. What *two tokens, labels* gains needs no teacher. The teacher is the one of 40,000 other images; the other one follows. All arms have the same views and 60 epochs, and gradients longer than 1 are shortened to 1. Published soft distillation is two more arms, λ = 0.1 with and without the division by the classes, with the rate and decay of labels only.
#
# **The search**, on the validation images: peak rate and weight decay of every arm from the same start, for soft and hard together with λ; from one setting to its best neighbour, until none is better. The code passes $w = λ / (1 - λ)$.
#
# <details><summary>The search in detail</summary>
#
# Neighbours: rate × 2 and / 2, decay × 5 and / 5, $w$ × 3 and / 3. For soft and hard the search starts at λ = 0.1, ½ and 0.9. The arms with two heads start at two values of λ, ½ and the one that was found for the class token, and keep them; their rate and decay are their own. For label smoothing λ is searched from 0.1, at the rate and decay of labels only. Every setting is tried with one seed. The best three are tried with a second one, and the best of them is taken; if a neighbour of it has not been tried, the search goes on from there.
#
# </details>

# %%
def mixed(first, second, w):  # λ = w / (1 + w)
    return (first + w * second) * (1 / (1 + w))

head, dist = {"student": "head"}, {"student": "head_dist"}
objectives = {
    "labels only": lambda w: CE(),
    "label smoothing": lambda w: LabelSmoothing(w / (1 + w)),
    "soft": lambda w: mixed(CE(), KD(T=3), w),
    "hard": lambda w: mixed(CE(), HardLabel(), w),
    "two tokens, labels": lambda w: mixed(CE(**head), CE(**dist), 1),
    "hard, second head": lambda w: mixed(CE(**head), HardLabel(**dist), w),
    "hard, token": lambda w: mixed(CE(**head), HardLabel(**dist), w),
    "soft, token": lambda w: mixed(CE(**head), KD(T=3, **dist), w)}


# %%
class TwoHeads(TwoTokens):  # both heads read the class token
    def __init__(self, seed):
        super().__init__(seed)
        del self.token

    def both(self, x):
        seen = self.vit(self.normalize(x))
        return self.head(seen), self.head_dist(seen)


# %%
def arm(name, w, of=given):
    net = (TwoTokens if "token" in name else
           TwoHeads if "head" in name else one_token)
    objective = objectives[name](w)
    if "label" in name:
        return lambda seed: kd.Supervised(net(seed), objective)
    return lambda seed: kd.Distiller(net(seed), of, objective)

def recipe(at, epochs=60):
    return kd.Recipe(epochs=epochs, lr=at[1], weight_decay=at[2], clip=1.0,
                     validate_every=epochs)


# %% tags=["hide-cell"]
def near(at, factors):
    """The neighbours of a setting (w, rate, decay)."""
    around = [(*at[:place], round(value, 8), *at[place + 1:])
              for place, factor in enumerate(factors)
              for value in (at[place] / factor, at[place] * factor)]
    return [one for one in around if one != at and one[2] < 2]


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
def measured(name):
    """`measure` for `search`: validation accuracy of an arm at some settings."""
    def measure(settings, seeds):
        table = kd.compare({at: arm(name, at[0]) for at in settings}, augmented,
                           {at: recipe(at) for at in settings}, seeds, results="07")
        return {at: table.mean(at) for at in settings}
    return measure


# %% [markdown]
# Recorded runs are loaded; a run of other code, data or settings is computed.

# %% tags=["hide-cell"]
def start_of(name):
    """Where the search of an arm starts, and the factors between neighbours."""
    if name == "label smoothing":
        return [(0.1111, *at["labels only"][1:])], (3, 1, 1)
    if "label" in name:
        return [(0.0, *start)], (1, 2, 5)
    if "," in name:  # two heads
        return [(w, *start) for w in {1.0, at[name.split(",")[0]][0]}], (1, 2, 5)
    return [(w, *start) for w in (0.1111, 1.0, 9.0)], (3, 2, 5)


# %%
start, at, found = (0.01, 0.05), {}, {}  # the first rate and decay
with contextlib.redirect_stdout(io.StringIO()):
    for name in objectives:
        at[name], found[name] = search(measured(name), *start_of(name))

# %% tags=["remove-input"]
lines = "\n".join(
    f"| {name} | {f'{w / (1 + w):.2g}' if w else '–'} | {lr:g} | {wd:g} | {len(found[name])} |"
    for name, (w, lr, wd) in at.items())


# %% tags=["remove-input"]
def by_weight(name):
    """The best accuracy of the first seed for each λ that was tried."""
    best = {}
    for (w, *_), right in sorted(found[name].items()):
        best[w] = max(right, best.get(w, 0))
    return "; ".join(f"λ = {w / (1 + w):.2g}: {right:.1%}" for w, right in best.items())


# %% tags=["hide-input"]
Markdown(f"""
<details><summary>The settings that were found</summary>

| arm | λ | rate | decay | settings tried |
|---|---|---|---|---|
{lines}

The best of the first seed, validation images: soft {by_weight("soft")}. Hard {by_weight("hard")}.

</details>
""")


# %% [markdown]
# The test images, once, with five seeds that no search has used; where a difference is small, with ten. For two heads we also record what each head answers, and how alike the tokens are.

# %% tags=["hide-cell"]
@torch.no_grad()
def outputs_of(model, x):
    """Logits of the class head, of the second head, and of the class head without the token."""
    with kd.models.evaluating(model):
        x = x.to(kd.models.device_of(model))
        return *model.both(x), model.head(model.vit(model.normalize(x)))


# %% tags=["hide-cell"]
def heads(scheme, split):
    """Right: each head, softmaxes added, mean logits, class head alone; how often both agree."""
    if not isinstance(scheme.student, TwoTokens):
        return []
    a, b, alone = outputs_of(scheme.student, split.x)
    right = [kd.measure.accuracy(z, split.y)
             for z in (a, b, mean_of_softmaxes(a, b), (a + b) / 2, alone)]
    return [*right, kd.measure.agreement(a, b)]


# %% tags=["hide-cell"]
@torch.no_grad()
def cosines(scheme, split):
    """Cosine of the two tokens: the learned vectors, then behind the last layer."""
    model = scheme.student
    if not hasattr(model, "token"):
        return []
    x = split.x[:500].to(kd.models.device_of(model))
    with kd.models.evaluating(model):
        last = kd.taps(model, ["vit.norm"])(x).taps["vit.norm"]
    start = model.vit.cls_token + model.vit.pos_embed[:, :1]
    return [F.cosine_similarity(a, b).mean().item() for a, b in
            ((model.token[:, 0], start[:, 0]), (last[:, 0], last[:, 1]))]


# %% tags=["hide-cell"]
def on_test(arms, at, seen=augmented, seeds=5):
    with contextlib.redirect_stdout(io.StringIO()):
        return kd.compare(arms, seen, {name: recipe(at[name]) for name in arms},
                          range(2, 2 + seeds), split="test", also={"heads": heads, "cosines": cosines}, results="07")


# %%
arms = {name: arm(name, setting[0]) for name, setting in at.items()}
published = {"soft, λ = 0.1": 0.9 * CE() + 0.1 * KD(T=3),
             "soft, λ = 0.1, / 36": 0.9 * CE() + 0.1 / 36 * KD(T=3)}
for name, objective in published.items():
    at[name] = at["labels only"]
    arms[name] = lambda seed, objective=objective: kd.Distiller(
        one_token(seed), given, objective)
final = on_test(arms, at)

# %%
close = ("soft", "hard", "hard, second head", "hard, token")
ten = on_test({name: arms[name] for name in close}, at, seeds=10)


# %% tags=["hide-input"]
def told_as(triple, unit=" points"):
    mean, low, high = (100 * value for value in triple)
    n = 2 if min(abs(low), abs(high)) < 0.05 else 1  # an end that would round to 0
    return f"{mean:+.{n}f}{unit} ({low:+.{n}f} to {high:+.{n}f})".replace("-", "−")


# %% tags=["hide-input"]
def gap(name, other="labels only", table=None, unit=" points"):
    table = table or (ten if name in close and other in close else final)
    return told_as(table.difference(name, other), unit)


def apart(first, second, unit=" points"):
    """The paired difference of two lists, seed by seed, in points."""
    seeds = min(len(first), len(second))  # unequal in smoke mode only
    return told_as(kd.measure.paired_difference(first[:seeds], second[:seeds]), unit)


# %% tags=["remove-input"]
def drawn(ax, place, pairs, color, label=None):
    """One row: a dot for each seed, the mean and its interval, in points."""
    ours, theirs = pairs
    seeds = min(len(ours), len(theirs))
    points = 100 * np.subtract(ours[:seeds], theirs[:seeds])
    mid, low, high = kd.measure.interval(list(points))
    ax.plot(points, [place + 0.2] * seeds, ".", color=color, alpha=0.6)
    ax.errorbar(mid, place, xerr=[[mid - low], [high - mid]], fmt="o", ms=7, lw=2, capsize=4,
                color=color, label=label)
    ax.annotate(f"{mid:+.1f}".replace("-", "−"), (mid, place), (0, 7), fontsize=10, color=color,
                textcoords="offset points", ha="center")


# %% tags=["remove-input"]
BLUE, GREY, ORANGE = kd.plot.BLUE, kd.plot.GREY, kd.plot.ORANGE
colors = {"label smoothing": GREY, "two tokens, labels": GREY} | dict.fromkeys(published, ORANGE)
shown = ["label smoothing", "two tokens, labels", *reversed(published), "soft", "hard",
         "hard, second head", "hard, token", "soft, token"]

# %% mystnb={"image": {"alt": "Paired difference in test accuracy to labels only, with 95 percent intervals and a dot for each of five seeds: label smoothing and two tokens with labels in grey, soft distillation at the published weight with and without the division in orange, and soft, hard, hard on a second head, hard on a token and soft on a token, each with its own search, in blue. A line at zero is labels only."}} tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 4.6))
for place, name in enumerate(shown):
    drawn(ax, place, (final.values(name), final.values("labels only")), colors.get(name, BLUE))
ax.axvline(0, color="black", lw=1.2), ax.grid(False, axis="y")
ax.set_yticks(range(len(shown)), shown), ax.set_ylim(len(shown) - 0.5, -0.8)
ax.set(xlabel="points gained over labels only, test images (95 % interval)",
       title="READ: soft against hard in one message");

# %% tags=["hide-input"]
Markdown(f"""
Labels only are right on {final.mean("labels only"):.1%}. Differences among {", ".join(close)}
are of ten seeds, all others of five.

- **Soft minus hard**: {gap("soft", "hard")}; soft minus label smoothing:
  {gap("soft", "label smoothing")}.
- **The published soft loss**, λ = 0.1 and divided by the classes, minus labels only:
  {gap("soft, λ = 0.1, / 36")}; minus hard: {gap("soft, λ = 0.1, / 36", "hard")}. Without the
  division, minus hard: {gap("soft, λ = 0.1", "hard")}.
- **Hard minus label smoothing**: {gap("hard", "label smoothing")}.
- **Token minus second head**, hard: {gap("hard, token", "hard, second head")}. Token minus class
  token: hard {gap("hard, token", "hard")}, soft {gap("soft, token", "soft")}.
- **Hard on the token minus two tokens, labels**: {gap("hard, token", "two tokens, labels")}; that
  control minus labels only: {gap("two tokens, labels")}.
""")

# %% [markdown]
# READ: four sentences. (1) Soft or hard, with the interval. (2) Does the published loss give the published order (soft = labels only, hard above)? If so: one line of code and one weight decide which wins. (3) Is a hard label more than label smoothing here? It is the label on nearly all views. (4) The token: does it add to the class token, and is it above the control, two tokens with labels?
#
# (long-enough-07)=
# ### Was the training long enough, and the augmentation right?

# %% tags=["hide-cell"]
checked = ("labels only", "soft", "hard", "hard, token")
with contextlib.redirect_stdout(io.StringIO()):
    long, usual = (kd.compare({name: arms[name] for name in checked}, augmented,
                              {name: recipe(at[name], epochs) for name in checked}, range(2),
                              results="07") for epochs in (120, 60))


# %% tags=["hide-cell"]
def by_matrix(seed):
    """Labels only, with one matrix for each patch."""
    net = kd.models.vit(dim=32, depth=3, heads=4, patch=7, init="lecun", seed=seed)
    return kd.Supervised(net)


with contextlib.redirect_stdout(io.StringIO()):
    without = kd.compare({"one matrix": by_matrix}, augmented, recipe(at["labels only"]), [0],
                         results="07")


# %% tags=["hide-cell"]
def views(strength):
    return augmented if strength == 1 else kd.augmented(
        data, views=20, shift=0.1 * strength, degrees=11 * strength, scale=0.15 * strength)


# %% tags=["hide-cell"]
with contextlib.redirect_stdout(io.StringIO()):
    by_strength = {s: kd.compare({"labels only": arms["labels only"]}, views(s),
                                 recipe(at["labels only"]), range(2), results="07"
                                 ).mean("labels only") for s in (0.5, 1, 1.5)}
strength = max(by_strength, key=by_strength.get)
own_views = on_test({"labels only": arms["labels only"]}, at, views(strength))

# %% tags=["hide-input"]
Markdown(f"""
**Twice as many epochs**, validation images, two seeds: {"; ".join(
    f"{name} {usual.mean(name):.1%} to {long.mean(name):.1%}" for name in checked)}. Soft minus
hard: {100 * (usual.mean("soft") - usual.mean("hard")):+.1f} points, then
{100 * (long.mean("soft") - long.mean("hard")):+.1f}.

**Without convolutions**, labels only, one matrix for each patch: {without.mean("one matrix"):.1%}
after 60 epochs (validation images, one seed), at the rate and decay of the student with
convolutions.

**Augmentation for labels only**, validation images, two seeds: {"; ".join(
    f"{s:g} times as strong {right:.1%}" for s, right in by_strength.items())}. At the best of these
strengths soft minus labels only is, on the test images,
{apart(final.values("soft"), own_views.values("labels only"))}.
""".replace("-", "−"))

# %% [markdown]
# READ: two sentences. What another 60 epochs change, for whom, and whether the order of soft and hard stays. Whether labels only gain from another strength of augmentation, and whether the gain of soft survives the better baseline.
#
# ### Another teacher, other outputs
#
# Soft and hard again with the teacher of the student's own 4,000 images, and soft labels for another view or another image. Two validation seeds choose the weight $w$: that of the first teacher, or a ninth of it.

# %% tags=["hide-cell"]
following = torch.arange(4000)  # the next image of the same class
for k in range(36):
    members = (y == k).nonzero()[:, 0]
    following[members] = members.roll(1)
plain = kd.models.predict(teachers["40,000 others"], data.train.x)


def other(logits, name):
    """Stored outputs, changed."""
    return kd.Cached.of(logits, augmented, name)


# %% tags=["hide-cell"]
def weighed(name, of, factors):
    """An arm with other outputs, and its setting: the weight is chosen on validation images."""
    w, rate, decay = at[name]
    tried = [(round(w * factor, 8), rate, decay) for factor in factors]
    with contextlib.redirect_stdout(io.StringIO()):
        table = kd.compare({one: arm(name, one[0], of) for one in tried}, augmented,
                           recipe(at[name]), range(2), results="07")
    best = max(tried, key=table.mean)
    return arm(name, best[0], of), best


# %% tags=["hide-cell"]
same = stored["the same 4,000"]
more = {"another view": weighed("soft", other(given.logits.roll(1, 0), "another view"), (1, 1 / 9)),
        "another image": weighed("soft", other(given.logits[:, following], "another image"),
                                 (1, 1 / 9)),
        "soft, same 4,000": weighed("soft", same, (1, 1 / 9)),
        "hard, same 4,000": weighed("hard", same, (1, 1 / 9)),
        "hard, token, same 4,000": (arm("hard, token", at["hard, token"][0], same),
                                    at["hard, token"])}
controls = on_test({name: one for name, (one, _) in more.items()},
                   {name: setting for name, (_, setting) in more.items()})


# %% tags=["hide-input"]
def against(name, other="labels only", unit=" points"):
    return apart(controls.values(name), final.values(other), unit)


# %% tags=["hide-input"]
kept = (plain.argmax(1) == y).float().mean()
own_images = apart(controls.values("soft, same 4,000"), controls.values("hard, same 4,000"))
own_token = apart(controls.values("hard, token, same 4,000"), controls.values("hard, same 4,000"))
Markdown("""
| control | λ | minus soft, points | minus labels only |
|---|---|---|---|
""" + "\n".join(f"| {name} | {more[name][1][0] / (1 + more[name][1][0]):.2g} | "
                f"{against(name, 'soft', '')} | {against(name, unit='')} |" for name in
                ("another view", "another image", "soft, same 4,000")) + f"""

- **Teacher of the same 4,000**: soft minus hard {own_images}, hard minus labels only
  {against("hard, same 4,000")}, hard on the token minus hard {own_token}.
- A *hard* label for the plain image is the label for {kept:.1%} of the images: nearly labels only.
""")

# %% [markdown]
# READ: three sentences: another view (does the teacher have to see the student's view?), another image of the class (does the output have to be about this image?), the teacher of the same 4,000 (is soft above hard with a teacher that knows no other image, as in the paper?).
#
# That convnets teach transformers better than transformers do is the paper's other claim. It needs several teachers of each kind and equal accuracy, and is the question of [chapter 6](06_vit_and_convnets.ipynb).
#
# ## Why
#
# ### What is in a soft label that is not in a hard one?
#
# Three things: that the label is soft at all, how sure the teacher is in *this* view, and how it ranks the other classes. Targets in between separate them. All have soft's settings.

# %% tags=["hide-input"]
softened = (given.logits / 3).softmax(2)
top, place = softened.max(2, keepdim=True)


def first_choice(p):
    """Logits that give the first choice p at T = 3, and every other class the same."""
    rest = ((1 - p).clamp_min(1e-6) / 35).expand_as(softened)
    return 3 * rest.scatter(2, place, p).log()


def shuffled(v):
    """The same first choice and the same values; which other class has which is drawn."""
    drawn = torch.rand(v.shape, generator=torch.Generator().manual_seed(0))
    order = drawn.scatter(2, place, -1.0).argsort(2)
    return torch.empty_like(v).scatter(2, order, v.sort(2, descending=True).values)


# %% tags=["hide-cell"]
targets = {"first choice, average probability": first_choice(top.mean().expand_as(top)),
           "first choice, its probability": first_choice(top),
           "soft, other classes shuffled": shuffled(given.logits)}
between = {name: arm("soft", at["soft"][0], other(v, name)) for name, v in targets.items()}
between["soft, T = 1"] = lambda seed: kd.Distiller(
    one_token(seed), given, mixed(CE(), KD(T=1), at["soft"][0]))
between = on_test(between, dict.fromkeys(between, at["soft"]))

# %% tags=["remove-input"]
base = final.values("labels only")
steps = {"hard": (final.values("hard"), BLUE),
         **{name: (between.values(name), ORANGE) for name in targets},
         "soft": (final.values("soft"), BLUE)}

# %% mystnb={"image": {"alt": "Points gained over labels only with 95 percent intervals and a dot for each of five seeds, for five targets: the hard label, the first choice with the average probability, the first choice with its probability, the soft label with its other classes shuffled, and the soft label. A line at zero is labels only."}} tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 3.5))
for row, (values, color) in enumerate(steps.values()):
    drawn(ax, row, (values, base), color)
ax.axvline(0, color="black", lw=1.2), ax.grid(False, axis="y")
ax.set_yticks(range(len(steps)), steps), ax.set_ylim(len(steps) - 0.5, -0.8)
ax.set(xlabel="points gained over labels only, test images (95 % interval)",
       title="READ: which part of the soft label does it");

# %% tags=["hide-input"]
ladder = list(steps.values())
Markdown(f"""
| from | to | difference, points |
|---|---|---|
| hard | the same probability in every view | {apart(ladder[1][0], ladder[0][0], "")} |
| the same probability | that of this view | {apart(ladder[2][0], ladder[1][0], "")} |
| that of this view, the rest even | soft | {apart(ladder[4][0], ladder[2][0], "")} |
| the rest shuffled | soft | {apart(ladder[4][0], ladder[3][0], "")} |

At $T$ = 3 the first choice has a probability of {top.mean():.2f} on average over the views. Soft at
$T$ = 1 minus $T$ = 3: {apart(between.values("soft, T = 1"), final.values("soft"))}.
""")

# %% [markdown]
# READ: two sentences. Which step the interval separates from 0. That says what a hard label throws away.
#
# ### Do the two tokens learn two things?

# %% tags=["remove-input"]
pairs = ("two tokens, labels", "hard, second head", "hard, token", "soft, token")


def column(name, quantity, place):
    return [run[place] for run in final.values(name, quantity)]


# %% tags=["remove-input"]
def joint(name):
    """What both heads together gain over the class head."""
    return apart(column(name, "heads", 2), column(name, "heads", 0))


# %% tags=["remove-input"]
rows = "\n".join(
    f"| {name} | " + " | ".join(
        f"{np.mean(column(name, 'cosines', place)):.2f}" if "token" in name else "–"
        for place in (0, 1)) + " | " + " | ".join(
        f"{np.mean(column(name, 'heads', place)):.1%}" for place in (5, 0, 1, 2)) + " |"
    for name in pairs)
mid, low, high = kd.measure.paired_difference(
    column("hard, token", "cosines", 1), column("two tokens, labels", "cosines", 1))

# %% tags=["hide-input"]
Markdown(f"""
| arm | cosine, vectors | cosine, end | heads agree | class head | second head | both |
|---|---|---|---|---|---|---|
{rows}

- **Cosine at the end**, hard on the token minus two tokens with labels: {mid:+.2f} ({low:+.2f} to
  {high:+.2f}).
- **Both heads minus the class head**: hard on the token {joint("hard, token")}, hard on a second
  head {joint("hard, second head")}, two tokens with labels {joint("two tokens, labels")}.
""".replace("-0", "−0"))

# %% [markdown]
# *Vectors* are the two learned tokens with their places, *end* is what the heads read. READ: two sentences. The paper has 0.06 and 0.93, and 0.999 for two class tokens: does our control become one token? Does the hard token differ from the control, and is the gain from both heads larger than the control's?
#
# ## Score the bet

# %% tags=["hide-input"]
mid, low, high = (100 * value for value in ten.difference("soft", "hard"))
kd.explore.score(soft_bet, mid, interval=(low, high), digits=1)

# %% tags=["hide-input"]
_, low, high = ten.difference("hard, token", "hard")
above_, below_, equal_ = token_bet.choices
held = [above_] * (high > 0) + [below_] * (low < 0) + [equal_] * (low <= 0 <= high)
kd.explore.score(token_bet, held, note=f"Token minus class token: {gap('hard, token', 'hard')}.")

# %% [markdown]
# ## What did not work

# %% tags=["hide-input"]
nothing = [name for name in shown if final.difference(name, "labels only")[1] <= 0]
Markdown(f"""
- **Not shown to beat labels only**: {"; ".join(nothing) or "none of the arms"}.
- **The mean of the logits** in place of the added softmaxes, hard on the token:
  {apart(column("hard, token", "heads", 3), column("hard, token", "heads", 2))}.
- **Both heads, soft on the token**, minus soft on one token: {gap("soft, token", "soft")}.
""")

# %% [markdown]
# (break-it-07)=
# ## Break it
#
# A mistake of a much-read re-implementation, [vit-pytorch](https://github.com/lucidrains/vit-pytorch/issues/138) (repaired on the day it was reported, in 2021): the hard label was compared with the logits of the *class* token. Here it is again, in a plain loop: the hard label goes to head 0.

# %%
def short_run(told_head, epochs=8):
    torch.manual_seed(0)
    model, rows = TwoTokens(0), []
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for epoch in range(epochs):
        for b in augmented.train.batches(128, seed=0, epoch=epoch):
            both = model.train().both(b.x)
            loss = deit_loss(both[0], both[told_head],
                             given(b).logits, b.y, 0.5, "hard")
            optimizer.zero_grad(), loss.backward(), optimizer.step()
        rows.append(on_val(model))
    return np.array(rows)


# %%
@torch.no_grad()
def on_val(model):
    first, second = model.eval().both(data.val.x)
    three = first, second, mean_of_softmaxes(first, second)
    return [kd.measure.accuracy(z, data.val.y) for z in three]

runs = {"planted": short_run(told_head=0)}


# %% mystnb={"image": {"alt": "Validation accuracy by epoch of the class head, the second head and both together for the planted mistake. The class head rises, the second head stays at the dotted line of chance, and both together lie just below the class head."}} tags=["hide-input"]
def draw(runs):
    axes = plt.subplots(1, 2, figsize=(6.6, 3.2), sharey=True)[1]
    for ax, (name, rows) in zip(axes, runs.items()):
        for values, title, color, mark in zip(rows.T, ("class head", "second head", "both"),
                                              ("black", BLUE, ORANGE), "os^"):
            ax.plot(range(1, len(rows) + 1), values, f"{mark}-", ms=5, color=color, label=title)
        ax.axhline(1 / 36, color=GREY, ls=":", label="chance")
        ax.set(title=name, xlabel="epoch", ylim=(0, None))
    axes[0].set_ylabel("validation accuracy"), axes[0].legend(fontsize=10)
    axes[0].yaxis.set_major_formatter("{x:.0%}"), axes[1].set_visible(len(runs) > 1)


draw(runs)

# %% [markdown]
# No error is raised, and the student learns. The accuracy of both heads together hardly shows it: a head that was never trained spreads its probability, so the other head usually decides. But the second head stays at chance: this is DeiT without its distillation head. The doctor sees it before training:

# %%
wrong = 0.5 * CE(student="head") + 0.5 * HardLabel(student="head")
kd.doctor(kd.Distiller(TwoTokens(0), given, wrong), augmented)

# %% [markdown]
# The repair is one word: the hard label goes to `head_dist`, here `told_head=1`.

# %% mystnb={"image": {"alt": "The planted run and beside it the repaired one. In the repaired run all three lines rise together."}}
runs["repaired"] = short_run(told_head=1)
draw(runs)

# %% tags=["hide-input"]
planted, repaired = (rows[-1] for rows in runs.values())
Markdown(f"""
Second head after eight epochs: planted {planted[1]:.1%}, repaired {repaired[1]:.1%}; chance is
{1 / 36:.1%}. Which run is ahead with both heads ({planted[2]:.1%}, {repaired[2]:.1%}) says nothing
yet: one short run each.
""")

# %% [markdown]
# ## Exercises
#
# Each has a cell to fill in and a check, which prints "not done yet" until then.
#
# ### 1. Warm up: the hard label
#
# The cross-entropy of the student with the teacher's first choice, for logits `[B, K]`.

# %% tags=["exercise-stub"]
def my_hard(student, teacher):
    raise NotImplementedError


# %% tags=["exercise-check"]
kd.checks.same_loss(my_hard, kd.losses.hard_label)


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def my_hard(student, teacher):
#     return F.cross_entropy(student, teacher.argmax(1))
# ```
#
# **What you should see:** ✓. `argmax` has no gradient, so none reaches the teacher, even without `detach`.
#
# </details>
#
# ### 2. Build: DeiT's loss for mixed images
#
# DeiT also mixes images: with MixUp an input is `share` times one image plus the rest of another, and so is its label, `y` and `y_other`. The teacher sees the mixed image, and has *one* first choice. Write the loss with λ = ½ for the logits of two heads.

# %% tags=["exercise-stub"]
def mixed_hard(first, second, teacher, y, y_other, share):
    raise NotImplementedError


# %% tags=["exercise-check"]
with kd.checks.any_loss.report_stub():
    rng = torch.Generator().manual_seed(0)
    z1, z2, t = torch.randn(3, 16, 36, generator=rng)
    a, b = y[:16], y[16:32]
    mine = mixed_hard(z1, z2, t, a, b, 0.7)
    right = (0.35 * F.cross_entropy(z1, a) + 0.15 * F.cross_entropy(z1, b)
             + 0.5 * F.cross_entropy(z2, t.argmax(1)))
    other_way = right + 0.2 * (F.cross_entropy(z1, b)
                               - F.cross_entropy(z1, a))
    assert not torch.allclose(mine, other_way), (
        "The two labels have changed places: y has the weight share.")
    assert torch.allclose(mine, right), (
        f"Expected {right:.4f}, got {mine:.4f}. The labels go to the first "
        "head, mixed; the teacher's one choice to the second, unmixed.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def mixed_hard(first, second, teacher, y, y_other, share):
#     labels = (share * F.cross_entropy(first, y)
#               + (1 - share) * F.cross_entropy(first, y_other))
#     return 0.5 * labels + 0.5 * F.cross_entropy(second, teacher.argmax(1))
# ```
#
# **What you should see:** ✓. With MixUp the label is a mixture; the teacher's label is one class. So the two heads have different targets in every image.
#
# </details>
#
# ### 3. Explore: send the token away
#
# Does the class token *use* the distillation token? Leave it out of the sequence, and let the class head answer: logits `[B, 36]`. Bet first: will the class head be worse?

# %% tags=["exercise-stub"]
def without_token(model, x):
    raise NotImplementedError


# %% tags=["exercise-check"]
with kd.checks.any_loss.report_stub(), torch.no_grad():
    probe, x8 = TwoTokens(3).eval(), data.val.x[:8]
    before = without_token(probe, x8)
    right = probe.head(probe.vit(probe.normalize(x8)))
    assert before.shape == (8, 36), (
        f"Expected logits [8, 36], got {list(before.shape)}.")
    probe.token.add_(1.0)
    assert torch.equal(without_token(probe, x8), before), (
        "The token is still in the sequence: its value changes the answer.")
    probe.head.bias.add_(1.0)
    assert torch.allclose(without_token(probe, x8), before + 1, atol=1e-5), (
        "Expected the answer of the class head, `model.head`.")
    probe.vit.pos_embed.zero_()
    assert not torch.allclose(without_token(probe, x8), before + 1), (
        "Expected tokens with their place: add `model.vit.pos_embed`.")
    assert torch.allclose(before, right, atol=1e-5), (
        "Expected no token at all, not one of zeros.")


# %% [markdown]
# <details>
# <summary>Solution</summary>
#
# ```python
# def without_token(model, x):
#     return model.head(model.vit(model.normalize(x)))  # its own head was taken away
# ```
#
# **What you should see:** the numbers in the next fold, for the five students with the hard label on the token.
#
# </details>

# %% tags=["hide-cell"]
there, gone = column("hard, token", "heads", 0), column("hard, token", "heads", 4)
Markdown(f"""
Class head on the test images: {np.mean(there):.1%} with the token in the sequence,
{np.mean(gone):.1%} without it, {apart(gone, there)}.
""")

# %% [markdown]
# ## Quiz

# %% tags=["remove-input"]
kd.explore.question(
    "A teacher is right on 99 % of the training views. Its hard labels bring 0.2 points (−0.5 to "
    "+0.9), its soft labels 6 points. What is the simplest reason?",
    {"The hard label is the label on 99 % of the views.":
         "Where both are the same class, the hard loss is exactly the label's loss, for every λ.",
     "Hard labels have no temperature.": "True of every hard label, but they would still be news "
                                         "where they differ from the label.",
     "The student is too small for hard labels.": "It fits the labels, which are the same 99 times "
                                                  "of 100."},
    name="07/news", answer="The hard label is the label")

# %% tags=["remove-input"]
kd.explore.question(
    "Soft with λ = 0.1 and a mean over 1,000 classes: 81.8. Hard with λ = 0.5: 83.0. Which run is "
    "missing before one may say that hard labels teach more?",
    {"Soft with a weight that was searched, summed over the classes.":
         "In the published one the teacher's part is thousands of times smaller than the label's.",
     "Hard with λ = 0.1.": "It would show what the weight does to hard, but not whether soft can "
                           "do more.",
     "Soft at T = 1.": "The temperature changes the target; the weight stays almost 0."},
    name="07/weight", answer="Soft with a weight")

# %% tags=["remove-input"]
kd.explore.question(
    "One token, hard: 85.0. Two tokens, the second with hard labels: 85.9. Two tokens, both with "
    "labels: 85.8, and one token with labels: 84.9. How much of what the second token brings needs "
    "the teacher?",
    {"At most about 0.1 points of 0.9.":
         "Two tokens with labels gain 0.9 without any teacher. Whether 0.1 is more than chance, an "
         "interval must say.",
     "0.9 points.": "A second token gains 0.9 with labels alone, too.",
     "1.0 points.": "That compares with a student that has neither teacher nor second token."},
    name="07/control", answer="At most")

# %% tags=["remove-input"]
kd.explore.question(
    "After training, a network with two tokens has heads that are right on 84 % and on 2.9 % of the "
    "images of 36 classes; together 82 %. What do you look at first?",
    {"Whether any loss reaches the second head.":
         "2.9 % is about 1 of 36: it was never trained, as in “Break it”.",
     "The learning rate.": "The first head learned with the same rate.",
     "The teacher's accuracy.": "A bad teacher would give a head that agrees with it, not one at "
                                "chance."},
    name="07/chance", answer="Whether any loss")


# %% [markdown]
# ## In the literature
#
# Table 3 of {cite:t}`touvron2021`, ImageNet, 224 pixels, 300 epochs, beside ours:

# %% tags=["hide-input"]
def ours(name, place=None):
    values = final.values(name) if place is None else column(name, "heads", place)
    return f"{100 * np.mean(values):.1f}"


# %% tags=["hide-input"]
Markdown(f"""
| test accuracy in % | here | DeiT-Ti | DeiT-S | DeiT-B |
|---|---|---|---|---|
| no distillation | {ours("labels only")} | 72.2 | 79.8 | 81.8 |
| soft, λ = 0.1, mean over classes | {ours("soft, λ = 0.1, / 36")} | 72.2 | 79.8 | 81.8 |
| soft, searched, sum over classes | {ours("soft")} | – | – | – |
| hard, class token | {ours("hard")} | 74.3 | 80.9 | 83.0 |
| hard, token: class head | {ours("hard, token", 0)} | 73.9 | 80.9 | 83.0 |
| hard, token: distillation head | {ours("hard, token", 1)} | 74.6 | 81.1 | 83.1 |
| hard, token: both | {ours("hard, token")} | 74.5 | 81.2 | 83.4 |
""")

# %% [markdown]
# Table 8 of the arXiv version (7 at ICML) gives DeiT-B without distillation as 81.8 ± 0.2, without saying over what. From hard to token, 83.0 to 83.4, is about two such deviations, and figure 3 has 84.1 and 84.2 after 1,000 epochs. Soft stays at 81.8 there, with λ = 0.1. Class head and distillation head choose different classes for 5.0 % of the images (table 4). Of a second *class* token in place of the distillation token they say that it "does not bring anything".
#
# What differs: students without convolutions, 1.28 million images, MixUp, CutMix and erasing, labels smoothed by 0.1, a RegNetY-16GF with 82.9 % as the teacher, about as good as the student {cite:p}`touvron2021`. How often its first choice differs from the label on their views is not reported; on the validation images it is 17.1 %. We have found no published ImageNet run of the soft loss with the sum over classes and a searched weight; the authors' remark in the issue is all.
#
# **What became of it.** DeiT III {cite:p}`touvron2022`, from the same group, has no teacher: a new recipe for labels alone brings a ViT-S to 81.4 % and a ViT-B to 83.8 %, more than DeiT with teacher and token after 300 epochs (81.2 and 83.4), less than after 1,000 (82.6 and 84.2). TinyViT {cite:p}`wu2022tinyvit` went on with *soft* labels: the largest logits are stored for each augmented view of ImageNet-21k, and 21 million weights reach 84.8 %. Fast knowledge distillation {cite:p}`shen2022` stores soft labels for every crop as well; it is what `kd.Cached` does here. {cite:t}`beyer2022` train with soft labels alone, without the true ones, on the same view for both, for thousands of epochs.
#
# ## Take-away

# %% tags=["hide-input"]
Markdown(f"""
1. **READ: soft or hard.** Each with its own search, soft minus hard is {gap("soft", "hard")}; with
   the teacher of the same images {own_images}. At the published weight the order is READ:
   {gap("soft, λ = 0.1, / 36", "hard")}.
2. **READ: the token.** Hard on the token minus hard on the class token
   {gap("hard, token", "hard")}, minus a second token that gets labels
   {gap("hard, token", "two tokens, labels")}.
3. **Count before you train**: on how many views the first choice is not the label, and how large
   the teacher's part of the gradient is.
""")

# %% [markdown]
# ## Cost
#
# A training makes 238,080 forward and backward passes of the student; the outputs of each teacher are stored once, from 80,000 forward passes. A second token adds one of 18 tokens. Each setting of a search is a training, too. By machine and day:

# %% [markdown] tags=["cost-table"]
#
