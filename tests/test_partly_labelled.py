"""One label per sample, of which some are missing: against PyTorch and loops, from end to end."""

import copy
import dataclasses
import math
import os

import pytest
import torch
import torch.nn.functional as F
from helpers.processes import run
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kdcourse as kd
from kdcourse import losses
from kdcourse.data import Batch
from kdcourse.tasks import Classes

N, K = 200, 4
IGNORED = [-100, -1, 255]
RECIPE = kd.Recipe(epochs=2, batch=20, lr=0.05, optimizer="sgd")


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net(seed=0, width=8):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(7, width), nn.Tanh(), nn.Linear(width, K))


def samples(ignore=-100, count=N, share=0.7):
    """Inputs, and labels of which most are missing; those that are there can be learned."""
    x = rand(count, 7)
    missing = torch.rand(count, generator=torch.Generator().manual_seed(1)) < share
    return x, x[:, :K].argmax(1).masked_fill(missing, ignore)


def dataset(ignore=-100, **settings):
    return kd.data.from_arrays(*samples(ignore), task=Classes(ignore=ignore), name="partly",
                               classes=K, **settings)


def agree(objective, student, teacher, y, expected, ignore=-100):
    """One step's loss and gradients are those of a function of the logits, in float64."""
    x = rand(len(y), 7, seed=3).double()
    student, teacher = student.double(), teacher.double()
    scheme = kd.Distiller(student, teacher, objective)
    batch = Batch(x, y, torch.arange(len(y)), task=Classes(ignore=ignore))
    scheme.build(batch, 0)
    loss, other = scheme(batch).loss, expected(student(x), teacher(x).detach())
    torch.testing.assert_close(loss, other)
    for one, two in zip(torch.autograd.grad(loss, list(student.parameters())),
                        torch.autograd.grad(other, list(student.parameters())), strict=True):
        torch.testing.assert_close(one, two)


def kl(z, v, T):
    return T**2 * F.kl_div((z / T).log_softmax(1), (v / T).softmax(1), reduction="batchmean")


# --- one step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ignore", IGNORED)
def test_labels_are_cross_entropy_with_an_ignored_one_and_the_teacher_has_all_samples(ignore):
    y = torch.tensor([0, ignore, 3, ignore, ignore, 1, 2, ignore])
    agree(0.3 * losses.CE() + 0.7 * losses.KD(T=2), net(), net(1), y, lambda z, v: (
        0.3 * F.cross_entropy(z, y, ignore_index=ignore) + 0.7 * kl(z, v, 2)), ignore)


@pytest.mark.parametrize("term", [
    losses.DKD(), losses.NKD(), losses.OFA(), losses.DKD(standardize="code")])
def test_terms_with_a_teacher_that_read_labels_have_the_labelled_samples(term):
    y = torch.tensor([0, -100, 3, -100, 2])
    known = y >= 0
    agree(1.0 * term, net(), net(1), y, lambda z, v: copy.deepcopy(term)(
        z[known], v[known], y[known]))


@pytest.mark.parametrize(("term", "torchs"), [
    (losses.LabelSmoothing(0.2), {"label_smoothing": 0.2}),
    (losses.CE(weight=[1, 2, 0.5, 3]), {"weight": torch.tensor([1, 2, 0.5, 3]).double()})])
def test_smoothed_and_weighted_labels(term, torchs):
    y = torch.tensor([0, -1, 3, -1, 2])
    agree(1.0 * term, net(), net(1), y,
          lambda z, v: F.cross_entropy(z, y, ignore_index=-1, **torchs), -1)


def test_a_virtual_teacher_has_the_labelled_samples():
    y = torch.tensor([0, -100, 3, 1, -100])
    agree(1.0 * losses.TfKD(), net(), net(1), y,
          lambda z, v: losses.virtual_teacher(z[y >= 0], y[y >= 0]))


@pytest.mark.parametrize("term", [losses.DIST(), losses.LogitMSE(), losses.HardLabel(),
                                  losses.MLKD(), losses.LogitStd(), losses.CC("1", "1")])
