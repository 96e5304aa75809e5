"""Packets as plain dictionaries, so that ours, the naive decoder's and the vectors' can be compared.

The names are those of the vector files. `properties` become a dictionary: name -> value, or -> the
list of values in wire order for the two that may repeat; octets are written as hex.
"""

from __future__ import annotations

from typing import Any

from acebroker_codec.packets import Packet, PacketType, ProtocolVersion, Publish, Will

__all__ = ["fields_of", "properties_of_vector"]

_NAMES = {
    "client_identifier": "client_id",
    "packet_identifier": "packet_id",
    "user_properties": "user_property",
    "subscription_identifiers": "subscription_identifier",
}
_PROTOCOL_NAMES = {3: "MQIsdp", 4: "MQTT", 5: "MQTT"}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _properties(properties: Any) -> dict[str, Any]:
    found = {}
    for name in properties.__struct_fields__:
        value = getattr(properties, name)
        if value is None or value == ():
            continue
        found[_NAMES.get(name, name)] = _plain(value)
    return found


def _subscription(request: Any, version: ProtocolVersion) -> dict[str, Any]:
    fields = {"filter": request.filter, "qos": request.qos}
    if version == ProtocolVersion.MQTT_5:
        for name in ("no_local", "retain_as_published", "retain_handling"):
            fields[name] = getattr(request, name)
    return fields


def fields_of(packet: Packet, version: ProtocolVersion) -> dict[str, Any]:
    """All that the packet says on the wire of `version`; for CONNECT its own version counts."""
    kind = packet.packet_type
    version = getattr(packet, "version", version)
    fields: dict[str, Any] = {"type": kind.name.lower()}
    for name in packet.__struct_fields__:
        value = getattr(packet, name)
        if name == "properties":
            if version == ProtocolVersion.MQTT_5:
                fields["properties"] = _properties(value)
        elif name == "will":
            if value is not None:
                fields["will"] = _will(value, version)
        elif name == "filters" and kind == PacketType.SUBSCRIBE:
            fields["filters"] = [_subscription(request, version) for request in value]
        elif name in ("reason_code", "reason_codes") and version != ProtocolVersion.MQTT_5:
            if kind in (PacketType.CONNACK, PacketType.SUBACK):
                fields[name] = _plain(value)
        elif name in ("username", "password"):
            if value is not None:
                fields[name if name == "username" else "password_hex"] = _plain(value)
        elif name == "payload":
            fields["payload_hex"] = value.hex()
        else:
            fields[_NAMES.get(name, name)] = _plain(value)
    if kind == PacketType.CONNECT:
        fields["protocol_name"] = _PROTOCOL_NAMES[version]
        fields["version"] = int(version)
    if isinstance(packet, Publish) and not packet.qos:
        assert packet.packet_identifier == 0
        fields["packet_id"] = None
    return fields


def _will(will: Will, version: ProtocolVersion) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "topic": will.topic,
        "payload_hex": will.payload.hex(),
        "qos": will.qos,
        "retain": will.retain,
    }
    if version == ProtocolVersion.MQTT_5:
        fields["properties"] = _properties(will.properties)
    return fields


def properties_of_vector(pairs: list[Any], kind: str) -> dict[str, Any]:
    """The `[name, value]` pairs of a vector in the form of `fields_of`."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name == "user_property" or (name == "subscription_identifier" and kind == "publish"):
            found.setdefault(name, []).append(value)
        else:
            assert name not in found
            found[name] = value
    return found
