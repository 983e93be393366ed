"""Losses with labels: those of the data, those of the teacher, and a teacher made out of labels.

Shapes: B batch, K classes. v are the teacher's logits, z the student's, p and q their softmax at
temperature T. Values are in nats. All of it is computed in float32 at least, also under autocast.
"""

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss
from kdcourse.losses.response.divergences import kd


def cross_entropy(student_BK, labels, reduction: str = "mean"):
    r"""Cross-entropy with the labels, at temperature 1.

    .. math:: L = -\log q_y \quad\text{or, with soft labels}\quad L = -\sum_k y_k \log q_k

    student_BK: logits [B, K]. labels: class numbers [B], or soft labels [B, K].
    reduction: "mean", or "none" for one value per sample, [B].

    Raises `ValueError` for logits that are not [B, K] and labels that do not match them.

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2]))  # log 4
    tensor(1.3863)
    """
    student_BK = inputs.logits(student_BK, "student")
    labels = inputs.labels(student_BK, labels)
    if labels.ndim == 2:  # not by F.cross_entropy, for which 0 log 0 is NaN
        log_q = F.log_softmax(student_BK, dim=1).masked_fill(labels == 0, 0)
        return inputs.reduce(-(labels * log_q).sum(1), reduction)
    return inputs.reduce(F.cross_entropy(student_BK, labels, reduction="none"), reduction)


def label_smoothing(student_BK, labels, smoothing: float = 0.1, reduction: str = "mean"):
    r"""Cross-entropy with labels mixed with the uniform distribution.

    .. math:: L = -(1-\varepsilon)\log q_y - \frac{\varepsilon}{K}\sum_k \log q_k

    Szegedy et al. 2016, section 7 (arXiv:1512.00567). The soft labels of somebody who knows
    nothing: a control for distillation.

    smoothing: the share ε of the uniform distribution, in [0, 1]. Rest as for `cross_entropy`.

    Every class has a share of it, so one that the student rules out (-inf) makes the loss +inf.

    >>> label_smoothing(torch.zeros(1, 4), torch.tensor([2]))  # log 4, whatever the target
    tensor(1.3863)
    """
    inputs.check_share("smoothing", smoothing)
    student_BK = inputs.logits(student_BK, "student")
    labels = inputs.labels(student_BK, labels)
    values_B = F.cross_entropy(student_BK, labels, label_smoothing=smoothing, reduction="none")
    return inputs.reduce(values_B, reduction)


def hard_label(student_BK, teacher_BK, smoothing: float = 0.0, reduction: str = "mean"):
    r"""Cross-entropy with the class that the teacher thinks most likely.

    .. math:: L = -\log q_{y_t}, \qquad y_t = \arg\max_k v_k

    Touvron et al. 2021, "Training data-efficient image transformers & distillation through
    attention" (DeiT), section 4, equation 3 (arXiv:2012.12877). All that the teacher says is one
    class, so there is no temperature. The paper's objective is `0.5 * CE() + 0.5 * HardLabel()`.

    student_BK, teacher_BK: logits [B, K]. Equal largest logits: the first class of them.
    smoothing: share ε of the uniform distribution, in [0, 1], as in `label_smoothing`. DeiT smooths
        the labels of the data (0.1) and not those of the teacher.
    reduction: "mean", or "none" for one value per sample, [B].

    With smoothing a class that the student rules out (-inf) makes the loss +inf; without it, only
    when it is the teacher's choice.

    Raises `ValueError` for smoothing outside [0, 1], for logits that are not [B, K] and for two
    different shapes.

    >>> hard_label(torch.zeros(1, 4), torch.tensor([[0.0, 3.0, 1.0, 2.0]]))  # log 4
    tensor(1.3863)
    """
    inputs.check_share("smoothing", smoothing)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    values_B = F.cross_entropy(student_BK, teacher_BK.argmax(1), label_smoothing=smoothing,
                               reduction="none")
    return inputs.reduce(values_B, reduction)


