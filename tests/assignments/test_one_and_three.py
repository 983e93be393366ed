"""Assignments 1 and 3, acted out: made from their masters, solved, left empty, and solved wrongly.
A wrong answer loses exactly what it should, and the check in the notebook tells its author why.
"""

import concurrent.futures
import itertools
import re
import warnings
from pathlib import Path

import pytest

from grader import grade, load

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("otter")
FOLDER = Path(__file__).parents[2] / "notebooks" / "assignments"
NAMES = ["1_loss", "3_relations"]
SEED = 7

# Question, points lost, what the grader says, what the check in the notebook says, the answer.
WRONG = {"1_loss": [
    ("q1", 1, "rounded to 0", "Expected -400", """
def log_softened(logits, T):
    return torch.log(torch.softmax(logits / T, dim=1))"""),
    ("q1", 1, "rounded to 0", "Expected -400", """
def log_softened(logits, T):
    return torch.log(torch.softmax(logits / T, dim=1) + 1e-8)"""),
    ("q1", 1, "too large", "too large", """
def log_softened(logits, T):
    return logits / T - torch.exp(logits / T).sum(1, keepdim=True).log()"""),
    ("q1", 1, "logits / T", "differ by 0.5", """
def log_softened(logits, T):
    return F.log_softmax(logits * T, dim=1)"""),
    ("q1", 3, "logarithm of the softmax", "they are probabilities", """
def log_softened(logits, T):
    return F.softmax(logits / T, dim=1)"""),
    ("q2", 1, "T² times", "T² is missing", """
def soft_term(student, teacher, T):
    log_q, log_p = F.log_softmax(student / T, 1), F.log_softmax(teacher.detach() / T, 1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)"""),
    ("q2", 1, "sum over the classes", "number of classes", """
def soft_term(student, teacher, T):
    log_q, log_p = F.log_softmax(student / T, 1), F.log_softmax(teacher.detach() / T, 1)
    return T**2 * F.kl_div(log_q, log_p, reduction="mean", log_target=True)"""),
    ("q2", 2, "swapped", "swapped", """
def soft_term(student, teacher, T):
    log_q, log_p = F.log_softmax(student / T, 1), F.log_softmax(teacher.detach() / T, 1)
    return T**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)"""),
    ("q2", 1, "no gradient for the teacher", "no gradient for the teacher", """
def soft_term(student, teacher, T):
    log_q, log_p = F.log_softmax(student / T, 1), F.log_softmax(teacher / T, 1)
    return T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)"""),
    ("q2", 1, "logits in the hundreds", "log_softmax", """
def soft_term(student, teacher, T):
    q, p = F.softmax(student / T, 1), F.softmax(teacher.detach() / T, 1)
    return T**2 * (p * (p / q).log()).sum(1).mean()"""),
    ("q2", 1, "mean over the samples", "summed over the batch", """
def soft_term(student, teacher, T):
    log_q, log_p = F.log_softmax(student / T, 1), F.log_softmax(teacher.detach() / T, 1)
    return T**2 * F.kl_div(log_q, log_p, reduction="sum", log_target=True)"""),
    ("q2", 1, "0 where student and teacher agree", "subtract the entropy", """
def soft_term(student, teacher, T):
    return T**2 * F.cross_entropy(student / T, F.softmax(teacher.detach() / T, 1))"""),
    ("q2", 1, "both sides at T", "softens the teacher only", """
def soft_term(student, teacher, T):
    log_q, log_p = F.log_softmax(student, 1), F.log_softmax(teacher.detach() / T, 1)
    return T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)"""),
    ("q2", 2, "another direction", "sign is wrong", """
def soft_term(student, teacher, T):
    log_q, log_p = F.log_softmax(student / T, 1), F.log_softmax(teacher.detach() / T, 1)
    return -T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)"""),
    ("q2", 5, "logarithm is missing", "without a logarithm", """
def soft_term(student, teacher, T):
    q, p = F.softmax(student / T, 1), F.softmax(teacher.detach() / T, 1)
    return T**2 * F.kl_div(q, p, reduction="batchmean")"""),
    ("q3", 1, "alpha to weigh the soft term", "another teacher changes", """
def full_loss(student, teacher, labels, T, alpha):
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft_term(student, teacher, T)
"""),
    ("q3", 1, "add up to 1", "other labels change", """
def full_loss(student, teacher, labels, T, alpha):
    return F.cross_entropy(student, labels) + alpha * soft_term(student, teacher, T)"""),
    ("q3", 1, "at temperature 1", "same at every temperature", """
def full_loss(student, teacher, labels, T, alpha):
    hard = F.cross_entropy(student / T, labels)
    return (1 - alpha) * hard + alpha * soft_term(student, teacher, T)"""),
    ("q3", 1, "once", "there twice", """
def full_loss(student, teacher, labels, T, alpha):
    soft = T**2 * soft_term(student, teacher, T)
    return (1 - alpha) * F.cross_entropy(student, labels) + alpha * soft"""),
    ("q3", 1, "cross-entropy", "wants logits", """
def full_loss(student, teacher, labels, T, alpha):
    hard = F.cross_entropy(F.softmax(student, 1), labels)
    return (1 - alpha) * hard + alpha * soft_term(student, teacher, T)"""),
    ("q4", 1, "the other sign", "-1 times", """
def soft_gradient(student, teacher, T):
    return T * (F.softmax(teacher / T, 1) - F.softmax(student / T, 1)) / len(student)"""),
    ("q4", 1, "1 / B", "5 times", """
def soft_gradient(student, teacher, T):
    return T * (F.softmax(student / T, 1) - F.softmax(teacher / T, 1))"""),
    ("q4", 1, "chain rule", "3 times", """
def soft_gradient(student, teacher, T):
    return T**2 * (F.softmax(student / T, 1) - F.softmax(teacher / T, 1)) / len(student)"""),
    ("q4", 1, "chain rule", "0.1111 times", """
def soft_gradient(student, teacher, T):
    return (F.softmax(student / T, 1) - F.softmax(teacher / T, 1)) / T / len(student)"""),
    ("q4", 1, "by hand", "by hand", """
def soft_gradient(student, teacher, T):
    z = student.clone().requires_grad_()
    log_q, p = F.log_softmax(z / T, 1), F.softmax(teacher / T, 1)
    loss = T**2 * F.kl_div(log_q, p, reduction="batchmean")
    return torch.autograd.grad(loss, z)[0]"""),
    ("q4", 2, "for one sample at T = 1", "add up to 0", """
def soft_gradient(student, teacher, T):
    return T * (F.log_softmax(student / T, 1) - F.log_softmax(teacher / T, 1)) / len(student)"""),
    ("q4", 1, "without T²", "lengths with it", """
def norms_without_T2(student, teacher, temperatures):
    return [float(soft_gradient(student, teacher, T).norm()) for T in temperatures]"""),
    ("q5", 3, "carry what their term lacks", "lacks T²", """
def their_weight(w, T, K, has_T2, sums_classes):
    return w / (1 if has_T2 else T**2) / (1 if sums_classes else K)"""),
    ("q5", 2, "carry what their term lacks", "0.333 times", """
def their_weight(w, T, K, has_T2, sums_classes):
    return w * (1 if has_T2 else T) * (1 if sums_classes else K)"""),
], "3_relations": [
    ("q1", 2, "slope of a square root", "meet a 0", """
def distances(x):
    return (x[:, None] - x[None]).square().sum(2).sqrt()"""),
    ("q1", 1, "two equal samples", "diagonal is fine", """
def distances(x):
    same = torch.eye(len(x))
    return ((x[:, None] - x[None]).square().sum(2) + same).sqrt() * (1 - same)"""),
    ("q1", 1, "keep their digits", "near 1000", """
def distances(x):
    lengths = (x.double() ** 2).sum(1).to(x)
    squares = lengths[:, None] + lengths[None] - 2 * x @ x.T
    same = (x[:, None] == x[None]).all(2)
    return squares.clamp(min=1e-12).masked_fill(same, 1).sqrt().masked_fill(same, 0)"""),
    ("q1", 2, "Euclidean distance", "its square", """
def distances(x):
    return (x[:, None] - x[None]).square().sum(2)"""),
    ("q2", 1, "B (B - 1) pairs", "How many are in your mean", """
def relative(far):
    return far / far.mean().clamp(min=1e-12)"""),
    ("q2", 1, "also where two of them coincide", "counts", """
def relative(far):
    return far / far[far > 0].mean() if (far > 0).any() else far"""),
    ("q2", 1, "through the mean", "Is the mean detached", """
def relative(far):
    mean = far.detach().sum() / (len(far) * (len(far) - 1))
    return far / mean.clamp(min=1e-12)"""),
    ("q2", 1, "0 / 0", "all distances are 0", """
def relative(far):
    return far / (far.sum() / (len(far) * (len(far) - 1)))"""),
    ("q3", 1, "half the square", "meet at a gap of 1", """
def huber(a, b):
    gap = (a - b).abs()
    return torch.where(gap <= 1, gap**2, gap - 0.5)"""),
    ("q3", 1, "straight line", "0.25, 0.5, 3.0", """
def huber(a, b):
    return (a - b).square() / 2"""),
    ("q4", 1, "nothing is averaged", "times that", """
def distance_loss(student, teacher):
    return huber(relative(distances(student)), relative(distances(teacher.detach()))).mean()"""),
    ("q4", 1, "counts twice", "0.5 times", """
def distance_loss(student, teacher):
    gaps = huber(relative(distances(student)), relative(distances(teacher.detach())))
    return gaps.triu().sum()"""),
    ("q4", 1, "no gradient for the teacher", "no gradient for the teacher", """
def distance_loss(student, teacher):
    return huber(relative(distances(student)), relative(distances(teacher))).sum()"""),
    ("q4", 3, "turned, shifted or scaled", "10 times as large", """
def distance_loss(student, teacher):
    return huber(distances(student), distances(teacher.detach())).sum()"""),
    ("q5", 2, "at sample j", "Which sample is in the middle", """
def cosines(x):
    way = F.normalize(x[:, None] - x[None], dim=2)
    return torch.einsum("jid,kid->ijk", way, way)"""),
    ("q5", 3, "at sample j", "divided by both lengths", """
def cosines(x):
    way = x[:, None] - x[None]
    return torch.einsum("ijd,kjd->ijk", way, way)"""),
    ("q5", 1, "through the lengths", "Are the lengths detached", """
def cosines(x):
    way = x[:, None] - x[None]
    way = way / way.detach().norm(dim=2, keepdim=True).clamp(min=1e-12)
    return torch.einsum("ijd,kjd->ijk", way, way)"""),
    ("q5", 4, "NaN", "[0, 1, 0]|no direction", """
def cosines(x):
    way = x[:, None] - x[None]
    way = way / way.norm(dim=2, keepdim=True)
    return torch.einsum("ijd,kjd->ijk", way, way)"""),
    ("q6", 1, "not a mean", "times that", """
def angle_loss(student, teacher):
    return huber(cosines(student), cosines(teacher.detach())).mean()"""),
    ("q6", 1, "no gradient for the teacher", "no gradient for the teacher", """
def angle_loss(student, teacher):
    return huber(cosines(student), cosines(teacher)).sum()"""),
    ("q6", 2, "no gradient reaches the student", "none", """
def angle_loss(student, teacher):
    return huber(cosines(student.detach()), cosines(teacher.detach())).sum()"""),
]}

