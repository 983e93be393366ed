"""Pairs that are compared, and what comes of comparing them.

Shapes: B batch, K classes.
"""

import dataclasses

import torch

from kdcourse import losses
from kdcourse.data import Batch
from kdcourse.taps import Output
from kdcourse.tasks import ONE_LABEL, Task


@dataclasses.dataclass(eq=False)
class Edge:
    """One student that learns from one teacher, or from the labels alone, in one forward pass.

    student, teacher: outputs of this forward pass; teacher is None where only labels are compared.
        For a peer pass `output.detached()`, so that no gradient reaches it.
    objective: compares the two, such as `1.0 * KD(T=4)`; an attribute of the scheme, so that its
        projections are trained and saved.
    name: prefix of the terms in the history: "1" makes "1.CE", "" leaves "CE".
    weight: of the whole edge, in the loss and in the history. Terms of the same name are added up
        there, so three peers with a weight of 1/3 each give their mean.
    """

    student: Output
    teacher: Output | None
    objective: losses.Objective
    name: str = ""
    weight: float = 1.0

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Compute the unweighted loss of each term by name. Logits and labels that are not rows by
        themselves are cut into rows here, once for all terms."""
        student, teacher, task = self.student, self.teacher, batch.task
        if isinstance(batch.x, dict) and task.mask in batch.x:
            student = student.replaced(mask=batch.x[task.mask])
        on_rows = [] if task.plain and batch.whole is None else [
            term for term in self.objective.terms.values()
            if term.on_rows or (task.partly and term.needs_labels)]
        if on_rows:
            if not student.has_logits and all(term.student_paths for term in on_rows):
                logits = student.taps[on_rows[0].student_paths[0]]
            else:
                logits = student.logits
            cut = task.rows(logits, batch.x, batch.y, batch.total)
            if batch.whole is not None:
                y, share, own = batch.whole
                if batch.y is not own:  # of a scheme that makes labels of its own
                    raise ValueError("Expected the labels of the batch beside class weights or "
                                     "ignore_index, whose mean is over the whole batch, got others "
                                     "in a part of it. Use accumulate=1 and one process, or leave "
                                     "them out.")
                cut = cut._replace(whole=(task.labels(y), task.weight(None, y), share))
            student = student.with_rows(cut)
            if teacher is not None:
                reads = any(term.needs_teacher and not term.teacher_paths for term in on_rows)
                theirs = teacher.logits if reads or teacher.has_logits else None
                if reads:
                    _check_places(logits, theirs, task)
                    theirs = task.flat(theirs)
                teacher = teacher.with_rows(cut._replace(logits=theirs))
        # Labels of which some are none reach a term only by rows, where these are left out.
        return self.objective.losses(student, teacher, None if task.partly else batch.y)

    def total(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """Add up the weighted `losses`."""
        return self.objective.total(losses)

    def check(self, task: Task = ONE_LABEL) -> None:
        """Raise `TypeError` for an objective that is none, and `ValueError` where a term compares
        logits of student and teacher for other classes, or classes where there are none."""
        if not isinstance(self.objective, losses.Objective):
            raise TypeError(f"Expected an objective on an edge, got "
                            f"{type(self.objective).__name__}. Keep one in the scheme's __init__: "
                            "self.objective = losses.as_objective(KD(T=4)).")
        for term in self.objective.terms.values():
            if term.needs_classes and not task.has_classes:
                raise ValueError(f"Expected terms that compare numbers for {task!r}, got {term!r}, "
                                 "which compares classes. Use SquaredError() and LogitMSE(), or "
                                 "set needs_classes = False on a term of your own.")
            _check_reads_labels(term, task)
        on_rows = [term for term in self.objective.terms.values() if term.on_rows]
        if self.teacher is not None and any(
                term.needs_teacher and not term.student_paths and not term.teacher_paths
                and term.same_classes for term in on_rows):
            ours, theirs = task.outputs(self.student.logits), task.outputs(self.teacher.logits)
            if ours != theirs and self.teacher.kept is None:
                raise ValueError(
                    f"Expected student and teacher to have the same classes, got {ours} and "
                    f"{theirs}. Give the student {theirs} outputs, or take a teacher for {ours} "
                    "classes. Language models with one tokenizer and other numbers of outputs: "
                    "kd.teachers.Vocabulary(teacher, theirs, ours); with two tokenizers: ULD().")
        for term in on_rows:
            self._check_paths(term, task)

    def _check_paths(self, term, task: Task) -> None:
        """Raise `ValueError` unless a term on rows that names a module compares outputs of one
        size, and for labels one of the size of the student's logits."""
        if len(term.student_paths) > 1 or len(term.teacher_paths) > 1:
            return
        sides = [(self.student, term.student_paths, "student")]
        if term.needs_teacher and self.teacher is not None and self.teacher.kept is None:
            sides.append((self.teacher, term.teacher_paths, "teacher"))
        elif not task.plain and self.student.has_logits:
            sides.append((self.student, (), "student"))
        if len(sides) == 1 or not any(paths for _, paths, _ in sides):
            return
        (ours, one), (theirs, other) = [
            (output.taps[paths[0]], f"{paths[0]!r} of the {who}") if paths else
            (output.logits, f"the logits of the {who}") for output, paths, who in sides]
        shapes, axis = [list(ours.shape), list(theirs.shape)], task.axis
        if not term.needs_teacher:  # the classes of another head may be others
            shapes = [shape[:axis] + shape[axis + 1:] for shape in shapes]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"Expected {one} and {other} of one size, {task.shape}, for the term {term!r}, got "
                f"{list(ours.shape)} and {list(theirs.shape)}. Name modules whose outputs are for "
                "the same classes and places, or wrap one of the networks so that they are.")

    def check_gradients(self, students) -> None:
        """Raise `ValueError` where a term compares a tensor of the student without a gradient."""
        logits = self.student.logits if self.student.has_logits else None
        trained = any(p.requires_grad for student in students for p in student.parameters())
        for term in self.objective.terms.values():
            found = {path: self.student.taps.get(path) for path in term.student_paths}
            if not found and not term.needs_paths and trained and not any(
                    p.requires_grad for p in term.parameters()):
                found = {"the logits": logits}
            for path, tensor in found.items():
                if tensor is not None and not tensor.requires_grad:
                    what = path if path == "the logits" else f"the student's {path!r}"
                    raise ValueError(
                        f"Expected {what} to have a gradient, for the term {term!r}, got a tensor "
                        "without one, so the term would teach the student nothing. Is it detached, "
                        "computed under no_grad, or is all before it frozen? Tap a module that is "
                        "trained, or leave the term out.")