def virtual_teacher(student_BK, labels, a: float = 0.99, T: float = 20.0, variant: str = "paper",
                    reduction: str = "mean"):
    r"""Distillation from a teacher that nobody trained: sure of the label, even about the rest.

    .. math::

        L = T^2\,\mathrm{KL}(p^d_T \,\|\, q), \qquad
        p^d_k = \begin{cases} a & k = y \\ (1-a)/(K-1) & k \ne y \end{cases}

    Yuan et al. 2020, "Revisiting Knowledge Distillation via Label Smoothing Regularization"
    (Tf-KD_reg), section 4, equation 9 (arXiv:1909.11723): a control for what a teacher knows beyond
    the label. Softening is what a temperature does to logits, and those of the virtual teacher are
    log p^d: so this is `kd` from them. The paper writes no T², neither here nor for `kd`; it is
    included here as everywhere, so that a weight means the same at every T (for the paper's α, read
    to the letter, divide it by T²). As T grows the gradient tends to (z - log p^d) / K, centred.

    student_BK: logits [B, K], K at least 2. labels: class numbers [B].
    a: what the virtual teacher gives to the right class, in (0, 1]. Paper: 0.9 and more.
    T: temperature, above 0. Paper: 20 and more.
    variant: "paper" as above. In the authors' code, "code", the probabilities themselves take the
        place of logits, softmax(p^d / T), the student is not softened and there is no T². That
        teacher is far more even: 0.105 for the right one of 10 classes at the settings above,
        against 0.135. The authors say that CIFAR-100 was run so, and larger data with T on both
        sides. Their code also divides by K and has a `multiplier`: weights, left to you.
    reduction: "mean", or "none" for one value per sample, [B].

    With a below 1 every class has some probability, so one that the student rules out (-inf) makes
    the loss +inf.

    Raises `ValueError` for a outside (0, 1], T <= 0, another variant, logits that are not [B, K]
    with 2 classes or more, and labels that do not match them.

    >>> y = torch.tensor([1])
    >>> virtual_teacher(torch.tensor([[0.25, 0.75]]).log(), y, a=0.75)  # the same answer
    tensor(0.)
    """
    _check_virtual(a, T, variant)
    student_BK = inputs.logits(student_BK, "student")
    labels_B1 = inputs.class_numbers(student_BK, labels)[:, None]
    K = student_BK.shape[1]
    if K < 2:
        raise ValueError(f"Expected 2 classes or more, got logits {list(student_BK.shape)}.")
    p_BK = torch.full_like(student_BK, (1 - a) / (K - 1)).scatter(1, labels_B1, a)
    if variant == "code":
        return kd(student_BK, p_BK / T, 1, reduction)
    return kd(student_BK, p_BK.log(), T, reduction)


def _check_virtual(a, T, variant):
    if not 0 < a <= 1:
        raise ValueError(f"Expected a probability a above 0 and up to 1, got {a}.")
    inputs.check_temperature(T)
    inputs.check_choice("variant", variant, ("paper", "code"))


class CE(Loss):
    """`cross_entropy` with the labels."""

    needs_teacher = False

    def values(self, student, teacher=None, labels=None):
        return cross_entropy(student, labels, "none")


class LabelSmoothing(Loss):
    """`label_smoothing` of the labels."""

    needs_teacher = False

    def __init__(self, smoothing: float = 0.1, student=None, teacher=None):
        super().__init__(student, teacher)
        inputs.check_share("smoothing", smoothing)
        self.smoothing = smoothing

    def values(self, student, teacher=None, labels=None):
        return label_smoothing(student, labels, self.smoothing, "none")

    def extra_repr(self):
        return f"smoothing={self.smoothing:.10g}"


class HardLabel(Loss):
    """`hard_label`: the teacher's first choice is the label."""

    def __init__(self, smoothing: float = 0.0, student=None, teacher=None):
        super().__init__(student, teacher)
        inputs.check_share("smoothing", smoothing)
        self.smoothing = smoothing

    def values(self, student, teacher=None, labels=None):
        return hard_label(student, teacher, self.smoothing, "none")

    def extra_repr(self):
        return f"smoothing={self.smoothing:.10g}" if self.smoothing else ""


class TfKD(Loss):
    """`virtual_teacher`: distillation without a teacher. T² is included in variant "paper"."""

    needs_teacher = False

    def __init__(self, a: float = 0.99, T: float = 20.0, variant: str = "paper",
                 student=None, teacher=None):
        super().__init__(student, teacher)
        _check_virtual(a, T, variant)
        self.a, self.T, self.variant = a, T, variant

    def values(self, student, teacher=None, labels=None):
        return virtual_teacher(student, labels, self.a, self.T, self.variant, "none")

    def extra_repr(self):
        return f"a={self.a:.10g}, T={self.T:.10g}, variant={self.variant!r}"
