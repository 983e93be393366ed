"""Labels that do not count, weights of classes, labels out of range, and a single logit."""

import pytest
import torch
import torch.nn.functional as F
from conftest import network
from helpers.laws import randn
from torch import nn

import kdcourse as kd
from kdcourse import losses
from kdcourse.losses import CE, DKD, KD, LabelSmoothing, LogitMSE, SquaredError, TfKD

LABELS = torch.tensor([0, 1, 2, 3, 1, 1])


def logits(B=6, K=4, seed=0):
    return randn(B, K, seed=seed, scale=3).requires_grad_()


def same_as(ours, theirs, student):
    """The same value and gradient."""
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student, retain_graph=True)[0]
                                 for loss in (ours, theirs)))


def ignoring(ignore):
    """Labels of which some, or none, do not count."""
    for places in ([], [0], [1, 3, 5], [0, 1, 2, 3, 4]):
        y = LABELS.clone()
        y[places] = ignore
        yield y


# --- ignored labels -----------------------------------------------------------------------------


@pytest.mark.parametrize("ignore", [-100, 255, -1, 2])
def test_ignored_labels_are_left_out_of_the_mean(ignore):
    s = logits()
    for y in ignoring(ignore):
        same_as(losses.cross_entropy(s, y, ignore_index=ignore),
                F.cross_entropy(s, y, ignore_index=ignore), s)
        same_as(CE(ignore_index=ignore)(s, None, y), F.cross_entropy(s, y, ignore_index=ignore), s)
        for e in (0.1, 0.5):
            theirs = F.cross_entropy(s, y, label_smoothing=e, ignore_index=ignore)
            same_as(losses.label_smoothing(s, y, e, ignore_index=ignore), theirs, s)
            same_as(LabelSmoothing(e, ignore_index=ignore)(s, None, y), theirs, s)
        values = losses.cross_entropy(s, y, "none", ignore_index=ignore)
        assert torch.equal(values[y == ignore], torch.zeros_like(values[y == ignore]))


@pytest.mark.parametrize("term", [CE(), LabelSmoothing(), CE(weight=[1, 2, 3, 4])], ids=str)
def test_where_no_label_counts_the_loss_is_0_without_a_gradient(term):
    s, y = logits(), torch.full((6,), -100)
    for loss in (term(s, None, y), term.values(s, None, y).mean()):
        assert float(loss.detach()) == 0
        assert torch.equal(torch.autograd.grad(loss, s)[0], torch.zeros_like(s))


def test_with_all_labels_the_mean_has_the_bits_it_had():
    for B in (3, 7, 128, 1000):
        s, y = torch.randn(B, 10).requires_grad_(), torch.arange(B) % 10
        plain = F.cross_entropy(s, y, reduction="none").mean()
        for loss in (losses.cross_entropy(s, y), CE()(s, None, y)):
            assert torch.equal(loss, plain)
            assert torch.equal(*(torch.autograd.grad(part, s, retain_graph=True)[0]
                                 for part in (loss, plain)))


def test_a_scheme_leaves_ignored_samples_out_of_terms_with_labels_only():
    student, teacher = network(0), network(1)
    x, y = torch.rand(6, 1, 28, 28), torch.tensor([3, -100, 5, 0, -100, 1])
    scheme = kd.Distiller(student, teacher, CE() + KD(T=2) + LabelSmoothing(0.2))
    parts = scheme(kd.data.Batch(x, y, torch.arange(6))).parts
    torch.testing.assert_close(parts["CE"], F.cross_entropy(student(x), y))
    torch.testing.assert_close(parts["LabelSmoothing"],
                               F.cross_entropy(student(x), y, label_smoothing=0.2))
    torch.testing.assert_close(parts["KD"], losses.kd(student(x), teacher(x).detach(), 2))


# --- weights of classes -------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [[1, 1, 1, 1], [0.5, 2, 3, 0.25], torch.tensor([0, 1.0, 5, 2])])
def test_weights_of_classes_are_those_of_torch(weight):
    s, soft = logits(), randn(6, 4, seed=5).softmax(1)
    w = torch.as_tensor(weight, dtype=torch.float64)
    for y in [*ignoring(-100), soft]:
        theirs = F.cross_entropy(s, y, w)
        same_as(losses.cross_entropy(s, y, weight=weight), theirs, s)
        same_as(CE(weight=weight)(s, None, y), theirs, s)
    for y in ignoring(255):
        same_as(CE(weight=weight, ignore_index=255)(s, None, y),
                F.cross_entropy(s, y, w, ignore_index=255), s)


def test_weights_of_classes_in_a_task_with_ignored_rows():
    x, y = torch.rand(8, 3, 4, 5), torch.randint(-1, 4, (8, 4, 5))
    y = y.where(y >= 0, -100)
    net = nn.Conv2d(3, 4, 1)
    batch = kd.data.Batch(x, y, None, task=kd.tasks.Pixels())
    for weight in ([1, 2, 3, 4], [0.1, 5, 0, 1]):
        ours = kd.Supervised(net, CE(weight=weight))(batch).loss
        torch.testing.assert_close(ours, F.cross_entropy(net(x), y, torch.tensor(weight).float()))