def test_terms_that_read_no_labels_have_all_samples(term):
    y = torch.tensor([0, -100, 3, 1, -100])
    x, student, teacher = rand(5, 7), net(), net(1)
    scheme = kd.Distiller(student, teacher, 1.0 * copy.deepcopy(term))
    found = [scheme(Batch(x, labels, torch.arange(5), task=task)).loss for labels, task in (
        (y, Classes(ignore=-100)), (y.clamp(min=0), Classes()))]
    assert found[0] == found[1]


def test_soft_labels_of_zeros_are_none_as_from_mixup():
    y = F.one_hot(torch.tensor([0, 2, 1]), K).double()
    y[1] = 0
    y[2] = torch.tensor([0.25, 0, 0, 0.75])
    agree(losses.CE() + losses.KD(T=1), net(), net(1), y, lambda z, v: -(
        y * z.log_softmax(1))[[0, 2]].sum(1).mean() + kl(z, v, 1))


@pytest.mark.parametrize("term", [losses.CE(), losses.LabelSmoothing(), losses.TfKD(),
                                  losses.DKD(), losses.CE(weight=[1.0, 2, 3, 4])])
@pytest.mark.parametrize("x", [0.0, math.inf])
def test_without_any_label_it_is_exactly_0(term, x):
    student = nn.Linear(7, K)
    x = torch.full((3, 7), x)
    scheme = kd.Distiller(student, net(1), 1.0 * copy.deepcopy(term))
    batch = Batch(x.clamp(max=1e3), torch.full((3,), -100), None, task=Classes(ignore=-100))
    loss = scheme(batch).loss
    loss.backward()
    assert loss == 0 and not student.weight.grad.any()


class Agreeing(losses.Loss):
    """A term of a user's own that says nothing of labels."""

    def values(self, student, teacher=None, labels=None):
        right = (teacher.argmax(1) == labels).to(student.dtype)
        return right * losses.kd(student, teacher, reduction="none")


def test_a_term_of_ones_own_states_whether_it_reads_labels():
    data = dataset()
    with pytest.raises(ValueError, match=r"says whether it reads labels.*needs_labels = True"):
        kd.fit(kd.Distiller(net(), net(1), 1.0 * Agreeing()), data, RECIPE)

    class Stated(Agreeing):
        needs_labels = True

    y = torch.tensor([0, -100, 3, -100, 2])
    agree(1.0 * Stated(), net(), net(1), y,
          lambda z, v: Stated()(z[y >= 0], v[y >= 0], y[y >= 0]))
    kd.fit(kd.Distiller(net(), net(1), 1.0 * Agreeing()), kd.data.from_arrays(
        rand(N, 7), torch.arange(N) % K), RECIPE, device="cpu")


class Squares(losses.FeatureLoss):
    """A term on features without a projection."""

    needs_labels = False

    def values(self, student, teacher=None, labels=None):
        assert labels is None
        return (student - teacher).square().sum(1)


def test_a_term_on_features_that_reads_labels_has_the_labelled_samples():
    class Pull(losses.FeatureLoss):
        needs_labels = True

        def values(self, student, teacher=None, labels=None):
            return (student - teacher).square().sum(1) * (1 + labels)

    y = torch.tensor([0, -100, 3, -100, 2])
    student, teacher, x = net(), net(1), rand(5, 7)
    scheme = kd.Distiller(student, teacher, Squares("1", "1") + Pull("1", "1"))
    found = scheme(Batch(x, y, torch.arange(5), task=Classes(ignore=-100))).parts
    z, v, known = student[:2](x), teacher[:2](x), y >= 0
    expected = ((z - v).square().sum(1) * (1 + y))[known].mean()
    torch.testing.assert_close(found["Pull"], expected)
    torch.testing.assert_close(found["Squares"], (z - v).square().sum(1).mean())


