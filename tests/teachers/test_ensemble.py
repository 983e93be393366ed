"""Several teachers that answer as one."""

import copy
import dataclasses

import pytest
import torch
from conftest import network, restless, state
from torch import nn
from torchvision.transforms import v2

import kdcourse as kd
from kdcourse.data import Batch
from kdcourse.taps import Output
from kdcourse.teachers import Teacher

RECIPE = kd.Recipe(epochs=2, batch=36)


def three(data):
    batch = next(data.train.batches(8))
    teachers = [restless(seed) for seed in range(3)]
    return batch, teachers, torch.stack([kd.Live(t)(batch).logits for t in teachers])


def test_an_ensemble_is_the_mean_of_its_logits(data):
    batch, teachers, answers = three(data)
    ensemble = kd.Ensemble(teachers)
    torch.testing.assert_close(ensemble(batch).logits, answers.mean(0))
    torch.testing.assert_close(ensemble.predict(batch.x), answers.mean(0))
    for T in (1, 4):  # the geometric mean of the softened answers
        geometric = torch.softmax(answers / T, -1).log().mean(0).exp()
        geometric = geometric / geometric.sum(1, keepdim=True)
        torch.testing.assert_close((ensemble(batch).logits / T).softmax(1), geometric)


def test_an_ensemble_with_weights(data):
    batch, teachers, answers = three(data)
    expected = (answers * torch.tensor([1.0, 0.0, 3.0])[:, None, None]).sum(0) / 4
    torch.testing.assert_close(kd.Ensemble(teachers, [1, 0, 3])(batch).logits, expected)


def test_an_ensemble_that_trusts_who_knows_the_sample(data):
    batch, teachers, answers = three(data)
    p = answers.softmax(-1)[:, torch.arange(len(batch.y)), batch.y]  # of the label, per teacher
    shares = p / p.sum(0)  # the softmax of a logarithm
    expected = (shares[..., None] * answers).sum(0)
    torch.testing.assert_close(kd.Ensemble(teachers, "confidence")(batch).logits, expected)
    torch.testing.assert_close(kd.Ensemble(teachers, "confidence").predict(batch.x),
                               answers.mean(0))


class Given(Teacher):
    """Gives these logits [B, K] to any batch."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, batch, paths=()):
        return Output(self.logits)


def test_an_ensemble_with_masked_classes():
    inf = torch.inf
    batch = Batch(torch.zeros(3, 1, 2, 2), torch.tensor([0, 0, 2]), torch.arange(3))
    first = torch.tensor([[-inf, 1.0, 2.0], [3.0, -inf, 1.0], [1.0, 2.0, -inf]])
    second = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [3.0, 2.0, -inf]])
    together = kd.Ensemble([Given(first), Given(second)], "confidence")(batch).logits
    torch.testing.assert_close(together[0], second[0])  # the first has no mass on the label
    assert together[1, 1] == -inf  # masked by one who is heard
    share = torch.stack([first[1].softmax(0)[0], second[1].softmax(0)[0]])
    share = share / share.sum()
    torch.testing.assert_close(together[1, ::2], share @ torch.stack([first[1], second[1]])[:, ::2])
    torch.testing.assert_close(together[2], (first[2] + second[2]) / 2)  # nobody knows the label
    soft = dataclasses.replace(batch, y=nn.functional.one_hot(batch.y, 3).float())
    torch.testing.assert_close(
        kd.Ensemble([Given(first), Given(second)], "confidence")(soft).logits, together)
    alone = kd.Ensemble([Given(first), Given(second)], [0, 2])(batch).logits
    torch.testing.assert_close(alone, second)


def test_an_ensemble_stands_wherever_a_teacher_does(data):
    _, teachers, _ = three(data)
    before = [state(teacher) for teacher in teachers]
    adapted = kd.Live(network(4, channels=3), v2.Compose([v2.RGB(), v2.Resize(8, antialias=True)]))
    members = [teachers[0], kd.Live(teachers[1]), kd.Cached(teachers[2], data), adapted]
    for source in (kd.Ensemble(members), kd.Cached(kd.Ensemble(members), data)):
        scheme = kd.Distiller(network(), source)
        kd.fit(scheme, data, RECIPE)
        assert repr(copy.deepcopy(scheme)) == repr(scheme)
    assert [state(teacher) for teacher in teachers] == before


def test_shares_move_with_the_ensemble():
    ensemble = kd.Ensemble([network(), network(1)], [1, 3]).to("meta")
    assert {b.device.type for b in ensemble.buffers()} == {"meta"}
    assert ensemble.state_dict() == {}  # they are settings, no state


def test_the_average_in_an_ensemble_is_saved_and_the_rest_is_not(data):
    student = restless()
    scheme = kd.Distiller(student, kd.Ensemble([restless(1), kd.EMA(student, 0.9)]))
    kd.fit(scheme, data, RECIPE)
    mean = scheme.teacher.teachers[1].model
    assert state(mean) not in (state(student), state(restless()))
    assert {name for name in scheme.state_dict() if not name.startswith("student.")} == {
        f"teacher.teachers.1.model.{name}" for name in mean.state_dict()}
    twin = copy.deepcopy(scheme)
    assert twin.teacher.teachers[0] is scheme.teacher.teachers[0]
    assert twin.teacher.teachers[1] is not scheme.teacher.teachers[1]
    kd.fit(twin, data, RECIPE)
    assert state(twin.teacher.teachers[1].model) != state(mean)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: kd.Ensemble([]), "at least one teacher"),
    (lambda: kd.Ensemble([network()], [1, 2]), "1 weights of at least 0.* got .1, 2."),
    (lambda: kd.Ensemble([network(), network(1)], [-1, 2]), "2 weights of at least 0"),
    (lambda: kd.Ensemble([network(), network(1)], [0, 0]), "2 weights of at least 0"),
    (lambda: kd.Ensemble([network(), network(1)], [float("inf"), 1]), "2 weights of at least 0"),
    (lambda: kd.Ensemble([network(), network(1)], [float("nan"), 1]), "2 weights of at least 0"),
    (lambda: kd.Ensemble([network()], "best"), "weights \"mean\", \"confidence\" or one number"),
    (lambda: kd.Ensemble([network(), network(1, classes=10)]).predict(torch.rand(2, 1, 12, 12)),
     r"with the same classes, got logits of shapes \[\[2, 36\], \[2, 10\]\]"),
    (lambda: kd.Distiller(network(), kd.Ensemble([network(1)]), kd.losses.AT("2", "2")),
     r"one teacher for the taps \['2'\], got an ensemble"),
])
def test_ensembles_that_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()
