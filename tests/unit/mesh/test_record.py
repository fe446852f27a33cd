"""What is recorded of a host, where, and what never is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.mesh import worlds
from tests.unit.mesh.test_rollout import SETTINGS
from vmesh.base import paths
from vmesh.base.problems import HIDDEN
from vmesh.render.renderer import Renderer
from vmesh.rollout import changes, description, desired_state, history, record

SECRET = "correct horse"
ENVIRONMENT = "mesh_services/shop/app/environment"


def recorded(tmp_path: Path, of: Any) -> str:
    """Write the records of an inventory, made with the real templates; return all their bytes."""
    for host, state in worlds.states(of, render=Renderer().files).items():
        record.write(tmp_path, host, state)
    return "".join(path.read_text() for path in sorted(tmp_path.iterdir()))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    states = worlds.states()
    for host, state in states.items():
        record.write(tmp_path, host, state)
    assert record.read(tmp_path) == states


def test_a_record_is_made_to_be_committed(tmp_path: Path) -> None:
    state = worlds.states()["shop1"]
    assert record.write(tmp_path, "shop1", state)
    text = (tmp_path / "shop1.json").read_text()
    assert text.endswith("}\n")
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    assert not record.write(tmp_path, "shop1", state), "the same state is not written again"
    assert [path.name for path in tmp_path.iterdir()] == ["shop1.json"]


def test_one_change_is_a_small_change_of_the_record(tmp_path: Path) -> None:
    texts = []
    for mesh in (worlds.MESH, worlds.changed(("mesh_services/shop/calls/stock/timeout", 5))):
        record.write(tmp_path, "shop1", worlds.states(worlds.inventory(mesh))["shop1"])
        texts.append((tmp_path / "shop1.json").read_text().splitlines())
    assert len(texts[0]) == len(texts[1])
    differing = [line for line, other in zip(*texts, strict=True) if line != other]
    assert len(differing) == 2, "the timeout and the hash of the file with it"


def test_it_holds_what_was_applied() -> None:
    state = worlds.states(render=Renderer().files)["shop1"]
    assert state["versions"] == {"envoy": "1.40.0"}, "no Jaeger there"
    assert state["bundles"] == {"shop": "aaaa"}
    assert state["platform"] == worlds.PLATFORM
    assert list(state["roles"]) == ["envoy", "flask_service"]
    assert set(state["files"]["shop"]) >= {
        "bootstrap.json",
        "clusters/clusters.json",
        "routes/egress-stock.json",
        "listeners/listeners.json",
        "endpoints/stock.json",
    }
    assert all(len(each) == 64 for each in state["files"]["shop"].values())


def test_the_hashes_are_those_of_the_files() -> None:
    of = worlds.inventory()
    each = worlds.described(of, render=Renderer().files)["shop1"]
    (proxy,) = worlds.plan(of).hosts["shop1"].proxies
    files = Renderer().files(proxy)
    assert each.state["files"]["shop"] == {path: description.digest(t) for path, t in files.items()}
    assert each.exact["shop"] == each.state["files"]["shop"]


def test_a_recorded_proxy_is_rendered_as_it_was() -> None:
    state = worlds.states(render=Renderer().files)["shop1"]
    (proxy,) = json.loads(json.dumps(state))["host"]["proxies"]
    again = Renderer().files(description.proxy_from(proxy))
    assert {path: description.digest(text) for path, text in again.items()} == state["files"][
        "shop"
    ]


# Secrets


def test_what_an_app_has_on_one_host_for_itself_is_recorded_by_name_alone(tmp_path: Path) -> None:
    own = {"shop1": {"shop": {"COLOR": "of this host", "EXTRA": "too"}}}
    text = recorded(tmp_path, dataclasses.replace(worlds.inventory(), environments=own))
    assert '"COLOR": null' in text
    assert '"EXTRA": null' in text
    assert "of this host" not in text


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("COLOR", SECRET, True),  # from Ansible Vault
        ("DB_PASSWORD", "short-one", False),
        ("API_KEY", "k-xyz", False),
        ("SESSION_SECRET", "s-xyz", False),
        ("DATABASE", "postgres://shop:hunter2@db/shop", False),
        ("SIGNER", "-----BEGIN PRIVATE KEY-----", False),
        ("SERVICE_ID", "ghp4f8a7d6c5b4a3928170615243f", False),
    ],
)
def test_no_secret_of_an_app_is_recorded(
    tmp_path: Path, name: str, value: str, hidden: bool
) -> None:
    ways = (tuple(f"{ENVIRONMENT}/{name}".split("/")),) if hidden else ()
    mesh = worlds.changed((f"{ENVIRONMENT}/{name}", value))
    text = recorded(tmp_path, worlds.inventory(mesh, hidden=ways))
    assert f'"{name}": null' in text, "its name is recorded"
    assert value not in text
    assert '"COLOR": "blue"' in text or name == "COLOR", "what is no secret is recorded"


def test_a_number_that_is_a_secret_is_not_recorded(tmp_path: Path) -> None:
    mesh = worlds.changed((f"{ENVIRONMENT}/PIN", 48151623))
    way = tuple(f"{ENVIRONMENT}/PIN".split("/"))
    assert "48151623" not in recorded(tmp_path, worlds.inventory(mesh, hidden=(way,)))


ROUTE = {"prefix": "/hook", "to": "shop", "headers": {"x-key": SECRET}}


@pytest.mark.parametrize(
    ("edit", "way"),
    [
        (("mesh_edges/front/routes/2", ROUTE), "mesh_edges/front/routes/2/headers/x-key"),
        (
            (
                "mesh_edges/front/routes/2",
                {"path": "/a", "answer": {"status": 200, "body": f"it is {SECRET}\n"}},
            ),
            "mesh_edges/front/routes/2/answer/body",
        ),
        (
            ("mesh_tracing/tags", {"tenant": {"literal": SECRET}}),
            "mesh_tracing/tags/tenant/literal",
        ),
        (("mesh_services/shop/operation", SECRET), "mesh_services/shop/operation"),
    ],
)
def test_no_hidden_value_of_the_mesh_is_recorded(
    tmp_path: Path, edit: tuple[str, Any], way: str
) -> None:
    of = worlds.inventory(worlds.changed(edit), hidden=(tuple(way.split("/")),))
    text = recorded(tmp_path, of)
    assert SECRET not in text
    assert HIDDEN in text
    assert description.MASKED in text, "the hash of its file tells nothing of the value"
    for described in worlds.described(of, render=Renderer().files).values():
        for name, files in described.state["files"].items():
            for path, sha256 in files.items():
                exact = described.exact[name][path]
                masked = sha256.startswith(description.MASKED)
                assert sha256 == exact or (masked and exact not in sha256)


def test_names_and_addresses_are_recorded_even_from_a_template(tmp_path: Path) -> None:
    way = ("mesh_services", "shop", "calls", "bank", "host")
    text = recorded(tmp_path, worlds.inventory(hidden=(way, ("mesh_tracing", "group"))))
    assert '"address": "api.bank.example"' in text


@pytest.mark.parametrize("value", [SECRET, {"in": [SECRET]}])
def test_a_setting_that_the_vault_keeps_is_not_recorded(tmp_path: Path, value: Any) -> None:
    hosts = {**worlds.HOSTS, "jaeger1": {"ansible_host": "10.0.0.6", "jaeger_place": value}}
    of = dataclasses.replace(worlds.inventory(hosts=hosts), secrets=frozenset({SECRET}))
    text = recorded(tmp_path, of)
    assert SECRET not in text
    assert '"jaeger_place": null' in text, "its name is recorded"


def test_a_secret_setting_of_a_role_is_not_recorded(tmp_path: Path) -> None:
    hosts = {
        **worlds.HOSTS,
        "jaeger1": {
            "ansible_host": "10.0.0.6",
            "jaeger_token": SECRET,
            "jaeger_retention_hours": 24,
        },
    }
    text = recorded(tmp_path, worlds.inventory(None, hosts))
    assert SECRET not in text
    assert '"jaeger_retention_hours": 24' in text


# Where, and what is wrong with a file


def test_each_inventory_has_a_folder_of_its_own(tmp_path: Path) -> None:
    applied = paths.PROJECT / "applied"
    assert record.folder(paths.PROJECT / "inventory" / "lab") == applied / "lab"
    other = paths.PROJECT / "molecule" / "default" / "inventory"
    assert record.folder(other) == applied / "molecule-default-inventory"
    (tmp_path / "prod.yml").touch()
    assert record.folder(tmp_path / "prod.yml") == applied / "prod"
    assert record.folder(Path("a,b")) == applied / "hosts"
    both = record.folder(paths.PROJECT / "inventory" / "lab", tmp_path / "prod.yml")
    assert both == applied / "lab+prod"


def test_a_host_may_have_any_name(tmp_path: Path) -> None:
    state = worlds.states()["shop1"]
    record.write(tmp_path, "a/b c", state)
    assert record.read(tmp_path) == {"a/b c": state}


def test_hosts_whose_disks_are_gone_are_forgotten(tmp_path: Path) -> None:
    state = worlds.states()["shop1"]
    for host in ("one", "two"):
        record.write(tmp_path, host, state)
    record.forget(tmp_path, ["one", "never-applied"])
    assert list(record.read(tmp_path)) == ["two"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 999}'])
def test_a_file_that_is_no_record_is_named_with_a_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "web1.json").write_text(text)
    with pytest.raises(record.RecordError, match=r"web1\.json") as caught:
        record.read(tmp_path)
    assert "delete it" in caught.value.remedy
    assert record.earlier(tmp_path, "web1") is None, "the next run writes it anew"


def test_what_no_longer_belongs_to_a_host_is_remembered() -> None:
    old = worlds.states()["shop1"]
    new = worlds.states()["store1"]
    assert record.left_behind(old, new) == ["envoy@shop", "flask@shop"]
    assert record.left_behind({**new, "left": ["jaeger"]}, old) == ["envoy@stock", "jaeger"]
    assert record.left_behind({**old, "left": ["envoy@shop"]}, old) == []
    assert record.left_behind(None, old) == []


# The action at the end of site.yml, run by Ansible itself

ANSWER = {"os": "debian", "arch": "x86_64", "python": "3.11", "newest": 5}
FAILED = {"result": "failed", "number": 5, "task": "Try it"}
# What the plays of a run have left in each host's `vmesh_result`.
RESULTS: Mapping[str, Mapping[str, Any]] = {
    "web1": {"result": "applied", "number": 7, "from": 0, "removed": True},
    "web2": {},
    "shop1": {**FAILED, "cause": "it answered 500", "restored": True, "told": "It is back."},
    "store1": {**FAILED, "cause": "no room", "restored": False, "told": "Not back: ..."},
    "store2": {},
    "jaeger1": {"result": "applied", "number": 5, "from": 5},
}
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tags: always
  tasks:
    - name: The hosts are the mesh's
      ansible.builtin.group_by:
        key: mesh_hosts
      changed_when: false
    - name: And one cannot be reached
      ansible.builtin.ping:
      vars: {{ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 9}}
      when: inventory_hostname == 'web2'
- import_playbook: {project}/playbooks/record.yml
- hosts: mesh_hosts
  gather_facts: false
  tasks:
    - name: Go back
      ansible.builtin.set_fact:
        vmesh_result: "{{{{ goes_back }}}}"
      when: goes_back is defined
    - name: Record a rollback
      vmesh.mesh.mesh_record:
        run: 8
        who: root@controller
        asked: rollback
        hosts: "{{{{ ansible_play_hosts }}}}"
        rollback: {{parts: []}}
      run_once: true
      when: goes_back is defined
"""


