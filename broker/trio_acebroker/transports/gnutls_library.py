"""The system's libgnutls, by cffi and without a compiler: what of it is called, and how octets get in and out.

Only raw public keys need it. Nothing is loaded before `library` is called, and that says what is missing. The
declarations are those of GnuTLS 3.6.6 and newer.
"""

from __future__ import annotations

import ctypes.util
import errno
import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, Final

__all__ = ["GnuTls", "GnuTlsMissing", "Wire", "library"]

_DECLARATIONS: Final = """
typedef struct gnutls_session_int *gnutls_session_t;
typedef struct gnutls_priority_st *gnutls_priority_t;
typedef struct gnutls_certificate_credentials_st *gnutls_certificate_credentials_t;
typedef struct { unsigned char *data; unsigned int size; } gnutls_datum_t;

const char *gnutls_check_version(const char *required);
const char *gnutls_strerror(int error);
int gnutls_error_is_fatal(int error);
int gnutls_alert_get(gnutls_session_t);
const char *gnutls_alert_get_name(int alert);
int gnutls_alert_send(gnutls_session_t, int level, int description);
int gnutls_alert_send_appropriate(gnutls_session_t, int error);

int gnutls_priority_init(gnutls_priority_t *, const char *priorities, const char **error_position);
void gnutls_priority_deinit(gnutls_priority_t);
int gnutls_certificate_allocate_credentials(gnutls_certificate_credentials_t *);
void gnutls_certificate_free_credentials(gnutls_certificate_credentials_t);
int gnutls_certificate_set_x509_key_mem(gnutls_certificate_credentials_t, const gnutls_datum_t *certificate,
    const gnutls_datum_t *key, int format);
int gnutls_certificate_set_x509_trust_mem(gnutls_certificate_credentials_t, const gnutls_datum_t *ca, int format);
int gnutls_certificate_set_x509_system_trust(gnutls_certificate_credentials_t);
int gnutls_certificate_set_rawpk_key_mem(gnutls_certificate_credentials_t, const gnutls_datum_t *spki,
    const gnutls_datum_t *key, int format, const char *password, unsigned int key_usage, const char **names,
    unsigned int names_count, unsigned int flags);

int gnutls_init(gnutls_session_t *, unsigned int flags);
void gnutls_deinit(gnutls_session_t);
int gnutls_priority_set(gnutls_session_t, gnutls_priority_t);
int gnutls_credentials_set(gnutls_session_t, int kind, void *credentials);
void gnutls_certificate_server_set_request(gnutls_session_t, int request);
void gnutls_session_set_verify_function(gnutls_session_t, int (*)(gnutls_session_t));
void gnutls_session_set_verify_cert(gnutls_session_t, const char *host, unsigned int flags);
int gnutls_server_name_set(gnutls_session_t, int kind, const void *name, size_t size);
int gnutls_alpn_set_protocols(gnutls_session_t, const gnutls_datum_t *names, unsigned int count, unsigned int flags);
void gnutls_handshake_set_timeout(gnutls_session_t, unsigned int milliseconds);
void gnutls_transport_set_ptr(gnutls_session_t, void *);
void *gnutls_transport_get_ptr(gnutls_session_t);
void gnutls_transport_set_push_function(gnutls_session_t, ssize_t (*)(void *, const void *, size_t));
void gnutls_transport_set_pull_function(gnutls_session_t, ssize_t (*)(void *, void *, size_t));

int gnutls_handshake(gnutls_session_t);
ssize_t gnutls_record_recv(gnutls_session_t, void *, size_t);
ssize_t gnutls_record_send(gnutls_session_t, const void *, size_t);
int gnutls_bye(gnutls_session_t, int how);

int gnutls_protocol_get_version(gnutls_session_t);
unsigned int gnutls_session_ext_master_secret_status(gnutls_session_t);
int gnutls_session_is_resumed(gnutls_session_t);
int gnutls_alpn_get_selected_protocol(gnutls_session_t, gnutls_datum_t *);
int gnutls_certificate_type_get2(gnutls_session_t, int whose);
const gnutls_datum_t *gnutls_certificate_get_peers(gnutls_session_t, unsigned int *count);
int gnutls_prf_rfc5705(gnutls_session_t, size_t label_size, const char *label, size_t context_size,
    const char *context, size_t size, char *out);
"""

