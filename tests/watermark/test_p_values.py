"""Exact p-values against sums of fractions and of all outcomes."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from coopgen_jax.watermark.p_values import (
    log10_binomial,
    log10_gamma,
    log10_lattice,
    log10_of_several,
    log10_randomised_binomial,
    log10_z_binomial,
    log10_z_gamma,
)

WEIGHTS = tuple(np.rint(np.linspace(10, 1, 30)).astype(int).tolist())


def log10_of(value: Fraction) -> float:
    """Returns log10 of a fraction that a float could not hold."""

    def log10(number: int) -> float:
        shift = max(number.bit_length() - 900, 0)
        return math.log10(number >> shift) + shift * math.log10(2)

    return log10(value.numerator) - log10(value.denominator)


def binomial_tails(n: int, gamma: Fraction) -> list[Fraction]:
    """Returns P(X >= s) for s from 0 to n."""
    tails, total = [], Fraction(0)
    for k in range(n, -1, -1):
        total += math.comb(n, k) * gamma**k * (1 - gamma) ** (n - k)
        tails.append(total)
    return tails[::-1]


def exponential(x: Fraction) -> Fraction:
    """Returns e^x, to 60 digits."""
    with localcontext(prec=60):
        return Fraction((Decimal(x.numerator) / x.denominator).exp())


@pytest.mark.parametrize("n", [0, 1, 2, 7, 60])
@pytest.mark.parametrize("gamma", [Fraction(1, 4), Fraction(1, 2), Fraction(1, 1024)])
def test_binomial_tails_are_those_of_fractions(n, gamma):
    expected = [log10_of(tail) for tail in binomial_tails(n, gamma)]
    found = log10_binomial(np.arange(n + 1), n, float(gamma))
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


def test_binomial_tails_beyond_the_smallest_float():
    n, gamma = 900, Fraction(1, 4)
    tails = binomial_tails(n, gamma)
    scores = [600, 650, 700, 899, 900]
    found = log10_binomial(scores, n, 0.25)
    np.testing.assert_allclose(found, [log10_of(tails[s]) for s in scores], rtol=1e-12)
    assert found[-1] == pytest.approx(900 * math.log10(0.25)) and found[-1] < -500
    # The two ways join without a step.
    logs = log10_binomial(np.arange(500, 650), n, 0.25)
    np.testing.assert_allclose(logs, [log10_of(tail) for tail in tails[500:650]], rtol=1e-11)
    assert log10_binomial(10**6, 10**6, 0.5) == pytest.approx(10**6 * math.log10(0.5))


def test_scores_that_are_certain_or_cannot_be():
    assert log10_binomial([0, 3, 6, 1], [5, 2, 5, 0], 0.25).tolist() == [
        0,
        -np.inf,
        -np.inf,
        -np.inf,
    ]
    assert log10_gamma([0.0, 0.0, 1.0], [0, 4, 0]).tolist() == [0, 0, -np.inf]
    assert log10_lattice([0, 0, 7, 1], [0, 3, 2, 0], (2, 1)).tolist() == [0, 0, -np.inf, -np.inf]


@pytest.mark.parametrize("n", [1, 2, 20, 150])
def test_gamma_tails_are_those_of_a_poisson(n):
    for share in (Fraction(1, 8), Fraction(1), Fraction(3, 2), Fraction(9)):
        score = n * share
        below = sum(score**k / math.factorial(k) for k in range(n))
        expected = log10_of(Fraction(below)) - log10_of(exponential(score))
        assert log10_gamma(float(score), n) == pytest.approx(expected, rel=1e-11, abs=1e-13)
    assert log10_gamma(3000.0, 1) == pytest.approx(-3000 / math.log(10))


def lattice_tails(n: int, weights: tuple[int, ...]) -> list[Fraction]:
    ways = [1]
    for weight in weights * n:
        longer = [0] * (len(ways) + weight)
        for place, count in enumerate(ways):
            longer[place] += count
            longer[place + weight] += count
        ways = longer
    tails, total = [], 0
    for count in reversed(ways):
        total += count
        tails.append(Fraction(total, 2 ** (n * len(weights))))
    return tails[::-1]


@pytest.mark.parametrize(
    ("n", "weights"),
    [
        (1, (1,)),
        (1, (10, 7, 4, 1)),
        (1, WEIGHTS),
        (6, WEIGHTS),
        (25, (3, 2, 1)),
        (9, (5,)),
        (4, (2, 0)),
    ],
)
def test_lattice_tails_are_those_of_all_outcomes(n, weights):
    expected = [log10_of(tail) for tail in lattice_tails(n, weights)]
    found = log10_lattice(np.arange(len(expected)), n, weights)
    # Relative to p itself, not to its logarithm.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_a_lattice_of_single_bits_is_a_binomial():
    for n, scores in ((1000, (400, 501, 700, 990)), (10**6, (499_000, 500_001, 502_000, 520_000))):
        expected = log10_binomial(scores, n, 0.5)
        np.testing.assert_allclose(log10_lattice(scores, n, (1,)), expected, rtol=0, atol=2e-9)


def test_a_lattice_of_a_million_tokens_is_nearly_normal():
    n, weights = 10**6, np.asarray(WEIGHTS)
    deviation = math.sqrt(n * float((weights**2).sum()) / 4)
    score = math.ceil(n * weights.sum() / 2 + 4 * deviation)
    # P(a normal variable >= 4) = 3.1671e-5.
    assert log10_lattice(score, n, WEIGHTS) == pytest.approx(math.log10(3.1671e-5), abs=1e-3)
    assert -2200 < log10_lattice(score + 96 * int(deviation), n, WEIGHTS) < -2100


def test_a_randomised_p_value_lies_between_its_neighbours():
    n, gamma = 12, Fraction(1, 4)
    tails = [*binomial_tails(n, gamma), Fraction(0)]
    for score in range(n + 1):
        for u in (Fraction(1, 8), Fraction(1)):
            expected = log10_of(tails[score + 1] + u * (tails[score] - tails[score + 1]))
            found = log10_randomised_binomial(score, n, 0.25, float(u))
            assert found == pytest.approx(expected, abs=1e-12)
    assert log10_randomised_binomial(n, n, 0.25, 0.0) == -np.inf


def test_the_least_of_several():
    for p, count in ((Fraction(1, 3), 2), (Fraction(999, 1000), 3), (Fraction(1, 10**9), 1000)):
        expected = log10_of(1 - (1 - p) ** count)
        found = log10_of_several(math.log10(p), count)
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-14)
    found = log10_of_several([0.0, -5000.0, -17.0, -3.0, -np.inf], 1000)
    expected = [0, -4997, -14, math.log10(1 - 0.999**1000), -np.inf]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert log10_of_several(-0.25, 1) == pytest.approx(-0.25)


def test_the_z_tests_promise_too_much():
    # 200 tokens at the z of a nominal 1e-6: the true rates are 2.2 and 7.5 times that.
    score = np.arange(60, 120)
    nominal = log10_z_binomial(score, 200, 0.25)
    first = score[np.argmax(nominal <= -6)]
    assert 10 ** log10_binomial(first, 200, 0.25) == pytest.approx(2.2e-6, rel=0.1)
    score = 200 + 4.753424 * math.sqrt(200)
    assert log10_z_gamma(score, 200) == pytest.approx(-6, abs=1e-5)
    assert 10 ** log10_gamma(score, 200) == pytest.approx(7.5e-6, rel=0.05)
    assert log10_z_gamma(0.0, 0) == log10_z_binomial(0, 0, 0.25) == 0
