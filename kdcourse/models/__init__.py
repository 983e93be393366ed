"""Small reference networks, and those of the published tables on CIFAR. Each takes inputs in [0, 1]
and normalises them itself."""

from kdcourse.models.cifar import cifar
from kdcourse.models.reference import (
    BasicBlock,
    MeanOverImage,
    Normalize,
    ResNet,
    convnet,
    mlp,
    resnet,
    vit,
)
from kdcourse.taps import clean_copy, describe, device_of, evaluating, predict, predict_split

__all__ = ["BasicBlock", "MeanOverImage", "Normalize", "ResNet", "cifar", "clean_copy", "convnet",
           "describe", "device_of", "evaluating", "mlp", "predict", "predict_split", "resnet",
           "vit"]
