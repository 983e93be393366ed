"""WHO teaches: frozen modules whose outputs a student learns from.

`teacher(batch, paths)` is an `Output`. `Live` runs a network, `Cached` reads stored logits,
`Ensemble` averages several teachers, `EMA` is a moving average of the student, `Vocabulary` fits a
language model to a student with more or fewer tokens. For another one subclass `Teacher`.
"""

from kdcourse.teachers.base import Teacher
from kdcourse.teachers.cached import Cached
from kdcourse.teachers.ema import EMA
from kdcourse.teachers.ensemble import Ensemble
from kdcourse.teachers.live import Live, as_teacher
from kdcourse.teachers.vocabulary import Vocabulary

__all__ = ["EMA", "Cached", "Ensemble", "Live", "Teacher", "Vocabulary", "as_teacher"]
