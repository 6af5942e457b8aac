"""RetailRocket's events, properties over time, and tree of categories."""

from pathlib import Path
from typing import Any

import pytest
from captured import events_of, source_of, write

from twotower.core.errors import UserError
from twotower.data.readers.retailrocket import read

FILES = {
    "events.csv": "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n"
    "1433224214164,992329,addtocart,248676,\n1433221999827,111016,transaction,318965,234\n",
    "item_properties_part1.csv": "timestamp,itemid,property,value\n1435460400000,1,categoryid,10\n"
    "1435460400000,1,available,0\n1435460400000,1,790,n12.000\n1435460400000,2,categoryid,99\n"
    "1435460400000,1,888,1116713 960601 n277.200\n",
    "item_properties_part2.csv": "timestamp,itemid,property,value\n1436065200000,1,available,1\n"
    "1434250800000,3,categoryid,30\n1436065200000,2,790,n-3.500\n1436670000000,1,categoryid,20\n",
    "category_tree.csv": "categoryid,parentid\n10,20\n20,30\n30,\n40,30\n",
}


def folder(path: Path, *without: str, **other: str) -> Path:
    for name, text in (FILES | other).items():
        if name not in without:
            write(path / name, text)
    return path


def items(path: Path, *properties: Any) -> list[dict[str, Any]]:
    source = source_of(read, path, items=True, properties=properties)
    assert source.items is not None
    return source.items().collect().to_dicts()


def test_events(tmp_path: Path) -> None:
    source = source_of(read, folder(tmp_path), items=True, properties=[])
    assert (source.name, source.unit) == ("retailrocket", "ms")
    assert source.columns == ["user_id", "item_id", "timestamp", "event_type"]
    assert events_of(source).rows() == [
        (257597, 355908, 1433221332117, "view"),
        (992329, 248676, 1433224214164, "addtocart"),
        (111016, 318965, 1433221999827, "transaction"),
    ]
    assert len(source.files) == 4


def test_items_hold_what_was_known_at_each_moment(tmp_path: Path) -> None:
    names = ["item_id", "timestamp", "categoryid", "available", "parentid", "rootid"]
    expected = [
        (1, 1435460400000, "10", "0", "20", "30"),
        (1, 1436065200000, "10", "1", "20", "30"),
        (1, 1436670000000, "20", "1", "30", "30"),
        (2, 1435460400000, "99", None, None, None),
        (3, 1434250800000, "30", None, None, "30"),
    ]
    assert [tuple(row[name] for name in names) for row in items(folder(tmp_path))] == expected
    assert set(items(tmp_path)[0]) == set(names)


def test_properties_asked_for(tmp_path: Path) -> None:
    rows = items(folder(tmp_path), 790, "888")
    assert [row["790"] for row in rows] == [12.0, 12.0, 12.0, None, -3.5, None]
    assert [row["888"] for row in rows][:2] == ["1116713 960601 n277.200"] * 2
    with pytest.raises(UserError, match=r"no item in .* has the property '791'; see data\.properties"):
        items(tmp_path, "791")


def test_a_tree_that_is_no_tree(tmp_path: Path) -> None:
    rows = items(folder(tmp_path, **{"category_tree.csv": "categoryid,parentid\n10,20\n20,10\n20,30\n"}))
    assert {row["item_id"] for row in rows} == {1, 2, 3} and len(rows) == 5


@pytest.mark.parametrize("name", list(FILES))
def test_missing_files(tmp_path: Path, name: str) -> None:
    folder(tmp_path, name)
    with pytest.raises(UserError, match=rf"no {name}; download it from Kaggle: retailrocket/ecommerce-dataset"):
        source_of(read, tmp_path, items=True, properties=[])
    if name != "events.csv":
        source = source_of(read, tmp_path, items=False, properties=[])
        assert source.items is None and events_of(source).height == 3


def test_a_file_of_another_form(tmp_path: Path) -> None:
    folder(tmp_path, **{"events.csv": "time,visitor\n1,2\n"})
    with pytest.raises(UserError, match=r"events\.csv can't be read as CSV: .*visitorid"):
        events_of(source_of(read, tmp_path, items=False, properties=[]))
