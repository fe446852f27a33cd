from __future__ import annotations

import ast
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import change_layers as layers
from bench import change_scale
from bench.change_layers import BACK, Layer
from tests.unit.artifacts.conftest import Recorded
from vmesh.artifacts import JaegerRelease, jaeger
from vmesh.artifacts.archives import Member, write_archive
from vmesh.artifacts.cache import Artifact
from vmesh.base import paths
from vmesh.lab import lab_spec
from vmesh.remote.mesh import Mesh, read
from vmesh.rollout import record

EXAMPLE = paths.PROJECT / "inventory" / "example-change"
SCENARIO = paths.PROJECT / "molecule" / "change" / "inventory"
APP = paths.PROJECT / "services" / "streams"
HOSTS = ("front", "one", "two")


@pytest.fixture(scope="module")
def given() -> Any:
    return read(EXAMPLE).inventory.mesh


@pytest.fixture
def applied(tmp_path: Path) -> Callable[[Layer], Mesh]:
    """Return what the example means with a layer over it."""
    place = layers.lay(EXAMPLE, tmp_path)

    def read_with(layer: Layer) -> Mesh:
        (place / layers.LAYER).write_text(layers.text(layer, HOSTS))
        mesh = read(place)
        assert mesh.spec.warnings == ()
        return mesh

    return read_with


def where(mesh: Mesh, service: str) -> set[str]:
    return {
        host
        for host, plan in mesh.spec.hosts.items()
        if any(proxy.name == service for proxy in plan.proxies)
    }


def test_a_named_jaeger_is_what_an_official_archive_looks_like(tmp_path: Path) -> None:
    # The program is one for this machine; what it does is of no matter here.
    program = Path("/bin/true").resolve()
    archive = tmp_path / "built.tar.gz"
    write_archive(archive, [Member("bin/jaeger", program, executable=True)])
    built = Artifact("jaeger", "2.13.0", platform.machine(), archive, "")
    given = layers.named_jaeger(built, tmp_path).every["jaeger_release"]
    release = JaegerRelease.from_variable(given)
    assert release is not None
    found = jaeger.repack(release, built.arch, tmp_path, tmp_path, Recorded(tmp_path / "log"))
    assert found.version == f"2.13.0-{given['sha256'][:8]}", "a release of its own"
    assert layers.named_jaeger(built, tmp_path).every["jaeger_release"] == given
    assert JaegerRelease.from_variable(layers.built_jaeger().every["jaeger_release"]) is None


def test_a_later_layer_wins_and_the_rest_stays() -> None:
    both = Layer({"a": 1, "b": 1}, {"one": {"c": 1, "d": 1}}) | Layer({"b": 2}, {"one": {"d": 2}})
    assert both == Layer({"a": 1, "b": 2}, {"one": {"c": 1, "d": 2}})


@pytest.mark.parametrize("base", [EXAMPLE, SCENARIO])
def test_what_is_laid_over_is_recorded_as_what_is_below(base: Path, tmp_path: Path) -> None:
    place = layers.lay(base, tmp_path)
    assert record.folder(place) == record.folder(base)
    assert read(place).spec.hosts.keys() == set(HOSTS)


def test_the_scenario_begins_with_the_older_envoy_and_a_layer_beats_it(tmp_path: Path) -> None:
    place = layers.lay(SCENARIO, tmp_path)
    assert read(place).spec.mesh.envoy_version == "1.39.3"
    (place / layers.LAYER).write_text(layers.text(layers.envoy("1.40.0"), HOSTS))
    assert read(place).spec.mesh.envoy_version == "1.40.0"


def test_every_change_is_a_sound_inventory(given: Any, applied: Callable[[Layer], Mesh]) -> None:
    more = layers.routes(given, "/new/")
    edge = applied(more).spec.mesh.edges[layers.EDGE]
    told = {route.match.value: route for site in edge.virtual_hosts for route in site.routes}
    assert told["/new/"].to
    mesh = applied(layers.only_on(given, "streams", "one"))
    assert where(mesh, "streams") == {"one"}
    again = layers.only_on(mesh.inventory.mesh, "streams", None)
    assert where(applied(again), "streams") == {"one", "two"}
    assert applied(layers.zone("z1", HOSTS)).spec.hosts["one"].zone == "z1"
    for layer in (
        layers.timeout(given, "/back/", 0.001),
        layers.admin_port(given, 8009),
        layers.call_timeout(given, 9),
        layers.retention(80),
    ):
        applied(layer)


def test_changes_add_up(given: Any) -> None:
    first = layers.routes(given, "/new-1/")
    second = layers.routes(layers.over(given, first), "/new-2/")
    prefixes = [route.get("prefix") for route in second.every["mesh_edges"][layers.EDGE]["routes"]]
    assert prefixes[-2:] == ["/new-1/", "/new-2/"]
    assert "/new-1/" not in str(given), "what was given has been changed"


def test_a_release_changes_code_and_settings_of_the_named_services(
    given: Any, applied: Callable[[Layer], Mesh], tmp_path: Path
) -> None:
    folder = layers.newer(APP, tmp_path / "r", "x")
    mesh = applied(layers.release(given, {BACK: folder}, {"VERSION": "2"}))
    services = {each.name: each for each in mesh.spec.hosts["two"].flask_services}
    assert services[BACK].source == str(folder)
    assert services[BACK].environment["VERSION"] == "2"
    assert services["streams"].source != str(folder)


@pytest.mark.parametrize(
    "make",
    [
        lambda app, folder: layers.newer(app, folder, "x"),
        layers.crashing,
        layers.unhealthy,
        layers.failing,
    ],
)
def test_altered_apps_are_python_and_differ(
    make: Callable[[Path, Path], Path], tmp_path: Path
) -> None:
    code = (make(APP, tmp_path) / "app.py").read_text()
    ast.parse(code)
    assert code != (APP / "app.py").read_text()


def test_an_app_that_has_changed_too_much_is_told(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "app.py").write_text("app = None\n")
    with pytest.raises(ValueError, match="has changed"):
        layers.unhealthy(tmp_path / "app", tmp_path / "copy")


@pytest.mark.parametrize("size", change_scale.SIZES)
def test_an_inventory_of_a_size_has_so_many_instances(
    size: int, applied: Callable[[Layer], Mesh]
) -> None:
    mesh = applied(Layer({**change_scale.lab(), **change_scale.mesh(size)}))
    instances = [each for plan in mesh.spec.hosts.values() for each in plan.flask_services]
    assert len(instances) == size
    spec = lab_spec(mesh.inventory)
    assert spec.name == change_scale.NAME
    assert {vm.memory_mb for vm in spec.vms} == {change_scale.MEMORY_MB}
