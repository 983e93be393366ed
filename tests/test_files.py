"""Files: whole or not at all, and sentences when a folder or a disk does not play along."""

import ast
import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from kdcourse import _files


def test_the_folder_is_made_where_the_variable_says(home):
    assert not home.exists()
    assert _files.home() == home
    assert home.is_dir()


def test_without_the_variable_it_is_the_systems_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("KDCOURSE_HOME")
    monkeypatch.setattr(_files, "user_cache_dir", lambda name: str(tmp_path / name))
    assert _files.home() == tmp_path / "kdcourse"


def test_a_home_that_is_a_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "inside"):
        monkeypatch.setenv("KDCOURSE_HOME", str(folder))
        with pytest.raises(NotADirectoryError, match=r"Expected a folder at .*file.*, got a file"):
            _files.home()
    assert file.read_text() == "mine"


def test_a_folder_that_one_may_not_make(tmp_path, monkeypatch):
    def refused(*args, **settings):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(PermissionError, match=r"Could not make the folder .*Permission denied\)"):
        _files.make_folder(tmp_path / "new")


def test_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    for content in (b"one", b"something longer", b""):
        _files.write(path, content)
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_others_may_read_what_was_written(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    _files.write(tmp_path / "file", b"content")
    assert (tmp_path / "file").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(("error", "message"), [
    (OSError(errno.ENOSPC, "No space left"), "The disk is full: .*file needs 0.0 MB. Free some"),
    (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    (KeyboardInterrupt(), None),
])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, step, error, message):
    def fail(*args):
        raise error

    path = tmp_path / "file"
    _files.write(path, b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error), match=message):
        _files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_is_really_full(tmp_path, monkeypatch):
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: real(Path("/dev/full"), "wb"))
    with pytest.raises(OSError, match="The disk is full"):
        _files.write(tmp_path / "file", b"x" * 100_000)
    assert not (tmp_path / "file").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_while_writing_again_and_again(tmp_path, start):
    program = (
        "from pathlib import Path; from kdcourse import _files\n"
        f"path = Path({str(tmp_path / 'file')!r})\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for letter in b'ab': _files.write(path, bytes([letter]) * 3_000_000)\n"
    )
    process = start(program)
    process.stdout.readline()
    deadline = time.monotonic() + 30
    while not (tmp_path / "file").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    seen = set()
    for _ in range(50):
        seen.add((tmp_path / "file").read_bytes())
        time.sleep(0.002)
    process.kill()
    process.wait()
    seen.add((tmp_path / "file").read_bytes())
    assert {(len(content), len(set(content))) for content in seen} == {(3_000_000, 1)}


def test_digest():
    assert _files.digest(b"abc").startswith("ba7816bf8f01cfea414140de5dae2223")  # FIPS 180-2
    assert _files.digest({"a": 1, "b": 2}) == _files.digest({"b": 2, "a": 1})
    assert _files.digest("ab", "c") != _files.digest("a", "bc")
    assert _files.digest([np.int64(3)]) == _files.digest([3])
    with pytest.raises(TypeError):
        _files.digest(object())


@pytest.mark.parametrize(("value", "on"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_smoke_mode(monkeypatch, value, on):
    monkeypatch.setenv("KDCOURSE_SMOKE", value)
    assert _files.smoke() is on


# --- the package as a whole ---------------------------------------------------------------------


def test_nothing_in_the_package_unpickles():
    """A file from a cache or from the network must not be able to run code."""
    found = []
    for path in (ROOT / "kdcourse").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [*(alias.name for alias in node.names), getattr(node, "module", None)]
            if isinstance(node, ast.Attribute):
                names.append(f"{getattr(node.value, 'id', '')}.{node.attr}")
            wrong = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle",
                     "torch.load", "torch.save", "np.load", "numpy.load", "torch.hub"}
            found += [f"{path.name}: {name}" for name in names if name in wrong]
    assert found == []
