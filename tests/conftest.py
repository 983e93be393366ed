"""What several test files share."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser):
    parser.addoption(
        "--device", metavar="NAME",
        help="the device that kd.default_device() returns, such as cpu, cuda or pretend, which "
             "needs a C++ compiler and no GPU (see tests/helpers/pretend)")


def pytest_configure(config):
    """Keep everybody's cache untouched, figures off the screen, and modes of the caller out."""
    choose_device(config.getoption("--device"))
    config.kdcourse_home = tempfile.mkdtemp(prefix="kdcourse-tests-")
    os.environ["KDCOURSE_HOME"] = config.kdcourse_home
    os.environ["MPLBACKEND"] = "Agg"
    for name in ("KDCOURSE_SMOKE", "KDCOURSE_RECORD"):
        os.environ.pop(name, None)


def choose_device(name: str | None) -> None:
    """Make it the default device of this process and of those that it starts."""
    if name == "pretend":
        from helpers.pretend import pretend_device

        if reason := pretend_device.missing():
            pytest.exit(reason, returncode=0)
        pretend_device.choose()
    elif name:
        os.environ["ACCELERATE_TORCH_DEVICE"] = name  # accelerate reads it
        if name.startswith("cuda"):  # the same bits are promised with deterministic algorithms only
            import torch

            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
            torch.use_deterministic_algorithms(True)


def pytest_unconfigure(config):
    shutil.rmtree(config.kdcourse_home, ignore_errors=True)


@pytest.fixture(autouse=True)
def _offline(request, monkeypatch):
    """No test reaches out, unless it is marked `network`. This machine's own ports are free."""
    if request.node.get_closest_marker("network"):
        return
    look_up = socket.getaddrinfo

    def only_here(host, *args, **settings):
        if host in (None, "localhost", "127.0.0.1", "::1", b"localhost", b"127.0.0.1"):
            return look_up(host, *args, **settings)
        raise socket.gaierror(socket.EAI_NONAME, f"the tests are offline, asked for {host}")

    monkeypatch.setattr(socket, "getaddrinfo", only_here)


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Path:
    """The folder of the built book: built once, from scratch, with warnings as errors."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the processes of one run share the book
    folder = folder / "book"
    built = folder / "_build" / "html"
    with FileLock(f"{folder}.lock"):
        if not built.exists():
            build_book(folder)
    return built


def build_book(folder: Path) -> None:
    build = "from jupyter_book.cli.main import main; main()"
    options = ["--path-output", str(folder), "-W", "-n", "--keep-going"]
    done = subprocess.run(
        [sys.executable, "-c", build, "build", str(ROOT), *options],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise RuntimeError(f"The book does not build:\n{done.stdout}\n{done.stderr}")


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A folder with NAME/{student,autograder,solutions} of every assignment: built once. The checks
    are not run on the solutions here: tests do that, and see more."""
    pytest.importorskip("otter")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the processes of one run share them
    folder = folder / "assignments"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            script = ROOT / "notebooks" / "assignments" / "build.py"
            command = [sys.executable, str(script), "--unchecked", "--out", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
            if done.returncode:
                shutil.rmtree(folder, ignore_errors=True)
                raise RuntimeError(f"The assignments cannot be made:\n{done.stderr}")
    return folder


def cell(chapter: str, text: str) -> str:
    """The code cell of a chapter with that text in it."""
    (path,) = ROOT.glob(f"notebooks/{chapter}_*.ipynb")
    sources = ["".join(found["source"]) for found in json.loads(path.read_text("utf-8"))["cells"]
               if found["cell_type"] == "code"]
    found = [source for source in sources if text in source]
    assert len(found) == 1, (
        f"Expected one code cell with {text!r} in {path.name}, got {len(found)}: "
        "the chapter has changed, and a test asks for what it no longer defines.")
    return found[0]


# --- for the tests of the package ---------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A KDCOURSE_HOME of this test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("KDCOURSE_HOME", str(folder))
    return folder


@pytest.fixture
def smoke(monkeypatch):
    """Smoke mode, as the notebooks run under test."""
    monkeypatch.setenv("KDCOURSE_SMOKE", "1")


@pytest.fixture(scope="session")
def data():
    """Glyphs small enough to train on in a second: 12 x 12 pixels, 144 of them."""
    import kdcourse as kd

    return kd.data.glyphs(train=144, val=72, test=72, size=12)


@pytest.fixture
def inductor():
    """Skip where torch.compile makes no code for the default device."""
    import torch

    import kdcourse as kd

    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        pytest.skip("torch 2.6 does not compile the backward pass of KD on a CPU")

    if kd.default_device().type == "pretend":
        pytest.skip("torch.compile makes no code for the pretend device")


def network(seed=0, **settings):
    """A student for `data` that trains in no time."""
    from kdcourse import models

    return models.convnet(**{"width": 4, "size": 12, "seed": seed} | settings)


def restless(seed=0, classes=36):
    """A network that changes when it is used carelessly: batch statistics and dropout."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
            nn.Flatten(), nn.Linear(200, classes),
        )


def state(model):
    """All of a model's weights and buffers, as one hashable value."""
    return tuple((name, value.detach().cpu().contiguous().numpy().tobytes())
                 for name, value in model.state_dict().items())


@pytest.fixture(scope="session")
def glyph_teacher():
    """The real teacher of glyphs, trained once for the whole run (up to a minute)."""
    import kdcourse as kd

    return kd.teacher("glyphs")


@pytest.fixture
def start():
    """Start programs in processes of their own, which end with the test whatever happens in it."""
    started = []

    def run(code: str) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, encoding="utf-8"))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def _tidy_figures():
    """Figures are closed after each test, and a style that it set (notebooks do) is undone."""
    from matplotlib import pyplot

    with pyplot.rc_context():
        yield
    pyplot.close("all")
