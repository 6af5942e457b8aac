"""Files of events become histories; the oracle is plain lists, and Retriever.encode."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shop_events import Shop, by_user, make_events, make_shop, write_events

from twotower.core.errors import UserError
from twotower.segments import user_histories
from twotower.segments.events_file import read_events
from twotower.segments.user_histories import Histories, encode, known_events, parts
from twotower.serving.retriever import Retriever


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory)


@pytest.fixture(scope="module")
def retriever(shop: Shop) -> Retriever:
    return Retriever.load(shop.path)


def items_of(histories: Histories, ids: list[Any]) -> dict[Any, list[Any]]:
    """Each history's items, None where the bundle does not have it."""
    bounds = histories.offsets.tolist()
    return {
        user: [ids[i - 1] if i else None for i in histories.item_index[start:stop].tolist()]
        for user, start, stop in zip(histories.ids.to_pylist(), bounds, bounds[1:], strict=False)
    }


def test_histories_and_vectors_are_those_that_serving_has(
    shop: Shop, retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_histories, "EVENTS", 20)
    events = make_events(shop.ids, [f"ü{i} ☂" for i in range(25)], unknown="nowhere")
    events += [e._replace(user_id="stranger", item_id="nowhere") for e in events[:2]]
    expected = by_user(events)
    histories = read_events(retriever.bundle, write_events(tmp_path / "events.parquet", events))
    assert (histories.id_name, histories.whose, histories.unusable) == ("user_id", "users", 0)
    known = set(shop.ids)
    assert items_of(histories, shop.ids) == {
        user: [e.item_id if e.item_id in known else None for e in mine] for user, mine in expected.items()
    }
    assert [histories.event_types[code] for code in histories.event_type] == [
        e.event_type for user in histories.ids.to_pylist() for e in expected[user]
    ]
    pieces = list(parts(histories, "test"))
    assert len(pieces) > 3 and [start for start, _ in pieces[1:]] == [stop for _, stop in pieces[:-1]]
    vectors = np.concatenate([encode(retriever.bundle, histories, *piece).vectors for piece in pieces])
    served = retriever.encode([[e.item_id for e in expected[user]] for user in histories.ids.to_pylist()])
    np.testing.assert_allclose(vectors, served, atol=1e-6)
    assert np.isnan(vectors[histories.ids.to_pylist().index("stranger")]).all()
    found, types = known_events(histories, *pieces[1])
    lists = [[e for e in expected[u] if e.item_id in known] for u in histories.ids.to_pylist()[slice(*pieces[1])]]
    assert found.length.tolist() == [len(mine) for mine in lists]
    assert [shop.ids[i - 1] for i in found.item_index] == [e.item_id for mine in lists for e in mine]
    assert [histories.event_types[t] for t in types] == [e.event_type for mine in lists for e in mine]


def test_equal_times_keep_their_order_and_units_their_meaning(retriever: Retriever, tmp_path: Path) -> None:
    ids = retriever.bundle.item_ids.to_pylist()
    seconds = [5, 1, 5, 5, 0]
    order = [4, 1, 0, 2, 3]
    zoned = [datetime.fromtimestamp(s, UTC) for s in seconds]
    for times, unit in (
        (pa.array(seconds), "s"),
        (pa.array([float(s) for s in seconds]), "s"),
        (pa.array([s * 1000 for s in seconds]), "ms"),
        (pa.array([s * 10**9 for s in seconds]), "ns"),
        (pa.array(zoned, pa.timestamp("us", "UTC")), "date"),
        (pa.array(seconds), "ordinal"),
    ):
        table = pa.table({"item_id": ids[:5], "user_id": [7] * 5, "timestamp": times})
        pq.write_table(table, tmp_path / "events.parquet")
        histories = read_events(retriever.bundle, tmp_path / "events.parquet", unit=unit)
        assert items_of(histories, ids) == {7: [ids[i] for i in order]}
        assert histories.event_types == []


