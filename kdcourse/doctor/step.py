"""One training step, the terms of the objective, and the optimiser."""

import copy

import torch
from torch import nn

from kdcourse import checks, schemes
from kdcourse.doctor import copies
from kdcourse.doctor.setup import are_probabilities, first_three
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
    setup.fits = True
    return True


def one_step(setup) -> None:
    """Loss and gradients of one step in train mode, and what the teacher does meanwhile."""
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
        return
    _teacher_in_eval_mode(setup, called, before)
    if are_probabilities(outcome.logits, setup.data.task):
        setup.report(
            "The student answers with probabilities, where logits belong.",
            "The softmax of a softmax is almost uniform: the loss cannot become small.",
            "Take the softmax off its end.")
    setup.look("the loss is finite")
    bad = [name for name, part in outcome.parts.items() if not torch.isfinite(part).all()]
    if not torch.isfinite(outcome.loss):
        setup.report(
            f"The loss is {float(outcome.loss.detach())} on the first batch (part: "
            f"{', '.join(bad) or 'the weighted sum'}).",
            "Every weight becomes NaN with the first step.",
            "Look at the logits of that part, and for a logarithm or a root of 0.")
        return
    setup.steps = True
    _gradients(setup, outcome)


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
            f"Its batch statistics move with every batch ({moved[0]}): it forgets what it "
            "knew." if moved else
            "Dropout is on and batch statistics are those of the batch, so its answers are "
            "noisier than they need be.",
            "scheme.train() wakes every registered module: keep the teacher as "
            "self.teacher = kd.Live(model), or call its eval() in forward.")
    elif moved:
        setup.report(
            f"The teacher writes to its own state while it answers ({moved[0]}).",
            "The same image gets another answer later on.",
            "Look for what it counts or averages in forward, and switch that off.")


def _gradients(setup, outcome) -> None:
    scheme, students = setup.scheme, setup.scheme.students
    trained = [p for p in copies.parameters(*students) if p.requires_grad]
    theirs = {id(p) for p in copies.parameters(*setup.networks)}
    theirs -= {id(p) for p in copies.parameters(*students)}
    setup.look("a gradient reaches the student")
    if not trained:
        setup.report("The student is frozen: none of its parameters requires a gradient.",
                     "Nothing would be learned.", "Call student.requires_grad_().")
    elif not outcome.loss.requires_grad:
        setup.report("The loss has no gradient.", "Nothing would be learned.",
                     "Look for .detach(), .item() or no_grad around the student.")
    if trained and outcome.loss.requires_grad:
        _terms(setup, outcome, trained)
    if not outcome.loss.requires_grad:
        return
    concerned = copies.parameters(scheme, *setup.networks, *setup.original.students)
    outcome.loss.backward(inputs=[p for p in concerned if p.requires_grad])
    reached = [p for p in trained if p.grad is not None and p.grad.any()]
    if trained and not reached:
        setup.report("The student's gradient is zero: the loss does not depend on it.",
                     "Nothing would be learned.",
                     "Look for .detach() or a frozen layer between the student and the loss.")
    bad = [name for name, p in scheme.named_parameters()
           if p.grad is not None and not torch.isfinite(p.grad).all()]
    setup.look("the gradients are finite")
    if bad:
        setup.report("The gradient is NaN or inf although the loss is finite "
                     f"({first_three(bad)}).", "Every weight becomes NaN with the first step.",
                     "Look for a root, a norm or a logarithm of 0.")
    _frozen(setup, theirs)
    setup.look("everything that is to be trained gets a gradient")
    idle = [name for name, p in scheme.named_parameters() if p.requires_grad and p.grad is None
            and id(p) not in theirs]
    if idle and reached:
        setup.report(
            f"Nothing reaches {len(idle)} of the parameters that are to be trained: "
            f"{first_three(idle)}.",
            "They stay as they were drawn.",
            "Use them in the loss, or call requires_grad_(False) on what is not meant to "
            "learn.")


def _terms(setup, outcome, trained) -> None:
    """Every term of the objective by itself: does it depend on the student?"""
    for name, part in outcome.parts.items():
        if name not in setup.terms or not torch.isfinite(part).all():
            continue
        setup.look(f"{name} depends on the student")
        found = (torch.autograd.grad(part.sum(), trained, retain_graph=True, allow_unused=True)
                 if part.requires_grad else ())
        if not float(part.detach().abs().sum()):
            setup.report(
                f"The term {name} is exactly 0 on the first batch.",
                "So is its gradient, most likely: it teaches nothing. A student that starts as a "
                "copy of its teacher is such a case, and the only harmless one.",
                "Is the teacher the student itself (teacher = model is a second name, no copy), "
                "or is the teacher compared with itself?")
        elif not any(g is not None and g.any() for g in found):
            setup.report(
                f"The term {name} ignores the student: it has no gradient for it.",
                "It changes the number that is logged, and nothing else.",
                "Look for .detach(), argmax or no_grad on the student's side, and whether "
                "teacher is compared with teacher.")