@pytest.mark.parametrize("given", [False, True])
def test_negatives_of_a_sample_without_a_label_are_all_others(given):
    data = dataset()
    term = losses.CRD(negatives=500, classes=data.train.y if given else None)
    term.check(data)
    y, every = data.train.y, torch.arange(500)[None]
    for sample in range(12):
        drawn = term.others.pick(torch.tensor([sample]), every)[0].unique()
        expected = [i for i in range(len(y)) if i != sample and (
            y[sample] < 0 or y[i] != y[sample])]
        assert drawn.tolist() == expected


@pytest.mark.parametrize("kind", [kind for kind in vars(losses).values() if isinstance(
    kind, type) and issubclass(kind, losses.Loss) and kind.on_rows and kind is not losses.Loss])
def test_a_term_states_that_it_reads_labels(kind):
    """Other labels give other values if and only if a term has `needs_labels`."""
    z, v, y = rand(6, K), rand(6, K, seed=1), torch.arange(6) % K
    found = []
    for labels in (y, (y + 1) % K):
        term = (kind(gamma=2) if kind is losses.OFA else kind()).eval()  # at 1 it is without
        if kind.needs_classes:
            term.check(kd.data.from_arrays(rand(40, 7), torch.arange(40) % K))
        else:
            labels = F.one_hot(labels, K).float()
        term.build(z, v, 0)
        found.append(term(z, v, labels))
    assert kind.needs_labels == (not torch.equal(*found))


@pytest.mark.parametrize("labels", [[-100] * 3, [-100, 2, -100]])
def test_one_number_for_all_samples_is_that_of_the_labelled_ones(labels):
    class Mean(losses.Loss):
        per_sample, needs_labels = False, True

        def values(self, student, teacher=None, labels=None):
            return F.cross_entropy(student, labels) + losses.logit_mse(student, teacher)

    y, student, x = torch.tensor(labels), net(), rand(3, 7)
    scheme = kd.Distiller(student, net(1), 1.0 * Mean())
    loss = scheme(Batch(x, y, None, task=Classes(ignore=-100))).loss
    known = y >= 0
    expected = Mean().values(student(x)[known], net(1)(x)[known], y[known]) if known.any() else 0.0
    torch.testing.assert_close(loss, torch.as_tensor(expected))
    loss.backward()


# --- batches in parts, processes ----------------------------------------------------------------


def first_gradients(data, objective, **settings):
    found = []

    def note(step):
        if not found:
            found.extend(p.grad.clone() for p in step.scheme.student.parameters())

    student = net()
    history = kd.fit(kd.Distiller(student, net(1), objective), data, dataclasses.replace(
        RECIPE, epochs=1, **settings), device="cpu", on_step=note)
    return found, history


