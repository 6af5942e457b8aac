"""Tokens and what they allow."""

import json
from pathlib import Path

import pytest

from twotower.core.errors import UserError
from twotower.server.tokens import Tokens, allows

READ, WRITE = "r" * 20, "w" * 20


def test_a_token_has_its_role_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({READ: "read", WRITE: "write"}))
    tokens = Tokens(file)
    assert [tokens.role(f"Bearer {token}") for token in (READ, WRITE, "x" * 20)] == ["read", "write", None]
    assert [tokens.role(text) for text in ("", READ, f"Basic {READ}", "Bearer", f"bearer  {READ} ")] == [
        None, None, None, None, "read",
    ]  # fmt: skip
    file.write_text(json.dumps({READ: "admin", "n" * 30: "read"}))
    import os

    os.utime(file, ns=(1, 1))
    tokens.refresh()
    assert (tokens.role(f"Bearer {READ}"), tokens.role(f"Bearer {WRITE}")) == ("admin", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "holds no tokens"),
        ('{"aaaaaaaaaaaaaaaaaaaa": "root"}', "holds no tokens"),
        ('{"short": "read"}', "fewer than 16 characters"),
        ("[", "is damaged"),
    ],
)
def test_refuses_what_holds_no_tokens(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokens.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Tokens(tmp_path / "tokens.json")


def test_roles_include_the_ones_before() -> None:
    roles = ["read", "write", "admin"]
    assert [[allows(role, needed) for needed in roles] for role in roles] == [
        [True, False, False], [True, True, False], [True, True, True],
    ]  # fmt: skip
