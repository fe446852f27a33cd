"""The snapshots of a host: kept, compared, forgotten and restored; here a folder."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.envoy_documents import draining, text_of
from plugins.module_utils.host_parts import our_files
from plugins.module_utils.leave import leave
from plugins.module_utils.snapshot_store import Pending, SnapshotStore, Unreadable
from plugins.module_utils.snapshots import capture
from plugins.module_utils.transaction import (
    MeshRun,
    NoSuchSnapshot,
    begin,
    commit,
    not_restored,
    remove,
    restore,
)
from tests.unit.mesh.played import Host, asked

SECRET = "correct horse"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def applied(host: Host, run: int, change: Callable[[], None]) -> dict[str, Any]:
    """Do a run that goes well."""
    begin(host.machine, asked(run))
    change()
    return commit(host.machine, asked(run))


def store(host: Host) -> SnapshotStore:
    return SnapshotStore(host.root)


def undone(host: Host, run: int, cause: str = "it failed") -> dict[str, Any]:
    """Put the state of before back."""
    return restore(host.machine, asked(run), to=None, cause=cause)


# Keeping


def test_a_run_that_changes_something_has_a_number_and_a_line_of_history(host: Host) -> None:
    assert begin(host.machine, asked(1)) == {"newest": 0}
    host.app("shop", "aaaa")
    done = commit(host.machine, asked(1))
    assert (done["number"], done["from"]) == (1, 0)
    assert done["parts"] == ["flask@shop", "units"]
    done = applied(host, 4, lambda: host.app("shop", "bbbb", "green"))
    assert (done["number"], done["from"], done["parts"]) == (4, 1, ["flask@shop"])
    assert begin(host.machine, asked(5)) == {"newest": 4}
    last = store(host).history()[-1]
    assert (last["run"], last["who"], last["note"]) == (4, "root@controller", "apply")
    assert (last["from"], last["to"], last["result"]) == (1, 4, "applied")
    assert last["what"] == {"apps": {"shop": ["aaaa", "bbbb"]}, "settings": ["shop"]}
    assert last["when"].endswith("+00:00")


def test_a_run_that_changes_nothing_leaves_no_trace(host: Host) -> None:
    applied(host, 1, lambda: host.app("shop", "aaaa"))
    done = applied(host, 2, lambda: None)
    assert (done["number"], done["parts"]) == (1, [])
    assert store(host).numbers() == [1]
    assert [line["run"] for line in store(host).history()] == [1]
    assert not store(host).pending_path.exists()


def test_a_run_that_comes_twice_to_a_host_has_one_state(host: Host) -> None:
    applied(host, 1, lambda: host.app("shop", "aaaa"))
    applied(host, 2, lambda: host.app("stock", "cccc"))
    done = applied(host, 2, lambda: host.app("shop", "bbbb"))
    assert (done["number"], done["from"]) == (2, 1)
    assert store(host).history()[-1]["what"]["apps"] == {
        "shop": ["aaaa", "bbbb"],
        "stock": [None, "cccc"],
    }


def test_only_root_can_read_what_is_kept(host: Host) -> None:
    host.write("etc/flask/shop/env", f'PASSWORD="{SECRET}"\n', 0o640)
    before = os.umask(0)
    try:
        applied(host, 1, lambda: host.app("shop", "aaaa", SECRET))
    finally:
        os.umask(before)
    kept = [path for path in store(host).place.rglob("*") if path.is_file()]
    assert {path.name for path in kept} >= {"1.json", "history.jsonl"}
    for path in [store(host).place, *store(host).place.rglob("*")]:
        allowed = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == allowed, path
    history = store(host).history_path.read_text()
    assert SECRET not in history, "nor does the history need it"


def test_the_last_three_states_are_kept(host: Host) -> None:
    for run in range(1, 6):
        applied(host, run, lambda run=run: host.app("shop", f"v{run}"))  # type: ignore[misc]
    assert store(host).numbers() == [3, 4, 5]
    assert len(store(host).history()) == 5


def test_releases_that_nothing_needs_go_and_no_others(host: Host) -> None:
    (host.root / "opt/strangers/1").mkdir(parents=True)
    (host.root / "opt/strangers/2").mkdir()
    (host.root / "opt/strangers/current").symlink_to("2")
    removed = []
    for run in range(1, 6):
        if run == 4:
            (host.root / "opt/shop/.staging-v9/lib").mkdir(parents=True)
            host.write("opt/shop/.archive-v9", "half")
        removed += applied(host, run, lambda run=run: host.app("shop", f"v{run}"))[  # type: ignore[misc]
            "removed"
        ]
    assert removed == ["shop/v1", "shop/v2"]
    there = {path.name for path in (host.root / "opt/shop").iterdir()}
    assert there == {"v3", "v4", "v5", "current"}
    assert (host.root / "opt/strangers/1").is_dir()


def test_a_release_from_which_something_runs_stays(host: Host) -> None:
    applied(host, 1, lambda: host.app("shop", "v1"))
    (host.root / "proc/77").mkdir(parents=True)
    (host.root / "proc/77/cwd").symlink_to("/opt/shop/v1/app")
    for run in range(2, 6):
        applied(host, run, lambda run=run: host.app("shop", f"v{run}"))  # type: ignore[misc]
    assert (host.root / "opt/shop/v1").is_dir()
    assert not (host.root / "opt/shop/v2").is_dir()


def test_what_vmesh_put_there_before_it_kept_states_can_come_back(host: Host) -> None:
    host.app("shop", "old")
    assert applied(host, 1, lambda: host.app("shop", "new"))["from"] == 0
    assert store(host).numbers() == [0, 1]
    restore(host.machine, asked(2, "rollback"), to=0)
    assert host.current("shop") == "old"


def test_a_process_that_is_down_for_a_moment_makes_no_new_state(host: Host) -> None:
    applied(host, 1, lambda: host.app("shop", "aaaa"))
    begin(host.machine, asked(2))
    host.systemd._do("stop", ["flask@shop.service"])
    assert commit(host.machine, asked(2))["number"] == 1


# Interrupted


def test_the_state_before_an_interrupted_run_is_the_one_to_go_back_to(host: Host) -> None:
    applied(host, 1, lambda: host.app("shop", "aaaa"))
    begin(host.machine, asked(2))
    host.release("shop", "half")
    assert begin(host.machine, asked(3)) == {"newest": 1, "interrupted": 2}
    host.app("shop", "bad")
    undone(host, 3)
    assert host.current("shop") == "aaaa"
    assert begin(host.machine, asked(4)) == {"newest": 1}


def pending(host: Host) -> Pending:
    """Return what is kept from before the run that goes on."""
    found = store(host).pending()
    assert found is not None
    return found


def holder(host: Host) -> str:
    """Return who is noted to change a host."""
    return pending(host).who


def test_who_goes_on_with_an_interrupted_run_changes_the_host_now(host: Host) -> None:
    applied(host, 1, lambda: host.app("shop", "aaaa"))
    begin(host.machine, MeshRun(2, "root@tower"))
    assert holder(host) == "root@tower"
    kept = pending(host)
    host.app("shop", "bbbb")
    os.utime(store(host).pending_path, (0, 0))
    assert begin(host.machine, asked(3)) == {"newest": 1, "interrupted": 2}
    assert pending(host) == dataclasses.replace(kept, who="root@controller")
    assert store(host).pending_path.stat().st_mtime > 0, "since now"
    assert begin(host.machine, asked(4)) == {"newest": 1, "interrupted": 2}


def test_a_run_that_was_killed_at_its_very_end_has_ended(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied(host, 1, lambda: host.app("shop", "aaaa"))
    begin(host.machine, asked(2))
    host.app("shop", "bbbb")

    class Killed(BaseException):
        """As by SIGKILL."""

    def die(_: SnapshotStore) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(SnapshotStore, "drop_pending", die)
        commit(host.machine, asked(2))
    assert begin(host.machine, asked(3)) == {"newest": 2}, "nothing was interrupted"
    assert [line["run"] for line in store(host).history()] == [1, 2]
    host.app("shop", "cccc")
    undone(host, 3)
    assert host.current("shop") == "bbbb"


def test_a_killed_run_between_two_turns_of_a_host_is_interrupted(host: Host) -> None:
    applied(host, 1, lambda: host.app("shop", "aaaa"))
    begin(host.machine, asked(1))
    host.app("shop", "bbbb")
    assert begin(host.machine, asked(2)) == {"newest": 1, "interrupted": 1}


def test_half_a_line_of_history_harms_no_other(host: Host) -> None:
    applied(host, 1, lambda: host.app("shop", "aaaa"))
    with store(host).history_path.open("a") as file:
        file.write('{"run": 2, "wh')
    applied(host, 3, lambda: host.app("shop", "bbbb"))
    assert [line["run"] for line in store(host).history()] == [1, 3]


def test_without_room_a_run_does_not_begin(host: Host) -> None:
    host.app("shop", "aaaa")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            begin(host.machine, asked(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(store(host).place.rglob("*.json"))
    assert not list(store(host).place.rglob(".incoming-*"))
    assert undone(host, 1)["begun"] is False, "and there is nothing to put back"


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 9, "files": {}}'])
def test_a_state_that_cannot_be_read_is_named_with_a_remedy(host: Host, text: str) -> None:
    begin(host.machine, asked(1))
    store(host).pending_path.write_text(text)
    with pytest.raises(Unreadable, match=r"pending\.json.*[Rr]emove it"):
        begin(host.machine, asked(2))


# Bringing back


def snapshot(host: Host) -> dict[str, Any]:
    """Return all that a state has, and which processes run with what."""
    units = {
        name: (unit.active, unit.enabled, unit.status)
        for name, unit in host.systemd.units.items()
        if unit.active != "inactive" or unit.enabled
    }
    state = capture(host.root, host.systemd)
    return {"state": {**state, "units": None}, "units": units}


def test_a_failed_run_leaves_all_as_it_was(host: Host) -> None:
    host.app("shop", "aaaa")
    host.jaeger("2.12.0")
    host.write("etc/vmesh/legacy.env", "SHOP_URL=http://127.0.0.2:9001\n")
    (host.root / "etc/flask/shop/more").write_bytes(b"\xff\x00 no text")
    before = snapshot(host)
    begin(host.machine, asked(1))
    host.app("shop", "bbbb", "green", unit="gunicorn --new")
    host.app("stock", "cccc", unit="gunicorn --new")
    host.jaeger("2.13.0", 24)
    host.write("etc/vmesh/legacy.env", "SHOP_URL=other\n")
    host.write("etc/vmesh/another.env", "A=b\n")
    (host.root / "etc/flask/shop/more").unlink()
    result = undone(host, 1)
    assert result["errors"] == {}
    assert result["restored"] == [
        "env@another",
        "env@legacy",
        "flask@shop",
        "flask@stock",
        "jaeger",
        "units",
    ]
    assert snapshot(host) == before
    assert host.systemd.units["flask@stock.socket"].active == "inactive"
    assert host.current("stock") is None
    assert not (host.root / "opt/stock").exists(), "a new app leaves nothing"
    assert (host.root / "opt/shop/bbbb").is_dir(), "the next run has need of it"
    line = store(host).history()[-1]
    assert (line["result"], line["cause"]) == ("restored", "it failed")
    assert not store(host).pending_path.exists()


def test_what_a_killed_run_had_begun_to_bring_goes(host: Host) -> None:
    host.app("shop", "aaaa")
    begin(host.machine, asked(1))
    host.write("etc/flask/shop/env.next", f'PASSWORD="{SECRET}"\n', 0o640)
    host.write("etc/flask/stock/env.next", f'PASSWORD="{SECRET}"\n', 0o640)
    (host.root / "etc/envoy/stock/endpoints").mkdir(parents=True)
    for path in ("stock/.staging-1/app", "stock/.archive-1", "shop/.archive-b", "envoy/.archive-2"):
        host.write(f"opt/{path}", "half")
    (host.root / "opt/stock/1").mkdir()
    assert undone(host, 1)["restored"] == []
    assert [path.name for path in (host.root / "etc/flask").rglob("*")] == ["shop", "env"]
    assert not (host.root / "etc/envoy/stock").exists()
    assert {path.name for path in (host.root / "opt").iterdir()} == {"shop", "envoy"}
    assert not list((host.root / "opt").rglob(".archive-*"))


def test_what_is_as_it_should_be_is_left_alone(host: Host) -> None:
    host.app("shop", "aaaa")
    host.app("stock", "bbbb")
    host.jaeger("2.12.0")
    begin(host.machine, asked(1))
    host.app("shop", "new")
    host.systemd.calls.clear()
    assert undone(host, 1)["restored"] == ["flask@shop"]
    assert host.systemd.calls == [["systemctl", "reload-or-restart", "flask@shop.service"]]
    begin(host.machine, asked(2))
    host.systemd.calls.clear()
    assert undone(host, 2)["restored"] == []
    assert host.systemd.calls == []
    assert len(store(host).history()) == 1, "nothing was brought back"


def test_settings_are_written_back_without_a_change_of_release(host: Host) -> None:
    host.app("shop", "aaaa", "blue")
    begin(host.machine, asked(1))
    host.app("shop", "aaaa", "green")
    undone(host, 1)
    assert 'COLOR="blue"' in host.text("etc/flask/shop/env")
    assert host.systemd.units["flask@shop.service"].status == "Gunicorn serves: aaaa-blue"
    assert stat.S_IMODE((host.root / "etc/flask/shop/env").stat().st_mode) == 0o640


def test_a_process_that_never_got_to_run_the_new_is_not_restarted(host: Host) -> None:
    """As when a run is killed after it wrote the settings."""
    host.app("shop", "aaaa", "blue")
    begin(host.machine, asked(1))
    host.write("etc/flask/shop/env", 'COLOR="green"\nCONFIG_ID="aaaa-green"\n')
    host.systemd.calls.clear()
    assert undone(host, 1)["restored"] == ["flask@shop"]
    assert host.systemd.told("restart", "reload-or-restart") == []


def test_an_app_that_runs_from_another_release_is_restarted(host: Host) -> None:
    """Whatever its settings say of themselves."""
    host.app("shop", "aaaa")
    begin(host.machine, asked(1))
    (host.root / "proc/0").mkdir(parents=True)
    (host.root / "proc/0/cwd").symlink_to("/opt/shop/bbbb/app")
    assert undone(host, 1)["restored"] == ["flask@shop"]


def test_units_that_were_stopped_or_disabled_come_back(host: Host) -> None:
    host.app("shop", "aaaa")
    host.jaeger("2.12.0")
    begin(host.machine, asked(1))
    host.systemd._do("stop", ["flask@shop.service", "flask@shop.socket", "jaeger.service"])
    host.systemd._do("disable", ["flask@shop.socket", "jaeger.service"])
    assert undone(host, 1)["restored"] == ["flask@shop", "jaeger"]
    for unit in ("flask@shop.service", "flask@shop.socket", "jaeger.service"):
        assert host.systemd.units[unit].active == "active"
        assert host.systemd.units[unit].enabled


def test_another_unit_file_needs_another_process(host: Host) -> None:
    host.app("shop", "aaaa")
    begin(host.machine, asked(1))
    host.app("shop", "bbbb", unit="gunicorn --new")
    host.systemd.calls.clear()
    assert undone(host, 1)["restored"] == ["flask@shop", "units"]
    # Not a restart, for which requests would wait.
    assert host.systemd.told("daemon-reload", "restart", "reload-or-restart") == [
        ["daemon-reload"],
        ["reload-or-restart", "flask@shop.service"],
    ]
    assert "--new" not in host.text("etc/systemd/system/flask@.service")


def test_whom_an_app_may_reach_is_restored_with_it_and_leaves_with_it(host: Host) -> None:
    addition = "etc/systemd/system/flask@shop.service.d/vmesh-network.conf"
    host.app("shop", "aaaa")
    begin(host.machine, asked(1))
    host.app("shop", "aaaa", "confined")
    host.write(addition, "# Written by the role flask_service for `network: mesh`.\n")
    host.systemd.calls.clear()
    assert undone(host, 1)["restored"] == ["flask@shop"]
    assert not (host.root / addition).exists()
    assert host.systemd.told("daemon-reload")
    host.write(addition, "# Written by the role flask_service for `network: mesh`.\n")
    leave(host.machine, ["flask@shop"], 0)
    assert not (host.root / addition).parent.exists()


def test_what_others_put_beside_our_files_is_theirs(host: Host) -> None:
    host.app("shop", "aaaa")
    begin(host.machine, asked(1))
    theirs = "etc/systemd/system/flask@.service.d/limits.conf"
    host.write(theirs, "[Service]\nLimitNOFILE=9\n")
    host.write("usr/local/bin/envoy-notes", "#!/bin/sh\n")
    undone(host, 1)
    assert host.text(theirs).endswith("=9\n")
    assert (host.root / "usr/local/bin/envoy-notes").exists()
    ours = [str(path) for path in our_files(host.root)]
    assert not [path for path in ours if "notes" in path or "limits" in path]


def test_a_part_that_fails_does_not_stop_the_others(host: Host) -> None:
    host.app("shop", "aaaa")
    host.app("stock", "bbbb")
    begin(host.machine, asked(1))
    host.app("shop", "cccc")
    host.app("stock", "dddd")
    host.systemd.failing["flask@shop.service"] = "ModuleNotFoundError: No module named 'app'"
    result = undone(host, 1, "stock answered 500")
    assert host.current("stock") == "bbbb"
    assert list(result["errors"]) == ["flask@shop"]
    told = not_restored(result)
    assert "flask@shop: Job for flask@shop.service failed." in told
    assert "ModuleNotFoundError" in told, "with the evidence"
    assert store(host).pending_path.exists(), "it can be tried again"
    assert holder(host) == "", "by anybody, as this run is over here"
    assert store(host).history()[-1]["errors"].keys() == {"flask@shop"}
    host.systemd.failing.clear()
    assert undone(host, 2)["errors"] == {}


def test_a_release_that_is_gone_is_told(host: Host) -> None:
    host.app("shop", "aaaa")
    begin(host.machine, asked(1))
    host.app("shop", "bbbb")
    shutil.rmtree(host.root / "opt/shop/aaaa")
    errors = undone(host, 1)["errors"]
    assert errors == {
        "flask@shop": "the release shop aaaa is not on this host any more;"
        " apply an inventory that has it"
    }
    assert host.current("shop") == "bbbb", "the link leads to something"


def test_a_group_that_is_gone_is_told(host: Host) -> None:
    host.app("shop", "aaaa")
    begin(host.machine, asked(1))
    path = store(host).pending_path
    kept = json.loads(path.read_text())
    kept["files"]["etc/flask/shop/env"]["group"] = "nobody-knows-it"
    path.write_text(json.dumps(kept))
    host.write("etc/flask/shop/env", "COLOR=1\n")
    errors = undone(host, 1)["errors"]
    assert errors == {"flask@shop": "the group nobody-knows-it does not exist"}
    assert host.text("etc/flask/shop/env") == "COLOR=1\n"


# A numbered state


def three_runs(host: Host) -> None:
    for run, setting in ((2, "red"), (4, "green"), (7, "blue")):
        applied(host, run, lambda run=run, s=setting: host.app("shop", f"v{run}", s))  # type: ignore[misc]


@pytest.mark.parametrize(("to", "version"), [(2, "v2"), (3, "v2"), (4, "v4"), (6, "v4")])
def test_the_mesh_as_it_was_after_a_run(host: Host, to: int, version: str) -> None:
    """A host that a run did not change was then as the run before had left it."""
    three_runs(host)
    result = restore(host.machine, asked(8, "rollback"), to=to)
    assert host.current("shop") == version
    assert (result["from"], result["number"]) == (7, 8)
    assert store(host).numbers() == [4, 7, 8]
    line = store(host).history()[-1]
    assert (line["result"], line["state"], line["note"]) == (
        "rolled back",
        int(version[1:]),
        "rollback",
    )
    assert not store(host).pending_path.exists()
    applied(host, 9, lambda: host.app("shop", "v9"))
    restore(host.machine, asked(10), to=8)
    assert host.current("shop") == version


def test_back_to_what_is_there_changes_nothing(host: Host) -> None:
    three_runs(host)
    result = restore(host.machine, asked(8), to=7)
    assert (result["restored"], result["number"]) == ([], 7)


def test_a_state_that_is_not_kept_any_more_is_told_with_those_that_are(host: Host) -> None:
    three_runs(host)
    with pytest.raises(NoSuchSnapshot, match=r"no state as old as 1 .*kept: 2, 4, 7"):
        restore(host.machine, asked(8), to=1)


def test_one_service_goes_back_alone(host: Host) -> None:
    host.jaeger("2.12.0")
    applied(host, 1, lambda: host.app("shop", "s1"))

    def change() -> None:
        host.app("shop", "s2", unit="gunicorn --new")
        host.app("stock", "t2", unit="gunicorn --new")
        host.jaeger("2.13.0")

    applied(host, 2, change)
    result = restore(host.machine, asked(3), to=1, parts=["flask@shop", "envoy@shop"])
    assert result["restored"] == ["flask@shop"]
    assert (host.current("shop"), host.current("stock")) == ("s1", "t2")
    assert host.current("jaeger") == "2.13.0"
    assert "--new" in host.text("etc/systemd/system/flask@.service"), "which they share"
    assert store(host).read(3)["links"] == {"jaeger": "2.13.0", "shop": "s1", "stock": "t2"}


def test_a_state_that_is_not_reached_is_given_up(host: Host) -> None:
    three_runs(host)
    host.jaeger("2.12.0")
    applied(host, 8, lambda: None)
    now = snapshot(host)

    def crash(unit: str, text: str) -> Callable[[Any], Any]:
        original = host.systemd._do

        def do(verb: str, names: Any) -> Any:
            old = 'COLOR="red"' in host.text("etc/flask/shop/env")
            host.systemd.failing = {unit: text} if old else {}
            return original(verb, names)

        return do  # type: ignore[return-value]

    host.systemd._do = crash("flask@shop.service", "ImportError")  # type: ignore[method-assign, assignment]
    with pytest.raises(NoSuchSnapshot, match="kept: 4, 7, 8"):
        restore(host.machine, asked(9), to=2)
    path = store(host).states / "4.json"
    kept = json.loads(path.read_text())
    kept["files"]["etc/flask/shop/env"]["text"] = 'COLOR="red"\nCONFIG_ID="v4-red"\n'
    path.write_text(json.dumps(kept))
    result = restore(host.machine, asked(9), to=4)
    assert result["errors"].keys() == {"flask@shop"}
    assert result["back"] == {}
    assert not_restored(result).endswith("ImportError\nAll is as it was before.")
    assert snapshot(host) == now
    assert store(host).newest() == 8
    assert store(host).history()[-1]["cause"] == "state 4 was not reached: flask@shop"


def test_a_dry_restoration_tells_and_does_nothing(host: Host) -> None:
    three_runs(host)
    before = snapshot(host)
    host.systemd.calls.clear()
    result = restore(host.machine, asked(8), to=4, dry=True)
    assert (result["restored"], result["number"], result["state"]) == (["flask@shop"], 7, 4)
    assert snapshot(host) == before
    assert host.systemd.calls == []
    assert store(host).numbers() == [2, 4, 7]


# Parts that leave


def test_a_part_that_left_is_stopped_and_its_configuration_goes(host: Host) -> None:
    def all_of_it() -> None:
        host.app("shop", "aaaa")
        host.app("stock", "bbbb")
        host.jaeger("2.12.0")
        host.write("etc/vmesh/legacy.env", "A=b\n")

    applied(host, 1, all_of_it)
    parts = ["flask@shop", "env@legacy", "jaeger", "flask@never-there"]
    assert remove(host.machine, asked(2), parts, 600, dry=True)["removed"] == [
        "env@legacy",
        "flask@shop",
        "jaeger",
    ]
    assert host.current("shop") == "aaaa"
    done = remove(host.machine, asked(2), parts, 600)
    assert (done["removed"], done["leaving"], done["number"]) == (
        ["env@legacy", "flask@shop", "jaeger"],
        [],
        2,
    )
    for unit in ("flask@shop.service", "flask@shop.socket", "jaeger.service"):
        assert host.systemd.units[unit].active == "inactive"
        assert not host.systemd.units[unit].enabled
    assert host.systemd.units["flask@stock.service"].active == "active"
    for path in (
        "etc/flask/shop",
        "etc/vmesh/legacy.env",
        "etc/jaeger",
        "etc/systemd/system/jaeger.service",
        "opt/shop/current",
    ):
        assert not (host.root / path).exists()
    assert (host.root / "opt/shop/aaaa").is_dir(), "state 1 can come back"
    assert remove(host.machine, asked(3), parts, 600)["removed"] == []
    restore(host.machine, asked(4), to=1)
    assert host.systemd.units["flask@shop.service"].active == "active"
    assert host.systemd.units["jaeger.service"].enabled
    for run in (5, 6, 7):
        remove(host.machine, asked(run), parts, 600)
        applied(host, run, lambda run=run: host.app("stock", f"v{run}"))  # type: ignore[misc]
    assert not (host.root / "opt/shop").exists(), "no kept state has it any more"


# The state itself


def test_that_an_endpoint_is_draining_is_no_part_of_a_state(host: Host) -> None:
    address = {"socket_address": {"address": "10.0.0.1", "port_value": 9}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    assignment = {"cluster_name": "stock", "endpoints": endpoints}
    text = text_of({"version_info": "x", "resources": [assignment]})
    path = "etc/envoy/shop/endpoints/stock.json"
    host.write(path, text)
    before = capture(host.root, host.systemd)
    host.write(path, draining(text, "10.0.0.1", 9))
    assert "DRAINING" in host.text(path)
    after = capture(host.root, host.systemd)
    assert before["files"][path]["text"] == after["files"][path]["text"] == text


def test_what_only_lies_beside_is_no_part_of_a_state(host: Host) -> None:
    for name in ("env.next", ".env.swp"):
        host.write(f"etc/flask/shop/{name}", "x")
    host.write("etc/envoy/shop/.incoming-abc", "x")
    assert capture(host.root, host.systemd)["files"] == {}
