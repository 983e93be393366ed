"""What the laws of several assignments need."""

import torch


def numbers(found):
    """One tensor in float64 of what came back: numbers, tensors, lists of them."""
    if isinstance(found, list):
        return torch.stack([numbers(one) for one in found])
    return torch.as_tensor(found).double()


def slopes_of(loss, *leaves):
    """The gradients; this runs in the worker."""
    assert loss.requires_grad, "no gradient reaches the student"
    loss.backward()
    assert leaves[0].grad is not None, "no gradient reaches the student"
    return [leaf.grad for leaf in leaves]


def uniform(rng, low, high):
    """A number drawn from `low` to `high`."""
    return low + (high - low) * float(torch.rand((), generator=rng))


def whole(rng, low, high):
    """A whole number drawn from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=rng))
