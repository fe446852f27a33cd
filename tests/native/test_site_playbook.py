"""A run of site.yml with played hosts: what a host's result is, and what is written down of it.

Ansible, the playbooks, the filters, and the actions that compile, decide and record are the real
ones. Modules and roles, which would change the hosts, are played: they answer what a test says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench import scale_inventory
from vmesh.base import paths
from vmesh.rollout import desired_state, history, record

HOST = {
    "os": "debian",
    "os_version": "12",
    "arch": "x86_64",
    "python": "3.11",
    "authorities": True,
    "nftables": True,
    "firewall": False,
    "session": {"address": "10.20.0.9", "port": 22},
    "parts": [],
    "newest": 0,
    "interrupted": {},
}
# An action plugin runs instead of the module of its name.
PLAYED = """
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        name = self._task.action.rpartition(".")[2]
        operation = self._task.args.get("operation", name)
        played = self._templar.template(task_vars["played"])
        answer = {"changed": False, **played.get(operation, {})}
        line = f"{task_vars['inventory_hostname']} {operation} {self._task.args.get('to', '')}"
        with open(task_vars["calls"], "a") as file:
            file.write(line.strip() + "\\n")
        return answer
"""
ROLES = ("envoy", "flask_service", "external_app", "jaeger", "firewall")
ROLE = """
- name: Install
  vmesh.mesh.played_install:
  tags: install
- name: Configure
  vmesh.mesh.played_configure:
  tags: configure
"""
FIREWALL = """
- name: Change the firewall
  vmesh.mesh.host_firewall:
    operation: "{{ firewall_operation }}"
    to: "{{ firewall_rules | map(attribute='port') | join(',') }}"
  register: firewall_changed
  tags: configure
