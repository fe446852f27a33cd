"""What is read from an inventory, how often, and what is said when it cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import scale_inventory
from vmesh import paths
from vmesh.compile import compile_mesh
from vmesh.inventory import Inventory, from_hostvars, load
from vmesh.problems import Problem, Problems

BIN = Path(sys.executable).parent
MESH = {"mesh_services": {"shop": {"port": 9001, "app": {"flask": "services/shop"}}}}


def written(folder: Path, own: Mapping[str, Any], **files: Mapping[str, Any] | str) -> Path:
    """Write an inventory: its hosts, and files by path with __ for / (a text or a mapping)."""
    described = {"hosts": {"all": {"hosts": own}}, "group_vars__all__mesh": MESH, **files}
    for name, content in described.items():
        path = folder / f"{name.replace('__', '/')}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder


def problems_of(folder: Path) -> tuple[Problem, ...]:
    with pytest.raises(Problems) as caught:
        load(folder)
    return caught.value.items


def test_the_model_is_kept_once_and_each_host_has_what_is_its_own(tmp_path: Path) -> None:
    hosts = {
        "web1": {"ansible_host": "10.0.0.1", "mesh_zone": "north", "color": "red"},
        "web2": {"ansible_host": "10.0.0.2", "mesh_zone": "south", "mesh_address": "10.9.0.2"},
    }
    found = load(written(tmp_path, hosts))
    assert found.mesh == MESH
    assert found.hosts == {
        "web1": {"ansible_host": "10.0.0.1", "mesh_zone": "north"},
        "web2": {"ansible_host": "10.0.0.2", "mesh_zone": "south", "mesh_address": "10.9.0.2"},
    }
    assert found.hidden == frozenset()


def test_a_template_means_to_each_host_what_it_means_there(tmp_path: Path) -> None:
    hosts = {"web1": {"number": 1}, "web2": {"number": 2}}
    everywhere = {"mesh_address": "10.0.0.{{ number }}", "lab_publish": {8000: "{{ number }}"}}
    found = load(written(tmp_path, hosts, group_vars__all__more=everywhere))
    assert found.hosts == {
        "web1": {"mesh_address": "10.0.0.1", "lab_publish": {8000: 1}},
        "web2": {"mesh_address": "10.0.0.2", "lab_publish": {8000: 2}},
    }


def test_values_are_plain_even_where_ansible_marks_them(tmp_path: Path) -> None:
    more = {"mesh_tracing": {"group": "{{ 'web' ~ 1 }}", "sampling": 0.5}, "lab_memory_mb": 512}
    found = load(written(tmp_path, {"web1": {}}, group_vars__all__more=more))
    values = [*found.mesh["mesh_tracing"].values(), *found.hosts["web1"].values(), *found.hosts]
    assert [type(value) for value in values] == [str, float, int, str]


class HostVars(Mapping[str, Mapping[str, Any]]):
    """As Ansible's: resolves what it is asked for; it counts how often that was."""

    def __init__(self, hosts: dict[str, dict[str, Any]]) -> None:
        self.hosts = hosts
        self.asked: list[str] = []

    def raw_get(self, host: str) -> Mapping[str, Any]:
        return self.hosts[host]

    def __getitem__(self, host: str) -> Mapping[str, Any]:
        self.asked.append(host)
        return self.hosts[host]

    def __iter__(self) -> Iterator[str]:
        return iter(self.hosts)

    def __len__(self) -> int:
        return len(self.hosts)


def test_a_hundred_hosts_cost_one_resolving_of_the_model() -> None:
    model = {"shop": {"app": {"environment": {"PASSWORD": "{{ from_elsewhere }}"}}}}
    hosts = {
        f"web{number:02}": {"mesh_services": model, "ansible_host": f"10.0.0.{number}"}
        for number in range(100)
    }
    hostvars = HostVars(hosts)
    found = from_hostvars(Path("inventory"), {}, hostvars)
    assert (len(found.hosts), found.mesh) == (100, {"mesh_services": model})
    assert hostvars.asked == ["web00"]


def test_a_host_that_describes_the_mesh_differently_is_told(tmp_path: Path) -> None:
    other = {"mesh_services": {"shop": {"port": 9999, "app": {"flask": "services/shop"}}}}
    hosts: dict[str, Any] = {"db1": {}, "web1": {}, "web2": {}}
    (problem,) = problems_of(written(tmp_path, hosts, host_vars__db1=other))
    assert (problem.variable, problem.value) == ("db1: mesh_services.shop.port", 9999)
    assert "differently" in problem.message
    assert "group_vars/all" in problem.remedy


