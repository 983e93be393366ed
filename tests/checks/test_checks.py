"""Checks: every planted mistake gets its sentence, and what is right passes."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from conftest import network

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


def log_softmax(x, T):
    return (x / T).log_softmax(1)


def softmax(x, T=1.0):
    return (x / T).softmax(1)


def divided_by_8(s, t, T):
    return losses.kd(s, t, T, "none").sum() / 8


def squeezed(s, t, T):
    """Takes a batch of one for a single sample."""
    s, t = s.squeeze(), t.squeeze()
    log_q, log_p = (s / T).log_softmax(-1), (t.detach() / T).log_softmax(-1)
    return T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def half_detached(s, t, T):
    """The right value, with a gradient for half of the batch."""
    return losses.kd(torch.cat([s[: len(s) // 2].detach(), s[len(s) // 2:]]), t, T)


def padded(s, t, T):
    """Fine in float32, 0 · log 0 where 1e-10 rounds to 0."""
    p = softmax(t.detach(), T)
    return T**2 * (p * ((p + 1e-10).log() - log_softmax(s, T))).sum(1).mean()


def capped(s, t, T):
    p = softmax(t.detach(), T)
    log_q = (softmax(s, T) + 1e-8).log()
    return T**2 * (p * (log_softmax(t.detach(), T) - log_q)).sum(1).mean()


def bregman(s, t):
    return s.logsumexp(1) - t.logsumexp(1) - (t.softmax(1) * (s - t)).sum(1)


RIGHT = {
    "ours": losses.kd,
    "by keyword": lambda student, teacher, T: losses.kd(student, teacher, T),
    "kl_div": lambda s, t, T: T**2 * kl(s, t.detach(), T),
    "log targets": lambda s, t, T: T**2 * F.kl_div(
        (s / T).log_softmax(1), (t.detach() / T).log_softmax(1), reduction="batchmean",
        log_target=True),
    # Other ways to write the same number, each with its own rounding.
    "in float32": lambda s, t, T: losses.kd(s.float(), t.float(), T),
    "minus the entropy, in float32": lambda s, t, T: T**2 * (
        F.cross_entropy(s.float() / T, softmax(t.detach().float(), T))
        + (softmax(t.detach().float(), T) * log_softmax(t.detach().float(), T)).sum(1).mean()),
    "as a Bregman divergence, in float32": lambda s, t, T: T**2 * bregman(
        s.float() / T, t.detach().float() / T).mean(),
    "one number with a dimension": lambda s, t, T: losses.kd(s, t, T)[None],
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
    "softmax of a softmax": (lambda s, t, T: losses.kd(s.softmax(1), t.softmax(1), T),
                             "both sides are probabilities, where logits belong"),
    "softmax of a softmax at T": (lambda s, t, T: losses.kd(softmax(s, T), softmax(t, T), T),
                                  "both sides are probabilities, where logits belong"),
    "softmax of a softmax, T once": (lambda s, t, T: losses.kd(softmax(s, T), softmax(t, T), 1),
                                     "both sides are probabilities.*Also, T² is missing"),
    "student ends with a softmax": (lambda s, t, T: losses.kd(s.softmax(1), t, T),
                                    "the student's answers are probabilities"),
    "teacher ends with a softmax": (lambda s, t, T: losses.kd(s, t.softmax(1), T),
                                    "the teacher's answers are probabilities"),
    "wants probabilities": (lambda p, q, T: T**2 * (q * (q.log() - p.log())).sum(1).mean(),
                            "your function wants probabilities, and .* with logits"),
    "wants log-probabilities": (lambda p, q, T: F.kl_div(p, q, reduction="batchmean",
                                                         log_target=True),
                                r"wants log-probabilities, and .* multiply by T\*\*2"),
    "F.kl_div as it is": (lambda s, t, T: F.kl_div(s, t, reduction="batchmean") * T**2,
                          "wants log-probabilities of the student and probabilities of the te"),
    "log targets without log_target": (
        lambda s, t, T: T**2 * F.kl_div(log_softmax(s, T), log_softmax(t, T),
                                        reduction="batchmean"),
        "A logarithm met 0 or less.*wants log-probabilities of the student"),
    "log_target with probabilities": (
        lambda s, t, T: T**2 * F.kl_div(log_softmax(s, T), softmax(t, T), reduction="batchmean",
                                        log_target=True),
        "with log_target=True F.kl_div wants logarithms"),
    "raw student": (lambda s, t, T: T**2 * F.kl_div(s / T, softmax(t, T), reduction="batchmean"),
                    "logits go in without log_softmax"),
    "swapped without a log": (
        lambda s, t, T: T**2 * F.kl_div(softmax(t, T), softmax(s, T), reduction="batchmean"),
        "at least 0, got -.*student and teacher are swapped, and a logarithm is missing"),
    "swapped, mean over classes": (lambda s, t, T: T**2 * kl(t, s, T, "mean"),
                                   "are swapped: .* Also, it is divided by the number of classes"),
    "the other sign": (lambda s, t, T: -losses.kd(s, t, T), "got -.*its sign is wrong"),
    "T once": (lambda s, t, T: T * kl(s, t.detach(), T), "multiplied by T, not by T²"),
    "T² twice": (lambda s, t, T: T**2 * losses.kd(s, t, T), "T² is there twice"),
    "batch twice": (lambda s, t, T: losses.kd(s, t, T) / len(s), "by the batch size twice"),
    "summed, no T²": (lambda s, t, T: kl(s, t, T, "sum"), "summed over the batch, and T² is mis"),
    "cross-entropy, no T²": (lambda s, t, T: losses.soft_cross_entropy(s, t, T) / T**2,
                             "cross-entropy with soft targets. Also, T² is missing"),
    "negative": (lambda s, t, T: (s - t).mean() - 9, "at least 0, got -.*never negative"),
    "a batch size in it": (divided_by_8, "same mean in any batching.* for one sample at a time"),
    "squeeze": (squeezed, "same mean in any batching.* for one sample at a time: .*squeeze"),
    "wrong gradient": (half_detached, "although the value is right.*detached"),
    "overflow in half precision": (padded, "±20 in half precision, got (nan|inf)"),
    "a small number in the logarithm": (capped, r"Expected 200.0 .* got 18.4.*Use log_softmax"),
    "NaN": (lambda s, t, T: losses.kd(s, t, T) * torch.nan, "got nan"),
    "student detached": (lambda s, t, T: losses.kd(s.detach(), t.detach(), T),
                         "gradient for the student"),
    "teacher pulled": (lambda s, t, T: T**2 * kl(s, t, T), "no gradient for the teacher, got one"),
    "log of a softmax": (lambda s, t, T: T**2 * F.kl_div((s / T).softmax(1).log(),
                                                        (t.detach() / T).softmax(1),
                                                        reduction="batchmean"),
                         "finite loss for logits of ±100, got (inf|nan).*use log_softmax"),
    "p log p by hand": (by_hand, "finite loss for logits of ±100, got nan"),
    "per sample": (lambda s, t, T: losses.kd(s, t, T, "none"), r"one number .* got \[8\]. Sum"),
    "a float": (lambda s, t, T: float(losses.kd(s.detach(), t.detach(), T)),
                "one number .* got float"),
    "in place": (in_place, "changed them in place"),
}


@pytest.mark.parametrize("T", [1.0, 2.0, 4.0, 20.0, 100.0])
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name, T, capsys):
    checks.distillation_loss(RIGHT[name], T)
    assert capsys.readouterr().out == "✓ It passes.\n"


@pytest.mark.parametrize("name", WRONG)
def test_a_planted_mistake_gets_its_sentence(name):
    function, message = WRONG[name]
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        checks.distillation_loss(function)


def stub(*arguments):
    raise NotImplementedError


def test_a_masked_class_is_asked_for():
    checks.distillation_loss(losses.kd, masked=True)
    checks.distillation_loss(RIGHT["log targets"])
    for name in ("kl_div", "log targets"):
        with pytest.raises(AssertionError, match=r"one class at -inf on both sides, got nan.*mask"):
            checks.distillation_loss(RIGHT[name], masked=True)
    assert "masked" in checks.broken_laws(RIGHT["kl_div"])


def test_a_right_loss_without_half_precision_passes():
    def loss(s, t, T):
        if s.dtype == torch.float16:
            raise RuntimeError("\"log_softmax\" not implemented for 'Half'")
        return losses.kd(s, t, T)

    checks.distillation_loss(loss)


def test_broken_laws_have_names():
    assert checks.broken_laws(losses.kd) == {}
    broken = checks.broken_laws(lambda s, t, T: kl(s, t, T, "mean"), T=3)
    assert list(broken) == ["temperature", "teacher gradient"]
    assert broken["temperature"].endswith('Multiply by T**2 and use reduction="batchmean".')
    for T in (1.0, 2.0, 4.0, 20.0, 100.0):
        assert checks.broken_laws(losses.kd, T) == {}
        assert "swapped" in checks.broken_laws(lambda s, t, T: losses.kd(t, s, T), T)
    assert "temperature" not in checks.broken_laws(lambda s, t, T: kl(s, t.detach(), T), T=1)


def test_every_law_is_answered_whatever_the_function_does():
    detached = checks.broken_laws(lambda s, t, T: losses.kd(s.detach(), t.detach(), T))
    assert list(detached) == ["student gradient"]
    # Divided by T = 1 the numbers stay, and it is the student's own tensor all the same.
    assert list(checks.broken_laws(lambda s, t, T: losses.kd(s.div_(T), t, T), 1.0)) == ["in place"]


@pytest.mark.parametrize("weight", [1 / 2, 1 / 10])  # 8 samples over T², and one over 10 classes
def test_a_weight_is_not_taken_for_a_wrong_mean(weight):
    assert list(checks.broken_laws(lambda s, t, T: weight * losses.kd(s, t, T))) == ["value"]


@pytest.mark.parametrize("name", ["something else", "not 0 at equality", "soft cross-entropy"])
def test_another_kind_of_loss_is_not_taken_for_a_mistake(name):
    function, _ = WRONG[name]
    by_value = {"classes", "temperature", "batch", "swapped", "softened", "probabilities",
                "logarithm"}
    assert not by_value & checks.broken_laws(function).keys()


# --- where a gradient goes ----------------------------------------------------------------------


@pytest.mark.parametrize(("function", "message"), [
    (lambda s, t: (s - t.detach()).square().mean(), None),
    (lambda s, t: (s - t).square().mean(), r"no gradient for the teacher, got one.*detach\(\)"),
    (lambda s, t: (s.detach() - t).square().mean(), "a gradient for the student, got none"),
    (lambda s, t: 0 * s.sum(), "a gradient for the student, got none"),
    (lambda s, t: torch.tensor(1.0), "a gradient for the student, got none"),
    (lambda s, t: ((s - s).square().sum().sqrt() - 1).square(),
     "a finite gradient for the student"),
    (lambda s, t: (s - t).square(), r"one number .* got \[8, 10\]"),
])
def test_a_gradient_reaches_the_student_only(function, message):
    if message is None:
        checks.student_only_gradient(function)
    else:
        with pytest.raises(AssertionError, match=message):
            checks.student_only_gradient(function)


def test_a_gradient_is_tried_on_features_too():
    seen = []

    def relation(s, t):
        seen.append((s.shape, t.shape))
        return (s @ s.T - (t @ t.T).detach()).square().mean()

    student, teacher = torch.randn(4, 6), torch.randn(4, 9)
    checks.student_only_gradient(relation, student, teacher)
    assert seen == [((4, 6), (4, 9))]
    assert not student.requires_grad


@pytest.mark.parametrize("check", [
    checks.distillation_loss, checks.freezes_teacher, checks.distillation_step,
    checks.student_only_gradient,
    lambda stub: checks.same_loss(stub, losses.rkd_distance, *RELATION)])
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


def in_halves(student, teacher, x, y, optimizer):
    for part, labels in zip(x.split(5), y.split(5), strict=True):
        step(student, teacher, part, labels, optimizer)


def in_half_precision(student, teacher, x, y, optimizer):
    with torch.autocast("cpu", torch.bfloat16):
        step(student, teacher, x, y, optimizer)


@pytest.mark.parametrize("careful", [
    lambda s, t, x, y, o: step(s, t, x + 0.1 * torch.randn_like(x), y, o),  # augmented anew
    in_halves, in_half_precision])
def test_a_teacher_may_be_shown_something_else_each_time(careful):
    checks.freezes_teacher(careful)


@pytest.mark.parametrize("name", BAD_STEPS)
def test_a_careless_step_gets_its_sentence(name):
    function, message = BAD_STEPS[name]
    with pytest.raises(AssertionError, match=message):
        checks.freezes_teacher(function)


def whole(student, teacher, x, y, optimizer, *, T=4.0, alpha=0.9, factor=None, zero=True,
          train=True, mean="batchmean"):
    """One step of Hinton's loss in plain PyTorch, with places for mistakes."""
    with torch.no_grad():
        answers = teacher.eval()(x)
    logits = student.train(train)(x)
    soft = F.kl_div(F.log_softmax(logits / T, 1), F.softmax(answers / T, 1), reduction=mean)
    factor = T**2 if factor is None else factor
    loss = (1 - alpha) * F.cross_entropy(logits, y) + alpha * factor * soft
    if zero:
        optimizer.zero_grad()
    loss.backward()
    optimizer.step()


