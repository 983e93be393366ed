"""The mistakes of chapter 3 in plain small code: each does what the chapter says that it does, and
its plain doctor finds what it is said to find. Some belong to the page on errors alone.

Nothing here is trained for long: what a mistake costs is measured in the chapter, that it *is* one
is held here.
"""

import copy
import functools
import json
import math
import types
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kdcourse as kd
from kdcourse import checks, losses, models

T = 4.0


def network(seed=0, classes=4):
    """Batch statistics and dropout: what a mode changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
                             nn.Dropout(0.5), nn.Linear(216, classes))


def images(count=16, seed=0):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def pair(classes=10, seed=0, count=8):
    rng = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(2, count, classes, generator=rng).double()


def soft(student, teacher, T=T):
    return F.log_softmax(student / T, 1), F.softmax(teacher / T, 1)


# --- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 36, 1000])
def test_the_default_reduction_divides_by_the_number_of_classes(classes):
    student, teacher = pair(classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of it
        found = T**2 * F.kl_div(*soft(student, teacher))
    torch.testing.assert_close(found * classes, losses.kd(student, teacher, T))


def test_without_T_squared_the_weight_falls_with_the_temperature():
    student, teacher = pair()

    def pull(T, factor):
        z = student.clone().requires_grad_()
        (factor * F.kl_div(*soft(z, teacher, T), reduction="batchmean")).backward()
        return z.grad.norm()

    assert pull(16.0, 1) < pull(4.0, 1) / 10
    assert pull(16.0, 16**2) > pull(4.0, 4**2) / 2


def test_swapped_arguments_are_a_divergence_of_their_own():
    student, teacher = pair()
    log_p, q = soft(teacher, student)
    swapped = T**2 * F.kl_div(log_p, q, reduction="batchmean")
    torch.testing.assert_close(swapped, losses.reverse_kl(student, teacher, T))
    assert swapped > 0
    wide = losses.reverse_kl(student, teacher, 1) / losses.kd(student, teacher, 1)
    assert not 0.98 < wide < 1.02  # the less softened, the more they differ
    log_p, p = soft(teacher, teacher)
    assert abs(float(F.kl_div(log_p, p, reduction="batchmean"))) < 1e-12


def test_without_the_logarithm_it_is_negative_and_never_at_rest():
    student, teacher = pair()
    no_log = F.kl_div(F.softmax(student, 1), F.softmax(teacher, 1), reduction="batchmean")
    assert no_log < 0
    z = teacher.clone().requires_grad_()  # they agree
    F.kl_div(F.softmax(z, 1), F.softmax(teacher, 1), reduction="batchmean").backward()
    assert z.grad.norm() > 0.01


def test_one_logarithm_too_many_is_nan():
    student, teacher = pair()
    value = F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="batchmean")
    assert value.isnan()


def test_the_teacher_with_itself_gives_no_gradient():
    student, teacher = pair()
    z = student.clone().requires_grad_()
    with pytest.raises(AssertionError, match="gradient for the student"):
        checks.student_only_gradient(lambda s, t: losses.kd(t, t, T) + 0 * s.sum(), z, teacher)


MISTAKES = {
    "classes": lambda s, t, T: losses.kd(s, t, T) / s.shape[1],
    "temperature": lambda s, t, T: losses.kd(s, t, T) / T**2,
    "swapped": lambda s, t, T: T**2 * F.kl_div(*soft(t, s, T), reduction="batchmean"),
    "logarithm": lambda s, t, T: T**2 * F.kl_div(
        F.softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean"),
    "student gradient": lambda s, t, T: losses.kd(t, t, T) + 0 * s.sum(),
    "teacher gradient": lambda s, t, T: T**2 * F.kl_div(*soft(s, t, T), reduction="batchmean"),
}


@pytest.mark.parametrize("law", MISTAKES)
def test_each_mistake_breaks_its_law(law):
    assert law in checks.broken_laws(MISTAKES[law])


def test_the_gradient_of_a_right_loss():
    """T (q - p) / B, as the chapter states and its plain doctor compares."""
    student, teacher = pair()
    z = student.clone().requires_grad_()
    losses.kd(z, teacher, T).backward()
    expected = T * ((student / T).softmax(1) - (teacher / T).softmax(1)) / len(z)
    torch.testing.assert_close(z.grad, expected)


def one_side(z, v):
    return T**2 * F.kl_div(F.log_softmax(z, 1), F.softmax(v / T, 1), reduction="batchmean")


def over_the_batch(z, v):
    return T**2 * F.kl_div(F.log_softmax(z / T, 1), F.softmax(v / T, 0), reduction="batchmean")


def test_T_on_one_side_is_not_0_where_both_agree():
    _, teacher = pair()
    assert one_side(teacher, teacher) > 0.1


def test_T_on_one_side_is_at_rest_where_logits_are_T_times_too_small():
    """So a student that has learned it is repaired by a factor T at test time."""
    _, teacher = pair()
    z = (teacher / T).requires_grad_()
    assert one_side(z, teacher).abs() < 1e-9
    (pull,) = torch.autograd.grad(one_side(z, teacher), z)
    assert pull.norm() < 1e-9
    assert losses.kd(T * z.detach(), teacher, T).abs() < 1e-9


def test_a_softmax_over_the_batch_gives_targets_that_do_not_sum_to_1():
    _, teacher = pair()
    sums = F.softmax(teacher / T, 0).sum(1)
    assert (sums - 1).abs().max() > 0.1
    torch.testing.assert_close(sums.sum(), torch.tensor(10.0).double())  # one for each class
    _, teacher = pair(3, count=64)  # more images than classes: most targets sum to less than 1
    assert over_the_batch(T * F.log_softmax(teacher / T, 0), teacher) < 0, "so it can be negative"


def test_a_second_softmax_is_nearly_uniform():
    _, teacher = pair(36)
    p = F.softmax(F.softmax(5 * teacher, 1) / T, 1)
    assert p.max() < 1.3 / 36


def test_divided_terms_are_another_alpha():
    """AdamW without decay makes the same steps for a loss and a multiple of it."""
    finals = []
    for factor in (1, 1 / 36):
        z = torch.zeros(4, 3, dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.AdamW([z], lr=0.1, eps=1e-15)
        for _ in range(20):
            optimizer.zero_grad()
            (factor * F.cross_entropy(z, torch.tensor([0, 1, 2, 0]))).backward()
            optimizer.step()
        finals.append(z.detach())
    torch.testing.assert_close(*finals)


def test_in_half_precision_a_sum_is_infinite_and_p_log_p_undefined():
    z, v = (12 * torch.randn(2, 1024, 36, generator=torch.Generator().manual_seed(0))).half()
    log_q, p = soft(z, v)
    assert (T**2 * F.kl_div(log_q, p, reduction="sum")).isinf()
    p = v.softmax(1)
    assert (p * (p.log() - z.log_softmax(1))).sum().isnan()
    assert (T**2 * F.kl_div(log_q.float(), p.float(), reduction="batchmean")).isfinite()


# --- the plain doctor ---------------------------------------------------------------------------


@functools.cache
def plain_doctor():
    path = next((Path(__file__).parents[2] / "notebooks").glob("03_*.ipynb"))
    cells = json.loads(path.read_text("utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if "".join(cell["source"]).startswith(
        ("def same_gradient(", "def plain_doctor("))]
    names = {"torch": torch, "F": F, "copy": copy}
    exec("\n".join(sources), names)
    assert len(sources) == 2
    assert sum(len(source.splitlines()) for source in sources) == 20, "as the chapter says"
    return names["plain_doctor"]


def examined(loss=lambda z, v: losses.kd(z, v, T), told=lambda v: v, ask=lambda v: v, student=None,
             **settings):
    """The doctor on a student, and a teacher that is right for all images."""
    x, y = images(32), torch.arange(32) % 4
    noise = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))
    v = 5 * F.one_hot(y, 4) + noise
    student = student or network(0).train()
    return plain_doctor()(loss, student, told(v), lambda x: ask(v), x,
                          types.SimpleNamespace(x=x, y=y), **settings)


def test_the_plain_doctor_finds_nothing_in_a_right_set_up():
    assert examined() == []
    assert examined(told=lambda v: v.bfloat16().float()) == [], "stored in half precision"
    assert examined(lambda z, v: losses.soft_cross_entropy(z, v, T)) == [], "the same gradient"


def test_the_plain_doctor_leaves_the_student_as_it_is():
    student = network(0).train()
    before = copy.deepcopy(student.state_dict())
    examined(student=student)
    assert student.training
    assert all(value.equal(before[name]) for name, value in student.state_dict().items())


def test_the_plain_doctor_takes_the_accuracy_that_is_known():
    """A teacher that is right for three images of four in each class, as on CIFAR-100."""
    def told(v):
        return torch.cat([v[:24], v[24:].roll(1, 1)]) / 3  # and about as confident

    assert examined(told=told, ask=told) == []
    assert examined(told=told, ask=told, floor=0.8) == ["the teacher is wrong about a class"]


def without_statistics():
    """A student in train mode, but for its batch normalisation."""
    student = network(0).train()
    student[1].eval()
    return student


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize(("word", "changed"), [
    ("gradient", {"loss": lambda z, v: T**2 * F.kl_div(*soft(z, v))}),
    ("gradient", {"loss": lambda z, v: losses.kd(z, v, T) / T**2}),
    ("gradient", {"loss": lambda z, v: losses.reverse_kl(z, v, T)}),
    ("gradient", {"loss": one_side}),
    ("gradient", {"loss": over_the_batch}),
    ("gradient", {"loss": lambda z, v: losses.kd(z.detach(), v, T)}),
    ("gradient", {"loss": lambda z, v: losses.kd(v, v, T)}),
    ("gradient", {"loss": lambda z, v: losses.kd(z, v, T) * math.nan}),
    ("confidence", {"told": lambda v: v.softmax(1), "ask": lambda v: v.softmax(1)}),
    ("confidence", {"told": lambda v: v / 4, "ask": lambda v: v / 4}),
    ("about a class", {"told": lambda v: v.roll(1, 1), "ask": lambda v: v.roll(1, 1)}),
    ("about a class", {"told": lambda v: v[:, [1, 0, 2, 3]], "ask": lambda v: v[:, [1, 0, 2, 3]]}),
    ("outputs for x", {"told": lambda v: v.roll(4, 0)}),
    ("outputs for x", {"told": lambda v: v * math.nan}),
    ("eval mode", {"student": network(0).eval()}),
    ("eval mode", {"student": without_statistics()}),
    ("frozen", {"student": network(0).requires_grad_(False)}),
])
def test_the_plain_doctor_names(word, changed):
    assert any(word in finding for finding in examined(**changed))


def test_the_plain_doctor_misses_logits_that_are_a_little_too_small():
    """As the chapter says of logits divided by 2: the confidence changes too little."""
    assert examined(told=lambda v: v / 1.5, ask=lambda v: v / 1.5) == []


def test_the_plain_doctor_speaks_up_where_anything_is_not_a_number():
    """Each check is written so that NaN, which compares as false, is a finding."""
    nothing = lambda v: v * math.nan  # noqa: E731
    found = examined(lambda z, v: losses.kd(z, v, T) * math.nan, told=nothing, ask=nothing)
    assert {"another gradient", "the teacher is wrong about a class",
            "the teacher's confidence is off", "not the teacher's outputs for x"} <= set(found)


def test_the_plain_doctor_calls_other_right_losses_another_gradient():
    """Its false alarms, as the chapter says: it knows one loss."""
    for loss in (lambda z, v: losses.dkd(z, v, v.argmax(1), T=T),
                 lambda z, v: losses.reverse_kl(z, v, T)):
        assert examined(loss) == ["another gradient"]


def test_a_mixture_of_divergences_jumps_at_its_ends():
    student, teacher = pair()
    near = [losses.jensen_shannon(student, teacher, beta, variant="paper")
            for beta in (1e-4, 1 - 1e-4)]
    ends = [losses.kd(student, teacher, 1), losses.reverse_kl(student, teacher, 1)]
    assert all(one < 1e-3 * end for one, end in zip(near, ends, strict=True))
    ours = losses.jensen_shannon(student, teacher, 1e-4)
    assert math.isclose(float(ours), float(ends[0]), rel_tol=1e-2)


# --- the teacher ---------------------------------------------------------------------------------


class Whole(nn.Module):
    """Student and teacher as two submodules, as it is often written."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = network(0), network(1).eval().requires_grad_(False)


