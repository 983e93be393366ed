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
    """A list of `Finding`s. `ok` when there is none; `looked` lists what was looked at."""

    def __init__(self, findings=(), looked=()):
        super().__init__(findings)
        self.looked: list[str] = list(looked)

    @property
    def ok(self) -> bool:
        """True when nothing was found."""
        return not self

    def __repr__(self):
        if self:
            return "\n".join(f"{number}. {finding}" for number, finding in enumerate(self, 1))
        return "\n- ".join([self._nothing(), *self.looked])

    def _repr_html_(self):
        rows = [f"<strong>{html.escape(one.problem)}</strong> "
                f"{html.escape(f'{one.why} {one.remedy}'.strip())}" for one in self]
        rows = "".join(f"<li>{row}</li>" for row in rows or map(html.escape, self.looked))
        return f"<ol>{rows}</ol>" if self else f"<p>{self._nothing()}</p><ul>{rows}</ul>"

    def _nothing(self) -> str:
        return f"Nothing found: {len(self.looked)} things were looked at:"
