"""The whole book as one page, and as a PDF where there is a Chromium: `nox -s pdf`."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def whole(out: Path) -> Path:
    """Build the book into one page, `out`/whole.html, with all that it needs beside it."""
    with tempfile.TemporaryDirectory() as folder:
        build = "from jupyter_book.cli.main import main; main()"
        subprocess.run([sys.executable, "-c", build, "build", str(ROOT), "--builder", "singlehtml",
                        "--path-output", folder, "-n", "--keep-going"], check=True)
        built = Path(folder) / "_build" / "singlehtml"
        page = (built / "book" / "intro.html").read_text("utf-8")
        shutil.rmtree(built / "book")
        shutil.copytree(built, out, dirs_exist_ok=True)
    # Everything is on this page now, so a link to another page is a link to a place on it.
    page = re.sub(r'href="(?:\.\./)?(?:book|notebooks)/\w+\.html#', 'href="#', page)
    page = re.sub(r'href="[\w-]+\.html#', 'href="#', page)
    (out / "whole.html").write_text(page, "utf-8")
    (out / "index.html").unlink(missing_ok=True)  # it redirects to a page that is not there
    return out / "whole.html"


def pdf(page: Path, seconds: int = 120) -> Path | None:
    """Print `page` to a PDF beside it. None where there is no Chromium; CHROMIUM may name one."""
    program = next(filter(None, [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES)]), None)
    if program is None:
        return None
    file = page.with_suffix(".pdf")
    subprocess.run(
        [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
         f"--virtual-time-budget={1000 * seconds}",  # formulas and sliders are drawn first
         f"--print-to-pdf={file}", page.as_uri()],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return file


if __name__ == "__main__":
    made = whole(ROOT / "_build" / "whole")
    print(f"\nOne page:\n  {made}")
    printed = pdf(made)
    print(f"To print:\n  {printed}" if printed else "No Chromium was found: open the page in your "
          "browser and print it from there.")