def _check_reads_labels(term, task: Task) -> None:
    """Raise `ValueError` for a term of a user's own that may read labels where some are none."""
    kind = type(term)
    own = "values" in vars(kind) or "forward" in vars(kind)
    if task.partly and own and not kind.__module__.startswith("kdcourse.") and not any(
            "needs_labels" in vars(base) for base in kind.__mro__ if base is not losses.Loss):
        raise ValueError(
            f"Expected a term that says whether it reads labels, as some samples have none "
            f"({task!r}), got {term!r}. Write needs_labels = True into its class (its mean is then "
            "over the samples with a label), or needs_labels = False.")


def _check_places(ours: torch.Tensor, theirs: torch.Tensor, task: Task) -> None:
    """Raise `ValueError` unless two outputs have as many tokens or pixels in each dimension."""
    one, other = list(ours.shape), list(theirs.shape)
    if one == other:
        return
    axis = task.axis
    if len(one) == len(other) and one[:axis] + one[axis + 1:] != other[:axis] + other[axis + 1:]:
        raise ValueError(
            f"Expected logits of student and teacher of one size, {task.shape}, got {one} and "
            f"{other}: a place of one has no counterpart in the other. Wrap one of them, so that "
            "its forward brings them to the size of the other (that of the labels): "
            'F.interpolate(logits, size, mode="bilinear") for pixels; the same tokens for both '
            "where these are texts.")


@dataclasses.dataclass
class Outcome:
    """The result of one forward pass.

    loss: the scalar that is minimised. parts: its unweighted terms by name, scalars.
    logits: of the first edge's student, [B, K] or as the task says; None where it has none.
    notes: further scalars by name, on the device of the loss, that are logged and not minimised.
    """

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    logits: torch.Tensor
    notes: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)


def outcome(edges, batch: Batch) -> Outcome:
    """Evaluate the objective of each edge, and add the losses up."""
    loss, logits, parts = None, None, {}
    for edge in edges:
        terms = edge.losses(batch)
        total = edge.total(terms)
        for term, value in terms.items():
            name = f"{edge.name}.{term}" if edge.name else term
            value = value if edge.weight == 1 else edge.weight * value
            parts[name] = parts[name] + value if name in parts else value
        total = total if edge.weight == 1 else edge.weight * total
        loss = total if loss is None else loss + total
        if logits is None and edge.student.has_logits:
            logits = edge.student.logits
    if loss is None:
        raise ValueError("Expected at least one Edge from edges(batch), got none.")
    return Outcome(loss, parts, logits)