def test_train_reaches_a_frozen_teacher_and_no_grad_does_not_stop_its_statistics():
    whole = Whole()
    before = copy.deepcopy(whole.teacher.state_dict())
    whole.train()
    assert whole.teacher.training
    with torch.no_grad():
        whole.teacher(images())
    moved = [name for name, value in whole.teacher.state_dict().items()
             if not value.equal(before[name])]
    assert "1.running_mean" in moved


def test_a_teacher_in_train_mode_answers_by_the_batch():
    teacher, x = network(1).train(), images(32)
    teacher[4].p = 0.0  # dropout would do it by chance; here it is the batch
    with torch.no_grad():
        one, other = teacher(x[:16])[0], teacher(torch.cat([x[:1], x[16:31]]))[0]
    assert (one - other).abs().max() > 1e-3


def test_a_teacher_that_nobody_freezes_is_trained():
    student, teacher, x = network(0).eval(), network(1).eval(), images()
    optimizer = torch.optim.SGD([*student.parameters(), *teacher.parameters()], lr=0.1)
    before = copy.deepcopy(teacher.state_dict())
    log_q, p = soft(student(x), teacher(x))
    F.kl_div(log_q, p, reduction="batchmean").backward()
    optimizer.step()
    assert any(not value.equal(before[name]) for name, value in teacher.state_dict().items())


