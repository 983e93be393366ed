"""Grade a folder: `python notebooks/assignments/grader LAWS FOLDER --out grades.csv`."""

import argparse
import sys
from pathlib import Path

if not __package__:  # started by its path: what is found first is this folder, not the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from grader import grade, grade_folder, load


def main(arguments=None) -> int:
    """Grade one submission or a folder of them."""
    parser = argparse.ArgumentParser(prog="grader", description=main.__doc__)
    parser.add_argument("laws", help="the assignment, such as notebooks/assignments/1_loss.py")
    parser.add_argument("submissions", help="a folder, or one notebook")
    parser.add_argument("--out", help="the table (default: NAME.csv of the assignment)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument("--seed", type=int, help="of the random inputs (default: a fresh one)")
    asked = parser.parse_args(arguments)
    try:
        assignment = load(asked.laws)
        if Path(asked.submissions).is_file():
            print(grade(assignment, asked.submissions, asked.seed or 0))
            return 0
        out = Path(asked.out or f"{assignment.name}.csv")
        grades = grade_folder(assignment, asked.submissions, out, asked.jobs, asked.seed)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. What is graded is in the table; the same command goes on.",
              file=sys.stderr)
        return 130
    most = sum(assignment.questions().values())
    mean = sum(one.total for one in grades) / len(grades)
    print(f"{len(grades)} submissions, {mean:.1f} of {most:g} points on average: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
