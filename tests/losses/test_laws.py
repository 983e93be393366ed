"""One table of losses, one list of laws: every loss is put through all that hold for it."""

import copy
import inspect
import itertools
import math
import re

import numpy as np
import pytest
import torch
from helpers import laws_attention, laws_feature, laws_relation, laws_response, oracles
from helpers.laws import Law, each, tensors

from kdcourse import data, losses

ROWS: list[Law] = [*laws_response.ROWS, *laws_feature.ROWS, *laws_attention.ROWS,
                   *laws_relation.ROWS]


def rows(condition=lambda row: True):
    """A test for every row for which the law holds."""
    chosen = [row for row in ROWS if condition(row)]
    return pytest.mark.parametrize("row", chosen, ids=map(str, chosen))


def with_gradient(row, s, t, y, autocast=False):
    """The loss, and its gradients for the student, as a list of tensors."""
    s = each(lambda x: x.detach().clone().requires_grad_(), s)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):  # the gradient comes outside it
        loss = row.call(s, t, y)
    return loss.detach(), torch.autograd.grad(loss, tensors(s), allow_unused=True)


def arrays(x):
    return each(lambda tensor: tensor.detach().double().numpy(), x)


def oracle(row, s, t, y):
    labels = y.numpy() if isinstance(y, torch.Tensor) else y
    return np.asarray(row.oracle(arrays(s), arrays(t), labels), dtype=np.float64)


def taken(places, *parts):
    """These samples only."""
    return [each(lambda x: x[places], part) for part in parts]


def finite(gradients):
    return all(torch.isfinite(g).all() for g in gradients if g is not None)


# --- the table ----------------------------------------------------------------------------------


def test_every_loss_is_in_the_table():
    public = {name: getattr(losses, name) for name in [*losses.__all__, "kd"]}
    functions = {name for name, thing in public.items() if inspect.isfunction(thing)}
    helpers = {"as_map", "as_objective", "as_tokens", "as_vectors", "chunked", "class_maps",
               "hinton", "margins"}
    assert {row.function for row in ROWS} == functions - helpers
    classes = {name for name, thing in public.items()
               if inspect.isclass(thing) and issubclass(thing, losses.Loss)}
    terms = {type(row.term()).__name__ for row in ROWS if row.term}
    assert terms == classes - {"Loss", "FeatureLoss"}


# --- against loops ------------------------------------------------------------------------------


@rows()
@pytest.mark.parametrize("B", [1, 2, 5])
def test_the_value_is_that_of_a_loop(row, B):
    s, t, y = row.example(max(B, row.least), 0)
    expected = oracle(row, s, t, y)
    np.testing.assert_allclose(row.call(s, t, y), expected.mean(), rtol=row.rtol, atol=1e-12)
    if row.values:
        np.testing.assert_allclose(row.values(s, t, y), expected, rtol=row.rtol, atol=1e-12)
    s, t, y = (each(lambda x: x.float() if x.is_floating_point() else x, x) for x in (s, t, y))
    np.testing.assert_allclose(row.call(s, t, y), expected.mean(), rtol=2e-4, atol=2e-5)


@rows()
def test_the_gradient_is_that_of_a_loop(row):
    s, t, y = row.example(max(2, row.least), 3)
    _, gradients = with_gradient(row, s, t, y)
    parts = list(s) if isinstance(s, tuple) else [s]
    for i, gradient in enumerate(gradients):
        def at(x, i=i):
            moved = [torch.as_tensor(x) if i == j else part for j, part in enumerate(parts)]
            return oracle(row, tuple(moved) if isinstance(s, tuple) else moved[0], t, y).mean()

        slope = oracles.slope(at, parts[i].numpy())
        np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)


@rows()
def test_gradcheck(row):
    s, t, y = row.example(max(2, row.least), 4)
    s = each(lambda x: x.requires_grad_(), s)
    pack = (lambda parts: tuple(parts)) if isinstance(s, tuple) else (lambda parts: parts[0])
    assert torch.autograd.gradcheck(lambda *parts: row.call(pack(parts), t, y), tensors(s))


