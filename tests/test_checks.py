"""Checks: every planted mistake gets its sentence, and what is right passes."""

import warnings

import pytest
import torch
import torch.nn.functional as F

import kdcourse as kd
from kdcourse import checks, losses
from kdcourse.experiment import Comparison


def kl(s, t, T, reduction="batchmean"):
    with warnings.catch_warnings():  # torch warns of reduction="mean" itself
        warnings.simplefilter("ignore")
        return F.kl_div((s / T).log_softmax(1), (t / T).softmax(1), reduction=reduction)


def by_hand(s, t, T):
    """Right in the middle, and NaN where the teacher's probability underflows."""
    p, log_q = (t.detach() / T).softmax(1), (s / T).log_softmax(1)
    return T**2 * (p * (p.log() - log_q)).sum(1).mean()


def in_place(s, t, T):
    return losses.kd(s.div_(2), t, T)


RIGHT = {
    "ours": losses.kd,
    "by keyword": lambda student, teacher, T: losses.kd(student, teacher, T),
    "kl_div": lambda s, t, T: T**2 * kl(s, t.detach(), T),
    "log targets": lambda s, t, T: T**2 * F.kl_div(
        (s / T).log_softmax(1), (t.detach() / T).log_softmax(1), reduction="batchmean",
        log_target=True),
}
WRONG = {
    "mean over classes": (lambda s, t, T: T**2 * kl(s, t, T, "mean"),
                          'divided by the number of classes.*reduction="batchmean"'),
    "no T²": (lambda s, t, T: kl(s, t, T), r"T² is missing.*Multiply by T\*\*2"),
    "no T², mean over classes": (lambda s, t, T: kl(s, t, T, "mean"),
                                 "T² is missing and it is divided by the number of classes"),
    "summed over the batch": (lambda s, t, T: T**2 * kl(s, t, T, "sum"), "summed over the batch"),
    "swapped": (lambda s, t, T: losses.kd(t, s, T), "student and teacher are swapped"),
    "multiplied by T": (lambda s, t, T: T**2 * kl(s * T, t * T, 1), "multiplied by T, not divided"),
    "T on the teacher only": (lambda s, t, T: T**2 * kl(s * T, t, T), "softens the teacher only"),
    "T on the student only": (lambda s, t, T: T**2 * kl(s, t * T, T), "softens the student only"),
    "no log": (lambda s, t, T: T**2 * F.kl_div((s / T).softmax(1), (t / T).softmax(1),
                                               reduction="batchmean"),
               "at least 0, got -.*wants log-probabilities of the student"),
    "soft cross-entropy": (losses.soft_cross_entropy, "cross-entropy with soft targets"),
    "not 0 at equality": (lambda s, t, T: losses.kd(s, t, T) + 1, "Expected 0 where .* got 1.0"),
    "something else": (lambda s, t, T: (s - t).square().mean(), r"Compare with T² Σ p log\(p / q"),
    "softmax of a softmax": (lambda s, t, T: losses.kd(s.softmax(1), t.softmax(1), T), "Expected"),
    "NaN": (lambda s, t, T: losses.kd(s, t, T) * torch.nan, "got nan"),
    "student detached": (lambda s, t, T: losses.kd(s.detach(), t, T), "gradient for the student"),
    "teacher pulled": (lambda s, t, T: T**2 * kl(s, t, T), "no gradient for the teacher, got one"),
    "log of a softmax": (lambda s, t, T: T**2 * F.kl_div((s / T).softmax(1).log(),
                                                        (t.detach() / T).softmax(1),
                                                        reduction="batchmean"),
                         "finite loss for logits of ±100, got (inf|nan).*use log_softmax"),
    "p log p by hand": (by_hand, "finite loss for logits of ±100, got nan"),
    "per sample": (lambda s, t, T: losses.kd(s, t, T, "none"), r"one number .* got \[8\]. Sum"),
    "a float": (lambda s, t, T: float(losses.kd(s.detach(), t, T)), "one number .* got float"),
    "in place": (in_place, "changed them in place"),
}