def inventory_of(mesh: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> Any:
    hosts = {
        host: {
            **each,
            **({"vmesh_result": RESULTS[host]} if RESULTS[host] else {}),
            "vmesh_answer": {"host": ANSWER},
            **(more or {}),
        }
        for host, each in worlds.HOSTS.items()
    }
    return {
        "all": {
            "vars": {
                **mesh,
                "ansible_connection": "local",
                "vmesh_rollout": {"run": 7, "who": "root@controller"},
            },
            "children": {
                group: {"hosts": {host: hosts[host] for host in names}}
                for group, names in worlds.GROUPS.items()
            },
        }
    }


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with an inventory and a playbook that ends as site.yml does."""
    source = tmp_path / f"{tmp_path.name}.json"
    source.write_text(json.dumps(inventory_of(worlds.MESH)))
    (tmp_path / "site.yml").write_text(PLAYBOOK.format(project=paths.PROJECT))
    folder = desired_state.build_folder([source])
    states = worlds.states(render=Renderer().files)
    before = worlds.states(worlds.inventory(worlds.changed(("mesh_edges/front/port", 8080))))
    # As the first two steps of a run leave it.
    desired_state.keep(folder, SETTINGS, states)
    rerender = desired_state.rerender(Renderer())
    desired_state.decide(folder, states, changes.sentences(before, states, rerender))
    yield tmp_path
    desired_state.forget(folder)


def run(site: Path, *options: str) -> str:
    """Run the playbook with records below the folder; return what Ansible printed."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            "-i",
            site / f"{site.name}.json",
            site / "site.yml",
            *options,
        ],
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(site),
            "VMESH_APPLIED": str(site / "applied"),
            "ANSIBLE_CONFIG": str(paths.PROJECT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        },
    )
    return done.stdout + done.stderr


