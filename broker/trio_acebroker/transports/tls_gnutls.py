"""The TLS engine over GnuTLS, for raw public keys (RFC 7250): TLS 1.2 and 1.3, both directions, exporter.

A raw public key says who the other side is only to somebody who knows the key: the library proves that the other
side holds it, and no more. Servers give it to the stages (`peer_public_key`); clients name the key they expect.

What every context here refuses is the same as in `tls_openssl`: versions below 1.2, renegotiation, tickets and
resumption, early data, suites without forward secrecy or without AEAD; on TLS 1.2 a session without Extended Master
Secret (ACE-2.2.4.2.1-3). X.509 certificates of clients are the other engine's affair: these are not asked for.
"""

from __future__ import annotations

import ipaddress
from functools import partial
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from trio_acebroker.transports.gnutls_library import GnuTls, Wire, library
from trio_acebroker.transports.tls import TlsError, TlsFilesError, WantRead

__all__ = ["GnuTlsContext", "GnuTlsEngine", "client_context", "client_engine", "server_context", "server_engine"]

ALPN: Final = b"mqtt"
_COMMON: Final = (
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-KX-ALL:+ECDHE-ECDSA:+ECDHE-RSA"
    ":-CIPHER-ALL:+AES-128-GCM:+CHACHA20-POLY1305:+AES-256-GCM:-MAC-ALL:+AEAD:-CTYPE-ALL"
)

_SERVER, _CLIENT = 1 << 0, 1 << 1
_NONBLOCK, _NO_TICKETS, _ENABLE_RAWPK = 1 << 3, 1 << 10, 1 << 18
_CRD_CERTIFICATE: Final = 1
_PEM: Final = 1
_X509, _RAWPK = 1, 3
_PEERS: Final = 3
_REQUIRE: Final = 2
_NAME_DNS: Final = 1
_SHUT_WR: Final = 1
_TLS_1_2, _TLS_1_3 = 4, 5
_WARNING, _NO_RENEGOTIATION = 1, 100
#: errors that are none, or that are answered in a way of their own
_AGAIN, _INTERRUPTED, _REHANDSHAKE, _FATAL_ALERT, _PREMATURE = -28, -52, -37, -12, -110
#: octets that the library gives back at most for one record
_RECORD_BYTES_MAX: Final = 16_384


class GnuTlsContext:
    """What the sessions of one listener, or of one client, share. Freed when the last of them is."""

    def __init__(self, gnutls: GnuTls, priorities: str) -> None:
        self.gnutls = gnutls
        ffi, lib = gnutls.ffi, gnutls.lib
        made = ffi.new("gnutls_priority_t *")
        _check(gnutls, lib.gnutls_priority_init(made, priorities.encode(), ffi.NULL))
        self.priorities = ffi.gc(made[0], lib.gnutls_priority_deinit)
        made = ffi.new("gnutls_certificate_credentials_t *")
        _check(gnutls, lib.gnutls_certificate_allocate_credentials(made))
        self.credentials = ffi.gc(made[0], lib.gnutls_certificate_free_credentials)


def server_context(certificate: Path, key: Path) -> GnuTlsContext:
    """What connections to one listener share: it shows its certificate, or the raw public key of it.

    Clients show a raw public key. Raises TlsFilesError, and GnuTlsMissing without the library.
    """
    context = GnuTlsContext(
        library(), f"{_COMMON}:+CTYPE-SRV-X509:+CTYPE-SRV-RAWPK:+CTYPE-CLI-RAWPK:%SERVER_PRECEDENCE"
    )
    key_pem, public_pem = _key(key)
    gnutls = context.gnutls
    chain, private = gnutls.datum(_read(certificate)), gnutls.datum(key_pem)
    code = gnutls.lib.gnutls_certificate_set_x509_key_mem(context.credentials, chain, private, _PEM)
    if code < 0:
        raise TlsFilesError(f"{certificate}: {gnutls.text(gnutls.lib.gnutls_strerror(code))}")
    _show_raw_key(context, key_pem, public_pem)
    return context


