"""Losses: against loops in float64, and against the laws that they must keep."""

import copy
import math

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F

import kdcourse as kd
from kdcourse import losses
from kdcourse.losses import CE, KD, LabelSmoothing, Loss, Objective
from kdcourse.models import View

INF = math.inf


def logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(shape, generator=kd.data.generator(seed), dtype=torch.float64)


def example(B=5, K=7):
    """Logits of a student and a teacher, labels, soft labels."""
    y = torch.arange(B) % K
    return logits(B, K, seed=1), logits(B, K, seed=2), y, logits(B, K, seed=3).softmax(1)


# Every function, as `ours(s, t, y, soft, reduction)` and as `loop(s, t, y, soft)`.
FUNCTIONS = {
    **{
        f"kd at {T}": (
            lambda s, t, y, soft, r, T=T: losses.kd(s, t, T, r),
            lambda s, t, y, soft, T=T: oracles.kd(s, t, T),
        )
        for T in (0.5, 1, 4, 20.0)
    },
    "soft_cross_entropy": (
        lambda s, t, y, soft, r: losses.soft_cross_entropy(s, t, 3, r),
        lambda s, t, y, soft: oracles.soft_cross_entropy(s, t, 3),
    ),
    "cross_entropy": (
        lambda s, t, y, soft, r: losses.cross_entropy(s, y, r),
        lambda s, t, y, soft: oracles.cross_entropy(s, y),
    ),
    "cross_entropy, soft labels": (
        lambda s, t, y, soft, r: losses.cross_entropy(s, soft, r),
        lambda s, t, y, soft: oracles.cross_entropy(s, soft),
    ),
    "label_smoothing": (
        lambda s, t, y, soft, r: losses.label_smoothing(s, y, 0.2, r),
        lambda s, t, y, soft: oracles.label_smoothing(s, y, 0.2),
    ),
    "label_smoothing, soft labels": (
        lambda s, t, y, soft, r: losses.label_smoothing(s, soft, 0.2, r),
        lambda s, t, y, soft: oracles.label_smoothing(s, soft, 0.2),
    ),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
TEACHERS = [name for name in FUNCTIONS if name.startswith(("kd", "soft_cross"))]
with_teacher = pytest.mark.parametrize("name", TEACHERS)


def value(name, s, t, y, soft, reduction="mean"):
    return FUNCTIONS[name][0](s, t, y, soft, reduction)


def loop(name, s, t, y, soft):
    return FUNCTIONS[name][1](s, t.numpy(), y.numpy(), soft.numpy())


def gradient(name, s, *rest):
    s = s.clone().requires_grad_()
    value(name, s, *rest).backward()
    return s.grad


# --- against loops ------------------------------------------------------------------------------


@every_function
@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (4, 2), (1, 2), (3, 36)])
def test_values_are_those_of_a_loop(name, shape):
    s, t, y, soft = example(*shape)
    expected = loop(name, s.numpy(), t, y, soft)
    np.testing.assert_allclose(value(name, s, t, y, soft, "none"), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(value(name, s, t, y, soft), expected.mean(), rtol=1e-12)
    single = value(name, s.float(), t.float(), y, soft.float(), "none")
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-5)


@every_function
@pytest.mark.parametrize("shape", [(3, 5), (1, 2)])
def test_gradients_are_those_of_a_loop(name, shape):
    s, t, y, soft = example(*shape)
    slope = oracles.slope(lambda at: loop(name, at, t, y, soft).mean(), s.numpy())
    np.testing.assert_allclose(gradient(name, s, t, y, soft), slope, rtol=1e-5, atol=1e-7)


@every_function
def test_gradcheck(name):
    s, *rest = example(3, 4)
    for reduction in ("mean", "none"):
        run = lambda s, r=reduction: value(name, s, *rest, r)  # noqa: E731
        assert torch.autograd.gradcheck(run, s.requires_grad_())


# --- laws ---------------------------------------------------------------------------------------