# Answers that want points without an answer: they return what the frame of their caller holds, or a
# constant, and replace what a ratio, a norm or a comparison might be made with.
HOSTILE = """
import sys
import torch

def caller():
    frame = sys._getframe(1)
    while not isinstance(frame.f_locals.get("x"), dict):
        frame = frame.f_back
    return frame.f_locals

def arrays(value):
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return [value] if isinstance(value, torch.Tensor) else []
    return [one for part in value for one in arrays(part)]

def value(kind, dims, given):
    # dims: 0 for a loss or another number, 2 for [B, B], 3 for [B, B, B], else as the input.
    first = torch.as_tensor(given[0])
    if kind in ("first", "last"):
        inputs = caller()["x"]
        found = arrays(inputs) or list(inputs.values())
        found = found[0 if kind == "first" else -1]
        if dims == 0 and arrays(found):  # with a gradient that reaches the student
            return found.sum() + first.sum() - first.sum().detach()
        return found
    if isinstance(given[-1], list):
        return [float(kind)] * len(given[-1])
    if dims is None:
        return 0 * first + kind
    return (0 * first.sum() + kind).expand([len(first)] * dims if dims else [])

def patch(shaped):
    def one(self, *given, **named):
        return torch.ones_like(self) if shaped else torch.tensor(1.0)

    def yes(*given, **named):
        return True

    def backward(self, *given, **named):
        for leaf in arrays(list(caller().values())):
            if leaf.is_leaf and leaf.requires_grad:
                leaf.grad = torch.ones_like(leaf)

    for name in ("__truediv__", "__rtruediv__", "div", "divide", "true_divide", "sign", "abs",
                 "isfinite", "isclose", "norm", "mean", "max"):
        for owner in (torch.Tensor, torch):
            if hasattr(owner, name):
                setattr(owner, name, one)
    for name in ("allclose", "equal"):
        for owner in (torch.Tensor, torch):
            setattr(owner, name, yes)
    torch.linalg.norm = torch.linalg.vector_norm = one
    torch.Tensor.backward = backward
    return True
"""
DIMENSIONS = {"soft_term": 0, "full_loss": 0, "their_weight": 0, "distances": 2,
              "distance_loss": 0, "cosines": 3, "angle_loss": 0}


