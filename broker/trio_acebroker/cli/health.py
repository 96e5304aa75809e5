"""`trio-acebroker health`: does a broker answer? For containers and supervisors.

Connects over TCP as an MQTT 3.1.1 client without credentials and sends CONNECT. A broker that refuses
it (CONNACK with a Return code: who may connect is its own business) is alive; one that accepts it must
answer a PINGREQ too. Opens no session, and leaves by DISCONNECT.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator

import click

from acebroker_codec import packets as p
from acebroker_codec.decoder import Decoder
from acebroker_codec.encoder import encode
from acebroker_codec.errors import MqttError
from trio_acebroker.cli.address import parse_address
from trio_acebroker.config import address_text

__all__ = ["NotAlive", "ask", "command"]

VERSION = p.ProtocolVersion.MQTT_3_1_1


class NotAlive(Exception):
    """Nobody answered as a broker does; the message says how it failed."""


@click.command("health")
@click.option(
    "--address",
    type=parse_address,
    default="127.0.0.1:1883",
    show_default=True,
    metavar="HOST:PORT",
    help="Where the broker listens.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds, for all of it.",
)
def command(address: tuple[str, int], timeout: float) -> None:
    """Ask a broker whether it is alive: exit status 0 or 1."""
    try:
        answer = ask(*address, timeout)
    except NotAlive as error:
        click.echo(f"not alive: {address_text(*address)}: {error}", err=True)
        sys.exit(1)
    click.echo(f"alive: {address_text(*address)}: {answer}")


def ask(host: str, port: int, timeout_seconds: float) -> str:
    """Ask once; returns what was answered. Raises NotAlive."""
    deadline = time.monotonic() + timeout_seconds
    try:
        with socket.create_connection((host, port), timeout_seconds) as connection:
            packets = _packets(connection, deadline)
            connection.sendall(encode(p.Connect(version=VERSION), VERSION))
            connack = next(packets)
            if not isinstance(connack, p.Connack):
                raise NotAlive(f"answered CONNECT by {type(connack).__name__.upper()}")
            if connack.reason_code:
                return f"refuses clients without credentials (Connect Return code {connack.reason_code})"
            connection.sendall(encode(p.Pingreq(), VERSION))
            if not isinstance(answer := next(packets), p.Pingresp):
                raise NotAlive(f"answered PINGREQ by {type(answer).__name__.upper()}")
            connection.sendall(encode(p.Disconnect(), VERSION))
            return "accepts clients, answers PINGREQ"
    except TimeoutError:
        raise NotAlive(f"no answer within {timeout_seconds:g} s") from None
    except OSError as error:
        raise NotAlive(error.strerror or str(error)) from None


def _packets(connection: socket.socket, deadline: float) -> Iterator[p.Packet]:
    """What arrives, decoded; raises NotAlive where the stream ends or is not MQTT, TimeoutError at the deadline."""
    decoder = Decoder(packet_bytes_max=1024, version=VERSION, role="client")
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        connection.settimeout(remaining)
        octets = connection.recv(1024)
        if not octets:
            raise NotAlive("closed the connection without an answer")
        for found in decoder.feed(octets):
            if isinstance(found, MqttError):
                raise NotAlive(f"does not speak MQTT: {found.detail}")
            yield found
