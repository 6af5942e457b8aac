"""Audiences against sorting all users by their score, and against Retriever.audience."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from shop_events import Event, Shop, by_user, contents, make_events, make_shop, write_events

from twotower.core.errors import UserError
from twotower.segments import user_histories
from twotower.segments.audiences import AudienceReport, write_audience
from twotower.segments.events_file import read_events
from twotower.segments.user_histories import HistorySource
from twotower.serving.retriever import Retriever

USERS = [f"käufer {i}" for i in range(80)]


@pytest.fixture(scope="module", params=["cosine", pytest.param("dot", marks=pytest.mark.slow)])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory, normalize=request.param == "cosine")


def source_of(tmp_path: Path, events: list[Event]) -> HistorySource:
    return partial(read_events, path=write_events(tmp_path / "events.parquet", events))


def rows_of(report: AudienceReport) -> dict[Any, list[tuple[Any, float]]]:
    """Users and scores by item, in the order of the ranks."""
    found: dict[Any, list[tuple[Any, float]]] = {}
    for row in pq.read_table(report.path).to_pylist():
        assert list(row) == ["item_id", "rank", "user_id", "score"]
        found.setdefault(row["item_id"], []).append((row["user_id"], row["score"]))
        assert row["rank"] == len(found[row["item_id"]])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("k", [7, 1000])
def test_audience_is_the_top_of_all_users_sorted_by_score(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    monkeypatch.setattr(user_histories, "HISTORIES", 9)  # many parts
    events = make_events(shop.ids, USERS, unknown="nowhere")
    events += [Event("twin", e.item_id, "view", e.timestamp) for e in by_user(events)[USERS[0]]]  # an equal score
    events += [Event("stranger", "nowhere", "view", 1)]
    before = contents(shop.path)
    items = [shop.ids[4], "no such item", shop.ids[0], shop.ids[4]]
    report = write_audience(shop.path, items, source_of(tmp_path, events), tmp_path / "audience.parquet", k, 5)
    assert contents(shop.path) == before

    lists = by_user(events)
    retriever = Retriever.load(shop.path)
    vectors = retriever.encode([[e.item_id for e in mine] for mine in lists.values()])
    served = retriever.audience([shop.ids[4], shop.ids[0]], [[e.item_id for e in m] for m in lists.values()], k)
    found = rows_of(report)
    assert list(found) == [shop.ids[4], shop.ids[0]] == report.items
    for item, positions in zip(found, served.histories, strict=True):
        scores = vectors @ retriever.bundle.vectors[shop.ids.index(item)]
        ranked = sorted((i for i in range(len(lists)) if not np.isnan(scores[i])), key=lambda i: -round(scores[i], 5))
        assert [user for user, _ in found[item]] == [[*lists][i] for i in ranked[:k]]
        np.testing.assert_allclose([score for _, score in found[item]], scores[ranked[:k]], atol=1e-5)
        assert {[*lists][i] for i in positions} == {user for user, _ in found[item]}
    assert report.missing == ["no such item"] and report.size == min(k, len(lists) - report.unknown)
    assert report.unknown == int(np.isnan(vectors[:, 0]).sum()) > 0
    assert "no audience for no such item" in str(report) and f"{report.size:,} users each" in str(report)


@pytest.mark.slow
def test_ids_of_a_command_line_are_taken_in_the_type_of_the_catalogue(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for kind in (int, str):
        shop = make_shop(tmp_path_factory, kind, features=kind is str)
        source = source_of(tmp_path, make_events(shop.ids, range(10)))
        items = [str(shop.ids[1]), int(shop.ids[2])]
        report = write_audience(shop.path, items, source, tmp_path / f"{kind.__name__}.parquet", 5, 5)
        assert report.items == [shop.ids[1], shop.ids[2]]
        if kind is int:
            with pytest.raises(UserError, match="numbers for ids, like 100"):
                write_audience(shop.path, ["sku"], source, tmp_path / "audience.parquet")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_size": 81}, "80 of 80 users have an item of the bundle, fewer than audience.min_size=81"),
        ({"k": 10}, "audience.k=10 is below audience.min_size=50"),
        ({"k": 0}, "audience.k=0; expected a positive integer"),
        ({"min_size": -1}, "audience.min_size=-1"),
        ({"items": ["nowhere"]}, "none of the items nowhere; it has ids like '100'"),
        ({"items": []}, "none of the items .none are given."),
    ],
)
def test_what_can_not_be_is_refused_and_leaves_nothing(
    shop: Shop, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    source = source_of(tmp_path, make_events(shop.ids, USERS))
    with pytest.raises(UserError, match=message):
        write_audience(
            shop.path, **{"items": shop.ids[:2], "source": source, "out": tmp_path / "a.parquet", **settings}
        )
    assert [file.name for file in tmp_path.iterdir()] == ["events.parquet"]


def test_a_file_that_exists_is_refused(shop: Shop, tmp_path: Path) -> None:
    source = source_of(tmp_path, make_events(shop.ids, USERS))
    out = tmp_path / "audience.parquet"
    write_audience(shop.path, shop.ids[:1], source, out)
    before = out.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        write_audience(shop.path, shop.ids[1:2], source, out)
    assert out.read_bytes() == before
