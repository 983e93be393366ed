"""A worker seen from the parent: start it, ask it, and survive whatever it does."""

import contextlib
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from grader import worker

START = 120  # seconds for importing torch on a busy machine


class Lost(Exception):
    """The worker gave no answer; the sentence says why. The next question gets a fresh one."""


@functools.cache
def apart() -> tuple[str, ...]:
    """The words that start a program without network and without sight of other processes, where
    this system lets an ordinary user do that (Linux with user namespaces); nothing elsewhere.
    """
    program = shutil.which("unshare")
    words = (program, "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child")
    if program is None or sys.platform != "linux":
        return ()
    for attempt in ((*words, "--mount-proc"), words):
        done = subprocess.run([*attempt, "true"], capture_output=True)
        if done.returncode == 0:
            return attempt
    return ()


class Worker:
    """A process that holds one submission, in a temporary folder that is its own.

    package: whether it may import kdcourse.
    memory: bytes that it may take beyond what torch itself needs.
    cpu: seconds of computing in all.

    >>> with Worker() as held:
    ...     held.ask("def double(x): return 2 * x", "def run(given, x): return given.double(x)", 4)
    8
    """

    def __init__(self, package: bool = False, memory: int = 2 * 2**30, cpu: int = 600,
                 threads: int = 1):
        kdcourse = os.path.dirname(importlib.util.find_spec("kdcourse").origin)
        self.settings = {"package": package, "kdcourse": kdcourse, "memory": memory, "cpu": cpu,
                         "threads": threads}
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="kdcourse-grading-")
        # A clean environment: no tokens, no paths of ours; just what Python needs to start.
        keep = ("PATH", "SYSTEMROOT", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
        environment = {name: os.environ[name] for name in keep if name in os.environ} | {
            "HOME": self.folder, "TMPDIR": self.folder, "TEMP": self.folder, "TMP": self.folder,
            "KDCOURSE_HOME": self.folder, "PYTHONIOENCODING": "utf-8", "MPLBACKEND": "Agg",
            "OMP_NUM_THREADS": str(self.settings["threads"]), "TQDM_DISABLE": "1",
            "OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin would slow their neighbours
        self.process = subprocess.Popen(
            [*apart(), sys.executable, "-I", "-X", "utf8", worker.__file__], cwd=self.folder,
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True)
        if self._exchange(self.settings | {"folder": self.folder}, START) != {"ready": True}:
            raise Lost("could not be started")

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # the other end has gone already
                pipe.close()
        self.process.wait()
        self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, code: str, law: str, inputs, name: str = "run", seconds: float = 10):
        """Let it run `law`'s function `name` on the definitions in `code`; the arrays it gives.

        Raises `Lost` with a sentence when there are none, and `NotImplementedError` for a stub.
        """
        if self.process is None:
            self.start()
        reply = self._exchange({"code": code, "law": law, "name": name, "inputs": inputs}, seconds)
        if not isinstance(reply, dict) or not {"found", "error"} & set(reply):
            self.stop()
            raise Lost("sent something that is no answer")
        if "error" in reply:
            if reply.get("stub") is True:
                raise NotImplementedError
            raise Lost(str(reply["error"])[:500])
        return reply["found"]

    def _exchange(self, message, seconds: float):
        """Send one message and wait for the answer, no longer than `seconds`."""
        late = threading.Event()

        def too_late(process=self.process):
            late.set()
            process.kill()

        clock = threading.Timer(seconds, too_late)
        clock.start()
        try:
            worker.send(self.process.stdin, message)
            reply = worker.receive(self.process.stdout)
        except Exception:  # whatever it sent: half a message, another format, far too much
            reply = None
        finally:
            clock.cancel()
        if reply is None:
            time.sleep(0.01)
            code = None if late.is_set() else self._ended()
            self.stop()
            raise Lost(f"gave no answer within {seconds:.0f} seconds" if late.is_set() else
                       "ended its process" + (f" (exit code {code})" if code is not None else ""))
        return reply

    def _ended(self):
        try:
            return self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return None
