"""What renews identities is installed on a host, kept as it should be, and removed."""

from __future__ import annotations

import grp
import json
import os
import pwd
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from plugins.module_utils import identity_install
from plugins.module_utils.certificates import CertificateError
from plugins.module_utils.host_anchor import KEY
from plugins.module_utils.host_parts import our_files
from plugins.module_utils.identities import SETTINGS, STATE, Settings, folder_of, renew
from plugins.module_utils.identity_install import (
    TIMER,
    UNIT_FILES,
    USERS,
    Owners,
    Wanted,
    in_use,
    install,
    is_there,
    remove,
)
from plugins.module_utils.systemd import Done

NAME = "web1.shop.mesh"
NOW = time.time()
USER, GROUP = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
OWNERS = Owners(USER, USER, GROUP)


class Systemd:
    """The service manager of a host below `root`, which starts what it is told to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.done: list[str] = []
        self.state = {"ActiveState": "inactive", "UnitFileState": "disabled"}
        self.broken = False

    def run(self, arguments: Sequence[str]) -> Done:
        line = " ".join(arguments)
        if arguments[:2] == ["systemctl", "show"]:
            shown = "".join(f"{name}={value}\n" for name, value in self.state.items())
            return Done(0, f"Id={TIMER}\n{shown}")
        self.done.append(line)
        if line.startswith("systemctl enable"):
            self.state = {"ActiveState": "active", "UnitFileState": "enabled"}
        if line == "systemctl start vmesh-certs.service":
            if self.broken:
                return Done(1, "", "Job failed")
            (self.root / STATE).mkdir(parents=True, exist_ok=True)
            renew(self.root, self.root / KEY, NOW)
        return Done(0, "No space left\n" if line.startswith("journalctl --quiet") else "")


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    monkeypatch.setattr(identity_install, "missing_users", lambda names: [])
    return Systemd(tmp_path)


def wanted(*proxies: str, hours: int = 72) -> Wanted:
    identities = {proxy: f"spiffe://{NAME}/{proxy}" for proxy in proxies}
    files: Mapping[str, str] = {path: f"# {path}\n" for path in (USERS, *UNIT_FILES)}
    return Wanted(Settings(NAME, identities, hours), files)


def apply(systemd: Systemd, shall: Wanted, *, dry: bool = False) -> list[str]:
    return install(systemd.root, shall, systemd.run, NOW, OWNERS, dry=dry)


def test_a_host_gets_it_all_once(systemd: Systemd) -> None:
    changed = apply(systemd, wanted("shop", "stock"))
    assert f"/{SETTINGS}" in changed
    for proxy in ("shop", "stock"):
        assert (folder_of(systemd.root, proxy) / "identity.json").is_file()
        assert folder_of(systemd.root, proxy).stat().st_mode & 0o7777 == 0o2750
    assert "systemd-sysusers /etc/systemd/vmesh-certs-users.conf" in systemd.done
    systemd.done.clear()
    assert apply(systemd, wanted("shop", "stock")) == []
    assert systemd.done == []


def test_a_check_changes_nothing(systemd: Systemd) -> None:
    assert apply(systemd, wanted("shop"), dry=True)
    assert list(systemd.root.iterdir()) == []
    assert systemd.done == []


def test_a_new_proxy_gets_a_leaf_and_the_others_keep_theirs(systemd: Systemd) -> None:
    apply(systemd, wanted("shop"))
    shop = (folder_of(systemd.root, "shop") / "identity.json").read_text()
    apply(systemd, wanted("shop", "stock"))
    assert (folder_of(systemd.root, "shop") / "identity.json").read_text() == shop
    assert (folder_of(systemd.root, "stock") / "identity.json").is_file()


@pytest.mark.parametrize("path", [SETTINGS, *UNIT_FILES])
def test_what_somebody_has_changed_is_put_right(systemd: Systemd, path: str) -> None:
    apply(systemd, wanted("shop"))
    (systemd.root / path).write_text("{}")
    assert f"/{path}" in apply(systemd, wanted("shop"))
    assert apply(systemd, wanted("shop")) == []


def test_a_stopped_timer_is_started(systemd: Systemd) -> None:
    apply(systemd, wanted("shop"))
    systemd.state["ActiveState"] = "inactive"
    assert apply(systemd, wanted("shop")) == ["vmesh-certs.timer is not running"]
    assert systemd.state["ActiveState"] == "active"


def test_a_unit_that_fails_is_told_with_its_journal(systemd: Systemd) -> None:
    systemd.broken = True
    with pytest.raises(CertificateError, match="shop: it is missing\n") as told:
        apply(systemd, wanted("shop"))
    assert "No space left" in str(told.value)


def test_going_back_leaves_no_key_and_no_unit(systemd: Systemd) -> None:
    apply(systemd, wanted("shop"))
    assert is_there(systemd.root)
    assert remove(systemd.root, systemd.run, dry=True)
    assert is_there(systemd.root)
    assert remove(systemd.root, systemd.run)
    assert [path for path in systemd.root.rglob("*") if path.is_file()] == []
    assert "systemctl disable --now vmesh-certs.timer" in systemd.done
    assert remove(systemd.root, systemd.run) == []
    assert not is_there(systemd.root)


def test_who_still_shows_its_identity_is_told(systemd: Systemd) -> None:
    """Without it such an Envoy would not come up again."""
    apply(systemd, wanted("shop", "stock"))
    assert in_use(systemd.root) == []
    for proxy, kind in (("shop", "listeners"), ("stock", "clusters")):
        path = systemd.root / f"etc/envoy/{proxy}/{kind}/{kind}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        source = {"path_config_source": {"path": f"/etc/envoy/{proxy}/identity/identity.json"}}
        path.write_text(json.dumps(source))
    assert in_use(systemd.root) == ["shop", "stock"]


def test_no_snapshot_has_a_key_or_what_renews_it(systemd: Systemd) -> None:
    apply(systemd, wanted("shop"))
    assert list(our_files(systemd.root)) == []
