"""The commands of this project. ``nox -l`` lists them; README.md shows how to start.

    pip install "nox[uv]"
    nox -s book          build the book and print the page to open
    nox -s test          run every test
    nox -s lab           open the notebooks in JupyterLab

All of them share one environment, ``.nox/dev``: torch is large, so it is installed once.
Delete the folder ``.nox`` to start afresh.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nox

if sys.version_info < (3, 11):  # noqa: UP036 - this file is read by whatever Python has nox
    sys.exit(
        "kdcourse needs Python 3.11 or newer, and this is Python "
        + ".".join(map(str, sys.version_info[:2]))
        + ': install a newer one, then run `python3.11 -m pip install "nox[uv]"` and '
        "`python3.11 -m nox -s book`."
    )

nox.needs_version = ">=2025.5.1"  # sessions that require another one
nox.options.default_venv_backend = "uv|virtualenv"  # works without uv, only slower
nox.options.reuse_venv = "yes"
nox.options.sessions = ["book"]  # a bare `nox` does what a newcomer wants first

# Importing torch and its friends takes 12 s without compiled files and 4 s with them,
# and every notebook pays it. So compile at installation, even where a machine says not to.
os.environ["PYTHONDONTWRITEBYTECODE"] = ""
os.environ["UV_COMPILE_BYTECODE"] = "1"

ROOT = Path(__file__).parent
ENV = ROOT / ".nox" / "dev"
PYTHON = ENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
JUPYTER_BOOK = ("-c", "from jupyter_book.cli.main import main; main()")  # it has no `python -m`


def python(session: nox.Session, *args: str, **env: str | None) -> None:
    """Run the shared environment's Python."""
    path = os.pathsep.join([str(PYTHON.parent), os.environ.get("PATH", "")])
    env = {"VIRTUAL_ENV": str(ENV), "PATH": path, "PYTHONHOME": None} | env
    session.run(str(PYTHON), *args, env=env, external=True)


@nox.session
def dev(session: nox.Session) -> None:
    """Install the pinned versions into .nox/dev; the other sessions call this one first."""
    recipe = "".join((ROOT / name).read_text("utf-8") for name in INPUTS)
    stamp = ENV / "kdcourse-recipe.txt"  # written last, so an interrupted installation is redone
    if stamp.exists() and stamp.read_text("utf-8") == recipe:
        session.log("up to date")
        return
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    stamp.write_text(recipe, "utf-8")


INPUTS = ("pyproject.toml", "constraints.txt")


@nox.session(venv_backend="none", requires=["dev"])
def book(session: nox.Session) -> None:
    """Build the book from the stored notebooks (none is executed). Warnings are errors."""
    python(session, *JUPYTER_BOOK, "build", ".", "-W", "-n", "--keep-going", *session.posargs)
    print(f"\nOpen this page:\n  {ROOT / '_build' / 'html' / 'index.html'}\n")


