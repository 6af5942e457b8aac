"""Files and folders appear whole or not at all."""

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from twotower.core.errors import UserError
from twotower.core.files import (
    atomic_directory,
    create_directory_once,
    create_file_once,
    new_directory,
    read_json,
    sha256,
    write_json,
)


def test_a_directory_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with atomic_directory(target) as temporary:
        (temporary / "file").write_text("content")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename within one file system
    assert (target / "file").read_text() == "content"
    assert [p.name for p in target.parent.iterdir()] == ["target"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_directory(tmp_path / "target") as temporary:
        (temporary / "file").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_kept(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(UserError, match="target exists already"), atomic_directory(tmp_path / "target"):
        pytest.fail("the block must not run")
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_the_faster_of_two_processes_wins(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(UserError, match="target exists already"), atomic_directory(target) as slow:
        (slow / "file").write_text("slow")
        with atomic_directory(target) as fast:
            (fast / "file").write_text("fast")
    assert (target / "file").read_text() == "fast"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_is_no_place_for_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="file can't hold folders"),
        atomic_directory(tmp_path / "file" / "target"),
    ):
        pytest.fail("the block must not run")


def test_json_comes_back(tmp_path: Path) -> None:
    content = {"name": "café", "numbers": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == content
    assert read_json(tmp_path / "a.json", "a test") == content
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert read_json(tmp_path / "a.json", "a test") == content
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_can_not_be_renamed_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match=r"a\.json"):
        write_json(tmp_path / "a.json", [1])
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("damage", [b"", b'{"a": ', b"\xff\xfe", b"{} {}"])
def test_damaged_json_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.json").write_bytes(damage)
    with pytest.raises(UserError, match=r"a\.json is damaged .* make a bundle again"):
        read_json(tmp_path / "a.json", "a bundle")


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a bundle"):
        read_json(tmp_path / "a.json", "a bundle")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a bundle"):
        read_json(tmp_path / "file" / "a.json", "a bundle")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_what_a_killed_process_left_is_removed_and_what_one_works_on_is_not(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from twotower.core.files import atomic_directory\n"
        "with atomic_directory(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('x'); print('at work', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "at work\n"
        with atomic_directory(tmp_path / "out") as folder:
            assert len([p for p in tmp_path.iterdir() if (p / "half").exists()]) == 1
            (folder / "done").write_text("x")
        assert len(list(tmp_path.iterdir())) == 2
        process.kill()
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    with atomic_directory(tmp_path / "out"):
        assert len(list(tmp_path.iterdir())) == 2  # that of the killed process is gone
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "out"]


def test_of_two_processes_one_creates_a_file_or_directory(tmp_path: Path) -> None:
    def write_file(temporary: Path) -> None:
        create_file_once(tmp_path / "file", lambda path: path.write_text("fast"))
        temporary.write_text("slow")

    def fill(temporary: Path) -> None:
        create_directory_once(tmp_path / "folder", lambda path: (path / "a").write_text("fast"))
        (temporary / "a").write_text("slow")

    for _ in range(2):  # what exists is kept
        create_file_once(tmp_path / "file", write_file)
        create_directory_once(tmp_path / "folder", fill)
        assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "fast"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_new_directories_of_one_name_are_numbered(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: new_directory(tmp_path / "day" / "run"), range(24)))
    names = ["run", *(f"run-{number}" for number in range(2, 25))]
    assert sorted(path.name for path in made) == sorted(names)
