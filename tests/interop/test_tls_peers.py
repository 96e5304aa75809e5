"""TLS clients of other implementations: OpenSSL's and GnuTLS's commands, Node.js, and raw public keys by two libraries.

Each connects in a process of its own; what it exports must be what the broker exports, and what it has proven is what
the stages see. Debian 12's OpenSSL is 3.0 and knows no raw public keys: where the system's libssl is older than 3.2,
the one that `psycopg-binary` ships takes its place.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from ctypes import CDLL, c_ulong
from pathlib import Path

import pytest
import trio

from acebroker_codec.packets import Publish
from acebroker_middleware.state.ports import TlsSession
from tests.broker.test_tls import connected_over_tls, tls
from tests.broker.transports.gnutls import need_gnutls, public_key
from tests.harness import broker_over_tcp
from tests.interop.conftest import ROOT
from tests.pki import Pki
from trio_acebroker import Broker
from trio_acebroker.config import Listener

LABEL = "EXPORTER-ACE-MQTT-Sign-Challenge"
CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
CONNACK = "20020000"
IDENTITY = '{"cnf":{"jwk":{"kty":"oct","kid":"a"}}}'
KEY = b"k" * 32
VERSIONS = ["TLSv1.2", "TLSv1.3"]
RAW_KEYS_SINCE = 0x30200000


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.issue("broker", "localhost", "127.0.0.1")
    made.issue("device")
    return made


class Keys:
    """One pre-shared key."""

    def find(self, identity: bytes) -> bytes | None:
        return KEY if identity == IDENTITY.encode() else None

    def prepare(self, identities: Sequence[bytes]) -> Mapping[bytes, bytes]:
        return {identity: KEY for identity in identities if self.find(identity)}


@asynccontextmanager
async def listening(pki: Pki, **options: object) -> AsyncIterator[tuple[Broker, int]]:
    listeners = (Listener(port=0, tls=tls(pki, pre_shared_keys=True, **options)),)
    async with broker_over_tcp(listeners=listeners, psk_keys=Keys()) as (broker, address):
        yield broker, address[1]


def need(command: str) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed")


class Peer:
    """What a client in another process said, and what the broker knows of its session."""

    def __init__(self, said: str, tls: TlsSession) -> None:
        self.said = said
        self.tls = tls

    def must_agree(self, version: str) -> None:
        """Version and keys are the same on both sides, with each context that it told."""
        assert self.tls.version == version
        exported = re.findall(r"Key(?:ing)? material(, empty context)?: ([0-9A-Fa-f]{64})\s", self.said)
        assert exported, self.said
        for empty, value in exported:
            ours = self.tls.export(LABEL.encode(), 32, b"" if empty else None)
            assert value.upper() == ours.hex().upper(), self.said


@asynccontextmanager
async def talking(broker: Broker, command: Sequence[str], until: str | None, say: bytes = b"") -> AsyncIterator[Peer]:
    """Run a client until its output matches, or without `until` as long as it takes to be accepted."""
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
    )
    assert process.stdin is not None and process.stdout is not None
    said = b""
    try:
        with trio.fail_after(20):
            while not broker.connections:
                await trio.lowlevel.checkpoint()
            (task,) = broker.connections
            while until is not None and re.search(until.encode(), said, re.DOTALL) is None:
                if say and b"Keying material" in said:
                    await process.stdin.send_all(say)
                    say = b""
                part = await process.stdout.receive_some()
                assert part, said.decode(errors="replace")
                said += part
            while task.conn.tls is None:
                await trio.lowlevel.checkpoint()
        yield Peer(said.decode(errors="replace"), task.conn.tls)
        await process.stdin.aclose()
        with trio.move_on_after(5):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


# ---- OpenSSL's command ----


def s_client(pki: Pki, port: int, version: str, *options: str) -> list[str]:
    need("openssl")
    common = ["-alpn", "mqtt", "-keymatexport", LABEL, "-keymatexportlen", "32", "-connect", f"127.0.0.1:{port}"]
    return ["openssl", "s_client", version.lower().replace("v1.", "1_").replace("tls", "-tls"), *common, *options]


OPENSSL_SAID = r"Keying material: .*\x20\x02\x00\x00"


@pytest.mark.parametrize("version", VERSIONS)
async def test_openssl_with_our_certificate(pki: Pki, version: str) -> None:
    async with listening(pki) as (broker, port):
        command = s_client(pki, port, version, "-CAfile", str(pki.ca), "-verify_return_error")
        async with talking(broker, command, OPENSSL_SAID, CONNECT) as peer:
            peer.must_agree(version)
            assert "ALPN protocol: mqtt" in peer.said
            assert peer.tls.psk_identity is None


@pytest.mark.parametrize("version", VERSIONS)
async def test_openssl_with_a_certificate_of_its_own(pki: Pki, version: str) -> None:
    async with listening(pki, client_ca=str(pki.ca), client_certificate="required") as (broker, port):
        certificate = ["-cert", str(pki.folder / "device.pem"), "-key", str(pki.folder / "device.key")]
        command = s_client(pki, port, version, "-CAfile", str(pki.ca), "-verify_return_error", *certificate)
        async with talking(broker, command, OPENSSL_SAID, CONNECT) as peer:
            peer.must_agree(version)
            assert peer.tls.peer_public_key == public_key(pki.folder / "device.key")


@pytest.mark.parametrize("version", VERSIONS)
async def test_openssl_with_a_pre_shared_key(pki: Pki, version: str) -> None:
    async with listening(pki) as (broker, port):
        shared = ["-psk", KEY.hex(), "-psk_identity", IDENTITY]
        shared += ["-cipher", "ECDHE-PSK-CHACHA20-POLY1305"] if version == "TLSv1.2" else []
        async with talking(broker, s_client(pki, port, version, *shared), OPENSSL_SAID, CONNECT) as peer:
            peer.must_agree(version)
            assert peer.tls.psk_identity == IDENTITY.encode()


# ---- GnuTLS's command ----


def gnutls_cli(port: int, version: str, priority: str, *options: str) -> list[str]:
    need("gnutls-cli")
    common = ["--alpn", "mqtt", "--keymatexport", LABEL, "--keymatexportsize", "32", "--port", str(port), "127.0.0.1"]
    return ["gnutls-cli", f"--priority=NORMAL:-VERS-ALL:+VERS-{version.replace('v', '')}{priority}", *options, *common]


GNUTLS_SAID = "Key material: .*Simple Client Mode"


@pytest.mark.parametrize("version", VERSIONS)
async def test_gnutls_with_our_certificate(pki: Pki, version: str) -> None:
    async with listening(pki) as (broker, port):
        names = ["--x509cafile", str(pki.ca), "--sni-hostname", "localhost", "--verify-hostname", "localhost"]
        async with talking(broker, gnutls_cli(port, version, "", *names), GNUTLS_SAID) as peer:
            peer.must_agree(version)
            assert "The certificate is trusted" in peer.said


async def test_gnutls_with_a_pre_shared_key(pki: Pki) -> None:
    async with listening(pki) as (broker, port):
        shared = ["--pskusername", IDENTITY, "--pskkey", KEY.hex()]
        command = gnutls_cli(port, "TLSv1.3", ":-KX-ALL:+ECDHE-PSK:+DHE-PSK", *shared)
        async with talking(broker, command, GNUTLS_SAID) as peer:
            peer.must_agree("TLSv1.3")
            assert peer.tls.psk_identity == IDENTITY.encode()


async def test_gnutls_with_a_pre_shared_key_on_tls_1_2(pki: Pki) -> None:
    """After the handshake gnutls-cli 3.7.9 crashes as it prints what it knows of the key, and exports nothing."""
    async with listening(pki) as (broker, port):
        shared = ["--pskusername", IDENTITY, "--pskkey", KEY.hex()]
        async with talking(broker, gnutls_cli(port, "TLSv1.2", ":-KX-ALL:+ECDHE-PSK", *shared), None) as peer:
            assert peer.tls.version == "TLSv1.2"
            assert peer.tls.psk_identity == IDENTITY.encode()


# ---- Node.js ----


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shared", [False, True], ids=["certificate", "psk"])
async def test_node(pki: Pki, version: str, shared: bool) -> None:
    need("node")
    script = str(Path(__file__).with_name("tls_node.mjs"))
    async with listening(pki) as (broker, port):
        command = ["node", script, str(port), version, str(pki.ca), *([IDENTITY, KEY.hex()] if shared else [])]
        async with talking(broker, command, rf"received: {CONNACK}") as peer:
            peer.must_agree(version)
            assert "ALPN protocol: mqtt" in peer.said
            assert peer.tls.psk_identity == (IDENTITY.encode() if shared else None)


# ---- raw public keys ----


def gnutls_of_ours() -> str:
    need_gnutls()
    return "gnutls"


def libssl_with_raw_keys() -> str:
    """The system's libssl, or the one of psycopg-binary: whichever is of OpenSSL 3.2 or newer."""
    try:
        version = CDLL("libcrypto.so.3").OpenSSL_version_num
        version.restype = c_ulong
        if version() >= RAW_KEYS_SINCE:
            return "libssl.so.3"
    except OSError:
        pass
    found = importlib.util.find_spec("psycopg_binary")
    if found is not None and found.origin is not None:
        for library in (Path(found.origin).parents[1] / "psycopg_binary.libs").glob("libssl-*.so.3"):
            return str(library)
    pytest.skip("no OpenSSL 3.2 or newer, and no psycopg-binary for this platform")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("library", [gnutls_of_ours, libssl_with_raw_keys])