def test_a_group_that_describes_the_mesh_differently_is_told_once(tmp_path: Path) -> None:
    inventory = {
        "all": {
            "hosts": {"web1": {}, "web2": {}, "web3": {}},
            "children": {
                "stores": {"hosts": {"store1": {}, "store2": {}}},
            },
        }
    }
    folder = written(
        tmp_path,
        {},
        hosts=inventory,
        group_vars__all__more={"mesh_tracing": {"group": "web1"}},
        group_vars__stores={"mesh_tracing": {"group": "web2"}},
    )
    (problem,) = problems_of(folder)
    assert problem.variable == "store1 and 1 more: mesh_tracing.group"
    assert problem.value == "web2"


def test_the_same_said_twice_is_no_difference(tmp_path: Path) -> None:
    found = load(written(tmp_path, {"web1": {}, "web2": {}}, host_vars__web2=MESH))
    assert found.mesh == MESH


def test_a_misspelt_variable_of_a_host_is_told_by_its_right_name(tmp_path: Path) -> None:
    hosts = {"web1": {"mesh_adress": "10.0.0.1"}, "web2": {"mesh_adress": "10.0.0.2"}}
    (problem,) = problems_of(written(tmp_path, hosts))
    assert (problem.variable, problem.value) == ("web2: mesh_adress", "10.0.0.2")
    assert "`mesh_address`" in problem.remedy


def test_every_value_that_cannot_be_resolved_is_told_with_its_place(tmp_path: Path) -> None:
    mesh = {"mesh_services": {"shop": {"calls": ["{{ 'stock' }}", "{{ nothing }}"]}}}
    hosts = {"web1": {"mesh_address": "{{ nowhere }}"}, "web2": {"mesh_address": "{{ 1 +"}}
    found = problems_of(written(tmp_path, hosts, group_vars__all__mesh=mesh))
    assert [(problem.variable, problem.value) for problem in found] == [
        ("web1: mesh_address", "{{ nowhere }}"),
        ("web2: mesh_address", "{{ 1 +"),
        ("web1: mesh_services.shop.calls[1]", "{{ nothing }}"),
    ]
    assert "'nowhere' is undefined" in found[0].message
    assert f"{tmp_path}/hosts.yml" in found[0].message


@pytest.mark.parametrize("name", ["hosts", "group_vars__all__mesh"])
def test_a_file_that_is_no_yaml_is_told(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path, {"web1": {}}, **{name: "mesh_services: {unclosed\n"})
    found = " ".join(map(str, problems_of(folder)))
    assert str(tmp_path) in found
    if name != "hosts":  # of a broken hosts.yml Ansible warns, and goes on without hosts
        assert "mesh.yml" in found


def test_an_inventory_without_hosts_is_told(tmp_path: Path) -> None:
    (problem,) = problems_of(written(tmp_path, {}))
    assert problem.message == "has no host"


def test_an_inventory_that_is_not_there_is_told(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "none")
    assert problem.message == "does not exist"


ENVIRONMENT = ("mesh_services", "shop", "app", "environment")
# Ansible takes the vault's password when it starts, once in a process.
READ = """
import json, sys
from pathlib import Path
from vmesh.inventory import load
from vmesh.problems import Problems
try:
    found = load(Path(sys.argv[1]))
    print(json.dumps({"mesh": found.mesh, "hidden": sorted(found.hidden),
                      "secrets": sorted(found.secrets)}))
except Problems as problems:
    print(json.dumps({"problems": str(problems)}))
"""


