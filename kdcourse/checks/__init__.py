"""Check functions that a learner wrote. A check prints ✓, or raises `AssertionError` with a
sentence: expected, got, why it matters; `broken_laws` returns the sentences."""

from kdcourse.checks.any_loss import same_loss, student_only_gradient
from kdcourse.checks.hinton import broken_laws, distillation_loss
from kdcourse.checks.sequence import broken_sequence_laws, sequence_loss, sequence_step
from kdcourse.checks.training import aligned, distillation_step, freezes_teacher, same_budget

__all__ = ["aligned", "broken_laws", "broken_sequence_laws", "distillation_loss",
           "distillation_step", "freezes_teacher", "same_budget", "same_loss", "sequence_loss",
           "sequence_step", "student_only_gradient"]
