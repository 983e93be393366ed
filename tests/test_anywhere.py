"""What is measured, drawn or shown may be on any device, each tensor on another one."""

import contextlib
import itertools
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import cell, network
from helpers.elsewhere import Elsewhere
from torchvision.transforms import v2

import kdcourse as kd
from kdcourse import explore, measure, plot
from kdcourse.data import Batch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(params=["elsewhere", pytest.param("cuda", marks=needs_gpu)])
def there(request, monkeypatch):
    """Moves a tensor to where the other ones are not."""
    backend = types.SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(torch, "meta", backend, raising=False)  # every other device has one
    if request.param == "cuda":
        yield lambda tensor: tensor.cuda()
    else:
        # Wrapped tensors cannot be split in inference mode.
        monkeypatch.setattr(torch, "inference_mode",
                            lambda on=True: torch.no_grad() if on else contextlib.nullcontext())
        with Elsewhere() as place:
            yield place


def test_the_other_place_refuses_what_a_gpu_refuses(there):
    x = torch.rand(3, 4)
    with pytest.raises(RuntimeError, match="same device"):
        there(x) + x
    with pytest.raises((RuntimeError, TypeError), match="numpy"):
        there(x).numpy()
    moved = 2 * there(x) + torch.tensor(1.0)  # a number without dimensions may come along
    assert moved.device == there(x).device != x.device
    assert moved.cpu().equal(2 * x + 1)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(24) % 6
LOGITS, OTHERS, SOFT = draw(24, 6), draw(24, 6, seed=1), draw(24, 6, seed=2).softmax(1)
IMAGES = draw(24, 1, 4, 4).sigmoid()
MAPS = draw(4, 2, 5, 5).softmax(-1)
NAMES = list("abcdef")

MEASURES = {
    "accuracy": (LOGITS, LABELS), "top_k": (LOGITS, LABELS, 2), "nll": (LOGITS, LABELS),
    "reliability": (LOGITS, LABELS), "ece": (LOGITS, LABELS), "agreement": (LOGITS, OTHERS),
    "teacher_kl": (LOGITS, OTHERS), "entropy": (LOGITS,), "per_class": (LOGITS, LABELS, 6),
    "recall_at_1": (LOGITS, LABELS), "confusion": (LOGITS, LABELS),
    "evaluate": (LOGITS, LABELS, OTHERS), "cka": (LOGITS, OTHERS),
    "r2": (LOGITS, OTHERS), "rmse": (LOGITS, OTHERS),
    "interval": (LOGITS[0],), "paired_difference": (LOGITS[0], OTHERS[0]),
}
DRAWN = {
    "probabilities": (IMAGES[0], {"student": LOGITS[0], "teacher": OTHERS[0]}, NAMES),
    "heatmap": (SOFT, range(24), range(6), "T", "alpha", "accuracy"),
    "cka": (SOFT[:6], NAMES, NAMES, "student", "teacher"),
}
SHOWN = {
    "temperature": (LOGITS[:3], NAMES, IMAGES[:3], LABELS[:3]),
    "push": (LOGITS[:3], OTHERS[:3], LABELS[:3], NAMES, IMAGES[:3]),
    "gallery": (IMAGES[:3], LABELS[:3], NAMES, {"student": LOGITS[:3], "teacher": OTHERS[:3]}),
    "layers": ([SOFT[:6], SOFT[6:12]], NAMES, NAMES),
}


def mixtures(arguments, there):
    """The arguments with each of their tensors here or there, in every mixture."""
    leaves, form = torch.utils._pytree.tree_flatten(arguments)
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    for moves in itertools.product([False, True], repeat=len(tensors)):
        moved = list(leaves)
        for i, move in zip(tensors, moves, strict=True):
            moved[i] = there(leaves[i]) if move else leaves[i]
        yield torch.utils._pytree.tree_unflatten(moved, form)


