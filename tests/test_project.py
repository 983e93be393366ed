"""The project's own promises: one address, sound versions, imports that point one way."""

import ast
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

# An import points only towards the front of this list.
ORDER = ["data", "views", "streams", "models", "losses", "teachers", "schemes", "training",
         "measure", "experiment", "zoo", "plot", "explore", "checks", "doctor"]
PRIVATE = ["_files", "_checkpoint", "_team"]  # of use to all of them


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


def imports(tree: ast.AST) -> set[str]:
    """The kdcourse modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names
                      if alias.name.startswith("kdcourse.")}
        if isinstance(node, ast.ImportFrom) and node.module == "kdcourse":
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdcourse."):
            found.add(node.module.split(".")[1])
    return found & {*ORDER, *PRIVATE}


def test_imports_point_one_way():
    paths = [path for path in ROOT.glob("kdcourse/**/*.py")
             if path.relative_to(ROOT / "kdcourse").parts[0] not in ("__init__.py", "__main__.py")]
    known = {*ORDER, *PRIVATE}
    for path in paths:
        module = path.relative_to(ROOT / "kdcourse").with_suffix("").parts[0]
        assert module in known, f"{path}: give {module} its place in ORDER"
        before = {*PRIVATE, *(ORDER[: ORDER.index(module) + 1] if module in ORDER else [])}
        wrong = imports(ast.parse(path.read_text("utf-8"))) - before
        assert not wrong, f"kdcourse/{path.name} imports {sorted(wrong)}, which come after it"


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
    other = {"notebooks/speed", "notebooks/photographs"}  # pages that are no chapters
    assert chapters | other == {name for name in listed if name.startswith("notebooks/")}
