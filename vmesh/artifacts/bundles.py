"""Bundles: a Flask service with its locked libraries, ready to run from a folder."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from vmesh.artifacts import app_folder, cache
from vmesh.artifacts.app_folder import LOCK
from vmesh.artifacts.archives import Member, write_archive
from vmesh.artifacts.cache import Artifact, Slot
from vmesh.artifacts.errors import ArtifactError
from vmesh.artifacts.pins import ARCHITECTURES
from vmesh.base import paths
from vmesh.base.progress import CommandFailed, Progress, run

SHARED = paths.DATA / "services" / "meshtrace" / "meshtrace"
# Change it when the same input shall give another bundle.
_FORMAT = "1"


def slot(name: str, source: Path, python: str, arch: str) -> Slot:
    """Return the bundle's place in the cache, which its whole content determines."""
    return Slot("bundles", name, version(source, python, arch), f"{python}-{arch}")


def version(source: Path, python: str, arch: str) -> str:
    """Return the first 12 hexadecimal digits of the hash of all that goes into a bundle.

    Raises ArtifactError when `source` is not the folder of a service.
    """
    if arch not in ARCHITECTURES:
        raise ArtifactError(f"{arch} is not supported", f"Use one of {', '.join(ARCHITECTURES)}")
    for refusal in app_folder.look_at_lock(source):
        raise ArtifactError(f"{source} {refusal.message}", refusal.remedy)
    digest = hashlib.sha256(f"{_FORMAT} {python} {arch}".encode())
    for name, path in _content(source).items():
        for part in (name.encode(), bytes([_executable(path)]), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:12]


def build(source: Path, name: str, python: str, arch: str, progress: Progress) -> Artifact:
    """Return the bundle of the service in the folder `source`, made first when it is missing.

    python: minor version on the VM, e.g. 3.11
    The archive holds `app/` (the folder, without what app_folder leaves out) and `lib/`
    (its locked libraries and meshtrace). It carries byte code when this
    interpreter has the same minor version; otherwise `compiled` is false and the VM
    should compile it once. Raises ArtifactError.
    """
    place = slot(name, source, python, arch)

    def make(scratch: Path, entry: Path) -> Artifact:
        progress.step(f"building the bundle of {name} for Python {python} on {arch}")
        stage = scratch / "stage"
        _install(source / LOCK, stage / "lib", python, arch, progress)
        for file, path in _content(source).items():
            (stage / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, stage / file)
        if not (stage / "lib" / "gunicorn").is_dir():
            raise ArtifactError(
                f"{source / LOCK} does not contain gunicorn, which runs the service",
                "Add gunicorn to it",
            )
        compiled = python == f"{sys.version_info.major}.{sys.version_info.minor}"
        if compiled:
            _compile(stage, progress)
        archive = entry / f"{name}-{place.version}-{place.arch}.tar.gz"
        contents = write_archive(archive, _everything(stage))
        return Artifact(
            name, place.version, arch, archive, "", contents, compiled, f"built from {source}"
        )

    return cache.get_or_make(place, progress, make)


def _content(source: Path) -> dict[str, Path]:
    """Return the files that go into a bundle besides the libraries: name in there -> file."""
    return _folder(source, "app") | _folder(SHARED, "lib/meshtrace")


def _folder(folder: Path, prefix: str) -> dict[str, Path]:
    found = app_folder.look(folder)
    for refusal in found.refusals:
        raise ArtifactError(refusal.message, refusal.remedy)
    return {f"{prefix}/{name}": path for name, path in found.files.items()}


def _everything(stage: Path) -> list[Member]:
    return [
        Member(str(path.relative_to(stage)), path, _executable(path))
        for path in stage.rglob("*")
        if path.is_file()
    ]


def _executable(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o100)


def _install(lock: Path, target: Path, python: str, arch: str, progress: Progress) -> None:
    command = [
        str(_uv()), "pip", "install", "--quiet", "--no-config", "--no-progress",
        f"--python={sys.executable}", f"--python-version={python}",
        # Debian 12 has a newer C library; Envoy asks for this one too.
        f"--python-platform={arch}-manylinux_2_31",
        "--require-hashes", "--only-binary=:all:", "--link-mode=copy",
        f"--target={target}", f"--requirement={lock}",
    ]  # fmt: skip
    try:
        # What uv has in its own cache needs no network; the lock's hashes hold either way.
        run([*command, "--offline"], progress)
    except CommandFailed:
        shutil.rmtree(target, ignore_errors=True)
        try:
            # As pip and curl do; uv by itself knows only the public authorities.
            run([*command, "--system-certs"], progress, env=_index_environment())
        except CommandFailed as error:
            raise _install_error(lock, error) from error
    # Start scripts carry a path of this machine; the VM runs modules.
    shutil.rmtree(target / "bin", ignore_errors=True)
    (target / ".lock").unlink(missing_ok=True)


def _install_error(lock: Path, error: CommandFailed) -> ArtifactError:
    reason = " ".join(error.tail.split()) or f"exit code {error.code}"
    return ArtifactError(
        f"The libraries in {lock} could not be installed: {reason[-600:]}",
        "If that is the network or the index, check them and run the command again; if it is"
        " the file, lock it anew with `uv pip compile --generate-hashes`. The full output is"
        f" in {error.log_path}",
    )


def _uv() -> Path:
    beside = Path(sys.executable).with_name("uv")
    for candidate in (beside, paths.PROJECT / ".venv" / "bin" / "uv"):
        if candidate.is_file():
            return candidate
    remedy = "Run `./mesh`, which makes .venv with it" if paths.CHECKOUT else "pip install uv"
    raise ArtifactError("The command `uv` is missing", remedy)


def _index_environment() -> dict[str, str]:
    """Return an environment in which uv uses the index that pip is set to, unless uv's own is set.

    uv does not read pip's configuration, and a mirror is usually configured there.
    """
    env = {"UV_HTTP_RETRIES": "1", **os.environ}
    result = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    for variable, value in uv_settings(result.stdout).items():
        env.setdefault(variable, value)
    return env


def uv_settings(pip_config: str) -> Mapping[str, str]:
    """Translate what `pip config list` prints into uv's environment variables."""
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "cert": "SSL_CERT_FILE",
    }
    settings = {}
    for line in pip_config.splitlines():
        key, _, value = line.partition("=")
        variable = names.get(key.rpartition(".")[2])
        if variable:
            separator = "," if variable == "UV_FIND_LINKS" else " "
            settings[variable] = separator.join(str(ast.literal_eval(value)).split())
    return settings


def _compile(stage: Path, progress: Progress) -> None:
    """Write byte code, which the service's user on the VM cannot.

    Libraries' code is loaded without looking at the source; the app's only while the
    source is the one it was made from, so that an edit on a VM is not silently ignored.
    """
    env = dict(os.environ) | {"PYTHONHASHSEED": "0"}
    for folder, mode in (("lib", "unchecked-hash"), ("app", "checked-hash")):
        command = [
            sys.executable,
            "-m",
            "compileall",
            "-q",
            "-f",
            f"--invalidation-mode={mode}",
            "-s",
            str(stage),
            str(stage / folder),
        ]
        try:
            run(command, progress, env=env)
        except CommandFailed:
            # A file that is no valid Python (templates, an app with a mistake) stays
            # uncompiled; what imports it will say so, with the place.
            continue
