"""The manifest by itself: files of any content, sealed and read again, and what is wrong with one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from twotower.core.errors import UserError
from twotower.serving import bundle_format as fmt
from twotower.serving.bundle_format import checksum, paths_by_name, read_manifest, seal, write_manifest

FACTS: dict[str, Any] = {
    "similarity": "dot",
    "dim": 8,
    "num_items": 5,
    "max_length": 4,
    "inputs": [{"name": "gap", "size": 64}],
    "index": {"factory": "Flat"},
    "run_id": "日本",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """All files that a bundle must have, and one that it may have."""
    for name in [*fmt.REQUIRED, fmt.README_FILE]:
        (tmp_path / name).write_text(f"content of {name}")
    write_manifest(tmp_path, seal(tmp_path, FACTS, [*fmt.REQUIRED, fmt.README_FILE]))
    return tmp_path


def rewrite(path: Path, name: str = fmt.MANIFEST_FILE, **changes: Any) -> None:
    """With a right checksum; a change to None takes the key away."""
    manifest = json.loads((path / fmt.MANIFEST_FILE).read_text()) | changes
    manifest = {key: value for key, value in manifest.items() if value is not None}
    (path / name).write_text(json.dumps(manifest | {"checksum": checksum(manifest)}))


def files_of(path: Path) -> dict[str, str]:
    files: dict[str, str] = json.loads((path / fmt.MANIFEST_FILE).read_text())["files"]
    return files


def test_what_was_sealed_is_read(path: Path) -> None:
    manifest = read_manifest(path)
    assert manifest["format_version"] == 5
    assert {key: manifest[key] for key in FACTS} == FACTS
    names = [*fmt.REQUIRED, fmt.README_FILE]
    assert paths_by_name(manifest) == {name: name for name in names}
    expected = {name: hashlib.sha256(f"content of {name}".encode()).hexdigest() for name in names}
    assert manifest["files"] == expected


def test_checksum_is_of_all_facts_in_any_order(path: Path) -> None:
    manifest = read_manifest(path)
    assert checksum(dict(reversed(manifest.items()))) == checksum(manifest) == manifest["checksum"]
    without = {key: value for key, value in manifest.items() if key != "checksum"}
    assert checksum(without) == manifest["checksum"]
    for key in without:
        assert checksum({**manifest, key: "another"}) != manifest["checksum"]
        assert checksum({k: v for k, v in manifest.items() if k != key}) != manifest["checksum"]


def test_sealing_writes_nothing(path: Path) -> None:
    before = (path / fmt.MANIFEST_FILE).read_bytes()
    seal(path, FACTS | {"dim": 9}, fmt.REQUIRED)
    assert (path / fmt.MANIFEST_FILE).read_bytes() == before


@pytest.mark.parametrize("name", [*fmt.REQUIRED, fmt.README_FILE])
def test_a_file_that_is_changed_or_missing(path: Path, name: str) -> None:
    content = (path / name).read_bytes()
    (path / name).write_bytes(content + b" ")
    with pytest.raises(UserError, match=f"{name} has another SHA-256"):
        read_manifest(path)
    (path / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        read_manifest(path)
    (path / name).mkdir()
    with pytest.raises(UserError, match=f"{name} is missing"):
        read_manifest(path)


def test_files_beside_those_of_the_manifest_do_not_matter(path: Path) -> None:
    (path / "notes.txt").write_text("mine")
    (path / fmt.CURVE_FILE).write_text("of another bundle")
    assert fmt.CURVE_FILE not in paths_by_name(read_manifest(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "manifest.json"),
        (b"{", "manifest.json"),
        (b"\xff\xfe", "manifest.json"),
        (b"null", "format version None"),
        (b"[3]", "format version None"),
        (b'{"format_version": true}', "format version True"),
        (b'{"format_version": 5}', "its checksum"),
        (b'{"format_version": 5, "checksum": null}', "its checksum"),
    ],
)
def test_what_is_no_manifest(path: Path, content: bytes, reason: str) -> None:
    (path / fmt.MANIFEST_FILE).write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_manifest(path)


@pytest.mark.parametrize("version", [6, 7, 10**6])
def test_a_newer_format_asks_for_a_newer_package(path: Path, version: int) -> None:
    (path / fmt.MANIFEST_FILE).write_text(json.dumps({"format_version": version}))  # whatever else it may have
    with pytest.raises(UserError, match=f"format version {version}, this twotower reads 5; install a newer twotower"):
        read_manifest(path)


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, -3, "5", 2.5, None, [5]])
def test_another_format_asks_for_another_export(path: Path, version: Any) -> None:
    rewrite(path, format_version=version)
    with pytest.raises(UserError, match=r"format version .*export the run again"):
        read_manifest(path)


@pytest.mark.parametrize(
    "place",
    [
        "../index.faiss",
        "versions/../../index.faiss",
        "versions/2/../../../index.faiss",
        "/etc/index.faiss",
        "//index.faiss",
        "..",
        "..\\index.faiss",
        "index.faiss/",
        "",
    ],
)
def test_places_outside_are_refused_before_they_are_read(path: Path, place: str) -> None:
    files = files_of(path)
    digest = files.pop(fmt.INDEX_FILE)
    (path.parent / fmt.INDEX_FILE).write_text(f"content of {fmt.INDEX_FILE}")  # where ../ would lead
    rewrite(path, files={**files, place: digest})
    with pytest.raises(UserError, match=r"manifest\.json has other keys"):
        read_manifest(path)
    rewrite(path, files={**files, fmt.INDEX_FILE: digest, place: digest})  # beside the right one
    with pytest.raises(UserError, match=r"manifest\.json has other keys"):
        read_manifest(path)


@pytest.mark.parametrize("name", ["model.pkl", "Index.faiss", fmt.MANIFEST_FILE, "index.faiss.bak"])
def test_files_that_no_bundle_has_are_refused(path: Path, name: str) -> None:
    (path / name).touch()
    rewrite(path, files={**files_of(path), name: "0" * 64})
    with pytest.raises(UserError, match=r"manifest\.json has other keys"):
        read_manifest(path)


@pytest.mark.parametrize("key", ["files", *fmt.FACTS])
def test_what_lacks(path: Path, key: str) -> None:
    rewrite(path, **{key: None})
    with pytest.raises(UserError, match=r"manifest\.json has other keys"):
        read_manifest(path)


@pytest.mark.parametrize("name", fmt.REQUIRED)
def test_a_file_that_lacks(path: Path, name: str) -> None:
    rewrite(path, files={place: digest for place, digest in files_of(path).items() if place != name})
    with pytest.raises(UserError, match=f"other keys; expected the files .*{name}"):
        read_manifest(path)


@pytest.mark.parametrize("files", [{}, [], [1], "index.faiss", 7, list(fmt.REQUIRED)])
def test_files_of_another_kind(path: Path, files: Any) -> None:
    rewrite(path, files=files)
    with pytest.raises(UserError, match=r"manifest\.json has other keys"):
        read_manifest(path)


@pytest.mark.parametrize("digest", [None, 7, "", "0" * 64, ["0"]])
def test_hashes_of_another_kind(path: Path, digest: Any) -> None:
    rewrite(path, files={**files_of(path), fmt.INDEX_FILE: digest})
    with pytest.raises(UserError, match=r"index.faiss has another SHA-256"):
        read_manifest(path)


@pytest.mark.parametrize("similarity", ["l2", "Cosine", "", 1, ["dot"]])
def test_another_similarity(path: Path, similarity: Any) -> None:
    rewrite(path, similarity=similarity)
    with pytest.raises(UserError, match=r"has similarity .*; expected cosine or dot"):
        read_manifest(path)


@pytest.mark.parametrize("inputs", ["gap", {"gap": 64}, ["gap"], [{"name": "gap", "size": True}], [{"size": 3}]])
def test_other_inputs(path: Path, inputs: Any) -> None:
    rewrite(path, inputs=inputs)
    with pytest.raises(UserError, match=r"has inputs .*; expected a list of names with sizes"):
        read_manifest(path)


def test_manifest_of_another_version(path: Path) -> None:
    """Its paths are below the bundle, not beside the manifest; files that did not change are shared."""
    place = f"versions/2/{fmt.INDEX_FILE}"
    (path / "versions/2").mkdir(parents=True)
    (path / place).write_text("a newer index")
    shared = [name for name in fmt.REQUIRED if name != fmt.INDEX_FILE]
    manifest = seal(path, FACTS | {"num_items": 6}, [*shared, place])
    (path / "versions/2.json").write_text(json.dumps(manifest))
    second = read_manifest(path, "versions/2.json")
    assert second["num_items"] == 6
    assert paths_by_name(second) == {**{name: name for name in shared}, fmt.INDEX_FILE: place}
    assert read_manifest(path)["num_items"] == 5

    (path / place).write_text("a damaged index")
    with pytest.raises(UserError, match=f"{place} has another SHA-256"):
        read_manifest(path, "versions/2.json")
    assert read_manifest(path)["num_items"] == 5  # which does not use it
    with pytest.raises(UserError, match=r"versions/3\.json is missing"):
        read_manifest(path, "versions/3.json")
    (path / "versions/2.json").write_text(json.dumps(manifest | {"dim": 9}))
    with pytest.raises(UserError, match=r"versions/2\.json has contents that do not match its checksum"):
        read_manifest(path, "versions/2.json")
