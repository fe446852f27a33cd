"""Mistakes that only VMs can show: an app that cannot be imported, a VM that cannot be reached."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.live.site import Result, run_site
from tests.live.target import Target
from vmesh.base import paths

pytestmark = pytest.mark.side_effect


def closed_port() -> int:
    """Return a port of this machine's loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def broken_copy(app: Path, folder: Path) -> Path:
    """Return a copy of a service whose app imports what is not there."""
    copy = folder / app.name
    shutil.copytree(app, copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = (copy / "app.py").read_text()
    (copy / "app.py").write_text(f"{code}\nimport no_such_module_anywhere\n")
    return copy


@contextmanager
def asking(target: Target, path: str) -> Iterator[list[Any]]:
    """Send requests all the while; the list fills with their statuses, or what went wrong."""
    answers: list[Any] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.5):
            try:
                answers.append(target.get(path).status)
            except OSError as error:
                answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def faulty_run(target: Target, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Any]:
    """One run with both mistakes: service2's app is broken, Jaeger's VM is not reachable.

    Returns its result and what clients of service2 were answered meanwhile.
    """
    folder = tmp_path_factory.mktemp("faults")
    services = dict(target.mesh.inventory.mesh["mesh_services"])
    app = services["service2"]["app"]
    copy = broken_copy(paths.PROJECT / app["flask"], folder)
    services["service2"] = {**services["service2"], "app": {**app, "flask": str(copy)}}
    faults: dict[str, dict[str, Any]] = {vm: {"mesh_services": services} for vm in target.vms}
    unreachable = faults[target.vm_of("jaeger").name]
    unreachable |= {"ansible_host": "127.0.0.1", "ansible_port": closed_port()}
    layer = folder / "faults.yml"
    layer.write_text(yaml.safe_dump({"all": {"hosts": faults}}))
    with asking(target, "/trace/2") as answers:
        result = run_site([target.inventory, layer])
    return result, answers


def test_app_that_cannot_be_imported_is_named_with_its_traceback(
    target: Target, faulty_run: tuple[Result, Any]
) -> None:
    result, _ = faulty_run
    vm = target.vm_of("service2").name
    assert result.outcome.code != 0
    failures = {failure.host: failure.message for failure in result.outcome.failures}
    assert set(failures) == {vm}, result.log
    assert "service2" in failures[vm]
    assert "Traceback (most recent call last)" in failures[vm]
    assert "No module named 'no_such_module_anywhere'" in failures[vm]
    assert f"{vm}: failed" in result.summary


def test_old_release_keeps_serving(target: Target, faulty_run: tuple[Result, Any]) -> None:
    _, answers = faulty_run
    assert len(answers) >= 5
    assert set(answers) == {200}
    assert target.get("/trace/1").status == 200


def test_unreachable_vm_is_named_and_the_others_finish(
    target: Target, faulty_run: tuple[Result, Any]
) -> None:
    result, _ = faulty_run
    jaeger, broken = target.vm_of("jaeger").name, target.vm_of("service2").name
    assert set(result.outcome.unreachable) == {jaeger}, result.log
    assert f"{jaeger}: unreachable" in result.summary
    others = set(target.vms) - {jaeger, broken}
    told = result.summary.rsplit("without a failure:", 1)[-1]
    for vm in others:
        assert result.outcome.hosts[vm]["ok"] > 0
        assert result.outcome.hosts[vm]["changed"] == 0, result.changed
        assert vm in told, result.summary
