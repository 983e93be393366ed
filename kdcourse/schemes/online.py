"""Students that learn together, without a teacher that was trained before.

Shapes: B batch, K classes.
"""

import copy

from torch import nn

from kdcourse import losses
from kdcourse.data import Batch
from kdcourse.schemes.base import Scheme
from kdcourse.schemes.edges import Edge
from kdcourse.taps import describe


class Mutual(Scheme):
    """Train students together, each with the labels and with all its peers: deep mutual learning.

    The loss of a student: the objective's terms on the labels, plus its terms on a teacher with
    each peer as the teacher, averaged over the peers. No gradient reaches a peer. The losses of all
    students are added, so the gradient of each is the one with frozen peers.

    Zhang et al. 2018, "Deep Mutual Learning" (arXiv:1706.00384), with `CE() + KD(T=1)`, the
    default. The paper updates the students in turn; here all take the step together.

    students: two or more networks for the same classes, of one kind or of several.
    objective: such as `CE() + KD(T=1)`. Every student, and every ordered pair, has a copy of its
        own, projections included.

    `student` is the first of them, whose accuracy is shown while training. Terms in the history are
    called "1.CE", "1.KD", "2.CE" …; the gradient norm is clipped over all students.

    Raises `ValueError` for fewer than two students, for students that share weights, and for an
    objective without a term on a teacher.

    >>> from kdcourse import models
    >>> scheme = Mutual([models.convnet(width=8, seed=0), models.mlp(hidden=(32,), seed=1)])
    >>> len(scheme.students)
    2
    """

    seed_name = "mutual"

    def __init__(self, students, objective=None):
        if isinstance(students, nn.Module) and not isinstance(students, nn.ModuleList):
            raise TypeError(f"Expected a list of networks that learn from each other, got one "
                            f"{type(students).__name__}. Write Mutual([first, second]).")
        students = list(students)
        if len(students) < 2:
            raise ValueError(f"Expected at least two students that learn from each other, got "
                             f"{len(students)}. For one student use Supervised or Distiller.")
        super().__init__(students[0])
        known = set()
        for student in students:
            if not isinstance(student, nn.Module):
                raise TypeError(f"Expected networks (nn.Module) as students, got "
                                f"{type(student).__name__}.")
            if not known.isdisjoint(student.parameters()):
                raise ValueError("Expected students with weights of their own, got two that share "
                                 "some. Make each with a seed of its own.")
            known |= set(student.parameters())
        self.peers = nn.ModuleList(students[1:])
        objective = losses.as_objective(
            losses.CE() + losses.KD(T=1) if objective is None else objective)
        of_labels, of_peers = objective.split_by_teacher()
        if of_peers is None:
            raise ValueError("Expected an objective with a term on a teacher, which a peer can be, "
                             f"got {objective!r}. Add, for example, KD(T=1).")
        count = range(len(students))
        self.of_labels = nn.ModuleList(copy.deepcopy(of_labels) for _ in count if of_labels)
        self.of_peers = nn.ModuleDict({f"{i}_from_{j}": copy.deepcopy(of_peers)
                                       for i in count for j in count if i != j})
        self._sentence = repr(objective)
        self.tap(*objective.teacher_paths)

    @property
    def students(self) -> list[nn.Module]:
        return [self.student, *self.peers]

    def edges(self, batch: Batch) -> list[Edge]:
        outputs = [self.output(batch, number) for number in range(len(self.students))]
        fixed = [output.detached() for output in outputs]
        edges = [Edge(output, None, objective, f"{i}") for i, (output, objective)
                 in enumerate(zip(outputs, self.of_labels), start=1)]
        return edges + [
            Edge(output, peer, self.of_peers[f"{i}_from_{j}"], f"{i + 1}", 1 / len(self.peers))
            for i, output in enumerate(outputs) for j, peer in enumerate(fixed) if i != j]

    def __repr__(self):
        students = ", ".join(describe(student) for student in self.students)
        return f"Mutual([{students}], {self._sentence})"
