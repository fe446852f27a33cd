"""A host on which vmesh was installed is as it was before, but for what is said to stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from plugins.module_utils.systemd import Done
from plugins.module_utils.transaction import commit
from plugins.module_utils.uninstall import uninstall
from tests.unit.mesh.played import Host, Systemd, asked

PASSWD = """root:x:0:0:root:/root:/bin/bash
envoy:x:100:100:somebody's own Envoy:/nonexistent:/usr/sbin/nologin
envoy-shop:x:998:998:Envoy proxy shop:/nonexistent:/usr/sbin/nologin
flask-shop:x:997:997:Flask service shop:/nonexistent:/usr/sbin/nologin
jaeger:x:996:996::/var/lib/jaeger:/usr/sbin/nologin
"""


class WithUsers(Systemd):
    """Knows the users of the host, too."""

    def __call__(self, arguments: Sequence[str]) -> Done:
        if list(arguments) == ["getent", "passwd"]:
            return Done(0, PASSWD)
        return super().__call__(arguments)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with files of others, on which an app and Jaeger are then installed."""
    host = Host(tmp_path)
    host.systemd = WithUsers(tmp_path)
    host.machine = type(host.machine)(tmp_path, host.systemd, host.machine.proxy)
    for path in ("etc/systemd/system/other.service", "opt/other/1/file", "etc/hosts"):
        host.write(path, "of somebody else\n")
    host.write("usr/local/bin/envoy-tool", "#!/bin/sh\n# a person's own\n")
    return host


def install(host: Host) -> None:
    host.app("shop", "v1")
    host.jaeger("2.0")
    host.write("var/lib/jaeger/badger", "traces")
    host.write("usr/local/bin/flask-control", "# Written by the role flask_service.\n", 0o755)
    host.release("vmesh", "abc")
    commit(host.machine, asked(1))


def removed(host: Host, *, traces: bool, dry: bool = False) -> dict[str, list[str]]:
    return uninstall(host.machine, traces=traces, drain_seconds=0, dry=dry)


def test_with_its_traces_nothing_of_it_stays(host: Host) -> None:
    before = files(host.root)
    install(host)
    found = removed(host, traces=True)
    left = files(host.root) - before
    assert {path for path in left if (host.root / path).is_file()} == set()
    assert before <= files(host.root)
    assert found["kept"] == []
    for what in ("flask@shop", "jaeger", "/opt/shop", "user flask-shop", "user jaeger"):
        assert what in found["removed"]
    assert "user envoy" not in found["removed"]
    users = [call[1] for call in host.systemd.calls if call[0] == "userdel"]
    assert users == ["envoy-shop", "flask-shop", "jaeger"]


def test_traces_stay_with_their_user_unless_they_are_asked_for(host: Host) -> None:
    install(host)
    found = removed(host, traces=False)
    assert found["kept"] == ["/var/lib/jaeger"]
    assert (host.root / "var/lib/jaeger/badger").read_text() == "traces"
    assert "user jaeger" not in found["removed"]


def test_units_are_stopped_and_disabled_before_their_files_go(host: Host) -> None:
    install(host)
    host.systemd.calls.clear()
    removed(host, traces=False)
    units = {"flask@shop.service", "flask@shop.socket", "jaeger.service"}
    assert [set(call[1:]) for call in host.systemd.told("disable")] == [units]
    assert set(host.systemd.told("stop")[0][1:]) == units
    assert host.systemd.told("daemon-reload")
    assert all(unit.active == "inactive" for unit in host.systemd.units.values())


def test_a_check_only_tells(host: Host) -> None:
    install(host)
    before = files(host.root)
    host.systemd.calls.clear()
    told = removed(host, traces=True, dry=True)
    assert files(host.root) == before
    assert host.systemd.calls == []
    assert told == removed(host, traces=True)


def test_a_second_time_there_is_nothing_to_do_but_users(host: Host) -> None:
    install(host)
    removed(host, traces=True)
    host.systemd.calls.clear()
    again = removed(host, traces=True, dry=True)
    assert not [each for each in again["removed"] if not each.startswith("user ")]
