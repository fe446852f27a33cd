"""What is wrong with the form of the mesh_* variables, in words that help to mend it.

The schema (vmesh/model/schema.py) finds the mistakes; here each becomes a Problem that names the
variable, the value and what to write instead.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jsonschema.exceptions import ValidationError

from vmesh.base.formats import never_resolves, re2_fault
from vmesh.base.problems import HIDDEN, Problem
from vmesh.model.schema import KeyPath, Schema, load, resolved, validator, where

# Values are shown so that the user finds them, not to be read whole.
_MOST_SHOWN = 80
_MOST_BITS = 64
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,2})?)\s*([a-z%]*)\s*", re.IGNORECASE)
_SECONDS_IN = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_TRUTHS = {
    "true": "true",
    "yes": "true",
    "on": "true",
    "false": "false",
    "no": "false",
    "off": "false",
}
_TRUTH_WORDS = {True: "true", False: "false", None: "nothing"}
_KINDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
}
_RE2_REMEDY = (
    "Write it as https://github.com/google/re2/wiki/Syntax has it, and not too long: RE2 neither"
    " looks around nor refers back"
)


def readable(variables: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return `variables` with texts for keys, and what is wrong with keys that can be none.

    YAML 1.1, which Ansible reads, takes 404 for a number and the words on, yes, off and no for
    true and false. A number is what the user wrote; of those words nobody knows which it was,
    so they are left out.
    """
    problems: list[Problem] = []
    return _readable(dict(variables), (), problems), problems


def _readable(value: Any, path: KeyPath, problems: list[Problem]) -> Any:
    if isinstance(value, list):
        return [_readable(item, (*path, index), problems) for index, item in enumerate(value)]
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return hex(value)  # Python writes no such numbers out; nothing can be set to one anyway
    if not isinstance(value, Mapping):
        return value
    result = {}
    for key, item in value.items():
        if key is None or isinstance(key, bool):
            problems.append(
                Problem(
                    where(path) or "inventory",
                    key,
                    f"has a key that YAML reads as {_TRUTH_WORDS[key]}, not as a text",
                    'Write the key in quotes, as in "on" or "no"',
                )
            )
            continue
        name = str(_readable(key, path, problems))
        result[name] = _readable(item, (*path, name), problems)
    return result


def check(variables: Mapping[str, Any]) -> tuple[list[Problem], frozenset[KeyPath]]:
    """Return what is wrong with the form of `variables` (mesh_services, ...), and the places.

    The places are what `filled` leaves out, so that the rest can be looked at too.
    """
    problems: dict[tuple[str, str], Problem] = {}
    places: set[KeyPath] = set()
    for key in sorted(set(variables) - set(load()["properties"])):
        _note(problems, _unknown("inventory", key, variables[key], load()["properties"]))
    for error in validator().iter_errors(variables):
        places.add(tuple(error.absolute_path))
        for problem in _problems_of(error):
            _note(problems, problem)
    # jsonschema's own order is not always the same.
    return sorted(problems.values(), key=_as_read), frozenset(places)


def _as_read(problem: Problem) -> list[tuple[int, str]]:
    """Return what sorts problems by their variables, routes[2] before routes[10]."""
    parts = re.findall(r"[0-9]+|[^0-9]+", problem.variable)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def check_value(variable: str, place: str, value: Any) -> list[Problem]:
    """Return what is wrong with `value` of the top-level `variable`, told as of `place`."""
    problems: list[Problem] = []
    value = _readable(value, (variable,), problems)
    errors = validator().evolve(schema=load()["properties"][variable]).iter_errors(value)
    problems += [problem for error in errors for problem in _problems_of(error)]
    return [dataclasses.replace(problem, variable=place) for problem in problems]


def check_environment(service: str, host: str, value: Any) -> list[Problem]:
    """Return what is wrong with the environment that the app of a service has on a host."""
    way = ("mesh_services", service, "app", "environment")
    problems: list[Problem] = []
    value = _readable(value, way, problems)
    rule = load()["$defs"]["app"]["properties"]["environment"]
    for error in validator().evolve(schema=rule).iter_errors(value):
        problems += _problems_of(error, way)
    return [
        dataclasses.replace(problem, variable=f"{host}: {problem.variable}") for problem in problems
    ]


