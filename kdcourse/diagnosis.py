"""What is wrong with a set-up, before an hour is spent on it.

Shapes: B batch, K classes, N samples.
"""

import contextlib
import copy
import dataclasses
import html
import math
import random

import numpy as np
import torch
from torch import nn

from kdcourse import checks, measure, models, teachers
from kdcourse.data import Batch, Dataset, generator
from kdcourse.schemes import Scheme

SAMPLES = 500  # on which the teacher's accuracy is measured
FEWER = 200  # on which other normalisations are tried
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std that many models expect


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong, why it matters, and what to do: a sentence or two each."""

    problem: str
    why: str
    remedy: str

    def __str__(self):
        return " ".join(filter(None, (self.problem, self.why, self.remedy)))


class Diagnosis(list):
    """A list of `Finding`s. `ok` when there is none; `looked` says what was looked at."""

    def __init__(self, findings=(), looked=()):
        super().__init__(findings)
        self.looked: list[str] = list(looked)

    @property
    def ok(self) -> bool:
        """True when nothing was found."""
        return not self

    def __repr__(self):
        if self.ok:
            return "\n".join([f"{self._verdict()}:", *(f"- {what}" for what in self.looked)])
        return "\n".join(f"{i}. {finding}" for i, finding in enumerate(self, 1))

    def _repr_html_(self):
        if self.ok:
            rows = "".join(f"<li>{html.escape(what)}</li>" for what in self.looked)
            return f"<p>{self._verdict()}:</p><ul>{rows}</ul>"
        rows = "".join(f"<li><strong>{html.escape(one.problem)}</strong> "
                       f"{html.escape(f'{one.why} {one.remedy}'.strip())}</li>" for one in self)
        return f"<ol>{rows}</ol>"

    def _verdict(self) -> str:
        return f"Nothing found: {len(self.looked)} things were looked at"


def doctor(scheme: Scheme, data: Dataset, optimizer=None) -> Diagnosis:
    """Look at a set-up on one batch, and say what is wrong with it before it is trained.

    optimizer: yours, if you train in a loop of your own; `fit` makes its own.

    It looks at

    * the step: does all fit together, are loss and gradients finite, does every term of the
      objective depend on the student, does everything that is to be trained get a gradient;
    * the teacher: is it in train mode, would it be trained, does it write to its own state, does it
      change its mind, does an answer depend on the rest of the batch, do stored answers belong to
      their samples, does it answer with probabilities in place of logits;
    * what the teacher knows, on up to 500 validation samples: is it at chance, worse than the
      student, much better with other inputs (another normalisation) or with its outputs in another
      order;
    * terms of your own with a temperature `T`: the mistakes of a distillation loss that are
      recognised by their value (`kdcourse.checks.broken_laws`);
    * the optimiser: does it hold all that is to be trained, and nothing of the teacher.

    All of it happens on a copy: nothing of yours is changed, no mode, gradient, buffer or random
    state. A scheme without a teacher is not asked about one.

    Returns a `Diagnosis`: a list of `Finding(problem, why, remedy)`, which prints as numbered
    sentences; empty when nothing was found. Raises `TypeError` for what is no scheme.

    >>> from kdcourse import data, models, schemes
    >>> glyphs = data.glyphs(train=72, val=72, test=36)
    >>> student, untrained = models.convnet(width=8, seed=0), models.convnet(width=8, seed=1)
    >>> doctor(schemes.Distiller(student, untrained), glyphs)
    1. The teacher is hardly better than guessing: right on 2.8% of 72 validation samples, ...
    >>> doctor(schemes.Supervised(student), glyphs).ok
    True
    """
    if not isinstance(scheme, Scheme):
        raise TypeError(f"Expected a scheme such as Distiller(student, teacher), got "
                        f"{type(scheme).__name__}.")
    device = models.device_of(scheme.student)
    with _chance_untouched(device), torch.enable_grad(), torch.inference_mode(False), \
            torch.compiler.set_stance("force_eager"):
        return _Visit(scheme, data, optimizer, device).diagnosis


class _Visit:
    """One look at a copy of a scheme; `diagnosis` is what came of it."""

    def __init__(self, scheme, data, optimizer, device):
        self.scheme, self.data = scheme, data
        self.twin = _twin(scheme, data).to(device)
        self.teacher = getattr(self.twin, "teacher", None)
        train = data.train.to(device)  # a split of our own, also where views are remembered
        self.first = next(train.batches(min(2, len(train))))
        self.batch = next(train.batches(min(32, len(train)), seed=0))
        self.train = train
        self.diagnosis = Diagnosis()
        students = {id(module) for student in self.twin.students for module in student.modules()}
        self.networks = [network for network in _networks(self.teacher)
                         if id(network) not in students]
        if self.fits():
            self.one_step()
            self.own_terms()
        if self.teacher is not None:
            self.manners()
            self.knowledge()
        if optimizer is not None:
            self.optimiser(optimizer)

    def look(self, what: str) -> None:
        self.diagnosis.looked.append(what)

    def report(self, problem: str, why: str, remedy: str) -> None:
        self.diagnosis.append(Finding(problem, why, remedy))

    # --- the step -------------------------------------------------------------------------------

    def fits(self) -> bool:
        self.look("student, teacher, objective and data fit together")
        try:
            self.twin.check(self.data)
            self.twin.build(self.first, 0)
        except Exception as error:  # whatever stops it here would stop fit
            self.report(_said(error), "fit() stops there, too.", "")
            return False
        return True

    def one_step(self) -> None:
        self.look("one step in train mode runs")
        before = [_state(network) for network in self.networks]
        for p in _parameters(self.twin.parameters(), *(n.parameters() for n in self.networks)):
            p.grad = None
        try:
            with _watching(self.networks) as awake:
                outcome = self.twin.train()(self.batch)
        except Exception as error:
            self.report(f"The first step fails: {_said(error)}", "fit() stops there, too.", "")
            return
        self.asleep(awake, before)
        self.look("the loss is finite")
        bad = [name for name, part in outcome.parts.items() if not torch.isfinite(part).all()]
        if not torch.isfinite(outcome.loss):
            self.report(
                f"The loss is {float(outcome.loss.detach())} on the first batch"
                f"{f' (part: {chr(44).join(bad)})' if bad else ''}.",
                "Every weight becomes NaN with the first step.",
                "Look at the logits of that part, and for a logarithm or a root of 0.")
            return
        self.gradients(outcome)

    def asleep(self, awake: list[str], before: list[dict]) -> None:
        """The teacher at the moment of the student's step."""
        if not self.networks:
            return
        self.look("the teacher is in eval mode while the student trains, and keeps its state")
        moved = [name for network, old in zip(self.networks, before, strict=True)
                 for name, value in _state(network).items() if not torch.equal(value, old[name])]
        if awake:
            part = "The teacher" if "" in awake else f"A part of the teacher ({awake[0]})"
            self.report(
                f"{part} is in train mode while the student trains.",
                f"Its batch statistics move with every batch ({moved[0]}): it forgets what it "
                "knew." if moved else
                "Dropout is on and batch statistics are those of the batch, so its answers are "
                "noisier than they need be.",
                "scheme.train() wakes every registered module: keep the teacher as "
                "self.teacher = kd.Live(model), or call its eval() in forward.")
        elif moved:
            self.report(
                f"The teacher writes to its own state while it answers ({moved[0]}).",
                "The same image gets another answer later on.",
                "Look for what it counts or averages in forward, and switch that off.")

    def gradients(self, outcome) -> None:
        twin, students = self.twin, self.twin.students
        trained = [p for p in _parameters(*(s.parameters() for s in students)) if p.requires_grad]
        theirs = {id(p) for network in self.networks for p in network.parameters()}
        theirs -= {id(p) for student in students for p in student.parameters()}
        self.look("a gradient reaches the student")
        if not trained:
            self.report("The student is frozen: none of its parameters requires a gradient.",
                        "Nothing would be learned.", "Call student.requires_grad_().")
        elif not outcome.loss.requires_grad:
            self.report("The loss has no gradient.", "Nothing would be learned.",
                        "Look for .detach(), .item() or no_grad around the student.")
        if trained and outcome.loss.requires_grad:
            self.terms(outcome, trained)
        if not outcome.loss.requires_grad:
            return
        outcome.loss.backward()
        reached = [p for p in trained if p.grad is not None and p.grad.any()]
        if trained and not reached:
            self.report("The student's gradient is zero: the loss does not depend on it.",
                        "Nothing would be learned.",
                        "Look for .detach() or a frozen layer between the student and the loss.")
        bad = [name for name, p in twin.named_parameters()
               if p.grad is not None and not torch.isfinite(p.grad).all()]
        self.look("the gradients are finite")
        if bad:
            self.report(f"The gradient is NaN or inf although the loss is finite ({_some(bad)}).",
                        "Every weight becomes NaN with the first step.",
                        "Look for a root, a norm or a logarithm of 0.")
        self.frozen(theirs)
        self.look("everything that is to be trained gets a gradient")
        idle = [name for name, p in twin.named_parameters() if p.requires_grad and p.grad is None
                and id(p) not in theirs]
        if idle and reached:
            self.report(
                f"Nothing reaches {len(idle)} of the parameters that are to be trained: "
                f"{_some(idle)}.",
                "They stay as they were drawn.",
                "Use them in the loss, or call requires_grad_(False) on what is not meant to "
                "learn.")

    def terms(self, outcome, trained) -> None:
        """Every term of the objective by itself: does it depend on the student?"""
        for name in self.twin.objective.terms:
            part = outcome.parts.get(name)
            if part is None or not torch.isfinite(part).all():
                continue
            self.look(f"{name} depends on the student")
            found = (torch.autograd.grad(part.sum(), trained, retain_graph=True, allow_unused=True)
                     if part.requires_grad else ())
            # A loss of exactly 0 has reached its aim: no gradient is left.
            if not any(g is not None and g.any() for g in found) and float(part.detach().sum()):
                self.report(
                    f"The term {name} ignores the student: it has no gradient for it.",
                    "It changes the number that is logged, and nothing else.",
                    "Look for .detach(), argmax or no_grad on the student's side, and whether "
                    "teacher is compared with teacher.")

    def frozen(self, theirs: set[int]) -> None:
        """Would the teacher be trained along?"""
        if not self.networks:
            return
        self.look("the teacher is not trained")
        ours = {id(p) for p in self.twin.parameters()}
        loose = [p for network in self.networks for p in network.parameters()
                 if p.requires_grad and id(p) in theirs]
        pulled = [p for p in loose if p.grad is not None]
        held = [p for p in loose if id(p) in ours]
        if pulled and held:
            self.report(
                "The teacher is trained along: a gradient reaches it, and its parameters are among "
                "scheme.parameters().",
                "It is pulled towards the student, and the two agree on something easy.",
                "Keep it as self.teacher = kd.Live(model), or freeze it: "
                "teacher.requires_grad_(False), and ask it under torch.no_grad().")
        elif held:
            self.report(
                "The teacher's parameters are among scheme.parameters() and require a gradient.",
                "The optimiser gets them, and the next change to the loss trains them.",
                "Call teacher.requires_grad_(False), or keep it as self.teacher = kd.Live(model).")
        elif pulled:
            self.report(
                "A gradient reaches the teacher.",
                "That costs memory and time, and any optimiser that holds it would train it.",
                "Ask it under torch.no_grad(), or call teacher.requires_grad_(False).")

    # --- terms of one's own ---------------------------------------------------------------------

    # What is recognised by its value, or goes wrong for any loss on logits. That a loss differs
    # from Hinton's is no mistake.
    NAMED = ("classes", "temperature", "batch", "swapped", "probabilities", "teacher gradient",
             "overflow")

    def own_terms(self) -> None:
        for name, term in self.twin.objective.terms.items():
            ours = type(term).__module__.partition(".")[0] == "kdcourse"
            T = getattr(term, "T", None)
            if (ours or not term.needs_teacher or term.student_paths or term.teacher_paths
                    or not isinstance(T, (int, float)) or not T > 0):
                continue
            self.look(f"{name} keeps the laws of a distillation loss")
            for law, sentence in _broken(term, float(T)).items():
                if law in self.NAMED:
                    why = {"swapped": "If the reverse divergence is what you want, all is well.",
                           "temperature": "If its weight makes up for T, all is well."}
                    self.report(f"{name}: {sentence}", why.get(law, ""), "")

    # --- the teacher ----------------------------------------------------------------------------

    def ask(self, x: torch.Tensor) -> torch.Tensor | None:
        """The teacher's logits for these inputs; None where it cannot be asked."""
        try:
            if isinstance(self.teacher, nn.Module):
                return models.predict(self.teacher, x)
            logits = self.teacher.predict(x)
        except Exception:  # a teacher may answer in its own way, for its own data
            return None
        return None if logits is None else logits.float()

    def told(self, batch: Batch) -> torch.Tensor | None:
        """What the teacher says of a batch, the way the scheme asks it."""
        if isinstance(self.teacher, nn.Module):
            return None
        try:
            answer = self.teacher(batch)
            return models.logits_of(answer).float()
        except Exception:
            return None

    @torch.no_grad()
    def manners(self) -> None:
        """How the teacher answers, right or wrong."""
        self.twin.eval()
        for network in self.networks:
            network.eval()
        x, told = self.batch.x, self.told(self.batch)
        asked = self.ask(x)
        answers = told if told is not None else asked
        if answers is None:
            return
        self.look("the teacher answers with logits")
        if not torch.isfinite(answers).all() and not (answers == -torch.inf).any():
            self.report("The teacher answers with NaN or inf.", "So does the loss.",
                        "Look at its weights and at its inputs.")
            return
        if _probabilities(answers):
            self.report(
                "The teacher answers with probabilities, where logits belong.",
                "The softmax of a softmax is almost uniform: it hardly teaches anything.",
                "Take the softmax off its end.")
        if _probabilities(models.predict(self.twin.student, x)):
            self.report(
                "The student answers with probabilities, where logits belong.",
                "The softmax of a softmax is almost uniform: the loss cannot become small.",
                "Take the softmax off its end.")
        if asked is None:
            return
        close = 1e-3 * (asked.masked_fill(~asked.isfinite(), 0).std(correction=0) + 1e-6)
        again = self.ask(x)
        self.look("the teacher gives the same answer to the same image")
        if _apart(asked, again).max() > close:
            self.report(
                "The teacher changes its mind: the same batch twice, two answers, in eval mode.",
                "The student learns noise.",
                "Look for F.dropout(x) without training=self.training, and other chance in its "
                "forward.")
            return
        self.look("the teacher's answer does not depend on the rest of the batch")
        mates = torch.arange(1, len(x)).split((len(x) - 1) // 2)
        if len(mates[0]):
            one, other = (self.ask(torch.cat([x[:1], x[m]])) for m in mates[:2])
            if one is None or other is None or _apart(one[:1], other[:1]).max() > 10 * close:
                self.report(
                    "The teacher's answer to an image depends on the other images of the batch.",
                    "The same image teaches something else in every epoch, and single images "
                    "something else again.",
                    "Look for batch normalisation with track_running_stats=False: it has no "
                    "statistics of its own to use in eval mode.")
                return
        if told is not None:
            self.aligned(told, asked)

    def aligned(self, told, asked) -> None:
        """Does the scheme hear of each sample what the teacher says of that sample?"""
        self.look("the teacher's answers belong to their samples")
        spread = asked.masked_fill(~asked.isfinite(), 0).std(correction=0) + 1e-6
        off = _apart(told, asked).flatten(1).amax(1) > 0.1 * spread
        nearest = torch.cdist(_finite(told).cpu(), _finite(asked).cpu()).argmin(1)
        wrong = int((off.cpu() & (nearest != torch.arange(len(off)))).sum())
        if 2 * wrong > len(off):
            self.report(
                f"The teacher's answers belong to other samples: {wrong} of {len(off)} are what it "
                "says of another image.",
                "The student is taught the wrong thing about each image; what is left is label "
                "smoothing.",
                "Look answers up by batch.index, or make kd.Cached(teacher, data) again.")
        elif off.any() and isinstance(self.teacher, teachers.Cached):
            self.report(
                f"{int(off.sum())} of {len(off)} stored answers are not what the teacher says of "
                "these samples now.",
                "Either the teacher or the stored answers were changed since.",
                "Make kd.Cached(teacher, data) again.")

    # --- what the teacher knows -----------------------------------------------------------------

    @torch.no_grad()
    def knowledge(self) -> None:
        split, what = self.data.val, "validation"
        order = torch.randperm(len(split), generator=generator(0, "doctor"))[:SAMPLES]
        x, y = split.x[order], _hard(split.y[order])
        logits = self.ask(x.to(models.device_of(self.twin.student)))
        if logits is None:  # it answers for training samples only
            what, batches = "training", self.train.batches(min(100, len(self.train)), seed=0)
            rows = [(batch, self.told(batch)) for batch, _ in zip(batches, range(5), strict=False)]
            if any(answer is None for _, answer in rows):
                return
            x, y = None, torch.cat([_hard(batch.y).cpu() for batch, _ in rows])
            logits = torch.cat([answer for _, answer in rows])
        logits = logits.cpu()
        if y.max() >= logits.shape[1] or torch.isnan(logits).any():
            return
        accuracy, guessing = measure.accuracy(logits, y), _guessing(logits, y)
        self.look(f"what the teacher knows: {accuracy:.1%} of {len(y)} {what} samples")
        if accuracy < 0.95 and (self.other_inputs(x, y) or self.other_order(logits, y, what)):
            return  # that explains the rest
        if accuracy - guessing < max(0.1 * (1 - guessing), 2 * math.sqrt(guessing / len(y))):
            self.report(
                f"The teacher is hardly better than guessing: right on {accuracy:.1%} of {len(y)} "
                f"{what} samples, where guessing gives {guessing:.1%}.",
                "Then it has nothing to teach.",
                "Was it trained, and were its weights loaded, those of the last layer too? Are its "
                "inputs what it was trained on?")
        elif x is not None:
            self.look("the teacher is better than the student")
            theirs = measure.accuracy(models.predict(self.twin.student, x).cpu(), y)
            if _better(theirs, accuracy, len(y), margin=0.02):
                self.report(
                    f"The student is better than its teacher already: {theirs:.1%} against "
                    f"{accuracy:.1%} of {len(y)} validation samples.",
                    "It would be pulled down to it.",
                    "Are the two in each other's place?")

    def other_inputs(self, x, y) -> bool:
        """Would the teacher be clearly better if it saw the images otherwise?"""
        if x is None:
            return False
        self.look("the teacher's inputs are normalised as it expects")
        x, y = x[:FEWER], y[:FEWER]
        device = models.device_of(self.twin.student)
        right = {}
        for words, seen, remedy in [("", x, ""), *_otherwise(x, self.teacher)]:
            logits = self.ask(seen.to(device))
            if logits is None:
                continue
            right[words] = (measure.accuracy(logits.cpu(), y), remedy)
        asis, _ = right.pop("", (1.0, ""))
        words = max(right, key=lambda words: right[words][0], default=None)
        if words is None or not _better(right[words][0], asis, len(y), margin=0.1):
            return False
        best, remedy = right[words]
        self.report(
            f"The teacher expects other inputs: with {words} it is right on {best:.1%} of {len(y)} "
            f"validation samples, as they are on {asis:.1%}.",
            "It was trained with another normalisation, and here it guesses from what it never "
            "saw.", remedy)
        return True

    def other_order(self, logits, y, what) -> bool:
        """Would the teacher be clearly better if its outputs stood for other classes?"""
        from scipy.optimize import linear_sum_assignment

        K = len(self.data.classes)
        if len(y) < 2 * K:
            return False
        self.look("the teacher's outputs are in the order of the classes")
        answers, ranked = logits.argmax(1), y.argsort(stable=True)
        right = 0
        for fitted, tried in ((ranked[::2], ranked[1::2]), (ranked[1::2], ranked[::2])):
            # The order is found on one half and judged on the other: chance finds one, too.
            _, order = linear_sum_assignment(_counts(answers[fitted], y[fitted], K, logits.shape[1])
                                             .numpy(), maximize=True)
            right += int((torch.from_numpy(order)[y[tried]] == answers[tried]).sum())
        asis, best = measure.accuracy(logits, y), right / len(y)
        if best < 0.3 or not _better(best, asis, len(y), margin=0.1):
            return False
        counts = _counts(answers, y, K, logits.shape[1])
        _, order = linear_sum_assignment(counts.numpy(), maximize=True)
        moved = [k for k in range(K) if order[k] != k and counts[k, order[k]] > 0]
        shown = ", ".join(f"{self.data.classes[k]!r} is its output {order[k]}, not {k}"
                          for k in moved[:3])
        self.report(
            f"The teacher's classes are in another order: with its outputs reordered it is right "
            f"on {best:.1%} of {len(y)} {what} samples, as they are on {asis:.1%}.",
            f"It teaches the wrong class: {shown}{', and so on' if len(moved) > 3 else ''}.",
            "Bring its outputs into the order of data.classes: logits[:, order].")
        return True

    # --- the optimiser --------------------------------------------------------------------------

    def optimiser(self, optimizer) -> None:
        self.look("the optimiser holds what is to be trained, and nothing of the teacher")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        ours = dict(self.scheme.named_parameters())
        students = {id(p) for student in self.scheme.students for p in student.parameters()}
        theirs = {id(p) for network in _networks(getattr(self.scheme, "teacher", None))
                  for p in network.parameters()} - students
        if held & theirs:
            self.report(
                f"The optimiser holds {len(held & theirs)} parameters of the teacher.",
                "As soon as a gradient, or only weight decay, reaches them, the teacher changes.",
                "Give it [p for p in scheme.parameters() if p.requires_grad], with the teacher "
                "frozen.")
        trained = {name for name, p in self.twin.named_parameters() if p.requires_grad}
        teachers_own = {name for name, p in ours.items() if id(p) in theirs}
        missing = sorted(name for name in trained - teachers_own
                         if name not in ours or id(ours[name]) not in held)
        if not held & students and any(p.requires_grad for s in self.scheme.students
                                       for p in s.parameters()):
            self.report(
                "The optimiser holds no parameter of the student.",
                "Another network is trained, or none.",
                "Make a new optimiser for every new student.")
        elif missing:
            unbuilt = [name for name in missing if name not in ours]
            self.report(
                f"The optimiser lacks {len(missing)} of the parameters that are to be trained: "
                f"{_some(missing)}.",
                "They stay as they were drawn.",
                "They are made in scheme.build(batch, seed): call it before you make the optimiser."
                if unbuilt else "Make the optimiser of scheme.parameters().")


# --- a copy to look at --------------------------------------------------------------------------


def _twin(scheme, data):
    """A copy that shares no weight with the scheme, not even the teacher's; data is not copied."""
    memo = {}
    for split in (data.train, data.val, data.test):
        memo |= {id(thing): thing for thing in (split, split.x, split.y)}
    memo |= {id(data): data, id(data.params): data.params}
    for module in scheme.modules():
        for value in vars(module).values():  # what a forward left there and torch does not copy
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    for value in vars(scheme).values():
        _copy_teacher(value, memo)
    try:
        return copy.deepcopy(scheme, memo)
    except Exception as error:
        raise TypeError(f"Expected a scheme that copy.deepcopy can copy, to look at the copy; got "
                        f"{type(error).__name__}: {error}") from error


def _copy_teacher(thing, memo) -> None:
    """Teachers share themselves with their copies; here they must not."""
    if isinstance(thing, (list, tuple)):
        for part in thing:
            _copy_teacher(part, memo)
    elif (not isinstance(thing, (nn.Module, torch.Tensor, type)) and id(thing) not in memo
          and hasattr(type(thing), "__deepcopy__") and hasattr(thing, "__dict__")
          and callable(thing)):
        memo[id(thing)] = twin = copy.copy(thing)
        for value in vars(thing).values():
            _copy_teacher(value, memo)
        vars(twin).update({name: copy.deepcopy(value, memo)
                           for name, value in vars(thing).items()})


def _networks(thing, depth: int = 4) -> list[nn.Module]:
    """The networks in a teacher, each once."""
    if isinstance(thing, nn.Module):
        return [thing]
    if depth == 0 or thing is None or isinstance(thing, (torch.Tensor, str, type)):
        return []
    if isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, (list, tuple)):
        parts = list(thing)
    else:
        parts = list(getattr(thing, "__dict__", {}).values())
    found = [network for part in parts[:1000] for network in _networks(part, depth - 1)]
    return list({id(network): network for network in found}.values())


