# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The identities of the proxies of this host: where they are, what they say, when they are renewed.

The controller writes SETTINGS. The anchor's key is root's; the user `vmesh-certs` gets it from
systemd for each signature. A leaf and its key are one file, which Envoy reads as SDS
(https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret) and for which one
rename is a whole renewal. Times are Unix seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .certificates import Certificate, CertificateError, Pair, made_at, new_leaf, read
from .file_writing import sweep, write_incoming
from .host_anchor import CERTIFICATE, anchor_of, anchors_of
from .host_parts import IDENTITY

SETTINGS = "etc/vmesh/certs.json"
STATE = "var/lib/vmesh-certs"
LAST = f"{STATE}/last"
USER = "vmesh-certs"
DOCUMENT = f"{IDENTITY}/identity.json"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
HOUR = 3600
# What a clock may be behind the last signature before that signature is taken to be the mistake.
FAR_AHEAD = 400 * 24 * HOUR
# The timer looks every hour.
LONGEST_PAUSE = 2 * HOUR


@dataclass(frozen=True)
class Settings:
    """What the controller has decided.

    name: of the host in its mesh, as in web1.shop.mesh; identities: by proxy
    """

    name: str
    identities: Mapping[str, str]
    leaf_hours: int

    def text(self) -> str:
        """Return the settings as the file has them."""
        data = {
            "name": self.name,
            "identities": dict(sorted(self.identities.items())),
            "leaf_hours": self.leaf_hours,
        }
        return json.dumps(data, indent=2) + "\n"


@dataclass(frozen=True)
class Leaf:
    """The leaf of a proxy, and why it has to be renewed; "" where it has not."""

    certificate: Certificate | None
    why: str