@nox.session(venv_backend="none", requires=["dev"])
def test(session: nox.Session) -> None:
    """Run the tests, then every notebook with a token amount of work. `-- ARGS` go to pytest."""
    if session.posargs:
        python(session, "-m", "pytest", *session.posargs)
        return
    # Files share the work of two processes, in the order of their names: by default those with few
    # tests go last, and the browser's few take minutes, in which the other process has no work.
    two = ("-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    python(session, *two, OMP_NUM_THREADS="1")
    # Every cell runs, trainings make two steps, and every recorded row is found by its key (the
    # teachers are trained for that). Other outputs are compared nowhere: a token run measures
    # other numbers. MPLBACKEND is removed so that figures are drawn as they are in Jupyter.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        train = "import sys, kdcourse as kd; kd.teacher(sys.argv[1])"
        trainings = [
            subprocess.Popen([PYTHON, "-c", train, name],
                             env=os.environ | {"KDCOURSE_HOME": home, "OMP_NUM_THREADS": "1"})
            for name in ("glyphs", "glyphs-vit")]
        codes = [training.wait() for training in trainings]
        if any(codes):
            session.error("A teacher could not be trained.")
        chapters = (*two, "--nbval-lax", "--nbval-current-env", "notebooks",
                    "--ignore=notebooks/assignments")  # masters with solutions; tests/assignments/
        settings = {
            "KDCOURSE_HOME": home,  # neither use nor touch what the caller has trained
            "KDCOURSE_SMOKE": "1",
            "KDCOURSE_RECORD": "check",
            "OMP_NUM_THREADS": "1",
            "TQDM_DISABLE": "1",
            "MPLBACKEND": None,
        }
        # Where it can be built, the chapters run on the pretend device, on which tensors of two
        # devices do not mix; its kernels are the CPU's.
        pretend = sys.platform == "linux" and bool(COMPILER or shutil.which("g++"))
        python(session, *chapters, **settings, **(PRETEND if pretend else {}))
        python(session, "book/tools/rows.py", home)
        if not pretend:
            session.warn("Nothing was run on the pretend device: it needs Linux and g++.")
            return
        chosen = ("-m", "not network and not long and not any_device", *ON_DEVICE)
        python(session, *two, "--device", "pretend", *chosen, OMP_NUM_THREADS="1")


COMPILER = os.environ.get("CXX")
# The notebooks' kernels find the device by these; for pytest there is `--device pretend`.
PRETEND = {"PYTHONPATH": str(ROOT / "tests" / "helpers" / "pretend"),
           "ACCELERATE_TORCH_DEVICE": "pretend"}
# What trains or measures networks; test_anywhere.py has losses, measures and plots.
ON_DEVICE = [f"tests/{name}" for name in (
    "training", "schemes", "teachers", "measure", "doctor", "experiment", "data/test_streams.py",
    "data/test_text.py", "test_anywhere.py", "test_devices.py", "test_taps.py", "test_zoo.py")]
# Not what starts torchrun, which runs on the CPU only, nor what has devices of its own.
ON_DEVICE += [f"--ignore=tests/training/test_{name}.py" for name in (
    "processes", "sharded", "whole_batch", "host_reads", "step")]


@nox.session(venv_backend="none", requires=["dev"])
def lab(session: nox.Session) -> None:
    """Open the notebooks in JupyterLab."""
    python(session, "-m", "jupyterlab", "--notebook-dir", "notebooks", *session.posargs)


@nox.session(venv_backend="none", requires=["dev"])
def run(session: nox.Session) -> None:
    """Execute the notebooks in full and store their outputs; `-- 01` for one chapter."""
    python(session, "book/tools/run.py", *session.posargs)


@nox.session(venv_backend="none", requires=["dev"])
def assignments(session: nox.Session) -> None:
    """Make student notebooks, Gradescope zips and solutions from the masters; `-- 1` for one."""
    python(session, "notebooks/assignments/build.py", *session.posargs)


@nox.session(venv_backend="none", requires=["dev"])
def grade(session: nox.Session) -> None:
    """Grade a folder: `-- notebooks/assignments/1_loss.py FOLDER --out grades.csv`."""
    python(session, "notebooks/assignments/grader", *session.posargs)


@nox.session(venv_backend="none", requires=["dev"])
def pdf(session: nox.Session) -> None:
    """Make one page of the whole book and, where there is a Chromium, a PDF."""
    python(session, "book/tools/pdf.py")


@nox.session(venv_backend="none", requires=["dev"])
def linkcheck(session: nox.Session) -> None:
    """Ask every address that the book names whether it still answers (needs the network)."""
    python(session, *JUPYTER_BOOK, "build", ".", "--builder", "linkcheck")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the code and the notebooks with ruff; `-- --fix` mends what it can."""
    session.install("-c", "constraints.txt", "ruff")
    session.run("ruff", "check", *session.posargs)


@nox.session(venv_backend="uv")
def oldest(session: nox.Session) -> None:
    """Run the package's tests with the oldest versions that pyproject.toml allows."""
    session.install("--resolution", "lowest-direct", "-e", ".[test]")
    skip = [f"--ignore=tests/book/test_{name}.py" for name in ("book", "browser", "notebooks")]
    session.run("pytest", *skip, *session.posargs)


@nox.session
def parity(session: nox.Session) -> None:
    """Compare our losses with the released versions of other libraries (installed apart)."""
    session.install("-c", "constraints.txt", "-e", ".[parity]")
    session.run(
        "pytest", "tests/losses/parity.py", "tests/book/test_errors_page.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure how fast `fit` is, beside other libraries (installed apart)."""
    session.install("-c", "constraints.txt", "-e", ".[parity]")
    session.run("python", "book/tools/benchmark.py", *session.posargs)


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Try everything on a machine with a GPU, in five minutes, with the Python that is there."""
    session.run("python", "book/tools/gpu.py", *session.posargs, external=True)


@nox.session
def pin(session: nox.Session) -> None:
    """Write constraints.txt anew: the newest versions, for every system and Python >= 3.11."""
    session.install("uv")
    session.run(
        *("uv", "pip", "compile", "pyproject.toml", "--extra", "dev", "--upgrade", "--universal"),
        *("--python-version", "3.11", "--no-annotate", "--quiet"),
        *("--custom-compile-command", "nox -s pin", "--output-file", "constraints.txt"),
        *session.posargs,
    )