def of_tensors(module):
    """The functions of a module whose names do not say that they take something else."""
    return {name for name, value in vars(module).items()
            if callable(value) and not isinstance(value, type) and not name.startswith("_")}


def test_every_function_that_takes_tensors_is_tried():
    networks = {"parameters", "macs", "file_mb", "latency", "throughput", "peak_memory", "report"}
    texts = {"text_table", "html_table"}
    elsewhere = {"cka_matrix", "attention_rollout"}  # below
    assert of_tensors(measure) - networks - texts - elsewhere == {*MEASURES}
    rows = {"dots", "differences", "reliability", "curves", "history", "style"}
    assert of_tensors(plot) - rows == {*DRAWN}
    assert of_tensors(explore) - {"bet", "question", "score", "divergence"} == {*SHOWN}


@pytest.mark.parametrize("name", MEASURES)
def test_measures(name, there):
    expected = getattr(measure, name)(*MEASURES[name])
    for arguments in mixtures(MEASURES[name], there):
        found = getattr(measure, name)(*arguments)
        if isinstance(found, torch.Tensor):  # such as `confusion`
            assert found.device.type == "cpu"
            torch.testing.assert_close(found, expected)
        elif isinstance(found, list):
            np.testing.assert_equal(found, expected)
        else:
            assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["accuracy", "nll", "ece", "top_k", "confusion"])
def test_measures_take_soft_labels_from_anywhere(name, there):
    function = getattr(measure, name)
    for logits, labels in mixtures((LOGITS, SOFT), there):
        np.testing.assert_allclose(function(logits, labels), function(LOGITS, SOFT), rtol=1e-5)


def test_attention_of_layers_on_several_devices(there):
    expected = measure.attention_rollout([MAPS, MAPS.flip(0)])
    for maps in mixtures([MAPS, MAPS.flip(0)], there):
        rollout = measure.attention_rollout(maps)
        assert rollout.device == maps[0].device
        torch.testing.assert_close(rollout.cpu(), expected)


def test_layers_of_networks_on_several_devices(there):
    first, second = (kd.models.mlp(hidden=(8,), size=4, seed=seed) for seed in (0, 1))
    expected = measure.cka_matrix(first, ["2"], second, ["2", "4"], IMAGES)
    second.to(there(IMAGES).device)
    for (x,) in mixtures((IMAGES,), there):
        found = measure.cka_matrix(first, ["2"], second, ["2", "4"], x)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", DRAWN)
def test_figures(name, there):
    for arguments in mixtures(DRAWN[name], there):
        getattr(plot, name)(*arguments)
        plt.close()


@pytest.mark.parametrize("name", SHOWN)
def test_explorables(name, there):
    expected = str(getattr(explore, name)(*SHOWN[name]))
    for arguments in mixtures(SHOWN[name], there):
        assert str(getattr(explore, name)(*arguments)) == expected


def test_a_figure_of_a_table_of_numbers_on_a_device(there):
    table = [[there(torch.tensor(0.5)), 0.25], [0.75, 1.0]]
    plot.heatmap(table, [1, 2], [1, 2], "T", "alpha", "accuracy")


# --- batches and views --------------------------------------------------------------------------


def test_a_batch_is_cut_without_an_index_from_elsewhere(there):
    whole = Batch(IMAGES[:7], LABELS[:7], torch.arange(7), view=3)
    moved = Batch(there(whole.x), there(whole.y), there(whole.index), view=3)
    for pieces, expected in ((1, [[*range(7)]]), (3, [[0, 1, 2], [3, 4], [5, 6]]),
                             (9, [[i] for i in range(7)])):
        for batch in (whole, moved):
            parts = batch.split(pieces)
            assert [part.index.tolist() for part in parts] == expected
            assert torch.cat([part.x for part in parts]).cpu().equal(whole.x)
            assert torch.cat([part.y for part in parts]).cpu().equal(whole.y)
            assert {part.view for part in parts} == {3}
    places = torch.tensor([4, 0])
    for (index,) in mixtures((places,), there):
        assert moved[index].index.tolist() == [4, 0]
        assert moved[index].x.cpu().equal(whole.x[places])
    assert moved[1::3].index.tolist() == [1, 4]


