"""Contrastive distillation. B batch, D features, N negatives, M samples of the training set."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse._feed import fed
from kdcourse._random import generator
from kdcourse.data import Split
from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import projected
from kdcourse.losses.numerics import unit
from kdcourse.losses.relation.negatives import OtherClasses
from kdcourse.losses.relation.pairs import VARIANTS, vectors_pair
from kdcourse.taps import Output
from kdcourse.tasks import Classes


@inputs.full_precision
def crd(anchor_BD, positive_BD, negatives_BND, samples: int, temperature: float = 0.07,
        normalizer=None, reduction: str = "mean"):
    r"""Compute the loss of a critic that tells the positive pair from N negative ones.

    .. math:: L = -\log h(a, p) - \sum_{n=1}^N \log\big(1 - h(a, b_n)\big), \qquad
        h(a, b) = \frac{e^{a^\top b / \tau}}{e^{a^\top b / \tau} + N / M}

    Tian, Krishnan & Isola 2020 (arXiv:1910.10699), equations 15 to 19. On average log N - L is a
    lower bound of the mutual information of the two sides. In nats; not 0 where both sides agree.
    Raises `ValueError` for shapes that do not fit and for settings out of range.

    anchor_BD: embeddings [B, D] of unit length (not normalised here), of the side that learns.
    positive_BD, negatives_BND: the other side's embeddings of the same samples, [B, D], and of
        others, [B, N, D]. They get no gradient.
    samples: M, the size of the training set.
    temperature: τ, above 0. Smaller means that only the nearest negatives count.
    normalizer: None is the paper's formula. The authors' code divides each exponential by a
        constant Z (a number, or a tensor of one), which it takes from the first batch: see `CRD`.

    >>> here, there = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])  # at a right angle
    >>> crd(here, here, there[:, None], samples=1, temperature=1)  # log(1 + 1/e) + log(1 + 1)
    tensor(1.0064)
    """
    _check_temperature(temperature)
    inputs.check_count("samples (the size of the training set)", samples)
    anchor_BD = inputs.features(anchor_BD, "student (anchor)", 2)
    positive_BD = inputs.features(positive_BD, "positive", 2)
    positive_BD = inputs.fixed(anchor_BD, positive_BD).to(anchor_BD)
    negatives_BND = inputs.features(negatives_BND, "negative", 3).detach().to(anchor_BD)
    if not anchor_BD.shape == positive_BD.shape == negatives_BND.shape[::2]:
        raise ValueError(
            f"Expected anchors and positives [B, D] and negatives [B, N, D], got "
            f"{list(anchor_BD.shape)}, {list(positive_BD.shape)} and {list(negatives_BND.shape)}.")
    threshold = math.log(negatives_BND.shape[1] / samples)
    if isinstance(normalizer, torch.Tensor):
        threshold = threshold + normalizer.detach().to(anchor_BD).log()
    elif normalizer is not None:
        inputs.check(0 < normalizer < math.inf, "a normalizer above 0, or None", normalizer)
        threshold += math.log(normalizer)
    positive_B = (anchor_BD * positive_BD).sum(1) / temperature
    negatives_BN = torch.einsum("bd,bnd->bn", anchor_BD, negatives_BND) / temperature
    return inputs.reduce(_contrast(positive_B, negatives_BN, threshold), reduction)


def _contrast(positive_B, negatives_BN, threshold) -> torch.Tensor:
    """Compute -log h - sum log(1 - h) with h = sigmoid(score - threshold): nothing overflows."""
    return F.softplus(threshold - positive_B) + F.softplus(negatives_BN - threshold).sum(1)


def _check_temperature(temperature) -> None:
    inputs.check(0 < temperature < math.inf, "a temperature above 0", temperature,
                 "The authors' code takes 0.07.")


class CRD(FeatureLoss):
    """Contrast in both directions, with two memories of the whole training set: `crd`.

    Trains two linear layers, `heads`, onto the unit sphere, one for each side; two buffers,
    [samples, dim], keep the embedding of every training sample. Adds the loss of the student's
    embedding with the teacher's memory, and of the teacher's with the student's. Without paths it
    compares the logits; the paper takes "fc:input" in `kdcourse`'s resnet.

    dim: the width of the embeddings.
    negatives: N, drawn afresh for every anchor from the samples of *other* classes, with
        replacement (the authors: without, where there are enough).
    T: the temperature τ of `crd`.
    momentum: the share of the old entry that stays when a memory is written, from 0 to below 1.
    variant: "code", as in the paper's table, has the normalizer Z: `samples` times the mean
        exponential of the first training batch, for each direction (its logarithm: the buffer
        `log_z`). "paper" has none: values of hundreds to thousands at the start, for which the
        published weight is too large.
    samples, classes: M, the size of the training set, and its class numbers [M]. A scheme reads
        both from data in memory in `check`; for a loader give them, and batches (x, y, index) with
        ids below M. With `samples` alone every other sample may be a negative. A sample without a
        label (a number below 0) is a class of its own: it may be a negative of all others.

    Published weight: 0.8, with 1 for the labels, for variant "code" and all pairs on CIFAR-100 at
    batch 64; CRD + KD adds `KD(T=4)` with weight 1 (RepDistiller, scripts/run_cifar_distill.sh).

    Outside a scheme call `term(student, teacher, labels, index=index)` with the rows of the
    training set. Memories and Z are written after they were read, only in train mode with
    gradients. Under several processes each writes its own samples, and `DistributedDataParallel`
    needs `broadcast_buffers=False`: else the first process's memories replace all others.
    """

    needs_paths = False

    def __init__(self, student=None, teacher=None, *, dim: int = 128, negatives: int = 16384,
                 T: float = 0.07, momentum: float = 0.5, variant: str = "code",
                 samples: int | None = None, classes: torch.Tensor | None = None):
        inputs.check_count("dim", dim)
        inputs.check_count("negatives", negatives)
        _check_temperature(T)
        inputs.check(0 <= momentum < 1, "momentum from 0 to below 1", momentum)
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
            inputs.check_count("samples (the size of the training set)", samples, least=2)
            self.others = OtherClasses(torch.arange(samples))  # a class for each sample

    @property
    def samples(self) -> int | None:
        """M, the size of the training set; None before it is given or `check` finds it."""
        return None if self.others is None else len(self.others.order)

    def check(self, data):
        try:
            if isinstance(data.train, Split):
                self._take_samples(data)
            else:
                self._check_stream(data.train)
        except ValueError as error:
            raise self.named(error) from None
        if self.memory_student is not None:
            self.others.to(self.memory_student.device)

    def _take_samples(self, data) -> None:
        """Read size and classes of a training set in memory."""
        y, count = data.train.y, len(data.train)
        inputs.check(self.samples in (None, count), f"a training set of the {self.samples} "
                     "samples of this term's memories", f"{count} in {data.name}",
                     "Make a new CRD for other data.")
        if self.classes is None:
            known = torch.zeros(count)
            if y is not None and isinstance(data.task, Classes):
                known, y = data.task.weight(None, y), y if y.ndim == 1 else y.argmax(1)
            none = torch.full((count,), -1)
            self.others = OtherClasses(
                y if known is None else none if y is None else torch.where(known > 0, y, none))

    def _check_stream(self, train) -> None:
        """Raise `ValueError` unless the ids of a loader are rows of the memories."""
        inputs.check(self.samples is not None, "the number of samples and the class of each, for "
                     "samples that come from a loader", None, "Write CRD(…, samples=M, classes=y), "
                     "with a tensor y [M] of class numbers; or samples=M alone.")
        inputs.check(train.index is not None, "sample ids from the loader, for the memories",
                     "batches (x, y)", "Yield (x, y, index), with index from 0 to "
                     f"{self.samples - 1}.")
        inputs.check(len(train) <= self.samples, f"a training set of the {self.samples} samples of "
                     "this term's memories", len(train), "Raise samples=…, or give classes of all.")
        self._check_rows(train.index)

    def _check_rows(self, index) -> None:
        if index.cpu().numpy().max(initial=0) >= self.samples:
            raise ValueError(f"Expected sample ids below {self.samples}, the rows of this term's "
                             f"memories, got {int(index.max())}. Give samples=…, one more than "
                             "the largest id.")

    def build(self, student, teacher, seed):
        student, teacher = vectors_pair(*self.pick(student, teacher), least=1)
        if self.heads is not None:
            return
        inputs.check(self.samples is not None, "the size of the training set, for the memories",
                     None, "A scheme finds it out in scheme.check(data); in your own loop write "
                     "CRD(samples=len(train)), or give classes=.")
        self.heads = self.seeded(seed, student, lambda: nn.ModuleList(
            nn.Linear(x.shape[1], self.dim) for x in (student, teacher)))
        like = self.heads[0].weight
        for side in ("student", "teacher"):
            random = torch.randn(self.samples, self.dim, generator=generator(seed, "crd", side))
            setattr(self, f"memory_{side}", unit(random).to(like))
        if self.variant == "code":
            self.log_z = like.new_full((2,), math.nan)  # until the first training batch
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
        heads = self.heads or (None, None)
        student, teacher = unit(projected(student, heads[0])), unit(projected(teacher, heads[1]))
        writes = self.training and torch.is_grad_enabled()
        negatives_BN = self._draw(index_B, writes)
        scores = []
        for anchor, memory in ((student, self.memory_teacher), (teacher, self.memory_student)):
            # The backward pass needs the memory as it is now.
            all_BM = anchor @ (memory.clone() if writes else memory).T / self.T
            scores.append((all_BM.gather(1, index_B[:, None]), all_BM.gather(1, negatives_BN)))
        threshold = math.log(self.negatives / self.samples) + self._log_z(scores, writes)
        if writes:
            self._write(index_B, student, teacher)
        return sum(_contrast(positive[:, 0], negatives, threshold[side])
                   for side, (positive, negatives) in enumerate(scores))

    def _index(self, index, B: int) -> torch.Tensor:
        if not isinstance(index, torch.Tensor) or index.shape != (B,) or (
                index.is_floating_point() or index.dtype == torch.bool):
            raise ValueError(f"Expected the sample ids [{B}] of this batch, rows of the training "
                             f"set, got {inputs.described(index)}. A scheme passes them; in your "
                             "own loop call term(student, teacher, labels, index=index).")
        if index.device.type == "cpu" and not torch.compiler.is_compiling():
            self._check_rows(index)  # a GPU would be waited for
        return index.long()

    @torch.compiler.disable  # the count of steps is Python's, and differs at each
    def _draw(self, index_B, count: bool) -> torch.Tensor:
        """Draw for every anchor N samples of other classes, [B, N]: uniform, with replacement."""
        shape = len(index_B), self.negatives

        def draw():
            random = generator(self.seed, "crd", self.step)
            self.step += count
            return torch.randint(2**62, shape, generator=random)

        return self.others.pick(index_B, fed(draw, index_B.device))

    @torch.no_grad()
    def _log_z(self, scores, writes: bool) -> torch.Tensor:
        """Give log Z of both directions, [2]: of the first training batch, before that of this."""
        if self.variant == "paper":
            return scores[0][0].new_zeros(2)
        log_z = torch.stack([torch.cat(pair, 1).flatten().logsumexp(0) for pair in scores])
        log_z = log_z - math.log(len(scores[0][0]) * (self.negatives + 1) / self.samples)
        log_z = torch.where(self.log_z.isnan(), log_z, self.log_z)
        if writes:
            self.log_z.copy_(log_z)
        return log_z

    @torch.no_grad()
    def _write(self, index_B, student, teacher) -> None:
        for memory, new in ((self.memory_student, student), (self.memory_teacher, teacher)):
            mixed = self.momentum * memory[index_B] + (1 - self.momentum) * new
            memory.index_copy_(0, index_B, unit(mixed).to(memory))

    def identity(self):
        return [*super().identity(), self.classes]

    def get_extra_state(self):
        return torch.tensor([self.seed, self.step])

    def set_extra_state(self, state):
        self.seed, self.step = state.tolist()
