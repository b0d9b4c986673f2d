"""Frozen dataclass configs to JSON and back, strictly: an unknown key, a missing one or a wrong type is refused."""

import dataclasses
import math
import types
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from unclip_core.errors import PackError

Config = TypeVar("Config")

# No config of ours comes near these; a damaged or hostile one could otherwise ask for all the memory there is.
MOST, LONGEST = 10_000_000, 256


def config_to_dict(config: Any) -> dict[str, Any]:
    """A dataclass, nested ones included, as plain JSON values."""
    return dataclasses.asdict(config)


def config_from_dict(cls: type[Config], data: Any, where: str) -> Config:
    """JSON values -> an instance of the dataclass `cls`; `where` names the place in messages, e.g. "decoder".

    Raises PackError that names the key and the fault.
    """
    if not isinstance(data, dict):
        raise PackError(f"{where}: the config should be a JSON object, not {_brief(data)}.")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(set(data) - set(fields)):
        raise PackError(f"{where}: unknown config key {unknown[0]!r}; this version knows {', '.join(fields)}.")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise PackError(f"{where}: the config lacks {name!r}.")
    values = {name: _value(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return cls(**values)
    except PackError as error:
        raise PackError(f"{where}: {error}") from error


def _value(kind: Any, value: Any, where: str) -> Any:
    """One JSON value as the annotated type `kind`."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(kind), value, where)
    if dataclasses.is_dataclass(kind):
        return config_from_dict(kind, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) > LONGEST:
            raise PackError(f"{where} should be a list, not {_brief(value)}.")
        inner = get_args(kind)[0]
        return tuple(_value(inner, item, f"{where}[{i}]") for i, item in enumerate(value))
    kind = origin or kind
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not right:
        raise PackError(f"{where} should be {kind.__name__}, not {_brief(value)}.")
    if isinstance(value, (int, float)) and not (math.isfinite(value) and abs(value) <= MOST):
        raise PackError(f"{where} is out of range: {_brief(value)}.")
    return value


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """The first of several allowed types that takes the value."""
    if value is None and type(None) in kinds:
        return None
    faults = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _value(kind, value, where)
        except PackError as error:
            faults.append(error)
    raise faults[0]


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