def test_a_batch_without_ids_is_cut_too():
    parts = Batch(IMAGES[:5], LABELS[:5], None).split(2)
    assert [len(part.x) for part in parts] == [3, 2]
    assert all(part.index is None for part in parts)


def test_views_of_samples_by_an_index_from_anywhere(there):
    data = kd.data.glyphs(train=40, val=36, test=36, size=8)
    train = kd.augmented(data, views=2, shift=0.1, seed=1).train
    index = torch.tensor([3, 0, 7])
    moved = train.to(there(index).device)
    for view in (0, 1):
        expected = train.seen(index, view)
        for (place,) in mixtures((index,), there):
            torch.testing.assert_close(moved.seen(place, view).cpu(), expected)
            torch.testing.assert_close(train.seen(place, view), expected)


# --- answers lie where the inputs are, whatever a training moved --------------------------------


@pytest.mark.parametrize("transform", [
    pytest.param(None, id="none"), pytest.param(lambda x: (x - 0.5) / 0.2, id="normalised"),
    pytest.param(v2.Resize([8, 8]), id="resized")])
def test_logits_come_back_to_where_the_inputs_are(transform, there):
    first, second = (kd.models.convnet(width=4, size=4, seed=seed) for seed in (0, 1))
    teacher = kd.Live(first, transform)
    ensemble = kd.Ensemble([teacher, second])
    expected = [kd.models.predict(first, IMAGES), teacher.predict(IMAGES), ensemble.predict(IMAGES)]
    first.to(there(IMAGES).device)
    for (x,) in mixtures((IMAGES,), there):
        found = [kd.models.predict(first, x), teacher.predict(x), ensemble.predict(x)]
        for logits, wanted in zip(found, expected, strict=True):
            assert logits.device == x.device
            torch.testing.assert_close(logits.cpu(), wanted, rtol=1e-4, atol=1e-5)


def test_stored_answers_can_be_read_after_a_training_moved_them(there, data):
    cached = kd.Cached(network(1), data)
    before = cached.logits[torch.tensor([3, 1])]
    scheme = kd.Distiller(network(), cached).to(there(IMAGES).device)
    assert scheme.teacher is cached
    assert torch.equal(cached.logits[torch.tensor([3, 1])], before)
    index = there(torch.tensor([3, 1]))
    inside = cached(Batch(there(data.train.x[:2]), there(data.train.y[:2]), index)).logits
    assert inside.device == index.device  # in a step nothing comes back to the CPU
    assert torch.equal(inside.cpu(), before)


def test_a_contrast_finds_its_memories_by_an_index_from_anywhere(there):
    expected = None
    for index in (torch.arange(8), there(torch.arange(8))):
        term = kd.losses.CRD(samples=24, dim=4, negatives=6)
        student, teacher = there(LOGITS[:8]), there(OTHERS[:8])
        term.build(student, teacher, seed=0)
        value = float(term(student, teacher, index=index).detach())
        expected = expected or value
        assert value == pytest.approx(expected)


# --- the network behind stored answers stays where it is ----------------------------------------


@pytest.fixture(params=["stored", "an ensemble"])
def trained_there(request, there, data):
    """A scheme that was moved, and the stored answers in it."""
    stored = kd.Cached(network(1), data)
    teacher = stored if request.param == "stored" else kd.Ensemble([network(2), stored])
    return kd.Distiller(network(), teacher).to(there(IMAGES).device), stored


