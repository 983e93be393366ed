"""The process that holds a submission: it runs what it is told to run and sends back arrays.

Started as a script by `grader.process`, with nothing of kdcourse on its path unless the
assignment allows the package. Messages are safetensors, so no pickle is loaded on either side.
"""

import builtins
import ctypes  # noqa: F401 - loaded before the fence stands
import importlib.util
import json
import os
import re
import socket  # noqa: F401
import struct
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

MOST = 256 * 2**20  # bytes of one message


# --- messages (the parent uses these functions as well) -------------------------------------------


def pack(value) -> bytes:
    """Numbers, texts, tensors, and lists and dictionaries of them, as safetensors."""
    tensors = {}

    def skeleton(part):
        if isinstance(part, np.generic):
            part = part.item()  # a number is no array: `np.float64(3)` is worth what `3.0` is
        if isinstance(part, np.ndarray):
            part = torch.as_tensor(np.asarray(part, order="C"))  # torch takes no negative strides
        if isinstance(part, torch.Tensor):
            tensors[name := str(len(tensors))] = part.detach().cpu().clone().contiguous()
            return {"tensor": name}
        if isinstance(part, dict):
            return {"dict": [[str(key), skeleton(item)] for key, item in part.items()]}
        if isinstance(part, (list, tuple)):
            return {"list": [skeleton(item) for item in part]}
        if part is None or isinstance(part, (bool, int, float, str)):
            return {"is": part}
        raise TypeError(f"a {type(part).__name__} instead of a tensor or a number")

    header = json.dumps(skeleton(value))
    return safetensors.torch.save(tensors, {"value": header})


def unpack(message: bytes):
    """The value that was packed."""
    tensors = safetensors.torch.load(message)
    length = struct.unpack("<Q", message[:8])[0]
    header = json.loads(message[8:8 + length])["__metadata__"]["value"]

    def build(part):
        (kind, inner), = part.items()
        if kind == "tensor":
            return tensors[inner]
        if kind == "dict":
            return {key: build(item) for key, item in inner}
        return [build(item) for item in inner] if kind == "list" else inner

    return build(json.loads(header))


def send(file, value) -> None:
    message = pack(value)
    file.write(struct.pack("<Q", len(message)) + message)
    file.flush()


def receive(file):
    """The next message, or None when the other side has closed."""
    length = struct.unpack("<Q", head)[0] if len(head := file.read(8)) == 8 else 0
    if length > MOST:
        raise ValueError(f"a message of {length / 2**20:.0f} MiB (the most is {MOST >> 20})")
    message = file.read(length)
    return unpack(message) if length and len(message) == length else None


# --- what a submission cannot do ------------------------------------------------------------------


class Absent(types.ModuleType):
    """Stands where a package is left out: importing it is fine, using it is not."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(f"{self.__name__} is not there when an assignment is graded: the answer "
                          f"is to work without {self.__name__}.{name}")


class LeaveOut:
    """Finds an `Absent` for each package that is left out, and for what is inside it."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            return importlib.util.spec_from_loader(name, self)
        return None

    def create_module(self, spec):
        return Absent(spec.name)

    def exec_module(self, module):
        pass


def fence(readable: list[str], hidden: list[str], own: str) -> None:
    """From here on: files are read only where Python lives, written only in the own folder; no
    other program, no network. An audit hook cannot be taken away again; it is a fence, no wall.

    hidden: folders that are not read although they may lie in a readable one.
    """
    own = os.path.realpath(own)
    readable, hidden = ([os.path.realpath(path) for path in paths] for paths in (readable, hidden))

    def inside(path, folders):
        return any(path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
                   for folder in folders)

    def hook(event, args):
        if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(args[0]))
            writes = (isinstance(args[1], str) and set(args[1]) & set("wax+")) or (
                isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if path == os.devnull or inside(path, [own]):
                return
            if writes or not inside(path, readable) or inside(path, hidden):
                raise PermissionError(f"no access to {Path(path).name} while grading")
        elif event in ALTERS:
            for path in args[:2]:
                if isinstance(path, (str, bytes)) and not inside(
                        os.path.realpath(os.fsdecode(path)), [own]):
                    raise PermissionError("no access to files outside the folder while grading")
        elif event.startswith(FORBIDDEN):
            raise PermissionError(f"{event} is not allowed while grading")

    sys.addaudithook(hook)


ALTERS = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
          "os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move"}
FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile",
             "os.fork", "os.kill", "os.killpg", "pty.", "socket.connect", "socket.bind",
             "socket.sendto", "socket.getaddrinfo", "socket.gethostby", "urllib.", "ftplib.",
             "smtplib.", "ctypes.dlopen", "ctypes.dlsym", "winreg.", "webbrowser.", "gc.get_",
             "sys._current_frames", "signal.pthread_kill")


def limit(memory: int, seconds: int) -> None:
    """Bounds that the system keeps, where it knows them (not on Windows)."""
    try:
        import resource
    except ImportError:
        return
    used = 0
    status = Path("/proc/self/status")
    if status.exists():
        used = int(re.search(r"VmData:\s+(\d+)", status.read_text())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# --- the loop -------------------------------------------------------------------------------------


def answer(request: dict) -> dict:
    """Run one law on the definitions of one question."""
    space = {"__name__": "submission", "__builtins__": builtins}
    try:
        stage = "while its definitions were read"
        exec(compile(request["code"], "<submission>", "exec", dont_inherit=True), space)
        given = types.SimpleNamespace(**space)
        stage = "when it was called"
        law = {"torch": torch, "np": np, "__name__": "law"}
        exec(compile(request["law"], "<law>", "exec", dont_inherit=True), law)
        return {"found": unpack(pack(law[request["name"]](given, request["inputs"])))}
    except MemoryError:
        return {"error": "used more memory than is allowed"}
    except NotImplementedError:
        return {"error": "is not done yet", "stub": True}
    except SystemExit:
        return {"error": "ended the program instead of returning a value"}
    except BaseException as error:
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):
            return {"error": "used more memory than is allowed"}
        sentence = " ".join(str(error).split())[:300]
        return {"error": f"stopped {stage} with {type(error).__name__}: {sentence}"}


def main() -> None:
    channel_in, channel_out = (os.fdopen(os.dup(number), mode) for number, mode in
                               ((0, "rb"), (1, "wb")))
    silence = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(silence, number)
    settings = receive(channel_in)
    torch.set_num_threads(settings["threads"])
    own = tempfile.gettempdir() if settings["folder"] is None else settings["folder"]
    os.chdir(own)
    sys.dont_write_bytecode = True
    # Reading a library's parts late is fine. A source checkout on the path is no library.
    libraries = [path for path in sys.path if Path(path).name.endswith("-packages")
                 or not (Path(path) / "kdcourse").is_dir()]
    readable = [*filter(None, libraries), sys.prefix, sys.base_prefix,
                "/usr", "/lib", "/lib64", "/etc", "/proc", "/sys"]
    hidden = [str(Path(__file__).resolve().parents[1])]  # the laws
    if settings["package"]:
        sys.path.insert(0, str(Path(settings["kdcourse"]).parent))
        import kdcourse  # noqa: F401
        readable.append(settings["kdcourse"])
    else:
        sys.path = libraries
        hidden.append(settings["kdcourse"])
        sys.meta_path.insert(0, LeaveOut({"kdcourse"}))
        sys.meta_path.insert(0, LeaveOut({"otter", "IPython", "ipywidgets", "matplotlib"}))
    send(channel_out, {"ready": True})
    limit(settings["memory"], settings["cpu"])
    fence(readable, hidden, own)
    while (request := receive(channel_in)) is not None:
        send(channel_out, answer(request))


if __name__ == "__main__":
    main()
