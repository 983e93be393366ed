"""Assignment 2, acted out: the script as it is handed out, repaired, with one mistake left in, and
repaired wrongly. A wrong repair loses exactly what it should, and its author reads why.
"""

import ast
import contextlib
import json
import re
from pathlib import Path

import pytest
import torch

from grader import Worker, grade, load, submission
from kdcourse import checks

nbformat = pytest.importorskip("nbformat")
NAME = "2_five_mistakes"
FOLDER = Path(__file__).parents[2] / "notebooks" / "assignments"
MISTAKEN = ("distillation_loss", "store_answers", "batches", "set_up", "best_epoch")
INNOCENT = ("hint_loss", "train_epoch", "evaluate")
SEED = 7

# Wrong repairs. Who is changed, where the points are lost and how many, what the grader says, what
# the check in the notebook says, and what stands where in place of the right code. Those of one
# list have nothing to do with each other, so they make one submission.
WRONG = {
    "halfway": [
        ("distillation_loss", "distillation_loss", 2, "other temperatures", "off by a factor",
         "T**2", "T"),
        ("store_answers", "store_answers", 3, "rest of the batch", "at a time",
         "teacher.eval()", "teacher = copy.deepcopy(teacher)"),
        ("batches", "batches", 1, "in a new order", "Expected another order",
         "torch.randperm(len(x), generator=rng)", "torch.arange(len(x))"),
        ("set_up", "set_up", 2, "hold all that is trained", "move every tensor",
         "AdamW(student.", "AdamW(student.projection."),
        ("best_epoch", "best_epoch", 2, "neither trained on nor reported", "Expected epoch 3",
         "max(curve, key=lambda row: row[2])", "curve[-1]"),
    ],
    "another way": [
        ("distillation_loss", "distillation_loss", 3, "averaged over the samples", "",
         ".sum(1).mean()", ".sum()"),
        ("store_answers", "store_answers", 4, "batch statistics included", "have changed",
         "[teacher(images) for images in x.split(size)]",
         "[teacher.train(n > 0)(images) for n, images in enumerate(x.split(size))]"),
        ("batches", "batches", 3, "what the teacher said of this image", "",
         "features[rows]", "features[:len(rows)]"),
        ("set_up", "set_up", 4, "stays as it was drawn", "move every tensor",
         "    schedule =", "    student.projection = nn.Linear(student.head.in_features, width)\n"
         "    schedule ="),
        ("best_epoch", "best_epoch", 2, "neither trained on nor reported", "Expected epoch 3",
         "row[2]", "-row[1]"),
    ],
    "not quite": [
        ("distillation_loss", "distillation_loss", 3, "of the student from the teacher", "1.8994",
         "(log_p.exp() * (log_p - log_q))", "(log_q.exp() * (log_q - log_p))"),
        ("batches", "batches", 1, "last and smaller batch", "last batch is smaller",
         "        yield", "        if len(rows) == size: yield"),
        ("store_answers", "store_answers", 1, "no gradient flows", "",
         "with torch.no_grad():", "teacher.requires_grad_(True)\n    if True:"),
    ],
    # The other functions are right as they are.
    "mended too much": [
        ("hint_loss", "batches", 1, "`hint_loss`", "mean squared distance", ".mean()", ".sum()"),
        ("evaluate", "store_answers", 1, "its accuracy to be right", "change nothing",
         "    model.train(mode)\n", "    model.train()\n"),
    ],
    "asleep": [
        ("train_epoch", "batches", 1, "`train_epoch`", "train in train mode",
         "    student.train()\n", ""),
        ("evaluate", "store_answers", 1, "what it was", "change nothing", "    model.eval()\n", ""),
    ],
    "piled up": [
        ("train_epoch", "batches", 1, "`train_epoch`", "", "        optimizer.zero_grad()\n", ""),
        ("set_up", "set_up", 2, "to rise to `lr`", "", "OneCycleLR(optimizer, lr,",
         "OneCycleLR(optimizer, 10 * lr,"),
    ],
}