def test_a_report_measures_both_on_the_device_of_the_student(trained_there, data):
    scheme, stored = trained_there
    report = kd.report(scheme, data)
    assert report.device == kd.models.device_of(scheme.student).type
    assert {name: row["parameters"] for name, row in report.rows.items()} == {
        "teacher": sum(map(kd.measure.parameters, scheme.teacher.networks())),
        "student": kd.measure.parameters(scheme.student)}
    assert kd.models.device_of(stored.source.model).type == "cpu"  # moved back after measuring


def test_the_doctor_compares_stored_answers_with_the_network(trained_there, data):
    scheme, stored = trained_there
    assert "answers belong to other samples" not in str(kd.doctor(scheme, data))
    for weights in stored.source.model.parameters():
        weights.normal_()  # now it answers otherwise
    assert "answers belong to other samples" in str(kd.doctor(scheme, data))


def test_stored_answers_are_checked_wherever_they_are(trained_there, data):
    _, stored = trained_there
    kd.checks.aligned(stored, data)
    kd.checks.aligned(stored, data, teacher=stored.source)


def test_the_doctor_takes_data_from_a_device(there, data):
    moved = kd.data.Dataset(*(getattr(data, name).to(there(IMAGES).device)
                              for name in ("train", "val", "test")), data.classes, data.params)
    scheme = kd.Distiller(network(), network(1))
    assert [finding.problem for finding in kd.doctor(scheme.to(there(IMAGES).device), moved)] == [
        finding.problem for finding in kd.doctor(scheme.to("cpu"), data)]


# --- what chapters write themselves -------------------------------------------------------------


def defined(*sources, **names) -> dict:
    """What these cells define."""
    names = {"kd": kd, "np": np, "torch": torch, "nn": torch.nn,
             "F": torch.nn.functional} | names
    for source in sources:
        exec(source, names)
    return names


@pytest.mark.parametrize("chapter", ["03", "04"])
def test_teachers_of_a_chapter_are_asked_here_and_there(chapter, there, data):
    if chapter == "03":
        names = defined(cell("03", "class ByPosition(kd.Live)"))
        teacher = names["ByPosition"](network(1), kd.Cached(network(1), data).logits)
        paths = ()
    else:
        names = defined(cell("04", "class Remembering(kd.Live)"))
        teacher, paths = names["Remembering"](network(1), data.train.x), ("2",)
    first = next(data.train.batches(8))
    expected = None
    for place in ("cpu", there(IMAGES).device, "cpu"):
        batch = Batch(*(tensor.to(place) for tensor in (first.x, first.y, first.index)))
        teacher.place = 0  # as ByPosition counts
        view = teacher.to(place)(batch, paths)
        assert {x.device for x in (view.logits, *view.taps.values())} == {batch.x.device}
        expected = view.logits if expected is None else expected
        torch.testing.assert_close(view.logits.cpu(), expected)


def test_attention_of_chapter_6_is_made_wherever_the_network_is(there):
    names = defined(cell("06", "def attention_maps(model, x)"))
    model = kd.models.vit(dim=16, depth=2, size=8, patch=4)
    x = draw(5, 1, 8, 8)
    expected = names["attention_maps"](model, x)
    found = names["attention_maps"](model.to(there(x).device), x)
    torch.testing.assert_close(found, expected)


def test_measures_of_chapter_7_take_a_student_from_anywhere(there):
    sources = [cell("07", text) for text in (
        "def one_token(", "class TwoTokens(", "def mean_of_softmaxes(", "def heads(scheme, split)",
        "def cosines(scheme, split)", "def attention(model, x, layer)", "def apart(scheme, split)")]
    names = defined(*sources, teacher=kd.models.convnet(width=4),
                    data=kd.data.glyphs(train=36, val=36, test=36))
    scheme, split = kd.Supervised(names["TwoTokens"](0)), names["data"].val
    for name in ("heads", "cosines", "apart"):
        expected = names[name](scheme.cpu(), split)
        found = names[name](scheme.to(there(IMAGES).device), split)
        assert len(expected) > 0 and found == pytest.approx(expected, abs=1e-5)
