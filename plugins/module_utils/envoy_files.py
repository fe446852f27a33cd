# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The folder of one Envoy on its host: which files are in it, whose they are, and what is new.

Files are JSON. A host may still have the `.yaml` files of an earlier release, and snapshots of
them. These are only text: they are compared, placed and removed, and never read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from .envoy_documents import version_of
from .file_writing import sweep, write_incoming

# Text by path below the proxy's folder.
Files = dict[str, str]

BOOTSTRAP = "bootstrap.json"
CLUSTERS = "clusters/clusters.json"
LISTENERS = "listeners/listeners.json"
# Settings of the helper that orders an edge's certificate (acme_store.Settings). Envoy does not
# read them, but they come, stay and go with its files.
ACME = "acme.json"
# Names of a certificate that the host signs itself (edge_certificate.Local); likewise.
LOCAL = "local.json"
# Below it a file for each certificate that comes from the controller.
CERTIFICATES = "certificates"
# Below it a file for each bundle: the anchors of the hosts that are trusted in one place.
TRUST = "trust"
# Below it a file for each HTTP filter that does not stand in a listener.
FILTERS = "filters"
WATCHED = ("endpoints", "clusters", "routes", "listeners", CERTIFICATES, FILTERS, TRUST)
# The stats of the files of which each has one resource, by their folder.
_STATS = {
    "routes": "http.{0}.rds.{0}",
    "endpoints": "cluster.{}",
    CERTIFICATES: "sds.{}",
    TRUST: "sds.{}",
    FILTERS: "extension_config_discovery.http_filter.{}",
}
FORMAT, EARLIER_FORMAT = ".json", ".yaml"
MODE = 0o640
FOLDER_MODE = 0o750


def is_for_envoy(path: str) -> bool:
    """Tell whether a file at `path`, in either format, is for Envoy or for its certificate."""
    folder, format_ = str(Path(path).parent), Path(path).suffix
    return path in {ACME, LOCAL} or (
        format_ in {FORMAT, EARLIER_FORMAT}
        and (folder in WATCHED or path == in_format(BOOTSTRAP, format_))
    )


def in_format(path: str, format_: str) -> str:
    """Return one of the paths above as it is in a format."""
    return path.removesuffix(FORMAT) + format_


def format_of(paths: Iterable[str]) -> str:
    """Return the format of the bootstrap with which Envoy starts where the files `paths` are."""
    there = set(paths)
    only_earlier = BOOTSTRAP not in there and in_format(BOOTSTRAP, EARLIER_FORMAT) in there
    return EARLIER_FORMAT if only_earlier else FORMAT


def bootstrap_of(paths: Iterable[str]) -> str:
    """Return the path of the bootstrap with which Envoy starts where the files `paths` are."""
    return in_format(BOOTSTRAP, format_of(paths))


def is_whole(paths: Iterable[str]) -> bool:
    """Tell whether the files that every Envoy has are among `paths`, all in one format."""
    there = set(paths)
    return there >= {in_format(each, format_of(there)) for each in (BOOTSTRAP, CLUSTERS, LISTENERS)}


def stat_prefix(path: str) -> str | None:
    """Return the stats prefix under which Envoy reports the watched file at `path`."""
    folder, name = str(Path(path).parent), Path(path).stem
    if folder == name == "clusters":
        return "cluster_manager.cds"
    if folder == name == "listeners":
        return "listener_manager.lds"
    return _STATS[folder].format(name) if folder in _STATS else None


def has_version(path: str, text: str, version: str) -> bool:
    """Tell whether `version`, which Envoy reports, is that of the file.

    In the text of an earlier release it stands in quotes after its key.
    """
    if path.endswith(EARLIER_FORMAT):
        return any(f'{key}: "{version}"' in text for key in ("version_info", "bootstrap_version"))
    return version_of(text) == version


def not_taken(files: Mapping[str, str], versions: Mapping[str, str]) -> list[str]:
    """Return the paths of the watched files among `files` that an Envoy has not accepted.

    versions: by stats prefix, what the Envoy has accepted; see envoy_admin.Admin.versions
    """
    return sorted(
        path
        for path, text in files.items()
        if (prefix := stat_prefix(path)) is not None
        and not (prefix in versions and has_version(path, text, versions[prefix]))
    )


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return the paths that are added, changed or removed."""
    return sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))


class Store:
    """The proxy's folder on the host."""

    def __init__(self, path: Path, gid: int, uid: int = 0) -> None:
        self.path, self.gid, self.uid = path, gid, uid
        self._staged: dict[tuple[str, str], Path] = {}

    def read(self) -> Files:
        """Return the configuration files that are there now, in both formats."""
        there = [path for folder in ("", *WATCHED) for path in (self.path / folder).glob("*.*")]
        names = {str(path.relative_to(self.path)): path for path in there if path.is_file()}
        return {
            name: names[name].read_text("utf-8") for name in sorted(names) if is_for_envoy(name)
        }

    def wrong_rights(self) -> list[str]:
        """Return the folders and files whose owner or mode is not what it should be."""
        expected = [(self.path, FOLDER_MODE)]
        expected += [(self.path / folder, FOLDER_MODE) for folder in WATCHED]
        expected += [(self.path / name, MODE) for name in self.read()]
        return [str(path) for path, mode in expected if not self._is_right(path, mode)]

    def _is_right(self, path: Path, mode: int) -> bool:
        try:
            status = path.stat()
        except FileNotFoundError:
            return False
        found = (status.st_uid, status.st_gid, status.st_mode & 0o7777)
        return found == (self.uid, self.gid, mode)

    def mend_rights(self) -> None:
        """Make the folders, and give them and the files their owner and mode."""
        for folder in (self.path, *(self.path / name for name in WATCHED)):
            folder.mkdir(parents=True, exist_ok=True)
            self._give(folder, FOLDER_MODE)
        for name in self.read():
            self._give(self.path / name, MODE)

    def _give(self, path: Path, mode: int) -> None:
        os.chown(path, self.uid, self.gid)
        path.chmod(mode)

    def stage(self, files: Iterable[tuple[str, str]]) -> None:
        """Lay files (name, content) beside those in use, so that `place` only has to move them.

        What a full disk or the like forbids, it forbids here, while nothing has changed yet.
        Raises OSError, and leaves nothing then.
        """
        try:
            for name, content in files:
                if (name, content) not in self._staged:
                    self._staged[name, content] = self._written(content)
        except OSError:
            self.sweep()
            raise

    def _written(self, content: str) -> Path:
        path = write_incoming(self.path, content.encode())
        self._give(path, MODE)
        return path

    def place(self, name: str, content: str) -> None:
        """Move a complete file into place: Envoy re-reads a watched file only when moved."""
        staged = self._staged.pop((name, content), None) or self._written(content)
        staged.replace(self.path / name)

    def remove(self, name: str) -> None:
        """Remove a file if it is there. A running Envoy keeps what it has read."""
        (self.path / name).unlink(missing_ok=True)

    def remove_other_format(self) -> None:
        """Remove the files of the format with which no process starts any more."""
        files = self.read()
        for name in files:
            if not name.endswith(format_of(files)):
                self.remove(name)

    def sweep(self) -> None:
        """Remove what was laid beside and not used, by this run or an interrupted one."""
        self._staged.clear()
        sweep(self.path)
