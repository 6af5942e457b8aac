"""Filters that are measured at export, counted by hand."""

import numpy as np
import pyarrow as pa

from twotower.exporting.filter_samples import sample_filters


def test_values_as_frequent_as_half_a_tenth_and_a_hundredth_and_the_middle_half_of_numbers() -> None:
    brand = ["big"] * 100 + ["mid"] * 20 + ["rare"] * 2 + ["one"] * 78
    items = pa.table(
        {
            "item_id": list(range(200)),
            "train_count": [1] * 200,
            "age_days": [*range(100)] * 2,
            "brand": brand,
            "tags": pa.array([["new", "red"] if i < 20 else None for i in range(200)], pa.list_(pa.string())),
            "price": pa.array([float(i) if i < 101 else None for i in range(200)]),
        }
    )
    masks = sample_filters(items, 2)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "brand = big": 100,
        "brand = mid": 20,
        "brand = rare": 2,
        "tags = new": 20,
        "price from 25 to 75": 51,
        "age_days from 25 to 74": 100,
    }
    np.testing.assert_array_equal(masks["brand = mid"], np.array(brand) == "mid")
    np.testing.assert_array_equal(np.flatnonzero(masks["price from 25 to 75"]), np.arange(25, 76))
    assert "brand = rare" not in sample_filters(items, 3)


def test_no_features_and_no_values() -> None:
    assert not sample_filters(pa.table({"item_id": [1], "train_count": [1]}), 1)
    empty = pa.table({"item_id": [1, 2], "brand": pa.array([None, None], pa.string()), "price": [np.nan, np.nan]})
    assert not sample_filters(empty, 1)
