"""What happened in a training, epoch by epoch."""

import dataclasses
import math

import torch


@dataclasses.dataclass
class History:
    """The `rows` of a training, one per epoch: epoch, loss, terms, notes, val_accuracy, seconds.

    `history["loss"]` is one column. `val_accuracy` (for targets that are numbers `val_r2`) is None
    in epochs that were not validated, and without labels.
    interrupted: True when Ctrl-C ended the training early.
    best: with early stopping, the epoch whose weights were kept.
    step: how the steps were made, "eager" or "captured" (`Recipe(capture=True)`), or "eager: " with
        the reason for which they were not captured.
    """

    rows: list[dict] = dataclasses.field(default_factory=list)
    device: str = "cpu"
    interrupted: bool = False
    best: int | None = None
    step: str = "eager"

    def __getitem__(self, column: str) -> list:
        return [row[column] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def seconds(self) -> float:
        return sum(self["seconds"])

    @property
    def validated(self) -> dict[int, float]:
        """The validation accuracy, or R², of each epoch that was validated."""
        scores = {row["epoch"]: row.get("val_accuracy", row.get("val_r2")) for row in self.rows}
        return {epoch: score for epoch, score in scores.items() if score is not None}

    def to_dict(self) -> dict:
        """Convert to plain Python, for a file."""
        return dataclasses.asdict(self)

    def summary(self) -> str:
        """Write the last loss and the last validation accuracy, or R²."""
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
    """The loss, its terms and the notes of every step of an epoch. They stay on the device until
    `close`, the only place that synchronises with it."""

    def __init__(self, team):
        self.team = team
        self._clear()

    def _clear(self):
        self.names, self.terms = [], []  # all columns; the loss and its terms
        self.values, self.shares, self.steps, self.notes = [], [], [], []

    def add(self, number: int, outcome, share: float, values=None) -> None:
        """Record a micro-batch of step `number`, which counts for `share` of that. values: its
        loss, terms and notes where they are one tensor already."""
        names = ["loss", *outcome.parts, *outcome.notes]
        if names != self.names:
            if self.values:
                raise ValueError("Expected the same terms and notes in every step of an epoch, got "
                                 f"{names} after {self.names}. Give a term the weight 0 instead.")
            _check_names(names)
            self.names, self.terms = names, ["loss", *outcome.parts]
        if values is None:
            device = outcome.loss.device  # a measure gives its number on the CPU
            notes = (note.to(device) for note in outcome.notes.values())
            values = torch.stack([outcome.loss, *outcome.parts.values(), *notes]).detach()
        self.values.append(values)
        self.shares.append(share)
        self.steps.append(number)

    def note(self, notes: dict[str, torch.Tensor]) -> None:
        """Record scalars of a whole step."""
        _check_names([*self.names, *notes])
        self.notes.append({name: torch.as_tensor(x).detach() for name, x in notes.items()})

    def close(self) -> dict:
        """Compute the means of the epoch, over all processes. Raises `FloatingPointError` when the
        loss of a step was not finite."""
        values = torch.stack(self.values).float()  # [micro-batches, names]
        bad, none = (~torch.isfinite(values[:, 0])).nonzero().flatten().tolist(), 2**40
        first = self.steps[bad[0]] if bad else none
        anywhere = int(self.team.least(torch.tensor(first, device=values.device)))
        shares = torch.tensor(self.shares, device=values.device)[:, None]
        count = len(set(self.steps))
        means = self.team.sum((values * shares).sum(0)) / (count * self.team.size)
        row = dict(zip(self.names, means.tolist(), strict=True))
        for name in dict.fromkeys(name for notes in self.notes for name in notes):
            found = [notes[name].float().to(values.device) for notes in self.notes if name in notes]
            row[name] = float(torch.stack(found).mean())
        if anywhere < none:
            found = values[bad[0]].tolist()[1:] if first == anywhere else []
            parts = [name for name, value in zip(self.terms[1:], found) if not math.isfinite(value)]
            raise FloatingPointError(
                f"The loss became NaN or inf at step {anywhere + 1} "
                f"(part: {', '.join(parts) or 'the weighted sum'}). Lower Recipe(lr=…), set "
                "Recipe(clip=1.0), or look at the logits of that part.")
        self._clear()
        return row


def _check_names(names: list[str]) -> None:
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError("Expected terms and notes with names of their own, got "
                         f"{sorted(twice)}, which are columns already. Give them other names.")
