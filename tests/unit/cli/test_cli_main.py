from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import vmesh.cli.down
import vmesh.cli.ps
from vmesh import cli
from vmesh.base import paths
from vmesh.base.exits import CliError
from vmesh.base.problems import Problem
from vmesh.base.progress import Steps, new_log
from vmesh.cli import check, logs, options, packages, render
from vmesh.cli import test as test_command
from vmesh.remote import playbook
from vmesh.rollout import record

OWN_VMS = {
    "all": {
        "vars": {
            "mesh_services": {
                "shop": {
                    "port": 9001,
                    "app": {"flask": "shop"},
                    "operation": "buy",
                    "calls": {"stokc": {}},
                }
            },
            "mesh_edges": {
                "door": {"group": "doors", "port": 8000, "routes": [{"prefix": "/", "to": "shpo"}]}
            },
            "mesh_tracing": {"group": "tracer"},
        },
        "children": {
            "shop": {"hosts": {"vm1": {"ansible_host": "10.0.0.1"}}},
            "doors": {"hosts": {"vm2": {"ansible_host": "10.0.0.2"}}},
            "tracer": {"hosts": {"vm2": {}}},
        },
    }
}


def inventory(folder: Path) -> Path:
    path = folder / "hosts.yml"
    path.write_text(json.dumps(OWN_VMS))
    return path


@pytest.mark.parametrize("name", [name for name, _ in options.COMMANDS])
def test_every_command_has_help_that_tells_the_exit_codes(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--inventory" in text
    assert "exit codes:" in text


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["ps", "--nonsense"], ["logs"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2


def test_an_inventory_that_is_not_there_is_named_and_ends_with_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["ps", "-i", "/no/such/place"]) == 2
    assert "/no/such/place" in capsys.readouterr().err


def test_a_relative_inventory_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.find_inventory(Path("inventory/lab")) == paths.PROJECT / "inventory" / "lab"
    (tmp_path / "mine").mkdir()
    assert cli.find_inventory(Path("mine")) == tmp_path / "mine"


@pytest.mark.parametrize("command", [name for name, _ in options.COMMANDS])
def test_every_command_takes_several_inventories_and_hosts(command: str) -> None:
    named = {name: ["x"] for name in ("logs", "ssh", "render", "password")}
    more = {**named, "bench": ["change"]}.get(command, [])
    given = [command, "-i", "one", "--inventory", "web1,", *more]
    assert options.parser().parse_args(given).inventory == (Path("one"), Path("web1,"))
    assert len(options.parser().parse_args([command, *more]).inventory) == 1


def test_what_a_command_says_of_several_inventories_is_of_all_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = inventory(tmp_path)
    second = tmp_path / "more.yml"
    second.write_text("all: {vars: {mesh_tracing: {group: nowhere}}}")
    assert cli.main(["validate", "--no-envoy", "-i", str(first), "-i", str(second)]) == 1
    told = capsys.readouterr().err
    assert "nowhere" in told
    assert "mesh_services.shop.calls" in told  # of the first one
    both = ["-i", str(first), "-i", "web1,"]
    assert cli.main(["down", *both]) == 2
    assert f"{first}, web1, has no group `lab`" in capsys.readouterr().err
    assert cli.main(["history", *both]) == 0
    assert str(record.folder(first, Path("web1,"))) in capsys.readouterr().out
    assert cli.main(["ps", *both, "-i", "/no/such/place"]) == 2
    assert "no inventory at /no/such/place" in capsys.readouterr().err


def test_a_playbook_is_run_with_all_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Sequence[str]] = []

    def follow(command: Sequence[str], *_: Any) -> int:
        ran.append(command)
        return 0

    monkeypatch.setattr(playbook, "follow", follow)
    steps = Steps(1, new_log("test"))
    playbook.apply((Path("/one"), Path("web1,")), steps, fast=False, extra=("--check",))
    assert ran == [
        ["ansible-playbook", "-i", "/one", "-i", "web1,", "--check", "site.yml"],
    ]


def test_down_refuses_an_inventory_without_a_lab(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["down", "-i", str(inventory(tmp_path))]) == 2
    assert "lab" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["ps"], ["trace"], ["validate", "--no-envoy"], ["up"]])
