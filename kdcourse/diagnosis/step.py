"""One training step, the terms of the objective, and the optimiser."""

import copy

import torch

from kdcourse import checks, losses, models
from kdcourse.diagnosis import copies
from kdcourse.diagnosis.visit import probabilities, some


def fits(visit) -> bool:
    """Do the checks pass that `fit` makes before the first step?"""
    visit.look("student, teacher, objective and data fit together")
    try:
        visit.twin.check(visit.data)
        visit.twin.build(visit.batch[:4], 0)
    except Exception as error:  # whatever stops it here would stop fit
        visit.report(_said(error), "fit() stops there, too.", "")
        return False
    visit.fits = True
    return True


def one_step(visit) -> None:
    """Loss and gradients of one step in train mode, and what the teacher does meanwhile."""
    visit.look("one step in train mode runs")
    before = [copies.state_of(network) for network in visit.networks]
    for p in copies.parameters(visit.twin.parameters(), *(n.parameters() for n in visit.networks)):
        p.grad = None
    try:
        with copies.watching(visit.networks) as awake:
            outcome = visit.twin.train()(visit.batch)
    except Exception as error:
        visit.report(f"The first step fails: {_said(error)}", "fit() stops there, too.", "")
        return
    _asleep(visit, awake, before)
    if probabilities(outcome.logits):
        visit.report(
            "The student answers with probabilities, where logits belong.",
            "The softmax of a softmax is almost uniform: the loss cannot become small.",
            "Take the softmax off its end.")
    visit.look("the loss is finite")
    bad = [name for name, part in outcome.parts.items() if not torch.isfinite(part).all()]
    if not torch.isfinite(outcome.loss):
        visit.report(
            f"The loss is {float(outcome.loss.detach())} on the first batch (part: "
            f"{', '.join(bad) or 'the weighted sum'}).",
            "Every weight becomes NaN with the first step.",
            "Look at the logits of that part, and for a logarithm or a root of 0.")
        return
    visit.steps = True
    _gradients(visit, outcome)


def _asleep(visit, awake: list[str], before: list[dict]) -> None:
    """The teacher at the moment of the student's step."""
    if not visit.networks:
        return
    visit.look("the teacher is in eval mode while the student trains, and keeps its state")
    after = map(copies.state_of, visit.networks)
    moved = [name for old, new in zip(before, after, strict=True)
             for name, value in new.items() if not torch.equal(value, old[name])]
    if awake:
        part = "The teacher" if "" in awake else f"A part of the teacher ({awake[0]})"
        visit.report(
            f"{part} is in train mode while the student trains.",
            f"Its batch statistics move with every batch ({moved[0]}): it forgets what it "
            "knew." if moved else
            "Dropout is on and batch statistics are those of the batch, so its answers are "
            "noisier than they need be.",
            "scheme.train() wakes every registered module: keep the teacher as "
            "self.teacher = kd.Live(model), or call its eval() in forward.")
    elif moved:
        visit.report(
            f"The teacher writes to its own state while it answers ({moved[0]}).",
            "The same image gets another answer later on.",
            "Look for what it counts or averages in forward, and switch that off.")


def _gradients(visit, outcome) -> None:
    twin, students = visit.twin, visit.twin.students
    trained = [p for p in copies.parameters(*(s.parameters() for s in students)) if p.requires_grad]
    theirs = {id(p) for network in visit.networks for p in network.parameters()}
    theirs -= {id(p) for student in students for p in student.parameters()}
    visit.look("a gradient reaches the student")
    if not trained:
        visit.report("The student is frozen: none of its parameters requires a gradient.",
                     "Nothing would be learned.", "Call student.requires_grad_().")
    elif not outcome.loss.requires_grad:
        visit.report("The loss has no gradient.", "Nothing would be learned.",
                     "Look for .detach(), .item() or no_grad around the student.")
    if trained and outcome.loss.requires_grad:
        _terms(visit, outcome, trained)
    if not outcome.loss.requires_grad:
        return
    outcome.loss.backward()
    reached = [p for p in trained if p.grad is not None and p.grad.any()]
    if trained and not reached:
        visit.report("The student's gradient is zero: the loss does not depend on it.",
                     "Nothing would be learned.",
                     "Look for .detach() or a frozen layer between the student and the loss.")
    bad = [name for name, p in twin.named_parameters()
           if p.grad is not None and not torch.isfinite(p.grad).all()]
    visit.look("the gradients are finite")
    if bad:
        visit.report(f"The gradient is NaN or inf although the loss is finite ({some(bad)}).",
                     "Every weight becomes NaN with the first step.",
                     "Look for a root, a norm or a logarithm of 0.")
    _frozen(visit, theirs)
    visit.look("everything that is to be trained gets a gradient")
    idle = [name for name, p in twin.named_parameters() if p.requires_grad and p.grad is None
            and id(p) not in theirs]
    if idle and reached:
        visit.report(
            f"Nothing reaches {len(idle)} of the parameters that are to be trained: "
            f"{some(idle)}.",
            "They stay as they were drawn.",
            "Use them in the loss, or call requires_grad_(False) on what is not meant to "
            "learn.")


