"""Agreement against the published example and small cases."""

import numpy as np
import pytest

from coopgen_jax.evaluation.agreement import krippendorff_alpha

N = float("nan")


def test_the_example_of_the_paper():
    # Krippendorff (2011), four observers of twelve units; ordinal alpha is 0.815.
    observers = np.array([
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ])  # fmt: skip
    assert krippendorff_alpha(observers) == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(observers[::-1]) == pytest.approx(krippendorff_alpha(observers))


def test_agreement_by_hand():
    assert krippendorff_alpha(np.array([[1.0, 2, 5], [1, 2, 5]])) == 1
    # Two values, two raters: 1 - (n - 1) o / (n1 n2) with n = 6, o = 1 of each order, n1 = n2 = 3;
    # the distance cancels.
    assert krippendorff_alpha(np.array([[1.0, 2, 1], [1, 2, 2]])) == pytest.approx(1 - 5 * 1 / 9)
    assert krippendorff_alpha(np.array([[1.0, 2], [2, 1]])) == pytest.approx(1 - 3 * 2 / 4)
    # Steps count by the ratings between them, not by their numbers.
    far, near = np.array([[1.0, 2, 9], [1, 2, 2]]), np.array([[1.0, 2, 3], [1, 2, 2]])
    assert krippendorff_alpha(far) == pytest.approx(krippendorff_alpha(near))


@pytest.mark.parametrize("ratings", [[[1.0, N], [N, 2]], [[3.0, 3], [3, 3]], [[1.0, 2]]])
def test_without_pairs_or_differences_nothing_is_known(ratings):
    assert np.isnan(krippendorff_alpha(np.array(ratings)))
