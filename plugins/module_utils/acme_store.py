# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""What an edge's certificate helper has on the host: its settings, keys, attempts and certificate.

The settings are one of the proxy's files (`acme.json`). All else is below /var/lib/vmesh-acme, is
made on the host, and never leaves it. No snapshot has it: a certificate of before is older.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import acme_openssl
from .edge_certificate import chain_in, place, place_self_signed
from .envoy_documents import document_of
from .file_writing import sweep, write_whole


@dataclass(frozen=True)
class Settings:
    """What the edge's `tls.acme` says, and where its parts meet on the host.

    directory: URL; directory_ca: PEM of the authorities that may have signed the certificate of
        that URL, None for those of the host
    certificate: the SDS file that Envoy watches
    challenge: how the names are proven, http-01 or tls-alpn-01
    socket: the unix socket to which Envoy sends challenges
    listens: `address:port` where Envoy answers challenges on this host; None where the helper
        cannot ask there itself
    """

    email: str | None
    domains: tuple[str, ...]
    directory: str
    directory_ca: str | None
    challenge: str
    certificate: str
    socket: str
    listens: str | None

    @classmethod
    def of(cls, text: str) -> Settings:
        """Read the text of acme.json; raises KeyError where it lacks something."""
        said = document_of(text)
        fields = {name: said[name] for name in cls.__dataclass_fields__}
        return cls(**{**fields, "domains": tuple(said["domains"])})

    def digest(self) -> str:
        """Return what tells one order from another: with other settings it may succeed."""
        asked = [self.email, self.domains, self.directory, self.directory_ca, self.challenge]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Attempts:
    """The orders that failed since the last good one.

    order: digest of the settings they were made with
    not_before: Unix seconds, before which the authority is not to be asked again
    """

    order: str = ""
    failures: int = 0
    not_before: float = 0.0
    error: str = ""


class Store:
    """The files of one edge's helper."""

    def __init__(self, settings: Settings) -> None:
        self.certificate_file = Path(settings.certificate)
        self.folder = self.certificate_file.parent.parent
        self.account_key = self.folder / "account.key"
        self._attempts = self.folder / "attempts.json"
        self._issued = self.folder / "issued.json"

    def chain(self) -> str:
        """Return the chain that Envoy has, as PEM; empty without one that can be read."""
        return chain_in(self.certificate_file)

    def install(self, chain: str, key: str, directory: str) -> None:
        """Move a certificate and its key to where Envoy sees them; raises OSError."""
        place(self.certificate_file, chain, key)
        write_whole(self._issued, json.dumps({"directory": directory}))
        self.forget_attempts()

    def directory(self) -> str:
        """Return the directory that the certificate is from; empty where none is known."""
        with contextlib.suppress(OSError):
            return str(document_of(self._issued.read_text()).get("directory", ""))
        return ""

    def attempts(self) -> Attempts:
        """Return the failed orders."""
        with contextlib.suppress(OSError, TypeError):
            return Attempts(**document_of(self._attempts.read_text()))
        return Attempts()

    def note(self, attempts: Attempts) -> None:
        """Keep what has failed; raises OSError."""
        write_whole(self._attempts, json.dumps(asdict(attempts)))

    def forget_attempts(self) -> None:
        """Have the next run ask the authority at once."""
        self._attempts.unlink(missing_ok=True)

    def need_account_key(self, *, new: bool = False) -> Path:
        """Return the file with the account's private key, made where it is missing or `new`."""
        if new or not self.account_key.exists():
            write_whole(self.account_key, acme_openssl.new_key())
        return self.account_key

    def sweep(self) -> None:
        """Remove what an interrupted run was writing."""
        sweep(self.folder)


def prepare(settings: Settings, gid: int) -> None:
    """See that Envoy has a certificate to start with, one that nobody trusts where there is none.

    Runs as root, before Envoy gets a listener that names the file: without it, Envoy would refuse
    the listener. Raises OSError, OpensslFailed.
    gid: the group of the Envoy
    """
    if not chain_in(Path(settings.certificate)):
        place_self_signed(Path(settings.certificate), settings.domains, gid)


def report(settings: Settings) -> Mapping[str, Any]:
    """Return what there is to tell of an edge's certificate; nothing of it is secret.

    `begins` and `ends` are Unix seconds, and `issued` tells whether an authority signed it.
    """
    store = Store(settings)
    chain, attempts = store.chain(), store.attempts()
    found: dict[str, Any] = {
        "domains": list(settings.domains),
        "directory": settings.directory,
        "issued": False,
        "begins": None,
        "ends": None,
        "failures": attempts.failures,
        "not_before": attempts.not_before,
        "error": attempts.error,
    }
    if chain:
        said = acme_openssl.read(chain)
        found |= {"issued": not said.self_signed, "begins": said.begins, "ends": said.ends}
    return found