@contextlib.contextmanager
def _watching(networks):
    """Collects the paths of the modules that are called in train mode."""
    awake, hooks = [], []
    for network in networks:
        for path, module in network.named_modules():
            def note(module, args, path=path):
                if module.training:
                    awake.append(path)

            hooks.append(module.register_forward_pre_hook(note))
    try:
        yield awake
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _chance_untouched(device):
    """Chance is fixed inside the block; afterwards all generators stand where they stood."""
    accelerator = getattr(torch, device.type, None) if device.type != "cpu" else None
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    there = accelerator.get_rng_state() if hasattr(accelerator, "get_rng_state") else None
    torch.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(python), np.random.set_state(numpy), torch.set_rng_state(cpu)  # noqa: NPY002
        if there is not None:
            accelerator.set_rng_state(there)


def _state(network) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _parameters(*sources) -> list[nn.Parameter]:
    return list({id(p): p for source in sources for p in source}.values())


# --- arithmetic ---------------------------------------------------------------------------------


def _broken(term, T: float) -> dict[str, str]:
    """The laws that a term of one's own breaks; none where it cannot be asked like that."""
    term = copy.deepcopy(term).eval()

    def loss(student, teacher, at):
        term.T = at
        labels = torch.arange(len(student)) % student.shape[1]
        return term(models.View(student), models.View(teacher), labels)

    try:
        return checks.broken_laws(loss, T)
    except Exception:  # it wants other shapes, or a teacher of its own
        return {}