def test_every_mistake_of_an_inventory_is_told_at_once(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, "-i", str(inventory(tmp_path))]) == 1
    told = capsys.readouterr().err
    for expected in ("stokc", "shpo", "mesh_services.shop.calls", "mesh_edges.door.routes[0].to"):
        assert expected in told
    assert "Traceback" not in told


def test_up_looks_for_what_the_inventory_names_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh = json.loads(json.dumps(OWN_VMS).replace("shpo", "shop").replace("stokc", "stock"))
    services = mesh["all"]["vars"]["mesh_services"]
    services["stock"] = {"port": 9002, "group": "shop", "app": {"flask": "/no/such/app"}}
    services["shop"]["app"]["flask"] = "services/service1"
    (tmp_path / "hosts.yml").write_text(json.dumps(mesh))
    assert cli.main(["up", "--no-install", "--offline", "-i", str(tmp_path / "hosts.yml")]) == 1
    told = capsys.readouterr().err
    assert 'mesh_services.stock.app.flask = "/no/such/app"' in told
    assert "1 problem:" in told


def test_problems_are_listed_with_variable_value_message_and_remedy() -> None:
    text = cli.problem_list([Problem("lab_x", {"a": 1}, "is odd: very", "Make it even.")])
    assert text == '1 problem:\n  1. lab_x = {"a": 1}\n     is odd: very\n     -> Make it even.'