"""
ACTIONS = ("host_firewall", "host_info", "host_snapshot", "host_kit", "canary_check", "artifacts")


class Site:
    """A mesh of four hosts below `folder`, and the collection with played modules and roles."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inventory = scale_inventory.write(4, folder / f"test-site-{os.getpid()}")
        self.calls = folder / "calls"
        self.place = folder / "applied" / self.inventory.name
        collection = folder / "collections/ansible_collections/vmesh/mesh"
        for name in ("plugins", "playbooks", "meta"):
            shutil.copytree(paths.COLLECTION / name, collection / name)
        # The actions import the package beside them.
        (collection / "vmesh").symlink_to(paths.PROJECT / "vmesh")
        for name in (*ACTIONS, "played_install", "played_configure"):
            (collection / "plugins/action" / f"{name}.py").write_text(PLAYED)
            (collection / "plugins/modules" / f"{name}.py").touch()
        for role in ROLES:
            for tasks in ("main", "serve"):
                path = collection / "roles" / role / "tasks" / f"{tasks}.yml"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(
                    FIREWALL if role == "firewall" else ROLE if tasks == "main" else "[]\n"
                )

    def run(
        self, *options: str, playbook: str = "site", **played: Mapping[str, Any]
    ) -> subprocess.CompletedProcess[str]:
        """Run the playbook; `played` says what modules answer other than usual, by host."""
        self.calls.write_text("")
        release = {"version": "abcd", "archive": "/none", "contents": ["ui"]}
        usual: dict[str, Any] = {
            "host_info": {"host": HOST},
            "begin": {"newest": 0},
            "commit": {"number": 1, "from": 0, "parts": ["envoy"], "removed": []},
            "restore": {"restored": ["envoy"], "errors": {}, "number": 0, "from": 0},
            "canary_check": {"counted": {}},
            "artifacts": {
                "artifacts": {
                    "envoy": {"x86_64": {**release, "version": "1.40.0"}},
                    "jaeger": {"x86_64": {**release, "version": "2.13.0"}},
                    "bundles": {"service0000": {"3.11/x86_64": release}},
                }
            },
        }
        variables = {
            "calls": str(self.calls),
            "played_on": {name.replace("_", "-"): each for name, each in played.items()},
            "usual": usual,
            "played": "{{ usual | combine(played_on[inventory_hostname] | default({})) }}",
            "ansible_connection": "local",
        }
        return subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                "-i",
                str(self.inventory),
                str(
                    self.folder
                    / f"collections/ansible_collections/vmesh/mesh/playbooks/{playbook}.yml"
                ),
                "-e",
                json.dumps(variables),
                *options,
            ],
            cwd=self.folder,
            env={
                "PATH": os.defpath,
                "HOME": str(self.folder),
                "XDG_CACHE_HOME": str(paths.cache_dir().parent),
                "VMESH_APPLIED": str(self.folder / "applied"),
                "ANSIBLE_CONFIG": str(paths.PROJECT / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_BECOME_ASK_PASS": "0",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

    def called(self, host: str) -> list[str]:
        """Return the modules that ran on a host, in order; operations by their names."""
        lines = self.calls.read_text().splitlines()
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{host} ")]


@pytest.fixture
def site(tmp_path: Path, envoy: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for check in (False, True):
        folder = desired_state.build_folder([made.inventory], check=check)
        shutil.rmtree(folder, ignore_errors=True)
        desired_state.forget(folder)


EVERYONE = ["edge000-0", "service0000-0", "service0000-1", "tracing-0"]


def results(site: Site) -> dict[str, str]:
    """Return what the last line of the history says became of each host."""
    return {host: each["result"] for host, each in history.read(site.place)[-1]["hosts"].items()}


def test_a_run_is_recorded_and_a_person_sees_what_it_decided(site: Site) -> None:
    done = site.run("-v")
    assert done.returncode == 0, done.stdout
    for line in (
        "mesh_rollout: 4 hosts: 4 with new parts",
        "mesh_rollout: HOST           WHEN  WHY",
        "mesh_rollout: tracing-0      add   Jaeger: new Jaeger; pages on 10.0.0.1:16686",
    ):
        assert line in done.stdout
    assert sorted(record.read(site.place)) == EVERYONE
    assert results(site) == dict.fromkeys(EVERYONE, "applied")
    assert site.called("tracing-0") == [
        *("host_info", "artifacts", "begin", "played_install", "played_configure", "commit")
    ]
    # The same again, on a host that has all of it: nothing is left to write down.
    there: dict[str, Any] = {
        host.replace("-", "_"): {
            "host_info": {"host": {**HOST, "newest": 1, "parts": record.parts_of(state)}}
        }
        for host, state in record.read(site.place).items()
    }
    again = site.run("-v", **there)
    assert again.returncode == 0, again.stdout
    assert "mesh_rollout: 4 hosts: 4 with nothing to change" in again.stdout
    assert "service0000-1  batch 1  nothing changes" in again.stdout
    assert len(history.read(site.place)) == 1


@pytest.mark.parametrize(
    ("restore", "result", "told"),
    [
        ({"restored": ["envoy"], "errors": {}}, "restored", "The state of before is back"),
        (
            {"failed": True, "msg": "Not restored: envoy@service0000: no", "errors": {"envoy": 1}},
            "failed",
            "could not be put back: Not restored: envoy@service0000: no",
        ),
    ],
    ids=["restored", "not restored"],
)
def test_a_host_that_fails_is_restored_and_says_who_has_what(
    site: Site, restore: dict[str, Any], result: str, told: str
) -> None:
    failing = {"played_configure": {"failed": True, "msg": "no room"}, "restore": restore}
    done = site.run(service0000_1=failing)
    assert done.returncode == 2, done.stdout
    end = done.stdout.partition("PLAY [Tell of failures]")[2]
    assert "no room" in end
    assert told in end
    assert "With the new state: edge000-0, service0000-0, tracing-0." in end
    assert "it goes on from here" in end
    assert results(site)["service0000-1"] == result
    assert sorted(record.read(site.place)) == [host for host in EVERYONE if host[-3:] != "0-1"]
    assert site.called("service0000-1")[-1] == "restore pending"


def test_check_mode_begins_nothing_and_records_nothing(site: Site) -> None:
    done = site.run("--check", "--diff")
    assert done.returncode == 0, done.stdout
    assert not site.place.exists()
    assert not {"begin", "commit"} & set(site.called("service0000-0"))
    assert "played_configure" in site.called("service0000-0")


def test_a_run_of_some_tags_is_a_transaction_that_does_not_count_as_applied(site: Site) -> None:
    done = site.run("--tags", "configure")
    assert done.returncode == 0, done.stdout
    assert site.called("edge000-0") == ["host_info", "begin", "played_configure", "commit"]
    assert record.read(site.place) == {}
    assert results(site) == dict.fromkeys(EVERYONE, "partial")
    assert history.read(site.place)[-1]["asked"] == "apply --tags configure"


def test_a_limit_says_who_is_left_out(site: Site) -> None:
    done = site.run("-v", "--limit", "edge000-0")
    assert done.returncode == 0, done.stdout
    assert "tracing-0      not at all  left out by --limit" in done.stdout
    assert list(record.read(site.place)) == ["edge000-0"]


def test_what_left_the_inventory_is_removed_after_all_else_has_succeeded(site: Site) -> None:
    assert site.run().returncode == 0
    state = record.read(site.place)["service0000-0"]
    record.write(site.place, "service0000-0", {**state, "left": ["envoy@old"]})
    parts = [*record.parts_of(state), "envoy@old"]
    host = {"host_info": {"host": {**HOST, "newest": 1, "parts": parts}}}
    gone = {"remove": {"removed": ["envoy@old"], "number": 2, "from": 1}}
    broken = {"remove": {"failed": True, "msg": "no"}}
    failing = {"played_install": {"failed": True, "msg": "no"}}
    only = ("--limit", "service0000-0")
    assert site.run(*only, service0000_0={**host, **failing}).returncode == 2
    assert "remove" not in site.called("service0000-0"), "callers may still know of it"
    done = site.run(*only, service0000_0={**host, **broken})
    assert done.returncode == 2
    assert record.read(site.place)["service0000-0"]["left"] == ["envoy@old"]
    done = site.run("-v", *only, service0000_0={**host, **gone})
    assert done.returncode == 0, done.stdout
    assert "batch 1, then remove" in done.stdout
    assert site.called("service0000-0")[-2:] == ["host_kit", "remove"]
    assert record.read(site.place)["service0000-0"]["left"] == []


ROLLED_BACK = {"restored": ["envoy"], "errors": {}, "from": 1, "number": 2, "state": 0}
BACK = {"failed": True, "msg": "Not restored: no", "errors": {"envoy": "no"}, "back": {}}
NO_SNAPSHOT = {"failed": True, "msg": "no state is as old", "restored": [], "errors": {}}


@pytest.mark.parametrize(
    ("restore", "result", "told"),
    [
        (ROLLED_BACK, "rolled back", ""),
        (BACK, "restored", "The state of before is back, and serves."),
        ({**BACK, "back": {"envoy": "no"}}, "failed", "could not be put back: Not restored"),
        (NO_SNAPSHOT, "failed", "could not be put back: no state is as old"),
    ],
    ids=["done", "undone", "broken", "no snapshot"],
)
def test_a_rollback_says_what_the_host_has(
    site: Site, restore: dict[str, Any], result: str, told: str
) -> None:
    assert site.run().returncode == 0
    wanted = {"to": 0, "parts": [], "hosts": ["edge000-0"]}
    options = ("-e", json.dumps({"vmesh_rollback": wanted}))
    done = site.run(*options, playbook="rollback", edge000_0={"restore": restore})
    assert done.returncode == (0 if result == "rolled back" else 2), done.stdout
    assert told in done.stdout.partition("PLAY [Tell of failures]")[2]
    assert results(site) == {"edge000-0": result}
    assert history.read(site.place)[-1]["asked"] == "rollback to 0"


MORE = {"open": {"more": True}}


def walled(site: Site, **said: Any) -> None:
    """Have the inventory ask for a firewall."""
    path = site.inventory / "group_vars/all/firewall.yml"
    path.write_text(json.dumps({"mesh_firewall": {"enabled": True, **said}}))


def test_a_firewall_opens_before_anything_changes_and_closes_when_all_have_changed(
    site: Site,
) -> None:
    walled(site)
    everywhere: dict[str, Any] = {host.replace("-", "_"): MORE for host in EVERYONE}
    done = site.run("-v", **everywhere)
    assert done.returncode == 0, done.stdout
    assert site.called("edge000-0") == [
        *("host_info", "open ssh,8000", "begin", "played_install", "played_configure"),
        *("commit", "close ssh,8000"),
    ]
    lines = site.calls.read_text().splitlines()
    opened = [n for n, line in enumerate(lines) if " open " in line]
    changed = [n for n, line in enumerate(lines) if line.endswith("begin")]
    committed = [n for n, line in enumerate(lines) if line.endswith("commit")]
    closed = [n for n, line in enumerate(lines) if " close " in line]
    assert [len(each) for each in (opened, closed)] == [4, 4]
    assert max(opened) < min(changed)
    assert max(committed) < min(closed)
    # With nothing to close, nothing is asked of the host.
    assert site.run().returncode == 0
    assert "close ssh,8000" not in site.called("edge000-0")


@pytest.mark.parametrize("why", ["failure", "limit", "tags"])
def test_nothing_closes_where_a_caller_may_not_have_changed(site: Site, why: str) -> None:
    walled(site)
    failing = {"played_configure": {"failed": True, "msg": "no room"}} if why == "failure" else {}
    options = {"failure": (), "limit": ("--limit", "edge000-0"), "tags": ("--tags", "configure")}
    done = site.run(*options[why], edge000_0=MORE, service0000_1=failing)
    assert done.returncode == (2 if failing else 0), done.stdout
    assert "open ssh,8000" in site.called("edge000-0")
    assert "close ssh,8000" not in site.called("edge000-0")
    assert "The firewall of edge000-0 still lets in what it did before" in done.stdout


def test_a_firewall_that_would_lock_out_is_refused_before_anything_changes(site: Site) -> None:
    walled(site, ssh_from=["192.0.2.0/24"])
    elsewhere = {"host_info": {"host": {**HOST, "nftables": False}}}
    done = site.run(service0000_0=elsewhere)
    assert done.returncode == 2
    for text in (
        "mesh_firewall.ssh_from: 192.0.2.0/24: leaves out 10.20.0.9",
        "the package nftables is missing on service0000-0.",
        "Nothing was changed.",
    ):
        assert text in done.stdout
    assert {call for host in EVERYONE for call in site.called(host)} <= {"host_info", "artifacts"}


def test_a_host_whose_firewall_fails_is_left_as_it_was(site: Site) -> None:
    walled(site)
    done = site.run(service0000_1={"open": {"failed": True, "msg": "nft: no"}})
    assert done.returncode == 2
    assert "nft: no" in done.stdout
    assert "begin" not in site.called("service0000-1")
    assert results(site)["service0000-1"] == "failed"


def test_a_firewall_that_the_inventory_has_no_more_is_removed(site: Site) -> None:
    there = {"host_info": {"host": {**HOST, "firewall": True}}}
    done = site.run(edge000_0=there)
    assert done.returncode == 0, done.stdout
    assert site.called("edge000-0")[1:3] == ["remove", "begin"]
    assert "remove" not in site.called("tracing-0")


def test_a_rollback_opens_first_what_the_earlier_state_may_need(site: Site) -> None:
    assert site.run().returncode == 0
    hosts = ["edge000-0", "service0000-0"]
    options = ("-e", json.dumps({"vmesh_rollback": {"to": 0, "parts": [], "hosts": hosts}}))
    there = {"host_info": {"host": {**HOST, "firewall": True}}, "restore": ROLLED_BACK}
    done = site.run(*options, playbook="rollback", edge000_0=there, service0000_0=there)
    assert done.returncode == 0, done.stdout
    calls = [line.partition(" ")[2] for line in site.calls.read_text().splitlines()]
    assert calls == ["host_info"] * 2 + ["reopen"] * 2 + ["restore 0"] * 2
