"""Every mistake explained: wrong inventories, and all that is said of each, word for word.

The inventories are in tests/corpus. All but those of loading.yml are changes to base.yml there:
`set` maps places (mesh_edges.front.routes[0].to) to new values, `remove` lists places, `machines`
and `groups` are laid over the hosts and groups of base.yml. `problems` is all that must be told.
(What the fuzz tests begin with is rich.yml; nothing is wrong with it.)
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from vmesh.base import paths
from vmesh.base.problems import ERROR, Problem, Problems
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import Inventory, load

CORPUS = paths.PROJECT / "tests" / "corpus"
BASE: dict[str, Any] = yaml.safe_load((CORPUS / "base.yml").read_text())
LOADING = "loading"
WHOLE = ("base", "rich")  # inventories that nothing is wrong with

Case = Mapping[str, Any]


def cases(*, loading: bool) -> list[Any]:
    """Return the cases as pytest's parameters."""
    return [
        pytest.param(case, id=f"{file.stem}-{case['case']}")
        for file in sorted(CORPUS.glob("*.yml"))
        if file.stem not in WHOLE and (file.stem == LOADING) == loading
        for case in yaml.safe_load(file.read_text())
    ]


def steps(place: str) -> list[str | int]:
    """Return the keys and numbers of a place such as `mesh_edges.front.routes[0].to`."""
    found = re.finditer(r"\[([0-9]+)\]|([^.\[\]]+)", place)
    return [int(each[1]) if each[1] else each[2] for each in found]


def changed(base: Mapping[str, Any], case: Case) -> Any:
    """Return the mesh_* variables of `base` with what `case` sets and removes."""
    mesh = copy.deepcopy(base)
    for place, value in case.get("set", {}).items():
        parent, last = inner(mesh, place)
        if isinstance(parent, list) and last == len(parent):
            parent.append(value)
        else:
            parent[last] = value
    for place in case.get("remove", ()):
        parent, last = inner(mesh, place)
        del parent[last]
    return mesh


def inner(mesh: Any, place: str) -> tuple[Any, Any]:
    """Return the mapping or list that `place` is in, and its key there; makes what is missing."""
    *parents, last = steps(place)
    for step in parents:
        mesh = mesh.setdefault(step, {}) if isinstance(mesh, dict) else mesh[step]
    return mesh, last


def inventory(case: Case) -> Inventory:
    """Return the inventory that `case` describes."""
    return Inventory(
        source=Path("inventory"),
        groups={
            name: tuple(members)
            for name, members in {**BASE["groups"], **case.get("groups", {})}.items()
        },
        hosts={**BASE["hosts"], **case.get("machines", {})},
        mesh=changed(BASE["mesh"], case),
        hidden=frozenset(tuple(way) for way in case.get("hidden", ())),
    )


def read(case: Case, folder: Path) -> Inventory:
    """Write the files that `case` has into `folder`, and read them as an inventory."""
    for name, text in case["files"].items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return load(folder)


def told(give: Callable[[], Inventory]) -> tuple[Problem, ...]:
    """Return all that is said of an inventory, warnings too."""
    try:
        return compile_mesh(give()).warnings
    except Problems as found:
        return found.items


def written(problem: Problem | Mapping[str, Any]) -> dict[str, Any]:
    """Return a problem as the corpus has it."""
    fields = asdict(problem) if isinstance(problem, Problem) else problem
    return {"value": None, "severity": ERROR, **fields}


def in_order(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return problems in an order that does not count."""
    return sorted(problems, key=lambda problem: (problem["variable"], problem["message"]))


@pytest.mark.parametrize("case", cases(loading=False))
def test_all_that_is_wrong_is_told_and_nothing_else(case: Case) -> None:
    found = [written(problem) for problem in told(lambda: inventory(case))]
    assert in_order(found) == in_order([written(each) for each in case["problems"]])


@pytest.mark.parametrize("case", cases(loading=True))
def test_all_that_is_wrong_with_files_is_told_and_nothing_else(case: Case, tmp_path: Path) -> None:
    found = [written(problem) for problem in told(lambda: read(case, tmp_path))]
    found = json.loads(json.dumps(found).replace(str(tmp_path), "{folder}"))
    assert in_order(found) == in_order([written(each) for each in case["problems"]])


def test_the_corpus_is_as_large_as_it_should_be_and_names_no_case_twice() -> None:
    ids = [each.id for loading in (False, True) for each in cases(loading=loading)]
    assert len(ids) == len(set(ids))
    assert len(ids) >= 200
