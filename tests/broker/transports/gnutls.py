"""What tests with raw public keys need: the library, or a reason why they are skipped; and the keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from trio_acebroker.transports.gnutls_library import GnuTlsMissing, library

__all__ = ["need_gnutls", "public_key"]


def need_gnutls() -> None:
    """Skip where there is no GnuTLS."""
    try:
        library()
    except GnuTlsMissing as error:
        pytest.skip(str(error))


def public_key(path: Path) -> bytes:
    """SubjectPublicKeyInfo of the private key in a file."""
    key = load_pem_private_key(path.read_bytes(), None)
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
