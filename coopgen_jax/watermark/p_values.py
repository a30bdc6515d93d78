"""p-values of watermark tests as log10 p: exact, in float64, however small they are.

A z-test counts on sums that are normal, which is false in the tails that matter: at 200 tokens a
nominal false-positive rate of 1e-6 is several times that. The three tests here are of the score's
own distribution. Where p itself would underflow, its logarithm is summed from the first term of
the tail on. All functions return 0.0 for p = 1, and -inf for scores that cannot be.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import betainc, expit, gammaincc, gammaln, log_ndtr, xlog1py, xlogy

# Below it a tail is summed in logarithms.
_SMALL = 1e-250
# How many standard deviations of a lattice sum lie around the score before it wraps around.
_DEVIATIONS = 30.0


def log10_binomial(score: ArrayLike, n: ArrayLike, gamma: float) -> np.ndarray:
    """Returns log10 P(Bin(n, gamma) >= score) `[...]`; the arguments broadcast.

    Args:
      score: `[...]` how many of the tokens are green; the next whole number of others.
      n: `[...]` how many tokens were scored.
      gamma: chance of a token to be green without a mark.
    """
    s, n = np.broadcast_arrays(np.ceil(np.asarray(score, float)), np.asarray(n, float))
    there = (s > 0) & (s <= n)
    # Regularised incomplete beta; elsewhere it is not defined.
    a, b = np.where(there, s, 1.0), np.where(there, n - s + 1, 1.0)
    direct = betainc(a, b, gamma)

    def tail(small: np.ndarray) -> np.ndarray:
        k, rest, odds = s[small], n[small] - s[small], gamma / (1 - gamma)
        first = gammaln(n[small] + 1) - gammaln(k + 1) - gammaln(rest + 1)
        first = first + xlogy(k, gamma) + xlog1py(rest, -gamma)
        return first + _log_series(lambda i: (rest - i + 1) / (k + i) * odds)

    value = _in_logarithms(direct, there, tail)
    return np.where(s <= 0, 0.0, np.where(s > n, -np.inf, value))


def log10_gamma(score: ArrayLike, n: ArrayLike) -> np.ndarray:
    """Returns log10 P(Gamma(n, 1) >= score) `[...]`, of sums of `n` exponentials; they broadcast.

    Args:
      score: `[...]` sum of the tokens' scores.
      n: `[...]` how many tokens were scored, a whole number.
    """
    s, n = np.broadcast_arrays(np.asarray(score, float), np.asarray(n, float))
    there = (s > 0) & (n > 0)
    a, x = np.where(there, n, 1.0), np.where(there, s, 1.0)
    direct = gammaincc(a, x)

    def tail(small: np.ndarray) -> np.ndarray:
        k, y = n[small], s[small]
        # P(Gamma(n) >= y) is that of fewer than n events of a Poisson of mean y.
        first = xlogy(k - 1, y) - y - gammaln(k)
        return first + _log_series(lambda i: (k - i) / y)

    value = _in_logarithms(direct, there, tail)
    return np.where(s <= 0, 0.0, np.where(n <= 0, -np.inf, value))


def _in_logarithms(
    direct: np.ndarray, there: np.ndarray, tail: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Returns log10 of p-values, by `tail` (natural logarithms of some) where they are tiny."""
    value = np.log10(np.maximum(direct, _SMALL))
    small = there & (direct < _SMALL)
    if small.any():
        value = np.asarray(value)
        value[small] = tail(small) / math.log(10)
    return value


def _log_series(ratio: Callable[[int], np.ndarray]) -> np.ndarray:
    """Returns log(1 + r1 + r1 r2 + ...) of ratios that fall from below 1 on."""
    term, total, i = np.asarray(1.0), np.asarray(1.0), 1
    while True:
        term = term * np.maximum(ratio(i), 0.0)
        total = total + term
        # What is left is at most a geometric series.
        if np.all(term <= 1e-16 * total * (1 - np.minimum(ratio(i), 1 - 1e-9))):
            return np.log(total)
        i += 1


