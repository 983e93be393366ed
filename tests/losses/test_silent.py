"""What no loss may take, or must not be changed by, without a word: every loss, every kind.

The table of losses is that of `test_laws.py`.
"""

import inspect
import math

import pytest
import torch
from helpers import laws_attention, laws_feature, laws_relation, laws_response
from helpers.laws import each, tensors

from kdcourse import losses

ROWS = [*laws_response.ROWS, *laws_feature.ROWS, *laws_attention.ROWS, *laws_relation.ROWS]
rows = pytest.mark.parametrize("row", ROWS, ids=map(str, ROWS))
with_teacher = [row for row in ROWS if row.uses_teacher]
pairs = pytest.mark.parametrize("row", with_teacher, ids=map(str, with_teacher))
hard = [row for row in ROWS if not row.uses_teacher and row.example(2, 0)[2].ndim == 1]


def example(row):
    return row.example(max(4, row.least), 0)


def poked(x, value):
    """The first tensor, with this value as its last element (the first tokens may be left out)."""
    one = tensors(x)[0].clone()
    one[(-1,) * one.ndim] = value
    return (one, *x[1:]) if isinstance(x, tuple) else one


# --- refused ------------------------------------------------------------------------------------


@pairs
@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool, torch.complex128])
def test_other_than_real_numbers_are_refused(row, kind):
    if str(row) == "attention_kl, probabilities":
        return  # its row takes the softmax first; `attention_pair` is that of the others
    s, t, y = example(row)
    wrong = [each(lambda x: x.to(kind), side) for side in (s, t)]
    for pair in ((s, wrong[1]), (wrong[0], t), wrong):
        with pytest.raises(ValueError, match=r"Expected .* got"):
            row.call(*pair, y)


SHAPES = {  # broadcastable, or of another rank
    "one sample": lambda x: x[:1], "no sample": lambda x: x[:0], "less": lambda x: x[:-1],
    "one number for each sample": lambda x: x.flatten(1)[:, 0], "one axis more": lambda x: x[None],
    "NumPy": lambda x: x.numpy(), "one number": lambda x: x.sum(), "none": lambda x: None,
}


@pairs
@pytest.mark.parametrize("shape", SHAPES)
def test_other_shapes_on_one_side_are_refused(row, shape):
    if row.function == "crd":
        return  # its row takes positives and negatives out of one tensor
    s, t, y = example(row)
    for pair in ((s, each(SHAPES[shape], t)), (each(SHAPES[shape], s), t)):
        with pytest.raises(ValueError, match="Expected "):
            row.call(*pair, y)


@pairs
def test_both_sides_in_the_wrong_order_are_refused(row):
    s, t, y = example(row)
    tracked = each(lambda x: x.clone().requires_grad_(), t)
    with pytest.raises(ValueError, match=r"on the student.s side.*The order is student, teacher"):
        row.call(s, tracked, y)
    with torch.no_grad():  # as a measure
        torch.testing.assert_close(row.call(s, tracked, y), row.call(s, t, y))
    both = each(lambda x: x.clone().requires_grad_(), s)  # a teacher that is not frozen
    torch.testing.assert_close(row.call(both, tracked, y).detach(), row.call(s, t, y))


@pytest.mark.parametrize("row", hard, ids=map(str, hard))
@pytest.mark.parametrize("wrong", [lambda y: y[:, None], lambda y: y[:1], lambda y: y + 0.5,
                                   lambda y: y > 0, lambda y: y[None], lambda y: y.sum(),
                                   lambda y: y + 99, lambda y: None, lambda y: y.tolist()])
def test_labels_that_do_not_fit_are_refused(row, wrong):
    s, t, y = example(row)
    with pytest.raises(ValueError, match="Expected "):
        row.call(s, t, wrong(y))


functions = {row.function: row for row in ROWS}


@pytest.mark.parametrize("name", functions)
def test_settings_out_of_range_are_refused(name):
    s, t, y = example(functions[name])
    function = getattr(losses, name)
    allowed = inspect.signature(function).parameters
    takes = list(allowed)
    first = [s, t] if functions[name].uses_teacher else [s]
    if "labels" in takes and len(takes) > takes.index("labels"):
        first = [s, t, y] if functions[name].uses_teacher else [s, y]
    if name in ("ctkd", "crd", "vid", "overhaul", "softmax_regression", "factor_transfer",
                "review", "class_attention", "squared_error"):
        return  # they take other arguments too, and have tests of their own
    for setting, values in {"T": (0, -1, math.inf, math.nan), "reduction": ("sum", "", None),
                            "variant": ("", "Paper"), "smoothing": (-0.1, 1.1, math.nan),
                            "alpha": (-1, math.nan), "beta": (-1, math.nan), "p": (0, math.nan),
                            "margin": (0, -1, math.nan)}.items():
        for value in values if setting in allowed else ():
            with pytest.raises(ValueError, match="Expected "):
                function(*first, **{setting: value})


# --- what is no number stays none ---------------------------------------------------------------


@rows
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_value_that_is_no_number_is_not_hidden(row, side):
    s, t, y = example(row)
    if side == "teacher" and not row.uses_teacher:
        return
    loss = row.call(poked(s, math.nan), t, y) if side == "student" else row.call(
        s, poked(t, math.nan), y)
    assert not torch.isfinite(loss)


# --- changes nothing ----------------------------------------------------------------------------


def same(row, pair):
    """The value and the student's gradients for a pair made out of an example."""
    s, t, y = example(row)
    leaves = each(lambda x: x.clone().requires_grad_(), s)
    before = [x.clone() for x in (*tensors(s), *(tensors(t) if row.uses_teacher else ()))]
    loss = row.call(each(pair, leaves), t if t is None else each(pair, t), y)
    expected = row.call(s, t, y)
    torch.testing.assert_close(loss.detach(), expected)
    found = torch.autograd.grad(loss, tensors(leaves), allow_unused=True)
    after = (*tensors(s), *(tensors(t) if row.uses_teacher else ()))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))  # inputs stay
    plain = each(lambda x: x.clone().requires_grad_(), s)
    slopes = torch.autograd.grad(row.call(plain, t, y), tensors(plain), allow_unused=True)
    for a, b in zip(found, slopes, strict=True):
        assert (a is b is None) or torch.allclose(a, b, rtol=1e-8, atol=1e-10)


@rows
def test_tensors_that_are_not_contiguous(row):
    same(row, lambda x: x.transpose(0, -1).contiguous().transpose(0, -1))
    same(row, lambda x: torch.stack([x, x], -1)[..., 0])
    same(row, lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x)


@pairs
def test_expanded_tensors(row):
    s, t, y = row.example(max(4, row.least), 3)
    one = each(lambda x: x[:1].expand(x.shape), t)
    torch.testing.assert_close(row.call(s, one, y), row.call(s, each(torch.clone, one), y))


@pairs
def test_teachers_of_inference_mode(row):
    if row.function == "crd":
        return  # its row gives the memory, of which torch says that it cannot be saved
    s, t, y = example(row)
    with torch.inference_mode():
        teacher = each(torch.clone, t)
    leaves = each(lambda x: x.clone().requires_grad_(), s)
    loss = row.call(leaves, teacher, y)
    loss.backward()
    torch.testing.assert_close(loss.detach(), row.call(s, t, y))
