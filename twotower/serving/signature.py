"""Signatures of bundles: who has made this one. The manifest's hashes only say that its files belong together.

    openssl genpkey -algorithm ed25519 -out sign.pem              the private key; whoever makes bundles keeps it
    openssl pkey -in sign.pem -pubout -out trusted.pem            the public key; servers have it
    twotower sign BUNDLE sign.pem

Signed (ed25519) are the exact bytes of a manifest, which holds the SHA-256 of each other file. The 64 bytes of the
signature lie in BUNDLE/signatures/HASH.sig, where HASH is the SHA-256 of these bytes, so each version has its own: a
rollback finds that of the earlier version, and a version that `twotower delta` makes has none until it is signed.
A signature doesn't say which bundle is the newest: an earlier signed one stays valid until its key is taken away.
"""

import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.core.command_line import command
from twotower.core.errors import UserError, printing_user_errors
from twotower.core.files import write_bytes
from twotower.serving.bundle_format import MANIFEST_FILE, read_manifest
from twotower.serving.updates.versions import locked

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURES = "signatures"
MAKE_KEY = "Make one: openssl genpkey -algorithm ed25519 -out sign.pem"
MAKE_PUBLIC = "Make it from the private key: openssl pkey -in sign.pem -pubout -out trusted.pem"
PUBLIC_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
OTHERS = 0o007  # of a file's mode


def sign(bundle_path: str | Path, private_key_file: str | Path) -> Path:
    """Check a bundle's current version against its manifest, sign the manifest, and return the signature's file.

    Args:
        bundle_path: the bundle's folder, which this process may write to.
        private_key_file: an ed25519 key in PEM, without a password.

    Raises:
        UserError: the bundle is damaged or being changed, its folder can't be written to, or the key is refused.
    """
    path, key = Path(bundle_path), read_private_key(private_key_file)
    with locked(path):
        read_manifest(path)
        content = (path / MANIFEST_FILE).read_bytes()
        file = signature_file(path, content)
        try:
            file.parent.mkdir(exist_ok=True)
            write_bytes(file, key.sign(content))
        except OSError as error:
            raise UserError(f"{file} can't be written: {error.strerror}; give this user write permission") from None
    return file


def verify_signature(bundle_path: str | Path, manifest_file: str, public_key_file: str | Path) -> None:
    """Return if one of the keys has signed the manifest.

    The bundle's other files are checked by opening it: `read_manifest` compares each with the manifest's hash.

    Args:
        bundle_path: the bundle's folder.
        manifest_file: the manifest's name in it: that of the current version is MANIFEST_FILE.
        public_key_file: one or more ed25519 public keys in PEM, one after another.

    Raises:
        UserError: there is no signature of this manifest, it is of none of the keys, or a file can't be read.
    """
    from cryptography.exceptions import InvalidSignature

    keys = read_public_keys(public_key_file)
    path = Path(bundle_path)
    content = _bytes_of(path / manifest_file, "a bundle's manifest")
    file = signature_file(path, content)
    expected = f"expected one by a key of {public_key_file} ({len(keys)} in it)"
    todo = f"Sign this version where its key is: {command('sign', path, 'KEY')}"
    if not file.is_file():
        others = len(list(file.parent.glob("*.sig")))
        arrived = f"{others} signature(s), all of other versions" if others else "no signature"
        raise UserError(f"{path} has {arrived}: {file} is missing; {expected}. {todo}")
    signature = _bytes_of(file, "a signature")
    for key in keys:
        try:
            key.verify(signature, content)
            return
        except InvalidSignature:
            continue
    raise UserError(f"{file} is a signature by another key, or damaged; {expected}. {todo}")


def signature_file(bundle_path: Path, manifest: bytes) -> Path:
    """Where the signature of a manifest with these bytes lies."""
    return bundle_path / SIGNATURES / f"{hashlib.sha256(manifest).hexdigest()}.sig"


def read_private_key(file: str | Path) -> "Ed25519PrivateKey":
    """Read an ed25519 private key in PEM; raises UserError, without the file's content, where it is another thing.

    A file that everyone on the machine may read is refused.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _bytes_of(Path(file), "a private key")
    mode = Path(file).stat().st_mode
    if mode & OTHERS and sys.platform != "win32":  # whose modes say nothing about who may read
        told = f"mode {mode & 0o777:o}: everyone on this machine may use it"
        raise UserError(f"{file} has {told}; expected 600. Make another key, or: chmod 600 {file}")
    key = _loaded(file, lambda: load_pem_private_key(content, None), "private", MAKE_KEY)
    if not isinstance(key, Ed25519PrivateKey):
        raise _of_another_kind(file, key, MAKE_KEY)
    return key


def read_public_keys(file: str | Path) -> "list[Ed25519PublicKey]":
    """Read one or more ed25519 public keys in PEM; raises UserError where there is none, or something else."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _bytes_of(Path(file), "public keys")
    if b"PRIVATE KEY-----" in content:
        raise UserError(f"{file} holds a private key, which no server needs; expected the public key. {MAKE_PUBLIC}")
    blocks = PUBLIC_KEY.findall(content)
    if not blocks:
        raise UserError(f"{file} has no '-----BEGIN PUBLIC KEY-----'; expected ed25519 keys in PEM. {MAKE_PUBLIC}")
    keys = []
    for block in blocks:
        key = _loaded(file, partial(load_pem_public_key, block), "public", MAKE_PUBLIC)
        if not isinstance(key, Ed25519PublicKey):
            raise _of_another_kind(file, key, MAKE_PUBLIC)
        keys.append(key)
    return keys


def _loaded(file: str | Path, load: Callable[[], object], name: str, todo: str) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load()
    except TypeError:  # of a key with a password
        raise UserError(f"{file} needs a password; expected an ed25519 {name} key without one. {todo}") from None
    except (ValueError, UnsupportedAlgorithm):  # whose text may hold parts of the file
        raise UserError(f"{file} is no {name} key in PEM; expected an ed25519 one. {todo}") from None


def _of_another_kind(file: str | Path, key: object, todo: str) -> UserError:
    return UserError(f"{file} has a key of another kind ({type(key).__name__}); expected ed25519. {todo}")


def _bytes_of(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} can't be read as {what}: {error.strerror}; is the path right?") from None


@printing_user_errors
def main(arguments: Sequence[str]) -> int:
    """`twotower sign BUNDLE KEY`: sign the current version; returns 0, or 2 where it is refused."""
    if len(arguments) != 2:
        print("usage: twotower sign BUNDLE KEY", file=sys.stderr)
        return 2
    print(f"signature: {sign(*arguments)}")
    return 0
