# Copyright the vmesh maintainers
# SPDX-License-Identifier: Apache-2.0
"""The anchor of this host, and the way from one anchor to the next.

A rollover has three steps, and the run of site.yml between them sees that the other hosts keep up:
`ensure_next` makes an anchor beside the one that signs, and both are told and trusted; `take_next`
has the host sign by it, and what the former one has signed is trusted as before; `forget_former`
ends that. Each file is renamed whole, so a host that stops anywhere goes on from there.
"""

from __future__ import annotations

from pathlib import Path

from .certificates import CertificateError, Pair, belong_together, new_anchor, read, signature
from .file_writing import write_whole

FOLDER = "etc/vmesh/certs"
KEY, CERTIFICATE = f"{FOLDER}/anchor.key", f"{FOLDER}/anchor.pem"
NEXT_KEY, NEXT = f"{FOLDER}/next.key", f"{FOLDER}/next.pem"
FORMER = f"{FOLDER}/former.pem"


def has_anchor(root: Path) -> bool:
    """Tell whether a run of vmesh has given the host an anchor, or a part of one."""
    return (root / FOLDER).exists()


def ensure_anchor(root: Path, name: str, now: float, *, replace: bool = False) -> bool:
    """Make the anchor of the host `name` where it is missing or useless; tell whether it did.

    now: the controller's clock, because a new host's may be wrong
    replace: make another one too where the one that is there is not for `name`
    Raises CertificateError, OSError.
    """
    _complete(root)
    there = _pair(root, CERTIFICATE, KEY)
    if there and not (replace and read(there.certificate).signs_for != (name,)):
        return False
    for old in (NEXT, NEXT_KEY, FORMER):
        (root / old).unlink(missing_ok=True)
    _make(root, name, now, CERTIFICATE, KEY)
    return True


def ensure_next(root: Path, name: str, now: float) -> bool:
    """Make the next anchor of the host `name`, unless a rollover is under way; tell whether it did.

    Raises CertificateError, OSError.
    """
    if (root / FORMER).exists() or _pair(root, NEXT, NEXT_KEY):
        return False
    _make(root, name, now, NEXT, NEXT_KEY)
    return True


def anchor_of(root: Path) -> str | None:
    """Return the certificate of the anchor that signs, None without one."""
    return _text(root / CERTIFICATE)


def anchors_of(root: Path) -> list[str]:
    """Return what others are to trust: one certificate, or two in a rollover, the older first."""
    texts = [_text(root / name) for name in (FORMER, CERTIFICATE, NEXT)]
    return list(dict.fromkeys(text for text in texts if text))


def voucher(root: Path) -> str:
    """Return the signature of the next anchor by the one that signs; "" where no next one waits.

    By it the controller takes a next anchor, which only this host can have made. Root alone may
    ask. Raises CertificateError, OSError.
    """
    following = _pair(root, NEXT, NEXT_KEY)
    return signature((root / KEY).read_text(), following.certificate) if following else ""


def take_next(root: Path) -> None:
    """Have the next anchor sign from now on, where one waits; raises CertificateError, OSError."""
    if _pair(root, NEXT, NEXT_KEY):
        write_whole(root / FORMER, (root / CERTIFICATE).read_text(), 0o644)
        (root / NEXT_KEY).replace(root / KEY)
    _complete(root)


def forget_former(root: Path) -> None:
    """Tell of the former anchor no more; raises OSError."""
    (root / FORMER).unlink(missing_ok=True)


def _complete(root: Path) -> None:
    """Complete what `take_next` has begun: the key is there, and its certificate is not yet.

    Without its key a next certificate is at no other time.
    """
    if (root / NEXT).exists() and not (root / NEXT_KEY).exists():
        (root / NEXT).replace(root / CERTIFICATE)


def _make(root: Path, name: str, now: float, certificate: str, key: str) -> None:
    made = new_anchor(name, now)
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    (root / FOLDER).chmod(0o755)
    # Without its key no certificate is ever told to anybody, so the key comes first.
    write_whole(root / key, made.key)
    write_whole(root / certificate, made.certificate, 0o644)


def _pair(root: Path, certificate: str, key: str) -> Pair | None:
    """Return an anchor where both its files are there and belong together."""
    try:
        pair = Pair((root / certificate).read_text(), (root / key).read_text())
        return pair if belong_together(pair) else None
    except (FileNotFoundError, CertificateError):
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
