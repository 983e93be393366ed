"""The project's own promises: one address, sound versions, imports that point one way."""

import ast
import graphlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
ADDRESS = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]["url"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

# The rooms of the package: its folders and single files. An import points towards the front.
ORDER = ["_files", "_tensors", "_trees", "_key", "_random", "_feed", "_machine", "_store",
         "_modules", "_labels", "tasks", "data", "layouts", "outputs", "taps", "models", "losses",
         "teachers", "schemes", "training", "measure", "experiment", "zoo", "league", "distil",
         "plot", "explore", "checks", "doctor"]


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def sessions() -> set[str]:
    """The names of the nox sessions, read without running the file."""
    functions = [node for node in ast.parse(read("noxfile.py")).body
                 if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions
            if any("nox.session" in ast.unparse(mark) for mark in node.decorator_list)}


def called_sessions(text: str) -> set[str]:
    return set(re.findall(r"nox (?:-\w+ )*-s (\w+)", text))


@pytest.mark.parametrize("name", [
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "environment.yml",
    "constraints.txt", "noxfile.py", "_config.yml", "_toc.yml", ".ci/run"])
def test_file_is_there(name):
    assert read(name).strip()


def test_licence_covers_code_and_text():
    text = read("LICENSE")
    assert "Apache License" in text
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in text


def test_the_repository_has_one_address():
    owner, name = ADDRESS.removeprefix("https://github.com/").split("/")
    known = rf"github\.com/{owner}/{name}\b|github/{owner}/{name}\b|{owner}\.github\.io/{name}\b"
    wherever = r"(?:github\.com/|colab\.research\.google\.com/github/|\.github\.io/)\S*"
    for path in [*ROOT.glob("*.md"), ROOT / "CITATION.cff", ROOT / "pyproject.toml",
                 *ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb")]:
        for found in re.findall(rf"[\w.:/-]*{wherever}", path.read_text("utf-8")):
            if "kdcourse" in found:
                assert re.search(known, found), f"{path.name} has {found}, not {ADDRESS}"
    assert PROJECT["urls"]["Repository"] == ADDRESS
    assert f'repository-code: "{ADDRESS}"' in read("CITATION.cff")
    assert f"git clone {ADDRESS}\n" in read("README.md")
    assert f"git clone {ADDRESS}\n" in read("book/run.md")


def test_every_notebook_installs_from_that_address():
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        first = "".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"])
        assert ADDRESS in first, path.name


def test_versions_agree():
    assert f"version: {PROJECT['version']}\n" in read("CITATION.cff")
    assert f'__version__ = "{PROJECT["version"]}"' in read("kdcourse/__init__.py")


def test_the_package_has_lower_bounds_only():
    """An upper bound or a pin would replace what Colab brings, torch first of all."""
    for line in PROJECT["dependencies"]:
        bounds = [clause.operator for clause in Requirement(line).specifier]
        assert bounds == [">="], line


def test_the_package_asks_for_nothing_that_colab_pins():
    """`google-colab` pins these; another version of them stops its runtime."""
    wanted = {Requirement(line).name.lower() for line in PROJECT["dependencies"]}
    assert not wanted & {"ipython", "ipykernel", "ipywidgets"}


def test_the_package_works_without_ipython():
    code = ("import sys; sys.modules['IPython'] = None\n"  # an import of it raises ImportError
            "import kdcourse, kdcourse.explore, kdcourse.plot\n"
            "print(kdcourse.explore.divergence()._repr_mimebundle_()['text/html'])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          encoding="utf-8", cwd=ROOT)
    assert done.stdout.startswith("<div"), done.stderr


def test_constraints_are_pins_without_addresses():
    pinned = set()
    for line in read("constraints.txt").splitlines():
        if line and not line.lstrip().startswith("#"):
            pin = Requirement(line)  # raises where the line is not well formed
            assert [clause.operator for clause in pin.specifier] == ["=="], line
            assert not pin.url, line
            assert not pin.extras, line
            pinned.add(pin.name.lower().replace("_", "-"))
    extras = {name: lines for name, lines in PROJECT["optional-dependencies"].items()
              if name != "parity"}  # installed apart, with whatever is newest
    lists = [PROJECT["dependencies"], *extras.values()]
    wanted = {Requirement(line).name.lower() for lines in lists for line in lines} - {"kdcourse"}
    assert wanted <= pinned, "run `nox -s pin`"


def test_conda_takes_the_same_versions():
    environment = yaml.safe_load(read("environment.yml"))
    assert environment["dependencies"][-1]["pip"] == ["-c constraints.txt", "-e .[dev]"]
    assert "python=3.11" in environment["dependencies"]


MODULES = {  # by dotted name; a folder is its __init__.py
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "kdcourse").glob("**/*.py"))}
INSIDE = sorted(MODULES.keys() - {"kdcourse", "kdcourse.__main__"})  # these two import all rooms


def imports(name: str, text: str) -> list[tuple[str, str, str]]:
    """What a module imports from the package, anywhere in it: (module, name in it or "", its name
    here)."""
    found, folder = [], name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "", alias.asname or alias.name) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), folder)
            for alias in node.names:
                is_module = f"{source}.{alias.name}" in MODULES
                found.append((f"{source}.{alias.name}" if is_module else source,
                              "" if is_module else alias.name, alias.asname or alias.name))
    return [one for one in found if one[0].split(".")[0] == "kdcourse"]


