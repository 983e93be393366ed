"""The algebra of objectives, and who trains their terms."""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import network, state

import kdcourse as kd
from kdcourse import losses
from kdcourse._key import key_of
from kdcourse.losses import CE, KD, LabelSmoothing, Loss, Objective
from kdcourse.taps import Output

INF = math.inf


def logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(shape, generator=kd.data.generator(seed), dtype=torch.float64)


def example(B=5, K=7):
    """Logits of a student and a teacher, labels."""
    return logits(B, K, seed=1), logits(B, K, seed=2), torch.arange(B) % K


SENTENCES = [
    (lambda: 0.1 * CE() + 0.9 * KD(T=4), "0.1 * CE() + 0.9 * KD(T=4)"),
    (lambda: CE() + KD(T=2.5), "CE() + KD(T=2.5)"),
    (lambda: CE() * 2 + KD() * 3, "2 * CE() + 3 * KD(T=4)"),
    (lambda: 2 * (CE() + 0.5 * KD(T=1)), "2 * CE() + KD(T=1)"),
    (lambda: CE() + (KD(T=1) + 3 * KD(T=2)), "CE() + KD(T=1) + 3 * KD(T=2)"),
    (lambda: sum([CE(), KD(), LabelSmoothing()]), "CE() + KD(T=4) + LabelSmoothing(smoothing=0.1)"),
    (lambda: sum([2 * CE(), 3 * KD()]), "2 * CE() + 3 * KD(T=4)"),
    (lambda: losses.hinton(4, 0.9), "0.1 * CE() + 0.9 * KD(T=4)"),
    (lambda: losses.hinton(4, 1), "KD(T=4)"),
    (lambda: losses.hinton(4, 0), "CE()"),
    (lambda: np.float64(0.5) * CE(), "0.5 * CE()"),
    (lambda: losses.as_objective(KD()), "KD(T=4)"),
]


@pytest.mark.parametrize(("make", "sentence"), SENTENCES)
def test_an_objective_reads_as_it_is_written(make, sentence):
    objective = make()
    assert isinstance(objective, Objective)
    assert repr(objective) == sentence


@pytest.mark.parametrize(("one", "other"), [
    (lambda: 0.1234567 * CE(), lambda: 0.1234568 * CE()),
    (lambda: KD(T=1.0000001), lambda: KD(T=1)),
    (lambda: losses.SP("a"), lambda: losses.SP(teacher="a")),
    *((lambda margin=margin: losses.OFD("a", "b", margin=torch.tensor(margin)),
       lambda: losses.OFD("a", "b", margin=torch.tensor([-1.0, -3.0])))
      for margin in ([-2.0, -2.0], [-3.0, -1.0])),
])
def test_different_objectives_read_differently(one, other):
    assert repr(one()) != repr(other())


def test_an_objective_is_the_weighted_sum_of_its_parts():
    s, t, y = example()
    objective = 0.3 * CE() + 2 * (0.5 * KD(T=2) + KD(T=8))
    parts = objective.losses(s, t, y)
    expected = {"CE": losses.cross_entropy(s, y), "KD": losses.kd(s, t, 2),
                "KD_2": losses.kd(s, t, 8)}
    assert parts.keys() == expected.keys()
    for name in parts:
        torch.testing.assert_close(parts[name], expected[name])
    total = 0.3 * expected["CE"] + expected["KD"] + 2 * expected["KD_2"]
    torch.testing.assert_close(objective(s, t, y), total)


def test_two_terms_of_one_kind_stay_two():
    objective = KD(T=1) + KD(T=2) + CE() + KD(T=3)
    assert list(objective.terms) == ["KD", "KD_2", "CE", "KD_3"]
    assert [term.T for name, term in objective.terms.items() if name != "CE"] == [1, 2, 3]


