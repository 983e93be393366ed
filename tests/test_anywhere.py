"""What is measured, drawn or shown may be on any device, each tensor on another one."""

import copy
import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import cell, network, restless
from helpers import laws_attention, laws_feature, laws_relation, laws_response
from helpers.laws import each, tensors
from helpers.pretend import pretend_device
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.transforms import v2

import kdcourse as kd
from kdcourse import _random, explore, measure, plot
from kdcourse._modules import untouched
from kdcourse.data import Batch

ROWS = [*laws_response.ROWS, *laws_feature.ROWS, *laws_attention.ROWS, *laws_relation.ROWS]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(params=["pretend", pytest.param("cuda", marks=needs_gpu)])
def there(request):
    """Moves a tensor to where the other ones are not."""
    # Autograd takes no new device after its first pass: it is there from the start or not at all.
    if request.param == "pretend" and not hasattr(torch, pretend_device.NAME):
        pytest.skip("Run it with --device pretend, as `nox -s test` does.")
    return lambda tensor: tensor.to(request.param)


class NoWait(TorchDispatchMode):
    """Refuses what a GPU waits for without a word: an index from the CPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.__name__.startswith("index"):
            assert len({t.device for t in tree_leaves(args) if isinstance(t, torch.Tensor)}) == 1
        return function(*args, **(kwargs or {}))


def test_the_other_place_refuses_what_a_gpu_refuses(there):
    x, y, index = torch.rand(3, 4), torch.rand(3, 1, 5, 5), torch.tensor([2, 0])
    weight = torch.rand(2, 1, 3, 3)
    mixed = [
        lambda: there(x) + x, lambda: x + there(x).sum(), lambda: there(x) @ x.T,
        lambda: torch.cat([there(x), x]), lambda: torch.stack([there(x).sum(), x.sum()]),
        lambda: torch.where(x > 0, there(x), 0), lambda: there(x).gather(1, index[None]),
        lambda: F.conv2d(there(y), weight), lambda: F.conv2d(y, there(weight)),
        lambda: F.cross_entropy(there(x), index.new_zeros(3)), lambda: F.linear(there(x), x),
        lambda: there(x).index_select(0, index), lambda: F.embedding(index, there(x)),
        lambda: there(x).index_put((there(index),), x[:2]), lambda: x[there(index)],
        lambda: F.batch_norm(there(y), torch.zeros(1), torch.ones(1)),
        lambda: there(x).masked_fill(x > 0, 0)]
    for call in mixed:
        with pytest.raises(RuntimeError, match=r"same device|indices should be|be the same"):
            call()
    for read in (there(x).numpy, there(x)[0].numpy, lambda: np.asarray(there(x))):
        with pytest.raises((RuntimeError, TypeError), match="numpy"):
            read()
    for draw in (there(x).normal_, there(x).bernoulli_, there(x).random_):
        with pytest.raises(RuntimeError, match="type for generator but found 'cpu'"):
            draw(generator=torch.Generator())


def test_the_other_place_takes_what_a_gpu_takes(there):
    x = torch.rand(3, 4)
    moved = 2 * there(x) + torch.tensor(1.0)  # a number without dimensions may come along
    assert moved.device == there(x).device != x.device
    assert moved.cpu().equal(2 * x + 1)
    for index in (torch.tensor([2, 0]), torch.tensor([True, False, True])):  # and an index
        assert there(x)[index].cpu().equal(x[index])
        assert there(x)[there(index)].cpu().equal(x[index])
    changed = there(x)
    changed[torch.tensor([1])] = 5.0
    changed[2:] = x[:1]  # a slice is copied, from wherever it is
    assert changed.tolist() == [x[0].tolist(), [5.0] * 4, x[0].tolist()]


def test_the_other_place_computes_what_the_cpu_computes(there):
    x = torch.rand(3, 4)
    for call in (lambda x: x.t().contiguous(), lambda x: x.view(2, 6)[1:, ::2],
                 lambda x: x.sort(1)[1], lambda x: x.unfold(1, 2, 1), lambda x: x.chunk(2)[1],
                 lambda x: torch.cat([x, x[:1]]), lambda x: torch.stack(x.unbind(1)),
                 lambda x: torch.fft.rfft(x).abs(),
                 lambda x: x.new_zeros(5), lambda x: torch.empty_like(x).copy_(x),
                 lambda x: x.clone().resize_(2, 2), lambda x: copy.deepcopy(x).add_(1),
                 lambda x: F.layer_norm(x, (4,)), lambda x: torch.linalg.svdvals(x)):
        torch.testing.assert_close(call(there(x)).cpu(), call(x))
    base = there(torch.zeros(2, 3))
    base[0].add_(1)  # a view shares the memory
    base.view(-1)[3] = 7
    assert base.tolist() == [[1, 1, 1], [7, 0, 0]]
    file = io.BytesIO()
    torch.save(base, file)
    for place in (None, "cpu"):
        file.seek(0)
        loaded = torch.load(file, map_location=place)
        assert loaded.tolist() == base.tolist()
        assert loaded.device == (torch.device("cpu") if place else base.device)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_of_the_other_place_is_trained_as_on_the_cpu(there, precision):
    found = {}
    for place in (torch.device("cpu"), there(torch.zeros(1)).device):
        net = copy.deepcopy(restless()).to(place)
        net[3].p = 0.0
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        x, y = draw(8, 1, 12, 12).to(place), (torch.arange(8) % 6).to(place)
        for _ in range(4):
            with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = net(x)
                loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        assert logits.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
        assert loss.dtype == torch.float32
        found[place.type] = loss.item()
    assert len(set(found)) == 2
    first, second = found.values()
    assert first == pytest.approx(second, rel=1e-5 if precision == "fp32" else 1e-2)


def test_a_moved_network_keeps_its_parameters(there):
    device = there(torch.zeros(1)).device
    for make in (lambda: nn.Linear(3, 2), restless, lambda: kd.Live(network())):
        net = make()
        before = [*net.parameters(), *net.buffers()]
        for place in (device, "cpu", device):
            net.to(place)
            assert all(a is b for a, b in zip(net.parameters(), before, strict=False))
            assert {t.device for t in net.parameters()} == {torch.device(place)}


def test_random_numbers_of_the_other_place_are_its_own(there):
    device = there(torch.zeros(1)).device
    before = torch.get_rng_state()
    first = [torch.rand(3, generator=torch.Generator(device).manual_seed(5), device=device)
             for _ in range(2)]
    assert first[0].equal(first[1])
    F.dropout(torch.ones(9, device=device), 0.5)
    torch.randn(3, device=device)
    assert torch.get_rng_state().equal(before)


def test_random_states_of_every_place_are_seeded_and_kept(there):
    device = there(torch.zeros(1)).device

    def drawn():
        return torch.rand(3, device=device).tolist()

    with _random.seeded(3, device):
        expected, next_one = drawn(), drawn()
    with _random.kept(device):
        outside = drawn()
    with _random.seeded(3, device):
        assert drawn() == expected
        state = _random.global_state(device)
        assert drawn() == next_one
        _random.set_global_state(state, device)
        assert drawn() == next_one
    assert drawn() == outside
    model = nn.Dropout().to(device)
    x = torch.ones(64, device=device)
    with _random.kept(device):
        expected = model(x)
    with untouched([nn.Linear(1, 1).to(device)]):
        model(x)
    assert model(x).equal(expected)


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
    rows = {"dots", "differences", "reliability", "curves", "history", "diagram", "style"}
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


# --- losses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=map(str, ROWS))
def test_losses_and_their_gradients_are_those_of_the_cpu(row, there):
    found = []
    for move in (lambda x: x.clone(), there):
        s, t, y = (each(move, part) for part in row.example(max(4, row.least), 2))
        s = each(lambda x: x.float().requires_grad_(), s)
        t = each(lambda x: x.float() if x.is_floating_point() else x, t)
        loss = row.call(s, t, y)
        gradients = torch.autograd.grad(loss, tensors(s), allow_unused=True)
        assert {g.device for g in gradients if g is not None} <= {tensors(s)[0].device}
        found.append([loss.detach().cpu(), *(g if g is None else g.cpu() for g in gradients)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


# --- batches and views --------------------------------------------------------------------------


def test_a_batch_is_cut_without_an_index_from_elsewhere(there):
    whole = Batch(IMAGES[:7], LABELS[:7], torch.arange(7), view=3)
    moved = Batch(there(whole.x), there(whole.y), there(whole.index), view=3)
    for pieces, expected in ((1, [[*range(7)]]), (3, [[0, 1, 2], [3, 4], [5, 6]]),
                             (9, [[i] for i in range(7)])):
        for batch in (whole, moved):
            with NoWait():
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
    names = {"kd": kd, "np": np, "torch": torch, "nn": nn, "F": F} | names
    for source in sources:
        exec(source, names)
    return names


def test_a_teacher_in_train_mode_of_chapter_3_is_asked_here_and_there(there, data):
    names = defined(cell("03", "class TrainMode("), copy=copy)
    scheme = names["TrainMode"](network(), network(1), kd.losses.KD()).train()
    first = next(data.train.batches(8))
    answers = []
    for place in ("cpu", there(IMAGES).device, "cpu"):
        batch = Batch(*(tensor.to(place) for tensor in (first.x, first.y, first.index)))
        (edge,) = scheme.to(place).edges(batch)
        assert edge.teacher.logits.device == edge.student.logits.device == batch.x.device
        answers.append(edge.teacher.logits.cpu())
    torch.testing.assert_close(answers[0], answers[1])  # in train mode: by the batch alone
    torch.testing.assert_close(answers[0], answers[2])


def test_attention_of_chapter_6_is_made_wherever_the_network_is(there):
    names = defined(cell("06", "def attention_maps(model, x)"))
    model = kd.models.vit(dim=16, depth=2, size=8, patch=4)
    x = draw(5, 1, 8, 8)
    expected = names["attention_maps"](model, x)
    found = names["attention_maps"](model.to(there(x).device), x)
    torch.testing.assert_close(found, expected)


def test_measures_of_chapter_7_take_a_student_from_anywhere(there):
    sources = [cell("07", text) for text in (
        "def one_token(", "class TwoTokens(", "def outputs_of(", "def heads(scheme, split)",
        "def cosines(scheme, split)")]
    names = defined(*sources, teacher=kd.models.convnet(width=4),
                    data=kd.data.glyphs(train=36, val=36, test=36))
    scheme, split = kd.Supervised(names["TwoTokens"](0)), names["data"].val
    for name in ("heads", "cosines"):
        expected = names[name](scheme.cpu(), split)
        found = names[name](scheme.to(there(IMAGES).device), split)
        assert len(expected) > 0 and found == pytest.approx(expected, abs=1e-5)


# --- what is logged -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a note", "on_step"])
@pytest.mark.parametrize("where", ["here", "there", "in turns", "a number"])
def test_what_is_logged_may_lie_anywhere(kind, where, there, data):
    device, count = there(IMAGES).device, itertools.count()

    def value():
        n = next(count)
        place = device if where == "there" or (where == "in turns" and n % 2) else "cpu"
        return torch.tensor(float(n), device=place)

    class Noted(kd.Supervised):
        def forward(self, batch):
            outcome = super().forward(batch)
            if kind == "a note":
                outcome.notes["entropy"] = value()
            return outcome

    def on_step(step):
        return None if kind == "a note" else {
            "entropy": float(value()) if where == "a number" else value()}

    recipe = kd.Recipe(epochs=1, batch=36)
    scheme = Noted(network())
    scheme.check(data)
    history = kd.fit(scheme, data, recipe, device=device, on_step=on_step)
    first = history["entropy"][0] - 1.5  # the mean of four numbers in turn
    assert first == int(first) >= 0
