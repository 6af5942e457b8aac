"""Interleaving: one list of two rankings' items, in which clicks vote for the ranking that brought the item.

Team draft (Radlinski et al. 2008): in each round a coin decides which ranking picks first, then each picks its best
item that is not in the list yet. Both get half of the places, at equally good places, so a shop learns which of two
models its visitors prefer from far fewer of them than an A/B test needs; not by how much revenue differs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twotower.serving.answers import Recommendations
from twotower.serving.catalogue import ItemId


class Drafted(NamedTuple):
    """An interleaved list of one request."""

    result: Recommendations  # of one query, without scores
    teams: list[int]  # [k] 0: the first ranking picked the item, 1: the second


def team_draft(
    first: Sequence[ItemId], second: Sequence[ItemId], k: int, random: np.random.Generator | None = None
) -> Drafted:
    """Interleave two rankings of one request, best first, into a list of k.

    >>> drafted = team_draft(["a", "b", "c"], ["b", "d"], k=3, random=np.random.default_rng(0))
    >>> drafted.result.ids, drafted.teams
    ([['a', 'b', 'c']], [0, 1, 0])
    """
    random = random or np.random.default_rng()
    rankings, chosen, teams = (first, second), dict[ItemId, None](), list[int]()
    position = [0, 0]
    while len(chosen) < k:
        before = len(chosen)
        for team in random.permutation(2).tolist():
            ranking = rankings[team]
            while position[team] < len(ranking) and ranking[position[team]] in chosen:
                position[team] += 1
            if position[team] < len(ranking) and len(chosen) < k:
                chosen[ranking[position[team]]] = None
                teams.append(team)
        if len(chosen) == before:
            break
    return Drafted(Recommendations([list(chosen)], np.full((1, len(chosen)), np.nan, dtype=np.float32)), teams)
