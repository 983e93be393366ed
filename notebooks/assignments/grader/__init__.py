"""Grade assignments: laws on fresh random inputs, asked of a process that holds the submission.

The parent (this process) draws the inputs, knows the right answers and compares; the worker only
sees inputs and sends arrays back. `nox -s grade -- LAWS FOLDER` grades a folder, and so does
`python notebooks/assignments/grader LAWS FOLDER`.
"""

from grader.assignment import Assignment, Law, load
from grader.extract import Unreadable
from grader.folder import grade_folder
from grader.process import Lost, Worker
from grader.submission import Grade, grade

__all__ = ["Assignment", "Grade", "Law", "Lost", "Unreadable", "Worker", "grade", "grade_folder",
           "load"]
