"""The length and the form of a chapter's second edition: one question, read in one sitting."""

import ast
import re
import statistics
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
FOLDER = Path(__file__).parents[2] / "notebooks"
FIRST_EDITION = ("06",)  # still to be rewritten
PATHS = [path for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
         if path.name[:2] not in FIRST_EDITION]
pytestmark = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
HIDDEN = {"hide-input", "remove-input", "remove-cell", "hide-cell"}


def notebook(path: Path) -> list:
    return nbformat.read(path, as_version=4).cells


def visible(path: Path) -> list[list[str]]:
    """The lines of each code cell that a reader of the page sees without a click."""
    return [cell.source.splitlines() for cell in notebook(path)
            if cell.cell_type == "code" and not HIDDEN & set(cell.metadata.get("tags", []))]


def hidden(path: Path) -> list[str]:
    return [cell.source for cell in notebook(path)
            if cell.cell_type == "code" and HIDDEN & set(cell.metadata.get("tags", []))]


def words(path: Path) -> int:
    """Of the text and of the sentences that cells print; folds and code are not counted."""
    count = 0
    for cell in notebook(path):
        texts = [cell.source] if cell.cell_type == "markdown" else [
            "".join(output.data["text/markdown"]) for output in cell.get("outputs", [])
            if "text/markdown" in output.get("data", {})]
        for text in texts:
            text = re.sub(r"```python.*?```|<details>.*?</details>|\$\$.*?\$\$", "", text,
                          flags=re.DOTALL)
            count += len(re.findall(r"[\w’'-]*[A-Za-z]{2,}[\w’'-]*", text))
    return count


def test_is_at_most_2500_words_and_220_lines_of_code(path):
    assert words(path) <= 2500
    assert sum(map(len, visible(path))) <= 220


def test_the_reading_time_is_computed(path):
    """220 words and 15 lines of code a minute."""
    stated = re.search(r"\*\*Reading time\*\* about (\d+) minutes", notebook(path)[0].source)
    needed = words(path) / 220 + sum(map(len, visible(path))) / 15
    assert abs(int(stated[1]) - needed) <= 1, f"about {needed:.0f} minutes"


def test_cells_are_short_and_narrow(path):
    lengths = [len(lines) for lines in visible(path)]
    assert statistics.median(lengths) <= 8 and max(lengths) <= 26
    wide = [line for lines in visible(path) for line in lines if len(line) > 77]
    assert not wide, "\n".join(wide)
    assert not [line for source in hidden(path) for line in source.splitlines() if len(line) > 100]


def test_has_a_drawing_of_the_idea(path):
    sources = [cell.source for cell in notebook(path) if cell.cell_type == "code"]
    assert any("kd.plot.diagram(" in source for source in sources)


def test_markers_of_tests_and_metaphors_are_not_shown(path):
    for cell in notebook(path):
        assert "NBVAL" not in cell.source
        if cell.cell_type == "markdown":
            odd = re.search(r"\b(awake|asleep|museum|exhibit|by heart|dark knowledge of nothing|"
                            r"first draft|merciful)\b", cell.source, flags=re.IGNORECASE)
            assert odd is None, odd


def test_no_note_to_its_author_is_left(path):
    """READ marks what is to be said when rows exist: in texts, code, outputs and figures' texts."""
    for cell in notebook(path):
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        said = [cell.source, alt, *("".join(output.get("data", {}).get("text/markdown", ""))
                                    for output in cell.get("outputs", []))]
        found = re.search(r"\bREAD\b.{,60}", "\n".join(said))
        assert found is None, found[0]


def compares(source: str, answer: ast.expr) -> bool:
    """Whether the answers that hold are a list made by comparing the ends of intervals."""
    made = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == ast.unparse(answer)]
    ends = [part.left for value in made for part in ast.walk(value)
            if isinstance(part, ast.Compare)]
    return len(ends) >= 2 and all(re.search("low|lo$|high|hi$", ast.unparse(end)) for end in ends)


def test_a_bet_on_a_number_is_scored_by_its_interval(path):
    """`explore.score` gets `interval=`, or for a choice every answer that the interval holds."""
    for source in hidden(path) + ["\n".join(lines) for lines in visible(path)]:
        for node in ast.walk(ast.parse(source)) if "explore.score(" in source else ():
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "score":
                named = {keyword.arg for keyword in node.keywords}
                assert "interval" in named or compares(source, node.args[1]), source


def test_every_comparison_that_is_tested_prints_paired_differences(path):
    code = "\n".join(hidden(path) + ["\n".join(lines) for lines in visible(path)])
    assert 'split="test"' in code and ".difference(" in code


def test_results_are_explained_where_they_are_first_used(path):
    """A reader must not believe that hundreds of trainings took a blink."""
    cells = notebook(path)
    first = next(i for i, cell in enumerate(cells)
                 if cell.cell_type == "code" and "results=" in cell.source)
    before = " ".join(cell.source for cell in cells[:first + 2] if cell.cell_type == "markdown")
    assert re.search(r"recorded", before)
