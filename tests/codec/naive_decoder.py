"""A second decoder, written from the text of the standards and as simply as possible, to compare with.

It shares no code and no table with the codec. It consumes a list of octets from the front, knows no
speed, and says nothing about a defect except that there is one. What it gives has the form of
`fields.fields_of`.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["PROPERTY_TABLE", "Incomplete", "Refused", "decode_first", "decode_stream"]


class Refused(Exception):
    """The octets are not what the standard demands."""


class Incomplete(Exception):
    """The packet is longer than what is there."""


#: identifier -> name, type, where it may stand (MQTT 5, table 2-4)
PROPERTY_TABLE = {
    0x01: ("payload_format_indicator", "byte", "publish will"),
    0x02: ("message_expiry_interval", "four", "publish will"),
    0x03: ("content_type", "string", "publish will"),
    0x08: ("response_topic", "string", "publish will"),
    0x09: ("correlation_data", "binary", "publish will"),
    0x0B: ("subscription_identifier", "varint", "publish subscribe"),
    0x11: ("session_expiry_interval", "four", "connect connack disconnect"),
    0x12: ("assigned_client_identifier", "string", "connack"),
    0x13: ("server_keep_alive", "two", "connack"),
    0x15: ("authentication_method", "string", "connect connack auth"),
    0x16: ("authentication_data", "binary", "connect connack auth"),
    0x17: ("request_problem_information", "byte", "connect"),
    0x18: ("will_delay_interval", "four", "will"),
    0x19: ("request_response_information", "byte", "connect"),
    0x1A: ("response_information", "string", "connack"),
    0x1C: ("server_reference", "string", "connack disconnect"),
    0x1F: ("reason_string", "string", "connack puback pubrec pubrel pubcomp suback unsuback disconnect auth"),
    0x21: ("receive_maximum", "two", "connect connack"),
    0x22: ("topic_alias_maximum", "two", "connect connack"),
    0x23: ("topic_alias", "two", "publish"),
    0x24: ("maximum_qos", "byte", "connack"),
    0x25: ("retain_available", "byte", "connack"),
    0x26: (
        "user_property",
        "pair",
        "connect connack publish will puback pubrec pubrel pubcomp "
        "subscribe suback unsubscribe unsuback disconnect auth",
    ),
    0x27: ("maximum_packet_size", "four", "connect connack"),
    0x28: ("wildcard_subscription_available", "byte", "connack"),
    0x29: ("subscription_identifier_available", "byte", "connack"),
    0x2A: ("shared_subscription_available", "byte", "connack"),
}

NEVER_ZERO = {"subscription_identifier", "receive_maximum", "topic_alias", "maximum_packet_size"}

TYPES = """reserved connect connack publish puback pubrec pubrel pubcomp
           subscribe suback unsubscribe unsuback pingreq pingresp disconnect auth"""

NOT_FROM = {
    "client": {"connack", "suback", "unsuback", "pingresp"},
    "server": {"connect", "subscribe", "unsubscribe", "pingreq"},
}

#: the reason codes of MQTT 5 that a packet may carry, in decimal as the tables print them
CODES = {
    "connack": "0 128 129 130 131 132 133 134 135 136 137 138 140 144 149 151 153 154 155 156 157 159",
    "puback": "0 16 128 131 135 144 145 151 153",
    "pubrec": "0 16 128 131 135 144 145 151 153",
    "pubrel": "0 146",
    "pubcomp": "0 146",
    "suback": "0 1 2 128 131 135 143 145 151 158 161 162",
    "unsuback": "0 17 128 131 135 143 145",
    "auth": "0 24 25",
}
DISCONNECT_CODES = {
    "client": "0 4 128 129 130 131 144 147 148 149 150 151 152 153",
    "server": "0 128 129 130 131 135 137 139 140 141 142 143 144 147 148 149 150 151 152 153 "
    "154 155 156 157 158 159 160 161 162",
}


def need(condition: object) -> None:
    if not condition:
        raise Refused


class Octets:
    """What is left of a packet."""

    def __init__(self, data: bytes) -> None:
        self.left = list(data)

    def byte(self) -> int:
        need(self.left)
        return self.left.pop(0)

    def two(self) -> int:
        return self.byte() * 256 + self.byte()

    def four(self) -> int:
        return self.two() * 65536 + self.two()

    def varint(self) -> int:
        digits = [self.byte()]
        while digits[-1] >= 128:
            need(len(digits) < 4)
            digits.append(self.byte())
        need(len(digits) == 1 or digits[-1] != 0)
        return sum((digit % 128) * 128**place for place, digit in enumerate(digits))

    def raw(self) -> bytes:
        return bytes(self.byte() for _ in range(self.two()))

    def binary(self) -> str:
        return self.raw().hex()

    def string(self) -> str:
        octets = self.raw()
        try:
            text = octets.decode("utf-8", "strict")
        except UnicodeDecodeError:
            raise Refused from None
        need(not any(ord(character) == 0 or 0xD800 <= ord(character) <= 0xDFFF for character in text))
        return text

    def pair(self) -> list[str]:
        return [self.string(), self.string()]

    def rest(self) -> bytes:
        taken, self.left = bytes(self.left), []
        return taken

    def properties(self, place: str, sender: str) -> dict[str, Any]:
        length = self.varint()
        need(length <= len(self.left))
        inner = Octets(bytes(self.left[:length]))
        self.left = self.left[length:]
        found: dict[str, Any] = {}
        while inner.left:
            identifier = inner.varint()
            need(identifier in PROPERTY_TABLE)
            name, kind, places = PROPERTY_TABLE[identifier]
            need(place in places.split())
            value = getattr(inner, kind)()
            need(kind != "byte" or value in (0, 1))
            need(name not in NEVER_ZERO or value != 0)
            if name == "response_topic":
                need(is_topic_name(value))
            if name == "user_property" or (place, name) == ("publish", "subscription_identifier"):
                found.setdefault(name, []).append(value)
            else:
                need(name not in found)
                found[name] = value
        # properties that one side alone may use
        if place == "publish" and sender == "client":
            need("subscription_identifier" not in found)
        if place == "disconnect":
            need("session_expiry_interval" not in found or sender == "client")
            need("server_reference" not in found or sender == "server")
        return found


def is_topic_name(text: str) -> bool:
    return 1 <= len(text.encode()) <= 65535 and not re.search(r"[+#\0]", text)


def is_topic_filter(text: str) -> bool:
    shared = re.fullmatch(r"\$share/([^/+#]+)/(.+)", text, re.DOTALL)
    if text.startswith("$share/"):
        if not shared:
            return False
        text = shared[2]
    return re.fullmatch(r"(([^/+#]*|\+)/)*([^/+#]*|\+|#)", text) is not None and text != ""


def decode_first(data: bytes, version: int, sender: str) -> tuple[dict[str, Any], int]:
    """The first packet in `data` and how many octets it has. Raises `Refused` or `Incomplete`."""
    length, place, digits = 0, 1, 0
    while True:
        if 1 + digits >= len(data):
            raise Incomplete
        digit = data[1 + digits]
        digits += 1
        length += (digit % 128) * place
        place *= 128
        if digit < 128:
            need(digits == 1 or digit > 0)
            break
        need(digits < 4)
    end = 1 + digits + length
    if end > len(data):
        raise Incomplete
    kind, flags = TYPES.split()[data[0] // 16], data[0] % 16
    need(kind not in NOT_FROM[sender] | {"reserved"})
    need(version == 5 or kind != "auth")
    need(version == 5 or (kind, sender) != ("disconnect", "server"))
    if kind != "publish":
        allowed = {2} if kind in ("pubrel", "subscribe", "unsubscribe") else {0}
        if version == 3 and allowed == {2}:
            allowed = {2, 10}  # MQTT 3.1 knows a second attempt with DUP
        need(flags in allowed)
    body = Octets(data[1 + digits : end])
    fields = globals()[f"read_{kind}"](body, flags, version, sender, kind)
    need(not body.left)
    return {"type": kind, **fields}, end


def decode_stream(data: bytes, version: int, sender: str) -> tuple[list[dict[str, Any]], str]:
    """All packets in `data` up to the first defect; then "refused", "incomplete" or "done"."""
    found = []
    while data:
        try:
            fields, size = decode_first(data, version, sender)
        except Refused:
            return found, "refused"
        except Incomplete:
            return found, "incomplete"
        found.append(fields)
        data = data[size:]
    return found, "done"


def read_connect(body: Octets, _flags: int, _version: int, _sender: str, _kind: str) -> dict[str, Any]:
    name, level = body.raw(), body.byte()
    need((name, level) in [(b"MQIsdp", 3), (b"MQTT", 4), (b"MQTT", 5)])
    bits = f"{body.byte():08b}"
    has_username, has_password, retain, qos, has_will, clean, reserved = (
        bits[0] == "1",
        bits[1] == "1",
        bits[2] == "1",
        int(bits[3:5], 2),
        bits[5] == "1",
        bits[6] == "1",
        bits[7] == "1",
    )
    need(not reserved or level == 3)
    need(qos < 3)
    if not has_will:
        need(qos == 0)
        need(not retain)
    if level < 5:
        need(has_username or not has_password)
    fields: dict[str, Any] = {"protocol_name": name.decode(), "version": level, "clean_start": clean}
    fields["keep_alive"] = body.two()
    if level == 5:
        properties = fields["properties"] = body.properties("connect", "client")
        need("authentication_method" in properties or "authentication_data" not in properties)
    fields["client_id"] = body.string()
    if has_will:
        will: dict[str, Any] = {"qos": qos, "retain": retain}
        if level == 5:
            will["properties"] = body.properties("will", "client")
        will["topic"] = body.string()
        need(is_topic_name(will["topic"]))
        will["payload_hex"] = body.binary()
        fields["will"] = will
    if has_username and (body.left or level != 3):
        fields["username"] = body.string()
    if has_password and (body.left or level != 3):
        fields["password_hex"] = body.binary()
    return fields


def read_connack(body: Octets, _flags: int, version: int, sender: str, kind: str) -> dict[str, Any]:
    present, code = body.byte(), body.byte()
    need(present in (0, 1))
    need(present == 0 or code == 0)
    fields: dict[str, Any] = {"session_present": present == 1, "reason_code": code}
    if version == 5:
        need(str(code) in CODES[kind].split())
        fields["properties"] = body.properties(kind, sender)
    else:
        need(code <= 5)
    return fields


def read_publish(body: Octets, flags: int, version: int, sender: str, kind: str) -> dict[str, Any]:
    dup, qos, retain = flags >= 8, flags // 2 % 4, flags % 2 == 1
    need(qos != 3)
    need(qos != 0 or not dup)
    fields: dict[str, Any] = {"dup": dup, "qos": qos, "retain": retain, "topic": body.string(), "packet_id": None}
    if qos:
        fields["packet_id"] = body.two()
        need(fields["packet_id"])
    properties = {}
    if version == 5:
        properties = fields["properties"] = body.properties(kind, sender)
    if not (fields["topic"] == "" and "topic_alias" in properties):
        need(is_topic_name(fields["topic"]))
    fields["payload_hex"] = body.rest().hex()
    return fields


def read_puback(body: Octets, _flags: int, version: int, sender: str, kind: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"packet_id": body.two()}
    need(fields["packet_id"])
    if version == 5:
        fields["reason_code"] = body.byte() if body.left else 0
        need(str(fields["reason_code"]) in CODES[kind].split())
        fields["properties"] = body.properties(kind, sender) if body.left else {}
    return fields


read_pubrec = read_pubrel = read_pubcomp = read_puback


def read_subscribe(body: Octets, _flags: int, version: int, sender: str, kind: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"packet_id": body.two(), "filters": []}
    need(fields["packet_id"])
    if version == 5:
        fields["properties"] = body.properties(kind, sender)
    need(body.left)
    while body.left:
        topic_filter, options = body.string(), body.byte()
        need(is_topic_filter(topic_filter))
        entry: dict[str, Any] = {"filter": topic_filter, "qos": options & 3}
        need(options & 3 != 3)
        if version == 5:
            need(options < 64)
            entry["no_local"] = options & 4 == 4
            entry["retain_as_published"] = options & 8 == 8
            entry["retain_handling"] = options // 16
            need(options // 16 != 3)
            need(not (entry["no_local"] and topic_filter.startswith("$share/")))
        else:
            need(options < 4)
        fields["filters"].append(entry)
    return fields


def read_suback(body: Octets, _flags: int, version: int, sender: str, kind: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"packet_id": body.two()}
    need(fields["packet_id"])
    allowed = "0 1 2 128"
    if version == 5:
        fields["properties"] = body.properties(kind, sender)
        allowed = CODES[kind]
    fields["reason_codes"] = list(body.rest())
    need(fields["reason_codes"])
    need(all(str(code) in allowed.split() for code in fields["reason_codes"]))
    return fields


def read_unsubscribe(body: Octets, _flags: int, version: int, sender: str, kind: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"packet_id": body.two(), "filters": []}
    need(fields["packet_id"])
    if version == 5:
        fields["properties"] = body.properties(kind, sender)
    need(body.left)
    while body.left:
        fields["filters"].append(body.string())
    need(all(is_topic_filter(topic_filter) for topic_filter in fields["filters"]))
    return fields


def read_unsuback(body: Octets, flags: int, version: int, sender: str, kind: str) -> dict[str, Any]:
    if version == 5:
        return read_suback(body, flags, version, sender, kind)
    fields = {"packet_id": body.two()}
    need(fields["packet_id"])
    return fields


def read_pingreq(_body: Octets, _flags: int, _version: int, _sender: str, _kind: str) -> dict[str, Any]:
    return {}


read_pingresp = read_pingreq


def read_disconnect(body: Octets, _flags: int, version: int, sender: str, kind: str) -> dict[str, Any]:
    if version < 5:
        return {}
    fields: dict[str, Any] = {"reason_code": body.byte() if body.left else 0}
    need(str(fields["reason_code"]) in DISCONNECT_CODES[sender].split())
    fields["properties"] = body.properties(kind, sender) if body.left else {}
    return fields


def read_auth(body: Octets, _flags: int, _version: int, sender: str, kind: str) -> dict[str, Any]:
    if not body.left:
        return {"reason_code": 0, "properties": {}}
    fields: dict[str, Any] = {"reason_code": body.byte()}
    need(str(fields["reason_code"]) in CODES[kind].split())
    fields["properties"] = body.properties(kind, sender)
    need("authentication_method" in fields["properties"])
    return fields
