"""Signatures of bundles, against the command `openssl`, which makes the keys and checks what was signed."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from toy_bundle import MakeBundle

from twotower.commands.main import main
from twotower.core.errors import UserError
from twotower.core.files import write_json
from twotower.serving.retriever import Retriever
from twotower.serving.signature import sign, verify_signature
from twotower.serving.updates.delta import remove
from twotower.serving.updates.versions import rollback

pytestmark = pytest.mark.skipif(  # never in CI: the oracle of the signatures is openssl itself
    shutil.which("openssl") is None and "CI" not in os.environ, reason="openssl is not installed"
)


def openssl(*arguments: object) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.pem and b.pem private, a.pub and b.pub public, and keys that no server takes."""
    folder = tmp_path_factory.mktemp("keys")
    for name in "ab":
        openssl("genpkey", "-algorithm", "ed25519", "-out", folder / f"{name}.pem")
        openssl("pkey", "-in", folder / f"{name}.pem", "-pubout", "-out", folder / f"{name}.pub")
    openssl("genpkey", "-algorithm", "x25519", "-out", folder / "x25519.pem")
    openssl("pkey", "-in", folder / "x25519.pem", "-pubout", "-out", folder / "x25519.pub")
    openssl("pkey", "-in", folder / "a.pem", "-aes256", "-passout", "pass:secret", "-out", folder / "password.pem")
    return folder


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Path:
    return make_bundle([f"i{number}" for number in range(5)])


def test_the_command_signs_what_openssl_checks(bundle: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Retriever.load(bundle).recommend([["i1"]], k=3)
    assert main(["sign", str(bundle), str(keys / "a.pem")]) == 0
    (file,) = (bundle / "signatures").iterdir()
    assert file.name == f"{hashlib.sha256((bundle / 'manifest.json').read_bytes()).hexdigest()}.sig"
    assert capsys.readouterr().out == f"signature: {file}\n"
    arguments = ("-rawin", "-in", bundle / "manifest.json", "-sigfile", file)
    assert "Success" in openssl("pkeyutl", "-verify", "-pubin", "-inkey", keys / "a.pub", *arguments)
    verify_signature(bundle, "manifest.json", keys / "a.pub")
    assert Retriever.load(bundle).recommend([["i1"]], k=3).ids == before.ids


def test_openssl_signs_what_the_server_takes(bundle: Path, keys: Path) -> None:
    manifest = bundle / "manifest.json"
    file = bundle / "signatures" / f"{hashlib.sha256(manifest.read_bytes()).hexdigest()}.sig"
    file.parent.mkdir()
    openssl("pkeyutl", "-sign", "-inkey", keys / "a.pem", "-rawin", "-in", manifest, "-out", file)
    verify_signature(bundle, "manifest.json", keys / "a.pub")


def test_one_of_several_keys_is_enough(bundle: Path, keys: Path, tmp_path: Path) -> None:
    sign(bundle, keys / "b.pem")
    both = tmp_path / "both.pub"
    both.write_bytes(b"of last year\n" + (keys / "a.pub").read_bytes() + (keys / "b.pub").read_bytes())
    verify_signature(bundle, "manifest.json", both)
    with pytest.raises(UserError, match=r"a signature by another key, or damaged; expected one by a key of .*a\.pub"):
        verify_signature(bundle, "manifest.json", keys / "a.pub")


def test_a_changed_manifest_is_refused_though_its_checksums_are_right(bundle: Path, keys: Path) -> None:
    sign(bundle, keys / "a.pem")
    manifest = json.loads((bundle / "manifest.json").read_text())
    write_json(bundle / "manifest.json", dict(reversed(manifest.items())))  # the same facts, other bytes
    Retriever.load(bundle)
    with pytest.raises(UserError, match=r"1 signature\(s\), all of other versions: .*twotower sign"):
        verify_signature(bundle, "manifest.json", keys / "a.pub")


def test_a_damaged_signature_is_refused(bundle: Path, keys: Path) -> None:
    file = sign(bundle, keys / "a.pem")
    signature = file.read_bytes()
    for damaged in (b"", signature[:-1], bytes([signature[0] ^ 1]) + signature[1:], signature + b"\0"):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="by another key, or damaged"):
            verify_signature(bundle, "manifest.json", keys / "a.pub")


def test_each_version_has_its_own_signature(bundle: Path, keys: Path) -> None:
    sign(bundle, keys / "a.pem")
    remove(bundle, ["i4"])
    with pytest.raises(UserError, match="all of other versions"):
        verify_signature(bundle, "manifest.json", keys / "a.pub")
    verify_signature(bundle, "versions/1.json", keys / "a.pub")
    rollback(bundle)
    verify_signature(bundle, "manifest.json", keys / "a.pub")  # as it was signed
    rollback(bundle, 2)
    sign(bundle, keys / "a.pem")
    verify_signature(bundle, "manifest.json", keys / "a.pub")


def test_a_damaged_bundle_is_not_signed(bundle: Path, keys: Path) -> None:
    with (bundle / "index.faiss").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"index\.faiss"):
        sign(bundle, keys / "a.pem")
    assert not (bundle / "signatures").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.pub", "no private key in PEM"),
        ("x25519.pem", "another kind .X25519PrivateKey.; expected ed25519"),
        ("password.pem", "needs a password"),
        ("nowhere.pem", "can't be read as a private key"),
    ],
)
def test_keys_that_do_not_sign(bundle: Path, keys: Path, name: str, message: str) -> None:
    if name == "a.pub":
        (keys / name).chmod(0o600)
    with pytest.raises(UserError, match=message) as raised:
        sign(bundle, keys / name)
    assert "openssl genpkey" in str(raised.value) or name == "nowhere.pem"


def test_a_private_key_that_everyone_may_read_is_refused(bundle: Path, keys: Path, tmp_path: Path) -> None:
    open_key = tmp_path / "open.pem"
    open_key.write_bytes((keys / "a.pem").read_bytes())
    open_key.chmod(0o644)
    with pytest.raises(UserError, match=r"mode 644: everyone .* chmod 600"):
        sign(bundle, open_key)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.pem", "holds a private key, which no server needs"),
        ("x25519.pub", "another kind"),
        ("manifest.json", "no '-----BEGIN PUBLIC KEY-----'"),
        ("cut.pub", "no public key in PEM"),
        ("nowhere.pub", "can't be read as public keys"),
    ],
)
def test_keys_that_no_server_takes(bundle: Path, keys: Path, name: str, message: str) -> None:
    sign(bundle, keys / "a.pem")
    shutil.copy(bundle / "manifest.json", keys)
    (keys / "cut.pub").write_bytes((keys / "a.pub").read_bytes().replace(b"MCowBQ", b"MCow"))
    with pytest.raises(UserError, match=message) as raised:
        verify_signature(bundle, "manifest.json", keys / name)
    secret = (keys / "a.pem").read_text().splitlines()[1]
    assert secret not in str(raised.value)


def test_an_unsigned_bundle_is_refused_with_the_command_that_signs(bundle: Path, keys: Path) -> None:
    with pytest.raises(UserError, match=f"{bundle} has no signature: .*sign {bundle} KEY"):
        verify_signature(bundle, "manifest.json", keys / "a.pub")