def test_a_batch_in_parts_has_the_gradient_of_the_batch():
    data = dataset(-1)
    batch = next(data.train.batches(20, seed=0))
    assert len({int((part.y >= 0).sum()) for part in batch.split(6)}) > 1
    for objective in (losses.CE(), losses.CE() + losses.KD(T=2) + losses.DKD() + Squares("1", "1")):
        (one, plain), (two, parts) = (first_gradients(data, copy.deepcopy(1.0 * objective), **more)
                                      for more in ({}, {"accumulate": 6}))
        torch.testing.assert_close(one, two)
        assert parts["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    student, teacher = net(), net(1)
    z, v = student(batch.x), teacher(batch.x).detach()
    loss = F.cross_entropy(z, batch.y, ignore_index=-1) + kl(z, v, 2) + losses.dkd(
        z[batch.y >= 0], v[batch.y >= 0], batch.y[batch.y >= 0]) + (
        student[:2](batch.x) - teacher[:2](batch.x).detach()).square().sum(1).mean()
    torch.testing.assert_close(list(torch.autograd.grad(loss, list(student.parameters()))), one)


PROGRAM = """
import json, sys, torch, torch.distributed as dist
from torch import nn
torch.set_num_threads(1)
import kdcourse as kd
from kdcourse import losses, tasks
world, folder, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
draw = torch.Generator().manual_seed(0)
x, y = torch.randn(48, 7, generator=draw), torch.randint(4, (48,), generator=draw)
y[torch.rand(48, generator=draw) < 0.7] = -100


def net(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 4))


rank = int(__import__("os").environ.get("RANK", 0))
if kind == "memory":
    data = kd.data.from_arrays(x, y, val=(x[:9], y[:9]), test=(x[:9], y[:9]), classes=4,
                               task=tasks.Classes(ignore=-100), name="partly")
else:
    size = 12 // world
    mine = [rows[rank * size : (rank + 1) * size] for rows in torch.arange(48).view(4, 12)]
    data = kd.data.from_loaders([(x[rows], y[rows]) for rows in mine], [(x[:9], y[:9])],
                                classes=4, task=tasks.Classes(ignore=-100), name="stream")
scheme = kd.Distiller(net(0), net(1), losses.CE() + losses.KD(T=2) + losses.DKD())
recipe = kd.Recipe(epochs=2, batch=12, lr=0.1, optimizer="sgd", accumulate=2)
history = kd.fit(scheme, data, recipe, device="cpu")
assert world == (dist.get_world_size() if dist.is_initialized() else 1)
json.dump(history.to_dict(), open(f"{folder}/{rank}.json", "w"))
torch.save(scheme.state_dict(), f"{folder}/{rank}.pt")
"""


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="gloo on Windows is another story")
@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_two_processes_train_what_one_would(tmp_path, kind):
    ((alone, weights),) = run(tmp_path / "one", 1, kind, PROGRAM)
    for history, theirs in run(tmp_path / "two", 2, kind, PROGRAM):
        torch.testing.assert_close(theirs, weights, rtol=1e-3, atol=1e-5)
        for ours, row in zip(alone["rows"], history["rows"], strict=True):
            for column in ("loss", "CE", "KD", "DKD", "val_accuracy"):
                assert row[column] == pytest.approx(ours[column], rel=1e-4), column


# --- data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignore", IGNORED)
def test_samples_without_a_label_stay_in_train(ignore):
    data = dataset(ignore)
    x, y = samples(ignore)
    labelled = int((y != ignore).sum())
    for split in (data.val, data.test):
        assert len(split) == round(0.1 * labelled) and (split.y != ignore).all()
        assert len(split.y.unique()) == K  # stratified
    assert len(data.train) == N - 2 * round(0.1 * labelled)
    rows = torch.cat([data.train.x, data.val.x, data.test.x])
    assert {tuple(row) for row in rows.tolist()} == {tuple(row) for row in x.tolist()}


def test_where_all_have_labels_the_splits_are_the_usual_ones():
    x, y = rand(N, 7), torch.arange(N) % K
    one, other = (kd.data.from_arrays(x, y, task=task, seed=3) for task in (
        None, Classes(ignore=-100)))
    for part in kd.data.SPLITS:
        torch.testing.assert_close(getattr(one, part).x, getattr(other, part).x)


@pytest.mark.parametrize(("y", "sentence"), [
    (torch.arange(N) % K - 1, r"got -1 to 2.*Where -1 means no label, pass "
                              r"task=kd.tasks.Classes\(ignore=-1\)"),
    ((torch.arange(N) % K).where(torch.arange(N) > 9, -100), r"got -100 to 3.*ignore=-100"),
    ((torch.arange(N) % K).where(torch.arange(N) > 9, 255), r"got 0 to 255.*ignore=255")])
def test_a_number_that_is_no_class_is_refused_unless_it_is_stated(y, sentence):
    for make in (lambda: kd.data.from_arrays(rand(N, 7), y, classes=K),
                 lambda: kd.data.from_loaders([(rand(N, 7), y)], [(rand(N, 7), y)], classes=K)):
        with pytest.raises(ValueError, match=sentence):
            make()
    with pytest.raises(ValueError, match="labels from 0 to"):  # another one was stated
        kd.data.from_arrays(rand(N, 7), y, classes=K, task=Classes(ignore=-7))


