"""Arms, seeds and recorded rows: the comparison that a claim rests on."""

from kdcourse._machine import where
from kdcourse.experiment.compare import compare, record
from kdcourse.experiment.comparison import Comparison
from kdcourse.experiment.records import recorded

__all__ = ["Comparison", "compare", "record", "recorded", "where"]
