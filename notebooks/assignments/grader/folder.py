"""Grade a folder of submissions: resumable, with a table that is always whole."""

import concurrent.futures
import csv
import datetime
import hashlib
import io
import json
import os
import platform
import re
import secrets
from pathlib import Path

import torch
from tqdm import tqdm

from grader.assignment import Assignment
from grader.submission import Grade, fingerprint, grade, printable

KINDS = (".ipynb", ".py", ".zip")


def submissions(folder) -> list[Path]:
    """The notebooks, scripts and zip files in a folder and its folders."""
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"Expected a folder with submissions, got {folder}.")
    # What is no folder gets a row and a sentence, also where it cannot be opened.
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in KINDS
                   and not os.path.isdir(path)
                   and not any(part.startswith(".") for part in path.relative_to(folder).parts))
    if not found:
        raise FileNotFoundError(f"Expected notebooks (.ipynb), scripts (.py) or zip files in "
                                f"{folder}, found none.")
    return found


def grade_folder(assignment: Assignment, folder, out, jobs: int = 2, seed: int | None = None,
                 ) -> list[Grade]:
    """Grade every submission in `folder` and write `out`, a CSV file, anew after each one.

    Beside it, a folder of the same name gets a text for each submission, to hand back. What `out`
    has already is not graded again, unless the submission has changed: kill it and start it again.

    jobs: processes at a time.
    seed: of the random inputs; by default a fresh one, which the table records.
    """
    paths, out = submissions(folder), Path(out)
    done = read(out, assignment)
    if assignment.measure:
        jobs, seeds = 1, {one.seed for one in done.values()}
        seed = next(iter(seeds), secrets.randbelow(2**31)) if seed is None else seed
    grades: dict[str, Grade] = {}
    waiting = []
    for path in paths:
        name = printable(path.relative_to(folder).as_posix(), most=10_000)
        kept = done.get(name)
        if kept and kept.sha256 == fingerprint(path) and seed in (None, kept.seed):
            grades[name] = kept
        else:
            waiting.append((name, path))

    def one(name, path):
        result = grade(assignment, path, secrets.randbelow(2**31) if seed is None else seed)
        result.submission = name
        return result

    bar = tqdm(total=len(paths), initial=len(grades), desc=assignment.name, unit="submission",
               disable=None)
    with bar, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(one, *pair) for pair in waiting]
        try:
            for future in concurrent.futures.as_completed(running):
                result = future.result()
                grades[result.submission] = result
                note(out, result)
                write(out, assignment, grades)
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    write(out, assignment, grades)
    if assignment.measure:
        leaderboard(out, list(grades.values()))
    return [grades[name] for name in sorted(grades)]


def columns(assignment: Assignment) -> list[str]:
    return ["submission", "total", "of", *assignment.questions(), "sentences", "details", "seed",
            "seconds", "sha256"]


def write(out: Path, assignment: Assignment, grades: dict[str, Grade]) -> None:
    """The table, whole or not at all."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns(assignment))
    for name in sorted(grades):
        one = grades[name]
        cells = [name, one.total, sum(one.of.values()), *one.points.values(),
                 " | ".join(one.sentences), json.dumps(one.details), one.seed,
                 round(one.seconds, 2), one.sha256]
        # A spreadsheet would run a text that begins like a formula.
        table.writerow(["'" + cell if isinstance(cell, str) and cell[:1] in "=+-@\t" and cell
                        else cell for cell in cells])
    replace(out, text.getvalue())


def leaderboard(out: Path, grades: list[Grade]) -> Path:
    """Beside the table: who has which place, by the `score` in the details. Markdown."""
    ranked = sorted((one for one in grades if "score" in one.details),
                    key=lambda one: -one.details["score"])
    names = list(dict.fromkeys(name for one in ranked for name in one.details))
    lines = ["| place | submission | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for place, one in enumerate(ranked, 1):
        cells = (str(one.details.get(name, "")) for name in names)
        lines.append(f"| {place} | {one.submission} | " + " | ".join(cells) + " |")
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    lines += ["", f"Measured on {torch.get_num_threads()} CPU threads ({machine}, "
              f"{platform.system()}), torch {torch.__version__}, {datetime.date.today()}."]
    path = out.with_name(f"{out.stem}_leaderboard.md")
    replace(path, "\n".join(lines) + "\n")
    return path


def read(out: Path, assignment: Assignment) -> dict[str, Grade]:
    """What an earlier run has graded. Raises `ValueError` for a table of something else."""
    if not out.exists():
        return {}
    with out.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        if table.fieldnames != columns(assignment):
            raise ValueError(f"Expected {out} to be a table of {assignment.name}, got other "
                             "columns. Name another file, or move this one away.")
        return {name: Grade(
            name, int(row["seed"]), {q: float(row[q]) for q in assignment.questions()},
            assignment.questions(), row["sentences"].split(" | ") if row["sentences"] else [],
            json.loads(row["details"]), float(row["seconds"]), row["sha256"])
            for row in table if (name := row["submission"].removeprefix("'"))}


def note(out: Path, result: Grade) -> None:
    """A text to hand back, of the submission's name. Folders in it and what is too long for a file
    system are replaced by a number that no other name has.
    """
    name = result.submission
    short = re.sub(r"[/\\]", "__", name).encode()[:150].decode(errors="ignore")
    if short != name:
        short += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    replace(out.with_suffix("") / f"{short}.txt", f"{result}\n")


def replace(path: Path, text: str) -> None:
    """Write `text` to `path`: whoever reads it finds the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # else a power cut can leave an empty file under the new name
    os.replace(partial, path)
