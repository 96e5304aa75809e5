"""Plugins: from what the configuration says to a stage.

`use` is the name of an entry point in the group `trio_acebroker.stages`, or `package.module:Name`. It
leads to a class (or any callable) that makes a stage of the options, or to a finished stage, as
`per_packet` makes them. What is installed is not enabled: only what the configuration uses is imported.

Everything that is wrong with a plugin before the broker runs is a ConfigError. Where a stage stands in
the pipeline, and what happens when it raises later, is not decided here.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import operator
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from acebroker_codec.packets import PacketType
from acebroker_middleware.stage import Stage
from trio_acebroker.config import ConfigError

__all__ = ["ENTRY_POINT_GROUP", "load_stage"]

ENTRY_POINT_GROUP = "trio_acebroker.stages"


def load_stage(use: str, options: Mapping[str, Any]) -> Stage:
    """The stage that `use` names, made with `options`. Raises ConfigError."""
    try:
        found = _named(use) if ":" in use else _entry_point(use).load()
    except ConfigError:
        raise
    except ModuleNotFoundError as error:
        raise ConfigError(f"stage {use!r}: there is no module {error.name}") from error
    except AttributeError as error:
        raise ConfigError(f"stage {use!r}: {error}") from error
    except Exception as error:  # a plugin's module may raise anything
        raise ConfigError(f"stage {use!r} cannot be imported: {type(error).__name__}: {error}") from error
    return _checked(use, _made(use, found, options))


def _named(use: str) -> object:
    module, _, name = use.partition(":")
    if not module or not name or module.startswith("."):
        raise ConfigError(f"stage {use!r} is not package.module:Name")
    return operator.attrgetter(name)(importlib.import_module(module))


def _entry_point(use: str) -> metadata.EntryPoint:
    installed = metadata.entry_points(group=ENTRY_POINT_GROUP)
    # one distribution may be found twice, as its own source tree and installed
    found = {(point.name, point.value): point for point in installed if point.name == use}
    if not found:
        names = {point.name for point in installed}
        nearest = difflib.get_close_matches(use, names, n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]}?" if nearest else f"installed are: {', '.join(sorted(names)) or 'none'}"
        raise ConfigError(f"stage {use!r}: no installed plugin has that name; {advice}")
    if len(found) > 1:
        values = ", ".join(sorted(point.value for point in found.values()))
        raise ConfigError(f"stage {use!r}: two plugins have that name; use one of {values}")
    return next(iter(found.values()))


def _made(use: str, found: object, options: Mapping[str, Any]) -> object:
    if isinstance(found, Stage) and not inspect.isclass(found):
        if options:
            raise ConfigError(f"stage {use!r} takes no options")
        return found
    if not callable(found):
        raise ConfigError(f"stage {use!r} is no stage and makes none")
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        raise ConfigError(f"stage {use!r}: its options do not fit: {error}") from error
    except ValueError:
        pass  # a callable that tells nothing about its arguments; calling it does
    try:
        return found(**options)
    except Exception as error:  # so may its constructor
        raise ConfigError(f"stage {use!r} cannot be made: {type(error).__name__}: {error}") from error


def _checked(use: str, stage: object) -> Stage:
    if not isinstance(stage, Stage):
        missing = [name for name in ("name", "wants", "on_batch") if not hasattr(stage, name)]
        raise ConfigError(f"stage {use!r} is no stage: {type(stage).__name__} has no {', no '.join(missing)}")
    name: object = stage.name
    if not isinstance(name, str) or not name:
        raise ConfigError(f"stage {use!r} is no stage: its name is no text")
    wants: object = stage.wants
    if not isinstance(wants, frozenset) or not all(isinstance(kind, PacketType) for kind in wants):
        raise ConfigError(f"stage {use!r} is no stage: what it wants is no frozenset of PacketType")
    if not callable(stage.on_batch):
        raise ConfigError(f"stage {use!r} is no stage: its on_batch cannot be called")
    return stage
