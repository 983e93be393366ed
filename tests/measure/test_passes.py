"""Networks are compared sample by sample only where every pass saw the samples in one order."""

import numpy as np
import pytest
import torch
from conftest import network, restless
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kdcourse as kd
from kdcourse.tasks import Tokens

RECIPE = kd.Recipe(epochs=1, batch=36)


class Own:
    """Draw an order with a generator that nobody else seeds."""

    def __init__(self, count):
        self.count, self.rng = count, np.random.default_rng(0)

    def __iter__(self):
        return iter(self.rng.permutation(self.count).tolist())

    def __len__(self):
        return self.count


class Batches:
    """Yield batches, with a change of one's own in each pass."""

    def __init__(self, x, y, change):
        self.x, self.y, self.change, self.rng = x, y, change, np.random.default_rng(0)

    def __iter__(self):
        for x, y in zip(self.x.split(36), self.y.split(36), strict=True):
            yield self.change(x, y, self.rng)


def permuted(x, y, rng):
    order = torch.from_numpy(rng.permutation(len(x)))
    return x[order], y[order]


def within_classes(x, y, rng):  # the labels are the same in each pass
    return x[(order := torch.arange(len(x)) ^ int(rng.integers(2)))], y[order // 2 * 2]


def cropped(x, y, rng):
    return x.roll(int(rng.integers(1, 9)), 3), y


def streams(data, loader):
    train = DataLoader(TensorDataset(data.train.x, data.train.y), 36)
    return kd.data.from_loaders(train, loader, classes=data.classes)


def sampled(data):
    split = TensorDataset(data.val.x, data.val.y)
    return DataLoader(split, 36, sampler=Own(len(split)))


CHANGES = [sampled, *(lambda data, change=change: Batches(data.val.x, data.val.y, change)
                      for change in (permuted, within_classes, cropped))]


@pytest.mark.parametrize("make", CHANGES)
@pytest.mark.parametrize("given", [False, True])
def test_another_order_in_each_pass_is_refused(data, smoke, make, given):
    found = streams(data, make(data))
    with pytest.raises(ValueError, match=r"in each pass over val, .*shuffle=False"):
        kd.report(kd.Distiller(network(), restless()), found, split="val")
    with pytest.raises(ValueError, match=r"in each pass over val, .*shuffle=False"):
        kd.compare({"KD": lambda seed: kd.Distiller(network(seed), restless())}, found, RECIPE,
                   seeds=[0, 1], teacher=restless() if given else None)


@pytest.mark.parametrize("make", [
    *CHANGES, lambda data: DataLoader(TensorDataset(data.val.x, data.val.y), 36, shuffle=True)])
def test_one_network_takes_any_order(data, smoke, make):
    found = streams(data, make(data))
    assert "accuracy" in kd.report(kd.Supervised(network()), found, split="val").rows["student"]
    kd.compare({"CE": lambda seed: kd.Supervised(network(seed))}, found, RECIPE, seeds=[0, 1])


def test_a_seeded_order_is_one_order(data, smoke):
    """Against the same samples in memory, of which each is compared with itself."""
    loader = DataLoader(TensorDataset(data.val.x, data.val.y), 36, shuffle=True)
    scheme = kd.Distiller(restless(0), restless(1))
    ours = kd.report(scheme, streams(data, loader), split="val").rows
    whole = kd.report(scheme, data, split="val").rows
    for name, quantity in (("student", "teacher_kl"), ("student", "agreement"),
                           ("student", "accuracy"), ("teacher", "nll")):
        assert ours[name][quantity] == pytest.approx(whole[name][quantity], rel=1e-5)


def test_tokens_in_another_order_are_refused(smoke):
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)

        def forward(self, ids, mask):
            return self.head(self.table(ids))

    ids = torch.randint(9, (72, 5), generator=torch.Generator().manual_seed(0))

    def shuffled(x, y, rng):
        x, y = permuted(x, y, rng)
        return {"ids": x, "mask": torch.ones_like(x)}, y

    plain = [shuffled(ids, ids.roll(-1, 1), np.random.default_rng(0))]
    scheme = kd.Distiller(Language(), Language())
    for loader, fits in ((Batches(ids, ids.roll(-1, 1), shuffled), False), (plain, True)):
        data = kd.data.from_loaders(plain, loader, classes=9, task=Tokens())
        if fits:
            assert "teacher_kl" in kd.report(scheme, data, split="val").rows["student"]
        else:
            with pytest.raises(ValueError, match="the same order in each pass over val"):
                kd.report(scheme, data, split="val")
