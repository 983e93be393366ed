"""HOW knowledge is transferred: which student learns from which teacher, by which objective.

A scheme lists its edges; `forward`, `build` and `check` are written once, in `Scheme`.
"""

from kdcourse.schemes.base import Scheme, check_scheme, export
from kdcourse.schemes.edges import Edge, Outcome, outcome
from kdcourse.schemes.offline import Distiller, Supervised
from kdcourse.schemes.on_policy import OnPolicy, continued
from kdcourse.schemes.online import Mutual
from kdcourse.schemes.self import MultiExit

__all__ = ["Distiller", "Edge", "MultiExit", "Mutual", "OnPolicy", "Outcome", "Scheme",
           "Supervised", "check_scheme", "continued", "export", "outcome"]
