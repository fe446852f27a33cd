"""Identities of proxies, made by the real openssl: renewed whatever the clock and the disk do."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils import certificates, host_anchor, vmesh_certs
from plugins.module_utils.certificates import ANCHOR_SECONDS, CertificateError, Pair, read
from plugins.module_utils.host_anchor import CERTIFICATE, KEY, anchor_of, ensure_anchor
from plugins.module_utils.identities import (
    DOCUMENT,
    HOUR,
    LAST,
    SETTINGS,
    STATE,
    Settings,
    folder_of,
    renew,
    report,
    time_now,
)

NAME = "web1.shop.mesh"
SHOP = f"spiffe://{NAME}/shop"
STOCK = f"spiffe://{NAME}/stock"
DAY = 24 * HOUR
# A whole second: certificates know no parts of one.
NOW = int(time.time())


class Host:
    """A host below a folder, with the proxies shop and stock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ensure_anchor(root, NAME, NOW)
        self.settings()
        for proxy in ("shop", "stock"):
            folder_of(root, proxy).mkdir(parents=True)
            folder_of(root, proxy).chmod(0o2750)
        (root / STATE).mkdir(parents=True)

    def settings(self, *, shop: str = SHOP, hours: int = 72) -> None:
        settings = Settings(NAME, {"shop": shop, "stock": STOCK}, hours)
        (self.root / SETTINGS).write_text(settings.text())

    def renew(self, clock: float = NOW, **options: Any) -> list[str]:
        """Renew at a time of the host's clock; return the proxies that have got new leaves."""
        lines = renew(self.root, self.root / KEY, clock, **options)
        return [line.partition(":")[0] for line in lines]

    def file(self, proxy: str = "shop") -> Path:
        return self.root / "etc/envoy" / proxy / DOCUMENT

    def leaf(self, proxy: str = "shop") -> certificates.Certificate:
        return read(self.pair(proxy).certificate)

    def pair(self, proxy: str = "shop") -> Pair:
        (secret,) = json.loads(self.file(proxy).read_text())["resources"]
        assert secret["name"] == "identity"
        pem = secret["tls_certificate"]
        chain, key = pem["certificate_chain"], pem["private_key"]
        return Pair(chain["inline_string"], key["inline_string"])

    def is_good_at(self, now: float, proxy: str = "shop") -> bool:
        """Ask openssl whether a peer with the right time accepts the leaf."""
        leaf = self.root / "leaf.pem"
        leaf.write_text(self.pair(proxy).certificate)
        words = ["-attime", str(int(now)), "-CAfile", str(self.root / CERTIFICATE), str(leaf)]
        done = subprocess.run(["openssl", "verify", *words], capture_output=True, check=False)
        return done.returncode == 0


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_an_anchor_signs_leaves_for_its_own_proxies(host: Host) -> None:
    assert host.renew() == ["shop", "stock"]
    for proxy, identity in (("shop", SHOP), ("stock", STOCK)):
        leaf = host.leaf(proxy)
        assert leaf.uris == (identity,)
        assert leaf.not_after == NOW + 72 * HOUR
        assert leaf.not_before < NOW - 365 * DAY
        assert host.is_good_at(NOW, proxy)
        assert certificates.belong_together(host.pair(proxy))
    assert read(anchor_of(host.root) or "").signs_for == (NAME,)


def test_a_leaf_is_renewed_when_a_third_of_its_life_is_used(host: Host) -> None:
    host.renew()
    assert host.renew(NOW + 23 * HOUR) == []
    assert host.renew(NOW + 25 * HOUR) == ["shop", "stock"]
    assert host.leaf().not_after == NOW + (25 + 72) * HOUR


def test_all_or_one_are_renewed_whatever_is_left(host: Host) -> None:
    host.renew()
    first = host.leaf().serial
    assert host.renew(NOW + 1, which=["stock"]) == ["stock"]
    assert host.leaf().serial == first
    assert host.renew(NOW + 2, which=None) == ["shop", "stock"]
    assert host.leaf().serial != first


@pytest.mark.parametrize("wrong", ["", "{", '{"resources": []}', '{"resources": [{}]}'])
def test_a_broken_file_is_replaced(host: Host, wrong: str) -> None:
    host.renew()
    host.file().write_text(wrong)
    assert host.renew() == ["shop"]
    assert host.is_good_at(NOW)


def test_a_leaf_of_another_anchor_name_or_life_is_replaced(host: Host) -> None:
    host.renew()
    host.settings(shop=f"spiffe://{NAME}/other")
    assert host.renew() == ["shop"]
    host.settings(hours=240)
    assert host.renew() == ["shop", "stock"]
    host.settings(hours=24)
    assert host.renew() == ["shop", "stock"]
    (host.root / KEY).unlink()
    assert ensure_anchor(host.root, NAME, NOW)
    assert host.renew() == ["shop", "stock"]
    assert host.is_good_at(NOW, "stock")


