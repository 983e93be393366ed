"""Was every recorded row found? `nox -s test` asks this after it has run the chapters.

    python book/tools/rows.py FOLDER

FOLDER is the KDCOURSE_HOME of a run with KDCOURSE_RECORD=check, which notes the rows it found.
"""

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "kdcourse" / "results"


def lost(folder: Path, results: Path = RESULTS) -> list[str]:
    """A line for each recorded row that no chapter asked for."""
    lines = []
    for path in sorted(results.glob("[0-9][0-9].json")):
        notes = folder / f"found-{path.stem}.txt"
        found = set(notes.read_text("utf-8").splitlines()) if notes.exists() else set()
        for row in json.loads(path.read_text("utf-8"))["rows"]:
            if f"{row['key']} {row['bits']}" not in found:
                lines.append(f"{path.stem}: {row['scheme']}, seed {row['seed']}, {row['split']}")
    return lines


if __name__ == "__main__":
    count = sum(len(json.loads(path.read_text("utf-8"))["rows"])
                for path in RESULTS.glob("[0-9][0-9].json"))
    missing = lost(Path(sys.argv[1]))
    print(f"{count - len(missing)} of {count} recorded rows were found by their keys.")
    if missing:
        sys.exit("\n".join(["Not found:", *missing[:20]]))