def log10_lattice(
    score: ArrayLike, n: ArrayLike, weights: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Returns log10 P(sum of n tokens' weighted fair bits >= score) `[...]`.

    A token's sum is that of `weights[l]` over its bits that are 1. Chances are tilted
    exponentially so that their mean is the score, and the tail of the tilted distribution, with
    the tilt undone, is summed by a discrete Fourier transform, from the n-th power of a token's
    characteristic function: a tiny p is as exact as a large one.

    Args:
      score: `[...]` whole numbers; broadcasts with `n`.
      n: `[...]` how many tokens were scored.
      weights: `[L]` whole numbers, 0 or more.
    """
    known = tuple(sorted(int(weight) for weight in weights if weight))
    s, n = np.broadcast_arrays(np.ceil(np.asarray(score, float)), np.asarray(n))
    values = [
        _lattice(int(one), int(count), known) for one, count in zip(s.flat, n.flat, strict=True)
    ]
    return np.asarray(values, float).reshape(s.shape)


@lru_cache(maxsize=65536)
def _lattice(score: int, n: int, weights: tuple[int, ...]) -> float:
    most = n * sum(weights)
    if score <= 0:
        return 0.0
    if score > most:
        return -math.inf
    if 2 * score > most:
        return _lattice_tail(score, n, weights) / math.log(10)
    # Fair bits are symmetric: the lower tail is an upper one, and small.
    lower = _lattice_tail(most - score + 1, n, weights)
    return math.log1p(-math.exp(lower)) / math.log(10)


def _lattice_tail(score: int, n: int, weights: tuple[int, ...]) -> float:
    """Returns the natural log of P(sum >= score), of a score above the mean."""
    most = n * sum(weights)
    if score >= most:
        return -n * len(weights) * math.log(2) if score == most else -math.inf
    theta = lattice_tilt(score / n, weights)
    w, times = np.unique(np.asarray(weights, float), return_counts=True)
    up, down = expit(theta * w), expit(-theta * w)
    deviation = math.sqrt(n * float(np.sum(times * w**2 * up * down)))
    enough = min(most + 1, math.ceil(_DEVIATIONS * deviation + 64 * w[-1]))
    size = 1 << max(enough - 1, 1).bit_length()
    # Of many tokens few frequencies are left: the rest is below 1e-26 of the first.
    place = np.arange(_frequencies(size, n * int(times[0]), w[0], up[0]))
    angle = 2 * np.pi / size * place
    square = np.ones(angle.shape)
    for weight, count, p, q in zip(w, times, up, down, strict=True):
        square *= (1 - 4 * p * q * np.sin(angle * (weight / 2)) ** 2) ** count
    left = square >= math.exp(-120 / n)
    angle = angle[left]
    # Every frequency stands for one of the other half too, but for the two ends.
    sides = np.where((place == 0) | (place == size // 2), 1.0, 2.0)[left]
    magnitude, phase = np.zeros(angle.shape), np.zeros(angle.shape)
    for weight, count, p, q in zip(w, times, up, down, strict=True):
        turn = angle * weight
        sine, cosine = np.sin(turn / 2), np.cos(turn / 2)
        # The square of the length is 1 - 4pq sin^2, which can be all but 1 or all but 0.
        lost, kept = 4 * p * q * sine**2, (q - p) ** 2 + 4 * p * q * cosine**2
        log_square = np.where(lost < 0.5, np.log1p(-np.minimum(lost, 0.5)), np.log(kept + 1e-300))
        magnitude += count / 2 * log_square
        # Every bit about its mean, so that phases stay small where they matter.
        full = np.arctan2(2 * p * sine * cosine, 1 - 2 * p * sine**2)
        phase += count * (full - p * turn)
    rounding = score - n * float(np.sum(times * w * up))
    transform = np.exp(n * magnitude + 1j * (n * phase - angle * rounding))
    # The tail sum of exp(-theta k) times the inverse transform at k = 0, 1, ... is geometric.
    terms, step = min(size // 2, most - score) + 1, -theta - 1j * angle
    step[0] = min(step[0].real, -1e-300)
    geometric = np.expm1(terms * step) / np.expm1(step)
    total = float(np.sum(sides * (transform * geometric).real)) / size
    return -n * lattice_rate(score / n, weights) + math.log(total)


def _frequencies(size: int, bits: int, weight: float, p: float) -> int:
    """Returns how many frequencies, from 0 on, `bits` bits of one weight leave, where it is 1."""
    share = -math.expm1(-120 / bits) / (4 * p * (1 - p))
    if weight != 1 or share >= 1:
        return size // 2 + 1
    return min(size // 2, math.ceil(size / math.pi * math.asin(math.sqrt(share)))) + 1


def lattice_tilt(mean: float, weights: Sequence[int]) -> float:
    """Returns the exponential tilt under which a token's weighted bits have a mean.

    It is 0 at the mean of fair bits and grows without end towards the sum of the weights, which
    the mean is below.
    """
    w = np.asarray(weights, float)
    missing = float(w.sum()) - mean

    def excess(theta: float) -> float:
        return float(np.sum(w * expit(-theta * w))) - missing

    if excess(0.0) <= 0:
        return 0.0
    end = 1.0
    while excess(end) > 0:
        end *= 2
    return float(brentq(excess, 0.0, end, xtol=1e-300, rtol=1e-15))


def lattice_rate(mean: float, weights: Sequence[int]) -> float:
    """Returns Chernoff's exponent: P(n tokens' mean >= mean) is at most exp(-n times it)."""
    w = np.asarray(weights, float)
    if mean >= w.sum():
        return len(w) * math.log(2)
    theta = lattice_tilt(mean, weights)
    # log((1 + e^x) / 2) without overflow.
    return theta * mean - float(np.sum(np.logaddexp(0.0, theta * w) - math.log(2)))


def log10_randomised_binomial(
    score: ArrayLike, n: ArrayLike, gamma: float, uniforms: ArrayLike
) -> np.ndarray:
    """Returns log10 of P(X > score) + U P(X = score) `[...]`, X binomial.

    Without a mark it is uniform, where `log10_binomial` is at least that, for scores are whole
    numbers. It is for experiments on calibration, for a verdict must not hang on chance.

    Args:
      score: `[...]` see `log10_binomial`.
      n: `[...]` see there.
      gamma: see there.
      uniforms: `[...]` U, numbers from 0 to 1.
    """
    u = np.asarray(uniforms, float)
    with np.errstate(divide="ignore"):
        above = log10_binomial(np.asarray(score) + 1, n, gamma) + np.log10(1 - u)
        here = log10_binomial(score, n, gamma) + np.log10(u)
    return np.logaddexp(above * math.log(10), here * math.log(10)) / math.log(10)


def log10_of_several(log10_p: ArrayLike, count: ArrayLike) -> np.ndarray:
    """Returns log10 of 1 - (1 - p)^count: the least of `count` p-values was p (Sidak 1967)."""
    value, count = np.asarray(log10_p, float), np.asarray(count, float)
    natural, sum_of = value * math.log(10), value + np.log10(count)
    # 1 - p, without loss where p is near 0 or 1.
    with np.errstate(divide="ignore"):
        none = np.where(value < -1, np.log1p(-np.exp(natural)), np.log(-np.expm1(natural)))
        exact = np.log10(-np.expm1(count * none))
    return np.where(sum_of < -16, sum_of, exact)


def log10_z_binomial(score: ArrayLike, n: ArrayLike, gamma: float) -> np.ndarray:
    """Returns log10 p of the z-test of green tokens, only to show what is wrong with it."""
    return _z(score, n, gamma, math.sqrt(gamma * (1 - gamma)))


def log10_z_gamma(score: ArrayLike, n: ArrayLike) -> np.ndarray:
    """Returns log10 p of the z-test of exponentials, only to show what is wrong with it."""
    return _z(score, n, 1.0, 1.0)


def _z(score: ArrayLike, n: ArrayLike, mean: float, deviation: float) -> np.ndarray:
    s, n = np.broadcast_arrays(np.asarray(score, float), np.asarray(n, float))
    z = (s - mean * n) / (np.sqrt(np.maximum(n, 1.0)) * deviation)
    return np.where(n > 0, log_ndtr(-z) / math.log(10), 0.0)