def _otherwise(x, teacher):
    """Other ways to show the same inputs: what was done, the inputs, what to do about it."""
    low, high = float(x.min()), float(x.max())
    channels = x.shape[1] if x.ndim == 4 else 1
    dims = (0, 2, 3) if x.ndim == 4 else tuple(range(x.ndim))
    per_channel = (-1, 1, 1) if x.ndim == 4 else (-1,)

    def live(mean, std):
        return f"Say so: kd.Live(model, mean={mean}, std={std}), or put it in front of the model."

    ways = []
    if low >= 0 and high <= 1:
        ways += [("inputs from 0 to 255", x * 255, live(0, "1 / 255")),
                 ("inputs from -1 to 1", 2 * x - 1, live(0.5, 0.5))]
    elif low >= 0:
        ways += [("inputs divided by 255", x / 255,
                  "Divide by 255: data in this package lies in [0, 1].")]
    else:
        ways += [("inputs brought back from [-1, 1] to [0, 1]", (x + 1) / 2,
                  "Leave inputs in [0, 1]: every model normalises for itself.")]
    mean, std = (torch.tensor(row) for row in IMAGENET)
    if channels == 1:
        mean, std = mean.mean()[None], std.mean()[None]
    if channels in (1, 3) and x.ndim == 4:
        mean, std = mean.view(per_channel), std.view(per_channel)
        ways += [("ImageNet's mean and standard deviation", (x - mean) / std,
                  live(*([round(v, 3) for v in row.flatten().tolist()] for row in (mean, std)))),
                 ("ImageNet's normalisation undone", x * std + mean,
                  "Normalise once: the model does it already.")]
    if channels == 3:
        ways += [("the channels in reverse (BGR)", x.flip(1), "Reverse them: x.flip(1).")]
    mean, std = x.mean(dims).view(per_channel), x.std(dims).clamp_min(1e-6).view(per_channel)
    ways += [("the data's own mean and standard deviation", (x - mean) / std,
              live(*([round(v, 3) for v in row.flatten().tolist()] for row in (mean, std)))),
             ("light and dark reversed", low + high - x, "Reverse them: 1 - x.")]
    mine, spread = getattr(teacher, "mean", None), getattr(teacher, "std", None)
    if isinstance(mine, torch.Tensor) and isinstance(spread, torch.Tensor) and x.ndim == 4:
        undone = x * spread.to(x).view(per_channel) + mine.to(x).view(per_channel)
        ways += [("the mean and std of kd.Live left out", undone,
                  "Leave them out: the model normalises for itself.")]
    return ways