WRONG_STEPS = {
    "labels only": ({"alpha": 0.0}, "labels only: the teacher's output is not in the loss"),
    "weights exchanged": ({"alpha": 0.1}, "the weights exchanged"),
    "no labels": ({"alpha": 1.0}, "without labels"),
    "no temperature": ({"T": 1.0}, "got one at T = 1"),
    "no square": ({"factor": 1.0}, "without the factor T²"),
    "old gradient": ({"zero": False}, r"optimizer\.zero_grad\(\)"),
    "eval mode": ({"train": False}, "student in eval mode"),
    "mean over classes": ({"mean": "mean"}, "got another one. Are both terms means over"),
    "T = 3": ({"T": 3.0}, "got another one"),
}


def test_a_right_step_of_distillation_passes(capsys):
    checks.distillation_step(whole)
    checks.distillation_step(lambda *a: whole(*a, T=2.0, alpha=0.5), T=2.0, alpha=0.5)
    assert capsys.readouterr().out.count("✓") == 2


@pytest.mark.any_device
def test_a_step_in_mixed_precision_is_a_right_step(capsys):
    def mixed(*args):
        with torch.autocast("cpu", torch.bfloat16):
            whole(*args)

    checks.distillation_step(mixed)
    assert "✓" in capsys.readouterr().out


