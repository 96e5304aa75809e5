"""PublishRun: PUBLISH frames of QoS 1 or 2 in a row that differ in Packet Identifier and payload only.

    0x32 length topic | identifier | (0x00 empty properties) payload      one frame, `each` octets
    0x32 length topic | identifier | (0x00 empty properties) payload
    ...

All frames are equally long, so that the same octet of all of them is one strided slice of the run. What has to be
done to each frame is done column by column, a few steps for a whole run: read the identifiers, write others,
make the acknowledgements. So is a run of acknowledgements without reason code: four octets each.

Who may send or get such frames is not decided here.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from acebroker_codec.frames import body_start
from acebroker_codec.wire import encode_variable_byte_integer

__all__ = ["RUN_FRAMES_MAX", "PublishRun", "acknowledgements", "run_of_acknowledgements", "run_of_publications"]

#: frames of one run; more follow as another one
RUN_FRAMES_MAX: Final = 64

#: high and low octet of every Two Byte Integer
_HIGH: Final = b"".join(bytes((high,)) * 256 for high in range(256))
_LOW: Final = bytes(range(256)) * 256
#: by count of frames: reads the identifiers of acknowledgements
_IDENTIFIERS: Final = tuple(Struct(">" + "2xH" * count) for count in range(RUN_FRAMES_MAX + 1))
#: by first octet: acknowledgements of nothing
_BLANK: Final = {octet: bytes((octet, 2, 0, 0)) * RUN_FRAMES_MAX for octet in (0x40, 0x50, 0x62, 0x70)}


def acknowledgements(first_octet: int, run: bytes) -> bytes:
    """The answers to a run of acknowledgements: the same identifiers behind another first octet."""
    if len(run) == 4:
        return _BLANK[first_octet][:2] + run[2:]
    answers = bytearray(run)
    count = len(run) >> 2
    answers[0::4] = _BLANK[first_octet][0 : count * 4 : 4]
    return bytes(answers)


def run_of_acknowledgements(data: bytes, pos: int) -> tuple[int, ...]:
    """The Packet Identifiers of the acknowledgements of four octets that begin at `pos` and are all of one type.

    The first of them is known to be whole.
    """
    run = data[pos : pos + 4 * RUN_FRAMES_MAX]
    whole = len(run) >> 2
    # how many first octets, and how many lengths, are like the first
    count = whole - len(run[0 : 4 * whole : 4].lstrip(run[:1]))
    count -= len(run[1 : 4 * count : 4].lstrip(b"\x02"))
    return _IDENTIFIERS[count].unpack_from(run)


def run_of_publications(data: bytes, pos: int, identifier_at: int, end: int, v5: bool) -> PublishRun:
    """The run that begins with the whole PUBLISH in `data[pos:end]`, whose Packet Identifier stands at `identifier_at`.

    Its topic is known to be right. The run ends before a frame with Packet Identifier 0 or (MQTT 5) with properties,
    even if that is the first: then it has no frames.
    """
    each = end - pos
    if identifier_at + 2 + v5 > end:
        return PublishRun(b"", each, identifier_at - pos, v5)
    header = data[pos:identifier_at]
    last = min(len(data), pos + RUN_FRAMES_MAX * each) - each
    while end <= last and data.startswith(header, end):
        end += each
    if v5:
        end -= each * len(data[identifier_at + 2 : end : each].lstrip(b"\0"))
    low = data[identifier_at + 1 : end : each]
    if b"\0" in low:
        high = data[identifier_at:end:each]
        for index in range(len(low)):
            if not low[index] and not high[index]:
                end = pos + index * each
                break
    return PublishRun(data[pos:end], each, identifier_at - pos, v5)


class PublishRun:
    """The frames of a run: `count` of `each` octets, one behind the other in `frames`.

    `identifier_at` is where in each frame its Packet Identifier stands, `v5` whether empty properties follow it.
    """

    __slots__ = ("_first", "_forms", "_renumbered", "count", "each", "frames", "identifier_at", "v5")

    def __init__(self, frames: bytes, each: int, identifier_at: int, v5: bool) -> None:
        self.frames = frames
        self.count = len(frames) // each
        self.each = each
        self.identifier_at = identifier_at
        self.v5 = v5
        self._forms: dict[int, PublishRun] = {}
        self._first = 0
        self._renumbered = b""

    def acknowledgements(self, first_octet: int) -> bytes:
        """PUBACK (0x40) or PUBREC (0x50) for each frame, in one piece."""
        octets = bytearray(_BLANK[first_octet][: 4 * self.count])
        octets[2::4] = self.frames[self.identifier_at :: self.each]
        octets[3::4] = self.frames[self.identifier_at + 1 :: self.each]
        return bytes(octets)

    def split(self) -> list[bytes]:
        """The frames one by one."""
        frames = self.frames
        each = self.each
        return [frames[pos : pos + each] for pos in range(0, len(frames), each)]

    def payloads(self) -> list[bytes]:
        """The Application Messages."""
        frames = self.frames
        each = self.each
        skip = self.identifier_at + (3 if self.v5 else 2)
        return [frames[pos + skip : pos + each] for pos in range(0, len(frames), each)]

    def renumbered(self, first: int) -> bytes:
        """The frames with the Packet Identifiers `first`, `first` + 1 ..., of which none may be above 65,535."""
        if first != self._first:
            octets = bytearray(self.frames)
            stop = first + self.count
            octets[self.identifier_at :: self.each] = _HIGH[first:stop]
            octets[self.identifier_at + 1 :: self.each] = _LOW[first:stop]
            self._first = first
            self._renumbered = bytes(octets)
        return self._renumbered

    def form(self, v5: bool, qos: int) -> PublishRun:
        """The same publications for a receiver of another protocol level or QoS, with Packet Identifiers to be set.

        With QoS 0 there are none.
        """
        if v5 == self.v5 and self.frames[0] == 0x30 | qos << 1:
            return self
        key = qos << 1 | v5
        form = self._forms.get(key)
        if form is None:
            form = self._forms[key] = self._made(v5, qos)
        return form

    def _made(self, v5: bool, qos: int) -> PublishRun:
        topic = self.frames[body_start(self.frames, 0) : self.identifier_at]
        payloads = self.payloads()
        behind = b"\0" * ((2 if qos else 0) + v5)
        length = encode_variable_byte_integer(len(topic) + len(behind) + len(payloads[0]))
        header = bytes((0x30 | qos << 1,)) + length + topic
        lead = header + behind
        return PublishRun(lead + lead.join(payloads), len(lead) + len(payloads[0]), len(header), v5)
