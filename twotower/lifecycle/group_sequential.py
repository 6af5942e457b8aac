"""Intervals for one look, and for whoever looks each day until a planned number of users and ends at a difference.

O'Brien & Fleming's boundary (1979): an estimate in proportion to its share of the planned users is a Brownian motion,
and one constant bounds it at all looks. The boundary is far off early and costs 6 % more users than one look. Looked at
all the time, the constant follows from reflection, P(max |B| > c) = 4 P(B > c); from one day to the next the path
oversteps it by OVERSTEP / sqrt(days) on average (Siegmund 1985), which is taken off.
"""

import math

from scipy.optimize import brentq
from scipy.stats import norm

OVERSTEP = 0.5826  # -zeta(1/2) / sqrt(2 pi)


def fixed_half_width(standard_error: float, level: float = 0.95) -> float:
    """Return the half width of the normal interval for one look.

    >>> round(fixed_half_width(0.01), 4)
    0.0196
    """
    return float(norm.ppf((1 + level) / 2)) * standard_error


def daily_half_width(standard_error: float, share: float, days: float, level: float = 0.95) -> float:
    """Return the half width of the interval of a mean, or of a difference of means, for a look each day.

    >>> [round(daily_half_width(1.0, share, days=28), 2) for share in (0.25, 0.5, 1.0)]  # 1.96 for one look
    [4.26, 3.01, 2.13]

    Args:
        standard_error: of the estimate now.
        share: of the planned users that are there, up to 1. Their number is fixed before the first look: chosen
            afterwards the interval would not be safe any more.
        days: of the whole test. Ten looks on a day do harm only in a test of few days.
        level: probability that no interval until then misses the truth.
    """
    constant = float(norm.isf((1 - level) / 4)) - OVERSTEP / math.sqrt(days)
    return max(constant, float(norm.isf((1 - level) / 2))) / math.sqrt(share) * standard_error


def daily_effect(power: float, level: float = 0.95) -> float:
    """Return the effect that daily looks see with probability `power`, in standard errors at the planned number.

    >>> round(daily_effect(0.8), 2)  # 2.80 for one look
    2.88
    """
    constant = float(norm.isf((1 - level) / 4))  # a path with a drift comes over it by reflection, too

    def missing(effect: float) -> float:
        reflected = math.exp(2 * constant * effect + float(norm.logcdf(-constant - effect)))
        return float(norm.cdf(effect - constant)) + reflected - power

    return float(brentq(missing, -40, 40))
