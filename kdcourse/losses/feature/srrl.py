"""Softmax regression representation learning. B batch, D features, K classes."""

import math

import torch
from torch import nn

from kdcourse import _files
from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import projected


@inputs.full_precision
def softmax_regression(student_BD, teacher_BD, weight_KD, beta: float = 1.0,
                       reduction: str = "mean"):
    r"""Compare features as they are, and behind the teacher's classifier.

    .. math:: L = \frac{1}{D} \lVert s - t \rVert^2 + \frac{\beta}{K} \lVert W (s - t) \rVert^2

    Yang et al. 2021 (SRRL, ICLR), section 3, as in the authors' code: the second summand is the
    mean squared error of the logits that the teacher's classifier W gives for both features (its
    bias cancels). Raises `ValueError` for shapes that do not fit and for a weight beta below 0.

    student_BD: the student's features behind a connector (`SRRL`), with the teacher's width.
    teacher_BD: the features before the teacher's classifier.
    weight_KD: the weight of that classifier; it gets no gradient.
    beta: the weight of the logits.

    >>> student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    >>> softmax_regression(student, teacher, torch.tensor([[1.0, 3.0]]))  # 2²/2 + (3 * 2)²/1
    tensor(38.)
    """
    _check_beta(beta)
    student, teacher = inputs.features_pair(student_BD, teacher_BD, 2)
    D = student.shape[1]
    if not isinstance(weight_KD, torch.Tensor) or weight_KD.shape[1:] != (D,):
        raise ValueError(f"Expected the weight of the teacher's classifier, [K, {D}], got "
                         f"{inputs.described(weight_KD)}.")
    error = student - teacher
    of_logits = error @ weight_KD.detach().to(error).T
    return inputs.reduce(error.square().mean(1) + beta * of_logits.square().mean(1), reduction)


class SRRL(FeatureLoss):
    """Match the features before the last layer, also behind the teacher's classifier:
    `softmax_regression`. Trains a 1x1 convolution with batch normalisation and ReLU on the
    student's.

    student, teacher: paths of the features before the last layer: vectors [B, D], such as
        "fc:input", or maps [B, C, H, W] before the average pooling, as in the authors' code; the
        mean over the places is taken behind the connector.
    classifier: the teacher's last layer, such as `teacher.fc`: an `nn.Linear`, of which a copy of
        the weight is kept.
    beta: as for `softmax_regression`.

    Published weight: 1, with 1 for the labels, on maps, for ResNet-34 to ResNet-18 and ResNet-50 to
    MobileNet on ImageNet at batch 512 (jingyang2017/KD_SRRL, train_imagenet_distillation.py). On
    vectors 1, with 1 for the labels and 1 for `KD(T=4)`, for ResNet-32x4 to ResNet-8x4 on CIFAR-100
    at batch 64 (DefangChen/SimKD, scripts/run_distill.sh).
    """

    def __init__(self, student=None, teacher=None, *, classifier: nn.Linear | None = None,
                 beta: float = 1.0):
        _check_beta(beta)
        inputs.check(isinstance(classifier, nn.Linear), "the teacher's last layer (nn.Linear) as "
                     "classifier", type(classifier).__name__, 'Write SRRL("fc:input", "fc:input", '
                     "classifier=teacher.fc).")
        super().__init__(student, teacher, beta=beta)
        self.connector: nn.Module | None = None
        self.register_buffer("weight", classifier.weight.detach().clone())

    def build(self, student, teacher, seed):
        student, teacher = self._maps(*self.pick(student, teacher))
        if self.connector is None:
            channels, outputs = student.shape[1], teacher.shape[1]
            self.connector = self.seeded(seed, student, lambda: nn.Sequential(
                nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()))
        self.weight = self.weight.to(student.device)

    def values(self, student, teacher=None, labels=None):
        student, teacher = self._maps(student, teacher)
        student = projected(student, self.connector).mean((2, 3))
        return softmax_regression(student, teacher.mean((2, 3)), self.weight, self.beta, "none")

    def _maps(self, student, teacher):
        student, teacher = (x if x.ndim == 4 else x[:, :, None, None]
                            for x in inputs.one_batch(student, teacher, 2, 4))
        if teacher.shape[1] != self.weight.shape[1]:
            raise ValueError(f"Expected features of the teacher with the {self.weight.shape[1]} "
                             f"inputs of its classifier, got {list(teacher.shape)}.")
        return student, teacher

    def identity(self):
        return [*super().identity(), self.weight]

    def extra_repr(self):
        digest = _files.digest(self.weight.float().cpu().numpy().tobytes())[:8]
        return f"classifier={len(self.weight)} classes#{digest}, {super().extra_repr()}"


def _check_beta(beta) -> None:
    inputs.check(0 <= beta < math.inf, "a weight beta of 0 or more", beta)
