"""Measures of a student: accuracy, calibration, agreement with its teacher, size and speed.

Shapes: N samples, K classes; labels [N], or soft ones [N, K]. `report` puts all into one table.
"""
# ruff: noqa: F401, I001 - one line for each group; __all__ is made from these lines

from kdcourse.measure.quality import accuracy, agreement, confusion, ece, entropy, evaluate, nll
from kdcourse.measure.quality import per_class, r2, recall_at_1, reliability, rmse
from kdcourse.measure.quality import teacher_kl, top_k
from kdcourse.measure.similarity import cka, cka_matrix
from kdcourse.measure.attention import attention_rollout
from kdcourse.measure.efficiency import file_mb, latency, macs, parameters, peak_memory, throughput
from kdcourse.measure.seeds import interval, paired_difference
from kdcourse.measure.report import Report, html_table, report, text_table

__all__ = [name for name, thing in list(globals().items()) if callable(thing)]