def client_context(ca: Path | None = None, *, key: Path | None = None) -> GnuTlsContext:
    """What connections of a client share; with `key` it shows the raw public key of that.

    A server's certificate is verified by `ca`, or the system's CAs, unless the engine is told which key to expect.
    Raises TlsFilesError, and GnuTlsMissing without the library.
    """
    client_type = "X509" if key is None else "RAWPK"
    context = GnuTlsContext(library(), f"{_COMMON}:+CTYPE-SRV-RAWPK:+CTYPE-SRV-X509:+CTYPE-CLI-{client_type}")
    gnutls = context.gnutls
    if ca is None:
        gnutls.lib.gnutls_certificate_set_x509_system_trust(context.credentials)
    else:
        trusted = gnutls.datum(_read(ca))
        code = gnutls.lib.gnutls_certificate_set_x509_trust_mem(context.credentials, trusted, _PEM)
        if code <= 0:
            raise TlsFilesError(f"{ca}: holds no certificate")
    if key is not None:
        _show_raw_key(context, *_key(key))
    return context


def _show_raw_key(context: GnuTlsContext, key_pem: bytes, public_pem: bytes) -> None:
    gnutls = context.gnutls
    null = gnutls.ffi.NULL
    public, private = gnutls.datum(public_pem), gnutls.datum(key_pem)
    code = gnutls.lib.gnutls_certificate_set_rawpk_key_mem(
        context.credentials, public, private, _PEM, null, 0, null, 0, 0
    )
    _check(gnutls, code)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsFilesError(f"{path}: {error.strerror}") from None


def _key(path: Path) -> tuple[bytes, bytes]:
    """A private key, and its public key: PEM."""
    try:
        key = load_pem_private_key(_read(path), None)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), public
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise TlsFilesError(f"{path}: no private key in PEM, or one with a password") from None


def server_engine(context: GnuTlsContext, *, client_key: bool) -> GnuTlsEngine:
    """An engine for one accepted connection. With `client_key` the client has to show a raw public key."""
    engine = GnuTlsEngine(context, _SERVER)
    if client_key:
        context.gnutls.lib.gnutls_certificate_server_set_request(engine.session, _REQUIRE)
    return engine


def client_engine(context: GnuTlsContext, host: str, server_key: bytes | None = None) -> GnuTlsEngine:
    """An engine for one connection to `host`.

    With `server_key`, a SubjectPublicKeyInfo in DER, the server has to prove that key, shown raw or in a
    certificate; nothing else of a certificate counts then. Without, it has to show a certificate for `host`.
    """
    engine = GnuTlsEngine(context, _CLIENT)
    lib = context.gnutls.lib
    name = host.encode("idna")
    if not _is_address(host):
        _check(context.gnutls, lib.gnutls_server_name_set(engine.session, _NAME_DNS, name, len(name)))
    if server_key is None:
        engine.host = context.gnutls.ffi.new("char[]", name)
        lib.gnutls_session_set_verify_cert(engine.session, engine.host, 0)
    else:
        engine.wire.check = partial(_is_key, context.gnutls, _canonical(server_key))
        lib.gnutls_session_set_verify_function(engine.session, context.gnutls.check)
    return engine


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_key(gnutls: GnuTls, expected: bytes, session: Any) -> bool:
    return _peer(gnutls, session)[1] == expected


