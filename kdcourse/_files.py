"""Where kdcourse keeps files, and how it writes them: as a whole or not at all."""

import contextlib
import errno
import hashlib
import json
import operator
import os
import uuid
import warnings
from pathlib import Path

from platformdirs import user_cache_dir


def home() -> Path:
    """Return the folder for trained teachers, downloads and recorded rows; make it if missing.

    `KDCOURSE_HOME` names it; the default is the platform's cache folder.
    """
    folder = Path(os.environ.get("KDCOURSE_HOME") or user_cache_dir("kdcourse")).expanduser()
    return make_folder(folder)


def make_folder(folder: Path) -> Path:
    """Make `folder` and its parents. Raises `OSError` where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"Expected a folder at {folder}, got a file. Move that file away, "
                                 "or set KDCOURSE_HOME to another folder.") from None
    except OSError as error:
        raise OSError(error.errno, f"Could not make the folder {folder} ({error.strerror}). "
                      "Set KDCOURSE_HOME to a folder that you may write to.") from None
    return folder


def write(path: Path, content: bytes) -> None:
    """Write `content` to `path`: a reader gets the old file or the new one, never a part of it.

    Raises `OSError` when the disk is full; the old file is then unchanged.
    """
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with enough_space(path, len(content)):
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else a power cut can leave an empty file of the new name
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def enough_space(path: Path, size: int):
    """Say in the error of a full disk how many bytes `path` needs, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(error.errno, f"The disk is full: {path} needs {size / 1e6:.1f} MB. Free some "
                      "space, or set KDCOURSE_HOME to a folder on another disk.") from None


@contextlib.contextmanager
def warn_if_not_kept(sentence: str, stacklevel: int = 4):
    """Turn an error while a result is written into a warning: the result is returned all the same.

    sentence: what was not kept; the reason follows it. stacklevel: as in `warnings.warn`.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: the file was damaged in the meantime
        warnings.warn(f"{sentence} {getattr(error, 'strerror', None) or error}",
                      stacklevel=stacklevel)


def digest(*parts) -> str:
    """Return the SHA-256 of the parts, in hex: bytes as they are, everything else by its JSON form.

    A NumPy whole number counts as the Python number that it equals.
    """
    result = hashlib.sha256()
    for part in parts:
        if not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True, default=operator.index).encode()
        result.update(part)
    return result.hexdigest()


def smoke() -> bool:
    """Whether smoke mode is on (`KDCOURSE_SMOKE=1`): as little work as shows that code runs."""
    return os.environ.get("KDCOURSE_SMOKE", "") not in ("", "0")
