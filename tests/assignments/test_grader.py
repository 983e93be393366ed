"""The grader against people who did not mean well, or whose code does not know what it does."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from grader import (
    Assignment,
    Law,
    Lost,
    Unreadable,
    Worker,
    __main__,
    extract,
    grade,
    grade_folder,
    load,
    worker,
)
from grader.assignment import differs
from grader.folder import leaderboard, submissions
from kdcourse import losses

ROOT = Path(__file__).parents[2]
LAWS = '''
import torch

from kdcourse import losses
from grader import Assignment, Law


def draw(rng):
    student, teacher = torch.randn(2, 8, 10, generator=rng)
    return {"student": student, "teacher": teacher, "T": 4.0}


def value(given, x):
    return given.kd_loss(x["student"], x["teacher"], x["T"])


def expect(x):
    return losses.kd(x["student"].double(), x["teacher"].double(), x["T"])


def twice(given, x):
    return given.twice(x["student"])


def doubled(x):
    return 2 * x["student"]


ASSIGNMENT = Assignment("demo", "Demo", (
    Law("q1", 2, ("kd_loss",), draw, value, expect, "Expected the formula.", seconds=5),
    Law("q2", 1, ("twice",), draw, twice, doubled, "Expected twice the input.", seconds=3),
))
'''
RIGHT = '''
import torch.nn.functional as F
def kd_loss(student, teacher, T):
    log_q, log_p = F.log_softmax(student / T, 1), F.log_softmax(teacher / T, 1)
    return T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
'''
TWICE = "\ndef twice(x):\n    return 2 * x\n"

# What q1 does instead of answering, and a word of the sentence. q2 is right in all of them.
HOSTILE = {
    "crashes": ("def kd_loss(s, t, T): raise RuntimeError('oh')", "RuntimeError: oh"),
    "hangs": ("def kd_loss(s, t, T):\n    while True: pass", "no answer within"),
    "exits": ("import sys\ndef kd_loss(s, t, T): sys.exit(0)", "ended the program"),
    "leaves at once": ("import os\ndef kd_loss(s, t, T): os._exit(0)", "ended its process"),
    "eats memory": (
        "import torch\ndef kd_loss(s, t, T):\n    x = []\n"
        "    while True: x.append(torch.empty(2**27))", "more memory"),
    "deletes its folder": (
        "import os, shutil\ndef kd_loss(s, t, T):\n    shutil.rmtree(os.getcwd())\n"
        "    return s.sum()",
        "Expected the formula"),
    "deletes other folders": (
        "import os\ndef kd_loss(s, t, T):\n    os.rmdir(VICTIM)\n    return s.sum()",
        "no access"),
    "prints a million lines": (
        "def kd_loss(s, t, T):\n    for i in range(10**6): print(i)\n    return s.sum()",
        "Expected the formula"),
    "hands back the package's function": (
        "from kdcourse.losses import kd as kd_loss", "not there when an assignment is graded"),
    "loads the package from its file": (
        "import importlib.util\ndef kd_loss(s, t, T):\n"
        "    spec = importlib.util.spec_from_file_location('x', LOSSES)\n"
        "    module = importlib.util.module_from_spec(spec)\n"
        "    spec.loader.exec_module(module)\n    return module.kd(s, t, T)", "no access"),
    "reads the laws": ("def kd_loss(s, t, T): return float(open(LAWS).read()[0])", "no access"),
    "reads the stack": (
        "import sys\ndef kd_loss(s, t, T):\n    frame = sys._getframe()\n    while frame:\n"
        "        for name in ('expected', 'expect', 'assignment', 'law_object'):\n"
        "            if name in frame.f_locals or name in frame.f_globals:\n"
        "                return frame.f_locals.get(name)\n"
        "        frame = frame.f_back\n    raise KeyError('nothing there')", "nothing there"),
    "reads the environment": (
        "import os\ndef kd_loss(s, t, T): return os.environ['KD_SECRET']", "KeyError"),
    "asks the network": (
        "import socket\ndef kd_loss(s, t, T):\n"
        "    socket.create_connection(('127.0.0.1', PORT))\n    return s.sum()", "not allowed"),
    "starts a program": (
        "import subprocess\ndef kd_loss(s, t, T): return subprocess.check_output(['id'])",
        "not allowed"),
    "kills the grader": (
        "import os\ndef kd_loss(s, t, T): os.kill(os.getppid(), 9)", "not allowed"),
    "sends a pickle": (
        "class Evil:\n    def __reduce__(self): return print, ('loaded',)\n"
        "def kd_loss(s, t, T): return Evil()", "instead of a tensor"),
    "answers what it was asked": (
        "def kd_loss(s, t, T): return {'value': s}", "Expected the formula"),
    "claims to be equal": (
        "import torch\nclass Equal(float):\n    def __eq__(self, other): return True\n"
        "    def __sub__(self, other): return 0\ndef kd_loss(s, t, T): return Equal(0)",
        "Expected the formula"),
    "changes torch": (
        "import torch\ndef kd_loss(s, t, T):\n    torch.allclose = lambda *a, **k: True\n"
        "    torch.Tensor.__eq__ = lambda *a: True\n    return s.sum()", "Expected the formula"),
    "gives NaN": ("def kd_loss(s, t, T): return s.sum() * float('nan')", "NaN"),
    "is a deep tower": (
        "def kd_loss(s, t, T):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
        "RecursionError|no answer|ended"),
}


@pytest.fixture
def laws(tmp_path) -> Path:
    path = tmp_path / "demo.py"
    path.write_text(LAWS)
    return path


def submit(folder: Path, name: str, code: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(code, "utf-8")
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_submissions_lose_their_question_and_only_that(name, laws, tmp_path, monkeypatch):
    monkeypatch.setenv("KD_SECRET", "the answer")
    code, word = HOSTILE[name]
    victim = tmp_path / "victim"
    victim.mkdir()
    for known, meant in {"VICTIM": victim, "LAWS": laws, "PORT": 9, "LOSSES": Path(
            losses.__file__).parent / "response" / "hinton.py"}.items():
        code = code.replace(f"({known}", f"({meant!s}" if known == "PORT" else f"({str(meant)!r}")
        code = code.replace(f", {known})", f", {meant if known == 'PORT' else repr(str(meant))})")
    path = submit(tmp_path / "in", "one", code + TWICE)
    content = path.read_bytes()
    result = grade(load(laws), path, seed=1)
    assert result.points == {"q1": 0, "q2": 1}, str(result)
    (sentence,) = result.sentences
    assert any(part in sentence for part in word.split("|")), sentence
    assert victim.is_dir() and path.read_bytes() == content


def test_right_answers_get_all_points_and_a_stub_none(laws, tmp_path):
    result = grade(load(laws), submit(tmp_path / "in", "right", RIGHT + TWICE), seed=1)
    assert result.total == 3 and not result.sentences
    stub = "def kd_loss(s, t, T):\n    raise NotImplementedError\ndef twice(x): pass"
    result = grade(load(laws), submit(tmp_path / "in", "stub", stub), seed=1)
    assert result.total == 0 and "not done yet" in result.sentences[0]
    assert "2 of 3 points" in str(grade(load(laws), submit(tmp_path / "in", "half", RIGHT), seed=1))


def test_nothing_is_left_behind(laws, tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    for code in (RIGHT, HOSTILE["hangs"][0]):
        grade(load(laws), submit(tmp_path / "in", "one", code), seed=1)
    assert not list(folder.iterdir())


# --- whatever one submission is, the others are graded --------------------------------------------


def damaged_zip(path: Path, compression: int) -> None:
    """A zip file whose compressed stream is broken in its middle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("one.py", RIGHT + TWICE + "x = 1\n" * 1000)
        start = len(archive.infolist()[0].FileHeader())
    content = bytearray(path.read_bytes())
    content[start + 10:start + 30] = b"\xff" * 20
    path.write_bytes(content)