def test_weights_of_classes_are_checked_moved_and_shown():
    term = CE(weight=[1, 2.5, 0])
    assert repr(term) == "CE(weight=[1, 2.5, 0])"
    assert repr(CE(ignore_index=255)) == "CE(ignore_index=255)"
    assert repr(LabelSmoothing()) == "LabelSmoothing(smoothing=0.1)"
    assert term.double().weight.dtype == torch.float64
    assert not term.state_dict()
    with pytest.raises(ValueError, match=r"one weight for each of the 4 classes, got \[3\]"):
        term(logits(), None, LABELS)
    with pytest.raises(ValueError, match=r"weight for each of the classes, got \[2, 2\]"):
        CE(weight=torch.ones(2, 2))
    for wrong in ([1, -1], [1, float("nan")], [float("inf"), 1]):
        with pytest.raises(ValueError, match="finite weights of classes of at least 0"):
            CE(weight=wrong)


def test_a_weight_is_part_of_what_a_recorded_row_is_found_by():
    assert CE().identity() == [{}, (), ()]
    assert CE(ignore_index=0).identity()[0] == {"ignore_index": 0}
    assert CE(weight=[1, 2]).identity()[0]["weight"].tolist() == [1, 2]


# --- labels out of range ------------------------------------------------------------------------


WITH_LABELS = {
    "cross_entropy": losses.cross_entropy, "label_smoothing": losses.label_smoothing,
    "virtual_teacher": losses.virtual_teacher, "dkd": lambda s, y: losses.dkd(s, s.detach(), y),
    "CE": lambda s, y: CE()(s, None, y), "TfKD": lambda s, y: TfKD()(s, None, y),
    "DKD": lambda s, y: DKD()(s, s.detach(), y),
    "CE, weights": lambda s, y: CE(weight=[1, 2, 1, 1])(s, None, y),
    "LabelSmoothing": lambda s, y: LabelSmoothing()(s, None, y),
}


@pytest.mark.parametrize("loss", WITH_LABELS.values(), ids=WITH_LABELS)
@pytest.mark.parametrize("wrong", [-1, 4, 255, -99])
def test_labels_out_of_range_get_a_sentence(loss, wrong):
    y = LABELS.clone()
    y[2] = wrong
    with pytest.raises(ValueError, match=f"labels from 0 to 3 .*, got {wrong}"):
        loss(logits(), y)


@pytest.mark.parametrize("name", ["dkd", "virtual_teacher", "TfKD", "DKD"])
def test_terms_that_ignore_no_label_say_so(name):
    with pytest.raises(ValueError, match="-100 are left out by CE and LabelSmoothing only"):
        WITH_LABELS[name](logits(), LABELS.masked_fill(LABELS == 1, -100))


@pytest.mark.parametrize("term", [DKD(), TfKD()], ids=str)
def test_soft_labels_are_refused_by_terms_of_one_target(term):
    with pytest.raises(ValueError, match=rf"{type(term).__name__}.*soft labels \[6, 4\] \(from "
                                         "MixUp.*argmax.*CE, KD"):
        term(logits(), logits(seed=1), randn(6, 4).softmax(1))


# --- one logit ----------------------------------------------------------------------------------


ON_LOGITS = {name: getattr(losses, name) for name in (
    "kd", "soft_cross_entropy", "reverse_kl", "jensen_shannon", "total_variation", "dist",
    "logit_standardization", "hard_label")} | {
    "cross_entropy": lambda s, t: losses.cross_entropy(s, torch.zeros(6).long()),
    "label_smoothing": lambda s, t: losses.label_smoothing(s, torch.zeros(6).long()),
    "virtual_teacher": lambda s, t: losses.virtual_teacher(s, torch.zeros(6).long()),
    "dkd": lambda s, t: losses.dkd(s, t, torch.zeros(6).long()),
    "soft labels": lambda s, t: losses.cross_entropy(s, torch.ones(6, 1)),
}


@pytest.mark.parametrize("loss", ON_LOGITS.values(), ids=ON_LOGITS)
def test_one_logit_is_refused(loss):
    s, t = logits(K=1), logits(K=1, seed=1)
    with pytest.raises(ValueError, match=r"2 classes or more, got \[6, 1\].*sigmoid.*Labels\(\)"):
        loss(s, t)


def test_what_the_sentence_says_is_the_divergence_of_two_sigmoids():
    s, t = logits(K=1), logits(K=1, seed=1)
    two = [torch.cat([torch.zeros_like(z), z], 1) for z in (s, t)]
    q, p = (torch.distributions.Bernoulli(logits=z[:, 0]) for z in (s, t.detach()))
    same_as(losses.kd(*two, T=1), torch.distributions.kl_divergence(p, q).mean(), s)


def test_numbers_may_be_one():
    s, t = logits(K=1), logits(K=1, seed=1)
    same_as(LogitMSE("sum")(s, t), (s - t.detach()).square().mean(), s)
    same_as(SquaredError()(s, None, t.detach()), F.mse_loss(s, t.detach()), s)
