"""What is recorded of a host, where, and what never is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.mesh import worlds
from vmesh import paths, record
from vmesh.problems import HIDDEN
from vmesh.render import Renderer

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
        "bootstrap.yaml", "clusters/clusters.yaml", "routes/egress-stock.yaml",
        "listeners/listeners.yaml", "endpoints/stock.yaml",
    }  # fmt: skip
    assert all(len(each) == 64 for each in state["files"]["shop"].values())


def test_the_hashes_are_those_of_the_files() -> None:
    of = worlds.inventory()
    each = worlds.described(of, render=Renderer().files)["shop1"]
    (proxy,) = worlds.plan(of).hosts["shop1"].proxies
    files = Renderer().files(proxy)
    assert each.state["files"]["shop"] == {path: record.digest(t) for path, t in files.items()}
    assert each.exact["shop"] == each.state["files"]["shop"]


def test_a_recorded_proxy_is_rendered_as_it_was() -> None:
    state = worlds.states(render=Renderer().files)["shop1"]
    (proxy,) = json.loads(json.dumps(state))["host"]["proxies"]
    again = Renderer().files(record.proxy_from(proxy))
    assert {path: record.digest(text) for path, text in again.items()} == state["files"]["shop"]


# Secrets


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
            ("mesh_edges/front/routes/2",
             {"path": "/a", "answer": {"status": 200, "body": f"it is {SECRET}\n"}}),
            "mesh_edges/front/routes/2/answer/body",
        ),
        (
            ("mesh_tracing/tags", {"tenant": {"literal": SECRET}}),
            "mesh_tracing/tags/tenant/literal",
        ),
        (("mesh_services/shop/operation", SECRET), "mesh_services/shop/operation"),
    ],
)  # fmt: skip
def test_no_hidden_value_of_the_mesh_is_recorded(
    tmp_path: Path, edit: tuple[str, Any], way: str
) -> None:
    of = worlds.inventory(worlds.changed(edit), hidden=(tuple(way.split("/")),))
    text = recorded(tmp_path, of)
    assert SECRET not in text
    assert HIDDEN in text
    assert record.MASKED in text, "the hash of its file tells nothing of the value"
    for described in worlds.described(of, render=Renderer().files).values():
        for name, files in described.state["files"].items():
            for path, sha256 in files.items():
                exact = described.exact[name][path]
                masked = sha256.startswith(record.MASKED)
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
    hosts = {**worlds.HOSTS, "jaeger1": {"ansible_host": "10.0.0.6", "jaeger_token": SECRET,
                                         "jaeger_retention_hours": 24}}  # fmt: skip
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

INVENTORY: Mapping[str, Any] = {
    "all": {
        "vars": {**worlds.MESH, "ansible_connection": "local"},
        "children": {
            group: {"hosts": {host: worlds.HOSTS[host] for host in hosts}}
            for group, hosts in worlds.GROUPS.items()
        },
    }
}
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: As if the run had come so far
      ansible.builtin.set_fact:
        vmesh_answer: {{stdout: '{{"os": "debian", "arch": "x86_64", "python": "3.11"}}'}}
        vmesh_artifacts:
          artifacts:
            envoy: {{x86_64: {{version: 1.40.0}}}}
            jaeger: {{x86_64: {{version: 2.13.0}}}}
            bundles:
              shop: {{3.11/x86_64: {{version: aaaa}}}}
              stock-next: {{3.11/x86_64: {{version: bbbb}}}}
    - name: One host fails
      ansible.builtin.fail:
      when: inventory_hostname == 'store1'
    - name: And one cannot be reached
      ansible.builtin.ping:
      vars: {{ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 9}}
      when: inventory_hostname == 'web2'
    - name: The others are the mesh's
      ansible.builtin.group_by:
        key: mesh_hosts
      changed_when: false
- import_playbook: {project}/playbooks/record.yml
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an inventory and a playbook that ends as site.yml does."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "records.json").write_text(json.dumps(INVENTORY))
    (folder / "site.yml").write_text(PLAYBOOK.format(project=paths.PROJECT))
    return folder


def run(site: Path, *options: str) -> str:
    """Run the playbook with records below the folder; return what Ansible printed."""
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", site / "records.json",
         site / "site.yml", *options],
        cwd=paths.PROJECT, capture_output=True, text=True, check=False, timeout=180,
        env={"PATH": "/usr/bin:/bin", "HOME": str(site), "VMESH_APPLIED": str(site / "applied"),
             "ANSIBLE_CONFIG": str(paths.PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip
    return done.stdout + done.stderr


def test_a_run_records_the_hosts_that_got_through_and_no_others(site: Path) -> None:
    place = site / "applied" / "records"
    assert "PLAY [Record]" in run(site, "--check")
    assert not place.exists()
    printed = run(site, "--limit", "!jaeger1")
    assert sorted(record.read(place)) == ["shop1", "store2", "web1"], printed
    assert "changed=0" in printed
    assert "changed=1" not in printed
    before = (place / "shop1.json").read_text()
    assert "cannot be written" not in run(site, "--limit", "shop1")
    assert (place / "shop1.json").read_text() == before, "the same state, the same bytes"
    found = record.read(place)["shop1"]
    assert found == worlds.states(render=Renderer().files)["shop1"]
