"""From text to frozen Structs: TOML, changed by environment variables, with errors that name the place.

Knows no setting by name: the Struct that it is given says what there is. A key that the Struct lacks
is refused with the nearest one that it has; a value of the wrong type with its key path. An environment
variable `ACEBROKER_LIMITS__PACKET_BYTES_MAX` is the key `packet_bytes_max` of the table `limits`: two
underscores go one level down, a number is an index into a list of tables, and the next free index adds a
table. Variables without two underscores are none of ours, unless they were clearly meant.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

__all__ = ["ENVIRONMENT_PREFIX", "ConfigError", "change_by_environment", "convert", "parse_toml"]

ENVIRONMENT_PREFIX = "ACEBROKER_"
#: a part of a variable's name that is an index into a list
_INDEX = re.compile(r"[0-9]{1,9}")

S = TypeVar("S", bound=msgspec.Struct)
Path = tuple[str | int, ...]


class ConfigError(ValueError):
    """A configuration that cannot be used. The message is one sentence for the person who wrote it."""


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The tables of `text`; `source` names it in errors. Raises ConfigError with line and column."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{source}: not TOML that can be used: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and a number of more digits than Python reads
        raise ConfigError(f"{source}: not TOML: {error}") from None


def change_by_environment(
    tables: dict[str, Any], struct: type[msgspec.Struct], environ: Mapping[str, str]
) -> dict[Path, str]:
    """Put the values of `ACEBROKER_` variables into `tables`; returns which key path came from which variable.

    A value is TOML (`true`, `[3, 4]`, `"text"`), or plain text where the setting is a text. Raises ConfigError
    for a variable that names no possible place.
    """
    root = inspect.type_info(struct)
    origins: dict[Path, str] = {}
    for path, variable in sorted(
        _overrides(environ, root), key=lambda found: [str(part).zfill(8) for part in found[0]]
    ):
        made = _put(tables, path, _value(environ[variable], _type_at(root, path)), variable)
        origins[path] = origins[made] = f"environment variable {variable}"
    return origins


def convert(tables: Mapping[str, Any], struct: type[S], source: str, origins: Mapping[Path, str]) -> S:
    """`tables` as `struct`. Raises ConfigError that names the file or variable, the key path and what is wrong."""
    unknown = _first_unknown(tables, inspect.type_info(struct), ())
    if unknown is not None:
        path, advice = unknown
        raise ConfigError(f"{_origin(path, source, origins)}: {_dotted(path)}: unknown key; {advice}")
    try:
        return msgspec.convert(tables, struct)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        path = tuple(int(part[1:-1]) if part[0] == "[" else part for part in re.findall(r"[^.\[\]`]+|\[\d+\]", place))
        where = f"{_origin(path, source, origins)}: {_dotted(path)}" if path else source
        raise ConfigError(f"{where}: {_plain(message, path)}") from None


def _overrides(environ: Mapping[str, str], root: inspect.Type) -> list[tuple[Path, str]]:
    known = _keys(root)
    found: list[tuple[Path, str]] = []
    for variable in environ:
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        rest = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if "__" in rest:
            found.append((tuple(int(part) if _INDEX.fullmatch(part) else part for part in rest.split("__")), variable))
            continue
        for table in known:
            if rest == table or rest.startswith(f"{table}_"):
                raise ConfigError(
                    f"environment variable {variable}: two underscores stand between table and key: "
                    f"{ENVIRONMENT_PREFIX}{table.upper()}__{rest.removeprefix(table).strip('_').upper() or '...'}"
                )
    return found


def _put(tables: dict[str, Any], path: Path, value: Any, variable: str) -> Path:
    """Put `value` where `path` says, making tables and lists on the way; returns the path of the topmost thing made."""
    made: Path | None = None
    place: Any = tables
    for depth, part in enumerate(path, start=1):
        last = depth == len(path)
        new: Any = value if last else [] if isinstance(path[depth], int) else {}
        if isinstance(part, int) and isinstance(place, list):
            if part > len(place):
                raise ConfigError(
                    f"environment variable {variable}: there is no index {part}; the next free one is {len(place)}"
                )
            missing = part == len(place)
            if missing:
                place.append(new)
        elif isinstance(part, str) and isinstance(place, dict):
            missing = part not in place
        else:
            raise ConfigError(f"environment variable {variable}: {part} cannot stand there")
        if missing or last:
            place[part] = new
            made = made or path[:depth]
        place = place[part]
    return made or path


def _value(text: str, wanted: inspect.Type | None) -> Any:
    if wanted is None or _takes_text(wanted):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _takes_text(wanted: inspect.Type) -> bool:
    if isinstance(wanted, inspect.UnionType):
        return any(_takes_text(member) for member in wanted.types)
    if isinstance(wanted, inspect.LiteralType):
        return any(isinstance(value, str) for value in wanted.values)
    return isinstance(wanted, inspect.StrType)


def _type_at(wanted: inspect.Type | None, path: Path) -> inspect.Type | None:
    for part in path:
        if isinstance(wanted, inspect.StructType):
            wanted = next((field.type for field in wanted.fields if field.encode_name == part), None)
        elif isinstance(wanted, inspect.VarTupleType):
            wanted = wanted.item_type
        elif isinstance(wanted, inspect.DictType):
            wanted = wanted.value_type
        else:
            return None
    return wanted


def _keys(wanted: inspect.Type) -> list[str]:
    return [field.encode_name for field in wanted.fields] if isinstance(wanted, inspect.StructType) else []


def _first_unknown(value: Any, wanted: inspect.Type, path: Path) -> tuple[Path, str] | None:
    if isinstance(wanted, inspect.VarTupleType) and isinstance(value, list):
        members = [(index, member, wanted.item_type) for index, member in enumerate(value)]
    elif isinstance(wanted, inspect.StructType) and isinstance(value, Mapping):
        known = {field.encode_name: field.type for field in wanted.fields}
        for key in value:
            if key not in known:
                nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                advice = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(sorted(known))}"
                return (*path, key), advice
        members = [(key, member, known[key]) for key, member in value.items()]
    else:
        return None
    found = (_first_unknown(member, member_type, (*path, part)) for part, member, member_type in members)
    return next((unknown for unknown in found if unknown is not None), None)


def _origin(path: Path, source: str, origins: Mapping[Path, str]) -> str:
    for end in range(len(path), 0, -1):
        if path[:end] in origins:
            return origins[path[:end]]
    return source


def _dotted(path: Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _plain(message: str, path: Path) -> str:
    if message == "Expected `array`, got `object`" and len(path) == 1:
        return f"this is a list of tables: write [[{path[0]}]]"
    return message.replace("`", "").replace("Expected ", "expected ").replace("Object missing", "missing")
