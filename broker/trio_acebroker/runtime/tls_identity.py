"""TlsIdentity: the certificate, key, CAs and CRL of one listener, loaded again without dropping anybody.

Connections keep the context they began with; new ones take the newest. Files that cannot be used change nothing: what
was loaded before stays, and the log says why.
"""

from __future__ import annotations

import logging
from pathlib import Path

from OpenSSL import SSL

from trio_acebroker.config import ConfigError, Tls
from trio_acebroker.transports.base import ByteStream
from trio_acebroker.transports.tls import TlsStream
from trio_acebroker.transports.tls_openssl import TlsFilesError, server_context, server_engine

__all__ = ["TlsIdentity"]

logger = logging.getLogger("trio_acebroker.tls")


class TlsIdentity:
    """What one listener shows its clients. Raises ConfigError where its files cannot be used."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._files = [Path(name) for name in (tls.certificate, tls.key, tls.client_ca, tls.client_crl) if name]
        self._seen = self._look()
        try:
            self._context = self._load()
        except TlsFilesError as error:
            raise ConfigError(str(error)) from None

    def stream(self, below: ByteStream) -> TlsStream:
        """TLS over an accepted connection, which the stream owns from now on."""
        return TlsStream(below, server_engine(self._context))

    def reload(self, *, only_if_changed: bool = False) -> bool:
        """Load the files again; True when they are in use now. What cannot be used is logged, and changes nothing."""
        seen = self._look()
        if only_if_changed and seen == self._seen:
            return False
        self._seen = seen
        try:
            self._context = self._load()
        except TlsFilesError as error:
            logger.error("certificates are not loaded again: %s", error)
            return False
        logger.info("certificates loaded again: %s", self._tls.certificate)
        return True

    def _load(self) -> SSL.Context:
        tls = self._tls
        return server_context(
            Path(tls.certificate),
            Path(tls.key),
            client_ca=Path(tls.client_ca) if tls.client_ca else None,
            client_crl=Path(tls.client_crl) if tls.client_crl else None,
            client_certificate_required=tls.client_certificate == "required",
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
