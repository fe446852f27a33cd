"""A host that is a folder, with a service manager that is played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plugins.module_utils.environment_file import read_environment
from plugins.module_utils.envoy_apply import Proxy
from plugins.module_utils.machine import Machine
from plugins.module_utils.systemd import Done
from plugins.module_utils.transaction import MeshRun

UNIT = "# Written by the role flask_service.\n[Service]\nExecStart={command}\n"
JAEGER = (
    "# Written by the role jaeger.\n[Service]\n"
    'ExecStartPost=systemd-notify "--status=Configuration {id}"\n'
)


@dataclass
class Unit:
    """What systemd knows of a unit."""

    active: str = "inactive"
    enabled: bool = False
    status: str = ""
    started: int = 0


@dataclass
class Systemd:
    """Starts and stops units on paper, and writes down what it was told.

    failing: units that do not start; what their journal says then
    """

    root: Path
    units: dict[str, Unit] = field(default_factory=dict)
    failing: dict[str, str] = field(default_factory=dict)
    calls: list[list[str]] = field(default_factory=list)

    def __call__(self, arguments: Sequence[str]) -> Done:
        program, *rest = arguments
        if program == "systemctl" and rest[0] == "show":
            return Done(0, self._show(rest[rest.index("--") + 1 :]))
        self.calls.append(list(arguments))
        if program == "journalctl":
            units = [each.removeprefix("--unit=") for each in rest if each.startswith("--unit=")]
            return Done(0, "\n".join(self.failing.get(unit, "") for unit in units))
        if program == "systemctl":
            return self._do(rest[0], rest[1:])
        return Done(0)

    def told(self, *words: str) -> list[list[str]]:
        """Return the calls of systemctl with one of these verbs, without the word itself."""
        return [call[1:] for call in self.calls if call[0] == "systemctl" and call[1] in words]

    def _show(self, names: Sequence[str]) -> str:
        return "\n\n".join(self._block(name) for name in names)

    def _block(self, name: str) -> str:
        template = name.partition("@")[0] + "@." + name.rpartition(".")[2] if "@" in name else name
        there = (self.root / "etc/systemd/system" / template).is_file()
        unit = self.units.get(name, Unit())
        state = "enabled" if unit.enabled else "disabled"
        return (
            f"Id={name}\nLoadState={'loaded' if there else 'not-found'}\n"
            f"ActiveState={unit.active}\nUnitFileState={state}\nMainPID=0\n"
            f"StatusText={unit.status}\nExecMainStartTimestamp=@{unit.started}\n"
        )

    def _do(self, verb: str, names: Sequence[str]) -> Done:
        for name in names:
            unit = self.units.setdefault(name, Unit())
            if verb in {"enable", "disable"}:
                unit.enabled = verb == "enable"
            elif verb == "stop":
                unit.active, unit.status = "inactive", ""
            elif verb in {"start", "restart", "reload-or-restart"}:
                if name in self.failing:
                    unit.active = "failed"
                    return Done(1, "", f"Job for {name} failed.")
                unit.active, unit.status = "active", self._status(name)
        return Done(0)

    def _status(self, name: str) -> str:
        """Return what a process says of itself when it has been started with what is there."""
        if name.startswith("flask@") and name.endswith(".service"):
            app = name.removeprefix("flask@").removesuffix(".service")
            text = (self.root / "etc/flask" / app / "env").read_text()
            return f"Gunicorn serves: {read_environment(text).get('CONFIG_ID', '')}"
        if name == "jaeger.service":
            text = (self.root / "etc/systemd/system/jaeger.service").read_text()
            return text.partition("--status=")[2].partition('"')[0]
        return ""


class Host:
    """A host with apps and Jaeger, changed as the roles change one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.systemd = Systemd(root)
        self.machine = Machine(root, self.systemd, _no_envoy, leaving=root / "run/vmesh/leaving")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def release(self, name: str, version: str) -> None:
        folder = self.root / "opt" / name
        (folder / version).mkdir(parents=True, exist_ok=True)
        (folder / version / "file").write_text(version)
        (folder / "current").unlink(missing_ok=True)
        (folder / "current").symlink_to(version)

    def app(self, name: str, version: str, setting: str = "blue", unit: str = "gunicorn") -> None:
        """Have an app run as the role would."""
        for kind in ("service", "socket"):
            self.write(f"etc/systemd/system/flask@.{kind}", UNIT.format(command=unit))
        self.release(name, version)
        self.write(
            f"etc/flask/{name}/env",
            f'COLOR="{setting}"\nCONFIG_ID="{version}-{setting}"\n',
            0o640,
        )
        units = [f"flask@{name}.socket", f"flask@{name}.service"]
        self.systemd._do("enable", units)
        self.systemd._do("restart", units)

    def jaeger(self, version: str, hours: int = 72) -> None:
        """Have Jaeger run as the role would."""
        self.release("jaeger", version)
        self.write("etc/jaeger/jaeger.yaml", f"hours: {hours}\n", 0o640)
        id_ = f"{version}x{hours}".replace(".", "")
        self.write("etc/systemd/system/jaeger.service", JAEGER.format(id=id_))
        self.systemd._do("enable", ["jaeger.service"])
        self.systemd._do("restart", ["jaeger.service"])

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def current(self, name: str) -> str | None:
        link = self.root / "opt" / name / "current"
        return str(link.readlink()) if link.is_symlink() else None


def _no_envoy(name: str, group: str) -> Proxy:
    raise AssertionError(f"{name} of {group} is no proxy of this test")


def asked(run: int, note: str = "apply") -> MeshRun:
    return MeshRun(run, "root@controller", note)