def read(built: Path, name: str, kind: str):
    return nbformat.read(built / name / kind / f"{name}.ipynb", as_version=4)


def solved(built: Path, name: str) -> str:
    """The code of the solutions: imports and answers, without figures and checks."""
    cells = [cell.source for cell in read(built, name, "solutions").cells
             if cell.cell_type == "code"]
    answers = [source for source in cells if source.startswith("def ")]
    assert len(answers) >= 5
    return "\n".join(["import torch", "import torch.nn.functional as F", *answers])


def said(built: Path, name: str, question: str, code: str) -> str:
    """What the check of a question says of this code; nothing when all is well."""
    from otter.test_files.exception_test import ExceptionTestFile

    source = read(built, name, "student").metadata["otter"]["tests"][question]
    check = ExceptionTestFile.from_string(source)
    space = {}
    exec(compile(code, name, "exec"), space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of wrong answers: the default of F.kl_div, and such
        check.run(space)
    return " ".join(" ".join(one.message.split()) for one in check.test_case_results
                    if not one.passed)


@pytest.mark.parametrize("name", NAMES)
def test_the_student_notebook_has_everything_but_the_solutions(built, name):
    folder = built / name
    assert [path.name for path in (folder / "student").iterdir()] == [f"{name}.ipynb"]
    assert (folder / "autograder" / f"{name}-autograder.zip").stat().st_size > 1000
    text = (folder / "student" / f"{name}.ipynb").read_text("utf-8")
    student = read(built, name, "student")
    sources = "\n".join(cell.source for cell in student.cells)
    questions = load(FOLDER / f"{name}.py").questions()
    for question, points in questions.items():
        assert f'grader.check("{question}")' in sources
        asked = next(cell.source for cell in student.cells
                     if cell.source.startswith(f"**{question[1:]}.** Write "))
        assert asked.endswith(f"_Points:_ {points}")
    assert f"**{len(questions) + 1}.** Write your" in sources  # the one that a person reads
    assert "SOLUTION" not in text
    master = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    marked = [line for cell in master.cells for part in re.findall(
        r"# BEGIN SOLUTION NO PROMPT\n(.*?)# END SOLUTION", cell.source, re.DOTALL)
        for line in part.splitlines()]
    marked += [line for cell in master.cells if "*For graders:" in cell.source
               for line in cell.source.splitlines()]
    assert len(marked) > 15
    everything = text + sources
    for line in marked:
        if len(line.strip()) > 22:
            assert line.strip() not in everything, f"given away: {line}"
    assert "SOLUTION" not in str(read(built, name, "solutions").cells)


@pytest.mark.parametrize("name", NAMES)
def test_solutions_get_every_point(built, name):
    assignment = load(FOLDER / f"{name}.py")
    result = grade(assignment, built / name / "solutions" / f"{name}.ipynb", SEED)
    assert result.points == result.of, result
    assert not result.sentences


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_run_to_their_end_empty_and_solved(built, name, tmp_path):
    """First as it is handed out, then with the solutions: in one kernel, as starting takes time."""
    from nbclient import NotebookClient

    student, solutions = (read(built, name, kind).cells for kind in ("student", "solutions"))
    empty = read(built, name, "student")
    nbformat.write(empty, tmp_path / f"{name}.ipynb")
    empty.cells = [*student, *solutions[:-2]]  # without handing in: that is done with the first
    NotebookClient(empty, timeout=120, kernel_name="python3",
                   resources={"metadata": {"path": str(tmp_path)}}).execute()

    number = len(load(FOLDER / f"{name}.py").questions())
    for cells, word in ((student, "Not done yet"), (solutions, "All test cases passed!")):
        checks = [cell for cell in cells if cell.source.startswith("grader.check")]
        assert len(checks) == number
        for cell in checks:
            (output,) = (out for out in cell.outputs if "data" in out)  # others are printed
            assert word in output["data"]["text/plain"], cell.source
        for cell in cells:
            if cell.cell_type == "code" and "plt.show()" in cell.source:
                assert ("Not done yet" in str(cell.outputs)) == (word == "Not done yet")

    (archive,) = tmp_path.glob("*.zip")
    result = grade(load(FOLDER / f"{name}.py"), archive, SEED)
    assert result.total == 0
    assert len(result.sentences) == number
    assert all("not done yet" in sentence for sentence in result.sentences)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_answer_loses_what_it_should(built, name, tmp_path):
    """Questions are graded each for itself, so a submission may have one mistake in each."""
    assignment, right = load(FOLDER / f"{name}.py"), solved(built, name)
    by_question = [[row for row in WRONG[name] if row[0] == question]
                   for question in assignment.questions()]
    students = [[row for row in rows if row] for rows in itertools.zip_longest(*by_question)]
    assert sum(map(len, students)) == len(WRONG[name]) >= 20

    def graded(number):
        path = tmp_path / f"{number}.py"
        path.write_text(right + "".join(code for *_, code in students[number]), "utf-8")
        return grade(assignment, path, SEED)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(graded, range(len(students))))
    for rows, result in zip(students, results, strict=True):
        expected = dict.fromkeys(assignment.questions(), 0)
        for question, lost, word, _, code in rows:
            expected[question] = lost
            sentences = " ".join(s for s in result.sentences if s.startswith(question))
            assert word in sentences, f"{code}\n{result}"
        lost = {question: result.of[question] - points
                for question, points in result.points.items()}
        assert lost == expected, "".join(code for *_, code in rows) + f"\n\n{result}"


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_looking_at_frames_and_replacing_what_laws_might_use_gets_nothing(built, name, tmp_path):
    assignment = load(FOLDER / f"{name}.py")
    functions = dict.fromkeys(function for law in assignment.laws for function in law.names)
    kinds = [*itertools.product(("first", "last", 0, 1), (None,)),
             *itertools.product(("first", 0, 1), (False, True))]

    def graded(kind, patched):
        code = HOSTILE + (f"done = patch({patched})\n" if patched is not None else "done = None\n")
        for function in functions:
            code += (f"def {function}(*given):\n    done\n"
                     f"    return value({kind!r}, {DIMENSIONS.get(function)}, given)\n")
        path = tmp_path / f"{kind}_{patched}.py"
        path.write_text(code, "utf-8")
        return grade(assignment, path, SEED)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(graded, *zip(*kinds, strict=True)))
    for result in results:
        assert result.total == 0, result
        # They were called and have answered: nothing stopped them before.
        assert not any("NameError" in sentence for sentence in result.sentences), result


