"""A host on which vmesh was installed is as it was before, but for what is said to stay."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar

import pytest

from plugins.module_utils import firewall
from plugins.module_utils.host_parts import app_drop_in
from plugins.module_utils.systemd import CommandFailed, Done
from plugins.module_utils.transaction import commit, remove
from plugins.module_utils.uninstall import uninstall
from tests.unit.mesh.played import Host, Systemd, Unit, asked

PASSWD = """root:x:0:0:root:/root:/bin/bash
envoy:x:100:100:somebody's own Envoy:/nonexistent:/usr/sbin/nologin
envoy-shop:x:998:998:Envoy proxy shop:/nonexistent:/usr/sbin/nologin
flask-shop:x:997:997:Flask service shop:/nonexistent:/usr/sbin/nologin
jaeger:x:996:996::/var/lib/jaeger:/usr/sbin/nologin
"""


class WithUsers(Systemd):
    """Knows the users of the host, too."""

    passwd = PASSWD
    # Name of a user -> why it cannot be removed.
    in_use: ClassVar[dict[str, str]] = {}

    def __call__(self, arguments: Sequence[str]) -> Done:
        command = list(arguments)
        if command == ["getent", "passwd"]:
            return Done(0, self.passwd)
        if command[:2] == ["systemctl", "list-units"]:
            patterns = command[command.index("--") + 1 :]
            loaded = [u for u in self.units if any(fnmatch(u, each) for each in patterns)]
            return Done(0, "".join(f"{unit} loaded active running A unit\n" for unit in loaded))
        if command[0] == firewall.NFT and "list" in command:
            self.calls.append(command)
            return Done(0, "table inet vmesh {}")
        done = super().__call__(arguments)
        if command[0] == "userdel":
            if command[1] in self.in_use:
                return Done(8, "", self.in_use[command[1]])
            lines = self.passwd.splitlines(keepends=True)
            self.passwd = "".join(x for x in lines if not x.startswith(f"{command[1]}:"))
        return done


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
    host.write(app_drop_in("shop"), "# Written by the role flask_service.\n")
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
    assert not (host.root / app_drop_in("shop")).parent.exists()
    assert found["kept"] == []
    for what in ("flask@shop", "jaeger", "/opt/shop", "user flask-shop", "user jaeger"):
        assert what in found["removed"]
    assert "user envoy" not in found["removed"]
    users = [call[1] for call in host.systemd.calls if call[0] == "userdel"]
    assert users == ["envoy-shop", "flask-shop", "jaeger"]


def wall(host: Host) -> None:
    for path in firewall.FILES:
        host.write(path, "# Written by the role firewall.\n")


def test_the_firewall_goes_with_the_rest(host: Host) -> None:
    before = files(host.root)
    install(host)
    wall(host)
    found = removed(host, traces=True)
    assert "/etc/vmesh/firewall.nft" in found["removed"]
    assert {path for path in files(host.root) - before if (host.root / path).is_file()} == set()
    assert ["disable", "--now", firewall.UNIT] in host.systemd.told("disable")
    assert [*firewall.DELETE] in host.systemd.calls


def test_a_firewall_alone_is_found_and_removed(host: Host) -> None:
    wall(host)
    found = removed(host, traces=True, dry=True)["removed"]
    assert {f"/{path}" for path in firewall.FILES} <= set(found)
    removed(host, traces=True)
    assert not any((host.root / path).exists() for path in firewall.FILES)


def test_a_host_without_the_firewall_is_not_asked_for_one(host: Host) -> None:
    install(host)
    removed(host, traces=True)
    assert not [call for call in host.systemd.calls if firewall.NFT in call]


def test_the_firewall_goes_with_the_last_part_that_leaves_the_mesh(host: Host) -> None:
    install(host)
    wall(host)
    remove(host.machine, asked(2), ["jaeger"], 0)
    assert all((host.root / path).exists() for path in firewall.FILES)
    remove(host.machine, asked(3), ["flask@shop", "envoy@shop"], 0)
    assert not any((host.root / path).exists() for path in firewall.FILES)


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
    assert units in [set(call[1:]) for call in host.systemd.told("stop")]
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


def test_a_second_time_there_is_nothing_to_do(host: Host) -> None:
    install(host)
    removed(host, traces=True)
    host.systemd.calls.clear()
    assert removed(host, traces=True)["removed"] == []
    assert host.systemd.calls == []


def test_a_host_without_vmesh_keeps_what_has_the_same_names(host: Host) -> None:
    host.systemd.passwd = "jaeger:x:996:996::/var/lib/jaeger:/usr/sbin/nologin\n"  # type: ignore[attr-defined]
    for path in ("etc/envoy/envoy.yaml", "etc/jaeger/jaeger.yaml", "opt/envoy/bin/envoy"):
        host.write(path, "of somebody else\n")
    (host.root / "opt/jaeger/1").mkdir(parents=True)
    (host.root / "opt/jaeger/current").symlink_to("1")
    host.write("var/lib/jaeger/badger", "traces")
    before = files(host.root)
    assert removed(host, traces=True)["removed"] == []
    assert files(host.root) == before


def test_what_others_put_beside_it_stays(host: Host) -> None:
    install(host)
    host.write("etc/envoy/shop/bootstrap.json", "{}\n")
    theirs = ("etc/envoy/envoy.yaml", "etc/envoy/certs/key.pem", "opt/envoy/bin/envoy")
    for path in theirs:
        host.write(path, "of somebody else\n")
    removed(host, traces=True)
    assert all((host.root / path).is_file() for path in theirs)
    assert not (host.root / "etc/envoy/shop").exists()
    assert not (host.root / "etc/flask").exists()


def test_a_part_that_left_before_and_still_finishes_its_requests_is_stopped(host: Host) -> None:
    install(host)
    host.write("etc/systemd/system/envoy@.service", "# Written by the role envoy.\n")
    host.systemd.units["envoy@old.service"] = Unit("active")
    removed(host, traces=True)
    assert host.systemd.units["envoy@old.service"].active == "inactive"
    stops = host.systemd.told("stop")
    assert stops[0] == ["stop", "vmesh-leave-*"], "which would stop it too late"


def test_a_user_that_cannot_be_removed_is_told_and_the_next_try_removes_it(host: Host) -> None:
    install(host)
    host.systemd.in_use = {"flask-shop": "userdel: user flask-shop is used by process 7"}  # type: ignore[attr-defined]
    with pytest.raises(CommandFailed, match=r"user flask-shop: .* used by process 7"):
        removed(host, traces=True)
    host.systemd.in_use = {}  # type: ignore[attr-defined]
    again = removed(host, traces=True)["removed"]
    assert {"user flask-shop", "/opt/jaeger", "/var/lib/vmesh"} <= set(again)
    assert removed(host, traces=True)["removed"] == []


def test_keys_leaves_and_what_renews_them_go(host: Host) -> None:
    before = files(host.root)
    assert isinstance(host.systemd, WithUsers)
    host.systemd.passwd += "vmesh-certs:x:995:995:Identities of vmesh:/nonexistent:/sbin/nologin\n"
    timer = "etc/systemd/system/vmesh-certs.timer"
    for path in (timer, "etc/vmesh/certs.json", "etc/vmesh/certs/anchor.key"):
        host.write(path, "text\n")
    for path in ("var/lib/vmesh-certs/last", "etc/envoy/shop/identity/identity.json"):
        host.write(path, "{}")
    host.systemd.units["vmesh-certs.timer"] = Unit("active", enabled=True)
    found = removed(host, traces=True)
    left = files(host.root) - before
    assert {path for path in left if (host.root / path).is_file()} == set()
    assert "user vmesh-certs" in found["removed"]
    assert host.systemd.units["vmesh-certs.timer"].active == "inactive"
