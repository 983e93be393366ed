"""Several passes over one split, which must see the same samples in one order to be compared.

Shapes: N samples, M rows, K classes.
"""

import torch

from kdcourse.taps import predict_split


def marked_split(predictor, split) -> tuple:
    """Compute the logits [M, K] of a split and its labels, as `predict_split` does, and a number
    for each sample, [N], that tells its inputs from others: a weighted sum of them."""
    marks = []

    def marking(x):
        parts = [t.flatten(1).float() for t in (x.values() if isinstance(x, dict) else [x])]
        ramps = (torch.linspace(1, 2, part.shape[1], device=part.device) for part in parts)
        marks.append(sum((part * ramp).sum(1) for part, ramp in zip(parts, ramps)).cpu())
        return predictor(x)

    logits, labels = predict_split(marking, split)
    return logits, labels, torch.cat(marks)


def check_same_order(marks: list[torch.Tensor], name: str) -> None:
    """Raise `ValueError` unless passes over the split of this name saw the same samples in the same
    order. marks: as of `marked_split`, one of each pass."""
    for other in marks[1:]:
        if len(other) != len(marks[0]) or not torch.allclose(
                other, marks[0], rtol=1e-4, atol=1e-6, equal_nan=True):
            raise ValueError(
                f"Expected the same samples in the same order in each pass over {name}, as "
                "networks are compared sample by sample, got others in another pass. Take a loader "
                "with shuffle=False and without random transforms, or one whose order follows the "
                "generators that from_loaders seeds.")
