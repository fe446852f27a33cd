"""The action plugin: what a play learns about its archives, and how it fails."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleActionFail

from plugins.action.artifacts import ActionModule
from tests.unit.artifacts.conftest import Recorded, make_wheel
from tests.unit.artifacts.test_bundles import GUNICORN, OTHER, lock
from tests.unit.artifacts.test_jaeger import stand_in
from vmesh import artifacts


def run_action(variables: dict[str, Any] | None = None, **arguments: Any) -> Any:
    task = SimpleNamespace(args=arguments, async_val=0, check_mode=True, diff=False, delegate_to="")
    templar = SimpleNamespace(template=lambda value: value)
    plugin = ActionModule(task, MagicMock(), MagicMock(), MagicMock(), templar, MagicMock())
    return plugin.run(task_vars=variables or {})


def test_all_that_is_missing_is_named_at_once_with_the_remedy() -> None:
    wanted = {"envoy": ["x86_64", "aarch64"], "jaeger": ["x86_64"]}
    with pytest.raises(AnsibleActionFail) as caught:
        run_action(wanted=wanted)
    for part in ("envoy 1.40.0 (x86_64)", "envoy 1.40.0 (aarch64)", "jaeger 2.13.0 (x86_64)"):
        assert part in str(caught.value)
    assert "Run `./mesh fetch`. Run `./mesh fetch --arch aarch64`" in str(caught.value)


def test_a_mistake_in_the_variable_is_the_tasks_error() -> None:
    with pytest.raises(AnsibleActionFail, match="jaeger_release = "):
        run_action({"jaeger_release": "2.13.0"}, wanted={"jaeger": ["x86_64"]})


def test_archives_are_handed_over_and_bundles_built(
    index: Path, envoy_wheel: Path, tmp_path: Path, progress: Recorded
) -> None:
    envoy_wheel.rename(index / envoy_wheel.name)
    envoy = artifacts.ensure(["envoy"], progress=progress)["envoy"]
    source = tmp_path / "shop"
    source.mkdir()
    (source / "app.py").write_text("app = None\n")
    wheel = make_wheel(index, "gunicorn", "1.0", "any", GUNICORN)
    (source / "requirements.txt").write_text(lock(wheel))
    arguments: dict[str, Any] = {
        "wanted": {"envoy": ["x86_64"]},
        "bundles": [{"name": "shop", "source": str(source), "python": OTHER, "arch": "x86_64"}],
    }
    result = run_action(**arguments)
    assert result["changed"] is False
    assert f"building the bundle of shop for Python {OTHER} on x86_64" in result["msg"]
    found = result["artifacts"]
    assert found["envoy"]["x86_64"]["archive"] == str(envoy.path)
    assert found["envoy"]["x86_64"]["version"] == "1.40.0"
    bundle = found["bundles"]["shop"][f"{OTHER}/x86_64"]
    assert Path(bundle["archive"]).is_file()
    assert bundle["compiled"] is False
    assert run_action(**arguments) == result | {"msg": "everything is in the cache"}


def test_programs_of_examples_are_built_for_each_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "path")
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    result = run_action(programs={"hotrod": ["x86_64", "aarch64"]})
    assert "building HotROD 2.13.0" in result["msg"]
    found = result["artifacts"]["programs"]["hotrod"]
    assert {arch: Path(each["archive"]).name for arch, each in found.items()} == {
        "x86_64": "hotrod-2.13.0-x86_64.tar.gz",
        "aarch64": "hotrod-2.13.0-aarch64.tar.gz",
    }
    with pytest.raises(AnsibleActionFail, match="riscv is not supported"):
        run_action(programs={"hotrod": ["riscv"]})
