"""Consent in any form, and erased users whatever the type of their ids."""

from pathlib import Path

import polars as pl
import pytest

from twotower.core.errors import UserError
from twotower.core.values import TextForm
from twotower.data.preparation.privacy import not_erased, read_erased_users, with_consent


@pytest.mark.parametrize("values", [[1, 0, None], ["yes", "no", ""], [" TRUE ", "false", None], [1.0, 0.0, None]])
def test_consent_in_many_forms(values: list[object]) -> None:
    events = pl.DataFrame({"item_id": [1, 2, 3], "consent": values})
    assert events.filter(with_consent())["item_id"].to_list() == [1]


def test_erased_ids_are_compared_as_text() -> None:
    events = pl.DataFrame({"user_id": [1, 2, 3, None]})
    assert events.filter(not_erased({"2", "9"}))["user_id"].to_list() == [1, 3, None]


def test_an_erase_list_is_text_with_one_id_a_line(tmp_path: Path) -> None:
    (tmp_path / "erase.txt").write_text("\ufeff12\n\n  user 7 \n", encoding="utf-8")
    assert read_erased_users(str(tmp_path / "erase.txt"), None, TextForm()) == {"12", "user 7"}
    assert read_erased_users(None, None, TextForm()) == set()
    (tmp_path / "erase.bin").write_bytes(b"\xff\xfe")
    for name in ("erase.bin", "missing.txt"):
        with pytest.raises(UserError, match=rf"preparation\.erase=.*{name}"):
            read_erased_users(str(tmp_path / name), None, TextForm())