def test_settings_of_a_step_that_make_no_sense():
    with pytest.raises(ValueError, match=r"alpha between 0 and 1, got 1\.5"):
        checks.distillation_step(whole, alpha=1.5)
    with pytest.raises(ValueError, match="got 0"):
        checks.distillation_step(whole, T=0)


@pytest.mark.parametrize("name", WRONG_STEPS)
def test_a_wrong_step_of_distillation_gets_its_sentence(name):
    change, message = WRONG_STEPS[name]
    with pytest.raises(AssertionError, match=message):
        checks.distillation_step(lambda *a: whole(*a, **change))


@pytest.mark.parametrize("name", BAD_STEPS)
def test_a_step_that_moves_its_teacher_is_no_step_of_distillation(name):
    function, message = BAD_STEPS[name]
    with pytest.raises(AssertionError, match=message):
        checks.distillation_step(function)


# --- a comparison -------------------------------------------------------------------------------


def rows(arm, seeds=5, **changes):
    return [{"arm": arm, "seed": seed, "recipe": "Recipe(epochs=5, lr=0.1, clip=None)",
             "data": "glyphs", "split": "val"} | changes for seed in range(seeds)]


@pytest.mark.parametrize(("other", "message"), [
    (rows("b"), None),
    (rows("b", recipe="Recipe(epochs=5, lr=0.3, clip=None)"), None),  # tuned for each arm
    (rows("b", recipe="Recipe(epochs=5, lr=0.3, weight_decay=0.0, clip=None)"), None),
    (rows("b", recipe="Recipe(epochs=5, lr=0.1, clip=1.0)"), "the same budget for 'b'"),
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


# --- any loss against one that is right ---------------------------------------------------------

RELATION = ((6, 8), (6, 32))


def test_a_right_loss_is_the_same_loss():
    checks.same_loss(losses.rkd_distance, losses.rkd_distance, *RELATION)
    checks.same_loss(lambda s, t: losses.kd(s, t, 2.0), lambda s, t: 4 * kl(s, t.detach(), 2.0))
    maps = [(4, 3, 5, 5), (4, 6, 2, 2)]

    def sum_of(student, teacher):
        return sum(losses.attention_transfer(*pair) for pair in zip(student, teacher, strict=True))

    checks.same_loss(sum_of, sum_of, maps)


@pytest.mark.parametrize(("function", "message"), [
    (lambda s, t: 6 * losses.rkd_distance(s, t), "it is 6 times that, whatever the input"),
    (lambda s, t: -losses.rkd_distance(s, t), "it is -1 times that"),
    (lambda s, t: losses.rkd_distance(s, t) + 1, "not by a constant factor"),
    (lambda s, t: losses.rkd_distance(s, t).detach() + 0 * s.sum(), "gradient for the student"),
    (lambda s, t: losses.rkd_distance(s, t).detach() + s.sum() - s.sum().detach(),
     "gradient of the formula"),
    (lambda s, t: losses.rkd_distance(s, t) + t.sum() - t.sum().detach(),
     "no gradient for the teacher"),
    (lambda s, t: losses.rkd_distance(s, t).expand(3), "Expected one number"),
    (lambda s, t: losses.rkd_distance(s.div_(2), t), "changed them in place"),
])
def test_another_loss_is_not_the_same_loss(function, message):
    with pytest.raises(AssertionError, match=message):
        checks.same_loss(function, losses.rkd_distance, *RELATION)


# --- stored answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [None, 1, 2])
def test_answers_that_belong_to_their_samples(data, views):
    own = data if views is None else kd.augmented(data, views=views, shift=0.2)
    teacher = network(3)
    cached = kd.Cached(teacher, own)
    checks.aligned(cached, own)
    logits, order = cached.logits, torch.arange(len(data.train)).roll(1)
    if views is None:
        checks.aligned(kd.Cached.of(logits, own, "the same"), own, teacher)
        shuffled = kd.Cached.of(logits[order], own, "the next one's")
        with pytest.raises(AssertionError, match="answer to sample 0 lies in row 1"):
            checks.aligned(shuffled, own, teacher)
        with pytest.raises(AssertionError, match="Pass the teacher"):
            checks.aligned(shuffled, own)
    else:
        cached.logits[:] = cached.logits[:, order]
        with pytest.raises(AssertionError, match=r"in view 1; the answer to sample 0 lies in row"):
            checks.aligned(cached, own)
    with pytest.raises(AssertionError, match="no row holds the teacher's answer"):
        checks.aligned(cached, own, network(4))


class FromDict(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, image, scale):
        return self.conv(image) * scale[:, None, None, None]


@pytest.mark.parametrize("labelled", [True, False])
def test_answers_for_dicts_and_pixels_are_aligned(labelled):
    rng = torch.Generator().manual_seed(0)
    x = {"image": torch.rand(12, 1, 4, 4, generator=rng), "scale": torch.rand(12, generator=rng)}
    y = torch.arange(12 * 16).view(12, 4, 4) % 3 if labelled else None
    task = kd.tasks.Pixels() if labelled else kd.tasks.Unlabelled()
    own, teacher = kd.data.from_arrays(x, y, task=task, name="dicts"), FromDict()
    cached = kd.Cached(teacher, own)
    checks.aligned(cached, own)
    cached = kd.Cached.of(cached.logits.roll(1, 0), own, "the next one's")
    with pytest.raises(AssertionError, match="answer to sample 0 lies in row 1"):
        checks.aligned(cached, own, teacher)


def test_answers_of_other_data_are_not_aligned(data):
    cached = kd.Cached(network(3), data)
    other = kd.data.glyphs(train=72, val=72, test=72, size=12)
    with pytest.raises(AssertionError, match="each of the 72 training samples, got 144"):
        checks.aligned(cached, other)


def test_every_check_is_tried_here():
    """Or in test_sequence.py: those of sequences."""
    assert set(checks.__all__) - {
            "sequence_loss", "broken_sequence_laws", "sequence_step"} == {
        "distillation_loss", "broken_laws", "student_only_gradient", "freezes_teacher",
        "distillation_step", "same_budget", "same_loss", "aligned"}
