"""What site.yml does on the controller, before a host is touched: playbooks/plan.yml."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import scale_inventory
from plugins.plugin_utils.host_plan import what_runs_on
from vmesh.base import paths
from vmesh.compile.compiler import compile_mesh
from vmesh.model.inventory import load
from vmesh.render.renderer import Renderer
from vmesh.rollout import description, desired_state, record_secrets
from vmesh.rollout.desired_state import build_folder, lock
from vmesh.rollout.run_lock import Running, acquire

# Ends with all that is asserted on: the groups, and what every host is handed of the plan.
TELL = """
- import_playbook: {plan}
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{{{ {{'groups': groups, 'plan': vmesh_plan}} | to_json }}}}"
        dest: {told}
        mode: "0600"
      delegate_to: localhost
      vars: {{ansible_connection: local, ansible_python_interpreter: {python}}}
      run_once: true
      changed_when: false
"""


def play(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    playbook = folder / "tell.yml"
    plan = paths.PROJECT / "playbooks" / "plan.yml"
    playbook.write_text(TELL.format(plan=plan, told=folder / "told", python=sys.executable))
    return subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", playbook, *arguments],
        cwd=paths.PROJECT,
        env={**os.environ, "ANSIBLE_LOCAL_TEMP": str(folder / "local")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[Path]:
    # The build folder goes by this name, and tests may run side by side.
    folder = scale_inventory.write(8, tmp_path / f"test-plan-playbook-{os.getpid()}")
    yield folder
    for left in paths.build_dir(folder).parent.glob(f"{folder.name}*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def test_the_hosts_with_a_part_in_the_mesh_are_picked(
    inventory: Path, envoy: Path, tmp_path: Path
) -> None:
    done = play(tmp_path, "-i", inventory)
    assert done.returncode == 0, done.stdout
    told: dict[str, Any] = json.loads((tmp_path / "told").read_text())
    services = {f"service0000-{number}" for number in range(6)}
    assert {name: set(told["groups"][name]) for name in told["groups"] if "mesh_" in name} == {
        "mesh_hosts": services | {"edge000-0", "tracing-0"},
    }
    proxy = told["plan"]["hosts"]["service0000-3"]["proxies"][0]
    assert (Path(proxy["config_dir"]) / "bootstrap.json").is_file()
    # Every host's variables hold the plan, so nothing in it may be as long as a configuration.
    assert len(json.dumps(told["plan"])) < 1500 * len(told["plan"]["hosts"])


def test_sources_extra_variables_and_templates_mean_what_ansible_says(
    inventory: Path, envoy: Path, tmp_path: Path
) -> None:
    services = inventory / "group_vars/all/mesh.yml"
    mesh = yaml.safe_load(services.read_text())
    mesh["mesh_services"]["service0000"]["app"]["environment"] = {
        "NODE": "{{ inventory_hostname }}",
        "COLOR": "{{ color }}",
    }
    services.write_text(yaml.safe_dump(mesh))
    more = tmp_path / f"{inventory.name}-more.yml"
    more.write_text(
        "all: {vars: {color: blue}, hosts: {service0000-1: {color: red, mesh_address: 10.9.9.9}}}"
    )
    extra = '{"mesh_envoy_version": "1.40.0"}'
    done = play(tmp_path, "-i", inventory, "-i", more, "-e", extra)
    assert done.returncode == 0, done.stdout
    plan: dict[str, Any] = json.loads((tmp_path / "told").read_text())["plan"]
    assert plan["envoy_version"] == "1.40.0"
    environments = {
        host: each["flask_services"][0]["environment"]
        for host, each in plan["hosts"].items()
        if each["flask_services"]
    }
    assert {host: each["NODE"] for host, each in environments.items()} == {
        host: host for host in environments
    }
    assert {host for host, each in environments.items() if each["COLOR"] == "red"} == {
        "service0000-1"
    }
    # The command sees the same, but for the extra variable, which only that run had.
    same = compile_mesh(load(inventory, more))
    assert same.mesh.envoy_version is None
    for host, each in same.hosts.items():
        assert [service.environment for service in each.flask_services] == [
            service["environment"] for service in plan["hosts"][host]["flask_services"]
        ]
    built = build_folder([inventory, more])
    assert built.name == f"{inventory.name}+{more.stem}"
    endpoints = built / "edge000-0/edge000/endpoints/service0000.json"
    assert "10.9.9.9" in endpoints.read_text()


def test_a_limit_leaves_the_other_hosts_out_and_not_out_of_the_configuration(
    inventory: Path, envoy: Path, tmp_path: Path
) -> None:
    done = play(tmp_path, "-i", inventory, "--limit", "edge000", "--check")
    assert done.returncode == 0, done.stdout
    build = build_folder([inventory], check=True)
    endpoints = build / "edge000-0/edge000/endpoints/service0000.json"
    assert endpoints.read_text().count("10.0.0.") == 6
    assert "ok: [edge000-0] => (item=edge000-0)" in done.stdout
    assert "item=service0000" not in done.stdout
    assert "changed=0" in done.stdout


@pytest.mark.slow
def test_what_a_run_applies_stays_as_it_is_while_it_goes_on(
    inventory: Path, envoy: Path, tmp_path: Path
) -> None:
    assert play(tmp_path, "-i", inventory).returncode == 0

    def routes() -> dict[str, str]:
        folder = paths.build_dir(inventory) / "edge000-0/edge000/routes"
        return {path.name: path.read_text() for path in folder.iterdir()}

    before = routes()
    mesh = inventory / "group_vars/all/mesh.yml"
    mesh.write_text(mesh.read_text().replace("/service0000", "/renamed"))
    assert acquire(lock([inventory]), Running.of(os.getpid(), "ann@tower")) is None
    assert play(tmp_path, "-i", inventory, "--check").returncode == 0
    second = play(tmp_path, "-i", inventory)
    assert second.returncode == 2
    assert "a run of ann@tower" in second.stdout
    assert routes() == before
    lock([inventory]).unlink()
    assert play(tmp_path, "-i", inventory).returncode == 0
    assert routes() != before


def test_a_person_sees_what_was_compiled_and_later_steps_find_it(
    inventory: Path, envoy: Path, tmp_path: Path
) -> None:
    done = play(tmp_path, "-i", inventory, "-v")
    assert done.returncode == 0, done.stdout
    assert "mesh_plan: 1 service, 1 edge, 7 Envoys, 6 Flask apps, 1 Jaeger; " in done.stdout
    mesh = load(inventory)
    plan = compile_mesh(mesh)
    policy, states = desired_state.load(build_folder([inventory]))
    assert policy == plan.mesh.rollout
    secrets, files = record_secrets.Secrets.of(mesh), Renderer().files
    assert states == {
        host: description.describe(spec, secrets, files, variables=mesh.hosts[host]).state
        for host, spec in plan.hosts.items()
    }


def test_all_mistakes_are_told_at_once_and_nothing_follows(tmp_path: Path) -> None:
    inventory = scale_inventory.write(4, tmp_path / f"with-mistakes-{os.getpid()}")
    mesh = yaml.safe_load((inventory / "group_vars/all/mesh.yml").read_text())
    mesh["mesh_services"]["service0000"]["port"] = "nowhere"
    mesh["mesh_edges"]["edge000"]["group"] = "nobody"
    (inventory / "group_vars/all/mesh.yml").write_text(yaml.safe_dump(mesh))
    done = play(tmp_path, "-i", inventory)
    assert done.returncode != 0
    assert "mesh_services.service0000.port" in done.stdout
    assert "mesh_edges.edge000.group" in done.stdout
    assert "no host was touched" in done.stdout
    assert not (tmp_path / "told").exists()
    assert not paths.build_dir(inventory).exists()


def test_the_plan_of_a_host_has_all_parts_and_no_configuration(inventory: Path) -> None:
    plan = compile_mesh(load(inventory))
    host = what_runs_on(plan.hosts["service0000-0"], Path("/build/service0000-0"))
    assert host["address"] == plan.hosts["service0000-0"].address
    assert [service["name"] for service in host["flask_services"]] == ["service0000"]
    assert host["proxies"] == [
        {"name": "service0000", "config_dir": "/build/service0000-0/service0000"}
    ]
    assert host["balanced"] == {
        "service0000": [
            cluster["name"]
            for cluster in plan.hosts["service0000-0"].proxies[0].view["clusters"]
            if len(cluster["endpoints"]) > 1
        ]
    }
    assert host["parts"] == ["envoy@service0000", "flask@service0000"]
    jaeger = plan.hosts["tracing-0"].jaeger
    assert jaeger is not None
    told = what_runs_on(plan.hosts["tracing-0"], Path("/build/tracing-0"))["jaeger"]
    assert told == dataclasses.asdict(jaeger)


def test_a_build_folder_is_named_by_all_sources() -> None:
    build = paths.PROJECT / "build"
    assert build_folder(["/etc/mesh/shop"]) == build / "shop" == paths.build_dir(Path("shop"))
    assert build_folder(["/etc/mesh/shop", "/etc/more"]) == build / "shop+more"
    assert build_folder(["/etc/mesh/shop", "web1,web2,"]) == build / "shop+hosts"
