"""What is read from an inventory, how often, and what is said when it cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.template import trust_as_template

from bench import scale_inventory
from vmesh.base import paths
from vmesh.base.problems import Problem, Problems
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import Inventory, from_hostvars, load

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


def test_of_a_hundred_hosts_only_templates_are_resolved_each_where_it_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = {"NODE": "{{ color }}", **{f"N{n}": str(n) for n in range(100)}}
    model = {"shop": {"port": "{{ base + 1 }}", "app": {"environment": environment}}}
    names = [f"web{number:02}" for number in range(100)]
    hosts: dict[str, dict[str, Any]] = {
        name: {"mesh_services": model, "base": 9000, "color": name} for name in names
    }
    hosts["web50"]["base"] = 1000
    asked: list[tuple[int, Any]] = []

    def resolver(_hostvars: Any, raw: Any) -> Callable[[Any], Any]:
        index = next(index for index, name in enumerate(names) if hosts[name] is raw)

        def resolve(value: Any) -> Any:
            asked.append((index, value))
            return value

        return resolve

    monkeypatch.setattr("vmesh.model.inventory_reader.resolver", resolver)
    found = from_hostvars(Path("inventory"), {"shop": names[10:15]}, hosts)
    assert (len(found.hosts), found.mesh) == (100, {"mesh_services": model})
    # On a host that has all as the first one has it, a template is what it is there.
    assert [index for index, value in asked if value == "{{ base + 1 }}"] == [0, 50]
    assert [index for index, value in asked if value == "{{ color }}"] == list(range(10, 15))
    assert len(asked) == 7


# What a template of a shared variable is on each host

OWN = """
mesh_services:
  shop:
    port: 9001
    app:
      flask: services/service1
      environment:
        SAME: in plain text
        NODE: "{{ inventory_hostname }}"
        DATABASE: "{{ database }}"
        WORKERS: "{{ cores | int * 2 }}"
        NEIGHBOUR: "{{ hostvars['web2'].mesh_address }}"
        REGION: "{{ region | default(omit) }}"
        NUMBER: "{{ groups.shop | length }}"
