"""The mesh under test: its URLs and its VMs, all from the inventory that VMESH_INVENTORY names."""

from __future__ import annotations

import base64
import functools
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import testinfra

from bench.live.jaeger import Jaeger
from bench.live.web import Reply, request
from tests.live import guest
from vmesh.base import paths
from vmesh.compile.host_spec import HostSpec
from vmesh.model.types import Edge
from vmesh.remote.mesh import Mesh, read

# The VMs may be emulated: every ssh connection is kept, and a dead one is noticed.
SSH_OPTIONS = (
    "-o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=10 -o ServerAliveCountMax=6"
    " -o ControlMaster=auto -o ControlPersist=120s"
)


def inventory_path() -> Path:
    """Return the inventory that VMESH_INVENTORY names, by default the lab's."""
    return Path(os.environ.get("VMESH_INVENTORY") or paths.PROJECT / "inventory" / "lab").resolve()


def results_dir() -> Path:
    """Return the folder that keeps what the tests leave for a person: screenshots, journals."""
    return Path(os.environ.get("VMESH_TEST_RESULTS") or paths.PROJECT / "test-results").resolve()


class Vm:
    """A VM, reached as Ansible reaches it."""

    def __init__(self, name: str, variables: dict[str, Any], plan: HostSpec) -> None:
        self.name, self.plan = name, plan
        self._variables = variables
        self._sockets = tempfile.TemporaryDirectory(prefix="vmesh-ssh-")
        self._host = self._connect()

    def _connect(self) -> Any:
        variables = self._variables
        address = variables.get("ansible_host") or self.name
        user = f"{variables['ansible_user']}@" if variables.get("ansible_user") else ""
        port = f":{variables['ansible_port']}" if variables.get("ansible_port") else ""
        given = [
            str(variables.get(name) or "")
            for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args")
        ]
        key = variables.get("ansible_ssh_private_key_file")
        return testinfra.get_host(
            f"ssh://{user}{address}{port}",
            sudo=True,
            ssh_identity_file=str(Path(key).expanduser()) if key else None,
            ssh_extra_args=" ".join(
                filter(None, (*given, SSH_OPTIONS, f"-o ControlPath={self._sockets.name}/%C"))
            ),
        )

    def run(self, command: str, *arguments: str) -> str:
        """Run a shell command as root; return its standard output.

        Each %s in `command` takes an argument, quoted. Raises AssertionError when it fails.
        """
        result = self._host.run(command, *arguments)
        assert result.rc == 0, (
            f"{self.name}: `{command}` ended with {result.rc}\n{result.stdout}{result.stderr}"
        )
        return str(result.stdout)

    def ask(self, **question: Any) -> dict[str, Any]:
        """Run tests/live/guest.py on the VM with `question`; return its answer."""
        source = Path(guest.__file__).read_bytes()
        program = f"import base64; exec(base64.b64decode('{base64.b64encode(source).decode()}'))"
        answer = self.run("python3 -c %s %s", program, json.dumps(question))
        return dict(json.loads(answer))

    def forget_connection(self) -> None:
        """Let go of the kept ssh connection, as before a reboot."""
        self._sockets.cleanup()
        self._sockets = tempfile.TemporaryDirectory(prefix="vmesh-ssh-")
        self._host = self._connect()


class Target:
    """The mesh of an inventory."""

    def __init__(self, inventory: Path) -> None:
        self.inventory = inventory
        self.mesh: Mesh = read(inventory)
        self.edge: Edge = next(iter(self.mesh.spec.mesh.edges.values()))
        self.edge_url = self.mesh.edge_url("/")
        self.admin_url = str(self.mesh.admin_url())
        self.jaeger_url = str(self.mesh.jaeger_url())
        self.jaeger = Jaeger(self.jaeger_url)

    def get(self, path: str, headers: Iterable[tuple[str, str]] = ()) -> Reply:
        """GET `path` at the edge."""
        return request(self.edge_url, path, headers)

    def admin(self, path: str, *, method: str = "GET") -> Reply:
        """Ask the edge's admin pages for `path`."""
        return request(self.admin_url, path, method=method)

    @functools.cached_property
    def vms(self) -> dict[str, Vm]:
        """The VMs that the inventory puts something on."""
        return {
            name: Vm(name, self.mesh.variables(name), plan)
            for name, plan in self.mesh.spec.hosts.items()
        }

    def vm_of(self, name: str) -> Vm:
        """Return the first VM with the proxy `name`, or Jaeger's VM for "jaeger"."""
        for vm in self.vms.values():
            if any(proxy.name == name for proxy in vm.plan.proxies) or (
                name == "jaeger" and vm.plan.jaeger is not None
            ):
                return vm
        raise LookupError(f"{name} is on no VM of {self.inventory}")