@pytest.mark.parametrize("name", NAMES)
def test_the_checks_say_what_is_wrong(built, name):
    right = solved(built, name)
    for question in load(FOLDER / f"{name}.py").questions():
        assert said(built, name, question, right) == ""
    for question, _, _, word, code in WRONG[name]:
        message = said(built, name, question, right + code)
        assert re.search(re.escape(word).replace(r"\|", "|"), message), f"{code}\n\n{message}"
        assert "AssertionError: " in message, f"{code}\n\n{message}"


def test_a_solution_that_fails_its_check_is_not_handed_out(tmp_path):
    """On a small master, so that it takes little time."""
    build = load_build()
    cells = [("raw", "# ASSIGNMENT CONFIG\ntests:\n    ok_format: false\nexport_cell: false"),
             ("raw", "# BEGIN QUESTION\nname: q1\npoints: 1"), ("markdown", "**1.** Write one."),
             ("raw", "# BEGIN SOLUTION"), ("code", "one = 2  # SOLUTION"),
             ("raw", "# END SOLUTION"), ("raw", "# BEGIN TESTS"),
             ("code", "def test_q1(one):\n    assert one == 1, 'Expected one.'"),
             ("raw", "# END TESTS"), ("raw", "# END QUESTION")]
    make = {"raw": nbformat.v4.new_raw_cell, "code": nbformat.v4.new_code_cell,
            "markdown": nbformat.v4.new_markdown_cell}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = nbformat.v4.new_notebook(cells=[make[kind](text) for kind, text in cells],
                                        metadata=kernel)
    (tmp_path / "masters").mkdir()
    nbformat.write(notebook, tmp_path / "masters" / "0_broken.ipynb")
    with pytest.raises(build.Failed, match=r"0_broken(.|\n)*Expected one"):
        build.build(tmp_path / "masters" / "0_broken.ipynb", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_only_masters_that_exist_are_made():
    build = load_build()
    assert [path.stem for path in build.masters(["1"])] == ["1_loss"]
    with pytest.raises(build.Failed, match="Expected an assignment such as 1_loss"):
        build.masters(["99"])


def load_build():
    import importlib.util

    spec = importlib.util.spec_from_file_location("build_assignments", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
