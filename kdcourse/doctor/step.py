"""One training step: whether it runs, what its loss is, and what its gradients reach."""

import copy

import torch

from kdcourse._modules import untouched
from kdcourse.doctor.setup import first_three, labelled, parameters, report_probabilities

TRIES = 10  # passes in which every tapped module must be called


def fits(setup) -> bool:
    """Report what `fit` would raise before the first step; False where it would."""
    setup.look("student, teacher, objective and data fit together")
    try:
        setup.scheme.check(setup.data)
        setup.scheme.build(setup.batch[:4], 0)
    except Exception as error:  # whatever is raised here stops fit, too
        setup.report(_message(error), "fit() stops there, too.", "")
        return False
    return True


def examine(setup) -> bool:
    """Run one step in train mode; False where there is no finite loss."""
    setup.look("one step in train mode runs")
    states = [copy.deepcopy(network.state_dict()) for network in setup.networks]
    setup.called.clear()
    try:
        with setup.scheme.whole_logits():
            outcome = setup.scheme.train()(setup.batch)
    except Exception as error:
        setup.report(f"The first step fails: {_message(error)}", "fit() stops there, too.", "")
        return False
    if setup.networks:
        _teacher_in_eval_mode(setup, states)
    _tapped_in_every_step(setup)
    _parts_in_eval_mode(setup)
    if outcome.logits is not None:
        report_probabilities(setup, "student", outcome.logits, setup.data.task)
    setup.look("the loss is finite")
    if not torch.isfinite(outcome.loss):
        setup.report(f"The loss is {float(outcome.loss.detach())} on the first batch (part: "
                     f"{_not_finite(outcome)}).", "Every weight becomes NaN with the first step.",
                     "Look at the logits of that part, and for a logarithm or a root of 0.")
        return False
    _gradients(setup, outcome)
    return True


def _teacher_in_eval_mode(setup, states: list[dict]) -> None:
    setup.look("the teacher is in eval mode while the student trains, and keeps its state")
    changed = [name for state, network in zip(states, setup.networks)
               for name, value in network.state_dict().items() if not value.equal(state[name])]
    training = [path for network in setup.networks for path, module in network.named_modules()
                if setup.called.get(module)]
    if training:
        part = "The teacher" if "" in training else f"A part of the teacher ({training[0]})"
        setup.report(f"{part} is in train mode while the student trains.",
                     f"Its batch statistics move with every batch ({changed[0]})." if changed else
                     "With dropout and the statistics of each batch its answers are noisier.",
                     "scheme.train() reaches every registered module: keep the teacher as "
                     "self.teacher = kd.Live(model), or call its eval() in forward.")
    elif changed:
        setup.report(f"The teacher writes to its own state while it answers ({changed[0]}).",
                     "The same image gets another answer later on.",
                     "Switch off what it counts or averages in forward.")


@torch.no_grad()
def _tapped_in_every_step(setup) -> None:
    scheme, batch = setup.scheme, setup.scheme.with_inputs(setup.batch[:4])
    if len(batch) < 2 or not any(one.student_paths for one in scheme.objectives()):
        return
    setup.look("tapped modules of the student are called in every step")
    with untouched(scheme.modules()):
        try:
            for number in list(range(len(scheme.students))) * TRIES:
                scheme.output(batch, number)
        except RuntimeError as error:
            if "to be called" in str(error):
                setup.report(f"A tapped module is left out of some steps: {error}",
                             "fit() stops at the first of them.", "")


def _parts_in_eval_mode(setup) -> None:
    """Name the outermost parts of the students that stay in eval mode, and report those with
    weights that are trained."""
    fixed = [f"{path} ({type(part).__name__})" for path, part in _outermost_in_eval_mode(setup)]
    trained = [f"{path} ({type(part).__name__})" for path, part in _outermost_in_eval_mode(setup)
               if any(p.requires_grad for p in part.parameters())]
    if fixed:
        setup.look(f"what stays in eval mode while the student trains: {first_three(fixed)}")
    if trained:
        setup.report(f"A part of the student is in eval mode, and stays in it while its weights "
                     f"are trained: {first_three(trained)}.",
                     "Its batch statistics do not move, and its dropout is off.",
                     "If that is what you want, all is well; else call student.train() first.")


def _outermost_in_eval_mode(setup):
    for student in setup.scheme.students:
        last = None
        for path, part in student.named_modules():
            inside = last is not None and path.startswith(f"{last}.")
            if not part.training and not inside and any(
                    getattr(inner, "running_mean", None) is not None
                    or "Drop" in type(inner).__name__ for inner in part.modules()):
                last = path
                yield path, part