@pytest.mark.parametrize("ignore", [1.5, True, "none"])
def test_the_number_is_whole(ignore):
    with pytest.raises(ValueError, match="Expected ignore as a whole number"):
        Classes(ignore=ignore)


def test_a_split_without_any_label():
    x, y, none = rand(N, 7), torch.arange(N) % K, torch.full((N,), -100)
    task = Classes(ignore=-100)
    for settings, part in (({"val": (x, none)}, "val"), ({"test": (x, none)}, "test")):
        with pytest.raises(ValueError, match=f"at least one sample with a label in {part}, got"):
            kd.data.from_arrays(x, y, task=task, **settings)
    with pytest.raises(ValueError, match="at least 3 samples with a label to split, got 0"):
        kd.data.from_arrays(x, none, classes=K, task=task)
    with pytest.raises(ValueError, match="a label in train, got"):
        kd.data.from_arrays(x, none, classes=K, task=task, val=(x, y), test=(x, y))


def test_classes_are_counted_over_the_labels_that_are_there():
    x, y = samples()
    assert kd.data.from_arrays(x, y, task=Classes(ignore=-100)).classes == ("0", "1", "2", "3")
    with pytest.warns(UserWarning, match="make 5 classes, of which 1 .class 0"):
        kd.data.from_arrays(x, y.where(y < 0, y + 1), task=Classes(ignore=-100))


def test_a_folder_of_images_without_a_label(tmp_path):
    for number in range(60):
        name = ["cat", "dog", "unlabelled"][number % 3]
        file = tmp_path / "train" / name / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (4 * number, 0, 0)).save(file)
    data = kd.data.folder(tmp_path, unlabelled="unlabelled")
    assert data.classes == ("cat", "dog") and data.task == Classes(ignore=-100)
    assert int((data.train.y == -100).sum()) == 20 and len(data.val) == len(data.test) == 4
    number = (data.train.x[:, 0, 0, 0] * 255 / 4).round().long() % 3
    assert (data.train.y == torch.tensor([0, 1, -100])[number]).all()
    assert kd.data.folder(tmp_path).classes == ("cat", "dog", "unlabelled")  # as before
    with pytest.raises(ValueError, match=r"Expected a folder 'none' in .*got .'cat', 'dog'"):
        kd.data.folder(tmp_path, unlabelled="none")


def test_pictures_have_names_where_there_are_labels():
    y = torch.tensor([0, -100, 1] * 20)
    data = kd.data.from_arrays(torch.rand(60, 1, 8, 8), y, classes=["a", "b"],
                               task=Classes(ignore=-100), val=(torch.rand(3, 1, 8, 8), y[:3]))
    assert [text.get_text() for text in data.show(1, 3, "val").texts] == ["a", "b"]


def test_the_key_of_data_with_all_labels_is_what_it_was():
    x, y = rand(N, 7), torch.arange(N) % K
    plain = kd.data.from_arrays(x, y)
    assert "task" not in plain.params and repr(Classes()) == "Classes()"
    assert plain.identity() == kd.data.from_arrays(x, y, task=Classes()).identity()
    partly = kd.data.from_arrays(x, y, task=Classes(ignore=-100))
    assert partly.params["task"] == "Classes(ignore=-100)"
    assert partly.identity() != plain.identity()


# --- from end to end ----------------------------------------------------------------------------


def loaders(data, with_ids=True):
    x, y = data.train.x, data.train.y
    tensors = [x, y, *([torch.arange(len(x))] if with_ids else [])]
    return kd.data.from_loaders(
        DataLoader(TensorDataset(*tensors), 20, shuffle=True),
        DataLoader(TensorDataset(data.val.x, data.val.y), 5), data.test, classes=K,
        task=data.task, name="partly")


