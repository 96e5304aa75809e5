"""A TLS client that shows a raw public key, in a process of its own, over a library of its own choice.

    python -m tests.interop.tls_raw_key LIBRARY PORT VERSION KEY SERVER_KEY

LIBRARY is `gnutls`, by our own engine, or the file of a libssl of OpenSSL 3.2 or newer. KEY is a private key in PEM,
SERVER_KEY the SubjectPublicKeyInfo, DER in hex, that the server has to prove. Says what it exports, sends CONNECT
(MQTT 3.1.1), and says what comes back. Ends when its standard input does.
"""

from __future__ import annotations

import importlib
import socket
import sys
from pathlib import Path
from typing import Any

from trio_acebroker.transports import tls_gnutls
from trio_acebroker.transports.tls import WantRead

LABEL = b"EXPORTER-ACE-MQTT-Sign-Challenge"
CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"

DECLARATIONS = """
typedef struct ssl_st SSL; typedef struct ssl_ctx_st SSL_CTX; typedef struct evp_pkey_st EVP_PKEY;
const char *OpenSSL_version(int);
const void *TLS_client_method(void);
SSL_CTX *SSL_CTX_new(const void *);
long SSL_CTX_ctrl(SSL_CTX *, int, long, void *);
int SSL_CTX_use_PrivateKey_file(SSL_CTX *, const char *, int);
int SSL_CTX_set1_client_cert_type(SSL_CTX *, const unsigned char *, size_t);
int SSL_CTX_set1_server_cert_type(SSL_CTX *, const unsigned char *, size_t);
int SSL_CTX_set_alpn_protos(SSL_CTX *, const unsigned char *, unsigned int);
void SSL_CTX_set_verify(SSL_CTX *, int, void *);
SSL *SSL_new(SSL_CTX *);
EVP_PKEY *d2i_PUBKEY(EVP_PKEY **, const unsigned char **, long);
int SSL_CTX_dane_enable(SSL_CTX *);
int SSL_dane_enable(SSL *, const char *);
int SSL_add_expected_rpk(SSL *, EVP_PKEY *);
EVP_PKEY *SSL_get0_peer_rpk(const SSL *);
int SSL_set_fd(SSL *, int);
int SSL_connect(SSL *);
int SSL_get_negotiated_client_cert_type(const SSL *);
int SSL_get_negotiated_server_cert_type(const SSL *);
void SSL_get0_alpn_selected(const SSL *, const unsigned char **, unsigned int *);
int SSL_export_keying_material(SSL *, unsigned char *out, size_t, const char *label, size_t,
    const unsigned char *context, size_t, int use_context);
int SSL_write(SSL *, const void *, int);
int SSL_read(SSL *, void *, int);
unsigned long ERR_get_error(void);
void ERR_error_string_n(unsigned long, char *, size_t);
"""
RAW = 2


