"""A host and its peers in network namespaces of their own, joined by a cable; needs no root."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from plugins.module_utils.systemd import Done

HOST = "10.0.0.2"
WEB1, STRANGER = "10.0.0.1", "10.0.0.9"

# Does in a namespace what it is told on its standard input, one command a line.
_SERVANT = """
import json, socket, sys

# What was connected or taken last counts for `say` and `hear`.
listening, kept = {}, []

def connect(source, address, port):
    client = socket.socket()
    client.settimeout(0.5)
    client.bind((source, 0))
    try:
        client.connect((address, port))
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "dropped"
    kept.append(client)
    return "open"

def listen(address, port):
    listening[port] = socket.create_server((address, port))
    return "listens"

def ping(source, address):
    # An echo request of RFC 792 with its checksum; the answer comes after the header of IP.
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.settimeout(2)
    raw.bind((source, 0))
    raw.sendto(bytes([8, 0, 0xF7, 0xFD, 0, 1, 0, 1]), (address, 0))
    try:
        return raw.recv(100)[20]
    except TimeoutError:
        return "nothing"

def accept(port):
    listening[port].settimeout(2)
    kept.append(listening[port].accept()[0])
    return "accepted"

def say(text):
    kept[-1].sendall(text.encode())
    return "said"

def hear():
    kept[-1].settimeout(1)
    try:
        return kept[-1].recv(100).decode()
    except TimeoutError:
        return "nothing"

for line in sys.stdin:
    name, *arguments = json.loads(line)
    print(json.dumps(globals()[name](*arguments)), flush=True)
"""


def why_not() -> str:
    """Return why there can be no network here; empty where there can."""
    for program in ("nft", "unshare", "nsenter", "ip"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            return f"{program} is not installed"
    done = subprocess.run(
        ["unshare", "-rn", "/usr/sbin/nft", "list", "tables"], capture_output=True, check=False
    )
    return "" if done.returncode == 0 else "this system allows no network namespaces"


class Namespace:
    """A network, and one process in it that does what it is told."""

    def __init__(self, enter: Sequence[str]) -> None:
        """enter: the command that runs another one there"""
        self.enter = list(enter)
        self.process = subprocess.Popen(
            [*enter, sys.executable, "-c", _SERVANT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, *command: Any) -> Any:
        """Have the process do something; return what it says."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def run(self, arguments: Sequence[str]) -> Done:
        """Run a command there to its end."""
        done = subprocess.run(
            [*self.enter, *arguments], capture_output=True, text=True, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def cable() -> Iterator[tuple[Namespace, Namespace]]:
    """Yield a host with the address HOST and its peer, which has WEB1 and STRANGER."""
    with ExitStack() as stack:
        first = stack.enter_context(_kept(["unshare", "-rn"]))
        inside = ["nsenter", "-t", str(first.pid), "-U", "-n", "--preserve-credentials"]
        second = stack.enter_context(_kept([*inside, "unshare", "-n"]))
        beyond = ["nsenter", "-t", str(second.pid), "-U", "-n", "--preserve-credentials"]
        _shell(
            inside,
            "ip link set lo up",
            f"ip link add mesh0 type veth peer name peer0 netns {second.pid}",
            f"ip address add {HOST}/24 dev mesh0",
            "ip link set mesh0 up",
        )
        _shell(
            beyond,
            *(f"ip address add {each}/24 dev peer0" for each in (WEB1, STRANGER)),
            "ip link set peer0 up",
        )
        host, peer = Namespace(inside), Namespace(beyond)
        for each in (host, peer):
            stack.enter_context(each.process)
            stack.callback(each.process.kill)
        yield host, peer


@contextmanager
def _kept(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Keep what `command` makes for the process that it starts."""
    with subprocess.Popen(
        [*command, "sh", "-c", "echo ready; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def _shell(enter: Sequence[str], *commands: str) -> None:
    script = " && ".join(("PATH=/usr/sbin:/sbin:$PATH", *commands))
    subprocess.run([*enter, "sh", "-c", script], check=True)
