"""What labels look like: the end of the sentence that refuses them.

Shapes: N samples, H W height and width, D numbers.
"""

import torch


def other_tasks(y: torch.Tensor) -> str:
    """Name the task that labels of this shape and type may have been meant for; "" for none."""
    whole = not y.is_floating_point() or bool((y == y.round()).all())
    binary = whole and y.numel() > 0 and bool(((y == 0) | (y == 1)).all())
    if y.ndim == 2 and y.shape[1] == 1 and whole:
        return " Of a column [N, 1] take y[:, 0]; for one output with a sigmoid: kd.tasks.Labels()."
    if y.ndim == 2 and binary:
        one_hot = bool((y.sum(1) == 1).all())
        return "" if one_hot else (
            " For several labels per sample, each 0 or 1: task=kd.tasks.Labels().")
    if y.ndim == 2 and whole:
        return " For a label of each token: task=kd.tasks.Tokens(); for numbers: Numbers()."
    if y.ndim < 3:
        return " For numbers to be predicted: task=kd.tasks.Numbers()." if not whole else ""
    if not whole:
        return " For maps of numbers, [N, D, H, W]: task=kd.tasks.Numbers()."
    one = " (y[:, 0] of [N, 1, H, W])" if y.ndim == 4 and y.shape[1] == 1 else ""
    sigmoid = "; for outputs with a sigmoid: kd.tasks.Labels()" if binary else ""
    return f" For a label of each pixel, [N, H, W]{one}: task=kd.tasks.Pixels(){sigmoid}."
