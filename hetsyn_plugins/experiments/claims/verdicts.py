"""When a claim of the paper holds, differs, or is undecided: one rule for each kind of claim, all of them two-sided.

    near      a figure of the paper's. An equivalence test: the 95 % interval of our mean (by t) lies within a band
              around the figure: holds; wholly outside, above or below: differs; else undecided
    above     a figure that ours is to exceed: the same interval against that one bound
    mostly    a mark that runs are to reach: the sign test of how many seeds do, against half of them
    better    ours against another's, run with the same seeds, or on the same folds: the exact sign-flip permutation
              test of the differences, two-sided at 5 %. n pairs reach p = 2^(1 - n) at best, so five decide nothing
    best      ours against several, each as `better`: holds where it is better than all, differs where worse than any
    no_more   a cost that is not to grow: the 95 % interval of the paired differences against a margin

A single run decides nothing: it is said whether it agrees. The bands are ours, the paper has none:

    POINTS    of an accuracy that the paper reads off a figure, or reports of few runs
    CLOSE     of an accuracy that it reports to two digits, near 100 %
    SHARE     of time constants and of shares of synapses, relative
    MARGIN    of iterations, relative
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import atan, cos, inf, pi, sin, sqrt
from typing import NamedTuple

import numpy as np

from hetsyn_plugins.core.fields import Array

POINTS, CLOSE = 5.0, 0.5  # per cent
SHARE, MARGIN = 0.1, 0.1
LEVEL = 0.05
EXACT = 14  # pairs: of more, so many as DRAWS signs are drawn
DRAWS = 1 << EXACT


class Judgement(NamedTuple):
    """holds is None where nothing is judged, or where it is undecided; `note` says what decided, or why nothing did."""

    holds: bool | None = None
    note: str = ""
    undecided: bool = False


NOT_JUDGED = Judgement()


def near(values: Array, reported: float, band: float) -> Judgement:
    """Is the mean of the values, by seed, the reported one, give or take `band`?"""
    return _within(values, reported - band, reported + band, f"{reported:g} ± {band:.3g}")


def above(values: Array, bound: float) -> Judgement:
    """Is the mean of the values, by seed, above the bound?"""
    return _within(values, bound, inf, f"above {bound:g}")


def no_more(values: Array, usual: Array) -> Judgement:
    """Are the values, by seed, no larger than the usual ones, give or take MARGIN of their mean?"""
    margin = MARGIN * float(usual.mean())
    return _within(values - usual, -inf, margin, f"at most {margin:.3g} more than usual")


def mostly(values: Array, mark: float) -> Judgement:
    """Do most runs reach the mark?"""
    reach = values >= mark
    what = f"{reach.sum()} of {reach.size} reach {mark:g}"
    return _by_test(np.where(reach, 1.0, -1.0), what)


def better(ours: Array, theirs: Array, than: str, *, more: bool = True) -> Judgement:
    """Are ours better than theirs, pair by pair? `more`: more is better; `than` is the other's name."""
    differences = _differences(ours, theirs, more)
    what = f"better than {than} in {(differences > 0).sum()} of {differences.size} pairs"
    return _by_test(differences, what)


def best(ours: Array, others: Mapping[str, Array], *, more: bool = True) -> Judgement:
    """Are ours better than all others, pair by pair?"""
    each = {name: better(ours, theirs, name, more=more) for name, theirs in others.items()}
    worse = [name for name, judged in each.items() if judged.holds is False]
    open_ = [name for name, judged in each.items() if judged.undecided]
    n = np.size(ours)
    if n == 1:
        agree = all((_differences(ours, theirs, more) > 0).all() for theirs in others.values())
        return _one_run(agree, "better than all others")
    if worse:
        return Judgement(False, f"worse than {', '.join(worse)}")
    if open_:
        return Judgement(None, f"not told apart from {', '.join(open_)}{_reach(n)}", True)
    return Judgement(True, "better than all others, each at 5 %")


# ---- the two tests -----------------------------------------------------------------------------------------------


def sign_flip(differences: Array) -> float:
    """The two-sided p of the mean difference, if signs were equally likely: exact up to EXACT pairs."""
    differences = differences[differences != 0]  # a zero has no sign; left out, the others' distribution stays
    n = differences.size
    if not n:
        return 1.0
    if n <= EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=n))).reshape(-1, n)
    else:
        signs = np.random.default_rng(0).choice((1.0, -1.0), (DRAWS, n))
        signs[0] = 1.0  # what came counts as one of the draws
    sums = np.abs(signs @ differences)
    return float(np.mean(sums >= sums[0] * (1 - 1e-9)))  # sums in another order differ in their last bits


def interval(values: Array) -> tuple[float, float]:
    """The 95 % interval of the mean, by t with n - 1 degrees of freedom."""
    half = t_quantile(values.size - 1) * values.std(ddof=1) / sqrt(values.size)
    return float(values.mean() - half), float(values.mean() + half)


def t_quantile(freedom: int, within: float = 1 - LEVEL) -> float:
    """The t within which so large a share of Student's distribution lies, found by halving."""
    low, high = 0.0, 1e3
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, freedom) < within else (low, middle)
    return high


def t_within(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's distribution, a finite sum for whole degrees of freedom.

    Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = atan(t / sqrt(freedom))
    odd = freedom % 2
    term = cos(angle) if odd else 1.0
    total = 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cos(angle) ** 2 * (k - 1) / k
    total *= sin(angle)
    return 2 / pi * (angle + total) if odd else total


# ---- helpers -----------------------------------------------------------------------------------------------------


def _differences(ours: Array, theirs: Array, more: bool) -> Array:
    differences = ours - theirs
    return differences if more else -differences


def _within(values: Array, low: float, high: float, wanted: str) -> Judgement:
    """The interval of the mean against these bounds."""
    if values.size == 1:
        return _one_run(bool(low <= values[0] <= high), wanted)
    if not np.isfinite(values).all():
        return Judgement(None, "not all runs have a number", True)
    first, last = interval(values)
    found = f"95 % of the mean {first:.4g} to {last:.4g}, expected {wanted}"
    if low <= first and last <= high:
        return Judgement(True, found)
    if last < low or first > high:
        return Judgement(False, found)
    return Judgement(None, found, True)


def _by_test(differences: Array, what: str) -> Judgement:
    """The sign-flip test of differences whose positive ones agree with the paper."""
    if differences.size == 1:
        return _one_run(bool(differences[0] > 0), what)
    if not np.isfinite(differences).all():
        return Judgement(None, "not all runs have a number", True)
    p = sign_flip(differences)
    if p > LEVEL:
        return Judgement(None, f"not told apart: {what}, p = {p:.2g}{_reach(differences.size)}", True)
    return Judgement(bool(differences.mean() > 0), f"{what}, p = {p:.2g}")


def _reach(n: int) -> str:
    """What so few pairs can reach, where it is not enough."""
    least = 2.0 ** (1 - n)
    return f" ({n} pairs reach {least:.2g} at best)" if least > LEVEL else ""


def _one_run(agrees: bool, what: str) -> Judgement:
    return Judgement(None, f"one run {'agrees' if agrees else 'does not agree'} ({what}): n = 1 decides nothing", True)