def test_answers_read_by_batch_number_belong_to_other_images():
    teacher, x = network(1).eval(), images(64)
    first, second = (torch.randperm(64, generator=torch.Generator().manual_seed(seed))
                     for seed in (0, 1))
    with torch.no_grad():
        stored = teacher(x[first])  # in the order of one epoch
        now = teacher(x[second])  # in the order of the next
    assert (stored - now).abs().amax(1).gt(1e-6).float().mean() > 0.9
    by_index = torch.empty_like(stored)
    by_index[first] = stored
    torch.testing.assert_close(by_index[second], now)


def test_the_package_finds_stored_answers_of_other_images():
    data = kd.data.glyphs(train=72, val=36, test=36)
    teacher = models.convnet(width=8, seed=1)
    right = kd.Cached(teacher, data)
    checks.aligned(right, data)
    shifted = kd.Cached.of(right.logits.roll(1, 0), data, "shifted")
    with pytest.raises(AssertionError, match="belong to its sample"):
        checks.aligned(shifted, data, teacher)


def test_two_mistakes_hide_each_other():
    """With answers of other images the soft term is wrong; divided by K it is also nearly gone."""
    student, teacher = pair(36, count=64)
    labels = torch.arange(64) % 36

    def pull(loss):
        z = student.clone().requires_grad_()
        loss(z).backward()
        return z.grad.norm()

    hard = pull(lambda z: 0.1 * F.cross_entropy(z, labels))
    wrong = pull(lambda z: 0.9 * losses.kd(z, teacher.roll(1, 0), T))
    both = pull(lambda z: 0.9 * losses.kd(z, teacher.roll(1, 0), T) / 36)
    assert wrong > 3 * hard
    assert both < hard


