"""The default device, and the hardware and versions with which something was computed."""

import datetime
import importlib.metadata
import os
import platform

import torch
from tqdm.auto import tqdm

# The version of the numerics: raised by hand when the same arm would give other results. Recorded
# rows and trained teachers of another version are not used.
RESULTS = 1


def default_device() -> torch.device:
    """Return the device that Hugging Face accelerate picks: a GPU where there is one, else CPU."""
    from accelerate import PartialState  # takes a second to import

    return PartialState().device


def where(device: str = "cpu") -> dict:
    """Return the hardware, versions and day, as every recorded row has them."""
    kind = torch.device(device).type
    backend = getattr(torch, kind, None)
    if hasattr(backend, "get_device_name"):
        hardware = backend.get_device_name()
    else:
        threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
        hardware = (f"{threads} CPU thread{'s' * (threads > 1)} "
                    f"({platform.machine()}, {capability}, {platform.system()})")
        if kind != "cpu":
            hardware = f"{kind.upper()} beside {hardware}"
    return {"hardware": hardware, "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
            "kdcourse": importlib.metadata.version("kdcourse"),
            "date": datetime.date.today().isoformat()}


def progress(total: int, label: str, unit: str, done: int = 0, off: bool = False) -> tqdm:
    """Make a progress bar; none without a terminal or a notebook, with `off`, and where
    TQDM_DISABLE is set."""
    notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    # tqdm reads TQDM_DISABLE by itself in a terminal, but not in a notebook.
    disable = bool(os.environ.get("TQDM_DISABLE")) if notebook else None
    return tqdm(total=total, desc=label, leave=False, unit=unit, initial=done,
                disable=True if off else disable)
