"""TlsIdentity: what one listener shows its clients, and takes from them.

A client's first octets say what it offers; identities of pre-shared keys are looked up before the handshake goes on.
Certificate, key, CAs and CRL are loaded again without dropping anybody.

Connections keep the context they began with; new ones take the newest. Files that cannot be used change nothing: what
was loaded before stays, and the log says why.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from OpenSSL import SSL

from acebroker_middleware.state.ports import PskKeys
from trio_acebroker.config import ConfigError, Tls
from trio_acebroker.transports import tls_gnutls, tls_openssl
from trio_acebroker.transports.base import ByteStream
from trio_acebroker.transports.client_hello import ClientHello
from trio_acebroker.transports.gnutls_library import GnuTlsMissing
from trio_acebroker.transports.tls import TlsEngine, TlsError, TlsFilesError
from trio_acebroker.transports.tls_accept import AcceptedTlsStream
from trio_acebroker.transports.tls_gnutls import GnuTlsContext
from trio_acebroker.transports.tls_psk import IDENTITIES_MAX, IDENTITY_BYTES_MAX

__all__ = ["TlsIdentity"]

logger = logging.getLogger("trio_acebroker.tls")


class _Contexts(NamedTuple):
    """One loading of the files, for each engine."""

    openssl: SSL.Context
    gnutls: GnuTlsContext | None


class TlsIdentity:
    """The certificate, key, CAs and CRL of one listener, and the keys that it shares with clients.

    Raises ConfigError where its files cannot be used.
    """

    def __init__(self, tls: Tls, client_hello_bytes_max: int, psk_keys: PskKeys | None = None) -> None:
        if tls.pre_shared_keys and psk_keys is None:
            raise ConfigError("tls.pre_shared_keys: nothing in this configuration knows such keys")
        self._tls = tls
        self._client_hello_bytes_max = client_hello_bytes_max
        self._psk_keys = psk_keys if tls.pre_shared_keys else None
        self._files = [Path(name) for name in (tls.certificate, tls.key, tls.client_ca, tls.client_crl) if name]
        self._seen = self._look()
        try:
            self._contexts = self._load()
        except TlsFilesError as error:
            raise ConfigError(str(error)) from None
        except GnuTlsMissing as error:
            raise ConfigError(f"tls.raw_public_keys: {error}") from None

    def stream(self, below: ByteStream) -> AcceptedTlsStream:
        """TLS over an accepted connection, which the stream owns from now on."""
        return AcceptedTlsStream(below, self._engine, self._client_hello_bytes_max)

    async def _engine(self, hello: ClientHello) -> TlsEngine:
        """By pre-shared key where we know one, else by raw public key where one is offered, else by certificate."""
        keys = self._psk_keys
        find: Callable[[bytes], bytes | None] | None = None
        if keys is not None:
            identities = [one for one in hello.psk_identities[:IDENTITIES_MAX] if len(one) <= IDENTITY_BYTES_MAX]
            found = await self._look_up(keys, identities) if identities else {}
            find = partial(_find, keys, found)
            if found:
                return tls_openssl.server_engine(self._contexts.openssl, find)
        gnutls = self._contexts.gnutls
        if gnutls is not None:
            # who could show a certificate as well, where those are taken, says which it would rather
            if hello.prefers_raw_public_key or (hello.shows_raw_public_key and self._tls.client_ca is None):
                return tls_gnutls.server_engine(gnutls, client_key=True)
            if hello.needs_raw_public_key and self._tls.client_certificate != "required":
                return tls_gnutls.server_engine(gnutls, client_key=False)
        return tls_openssl.server_engine(self._contexts.openssl, find)

    @staticmethod
    async def _look_up(keys: PskKeys, identities: list[bytes]) -> Mapping[bytes, bytes]:
        try:
            prepared = keys.prepare(identities)
            return await prepared if inspect.isawaitable(prepared) else prepared
        except Exception:
            logger.exception("pre-shared keys could not be looked up")
            raise TlsError("pre-shared keys could not be looked up") from None

    def reload(self, *, only_if_changed: bool = False) -> bool:
        """Load the files again; True when they are in use now. What cannot be used is logged, and changes nothing."""
        seen = self._look()
        if only_if_changed and seen == self._seen:
            return False
        self._seen = seen
        try:
            self._contexts = self._load()
        except TlsFilesError as error:
            logger.error("certificates are not loaded again: %s", error)
            return False
        logger.info("certificates loaded again: %s", self._tls.certificate)
        return True

    def _load(self) -> _Contexts:
        tls = self._tls
        certificate, key = Path(tls.certificate), Path(tls.key)
        return _Contexts(
            tls_openssl.server_context(
                certificate,
                key,
                client_ca=Path(tls.client_ca) if tls.client_ca else None,
                client_crl=Path(tls.client_crl) if tls.client_crl else None,
                client_certificate_required=tls.client_certificate == "required",
                pre_shared_keys=tls.pre_shared_keys,
            ),
            tls_gnutls.server_context(certificate, key) if tls.raw_public_keys else None,
        )

    def _look(self) -> list[tuple[int, int, int] | None]:
        """What tells that a file is another one."""
        seen: list[tuple[int, int, int] | None] = []
        for path in self._files:
            try:
                status = path.stat()
            except OSError:
                seen.append(None)
            else:
                seen.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return seen


def _find(keys: PskKeys, found: Mapping[bytes, bytes], identity: bytes) -> bytes | None:
    return found.get(identity) or keys.find(identity)