def shown(value: Any) -> Any:
    """Return what a message may show of `value`, which no schema describes."""
    return _shown(_readable(value, (), []), {})


def _note(problems: dict[tuple[str, str], Problem], problem: Problem) -> None:
    problems.setdefault((problem.variable, f"{problem.value} {problem.message}"), problem)


def _problems_of(error: ValidationError, above: KeyPath = ()) -> Iterator[Problem]:
    """Tell an error in something that stands at `above`."""
    tell = _TELLERS.get(str(error.validator), _malformed)
    yield from tell(where((*above, *error.absolute_path)), error.instance, error)


def _missing(place: str, value: Any, error: ValidationError) -> Iterator[Problem]:
    keys: Any = error.validator_value
    for key in keys:
        if key not in value:
            expected = _expected(_property(error.schema, key))
            yield Problem(_join(place, key), None, "is missing", f"Set it to {expected}")


def _unknown_keys(place: str, value: Any, error: ValidationError) -> Iterator[Problem]:
    known: Any = error.schema
    for key in value:
        if key not in known["properties"]:
            yield _unknown(place, key, value[key], known["properties"])


def _lonely(place: str, value: Any, error: ValidationError) -> Iterator[Problem]:
    rules: Any = error.validator_value
    for key, others in rules.items():
        for other in others:
            alternatives = _alternatives_to(other, error.schema)
            instead = next((name for name in alternatives if name in value), None)
            if key not in value or other in value or (alternatives and instead is None):
                continue  # that none of the alternatives is there is told by `oneOf`
            yield Problem(
                _join(place, key),
                _shown(value[key], _property(error.schema, key)),
                f"means nothing with `{instead}`"
                if instead
                else f"means nothing without `{other}`",
                "Remove it" if instead else f"Set {_join(place, other)} too, or remove this key",
            )


def _alternatives_to(key: str, schema: Any) -> list[str]:
    """Return the keys of which only one may stand beside one another, `key` among them."""
    for group in [schema, *schema.get("allOf", ())]:
        names = [each["required"][0] for each in group.get("oneOf", ())]
        if key in names:
            return names
    return []


def _chosen(place: str, value: Any, error: ValidationError) -> Iterator[Problem]:
    rules: Any = error.validator_value
    if isinstance(value, Mapping):  # anything else is told by `type`
        yield _choice(place, value, [each["required"][0] for each in rules])


def _malformed(place: str, value: Any, error: ValidationError) -> Iterator[Problem]:
    schema: Any = error.schema
    message = _message(str(error.validator), error.validator_value, value, schema)
    remedy = _remedy(value, schema)
    if "propertyNames" in error.absolute_schema_path:
        remedy = f"Use {_expected(schema)}"
        message = message if "x-not" in schema else "cannot be a key here"
    yield Problem(place or "inventory", _shown(value, schema), message, remedy)


_TELLERS = {
    "required": _missing,
    "additionalProperties": _unknown_keys,
    "dependentRequired": _lonely,
    "oneOf": _chosen,
    "anyOf": _chosen,
}


def _message(rule: str, wanted: Any, value: Any, schema: Schema) -> str:
    """Return what is wrong with `value`, which breaks the `rule` that has `wanted`."""
    if rule == "type":
        return _other_kind(wanted, value)
    if rule.startswith("min") and isinstance(value, str | list | Mapping) and not value:
        return "is empty"
    if rule in _MESSAGES:
        return _MESSAGES[rule].format(wanted)
    if rule == "format" and wanted == "re2" and (fault := re2_fault(value)):
        return fault
    if rule == "format" and never_resolves(value):
        return "is a name that no name server ever knows"
    return f"is not {schema['x-not']}" if "x-not" in schema else "is not well formed"


