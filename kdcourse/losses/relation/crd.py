"""Contrastive distillation. B batch, D features, N negatives, M samples of the training set."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse._random import generator
from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import projected
from kdcourse.losses.numerics import unit
from kdcourse.losses.relation.negatives import OtherClasses
from kdcourse.losses.relation.pairs import VARIANTS, vectors_pair
from kdcourse.taps import Output
from kdcourse.tasks import ONE_LABEL


@inputs.full_precision
def crd(anchor_BD, positive_BD, negatives_BND, samples: int, temperature: float = 0.07,
        normalizer=None, reduction: str = "mean"):
    r"""Compute the loss of a critic that tells the positive pair from N negative ones.

    .. math:: L = -\log h(a, p) - \sum_{n=1}^N \log\big(1 - h(a, b_n)\big), \qquad
        h(a, b) = \frac{e^{a^\top b / \tau}}{e^{a^\top b / \tau} + N / M}

    Tian, Krishnan & Isola 2020 (arXiv:1910.10699), equations 15 to 19. On average log N - L is a
    lower bound of the mutual information of the two sides. In nats.

    anchor_BD: embeddings [B, D] of unit length (not normalised here), of the side that learns.
    positive_BD, negatives_BND: the other side's embeddings of the same samples, [B, D], and of
        others, [B, N, D]. They get no gradient.
    samples: M, the size of the training set.
    temperature: τ, above 0. Smaller means that only the nearest negatives count.
    normalizer: None is the paper's formula. The authors' code divides each exponential by a
        constant Z (a number, or a tensor of one), which it takes from the first batch: see `CRD`.

    Not 0 where both sides agree. Raises `ValueError` for shapes that do not fit and for settings
    out of range.

    >>> here, there = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])  # at a right angle
    >>> crd(here, here, there[:, None], samples=1, temperature=1)  # log(1 + 1/e) + log(1 + 1)
    tensor(1.0064)
    """
    _check_temperature(temperature)
    anchor_BD = inputs.features(anchor_BD, "student (anchor)", 2)
    positive_BD = inputs.features(positive_BD, "positive", 2).detach().to(anchor_BD)
    negatives_BND = inputs.features(negatives_BND, "negative", 3).detach().to(anchor_BD)
    B, D = anchor_BD.shape
    if list(positive_BD.shape) != [B, D] or list(negatives_BND.shape[::2]) != [B, D]:
        raise ValueError(
            f"Expected anchors and positives [B, D] and negatives [B, N, D], got "
            f"{list(anchor_BD.shape)}, {list(positive_BD.shape)} and {list(negatives_BND.shape)}.")
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"Expected samples to be the size of the training set, at least 1, got "
                         f"{samples!r}.")
    threshold = math.log(negatives_BND.shape[1] / samples)
    if isinstance(normalizer, torch.Tensor):
        threshold = threshold + normalizer.detach().to(anchor_BD).log()
    elif normalizer is not None:
        if not 0 < normalizer < math.inf:
            raise ValueError(f"Expected a normalizer above 0, or None, got {normalizer}.")
        threshold += math.log(normalizer)
    positive_B = (anchor_BD * positive_BD).sum(1) / temperature
    negatives_BN = torch.einsum("bd,bnd->bn", anchor_BD, negatives_BND) / temperature
    return inputs.reduce(_contrast(positive_B, negatives_BN, threshold), reduction)


def _contrast(positive_B, negatives_BN, threshold) -> torch.Tensor:
    """Compute -log h - sum log(1 - h) with h = sigmoid(score - threshold): nothing overflows."""
    return F.softplus(threshold - positive_B) + F.softplus(negatives_BN - threshold).sum(1)


def _check_temperature(temperature) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"Expected a temperature above 0, got {temperature}. The authors' code "
                         "takes 0.07.")


class CRD(FeatureLoss):
    """Contrast in both directions, with two memories of the whole training set: `crd`.

    Trains two linear layers, `heads`, onto the unit sphere, one for each side; two buffers,
    [samples, dim], keep the embedding of every training sample. Adds the loss of the student's
    embedding with the teacher's memory, and of the teacher's with the student's.

    dim: the width of the embeddings.
    negatives: N, drawn afresh for every anchor from the samples of *other* classes, with
        replacement (the authors: without, where there are enough).
    T: the temperature τ of `crd`.
    momentum: the share of the old entry that stays when a memory is written, from 0 to below 1.
    variant: "code", as in the paper's table, has the normalizer Z: `samples` times the mean
        exponential of the first training batch, for each direction (its logarithm: the buffer
        `log_z`). "paper" has none: values of hundreds to thousands at the start, for which the
        weight 0.8 of the authors' scripts is too large.
    samples: M, the size of the training set. A scheme finds that out, and the classes, in `check`.
    classes: the class numbers [M], for use without a scheme. Without, every other sample may be a
        negative.

    Without paths it compares the logits; the paper takes "fc:input" in `kdcourse`'s resnet. Outside
    a scheme call `term(student, teacher, labels, index=index)` with the rows of the training set.
    Memories and Z are written after they were read, only in train mode with gradients. Under
    several processes each writes its own samples, and `DistributedDataParallel` needs
    `broadcast_buffers=False`: else the first process's memories replace all others.
    """

    needs_paths = False

    def __init__(self, student=None, teacher=None, *, dim: int = 128, negatives: int = 16384,
                 T: float = 0.07, momentum: float = 0.5, variant: str = "code",
                 samples: int | None = None, classes: torch.Tensor | None = None):
        for name, value in (("dim", dim), ("negatives", negatives)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected {name} to be a whole number of at least 1, got "
                                 f"{value!r}.")
        _check_temperature(T)
        if not 0 <= momentum < 1:
            raise ValueError(f"Expected momentum from 0 to below 1, got {momentum}.")
        inputs.check_choice("variant", variant, VARIANTS)
        super().__init__(student, teacher, dim=dim, negatives=negatives, T=T, momentum=momentum,
                         variant=variant)
        self.heads: nn.ModuleList | None = None
        for name in ("memory_student", "memory_teacher", "log_z"):
            self.register_buffer(name, None)
        self.others: OtherClasses | None = None
        self.seed, self.step = 0, 0
        self.classes = classes
        if classes is not None:
            self.others = OtherClasses(classes, samples)
        elif samples is not None:
            if not isinstance(samples, int) or samples < 2:
                raise ValueError(f"Expected samples to be the size of the training set, at least "
                                 f"2, got {samples!r}.")
            self.others = OtherClasses(torch.arange(samples))  # a class for each sample

    @property
    def samples(self) -> int | None:
        """M, the size of the training set, once it is known."""
        return None if self.others is None else len(self.others.order)

    def check(self, data):
        y, count = data.train.y, len(data.train)
        if self.samples not in (None, count):
            raise ValueError(f"{self!r}: Expected a training set of the {self.samples} samples "
                             f"that this term remembers, got {count} in {data.name}. Make a new "
                             "CRD for other data.")
        if self.classes is None:
            try:
                if y is None or data.task != ONE_LABEL:
                    y = torch.arange(count)  # a class for each sample
                self.others = OtherClasses(y if y.ndim == 1 else y.argmax(1))
            except ValueError as error:
                raise self.named(error) from None
            if self.memory_student is not None:
                self.others.to(self.memory_student.device)

    def build(self, student, teacher, seed):
        student, teacher = vectors_pair(*self.pick(student, teacher), least=1)
        if self.heads is not None:
            return
        if self.samples is None:
            raise ValueError("Expected to know the size of the training set, for the memories. A "
                             "scheme finds it out in scheme.check(data); in your own loop write "
                             "CRD(samples=len(train)), or give classes=.")
        widths = (student.shape[1], teacher.shape[1])
        self.heads = self.seeded(seed, student, lambda: nn.ModuleList(
            nn.Linear(width, self.dim) for width in widths))
        like = self.heads[0].weight
        for side in ("student", "teacher"):
            random = torch.randn(self.samples, self.dim, generator=generator(seed, "crd", side))
            setattr(self, f"memory_{side}", unit(random).to(like))
        if self.variant == "code":
            self.log_z = torch.full((2,), math.nan).to(like)  # not known yet
        self.others.to(like.device)
        self.seed = seed

    def forward(self, student, teacher=None, labels=None, index=None):
        if index is None and isinstance(student, Output):
            index = student.index
        student, teacher = self.pick(student, teacher)
        try:
            return self.values(student, teacher, labels, index).mean()
        except ValueError as error:
            raise self.named(error) from None

    @inputs.full_precision
    def values(self, student, teacher=None, labels=None, index=None):
        student, teacher = vectors_pair(student, teacher, least=1)
        index_B = self._index(index, len(student)).to(student.device)
        ours, theirs = self.heads or (None, None)
        ours, theirs = unit(projected(student, ours)), unit(projected(teacher, theirs))
        writing = self.training and torch.is_grad_enabled()
        negatives_BN = self._draw(index_B, writing)
        scores = []
        for anchor, memory in ((ours, self.memory_teacher), (theirs, self.memory_student)):
            # The backward pass needs the memory as it is now.
            all_BM = anchor @ (memory.clone() if writing else memory).T / self.T
            scores.append((all_BM.gather(1, index_B[:, None]), all_BM.gather(1, negatives_BN)))
        threshold = math.log(self.negatives / self.samples) + self._log_z(scores, writing)
        if writing:
            self._write(index_B, ours, theirs)
        return sum(_contrast(positive[:, 0], negatives, threshold[side])
                   for side, (positive, negatives) in enumerate(scores))

    @torch.compiler.disable  # the count of steps is Python's, and differs at each
    def _draw(self, index_B, count: bool) -> torch.Tensor:
        """Draw for every anchor N samples of other classes, [B, N]: uniform, with replacement."""
        drawn = torch.randint(2**62, (len(index_B), self.negatives),
                              generator=generator(self.seed, "crd", self.step))
        self.step += count
        return self.others.pick(index_B, drawn)

    @torch.no_grad()
    def _log_z(self, scores, writing: bool) -> torch.Tensor:
        """Give log Z of both directions, [2]: of the first training batch, before that of this."""
        if self.variant == "paper":
            return scores[0][0].new_zeros(2)
        now = torch.stack([torch.cat(pair, 1).flatten().logsumexp(0) for pair in scores])
        now = now - math.log(len(scores[0][0]) * (self.negatives + 1) / self.samples)
        known = torch.where(self.log_z.isnan(), now, self.log_z)
        if writing:
            self.log_z.copy_(known)
        return known

    @torch.no_grad()
    def _write(self, index_B, ours, theirs) -> None:
        for memory, new in ((self.memory_student, ours), (self.memory_teacher, theirs)):
            mixed = self.momentum * memory[index_B] + (1 - self.momentum) * new
            memory.index_copy_(0, index_B, unit(mixed).to(memory))

    def _index(self, index, B: int) -> torch.Tensor:
        if (not isinstance(index, torch.Tensor) or list(index.shape) != [B]
                or index.is_floating_point() or index.dtype == torch.bool):
            got = list(index.shape) if isinstance(index, torch.Tensor) else index
            raise ValueError(f"Expected the sample ids [{B}] of this batch, rows of the training "
                             f"set, got {got}. A scheme passes them; in your own loop call "
                             "term(student, teacher, labels, index=index).")
        return index.long()

    def identity(self):
        return [*super().identity(), self.classes]

    def get_extra_state(self):
        return torch.tensor([self.seed, self.step])

    def set_extra_state(self, state):
        self.seed, self.step = state.tolist()