def accuracy(model, x, y):
    known = y >= 0
    return float((model(x).argmax(1) == y)[known].double().mean())


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_scores_measures_report_and_doctor_have_the_labelled_samples(kind):
    x, y = samples()
    data = kd.data.from_arrays(*samples(), classes=K, task=Classes(ignore=-100), name="partly",
                               val=(x[:50], y[:50]), test=(x[50:100], y[50:100]))
    data = data if kind == "memory" else loaders(data)
    scheme = kd.Distiller(net(), net(1), losses.CE() + losses.KD(T=2) + losses.Hint("1", "1"))
    history = kd.fit(scheme, data, RECIPE, device="cpu")
    right = accuracy(scheme.student, x[:50], y[:50])
    assert history["val_accuracy"][-1] == pytest.approx(right)
    report = kd.report(scheme, data)
    row, known = report.rows["student"], y[50:100] >= 0
    assert f"{int(known.sum())} samples with a label of the test split" in repr(report)
    z, v = scheme.student(x[50:100])[known], net(1)(x[50:100])[known]
    assert row["accuracy"] == pytest.approx(accuracy(scheme.student, x[50:100], y[50:100]))
    assert row["nll"] == pytest.approx(F.cross_entropy(z, y[50:100][known]).item())
    assert row["agreement"] == pytest.approx(float((z.argmax(1) == v.argmax(1)).float().mean()))
    found = kd.measure.evaluate(scheme.student(x[50:100]).detach(), y[50:100], task=data.task)
    assert found["accuracy"] == pytest.approx(row["accuracy"])


def learned():
    """A network that is right on nearly all labels."""
    teacher = nn.Linear(7, K)
    with torch.no_grad():
        teacher.weight.copy_(10 * torch.eye(K, 7))
        teacher.bias.zero_()
    return teacher


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_the_doctor_measures_the_teacher_where_there_are_labels(kind):
    x, y = samples(share=0.5)
    data = kd.data.from_arrays(*samples(count=600), classes=K, task=Classes(ignore=-100),
                               name="partly", val=(x, y), test=(x, y))
    data = data if kind == "memory" else loaders(data)
    assert kd.doctor(kd.Distiller(net(), learned()), data).ok
    swapped = nn.Sequential(learned(), Order())
    found = kd.doctor(kd.Distiller(net(), swapped), data)
    assert any("another order" in one.problem for one in found)


class Order(nn.Module):
    def forward(self, x):
        return x[:, [1, 0, 3, 2]]


def test_the_doctor_of_stored_answers_and_of_few_labels():
    x, y = samples(count=600, share=0.0)
    y = y.where(torch.arange(600) % 10 == 0, -100)  # 60 of 600: most batches have a few
    data = kd.data.from_arrays(x, y, classes=K, task=Classes(ignore=-100))
    stored = kd.Cached.of(learned()(data.train.x).detach(), data, "logits")
    assert kd.doctor(kd.Distiller(net(), stored), data).ok
    y[torch.arange(600) % 100 > 0] = -100  # 6 of 600: the first batch may have none
    data = kd.data.from_arrays(x, y, classes=K, task=Classes(ignore=-100), val=(x[:50], None),
                               test=(x[:50], None))
    found = kd.doctor(kd.Distiller(net(), learned()), data)
    assert not any("exactly 0" in one.problem for one in found)


def test_a_comparison(home):
    x, y = samples()
    data = kd.data.from_arrays(x, y, classes=K, task=Classes(ignore=-100), name="partly",
                               val=(x[:50], y[:50]), test=(x[:50], y[:50]))
    nets = []

    def arm(seed):
        nets.append(net(seed))
        return kd.Distiller(nets[-1], net(1), losses.CE() + losses.KD(T=2))

    (row,) = kd.compare({"a": arm}, data, RECIPE, seeds=[0]).rows
    assert row["accuracy"] == pytest.approx(accuracy(nets[-1], x[:50], y[:50]), abs=1e-4)
    assert row["train_accuracy"] == pytest.approx(accuracy(nets[-1], x, y), abs=1e-4)