def test_a_fault_of_vmesh_itself_is_a_short_line_and_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> int:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(vmesh.cli.ps, "run", broken)
    assert cli.main(["ps"]) == 1
    told = capsys.readouterr().err
    log = paths.log_dir() / "errors.log"
    assert "by nothing" in told
    assert str(log) in told
    assert "Traceback" not in told
    assert "Traceback" in log.read_text()
    assert cli.main(["ps", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(vmesh.cli.ps, "run", interrupted)
    assert cli.main(["ps"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_missing_packages_are_named_with_the_command_that_installs_them(tmp_path: Path) -> None:
    (tmp_path / "have").touch(mode=0o755)
    needed = (("have", "a"), ("lack-one", "b"), ("lack-two", "c"))
    assert packages.missing(needed, str(tmp_path)) == ["b", "c"]
    told = packages.refusal(["b", "c"], root=False)
    assert "b, c" in told
    assert "sudo apt-get install -y --no-install-recommends b c" in told
    assert "sudo" not in packages.refusal(["b"], root=True)


def test_the_last_line_of_test_counts_its_stages() -> None:
    assert test_command.tally([True, False, True]) == "2 passed, 1 failed"


def test_failed_scenario_ends_with_what_it_said_before_its_vms_were_destroyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    molecule = tmp_path / "molecule"
    molecule.write_text(
        "#!/bin/sh\n"
        "for action in destroy converge verify destroy; do\n"
        '  echo "INFO  default > $action: Executing"; echo "of $action"\n'
        "done\n"
        'exit "$ENDS"\n'
    )
    molecule.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    steps = Steps(1, tmp_path / "log")
    steps.log_path.touch()
    monkeypatch.setenv("ENDS", "0")
    assert test_command._molecule("default", steps) == []
    monkeypatch.setenv("ENDS", "1")
    told = [line.strip() for line in test_command._molecule("default", steps)]
    assert told[0].startswith("molecule test: default failed")
    assert told[-1] == "of verify"
    assert "of converge" in told
    assert "of destroy" not in told


def test_scenarios_are_all_there_are_default_first_unless_named(tmp_path: Path) -> None:
    for name in ("alpha", "default"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "molecule.yml").touch()
    (tmp_path / "shared").mkdir()
    assert test_command.chosen(tmp_path, None) == ["default", "alpha"]
    assert test_command.chosen(tmp_path, ["alpha"]) == ["alpha"]
    with pytest.raises(CliError, match="beta"):
        test_command.chosen(tmp_path, ["beta"])


def test_no_scenario_at_all_is_not_a_success(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="no molecule scenario"):
        test_command.chosen(tmp_path, None)


@pytest.mark.parametrize("sudo", [True, False])
def test_the_journal_is_read_as_root_only_where_that_needs_no_password(
    sudo: bool, tmp_path: Path
) -> None:
    for name, script in (
        ("sudo", 'shift; exec env AS_ROOT=yes "$@"' if sudo else "exit 1"),
        ("journalctl", 'echo "${AS_ROOT-no} $*"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    command = logs.journal_command(("envoy@shop.service",), 5, follow=True)
    run = subprocess.run(
        ["sh", "-c", command],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = "--no-pager --output=short-iso --lines=5 --unit=envoy@shop.service --follow"
    assert run.stdout == f"{'yes' if sudo else 'no'} {expected}\n"


def test_render_refuses_a_folder_with_other_things_in_it(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    with pytest.raises(CliError, match="thesis"):
        render.check_target(tmp_path)
    render.check_target(tmp_path / "thesis")
    render.check_target(tmp_path / "new")


def test_render_tells_in_a_line_where_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["render", str(tmp_path / "file" / "new")]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'file' / 'new'} cannot be written" in told


def test_a_service_that_stands_there_twice_is_a_mistake_from_any_folder(tmp_path: Path) -> None:
    folder = tmp_path / "inventory" / "group_vars" / "all"
    folder.mkdir(parents=True)
    (tmp_path / "inventory" / "hosts.yml").write_text("all: {hosts: {web: {}}}\n")
    (folder / "mesh.yml").write_text("mesh_services:\n  shop: {}\n  shop: {}\n")
    done = subprocess.run(  # Ansible reads its settings once in a process
        [sys.executable, "-m", "vmesh", "validate", "-i", tmp_path / "inventory"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(paths.PROJECT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "duplicate mapping key 'shop'" in done.stderr
    assert f"{folder / 'mesh.yml'}:3:3" in done.stderr


def test_a_check_that_cannot_be_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        check, "tools", lambda *_, **__: (check.Tool("none", (("no-such-tool",),)),)
    )
    (verdict,) = check.check(tmp_path / "log", every=False)
    assert verdict.code != 0
    assert "no-such-tool" in verdict.output


def test_a_check_with_one_failing_command_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = check.Tool("two", (("sh", "-c", "echo reason; exit 1"), ("true",)))
    monkeypatch.setattr(check, "tools", lambda *_, **__: (tool, check.Tool("good", (("true",),))))
    assert [verdict.code for verdict in check.check(tmp_path / "log", every=False)] == [1, 0]
    told = capsys.readouterr().out
    assert "reason" in told
    assert "check: 1 failed" in told


def test_no_python_and_no_shell_program_is_left_out_of_the_checks() -> None:
    python, shell = [], []
    for path in files_of_ours():
        name = str(path.relative_to(paths.PROJECT))
        first = path.open("rb").readline()
        if path.suffix == ".py":
            python.append(name)
        elif first.startswith(b"#!") and first.rstrip().endswith(b"sh"):
            shell.append(name)
    assert {name.split("/")[0] for name in python} == {*check.PYTHON}
    assert sorted(shell) == sorted(check.SHELL)


def test_a_hook_of_git_runs_what_check_runs() -> None:
    config = yaml.safe_load((paths.PROJECT / ".pre-commit-config.yaml").read_text())
    hooks = [hook["entry"] for repository in config["repos"] for hook in repository["hooks"]]
    commands = {
        " ".join(command)
        for tool in check.tools(check.PYTHON, 2, every=False)
        for command in tool.commands
    }
    quick = {hook.removeprefix(".venv/bin/") for hook in hooks if hook != "./mesh check"}
    slow = {command for command in commands if command.startswith(("pytest", "ansible-lint"))}
    assert "./mesh check" in hooks
    assert quick == commands - slow


def files_of_ours() -> list[Path]:
    """Return the files that git would keep."""
    told = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode != 0:
        pytest.skip("only a git checkout tells its files from what was built")
    found = (paths.PROJECT / name for name in told.stdout.split("\0") if name)
    return [path for path in found if path.is_file()]


def test_very_long_output_is_cut_to_its_end_and_the_rest_is_in_the_log() -> None:
    lines = check.shortened([str(number) for number in range(1000)], Path("/the.log"), most=3)
    assert lines == ["... 997 lines before these are in /the.log", "997", "998", "999"]
    assert check.shortened(["a"], Path("/the.log")) == ["a"]


def test_help_needs_no_library_but_pythons_own() -> None:
    run = subprocess.run(
        [sys.executable, "-S", "-P", "-m", "vmesh", "--help"],
        env={"PYTHONPATH": str(paths.PROJECT), "PATH": os.defpath},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "waterfall" in run.stdout