# --- laws ---------------------------------------------------------------------------------------


@rows(lambda row: row.equal)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_with_zero_gradient_where_both_agree(row, dtype):
    _, t, y = row.example(max(4, row.least), 1)
    t = each(lambda x: x.to(dtype), t)
    loss, gradients = with_gradient(row, row.equal(t), t, y)
    small = torch.finfo(dtype).eps
    assert abs(float(loss)) <= 1e3 * small
    for g in gradients:
        assert g is None or g.abs().max() <= 1e3 * small


@rows(lambda row: row.equal)
def test_rises_with_the_first_steps_away_from_the_teacher(row):
    _, t, y = row.example(max(4, row.least), 1)
    here = row.equal(t)
    for seed in range(5):
        steps = (0, 0.003, 0.01, 0.03)
        path = [float(row.call(shaken(here, share, seed), t, y)) for share in steps]
        assert path == sorted(path)
        assert path[-1] > path[0]


def shaken(x, share, seed):
    noise = data.generator(seed, "shaken")
    return each(lambda part: part + share * torch.randn(part.shape, generator=noise,
                                                        dtype=part.dtype), x)


@rows(lambda row: row.uses_teacher)
def test_no_gradient_reaches_the_teacher(row):
    s, t, y = row.example(max(4, row.least), 2)
    s, t = (each(lambda x: x.requires_grad_(), x) for x in (s, t))
    row.call(s, t, y).backward()
    assert all(x.grad is None for x in tensors(t))
    assert any(x.grad is not None and x.grad.abs().max() > 0 for x in tensors(s))


@rows()
def test_the_order_of_the_samples_does_not_matter(row):
    s, t, y = row.example(6, 2)
    order = torch.tensor([3, 0, 5, 4, 1, 2])
    moved = taken(order, s, t, y)
    torch.testing.assert_close(row.call(*moved), row.call(s, t, y))
    if row.values:
        torch.testing.assert_close(row.values(*moved), row.values(s, t, y)[order])


@rows(lambda row: row.values)
def test_the_mean_of_the_samples_in_any_batching(row):
    s, t, y = row.example(6, 2)
    whole = row.values(s, t, y)
    assert whole.shape == (6,)
    for size in (1, 2, 4):
        places = torch.arange(6).split(size)
        parts = [row.values(*taken(batch, s, t, y)) for batch in places]
        torch.testing.assert_close(torch.cat(parts), whole)
    torch.testing.assert_close(row.call(s, t, y), whole.mean())


@rows(lambda row: row.classes)
def test_the_order_of_the_classes_does_not_matter(row):
    s, t, y = row.example(5, 2)
    columns = torch.tensor([2, 6, 0, 5, 1, 4, 3])
    moved = row.call(s[:, columns], t[:, columns], columns.argsort()[y])
    torch.testing.assert_close(moved, row.call(s, t, y))


@rows(lambda row: row.tempered)
def test_with_T_squared_the_gradient_tends_to_a_constant(row):
    s, t, y = row.example(5, 2)
    gradients = []
    for T in (1e3, 1e4, 1e5):
        at = s.clone().requires_grad_()
        row.tempered(T)(at, t, y).backward()
        gradients.append(at.grad)
    steps = [(b - a).norm() / gradients[-1].norm() for a, b in itertools.pairwise(gradients)]
    assert steps[0] < 0.01
    assert steps[0] / steps[1] == pytest.approx(10, rel=0.2)  # the rest falls as 1/T


# --- precision ----------------------------------------------------------------------------------


@rows()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(row, dtype):
    s, t, y = row.example(max(4, row.least), 2)
    s, t = (each(lambda x: x.to(dtype), x) for x in (s, t))
    loss, gradients = with_gradient(row, s, t, y)
    assert loss.dtype == torch.float32
    expected = oracle(row, s, t, y).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-3, atol=1e-4)
    assert finite(gradients)
    assert all(g is None or g.dtype == dtype for g in gradients)