def _terms(visit, outcome, trained) -> None:
    """Every term of the objective by itself: does it depend on the student?"""
    known = {name for name, _ in _all_terms(visit.twin)}
    for name, part in outcome.parts.items():
        # "CE", or "1.CE" and "layer1.CE" in schemes of several students or exits.
        if not {name, name.rpartition(".")[2]} & known or not torch.isfinite(part).all():
            continue
        visit.look(f"{name} depends on the student")
        found = (torch.autograd.grad(part.sum(), trained, retain_graph=True, allow_unused=True)
                 if part.requires_grad else ())
        if not float(part.detach().abs().sum()):
            visit.report(
                f"The term {name} is exactly 0 on the first batch.",
                "So is its gradient, most likely: it teaches nothing. A student that starts as a "
                "copy of its teacher is such a case, and the only harmless one.",
                "Is the teacher the student itself (teacher = model is a second name, no copy), "
                "or is the teacher compared with itself?")
        elif not any(g is not None and g.any() for g in found):
            visit.report(
                f"The term {name} ignores the student: it has no gradient for it.",
                "It changes the number that is logged, and nothing else.",
                "Look for .detach(), argmax or no_grad on the student's side, and whether "
                "teacher is compared with teacher.")


def _frozen(visit, theirs: set[int]) -> None:
    """Would the teacher be trained along?"""
    if not visit.networks:
        return
    visit.look("the teacher is not trained")
    ours = {id(p) for p in visit.twin.parameters()}
    loose = [p for network in visit.networks for p in network.parameters()
             if p.requires_grad and id(p) in theirs]
    pulled = [p for p in loose if p.grad is not None]
    held = [p for p in loose if id(p) in ours]
    if pulled and held:
        visit.report(
            "The teacher is trained along: a gradient reaches it, and its parameters are among "
            "scheme.parameters().",
            "It is pulled towards the student, and the two agree on something easy.",
            "Keep it as self.teacher = kd.Live(model), or freeze it: "
            "teacher.requires_grad_(False), and ask it under torch.no_grad().")
    elif held:
        visit.report(
            "The teacher's parameters are among scheme.parameters() and require a gradient.",
            "The optimiser gets them, and the next change to the loss trains them.",
            "Call teacher.requires_grad_(False), or keep it as self.teacher = kd.Live(model).")
    elif pulled:
        visit.report(
            "A gradient reaches the teacher.",
            "That costs memory and time, and any optimiser that holds it would train it.",
            "Ask it under torch.no_grad(), or call teacher.requires_grad_(False).")

def _all_terms(scheme):
    """(name, term) of every objective; some schemes have several."""
    for objective in scheme.modules():
        if isinstance(objective, losses.Objective):
            yield from objective.terms.items()


# What is recognised by its value, or goes wrong for any loss on logits. That a loss differs from
# Hinton's is no mistake.
NAMED = ("classes", "temperature", "batch", "swapped", "probabilities", "logarithm", "sign",
         "teacher gradient", "overflow")


def own_terms(visit) -> None:
    """Terms of one's own that look like a distillation loss: do they make its known mistakes?"""
    for name, term in dict(_all_terms(visit.twin)).items():  # copies of one term have one name
        ours = type(term).__module__.partition(".")[0] == "kdcourse"
        T = getattr(term, "T", None)
        if (ours or not term.needs_teacher or term.student_paths or term.teacher_paths
                or not isinstance(T, (int, float)) or not T > 0):
            continue
        visit.look(f"{name} keeps the laws of a distillation loss")
        for law, sentence in _broken(term, float(T)).items():
            if law in NAMED:
                why = {"swapped": "If the reverse divergence is what you want, all is well.",
                       "temperature": "If its weight makes up for that, all is well.",
                       "teacher gradient": "With kd.Live and kd.Cached none comes through; "
                       "elsewhere it would."}
                visit.report(f"{name}: {sentence}", why.get(law, ""), "")


def _broken(term, T: float) -> dict[str, str]:
    """The laws that a term of one's own breaks; none where it cannot be asked like that."""
    term = copy.deepcopy(term).eval()

    def loss(student, teacher, at):
        term.T = at
        labels = torch.arange(len(student), device=student.device) % student.shape[1]
        return term(models.View(student), models.View(teacher), labels)

    try:
        return checks.broken_laws(loss, T)
    except Exception:  # it wants other shapes, or a teacher of its own
        return {}


def optimiser(visit, optimizer) -> None:
    """Does it hold all that is to be trained, and nothing of the teacher?"""
    visit.look("the optimiser holds what is to be trained, and nothing of the teacher")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    ours = dict(visit.scheme.named_parameters())
    students = {id(p) for student in visit.scheme.students for p in student.parameters()}
    theirs = {id(p) for network in copies.networks(getattr(visit.scheme, "teacher", None))
              for p in network.parameters()} - students
    if held & theirs:
        visit.report(
            f"The optimiser holds {len(held & theirs)} parameters of the teacher.",
            "Every gradient that reaches them changes the teacher; with weight decay one "
            "of zero does, too.",
            "Give it [p for p in scheme.parameters() if p.requires_grad], with the teacher "
            "frozen.")
    trained = {name for name, p in visit.twin.named_parameters() if p.requires_grad}
    teachers_own = {name for name, p in ours.items() if id(p) in theirs}
    missing = sorted(name for name in trained - teachers_own
                     if name not in ours or id(ours[name]) not in held)
    if not held & students and any(p.requires_grad for s in visit.scheme.students
                                   for p in s.parameters()):
        visit.report(
            "The optimiser holds no parameter of the student.",
            "Another network is trained, or none.",
            "Make a new optimiser for every new student.")
    elif missing:
        unbuilt = [name for name in missing if name not in ours]
        visit.report(
            f"The optimiser lacks {len(missing)} of the parameters that are to be trained: "
            f"{some(missing)}.",
            "They stay as they were drawn.",
            "They are made in scheme.build(batch, seed): call it before you make the optimiser."
            if unbuilt else "Make the optimiser of scheme.parameters().")


def _said(error: Exception) -> str:
    words = str(error).strip() or "no message"
    return words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}"
