"""What somebody on the mesh's network, who has no part in the mesh, can reach."""

from __future__ import annotations

import base64
import ipaddress
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.live import scan
from tests.live.target import Target, Vm
from vmesh.compile.host_spec import HostSpec

SSH_PORT = 22


def test_every_port_answers_a_stranger_only_as_the_plan_says(target: Target) -> None:
    vms = list(target.vms.values())
    # Each VM is looked at by its neighbour, all at the same time.
    pairs = list(zip(vms, [*vms[1:], vms[0]], strict=True))
    strangers = _free_addresses([vm.plan for vm in vms])
    with ThreadPoolExecutor(len(pairs)) as pool:
        answers = list(pool.map(_scanned, pairs, strangers))
    wanted = [
        _opened(vm.plan, stranger) for (_, vm), stranger in zip(pairs, strangers, strict=True)
    ]
    assert dict(zip((vm.name for _, vm in pairs), answers, strict=True)) == {
        vm.name: dict.fromkeys(sorted(ports), "open")
        for (_, vm), ports in zip(pairs, wanted, strict=True)
    }


def _scanned(pair: tuple[Vm, Vm], stranger: str) -> dict[int, str]:
    """Return what of the second VM answers the first one, which goes as a stranger."""
    vm, other = pair
    source = base64.b64encode(Path(scan.__file__).read_bytes()).decode()
    program = f"import base64; exec(base64.b64decode('{source}'))"
    answer = vm.run("python3 -c %s %s %s", program, stranger, other.plan.address)
    found = json.loads(answer)[other.plan.address]
    return {int(port): found[port] for port in sorted(found, key=int)}


def _opened(plan: HostSpec, stranger: str) -> set[int]:
    """Return the TCP ports that a VM opens to an address."""
    where = ipaddress.ip_address(stranger)
    return {
        SSH_PORT if rule.port == "ssh" else int(rule.port)
        for rule in plan.firewall or ()
        if rule.protocol == "tcp"
        and any(where in ipaddress.ip_network(source) for source in rule.sources)
    }


def _free_addresses(plans: list[HostSpec]) -> list[str]:
    """Return an address for each host that no host has, of the same network."""
    taken = {plan.address for plan in plans}
    network = ipaddress.ip_network(f"{plans[0].address}/24", strict=False)
    free = [str(each) for each in reversed(list(network.hosts())) if str(each) not in taken]
    return free[: len(plans)]