def test_ten_days_offline(host: Host) -> None:
    host.renew()
    late = NOW + 10 * DAY
    assert not host.is_good_at(late)
    assert host.renew(late) == ["shop", "stock"]
    assert host.is_good_at(late)


@pytest.mark.parametrize(
    "wrong",
    [600, 10 * DAY, -HOUR, -5 * DAY, -365 * DAY, -NOW],
    # Each worker of pytest-xdist must find the same names.
    ids=["10 min", "10 days", "-1 h", "-5 days", "-1 year", "1970"],
)
@pytest.mark.parametrize("proxy", [["shop"], ["shop", "stock"]], ids=["one", "both"])
def test_a_leaf_made_under_a_wrong_clock_is_good(host: Host, wrong: int, proxy: list[str]) -> None:
    """`-NOW` is 1970. The peer has the right time."""
    host.renew()
    assert host.renew(NOW + wrong, which=proxy)
    assert host.is_good_at(NOW)
    host.renew(NOW + 60)  # the clock is right again
    assert host.is_good_at(NOW + 60)
    assert host.is_good_at(NOW + 60 + DAY)


@pytest.mark.parametrize("wrong", [-5 * DAY, -365 * DAY, -NOW], ids=["5 days", "a year", "1970"])
def test_leaves_stay_good_while_the_clock_is_behind_for_days(host: Host, wrong: int) -> None:
    """Were the time to stand still at the last signature, they would end after three days."""
    host.renew()
    for hour in range(2, 8 * 24, 2):
        if host.renew(NOW + wrong + hour * HOUR) or hour % 24 == 0:
            assert host.is_good_at(NOW + hour * HOUR), hour


def test_a_clock_that_comes_right_after_each_boot_does_not_run_away(host: Host) -> None:
    """A machine without a battery boots in 1970, again and again."""
    for boot in range(20):
        host.renew(10)
        host.renew(NOW + boot * 60)
    host.renew(NOW + HOUR * 2, which=None)
    assert host.leaf().not_after <= NOW + 72 * HOUR + 4 * HOUR


def test_the_state_of_the_signer_is_lost(host: Host) -> None:
    host.renew()
    (host.root / LAST).unlink()
    assert host.renew(NOW + 10, which=None) == ["shop", "stock"]
    assert host.is_good_at(NOW + 10)
    (host.root / LAST).write_text("no JSON")
    assert host.renew(10, which=None)  # in 1970, before the anchor was made
    assert host.is_good_at(NOW + 10)


def test_one_signature_far_ahead_does_not_count_for_ever(host: Host) -> None:
    ahead = NOW + 5 * 365 * DAY
    host.renew(ahead)
    assert host.leaf().not_after == ahead + 72 * HOUR
    assert host.renew(NOW + 60) == ["shop", "stock"]
    assert host.leaf().not_after == NOW + 60 + 72 * HOUR


def test_the_clock_counts_when_a_person_says_so(host: Host) -> None:
    host.renew(NOW + 10 * DAY)
    host.renew(NOW, which=None)
    assert host.leaf().not_after == NOW + 13 * DAY
    assert host.renew(NOW, which=None, from_clock=True) == ["shop", "stock"]
    assert host.leaf().not_after == NOW + 3 * DAY
    assert time_now(host.root, NOW + 1, read(anchor_of(host.root) or "")) == NOW + 1


def test_no_leaf_lives_longer_than_its_anchor(host: Host) -> None:
    host.renew(NOW + ANCHOR_SECONDS - HOUR)
    assert host.leaf().not_after == NOW + ANCHOR_SECONDS


def test_a_full_disk_leaves_the_old_file(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.renew()
    before = host.file().read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, CertificateError), match="No space left"):
        host.renew(NOW + 2 * DAY)
    assert host.file().read_bytes() == before
    assert [path.name for path in host.file().parent.iterdir()] == ["identity.json"]


def test_one_proxy_that_cannot_be_renewed_does_not_keep_the_others(host: Host) -> None:
    folder_of(host.root, "shop").rmdir()
    with pytest.raises(CertificateError, match=r"shop: .*etc/envoy/shop/identity"):
        host.renew()
    assert host.leaf("stock").uris == (STOCK,)


