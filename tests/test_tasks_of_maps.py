"""Sigmoids and numbers for each pixel, and labels that belong to another task."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kdcourse as kd
from kdcourse import losses, tasks
from kdcourse.data import Batch

RECIPE = kd.Recipe(epochs=1, batch=8, lr=0.01)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def segmenter(outputs, width=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, outputs, 1))


def images(count=24):
    return rand(count, 3, 6, 8).sigmoid()


def scheme_of(objective, outputs):
    return kd.Distiller(segmenter(outputs), segmenter(outputs, 8, seed=1), objective)


# --- against the losses of torch, and from end to end -------------------------------------------


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
def test_sigmoids_of_pixels_are_binary_cross_entropy_and_bernoulli_divergences(outputs, kind):
    y = whole(2, 24, outputs, 6, 8).to(kind)
    data = kd.data.from_arrays(images(), y, task=tasks.Labels())
    assert len(data.classes) == outputs
    scheme, batch = scheme_of(losses.CE() + losses.KD(T=2), outputs), next(data.train.batches(8))
    parts = scheme(batch).parts
    z, v = scheme.student(batch.x), scheme.teacher.predict(batch.x)
    torch.testing.assert_close(
        parts["CE"], F.binary_cross_entropy_with_logits(z, batch.y.float()))
    p, q = (v.double() / 2).sigmoid(), (z.double() / 2).sigmoid()
    bernoulli = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert float(parts["KD"].detach()) == pytest.approx(
        4 * float(bernoulli.mean().detach()), rel=1e-3)
    history = kd.fit(scheme, data, RECIPE)
    z, y = kd.export(scheme)(data.val.x), data.val.y
    right = ((z > 0) == (y > 0.5)).float().mean()
    assert history["val_accuracy"][-1] == pytest.approx(float(right))
    assert kd.report(scheme, data).rows["student"]["agreement"] <= 1
    kd.doctor(scheme, data)


@pytest.mark.parametrize("shape", [(1, 6, 8), (2, 6, 8)])
def test_maps_of_numbers_are_squared_errors(shape):
    metrics = pytest.importorskip("sklearn.metrics")
    data = kd.data.from_arrays(images(), rand(24, *shape), task=tasks.Numbers())
    scheme = scheme_of(losses.SquaredError() + losses.LogitMSE("sum"), shape[0])
    batch = next(data.train.batches(8))
    parts = scheme(batch).parts
    z, v = scheme.student(batch.x), scheme.teacher.predict(batch.x)
    torch.testing.assert_close(parts["SquaredError"], F.mse_loss(z, batch.y))
    torch.testing.assert_close(parts["LogitMSE"], (z - v).square().flatten(1).sum(1).mean())
    history = kd.fit(scheme, data, RECIPE)
    z = kd.export(scheme)(data.val.x).detach().flatten(1)
    expected = metrics.r2_score(data.val.y.flatten(1), z, multioutput="variance_weighted")
    assert history["val_r2"][-1] == pytest.approx(expected, rel=1e-4)
    report = kd.report(scheme, data)
    assert "samples of the test split" in repr(report)
    assert report.rows["student"]["teacher_rmse"] > 0


def test_maps_come_from_loaders():
    x, y = images(), whole(2, 24, 1, 6, 8)
    loader = torch.utils.data.DataLoader(list(zip(x, y, strict=True)), batch_size=8)
    data = kd.data.from_loaders(loader, loader, classes=1, task=tasks.Labels())
    assert kd.fit(scheme_of(losses.CE() + losses.KD(), 1), data, RECIPE)["val_accuracy"][-1] <= 1


@pytest.mark.parametrize(("task", "y"), [
    (tasks.Labels(), whole(2, 24, 1, 3, 4)), (tasks.Numbers(), rand(24, 1, 3, 4)),
    (tasks.Labels(), whole(2, 24, 1)), (tasks.Numbers(), rand(24, 1, 48))])
def test_labels_of_another_size_than_the_output_are_refused(task, y):
    data = kd.data.from_arrays(images(), y, task=task)
    objective = losses.CE() if task == tasks.Labels() else losses.SquaredError()
    with pytest.raises(ValueError, match=r"shape of the output, \[\d, 1, 6, 8\], .*got \[\d, 1"):
        kd.fit(kd.Supervised(segmenter(1), objective), data, RECIPE)


@pytest.mark.parametrize(("task", "y", "sentence"), [
    (tasks.Pixels(), whole(2, 24, 6, 8), r"sigmoid: task=kd.tasks.Labels\(\)"),
    (tasks.Labels(), whole(2, 24, 6, 8), r"y\[:, None\] of y \[N, H, W\]"),
    (tasks.Numbers(), rand(24, 6, 8), r"y\[:, None\] of y \[N, H, W\]")])
def test_one_output_with_a_sigmoid_and_maps_without_an_axis_of_channels(task, y, sentence):
    data = kd.data.from_arrays(images(), y, task=task)
    objective = losses.SquaredError() if task == tasks.Numbers() else losses.CE()
    with pytest.raises(ValueError, match=sentence):
        kd.fit(kd.Supervised(segmenter(1), objective), data, RECIPE)


@pytest.mark.parametrize(("task", "y"), [(tasks.Labels(), whole(2, 24, 1, 6, 8)),
                                         (tasks.Numbers(), rand(24, 2, 6, 8))])
def test_images_with_maps_of_labels_are_not_augmented_without_them(task, y):
    with pytest.raises(ValueError, match="label for each pixel"):
        kd.augmented(kd.data.from_arrays(images(), y, task=task), shift=0.1)


# --- labels of another task: the sentence names it ----------------------------------------------

BINARY = whole(2, 24, 4)
WRONG = [
    (None, BINARY, r"tasks\.Labels\(\)"), (None, BINARY.float(), r"tasks\.Labels\(\)"),
    (None, BINARY.bool(), r"tasks\.Labels\(\)"),
    (None, 10 * rand(24), r"tasks\.Numbers\(\)"), (None, rand(24, 2), r"tasks\.Numbers\(\)"),
    (None, whole(4, 24, 6, 8), r"tasks\.Pixels\(\)"),
    (None, whole(4, 24, 1, 6, 8), r"y\[:, 0\] .*tasks\.Pixels\(\)"),
    (None, whole(2, 24, 1, 6, 8), r"Pixels\(\).*sigmoid.*Labels\(\)"),
    (None, rand(24, 1, 6, 8), r"maps of numbers.*Numbers\(\)"),
    (None, whole(4, 24, 7), r"tasks\.Tokens\(\)"),
    (None, whole(4, 24, 1), r"y\[:, 0\]"),
    (tasks.Pixels(), whole(4, 24, 1, 6, 8), r"class numbers.*\[N, H, W\].*y\[:, 0\]"),
    (tasks.Pixels(), rand(24, 6, 8), r"Numbers\(\)"),
    (tasks.Labels(), whole(2, 24, 6, 8), r"y\[:, None\]"),
    (tasks.Numbers(), rand(24, 6, 8) / 0, r"y\[:, None\]"),
]


@pytest.mark.parametrize(("task", "y", "sentence"), WRONG)
@pytest.mark.parametrize("loader", [False, True])
def test_labels_of_another_task_are_refused_by_its_name(task, y, sentence, loader):
    classes = 4 if loader or task == tasks.Labels() else None
    make = functools.partial(kd.data.from_arrays, images(), y, classes)
    if loader:
        rows = torch.utils.data.DataLoader(list(zip(images(), y, strict=True)), batch_size=8)
        make = functools.partial(kd.data.from_loaders, rows, rows, classes=classes)
    with pytest.raises(ValueError, match=sentence):
        make(task=task)


def test_soft_labels_of_another_number_of_classes_are_not_taken_for_several_labels():
    with pytest.raises(ValueError, match=r"soft labels of shape \[N, 3\] .*got \[24, 4\]\.$"):
        kd.data.from_arrays(images(), F.one_hot(whole(4, 24), 4), classes=3)


# --- labels of a language model -----------------------------------------------------------------


def texts():
    words = 1 + whole(30, 24, 7)
    mask = torch.arange(7) < 3 + whole(4, 24, 1)
    return {"input_ids": words, "attention_mask": mask.long()}, words.masked_fill(~mask, -100)


@pytest.mark.parametrize("form", ["dict", "tensor", "loader"])
def test_labels_that_are_the_inputs_are_warned_of(form):
    """As transformers takes them: there the model shifts them."""
    x, y = texts()
    make = functools.partial(kd.data.from_arrays, x if form == "dict" else x["input_ids"], y)
    if form == "loader":
        rows = [{"input_ids": one, "labels": other}
                for one, other in zip(x["input_ids"], y, strict=True)]
        loader = torch.utils.data.DataLoader(rows, batch_size=8)
        make = functools.partial(kd.data.from_loaders, loader, loader, classes=31)
    with pytest.warns(UserWarning, match="copy its input.* next tokens"):
        make(task=tasks.Tokens())


@pytest.mark.parametrize("labels", ["next", "masked words", "tags"])
def test_other_labels_of_tokens_are_not_warned_of(labels, recwarn):
    x, y = texts()
    if labels == "next":
        y = torch.cat([y[:, 1:], torch.full_like(y[:, :1], -100)], 1)
    elif labels == "tags":
        y = (y % 5).masked_fill(y == -100, -100)
    else:
        hidden = whole(3, *y.shape) == 0
        y = y.masked_fill(~hidden, -100)
        x["input_ids"] = x["input_ids"].masked_fill(hidden, 0)
    kd.data.from_arrays(x, y, task=tasks.Tokens())
    assert not recwarn.list


# --- embeddings are compared as numbers ---------------------------------------------------------


def backbone(width, outputs):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, outputs))


@pytest.mark.parametrize("objective", [
    lambda: losses.LogitMSE(), lambda: losses.Hint("0", "0"), lambda: losses.RKDDistance("4", "4")])
def test_embeddings_have_a_distance_and_no_agreement(objective):
    data = kd.data.from_arrays(images(), None, task=tasks.Unlabelled())
    scheme = kd.Distiller(backbone(4, 6), backbone(8, 6), objective())
    kd.fit(scheme, data, RECIPE)
    row = kd.report(scheme, data).rows["student"]
    z, v = (one(data.test.x).detach() for one in (kd.export(scheme), scheme.teacher.model))
    assert row["teacher_rmse"] == pytest.approx(float(F.mse_loss(z, v).sqrt()), rel=1e-5)
    assert "agreement" not in row and "teacher_kl" not in row
    found = kd.compare({"a": lambda seed: kd.Distiller(backbone(4, 6), scheme.teacher,
                                                       losses.LogitMSE())},
                       data, RECIPE, seeds=range(2))
    assert all(one["agreement"] is None for one in found.rows)


# --- what is no batch ---------------------------------------------------------------------------

X, Y = images(4), whole(3, 4)


@pytest.mark.parametrize(("call", "got"), [
    (lambda scheme: scheme(X), "got Tensor"), (lambda scheme: scheme((X, Y)), "got tuple"),
    (lambda scheme: scheme(X, Y), "got Tensor, Tensor"),
    (lambda scheme: scheme({"x": X, "labels": Y}), "got dict"),
    (lambda scheme: scheme(x=X, labels=Y), "got x=, labels="),
    (lambda scheme: scheme(), "got nothing"),
    (lambda scheme: scheme.build((X, Y), 0), "got tuple"),
    (lambda scheme: scheme.teacher(X), "got Tensor")])
def test_what_is_no_batch_is_refused(call, got):
    scheme = kd.Distiller(backbone(4, 3), backbone(8, 3))
    with pytest.raises(TypeError, match=f"Expected a Batch, {got}.*kd.data.Batch.*label_names"):
        call(scheme)


def test_a_batch_needs_no_ids():
    scheme = kd.Distiller(backbone(4, 3), backbone(8, 3))
    assert torch.equal(scheme(Batch(X, Y)).loss, scheme(Batch(X, Y, None)).loss)


@pytest.mark.parametrize(("task", "output", "y"), [
    (kd.tasks.Pixels(), (2, 5, 8, 8), (2, 4, 16)), (kd.tasks.Pixels(), (2, 5, 4, 6), (2, 6, 4)),
    (kd.tasks.Pixels(), (2, 5, 8, 8), (2, 5, 16, 4)), (kd.tasks.Tokens(), (2, 6, 5), (3, 4)),
    (kd.tasks.Tokens(), (2, 6, 5), (3, 4, 5)), (kd.tasks.Labels(), (2, 5, 8, 8), (2, 5, 4, 16))])
def test_as_many_places_on_another_grid_are_refused(task, output, y):
    y = torch.zeros(y) if len(y) == len(output) else torch.zeros(y).long()
    with pytest.raises(ValueError, match=r"Expected labels .*, got"):
        task.rows(torch.zeros(output), y=y)
    same = torch.zeros(output)
    assert len(task.rows(same, y=same).labels) == len(task.flat(same))