async def test_raw_public_keys_on_both_sides(pki: Pki, version: str, library: Callable[[], str]) -> None:
    need_gnutls()
    async with listening(pki, raw_public_keys=True) as (broker, port):
        keys = [str(pki.folder / "device.key"), public_key(pki.folder / "broker.key").hex()]
        command = [sys.executable, "-m", "tests.interop.tls_raw_key", library(), str(port), version, *keys]
        async with talking(broker, command, rf"received: {CONNACK}") as peer:
            peer.must_agree(version)
            assert "ALPN protocol: mqtt" in peer.said
            assert peer.tls.peer_public_key == public_key(pki.folder / "device.key")
            assert peer.tls.peer_certificate_sha256 is None


# ---- MQTT on top ----


async def test_mosquitto_over_tls(pki: Pki) -> None:
    need("mosquitto_pub")
    async with broker_over_tcp(listeners=(Listener(port=0, tls=tls(pki)),)) as (_, address):
        async with connected_over_tls(pki, address, "watcher") as watcher:
            await watcher.subscribe("greeting")
            arguments = ["-p", str(address[1]), "--cafile", str(pki.ca), "-t", "greeting", "-m", "hello", "-V", "5"]
            await trio.run_process(["mosquitto_pub", "-h", "localhost", *arguments], env=dict(os.environ))
            await watcher.expect(Publish, payload=b"hello")