"""
SHOP: dict[str, Any] = {
    "all": {
        "children": {
            "shop": {
                "hosts": {
                    "web1": {"cores": 1, "region": "north"},
                    "web2": {"cores": 2, "mesh_address": "10.0.0.{{ cores }}"},
                }
            },
            "edge": {"hosts": {"edge1": {"database": "of the edge, where no shop is"}}},
        }
    }
}
DATABASE = {"database": "db.internal"}


def shop_with(folder: Path, mesh: str = OWN, **files: Mapping[str, Any] | str) -> Path:
    """Write an inventory with a service on two hosts and an edge beside them."""
    given = {"group_vars__shop": DATABASE, **files}
    return written(folder, {}, hosts=SHOP, group_vars__all__mesh=mesh, **given)


def test_an_apps_environment_is_on_each_host_what_ansible_makes_of_it_there(
    tmp_path: Path,
) -> None:
    found = load(shop_with(tmp_path))
    same = {
        "SAME": "in plain text",
        "DATABASE": "db.internal",
        "NEIGHBOUR": "10.0.0.2",
        "NUMBER": 2,
    }
    environment = found.mesh["mesh_services"]["shop"]["app"]["environment"]
    assert environment == {**same, "NODE": "web1", "WORKERS": 2, "REGION": "north"}
    assert found.environments == {"web2": {"shop": {**same, "NODE": "web2", "WORKERS": 4}}}


def test_a_whole_environment_may_be_each_hosts_own(tmp_path: Path) -> None:
    mesh = OWN[: OWN.index("environment")] + 'environment: "{{ mine }}"\n'
    found = load(
        shop_with(
            tmp_path,
            mesh,
            host_vars__web1={"mine": {"A": "{{ inventory_hostname }}"}},
            host_vars__web2={"mine": {"B": "{{ inventory_hostname }}"}},
        )
    )
    assert found.mesh["mesh_services"]["shop"]["app"]["environment"] == {"A": "web1"}
    assert found.environments == {"web2": {"shop": {"B": "web2"}}}


def test_a_service_that_is_a_template_as_a_whole_has_an_environment_on_each_host(
    tmp_path: Path,
) -> None:
    mesh = "mesh_services: {shop: '{{ described }}'}\ndescribed:" + OWN.split("shop:")[1]
    found = load(shop_with(tmp_path, mesh, group_vars__edge={"cores": 8}))
    assert found.environments["web2"]["shop"]["NODE"] == "web2"
    assert found.environments.keys() == {"web1", "web2"}  # and not the edge, which is another


@pytest.mark.parametrize(
    ("mesh", "place", "value", "other"),
    [
        ("mesh_services: {shop: {port: '{{ 9000 + cores }}'}}", "mesh_services.shop.port", 9002,
         "9001"),
        ("mesh_services: {shop: {calls: [a, '{{ inventory_hostname }}']}}",
         "mesh_services.shop.calls[1]", "web2", '"web1"'),
        ("mesh_envoy_version: '1.{{ cores }}.0'", "mesh_envoy_version", "1.2.0", '"1.1.0"'),
        ("mesh_services: {shop: '{{ {\"app\": {\"workers\": cores}} }}'}",
         "mesh_services.shop.app.workers", 2, "1"),
        ("mesh_services: {shop: {group: '{{ region | default(omit) }}'}}",
         "mesh_services.shop.group", "not set", '"north"'),
    ],
)  # fmt: skip
def test_what_all_hosts_share_must_not_be_another_thing_on_each(
    tmp_path: Path, mesh: str, place: str, value: Any, other: str
) -> None:
    folder = shop_with(tmp_path, mesh, group_vars__edge={"cores": 1, "region": "north"})
    if "inventory_hostname" in mesh:
        (folder / "hosts.yml").write_text("shop: {hosts: {web1: , web2: }}")
    (problem,) = problems_of(folder)
    assert (problem.variable, problem.value) == (f"web2: {place}", value)
    assert other in problem.message
    assert "differs from host to host" in problem.message
    assert "`environment`" in problem.remedy


@pytest.mark.parametrize(
    "template",
    [
        "{{ by_another }}",
        "{{ table.size }}",
        "{{ 'cores' | extract(hostvars[inventory_hostname]) }}",
        "{{ lookup('vars', 'co' ~ 'res') }}",
        "{{ query('ansible.builtin.vars', 'cores') }}",
        "{% set cores_here = cores %}{{ cores_here }}",
        "{{ lookup('file', folder ~ inventory_hostname ~ '.txt') }}",
        "{{ lookup('env', 'CORES_' ~ cores) }}",
        "{{ group_names }}",
    ],
)
def test_a_difference_is_seen_however_a_template_comes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    for cores, host in (("1", "edge1"), ("1", "web1"), ("2", "web2")):
        (tmp_path / f"{host}.txt").write_text(cores)
        monkeypatch.setenv(f"CORES_{cores}", cores)
    folder = shop_with(
        tmp_path / "inventory",
        "mesh_operator_bind: " + json.dumps(template),
        group_vars__edge={"cores": 1},
        group_vars__all__more={
            "by_another": "{{ by_a_third }}",
            "by_a_third": "{{ cores }}",
            "table": {"size": ["{{ cores }}"]},
            "folder": f"{tmp_path}/",
        },
    )
    (problem,) = problems_of(folder)
    told = "web1 and 1 more" if "group_names" in template else "web2"
    assert problem.variable == f"{told}: mesh_operator_bind"


def test_what_is_undefined_on_one_host_is_told_of_that_one(tmp_path: Path) -> None:
    mesh = OWN + "mesh_operator_bind: '10.0.0.{{ cores }}'\n"
    found = problems_of(shop_with(tmp_path, mesh, group_vars__shop={}, host_vars__web1=DATABASE))
    assert [(problem.variable, problem.value) for problem in found] == [
        ("edge1: mesh_operator_bind", "10.0.0.{{ cores }}"),
        ("web2: mesh_services.shop.app.environment.DATABASE", "{{ database }}"),
        ("web2: mesh_operator_bind", "10.0.0.2"),
    ]
    assert "'database' is undefined" in found[1].message


@pytest.mark.parametrize(
    "template",
    ["{{ ansible_facts['hostname'] }}", "{{ ansible_hostname }}", "{{ ansible_facts.nodename }}"],
)
def test_a_fact_is_refused_and_the_remedy_says_why(tmp_path: Path, template: str) -> None:
    mesh = f'mesh_services: {{shop: {{app: {{environment: {{NODE: "{template}"}}}}}}}}'
    folder = shop_with(tmp_path, mesh)
    (problem,) = problems_of(folder)
    assert problem.variable == "web1 and 1 more: mesh_services.shop.app.environment.NODE"
    assert "Facts, and what a run alone knows, as ansible_" in problem.remedy
    assert "not there when the mesh is planned" in problem.remedy


def test_facts_that_were_gathered_before_are_not_taken_either() -> None:
    facts = {
        "ansible_facts": {"hostname": "x"},
        "ansible_hostname": "x",
        "ansible_host": "10.0.0.1",
    }
    for name, expected in (("ansible_hostname", None), ("ansible_host", "10.0.0.1")):
        template = trust_as_template(f"{{{{ {name} }}}}")
        raw = {**facts, "mesh_zone": template}
        try:
            found = from_hostvars(Path("inventory"), {}, {"web1": raw}).hosts["web1"]["mesh_zone"]
        except Problems as problems:
            found = None
            assert "Facts" in problems.items[0].remedy
        assert found == expected


def test_a_variable_that_only_some_hosts_have_is_refused_where_they_are_in_the_mesh(
    tmp_path: Path,
) -> None:
    mesh = OWN.replace('"{{ database }}"', "x") + "mesh_edges: {front: {group: edge, port: 80}}\n"
    folder = shop_with(
        tmp_path,
        mesh,
        group_vars__shop={"mesh_envoy_version": "1.39.3"},
        group_vars__all__more={
            "ansible_host": "10.0.1.{{ groups.all.index(inventory_hostname) }}",
            "mesh_tracing": {"sampling": 0},
        },
    )
    found = load(folder)
    assert found.lacking == {"mesh_envoy_version": ("web1", frozenset({"edge1"}))}
    with pytest.raises(Problems) as caught:
        compile_mesh(found)
    (problem,) = [each for each in caught.value.items if each.variable == "mesh_envoy_version"]
    assert problem.message == "is set for web1 and not for edge1; the mesh is described once"


def test_group_vars_beside_site_yml_count_wherever_the_command_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, zone in (("project", "beside site.yml"), ("elsewhere", "in the working folder")):
        (tmp_path / place / "group_vars").mkdir(parents=True)
        (tmp_path / place / "group_vars/all.yml").write_text(f"mesh_zone: {zone}\n")
    folder = written(tmp_path / "inventory", {"web1": {}})
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "project")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(folder).hosts["web1"]["mesh_zone"] == "beside site.yml"


def test_what_is_omitted_is_not_set(tmp_path: Path) -> None:
    omitted = "{{ nothing | default(omit) }}"
    more = {"mesh_zone": omitted, "mesh_envoy_version": omitted, "mesh_tracing": {"group": omitted}}
    found = load(written(tmp_path, {"web1": {}}, group_vars__all__more=more))
    assert found.hosts == {"web1": {}}
    assert found.mesh == {**MESH, "mesh_tracing": {}}


def test_keys_that_are_numbers_keys_that_yaml_merges_and_ansibles_own_variables(
    tmp_path: Path,
) -> None:
    mesh = """
