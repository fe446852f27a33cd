from __future__ import annotations

import subprocess
from pathlib import Path

from vmesh.cli import ps
from vmesh.cli.output import status

UNITS = [
    status.Unit("vm1", "envoy@shop", "envoy@shop.service", ("10.0.0.1:9001",)),
    status.Unit("vm1", "flask@shop", "flask@shop.service", ("unix:/run/flask/shop/app.sock",)),
    status.Unit("vm1", "jaeger", "jaeger.service", ()),
    status.Unit("vm1", "envoy@gone", "envoy@gone.service", ()),
]

ANSWER = """\
MainPID=812
Result=success
ExecMainStatus=0
Id=envoy@shop.service
LoadState=loaded
ActiveState=active
SubState=running
ActiveEnterTimestampMonotonic=20000000
NRestarts=1

MainPID=0
Result=exit-code
ExecMainStatus=3
Id=flask@shop.service
LoadState=loaded
ActiveState=failed
SubState=failed
ActiveEnterTimestampMonotonic=0
NRestarts=5

MainPID=0
Id=jaeger.service
LoadState=loaded
ActiveState=inactive
SubState=dead

MainPID=0
Id=envoy@gone.service
LoadState=not-found
ActiveState=inactive
SubState=dead

---
3740.25
812 /opt/envoy/current/bin/envoy -c /etc/envoy/shop/bootstrap.json \n"""


def test_every_planned_unit_is_a_row_with_what_it_does_now() -> None:
    rows = status.answer_rows(UNITS, ANSWER)
    assert [(row.name, row.running) for row in rows] == [
        ("envoy@shop", True),
        ("flask@shop", False),
        ("jaeger", False),
        ("envoy@gone", False),
    ]
    assert rows[0].state == "Up 1 h 02 min (1 restart)"
    assert rows[0].command == "/opt/envoy/current/bin/envoy -c /etc/envoy/shop/bootstrap.json"
    assert rows[1].state == "failed (exit-code, exit 3)"
    assert rows[2].state == "inactive"
    assert rows[3].state == "not installed"


def test_an_answer_that_is_cut_short_still_gives_a_row_for_every_unit() -> None:
    rows = status.answer_rows(UNITS, "")
    assert len(rows) == len(UNITS)
    assert not any(row.running for row in rows)


def test_a_vm_that_does_not_answer_is_one_row() -> None:
    (row,) = status.unreachable_rows(UNITS, "Connection refused")
    assert row.host == "vm1"
    assert row.state == "unreachable"
    assert "Connection refused" in row.command
    assert not row.running


def test_the_reason_is_what_ssh_said_last_not_its_warnings() -> None:
    said = "Warning: Permanently added 'x'\nssh: connect to host a port 22: No route to host\n\n"
    assert status.ssh_reason(said) == "ssh: connect to host a port 22: No route to host"
    assert status.ssh_reason("") == "no answer"


def test_the_question_is_shell_that_survives_odd_unit_names(tmp_path: Path) -> None:
    fake = tmp_path / "systemctl"
    fake.write_text('#!/bin/sh\nfor last; do :; done\nprintf "%s\\n" "$last" >>"$0.asked"\n')
    fake.chmod(0o755)
    script = status.question(["envoy@a;touch x.service"])
    subprocess.run(
        ["sh", "-c", script],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    asked = (tmp_path / "systemctl.asked").read_text().splitlines()
    assert asked == ["envoy@a;touch x.service"] * 2
    assert not (tmp_path / "x.service").exists()


def test_the_table_for_a_pipe_has_aligned_columns_and_every_port() -> None:
    lines = ps.plain_table(status.answer_rows(UNITS, ANSWER))
    assert lines[0].split() == ["VM", "NAME", "COMMAND", "STATE", "PORTS"]
    column = lines[0].index("STATE")
    assert lines[1][column:].startswith("Up 1 h 02 min")
    assert lines[2].endswith("unix:/run/flask/shop/app.sock")
