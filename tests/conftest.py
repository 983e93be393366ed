"""What several test files share."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Path:
    """The folder of the built book: built once, from scratch, with warnings as errors."""
    folder = tmp_path_factory.mktemp("book")
    build = "from jupyter_book.cli.main import main; main()"
    options = ["--path-output", str(folder), "-W", "-n", "--keep-going"]
    done = subprocess.run(
        [sys.executable, "-c", build, "build", str(ROOT), *options],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, f"The book does not build:\n{done.stdout}\n{done.stderr}"
    return folder / "_build" / "html"
