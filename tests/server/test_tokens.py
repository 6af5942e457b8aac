"""Tokens and what they allow."""

import json
from pathlib import Path

import pytest

from twotower.core.errors import UserError
from twotower.server.tokens import LOOK_S, Tokens, allows

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


def test_tokens_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("twotower.server.tokens.time.monotonic", lambda: clock[0])
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"a" * 20: "admin"}))
    tokens = Tokens(file)
    assert tokens.role("Bearer " + "a" * 20) == "admin"
    for content, roles in (
        (json.dumps({"b" * 20: "read"}), (None, "read")),
        ("{", (None, "read")),  # while it is written
        (json.dumps({"a" * 20: "write"}), ("write", None)),
    ):
        file.with_suffix(".new").write_text(content)
        file.with_suffix(".new").replace(file)
        clock[0] += 1.01 * LOOK_S
        assert (tokens.role("Bearer " + "a" * 20), tokens.role("Bearer " + "b" * 20)) == roles
