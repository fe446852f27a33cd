"""The image all VMs of a lab share: Debian made from its packages, without root."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import tarfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from vmesh.base.progress import Progress, run
from vmesh.lab.files import appearing_folder, digest, locked, prune

GUEST = Path(__file__).resolve().parent / "guest"
GUEST_SETUP = Path(__file__).resolve().parent / "guest-setup.sh"

PACKAGES = (
    "ca-certificates",
    "dbus",
    "initramfs-tools",
    "iproute2",
    "linux-image-cloud-amd64",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
)

# Nobody reads manuals in these VMs; without them the image is made sooner.
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")


# A new image makes earlier ones and their states useless, except to another checkout.
UNUSED_DAYS = 30.0


@dataclass(frozen=True)
class Image:
    """A folder with everything a VM starts from; its name is its recipe's key."""

    folder: Path

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def disk(self) -> Path:
        return self.folder / "root.qcow2"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.disk, self.kernel, self.initrd, self.folder / "id")

    @property
    def identity(self) -> str:
        """What tells this image from one made another day: the same recipe, newer packages."""
        path = self.folder / "id"
        return path.read_text().strip() if path.exists() else ""

    def complete(self) -> bool:
        return all(path.exists() for path in self.files)


def environment() -> dict[str, str]:
    """Return the environment for the system's tools: some of them live in sbin."""
    return {
        **os.environ,
        "LC_ALL": "C.UTF-8",
        "PATH": f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin",
    }


def recipe() -> dict[str, str]:
    """Return the hash of each file that decides what is in the image, by name."""
    files = [GUEST_SETUP, *sorted(path for path in GUEST.rglob("*") if path.is_file())]
    return {
        path.relative_to(GUEST.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def image_key(suite: str, disk_gb: int, recipe_files: dict[str, str]) -> str:
    """Return the name of the image made of these things."""
    return f"{suite}-" + digest([suite, disk_gb, PACKAGES, _LEFT_OUT, recipe_files])


def ensure_image(cache: Path, suite: str, disk_gb: int, progress: Progress) -> Image:
    """Return the image for `suite`, made when `cache` lacks it.

    Raises vmesh.base.progress.CommandFailed when making it fails.
    """
    folder = cache / "images" / image_key(suite, disk_gb, recipe())
    image = Image(folder)
    if image.complete():
        os.utime(folder)
        return image
    with locked(cache / "images" / f"{folder.name}.lock"):
        if not image.complete():
            shutil.rmtree(folder, ignore_errors=True)
            with appearing_folder(folder) as draft:
                _build(draft, suite, disk_gb, progress)
            for kind in ("images", "states"):
                prune(cache / kind, UNUSED_DAYS)
    return image


def _build(folder: Path, suite: str, disk_gb: int, progress: Progress) -> None:
    additions, root, tree, raw = (folder / name for name in ("add.tar", "root.tar", "tree", "raw"))
    _write_additions(additions)
    progress.step(f"image: Debian {suite} from its packages (about two minutes)")
    run(mmdebstrap_command(suite, additions, root), progress, env=environment())
    progress.step("image: file system")
    tree.mkdir()
    # fakeroot remembers that the files belong to root between the two commands.
    script = (
        'tar --extract --file "$1" --directory "$2" --numeric-owner'
        ' && mv "$2/vmlinuz.lab" "$2/initrd.lab" "$4"'
        ' && mke2fs -q -t ext4 -m 1 -L root -d "$2" "$3" "$5"'
    )
    run(
        ["fakeroot", "sh", "-c", script, "sh", *map(str, (root, tree, raw, folder)), f"{disk_gb}G"],
        progress,
        env=environment(),
    )
    (folder / "vmlinuz.lab").rename(folder / "vmlinuz")
    (folder / "initrd.lab").rename(folder / "initrd")
    run(
        ["qemu-img", "convert", "-O", "qcow2", str(raw), str(folder / "root.qcow2")],
        progress,
        env=environment(),
    )
    (folder / "id").write_text(f"{uuid.uuid4()}\n")
    shutil.rmtree(tree)
    for path in (additions, root, raw):
        path.unlink()


def mmdebstrap_command(suite: str, additions: Path, target: Path) -> list[str]:
    """Return the command that makes the archive `target` of the image's files."""
    return [
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        # Before the packages, so that the initrd is made once, with our settings.
        f"--essential-hook=tar-in {shlex.quote(str(additions))} /",
        '--customize-hook=chroot "$1" sh /lab-setup',
        '--customize-hook=rm "$1/lab-setup"',
        suite,
        str(target),
    ]


def _write_additions(target: Path) -> None:
    """Write the archive of our own files: everything of root, executables where they are here."""
    with tarfile.open(target, "w") as archive:
        for path in sorted(path for path in GUEST.rglob("*") if path.is_file()):
            executable = path.stat().st_mode & 0o100
            _add(
                archive,
                path.relative_to(GUEST).as_posix(),
                path.read_bytes(),
                0o755 if executable else 0o644,
            )
        _add(archive, "lab-setup", GUEST_SETUP.read_bytes(), 0o755)


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))
