"""Results of several seeds: means and confidence intervals."""

import math
import statistics


def interval(values: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """Give the mean and the ends of its confidence interval (Student's t), NaN for one value.

    >>> interval([1.0, 2.0, 3.0])
    (2.0, -0.48..., 4.48...)
    """
    from scipy import stats

    if not 0 < level < 1:
        raise ValueError(f"Expected a level between 0 and 1, such as 0.95, got {level}.")
    values = [float(value) for value in values]  # they may be tensors, on any device
    if not values:
        raise ValueError("Expected at least one value, got none.")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, math.nan, math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half


def paired_difference(ours: list[float], baseline: list[float], level: float = 0.95):
    """Give the mean of `ours - baseline`, seed by seed, and the ends of its confidence interval.

    What a seed does to both arms alike (data order, initial weights) cancels in the pairs.
    """
    if len(ours) != len(baseline):
        raise ValueError(f"Expected pairs, got {len(ours)} and {len(baseline)} values. "
                         "Run both arms on the same seeds.")
    return interval([float(a) - float(b) for a, b in zip(ours, baseline)], level)
