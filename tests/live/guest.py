"""Runs on a VM, as root, and answers everything the tests ask about it in one go.

Standard library of Python 3.11 only. The question is a JSON object in the first argument:
  units: names of systemd units
  trees: folders whose files and folders are described
  files: paths to describe
  opens: [{path, user, text?}]: what happens when `user` connects to a unix socket or reads a file

An emulated VM takes a second for each command, so one process does it all.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROPERTIES = "Id,ActiveState,SubState,UnitFileState,NRestarts,MainPID,ControlGroup"
LISTENING = "0A"
# A user that is nobody's: to the kernel it is what any other service's user is.
STRANGER = "stranger"
STRANGER_ID = 64321


def units(names: list[str]) -> dict[str, dict[str, Any]]:
    """Return each unit's state, and the processes in its control group."""
    shown = subprocess.run(
        ["systemctl", "show", f"--property={PROPERTIES}", "--", *names],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    found: dict[str, dict[str, Any]] = {}
    for block in shown.strip().split("\n\n"):
        unit: dict[str, Any] = dict(line.split("=", 1) for line in block.splitlines())
        unit["processes"] = [process(pid) for pid in group_members(unit.get("ControlGroup", ""))]
        found[unit["Id"]] = unit
    return found


def group_members(control_group: str) -> list[int]:
    """Return the processes of a control group; none for a unit without one."""
    if not control_group:
        return []
    path = Path("/sys/fs/cgroup" + control_group, "cgroup.procs")
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def process(pid: int) -> dict[str, Any]:
    """Return who a process runs as and what it may do."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        "pid": pid,
        "exe": str(Path(f"/proc/{pid}/exe").readlink()),
        "users": sorted({user_name(int(uid)) for uid in status["Uid"].split()}),
        "capabilities": int(status["CapEff"], 16),
        "no_new_privileges": status["NoNewPrivs"].strip() == "1",
    }


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def described(path: Path) -> dict[str, str]:
    """Return what a path is and whose."""
    status = path.lstat()
    return {
        "path": str(path),
        "kind": stat.filemode(status.st_mode)[0],
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": user_name(status.st_uid),
        "group": group_name(status.st_gid),
    }


def below(folder: Path) -> Iterator[Path]:
    yield folder
    yield from sorted(folder.rglob("*"))


def loose(folder: Path) -> list[str]:
    """Return what below `folder` someone else than root could change."""
    found = []
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(top, name)  # noqa: PTH118 - thousands of files, an emulated CPU
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                continue
            if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                found.append(path)
    return found


def listeners() -> list[dict[str, Any]]:
    """Return every TCP listener with the name of the program that holds it."""
    holders = socket_holders()
    found = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING:
                    address, _, port = fields[1].rpartition(":")
                    found.append(
                        {
                            "address": readable(address),
                            "port": int(port, 16),
                            "program": holders.get(fields[9], "?"),
                        }
                    )
    return found


def readable(address: str) -> str:
    """Return an address of /proc/net/tcp, which is in the processor's byte order, as text."""
    words = [bytes.fromhex(address[i : i + 8]) for i in range(0, len(address), 8)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    packed = b"".join(words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def socket_holders() -> dict[str, str]:
    """Return socket inode -> program name."""
    holders = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # a process may end meanwhile
            name = (entry / "comm").read_text().strip()
            for descriptor in (entry / "fd").iterdir():
                with contextlib.suppress(OSError):
                    kind, _, rest = str(descriptor.readlink()).partition(":")
                    if kind == "socket":
                        holders[rest.strip("[]")] = name
    return holders


def try_as(user: str, path: str, text: str | None) -> str:
    """Return what `user` gets at `path`: the first line read, "ok", or an error's name."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        try:
            become(user)
            answer = attempt(path, text)
        except OSError as error:
            answer = errno.errorcode.get(error.errno or 0, str(error))
        os.write(theirs, answer.encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    return answer


def become(user: str) -> None:
    if user == STRANGER:
        uid = gid = STRANGER_ID
        groups = [gid]
    else:
        known = pwd.getpwnam(user)
        uid, gid = known.pw_uid, known.pw_gid
        groups = os.getgrouplist(user, gid)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def attempt(path: str, text: str | None) -> str:
    """Connect to the socket or open the file at `path`; send `text` and read the first line."""
    if not stat.S_ISSOCK(Path(path).stat().st_mode):
        with Path(path).open() as stream:
            stream.read(1)
        return "ok"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(path)
        if text is None:
            return "ok"
        connection.sendall(text.encode())
        return connection.recv(200).decode(errors="replace").split("\r\n")[0]


def main(question: dict[str, Any]) -> dict[str, Any]:
    trees = [Path(folder) for folder in question.get("trees", [])]
    files = [Path(path) for path in question.get("files", [])]
    every = [path for tree in trees for path in below(tree)] + files
    return {
        "hostname": socket.gethostname(),
        "units": units(question["units"]) if question.get("units") else {},
        "listeners": listeners(),
        "files": {str(path): described(path) for path in every if path.exists()},
        "loose": [path for folder in question.get("guarded", []) for path in loose(Path(folder))],
        "opens": [
            try_as(each["user"], each["path"], each.get("text"))
            for each in question.get("opens", [])
        ],
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
