"""Intervals that hold at all times at once: whoever looks each day and stops when he likes is wrong as rarely as said.

Asymptotic confidence sequences (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2021, theorem 2.2): a mixture of normal
likelihood ratios over all effects, as in the mixture sequential test of Johari et al. 2017. At the number of users that
was planned they are narrowest, in proportion, and 1.55 times as wide as an interval for one look.
"""

import math

from scipy.stats import norm


def sequential_half_width(standard_error: float, users: int, planned: int, level: float = 0.95) -> float:
    """Return the half width of the interval of a mean, or of a difference of means.

    >>> round(sequential_half_width(0.01, users=10_000, planned=10_000) / 0.01, 2)  # 1.96 for one look
    3.04

    Args:
        standard_error: of the estimate now.
        users: independent units behind it.
        planned: the number of users that the interval is made narrowest for. Fixed before the first look: chosen
            afterwards it would be no safe interval any more.
        level: probability that no interval at any time misses the truth.
    """
    alpha = 1 - level
    rho = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / planned  # squared; their appendix B.2
    return standard_error * math.sqrt(
        2 * (users * rho + 1) / (users * rho) * math.log(math.sqrt(users * rho + 1) / alpha)
    )


def fixed_half_width(standard_error: float, level: float = 0.95) -> float:
    """Return the half width of the normal interval for one look.

    >>> round(fixed_half_width(0.01), 4)
    0.0196
    """
    return float(norm.ppf((1 + level) / 2)) * standard_error
