"""The table of a comparison: arms, seeds, intervals."""

import dataclasses
import math

from kdcourse import measure

LOWER_IS_BETTER = ("nll", "ece", "teacher_kl", "rmse", "teacher_rmse", "seconds")


@dataclasses.dataclass
class Comparison:
    """The rows of several arms on the same seeds. Shows itself as a table.

    rows: one dict per run: arm, seed, accuracy, nll, ece, agreement …, and where it was run.
    baseline: the arm that the others are paired with.
    """

    rows: list[dict]
    baseline: str

    @property
    def arms(self) -> list[str]:
        """The names, in the order in which they were given."""
        return list(dict.fromkeys(row["arm"] for row in self.rows))

    @property
    def main(self) -> str:
        """The quantity that the table compares: accuracy, or what there is in its place."""
        return next((name for name in ("accuracy", "r2", "agreement")
                     if self.rows[0].get(name) is not None), "seconds")

    def values(self, arm: str, quantity: str | None = None) -> list:
        """One quantity of one arm, a value per seed; by default the `main` one, the accuracy."""
        quantity = quantity or self.main
        rows = [row for row in self.rows if row["arm"] == arm]
        if not rows:
            raise KeyError(f"Expected one of the arms {self.arms}, got {arm!r}.")
        if any(quantity not in row for row in rows):
            raise KeyError(f"Expected one of the quantities {sorted(rows[0])}, got {quantity!r}.")
        return [row[quantity] for row in rows]

    def mean(self, arm: str, quantity: str | None = None) -> float:
        """The mean over the seeds."""
        return measure.interval(self.values(arm, quantity))[0]

    def interval(self, arm: str, quantity: str | None = None):
        """Mean and 95 % confidence interval over the seeds."""
        return measure.interval(self.values(arm, quantity))

    def difference(self, arm: str, baseline: str | None = None, quantity: str | None = None):
        """Mean and 95 % interval of `arm - baseline`, paired by seed."""
        return measure.paired_difference(
            self.values(arm, quantity), self.values(baseline or self.baseline, quantity))

    def best(self, quantity: str | None = None) -> str:
        """The arm with the best mean. Choose on validation rows only."""
        pick = min if (quantity or self.main) in LOWER_IS_BETTER else max
        return pick(self.arms, key=lambda arm: self.mean(arm, quantity))

    @property
    def seconds(self) -> float:
        """What all runs took, also those that were recorded earlier."""
        return sum(row["seconds"] for row in self.rows)

    @property
    def split(self) -> str:
        return self.rows[0]["split"]

    def cells(self):
        """The table as text: header, and a line per arm."""
        header = ["", "runs", f"{self.main} ({self.split})", "95 % interval",
                  f"minus {self.baseline}", "95 % interval"]
        more = [(title, name) for title, name in (("ECE", "ece"), ("agreement", "agreement"))
                if all(name in row for row in self.rows)]
        header += [title for title, _ in more]
        lines = []
        for arm in self.arms:
            mean, low, high = self.interval(arm)
            line = [str(arm), str(len(self.values(arm))), f"{mean:.1%}", _range(low, high)]
            if arm == self.baseline:
                line += ["–", "–"]
            else:
                gain, low, high = self.difference(arm)
                line += [f"{100 * gain:+.1f}", _range(low, high, sign="+")]
            for _, name in more:
                if None in self.values(arm, name):
                    line.append("–")
                else:
                    line.append(f"{self.mean(arm, name):.3f}" if name == "ece"
                                else f"{self.mean(arm, name):.1%}")
            lines.append(line)
        return header, lines

    def cost(self) -> str:
        """Where, when and how long the rows were computed, in a sentence."""
        hardware = " and ".join(sorted({row["hardware"] for row in self.rows}))
        days = sorted({row["date"] for row in self.rows})
        span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        versions = " and ".join(sorted({f"torch {row['torch']}" for row in self.rows}))
        return (f"{len(self.rows)} runs, {minutes(self.seconds)} on {hardware}, {versions}, "
                f"{span}")

    def to_dict(self) -> dict:
        """Plain Python, for a results file."""
        return dataclasses.asdict(self)

    def identity(self):
        """What was measured, without seconds and machine."""
        return [[row["arm"], row["seed"], row.get("accuracy")] for row in self.rows]

    def __repr__(self):
        return measure.text_table(*self.cells())

    def _repr_html_(self):
        return measure.html_table(*self.cells(), caption=self.cost())


def _range(low: float, high: float, sign: str = "") -> str:
    if math.isnan(low):
        return "needs 2 seeds"
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


def minutes(seconds: float) -> str:
    """A time in words."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
