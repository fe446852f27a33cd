"""systemd understands every line of the units that the roles install."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, StrictUndefined

from plugins.lookup import hardening
from plugins.module_utils import envoy_stop
from plugins.module_utils.flask_settings import Wanted
from plugins.module_utils.host_parts import app_drop_in
from vmesh.base import paths

TEMPLATES = sorted(
    path
    for pattern in ("*.service.j2", "*.socket.j2", "*.timer.j2")
    for path in (paths.PROJECT / "roles").glob(f"*/templates/{pattern}")
)
# What the lookup vmesh.mesh.hardening returns to a template.
(HARDENING,) = hardening.LookupModule().run([])
# What the roles work out on the way (vars/main.yml); any value of the right shape will do.
WORKED_OUT = {
    "envoy_hardening": HARDENING,
    "identity_hardening": HARDENING,
    "identity_of": {"shop": "spiffe://web1.shop.mesh/shop"},
    "flask_service_hardening": HARDENING,
    "jaeger_hardening": HARDENING,
    "firewall_hardening": HARDENING,
    "__jaeger_go_mib": 320,
    "__jaeger_is_local": True,
    "__jaeger_memory_mib": 500,
    "__jaeger_config_id": "0a1b2c3d",
    "__flask_service_control": "/usr/local/bin/flask-control",
    "__flask_service_longest_grace": 30,
}


def rendered(template: Path, **settings: Any) -> str:
    """Return the unit as the role would install it with its defaults, but for `settings`."""
    role = template.parent.parent
    defaults: dict[str, Any] = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    environment = Environment(undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(template.read_text()).render(
        {**defaults, **WORKED_OUT, **settings}
    )


def verify(root: Path, units: dict[str, str], unit: str) -> subprocess.CompletedProcess[str]:
    """Let systemd-analyze look at one of `units` in a staged root where all it starts exists."""
    folder = root / "etc" / "systemd" / "system"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in units.items():
        (folder / name).write_text(text)
        for program in re.findall(r"^Exec\w+=[-+!@]*(\S+)", text, re.MULTILINE):
            path = root / (program if "/" in program else f"usr/bin/{program}").lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o755)
    options = [f"--root={root}", "--recursive-errors=no", "--man=no"]
    return subprocess.run(
        ["systemd-analyze", "verify", *options, unit.replace("@.", "@shop.")],
        capture_output=True,
        text=True,
        check=False,
    )


def units_beside(template: Path) -> dict[str, str]:
    """Return all units of the template's role: a socket needs its service."""
    return {
        each.name.removesuffix(".j2"): rendered(each)
        for each in TEMPLATES
        if each.parent == template.parent
    }


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@needs_systemd
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_systemd_understands_the_unit(template: Path, tmp_path: Path) -> None:
    done = verify(tmp_path, units_beside(template), template.name.removesuffix(".j2"))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_understands_what_confines_an_app_to_the_mesh(tmp_path: Path) -> None:
    (service,) = (each for each in TEMPLATES if each.name == "flask@.service.j2")
    addition = tmp_path / app_drop_in("shop")
    addition.parent.mkdir(parents=True)
    addition.write_text(Wanted.drop_in({"network": "mesh"}))
    done = verify(tmp_path, units_beside(service), "flask@.service")
    assert (done.returncode, done.stderr) == (0, "")
    addition.write_text(addition.read_text().replace("IPAddressDeny", "IPAddresDeny"))
    assert "Unknown key" in verify(tmp_path, units_beside(service), "flask@.service").stderr


@needs_systemd
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_a_misspelt_directive_would_be_found(template: Path, tmp_path: Path) -> None:
    unit = template.name.removesuffix(".j2")
    units = units_beside(template)
    units[unit] = re.sub(
        r"^(Exec|Listen|On)(Start|Stream|BootSec|ActiveSec)=", r"\1\2s=", units[unit], flags=re.M
    )
    done = verify(tmp_path, units, unit)
    assert done.returncode != 0 or "Unknown key" in done.stderr


@pytest.mark.parametrize(
    "template", [t for t in TEMPLATES if ".service" in t.name], ids=lambda path: path.name
)
def test_no_service_runs_as_root_or_may_become_it(template: Path) -> None:
    text = rendered(template)
    users = re.findall(r"^User=(.*)$", text, re.MULTILINE)
    assert len(users) == 1
    assert users[0] not in ("", "root", "0")
    assert "NoNewPrivileges=yes" in text


# https://www.freedesktop.org/software/systemd/man/latest/systemd-analyze.html: ten times the level.
MOST_EXPOSURE = 16


@needs_systemd
@pytest.mark.parametrize(
    "template", [t for t in TEMPLATES if ".service" in t.name], ids=lambda path: path.name
)
def test_a_service_is_exposed_to_little(template: Path, tmp_path: Path) -> None:
    units = units_beside(template)
    verify(tmp_path, units, template.name.removesuffix(".j2"))
    done = subprocess.run(
        [
            *("systemd-analyze", "security", "--offline=true", f"--root={tmp_path}", "--no-pager"),
            *(f"--threshold={MOST_EXPOSURE}", template.name.removesuffix(".j2")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_envoy_has_time_to_stop_and_ends_before_what_it_needs() -> None:
    text = rendered(paths.PROJECT / "roles" / "envoy" / "templates" / "envoy@.service.j2")
    (limit,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    # And what a slow machine takes to start a program and to answer.
    assert int(limit) > envoy_stop.UNDER_WAY_SECONDS + envoy_stop.EXPORT_SECONDS + 20
    (after,) = re.findall(r"^After=(.*)$", text, re.MULTILINE)
    # systemd stops units in the reverse order.
    assert {
        "network.target",
        "flask@%i.service",
        "jaeger.service",
        "envoy@jaeger.service",
    } <= set(after.split())


def test_no_configuration_of_envoy_makes_code_at_run_time() -> None:
    """Under MemoryDenyWriteExecute Envoy would end at the first filter that does."""
    for template in (paths.PROJECT / "files" / "envoy").glob("*.j2"):
        assert not re.search(
            r"filters\.http\.(lua|wasm)|\.lua\.v3|\.wasm\.v3", template.read_text()
        )


@needs_systemd
def test_jaeger_gives_way_to_its_envoy_or_takes_its_ports(tmp_path: Path) -> None:
    template = paths.PROJECT / "roles/jaeger/templates/jaeger.service.j2"
    envoy = rendered(paths.PROJECT / "roles/envoy/templates/envoy@.service.j2")
    behind, alone = (rendered(template, jaeger_guarded=each) for each in (True, False))
    done = verify(tmp_path, {"jaeger.service": behind}, "jaeger.service")
    assert (done.returncode, done.stderr) == (0, "")
    # A start of the one comes after a stop of the other, whichever is ordered after which. Both
    # after each other would wait for each other for ever.
    assert re.search(r"^After=.* jaeger.service( |$)", envoy, re.MULTILINE)
    for text in (behind, alone):
        assert not re.search(r"^(After|Before)=.*envoy@", text, re.MULTILINE)
    assert re.search(r"^Wants=.* envoy@jaeger.service$", behind, re.MULTILINE)
    assert "Conflicts=envoy@jaeger.service" in alone
    assert "Conflicts" not in behind
    reachable = rendered(template, __jaeger_is_local=False)
    assert ("IPAddressDeny=any" in alone, "IPAddressDeny" in reachable) == (True, False)
