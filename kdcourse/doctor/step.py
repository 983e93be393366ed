"""One training step, the terms of the objective, and the optimiser."""

import contextlib
import copy

import torch

from kdcourse import checks, schemes
from kdcourse.doctor import copies
from kdcourse.doctor.setup import first_three, not_finite, probabilities, reaches
from kdcourse.taps import Output, evaluating


def fits(setup) -> bool:
    """Do the checks pass that `fit` makes before the first step?"""
    setup.look("student, teacher, objective and data fit together")
    try:
        scheme, few = setup.scheme, setup.batch[:4]
        scheme.check(setup.data)
        scheme.build(few, 0)
        with torch.no_grad(), evaluating(scheme):
            few = scheme.with_inputs(few)
            setup.edges = list(scheme.edges(few))
            setup.terms = set(schemes.outcome(setup.edges, few).parts)
    except Exception as error:  # whatever stops it here would stop fit
        setup.report(_message(error), "fit() stops there, too.", "")
        return False
    return True


def one_step(setup) -> bool:
    """Look at one step in train mode: the teacher's mode and state, the loss, the gradients.

    False where there is no finite loss.
    """
    setup.look("one step in train mode runs")
    before = [{name: value.detach().clone() for name, value in network.state_dict().items()}
              for network in setup.networks]
    for p in copies.parameters(setup.scheme, *setup.networks):
        p.grad = None
    try:
        with copies.called_modules() as called:
            outcome = setup.scheme.train()(setup.batch)
    except Exception as error:
        setup.report(f"The first step fails: {_message(error)}", "fit() stops there, too.", "")
        return False
    _teacher_in_eval_mode(setup, called, before)
    probabilities(setup, "student", outcome.logits, setup.data.task)
    setup.look("the loss is finite")
    if not torch.isfinite(outcome.loss):
        setup.report(
            f"The loss is {float(outcome.loss.detach())} on the first batch (part: "
            f"{not_finite(outcome)}).",
            "Every weight becomes NaN with the first step.",
            "Look at the logits of that part, and for a logarithm or a root of 0.")
        return False
    _gradients(setup, outcome)
    return True


def _teacher_in_eval_mode(setup, called: dict, before: list[dict]) -> None:
    """Is the teacher in eval mode in the student's step, and are its weights and buffers kept?"""
    if not setup.networks:
        return
    setup.look("the teacher is in eval mode while the student trains, and keeps its state")
    moved = [name for old, network in zip(before, setup.networks, strict=True)
             for name, value in network.state_dict().items() if not torch.equal(value, old[name])]
    training = [path for network in setup.networks for path, module in network.named_modules()
                if called.get(module)]
    if training:
        part = "The teacher" if "" in training else f"A part of the teacher ({training[0]})"
        setup.report(
            f"{part} is in train mode while the student trains.",
            f"Its batch statistics move with every batch ({moved[0]})." if moved else
            "With dropout and the statistics of each batch its answers are noisier.",
            "scheme.train() reaches every registered module: keep the teacher as "
            "self.teacher = kd.Live(model), or call its eval() in forward.")
    elif moved:
        setup.report(
            f"The teacher writes to its own state while it answers ({moved[0]}).",
            "The same image gets another answer later on.",
            "Switch off what it counts or averages in forward.")


def _gradients(setup, outcome) -> None:
    scheme, students = setup.scheme, copies.parameters(*setup.scheme.students)
    theirs = {*copies.parameters(*setup.networks)} - {*students}
    trained = [p for p in students if p.requires_grad]
    setup.look("a gradient reaches the student")
    if not trained:
        setup.report("The student is frozen: none of its parameters requires a gradient.",
                     "Nothing would be learned.", "Call student.requires_grad_().")
    elif not outcome.loss.requires_grad:
        setup.report("The loss has no gradient.", "Nothing would be learned.",
                     "Look for .detach(), .item() or no_grad around the student.")
    if not outcome.loss.requires_grad:
        return
    if trained:
        _terms(setup, outcome, trained)
    concerned = copies.parameters(scheme, *setup.networks, *setup.original.students)
    outcome.loss.backward(inputs=[p for p in concerned if p.requires_grad])
    reached = any(p.grad is not None and p.grad.any() for p in trained)
    if trained and not reached:
        setup.report("The student's gradient is zero: the loss does not depend on it.",
                     "Nothing would be learned.",
                     "Look for .detach() or a frozen layer between the student and the loss.")
    setup.look("the gradients are finite")
    bad = [name for name, p in scheme.named_parameters()
           if p.grad is not None and not torch.isfinite(p.grad).all()]
    if bad:
        setup.report("The gradient is NaN or inf although the loss is finite "
                     f"({first_three(bad)}).", "Every weight becomes NaN with the first step.",
                     "Look for a root, a norm or a logarithm of 0.")
    _frozen(setup, {p for p in theirs if p.requires_grad})
    setup.look("everything that is to be trained gets a gradient")
    idle = [name for name, p in scheme.named_parameters()
            if p.requires_grad and p.grad is None and p not in theirs]
    if idle and reached:
        setup.report(
            f"Nothing reaches {len(idle)} of the parameters that are to be trained: "
            f"{first_three(idle)}.", "They stay as they were drawn.",
            "Use them in the loss, or call requires_grad_(False) on them.")


