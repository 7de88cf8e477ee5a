"""A release is refused unless the key that the reader trusts signed its manifest."""

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from twotower.artefacts.manifest import MANIFEST, seal, verify_directory
from twotower.artefacts.signature import SIGNATURE, Signer, load_signer, load_verifier, make_keys
from twotower.errors import EnvironmentProblem, IntegrityError


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return load_signer(make_keys(tmp_path / "keys")[0])


@pytest.fixture
def signed(tmp_path: Path, signer: Signer) -> Path:
    """A sealed directory with its signature."""
    path = tmp_path / "artefact"
    path.mkdir()
    (path / "a.bin").write_bytes(b"1234")
    seal(path, "release", parent=None)
    (path / SIGNATURE).write_bytes(signer.sign((path / MANIFEST).read_bytes()))
    return path


def test_what_was_signed_is_verified_by_the_public_key_alone(signed: Path, tmp_path: Path) -> None:
    verifier = load_verifier(tmp_path / "keys" / "verify.pem")
    assert set(verify_directory(signed, "release", verifier).files) == {"a.bin"}


def test_signing_leaves_the_id_as_it_was(signed: Path) -> None:
    before = json.loads((signed / MANIFEST).read_text())["id"]
    (signed / SIGNATURE).unlink()
    (signed / MANIFEST).unlink()
    assert seal(signed, "release", parent=None).id == before


def test_a_changed_file_under_a_manifest_made_true_again_is_caught(signed: Path, signer: Signer) -> None:
    (signed / "a.bin").write_bytes(b"1235")
    signature = (signed / SIGNATURE).read_bytes()
    for name in (MANIFEST, SIGNATURE):
        (signed / name).unlink()
    seal(signed, "release", parent=None)
    (signed / SIGNATURE).write_bytes(signature)
    verify_directory(signed, "release")  # hashes alone cannot tell
    with pytest.raises(IntegrityError, match="changed afterwards"):
        verify_directory(signed, "release", signer.verifier)


def test_another_key_is_another_publisher(signed: Path, tmp_path: Path) -> None:
    stranger = load_signer(make_keys(tmp_path / "stranger")[0])
    with pytest.raises(IntegrityError, match="another key"):
        verify_directory(signed, "release", stranger.verifier)


@pytest.mark.parametrize("signature", [None, b"", b"short", bytes(64), bytes(65)])
def test_no_signature_or_half_a_one_is_refused_before_anything_is_parsed(
    signed: Path, signer: Signer, signature: bytes | None
) -> None:
    (signed / MANIFEST).write_bytes(b"{ not json")
    (signed / SIGNATURE).unlink()
    if signature is not None:
        (signed / SIGNATURE).write_bytes(signature)
    with pytest.raises(IntegrityError, match="signed"):
        verify_directory(signed, "release", signer.verifier)


def test_the_private_key_is_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path / "keys")
    before = private.read_bytes()
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert b"PRIVATE" in before
    assert b"PRIVATE" not in public.read_bytes()
    with pytest.raises(EnvironmentProblem, match="--out"):
        make_keys(tmp_path / "keys")
    assert private.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    for load in (load_signer, load_verifier):
        with pytest.raises(EnvironmentProblem, match=r"key\.pem.*keygen"):
            load(path)


def test_keys_of_another_kind_or_with_a_password_are_refused(tmp_path: Path) -> None:
    key, pem = generate_private_key(65537, 1024), serialization.Encoding.PEM
    path, locked = tmp_path / "rsa.pem", serialization.BestAvailableEncryption(b"password")
    path.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(EnvironmentProblem, match="another kind"):
        load_verifier(path)
    for encryption in (serialization.NoEncryption(), locked):
        path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption))
        with pytest.raises(EnvironmentProblem, match="keygen"):
            load_signer(path)