def _gradients(setup, outcome) -> None:
    scheme, loss = setup.scheme, outcome.loss
    students, originals = parameters(*scheme.students), parameters(*setup.original.students)
    trained = [p for p in students if p.requires_grad]
    setup.look("a gradient reaches the student")
    if not trained:
        setup.report("The student is frozen: none of its parameters requires a gradient.",
                     "Nothing would be learned.", "Call student.requires_grad_().")
    elif not loss.requires_grad:
        setup.report("The loss has no gradient.", "Nothing would be learned.",
                     "Look for .detach(), .item() or no_grad around the student.")
    else:
        _terms(setup, outcome, trained)
    if not loss.requires_grad:
        return
    inputs = [p for p in {*parameters(scheme, *setup.networks), *originals} if p.requires_grad]
    gradients = dict(zip(inputs, torch.autograd.grad(loss, inputs, allow_unused=True)))
    reached = {p for p, gradient in gradients.items() if gradient is not None}
    if not reached.isdisjoint(originals):
        raise TypeError(
            "Expected a student whose copy stands by itself, got one that computes with the "
            "original: is its forward replaced by a function that holds on to its layers? "
            "Write a class with a forward method.")
    student_reached = any(p in reached and gradients[p].any() for p in trained)
    if trained and not student_reached:
        setup.report("The student's gradient is zero: the loss does not depend on it.",
                     "Nothing would be learned.",
                     "Look for .detach() or a frozen layer between the student and the loss.")
    setup.look("the gradients are finite")
    named = list(scheme.named_parameters())
    bad = [name for name, p in named if p in reached and not gradients[p].isfinite().all()]
    if bad:
        setup.report("The gradient is NaN or inf although the loss is finite "
                     f"({first_three(bad)}).", "Every weight becomes NaN with the first step.",
                     "Look for a root, a norm or a logarithm of 0.")
    teachers = {p for p in parameters(*setup.networks) if p.requires_grad} - {*students}
    _teacher_not_trained(setup, teachers, reached)
    setup.look("everything that is to be trained gets a gradient")
    unused = [name for name, p in named if p.requires_grad and p not in reached | teachers]
    if unused and student_reached:
        setup.report(f"Nothing reaches {len(unused)} of the parameters that are to be trained: "
                     f"{first_three(unused)}.", "They stay as they were drawn.",
                     "Use them in the loss, or call requires_grad_(False) on them.")


def _terms(setup, outcome, trained) -> None:
    for name, part in outcome.parts.items():
        if name.split(".")[-1] not in setup.terms or not torch.isfinite(part).all():
            continue  # other numbers that a scheme logs need not depend on the student
        if setup.terms[name.split(".")[-1]].needs_labels and not len(labelled(setup.batch)):
            setup.look(f"{name} is 0 on a batch without a label")
            continue
        setup.look(f"{name} depends on the student")
        if not part.detach().any():
            setup.report(f"The term {name} is exactly 0 on the first batch.",
                         "So is its gradient, most likely: it teaches nothing. This is harmless "
                         "only where the student starts as a copy of its teacher.",
                         "Is the teacher the student itself (teacher = model is a second name, no "
                         "copy), or is the teacher compared with itself?")
        elif not _depends(part.sum(), trained):
            setup.report(
                f"The term {name} ignores the student: it has no gradient for it.",
                "It changes the number that is logged, and nothing else.",
                "Look for .detach(), argmax or no_grad. Or is teacher compared with teacher?")


def _teacher_not_trained(setup, teachers: set, reached: set) -> None:
    if setup.networks:
        setup.look("the teacher is not trained")
    if teachers.isdisjoint(setup.scheme.parameters()):
        return
    remedy = "Call teacher.requires_grad_(False), or keep it as self.teacher = kd.Live(model)."
    if teachers & reached:
        setup.report(
            "The teacher is trained along: a gradient reaches it, and its parameters are among "
            "scheme.parameters().",
            "It is pulled towards the student, and the two agree on something easy.", remedy)
    else:
        setup.report(
            "The teacher's parameters are among scheme.parameters() and require a gradient.",
            "The optimiser gets them, and the next change to the loss trains them.", remedy)


def examine_peers(setup) -> None:
    """Report an edge whose loss has a gradient for the student that is its teacher."""
    scheme, students = setup.scheme.train(), setup.scheme.students
    if len(students) < 2:
        return
    setup.look("peers are fixed teachers to each other: no gradient flows from one to another")
    pairs = set()
    for edge in scheme.edges(scheme.with_inputs(setup.batch)):
        if edge.teacher is None:
            continue
        loss = edge.objective.total(edge.losses(setup.batch))
        if _depends(loss, [edge.teacher.logits, *edge.teacher.taps.values()]):
            pairs.add(" and ".join(str(number) for number, student in enumerate(students, 1)
                                   if _depends(loss, student.parameters())))
    if pairs:
        setup.report(
            f"The peers are not detached (students {first_three(sorted(pairs))}).",
            "Each is then pulled towards the other, and the losses of all pile up in each.",
            "Detach what comes from the peer, answers and features: Edge(student, "
            "peer.detached(), …), or kd(student, peer.detach(), T).")


def examine_half_precision(setup) -> None:
    """Report a loss that is not finite under autocast."""
    setup.look("the loss is finite in mixed precision, too")
    for dtype in (torch.bfloat16, torch.float16):
        try:
            with torch.autocast(setup.device.type, dtype):
                bad = _not_finite(setup.scheme.train()(setup.batch))
        except RuntimeError:  # a layer that this device does not have in this precision
            continue
        if bad:
            setup.report(
                f"The loss is not finite in mixed precision ({str(dtype).removeprefix('torch.')}; "
                f"part: {bad}).",
                "Half precision knows no numbers above 65504 or no fine steps between them.",
                'Call .float() on what goes into it, or train with Recipe(precision="fp32").')
            return


def _depends(value: torch.Tensor, tensors) -> bool:
    """Whether a scalar has a gradient other than 0 for any of the tensors."""
    tensors = [tensor for tensor in tensors if tensor.requires_grad]
    if not tensors or not value.requires_grad:
        return False
    gradients = torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True)
    return any(gradient is not None and gradient.any() for gradient in gradients)


def _not_finite(outcome) -> str:
    """Name the terms that are NaN or inf, or else the sum; "" for none."""
    bad = [name for name, part in outcome.parts.items() if not torch.isfinite(part).all()]
    return ", ".join(bad) or ("" if torch.isfinite(outcome.loss) else "the weighted sum")


def _message(error: Exception) -> str:
    words = str(error).strip() or "no message"
    return words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}"
