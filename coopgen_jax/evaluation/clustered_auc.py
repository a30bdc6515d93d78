"""The area under the ROC curve, and how sure it is where observations come in clusters."""

import numpy as np
from scipy.stats import norm, rankdata


def clustered_auc(
    scores: np.ndarray, positive: np.ndarray, clusters: np.ndarray, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """Returns the area under the ROC curve and its interval.

    Obuchowski, "Nonparametric Analysis of Clustered ROC Curve Data" (1997, Biometrics 53): the
    variance of DeLong, DeLong and Clarke-Pearson (1988) with sums over clusters, each of which may
    have positives and negatives. The area is the share of pairs of a positive and a negative of
    which the positive has the higher score; equal scores count half.

    Args:
      scores: `[m]`.
      positive: `[m]` bool.
      clusters: `[m]` which cluster each score is of, numbers or strings.
      level: that of the interval, which is normal and cut at 0 and 1; (0, 1) of one cluster.

    Returns:
      The area and the interval; NaN and (0, 1) where there are only positives or only negatives.
    """
    positive = np.asarray(positive, bool)
    scores = np.asarray(scores, float)
    many, few = int(positive.sum()), int((~positive).sum())
    if not many or not few:
        return float("nan"), (0.0, 1.0)
    ranks = rankdata(scores)
    # By score, the share of the other side that it stands on the right side of.
    share = np.empty(len(scores))
    share[positive] = (ranks[positive] - rankdata(scores[positive])) / few
    share[~positive] = 1 - (ranks[~positive] - rankdata(scores[~positive])) / many
    area = float(share[positive].mean())
    _, number = np.unique(clusters, return_inverse=True)
    groups = int(number.max()) + 1
    if groups < 2:
        return area, (0.0, 1.0)
    pulls = (share - area) / np.where(positive, many, few)
    sums = np.bincount(number, pulls, minlength=groups)
    half = norm.ppf(0.5 + level / 2) * np.sqrt(groups / (groups - 1) * (sums**2).sum())
    return area, (max(0.0, area - half), min(1.0, area + half))