def test_a_run_records_what_became_of_each_host(site: Path) -> None:
    place = site / "applied" / site.name
    assert "PLAY [Record]" in run(site, "--check", "--limit", "web1")
    assert not place.exists()
    before = worlds.states(worlds.inventory(worlds.changed(("mesh_edges/front/port", 8080))))
    record.write(place, "web1", {**before["web1"], "left": ["envoy@old"]})
    record.write(place, "store2", before["store2"])
    printed = run(site)
    assert "changed=1" not in printed
    found = record.read(place)
    assert sorted(found) == ["jaeger1", "store2", "web1"], printed
    after = worlds.states(render=Renderer().files)
    assert found["web1"] == after["web1"], "what left has been removed"
    assert found["store2"] == before["store2"], "not begun"
    (line,) = history.read(place)
    assert (line["run"], line["who"], line["asked"]) == (7, "root@controller", "apply")
    told = {
        host: (each["from"], each["to"], each["result"]) for host, each in line["hosts"].items()
    }
    assert told == {
        "web1": (0, 7, "applied"),
        "web2": (5, 5, "unreachable"),
        "shop1": (5, 5, "restored"),
        "store1": (5, 5, "failed"),
        "store2": (5, 5, "not begun"),
    }
    assert line["hosts"]["shop1"]["cause"] == "it answered 500"
    assert line["hosts"]["web1"]["versions"] == {"envoy": "1.40.0"}
    assert any("8080" in text for text in line["hosts"]["web1"]["what"])
    assert history.numbers(place, "web1") == [0, 7], "it can go back to what was there before"
    assert history.numbers(place, "jaeger1") == [5], "as the host counts its states"


