"""Team drafts: both teams get half of the places, and each its best items first."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from twotower.serving.team_draft import team_draft

RANKING = st.lists(st.integers(0, 12), unique=True, max_size=12)


@given(RANKING, RANKING, st.integers(0, 15), st.integers(0, 99))
def test_a_draft_has_each_teams_best_in_order(first: list[int], second: list[int], k: int, seed: int) -> None:
    result, teams = team_draft(first, second, k, np.random.default_rng(seed))
    (ids,) = result.ids
    assert len(ids) == len(set(ids)) == len(teams) == min(k, len({*first, *second}))
    for place, (item, team) in enumerate(zip(ids, teams, strict=True)):
        left = [other for other in (first, second)[team] if other not in ids[:place]]
        assert item == left[0]
    for place in range(0, 2 * (min(len(first), len(second), len(ids)) // 2), 2):
        if len({*first[: place + 2], *second[: place + 2]}) == 2 * place + 4:  # both still have items of their own
            assert sorted(teams[place : place + 2]) == [0, 1]


def test_teams_are_at_equally_good_places() -> None:
    random = np.random.default_rng(0)
    teams = np.array([team_draft(range(10), range(100, 110), 10, random).teams for _ in range(2000)])
    assert (np.abs(teams.mean(axis=0) - 0.5) < 4.5 * 0.5 / np.sqrt(2000)).all()
    assert (teams.sum(axis=1) == 5).all()


def test_the_same_ranking_twice_is_itself() -> None:
    assert team_draft("abc", "abc", 3).result.ids == [["a", "b", "c"]]
    assert team_draft([], [], 3).result.ids == [[]]
