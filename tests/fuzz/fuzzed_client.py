"""FuzzedClient: one connection that sends any octets, and judges what the broker makes of them."""

from __future__ import annotations

from typing import Any

from trio.testing import wait_all_tasks_blocked

from acebroker_codec import packets as p
from acebroker_codec.decoder import Decoder
from acebroker_codec.encoder import encode
from tests.codec import naive_decoder
from tests.fuzz.wires import Wire

__all__ = ["FuzzedClient"]

#: octets that one client sends: so many fit into its pipe, and the model reads them in time
SENT_BYTES_MAX = 20_000
#: shorter than any DISCONNECT or refusing CONNACK: nothing can be said to a client that takes no more
_PACKET_BYTES_MIN = 8
#: what a DISCONNECT of the broker may say here: never 0x80 or 0x83, which are our own failures
_REASONS = {0x81, 0x82, 0x87, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x97}


class FuzzedClient:
    """Owns its wire. Never waits: what does not fit is not sent.

    `told` is False where the broker may give up before its last words were read.
    """

    def __init__(self, wire: Wire, *, told: bool) -> None:
        self._wire = wire
        self._told = told
        self._sent = bytearray()
        self._received = bytearray()
        self._decoder: Decoder | None = None
        self._unanswered: list[Any] = []
        self._cut = False
        #: by the broker
        self._closed = False
        #: the broker has not seen all that was sent
        self._unseen = False

    def send(self, octets: bytes) -> None:
        """Send as much as fits."""
        octets = octets[: SENT_BYTES_MAX - len(self._sent)]
        if octets and not self._cut:
            self._sent += octets[: self._wire.put(octets)]
            self._unseen = True

    @property
    def ended(self) -> bool:
        """Whether the client has seen that the broker closed."""
        return self._closed

    def had_its_turn(self) -> None:
        """The broker had time to take what was sent, and to answer."""
        self._unseen = self._unseen and self._wire.unread
        if self._told:
            self.read()

    def read(self) -> None:
        """Take what has come."""
        if self._cut:
            return
        octets = self._wire.take()
        self._received += octets
        self._closed = self._closed or self._wire.ended
        if self._decoder is None and (version := self._version()) is not None:
            self._decoder = Decoder(version=version, role="client")
        if self._decoder is not None:
            self._unanswered += self._decoder.feed(octets)

    def acknowledge(self) -> None:
        """Answer what has come as the standard wants it."""
        self.read()
        if self._decoder is not None and self._decoder.version is not None:
            for packet in self._unanswered:
                self._answer(packet, self._decoder.version)
        self._unanswered.clear()

    def _answer(self, packet: Any, version: p.ProtocolVersion) -> None:
        match packet:
            case p.Publish(qos=1):
                self.send(encode(p.Puback(packet.packet_identifier), version))
            case p.Publish(qos=2):
                self.send(encode(p.Pubrec(packet.packet_identifier), version))
            case p.Pubrec() if packet.reason_code < 0x80:
                self.send(encode(p.Pubrel(packet.packet_identifier), version))
            case p.Pubrel():
                self.send(encode(p.Pubcomp(packet.packet_identifier), version))

    def cut(self) -> None:
        """End the connection as a network does; harmless when repeated."""
        self.read()
        self._cut = True
        self._wire.cut()

    def _connect(self) -> dict[str, Any] | None:
        try:
            fields, _ = naive_decoder.decode_first(bytes(self._sent), 5, "client")
        except (naive_decoder.Refused, naive_decoder.Incomplete):
            return None
        return fields if fields["type"] == "connect" else None

    def _version(self) -> p.ProtocolVersion | None:
        connect = self._connect()
        return None if connect is None else p.ProtocolVersion(connect["version"])

    async def end(self) -> None:
        """Cut the connection if it is still there, and judge."""
        if not self._cut:
            length = -1
            while length < len(self._received):
                length = len(self._received)
                self.read()
                await wait_all_tasks_blocked()
            self.cut()
        connect = self._connect()
        if connect is None:
            # not MQTT of any version, or not yet: what can be said is a CONNACK of MQTT 3, and that it is over
            assert bytes(self._received) in (b"", b"\x20\x02\x00\x01"), f"answered {self._received.hex()}"
            refused = self._verdict(4) == "refused"
            assert self._closed or self._unseen or not refused, "what is no CONNECT was let pass"
            return
        version = connect["version"]
        answers, verdict = naive_decoder.decode_stream(bytes(self._received), version, "server")
        assert verdict == "done" or (verdict == "incomplete" and not (self._told and self._closed)), (
            f"sent to the client: {verdict} after {answers[-1:]}"
        )
        self._judge(connect, answers)

    def _verdict(self, version: int) -> str:
        return naive_decoder.decode_stream(bytes(self._sent), version, "client")[1]

    def _judge(self, connect: dict[str, Any], answers: list[dict[str, Any]]) -> None:
        said = [each["type"] for each in answers]
        assert not said or said[0] == "connack", f"the first answer is {said[0]}"
        assert said.count("connack") <= 1, "two CONNACK"
        assert "disconnect" not in said[:-1], "something was sent after DISCONNECT"
        version = connect["version"]
        sent, verdict = naive_decoder.decode_stream(bytes(self._sent), version, "client")
        if not self._closed:
            assert self._unseen or verdict != "refused", "what the standard forbids was let pass"
            return
        if version != 5 or not self._told or connect["properties"].get("maximum_packet_size", 100) < _PACKET_BYTES_MIN:
            return
        if any(packet["type"] == "disconnect" for packet in sent):
            return  # it said goodbye itself, or nearly
        if said and answers[0]["reason_code"] == 0:
            last = answers[-1]
            assert last["type"] == "disconnect", f"the end was not told; the last word was {last}"
            assert last["reason_code"] in _REASONS, f"the reason was {last['reason_code']:#04x}"
        else:
            assert said == ["connack"] or not said, f"refused with {answers}"
