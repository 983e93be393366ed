"""A second device for machines without a GPU, "pretend": what it does is at the top of pretend.cpp.

    PYTHONPATH=tests/helpers/pretend ACCELERATE_TORCH_DEVICE=pretend python

In such a process and in all that it starts, `import torch` finds the device by the entry point in
`pretend_device.dist-info` (PyTorch's mechanism for devices of others), and `kd.default_device()`
returns it. It is built by the first process that needs it, in half a minute, and kept in the user's
cache folder.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import platformdirs
import torch
from filelock import FileLock

NAME = "pretend"
FOLDER = Path(__file__).parent
SOURCE = FOLDER / "pretend.cpp"


def missing() -> str | None:
    """Return a sentence that says why the device cannot be built here, or None."""
    if sys.platform != "linux":
        return "The pretend device is built on Linux only."
    if not compiler():
        return "The pretend device needs a C++ compiler: install g++, or set CXX."
    return None


def compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def build() -> Path:
    """Build the library, unless there is one of this source and this PyTorch; return its path."""
    home = Path(torch.__file__).parent
    command = [compiler(), "-std=c++20", "-O1", "-fPIC", "-shared", "-w",
               f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
               f"-I{home / 'include'}", f"-I{home / 'include/torch/csrc/api/include'}",
               str(SOURCE), f"-L{home / 'lib'}", "-lc10", "-ltorch_cpu"]
    key = hashlib.sha256(repr((SOURCE.read_bytes(), torch.__version__, command)).encode())
    folder = platformdirs.user_cache_path("kdcourse-tests", ensure_exists=True)
    path = folder / f"pretend-{key.hexdigest()[:16]}.so"
    with FileLock(f"{path}.lock", timeout=600):
        if not path.exists():
            part = path.with_suffix(".part")
            done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"The pretend device cannot be built:\n{done.stderr[-4000:]}")
            part.rename(path)
    return path


def load() -> None:
    """Add the device to PyTorch."""
    if hasattr(torch, NAME):
        return
    if reason := missing():
        raise RuntimeError(reason)
    torch.utils.rename_privateuse1_backend(NAME)
    torch.ops.load_library(build())
    torch._register_device_module(NAME, _module())
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)


def choose() -> None:
    """Load the device here, and make it the default one of this process and of those it starts."""
    load()
    paths = [str(FOLDER), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    os.environ["ACCELERATE_TORCH_DEVICE"] = NAME  # accelerate reads it, and so `default_device`


def _module() -> SimpleNamespace:
    """Make `torch.pretend`, with what `torch.cuda` has and PyTorch calls."""
    of_device = torch.ops.pretend
    return SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        set_device=lambda device: None,
        device=lambda device: contextlib.nullcontext(),
        synchronize=lambda device=None: None,
        get_device_name=lambda device=None: "a pretend device",
        get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
        manual_seed=of_device.seed,
        manual_seed_all=of_device.seed,
        get_rng_state=lambda device=None: of_device.state(),
        set_rng_state=lambda state, device=None: of_device.set_state(state),
        _is_in_bad_fork=lambda: False,
        _lazy_init=lambda: None,
    )
