"""The schema of the model, mesh.schema.json: the one place that says what an inventory may hold.

`filled` puts the schema's defaults where the user said nothing; vmesh/model/explain.py tells what
is wrong. Editors complete from the same file, and the reference in docs/ is made from it. Beside
JSON Schema's own words it uses

  x-expected  completes "Set it to ..."
  x-not       completes "is not ...", where the form alone does not say what is wrong
  x-why       why the default is what it is
  x-secret    a value that no message may show

Patterns are of the whole text.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from vmesh.base.formats import FORMATS

SCHEMA_FILE = Path(__file__).with_name("mesh.schema.json")

Schema = Mapping[str, Any]
KeyPath = tuple[str | int, ...]


def _format_checker() -> FormatChecker:
    checker = FormatChecker(formats=())
    for name, accepts in FORMATS.items():
        # Formats speak of texts; another type is told by `type`.
        checker.checks(name)(
            lambda value, accepts=accepts: not isinstance(value, str) or accepts(value)
        )
    return checker


def _is_finite(_: Any, value: Any) -> bool:
    """Take YAML's .nan and .inf for what they are: no numbers that anything could be set to."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _whole_pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[ValidationError]:
    """Check `pattern` as all of them are meant: Python's own $ lets a line break follow."""
    if isinstance(value, str) and not re.fullmatch(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


@functools.cache
def load() -> dict[str, Any]:
    """Return the schema."""
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())
    return schema


@functools.cache
def validator() -> Any:
    """Return what checks a value against the schema."""
    kind = extend(  # type: ignore[no-untyped-call]
        Draft202012Validator,
        validators={"pattern": _whole_pattern},
        type_checker=Draft202012Validator.TYPE_CHECKER.redefine("number", _is_finite),
    )
    return kind(load(), format_checker=_format_checker())


def resolved(schema: Schema) -> Schema:
    """Return `schema` with what its `$ref` names; what stands beside the reference wins."""
    if "$ref" not in schema:
        return schema
    target: Any = load()
    for part in schema["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return {**resolved(target), **{key: value for key, value in schema.items() if key != "$ref"}}


def where(path: Sequence[str | int]) -> str:
    """Return a key path as the user reads it: mesh_edges.front.routes[0].to."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def filled(
    value: Any, schema: Schema, wrong: frozenset[KeyPath] = frozenset(), path: KeyPath = ()
) -> Any:
    """Return `value` with the defaults of `schema`; a key without one that is missing is None.

    `path` is where `value` stands. What stands at a place in `wrong` counts as not said.
    """
    schema = resolved(schema)
    properties, others = schema.get("properties"), schema.get("additionalProperties")
    if isinstance(value, Mapping) and (properties is not None or isinstance(others, Mapping)):
        result = {}
        for key, rule in (properties or {}).items():
            rule = resolved(rule)  # noqa: PLW2901 - the same rule, written out
            given = value.get(key)
            if given is None or _is_wrong(given, rule, (*path, key), wrong):
                given = rule.get("default")
            result[key] = None if given is None else filled(given, rule, wrong, (*path, key))
        if isinstance(others, Mapping):
            for key, given in value.items():
                if key not in result and not _is_wrong(given, others, (*path, key), wrong):
                    result[str(key)] = filled(given, others, wrong, (*path, key))
        return result
    if isinstance(value, list):
        rule = resolved(schema.get("items", {}))
        return [
            filled(item, rule, wrong, (*path, index))
            for index, item in enumerate(value)
            if not _is_wrong(item, rule, (*path, index), wrong)
        ]
    if schema.get("type") == "integer":
        return int(value)
    if schema.get("type") == "number":
        return float(value)
    return value


def _is_wrong(value: Any, schema: Schema, path: KeyPath, wrong: frozenset[KeyPath]) -> bool:
    """Tell whether nothing can be taken from `value`; of a mapping or list the rest still can."""
    if path not in wrong:
        return False
    kinds = resolved(schema).get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    return not (
        (isinstance(value, Mapping) and "object" in kinds)
        or (isinstance(value, list) and "array" in kinds)
    )
