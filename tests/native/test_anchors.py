"""The controller takes an anchor that a host has made with openssl, and none that is wrong."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from plugins.module_utils import certificates
from plugins.module_utils.certificates import new_anchor
from vmesh.rollout import anchors

NAME = "web1.shop.mesh"
NOW = datetime.datetime.now(datetime.UTC)
GOOD = new_anchor(NAME, NOW.timestamp()).certificate


def made(monkeypatch: pytest.MonkeyPatch, old: str, new: str, name: str = NAME) -> str:
    """Return an anchor of which one line is another."""
    assert old in certificates._ANCHOR
    monkeypatch.setattr(certificates, "_ANCHOR", certificates._ANCHOR.replace(old, new))
    return new_anchor(name, NOW.timestamp()).certificate


def test_an_anchor_of_a_host_is_good() -> None:
    assert anchors.wrong(GOOD, NAME, NOW) is None
    month_ahead = new_anchor(NAME, NOW.timestamp() + 30 * 86400).certificate
    assert anchors.wrong(month_ahead, NAME, NOW) is None


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("CA:TRUE, pathlen:0", "CA:TRUE, pathlen:1", "signs leaves only"),
        ("CA:TRUE, pathlen:0", "CA:TRUE", "signs leaves only"),
        ("critical, CA:TRUE", "CA:TRUE", "signs leaves only"),
        ("keyCertSign", "digitalSignature", "not for signing"),
        ("critical, permitted;URI", "permitted;URI", "other names"),
        ("permitted;DNS:{name}, ", "", "other names"),
        (" permitted;email:{name},", "", "other names"),
        ("excluded;IP:0.0", "permitted;URI:web2.shop.mesh, excluded;IP:0.0", "other names"),
        ("permitted;URI:{name}", "permitted;URI:.shop.mesh", "other names"),
        ("excluded;IP:0.0.0.0/0.0.0.0, ", "", "other names"),
        ("nameConstraints", "#", "nameConstraints"),
    ],
)  # fmt: skip
def test_one_that_could_sign_more_is_refused(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, why: str
) -> None:
    found = anchors.wrong(made(monkeypatch, old, new), NAME, NOW)
    assert found is not None
    assert why in found


def test_one_for_another_host_is_refused() -> None:
    found = anchors.wrong(GOOD, "web2.shop.mesh", NOW)
    assert found == "it can sign for other names than web2.shop.mesh"


@pytest.mark.parametrize("days", [200, -3700, 4000])
def test_one_that_is_valid_too_long_or_no_more_is_refused(days: int) -> None:
    pem = new_anchor(NAME, NOW.timestamp() + days * 86400).certificate
    assert "valid until" in (anchors.wrong(pem, NAME, NOW) or "")


def test_one_of_another_curve_or_signer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384")
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "_CURVE", curve)
        other = new_anchor(NAME, NOW.timestamp()).certificate
    assert "P-256" in (anchors.wrong(other, NAME, NOW) or "")
    signer = new_anchor(NAME, NOW.timestamp())
    leaf = certificates.new_leaf(signer, f"spiffe://{NAME}/shop", int(NOW.timestamp()) + 60)
    assert anchors.wrong(leaf.certificate, NAME, NOW) is not None
    assert "no certificate" in (anchors.wrong("nonsense", NAME, NOW) or "")


def test_the_first_anchor_is_taken_and_another_is_not_unless_it_is_confirmed() -> None:
    names, again = {"web1": NAME}, new_anchor(NAME, NOW.timestamp()).certificate
    known, refused = anchors.seen({}, {"web1": GOOD}, names, NOW)
    assert (known, refused) == ({"web1": GOOD}, [])
    assert anchors.seen(known, {"web1": GOOD}, names, NOW) == (known, [])
    after, refused = anchors.seen(known, {"web1": again}, names, NOW)
    assert after == known
    (line,) = refused
    assert line.startswith("web1: ")
    assert "-e vmesh_new_anchor=web1" in line
    assert anchors.seen(known, {"web1": again}, names, NOW, {"web1"}) == ({"web1": again}, [])


def test_all_that_is_refused_is_told_at_once_and_a_host_without_one_keeps_the_known() -> None:
    names = {"web1": NAME, "web2": "web2.shop.mesh", "web3": "web3.shop.mesh"}
    told = {"web1": None, "web2": GOOD, "web3": "nonsense"}
    known, refused = anchors.seen({"web1": GOOD}, told, names, NOW, {"web2", "web3"})
    assert known == {"web1": GOOD}
    assert [line.partition(":")[0] for line in refused] == ["web2", "web3"]


def test_they_are_kept_and_a_damaged_list_names_the_remedy(tmp_path: Path) -> None:
    assert anchors.load(tmp_path) == {}
    anchors.keep(tmp_path, {"web1": GOOD})
    assert anchors.load(tmp_path) == {"web1": GOOD}
    (file,) = tmp_path.rglob("*.json")
    assert file.parent != tmp_path  # where it would be the record of a host
    file.write_text("[")
    with pytest.raises(ValueError, match="Restore it from version control"):
        anchors.load(tmp_path)
