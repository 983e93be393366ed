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
    """Seed torch's global generators, of the CPU and of the device, inside the block only."""
    with kept(*[device] if device is not None else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device
        if device is not None and (backend := _backend(device)):
            backend.manual_seed(seed)
        yield


@contextlib.contextmanager
def kept(*devices: torch.device):
    """Put back what the block draws from torch's global generators, of the CPU and of the devices.

    (`torch.random.fork_rng` does not work with MPS.)
    """
    before = [(torch.set_rng_state, (torch.get_rng_state(),))]
    for device in devices:
        if backend := _backend(device):
            place = _place(device)
            before.append((backend.set_rng_state, (backend.get_rng_state(*place), *place)))
    try:
        yield
    finally:
        for put, state in before:
            put(*state)


def global_state(device: torch.device) -> torch.Tensor:
    """Read the states of torch's global generators, of the CPU and of the device, as bytes."""
    states = [torch.get_rng_state()]
    if backend := _backend(device):
        states.append(backend.get_rng_state(*_place(device)))
    return torch.cat(states)


def set_global_state(states: torch.Tensor, device: torch.device) -> None:
    """Set what `global_state` read."""
    length = len(torch.get_rng_state())
    torch.set_rng_state(states[:length])
    if len(states) > length:
        _backend(device).set_rng_state(states[length:], *_place(device))


def _backend(device: torch.device):
    """Return the module of a device with a random generator, such as `torch.cuda`, else None."""
    backend = getattr(torch, device.type, None)
    return backend if hasattr(backend, "get_rng_state") else None


def _place(device: torch.device) -> list[torch.device]:
    return [] if device.type == "mps" else [device]  # there is only one, and it takes no argument