@every_function
def test_the_mean_of_the_samples_in_any_batching(name):
    parts = example(6, 5)
    whole = value(name, *parts, "none")
    for size in (1, 2, 4):
        batches = zip(*(part.split(size) for part in parts), strict=True)
        torch.testing.assert_close(torch.cat([value(name, *b, "none") for b in batches]), whole,
                                   rtol=2e-5, atol=1e-5)  # float32 rounds in another order
    torch.testing.assert_close(value(name, *parts), whole.mean(), rtol=2e-5, atol=1e-5)


@every_function
def test_order_of_classes_and_samples_does_not_matter(name):
    s, t, y, soft = example(5, 7)
    whole = value(name, s, t, y, soft, "none")
    rows = torch.tensor([3, 0, 4, 1, 2])
    moved = value(name, s[rows], t[rows], y[rows], soft[rows], "none")
    torch.testing.assert_close(moved, whole[rows], rtol=2e-5, atol=1e-5)
    columns = torch.tensor([2, 6, 0, 5, 1, 4, 3])
    back = columns.argsort()
    moved = value(name, s[:, columns], t[:, columns], back[y], soft[:, columns], "none")
    torch.testing.assert_close(moved, whole, rtol=2e-5, atol=1e-5)


@every_function
def test_a_constant_added_to_all_logits_changes_nothing(name):
    s, t, y, soft = example()
    shift = logits(len(s), 1, seed=9, scale=30)
    torch.testing.assert_close(value(name, s + shift, t - shift, y, soft),
                               value(name, s, t, y, soft))


