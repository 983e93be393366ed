"""Small reference networks, and those of the published tables on CIFAR. Each takes inputs in [0, 1]
and normalises them itself; language models take token ids. Networks can begin with weights of a
larger one."""

from kdcourse.models.cifar import cifar
from kdcourse.models.language import bert, generate, gpt
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
from kdcourse.models.select import every_other, select
from kdcourse.taps import clean_copy, describe, device_of, evaluating, predict, predict_split

__all__ = ["BasicBlock", "MeanOverImage", "Normalize", "ResNet", "bert", "cifar", "clean_copy",
           "convnet", "describe", "device_of", "evaluating", "every_other", "generate", "gpt",
           "mlp", "predict", "predict_split", "resnet", "select", "vit"]