#: the versions of libgnutls with this number have one ABI
_SONAME: Final = "libgnutls.so.30"
#: the first version with raw public keys
_VERSION_MIN: Final = b"3.6.6"


class GnuTlsMissing(Exception):
    """There is no libgnutls that can be used, or no cffi; the message says which."""


class Wire:
    """The octets of one session, in both directions, and who checks its peer in the middle of the handshake.

    The library has a handle of this, which is held by the engine. Nothing here holds either: a circle would keep all
    of it until the collector comes.
    """

    __slots__ = ("_position", "check", "incoming", "outgoing", "over")

    def __init__(self) -> None:
        self.incoming = bytearray()
        self._position = 0
        #: nothing more will come in
        self.over = False
        self.outgoing = bytearray()
        #: given the session; False refuses the peer
        self.check: Callable[[Any], bool] = lambda session: False

    @property
    def unread(self) -> int:
        """How many octets of what came in were not taken yet."""
        return len(self.incoming) - self._position

    def take(self, size: int) -> memoryview:
        """At most so many octets of what came in."""
        begin = self._position
        self._position = min(begin + size, len(self.incoming))
        return memoryview(self.incoming)[begin : self._position]

    def put(self, data: bytes) -> None:
        """Octets came in."""
        if self._position:
            del self.incoming[: self._position]
            self._position = 0
        self.incoming += data


class GnuTls:
    """The library and cffi's view of it, and the callbacks that it calls for every session."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self.ffi = ffi
        self.lib = lib
        #: makes memory for octets that will be written over
        self.buffer: Any = ffi.new_allocator(should_clear_after_alloc=False)

        def push(handle: Any, data: Any, size: int) -> int:
            ffi.from_handle(handle).outgoing += ffi.buffer(data, size)
            return size

        def pull(handle: Any, data: Any, size: int) -> int:
            wire: Wire = ffi.from_handle(handle)
            taken = wire.take(size)
            if not taken and not wire.over:
                ffi.errno = errno.EAGAIN
                return -1
            ffi.memmove(data, taken, len(taken))
            return len(taken)

        def check(session: Any) -> int:
            wire: Wire = ffi.from_handle(lib.gnutls_transport_get_ptr(session))
            return 0 if wire.check(session) else -1

        self.push = ffi.callback("ssize_t(void *, const void *, size_t)", push, error=-1)
        self.pull = ffi.callback("ssize_t(void *, void *, size_t)", pull, error=-1)
        self.check = ffi.callback("int(gnutls_session_t)", check, error=-1)

    @property
    def version(self) -> str:
        """As the library says it."""
        return self.text(self.lib.gnutls_check_version(self.ffi.NULL))

    def text(self, pointer: Any) -> str:
        """A constant string of the library."""
        return "" if pointer == self.ffi.NULL else str(self.ffi.string(pointer).decode("ascii", "replace"))

    def datum(self, data: bytes) -> Any:
        """`data` as the library takes it; what it keeps, it copies."""
        octets = self.ffi.from_buffer("unsigned char[]", data)
        made = self.ffi.new("gnutls_datum_t *", (octets, len(data)))
        return self.ffi.gc(made, lambda _: octets)  # which lives as long

    def octets(self, datum: Any) -> bytes:
        """A copy of what the library shows."""
        return bytes(self.ffi.buffer(datum.data, datum.size))


@cache
def library() -> GnuTls:
    """The library, loaded once. Raises GnuTlsMissing."""
    try:
        ffi = importlib.import_module("cffi").FFI()
    except ImportError:
        raise GnuTlsMissing("cffi is not installed (it comes with trio-acebroker[rpk])") from None
    ffi.cdef(_DECLARATIONS)
    try:
        lib = ffi.dlopen(_SONAME)
    except OSError:
        try:
            lib = ffi.dlopen(ctypes.util.find_library("gnutls") or "libgnutls")
        except OSError:
            raise GnuTlsMissing(f"{_SONAME} is not installed (Debian: libgnutls30)") from None
    try:
        if lib.gnutls_check_version(_VERSION_MIN) == ffi.NULL:
            raise GnuTlsMissing(f"{_SONAME} is older than {_VERSION_MIN.decode()}, which brought raw public keys")
        return GnuTls(ffi, lib)
    except AttributeError as error:
        raise GnuTlsMissing(f"{_SONAME} lacks a function: {error}") from None
