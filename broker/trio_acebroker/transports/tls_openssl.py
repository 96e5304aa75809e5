"""The TLS engine over OpenSSL, by pyOpenSSL and memory BIOs: TLS 1.2 and 1.3, certificates, mTLS with CRL, exporter.

What every context here refuses: versions below 1.2, renegotiation, session tickets and resumption, early data,
compression; on TLS 1.2 a session without Extended Master Secret (ACE-2.2.4.2.1-3). ALPN is `mqtt`, and a client
without ALPN is served. pyOpenSSL checks no host name by itself: `client_engine` does.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto

from trio_acebroker.transports.tls import TlsError, TlsFilesError, WantRead
from trio_acebroker.transports.tls_psk import PreSharedKey, take

__all__ = ["OpenSslEngine", "client_context", "client_engine", "server_context", "server_engine"]

ALPN: Final = b"mqtt"
#: external pre-shared keys are of SHA-256: a suite of SHA-384 in front would drop them without a word
TLS_1_3_SUITES: Final = b"TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
TLS_1_2_SUITES: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE-PSK-CHACHA20-POLY1305"

_lib: Any = SSL._lib  # type: ignore[attr-defined]
_NO_PARTIAL_WILDCARDS: Final = 4
#: octets that the library gives back at most for one record
_RECORD_BYTES_MAX: Final = 16_384
#: octets taken from a memory BIO at once
_BIO_BYTES_MAX: Final = 65_536


def _context(method: int) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(
        SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | _lib.SSL_OP_NO_RENEGOTIATION
    )
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(
        _lib.SSL_MODE_RELEASE_BUFFERS | _lib.SSL_MODE_ENABLE_PARTIAL_WRITE | _lib.SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
    )
    context.set_cipher_list(TLS_1_2_SUITES)
    if _lib.SSL_CTX_set_ciphersuites(context._context, TLS_1_3_SUITES) != 1:
        raise RuntimeError("the TLS library does not know the suites of TLS 1.3")
    return context


def server_context(
    certificate: Path,
    key: Path,
    *,
    client_ca: Path | None = None,
    client_crl: Path | None = None,
    client_certificate_required: bool = False,
    pre_shared_keys: bool = False,
) -> SSL.Context:
    """What connections to one listener share. Raises TlsFilesError.

    `certificate` is a PEM chain, our own first. With `client_ca`, client certificates of these CAs are asked for; with
    `client_crl`, each is looked up there, and one without a valid CRL of its CA is refused. With `pre_shared_keys`,
    clients may have one instead; see `server_engine`.
    """
    context = _context(SSL.TLS_SERVER_METHOD)
    _use(certificate, context.use_certificate_chain_file)
    _use(key, context.use_privatekey_file)
    if client_ca is not None:
        _use(client_ca, context.load_verify_locations)
        _use(client_ca, lambda path: context.load_client_ca(path.encode()))
        mode = SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if client_certificate_required else 0)
        context.set_verify(mode)
        if client_crl is not None:
            _add_crls(context, client_crl)
    if pre_shared_keys:
        take(context)
        # wanted by the library where it asks for certificates too, as it takes a key for a session
        context.set_session_id(ALPN)
    context.set_alpn_select_callback(lambda _, offered: ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS)
    return context


def _use(path: Path, load: Any) -> None:
    try:
        load(str(path))
    except SSL.Error as error:
        # pyOpenSSL gives (library, function, reason) of each error; reasons tell what was expected, not what was found
        reasons = {str(entry[-1]) for entry in error.args[0]} if error.args and error.args[0] else set()
        raise TlsFilesError(f"{path}: {', '.join(sorted(reasons)) or 'cannot be read'}") from None


def _add_crls(context: SSL.Context, path: Path) -> None:
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise TlsFilesError(f"{path}: {error.strerror}") from None
    store = context.get_cert_store()
    assert store is not None
    marker = b"-----BEGIN X509 CRL-----"
    parts = pem.split(marker)[1:]
    if not parts:
        raise TlsFilesError(f"{path}: holds no CRL")
    for part in parts:
        try:
            store.add_crl(x509.load_pem_x509_crl(marker + part))
        except ValueError:
            raise TlsFilesError(f"{path}: not a CRL") from None
    store.set_flags(crypto.X509StoreFlags.CRL_CHECK)


def client_context(ca: Path | None, *, certificate: Path | None = None, key: Path | None = None) -> SSL.Context:
    """What connections of a client share: servers are verified by `ca`, or the system's CAs. Raises TlsFilesError."""
    context = _context(SSL.TLS_CLIENT_METHOD)
    if ca is None:
        context.set_default_verify_paths()
    else:
        _use(ca, context.load_verify_locations)
    context.set_verify(SSL.VERIFY_PEER)
    if certificate is not None:
        _use(certificate, context.use_certificate_chain_file)
        _use(key if key is not None else certificate, context.use_privatekey_file)
    context.set_alpn_protos([ALPN])
    return context


def server_engine(context: SSL.Context, find_key: Callable[[bytes], bytes | None] | None = None) -> OpenSslEngine:
    """An engine for one accepted connection. `find_key` gives the pre-shared key of an identity, and must not wait."""
    connection = SSL.Connection(context, None)
    connection.set_accept_state()
    return OpenSslEngine(connection, None if find_key is None else PreSharedKey(find_key))


