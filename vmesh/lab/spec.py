"""What the inventory says about the lab, checked as a whole: no I/O here."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vmesh.base.problems import Problem, Problems
from vmesh.model.inventory import LAB_GROUP

LOOPBACK = "127.0.0.1"
MESH_NETWORK = ipaddress.ip_network("198.18.0.0/15")
SUITES = ("bookworm", "trixie")
ACCELERATIONS = ("auto", "kvm", "tcg")

# The user the image has, with the right to sudo.
USER = "mesh"

DEFAULT_NAME = "lab"
DEFAULT_SUITE = "bookworm"
DEFAULT_NETWORK_PORT = 24018
DEFAULT_MEMORY_MB = 512
DEFAULT_DISK_GB = 6

# Below this Debian's kernel and initrd do not start.
LEAST_MEMORY_MB = 256
# The image itself needs about one.
LEAST_DISK_GB = 2

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_UUID_NAMESPACE = uuid.UUID("7f0c5b0e-5d0c-4b0e-9b55-0f1d4f3f2c11")


class InventoryLike(Protocol):
    """The part of vmesh.model.inventory.Inventory that the lab reads."""

    @property
    def groups(self) -> Mapping[str, Sequence[str]]: ...

    @property
    def hosts(self) -> Mapping[str, Mapping[str, Any]]: ...


@dataclass(frozen=True)
class Forward:
    """A TCP port of the host's 127.0.0.1 that leads to a port of a VM."""

    host_port: int
    vm_port: int
    variable: str  # what to change in the inventory to get another host port


@dataclass(frozen=True)
class VmSpec:
    """One VM of the lab."""

    name: str
    mesh_address: str
    memory_mb: int
    forwards: tuple[Forward, ...]  # the first one is ssh

    @property
    def ssh_port(self) -> int:
        return self.forwards[0].host_port

    @property
    def mac(self) -> str:
        """The mesh card's address. It outlives the lab's folder, as a kept state holds it."""
        digest = hashlib.sha256(f"{self.name} {self.mesh_address}".encode()).hexdigest()
        return "52:54:00:" + ":".join(digest[i : i + 2] for i in (0, 2, 4))

    @property
    def uuid(self) -> str:
        """What systemd in the VM makes its machine id of."""
        return str(uuid.uuid5(_UUID_NAMESPACE, f"{self.name} {self.mesh_address}"))


@dataclass(frozen=True)
class LabSpec:
    """The whole lab."""

    name: str
    suite: str
    network_port: int
    disk_gb: int
    acceleration: str  # auto: kvm where it works, else tcg
    vms: tuple[VmSpec, ...]
    apps: tuple[str, ...] = ()  # playbooks that install what vmesh does not, once the mesh is there