def _better(one: float, other: float, count: int, margin: float) -> bool:
    """Clearly: by the margin, and by more than three standard errors of a difference."""
    error = math.sqrt((one * (1 - one) + other * (1 - other)) / count)
    return one - other > max(margin, 3 * error)


def _guessing(logits, y) -> float:
    """The accuracy of the same answers, given to the wrong images."""
    classes = logits.shape[1]
    share = torch.bincount(logits.argmax(1), minlength=classes) / len(y)
    return float((share * torch.bincount(y, minlength=classes) / len(y)).sum())


def _counts(answers, y, K: int, outputs: int) -> torch.Tensor:
    """[K, outputs]: how often each class got each answer."""
    return torch.bincount(y * outputs + answers, minlength=K * outputs).view(K, outputs)


def _apart(a, b) -> torch.Tensor:
    return (_finite(a) - _finite(b)).abs()


def _finite(logits) -> torch.Tensor:
    """A masked class (-inf) must not turn a difference into NaN."""
    return torch.nan_to_num(logits, neginf=0.0)


def _probabilities(logits) -> bool:
    return bool((logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all())


def _hard(y) -> torch.Tensor:
    return y if y.ndim == 1 else y.argmax(1)


def _said(error: Exception) -> str:
    words = str(error).strip() or "no message"
    return words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