# --- the student ---------------------------------------------------------------------------------


def test_an_evaluation_may_leave_the_student_in_eval_mode():
    student, x = network(0).train(), images()
    student.eval()  # what an evaluation does at the end of the first epoch
    before = copy.deepcopy(student.state_dict())
    student(x)
    assert all(value.equal(before[name]) for name, value in student.state_dict().items())
    student.train()
    student(x)
    assert not student[1].running_mean.equal(before["1.running_mean"])


def test_fit_puts_the_student_into_train_mode_in_every_epoch():
    seen = []

    class Watch(kd.Supervised):
        def forward(self, batch):
            seen.append(self.student.training)
            return super().forward(batch)

    data = kd.data.glyphs(train=72, val=36, test=36)
    scheme = Watch(models.convnet(width=8))
    kd.fit(scheme, data, kd.Recipe(epochs=2, batch=36))
    assert all(seen[1:])  # the first look is `build`, in eval mode


def test_an_optimiser_made_too_early_leaves_the_projection_out():
    student, projection = nn.Linear(4, 3), None
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    projection = nn.Linear(3, 5)
    start = projection.weight.detach().clone()
    projection(student(torch.ones(2, 4))).square().sum().backward()
    optimizer.step()
    assert projection.weight.grad.any()  # the gradient is there
    assert projection.weight.equal(start)  # nobody uses it


def test_parameters_in_a_plain_list_are_in_no_optimiser():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_scales = [nn.Parameter(torch.zeros(3))]

    assert not list(Listed().parameters()) and not Listed().state_dict()


def test_a_warm_up_that_outlives_the_training_never_reaches_the_rate():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 1500))
    for _ in range(480):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.32)


# --- the experiment ------------------------------------------------------------------------------


def test_one_seed_names_the_wrong_winner_and_more_seeds_less_often():
    rng = torch.Generator().manual_seed(0)
    gains = 0.5 + torch.randn(4000, 10, generator=rng)  # a true gain of half a deviation
    wrong = [(gains[:, :n].mean(1) < 0).float().mean() for n in (1, 5, 10)]
    assert wrong[0] > 0.25 > wrong[1] > wrong[2]


def test_the_best_of_many_equal_runs_looks_better_than_it_is():
    rng = torch.Generator().manual_seed(0)
    true = torch.zeros(2000, 29)
    chosen_on, fresh = (true + torch.randn(true.shape, generator=rng) for _ in range(2))
    best = chosen_on.argmax(1, keepdim=True)
    assert chosen_on.gather(1, best).mean() > 1.5
    assert abs(float(fresh.gather(1, best).mean())) < 0.1
