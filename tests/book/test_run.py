"""What `nox -s run` writes besides outputs: the cost of a chapter, from its recorded results."""

import json

import nbformat
import pytest

import run

ROW = {"seconds": 90.0, "hardware": "an abacus", "torch": "2.6.0", "python": "3.11",
       "date": "2026-01-01"}
FOUND = {"rows": [ROW | {"seed": 0}, ROW | {"seed": 1}, ROW | {"seed": 1, "hardware": "a brain"}],
         "opened": {"seconds": 30.2}}


def test_what_a_reader_waits():
    assert run.opening_time(FOUND) == (
        "Opening it with the recorded results: **30 s**. "
        "Computing all 3 runs anew: **4 minutes** on a brain and an abacus.")
    assert "**not measured yet**" in run.opening_time({"rows": FOUND["rows"]})


def test_the_table_has_a_row_for_each_place_and_day():
    assert run.cost_table(FOUND).splitlines()[2:] == [
        "| 1 | 1 | 90 s | a brain | 2.6.0 | 3.11 | 2026-01-01 |",
        "| 2 | 2 | 3 minutes | an abacus | 2.6.0 | 3.11 | 2026-01-01 |"]


def test_only_the_marked_cells_are_filled():
    make = nbformat.v4.new_markdown_cell
    cells = [make("Text"), make("old", metadata={"tags": ["opening-time"]}),
             make("other", metadata={"tags": ["other"]}),
             make("", metadata={"tags": ["cost-table"]})]
    run.write_costs(nbformat.v4.new_notebook(cells=cells), FOUND)
    assert [cell.source for cell in cells] == [
        "Text", run.opening_time(FOUND), "other", run.cost_table(FOUND)]


@pytest.mark.parametrize("path", sorted(run.RESULTS.glob("[0-9]*.json")),
                         ids=lambda path: path.stem)
def test_noting_how_long_a_chapter_opens_touches_no_row(path, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    copy, old = tmp_path / path.name, path.read_bytes()
    copy.write_bytes(old)
    run.record_opening(copy, 12.5)
    assert json.loads(copy.read_text("utf-8"))["opened"]["seconds"] == 12.5
    assert copy.read_bytes().partition(b"\n]")[0] == old.partition(b"\n]")[0]
    assert list(tmp_path.iterdir()) == [copy]


def test_a_chapter_is_executed_and_its_cost_written(tmp_path, monkeypatch):
    """Only where nothing was computed is the time what a reader waits."""
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["run.py", str(tmp_path / "09_demo.ipynb")])
    (tmp_path / "09.json").write_text(json.dumps(FOUND))
    tagged = {"tags": ["opening-time"]}
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("", metadata=tagged),
                                           nbformat.v4.new_code_cell("6 * 7")])
    nbformat.write(made, tmp_path / "09_demo.ipynb")
    monkeypatch.setattr("os.environ", dict(run.os.environ))
    run.main()
    text, code = nbformat.read(tmp_path / "09_demo.ipynb", as_version=4).cells
    opened = json.loads((tmp_path / "09.json").read_text())["opened"]
    assert opened["hardware"] and f"**{opened['seconds']:.0f} s**" in text.source
    assert code.outputs[0]["data"]["text/plain"] == "42"