def client_engine(context: SSL.Context, host: str) -> OpenSslEngine:
    """An engine for one connection to `host`, whose name or address the certificate must hold.

    With a key offered by `tls_psk.offer`, the server may answer by that instead: then it has proven to hold it.
    """
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    parameters = _lib.SSL_get0_param(connection._ssl)
    _lib.X509_VERIFY_PARAM_set_hostflags(parameters, _NO_PARTIAL_WILDCARDS)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        connection.set_tlsext_host_name(name)
        done = _lib.X509_VERIFY_PARAM_set1_host(parameters, name, len(name))
    else:
        done = _lib.X509_VERIFY_PARAM_set1_ip(parameters, address.packed, len(address.packed))
    if done != 1:
        raise ValueError(f"{host!r} cannot be checked against a certificate")
    return OpenSslEngine(connection)


class OpenSslEngine:
    """A TlsEngine; and, once the handshake is complete, what the TLS session proves (`ports.TlsSession`)."""

    def __init__(self, connection: SSL.Connection, pre_shared_key: PreSharedKey | None = None) -> None:
        self._connection = connection
        self._pre_shared_key = pre_shared_key
        connection.set_app_data(pre_shared_key)
        self._complete = False

    # ---- the engine ----

    def handshake(self) -> None:
        """See the port."""
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            raise WantRead from None
        except SSL.Error as error:
            raise _failed(error) from None
        if not self.extended_master_secret:
            raise TlsError("TLS 1.2 without Extended Master Secret")
        self._complete = True

    def read(self, bytes_max: int) -> bytes:
        """See the port."""
        try:
            return self._connection.recv(min(bytes_max, _RECORD_BYTES_MAX))
        except SSL.WantReadError:
            raise WantRead from None
        except SSL.ZeroReturnError:
            return b""
        except SSL.Error as error:
            raise _failed(error) from None

    def write(self, data: bytes) -> None:
        """See the port."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._connection.send(view) :]
        except SSL.Error as error:
            raise _failed(error) from None

    def close_notify(self) -> None:
        """See the port."""
        try:
            self._connection.shutdown()
        except SSL.Error as error:
            raise _failed(error) from None

    def feed(self, data: bytes) -> None:
        """See the port."""
        if data:
            self._connection.bio_write(data)
        else:
            self._connection.bio_shutdown()

    def outgoing(self) -> bytes:
        """See the port."""
        parts: list[bytes] = []
        try:
            while True:
                part = self._connection.bio_read(_BIO_BYTES_MAX)
                if len(part) < _BIO_BYTES_MAX and not parts:
                    return part  # all of it
                parts.append(part)
        except SSL.WantReadError:
            return b"".join(parts)

    def close(self) -> None:
        """See the port: the library frees with the object."""

    # ---- what the session proves ----

    @property
    def version(self) -> str:
        """`TLSv1.2` or `TLSv1.3`."""
        return self._connection.get_protocol_version_name()

    @property
    def extended_master_secret(self) -> bool:
        """Whether keys are bound to the whole handshake: always on TLS 1.3, by the extension on 1.2 (RFC 7627)."""
        if self._connection.get_protocol_version() >= SSL.TLS1_3_VERSION:
            return True
        return bool(_lib.SSL_get_extms_support(self._connection._ssl) == 1)

    def export(self, label: bytes, length: int, context: bytes | None) -> bytes:
        """Keying material (RFC 5705, RFC 8446 7.5); None is no context, which on TLS 1.2 differs from an empty one.

        Raises TlsError before the handshake is complete, when the library would give a wrong value on TLS 1.2.
        """
        if not self._complete:
            raise TlsError("no exporter before the handshake is complete")
        return self._connection.export_keying_material(label, length, context)

    @property
    def peer_certificate_sha256(self) -> bytes | None:
        """Thumbprint of the verified certificate of the other side (`x5t#S256`), None without one."""
        certificate = self._certificate()
        return None if certificate is None else certificate.fingerprint(SHA256())

    @property
    def peer_public_key(self) -> bytes | None:
        """SubjectPublicKeyInfo, DER, of that certificate."""
        certificate = self._certificate()
        if certificate is None:
            return None
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def psk_identity(self) -> bytes | None:
        """Identity of the pre-shared key that both sides have proven to hold; None without one."""
        if self._pre_shared_key is None or not self._complete:
            return None
        return self._pre_shared_key.used(self._connection)

    @property
    def alpn(self) -> bytes:
        """The protocol agreed on; empty for none."""
        return self._connection.get_alpn_proto_negotiated()

    def _certificate(self) -> x509.Certificate | None:
        return self._connection.get_peer_certificate(as_cryptography=True) if self._complete else None


def _failed(error: SSL.Error) -> TlsError:
    if isinstance(error, SSL.SysCallError):
        return TlsError("the other side closed without saying so")
    reasons = {str(entry[-1]) for entry in error.args[0]} if error.args and error.args[0] else set()
    return TlsError(", ".join(sorted(reasons)) or type(error).__name__)
