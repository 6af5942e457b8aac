"""Segments against counting by hand: the nearest centroid, sizes, and the profile of each."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shop_events import Event, Shop, by_user, contents, make_events, make_shop, write_events

from twotower.core.errors import UserError
from twotower.segments import user_histories
from twotower.segments.clusters import centroids_of, large_clusters
from twotower.segments.events_file import read_events
from twotower.segments.profiles import ProfileValue, SegmentCounts
from twotower.segments.segments import SegmentsReport, write_segments
from twotower.segments.user_histories import HistorySource
from twotower.serving.histories import KnownEvents
from twotower.serving.item_columns import category_column
from twotower.serving.retriever import Retriever

USERS = [f"user-{i}" for i in range(120)]


@pytest.fixture(scope="module", params=["cosine", pytest.param("dot", marks=pytest.mark.slow)])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory, normalize=request.param == "cosine")


@pytest.fixture(scope="module")
def plain_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory, int, features=False)


def source_of(tmp_path: Path, events: list[Event]) -> HistorySource:
    return partial(read_events, path=write_events(tmp_path / "events.parquet", events))


def naive_distance(a: Any, b: Any, cosine: bool) -> float:
    return 1 - float(np.dot(a, b)) if cosine else float(np.linalg.norm(a.astype(float) - b))


def members_of(report: SegmentsReport, name: str = "user_id") -> dict[Any, tuple[int, float]]:
    rows = pq.read_table(report.path / "members.parquet").to_pylist()
    assert list(rows[0]) == [name, "segment", "distance"]
    return {row[name]: (row["segment"], row["distance"]) for row in rows}


def share(users: list[Any], has: Any) -> float:
    return sum(map(has, users)) / len(users)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_table_says_what_counting_by_hand_says(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_histories, "EVENTS", 50)  # several parts
    events = make_events(shop.ids, USERS, unknown="nowhere")
    events[1:1] = [Event(f"stranger {i}", "nowhere", "view", 1) for i in range(9)]  # among those who are known
    before = contents(shop.path)
    floor = 8
    report = write_segments(shop.path, source_of(tmp_path, events), tmp_path / "segments", 4, floor, seed=1)
    assert contents(shop.path) == before
    assert sorted(contents(report.path)) == ["centroids.npy", "index.html", "members.parquet", "segments.parquet"]

    retriever = Retriever.load(shop.path)
    cosine = retriever.bundle.manifest["similarity"] == "cosine"
    known = set(shop.ids)
    lists = {user: [e for e in mine if e.item_id in known] for user, mine in by_user(events).items()}
    lists = {user: mine for user, mine in lists.items() if mine}
    members = members_of(report)
    assert members.keys() == lists.keys() and report.unknown == len(by_user(events)) - len(lists) > 0
    centroids = np.load(report.path / "centroids.npy")
    vectors = dict(zip(lists, retriever.encode([[e.item_id for e in mine] for mine in lists.values()]), strict=True))
    for user, (segment, distance) in members.items():
        away = [naive_distance(vectors[user], centroid, cosine) for centroid in centroids]
        assert away[segment - 1] == pytest.approx(min(away), abs=1e-5) == pytest.approx(distance, abs=1e-5)

    table = pq.read_table(report.path / "segments.parquet").to_pylist()
    sizes = [row["size"] for row in table]
    assert len(table) == len(centroids) == len(report.segments) > 1
    assert sizes == sorted(sizes, reverse=True) and min(sizes) >= floor and sum(sizes) == len(lists)
    row_of = {item: row for row, item in enumerate(shop.ids)}

    def values(user: str, feature: str) -> set[str]:
        found: set[str] = set()
        for event in lists[user]:
            value = shop.raw[feature][row_of[event.item_id]]
            found |= set() if value is None else {value} if isinstance(value, str) else set(value)
        return found

    def prices(user: str, feature: str) -> list[float]:
        numbers = [shop.raw[feature][row_of[event.item_id]] for event in lists[user]]
        return [number for number in numbers if number is not None]

    everybody = list(lists)
    for number, row in enumerate(table, start=1):
        mine = [user for user, (segment, _) in members.items() if segment == number]
        assert (row["segment"], row["size"]) == (number, len(mine))
        assert row["share"] == pytest.approx(len(mine) / len(everybody))
        expected = []
        for feature in ("brand", "tags"):
            ranked = []
            for value in {v for user in mine for v in values(user, feature)}:
                here = share(mine, lambda user, v=value, f=feature: v in values(user, f))
                of_all = share(everybody, lambda user, v=value, f=feature: v in values(user, f))
                if here > of_all and here * len(mine) >= floor - 1e-9:
                    ranked.append((here * np.log(here / of_all), feature, value, here, of_all, here / of_all))
            expected += [rest for _, *rest in sorted(ranked, reverse=True)[:5]]
        profile = [list(value.values()) for value in row["profile"]]
        assert [value[:2] for value in profile] == [value[:2] for value in expected]
        np.testing.assert_allclose([m[2:] for m in profile], [m[2:] for m in expected])
        mix = {entry["event_type"]: (entry["share"], entry["share_of_all"]) for entry in row["event_mix"]}
        assert mix.keys() == {"view", "cart", "purchase"}
        for name, found in mix.items():
            of_type = {u: mean([e.event_type == name for e in events_]) for u, events_ in lists.items()}
            assert found == pytest.approx((mean([of_type[u] for u in mine]), mean(list(of_type.values()))))
        means = {entry["name"]: (entry["mean"], entry["mean_of_all"]) for entry in row["means"]}
        assert means.keys() == {"events", "price", "weight"}
        length = {user: float(len(events_)) for user, events_ in lists.items()}
        assert means["events"] == pytest.approx((mean([length[u] for u in mine]), mean(list(length.values()))))
        for feature in ("price", "weight"):
            of_user = {user: mean(prices(user, feature)) for user in lists if prices(user, feature)}
            expected_mean = mean([of_user[u] for u in mine if u in of_user]), mean(list(of_user.values()))
            assert means[feature] == pytest.approx(expected_mean)
        scores = retriever.bundle.vectors @ centroids[number - 1]
        best = np.argsort(-scores)[:5]
        assert [near["item_id"] for near in row["items"]] == [shop.ids[i] for i in best]
        assert [near["item_name"] for near in row["items"]] == [shop.raw["title"][i] for i in best]
        np.testing.assert_allclose([near["score"] for near in row["items"]], scores[best], rtol=1e-5)

    text = str(report)
    assert f"{len(table)} segments of {len(lists)} users" in text and "are in none" in text
    page = (report.path / "index.html").read_text(encoding="utf-8")
    assert "<svg" in page and "user-" not in page and "<script" not in page


def test_a_frequent_value_comes_before_a_rare_one_of_a_little_more_lift() -> None:
    values = ["frequent", "rare"]
    groups = category_column(pa.chunked_array([[None, *values]]))  # item_index 1 has neither
    of_segments = [[2] * 9 + [3], [2] + [1] * 9]  # item_index of each member's one event
    item_index = np.array([item for members in of_segments for item in members])
    counts = SegmentCounts(2, 0, {"brand": groups}, {})
    known = KnownEvents(item_index, np.zeros((20, 0), dtype=np.int64), np.ones(20, dtype=np.int64))
    counts.add(known, np.zeros(20, dtype=np.uint8), np.repeat([0, 1], 10))
    first, second = counts.profiles(1)
    assert first == [ProfileValue("brand", "frequent", 0.9, 0.5, 1.8), ProfileValue("brand", "rare", 0.1, 0.05, 2.0)]
    assert second == []
    assert [value.value for value in counts.profiles(2)[0]] == ["frequent"]


def test_same_seed_gives_the_same_files(shop: Shop, tmp_path: Path) -> None:
    source = source_of(tmp_path, make_events(shop.ids, USERS))
    first, second = (write_segments(shop.path, source, tmp_path / name, 5, 3, seed=7).path for name in "ab")
    assert contents(first) == contents(second)


def test_segments_below_the_floor_go_to_the_nearest_that_is_left(shop: Shop, tmp_path: Path) -> None:
    source = source_of(tmp_path, make_events(shop.ids, USERS))
    report = write_segments(shop.path, source, tmp_path / "segments", 20, 25)
    sizes = [segment.size for segment in report.segments]
    assert 1 <= len(sizes) <= 4 and min(sizes) >= 25 and sum(sizes) == len(USERS)
    assert "fewer than the 20 asked for" in str(report) and "min_size=25" in str(report)
    assert all(value.share * segment.size >= 25 - 1e-9 for segment in report.segments for value in segment.profile)


@pytest.mark.parametrize("cosine", [True, False])
def test_given_up_clusters_are_the_smallest_one_after_the_other(cosine: bool) -> None:
    random = np.random.default_rng(3)
    vectors = random.normal(size=(200, 5)).astype(np.float32)
    centroids = random.normal(size=(12, 5)).astype(np.float32)
    if cosine:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    left = list(range(12))
    while True:
        place = [min(left, key=lambda c, v=v: naive_distance(v, centroids[c], cosine)) for v in vectors]
        size = {c: place.count(c) for c in left}
        smallest = min(left, key=lambda c: size[c])
        if size[smallest] >= 20:
            break
        left.remove(smallest)
    order = sorted(left, key=lambda c: -size[c])
    kept, segment, distance = large_clusters(vectors, centroids, cosine, 20)
    assert 1 < len(order) < 12
    np.testing.assert_array_equal(kept, centroids[order])
    assert segment.tolist() == [order.index(c) for c in place]
    expected = [naive_distance(v, centroids[c], cosine) for v, c in zip(vectors, place, strict=True)]
    np.testing.assert_allclose(distance, expected, atol=1e-5)


@pytest.mark.parametrize("cosine", [True, False])
def test_k_means_finds_groups_that_lie_apart(cosine: bool) -> None:
    random = np.random.default_rng(0)
    centres = np.eye(4, 6, dtype=np.float32) * 3
    group = random.integers(0, 4, 300)
    vectors = centres[group] + random.normal(scale=0.1, size=(300, 6)).astype(np.float32)
    if cosine:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = centroids_of(vectors, 4, cosine, 0)
    _, place, _ = large_clusters(vectors, found, cosine, 1)
    assert len({*zip(group.tolist(), place.tolist(), strict=True)}) == 4
    if cosine:
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    else:
        means = np.stack([vectors[group == g].mean(axis=0) for g in range(4)])
        away = np.linalg.norm(found[:, None] - means, axis=2)
        assert sorted(away.argmin(axis=0)) == [0, 1, 2, 3] and away.min(axis=0).max() < 1e-3


def test_users_that_nothing_tells_apart_are_one_segment(shop: Shop, tmp_path: Path) -> None:
    events = [Event(user, shop.ids[3], "view", 1) for user in range(60)]
    report = write_segments(shop.path, source_of(tmp_path, events), tmp_path / "segments", 8)
    assert [segment.size for segment in report.segments] == [60]
    assert report.segments[0].profile == report.segments[0].event_mix == []  # nobody differs; one event type
    assert "1 segment of 60 users" in str(report) and "fewer than the 8 asked for" in str(report)


def test_fewer_users_than_segments(shop: Shop, tmp_path: Path) -> None:
    events = [Event(user, shop.ids[user], "view", 1) for user in range(3)]
    report = write_segments(shop.path, source_of(tmp_path, events), tmp_path / "segments", 8, 1)
    assert [segment.size for segment in report.segments] == [1, 1, 1]


def test_bundle_without_item_features(plain_shop: Shop, tmp_path: Path) -> None:
    events = [event._replace(event_type="view") for event in make_events(plain_shop.ids, range(60))]
    report = write_segments(plain_shop.path, source_of(tmp_path, events), tmp_path / "segments", 3, 5)
    assert members_of(report).keys() == set(range(60))
    for row in pq.read_table(report.path / "segments.parquet").to_pylist():
        assert row["profile"] == row["event_mix"] == []
        assert [entry["name"] for entry in row["means"]] == ["events"]
        assert all(isinstance(near["item_id"], int) and near["item_name"] is None for near in row["items"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_size": 121}, "120 of 120 users have an item of the bundle, fewer than segments.min_size=121"),
        ({"number": 0}, "segments.number=0; expected a positive integer"),
        ({"number": 2.5}, "segments.number=2.5"),
        ({"min_size": 0}, "segments.min_size=0"),
    ],
)
def test_what_can_not_be_is_refused_and_leaves_nothing(
    shop: Shop, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    source = source_of(tmp_path, make_events(shop.ids, USERS))
    with pytest.raises(UserError, match=message):
        write_segments(shop.path, source, tmp_path / "segments", **{"number": 3, **settings})
    assert [file.name for file in tmp_path.iterdir()] == ["events.parquet"]


def test_nobody_known_and_a_folder_that_exists_are_refused(shop: Shop, tmp_path: Path) -> None:
    source = source_of(tmp_path, [Event("a", "nowhere", "view", 1)])
    with pytest.raises(UserError, match="0 of 1 users"):
        write_segments(shop.path, source, tmp_path / "segments", 3)
    (tmp_path / "segments").mkdir()
    with pytest.raises(UserError, match="exists already"):
        write_segments(shop.path, source, tmp_path / "segments", 3)