def test_a_run_without_any_change_leaves_the_records_as_they_are(site: Path) -> None:
    place = site / "applied" / site.name
    record.write(place, "jaeger1", worlds.states(render=Renderer().files)["jaeger1"])
    before = (place / "jaeger1.json").read_bytes()
    run(site, "--limit", "jaeger1")
    assert (place / "jaeger1.json").read_bytes() == before
    assert history.read(place) == []


def test_after_a_rollback_the_record_is_the_one_of_then(site: Path) -> None:
    place = site / "applied" / site.name
    then = worlds.states(worlds.inventory(worlds.changed(("mesh_edges/front/port", 8080))))
    history.keep(place, "web1", 6, then["web1"])
    restored = {"result": "rolled back", "from": 7, "number": 8, "snapshot": 6}
    more = {"goes_back": restored}
    run(site, "--limit", "web1,jaeger1", "--extra-vars", json.dumps(more))
    found = record.read(place)
    assert found["web1"] == then["web1"]
    assert found["jaeger1"]["rolled_back"] == ["everything"], "nobody knows how that was"
    assert history.numbers(place, "web1") == [6, 7, 8]
    last = history.read(place)[-1]
    assert (last["run"], last["asked"]) == (8, "rollback")
    assert last["hosts"]["web1"]["result"] == "rolled back"
    assert (last["hosts"]["web1"]["from"], last["hosts"]["web1"]["to"]) == (7, 8)


