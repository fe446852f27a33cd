"""The lab's parts that need no VM."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmesh.lab import accel, files, later_packages, qemu, seed, ssh
from vmesh.lab.image import Image, image_key, recipe
from vmesh.lab.machine import Machine, MachineError
from vmesh.lab.qmp import Qmp, QmpError
from vmesh.lab.spec import Forward, VmSpec

VM = VmSpec("edge", "198.18.0.11", 512, (Forward(2221, 22, ""), Forward(8000, 80, "")))
MOVED = VmSpec("edge", "198.18.0.11", 512, (Forward(3331, 22, ""),))


class Quiet:
    """Progress nobody looks at, with what it said."""

    def __init__(self, folder: Path) -> None:
        self.log_path = folder / "log"
        self.said: list[str] = []

    def step(self, text: str) -> None:
        self.said.append(text)


def program(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script called `name` first on the PATH."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# -- QEMU's arguments


def test_a_kept_state_fits_whatever_ports_the_lab_uses() -> None:
    tcg = qemu.Accelerator("tcg")
    assert qemu.machine_arguments(VM, tcg) == qemu.machine_arguments(MOVED, tcg)
    assert qemu.machine_arguments(VM, tcg) != qemu.machine_arguments(
        VmSpec("edge", "198.18.0.11", 1024, VM.forwards), tcg
    )
    assert qemu.machine_arguments(VM, tcg) != qemu.machine_arguments(VM, qemu.Accelerator("kvm"))


@pytest.mark.parametrize(
    ("spare_mb", "machines", "megabytes"),
    [(20_000, 4, 1024), (4000, 4, 500), (500, 4, 192), (-10, 1, 192)],
)
def test_translated_code_gets_half_of_the_memory_that_nobody_needs(
    spare_mb: int, machines: int, megabytes: int
) -> None:
    assert qemu.Accelerator("tcg").option(spare_mb, machines) == f"tcg,tb-size={megabytes}"
    assert qemu.Accelerator("kvm").option(spare_mb, machines) == "kvm"


def test_ports_are_forwarded_from_loopback_only_and_nothing_leads_out(tmp_path: Path) -> None:
    arguments = qemu.host_arguments(tmp_path, VM, Image(tmp_path), 24018, "lab")
    (card,) = [argument for argument in arguments if argument.startswith("user,")]
    assert "restrict=on" in card.split(",")
    assert [option for option in card.split(",") if option.startswith("hostfwd=")] == [
        "hostfwd=tcp:127.0.0.1:2221-:22",
        "hostfwd=tcp:127.0.0.1:8000-:80",
    ]


def test_only_the_qemu_of_this_very_folder_is_ours(tmp_path: Path) -> None:
    folder = tmp_path / "a,b"
    command = ["qemu-system-x86_64", *qemu.host_arguments(folder, VM, Image(folder), 1, "lab")]
    cmdline = "\0".join(command).encode()
    assert qemu.is_our_qemu(cmdline, folder)
    assert not qemu.is_our_qemu(cmdline, tmp_path / "other")
    assert not qemu.is_our_qemu(cmdline.replace(b"qemu-system-x86_64", b"less"), folder)
    assert not qemu.is_our_qemu(b"", folder)


# -- the seed


def test_a_seed_is_the_same_for_the_same_vm_and_another_for_another_address() -> None:
    keys = seed.KeyPair("private", "ssh-ed25519 AAAA host")
    one = seed.seed_archive(seed.seed_files(VM, keys, "ssh-ed25519 BBBB me"))
    same = seed.seed_archive(seed.seed_files(MOVED, keys, "ssh-ed25519 BBBB me"))
    other = seed.seed_archive(
        seed.seed_files(VmSpec("edge", "198.18.0.99", 512, ()), keys, "ssh-ed25519 BBBB me")
    )
    assert one == same
    assert one[0] != other[0]


def test_a_seed_holds_the_private_key_for_root_alone_and_its_id_last() -> None:
    keys = seed.KeyPair("private", "ssh-ed25519 AAAA host")
    identity, content = seed.seed_archive(seed.seed_files(VM, keys, "ssh-ed25519 BBBB me"))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = archive.getmembers()
        key = archive.getmember("etc/ssh/ssh_host_ed25519_key")
        hosts = archive.extractfile("etc/hosts")
        last = archive.extractfile(members[-1])
        assert last is not None and hosts is not None
        assert (members[-1].name, last.read().decode().strip()) == (seed.ID_FILE, identity)
        assert (key.mode, key.uid) == (0o600, 0)
        # The demo must cope with Debian's habit, so the lab has it.
        assert b"127.0.1.1\tedge" in hosts.read()


def test_a_vm_with_a_new_host_key_takes_the_old_ones_place(tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    seed.remember_host_key(known, "edge", "ssh-ed25519 AAAA comment")
    seed.remember_host_key(known, "edge2", "ssh-ed25519 BBBB")
    seed.remember_host_key(known, "edge", "ssh-ed25519 CCCC")
    assert sorted(known.read_text().splitlines()) == [
        "vmesh-lab-edge ssh-ed25519 CCCC",
        "vmesh-lab-edge2 ssh-ed25519 BBBB",
    ]


def test_a_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "id"
    first = seed.ensure_key(path, "test")
    assert seed.ensure_key(path, "test") == first
    assert first.public.startswith("ssh-ed25519 ")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


# -- the image


def test_a_changed_recipe_suite_or_size_makes_another_image() -> None:
    files_now = recipe()
    key = image_key("bookworm", 6, files_now)
    changed = {**files_now, next(iter(files_now)): "0"}
    assert key == image_key("bookworm", 6, dict(reversed(files_now.items())))
    assert key.startswith("bookworm-")
    assert (
        len(
            {
                key,
                image_key("trixie", 6, files_now),
                image_key("bookworm", 7, files_now),
                image_key("bookworm", 6, changed),
            }
        )
        == 4
    )


# -- hardware virtualisation


def test_without_the_device_nothing_is_tried(tmp_path: Path) -> None:
    progress = Quiet(tmp_path)
    chosen = accel.choose_accelerator(
        Image(tmp_path), tmp_path, progress, device=tmp_path / "kvm", trial=lambda image: 1 / 0 > 0
    )
    assert (chosen.name, progress.said) == ("tcg", [])


@pytest.mark.skipif(os.getuid() == 0, reason="root may open everything")
def test_a_device_the_user_may_not_open_is_told_with_the_remedy(tmp_path: Path) -> None:
    progress, device = Quiet(tmp_path), tmp_path / "kvm-device"
    device.touch(mode=0o000)
    chosen = accel.choose_accelerator(Image(tmp_path), tmp_path, progress, device=device)
    assert chosen.name == "tcg"
    assert "usermod" in progress.said[0]


@pytest.mark.parametrize(("works", "name"), [(True, "kvm"), (False, "tcg")])
def test_the_verdict_on_the_device_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool, name: str
) -> None:
    program(tmp_path / "bin", qemu.QEMU, "echo QEMU emulator version 7.2", monkeypatch)
    (tmp_path / "kvm-device").touch()
    tried = []

    def trial(image: Image) -> bool:
        tried.append(image)
        return works

    for _ in range(2):
        chosen = accel.choose_accelerator(
            Image(tmp_path), tmp_path, Quiet(tmp_path), device=tmp_path / "kvm-device", trial=trial
        )
        assert chosen.name == name
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("script", "works"),
    [
        ("exec sleep 60", False),  # the device opens and the guest hangs
        ("echo could not access KVM >&2; exit 1", False),
        # QEMU writes the console to the path of its -chardev
        (
            "for a; do case $a in file,id=serial,path=*) f=${a##*path=};; esac; done;"
            " echo 'Kernel panic - not syncing: VFS: Unable to mount root fs on unknown' >$f",
            True,
        ),
    ],
)
def test_a_guest_must_show_life_within_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, works: bool
) -> None:
    program(tmp_path / "bin", qemu.QEMU, script, monkeypatch)
    started = time.monotonic()
    assert accel.kvm_works(Image(tmp_path), seconds=2.0) is works
    assert time.monotonic() - started < 10


# -- files


def test_an_interrupted_making_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    target = tmp_path / "entry"
    (tmp_path / "entry.draft").mkdir()
    (tmp_path / "entry.draft" / "from-a-killed-run").touch()
    with pytest.raises(RuntimeError), files.appearing_folder(target) as draft:
        assert list(draft.iterdir()) == []
        (draft / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with files.appearing_folder(target) as draft:
        (draft / "whole").touch()
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_a_second_taker_of_a_lock_is_told_and_waits(tmp_path: Path) -> None:
    lock, events = tmp_path / "lock", []
    told = threading.Event()

    def second() -> None:
        with files.locked(lock, told.set):
            events.append("second")

    with files.locked(lock):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(10)
        events.append("first")
    thread.join(10)
    assert events == ["first", "second"]


def test_unused_cache_entries_go_and_used_ones_stay(tmp_path: Path) -> None:
    for name, days in (("old", 40), ("new", 1)):
        (tmp_path / name).mkdir()
        then = time.time() - days * 86400
        os.utime(tmp_path / name, (then, then))
    files.prune(tmp_path, 30)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


# -- one VM's folder


def test_a_pid_file_of_a_strangers_process_means_nothing(tmp_path: Path) -> None:
    machine = Machine(VM, tmp_path)
    (tmp_path / qemu.PID).write_text(f"{os.getpid()}\n")
    assert machine.pid() is None
    assert machine.status() == "absent"
    machine.quit()  # must not end this very process


def test_a_saved_machine_is_loaded_only_where_it_fits_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", qemu.QEMU, 'echo "no room: $*" >&2; exit 1', monkeypatch)
    machine = Machine(VM, tmp_path)
    machine.disk.touch()
    assert machine.status() == "stopped"
    machine.marker.write_text(json.dumps({"key": "k1"}))
    assert machine.status() == "saved"
    assert machine.loadable("k1")
    assert not machine.loadable("k2")
    with pytest.raises(MachineError, match="no room: -m 64 -loadvm"):
        machine.start(["-m", "64"], load=True)
    assert machine.status() == "stopped"


def test_an_unreadable_marker_is_no_saved_machine(tmp_path: Path) -> None:
    machine = Machine(VM, tmp_path)
    machine.marker.write_text("{")
    assert not machine.loadable("k1")


# -- QEMU's monitor


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Callable[[list[str]], Path]]:
    """Return a function that serves scripted answers on a socket with a very long path."""
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    folder.mkdir(parents=True)
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)  # the only way to bind so far down
    server.bind("monitor")
    os.chdir(here)
    server.listen(1)

    def serve(answers: list[str]) -> Path:
        def run() -> None:
            peer, _ = server.accept()
            with peer, peer.makefile("rw") as stream:
                stream.write('{"QMP": {}}\n')
                stream.flush()
                for answer in ['{"return": {}}', *answers]:
                    stream.readline()
                    stream.write(answer + "\n")
                    stream.flush()

        threading.Thread(target=run, daemon=True).start()
        return folder / "monitor"

    yield serve
    server.close()


def test_the_monitor_is_reached_however_deep_its_folder(
    monitor: Callable[[list[str]], Path],
) -> None:
    event = '{"event": "STOP", "timestamp": {}}\n'
    path = monitor([event + '{"return": {"status": "running", "running": true}}'])
    assert len(str(path)) > 108
    with Qmp(path, timeout=10) as qmp:
        assert qmp.command("query-status")["status"] == "running"


def test_what_qemu_refuses_is_raised_with_its_reason(
    monitor: Callable[[list[str]], Path],
) -> None:
    path = monitor(['{"error": {"desc": "no such thing"}}', '{"return": "Error: no space"}'])
    with Qmp(path, timeout=10) as qmp:
        with pytest.raises(QmpError, match="no such thing"):
            qmp.command("x")
        with pytest.raises(QmpError, match="savevm y: Error: no space"):
            qmp.human("savevm y")
        with pytest.raises(QmpError):
            qmp.command("after the end")


def test_no_monitor_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(QmpError, match="no QEMU answers"):
        Qmp(tmp_path / "monitor")


# -- ssh


def greet(text: bytes) -> tuple[socket.socket, int]:
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            peer.sendall(text)
            peer.close()

    threading.Thread(target=run, daemon=True).start()
    return server, server.getsockname()[1]


@pytest.mark.parametrize(("text", "answers"), [(b"SSH-2.0-x\r\n", True), (b"", False)])
def test_only_a_greeting_counts_as_an_answer(text: bytes, answers: bool) -> None:
    server, port = greet(text)
    with server:
        assert ssh.answers(port, timeout=5) is answers


def test_ssh_finds_its_files_in_any_folder(tmp_path: Path) -> None:
    access = ssh.Access(tmp_path / "a b%h" / "id", tmp_path / "a b%h" / "known_hosts")
    options = access.options("edge")
    answer = subprocess.run(
        ["ssh", "-G", *options, "localhost"],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    lines = answer.stdout.replace("%%", "%").splitlines()
    assert f"userknownhostsfile {access.known_hosts}" in lines
    assert f"identityfile {access.key}" in lines


def test_waiting_ends_when_the_vm_ended() -> None:
    server, port = greet(b"")

    def ended() -> None:
        raise ssh.Unreachable("its QEMU ended")

    with server, pytest.raises(ssh.Unreachable, match="QEMU ended"):
        ssh.wait_until_answers(port, 60, ended)


def test_waiting_ends_after_its_time() -> None:
    server, port = greet(b"")
    with server, pytest.raises(ssh.Unreachable, match=f"port {port}"):
        ssh.wait_until_answers(port, 0.2, lambda: None, pause=0.05)


def test_the_quickest_exchange_decides_about_the_clock() -> None:
    # The VM is 10 s behind; the slow exchange would say 12.
    assert ssh.clock_lag([(100.0, 90.0, 104.0), (105.0, 95.001, 105.002)]) == pytest.approx(10.0)


def test_a_vm_names_the_packages_that_it_lacks() -> None:
    script = later_packages.missing_script(["dpkg", "no-such-package"])
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["no-such-package"]
