"""What stands on each VM: units, sockets, owners and modes, and nothing that should not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.live.guest import STRANGER
from tests.live.target import Target, Vm
from vmesh.compile.host_spec import FlaskSpec, HostSpec, ProxySpec, admin_socket

HEALTH = "GET /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
READY = "GET /ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
REFUSED = "EACCES"
JAEGER_CONFIG = "/etc/jaeger/jaeger.yaml"


@dataclass(frozen=True)
class Opening:
    """A user's try to open a socket or a file of the mesh, and what must come of it."""

    user: str
    path: str
    answer: str
    text: str | None = None


@dataclass(frozen=True)
class Seen:
    """A VM, and what it answered about itself."""

    vm: Vm
    answer: dict[str, Any]
    openings: tuple[Opening, ...]

    @property
    def plan(self) -> HostSpec:
        return self.vm.plan

    def unit(self, name: str) -> dict[str, Any]:
        return dict(self.answer["units"][name])

    def file(self, path: str) -> tuple[str, str, str]:
        """Return mode, owner and group of a path."""
        assert path in self.answer["files"], f"{self.vm.name}: {path} is not there"
        found = self.answer["files"][path]
        return found["mode"], found["owner"], found["group"]


def units_of(plan: HostSpec) -> list[str]:
    """Return the units that must run on a VM."""
    units = [proxy.unit for proxy in plan.proxies]
    for service in plan.flask_services:
        units += [service.unit, service.unit.replace(".service", ".socket")]
    return units + ([plan.jaeger.unit] if plan.jaeger else [])


def openings_of(plan: HostSpec) -> tuple[Opening, ...]:
    """Return who is tried on what: the one user that may, and others that may not."""
    return tuple(
        [each for proxy in plan.proxies for each in _proxy_openings(proxy)]
        + [each for service in plan.flask_services for each in _flask_openings(service)]
        + ([Opening("nobody", JAEGER_CONFIG, REFUSED)] if plan.jaeger else [])
    )


def _proxy_openings(proxy: ProxySpec) -> Iterator[Opening]:
    socket = admin_socket(proxy.name)
    yield Opening(proxy.user, socket, "HTTP/1.1 200 OK", READY)
    yield Opening("nobody", socket, REFUSED)
    yield Opening(STRANGER, socket, REFUSED)
    yield Opening(STRANGER, f"/etc/envoy/{proxy.name}/bootstrap.json", REFUSED)


def _flask_openings(service: FlaskSpec) -> Iterator[Opening]:
    yield Opening(service.socket_group, service.socket, "HTTP/1.1 200 OK", HEALTH)
    # To the kernel, a second proxy's user is one in none of this socket's groups.
    yield Opening(STRANGER, service.socket, REFUSED)
    yield Opening(f"flask-{service.name}", service.socket, REFUSED)
    yield Opening(f"flask-{service.name}", admin_socket(service.name), REFUSED)
    yield Opening("nobody", f"/etc/flask/{service.name}/env", REFUSED)


@pytest.fixture(scope="module")
def seen(target: Target) -> list[Seen]:
    """Ask every VM everything, once: one ssh call each."""
    found = []
    for vm in target.vms.values():
        openings = openings_of(vm.plan)
        files = [admin_socket(proxy.name) for proxy in vm.plan.proxies]
        files += [service.socket for service in vm.plan.flask_services]
        files += [f"/etc/flask/{service.name}/env" for service in vm.plan.flask_services]
        files += [JAEGER_CONFIG, "/var/lib/jaeger"] if vm.plan.jaeger else []
        answer = vm.ask(
            units=units_of(vm.plan),
            trees=[f"/etc/envoy/{proxy.name}" for proxy in vm.plan.proxies],
            files=files,
            guarded=["/opt"],
            opens=[{"user": o.user, "path": o.path, "text": o.text} for o in openings],
        )
        found.append(Seen(vm, answer, openings))
    return found


def test_units_run_and_come_back_at_boot(seen: list[Seen]) -> None:
    for each in seen:
        for name in units_of(each.plan):
            unit = each.unit(name)
            assert unit["ActiveState"] == "active", (each.vm.name, unit)
            assert unit["UnitFileState"] == "enabled", (each.vm.name, unit)


def test_processes_run_as_their_own_users_with_few_rights(seen: list[Seen]) -> None:
    for each in seen:
        users = {proxy.unit: proxy.user for proxy in each.plan.proxies}
        users |= {s.unit: f"flask-{s.name}" for s in each.plan.flask_services}
        users |= {each.plan.jaeger.unit: "jaeger"} if each.plan.jaeger else {}
        for unit, user in users.items():
            processes = each.unit(unit)["processes"]
            assert processes, (each.vm.name, unit)
            for process in processes:
                assert process["users"] == [user], (each.vm.name, unit, process)
                assert process["no_new_privileges"], (each.vm.name, unit, process)
                # An Envoy may keep the right to a low port; nothing else has any.
                allowed = 1 << 10 if unit.startswith("envoy@") else 0
                assert process["capabilities"] & ~allowed == 0, (each.vm.name, unit, process)


def test_files_belong_to_root_and_are_read_by_their_service_alone(seen: list[Seen]) -> None:
    for each in seen:
        for proxy in each.plan.proxies:
            tree = {
                path: what
                for path, what in each.answer["files"].items()
                if path.startswith(f"/etc/envoy/{proxy.name}/") and what["kind"] == "-"
            }
            assert len(tree) >= 4, (each.vm.name, tree)
            for path in tree:
                assert each.file(path) == ("0640", "root", proxy.user), path
            assert each.file(admin_socket(proxy.name)) == ("0600", proxy.user, proxy.user)
        for service in each.plan.flask_services:
            group = f"flask-{service.name}"
            assert each.file(f"/etc/flask/{service.name}/env") == ("0640", "root", group)
            assert each.file(service.socket) == ("0660", "root", service.socket_group)
        if each.plan.jaeger:
            assert each.file(JAEGER_CONFIG) == ("0640", "root", "jaeger")
            mode, owner, _ = each.file("/var/lib/jaeger")
            assert (owner, mode[-1]) == ("jaeger", "0")


def test_releases_can_be_changed_by_root_only(seen: list[Seen]) -> None:
    assert {each.vm.name: each.answer["loose"] for each in seen} == {
        each.vm.name: [] for each in seen
    }


def test_sockets_and_settings_open_for_their_own_user_only(seen: list[Seen]) -> None:
    for each in seen:
        wrong = [
            (opening, answer)
            for opening, answer in zip(each.openings, each.answer["opens"], strict=True)
            if answer != opening.answer
        ]
        assert not wrong, (each.vm.name, wrong)


def test_nothing_listens_that_should_not(seen: list[Seen]) -> None:
    for each in seen:
        ports = [port for proxy in each.plan.proxies for port in proxy.ports]
        ports += each.plan.jaeger.ports if each.plan.jaeger else ()
        planned = {(port.address, port.port) for port in ports}
        for app in each.plan.external_apps:  # not vmesh's, but known to be there
            if not app.listening.startswith("unix:"):
                address, port_number = app.listening.rsplit(":", 1)
                planned.add((address, int(port_number)))
        found = {
            # A program that listens on all addresses may do so for both families at once.
            (one["address"].replace("::", "0.0.0.0"), one["port"], one["program"])
            for one in each.answer["listeners"]
            if one["port"] != 22
        }
        assert {(address, port) for address, port, _ in found} == planned, (each.vm.name, found)
