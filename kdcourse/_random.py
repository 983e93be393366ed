"""Streams of random numbers that are independent of each other."""

import contextlib

import torch

from kdcourse import _files


def generator(*key) -> torch.Generator:
    """Return a CPU random generator for a key such as `(seed, "order", epoch)`.

    Different keys give independent streams: of initialisation, data order and augmentation, none
    depends on how much another draws.

    >>> torch.rand(1, generator=generator(0, "a")) == torch.rand(1, generator=generator(0, "a"))
    tensor([True])
    """
    return torch.Generator().manual_seed(int(_files.digest(list(key))[:15], 16))


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None):
    """Seed torch's global generators, of the CPU and of a GPU, inside the block only."""
    gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if gpu else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every GPU
        if gpu:
            torch.cuda.manual_seed(seed)
        yield
