"""python -m kdcourse.league FOLDER: add rows to the league. `--help` lists the options."""

import argparse
import itertools
import sys

from kdcourse.experiment import Comparison
from kdcourse.league.methods import METHODS, PAIRS
from kdcourse.league.runs import CIFAR100, League, images


def main(arguments=None) -> None:
    """Compute the rows that are missing, or list them."""
    options = _options(arguments)
    data = images(options.data)
    if data.params["sha256"] != CIFAR100:
        print(f"These are not the images of CIFAR-100 but {data!r}: a league of its own.")
    league = League(data)
    runs = league.runs(options.pair, options.methods, range(options.seeds), options.epochs)
    missing = league.missing(runs)
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them with a row.")
    if options.list:
        _list(league, missing)
        return
    diverged = []
    for number, run in enumerate(missing, 1):
        try:
            row = league.compute(run, f"{number}/{len(missing)} {run}")
            said = (f"{row['accuracy']:.2%} in {row['seconds'] / 60:.1f} minutes" if row else
                    "another process is at it")
        except FloatingPointError as error:  # the other runs are not concerned
            diverged.append(run)
            said = f"diverged. {error}"
        print(f"{run}: {said}", flush=True)
    for pair in options.pair:
        _show(pair, {run: row for run, row in league.rows(runs).items() if run.pair == pair})
    if diverged:
        raise ValueError("Without a row, as the training diverged: "
                         + "; ".join(map(str, diverged)))


def _options(arguments):
    parser = argparse.ArgumentParser("python -m kdcourse.league", description=main.__doc__)
    parser.add_argument("data", help="a folder with train/CLASS/*.png and test/CLASS/*.png, or "
                        "with torchvision's files of CIFAR-100 (downloaded where missing)")
    parser.add_argument("--pair", default="all", help=f"of {', '.join(PAIRS)}; or all")
    parser.add_argument("--methods", default="all", help=f"of {', '.join(METHODS)}; or all")
    parser.add_argument("--seeds", type=int, default=5, help="how many (5)")
    parser.add_argument("--epochs", type=int, default=240, help="of a student (240)")
    parser.add_argument("--short", action="store_const", const=60, dest="epochs",
                        help="60 epochs, with everything in proportion")
    parser.add_argument("--list", action="store_true", help="print what is missing, and the time")
    options = parser.parse_args(arguments)
    for name, known in (("pair", PAIRS), ("methods", METHODS)):
        text = getattr(options, name)
        setattr(options, name, list(known) if text == "all" else _names(text, known))
    for name in ("seeds", "epochs"):
        if getattr(options, name) < 1:
            parser.error(f"Expected --{name} of at least 1, got {getattr(options, name)}.")
    return options


def _names(text: str, known) -> list[str]:
    """Split "labels, weight decay 1e-3,KD": names may have commas, too."""
    names, rest = [], text.strip()
    while rest:
        fitting = [name for name in known if rest == name or rest.startswith(f"{name},")]
        name = max(fitting, key=len, default=rest.partition(",")[0])
        names.append(name)
        rest = rest[len(name) + 1:].strip()
    return list(dict.fromkeys(names))


def _list(league: League, missing: list) -> None:
    total = 0.0
    for (pair, method), group in itertools.groupby(
            sorted(missing, key=lambda run: (list(PAIRS).index(run.pair),
                                             list(METHODS).index(run.method))),
            lambda run: (run.pair, run.method)):
        group = list(group)
        seconds = sum(map(league.seconds, group))
        total += seconds
        seeds = ", ".join(str(run.seed) for run in group)
        print(f"{pair:28} {method:28} seeds {seeds:16} about {seconds / 3600:.1f} hours")
    print(f"{len(missing)} runs are missing: about {total / 3600:.1f} hours here, in one process, "
          "without teachers.")


def _show(pair: str, rows: dict) -> None:
    """Print the comparison of all methods on the seeds that all of them have."""
    seeds = {method: {run.seed for run in rows if run.method == method}
             for method in dict.fromkeys(run.method for run in rows)}
    shared = set.intersection(*seeds.values()) if seeds else set()
    if shared:
        kept = [row for run, row in rows.items() if run.seed in shared]
        baseline = "labels" if "labels" in seeds else next(iter(seeds))
        print(f"\n{pair}\n{Comparison(kept, baseline)!r}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on where this one ended.")
