"""How many users a test needs to see a difference, and how many days that takes."""

import math

from scipy.stats import norm

from twotower.core.errors import UserError
from twotower.lifecycle.group_sequential import daily_effect

POWER, LEVEL = 0.8, 0.95


def users_needed(
    deviation: float,
    difference: float,
    share: float = 0.5,
    explained: float = 0.0,
    daily: bool = False,
    power: float = POWER,
    level: float = LEVEL,
) -> int:
    """Return the users of both buckets together after which the difference is seen with probability `power`.

    For one look the usual formula, (z_level + z_power)^2 * variance / difference^2. For a look each day: where an
    interval leaves out 0 at one of the looks until then with probability `power`; often that is long before.

    >>> users_needed(deviation=1.0, difference=0.1)  # 2 * 1,570
    3140

    Args:
        deviation: of the outcome between users, in a bucket; of a rate p it is sqrt(p * (1 - p)).
        difference: between the buckets' means, in the outcome's unit.
        share: of the users that the treatment gets.
        explained: share of the variance that CUPED takes off: the squared correlation with the figure from before.
        daily: for a look each day; see group_sequential.
        power: probability to see the difference if it is there.
        level: of the interval, two-sided.

    Raises:
        UserError: a number outside its range.
    """
    ranges = {"share": share, "power": power, "level": level}
    wrong = [
        f"{name} is {value:g}; expected a number between 0 and 1" for name, value in ranges.items() if not 0 < value < 1
    ]
    if not (deviation > 0 and difference != 0 and math.isfinite(deviation / difference)):
        wrong.append(f"deviation is {deviation:g} and difference {difference:g}; expected numbers above 0")
    if not 0 <= explained < 1:
        wrong.append(f"explained is {explained:g}; expected a share from 0 to below 1")
    if wrong:
        raise UserError(wrong[0])
    per_user = deviation * math.sqrt((1 - explained) * (1 / share + 1 / (1 - share)))  # standard error * sqrt(users)
    effect = daily_effect(power, level) if daily else float(norm.ppf((1 + level) / 2) + norm.ppf(power))
    return math.ceil((effect * per_user / difference) ** 2)


def days_needed(users: int, users_per_day: float) -> int:
    """Return the days until so many users have come, if each day brings as many new ones.

    Whole weeks are better: weekends differ.

    >>> days_needed(10_000, users_per_day=900)
    12
    """
    if not users_per_day > 0:
        raise UserError(f"users per day is {users_per_day:g}; expected a number above 0")
    return math.ceil(users / users_per_day)
