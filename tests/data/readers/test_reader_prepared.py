"""Every reader's data set goes through the whole preparation, features and all, and nothing of it is lost unseen."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captured import write

from twotower.core.schema import Prepared, read_item_features
from twotower.data.preparation import splits
from twotower.data.preparation.prepare import Preparation
from twotower.data.readers import amazon, diginetica, events, movielens, otto, rees46, retailrocket, yoochoose

SESSIONS, LENGTH, DAY = 60, 4, 86_400_000
START = 1_577_836_800_000  # 2020-01-01, milliseconds


def item(session: int, position: int) -> int:
    """Item ids from 100 to 109."""
    return 100 + (session + position) % 10


ROWS = [(s, item(s, p), START + s * DAY + p * 60_000) for s in range(SESSIONS) for p in range(LENGTH)]
TEMPORAL = partial(splits.temporal, test_fraction=0.2, validation_fraction=0.2)


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Prepared]:
    """Read what lies in tmp_path and prepare it; all rows must be in the manifest."""

    def run(read: Callable[..., Prepared], rows: int = len(ROWS), split: Any = TEMPORAL, **settings: Any) -> Prepared:
        features = {"items": settings.pop("items_", {}), "events": settings.pop("events_", {})}
        prepare = Preparation(
            session_gap_minutes=30,
            time_zone="UTC",
            bounce=None,
            features=features,
            min_users_per_item=1,
            until=None,
            erase=None,
            memory_gib=2,
            split=split,
            prepared_root=str(tmp_path / "prepared"),
        )
        result = read(path=str(settings.pop("path", tmp_path)), prepare=prepare, **settings)
        counts = result.manifest["rows"]
        assert counts["read"] == rows == counts["kept"] + sum(counts["dropped"].values())
        assert result.num_items == 10
        assert len(result.offsets) - 1 == SESSIONS
        assert set(features["items"]) == set(result.manifest["item_features"])
        assert set(features["events"]) <= set(result.inputs)
        for name in features["events"]:
            assert np.unique(result.inputs[name]).size > 1
        return result

    return run


def bag_sizes(prepared: Prepared, name: str) -> list[int]:
    """How many codes each item has."""
    return np.diff(read_item_features(prepared.path)[f"{name}.offsets"]).tolist()


def test_events(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    for month in (1, 2, 3):
        lines = [f"{s},sku{i},{t},{'app' if s % 3 else 'web'}" for s, i, t in ROWS if s * 3 // SESSIONS == month - 1]
        text = "\n".join(["user,sku,time,device", *lines, ""])
        write(tmp_path / "log" / f"month={month}" / "part-0.csv.gz", text)
    write(tmp_path / "items.csv", "sku,brand\n" + "".join(f"sku{i},b{i % 3}\n" for i in range(100, 110)))
    result = prepared(
        events.read,
        path=tmp_path / "log",
        columns={"item_id": "sku", "user_id": "user", "timestamp": "time"},
        timestamp_unit="auto",
        items=str(tmp_path / "items.csv"),
        users=None,
        items_={"brand": {"kind": "categorical"}},
        events_={"device": {"kind": "categorical"}},
    )
    assert result.manifest["timestamp_unit"] == "ms"


def test_otto(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    sessions: dict[int, list[dict[str, Any]]] = {}
    for s, i, t in ROWS:
        sessions.setdefault(s, []).append({"aid": i, "ts": t, "type": "carts" if i % 5 == 0 else "clicks"})
    test = range(SESSIONS - 10, SESSIONS)
    lines = {s: json.dumps({"session": s, "events": e[: 2 if s in test else None]}) for s, e in sessions.items()}
    write(tmp_path / "train.jsonl", "\n".join(lines[s] for s in sessions if s not in test))
    write(tmp_path / "test.jsonl", "\n".join(lines[s] for s in test))
    labels = [{"session": s, "labels": {"clicks": item(s, 2), "orders": [item(s, 3)]}} for s in test]
    write(tmp_path / "test_labels.jsonl", "\n".join(map(json.dumps, labels)))
    result = prepared(otto.read, split=partial(splits.predefined, validation_fraction=0.2))
    assert result.event_types == ["carts", "clicks", "orders"]
    assert result.manifest["split"]["events"]["test"] == 20


def test_yoochoose(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    def time(ms: int) -> str:
        return f"{np.datetime64(ms, 'ms')}Z"

    write(tmp_path / "yoochoose-clicks.dat", "".join(f"{s},{time(t)},{i},{i % 4}\n" for s, i, t in ROWS))
    buys = [row for row in ROWS if row[0] % 7 == 0]
    write(tmp_path / "yoochoose-buys.dat", "".join(f"{s},{time(t + 500)},{i},{i},1\n" for s, i, t in buys))
    features = {"category": {"kind": "categorical"}, "price": {"kind": "numeric", "buckets": 3}}
    result = prepared(yoochoose.read, rows=len(ROWS) + len(buys), buys=True, events_=features)
    assert result.event_types == ["purchase", "view"]
    assert int((result.event_type == 0).sum()) == len(buys)


def test_retailrocket(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    events_ = [f"{t},{s},{'view' if i % 5 else 'transaction'},{i},\n" for s, i, t in ROWS]
    write(tmp_path / "events.csv", "timestamp,visitorid,event,itemid,transactionid\n" + "".join(events_))
    names = "timestamp,itemid,property,value\n"
    told = [
        f"{START + d * DAY},{i},{p}\n"
        for d in (0, 7)
        for i in range(100, 110)
        for p in ("available,1", f"categoryid,{i % 4}")
    ]
    write(tmp_path / "item_properties_part1.csv", names + "".join(told))
    write(
        tmp_path / "item_properties_part2.csv", names + "".join(f"{START},{i},790,n{i}.000\n" for i in range(100, 110))
    )
    write(tmp_path / "category_tree.csv", "categoryid,parentid\n0,9\n1,9\n2,8\n3,8\n9,\n8,\n")
    items = {name: {"kind": "categorical"} for name in ("categoryid", "rootid", "available")}
    items["price"] = {"kind": "price", "column": "790"}
    result = prepared(retailrocket.read, items=True, properties=["790"], items_=items)
    assert result.event_types == ["transaction", "view"]
    assert bag_sizes(result, "rootid") == [1] * 10


def test_diginetica(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    days = [f"{s};NA;{i};{t - START - s * DAY};{np.datetime64(t, 'ms').astype('M8[D]')}\n" for s, i, t in ROWS]
    write(tmp_path / "train-item-views.csv", "sessionId;userId;itemId;timeframe;eventdate\n" + "".join(days))
    write(
        tmp_path / "train-purchases.csv",
        "sessionId;userId;timeframe;eventdate;ordernumber;itemId\n0;5;600000;2020-01-01;1;100\n",
    )
    write(
        tmp_path / "product-categories.csv", "itemId;categoryId\n" + "".join(f"{i};{i % 3}\n" for i in range(100, 110))
    )
    products = "".join(f"{i};{i / 20};{i},{i + 1}\n" for i in range(100, 110))
    write(tmp_path / "products.csv", f"itemId;pricelog2;product.name.tokens\n{products}")
    items = {"category": {"kind": "categorical"}, "price": {"kind": "price"}, "name_tokens": {"kind": "multi"}}
    result = prepared(diginetica.read, rows=len(ROWS) + 1, purchases=True, items=True, items_=items)
    assert result.event_types == ["purchase", "view"]
    assert bag_sizes(result, "name_tokens") == [2] * 10


def test_movielens(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    write(tmp_path / "ratings.dat", "".join(f"{s}::{i}::{i % 5 + 1}::{t // 1000}\n" for s, i, t in ROWS))
    write(tmp_path / "movies.dat", "".join(f"{i}::Film {i} ({1900 + i})::Drama|G{i % 3}\n" for i in range(100, 110)))
    write(tmp_path / "users.dat", "".join(f"{s}::{'FM'[s % 2]}::{18 + s % 40}::{s % 20}::0\n" for s in range(SESSIONS)))
    items = {"genres": {"kind": "multi"}, "year": {"kind": "numeric", "buckets": 3}, "title": {"kind": "text"}}
    users = {
        "age": {"kind": "numeric", "buckets": 3},
        "gender": {"kind": "categorical"},
        "occupation": {"kind": "categorical"},
    }
    result = prepared(movielens.read, items_=items, events_=users | {"rating": {"kind": "categorical"}})
    assert bag_sizes(result, "genres") == [2] * 10


@pytest.mark.parametrize("form", ["jsonl.gz", "csv"])
def test_amazon(tmp_path: Path, prepared: Callable[..., Prepared], form: str) -> None:
    if form == "csv":
        text = "user_id,parent_asin,rating,timestamp\n" + "".join(f"A{s},B{i},4.0,{t}\n" for s, i, t in ROWS)
    else:
        rows = [{"user_id": f"A{s}", "parent_asin": f"B{i}", "rating": 4.0, "timestamp": t} for s, i, t in ROWS]
        text = "".join(json.dumps(row | {"verified_purchase": True, "images": []}) + "\n" for row in rows)
    write(tmp_path / "reviews" / f"Toys.{form}", text)
    metas = [
        {"parent_asin": f"B{i}", "title": f"Toy {i}", "price": i / 10, "categories": ["Toys", f"c{i % 3}"]}
        for i in range(100, 110)
    ]
    write(tmp_path / "reviews" / "meta_Toys.jsonl", "".join(json.dumps(meta) + "\n" for meta in metas))
    items = {"categories": {"kind": "multi"}, "price": {"kind": "price"}, "title": {"kind": "text"}}
    result = prepared(amazon.read, path=tmp_path / "reviews" / f"Toys.{form}", items=True, items_=items)
    assert bag_sizes(result, "categories") == [2] * 10


def test_rees46(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    names = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
    lines = [
        f"{str(np.datetime64(t // 1000, 's')).replace('T', ' ')} UTC,{'view' if i % 4 else 'remove_from_cart'},{i},1,"
        f"a.b{i % 3},é{i % 2},{i}.5,{s},u-{s}\n"
        for s, i, t in ROWS
    ]
    write(tmp_path / "logs" / "2019-Oct.csv", names + "".join(lines[: len(lines) // 2]))
    write(tmp_path / "logs" / "2019-Nov.csv", names + "".join(lines[len(lines) // 2 :]))
    items = {"category_code": {"kind": "categorical"}, "brand": {"kind": "categorical"}, "price": {"kind": "price"}}
    result = prepared(
        rees46.read, path=tmp_path / "logs", items_=items, events_={"shown": {"kind": "price", "column": "price"}}
    )
    assert result.event_types == ["remove_from_cart", "view"]