def test_rows_without_id_item_time_or_consent_are_left_out_and_counted(retriever: Retriever, tmp_path: Path) -> None:
    a, b, *_ = retriever.bundle.item_ids.to_pylist()
    rows = [
        ("ann", a, 1, "Yes "),
        ("ann", b, 2, "no"),
        ("ann", b, 3, None),
        (None, a, 4, "yes"),
        ("", a, 4, "yes"),
        ("bob", None, 5, "true"),
        ("bob", a, None, "true"),
        ("bob", b, 6, "1"),
    ]
    names = ["customer", "sku", "at", "agreed"]
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    table = table.set_column(0, "customer", table["customer"].dictionary_encode())
    pq.write_table(table, tmp_path / "events.parquet", row_group_size=3)
    columns = {"user_id": "customer", "item_id": "sku", "timestamp": "at", "consent": "agreed", "event_type": None}
    histories = read_events(retriever.bundle, tmp_path / "events.parquet", columns)
    assert items_of(histories, retriever.bundle.item_ids.to_pylist()) == {"ann": [a], "bob": [b]}
    assert histories.unusable == 6
    with pytest.raises(UserError, match=r"no column 'agred'.*did you mean 'agreed'"):
        read_events(retriever.bundle, tmp_path / "events.parquet", {**columns, "consent": "agred"})


def test_without_users_each_history_is_a_session(retriever: Retriever, tmp_path: Path) -> None:
    a, b, *_ = retriever.bundle.item_ids.to_pylist()
    table = pa.table({"item_id": [a, b, b], "session_id": [2.0, 1.0, 2.0], "timestamp": [1, 2, 3]})
    (tmp_path / "day=1").mkdir()
    pq.write_table(table, tmp_path / "day=1" / "events.parquet")
    histories = read_events(retriever.bundle, tmp_path)
    assert (histories.id_name, histories.whose) == ("session_id", "sessions")
    assert items_of(histories, retriever.bundle.item_ids.to_pylist()) == {"2": [a, b], "1": [b]}


def test_numbers_in_the_file_are_texts_of_the_catalogue_and_the_other_way_round(
    retriever: Retriever, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    numbers = Retriever.load(make_shop(tmp_path_factory, int, features=False).path).bundle
    for bundle, item in ((numbers, "121"), (numbers, 121), (retriever.bundle, 121), (retriever.bundle, 121.0)):
        table = pa.table({"item_id": [item], "user_id": [1], "timestamp": [1]})
        pq.write_table(table, tmp_path / "events.parquet")
        assert read_events(bundle, tmp_path / "events.parquet").item_index.tolist() == [4]
    pq.write_table(table.set_column(0, "item_id", pa.array(["sku"])), tmp_path / "events.parquet")
    assert read_events(numbers, tmp_path / "events.parquet").item_index.tolist() == [0]


def test_what_can_not_be_read_is_refused_in_plain_words(retriever: Retriever, tmp_path: Path) -> None:
    file = tmp_path / "events.parquet"
    with pytest.raises(UserError, match=f"events={file}"):
        read_events(retriever.bundle, file)
    file.write_text("item_id,user_id\n")
    with pytest.raises(UserError, match="can't be read"):
        read_events(retriever.bundle, file)
    for table, message in (
        ({"item_id": ["a"], "timestamp": [1]}, r"user_id or session_id \(it has: item_id, timestamp"),
        ({"user_id": ["a"], "timestamp": [1]}, "no column 'item_id'"),
        ({"user_id": ["a"], "item_id": ["a"], "timestamp": ["today"]}, "1 no readable timestamp"),
        ({"user_id": [None], "item_id": ["a"], "timestamp": [1]}, "1 no user_id"),
        ({"user_id": pa.array([], pa.string()), "item_id": [], "timestamp": []}, "no rows at all"),
    ):
        pq.write_table(pa.table(table), file)
        with pytest.raises(UserError, match=message):
            read_events(retriever.bundle, file)