@rows()
def test_autocast_changes_nothing(row):
    s, t, y = (each(lambda x: x.float() if x.is_floating_point() else x, x)
               for x in row.example(max(4, row.least), 2))
    outside = with_gradient(row, s, t, y)
    inside = with_gradient(row, s, t, y, autocast=True)
    assert inside[0].dtype == torch.float32
    assert torch.equal(inside[0], outside[0])
    for a, b in zip(inside[1], outside[1], strict=True):
        assert a is b is None or torch.equal(a, b)


@rows()
def test_float64_stays_float64(row):
    assert row.call(*row.example(max(4, row.least), 2)).dtype == torch.float64


@rows(lambda row: row.uses_teacher)
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32),
                                    (torch.bfloat16, torch.float32)])
def test_the_sides_may_differ_in_precision(row, dtypes):
    s, t, y = row.example(max(4, row.least), 2)
    s, t = (each(lambda x, dtype=dtype: x.to(dtype), x) for x, dtype in zip((s, t), dtypes))
    expected = oracle(row, s, t, y).mean()
    np.testing.assert_allclose(row.call(s, t, y), expected, rtol=1e-3, atol=1e-4)


# --- extremes -----------------------------------------------------------------------------------


@rows(lambda row: row.kind == "logits")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("K", [2, 6])
def test_logits_of_100_are_finite_in_value_and_gradient(row, dtype, K):
    s = torch.full((3, K), -100.0, dtype=dtype)
    s[:, 0] = 100
    y = torch.tensor([0, 1, K - 1])
    y = y if row.example(2, 0)[2].ndim == 1 else torch.eye(K)[y]
    for t in (s.roll(1, 1), s, -s, torch.zeros_like(s)):
        loss, gradients = with_gradient(row, s, t, y)
        assert torch.isfinite(loss)
        assert finite(gradients)
        np.testing.assert_allclose(loss, oracle(row, s, t, y).mean(), rtol=1e-4, atol=1e-4)


def ruled_out(x, at=-math.inf):
    """One more class, at the end: of logits or of soft labels."""
    if x is None or x.ndim != 2:
        return x
    return torch.cat([x, torch.full((len(x), 1), at, dtype=x.dtype)], 1)


on_logits = pytest.mark.parametrize("row", [row for row in ROWS if row.kind == "logits"], ids=str)


@on_logits
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("K", [2, 7])
def test_a_class_that_both_sides_rule_out(row, dtype, K):
    if row.masked == "no":
        assert re.search("finite (logits|outputs)", getattr(losses, row.function).__doc__)
        return
    s, t, y = (x.to(dtype) if x is not None and x.is_floating_point() else x
               for x in row.example(max(3, row.least), 2))
    s, t, y = s[:, :K], t if t is None else t[:, :K], y % K if y.ndim == 1 else y[:, :K]
    loss, (slopes,) = with_gradient(row, s, t, y)
    more = ruled_out(s), ruled_out(t), ruled_out(y, 0.0)
    masked, (masked_slopes,) = with_gradient(row, *more)
    assert finite([masked_slopes])
    if row.masked == "inf":
        assert masked == math.inf
        return
    assert masked_slopes[:, -1].abs().max() == 0
    if row.masked == "counts":
        np.testing.assert_allclose(masked, oracle(row, *more).mean(), rtol=1e-4)
    else:
        torch.testing.assert_close(masked, loss, rtol=1e-4, atol=1e-5)  # T² times the rounding
        torch.testing.assert_close(masked_slopes[:, :-1], slopes, rtol=1e-4, atol=1e-5)


