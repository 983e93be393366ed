"""HOW it is transferred: who learns from whom in a training step, and by which objective.

A scheme lists its edges; `forward`, `build` and `check` are written once, in `Scheme`. The loop
does not know which scheme it runs.
"""

from kdcourse.schemes.base import Distiller, Edge, Outcome, Scheme, Supervised, export, outcome
from kdcourse.schemes.online import Mutual
from kdcourse.schemes.self import MultiExit

__all__ = ["Distiller", "Edge", "MultiExit", "Mutual", "Outcome", "Scheme", "Supervised", "export",
           "outcome"]