base: &base {flask: services/service1, environment: {7: "{{ inventory_hostname }}"}}
mesh_services:
  8: {group: shop, app: {<<: *base, wsgi: "{{ 'app:' ~ 'app' }}"}}
  9: {group: edge, app: {environment: {VERSION: "{{ ansible_version.major }}"}}}
"""
    found = load(shop_with(tmp_path, mesh))
    services = found.mesh["mesh_services"]
    assert services[8]["app"]["environment"] == {7: "web1"}
    assert services[8]["app"]["wsgi"] == "app:app"
    assert services[9]["app"]["environment"] == {"VERSION": 2}
    assert found.environments == {"web2": {"8": {"7": "web2"}}}


def test_the_group_with_the_higher_priority_counts(tmp_path: Path) -> None:
    groups = {
        name: {"hosts": {"web1": {}}, "vars": {"color": name, "ansible_group_priority": priority}}
        for name, priority in (("a", 9), ("b", 1))
    }
    mesh = "mesh_services: {web1: {app: {environment: {COLOR: '{{ color }}'}}}}"
    folder = written(tmp_path, {}, hosts={"all": {"children": groups}}, group_vars__all__mesh=mesh)
    services = load(folder).mesh["mesh_services"]
    assert services["web1"]["app"]["environment"] == {"COLOR": "a"}


# Several sources


def test_of_several_sources_the_last_one_counts(tmp_path: Path) -> None:
    one = written(tmp_path / "one", {"web1": {"mesh_zone": "a"}, "web2": {"mesh_zone": "a"}})
    more = tmp_path / "more.yml"
    more.write_text("all: {hosts: {web2: {mesh_zone: b}, web3: {mesh_zone: c}}}")
    assert {host: each["mesh_zone"] for host, each in load(one, more).hosts.items()} == {
        "web1": "a",
        "web2": "b",
        "web3": "c",
    }
    assert load(more, one).hosts["web2"]["mesh_zone"] == "a"
    assert load(more, one).mesh == MESH


def test_a_list_of_hosts_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(Path("web1,web2")).hosts.keys() == {"web1", "web2"}
    one = written(tmp_path / "one", {"web1": {"mesh_zone": "a"}})
    assert load(one, Path("web2,")).hosts.keys() == {"web1", "web2"}


def test_each_source_that_is_not_there_is_told(tmp_path: Path) -> None:
    one = written(tmp_path / "one", {"web1": {}})
    with pytest.raises(Problems) as caught:
        load(tmp_path / "none", one, tmp_path / "neither")
    assert [each.value for each in caught.value.items] == [
        str(tmp_path / "none"),
        str(tmp_path / "neither"),
    ]


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
        ("web1 and 1 more: mesh_services.shop.calls[1]", "{{ nothing }}"),
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
from vmesh.model.inventory import load
from vmesh.base.problems import Problems
try:
    found = load(Path(sys.argv[1]))
    print(json.dumps({"mesh": found.mesh, "hidden": sorted(found.hidden),
                      "secrets": sorted(found.secrets), "environments": found.environments}))
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


def test_a_secret_of_one_group_is_known_to_its_hosts_and_shown_nowhere(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    mesh = """
mesh_services:
  shop:
    port: 9001
    app: {flask: services/shop, environment: {PASSWORD: "{{ secret }}", URL: "db://{{ secret }}"}}
