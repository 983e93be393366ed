"""Grade assignments: laws on fresh random inputs, asked of a process that holds the submission.

The parent (this process) draws the inputs, knows the right answers and compares; the worker only
sees inputs and sends arrays back. `python -m kdcourse.grading LAWS FOLDER` grades a folder.
"""

from kdcourse.grading.assignment import Assignment, Law, load
from kdcourse.grading.extract import Unreadable
from kdcourse.grading.folder import grade_folder
from kdcourse.grading.process import Lost, Worker
from kdcourse.grading.submission import Grade, grade

__all__ = ["Assignment", "Grade", "Law", "Lost", "Unreadable", "Worker", "grade", "grade_folder",
           "load"]