@pytest.mark.parametrize("T", [2.0, 4.0])
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes_in_silence(name, T, capsys):
    checks.distillation_loss(RIGHT[name], T)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", WRONG)
def test_a_planted_mistake_gets_its_sentence(name):
    function, message = WRONG[name]
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        checks.distillation_loss(function)


def stub(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize("check", [checks.distillation_loss, checks.freezes_teacher])
def test_a_stub_is_not_done_yet(check, capsys):
    check(stub)
    assert "Not done yet" in capsys.readouterr().out


# --- a training step ----------------------------------------------------------------------------


def step(student, teacher, x, y, optimizer, *, mode=False, grad=False, learn=True, more=()):
    teacher.train(mode)
    with torch.set_grad_enabled(grad):
        t = teacher(x)
    loss = losses.hinton()(student(x), t, y) + sum(p.square().sum() for p in more)
    optimizer.zero_grad()
    loss.backward()
    if learn:
        optimizer.step()


def drops_out(student, teacher, x, y, optimizer):
    teacher.eval()[4].train()
    with torch.no_grad():
        t = teacher(x)
    losses.hinton()(student(x), t, y).backward()
    optimizer.step()


def trains_the_teacher(student, teacher, x, y, optimizer):
    step(student, teacher, x, y, optimizer, more=teacher.parameters())
    torch.optim.SGD(teacher.parameters(), lr=0.1).step()


BAD_STEPS = {
    "train mode": (lambda *a: step(*a, mode=True), r"batch statistics moved .*teacher.eval\(\)"),
    "dropout on": (drops_out, "changes its mind: dropout is on"),
    "teacher learns": (trains_the_teacher, "its weights moved"),
    "gradient in the teacher": (
        lambda s, t, *a: step(s, t, *a, more=t.parameters()), "no gradient in the teacher"),
    "never asked": (lambda s, t, x, y, o: None, "it was never called"),
    "nothing learned": (lambda *a: step(*a, learn=False), "none of its weights moved"),
}


def test_a_step_that_freezes_its_teacher_passes():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    checks.freezes_teacher(step)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", BAD_STEPS)
def test_a_careless_step_gets_its_sentence(name):
    function, message = BAD_STEPS[name]
    with pytest.raises(AssertionError, match=message):
        checks.freezes_teacher(function)


# --- a comparison -------------------------------------------------------------------------------


def rows(arm, seeds=5, **changes):
    return [{"arm": arm, "seed": seed, "recipe": "Recipe(epochs=5, lr=0.1, clip=None)",
             "data": "glyphs", "split": "val"} | changes for seed in range(seeds)]


@pytest.mark.parametrize(("other", "message"), [
    (rows("b"), None),
    (rows("b", recipe="Recipe(epochs=5, lr=0.3, clip=None)"), None),  # tuned for each arm
    (rows("b", 3), "at least 5 seeds per arm, got 3 for 'b'"),
    (rows("b", 6), "the same seeds for 'b' as for 'a'"),
    (rows("b", recipe="Recipe(epochs=9, lr=0.1, clip=None)"), "the same budget for 'b'"),
    (rows("b", data="digits"), "the same budget for 'b'"),
    (rows("b", split="test"), "the same budget for 'b'"),
])
def test_arms_have_the_same_budget(other, message):
    comparison = Comparison(rows("a") + other, "a")
    if message is None:
        checks.same_budget(comparison)
    else:
        with pytest.raises(AssertionError, match=message):
            checks.same_budget(comparison)


def test_every_check_is_tried_here():
    tried = {"distillation_loss", "freezes_teacher", "same_budget"}
    public = {name for name, value in vars(kd.checks).items()
              if callable(value) and not name.startswith("_")
              and getattr(value, "__module__", "") == "kdcourse.checks"}
    assert public == tried
