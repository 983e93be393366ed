"""Try the course on a machine with a GPU: `nox -s gpu`, or `python book/tools/gpu.py`.

Device tests, all chapters with their recorded results, and a short benchmark, in at most five
minutes, with the Python and the torch of that machine and without a network. Prints one table; the
exit status is 0 when all of it ran and nothing failed. Nothing in the repository is changed.
"""

import argparse
import concurrent.futures
import importlib.util
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ("tests/test_devices.py", "tests/training/test_step.py")
PARTS = ("tests", "chapters", "benchmark")
TEACHERS = ("glyphs", "glyphs-vit")

CHAPTER = """
import sys, pathlib
sys.path.insert(0, "book/tools")
import run
run.execute(pathlib.Path(sys.argv[1]))
"""
BENCHMARK = """
import sys
sys.path.insert(0, "book/tools")
import torch, benchmark
setting = benchmark.Setting(torch.device(sys.argv[1]), batch=int(sys.argv[2]))
rows = benchmark.compare(benchmark.short(setting.device), setting, rounds=2)
for row in rows:
    speed = f"{row.get('images_per_second', 0):,.0f} images/s"
    print("ROW", row["name"], "|", row.get("not_run") or speed)
"""


class Clock:
    """The seconds that are left."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def start(clock: Clock, *args: str, **env: str) -> tuple[str, str, float]:
    """Run this Python; return "ok", "failed" or "not run", what it printed, and its seconds."""
    if clock.left < 5:
        return "not run", "out of time: --seconds allows more", 0.0
    begin = time.monotonic()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, *args], cwd=ROOT, env=os.environ | {"PYTHONPATH": path} | env,
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=clock.left)
    except subprocess.TimeoutExpired:
        return "not run", "stopped: out of time, --seconds allows more", time.monotonic() - begin
    said = done.stdout + done.stderr
    return ("ok" if done.returncode == 0 else "failed"), said, time.monotonic() - begin


def missing(*names: str) -> str:
    """Name the packages that are not installed; an empty string if none is missing."""
    lacking = [name for name in names if importlib.util.find_spec(name) is None]
    return f"{', '.join(lacking)} is not installed" if lacking else ""


def last(said: str) -> str:
    """The last line that says something, cut to fit into a table."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip(" =") for line in said.splitlines()]
    return next((line for line in reversed(lines) if line), "")[:90]


def tests(clock: Clock, device: str) -> list[tuple]:
    if lacking := missing("pytest"):
        return [("device tests", "not run", lacking, 0.0)]
    result, said, seconds = start(
        clock, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, "-k", device,
        OMP_NUM_THREADS="1")
    failed = re.findall(r"^FAILED (\S+)", said, re.M)
    rows = [("device tests", result, last(said), seconds)]
    return rows + [(f"  {name.rpartition('/')[2]}"[:60], "failed", "", 0.0) for name in failed[:20]]


def chapters(clock: Clock, device: str, only=None, jobs: int = 4) -> list[tuple]:
    """Execute the chapters with their recorded results, several at a time."""
    if lacking := missing("nbclient", "ipykernel", "nbformat"):
        return [("chapters", "not run", lacking, 0.0)]
    paths = [path for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
             if only is None or path.name[:2] in only]
    rows = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, \
            concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        env = {"KDCOURSE_HOME": os.environ.get("KDCOURSE_HOME", home), "TQDM_DISABLE": "1"}
        train = "import sys, kdcourse as kd; [kd.teacher(name) for name in sys.argv[1:]]"
        result, said, seconds = start(clock, "-c", train, *TEACHERS, **env)
        rows.append(("teachers", result, "" if result == "ok" else last(said), seconds))
        each = pool.map(lambda path: start(clock, "-c", CHAPTER, str(path), **env), paths)
        for path, (result, said, seconds) in zip(paths, each):
            rows.append((path.stem, result, "" if result == "ok" else last(said), seconds))
    return rows


def benchmark(clock: Clock, device: str, batch: int = 128) -> list[tuple]:
    result, said, seconds = start(clock, "-c", BENCHMARK, device, str(batch))
    rows = [("benchmark", result, "" if result == "ok" else last(said), seconds)]
    found = re.findall(r"^ROW (.*) \| (.*)$", said, re.M)
    return rows + [(f"  {name}", "ok" if "images/s" in what else "failed", what, 0.0)
                   for name, what in found]


def table(rows: list[tuple]) -> str:
    width = max(len(row[0]) for row in rows)
    return "\n".join(
        f"{name:{width}}  {result:8}{f'{seconds:6.0f} s' if seconds else 8 * ' '}  {what}".rstrip()
        for name, result, what, seconds in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"),
                        help="cpu: try this command itself where there is no GPU")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--chapters", nargs="+", metavar="NN", help="some of them, such as 01 05")
    parser.add_argument("--jobs", type=int, default=max(1, min(4, (os.cpu_count() or 1) // 2)),
                        help="chapters at a time")
    parser.add_argument("--batch", type=int, default=128, help="of the benchmark")
    parser.add_argument("--seconds", type=float, default=300)
    chosen = parser.parse_args()
    if lacking := missing("torch", "accelerate", "safetensors", "filelock", "tqdm"):
        print(f"Expected a Python with torch and what pyproject.toml lists, got {sys.executable}: "
              f"{lacking}.")
        return 1
    import torch

    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("Expected a CUDA GPU, got none that torch can use. On another machine: "
              "nox -s gpu -- --device cpu tries the command itself.")
        return 1
    if chosen.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["ACCELERATE_USE_CPU"] = "true"
    clock, rows = Clock(chosen.seconds), []
    for part in chosen.parts:
        print(f"{part} …", file=sys.stderr)
        if part == "tests":
            rows += tests(clock, chosen.device)
        elif part == "chapters":
            rows += chapters(clock, chosen.device, chosen.chapters, chosen.jobs)
        else:
            rows += benchmark(clock, chosen.device, chosen.batch)
    name = torch.cuda.get_device_name() if chosen.device == "cuda" else platform.machine()
    print(f"\n{name}, torch {torch.__version__}, Python {platform.python_version()}\n")
    print(table(rows))
    return int(any(result != "ok" for _, result, _, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
