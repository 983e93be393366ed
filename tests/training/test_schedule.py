"""A learning rate that falls by steps."""

import pytest
import torch
from conftest import network

import kdcourse as kd


@pytest.mark.parametrize("schedule", [(), (1,), (2, 5), [3, 4, 7]])
@pytest.mark.parametrize("batch", [12, 36])
def test_the_rate_falls_after_these_epochs(data, schedule, batch):
    rates = []

    def plain(groups, lr):
        made = torch.optim.SGD(groups, lr=lr)
        made.register_step_pre_hook(lambda *_: rates.append(made.param_groups[0]["lr"]))
        return made

    recipe = kd.Recipe(epochs=8, batch=batch, lr=0.02, optimizer=plain, schedule=schedule)
    kd.fit(kd.Supervised(network()), data, recipe)
    steps = len(data.train) // batch
    expected = [0.02 * 0.1 ** sum(epoch > last for last in schedule)  # epochs from 1
                for epoch in range(1, 9) for _ in range(steps)]
    assert rates == pytest.approx(expected, rel=1e-12)


def test_a_stop_between_two_falls_is_made_good(data, tmp_path):
    recipe = kd.Recipe(epochs=6, batch=36, lr=0.1, optimizer="sgd", schedule=(2, 4))

    def stop(row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    whole, stopped = network(seed=1), network(seed=1)
    kd.fit(kd.Supervised(whole), data, recipe)
    path = tmp_path / "run.safetensors"
    assert kd.fit(kd.Supervised(stopped), data, recipe, checkpoint=path, on_epoch=stop).interrupted
    kd.fit(kd.Supervised(stopped), data, recipe, checkpoint=path)
    for one, other in zip(whole.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("schedule", [(0,), (8,), (9, 3), (2, 2), (1.5,), ("2",)])
def test_epochs_that_cannot_be(schedule):
    with pytest.raises(ValueError, match="schedule of rising epochs from 1 to 7, got"):
        kd.Recipe(epochs=8, schedule=schedule)


def test_a_recipe_with_steps_is_shown_and_compared():
    one, other = (kd.Recipe(schedule=made) for made in ((20, 40), [20, 40]))
    assert one == other
    assert "schedule=(20, 40)" in repr(one)
