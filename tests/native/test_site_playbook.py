"""A run of site.yml with played hosts: what a host's result is, and what is written down of it.

Ansible, the playbooks, the filters, and the actions that compile, decide and record are the real
ones. Modules and roles, which would change the hosts, are played: they answer what a test says.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import scale_inventory
from plugins.module_utils.certificates import new_anchor, signature
from vmesh.base import paths
from vmesh.rollout import anchors, desired_state, history, record
from vmesh.rollout.security_run import digest_of, seen_in

NO_CERTS: dict[str, Any] = {"anchor": None, "leaves": {}, "installed": False}
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
    "certs": NO_CERTS,
    "security": {},
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
ACTIONS = (
    *("host_info", "host_snapshot", "host_kit", "host_identity", "canary_check", "artifacts"),
    *("plaintext_callers", "envoy_config", "host_firewall", "host_rollover"),
)


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
        (collection / "files").symlink_to(paths.PROJECT / "files")
        shutil.copytree(paths.COLLECTION / "roles/identity", collection / "roles/identity")
        for name in (*ACTIONS, "played_install", "played_configure"):
            (collection / "plugins/action" / f"{name}.py").write_text(PLAYED)
            (collection / "plugins/modules" / f"{name}.py").touch()
        for role in ROLES:
            for tasks in ("main", "serve", "service"):
                path = collection / "roles" / role / "tasks" / f"{tasks}.yml"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(
                    FIREWALL if role == "firewall" else ROLE if tasks == "main" else "[]\n"
                )

    def run(
        self, *options: str, playbook: str = "site", **played: Any
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
            "plaintext_callers": {"callers": {}},
            "host_rollover": {"done": True},
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


def rolled_back(
    site: Site, number: int, *hosts: str, **told: Any
) -> subprocess.CompletedProcess[str]:
    """Roll hosts back to the state of a run."""
    wanted = {"to": number, "parts": [], "hosts": hosts}
    return site.run("-e", json.dumps({"vmesh_rollback": wanted}), playbook="rollback", **told)


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
    done = rolled_back(site, 0, "edge000-0", edge000_0={"restore": restore})
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
    there = {"host_info": {"host": {**HOST, "firewall": True}}, "restore": ROLLED_BACK}
    hosts = ("edge000-0", "service0000-0")
    done = rolled_back(site, 0, *hosts, edge000_0=there, service0000_0=there)
    assert done.returncode == 0, done.stdout
    calls = [line.partition(" ")[2] for line in site.calls.read_text().splitlines()]
    assert calls == ["host_info"] * 2 + ["reopen"] * 2 + ["restore 0"] * 2


NOW = datetime.datetime.now(datetime.UTC).timestamp()


def anchored(host: str, *, on: str = "") -> dict[str, Any]:
    """Return what host_info tells of a host that has made an anchor, for itself or for `on`."""
    return told_as(new_anchor(f"{on or host}.scale.mesh", NOW).certificate)


def told_as(anchor: str) -> dict[str, Any]:
    return {"host_info": {"host": {**HOST, "certs": {**NO_CERTS, "anchor": anchor}}}}


def with_identities(site: Site) -> None:
    mode = {"mesh_security": {"mtls": "permissive", "trust_domain": "scale.mesh"}}
    (site.inventory / "group_vars/all/security.yml").write_text(json.dumps(mode))


def everyone(**other: Any) -> dict[str, Any]:
    return {host.replace("-", "_"): anchored(host) for host in EVERYONE} | other


def test_identities_come_before_an_envoy_names_them_and_go_last(site: Site) -> None:
    assert site.run().returncode == 0
    assert "host_identity" not in site.calls.read_text()
    with_identities(site)
    told = everyone()
    done = site.run(**told)
    assert done.returncode == 0, done.stdout
    found = site.called("service0000-0")
    assert found.index("host_identity") < len(found) - 1 - found[::-1].index("played_install")
    assert "host_identity" in site.called("tracing-0")  # of the Envoy before Jaeger
    known = anchors.load(site.place)
    assert sorted(known) == EVERYONE
    assert sorted(record.read(site.place)) == EVERYONE
    (site.inventory / "group_vars/all/security.yml").unlink()
    for each in told.values():
        each["host_info"]["host"]["certs"]["installed"] = True
    done = site.run(**told)
    assert done.returncode == 0, done.stdout
    assert site.called("service0000-0")[-2:] == ["commit", "host_identity"]


def test_a_host_with_another_anchor_is_refused_before_anything_is_changed(site: Site) -> None:
    with_identities(site)
    assert site.run(**everyone()).returncode == 0
    known = anchors.load(site.place)
    changed: dict[str, Any] = {
        host.replace("-", "_"): told_as(anchor) for host, anchor in known.items()
    }
    changed["service0000_1"] = anchored("service0000-1")
    done = site.run(**changed)
    assert done.returncode == 2
    assert "service0000-1: its anchor is another one than before" in done.stdout
    assert "begin" not in site.called("service0000-0")
    assert anchors.load(site.place) == known
    done = site.run("-e", "vmesh_new_anchor=service0000-1", **changed)
    assert done.returncode == 0, done.stdout
    assert anchors.load(site.place)["service0000-1"] != known["service0000-1"]


def test_a_host_that_makes_itself_an_anchor_for_another_is_refused_by_name(site: Site) -> None:
    with_identities(site)
    done = site.run(**everyone(edge000_0=anchored("edge000-0", on="service0000-0")))
    assert done.returncode == 2
    assert "edge000-0: its anchor is refused: it can sign for other names" in done.stdout
    assert anchors.load(site.place) == {}
    assert "begin" not in site.calls.read_text()


PLAIN, BOTH, MTLS = "plaintext", "both", "mtls"
EDGE, SERVICE = "edge000", "service0000"


def speaking(
    accepts: str, speaks: str, known: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    """Return what the hosts tell when the service and Jaeger accept, and others speak, so.

    known: host -> anchor, of a mesh whose hosts have anchors and know the edge's
    """
    knows = [digest_of(known["edge000-0"])] if known else []
    service: dict[str, Any] = {
        "accepts": accepts,
        "speaks": {"jaeger": speaks},
        "knows": knows,
        "lets": [EDGE] if knows else [],
    }
    edge: dict[str, Any] = {
        "accepts": None,
        "speaks": {SERVICE: speaks, "jaeger": speaks},
        "knows": [],
        "lets": [],
    }
    everybody = sorted(map(digest_of, (known or {}).values()))
    guard: dict[str, Any] = {"accepts": accepts, "speaks": {}, "knows": everybody, "lets": None}
    guards = {} if accepts == PLAIN else {"jaeger": guard}
    told: dict[str, Any] = {}
    for host in EVERYONE:
        name = host.rpartition("-")[0]
        proxies = {EDGE: {EDGE: edge}, SERVICE: {SERVICE: service}}.get(name, guards)
        parts = {EDGE: [f"envoy@{EDGE}"], SERVICE: [f"envoy@{SERVICE}", f"flask@{SERVICE}"]}
        anchor = (known or {}).get(host) or new_anchor(f"{host}.scale.mesh", NOW).certificate
        told[host.replace("-", "_")] = {
            "host_info": {
                "host": {
                    **HOST,
                    "newest": 1,
                    "parts": parts.get(name, ["jaeger", *(f"envoy@{n}" for n in guards)]),
                    "security": proxies,
                    "certs": {**NO_CERTS, "anchor": anchor, "installed": True},
                }
            }
        } | more.get(host.replace("-", "_"), {})
    return told


def strict(site: Site) -> None:
    mode = {"mesh_security": {"mtls": "strict", "trust_domain": "scale.mesh"}}
    (site.inventory / "group_vars/all/security.yml").write_text(json.dumps(mode))


def view(site: Site, host: str, name: str) -> dict[str, Any]:
    (proxy,) = record.read(site.place)[host]["host"]["proxies"]
    assert proxy["name"] == name
    found: dict[str, Any] = proxy["view"]
    return found


def accepted(site: Site, host: str = "service0000-0") -> str:
    return seen_in(view(site, host, SERVICE)).accepts or ""


def test_a_mesh_goes_from_plaintext_to_strict_in_stages_with_a_barrier_between_them(
    site: Site,
) -> None:
    assert site.run(**speaking(PLAIN, PLAIN)).returncode == 0
    strict(site)
    done = site.run("-v", **speaking(PLAIN, PLAIN))
    assert done.returncode == 0, done.stdout
    calls = [line for line in site.calls.read_text().splitlines() if line.endswith("commit")]
    # All in the rollout, then who calls, then who is called.
    everyone = [f"{host} commit" for host in EVERYONE]
    assert sorted(calls[:4]) == everyone
    assert sorted(calls[4:7]) == [each for each in everyone if "tracing" not in each]
    assert sorted(calls[7:]) == [each for each in everyone if "edge" not in each]
    assert record.parts_of(record.read(site.place)["tracing-0"]) == ["envoy@jaeger", "jaeger"]
    assert "mesh_stage: speak: edge000 on edge000-0" in done.stdout
    assert "mesh_stage: narrow: service0000 on service0000-0" in done.stdout
    assert accepted(site) == MTLS
    assert seen_in(view(site, "edge000-0", EDGE)).speaks == {SERVICE: MTLS, "jaeger": MTLS}
    known = anchors.load(site.place)
    again = site.run("-v", **speaking(MTLS, MTLS, known))
    assert again.returncode == 0, again.stdout
    assert "4 with nothing to change" in again.stdout
    assert len([c for c in site.calls.read_text().splitlines() if c.endswith("commit")]) == 4


def test_the_tags_that_molecule_skips_leave_nothing_out(site: Site) -> None:
    assert site.run(**speaking(PLAIN, PLAIN)).returncode == 0
    strict(site)
    done = site.run("--skip-tags", "molecule-notest,notest", **speaking(PLAIN, PLAIN))
    assert done.returncode == 0, done.stdout
    assert accepted(site) == MTLS


def test_jaeger_takes_its_ports_back_when_nobody_speaks_mtls_any_more(site: Site) -> None:
    strict(site)
    assert site.run(**speaking(MTLS, MTLS)).returncode == 0
    (site.inventory / "group_vars/all/security.yml").unlink()
    gone = {"remove": {"removed": ["envoy@jaeger"], "number": 3, "from": 2}}
    known = anchors.load(site.place)
    done = site.run("-v", **speaking(MTLS, MTLS, known, tracing_0=gone))
    assert done.returncode == 0, done.stdout
    calls = site.called("tracing-0")
    rollout = calls[: calls.index("commit")]
    narrow = calls[calls.index("commit") + 1 :]
    # The Envoy goes on until its callers speak plaintext, and then leaves with its identity.
    assert rollout.count("played_install") == 2  # Jaeger, Envoy
    assert narrow.count("played_install") == 1  # Jaeger
    assert narrow[-4:] == ["commit", "host_kit", "remove", "host_identity"]
    assert "mesh_stage: narrow: jaeger on tracing-0" in done.stdout
    lines = site.calls.read_text().splitlines()
    assert lines.index("tracing-0 remove") > max(
        number for number, line in enumerate(lines) if line.startswith("edge") and "commit" in line
    )
    state = record.read(site.place)["tracing-0"]
    assert (record.parts_of(state), state["left"]) == (["jaeger"], [])
    assert seen_in(view(site, "edge000-0", EDGE)).speaks == {SERVICE: PLAIN, "jaeger": PLAIN}


def test_who_still_speaks_plaintext_is_named_and_its_service_stays_permissive(site: Site) -> None:
    strict(site)
    heard = {"plaintext_callers": {"callers": {SERVICE: ["10.9.9.9"]}}}
    told = speaking(BOTH, MTLS, service0000_1=heard)
    done = site.run(**told)
    assert done.returncode == 0, done.stdout
    warned = " ".join(done.stdout.split() + done.stderr.split())
    assert "service0000 stays permissive: 10.9.9.9 spoke plaintext." in warned
    assert accepted(site) == accepted(site, "service0000-1") == BOTH


def test_callers_go_on_in_plaintext_when_a_service_could_not_be_changed(site: Site) -> None:
    strict(site)
    failing = {"played_configure": {"failed": True, "msg": "no room"}}
    done = site.run(**speaking(PLAIN, PLAIN, service0000_1=failing))
    assert done.returncode == 2
    assert "mesh_stage" not in done.stdout
    assert seen_in(view(site, "edge000-0", EDGE)).speaks == {SERVICE: PLAIN, "jaeger": PLAIN}
    assert accepted(site) == BOTH


def test_a_new_caller_is_known_before_it_is_there(site: Site) -> None:
    strict(site)
    assert site.run(**speaking(MTLS, MTLS)).returncode == 0
    known = anchors.load(site.place)
    told = speaking(MTLS, MTLS, known)
    for host in ("service0000_0", "service0000_1"):
        told[host]["host_info"]["host"]["security"][SERVICE]["knows"] = []
    done = site.run(**told)
    assert done.returncode == 0, done.stdout
    assert site.called("service0000-0")[:2] == ["host_info", "envoy_config"]
    # Those that take no part would refuse it.
    told["edge000_0"] = speaking(MTLS, MTLS)["edge000_0"]
    options = ("--limit", "edge000-0", "-e", "vmesh_new_anchor=edge000-0")
    done = site.run(*options, **told)
    assert done.returncode == 2, done.stdout
    assert "service0000 on service0000-0 does not know it" in " ".join(done.stdout.split())
    assert site.called("edge000-0") == ["host_info", "artifacts"]


def test_a_rollback_to_a_time_before_mtls_is_refused(site: Site) -> None:
    assert site.run(**speaking(PLAIN, PLAIN)).returncode == 0
    strict(site)
    second = {"commit": {"number": 2, "from": 1, "parts": ["envoy"], "removed": []}}
    told = speaking(PLAIN, PLAIN)
    assert site.run(**{host: each | second for host, each in told.items()}).returncode == 0
    known = anchors.load(site.place)
    done = rolled_back(site, 1, "edge000-0", **speaking(MTLS, MTLS, known))
    assert done.returncode == 2, done.stdout
    assert "edge000 on edge000-0 spoke with others in another way" in " ".join(done.stdout.split())
    assert "restore" not in site.calls.read_text()
    done = rolled_back(site, 1, "tracing-0", **speaking(MTLS, MTLS, known))
    assert done.returncode == 2, done.stdout
    assert "Jaeger on tracing-0 did not stand behind an Envoy in state 1" in " ".join(
        done.stdout.split()
    )
    assert "restore" not in site.calls.read_text()


def test_check_mode_goes_through_the_stages_and_keeps_nothing(site: Site) -> None:
    strict(site)
    done = site.run("--check", **speaking(PLAIN, PLAIN))
    assert done.returncode == 0, done.stdout
    assert "commit" not in site.calls.read_text()
    assert site.called("edge000-0").count("played_configure") == 2
    assert anchors.load(site.place) == {}


def test_a_mesh_that_had_no_identities_for_a_while_makes_new_anchors(site: Site) -> None:
    strict(site)
    assert site.run(**everyone()).returncode == 0
    before = anchors.load(site.place)
    (site.inventory / "group_vars/all/security.yml").unlink()
    assert site.run(**everyone()).returncode == 0
    strict(site)
    done = site.run(**everyone())
    assert done.returncode == 0, done.stdout
    now = anchors.load(site.place)
    assert now.keys() == before.keys()
    assert all(now[host] != before[host] for host in before)


ROLLING, ITS_VARIABLE = "service0000-0", "service0000_0"


def rolling(site: Site, **more: Any) -> tuple[dict[str, Any], str]:
    """Bring the mesh to mTLS, and have a host make its next anchor.

    Returns what the hosts tell then, and the next anchor.
    """
    strict(site)
    old, new = (new_anchor(f"{ROLLING}.scale.mesh", NOW) for _ in range(2))
    told = speaking(MTLS, MTLS)
    certs = told[ITS_VARIABLE]["host_info"]["host"]["certs"]
    certs["anchor"] = old.certificate
    first = site.run(**told)
    assert first.returncode == 0, first.stdout
    told = speaking(MTLS, MTLS, anchors.load(site.place), **more)
    certs = told[ITS_VARIABLE]["host_info"]["host"]["certs"]
    certs["anchor"] = old.certificate + new.certificate
    certs["voucher"] = signature(old.key, new.certificate)
    return told, new.certificate


def changes_of(site: Site) -> list[str]:
    """Return what changed hosts, in order: commits, and the turn to a next anchor."""
    lines = site.calls.read_text().splitlines()
    return [line for line in lines if line.endswith(("commit", "host_rollover"))]


def test_a_host_signs_by_its_next_anchor_when_all_know_it_and_the_former_goes_last(
    site: Site,
) -> None:
    told, new = rolling(site)
    done = site.run("-v", **told)
    assert done.returncode == 0, done.stdout
    made = changes_of(site)
    assert sorted(made[:4]) == [f"{host} commit" for host in EVERYONE]
    assert made[4] == f"{ROLLING} host_rollover"
    # Its callers, itself, and Jaeger's Envoy, which takes its spans.
    assert sorted(made[5:]) == ["edge000-0 commit", f"{ROLLING} commit", "tracing-0 commit"]
    assert anchors.load(site.place)[ROLLING] == new
    trusted = view(site, "edge000-0", EDGE)["trust"][f"upstream_{SERVICE}"]["anchors"]
    assert trusted[ROLLING] == new
    again = site.run("-v", **speaking(MTLS, MTLS, anchors.load(site.place)))
    assert again.returncode == 0, again.stdout
    assert "4 with nothing to change" in again.stdout


@pytest.mark.parametrize("why", ["limit", "failure"])
def test_a_host_keeps_its_anchor_while_another_may_not_know_the_next(site: Site, why: str) -> None:
    failing = {"played_configure": {"failed": True, "msg": "no room"}} if why == "failure" else {}
    told, new = rolling(site, edge000_0=failing)
    options = ("--limit", "service0000-0,service0000-1") if why == "limit" else ()
    done = site.run(*options, **told)
    assert done.returncode == (2 if failing else 0), done.stdout
    assert not [line for line in changes_of(site) if line.endswith("host_rollover")]
    both = anchors.load(site.place)[ROLLING]
    assert both.endswith(new) and both != new
    said = " ".join(done.stdout.split() + done.stderr.split())
    assert ("goes on with its old anchor" in said) == (why == "limit")
    # The next run completes it.
    told["edge000_0"].pop("played_configure", None)
    assert site.run(**told).returncode == 0
    assert f"{ROLLING} host_rollover" in changes_of(site)
    assert anchors.load(site.place)[ROLLING] == new


def test_both_anchors_are_trusted_when_a_host_could_not_take_the_next(site: Site) -> None:
    failing = {"host_rollover": {"failed": True, "msg": "no room"}}
    told, new = rolling(site, service0000_0=failing)
    done = site.run(**told)
    assert done.returncode == 2
    assert "Both anchors are trusted." in done.stdout
    both = anchors.load(site.place)[ROLLING]
    assert both.endswith(new) and both != new
    assert changes_of(site)[-1] == f"{ROLLING} host_rollover"


def test_a_next_anchor_that_the_known_one_does_not_vouch_for_is_refused(site: Site) -> None:
    told, _ = rolling(site)
    told[ITS_VARIABLE]["host_info"]["host"]["certs"]["voucher"] = ""
    done = site.run(**told)
    assert done.returncode == 2
    assert f"{ROLLING}: its anchor is another one than before" in done.stdout


def test_a_rollback_to_a_time_before_a_rollover_is_refused(site: Site) -> None:
    told, _ = rolling(site)
    second = {"commit": {"number": 2, "from": 1, "parts": ["envoy"], "removed": []}}
    assert site.run(**{host: each | second for host, each in told.items()}).returncode == 0
    known = anchors.load(site.place)
    done = rolled_back(site, 1, "edge000-0", **speaking(MTLS, MTLS, known))
    assert done.returncode == 2, done.stdout
    said = " ".join(done.stdout.split())
    assert (
        f"edge000 on edge000-0 did not know in state 1 the anchors that {ROLLING} has now" in said
    )
    assert "restore" not in site.calls.read_text()


def test_a_rollback_does_not_trust_a_revoked_host_again(site: Site) -> None:
    strict(site)
    assert site.run(**speaking(MTLS, MTLS)).returncode == 0
    mode = {"mtls": "strict", "trust_domain": "scale.mesh", "revoked": [ROLLING]}
    (site.inventory / "group_vars/all/security.yml").write_text(json.dumps({"mesh_security": mode}))
    known = anchors.load(site.place)
    done = rolled_back(site, 1, "edge000-0", **speaking(MTLS, MTLS, known))
    assert done.returncode == 2, done.stdout
    assert f"edge000 on edge000-0 trusted {ROLLING} in state 1" in " ".join(done.stdout.split())
    assert "restore" not in site.calls.read_text()


def test_a_run_that_ended_after_a_host_took_its_next_anchor_is_completed(site: Site) -> None:
    failing = {"host_rollover": {"failed": True, "msg": "the connection is lost"}}
    told, new = rolling(site, service0000_0=failing)
    assert site.run(**told).returncode == 2
    # It has taken it all the same, and its former one is gone there.
    certs = told[ITS_VARIABLE]["host_info"]["host"]["certs"]
    certs["anchor"], certs["voucher"] = new, ""
    done = site.run(**told)
    assert done.returncode == 0, done.stdout
    assert anchors.load(site.place)[ROLLING] == new
    trusted = view(site, "edge000-0", EDGE)["trust"][f"upstream_{SERVICE}"]["anchors"]
    assert trusted[ROLLING] == new
    assert f"{ROLLING} host_rollover" not in changes_of(site)
