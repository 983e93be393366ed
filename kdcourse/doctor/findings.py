"""What the doctor reports: findings, and the list of them."""

import dataclasses
import html


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong, why it matters, and what to do: a sentence or two each."""

    problem: str
    why: str
    remedy: str

    def __str__(self):
        return " ".join(filter(None, (self.problem, self.why, self.remedy)))


class Diagnosis(list):
    """A list of `Finding`s. `ok` when there is none; `looked` says what was looked at."""

    def __init__(self, findings=(), looked=()):
        super().__init__(findings)
        self.looked: list[str] = list(looked)

    @property
    def ok(self) -> bool:
        """True when nothing was found."""
        return not self

    def __repr__(self):
        if self.ok:
            return "\n- ".join([self._verdict(), *self.looked])
        return "\n".join(f"{i}. {finding}" for i, finding in enumerate(self, 1))

    def _repr_html_(self):
        if self.ok:
            rows = "".join(f"<li>{html.escape(what)}</li>" for what in self.looked)
            return f"<p>{self._verdict()}</p><ul>{rows}</ul>"
        rows = "".join(f"<li><strong>{html.escape(one.problem)}</strong> "
                       f"{html.escape(f'{one.why} {one.remedy}'.strip())}</li>" for one in self)
        return f"<ol>{rows}</ol>"

    def _verdict(self) -> str:
        return f"Nothing found: {len(self.looked)} things were looked at:"