@pytest.mark.parametrize("T", [0.5, 1, 4, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kd_is_zero_with_zero_gradient_exactly_where_both_agree(T, dtype):
    t = logits(6, 10).to(dtype)
    s = t.clone().requires_grad_()
    loss = losses.kd(s, t, T)
    loss.backward()
    assert loss == 0
    assert s.grad.abs().max() <= 4 * T * torch.finfo(dtype).eps


@pytest.mark.parametrize("T", [1, 4])
def test_kd_rises_with_every_step_away_from_the_teacher(T):
    t = logits(4, 6)
    for seed in range(10):
        away = logits(4, 6, seed=100 + seed)
        path = [float(losses.kd(t + share * away, t, T)) for share in (0, 0.01, 0.1, 0.5, 1, 3)]
        assert path == sorted(path)
        assert path[1] > 0


@pytest.mark.parametrize("function", [losses.kd, losses.soft_cross_entropy])
def test_no_gradient_reaches_the_teacher(function):
    s, t, *_ = example()
    s.requires_grad_(), t.requires_grad_()
    function(s, t).backward()
    assert t.grad is None
    assert s.grad.abs().max() > 0


def kd_gradient(s, t, T):
    s = s.clone().requires_grad_()
    losses.kd(s, t, T).backward()
    return s.grad


@pytest.mark.parametrize("T", [1, 3, 10])
def test_the_gradient_of_kd_is_T_times_q_minus_p(T):
    s, t, *_ = example()
    expected = T * ((s / T).softmax(1) - (t / T).softmax(1)) / len(s)
    torch.testing.assert_close(kd_gradient(s, t, T), expected)


def test_T_squared_makes_the_gradient_tend_to_a_constant():
    # softmax(z / T) = (1 + (z - mean z) / T) / K + O(1/T²), so T (q - p) tends to the difference
    # of the centred logits over K. The rest falls as 1/T.
    s, t, *_ = example(5, 7)
    limit = ((s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))) / 7 / len(s)
    gap = {T: float((kd_gradient(s, t, T) - limit).norm() / limit.norm()) for T in (1, 100, 1000)}
    assert gap[1] > 0.2  # and it is far from constant at small T
    assert gap[1000] < 0.005
    assert gap[100] / gap[1000] == pytest.approx(10, rel=0.1)
    # Without T² it would vanish as 1/T².
    bare = [float((kd_gradient(s, t, T) / T**2).norm()) for T in (1000, 10000)]
    assert bare[0] / bare[1] == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("T", [1, 4, 16])
def test_cross_entropy_with_soft_targets_has_the_same_gradient_and_another_value(T):
    s, t, *_ = example()
    ours, other = s.clone().requires_grad_(), s.clone().requires_grad_()
    kl, ce = losses.kd(ours, t, T), losses.soft_cross_entropy(other, t, T)
    kl.backward(), ce.backward()
    torch.testing.assert_close(ours.grad, other.grad, rtol=1e-12, atol=1e-15)
    entropy = np.mean([oracles.entropy(row, T) for row in t.numpy()])
    assert (ce - kl).item() == pytest.approx(T**2 * entropy, rel=1e-12)


def test_temperature_one_against_one_hot_is_the_cross_entropy():
    s, _, y, _ = example()
    sure = torch.full_like(s, -INF).scatter(1, y[:, None], 0.0)
    torch.testing.assert_close(losses.kd(s, sure, 1, "none"), losses.cross_entropy(s, y, "none"))


def test_label_smoothing_lies_between_the_labels_and_uniform():
    s, _, y, _ = example()
    uniform = torch.full_like(s, 1 / s.shape[1])
    torch.testing.assert_close(losses.label_smoothing(s, y, 0.0), losses.cross_entropy(s, y))
    torch.testing.assert_close(losses.label_smoothing(s, y, 1.0), losses.cross_entropy(s, uniform))


# --- other people's code ------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 4, 16])
@pytest.mark.parametrize("log_target", [True, False])
def test_agrees_with_torch_kl_div(T, log_target):
    s, t, *_ = example()
    target = (t / T).log_softmax(1) if log_target else (t / T).softmax(1)
    theirs = F.kl_div((s / T).log_softmax(1), target, reduction="batchmean", log_target=log_target)
    torch.testing.assert_close(losses.kd(s, t, T), T**2 * theirs)


def test_agrees_with_timm_on_a_whole_step():
    tasks = pytest.importorskip("timm.task", reason="this timm has no distillation task")
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = timm.create_model("test_resnet", num_classes=10).eval()
        teacher = timm.create_model("test_resnet", num_classes=10).eval()
        x, y = torch.rand(4, 3, 64, 64), torch.arange(4)
    task = tasks.LogitDistillationTask(student, teacher, criterion=torch.nn.CrossEntropyLoss(),
                                       temperature=4.0, task_loss_weight=0.1,
                                       device=torch.device("cpu"), verbose=False).eval()
    theirs = task(x, y)
    theirs["loss"].backward()
    expected = {name: p.grad.clone() for name, p in student.named_parameters()}
    student.zero_grad()
    scheme = kd.Distiller(student, teacher, losses.hinton(T=4, alpha=0.9)).eval()
    ours = scheme(kd.data.Batch(x, y, torch.arange(4)))
    ours.loss.backward()
    torch.testing.assert_close(ours.parts["KD"], theirs["kd_loss"])
    torch.testing.assert_close(ours.parts["CE"], theirs["task_loss"])
    torch.testing.assert_close(ours.loss, theirs["loss"])
    for name, p in student.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], msg=name)


def test_agrees_with_timm_on_labels():
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

    s, _, y, soft = example()
    torch.testing.assert_close(losses.label_smoothing(s, y, 0.1),
                               LabelSmoothingCrossEntropy(0.1)(s, y))
    torch.testing.assert_close(losses.cross_entropy(s, soft), SoftTargetCrossEntropy()(s, soft))


# --- precision and extremes ---------------------------------------------------------------------


@every_function
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(name, dtype):
    s, t, y, soft = example()
    s, t = s.to(dtype), t.to(dtype)
    result = value(name, s, t, y, soft.float(), "none")
    assert result.dtype == torch.float32
    expected = loop(name, s.double().numpy(), t.double(), y, soft)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    slope = gradient(name, s, t, y, soft.float())
    assert slope.dtype == dtype
    assert torch.isfinite(slope).all()


