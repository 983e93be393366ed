"""What a user brings: terms of the objective, an optimiser, and a schedule."""

import contextlib
import copy
import itertools
import warnings

import torch

from kdcourse import checks
from kdcourse.doctor.setup import first_three, parameters
from kdcourse.taps import Output

# Laws whose breach is recognised by its value, or does harm in any loss on logits, and what is
# added to the sentence. The others hold for Hinton's loss and need not hold for another one.
LAWS = {
    "temperature": "If its weight makes up for that, all is well.",
    "swapped": "If the reverse divergence is what you want, all is well.",
    "teacher gradient": "With kd.Live and kd.Cached none comes through; elsewhere it would.",
    "classes": "", "batch": "", "probabilities": "", "logarithm": "", "sign": "", "overflow": ""}


def examine_terms(setup) -> None:
    """Report known mistakes in terms that look like a distillation loss."""
    for name, term in setup.terms.items():
        T = getattr(term, "T", None)
        if (type(term).__module__.startswith("kdcourse.") or not term.needs_teacher
                or term.student_paths or term.teacher_paths
                or not isinstance(T, (int, float)) or not T > 0):
            continue
        setup.look(f"{name} keeps the laws of a distillation loss")
        with contextlib.suppress(Exception):  # it may need other shapes, or sample ids
            for law, sentence in checks.broken_laws(_as_function(term), float(T)).items():
                if law in LAWS:
                    setup.report(f"{name}: {sentence}", LAWS[law], "")


def _as_function(term):
    term = copy.deepcopy(term).eval()

    def loss(student, teacher, T):
        term.T = T
        labels = torch.arange(len(student), device=student.device) % student.shape[1]
        return term(Output(student), Output(teacher), labels)

    return loss


def examine_optimizer(setup, optimizer) -> None:
    """Report parameters that the optimiser lacks, and those of a teacher that it would change."""
    setup.look("the optimiser holds what is to be trained, and nothing of the teacher")
    held = {p for group in optimizer.param_groups for p in group["params"]}
    originals = dict(setup.original.named_parameters())
    students = {*parameters(*setup.original.students)}
    teachers = {p for p in parameters(*setup.originals, *setup.networks) if p.requires_grad}
    teachers -= students  # those that are frozen never get a gradient
    if held & teachers:
        setup.report(
            f"The optimiser holds {len(held & teachers)} parameters of the teacher.",
            "A gradient that reaches them changes the teacher; with weight decay one of zero, too.",
            "Freeze the teacher: teacher.requires_grad_(False).")
    missing = sorted(name for name, p in setup.scheme.named_parameters()
                     if p.requires_grad and originals.get(name) not in held | teachers)
    if held.isdisjoint(students) and any(p.requires_grad for p in students):
        setup.report("The optimiser holds no parameter of the student.",
                     "Another network is trained, or none.",
                     "Make a new optimiser for every new student.")
    elif missing:
        setup.report(
            f"The optimiser lacks {len(missing)} of the parameters that are to be trained: "
            f"{first_three(missing)}.", "They stay as they were drawn.",
            "Make the optimiser of scheme.parameters()." if {*missing} <= originals.keys() else
            "They are made in scheme.build(batch, seed): call it before you make the optimiser.")


def examine_schedule(setup, schedule, steps: int) -> None:
    """Report a learning rate that still rises when the training ends."""
    setup.look("the learning rate has left its warm-up before the training ends")
    schedule, rates = copy.deepcopy(schedule), []
    with warnings.catch_warnings(action="ignore"):  # torch's, that the optimiser makes no steps
        for _ in range(steps):
            rates.append(max(group["lr"] for group in schedule.optimizer.param_groups))
            schedule.step()
    if rates[0] < rates[-1] and all(a <= b for a, b in itertools.pairwise(rates)):
        setup.report(
            f"The warm-up is longer than the training: after {steps} steps the learning rate is "
            f"still rising, from {rates[0]:.3g} to {rates[-1]:.3g}.",
            "The student never trains at the rate that you chose.",
            "Let the warm-up take a tenth of the steps, for example. Does it count steps, not "
            "epochs?")