_MESSAGES = {
    "minimum": "is less than {:g}",
    "maximum": "is more than {:.10g}",
    "maxLength": "is longer than {} characters",
    "maxProperties": "has more than {} key",
    "uniqueItems": "says the same twice",
    "enum": "is not known here",
}


def _other_kind(wanted: str | list[str], value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "is no finite number"
    kinds = [wanted] if isinstance(wanted, str) else wanted
    unwanted = {"null", "integer" if "number" in kinds else ""}
    names = [_KINDS[kind] for kind in kinds if kind not in unwanted]
    return f"is {_kind(value)}, not {' or '.join(names)}"


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "a text" if isinstance(value, str) else "a number"


def _remedy(value: Any, schema: Schema) -> str:
    """Return what to write instead of `value`: what was meant, where that can be told."""
    if schema.get("format") == "re2" and isinstance(value, str) and value:
        return _RE2_REMEDY
    meant = _meant(value, schema)
    expected = _expected(schema)
    if meant is None:
        return f"Set it to {expected}"
    return f"Did you mean `{meant}`?" if "enum" in schema else f"Write {meant}"


def _meant(value: Any, schema: Schema) -> str | None:
    """Return what the user seems to have meant: a number with a unit, a word in quotes."""
    kinds = schema.get("type", ())
    if "enum" in schema:
        choices = {str(each).lower(): str(each) for each in schema["enum"]}
        near = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.7)
        return choices[near[0]] if near else None
    if not isinstance(value, str):
        return _quoted(value, schema) if "string" in kinds else None
    if schema.get("format") == "ipv4-network":
        return _network_of(value, ipaddress.IPv4Network)
    if schema.get("format") == "network":
        return _network_of(value, ipaddress.ip_network)
    return _TRUTHS.get(value.lower()) if kinds == "boolean" else _number_in(value, schema)


def _quoted(value: Any, schema: Schema) -> str | None:
    accepts = validator().evolve(schema=schema).is_valid
    if isinstance(value, bool):
        # What YAML made true of, on or yes, nobody knows any more.
        return "it in quotes" if any(accepts(word) for word in _TRUTHS) else None
    if isinstance(value, int | float) and accepts(str(value)):
        return f'"{value}"'
    return None


def _number_in(value: str, schema: Schema) -> str | None:
    """Return the number that the text `value` has, in the unit that the schema takes."""
    found = _QUANTITY.fullmatch(value)
    kinds = schema.get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if found is None or not {"number", "integer"} & set(kinds):
        return None
    scale = {"": 1.0}
    if "seconds" in _expected(schema):
        scale |= _SECONDS_IN
    elif any(word in _expected(schema) for word in ("percentage", "weight")):
        scale |= {"%": 1.0}
    unit = found[2].lower()
    if unit not in scale:
        return None
    number = float(found[1]) * scale[unit]
    return f"{number:.10g}" if validator().evolve(schema=schema).is_valid(number) else None


def _network_of(value: str, network: Callable[..., object]) -> str | None:
    """Return the network that the address and length `value` is in."""
    try:
        return f"`{network(value, strict=False)}`"
    except ValueError:
        return None


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else str(key)


def _property(schema: Any, key: str) -> Schema:
    return resolved(schema.get("properties", {}).get(key, {}))


def _expected(schema: Any) -> str:
    return str(schema.get("x-expected", "what docs/reference.md says"))


def _unknown(place: str, key: str, value: Any, known: Mapping[str, Any]) -> Problem:
    near = difflib.get_close_matches(str(key), list(known), n=1)
    remedy = f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(sorted(known))}"
    # What stands under a misspelt key is as secret as under the right one.
    shown = _shown(value, resolved(known[near[0]]) if near else {})
    return Problem(f"{place}.{key}", shown, "is not a known key", remedy)


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
    if isinstance(value, list):
        nested = any(isinstance(item, Mapping | list) for item in value)
        return f"a list of {len(value)}" if nested or len(str(value)) > _MOST_SHOWN else value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # which JSON has no number for
    if isinstance(value, str) and len(value) > _MOST_SHOWN:
        return value[:_MOST_SHOWN] + "..."
    return value