class Gap(Loss):
    """Somebody else's term: the squared distance of the logits, with a scale that is trained."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def values(self, student, teacher=None, labels=None):
        return self.scale * (student - teacher).square().mean(1)


def test_a_term_of_ones_own_joins_the_algebra():
    s, t, y = example()
    objective = CE() + 0.5 * Gap()
    assert repr(objective) == "CE() + 0.5 * Gap()"
    assert objective.needs_teacher
    assert [name for name, _ in objective.named_parameters()] == ["terms.Gap.scale"]
    expected = losses.cross_entropy(s, y) + 0.5 * (s - t).square().mean()
    torch.testing.assert_close(objective(Output(s), Output(t), y), expected)


def test_the_algebra_keeps_the_terms_that_it_is_given():
    term = Gap()
    first = 2 * term
    second = 3 * (CE() + first)
    assert first.terms["Gap"] is second.terms["Gap"] is second.unweighted().terms["Gap"] is term
    assert second.split_by_teacher()[1].terms["Gap"] is term
    assert first.weights == {"Gap": 2} and second.weights == {"CE": 3, "Gap": 6}


@pytest.mark.parametrize("make", [
    lambda term: term + term, lambda term: CE() + (term + 0.5 * term),
    lambda term: (CE() + term) + (KD() + 2 * term), lambda term: Objective([(1, term), (2, term)]),
])
def test_the_same_term_twice_in_one_objective_is_refused(make):
    with pytest.raises(ValueError, match=r"each term once in an objective, got the same Gap\(\)"):
        make(Gap())


RECIPE = kd.Recipe(epochs=1, batch=36)


def hinted(objective, seed=0):
    return kd.Distiller(network(seed), network(9, width=6), objective)


def test_a_term_at_hand_is_the_one_that_is_trained(data):
    hint = losses.Hint("2", "2", variant="mean")
    scheme = hinted(CE() + 0.5 * hint)
    assert scheme.objective.terms["Hint"] is hint
    scheme.build(next(data.train.batches(36)), 0)
    before = hint.regressor.weight.detach().clone()
    kd.fit(scheme, data, RECIPE)
    assert not torch.equal(hint.regressor.weight, before)
    assert "objective.terms.Hint.regressor.weight" in scheme.state_dict()
    assert not any("untrained" in key for key in scheme.state_dict())


def test_one_objective_for_several_seeds_carries_nothing_over(data):
    """What most notebooks do: the objective is made once, outside the arm."""
    make = lambda: CE() + 0.5 * losses.Hint("2", "2", variant="mean") + Gap()  # noqa: E731
    objective = make()
    early = hinted(objective, 3)  # made before anything is trained
    for seed in range(3):
        scheme, alone = hinted(objective, seed), hinted(make(), seed)
        assert repr(scheme) == repr(alone)
        assert scheme.objective.terms["Hint"].regressor is None
        assert scheme.objective.terms["Gap"].scale.item() == 1
        kd.fit(scheme, data, RECIPE, seed=seed)
        kd.fit(alone, data, RECIPE, seed=seed)
        assert state(scheme) == state(alone)
        assert scheme.objective.terms["Gap"].scale.item() != 1
    assert early.objective.terms["Gap"].scale.item() == 1
    assert early.objective.terms["Hint"].regressor is None


@pytest.mark.parametrize("take", [
    lambda scheme: scheme.objective, lambda scheme: 2 * scheme.objective.terms["Hint"],
    lambda scheme: copy.deepcopy(scheme).objective,
])
def test_the_terms_of_a_trained_scheme_start_anew_in_another(data, take):
    first = hinted(CE() + 0.5 * losses.Hint("2", "2", variant="mean"))
    kd.fit(first, data, RECIPE)
    trained = state(first)
    second = hinted(take(first))
    assert second.objective.terms["Hint"].regressor is None
    kd.fit(second, data, RECIPE)
    assert state(first) == trained


def test_an_objective_that_was_built_in_another_loop_starts_anew_in_a_scheme(data):
    objective = 1.0 * losses.Hint("2", "2", variant="mean")
    batch = next(data.train.batches(36))
    objective.build(*(kd.taps(net, ["2"])(batch.x) for net in (network(0), network(1, width=6))))
    assert objective.terms["Hint"].regressor is not None
    assert hinted(objective).objective.terms["Hint"].regressor is None


class Once(Loss):
    def __init__(self, scale=1.0):
        super().__init__(scale=scale)


class Later(Loss):
    def __init__(self, scale=1.0, shift=0.0):
        super().__init__(scale=scale, shift=shift)


class Hot(KD):
    def __init__(self):
        super().__init__(T=20)


def test_a_setting_with_a_default_can_be_added_and_the_identity_stays():
    assert Once().identity() == Later().identity()
    assert Once(2).identity() == Later(2).identity() != Later(2, 1).identity()
    assert key_of(KD()) == key_of(KD(T=4)) != key_of(KD(T=2)) != key_of(KD(T=2, student="exit"))
    assert Hot().identity() == KD(T=20).identity()
    changed = KD()
    changed.T = 2.0
    assert key_of(changed) == key_of(KD(T=2.0))


@pytest.mark.parametrize("make", [
    lambda one: losses.OFD("a", "b", margin=torch.tensor([-1.0, -2.0 if one else -3.0])),
    lambda one: losses.CRD(classes=torch.tensor([0, 1, 1, int(one)])),
])
def test_a_setting_that_is_a_tensor_is_part_of_the_identity(make):
    assert key_of(make(True)) == key_of(make(True)) != key_of(make(False))


def test_settings_that_nobody_takes_are_refused():
    for make in (CE, losses.SP, Gap, losses.FeatureLoss):
        with pytest.raises(TypeError):
            make(smoothing=0.1)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: CE() * "2", "finite number as the weight of CE"),
    (lambda: CE() * None, "finite number as the weight of CE"),
    (lambda: math.nan * KD(), r"finite number as the weight of KD\(T=4\), got nan"),
    (lambda: INF * (CE() + KD()), "finite number as the weight"),
    (lambda: torch.tensor(0.5) * CE(), "finite number as the weight of CE"),
    (lambda: (CE() + KD()) * "2", None),
    (lambda: CE() + 3, None),
    (lambda: 3 + CE(), None),
    (lambda: CE() + None, None),
    (lambda: losses.Hint(3), r'a module path such as "layer2", or several, got 3'),
    (lambda: losses.AT(torch.nn.ReLU(), "a"), r"a module path .* got ReLU\(\)"),
    (lambda: losses.as_objective("CE"), "a loss such as .* got str. .*subclass"),
    (lambda: losses.as_objective(torch.nn.CrossEntropyLoss()), "got CrossEntropyLoss"),
])
def test_what_is_no_weight_and_no_loss_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_an_objective_works_alone_in_a_foreign_loop():
    torch_loop = torch.nn.Linear(6, 4)
    x, y = logits(32, 6).float(), torch.arange(32) % 4
    teacher = logits(32, 4, seed=5).float()
    objective = 0.5 * CE() + 0.5 * KD(T=2)
    optimizer = torch.optim.SGD(torch_loop.parameters(), lr=0.5)
    seen = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = objective(torch_loop(x), teacher, y)
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < seen[0]
    assert seen == sorted(seen, reverse=True)


def test_needs_teacher_is_known_before_anything_runs():
    assert not (CE() + LabelSmoothing()).needs_teacher
    assert (CE() + KD()).needs_teacher


def test_a_star_import_leaves_the_package_its_name():
    names = {}
    exec("import kdcourse as kd\nfrom kdcourse.losses import *", names)
    assert names["kd"] is kd
    assert names["dkd"] is kd.losses.dkd and names["KD"] is kd.losses.KD
    exec("from kdcourse.losses import kd", names)
    assert names["kd"] is kd.losses.kd


def test_a_scheme_adds_up_as_its_objective_does():
    """An objective of one's own may have another total."""
    class Doubled(losses.Objective):
        def total(self, found):
            return 2 * super().total(found)

    scheme = kd.Supervised(torch.nn.Linear(4, 3))
    scheme.objective = Doubled([(1.0, CE())])
    batch = kd.data.Batch(torch.rand(5, 4), torch.arange(5) % 3, torch.arange(5))
    outcome = scheme(batch)
    torch.testing.assert_close(outcome.loss, 2 * outcome.parts["CE"])