def _frozen(setup, theirs: set[int]) -> None:
    """Would the teacher be trained along?"""
    if not setup.networks:
        return
    setup.look("the teacher is not trained")
    ours = {id(p) for p in setup.scheme.parameters()}
    loose = [p for p in copies.parameters(*setup.networks) if p.requires_grad and id(p) in theirs]
    pulled = [p for p in loose if p.grad is not None]
    held = [p for p in loose if id(p) in ours]
    if pulled and held:
        setup.report(
            "The teacher is trained along: a gradient reaches it, and its parameters are among "
            "scheme.parameters().",
            "It is pulled towards the student, and the two agree on something easy.",
            "Keep it as self.teacher = kd.Live(model), or freeze it: "
            "teacher.requires_grad_(False), and ask it under torch.no_grad().")
    elif held:
        setup.report(
            "The teacher's parameters are among scheme.parameters() and require a gradient.",
            "The optimiser gets them, and the next change to the loss trains them.",
            "Call teacher.requires_grad_(False), or keep it as self.teacher = kd.Live(model).")


# What is recognised by its value, or goes wrong for any loss on logits. That a loss differs from
# Hinton's is no mistake.
NAMED = ("classes", "temperature", "batch", "swapped", "probabilities", "logarithm", "sign",
         "teacher gradient", "overflow")


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
        for law, sentence in _broken(term, float(T)).items():
            if law in NAMED:
                why = {"swapped": "If the reverse divergence is what you want, all is well.",
                       "temperature": "If its weight makes up for that, all is well.",
                       "teacher gradient": "With kd.Live and kd.Cached none comes through; "
                       "elsewhere it would."}
                setup.report(f"{name}: {sentence}", why.get(law, ""), "")


def _broken(term, T: float) -> dict[str, str]:
    """The laws that a term of one's own breaks; none where it cannot be asked like that."""
    term = copy.deepcopy(term).eval()

    def loss(student, teacher, at):
        term.T = at
        labels = torch.arange(len(student), device=student.device) % student.shape[1]
        return term(Output(student), Output(teacher), labels)

    try:
        return checks.broken_laws(loss, T)
    except Exception:  # it wants other shapes, or a teacher of its own
        return {}


def optimiser(setup, optimizer) -> None:
    """Does it hold all that is to be trained, and nothing of the teacher?"""
    setup.look("the optimiser holds what is to be trained, and nothing of the teacher")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    ours = dict(setup.original.named_parameters())
    students = {id(p) for p in copies.parameters(*setup.original.students)}
    theirs = {id(p) for p in copies.parameters(*_original_teachers(setup)) if p.requires_grad}
    theirs -= students  # a frozen teacher in the optimiser never gets a gradient
    if held & theirs:
        setup.report(
            f"The optimiser holds {len(held & theirs)} parameters of the teacher.",
            "Every gradient that reaches them changes the teacher; with weight decay one "
            "of zero does, too.",
            "Give it [p for p in scheme.parameters() if p.requires_grad], with the teacher "
            "frozen.")
    trained = {name for name, p in setup.scheme.named_parameters() if p.requires_grad}
    teachers_own = {name for name, p in ours.items() if id(p) in theirs}
    missing = sorted(name for name in trained - teachers_own
                     if name not in ours or id(ours[name]) not in held)
    if not held & students and any(
            p.requires_grad for p in copies.parameters(*setup.original.students)):
        setup.report(
            "The optimiser holds no parameter of the student.",
            "Another network is trained, or none.",
            "Make a new optimiser for every new student.")
    elif missing:
        unbuilt = [name for name in missing if name not in ours]
        setup.report(
            f"The optimiser lacks {len(missing)} of the parameters that are to be trained: "
            f"{first_three(missing)}.",
            "They stay as they were drawn.",
            "They are made in scheme.build(batch, seed): call it before you make the optimiser."
            if unbuilt else "Make the optimiser of scheme.parameters().")


def _original_teachers(setup) -> list:
    """The teachers in the user's scheme, of which the optimiser must hold nothing."""
    plain = getattr(setup.original, "teacher", None)
    return [*setup.original.teachers.values(), *setup.networks,
            *([plain] if isinstance(plain, nn.Module) else [])]


def _message(error: Exception) -> str:
    words = str(error).strip() or "no message"
    return words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}"
