"""Signs releases: an ed25519 signature over the manifest, which holds the hashes of all other files."""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from twotower.errors import EnvironmentProblem, IntegrityError

SIGNATURE = "manifest.sig"
SIGNING_KEY, VERIFY_KEY = "signing.pem", "verify.pem"


@dataclass(frozen=True, slots=True)
class Verifier:
    """The public key, for readers of releases: it checks signatures."""

    key: Ed25519PublicKey

    def check(self, where: str, manifest: bytes, signature: bytes | None) -> None:
        """IntegrityError unless this key signed exactly these bytes. `where` names the release in the message."""
        if signature is None:
            raise IntegrityError(f"{where} is not signed. {_MEND}")
        try:
            self.key.verify(signature, manifest)
        except InvalidSignature:
            raise IntegrityError(f"{where} is signed by another key, or was changed afterwards. {_MEND}") from None


@dataclass(frozen=True, slots=True)
class Signer:
    """The private key, for the publisher alone: it makes signatures."""

    key: Ed25519PrivateKey

    @property
    def verifier(self) -> Verifier:
        """The public key that checks this signer's signatures."""
        return Verifier(self.key.public_key())

    def sign(self, manifest: bytes) -> bytes:
        """A signature of 64 bytes. Equal manifests get equal signatures."""
        return self.key.sign(manifest)


def load_signer(path: Path) -> Signer:
    """The private key of a PEM file; EnvironmentProblem when it cannot be used."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key needs a password
        raise EnvironmentProblem(f"{path} is no signing key ({_why(error)}). {_MAKE}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise EnvironmentProblem(f"{path} is a key of another kind than ed25519. {_MAKE}")
    return Signer(key)


def load_verifier(path: Path) -> Verifier:
    """The public key of a PEM file; EnvironmentProblem when it cannot be used."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise EnvironmentProblem(f"{path} is no key to verify with ({_why(error)}). {_MAKE}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise EnvironmentProblem(f"{path} is a key of another kind than ed25519. {_MAKE}")
    return Verifier(key)


def make_keys(directory: Path) -> tuple[Path, Path]:
    """Write a new pair of keys. Only the owner can read the private one. EnvironmentProblem when a file exists already."""
    private, public = directory / SIGNING_KEY, directory / VERIFY_KEY
    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    known = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, content, mode in ((private, secret, 0o600), (public, known, 0o644)):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write keys to {directory}: {_why(error)}. Choose another --out.") from error
    return private, public


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error).partition(". ")[0]


_MEND = "Publish it again with `twotower embed --sign`, or look who else writes to the store."
_MAKE = "`twotower releases keygen --out DIR` makes a pair."