def _peer(gnutls: GnuTls, session: Any) -> tuple[x509.Certificate | None, bytes | None]:
    """The certificate of the other side, and its public key. Raises ValueError for what is neither."""
    count = gnutls.ffi.new("unsigned int *")
    shown = gnutls.lib.gnutls_certificate_get_peers(session, count)
    if shown == gnutls.ffi.NULL or not count[0]:
        return None, None
    octets = gnutls.octets(shown[0])
    if gnutls.lib.gnutls_certificate_type_get2(session, _PEERS) == _RAWPK:
        return None, _canonical(octets)
    certificate = x509.load_der_x509_certificate(octets)
    return certificate, certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _canonical(public_key: bytes) -> bytes:
    """The one encoding of a SubjectPublicKeyInfo: a key is found by its octets. Raises ValueError."""
    try:
        key = load_der_public_key(public_key)
    except UnsupportedAlgorithm:
        raise ValueError("a public key of an unknown kind") from None
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class GnuTlsEngine:
    """A TlsEngine; and, once the handshake is complete, what the TLS session proves (`ports.TlsSession`)."""

    def __init__(self, context: GnuTlsContext, role: int) -> None:
        gnutls = context.gnutls
        ffi, lib = gnutls.ffi, gnutls.lib
        self._context = context
        self._gnutls = gnutls
        self._is_server = role == _SERVER
        self.wire = Wire()
        self._handle = ffi.new_handle(self.wire)
        #: the name that the library checks a certificate for; it keeps the pointer
        self.host: Any = None
        made = ffi.new("gnutls_session_t *")
        _check(gnutls, lib.gnutls_init(made, role | _NONBLOCK | _NO_TICKETS | _ENABLE_RAWPK))
        self.session = ffi.gc(made[0], lib.gnutls_deinit)
        _check(gnutls, lib.gnutls_priority_set(self.session, context.priorities))
        _check(gnutls, lib.gnutls_credentials_set(self.session, _CRD_CERTIFICATE, context.credentials))
        protocol = gnutls.datum(ALPN)
        _check(gnutls, lib.gnutls_alpn_set_protocols(self.session, protocol, 1, 0))
        lib.gnutls_handshake_set_timeout(self.session, 0)
        lib.gnutls_transport_set_ptr(self.session, self._handle)
        lib.gnutls_transport_set_push_function(self.session, gnutls.push)
        lib.gnutls_transport_set_pull_function(self.session, gnutls.pull)
        self._complete = False
        self._certificate: x509.Certificate | None = None
        self._public_key: bytes | None = None

    # ---- the engine ----

    def handshake(self) -> None:
        """See the port."""
        lib = self._gnutls.lib
        while (code := lib.gnutls_handshake(self.session)) < 0:
            if code in (_AGAIN, _INTERRUPTED):
                raise WantRead
            if lib.gnutls_error_is_fatal(code):
                raise self._failed(code)
        if not self.extended_master_secret:
            raise TlsError("TLS 1.2 without Extended Master Secret")
        if lib.gnutls_session_is_resumed(self.session):
            raise TlsError("a resumed session")
        try:
            certificate, public_key = _peer(self._gnutls, self.session)
        except ValueError:
            raise TlsError("a public key that cannot be read") from None
        if certificate is not None and self._is_server:
            raise TlsError("a client certificate, where a raw public key was asked for")
        self._certificate, self._public_key = certificate, public_key
        self._complete = True

    def read(self, bytes_max: int) -> bytes:
        """See the port."""
        gnutls = self._gnutls
        size = min(bytes_max, _RECORD_BYTES_MAX)
        octets = gnutls.buffer("char[]", size)
        unread = self.wire.unread
        while (got := gnutls.lib.gnutls_record_recv(self.session, octets, size)) < 0:
            if got in (_AGAIN, _INTERRUPTED):
                if not 0 < self.wire.unread < unread:
                    raise WantRead
                unread = self.wire.unread  # it took a message of its own, a ticket or an update of keys: go on
            elif got == _REHANDSHAKE:
                gnutls.lib.gnutls_alert_send(self.session, _WARNING, _NO_RENEGOTIATION)
                raise TlsError("the other side wants to renegotiate")
            elif gnutls.lib.gnutls_error_is_fatal(got):
                raise self._failed(got)
        return bytes(gnutls.ffi.buffer(octets, got))

    def write(self, data: bytes) -> None:
        """See the port."""
        gnutls = self._gnutls
        octets = gnutls.ffi.from_buffer("char[]", data)
        begin = 0
        while begin < len(data):
            sent = gnutls.lib.gnutls_record_send(self.session, octets + begin, len(data) - begin)
            if sent < 0:
                raise self._failed(sent)
            begin += sent

    def close_notify(self) -> None:
        """See the port."""
        _check(self._gnutls, self._gnutls.lib.gnutls_bye(self.session, _SHUT_WR))

    def feed(self, data: bytes) -> None:
        """See the port."""
        if data:
            self.wire.put(data)
        else:
            self.wire.over = True

    def outgoing(self) -> bytes:
        """See the port."""
        if not self.wire.outgoing:
            return b""
        octets = bytes(self.wire.outgoing)
        self.wire.outgoing.clear()
        return octets

    def close(self) -> None:
        """See the port: the library frees with the object."""

    # ---- what the session proves ----

    @property
    def version(self) -> str:
        """`TLSv1.2` or `TLSv1.3`."""
        version = self._gnutls.lib.gnutls_protocol_get_version(self.session)
        return {_TLS_1_2: "TLSv1.2", _TLS_1_3: "TLSv1.3"}.get(version, "")

    @property
    def extended_master_secret(self) -> bool:
        """Whether keys are bound to the whole handshake: always on TLS 1.3, by the extension on 1.2 (RFC 7627)."""
        if self._gnutls.lib.gnutls_protocol_get_version(self.session) == _TLS_1_3:
            return True
        return bool(self._gnutls.lib.gnutls_session_ext_master_secret_status(self.session))

    def export(self, label: bytes, length: int, context: bytes | None) -> bytes:
        """Keying material (RFC 5705, RFC 8446 7.5); None is no context, which on TLS 1.2 differs from an empty one.

        Raises TlsError before the handshake is complete, when the library would give a wrong value on TLS 1.2.
        """
        if not self._complete:
            raise TlsError("no exporter before the handshake is complete")
        gnutls = self._gnutls
        ffi = gnutls.ffi
        out = ffi.new("char[]", length)
        # an empty context is a pointer to nothing, and no context is no pointer
        octets = ffi.NULL if context is None else ffi.new("char[]", context)
        size = 0 if context is None else len(context)
        _check(gnutls, gnutls.lib.gnutls_prf_rfc5705(self.session, len(label), label, size, octets, length, out))
        return bytes(ffi.buffer(out))

    @property
    def peer_certificate_sha256(self) -> bytes | None:
        """Thumbprint of the certificate of the other side (`x5t#S256`), None without one."""
        return None if self._certificate is None else self._certificate.fingerprint(SHA256())

    @property
    def peer_public_key(self) -> bytes | None:
        """SubjectPublicKeyInfo, DER, of the key that the other side has proven to hold; None without one."""
        return self._public_key

    @property
    def psk_identity(self) -> None:
        """None: pre-shared keys are the other engine's affair."""
        return None

    @property
    def alpn(self) -> bytes:
        """The protocol agreed on; empty for none."""
        datum = self._gnutls.ffi.new("gnutls_datum_t *")
        if self._gnutls.lib.gnutls_alpn_get_selected_protocol(self.session, datum) < 0:
            return b""
        return self._gnutls.octets(datum)

    def _failed(self, code: int) -> TlsError:
        """What a fatal error means; and the alert that the other side gets, if it is still there."""
        gnutls = self._gnutls
        if code == _PREMATURE:
            return TlsError("the other side closed without saying so")
        text = gnutls.text(gnutls.lib.gnutls_strerror(code))
        if code == _FATAL_ALERT:
            return TlsError(
                f"{text} {gnutls.text(gnutls.lib.gnutls_alert_get_name(gnutls.lib.gnutls_alert_get(self.session)))}"
            )
        gnutls.lib.gnutls_alert_send_appropriate(self.session, code)
        return TlsError(text)


def _check(gnutls: GnuTls, code: int) -> None:
    if code < 0:
        raise TlsError(gnutls.text(gnutls.lib.gnutls_strerror(code)))
