"""python -m kdcourse: the whole idea with no Jupyter."""

import importlib.metadata
import os
import subprocess
import sys

import kdcourse


def test_the_program_runs_from_end_to_end(home):
    done = subprocess.run([sys.executable, "-m", "kdcourse"], capture_output=True, text=True,
                          encoding="utf-8", timeout=600, env=os.environ | {
                              "KDCOURSE_HOME": str(home), "KDCOURSE_SMOKE": "1",
                              "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 0, done.stderr
    for package in ("torch", "torchvision", "timm", "accelerate"):
        assert f"{package} {importlib.metadata.version(package)}" in done.stdout
    assert f"kdcourse {kdcourse.__version__}" in done.stdout
    for words in ("device: ", f"kept in:  {home}", "right on its validation images",
                  "student:  History(1 epochs",
                  "KDCOURSE_SMOKE=1", "agrees with teacher", "parameters", "latency"):
        assert words in done.stdout, words
    assert done.stderr == ""  # no bar where nobody watches
    assert [path.name for path in home.iterdir()] == ["teachers"]


def test_the_version_is_the_packages():
    assert importlib.metadata.version("kdcourse") == kdcourse.__version__


def test_the_front_door():
    """What notebooks and outside users are promised."""
    promised = ["Cached", "Distiller", "History", "Live", "Recipe", "Supervised", "checks",
                "compare", "data", "explore", "fit", "losses", "measure", "models", "plot",
                "report", "teacher"]
    assert [name for name in promised if not hasattr(kdcourse, name)] == []
    assert set(promised) <= set(kdcourse.__all__)
    assert callable(kdcourse.losses.kd)
