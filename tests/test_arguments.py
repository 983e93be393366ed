"""Arguments of another kind: a sentence that says what was expected and how to make it."""

import pytest
import torch
from conftest import network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kdcourse as kd

X, Y = torch.rand(36, 1, 12, 12), torch.arange(36)
LOADER = DataLoader(TensorDataset(X, Y), batch_size=12)


def scheme(seed=0):
    return kd.Distiller(network(seed), network(1))


def distiller(objective):
    return kd.Distiller(network(), network(1), objective)


@pytest.mark.parametrize(("call", "message"), [
    (lambda data: kd.fit(scheme(), LOADER), r"DataLoader. Pass kd.data.from_loaders"),
    (lambda data: kd.fit(scheme(), TensorDataset(X, Y)), r"TensorDataset. .*from_loaders"),
    (lambda data: kd.fit(scheme(), (X, Y)), r"tuple. Pass kd.data.from_arrays\(x, y\)"),
    (lambda data: kd.fit(scheme(), data.train), "one of its splits. Pass the whole data set"),
    (lambda data: kd.fit(network(), data), r"Sequential. For a network alone: kd.Supervised"),
    (lambda data: kd.fit(data, scheme()), "Dataset. Is it in another argument's place"),
    (lambda data: kd.fit(scheme(), data, {"epochs": 1}), r"Pass kd.Recipe\(epochs=1\)"),
    (lambda data: kd.fit(scheme(), data, 3), "Expected a Recipe, got int"),
    (lambda data: kd.fastest(network(), data), "got Sequential"),
    (lambda data: kd.doctor(scheme(), LOADER), "got DataLoader"),
    (lambda data: kd.doctor(scheme(), data, "adamw"), "an optimiser of torch .* got 'adamw'"),
    (lambda data: kd.Cached(network(), LOADER), "got DataLoader"),
    (lambda data: kd.Cached.of(torch.rand(36, 4), LOADER, "mine"), "got DataLoader"),
    (lambda data: kd.report(network(), data), "got Sequential"),
    (lambda data: kd.report(scheme(), (X, Y)), "got tuple"),
    (lambda data: kd.report(scheme(), data, "dev"), "one of the splits .* got 'dev'"),
    (lambda data: kd.compare(scheme(), data), "Expected arms by name, .* got Distiller"),
    (lambda data: kd.compare({"a": scheme()}, data), "arm 'a' to be a function of the seed"),
    (lambda data: kd.compare({"a": scheme}, LOADER), "got DataLoader"),
    (lambda data: kd.compare({"a": scheme}, data, {"a": {"lr": 1}}), r"kd.Recipe\(lr=1\)"),
    (lambda data: kd.compare({"a": scheme}, data, seeds=3), r"such as range\(3\), got the num"),
    (lambda data: kd.Mutual(network()), "a list of networks .* got one Sequential"),
    (lambda data: kd.Distiller(network(), [network()]), r"got list. kd.Ensemble\(\[…\]\)"),
    (lambda data: kd.export(nn.Linear(2, 2)), "got Linear"),
    (lambda data: kd.Logits(len, 0), "Expected a network .* got builtin"),
    (lambda data: kd.taps("resnet18", "layer2"), "Expected a network .* got str"),
    (lambda data: kd.taps(scheme, "layer2"), "Expected a network .* got function"),
    (lambda data: kd.taps(network(), 3), r"module paths such as .*, got int. .*named_modules\(\)"),
    (lambda data: kd.taps(network(), None), "module paths such as .*, got NoneType"),
    (lambda data: kd.taps(network(), ["0", 3]), "module paths such as .*, got int"),
    (lambda data: kd.taps(network(), network()), "module paths such as .*, got Sequential"),
    (lambda data: distiller(kd.losses.kd), r"the function kd. The term .* such as KD\(T=4\)"),
    (lambda data: distiller(lambda s, t: 0), "the function <lambda>. .* subclass of kdcourse"),
    (lambda data: distiller(kd.losses.KD), "the class KD. Call the class"),
    (lambda data: distiller(nn.MSELoss), "the class MSELoss. Call the class"),
    (lambda data: distiller([kd.losses.CE(), kd.losses.KD()]), "got list. Add the terms, each"),
    (lambda data: distiller({"KD": 0.9}), "got dict. Add the terms, each"),
    (lambda data: distiller(nn.MSELoss()), "got MSELoss. .* subclass of kdcourse.losses.Loss"),
    (lambda data: kd.augmented(LOADER, flip=0.5), r"DataLoader. Pass kd.data.from_loaders"),
    (lambda data: kd.augmented((X, Y)), r"tuple. Pass kd.data.from_arrays"),
    (lambda data: kd.augmented(data.train), "one of its splits. Pass the whole data set"),
])
def test_another_kind_of_argument(data, call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(data)


@pytest.mark.filterwarnings("ignore:.*torch.ao")
@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
def test_a_quantised_student_is_reported(data, smoke, dtype):
    from torch.ao.quantization import quantize_dynamic

    net = quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(144, 36)), {nn.Linear}, dtype)
    row = kd.report(kd.Supervised(net), data).rows["student"]
    assert row["accuracy"] >= 0
    assert row["file_mb"] > 0
