"""The anchors of the hosts: what a mesh trusts, seen over ssh, checked, and kept like known hosts.

They are public: `applied/<inventory>/trust/anchors.json` is made to be committed. The name of the
folder keeps it apart from the record of a host that is called "anchors".
"""

from __future__ import annotations

import datetime
import ipaddress
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from vmesh.base.files import write_whole
from vmesh.base.pem import certificates_in

# Has a run take another anchor of a host that is known, as of one that was set up anew.
NEW_ANCHOR = "vmesh_new_anchor"
# Has a run take hosts from their anchors to new ones: names of hosts, with commas.
ROLLOVER = "vmesh_rollover"
# Ten years, and a host's clock that is a month ahead.
LONGEST = datetime.timedelta(days=3653 + 31)
_ALL_ADDRESSES = ("0.0.0.0/0", "::/0")


def load(place: Path) -> dict[str, str]:
    """Return host -> anchor (PEM) of the hosts whose anchors are known; raises OSError, ValueError.

    place: folder of the inventory's records (vmesh.rollout.record)
    """
    path = _path(place)
    try:
        return {str(host): str(pem) for host, pem in json.loads(path.read_text("utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (AttributeError, ValueError):
        raise ValueError(
            f"{path} is no list of anchors. Restore it from version control, or remove it: the next"
            " run asks the hosts again"
        ) from None


def keep(place: Path, anchors: Mapping[str, str]) -> None:
    """Make `anchors` those that are known; raises OSError. Writes nothing where nothing differs."""
    if load(place) != dict(anchors):
        write_whole(_path(place), json.dumps(dict(sorted(anchors.items())), indent=2) + "\n")


def forget(place: Path, hosts: Collection[str]) -> None:
    """Know the anchors of these hosts no more; raises OSError, ValueError."""
    keep(place, {host: pem for host, pem in load(place).items() if host not in hosts})


def seen(  # noqa: PLR0913, PLR0917 - by what an anchor is taken
    known: Mapping[str, str],
    told: Mapping[str, str | None],
    names: Mapping[str, str],
    now: datetime.datetime,
    confirmed: Collection[str] = (),
    vouchers: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], list[str]]:
    """Return the anchors that are known after hosts have told theirs, and why others are refused.

    known, told: by host, PEM; in a rollover the older and the newer one; a host that has none tells
    None
    names: of the hosts with identities, as in web1.shop.mesh
    confirmed: hosts of which another anchor than the known one is taken
    vouchers: host -> signature of its newer anchor by its older one
    """
    found, refused = dict(known), []
    for host, name in names.items():
        anchor = told.get(host)
        if anchor is None:
            continue
        before = known.get(host, anchor)
        if why := _wrong_of(anchor, name, now):
            refused.append(
                f"{host}: its anchor is refused: {why}. Run again with -e {NEW_ANCHOR}={host}: that"
                " makes another where it is for another name. Else remove /etc/vmesh/certs on the"
                " host, and ask who has changed it"
            )
        elif not (
            host in confirmed
            or set(certificates_in(anchor)) <= set(certificates_in(before))
            or _follows(anchor, before, (vouchers or {}).get(host, ""))
        ):
            refused.append(
                f"{host}: its anchor is another one than before. If it was set up anew, run again"
                f" with -e {NEW_ANCHOR}={host}; else somebody has its address or is root there"
            )
        else:
            found[host] = anchor
    return found, refused


def _wrong_of(anchor: str, name: str, now: datetime.datetime) -> str | None:
    """Return why what a host tells is refused; None where each of its anchors is good."""
    each = certificates_in(anchor) or [anchor]
    if len(each) > len(("older", "newer")):
        return f"it tells {len(each)} of them"
    return next((why for pem in each if (why := wrong(pem, name, now))), None)


def _follows(told: str, known: str, voucher: str) -> bool:
    """Tell whether a host has begun a rollover: an anchor that is known vouches for a new one."""
    pems = certificates_in(told)
    if len(pems) != len(("older", "newer")) or pems[0] not in certificates_in(known):
        return False
    key = x509.load_pem_x509_certificate(pems[0].encode()).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey), "`wrong` has seen that"
    try:
        key.verify(bytes.fromhex(voucher), pems[1].encode(), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def wrong(pem: str, name: str, now: datetime.datetime) -> str | None:
    """Return why an anchor is none that the host `name` may have; None where it is good.

    A good one is self-signed by a P-256 key, good now and for ten years at most, and can sign
    leaves for `name` alone.
    """
    try:
        anchor = x509.load_pem_x509_certificate(pem.encode())
        anchor.verify_directly_issued_by(anchor)
        return next(_faults(anchor, name, now), None)
    except InvalidSignature:
        return "it is not signed by its own key"
    except x509.ExtensionNotFound as missing:
        return f"it lacks the extension {missing.oid._name}"
    except (ValueError, TypeError) as error:
        return f"it is no certificate of an anchor: {error}"


def _faults(anchor: x509.Certificate, name: str, now: datetime.datetime) -> Iterator[str]:
    """Yield what is wrong with a self-signed certificate; raises ExtensionNotFound."""
    key, extensions = anchor.public_key(), anchor.extensions
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        yield "its key is not of the curve P-256"
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    if basic.value != x509.BasicConstraints(ca=True, path_length=0) or not basic.critical:
        yield "it is no authority that signs leaves only"
    if not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
        yield "its key is not for signing certificates"
    limits = extensions.get_extension_for_class(x509.NameConstraints)
    if limits.value != _constraints(name) or not limits.critical:
        yield f"it can sign for other names than {name}"
    until = anchor.not_valid_after_utc
    if not anchor.not_valid_before_utc <= now <= until:
        yield f"it is valid until {until:%Y-%m-%d} only"
    if until > now + LONGEST:
        yield f"it is valid until {until:%Y-%m-%d}, more than ten years"


def _constraints(name: str) -> x509.NameConstraints:
    """Return what plugins/module_utils/certificates.py gives an anchor of the host `name`."""
    return x509.NameConstraints(
        permitted_subtrees=[
            x509.UniformResourceIdentifier(name),
            x509.DNSName(name),
            x509.RFC822Name(name),
        ],
        excluded_subtrees=[x509.IPAddress(ipaddress.ip_network(net)) for net in _ALL_ADDRESSES],
    )


def _path(place: Path) -> Path:
    return place / "trust" / "anchors.json"
