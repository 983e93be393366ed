"""The table of a comparison: arms, seeds, intervals."""

import dataclasses
import math

from kdcourse import measure

SCORES = ("accuracy", "r2", "agreement")
LOWER_IS_BETTER = ("nll", "ece", "teacher_kl", "rmse", "teacher_rmse", "seconds")
_EXTRA_COLUMNS = {"ece": ("ECE", ".3f"), "agreement": ("agreement", ".1%")}


@dataclasses.dataclass
class Comparison:
    """Hold the rows of several arms on the same seeds, and show them as a table.

    rows: one dict per run: arm, seed, accuracy, nll, ece, agreement …, and where it was run.
    baseline: the arm that the others are paired with.
    score: the quantity that the table compares; None: accuracy, or the first that exists instead.
    """

    rows: list[dict]
    baseline: str
    score: str | None = None

    @property
    def arms(self) -> list[str]:
        """The names, in the order in which they were given."""
        return list(dict.fromkeys(row["arm"] for row in self.rows))

    @property
    def main(self) -> str:
        """The quantity that the table compares: accuracy, or the first that exists instead."""
        return self.score or next((name for name in SCORES if self.rows[0].get(name) is not None),
                                  "seconds")

    @property
    def seconds(self) -> float:
        """The time of all runs, recorded ones included."""
        return sum(row["seconds"] for row in self.rows)

    @property
    def split(self) -> str:
        return self.rows[0]["split"]

    def values(self, arm: str, quantity: str | None = None) -> list:
        """Return one quantity of one arm, a value per seed; by default the `main` one.

        Raises `KeyError` for an unknown arm or quantity.
        """
        quantity = quantity or self.main
        rows = [row for row in self.rows if row["arm"] == arm]
        if not rows:
            raise KeyError(f"Expected one of the arms {self.arms}, got {arm!r}.")
        if any(quantity not in row for row in rows):
            raise KeyError(f"Expected one of the quantities {sorted(rows[0])}, got {quantity!r}.")
        return [row[quantity] for row in rows]

    def mean(self, arm: str, quantity: str | None = None) -> float:
        """Return the mean over the seeds."""
        return self.interval(arm, quantity)[0]

    def interval(self, arm: str, quantity: str | None = None):
        """Return the mean over the seeds and its 95 % confidence interval."""
        return measure.interval(self.values(arm, quantity))

    def difference(self, arm: str, baseline: str | None = None, quantity: str | None = None):
        """Return the mean of `arm - baseline`, paired by seed, and its 95 % interval."""
        baseline = self.baseline if baseline is None else baseline
        return measure.paired_difference(self.values(arm, quantity),
                                         self.values(baseline, quantity))

    def best(self, quantity: str | None = None) -> str:
        """Return the arm with the best mean. Choose on validation rows only."""
        pick = min if (quantity or self.main) in LOWER_IS_BETTER else max
        return pick(self.arms, key=lambda arm: self.mean(arm, quantity))

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the table as text: the header, and a line per arm. The difference decides, so it
        stands first; 95 % intervals are below their means."""
        extra = {name: column for name, column in _EXTRA_COLUMNS.items()
                 if all(name in row for row in self.rows)}
        header = ["", f"minus {self.baseline}\n95 % interval",
                  f"{self.main} ({self.split})\n95 % interval", "runs"]
        header += [title for title, _ in extra.values()]
        lines = []
        for arm in self.arms:
            gain, *between = self.difference(arm)
            mean, *around = self.interval(arm)
            line = [str(arm), "–" if arm == self.baseline
                    else f"{100 * gain:+.1f}\n{_range(*between, sign='+')}",
                    f"{mean:.1%}\n{_range(*around)}", str(len(self.values(arm)))]
            line += ["–" if None in self.values(arm, name) else f"{self.mean(arm, name):{form}}"
                     for name, (_, form) in extra.items()]
            lines.append(line)
        return header, lines

    def cost(self) -> str:
        """Return a sentence: where, when and in what time the rows were computed."""
        hardware = " and ".join(sorted({row["hardware"] for row in self.rows}))
        versions = " and ".join(sorted({f"torch {row['torch']}" for row in self.rows}))
        days = sorted({row["date"] for row in self.rows})
        span = " to ".join(dict.fromkeys([days[0], days[-1]]))
        return f"{len(self.rows)} runs, {minutes(self.seconds)} on {hardware}, {versions}, {span}"

    def to_dict(self) -> dict:
        """Return plain Python, for a results file."""
        return dataclasses.asdict(self)

    def identity(self):
        """Return what was measured, without seconds and machine."""
        return [[row["arm"], row["seed"], row.get("accuracy")] for row in self.rows]

    def __repr__(self):
        return measure.text_table(*self.cells())

    def _repr_html_(self):
        return measure.html_table(*self.cells(), caption=self.cost())


def _range(low: float, high: float, sign: str = "") -> str:
    if math.isnan(low):
        return "(needs 2 seeds)"
    return f"({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


def minutes(seconds: float) -> str:
    """Return a time in words."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