def room(name: str) -> str:
    return name.split(".")[1]


def backwards(name: str, text: str) -> list[str]:
    """The modules that a module imports although their room comes after its own."""
    assert room(name) in ORDER, f"give kdcourse.{room(name)} its place in ORDER"
    allowed = ORDER[: ORDER.index(room(name)) + 1]
    return [source for source, *_ in imports(name, text)
            if source == "kdcourse" or room(source) not in allowed]


def private(name: str, text: str) -> list[str]:
    """The private names of other modules that a module uses.

    Names that start with "_" belong to their module. A file that starts with "_" is no such name:
    kdcourse/_files.py is a room that all others may use, kdcourse/explore/_page.py a file for its
    own room.
    """
    found, modules = [], {}
    for source, attribute, here in imports(name, text):
        if not attribute:
            modules[here] = source
            if "._" in source.removeprefix("kdcourse._") and room(source) != room(name):
                found.append(source)
        elif attribute.startswith("_") and source != name:
            found.append(f"{source}.{attribute}")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr):
            source = modules.get(ast.unparse(node.value), name)
            if source != name and f"{source}.{node.attr}" not in MODULES:
                found.append(f"{source}.{node.attr}")
    return found


@pytest.mark.parametrize("name", INSIDE)
def test_imports_point_one_way(name):
    wrong = backwards(name, MODULES[name].read_text("utf-8"))
    assert not wrong, f"{name} imports {wrong}, which come after it"


def test_imports_have_no_circles():
    graph = {name: {source for source, *_ in imports(name, MODULES[name].read_text("utf-8"))}
             for name in INSIDE}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_private_name_crosses_a_module(name):
    wrong = private(name, MODULES[name].read_text("utf-8"))
    assert not wrong, f"{name} uses {wrong}: make them public where they are, or do without"


@pytest.mark.parametrize(("name", "text", "wrong"), [
    ("kdcourse.taps", "from kdcourse.losses import base", ["kdcourse.losses.base"]),
    ("kdcourse.losses.base", "def f():\n    from kdcourse import RESULTS", ["kdcourse"]),
    ("kdcourse.schemes.online", "import kdcourse.doctor.step", ["kdcourse.doctor.step"]),
    ("kdcourse.schemes.online", "from .base import Edge\nfrom kdcourse import taps, _files", []),
])
def test_an_import_that_points_back_is_found(name, text, wrong):
    assert backwards(name, text) == wrong


@pytest.mark.parametrize(("text", "wrong"), [
    ("from kdcourse.taps import _hook", ["kdcourse.taps._hook"]),
    ("from kdcourse import taps as t\nt._hook()", ["kdcourse.taps._hook"]),
    ("from .base import _check", ["kdcourse.schemes.base._check"]),
    ("from kdcourse.explore import _page", ["kdcourse.explore._page"]),
    ("from kdcourse import _files, schemes\n_files.home(), schemes.__name__, x._y", []),
])
def test_a_private_name_is_found(text, wrong):
    assert private("kdcourse.schemes.online", text) == wrong


def test_the_order_of_imports_is_that_of_the_guide():
    (sentence,) = re.findall(r"Imports point one way: ([^.]*)\.", read("CONTRIBUTING.md"))
    assert sentence.replace("\n", " ").split(", ") == ORDER


def test_the_commands_that_are_promised_exist():
    for name in ("README.md", "CONTRIBUTING.md", "book/run.md", ".ci/run", "book/tools/run.py"):
        assert called_sessions(read(name)) <= sessions(), name


def test_ci_runs_the_readme_command():
    command = 'pip install "nox[uv]" && nox -s test'
    assert command in read("README.md")
    assert command in read(".ci/run")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow(path):
    workflow = yaml.safe_load(path.read_text("utf-8"))
    assert workflow["permissions"] == {}  # each job asks for what it needs
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        matrix = job.get("strategy", {}).get("matrix", {})
        named = set(matrix.get("session", [])) | {
            row["session"] for row in matrix.get("include", [])}
        for step in job["steps"]:
            named |= called_sessions(step.get("run", ""))
        assert named <= sessions(), path.name


def test_every_chapter_is_in_the_book():
    contents = yaml.safe_load(read("_toc.yml"))
    listed = {page["file"] for part in contents["parts"] for chapter in part["chapters"]
              for page in (chapter, *chapter.get("sections", []))}
    chapters = {f"notebooks/{path.stem}" for path in ROOT.glob("notebooks/[0-9][0-9]_*.ipynb")}
    other = {"notebooks/speed"}  # a page that is no chapter
    assert chapters | other == {name for name in listed if name.startswith("notebooks/")}