def vault(*arguments: str | Path, password: Path) -> str:
    done = subprocess.run(
        [BIN / "ansible-vault", *arguments, "--vault-password-file", password],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


@pytest.fixture(scope="module")
def with_secrets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An inventory with a value from the vault, one wholly encrypted file, and plain texts."""
    folder = tmp_path_factory.mktemp("secrets")
    password = folder / "password"
    password.write_text("open sesame\n")
    inline = vault("encrypt_string", "hunter2", "--name", "INLINE", password=password)
    mesh = """
mesh_services:
  shop:
    port: 9001
    app:
      flask: services/shop
      environment:
        PLAIN: in plain text
        BRACES: '{"a": 1}'
        VERBATIM: !unsafe '{{ not_a_template }}'
        LOOKED_UP: "{{ lookup('env', 'SOMETHING') }}"
        NAMED: "{{ secret }}"
"""
    inventory = written(
        folder / "inventory",
        {"web1": {}, "web2": {}},
        group_vars__all__mesh=mesh + "".join(f"        {line}\n" for line in inline.splitlines()),
        group_vars__all__secret={"secret": "s3cret", "mesh_edges": {"front": {"group": "web1"}}},
    )
    vault("encrypt", inventory / "group_vars/all/secret.yml", password=password)
    return inventory, password


def read(inventory: Path, **environment: str) -> dict[str, Any]:
    clean = {n: v for n, v in os.environ.items() if n != "ANSIBLE_VAULT_PASSWORD_FILE"}
    done = subprocess.run(
        [sys.executable, "-c", READ, inventory],
        cwd=paths.PROJECT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_texts_from_the_vault_or_a_template_are_known_to_be_hidden(
    with_secrets: tuple[Path, Path],
) -> None:
    inventory, password = with_secrets
    found = read(inventory, ANSIBLE_VAULT_PASSWORD_FILE=str(password), SOMETHING="looked up")
    assert found["mesh"]["mesh_services"]["shop"]["app"]["environment"] == {
        "PLAIN": "in plain text",
        "BRACES": '{"a": 1}',
        "VERBATIM": "{{ not_a_template }}",
        "LOOKED_UP": "looked up",
        "NAMED": "s3cret",
        "INLINE": "hunter2",
    }
    assert {tuple(way) for way in found["hidden"]} == {
        (*ENVIRONMENT, "LOOKED_UP"),
        (*ENVIRONMENT, "NAMED"),
        (*ENVIRONMENT, "INLINE"),
        ("mesh_edges", "front", "group"),
    }
    assert found["secrets"] == ["hunter2", "s3cret", "web1"]


def test_a_vault_whose_password_file_is_not_there_is_told(
    with_secrets: tuple[Path, Path],
) -> None:
    inventory, password = with_secrets
    found = read(inventory, ANSIBLE_VAULT_PASSWORD_FILE=f"{password}.gone")["problems"]
    assert found.count("ANSIBLE_VAULT_PASSWORD_FILE") == 1


def test_a_vault_without_its_password_is_told(with_secrets: tuple[Path, Path]) -> None:
    inventory, _ = with_secrets
    found = read(inventory)["problems"]
    assert "secret.yml" in found
    assert "ANSIBLE_VAULT_PASSWORD_FILE" in found


def test_what_a_host_says_differently_in_an_encrypted_file_is_not_shown(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    inventory = written(
        tmp_path / "inventory",
        {"web1": {}, "web2": {}},
        group_vars__all__more={"mesh_tracing": {"group": "web1"}},
        host_vars__web2={"mesh_tracing": {"group": "whispered"}},
    )
    vault("encrypt", inventory / "host_vars/web2.yml", password=password)
    found = read(inventory, ANSIBLE_VAULT_PASSWORD_FILE=str(password))["problems"]
    assert "web2: mesh_tracing.group" in found
    assert "whispered" not in found


def test_a_text_below_a_template_is_hidden_and_its_neighbour_is_not(tmp_path: Path) -> None:
    mesh = {
        "mesh_services": {"shop": {"app": {"environment": "{{ both }}", "flask": "shop"}}},
        "mesh_edges": {"front": {"routes": [{"to": "shop"}, {"to": "{{ 'sh' ~ 'op' }}"}]}},
    }
    both = {"both": {"A": "1", "B": {"C": "2"}}}
    found = load(written(tmp_path, {"web1": both}, group_vars__all__mesh=mesh))
    assert found.hidden == {
        (*ENVIRONMENT, "A"),
        (*ENVIRONMENT, "B", "C"),
        ("mesh_edges", "front", "routes", "1", "to"),
    }


def test_without_what_ansible_calls_internal_an_inventory_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path, {"web1": {"mesh_address": "{{ '10.0.0.1' }}"}})
    expected = load(folder)
    monkeypatch.setitem(sys.modules, "ansible._internal._datatag._tags", None)
    assert load(folder) == expected


@pytest.mark.parametrize("hosts", [4, 10, 100])
def test_a_generated_inventory_is_a_mesh_without_faults(tmp_path: Path, hosts: int) -> None:
    found = load(scale_inventory.write(hosts, tmp_path))
    assert isinstance(found, Inventory)
    plan = compile_mesh(found)
    assert len(plan.hosts) == len(found.hosts) == hosts
    assert len(plan.mesh.services) == max(1, hosts // 5)


def test_a_generated_inventory_is_the_same_every_time(tmp_path: Path) -> None:
    one, other = (scale_inventory.write(30, tmp_path / name) for name in ("one", "other"))
    texts = [
        [path.read_text() for path in sorted(folder.rglob("*.yml"))] for folder in (one, other)
    ]
    assert texts[0] == texts[1]
