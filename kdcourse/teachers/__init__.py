"""WHO says it: frozen modules whose answers a student learns from.

Each answers `teacher(batch, paths)` with an `Output`: `Live` runs a network, `Cached` looks stored
answers up, `Ensemble` averages several teachers, `EMA` is a moving average of the student. For
another one subclass `Teacher`.
"""

from kdcourse.teachers.base import Teacher
from kdcourse.teachers.cached import Cached
from kdcourse.teachers.ema import EMA
from kdcourse.teachers.ensemble import Ensemble
from kdcourse.teachers.live import Live, as_teacher

__all__ = ["EMA", "Cached", "Ensemble", "Live", "Teacher", "as_teacher"]
