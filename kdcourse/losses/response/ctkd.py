"""Curriculum temperature. B batch, K classes; q, p: the softmax of student and teacher at T."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse._feed import fed
from kdcourse.losses import inputs
from kdcourse.losses.base import Loss
from kdcourse.losses.numerics import kl
from kdcourse.taps import Output

SCHEDULES = ("cosine", "linear")


def ctkd(student_BK, teacher_BK, temperature, strength=1.0, reduction: str = "mean"):
    r"""Compute `kd` at a temperature that is trained to make the loss larger.

    .. math:: L = T^2 \sum_k p_k \log\frac{p_k}{q_k}, \qquad
        \text{for the optimiser}\quad \frac{\partial L}{\partial T} \to
        -\lambda \frac{\partial L}{\partial T}

    Li et al. 2023 (CTKD, arXiv:2211.16231): the temperature's gradient, which goes through T² and
    both softmaxes, is reversed and multiplied by λ; the student's is that of `kd`. Raises
    `ValueError` for another shape of the temperature and for logits that are not [B, K], of one
    shape.

    student_BK, teacher_BK: logits [B, K].
    temperature: a tensor above 0 (which is not checked), of shape [], or [B] with one temperature
        per sample, as in the paper's instance-wise form. `CTKD` trains one of shape [].
    strength: λ, a number or a tensor of shape []; 0 leaves the temperature as it is.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    >>> T = torch.tensor(1.0, requires_grad=True)
    >>> loss = ctkd(s, t, T, strength=0.5)
    >>> loss.detach()  # log 2 - H(1/4), as `kd`
    tensor(0.1308)
    >>> loss.backward()
    >>> T.grad  # half of 2 * 0.1308 - 3/16 (log 3)², with the sign reversed
    tensor(-0.0177)
    """
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    if not isinstance(temperature, torch.Tensor) or (
            temperature.shape not in ((), student_BK.shape[:1])):
        raise ValueError(f"Expected a temperature of shape [] or [{len(student_BK)}], a tensor, "
                         f"got {inputs.described(temperature)}. A constant is kd(…, T=4).")
    now = temperature.detach()
    T = now + strength * (now - temperature)  # the value of T, with the gradient times -strength
    T = T.to(student_BK.dtype)
    T_B1 = T if T.ndim == 0 else T[:, None]
    log_q = F.log_softmax(_divided(student_BK, T_B1), dim=1)
    log_p = F.log_softmax(_divided(teacher_BK, T_B1), dim=1)
    return inputs.reduce(T**2 * kl(log_p, log_q), reduction)


class CTKD(Loss):
    """Match the teacher at a temperature that is trained against the student: `ctkd`. T² is
    included.

    Trains one number θ: T = least + span · sigmoid(θ), with θ = 1 at the start (T = 15.6). The
    strength λ of its reversed gradient rises from 0 to 1 in the first epochs, and stays there.

    least, span: the temperature lies between `least` and `least + span`.
    epochs: passes over the training set until λ is 1. The authors' code: 10 on CIFAR-100 (B = 64),
        5 on ImageNet. They raise λ once in an epoch; here it rises in every step, to the same value
        at the end of each epoch.
    schedule: "cosine", λ = (1 - cos(π e / epochs)) / 2 after e epochs; or "linear", λ = e / epochs
        (which ends one step lower, at 1 - 1/epochs, in the authors' code).
    samples: the size of the training set. A scheme reads it from the data in `check`.

    Published weight, for the defaults: 0.9 with 0.1 for the labels, for ResNet-56 to ResNet-20 on
    CIFAR-100 at batch 64; 1, with 1 for the labels and `epochs=5`, for ResNet-34 to ResNet-18 on
    ImageNet at batch 256 (zhengli97/CTKD, scripts/run_cifar_distill.sh, run_imagenet_distill.sh).

    `term.temperature` is T as it is now, `term.strength` is λ.

    In train mode with gradients a call counts its samples, once for each batch of a scheme, however
    many edges the term has (with tensors: in every call). Several processes count together.
    """

    omitted = ("samples",)

    def __init__(self, least: float = 1.0, span: float = 20.0, epochs: float = 10,
                 schedule: str = "cosine", student=None, teacher=None, *,
                 samples: int | None = None):
        inputs.check(0 < least < math.inf, "a least temperature above 0", least)
        inputs.check(0 < span < math.inf, "a span of temperatures above 0", span)
        inputs.check(0 < epochs < math.inf, "epochs above 0", epochs)
        inputs.check_choice("schedule", schedule, SCHEDULES)
        if samples is not None:
            inputs.check_count("samples (the size of the training set)", samples)
        super().__init__(student, teacher, least=least, span=span, epochs=epochs,
                         schedule=schedule, samples=samples)
        self.theta: nn.Parameter | None = None
        self.per_epoch, self.seen, self.last = samples, 0, None
        self.due = 0  # samples of this call that count

    def check(self, data):
        self.per_epoch = self.samples or len(data.train)

    def build(self, student, teacher, seed):
        student, _ = self.pick(student, teacher)
        inputs.check(self.per_epoch is not None, "the size of the training set, for the schedule",
                     None, "A scheme finds it out in scheme.check(data); in your own loop write "
                     "CTKD(samples=len(train)).")
        if self.theta is None:
            self.theta = nn.Parameter(inputs.floats(student).new_ones(()))

    def forward(self, student, teacher=None, labels=None):
        self.due = self._new_samples(student)
        return super().forward(student, teacher, labels)

    def values(self, student, teacher=None, labels=None):
        if self.theta is None:
            raise ValueError("Expected build() to be called first. A scheme does it; in your own "
                             "loop call term.build(student_BK, teacher_BK, seed).")
        return ctkd(student, teacher, self.least + self.span * self.theta.sigmoid(),
                    self._next_strength(self.theta.device), "none")

    @property
    def temperature(self) -> torch.Tensor:
        """T as it is now, a tensor of shape [] without a gradient."""
        return self.least + self.span * self.theta.detach().sigmoid()

    @property
    def strength(self) -> float:
        """λ as it is now, between 0 and 1."""
        return self._strength().item()

    @torch.compiler.disable
    def _new_samples(self, student) -> int:
        """Count the samples of a training batch at its first edge."""
        if not (self.training and torch.is_grad_enabled()):
            return 0
        index = student.index if isinstance(student, Output) else None
        same, self.last = index is not None and index is self.last, index
        if same:  # another edge of the batch
            return 0
        processes = (torch.distributed.get_world_size()
                     if torch.distributed.is_available() and torch.distributed.is_initialized()
                     else 1)
        return processes * len(student.logits if isinstance(student, Output) else student)

    @torch.compiler.disable  # the count is Python's, and differs in each step
    def _next_strength(self, device) -> torch.Tensor:
        due, self.due = self.due, 0

        def advance():
            self.seen += due
            return self._strength()

        return fed(advance, device)

    def _strength(self) -> torch.Tensor:
        share = min(self.seen / (self.epochs * self.per_epoch), 1.0)
        return torch.tensor((1 - math.cos(math.pi * share)) / 2 if self.schedule == "cosine"
                            else share)

    def get_extra_state(self):
        return torch.tensor([self.seen])

    def set_extra_state(self, state):
        (self.seen,) = state.tolist()


def _divided(x_BK, T) -> torch.Tensor:
    """Divide by T; a class that is ruled out (-inf) gives T no gradient, which would be NaN."""
    out = x_BK == -math.inf
    return (x_BK.masked_fill(out, 0) / T).masked_fill(out, -math.inf)