class _Reader:
    """Reads variables and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def problem(self, variable: str, value: Any, message: str, remedy: str) -> None:
        self.problems.append(Problem(variable, value, message, remedy))

    def number(self, variable: str, value: Any, low: int, high: int, default: int) -> int:
        """Return `value` as an int; what is no whole number in [low, high] is a problem."""
        number: int | None = None
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            try:
                number = int(value)
            except ValueError:
                number = None
        if number is None or not low <= number <= high:
            self.problem(
                variable,
                value,
                f"not a whole number from {low} to {high}",
                f"Set it to a number such as {default}.",
            )
            return default
        return number

    def choice(self, variable: str, value: Any, choices: Sequence[str]) -> str:
        """Return `value` where it is one of `choices`; else that is a problem."""
        if value not in choices:
            self.problem(
                variable, value, "not known to the lab", f"Use one of: {', '.join(choices)}."
            )
            return choices[0]
        return str(value)

    def texts(self, variable: str, value: Any, example: str) -> tuple[str, ...]:
        """Return `value` where it is a list of texts; else that is a problem."""
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self.problem(variable, value, "not a list of texts", f"Write it as [{example}].")
            return ()
        return tuple(value)

    def name(self, variable: str, value: Any, default: str) -> str:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            self.problem(
                variable,
                value,
                "not a name of lower-case letters, digits and hyphens",
                f"Use a short name such as {default}.",
            )
            return default
        return value


def lab_spec(inventory: InventoryLike) -> LabSpec:
    """Return the lab that `inventory` describes.

    Raises Problems with everything that is wrong with its lab variables.
    """
    reader = _Reader()
    names = tuple(inventory.groups.get(LAB_GROUP, ()))
    if not names:
        raise Problems(
            [
                Problem(
                    "group lab",
                    [],
                    "this inventory has no hosts in the group lab",
                    "Use an inventory with that group (such as inventory/lab), or start the VMs"
                    " yourself.",
                )
            ]
        )
    variables = {name: inventory.hosts.get(name, {}) for name in names}
    # The lab as a whole is described by group_vars: any of its hosts has them.
    common = variables[names[0]]
    spec = LabSpec(
        name=reader.name("lab_name", common.get("lab_name", DEFAULT_NAME), DEFAULT_NAME),
        suite=reader.choice("lab_suite", common.get("lab_suite", DEFAULT_SUITE), SUITES),
        acceleration=reader.choice(
            "lab_acceleration", common.get("lab_acceleration", ACCELERATIONS[0]), ACCELERATIONS
        ),
        network_port=reader.number(
            "lab_network_port",
            common.get("lab_network_port", DEFAULT_NETWORK_PORT),
            1024,
            65535,
            DEFAULT_NETWORK_PORT,
        ),
        disk_gb=reader.number(
            "lab_disk_gb",
            common.get("lab_disk_gb", DEFAULT_DISK_GB),
            LEAST_DISK_GB,
            1024,
            DEFAULT_DISK_GB,
        ),
        vms=tuple(_vm_spec(reader, name, variables[name]) for name in names),
        apps=reader.texts("lab_apps", common.get("lab_apps", []), "services/mine/install.yml"),
    )
    _find_duplicates(reader, spec)
    if reader.problems:
        raise Problems(reader.problems)
    return spec


def _vm_spec(reader: _Reader, name: str, variables: Mapping[str, Any]) -> VmSpec:
    if not _NAME.fullmatch(name):
        reader.problem(
            "inventory_hostname",
            name,
            "a lab VM's name is also its host name",
            "Use lower-case letters, digits and hyphens.",
        )
    if variables.get("ansible_host") != LOOPBACK:
        reader.problem(
            f"ansible_host of {name}",
            variables.get("ansible_host"),
            "the lab's VMs are reached through this machine's loopback",
            f"Set it to {LOOPBACK}, and ansible_port to a free port.",
        )
    user = variables.get("ansible_user", USER)
    if user != USER:
        reader.problem(
            f"ansible_user of {name}",
            user,
            "the lab's VMs do not have this user",
            f"Set it to {USER}.",
        )
    ssh_port = reader.number(
        f"ansible_port of {name}", variables.get("ansible_port"), 1024, 65535, 2221
    )
    return VmSpec(
        name=name,
        mesh_address=_mesh_address(reader, name, variables.get("mesh_address")),
        memory_mb=reader.number(
            f"lab_memory_mb of {name}",
            variables.get("lab_memory_mb", DEFAULT_MEMORY_MB),
            LEAST_MEMORY_MB,
            65536,
            DEFAULT_MEMORY_MB,
        ),
        forwards=(
            Forward(ssh_port, 22, f"ansible_port of {name}"),
            *_published(reader, name, variables.get("lab_publish", {})),
        ),
    )


def _mesh_address(reader: _Reader, name: str, value: Any) -> str:
    try:
        address = ipaddress.IPv4Address(value)
    except ValueError:
        address = None
    if address is None or address not in MESH_NETWORK:
        reader.problem(
            f"mesh_address of {name}",
            value,
            f"not an IPv4 address in {MESH_NETWORK}",
            "Give every lab VM its own address there: no network of yours can use it.",
        )
    return str(value)


def _published(reader: _Reader, name: str, value: Any) -> list[Forward]:
    variable = f"lab_publish of {name}"
    if not isinstance(value, Mapping):
        reader.problem(
            variable, value, "not a mapping of host ports to VM ports", "Write it as {8000: 8000}."
        )
        return []
    return [
        Forward(
            reader.number(variable, host_port, 1024, 65535, 8000),
            reader.number(variable, vm_port, 1, 65535, 8000),
            variable,
        )
        for host_port, vm_port in value.items()
    ]


def _find_duplicates(reader: _Reader, spec: LabSpec) -> None:
    addresses = defaultdict(list)
    ports = defaultdict(list)
    for vm in spec.vms:
        addresses[vm.mesh_address].append(f"mesh_address of {vm.name}")
        for forward in vm.forwards:
            ports[forward.host_port].append(forward.variable)
    for value, users in (*addresses.items(), *ports.items()):
        if len(users) > 1:
            reader.problem(" and ".join(users), value, "used more than once", "Give each its own.")
