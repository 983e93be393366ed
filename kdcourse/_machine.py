"""Where something was computed: hardware, versions, day; and where to compute by default."""

import datetime
import importlib.metadata
import platform

import torch

# The number of the numerics: raised by hand when the same arm would give other results. Recorded
# rows and trained teachers of another number are not used.
RESULTS = 1


def default_device() -> torch.device:
    """The device that Hugging Face accelerate picks: a GPU where there is one, else the CPU."""
    from accelerate import PartialState  # a second to import

    return PartialState().device


def where(device: str = "cpu") -> dict:
    """Hardware, versions and day, as every recorded row has them."""
    if device.startswith("cuda"):
        hardware = torch.cuda.get_device_name()
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        threads = torch.get_num_threads()
        hardware = (f"{threads} CPU thread{'s' * (threads > 1)} "
                    f"({platform.machine()}, {capability}, {platform.system()})")
    return {"hardware": hardware, "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
            "kdcourse": importlib.metadata.version("kdcourse"),
            "date": datetime.date.today().isoformat()}
