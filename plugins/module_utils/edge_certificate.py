# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The file from which an Envoy takes an edge's certificate, where its host makes that file.

https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret
The file lies where the certificate helper has its own: it goes with the edge, and no snapshot has
it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import acme_openssl
from .envoy_documents import document_of, text_of
from .file_writing import write_incoming

# The user of the helper that orders certificates.
USER = "vmesh-acme"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
# What Envoy's listener asks for, by this name.
NAME = "certificate"
_FILE_MODE = 0o640
_FOLDER_MODE = 0o750
# A certificate of the host's own is made anew so many seconds before its end.
_EARLY = 30 * 86400.0


def document(chain: str, key: str) -> str:
    """Return the text of the file with a certificate and its key, both PEM."""
    secret: dict[str, Any] = {
        "@type": SECRET,
        "name": NAME,
        "tls_certificate": {
            "certificate_chain": {"inline_string": chain},
            "private_key": {"inline_string": key},
        },
    }
    version = hashlib.sha256(chain.encode()).hexdigest()[:16]
    return text_of({"version_info": version, "resources": [secret]})


def chain_in(file: Path) -> str:
    """Return the chain in such a file, as PEM; empty without one that can be read."""
    with contextlib.suppress(OSError, KeyError, IndexError, TypeError):
        (secret,) = document_of(file.read_text())["resources"]
        return str(secret["tls_certificate"]["certificate_chain"]["inline_string"])
    return ""


def place(file: Path, chain: str, key: str, owner: tuple[int, int] | None = None) -> None:
    """Move a certificate and its key, both PEM, to where Envoy sees them; raises OSError.

    owner: user and group of the file, None for those of this process
    """
    incoming = write_incoming(file.parent.parent, document(chain, key).encode())
    if owner is not None:
        os.chown(incoming, *owner)
    incoming.chmod(_FILE_MODE)
    # Envoy sees a file that is moved into the folder, not one that is written there.
    incoming.replace(file)


def place_self_signed(file: Path, names: Sequence[str], gid: int) -> None:
    """Make a certificate that nobody trusts, and its key; raises OSError, OpensslFailed.

    Runs as root.
    names: DNS names and IPv4 addresses; gid: the group of the Envoy
    """
    uid, folder = _uid(), file.parent.parent
    if not folder.parent.exists():
        folder.parent.mkdir(parents=True)
        folder.parent.chmod(0o755)
    # Each folder is the helper's, like those that systemd makes for its unit (StateDirectory=).
    for each in (folder, file.parent):
        each.mkdir(exist_ok=True)
        os.chown(each, uid, gid, follow_symlinks=False)
        each.chmod(_FOLDER_MODE)
    place(file, *acme_openssl.self_signed(names), owner=(uid, gid))


def _uid() -> int:
    """Return the id of the helper's user; this process's own where the host has no such user."""
    try:
        return pwd.getpwnam(USER).pw_uid
    except KeyError:
        return os.getuid()


@dataclass(frozen=True)
class Local:
    """What an edge's `tls.local` says: the names of a certificate that the host signs itself.

    certificate: the file that Envoy watches
    """

    certificate: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Local:
        """Read the text of local.json; raises KeyError where it lacks something."""
        said = document_of(text)
        return cls(said["certificate"], tuple(said["names"]))

    def is_good(self, now: float) -> bool:
        """Tell whether the host has such a certificate at the time `now`, in Unix seconds."""
        chain = chain_in(Path(self.certificate))
        try:
            found = acme_openssl.read(chain) if chain else None
        except acme_openssl.OpensslFailed:
            return False
        return (
            found is not None
            and found.self_signed
            and found.names == set(self.names)
            and found.begins <= now < found.ends - _EARLY
        )

    def prepare(self, gid: int, now: float) -> None:
        """See that the host has such a certificate; raises OSError, OpensslFailed.

        gid: the group of the Envoy
        """
        if not self.is_good(now):
            place_self_signed(Path(self.certificate), self.names, gid)
