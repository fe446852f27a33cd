"""`--check` on a mesh that is up: it names what is out of order, and nothing else."""

from __future__ import annotations

import pytest

from bench.live.site import run_site
from bench.live.waiting import until
from tests.live.target import Target

pytestmark = pytest.mark.side_effect


def test_check_reports_exactly_one_edited_file_and_one_stopped_unit(target: Target) -> None:
    vm = target.vm_of("service2")
    edited = "/etc/envoy/service2/routes/ingress.json"
    # Written in place: Envoy reads a file anew when one is moved there.
    vm.run(f"cp -p {edited} /root/kept && sed '1a \"edited by hand\": true,' /root/kept > {edited}")
    try:
        vm.run("systemctl stop flask@service2.service")
        result = run_site([target.inventory], "--check", "--diff")
    finally:
        vm.run(f"cat /root/kept > {edited}; rm /root/kept; systemctl start flask@service2.service")
    assert result.outcome.code == 0, result.summary
    # Two tasks on this VM, and none anywhere else: of a mesh that is up it reports nothing.
    assert {host: len(tasks) for host, tasks in result.changed.items()} == {vm.name: 2}, (
        result.changed
    )
    diff = result.log.read_text()
    assert '-  "edited by hand": true,' in diff
    assert "flask@service2.service" in diff
    until("an answer of service2", lambda: target.get("/trace/1").status == 200, 60)