@every_function
def test_autocast_changes_nothing(name):
    s, t, y, soft = (part.float() if part.is_floating_point() else part for part in example())
    outside = value(name, s, t, y, soft), gradient(name, s, t, y, soft)
    with torch.autocast("cpu", torch.bfloat16):
        inside = value(name, s, t, y, soft), gradient(name, s, t, y, soft)
    for a, b in zip(inside, outside, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@every_function
def test_float64_stays_float64(name):
    assert value(name, *example()).dtype == torch.float64


@every_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_of_100_are_finite_in_value_and_gradient(name, dtype):
    s = torch.full((3, 6), -100.0, dtype=dtype)
    s[:, 0] = 100
    t, y, soft = s.roll(1, 1), torch.tensor([0, 1, 5]), torch.eye(6)[[0, 1, 5]]
    result = value(name, s, t, y, soft, "none")
    assert torch.isfinite(result).all()
    np.testing.assert_allclose(result, loop(name, s.double().numpy(), t.double(), y, soft),
                               rtol=1e-5, atol=1e-5)
    assert torch.isfinite(gradient(name, s, t, y, soft)).all()


@with_teacher
@pytest.mark.parametrize("ruled_out", [-INF, -1e4])  # -1e4 underflows to probability 0
@pytest.mark.parametrize("student_too", [False, True])
def test_a_class_without_teacher_probability_adds_exactly_zero(name, ruled_out, student_too):
    s, t, y, soft = (part.float() if part.is_floating_point() else part for part in example())
    without = value(name, s, t, y, soft, "none")
    column = torch.full((len(s), 1), ruled_out)
    # A student that rules the class out too sees the same problem without the class.
    s_more = torch.cat([s, column if student_too else torch.zeros_like(column)], 1)
    t_more = torch.cat([t, column], 1)
    result = value(name, s_more, t_more, y, soft, "none")
    if student_too:
        np.testing.assert_allclose(result, without, rtol=1e-4)  # only rounding differs
    else:
        expected = loop(name, s_more.double().numpy(), t_more.double(), y, soft)
        np.testing.assert_allclose(result, expected, rtol=1e-4)
    assert torch.isfinite(gradient(name, s_more, t_more, y, soft)).all()


@with_teacher
def test_a_student_that_rules_out_what_the_teacher_does_not_is_infinitely_wrong(name):
    s, t, y, soft = example()
    s[2, 3] = -INF
    result = value(name, s, t, y, soft, "none")
    assert result[2] == INF
    assert torch.isfinite(result[[0, 1, 3, 4]]).all()
    assert value(name, s, t, y, soft) == INF


def test_a_class_without_label_probability_adds_exactly_zero():
    s, soft = torch.tensor([[0.0, 0.0, -INF]]), torch.tensor([[0.5, 0.5, 0.0]])
    assert float(losses.cross_entropy(s, soft)) == pytest.approx(math.log(2))


# --- bad input ----------------------------------------------------------------------------------

two, three = torch.zeros(4, 2), torch.zeros(4, 3)
BAD = [
    (lambda: losses.kd(two, two, T=0), "temperature T above 0, got 0"),
    (lambda: losses.kd(two, two, T=-1), "temperature T above 0, got -1"),
    (lambda: losses.kd(two, two, T=math.nan), "temperature T above 0, got nan"),
    (lambda: losses.kd(two, two, T=INF), "temperature T above 0, got inf"),
    (lambda: KD(T=0), "temperature T above 0"),
    (lambda: losses.kd(two, three), r"one shape \[B, K\], got \[4, 2\] and \[4, 3\].*same classes"),
    (lambda: losses.kd(two, two[:3]), r"one shape .* got \[4, 2\] and \[3, 2\]"),
    (lambda: losses.kd(two[0], two[0]), r"student logits of shape \[B, K\], got \[2\]"),
    (lambda: losses.kd(two, two[None]), r"teacher logits of shape \[B, K\], got \[1, 4, 2\]"),
    (lambda: losses.kd([[0.0]], two), r"student logits of shape \[B, K\], got list"),
    (lambda: losses.kd(two, None), r"teacher logits of shape \[B, K\], got NoneType"),
    (lambda: losses.kd(two, two, reduction="sum"), 'reduction "mean" or "none", got \'sum\''),
    (lambda: losses.soft_cross_entropy(two, three), "one shape"),
    (lambda: losses.cross_entropy(two, None), "labels of shape .* got NoneType"),
    (lambda: losses.cross_entropy(two, torch.zeros(3).long()), r"labels of shape \[4\].*got \[3\]"),
    (lambda: losses.cross_entropy(two, three), r"labels of shape \[4\] \(or \[4, 2\], soft\), got"),
    (lambda: losses.cross_entropy(two, torch.zeros(4)), "whole numbers as labels, got torch.float"),
    (lambda: losses.cross_entropy(two, torch.zeros(4).bool()), "whole numbers as labels, got"),
    (lambda: losses.cross_entropy(two, torch.zeros(4).long(), "sum"), 'reduction "mean" or "none"'),
    (lambda: losses.label_smoothing(two, torch.zeros(4).long(), 1.5), "between 0 and 1, got 1.5"),
    (lambda: LabelSmoothing(-0.1), "smoothing between 0 and 1, got -0.1"),
    (lambda: losses.hinton(alpha=1.5), "alpha between 0 .* and 1 .*, got 1.5"),
    (lambda: losses.hinton(alpha=-0.1), "alpha between 0 .* and 1 .*, got -0.1"),
    (lambda: losses.hinton(alpha=math.nan), "alpha between 0 .* and 1 .*, got nan"),
    (lambda: losses.hinton(T=-2), "temperature T above 0, got -2"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_gets_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_of_any_whole_number_type(dtype):
    s, _, y, _ = example()
    torch.testing.assert_close(losses.cross_entropy(s, y.to(dtype)), losses.cross_entropy(s, y))


# --- modules and algebra ------------------------------------------------------------------------


@pytest.mark.parametrize(("term", "function"), [
    (CE(), lambda s, t, y: losses.cross_entropy(s, y, "none")),
    (LabelSmoothing(0.3), lambda s, t, y: losses.label_smoothing(s, y, 0.3, "none")),
    (KD(T=3), lambda s, t, y: losses.kd(s, t, 3, "none")),
])
def test_a_module_is_its_function(term, function):
    s, t, y, _ = example()
    expected = function(s, t, y)
    torch.testing.assert_close(term.values(s, t, y), expected)
    torch.testing.assert_close(term(View(s), View(t), y), expected.mean())
    assert term.per_sample


SENTENCES = [
    (lambda: 0.1 * CE() + 0.9 * KD(T=4), "0.1 * CE() + 0.9 * KD(T=4)"),
    (lambda: CE() + KD(T=2.5), "CE() + KD(T=2.5)"),
    (lambda: CE() * 2 + KD() * 3, "2 * CE() + 3 * KD(T=4)"),
    (lambda: 2 * (CE() + 0.5 * KD(T=1)), "2 * CE() + KD(T=1)"),
    (lambda: CE() + (KD(T=1) + 3 * KD(T=2)), "CE() + KD(T=1) + 3 * KD(T=2)"),
    (lambda: sum([CE(), KD(), LabelSmoothing()]), "CE() + KD(T=4) + LabelSmoothing(smoothing=0.1)"),
    (lambda: sum([2 * CE(), 3 * KD()]), "2 * CE() + 3 * KD(T=4)"),
    (lambda: losses.hinton(4, 0.9), "0.1 * CE() + 0.9 * KD(T=4)"),
    (lambda: losses.hinton(4, 1), "KD(T=4)"),
    (lambda: losses.hinton(4, 0), "CE()"),
    (lambda: np.float64(0.5) * CE(), "0.5 * CE()"),
    (lambda: losses.as_objective(KD()), "KD(T=4)"),
]


@pytest.mark.parametrize(("make", "sentence"), SENTENCES)
def test_an_objective_reads_as_it_is_written(make, sentence):
    objective = make()
    assert isinstance(objective, Objective)
    assert repr(objective) == sentence


@pytest.mark.parametrize(("one", "other"), [
    (lambda: 0.1234567 * CE(), lambda: 0.1234568 * CE()),
    (lambda: KD(T=1.0000001), lambda: KD(T=1)),
])
def test_different_objectives_read_differently(one, other):
    assert repr(one()) != repr(other())


def test_an_objective_is_the_weighted_sum_of_its_parts():
    s, t, y, _ = example()
    objective = 0.3 * CE() + 2 * (0.5 * KD(T=2) + KD(T=8))
    parts = objective.parts(s, t, y)
    expected = {"CE": losses.cross_entropy(s, y), "KD": losses.kd(s, t, 2),
                "KD_2": losses.kd(s, t, 8)}
    assert parts.keys() == expected.keys()
    for name in parts:
        torch.testing.assert_close(parts[name], expected[name])
    total = 0.3 * expected["CE"] + expected["KD"] + 2 * expected["KD_2"]
    torch.testing.assert_close(objective(s, t, y), total)


def test_two_terms_of_one_kind_stay_two():
    objective = KD(T=1) + KD(T=2) + CE() + KD(T=3)
    assert list(objective.terms) == ["KD", "KD_2", "CE", "KD_3"]
    assert [term.T for name, term in objective.terms.items() if name != "CE"] == [1, 2, 3]


class Gap(Loss):
    """Somebody else's term: the squared distance of the logits, with a scale that is trained."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def values(self, student, teacher=None, labels=None):
        return self.scale * (student - teacher).square().mean(1)


def test_a_term_of_ones_own_joins_the_algebra():
    s, t, y, _ = example()
    objective = CE() + 0.5 * Gap()
    assert repr(objective) == "CE() + 0.5 * Gap()"
    assert objective.needs_teacher
    assert [name for name, _ in objective.named_parameters()] == ["terms.Gap.scale"]
    expected = losses.cross_entropy(s, y) + 0.5 * (s - t).square().mean()
    torch.testing.assert_close(objective(View(s), View(t), y), expected)


def test_objectives_never_share_parameters():
    term = Gap()
    first = 2 * term
    second = first + CE()
    third = losses.as_objective(first)
    fourth = copy.deepcopy(first)
    owners = [term, *(objective.terms["Gap"] for objective in (first, second, third, fourth))]
    assert len({id(owner.scale) for owner in owners}) == 5
    with torch.no_grad():
        first.terms["Gap"].scale.fill_(7)
    assert [owner.scale.item() for owner in owners] == [1, 7, 1, 1, 1]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: CE() * "2", "finite number as the weight of CE"),
    (lambda: CE() * None, "finite number as the weight of CE"),
    (lambda: math.nan * KD(), r"finite number as the weight of KD\(T=4\), got nan"),
    (lambda: INF * (CE() + KD()), "finite number as the weight"),
    (lambda: torch.tensor(0.5) * CE(), "finite number as the weight of CE"),
    (lambda: (CE() + KD()) * "2", None),
    (lambda: CE() + 3, None),
    (lambda: 3 + CE(), None),
    (lambda: CE() + None, None),
    (lambda: losses.as_objective("CE"), "a loss such as .* got str. Subclass"),
    (lambda: losses.as_objective(torch.nn.CrossEntropyLoss()), "got CrossEntropyLoss"),
])
def test_what_is_no_weight_and_no_loss_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_an_objective_works_alone_in_a_foreign_loop():
    torch_loop = torch.nn.Linear(6, 4)
    x, y = logits(32, 6).float(), torch.arange(32) % 4
    teacher = logits(32, 4, seed=5).float()
    objective = 0.5 * CE() + 0.5 * KD(T=2)
    optimizer = torch.optim.SGD(torch_loop.parameters(), lr=0.5)
    seen = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = objective(torch_loop(x), teacher, y)
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < seen[0]
    assert seen == sorted(seen, reverse=True)


def test_needs_teacher_is_known_before_anything_runs():
    assert not (CE() + LabelSmoothing()).needs_teacher
    assert (CE() + KD()).needs_teacher