def test_an_unlabelled_training_set_with_a_labelled_validation(home):
    x, y = samples(share=0.0)
    data = kd.data.from_arrays(x, None, classes=K, val=(x[:50], y[:50]), test=(x[:50], y[:50]))
    (row,) = kd.compare({"a": lambda seed: kd.Distiller(net(seed), net(1), 1.0 * losses.KD())},
                        data, RECIPE, seeds=[0]).rows
    assert row["accuracy"] is not None and row["train_accuracy"] is None


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_stored_answers_train_the_same_student(kind, tmp_path):
    data = dataset()
    data = data if kind == "memory" else loaders(data)
    students = []
    for teacher in (net(1), kd.Cached(net(1), data, tmp_path / "stored")):
        scheme = kd.Distiller(net(), teacher, losses.CE() + losses.KD(T=2))
        kd.fit(scheme, data, RECIPE, device="cpu")
        students.append(scheme.student.state_dict())
    torch.testing.assert_close(*students, rtol=1e-4, atol=1e-5)
    if kind == "stream":
        top = kd.Cached(net(1), data, tmp_path / "top", top=2, T=2)
        kd.fit(kd.Distiller(net(), top, losses.CE() + losses.KD(T=2)), data, RECIPE, device="cpu")


def test_augmented_images_and_other_schemes():
    x, y = torch.rand(100, 1, 8, 8), torch.arange(100) % K
    data = kd.data.from_arrays(x, y.where(y > 0, -100), classes=K, task=Classes(ignore=-100))
    views = kd.augmented(data, views=2, shift=0.1)
    flat = [nn.Sequential(nn.Flatten(), nn.Linear(64, 7), *net(seed)) for seed in range(2)]
    stored = kd.Cached(flat[1], views)
    kd.fit(kd.Distiller(copy.deepcopy(flat[0]), stored), views, RECIPE, device="cpu")
    flat[1].requires_grad_()
    kd.fit(kd.Mutual(copy.deepcopy(flat)), data, RECIPE, device="cpu")
    kd.fit(kd.MultiExit(copy.deepcopy(flat[0]), ["2"]), data, RECIPE, device="cpu")


def test_teachers_that_weigh_by_the_label_need_all_labels():
    teacher = kd.Ensemble([net(1), net(2)], "confidence")
    with pytest.raises(ValueError, match=r"Classes\(ignore=-100\), got \"confidence\".*all sampl"):
        kd.fit(kd.Distiller(net(), teacher), dataset(), RECIPE)


def test_a_stream_whose_validation_has_no_label_has_no_score():
    x, y = samples()
    data = kd.data.from_loaders([(x[:20], y[:20])] * 2, [(x[:5], torch.full((5,), -100))],
                                classes=K, task=Classes(ignore=-100))
    with pytest.warns(UserWarning, match="No row of the validation has a label"):
        history = kd.fit(kd.Supervised(net()), data, RECIPE, device="cpu")
    assert not history.validated


@pytest.mark.long
def test_a_compiled_step():
    students = []
    for compile in (False, True):
        scheme = kd.Distiller(net(), net(1), losses.CE() + losses.KD(T=2))
        kd.fit(scheme, dataset(), dataclasses.replace(RECIPE, compile=compile, epochs=1),
               device="cpu")
        students.append(scheme.student.state_dict())
    torch.testing.assert_close(*students, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("measure", [
    kd.measure.accuracy, kd.measure.top_k, kd.measure.ece, kd.measure.confusion,
    kd.measure.recall_at_1, lambda z, y: kd.measure.per_class(z, y, K)])
def test_measures_without_a_task_refuse_a_number_that_is_no_class(measure):
    y = torch.tensor([0, 1, -100, 1, 0, 1])
    with pytest.raises(ValueError, match=r"labels from 0 .* got -100.*those with a label"):
        measure(rand(6, 5), y)
    measure(rand(6, 5)[y >= 0], y[y >= 0])