@on_logits
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_class_that_one_side_rules_out_is_never_nan(row, side, dtype):
    if row.masked == "no" or (side == "teacher" and not row.uses_teacher):
        return
    s, t, y = (x.to(dtype) if x is not None and x.is_floating_point() else x
               for x in row.example(max(3, row.least), 2))
    (s if side == "student" else t)[:, -1] = -math.inf
    loss, gradients = with_gradient(row, s, t, y)
    assert torch.isfinite(loss) or loss == math.inf  # where the other side gives it a probability
    assert finite(gradients) or loss == math.inf


FLAT = {  # (student, teacher) made out of an example
    "student 0": lambda s, t: (s * 0, t),
    "teacher 0": lambda s, t: (s, t * 0),
    "both 0": lambda s, t: (s * 0, t * 0),
    "student constant": lambda s, t: (s * 0 + 0.7, t),
    "both constant": lambda s, t: (s * 0 + 0.7, t * 0 + 0.7),
    "one student row 0": lambda s, t: (torch.cat([s[:1] * 0, s[1:]]), t),
    "one row of both 0": lambda s, t: tuple(torch.cat([x[:1] * 0, x[1:]]) for x in (s, t)),
    "two student rows equal": lambda s, t: (torch.cat([s[:1], s[:1], s[2:]]), t),
    "all student rows equal": lambda s, t: (s[:1].expand_as(s), t),
    "tiny": lambda s, t: (s * 1e-6, t * 1e-6),
    "large": lambda s, t: (s * 1e3, t * 1e3),
}


@rows(lambda row: row.uses_teacher)
@pytest.mark.parametrize("case", FLAT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flat_inputs_are_finite_in_value_and_gradient(row, case, dtype):
    s, t, y = row.example(max(4, row.least), 5)
    if isinstance(s, tuple):
        pairs = [FLAT[case](a, b) for a, b in zip(s, t, strict=True)]
        s, t = zip(*pairs, strict=True)
    else:
        s, t = FLAT[case](s, t)
    s, t = (each(lambda x: x.to(dtype), x) for x in (s, t))
    loss, gradients = with_gradient(row, s, t, y)
    assert torch.isfinite(loss)
    assert finite(gradients)


@rows(lambda row: row.least > 1)
def test_a_relation_needs_a_second_sample(row):
    s, t, y = row.example(row.least, 0)
    few = taken(torch.arange(row.least - 1), s, t, y)
    with pytest.raises(ValueError, match=f"at least {row.least} samples.*got {row.least - 1}"):
        row.call(*few)


# --- shapes and modules -------------------------------------------------------------------------


@rows(lambda row: row.uses_teacher)
def test_shapes_that_cannot_match_name_both(row):
    s, t, y = row.example(max(3, row.least), 0)
    more = each(lambda x: torch.cat([x, x[:1]]), t)
    first = lambda x: str(list(tensors(x)[0].shape)).replace("[", r"\[")  # noqa: E731
    with pytest.raises(ValueError, match=rf"(?s){first(s)}.*{first(more)}"):
        row.call(s, more, y)
    for wrong in (each(lambda x: x[0], s), "features", None):
        with pytest.raises(ValueError, match=r"Expected student .* got"):
            row.call(wrong, t, y)


@rows(lambda row: row.term and not row.projects)
def test_a_module_is_its_function(row):
    s, t, y = row.example(max(4, row.least), 2)
    term = row.term()
    assert term.per_sample is (row.values is not None)
    assert term.needs_teacher is row.uses_teacher
    torch.testing.assert_close(term(s, t, y), row.call(s, t, y))
    if row.values:
        torch.testing.assert_close(term.values(s, t, y), row.values(s, t, y))
    assert repr(copy.deepcopy(term)) == repr(term)


@rows()
def test_the_docstring_is_whole(row):
    text = " ".join(getattr(losses, row.function).__doc__.split())
    assert ".. math::" in text
    assert ">>>" in text
    if row.function != "soft_cross_entropy":  # "as for kd"
        assert "Raises `ValueError`" in text or "errors as for" in text or "Rest as for" in text
    if row.uses_teacher or row.function == "label_smoothing":
        assert re.search(r"\b(19|20)\d\d\b", text), "no paper is named"
