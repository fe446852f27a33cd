"""mesh_patches: changes of the rendered documents, as the user wrote them.

A merge patch is RFC 7396 (https://www.rfc-editor.org/rfc/rfc7396), a JSON patch RFC 6902, by the
library jsonpatch. What vmesh itself has to find again may not change: a resource's name and type,
the names of its statistics and route tables, by which a host sees that Envoy has accepted a file,
the bootstrap's version, its admin interface and the files that it watches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jsonpatch
from jsonpointer import JsonPointerException

from vmesh.base.problems import Problem, Problems
from vmesh.compile.host_spec import View
from vmesh.compile.patches import BOOTSTRAP as BOOTSTRAP_KIND
from vmesh.render.static_form import BOOTSTRAP, Document

_FOLDERS = {"listener": "listeners", "route": "routes", "cluster": "clusters"}
_FOLDERS |= {"endpoint": "endpoints"}
_NAME_KEYS = {"endpoint": "cluster_name"}
_KEPT_OF_BOOTSTRAP = (("admin",), ("dynamic_resources",), ("node", "id"), ("node", "cluster"))


def merged(value: Any, patch: Any) -> Any:
    """Return `value` with a merge patch applied; neither is changed."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(value) if isinstance(value, Mapping) else {}
    for key, item in patch.items():
        if item is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), item)
    return result


def patched(
    documents: Mapping[str, Document], patches: list[View], version: Callable[[Any], str]
) -> dict[str, Document]:
    """Return `documents` (path -> content) with the patches of a proxy's view applied.

    version: takes the content of a file and returns its version
    The documents themselves are shared between proxies, and stay as they are. Raises Problems.
    """
    result, problems = dict(documents), list[Problem]()
    for patch in patches:
        for path, number, resource in list(_targets(result, patch)):
            try:
                changed = _applied(resource, patch)
                _check_kept(resource, changed, patch)
            except Problems as found:
                problems += found.items
                break
            if number is None:
                metadata = {**changed["node"]["metadata"], "bootstrap_version": version(changed)}
                result[path] = {**changed, "node": {**changed["node"], "metadata": metadata}}
                continue
            resources = [*result[path]["resources"]]
            resources[number] = changed
            result[path] = {"version_info": version(resources), "resources": resources}
    if problems:
        raise Problems(problems)
    return result


def _targets(
    documents: Mapping[str, Document], patch: View
) -> Iterator[tuple[str, int | None, Document]]:
    """Yield (path of the file, place among its resources, resource) of what a patch changes."""
    kind = patch["kind"]
    if kind == BOOTSTRAP_KIND:
        yield BOOTSTRAP, None, documents[BOOTSTRAP]
        return
    key = _NAME_KEYS.get(kind, "name")
    for path, document in documents.items():
        if path.startswith(f"{_FOLDERS[kind]}/"):
            for number, resource in enumerate(document["resources"]):
                if resource[key] in patch["names"]:
                    yield path, number, resource


def _applied(resource: Document, patch: View) -> Document:
    if "merge" in patch:
        result: Document = merged(resource, patch["merge"])
        return result
    try:
        changed = jsonpatch.apply_patch(resource, patch["patch"])
    except (jsonpatch.JsonPatchException, JsonPointerException, TypeError, KeyError) as error:
        # A failed test says which values it compared, and these may be secret.
        failed = isinstance(error, jsonpatch.JsonPatchTestFailed)
        reason = "one of its `test` operations does not hold" if failed else str(error)
        raise _problem(patch, f"cannot be applied: {reason}", "Correct its operations") from None
    if not isinstance(changed, dict):
        raise _problem(patch, "leaves no resource", "Correct its operations")
    return changed


def _check_kept(before: Document, after: Document, patch: View) -> None:
    """Raise Problems when a patch changes what vmesh has to find again."""
    if patch["kind"] == BOOTSTRAP_KIND:
        kept = [*_KEPT_OF_BOOTSTRAP, ("node", "metadata", "bootstrap_version")]
    else:
        kept = [("@type",), (_NAME_KEYS.get(patch["kind"], "name"),)]
        # A host sees by these of a cluster that Envoy has accepted its endpoints.
        kept += [("alt_stat_name",), ("type",), ("eds_cluster_config",)]
    for path in kept:
        if _at(before, path) != _at(after, path):
            raise _problem(
                patch, f"changes {'.'.join(path)}, which vmesh needs", "Leave this field as it is"
            )
    if patch["kind"] == "listener" and _tables(before) != _tables(after):
        raise _problem(
            patch,
            "changes stat_prefix or the name of a route table, which vmesh needs",
            "Leave `stat_prefix` and `rds` as they are",
        )


def _tables(value: Any) -> list[tuple[Any, Any]]:
    """Return prefix of statistics and route table of each HTTP connection manager in a listener."""
    if isinstance(value, list):
        return [each for item in value for each in _tables(item)]
    if not isinstance(value, Mapping):
        return []
    rds = value["rds"] if isinstance(value.get("rds"), Mapping) else None
    own = [(value.get("stat_prefix"), rds.get("route_config_name"))] if rds else []
    return [*own, *(each for item in value.values() for each in _tables(item))]


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _problem(patch: View, message: str, remedy: str) -> Problems:
    what = f"{patch['kind']} {', '.join(patch['names'])}"
    return Problems([Problem(patch["variable"], what, message, remedy)])
