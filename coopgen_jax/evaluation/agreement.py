"""How far people who rate the same things agree."""

import numpy as np


def krippendorff_alpha(ratings: np.ndarray) -> float:
    """Returns Krippendorff's alpha of ordinal ratings: 1 for agreement, 0 for chance.

    Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, section E and its ordinal
    metric: the squared number of ratings between two values, half of those at them counted.
    Ratings are `[raters, things]`, NaN where a rater has not rated a thing; things that fewer than
    two have rated do not count. Alpha is NaN where nothing is rated twice or all ratings are equal.
    """
    rated = ratings[:, (~np.isnan(ratings)).sum(axis=0) >= 2]
    values = np.unique(rated[~np.isnan(rated)])
    if len(values) < 2:
        return float("nan")
    # How often each value was given to each thing: `[things, values]`.
    given = (rated.T[:, :, None] == values).sum(axis=1).astype(float)
    raters = given.sum(axis=1)
    pairs = given[:, :, None] * given[:, None, :] - given[:, :, None] * np.eye(len(values))
    together = (pairs / (raters - 1)[:, None, None]).sum(axis=0)
    totals = together.sum(axis=1)
    below = np.cumsum(totals) - totals / 2
    distance = (below[:, None] - below[None, :]) ** 2
    expected = (totals[:, None] * totals[None, :] * distance).sum()
    return float(1 - (totals.sum() - 1) * (together * distance).sum() / expected)