def test_keys_are_for_those_who_need_them(host: Host) -> None:
    host.renew()
    assert stat.S_IMODE((host.root / KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE((host.root / CERTIFICATE).stat().st_mode) == 0o644
    found = host.file().stat()
    folder = host.file().parent.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o640, folder.st_gid)


def test_no_key_is_in_an_argument_or_in_a_temporary_file(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []
    original = subprocess.run

    def watched(arguments: list[str], **options: Any) -> Any:
        done = original(arguments, **options)
        seen.extend(arguments)
        folders = (tmp_path / "tmp").glob("vmesh-certs-*/*")
        seen.extend(path.read_text() for path in folders if path.is_file())
        return done

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(subprocess, "run", watched)
    host.renew()
    assert any("BEGIN CERTIFICATE REQUEST" in text for text in seen)
    assert not any("PRIVATE KEY" in text for text in seen)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_interrupted_first_run_is_taken_up(tmp_path: Path) -> None:
    assert ensure_anchor(tmp_path, NAME, NOW)
    assert not ensure_anchor(tmp_path, NAME, NOW)
    (tmp_path / CERTIFICATE).unlink()
    assert ensure_anchor(tmp_path, NAME, NOW)
    pair = Pair(anchor_of(tmp_path) or "", (tmp_path / KEY).read_text())
    assert certificates.belong_together(pair)


def test_an_anchor_for_another_name_is_replaced_only_when_that_is_asked(tmp_path: Path) -> None:
    ensure_anchor(tmp_path, "old.shop.mesh", NOW)
    assert not ensure_anchor(tmp_path, NAME, NOW)
    assert ensure_anchor(tmp_path, NAME, NOW, replace=True)
    assert not ensure_anchor(tmp_path, NAME, NOW, replace=True)


def test_what_is_reported_has_no_key(host: Host) -> None:
    assert report(host.root, NOW)["leaves"]["shop"] == {"why": "it is missing"}
    host.renew()
    found = report(host.root, NOW + 25 * HOUR)
    assert found["leaves"]["shop"]["identity"] == SHOP
    assert found["leaves"]["shop"]["why"] == "it has 47 of 72 hours left"
    assert found["clock"] == NOW + 25 * HOUR
    assert "PRIVATE" not in json.dumps(found)
    assert host_anchor.has_anchor(host.root)


@pytest.mark.parametrize("name", ["web1", "web1.shop.mesh\nx = y", "WEB.shop.mesh", "a..b", "$a.b"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CertificateError, match="no name of a host"):
        ensure_anchor(tmp_path, name, NOW)
    assert anchor_of(tmp_path) is None


def test_without_openssl_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CertificateError, match="Install the package openssl"):
        ensure_anchor(tmp_path, NAME, NOW)


@pytest.fixture
def command(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(vmesh_certs, "ROOT", host.root)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return host


def test_the_command_renews_what_is_due_and_nothing_to_do_is_no_failure(
    command: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vmesh_certs.main(["renew"]) == 0
    assert "shop: a new leaf for" in capsys.readouterr().out
    assert vmesh_certs.main(["renew"]) == 0
    assert capsys.readouterr().out == "all leaves are good\n"
    first = command.leaf().serial
    assert vmesh_certs.main(["renew", "stock"]) == 0
    assert command.leaf().serial == first
    assert vmesh_certs.main(["renew", "--all"]) == 0
    assert command.leaf().serial != first
    capsys.readouterr()
    assert vmesh_certs.main(["show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["leaves"]["shop"]["identity"] == SHOP


def test_the_command_takes_the_key_that_systemd_hands_it(
    command: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (command.root / KEY).rename(credentials / "anchor.key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert vmesh_certs.main(["renew"]) == 0
    assert command.is_good_at(NOW)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["renew", "nobody"], 2, "no proxy of this host: nobody. There is: shop, stock"),
        (["renew", "--al"], 2, "vmesh-certs renew --all"),
        (["renew", "--all", "shop"], 2, "vmesh-certs renew --all"),
        (["reset"], 2, "vmesh-certs renew --all"),
        (["renew"], 1, "vmesh-certs: "),
    ],
)
def test_the_command_says_what_is_wrong(
    command: Host, capsys: pytest.CaptureFixture[str], words: list[str], code: int, told: str
) -> None:
    (command.root / KEY).unlink()
    assert vmesh_certs.main(words) == code
    assert told in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_renews_by_hand_belongs_to_the_signer(host: Host) -> None:
    """Else the timer would lose the time of the last signature."""
    nobody = 65534
    for folder in (host.root / STATE, folder_of(host.root, "shop")):
        os.chown(folder, nobody, nobody)
    host.renew(which=None)
    for file in (host.root / LAST, host.file()):
        assert (file.stat().st_uid, file.stat().st_gid) == (nobody, nobody)
