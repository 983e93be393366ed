"""What happened in a training, epoch by epoch."""

import dataclasses
import math

import torch


@dataclasses.dataclass
class History:
    """What happened in each epoch: `rows` of epoch, loss, every term, notes, val_accuracy, seconds.

    `history["loss"]` is one column; `val_accuracy` is None in epochs that were not validated, and
    without labels. Of targets that are numbers it is `val_r2`.
    interrupted: True when Ctrl-C ended the training early.
    best: with early stopping, the epoch whose weights were kept.
    """

    rows: list[dict] = dataclasses.field(default_factory=list)
    device: str = "cpu"
    interrupted: bool = False
    best: int | None = None

    def __getitem__(self, column: str) -> list:
        return [row[column] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def seconds(self) -> float:
        return sum(self["seconds"])

    @property
    def validated(self) -> dict[int, float]:
        """The validation accuracy (of numbers R²) of each epoch that was validated."""
        scores = {row["epoch"]: row.get("val_accuracy", row.get("val_r2")) for row in self.rows}
        return {epoch: score for epoch, score in scores.items() if score is not None}

    def to_dict(self) -> dict:
        """Plain Python, for a results file."""
        return dataclasses.asdict(self)

    def summary(self) -> str:
        """The last loss and the last validation accuracy, or R²."""
        form = ".3f" if "val_r2" in self.rows[-1] else ".1%"
        return f"loss {self.rows[-1]['loss']:.3f}" + "".join(
            f", validation {value:{form}}" for value in list(self.validated.values())[-1:])

    def __repr__(self):
        if not self.rows:
            return "History(no epoch was finished)"
        end = ", interrupted" if self.interrupted else ""
        return (f"History({len(self)} epochs in {self.seconds:.1f} s on {self.device}: "
                f"{self.summary()}{end})")


class Log:
    """The loss, its terms and the notes of every step of an epoch, kept on the device until
    `close`, which is the one place that waits for it."""

    def __init__(self, team):
        self.team = team
        self._reset()

    def _reset(self):
        self.values, self.shares, self.steps, self.notes, self.count = [], [], [], [], 0
        self.terms, self.names = [], []

    def add(self, outcome, share: float) -> None:
        """Note a micro-batch, which counts for `share` of its step."""
        values = {"loss": outcome.loss, **outcome.parts}
        _check_names(values, outcome.notes)
        self.terms, self.names = list(values), [*values, *outcome.notes]
        self.values.append(torch.stack(
            [value.detach() for value in (*values.values(), *outcome.notes.values())]))
        self.shares.append(share)
        self.steps.append(self.count)

    def step(self, notes: dict[str, torch.Tensor]) -> None:
        """The step is over. notes: scalars of the whole step."""
        _check_names(self.names, notes)
        self.notes.append({name: torch.as_tensor(note).detach() for name, note in notes.items()})
        self.count += 1

    def close(self, steps_before: int) -> dict:
        """The means of the epoch, over all processes; raises when some step was not finite."""
        values = torch.stack(self.values).float()  # [micro-batches, names]
        bad = (~torch.isfinite(values[:, 0])).nonzero()
        first = int(bad[0]) if len(bad) else None
        never = 2**40
        mine = never if first is None else self.steps[first]
        anywhere = int(self.team.least(torch.tensor(mine, device=values.device)))
        shares = torch.tensor(self.shares, device=values.device)[:, None]
        means = self.team.sum((values * shares).sum(0)) / (self.count * self.team.size)
        row = dict(zip(self.names, means.tolist(), strict=True))
        for name in dict.fromkeys(name for notes in self.notes for name in notes):
            found = [notes[name].float() for notes in self.notes if name in notes]
            row[name] = float(torch.stack(found).mean())
        if anywhere < never:
            found = values[first or 0, 1 : len(self.terms)].tolist() if mine == anywhere else []
            parts = [name for name, value in zip(self.terms[1:], found) if not math.isfinite(value)]
            raise FloatingPointError(
                f"The loss became NaN or inf at step {steps_before + anywhere + 1} "
                f"(part: {', '.join(parts) or 'the weighted sum'}). Lower Recipe(lr=…), set "
                "Recipe(clip=1.0), or look at the logits of that part."
            )
        self._reset()
        return row


def _check_names(taken, notes) -> None:
    if twice := set(taken) & notes.keys():
        raise ValueError(f"Expected notes with names of their own, got {sorted(twice)}, which are "
                         "columns already. Give them other names.")
