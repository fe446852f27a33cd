"""The schema of the model, mesh.schema.json: the one place that says what an inventory may hold.

`check` tells what is wrong with the form of the mesh_* variables, `filled` puts the schema's
defaults where the user said nothing. Editors complete from the same file, and the reference
in docs/ is made from it. Beside JSON Schema's own words it uses

  x-expected  completes "is not ..." and "Set it to ..."
  x-not       stands for it after "is not", where the whole would be long
  x-why       why the default is what it is
  x-secret    a value that no message may show
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import re2
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from vmesh.problems import Problem

SCHEMA_FILE = Path(__file__).with_name("mesh.schema.json")
PREFIX = "mesh_"
HIDDEN = "(hidden)"

Schema = Mapping[str, Any]
KeyPath = tuple[str | int, ...]

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_LISTENING = re.compile(r"unix:/\S+|(?P<address>[0-9.]+):(?P<port>[1-9][0-9]{0,4})")
# These never lead anywhere: https://www.rfc-editor.org/rfc/rfc6761#section-6.4
_NEVER_RESOLVES = ("invalid",)


def is_ipv4(value: Any) -> bool:
    """Tell whether `value` is the text of an IPv4 address."""
    try:
        ipaddress.IPv4Address(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return True


def is_dns_name(value: str) -> bool:
    """Tell whether a name server could know `value`; an address of digits is no name."""
    labels = value.removesuffix(".").split(".")
    return (
        len(value) <= 253
        and all(_LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
        and labels[-1].lower() not in _NEVER_RESOLVES
    )


def _is_network(value: str) -> bool:
    try:
        ipaddress.IPv4Network(value)
    except ValueError:
        return False
    return True


def is_re2(value: str) -> bool:
    """Tell whether RE2, whose expressions Envoy uses, accepts `value`."""
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(value, options)
    except re2.error:
        return False
    return True


def _is_listening(value: str) -> bool:
    match = _LISTENING.fullmatch(value)
    if match is None:
        return False
    return match["address"] is None or (is_ipv4(match["address"]) and int(match["port"]) <= 65535)


_FORMATS = {
    "ipv4": is_ipv4,
    "ipv4-network": _is_network,
    "dns-name": is_dns_name,
    "host": lambda value: is_ipv4(value) or is_dns_name(value),
    "listening": _is_listening,
    "re2": is_re2,
}


def _format_checker() -> FormatChecker:
    checker = FormatChecker(formats=())
    for name, accepts in _FORMATS.items():
        # Formats speak of texts; another type is told by `type`.
        checker.checks(name)(
            lambda value, accepts=accepts: not isinstance(value, str) or accepts(value)
        )
    return checker


def _is_finite(_: Any, value: Any) -> bool:
    """Take YAML's .nan and .inf for what they are: no numbers that anything could be set to."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@functools.cache
def load() -> dict[str, Any]:
    """Return the schema."""
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())
    return schema


@functools.cache
def _validator() -> Any:
    validator = extend(  # type: ignore[no-untyped-call]
        Draft202012Validator,
        type_checker=Draft202012Validator.TYPE_CHECKER.redefine("number", _is_finite),
    )
    return validator(load(), format_checker=_format_checker())


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


def check(variables: Mapping[str, Any]) -> tuple[list[Problem], frozenset[KeyPath]]:
    """Return what is wrong with the form of `variables` (mesh_services, ...), and where.

    The places are what `filled` leaves out, so that the rest can be looked at too.
    """
    problems: dict[tuple[str, str], Problem] = {}
    places: set[KeyPath] = set()
    for key in sorted(set(variables) - set(load()["properties"])):
        _note(problems, _unknown("inventory", key, variables[key], load()["properties"]))
    for error in _validator().iter_errors(variables):
        places.add(tuple(error.absolute_path))
        for problem in _problems_of(error):
            _note(problems, problem)
    return list(problems.values()), frozenset(places)


def _note(problems: dict[tuple[str, str], Problem], problem: Problem) -> None:
    problems.setdefault((problem.variable, f"{problem.value} {problem.message}"), problem)


def _problems_of(error: ValidationError) -> Iterator[Problem]:
    place = where(error.absolute_path)
    value: Any = error.instance
    rule: Any = error.validator_value
    schema: Any = error.schema
    match error.validator:
        case "required":
            for key in rule:
                if key not in value:
                    expected = _expected(_property(schema, key))
                    yield Problem(_join(place, key), None, "is missing", f"Set it to {expected}")
        case "additionalProperties":
            for key in value:
                if key not in schema["properties"]:
                    yield _unknown(place, key, value[key], schema["properties"])
        case "dependentRequired":
            for key, others in rule.items():
                for other in others:
                    if key in value and other not in value:
                        yield Problem(
                            _join(place, key),
                            _shown(value[key], _property(schema, key)),
                            f"means nothing without `{other}`",
                            f"Set {_join(place, other)} too, or remove this key",
                        )
        case "oneOf" | "anyOf":
            yield _choice(place, value, [each["required"][0] for each in rule])
        case _:
            expected = _expected(schema)
            yield Problem(
                place or "inventory",
                _shown(value, schema),
                f"is not {schema.get('x-not', expected)}",
                f"Set it to {expected}",
            )


def check_value(variable: str, place: str, value: Any) -> list[Problem]:
    """Return what is wrong with `value` of the top-level `variable`, told as of `place`."""
    expected = _expected(load()["properties"][variable])
    validator = _validator().evolve(schema=load()["properties"][variable])
    if validator.is_valid(value):
        return []
    return [Problem(place, _shown(value, {}), f"is not {expected}", f"Set it to {expected}")]


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else str(key)


def _property(schema: Any, key: str) -> Schema:
    return resolved(schema.get("properties", {}).get(key, {}))


def _expected(schema: Any) -> str:
    return str(schema.get("x-expected", "what docs/reference.md says"))


def _unknown(place: str, key: str, value: Any, known: Mapping[str, Any]) -> Problem:
    near = difflib.get_close_matches(str(key), list(known), n=1)
    remedy = f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(sorted(known))}"
    return Problem(f"{place}.{key}", _shown(value, {}), "is not a known key", remedy)


def _choice(place: str, value: Mapping[str, Any], names: Sequence[str]) -> Problem:
    given = [name for name in names if name in value]
    listed = ", ".join(names)
    if given:
        message, remedy = f"has {' and '.join(given)}, which exclude one another", "Keep one"
    else:
        message, remedy = f"has none of {listed}", "Add one"
    return Problem(place, _shown(value, {}), message, f"{remedy} of {listed}")


def _shown(value: Any, schema: Any) -> Any:
    """Return what a message may show of `value`: of a mapping its keys, of a secret nothing."""
    if schema.get("x-secret"):
        return HIDDEN
    if isinstance(value, Mapping):
        return sorted(map(str, value))
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        return f"a list of {len(value)}"
    return value


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