def handed_out(source: str) -> str:
    """What students get of a cell of the master, in which the repair stands beside the mistake."""
    source = re.sub(r" *# BEGIN SOLUTION NO PROMPT\n.*?# END SOLUTION\n?", "", source,
                    flags=re.DOTALL)
    skipped = ("# SOLUTION NO PROMPT", "# BEGIN PROMPT", "# END PROMPT")
    return "\n".join(line for line in source.splitlines() if not line.endswith(skipped))


@pytest.fixture(scope="module")
def master():
    return nbformat.read(FOLDER / f"{NAME}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def right(master) -> dict[str, str]:
    """The repaired script: name of the function or class, and its cell."""
    cells = [cell.source for cell in master.cells if cell.cell_type == "code"]
    cells = cells[:cells.index("runs = []")]
    return {"imports": cells[0]} | {re.match(r"(?:def|class) (\w+)", source)[1]: source
                                    for source in cells if re.match("def |class ", source)}


@pytest.fixture(scope="module")
def wrong(right) -> dict[str, str]:
    """The script as it is handed out."""
    return {name: handed_out(source) for name, source in right.items()}


def changed(right, function, old, new) -> dict[str, str]:
    assert old in right[function], f"{function} has no {old!r}"
    return right | {function: right[function].replace(old, new)}


@pytest.fixture(scope="module")
def grades(right, wrong, tmp_path_factory):
    """All submissions, graded."""
    scripts = {"repaired": right, "handed out": wrong, "empty": {"imports": right["imports"]}}
    scripts |= {f"without {name}": right | {name: wrong[name]} for name in MISTAKEN}
    for title, repairs in WRONG.items():
        scripts[title] = right
        for function, *_, old, new in repairs:
            scripts[title] = changed(scripts[title], function, old, new)
    folder, assignment = tmp_path_factory.mktemp("submissions"), load(FOLDER / f"{NAME}.py")

    def one(title):
        cells = [nbformat.v4.new_code_cell(source) for source in scripts[title].values()]
        path = folder / f"{title}.ipynb"
        path.write_text(json.dumps(nbformat.v4.new_notebook(cells=cells)), "utf-8")
        return grade(assignment, path, SEED)

    # One process for all of them, which saves a minute: they are all well-behaved.
    with pytest.MonkeyPatch.context() as patch, Worker() as worker:
        patch.setattr(submission, "Worker", lambda *_, **__: contextlib.nullcontext(worker))
        return {title: one(title) for title in scripts}


def full(**lost) -> dict[str, float]:
    return {name: 4 - lost.get(name, 0) for name in MISTAKEN}


def test_repaired_it_gets_full_marks(grades):
    assert grades["repaired"].points == full(), grades["repaired"]
    assert not grades["repaired"].sentences


@pytest.mark.parametrize("title", ["handed out", "empty"])
def test_untouched_or_empty_it_gets_nothing(grades, title):
    assert grades[title].total == 0, grades[title]


@pytest.mark.parametrize("name", MISTAKEN)
def test_a_mistake_that_is_left_in_loses_its_points(grades, name):
    found = grades[f"without {name}"]
    assert found.points == full(**{name: 4}), found
    assert all(sentence.startswith(f"{name}: ") for sentence in found.sentences)


@pytest.mark.parametrize("title", WRONG)
def test_a_wrong_repair_loses_what_it_should(grades, title):
    found, lost = grades[title], {}
    for _, question, points, says, *_ in WRONG[title]:
        lost[question] = points
        assert any(says in sentence for sentence in found.sentences
                   if sentence.startswith(question)), found
    assert found.points == full(**lost), found
    assert not any("stopped" in sentence for sentence in found.sentences), found


# --- what the notebook says -----------------------------------------------------------------------


def space(script) -> dict:
    names = {}
    for source in script.values():
        exec(compile(source, NAME, "exec"), names)
    return names


def said(master, question, names) -> str:
    """What the checks of a question say."""
    found, inside, asked = [], False, None
    for cell in master.cells:
        if cell.cell_type == "raw":
            if name := re.search(r"# BEGIN QUESTION\nname: (\w+)", cell.source):
                asked = name[1]
            inside = cell.source == "# BEGIN TESTS" and asked == question
        elif inside:
            try:
                exec(cell.source, dict(names))
            except AssertionError as error:
                found.append(str(error))
    return " ".join(found)


def test_the_checks_are_silent_about_right_code(master, right):
    names = space(right)
    for question in (*MISTAKEN, *INNOCENT):
        assert said(master, question, names) == ""


def test_the_checks_find_the_mistakes_and_spare_the_innocent(master, wrong):
    names = space(wrong)
    for question in MISTAKEN:
        assert said(master, question, names).startswith(("Expected", "Two trainings"))
    for question in INNOCENT:
        assert said(master, question, names) == ""


@pytest.mark.parametrize(("function", "says", "old", "new"), [
    (repair[0], repair[4], *repair[5:]) for repairs in WRONG.values() for repair in repairs])
def test_the_checks_say_what_a_wrong_repair_breaks(master, right, function, says, old, new):
    # Some are for the grader alone ("").
    found = said(master, function, space(changed(right, function, old, new)))
    assert (says in found) if says else not found or "Expected" in found, found


def test_a_sentence_never_names_the_repair(grades, master, right, wrong):
    told = [sentence for grade in grades.values() for sentence in grade.sentences]
    told += [said(master, question, space(wrong)) for question in MISTAKEN]
    for repair in ("eval()", "sum(1)", "[rows]", "row[2]", "validation"):
        assert not any(repair in sentence for sentence in told), repair


# --- the script -----------------------------------------------------------------------------------


def test_five_functions_differ_by_little(right, wrong):
    differ = {name for name in right if right[name] != wrong[name]}
    assert differ == set(MISTAKEN)
    for name in differ:
        ast.parse(wrong[name])
        assert len(wrong[name].splitlines()) <= len(right[name].splitlines())
    lines = "\n".join(wrong[name] for name in wrong if name != "imports").splitlines()
    lines = [line for line in lines if line.strip()]
    assert 80 <= len(lines) <= 125
    assert not any("kd." in line or "PROMPT" in line or "SOLUTION" in line for line in lines)


@pytest.mark.parametrize("version", ["right", "wrong"])
def test_the_script_trains(request, version, data):
    names = space(request.getfixturevalue(version))
    torch.manual_seed(0)
    teacher, student = names["Student"](width=8), names["Student"](width=4)
    best, curve = names["distil"](student, teacher, data, epochs=3, size=50)
    assert best in curve
    assert len(curve) == 3
    assert curve[-1][1] < curve[0][1]


def test_the_tools_that_the_notebook_names_find_it(wrong, right):
    def step(names):
        class Twice(torch.nn.Module):
            def __init__(self, model):
                super().__init__()
                self.model = model

            def forward(self, x):
                logits = self.model(x)
                return logits, logits

        def wrapped(student, teacher, x, y, optimizer):
            logits, _ = names["store_answers"](Twice(teacher), x, 8)
            optimizer.zero_grad()
            names["distillation_loss"](student(x), logits, 4.0).backward()
            optimizer.step()
        return wrapped

    with pytest.raises(AssertionError, match="number of classes"):
        checks.distillation_loss(space(wrong)["distillation_loss"])
    with pytest.raises(AssertionError, match="batch statistics moved"):
        checks.freezes_teacher(step(space(wrong)))
    checks.distillation_loss(space(right)["distillation_loss"])
    checks.freezes_teacher(step(space(right)))


def test_students_get_one_file_without_solutions(built, wrong):
    folder = built / NAME
    assert [path.name for path in (folder / "student").iterdir()] == [f"{NAME}.ipynb"]
    student = nbformat.read(folder / "student" / f"{NAME}.ipynb", as_version=4)
    sources = [cell.source for cell in student.cells]
    for name, source in wrong.items():  # our `handed_out` and otter agree
        assert source in sources, name
    for name in (*MISTAKEN, *INNOCENT):
        assert f'grader.check("{name}")' in sources
    text = "\n".join(sources)
    assert "SOLUTION" not in text
    assert "takes the mean over samples *and* classes" not in text  # from the written solution
    solutions = (folder / "solutions" / f"{NAME}.ipynb").read_text("utf-8")
    assert "takes the mean over samples *and* classes" in solutions
