"""Where something was measured, as the recorded rows of the package say it."""

import datetime
import importlib.metadata
import platform


def where(device: str = "cpu") -> dict:
    """Return hardware, versions and day."""
    import torch  # seconds to import, so only when it is needed

    if device.startswith("cuda"):
        hardware = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        hardware = (f"{threads} CPU thread{'s' * (threads > 1)} ({platform.machine()}, "
                    f"{torch.backends.cpu.get_cpu_capability()}, {platform.system()})")
    return {"hardware": hardware, "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
            "kdcourse": importlib.metadata.version("kdcourse"),
            "date": datetime.date.today().isoformat()}
