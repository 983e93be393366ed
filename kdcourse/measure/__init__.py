"""What a student is worth: accuracy, calibration, agreement with its teacher, size and speed.

Shapes: N samples, K classes. `report` puts all of it into one table.
"""

from kdcourse.measure.attention import attention_rollout
from kdcourse.measure.efficiency import file_mb, latency, macs, parameters, peak_memory, throughput
from kdcourse.measure.quality import (
    accuracy,
    agreement,
    confusion,
    ece,
    entropy,
    evaluate,
    nll,
    per_class,
    r2,
    recall_at_1,
    reliability,
    rmse,
    teacher_kl,
    top_k,
)
from kdcourse.measure.report import Report, html_table, report, text_table
from kdcourse.measure.seeds import interval, paired_difference
from kdcourse.measure.similarity import cka, cka_matrix

__all__ = ["Report", "accuracy", "agreement", "attention_rollout", "cka", "cka_matrix",
           "confusion", "ece", "entropy", "evaluate", "file_mb", "html_table", "interval",
           "latency", "macs", "nll", "paired_difference", "parameters", "peak_memory", "per_class",
           "r2", "recall_at_1", "reliability", "report", "rmse", "teacher_kl", "text_table",
           "throughput", "top_k"]