class OverOpenSsl:
    """A connection by OpenSSL, blocking."""

    def __init__(self, library: Path, sock: socket.socket, version: str, key: Path, server_key: bytes) -> None:
        ffi = self.ffi = importlib.import_module("cffi").FFI()
        ffi.cdef(DECLARATIONS)
        beside = [file for file in library.parent.glob("libcrypto*.so.3") if library.name != "libssl.so.3"]
        self.crypto = ffi.dlopen(str(beside[0]) if beside else "libcrypto.so.3")
        lib = self.lib = ffi.dlopen(str(library))
        print("library:", ffi.string(self.crypto.OpenSSL_version(0)).decode())
        context = lib.SSL_CTX_new(lib.TLS_client_method())
        for bound in (123, 124):  # the lowest, and the highest version
            lib.SSL_CTX_ctrl(context, bound, {"TLSv1.2": 0x303, "TLSv1.3": 0x304}[version], ffi.NULL)
        self.check(lib.SSL_CTX_use_PrivateKey_file(context, str(key).encode(), 1))
        self.check(lib.SSL_CTX_set1_client_cert_type(context, bytes([RAW]), 1))
        self.check(lib.SSL_CTX_set1_server_cert_type(context, bytes([RAW]), 1))
        lib.SSL_CTX_set_alpn_protos(context, b"\x04mqtt", 5)
        lib.SSL_CTX_set_verify(context, 1, ffi.NULL)
        self.check(lib.SSL_CTX_dane_enable(context))  # which expected keys are a case of
        self.ssl: Any = lib.SSL_new(context)
        self.check(lib.SSL_dane_enable(self.ssl, ffi.NULL))
        octets = ffi.new("unsigned char[]", server_key)
        expected = self.crypto.d2i_PUBKEY(ffi.NULL, ffi.new("const unsigned char **", octets), len(server_key))
        self.check(lib.SSL_add_expected_rpk(self.ssl, expected))
        lib.SSL_set_fd(self.ssl, sock.fileno())
        self.check(lib.SSL_connect(self.ssl))
        kinds = lib.SSL_get_negotiated_client_cert_type(self.ssl), lib.SSL_get_negotiated_server_cert_type(self.ssl)
        assert kinds == (RAW, RAW), kinds
        assert lib.SSL_get0_peer_rpk(self.ssl) != ffi.NULL

    def check(self, result: int) -> None:
        if result != 1:
            text = self.ffi.new("char[]", 256)
            self.crypto.ERR_error_string_n(self.crypto.ERR_get_error(), text, 256)
            raise OSError(self.ffi.string(text).decode())

    @property
    def alpn(self) -> bytes:
        octets, size = self.ffi.new("const unsigned char **"), self.ffi.new("unsigned int *")
        self.lib.SSL_get0_alpn_selected(self.ssl, octets, size)
        return bytes(self.ffi.buffer(octets[0], size[0]))

    def export(self, label: bytes, size: int, context: bytes | None) -> bytes:
        out = self.ffi.new("unsigned char[]", size)
        given = self.ffi.NULL if context is None else context
        self.check(
            self.lib.SSL_export_keying_material(
                self.ssl, out, size, label, len(label), given, len(context or b""), context is not None
            )
        )
        return bytes(self.ffi.buffer(out))

    def exchange(self, data: bytes) -> bytes:
        assert self.lib.SSL_write(self.ssl, data, len(data)) == len(data)
        octets = self.ffi.new("char[]", 1_000)
        return bytes(self.ffi.buffer(octets, max(0, self.lib.SSL_read(self.ssl, octets, 1_000))))


class OverGnuTls:
    """A connection by our own engine, blocking."""

    def __init__(self, sock: socket.socket, version: str, key: Path, server_key: bytes) -> None:
        self.sock = sock
        context = tls_gnutls.client_context(key=key)
        other = {"TLSv1.2": "TLS1.3", "TLSv1.3": "TLS1.2"}[version]
        priorities = f"{tls_gnutls._COMMON}:-VERS-{other}:+CTYPE-SRV-RAWPK:+CTYPE-CLI-RAWPK"
        context.priorities = tls_gnutls.GnuTlsContext(context.gnutls, priorities).priorities
        print("library: GnuTLS", context.gnutls.version)
        self.engine = tls_gnutls.client_engine(context, "localhost", server_key)
        self.wait_for(self.engine.handshake)
        assert self.engine.version == version
        assert self.engine.peer_public_key == server_key and self.engine.peer_certificate_sha256 is None
        self.alpn = self.engine.alpn
        self.export = self.engine.export

    def wait_for(self, step: Any) -> Any:
        while True:
            try:
                return step()
            except WantRead:
                self.sock.sendall(self.engine.outgoing())
                self.engine.feed(self.sock.recv(65_536))
            finally:
                self.sock.sendall(self.engine.outgoing())

    def exchange(self, data: bytes) -> bytes:
        self.engine.write(data)
        return bytes(self.wait_for(lambda: self.engine.read(1_000)))


def main() -> None:
    library, port, version, key, server_key = sys.argv[1:]
    with socket.create_connection(("127.0.0.1", int(port))) as sock:
        arguments = sock, version, Path(key), bytes.fromhex(server_key)
        made = OverGnuTls(*arguments) if library == "gnutls" else OverOpenSsl(Path(library), *arguments)
        print("ALPN protocol:", made.alpn.decode())
        print("Keying material, empty context:", made.export(LABEL, 32, b"").hex().upper())
        print("Keying material:", made.export(LABEL, 32, None).hex().upper())
        print("received:", made.exchange(CONNECT).hex(), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
