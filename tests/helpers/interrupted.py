"""Trainings that are stopped."""


def stop_after(step):
    """Ctrl-C in a step: what was done since the last epoch is lost."""
    count = iter(range(1, 10**6))

    def after_step(*_):
        if next(count) == step:
            raise KeyboardInterrupt

    return after_step
