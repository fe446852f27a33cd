"""Templates: what files/envoy/ makes of values, as data.

Replicas of a service have nearly everything in common and a large mesh has thousands of proxies,
so the same template is rendered and read once for the same values. A template can take what
another one makes as a part of its own: `part(template, ...)` writes a YAML tag, and the reader puts
the data in its place. So what many listeners share is read once, too.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vmesh.base import paths
from vmesh.compile.cluster_views import HEALTH_CHECK_HEADER
from vmesh.compile.edge_login_views import USER_HEADER
from vmesh.render.shared import Shared

# The name of the filter that checks tokens, and of its file.
JWT_FILTER = "vmesh.jwt"

TEMPLATES = paths.DATA / "files" / "envoy"

# The authorities that the hosts' own system trusts (package ca-certificates).
HOST_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"

_PAIR_OR_BACKSLASH = re.compile(r"\\\\|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")
_PART = "!part"
_TEXT = "tag:yaml.org,2002:str"
# PyYAML's own reader is five times slower than the one in C, which not every build of it has.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Templates:
    """Renders and reads templates, each once for the same values. What it returns is `shared`."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._environment = _environment()
        self._read: dict[tuple[str, str], Any] = {}
        self._parts: dict[str, Any] = {}

    def read(self, template: str, values: Mapping[str, Any]) -> Any:
        """Return what the YAML says that `template` makes of `values`, which are plain data."""
        key = (template, json.dumps(values))
        if key not in self._read:
            self._read[key] = self._shared.add(self.read_new(template, values))
        return self._read[key]

    def read_new(self, template: str, values: Mapping[str, Any]) -> Any:
        """Return the same, and keep nothing: for values that only one proxy has."""
        text = self._environment.get_template(template).render(values, part=self._part)
        loader = _Loader(text)
        try:
            return self._data(loader, loader.get_single_node())
        finally:
            loader.dispose()

    def _data(self, loader: Any, node: Any) -> Any:
        """Return what a YAML node says: as the loader would, in half the time.

        The templates use neither anchors nor merge keys, and their keys are texts.
        """
        if isinstance(node, yaml.MappingNode):
            return {key.value: self._data(loader, value) for key, value in node.value}
        if isinstance(node, yaml.SequenceNode):
            return [self._data(loader, item) for item in node.value]
        if node.tag == _TEXT:
            return node.value
        if node.tag == _PART:
            return self._parts[node.value]
        return loader.construct_object(node)

    def _part(self, template: str, **values: Any) -> str:
        """Return what stands in YAML for the data that `template` makes of `values`."""
        data = self.read(template, values)
        name = str(id(data))
        self._parts[name] = data
        return f"{_PART} {name}"


@functools.cache
def _environment() -> Environment:
    """Return the templates; a process reads and compiles them once."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        auto_reload=False,
    )
    # Jinja's own tojson escapes <, >, & and ' for HTML; YAML wants them plain.
    environment.filters.update(
        tojson=_tojson,
        seconds=_seconds,
        fraction=_fraction,
        with_final_dot=_with_final_dot,
        literal=_literal,
    )
    environment.tests["ipv4"] = is_ipv4
    environment.globals.update(
        watched=_watched,
        HEALTH_CHECK_HEADER=HEALTH_CHECK_HEADER,
        USER_HEADER=USER_HEADER,
        JWT_FILTER=JWT_FILTER,
        HOST_AUTHORITIES=HOST_AUTHORITIES,
    )
    return environment


def _watched(folder: str, name: str) -> dict[str, Any]:
    """Return the config source of one watched file.

    Envoy re-reads it when a file is moved into `folder` (envoy#35888).
    """
    return {
        "path_config_source": {"path": f"{folder}/{name}", "watched_directory": {"path": folder}},
        "resource_api_version": "V3",
    }


def _tojson(value: Any) -> str:
    """Return `value` as JSON, which is YAML without any of its implicit types.

    One thing of JSON's is none of YAML's: an emoji as a pair of surrogates.
    """
    return _PAIR_OR_BACKSLASH.sub(_without_pair, json.dumps(value, sort_keys=True))


def _without_pair(found: re.Match[str]) -> str:
    escaped = found[0]
    if escaped == r"\\":
        return escaped
    character: str = json.loads(f'"{escaped}"')
    return rf"\U{ord(character):08x}"


def _seconds(value: float) -> str:
    """Return a Duration of `value` seconds; its JSON has no exponent and at most nine decimals."""
    return _tojson(f"{value:.9f}".rstrip("0").rstrip(".") + "s")


def _fraction(percent: float) -> str:
    """Return a FractionalPercent of `percent`."""
    return _tojson({"numerator": round(percent * 10_000), "denominator": "MILLION"})


def _with_final_dot(origin: str) -> str:
    """Return the origin of the same site when its visitor wrote the dot of the root, too."""
    scheme, _, place = origin.partition("://")
    name, colon, port = place.partition(":")
    return f"{scheme}://{name}.{colon}{port}"


def _literal(value: str) -> str:
    """Return `value` for a field in which Envoy replaces commands as in `%REQ(x)%`."""
    return value.replace("%", "%%")


def is_ipv4(value: str) -> bool:
    """Tell whether `value` is an IPv4 address."""
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        return False
    return True
