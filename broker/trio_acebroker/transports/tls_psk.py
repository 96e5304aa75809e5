"""External pre-shared keys for the OpenSSL engine (RFC 8446, 4.2.11; RFC 4279; RFC 9431, 2.2.3).

OpenSSL asks back in the middle of a handshake, in C, and nothing can be awaited there: `find` must know the
answer. What takes time is done before, with the identities of the ClientHello.

OpenSSL goes on without a word when a key is not found or does not fit the suite, with a certificate and an
anonymous client. So asking back proves nothing: `used` is what counts, once the handshake is complete.

Limits of the library: on TLS 1.2 an identity is a C string of 256 octets at most. External keys are of SHA-256,
which is why contexts name suites of SHA-256 first. TLS_ECDHE_PSK_WITH_AES_128_GCM_SHA256 (RFC 8442) is in no
available library.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from OpenSSL import SSL

__all__ = ["IDENTITIES_MAX", "IDENTITY_BYTES_MAX", "KEY_BYTES_MAX", "PreSharedKey", "offer", "take"]

#: largest identity taken, in octets; a whole token may be one
IDENTITY_BYTES_MAX: Final = 16_384
#: identities that one client may try; it can ask a second time, after HelloRetryRequest
IDENTITIES_MAX: Final = 4
KEY_BYTES_MAX: Final = 64

_lib: Any = SSL._lib  # type: ignore[attr-defined]
_ffi: Any = SSL._ffi  # type: ignore[attr-defined]

logger = logging.getLogger("trio_acebroker.tls")


class PreSharedKey:
    """The state of one connection: `find` gives the key of an identity, or None; `asked` is the last one found."""

    __slots__ = ("_left", "asked", "find")

    def __init__(self, find: Callable[[bytes], bytes | None]) -> None:
        self.find = find
        self.asked: bytes | None = None
        self._left = 2 * IDENTITIES_MAX

    def __repr__(self) -> str:
        return "<PreSharedKey>"

    def key(self, identity: bytes) -> bytes | None:
        """The key to use for an identity; notes that it was found."""
        if len(identity) > IDENTITY_BYTES_MAX or not self._left:
            return None
        self._left -= 1
        key = self.find(identity)
        if key is None or not 0 < len(key) <= KEY_BYTES_MAX:
            return None
        self.asked = identity
        return key

    def used(self, connection: SSL.Connection) -> bytes | None:
        """The identity that the complete handshake was made with; None when it was made with a certificate."""
        if self.asked is None:
            return None
        if connection.get_protocol_version() >= SSL.TLS1_3_VERSION:
            # there are no tickets and no resumption: a reused session is an external key
            used = _lib.SSL_session_reused(connection._ssl) == 1
        else:
            used = "PSK" in (connection.get_cipher_name() or "")
        return self.asked if used else None


#: callbacks live as long as the context that calls them
_callbacks: WeakKeyDictionary[SSL.Context, tuple[Any, ...]] = WeakKeyDictionary()


def _state(ssl: Any) -> PreSharedKey | None:
    connection = SSL.Connection._reverse_mapping.get(ssl)
    state = None if connection is None else connection.get_app_data()
    return state if isinstance(state, PreSharedKey) else None


def _guarded(answer: Callable[[], int]) -> int:
    """Nothing may leave a callback but a number."""
    try:
        return answer()
    except Exception:
        logger.exception("a pre-shared key could not be looked up")
        return 0


def take(context: SSL.Context) -> None:
    """Let a server's context take pre-shared keys; each connection needs a PreSharedKey as its app data for that."""

    def find_1_2(ssl: Any, identity: Any, out: Any, out_max: int) -> int:
        def answer() -> int:
            state = _state(ssl)
            if state is None or _lib.SSL_version(ssl) >= SSL.TLS1_3_VERSION:
                return 0
            key = state.key(_ffi.string(identity))
            if key is None or len(key) > out_max:
                return 0
            _ffi.memmove(out, key, len(key))
            return len(key)

        return _guarded(answer)

    def find_1_3(ssl: Any, identity: Any, size: int, session: Any) -> int:
        def answer() -> int:
            session[0] = _ffi.NULL
            state = _state(ssl)
            key = None if state is None else state.key(bytes(_ffi.buffer(identity, size)))
            if key is not None:
                session[0] = _session(key)
            return 1

        return _guarded(answer)

    callback_1_2 = _ffi.callback("unsigned int(SSL*, const char*, unsigned char*, unsigned int)", find_1_2, error=0)
    callback_1_3 = _ffi.callback("int(SSL*, const unsigned char*, size_t, SSL_SESSION**)", find_1_3, error=0)
    _lib.SSL_CTX_set_psk_server_callback(context._context, callback_1_2)
    _lib.SSL_CTX_set_psk_find_session_callback(context._context, callback_1_3)
    _callbacks[context] = (callback_1_2, callback_1_3)


def offer(context: SSL.Context, identity: bytes, key: bytes) -> None:
    """Let a client's context offer one pre-shared key. Raises ValueError for sizes that cannot be used."""
    if not 0 < len(identity) <= IDENTITY_BYTES_MAX or not 0 < len(key) <= KEY_BYTES_MAX:
        raise ValueError("an identity of 1 to 16,384 octets and a key of 1 to 64 are needed")
    kept = _ffi.new("unsigned char[]", identity)

    def use_1_2(ssl: Any, hint: Any, identity_out: Any, identity_max: int, out: Any, out_max: int) -> int:
        if b"\0" in identity or len(identity) + 1 > identity_max or len(key) > out_max:
            return 0
        _ffi.memmove(identity_out, identity + b"\0", len(identity) + 1)
        _ffi.memmove(out, key, len(key))
        return len(key)

    def use_1_3(ssl: Any, digest: Any, identity_out: Any, size_out: Any, session: Any) -> int:
        def answer() -> int:
            session[0] = _session(key)
            identity_out[0] = kept
            size_out[0] = len(identity)
            return 1

        return _guarded(answer)

    callback_1_2 = _ffi.callback(
        "unsigned int(SSL*, const char*, char*, unsigned int, unsigned char*, unsigned int)", use_1_2, error=0
    )
    callback_1_3 = _ffi.callback(
        "int(SSL*, const EVP_MD*, const unsigned char**, size_t*, SSL_SESSION**)", use_1_3, error=0
    )
    _lib.SSL_CTX_set_psk_client_callback(context._context, callback_1_2)
    _lib.SSL_CTX_set_psk_use_session_callback(context._context, callback_1_3)
    _callbacks[context] = (callback_1_2, callback_1_3, kept)


def _session(key: bytes) -> Any:
    """A session of TLS 1.3 and TLS_AES_128_GCM_SHA256 with this key: decoding one is the only way to make one."""
    fields = (
        b"\x02\x01\x01" + b"\x02\x02\x03\x04" + b"\x04\x02\x13\x01" + b"\x04\x00" + b"\x04" + bytes([len(key)]) + key
    )
    encoded = b"\x30" + bytes([len(fields)]) + fields
    octets = _ffi.new("unsigned char[]", encoded)
    position = _ffi.new("unsigned char **", octets)
    session = _lib.d2i_SSL_SESSION(_ffi.NULL, _ffi.cast("const unsigned char **", position), len(encoded))
    if session == _ffi.NULL:
        raise RuntimeError("the TLS library takes no external key")
    return session
