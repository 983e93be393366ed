"""What every term that trains something keeps."""

import copy
import math

import pytest
import torch
from conftest import network, state
from helpers.trained import TRAINED, built
from torch import nn

import kdcourse as kd
from kdcourse.losses import OFD, HiddenCosine, HiddenMSE, ReviewKD

RECIPE = kd.Recipe(epochs=1, batch=36)
trained = pytest.mark.parametrize("name", TRAINED)


@trained
def test_build_is_needed_happens_once_and_follows_the_seed(name):
    make, features = TRAINED[name]
    term = make()
    with pytest.raises(ValueError, match=r"Expected build.* to be called first"):
        term(*features)
    before = torch.get_rng_state()
    term.build(*features, 3)
    assert torch.equal(before, torch.get_rng_state())
    first = state(term)
    term.build(*features, 4)
    assert state(term) == first
    assert state(built(name, 3)[0]) == first
    assert state(built(name, 4)[0]) != first


@trained
def test_everything_in_it_is_trained_and_nothing_of_the_teacher(name):
    term, (student, teacher) = built(name)
    wish = lambda x: (tuple(part.requires_grad_() for part in x)  # noqa: E731
                      if isinstance(x, tuple) else x.requires_grad_())
    student, teacher = wish(copy.deepcopy(student)), wish(copy.deepcopy(teacher))
    loss = term(student, teacher)
    assert loss.shape == ()
    loss.backward()
    parameters = [p for p in term.parameters() if p.requires_grad]  # a paraphraser is frozen
    assert parameters
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)
    for x in (student if isinstance(student, tuple) else [student]):
        assert x.grad is not None
    for x in (teacher if isinstance(teacher, tuple) else [teacher]):
        assert x.grad is None
    assert term.values(student, teacher).shape == (4,)


@trained
def test_it_can_be_copied_saved_and_loaded(name):
    term, features = built(name)
    term(*features)  # moves statistics
    term.eval()
    again, _ = built(name, seed=9)
    assert state(again) != state(term)
    again.load_state_dict(term.state_dict())
    again.eval()
    assert torch.equal(again(*features), term(*features))
    other = copy.deepcopy(term)
    assert not {id(p) for p in other.parameters()} & {id(p) for p in term.parameters()}
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    assert torch.equal(again(*features), term(*features))
    assert repr(other) == repr(term)


@trained
def test_it_gets_smaller_by_training_the_term_alone(name):
    term, features = built(name)
    with torch.no_grad():  # random masks are the same without gradients
        start = float(term(*features))
    optimizer = torch.optim.SGD(term.parameters(), lr=1e-2 / max(1, start))
    for _ in range(20):
        optimizer.zero_grad()
        term(*features).backward()
        optimizer.step()
    with torch.no_grad():
        assert float(term(*features)) < start


@trained
def test_autocast_and_half_precision_change_little(name):
    term, features = built(name)
    term.eval()  # no statistics that move from call to call
    plain = term(*features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(term(*features), plain)
    half = [tuple(x.bfloat16() for x in side) if isinstance(side, tuple) else side.bfloat16()
            for side in features]
    assert term(*half).dtype == torch.float32
    torch.testing.assert_close(term(*half), plain, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("term", [
    lambda: OFD("3", "layer2.0.relu:input"), lambda: OFD("1", "layer2.0.relu:input"),
    lambda: 0.5 * OFD("3", "layer2.0.relu:input") + OFD("5", "layer3.0.relu:input"),
    lambda: ReviewKD(["2", "4", "6"], ["layer1", "layer2", "layer3"]),
    lambda: ReviewKD(["4", "6", "9:input"], ["layer2.0.relu:input", "layer3", "fc:input"]),
    lambda: HiddenMSE("4", "layer2"), lambda: HiddenCosine("9:input", "fc:input"),
])
def test_it_trains_in_a_scheme(data, term):
    teacher = kd.models.resnet(depth=8, width=4, stem_stride=2, size=12)
    scheme = kd.Distiller(network(), teacher, kd.losses.CE() + 1e-3 * term())
    before = state(teacher)
    history = kd.fit(scheme, data, RECIPE)
    assert all(math.isfinite(row["loss"]) for row in history.rows)
    assert state(teacher) == before
    kd.export(scheme)


def test_build_in_a_scheme_writes_no_statistics(data):
    teacher = kd.models.resnet(depth=8, width=4, stem_stride=2, size=12)
    objective = OFD("3", "layer2.0.relu:input") + ReviewKD(["4"], ["layer3"])
    scheme = kd.Distiller(network(), teacher, objective)
    batch = next(iter(data.train.batches(36, 0, 0)))
    scheme.build(batch, 0)
    norms = [m for m in scheme.objective.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 3
    assert all(int(norm.num_batches_tracked) == 0 for norm in norms)
    assert float(scheme.objective.terms["OFD"].negative_count.sum()) == 0
    scheme(batch).loss.backward()  # a loop that never calls train(): the scheme is in train mode
    assert all(int(norm.num_batches_tracked) == 1 for norm in norms)
    scheme.eval()
    scheme(batch)
    assert all(int(norm.num_batches_tracked) == 1 for norm in norms)