"""
    inventory = shop_with(
        tmp_path / "inventory",
        mesh,
        group_vars__shop={"secret": "open1"},
        host_vars__web2={"secret": "open2"},
    )
    for name in ("group_vars/shop.yml", "host_vars/web2.yml"):
        vault("encrypt", inventory / name, password=password)
    found = read(inventory, ANSIBLE_VAULT_PASSWORD_FILE=str(password))
    assert found["environments"] == {
        "web2": {"shop": {"PASSWORD": "open2", "URL": "db://open2"}},
    }
    assert {tuple(way) for way in found["hidden"]} == {
        (*ENVIRONMENT, "PASSWORD"),
        (*ENVIRONMENT, "URL"),
    }
    assert found["secrets"] == ["open1", "open2"]
    # Where the hosts must not differ, the message shows neither text, nor one made with it.
    mesh_file = inventory / "group_vars/all/mesh.yml"
    mesh_file.write_text(
        "mesh_services: {shop: {group: '{{ secret }}', operation: 'a{{ secret }}'}}"
    )
    (inventory / "group_vars/edge.yml").write_text("secret: open1")
    told = read(inventory, ANSIBLE_VAULT_PASSWORD_FILE=str(password))["problems"]
    assert "web2: mesh_services.shop.group" in told
    assert "web2: mesh_services.shop.operation" in told
    assert told.count("(hidden)") == 4
    assert "open1" not in told
    assert "open2" not in told


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