def _terms(setup, outcome, trained) -> None:
    """Every term of the objective by itself: does it depend on the student?"""
    for name, part in outcome.parts.items():
        if name not in setup.terms or not torch.isfinite(part).all():
            continue
        setup.look(f"{name} depends on the student")
        if not part.detach().any():
            setup.report(
                f"The term {name} is exactly 0 on the first batch.",
                "So is its gradient, most likely: it teaches nothing. This is harmless only where "
                "the student starts as a copy of its teacher.",
                "Is the teacher the student itself (teacher = model is a second name, no copy), "
                "or is the teacher compared with itself?")
        elif not reaches(part.sum(), trained):
            setup.report(
                f"The term {name} ignores the student: it has no gradient for it.",
                "It changes the number that is logged, and nothing else.",
                "Look for .detach(), argmax or no_grad. Or is teacher compared with teacher?")


def _frozen(setup, loose: set) -> None:
    """Would the teacher be trained along? loose: its parameters that require a gradient."""
    if setup.networks:
        setup.look("the teacher is not trained")
    if loose.isdisjoint(setup.scheme.parameters()):
        return
    remedy = "Call teacher.requires_grad_(False), or keep it as self.teacher = kd.Live(model)."
    if any(p.grad is not None for p in loose):
        setup.report(
            "The teacher is trained along: a gradient reaches it, and its parameters are among "
            "scheme.parameters().",
            "It is pulled towards the student, and the two agree on something easy.", remedy)
    else:
        setup.report(
            "The teacher's parameters are among scheme.parameters() and require a gradient.",
            "The optimiser gets them, and the next change to the loss trains them.", remedy)


# Laws whose breach is recognised by its value, or does harm in any loss on logits. Those left out
# hold for Hinton's loss and need not hold for another one.
NAMED = {
    "temperature": "If its weight makes up for that, all is well.",
    "swapped": "If the reverse divergence is what you want, all is well.",
    "teacher gradient": "With kd.Live and kd.Cached none comes through; elsewhere it would.",
    "classes": "", "batch": "", "probabilities": "", "logarithm": "", "sign": "", "overflow": ""}


def own_terms(setup) -> None:
    """Terms of one's own that look like a distillation loss: do they make its known mistakes?"""
    terms = {name: term for edge in setup.edges for name, term in edge.objective.terms.items()}
    for name, term in terms.items():  # copies of one term have one name
        ours = type(term).__module__.partition(".")[0] == "kdcourse"
        T = getattr(term, "T", None)
        if (ours or not term.needs_teacher or term.student_paths or term.teacher_paths
                or not isinstance(T, (int, float)) or not T > 0):
            continue
        setup.look(f"{name} keeps the laws of a distillation loss")
        with contextlib.suppress(Exception):  # it may want other shapes, or a teacher of its own
            for law, sentence in checks.broken_laws(_function(term), float(T)).items():
                if law in NAMED:
                    setup.report(f"{name}: {sentence}", NAMED[law], "")


def _function(term):
    """A term as a function of logits and a temperature."""
    term = copy.deepcopy(term).eval()

    def loss(student, teacher, T):
        term.T = T
        labels = torch.arange(len(student), device=student.device) % student.shape[1]
        return term(Output(student), Output(teacher), labels)

    return loss


def optimiser(setup, optimizer) -> None:
    """Does it hold all that is to be trained, and nothing of the teacher?"""
    setup.look("the optimiser holds what is to be trained, and nothing of the teacher")
    held = {p for group in optimizer.param_groups for p in group["params"]}
    ours = dict(setup.original.named_parameters())
    students = {*copies.parameters(*setup.original.students)}
    theirs = {p for p in copies.parameters(*setup.originals, *setup.networks) if p.requires_grad}
    theirs -= students  # a frozen teacher in the optimiser never gets a gradient
    if held & theirs:
        setup.report(
            f"The optimiser holds {len(held & theirs)} parameters of the teacher.",
            "A gradient that reaches them changes the teacher; with weight decay one of zero, too.",
            "Freeze the teacher: teacher.requires_grad_(False).")
    missing = sorted(name for name, p in setup.scheme.named_parameters()
                     if p.requires_grad and ours.get(name) not in held | theirs)
    if not held & students and any(p.requires_grad for p in students):
        setup.report("The optimiser holds no parameter of the student.",
                     "Another network is trained, or none.",
                     "Make a new optimiser for every new student.")
    elif missing:
        setup.report(
            f"The optimiser lacks {len(missing)} of the parameters that are to be trained: "
            f"{first_three(missing)}.", "They stay as they were drawn.",
            "Make the optimiser of scheme.parameters()." if {*missing} <= ours.keys() else
            "They are made in scheme.build(batch, seed): call it before you make the optimiser.")


def _message(error: Exception) -> str:
    words = str(error).strip() or "no message"
    return words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}"