# What q1 does, and a word of the sentence. q2 is right in all of them.
ODD = {
    "a number beyond every type": ("def kd_loss(s, t, T): return 10**400", "Expected the formula"),
    "a number beyond the digits that JSON writes": (
        "def kd_loss(s, t, T): return 10**5000", "ValueError"),
    "a message that is no Unicode": (
        "def kd_loss(s, t, T): raise ValueError('\\ud800')", "ValueError: \\ud800"),
    "a message of control characters": (
        "def kd_loss(s, t, T): raise ValueError('a\\x00\\rb')", "ValueError: a\\x00 b"),
    "a message of a million letters": (
        "def kd_loss(s, t, T): raise ValueError('x' * 10**6)", "ValueError: xxx"),
    "a message that cannot be made": (
        "class Mute(Exception):\n    def __str__(self): raise ValueError\n"
        "def kd_loss(s, t, T): raise Mute", "ended its process"),
    "SystemExit": ("def kd_loss(s, t, T): raise SystemExit(3)", "ended the program"),
    "KeyboardInterrupt": ("def kd_loss(s, t, T): raise KeyboardInterrupt", "KeyboardInterrupt"),
    "GeneratorExit": ("def kd_loss(s, t, T): raise GeneratorExit", "GeneratorExit"),
    "endless recursion": ("def kd_loss(s, t, T): return kd_loss(s, t, T)", "RecursionError"),
    "MemoryError": ("def kd_loss(s, t, T): raise MemoryError", "more memory"),
    "complex numbers": ("def kd_loss(s, t, T): return s.sum() + 0j", "complex"),
    "half a message": (
        "import os\ndef kd_loss(s, t, T):\n    for number in range(3, 20):\n        try:\n"
        "            os.write(number, b'\\xff' * 100)\n        except OSError: pass",
        "process|answer"),
    "definitions that raise SystemExit": (
        "class Kept:\n    raise SystemExit\ndef kd_loss(s, t, T): return Kept",
        "ended the program"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_answers_lose_their_question_and_only_that(name, laws, tmp_path):
    code, word = ODD[name]
    (result,) = grade_folder(load(laws), submit(tmp_path / "in", "one", code + TWICE).parent,
                             tmp_path / "grades.csv")
    assert result.points == {"q1": 0, "q2": 1}, str(result)
    (sentence,) = result.sentences
    assert any(part in sentence for part in word.split("|")), sentence
    assert sentence.isprintable() and len(sentence) < 1100


# How the file is made, and a word of the sentence; nothing where the answers are right.
FILES = {
    "a name of Latin-1": (
        lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/Andr\xe9.py")).write_text(
            RIGHT + TWICE), ""),
    "a name with a line break": (
        lambda folder: (folder / "a\nb\r.py").write_text(RIGHT + TWICE), ""),
    "a name of 255 letters": (
        lambda folder: (folder / ("n" * 252 + ".py")).write_text(RIGHT + TWICE), ""),
    "folders of 400 letters": (
        lambda folder: submit_deep(folder / ("m" * 200) / ("n" * 200)), ""),
    "400,000 empty lines": (
        lambda folder: (folder / "one.py").write_text(RIGHT + "\n" * 400_000 + TWICE), ""),
    "4,000 definitions in a chain": (
        lambda folder: (folder / "one.py").write_text(
            "a4000 = 2\n" + "".join(f"a{i} = a{i + 1}\n" for i in reversed(range(4000)))
            + RIGHT + TWICE.replace("2", "a0")), ""),
    "a damaged zip file, deflate": (
        lambda folder: damaged_zip(folder / "one.zip", zipfile.ZIP_DEFLATED), "could not be read"),
    "a damaged zip file, LZMA": (
        lambda folder: damaged_zip(folder / "one.zip", zipfile.ZIP_LZMA), "could not be read"),
    "a damaged zip file, bzip2": (
        lambda folder: damaged_zip(folder / "one.zip", zipfile.ZIP_BZIP2), "could not be read"),
    "an empty script": (lambda folder: (folder / "one.py").touch(), "no kd_loss"),
    "an empty notebook": (lambda folder: (folder / "one.ipynb").touch(), "could not be read"),
    "an empty zip file": (lambda folder: (folder / "one.zip").touch(), "could not be read"),
    "null bytes": (lambda folder: (folder / "one.py").write_bytes(b"a = 1\0\0"), "null bytes"),
    "a link to nowhere": (
        lambda folder: (folder / "one.py").symlink_to(folder / "nowhere"), "it is no file"),
    "a link to itself": (
        lambda folder: (folder / "one.py").symlink_to(folder / "one.py"), "could not be read"),
    "a pipe that nobody writes into": (
        lambda folder: os.mkfifo(folder / "one.py"), "it is no file"),
    "deep brackets": (
        lambda folder: (folder / "one.py").write_text("x = " + "[" * 10**5), "cannot be read"),
    "a deep expression": (
        lambda folder: (folder / "one.py").write_text("x = " + "-" * 10**5 + "1"),
        "cannot be read|could not be read"),
    "a long sum": (
        lambda folder: (folder / "one.py").write_text("x = 1" + " + 1" * 10**5),
        "cannot be read|could not be read"),
    "deep JSON": (
        lambda folder: (folder / "one.ipynb").write_text("[" * 10**6), "could not be read"),
    "a name of a million letters, twice": (
        lambda folder: (folder / "one.py").write_text("def f({0}, {0}): pass".format("a" * 10**6)),
        "duplicate argument"),
}


def submit_deep(folder: Path) -> None:
    folder.mkdir(parents=True)
    submit(folder, "one", RIGHT + TWICE)


@pytest.mark.skipif(sys.platform != "linux", reason="not every system can have such files")
@pytest.mark.parametrize("kind", FILES)
def test_odd_files_are_graded_or_get_a_sentence(kind, laws, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "grades.csv"
    folder.mkdir()
    (folder / "folder.py").mkdir()  # named like a submission, and none
    make, word = FILES[kind]
    make(folder)
    start = time.monotonic()
    (result,) = grade_folder(load(laws), folder, out)
    assert time.monotonic() - start < 90  # it was minutes, or no end
    text = " ".join(result.sentences)
    assert result.total == (0 if word else 3), str(result)
    assert any(part in text for part in word.split("|")) and text.isprintable()
    if "could not be read" in text:
        assert result.submission in text  # the sentence names the file
    (note,) = out.with_suffix("").iterdir()
    assert str(result) in note.read_text("utf-8")
    (again,) = grade_folder(load(laws), folder, out)
    assert again.submission == result.submission and again.total == result.total
    assert again.seconds == pytest.approx(result.seconds, abs=0.01)  # from the table


@pytest.mark.skipif(sys.platform != "linux", reason="not every system can have such files")
def test_no_submission_stops_the_grading_of_the_others(laws, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "grades.csv"
    submit(folder, "zz_right", RIGHT + TWICE)
    for number, (make, _) in enumerate(FILES.values()):
        (folder / str(number)).mkdir()
        make(folder / str(number))
    for name in ("a number beyond every type", "a message that is no Unicode", "SystemExit"):
        submit(folder, name, ODD[name][0])
    assert __main__.main([str(laws), str(folder), "--out", str(out)]) == 0
    with out.open(newline="", encoding="utf-8") as file:
        rows = {row["submission"]: row for row in csv.DictReader(file)}
    assert len(rows) == len(FILES) + 4 == len(list(out.with_suffix("").iterdir()))
    assert float(rows["zz_right.py"]["total"]) == 3
    assert f"{len(rows)} submissions" in capsys.readouterr().out


def test_a_file_that_may_not_be_read_gets_a_sentence(laws, tmp_path, monkeypatch):
    path = submit(tmp_path / "in", "one", RIGHT)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    result = grade(load(laws), path, seed=1)
    assert result.total == 0 and "PermissionError" in result.sentences[0]


@pytest.mark.parametrize("error", [MemoryError, RecursionError, SystemExit, type(
    "PanicException", (BaseException,), {})])
def test_what_goes_wrong_in_the_grader_is_survived_and_tried_again(
        error, laws, tmp_path, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "grades.csv"
    submit(folder, "right", RIGHT + TWICE)

    def fails(*_, **__):
        raise error("oh")

    with monkeypatch.context() as broken:
        broken.setattr(Worker, "ask", fails)
        (result,) = grade_folder(load(laws), folder, out)
    assert result.total == 0
    assert f"right.py could not be graded ({error.__name__}: oh)" in result.sentences[0]
    (again,) = grade_folder(load(laws), folder, out)
    assert again.total == 3 and not again.sentences


def test_the_instructor_can_stop_it_and_mistakes_of_the_laws_are_raised(
        laws, tmp_path, monkeypatch):
    path = submit(tmp_path / "in", "right", RIGHT + TWICE)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Worker, "ask", stopped)
        with pytest.raises(KeyboardInterrupt):
            grade(load(laws), path, seed=1)
    laws.write_text(LAWS.replace("return 2 *", "return nothing *"))
    with pytest.raises(NameError):
        grade(load(laws), path, seed=1)


def test_two_names_never_share_a_text(laws, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "grades.csv"
    submit(folder, "a__b", TWICE)
    submit(folder / "a", "b", "")
    submit(folder, "n" * 200 + "1", "")
    submit(folder, "n" * 200 + "2", "")
    grade_folder(load(laws), folder, out)
    notes = {path.name: path.read_text() for path in out.with_suffix("").iterdir()}
    assert len(notes) == 4 and "1 of 3 points" in notes["a__b.py.txt"]


def test_endings_in_capitals_are_graded(laws, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "ONE.IPYNB").write_text(notebook(RIGHT, TWICE), "utf-8")
    with zipfile.ZipFile(folder / "TWO.ZIP", "w") as archive:
        archive.write(folder / "ONE.IPYNB", "TWO.IPYNB")
    assert [one.total for one in grade_folder(load(laws), folder, tmp_path / "g.csv")] == [3, 3]


# --- what is read of a submission -----------------------------------------------------------------


def notebook(*cells: str) -> str:
    return json.dumps({"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)}
                                 for cell in cells] + [{"cell_type": "markdown", "source": []}]})


def test_only_what_a_question_needs_is_run(laws, tmp_path):
    """A cell that trains, one that fails and one that cannot be read cost nothing elsewhere."""
    cells = ["%matplotlib inline\nimport time", "time.sleep(600)", "1 / 0", "def broken(:",
             "scale = 2", RIGHT, "def twice(x):\n    return scale * x", "unused = time.sleep(600)"]
    path = tmp_path / "one.ipynb"
    path.write_text(notebook(*cells), "utf-8")
    assert grade(load(laws), path, seed=1).total == 3
    packed = tmp_path / "one.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(path, "one.ipynb")
        archive.writestr("__MACOSX/._one.ipynb", "")
    assert grade(load(laws), packed, seed=1).total == 3


def test_what_a_function_uses_comes_along():
    parts = ["from math import *\nimport math as m", "a = 1\nb = a + 1", "class C:\n    y = b",
             "def g():\n    return C.y + m.pi", "if True:\n    def f():\n        return g()",
             "z = 3"]
    code = extract.definitions(parts, ["f"])
    space = {}
    exec(code, space)
    assert space["f"]() == pytest.approx(5.14159265) and "z" not in space


def test_jupyters_own_commands_are_left_out_and_the_operator_is_not():
    parts = ["%time x = 1\n\n  \n!ls\nif True:\n    %time y = 2\n    a = 3",
             "b = ('%d'\n     % 3)", "c = '''\n% 3'''"]
    space = {}
    exec(extract.definitions(parts, ["a", "b", "c"]), space)
    assert (space["a"], space["b"], space["c"]) == (3, "3", "\n% 3")


def test_the_last_definition_counts():
    space = {}
    exec(extract.definitions(["def f(): return 1", "def f(): return 2"], ["f"]), space)
    assert space["f"]() == 2


@pytest.mark.parametrize(("content", "word"), [
    (b"{", "could not be read"), (b"\xff\xfe\x00", "could not be read"), (b"[]", "could not be"),
    (b'{"cells": 3}', "could not be read"),
])
def test_a_broken_notebook_gets_a_sentence(content, word, laws, tmp_path):
    path = tmp_path / "one.ipynb"
    path.write_bytes(content)
    result = grade(load(laws), path, seed=1)
    assert result.total == 0 and word in result.sentences[0]


def test_zip_files_with_none_or_two_notebooks_get_a_sentence(tmp_path):
    for count in (0, 2):
        path = tmp_path / f"{count}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(count):
                archive.writestr(f"{number}.ipynb", "{}")
        with pytest.raises(Unreadable, match=f"one notebook in the zip file, got {count}"):
            extract.cells(path)


def test_a_name_that_is_missing_is_named(laws, tmp_path):
    result = grade(load(laws), submit(tmp_path / "in", "one", TWICE + "\ndef oops(:"), seed=1)
    assert "there is no kd_loss" in result.sentences[0] and "cannot be read" in result.sentences[0]


# --- messages and comparisons ---------------------------------------------------------------------


def test_messages_come_back_as_they_were_sent():
    value = {"a": [torch.arange(3), 2.5, None, True, "x"], "b": {"c": torch.ones(2, 2).half()},
             "d": [torch.zeros(0), float("inf")]}
    back = worker.unpack(worker.pack(value))
    assert differs(back, value, 0) == "" and back["b"]["c"].dtype == torch.float16
    with pytest.raises(TypeError, match="a set instead of"):
        worker.pack({1, 2})


@pytest.mark.parametrize(("given", "comes_back"), [
    (np.float64(2.5), 2.5), (np.float32(0.5), 0.5), (np.int64(3), 3), (np.bool_(True), True),
    (np.array(2.5), torch.tensor(2.5)), (np.arange(3.0), torch.arange(3.0)),
    (np.arange(3.0)[::-1], torch.tensor([2.0, 1, 0])), (np.ones((2, 3)).T, torch.ones(3, 2)),
    (np.linalg.norm([3.0, 4.0]), 5.0),
])
def test_what_numpy_gives_keeps_its_shape(given, comes_back):
    """A number of NumPy is a number, not an array of one."""
    back = worker.unpack(worker.pack({"x": given}))["x"]
    assert type(back) is type(comes_back) and differs(back, comes_back, 0) == ""


def test_right_answers_made_with_numpy_get_all_points(tmp_path, laws):
    """A number for each temperature, as `np.linalg.norm` gives it."""
    text = LAWS.replace("return given.twice(x[\"student\"])", "return [given.twice(2.5)] * 3")
    laws.write_text(text.replace("return 2 * x[\"student\"]", "return [5.0] * 3"))
    code = "import numpy as np\ndef twice(x): return np.float64(2 * x)"
    assert grade(load(laws), submit(tmp_path / "in", "one", code), seed=1).points["q2"] == 1


@pytest.mark.parametrize(("found", "expected", "word"), [
    (torch.ones(3), torch.ones(3), ""), (1, torch.tensor(1.0), ""), (1.0, 1, ""),
    (torch.ones(3), torch.ones(2), "shape"), (torch.tensor([1.0, 2]), torch.ones(2), "1 of 2"),
    (float("nan"), 1.0, "NaN"), ("x", 1.0, "str"), (True, 1.0, "bool"), ([1], [1, 2], "2 values"),
    ({"a": 1}, {"b": 1}, "other parts"), (1, True, "got 1"), (None, None, ""), (None, 1.0, "None"),
    (torch.tensor(2.0), 1.0, "got 2"), (-torch.inf, -torch.inf, ""),
    (torch.tensor(1j), 1.0, "complex"),
    (torch.ones(2, dtype=torch.cfloat), torch.ones(2), "complex"),
])
def test_comparisons(found, expected, word):
    difference = differs(found, expected, 1e-3)
    assert (word in difference) if word else difference == ""


def test_a_worker_can_be_asked_again_after_it_was_lost():
    double, run = "def f(x): return 2 * x", "def run(given, x): return given.f(x)"
    with Worker() as held:
        assert held.ask(double, run, 4) == 8
        first = held.process.pid
        with pytest.raises(Lost, match="ended its process"):
            held.ask("import os\ndef f(x): os._exit(3)", run, 4)
        assert held.ask(double, run, 5) == 10 and held.process.pid != first


def test_a_reply_that_is_no_message_is_survived():
    """It found the channel and writes into it."""
    code = ("import os\ndef f(x):\n    for number in range(3, 20):\n        try:\n"
            "            os.write(number, b'\\xff' * 100)\n        except OSError:\n"
            "            pass\n    return x")
    with Worker() as held, pytest.raises(Lost):
        held.ask(code, "def run(given, x): return given.f(x)", 1, seconds=3)


# --- a folder -------------------------------------------------------------------------------------


def test_a_folder_is_graded_once_and_only_what_changed_again(laws, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "grades.csv"
    submit(folder, "right", RIGHT + TWICE)
    submit(folder, "half", TWICE)
    submit(folder, "=cmd()", RIGHT)  # a spreadsheet would run it
    grades = {one.submission: one.total for one in grade_folder(load(laws), folder, out)}
    assert grades == {"right.py": 3, "half.py": 1, "=cmd().py": 2}
    with out.open(newline="") as file:
        rows = {row["submission"]: row for row in csv.DictReader(file)}
    assert float(rows["right.py"]["total"]) == 3 and float(rows["right.py"]["q1"]) == 2
    assert "no kd_loss" in rows["half.py"]["sentences"] and "'=cmd().py" in rows
    assert "1 of 3 points" in (tmp_path / "grades" / "half.py.txt").read_text()

    submit(folder, "half", RIGHT + TWICE)
    again = {one.submission: one for one in grade_folder(load(laws), folder, out)}
    assert again["half.py"].total == 3
    assert again["right.py"].seconds == pytest.approx(float(rows["right.py"]["seconds"]))  # kept
    assert again["right.py"].seed == int(rows["right.py"]["seed"])
    assert capsys.readouterr().out == ""


@pytest.mark.long
def test_killed_at_any_moment_it_goes_on(laws, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "grades.csv"
    for number in range(4):
        submit(folder, f"s{number}", RIGHT + TWICE)
    command = [sys.executable, str(ROOT / "notebooks" / "assignments" / "grader"), str(laws),
               str(folder), "--out", str(out), "--jobs", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not out.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    process.wait()
    with out.open(newline="") as file:
        before = list(csv.DictReader(file))
    assert 1 <= len(before) < 4
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "4 submissions, 3.0 of 3 points" in done.stdout, done.stderr
    with out.open(newline="") as file:
        after = list(csv.DictReader(file))
    assert len(after) == 4 and before[0] in after


def test_a_table_of_another_assignment_is_refused(laws, tmp_path, capsys):
    folder = tmp_path / "in"
    submit(folder, "right", RIGHT)
    (tmp_path / "grades.csv").write_text("a,b\n1,2\n")
    command = [str(laws), str(folder), "--out", str(tmp_path / "grades.csv")]
    assert __main__.main(command) == 2
    assert "other columns" in capsys.readouterr().err
    assert (tmp_path / "grades.csv").read_text() == "a,b\n1,2\n"


def test_wrong_paths_get_a_sentence(laws, tmp_path):
    with pytest.raises(FileNotFoundError, match="Expected a file with the laws"):
        load(tmp_path / "none.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match="to define ASSIGNMENT"):
        load(tmp_path / "empty.py")
    with pytest.raises(NotADirectoryError, match="Expected a folder"):
        submissions(tmp_path / "none")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match="found none"):
        submissions(tmp_path / "nothing")


def test_the_same_seed_gives_the_same_inputs(laws, tmp_path):
    code = "import torch\nseen = []\ndef twice(x):\n    return x.sum()\n"
    path = submit(tmp_path / "in", "one", code)
    sentences = [grade(load(laws), path, seed=seed).sentences for seed in (1, 1, 2)]
    assert sentences[0] == sentences[1]
    assert isinstance(load(laws), Assignment) and isinstance(load(laws).laws[0], Law)


# --- the contest ----------------------------------------------------------------------------------

ENTRY = '''
import kdcourse as kd
import torch
def student(seed):
    return kd.models.mlp(hidden=(WIDTH,), seed=seed)
def train(network, data, answers, seed):
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(STEPS):
        loss = kd.losses.kd(network(data.train.x), answers, 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
'''


@pytest.fixture
def contest(monkeypatch):
    assignment = load(ROOT / "notebooks" / "assignments" / "4_contest.py")
    module = sys.modules["kdcourse_assignment_4_contest"]
    monkeypatch.setattr(module, "RUNS", 1)
    monkeypatch.setattr(module, "baselines", lambda seed: {"labels only": 0.05, "plain KD": 1.0})

    def easy(seed):
        """36 patterns under noise, which a tiny network learns at once."""
        from kdcourse import data

        rng = torch.Generator().manual_seed(seed)
        patterns = torch.randn(36, 1, 28, 28, generator=rng)

        def images(count):
            y = torch.arange(count) % 36
            return patterns[y] + torch.randn(count, 1, 28, 28, generator=rng), y

        made = data.from_arrays(*images(360), val=images(108), test=images(216))
        return made, 5 * torch.nn.functional.one_hot(made.train.y, 36).float()

    monkeypatch.setattr(module, "task", easy)
    return assignment


def entry(width=8, steps=60) -> str:
    return ENTRY.replace("WIDTH", str(width)).replace("STEPS", str(steps))


@pytest.mark.long
@pytest.mark.parametrize(("code", "points", "word"), [
    (entry(), 6, "100.0%"),
    (entry(width=200), 0, "40,000 are allowed"),
    (entry() + "#" + "a = 'x'\n", 6, "100.0%"),
    (entry().replace("kd.models.mlp", "kd.models.nothing"), 0, "AttributeError"),
    (entry().replace("return kd", "x = '" + "y" * 10_001 + "'\n    return kd"), 0, "10,000"),
    ("def student(seed):\n    raise NotImplementedError\ndef train(*a): pass", 0, "not done yet"),
    ("def student(seed): pass", 0, "no train"),
    # It remembers the training images somewhere else than in its numbers.
    (entry().replace("for _ in", "network.memory = data.train.x\n    for _ in").replace(
        "def student(seed):", "class Net(torch.nn.Sequential):\n    def forward(self, x):\n"
        "        self.memory\n        return super().forward(x)\ndef student(seed):").replace(
        "return kd.models.mlp(hidden=(8,), seed=seed)",
        "return Net(kd.models.mlp(hidden=(8,), seed=seed))"), 0, "memory"),
])
def test_the_contest_counts_and_keeps_the_rules(contest, tmp_path, code, points, word):
    result = grade(contest, submit(tmp_path / "in", "one", code), seed=1)
    assert result.total == points, str(result)
    assert word in " ".join(result.sentences), str(result)
    if points:
        assert result.details["numbers"] == 784 * 8 + 8 + 8 * 36 + 36


@pytest.mark.long
def test_the_contest_has_one_seed_for_all_and_a_leaderboard(contest, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "grades.csv"
    submit(folder, "good", entry())
    submit(folder, "bad", entry(steps=1))
    submit(folder, "none", "")
    grades = grade_folder(contest, folder, out)
    assert len({one.seed for one in grades}) == 1
    board = (tmp_path / "grades_leaderboard.md").read_text().splitlines()
    assert "| 1 | good.py |" in board[2] and "| 2 | bad.py |" in board[3] and not board[4]
    submit(folder, "late", entry(steps=5))
    assert {one.seed for one in grade_folder(contest, folder, out)} == {grades[0].seed}
    assert leaderboard(out, []).read_text().startswith("| place |")


def test_the_real_baselines_are_the_notebooks_first_network():
    """So that the points mean what the notebook says."""
    master = (ROOT / "notebooks" / "assignments" / "4_contest.ipynb").read_text("utf-8")
    path = ROOT / "notebooks" / "assignments" / "4_contest.py"
    spec = importlib.util.spec_from_file_location("contest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert f"epochs={module.EPOCHS}, lr=0.08" in master
    assert "lr=0.08" in path.read_text() and "hinton(T=4, alpha=0.9)" in path.read_text()
    assert f"**{module.NUMBERS:,} numbers**" in master and f"**{module.SECONDS} seconds**" in master
    assert f"{module.LETTERS:,} letters" in master and module.RUNS == 5
