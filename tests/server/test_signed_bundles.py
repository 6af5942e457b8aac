"""A server that requires signatures answers from signed versions alone, and takes a new one when it is signed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from live_server import LiveServer, live_server
from toy_bundle import MakeBundle

from twotower.core.errors import UserError
from twotower.server.live_models import LiveModels
from twotower.serving.signature import sign, verify_signature
from twotower.serving.updates import delta


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "others"):
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.pem").write_bytes(private)
        (folder / f"{name}.pem").chmod(0o600)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    return folder


@pytest.fixture(scope="module")
def bundle(make_bundle: MakeBundle, keys: Path) -> Path:
    path = make_bundle([f"i{n}" for n in range(12)])
    sign(path, keys / "ours.pem")
    return path


@pytest.fixture(scope="module")
def server(bundle: Path, keys: Path) -> Iterator[LiveServer]:
    with live_server(bundle, "--require-signature", keys / "ours.pub") as running:
        yield running


def served(server: LiveServer) -> tuple[int, int]:
    """The version that answers, and its number of items."""
    (model,) = server.get("/model").json()["models"]
    return model["version"], model["num_items"]


def test_unsigned_versions_wait_until_they_are_signed(server: LiveServer, bundle: Path, keys: Path) -> None:
    assert served(server) == (1, 12)
    delta.remove(bundle, ["i3"])
    server.until(lambda: server.metric('twotower_swaps_total{outcome="refused"}') >= 1)
    assert served(server) == (1, 12)
    assert "no signature" in server.log() or "all of other versions" in server.log()
    sign(bundle, keys / "others.pem")
    server.until(lambda: server.metric('twotower_swaps_total{outcome="refused"}') >= 2)
    assert served(server) == (1, 12)
    sign(bundle, keys / "ours.pem")
    server.until(lambda: served(server) == (2, 11))
    assert "BEGIN" not in server.log()  # no key


def test_a_server_that_requires_signatures_makes_no_versions(server: LiveServer, bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    for method, body in (("DELETE", {"item_ids": ["i1"]}), ("POST", {"items": [{"item_id": "new"}]})):
        reply = server.ask(method, "/items", body)
        assert reply.status == 403 and "twotower sign" in reply.json()["error"]["message"]
    assert (bundle / "manifest.json").read_bytes() == before


def test_a_server_does_not_start_with_a_bundle_of_others(make_bundle: MakeBundle, keys: Path) -> None:
    unsigned = make_bundle(["a", "b", "c"])
    command = [sys.executable, "-m", "twotower.commands.main", "serve", unsigned, "--port", "0"]
    for key, message in ((keys / "ours.pub", "has no signature"), (keys / "ours.pem", "holds a private key")):
        done = subprocess.run([*command, "--require-signature", key], capture_output=True, text=True, timeout=120)
        assert done.returncode != 0 and message in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr


def test_a_version_that_comes_while_another_is_opened_is_not_served(
    make_bundle: MakeBundle, keys: Path, tmp_path: Path
) -> None:
    bundle = make_bundle([f"i{n}" for n in range(12)])
    sign(bundle, keys / "ours.pem")
    (tmp_path / "champion.json").write_text(json.dumps({"bundle": str(bundle)}))
    looks: list[Any] = []

    def check(folder: Path) -> None:
        verify_signature(folder, "manifest.json", keys / "ours.pub")
        looks.append(folder)
        if len(looks) == 1:
            delta.remove(folder, ["i3"])  # between the look at the signature and the opening

    with pytest.raises(UserError, match="all of other versions"):
        LiveModels({"champion": tmp_path / "champion.json"}, check)