def test_a_run_of_some_tags_is_written_down_and_not_taken_for_applied(site: Path) -> None:
    place = site / "applied" / site.name
    states = worlds.states(worlds.inventory(worlds.changed(("mesh_edges/front/port", 8080))))
    record.write(place, "web1", states["web1"])
    run(site, "--limit", "web1", "--tags", "configure")
    assert record.read(place) == {"web1": states["web1"]}, "./mesh plan still says what is missing"
    (line,) = history.read(place)
    assert (line["run"], line["asked"]) == (7, "apply --tags configure")
    assert line["hosts"] == {"web1": {"from": 0, "to": 7, "result": "partial"}}
    assert history.before_last([line], None) == 6, "a rollback undoes it as any other run"
    run(site, "--limit", "jaeger1", "--skip-tags", "service")
    assert "jaeger1" not in record.read(place)


def test_headers_to_a_collector_are_not_recorded_nor_told(tmp_path: Path) -> None:
    def states(value: str) -> dict[str, Any]:
        collector = {"host": "otel.example.com", "headers": {"x-scope": value}}
        of = worlds.inventory(worlds.changed(("mesh_tracing", {"collector": collector})))
        assert value not in recorded(tmp_path, of)
        return worlds.states(of, render=Renderer().files)

    assert states("acme horses") == states("acme mules"), "as with other hidden values"
    (listener, *_) = states("acme horses")["shop1"]["host"]["proxies"][0]["view"]["listeners"]
    assert listener["tracing"]["headers"] == {"x-scope": HIDDEN}


def test_no_hash_of_a_password_is_recorded_nor_told(tmp_path: Path) -> None:
    def states(digest: str) -> dict[str, Any]:
        of = worlds.inventory(
            worlds.changed(
                ("mesh_edges/front/users", {"staff": {"anna": digest}}),
                ("mesh_edges/front/require", {"users": "staff"}),
            )
        )
        record = recorded(tmp_path, of)
        assert digest not in record
        assert f"anna:{HIDDEN}" in record
        return worlds.states(of, render=Renderer().files)

    one, other = (f"{{SHA}}{letter * 27}=" for letter in "ab")
    assert states(one) == states(other), "as with other hidden values"


def test_a_changed_host_kit_is_a_change_of_the_roles_that_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = tmp_path / "plugins" / "module_utils" / "leave.py"
    kit.parent.mkdir(parents=True)
    monkeypatch.setattr(paths, "COLLECTION", tmp_path)
    digest = description.role_digest.__wrapped__  # what it finds is kept for the rest of a run
    kit.write_text("")
    before = {role: digest(role) for role in ("envoy", "flask_service", "jaeger")}
    kit.write_text("# changed\n")
    changed = [role for role, earlier in before.items() if digest(role) != earlier]
    assert changed == ["envoy", "flask_service"]
