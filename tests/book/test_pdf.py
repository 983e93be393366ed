"""One page of the whole book: what `nox -s pdf` makes of what Sphinx has built."""

import shutil
from pathlib import Path

import pytest

import pdf


@pytest.fixture
def script(monkeypatch):
    def build(command, check):
        """As Sphinx's singlehtml does: the page in a folder, with addresses as if it were not."""
        built = Path(command[command.index("--path-output") + 1]) / "_build" / "singlehtml"
        (built / "book").mkdir(parents=True)
        (built / "_static").mkdir()
        (built / "_static" / "a.css").write_text("p { color: #111 }")
        (built / "index.html").write_text("redirects")
        (built / "book" / "intro.html").write_text(
            '<link rel="stylesheet" href="_static/a.css"><h1>Book</h1><p id="x">Text</p>'
            '<a href="book/intro.html#x">a</a><a href="../notebooks/01_hinton.html#y">b</a>'
            '<a href="#z">c</a><a href="https://example.org/book/intro.html#x">d</a>')

    monkeypatch.setattr(pdf.subprocess, "run", build)
    return pdf


def test_all_links_stay_on_the_page_and_all_it_needs_lies_beside_it(script, tmp_path):
    page = script.whole(tmp_path / "out")
    text = page.read_text("utf-8")
    assert 'href="#x"' in text and 'href="#y"' in text and 'href="#z"' in text
    assert 'href="https://example.org/book/intro.html#x"' in text
    assert (page.parent / "_static" / "a.css").is_file()
    assert not (page.parent / "book").exists() and not (page.parent / "index.html").exists()


def test_no_pdf_without_a_browser(script, tmp_path, monkeypatch):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert script.pdf(tmp_path / "whole.html") is None


def test_a_browser_prints_it(script, tmp_path, monkeypatch):
    program = next(filter(None, map(shutil.which, script.NAMES)), None)
    if program is None:
        pytest.skip("No Chromium found.")
    page = script.whole(tmp_path / "out")
    monkeypatch.undo()  # the real program from here on
    assert script.pdf(page, seconds=1).read_bytes().startswith(b"%PDF")