def settings_of(root: Path) -> Settings:
    """Return the settings of the host below `root`; raises OSError, ValueError."""
    path = root / SETTINGS
    try:
        data = json.loads(path.read_text())
        return Settings(str(data["name"]), dict(data["identities"]), int(data["leaf_hours"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no settings file of vmesh-certs: {error}") from None


def folder_of(root: Path, proxy: str) -> Path:
    """Return the folder with the identity of a proxy."""
    return root / "etc/envoy" / proxy / IDENTITY


def time_now(root: Path, clock: float, anchor: Certificate) -> float:
    """Return the time to sign by: the clock's, or a later one where the clock is behind.

    A clock can be wrong: of a VM that was saved, or after a reboot without a battery. Then time has
    gone on since the last look at least as far as the clock did, or it was the last look that was
    wrong, by more than anybody sets a clock back.
    """
    made = made_at(anchor)
    try:
        last = json.loads((root / LAST).read_text())
        then, time_then = float(last["clock"]), float(last["time"])
    except (OSError, KeyError, TypeError, ValueError):
        then, time_then = clock, made
    if clock >= time_then:
        return clock
    if clock >= made and time_then - clock > FAR_AHEAD:
        return clock
    return max(time_then, made) + min(max(clock - then, 0), LONGEST_PAUSE)


def keep_time(root: Path, clock: float, now: float) -> None:
    """Note the time, for the next look; raises OSError."""
    content = json.dumps({"clock": int(clock), "time": int(now)}) + "\n"
    _move_in(root / LAST, content, 0o600)


def leaf_of(root: Path, proxy: str, settings: Settings, anchor: Certificate, now: float) -> Leaf:
    """Return the leaf of a proxy, and why it has to be renewed."""
    try:
        document = json.loads((root / "etc/envoy" / proxy / DOCUMENT).read_text())
        (secret,) = document["resources"]
        leaf = read(secret["tls_certificate"]["certificate_chain"]["inline_string"])
    except FileNotFoundError:
        return Leaf(None, "it is missing")
    except (OSError, KeyError, TypeError, ValueError, CertificateError) as error:
        return Leaf(None, f"it cannot be read: {error}")
    if leaf.issuer_key_id != anchor.key_id:
        return Leaf(leaf, "it is of another anchor")
    if leaf.uris != (settings.identities[proxy],):
        return Leaf(leaf, f"it is for {', '.join(leaf.uris) or 'nobody'}")
    # It has more than its whole life where the clock was ahead, or leaves lived longer before.
    left, life = leaf.not_after - now, settings.leaf_hours * HOUR
    due = not life * 2 / 3 <= left <= life + HOUR
    return Leaf(leaf, f"it has {left // HOUR:.0f} of {settings.leaf_hours} hours left" * due)


def renew(
    root: Path,
    key: Path,
    clock: float,
    *,
    which: Collection[str] | None = (),
    from_clock: bool = False,
) -> list[str]:
    """Renew the leaves that need it; return a line for each.

    key: file with the anchor's key
    which: the proxies whose leaves are renewed whatever is left; None for all
    from_clock: whether the clock is right, whatever the last signatures say
    Raises CertificateError, OSError, ValueError. Each leaf that could not be made is still the old
    one then, and those of the others are renewed all the same.
    """
    settings = settings_of(root)
    anchor = Pair((root / CERTIFICATE).read_text(), key.read_text())
    known = read(anchor.certificate)
    now = clock if from_clock else time_now(root, clock, known)
    keep_time(root, clock, now)
    renewed, failed = [], []
    for proxy, identity in settings.identities.items():
        why = leaf_of(root, proxy, settings, known, now).why
        if which is None or proxy in which:
            why = why or "it was asked for"
        if not why:
            continue
        try:
            not_after = min(int(now) + settings.leaf_hours * HOUR, known.not_after)
            _put(folder_of(root, proxy), new_leaf(anchor, identity, not_after))
        except (CertificateError, OSError) as error:
            failed.append(f"{proxy}: {error}")
        else:
            renewed.append(f"{proxy}: a new leaf for {identity}, because {why}")
    if failed:
        raise CertificateError("; ".join(failed))
    return renewed


def _put(folder: Path, leaf: Pair) -> None:
    """Move a leaf and its key into the folder of a proxy, as one file; raises OSError.

    The folder's group is the proxy's, and by its mode (2750) the file's too.
    """
    sweep(folder)
    secret = {
        "@type": SECRET,
        "name": IDENTITY,
        "tls_certificate": {
            "certificate_chain": {"inline_string": leaf.certificate},
            "private_key": {"inline_string": leaf.key},
        },
    }
    version = hashlib.sha256(leaf.certificate.encode()).hexdigest()[:12]
    content = json.dumps({"version_info": version, "resources": [secret]})
    _move_in(folder / Path(DOCUMENT).name, content, 0o640)


def _move_in(path: Path, content: str, mode: int) -> None:
    """Make a file whole, for the user to whom its folder belongs; raises OSError."""
    beside = write_incoming(path.parent, content.encode())
    try:
        if os.geteuid() == 0:  # by hand: the timer's next look must be able to read it
            whose = path.parent.stat()
            os.chown(beside, whose.st_uid, whose.st_gid)
        beside.chmod(mode)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def report(root: Path, clock: float) -> dict[str, Any]:
    """Return what there is: the anchor and the leaves, by public facts alone.

    anchor: PEM or None; in a rollover the older and the newer one; clock: the host's; leaves: by
    proxy its `identity`, `serial`, `not_before`, `not_after`, and `why` it has to be renewed, or
    `why` alone
    Raises CertificateError where openssl is missing or the anchor is damaged.
    """
    pem = anchor_of(root)
    told = "".join(anchors_of(root)) or None
    found: dict[str, Any] = {"anchor": told, "clock": int(clock), "leaves": {}}
    if pem is None or not (root / SETTINGS).exists():
        return found
    settings, anchor = settings_of(root), read(pem)
    now = time_now(root, clock, anchor)
    for proxy in settings.identities:
        leaf = leaf_of(root, proxy, settings, anchor, now)
        facts: dict[str, Any] = {"why": leaf.why}
        if leaf.certificate:
            facts["identity"] = ", ".join(leaf.certificate.uris)
            facts["serial"] = leaf.certificate.serial
            facts["not_before"] = leaf.certificate.not_before
            facts["not_after"] = leaf.certificate.not_after
        found["leaves"][proxy] = facts
    return found
