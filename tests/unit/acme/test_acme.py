"""When a certificate is ordered, how often at most, and what is kept of it."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from plugins.module_utils import acme_openssl, acme_renew, acme_store, vmesh_acme
from plugins.module_utils.acme_client import Reply, encoded, problem_text, refusal, wait_of
from plugins.module_utils.acme_openssl import Certificate
from plugins.module_utils.acme_renew import DAY, HOUR, after_failure, held_for, reason_to_order
from plugins.module_utils.acme_store import Attempts, Settings, Store, prepare
from plugins.module_utils.envoy_documents import document_of, text_of

DIRECTORY = "https://127.0.0.1:9/dir"  # the discard port: nothing listens there


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        email=None,
        domains=("shop.example", "www.shop.example"),
        directory=DIRECTORY,
        directory_ca=None,
        challenge="http-01",
        certificate=str(tmp_path / "state" / "front" / "certificate" / "certificate.json"),
        socket=str(tmp_path / "http.sock"),
        listens=None,
    )


def issued(settings: Settings, ends: float) -> Certificate:
    return Certificate(frozenset(settings.domains), 0, ends, self_signed=False, public_key="")


def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left(settings: Settings) -> None:
    certificate = issued(settings, 90 * DAY)
    assert reason_to_order(certificate, settings, DIRECTORY, 59.9 * DAY) is None
    assert reason_to_order(certificate, settings, DIRECTORY, 60.1 * DAY) == "it ends in 29.9 days"
    assert reason_to_order(certificate, settings, DIRECTORY, 91 * DAY) == "it has ended"
    # Those of six days too.
    assert reason_to_order(issued(settings, 6 * DAY), settings, DIRECTORY, 3.9 * DAY) is None
    assert reason_to_order(issued(settings, 6 * DAY), settings, DIRECTORY, 4.1 * DAY)


def test_another_name_or_authority_needs_another_certificate(settings: Settings) -> None:
    certificate = issued(settings, 90 * DAY)
    other = replace(settings, domains=("shop.example",))
    assert "it is for" in str(reason_to_order(certificate, other, DIRECTORY, 0))
    assert "it is from https://a.example" in str(
        reason_to_order(certificate, settings, "https://a.example", 0)
    )
    shouting = replace(settings, domains=("SHOP.example", "www.shop.EXAMPLE"))
    assert reason_to_order(certificate, shouting, DIRECTORY, 0) is None


def test_the_first_certificate_of_a_host_is_never_good_enough(settings: Settings) -> None:
    assert reason_to_order(None, settings, "", 0) == "there is none yet"
    own = replace(issued(settings, 3650 * DAY), self_signed=True)
    assert reason_to_order(own, settings, DIRECTORY, 0) == "there is none yet"


def test_each_failure_waits_longer_and_a_day_at_most() -> None:
    attempts, waits = Attempts(), []
    for _ in range(8):
        attempts = after_failure(attempts, "order", 1000.0, 0, "refused")
        waits.append((attempts.not_before - 1000) / HOUR)
    assert waits == [1, 2, 4, 8, 12, 24, 24, 24]
    assert attempts.failures == 8


def test_the_authoritys_own_wish_counts_where_it_is_longer() -> None:
    assert after_failure(Attempts(), "order", 0, 3 * DAY, "").not_before == 3 * DAY
    assert after_failure(Attempts(), "order", 0, 60, "").not_before == HOUR
    assert after_failure(Attempts(), "order", 0, 400 * DAY, "").not_before == 7 * DAY


def test_an_order_waits_unless_something_else_is_asked_for() -> None:
    failed = after_failure(Attempts(), "order", 0, 0, "refused")
    assert held_for(failed, "order", 0) == HOUR
    assert held_for(failed, "order", HOUR) == 0
    assert held_for(failed, "another", 0) == 0
    assert after_failure(failed, "another", 0, 0, "refused").failures == 1
    # A clock that is set back by years does not stop renewals for years.
    assert held_for(failed, "order", -1000 * DAY) == 0


def test_only_what_the_authority_sees_makes_another_order(settings: Settings) -> None:
    assert replace(settings, listens="127.0.0.1:80").digest() == settings.digest()
    assert replace(settings, directory_ca="PEM").digest() != settings.digest()
    assert replace(settings, domains=("a.example",)).digest() != settings.digest()


def test_settings_are_read_as_they_are_rendered(settings: Settings) -> None:
    text = text_of({**vars(settings), "domains": list(settings.domains)})
    assert Settings.of(text) == settings
    with pytest.raises(KeyError):
        Settings.of("{}")


def test_envoy_has_a_pair_before_there_is_a_certificate(settings: Settings) -> None:
    prepare(settings, os.getgid())
    file = Path(settings.certificate)
    (secret,) = document_of(file.read_text())["resources"]
    pair = secret["tls_certificate"]
    chain, key = (pair[name]["inline_string"] for name in ("certificate_chain", "private_key"))
    found = acme_openssl.read(chain)
    assert found.public_key.split() == acme_openssl.public_key(key).split()
    assert (found.names, found.self_signed) == (frozenset(settings.domains), True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o750
    assert stat.S_IMODE(file.parent.parent.parent.stat().st_mode) == 0o755
    # What is there stays, also when the run is repeated.
    before = file.read_text()
    prepare(settings, os.getgid())
    assert file.read_text() == before


def test_a_failure_is_kept_and_told_and_the_next_run_leaves_the_authority_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(settings, os.getgid())
    lines: list[str] = []
    with pytest.raises(acme_renew.Failed, match=r"cannot be reached.*The next order is in 1\.0 ho"):
        acme_renew.renew(settings, lines.append)
    assert "ordering a certificate" in lines[0]
    told = acme_store.report(settings)
    assert (told["failures"], told["issued"]) == (1, False)
    assert "cannot be reached" in str(told["error"])

    def never(*_: object) -> tuple[str, str]:
        raise AssertionError("the authority is asked")

    monkeypatch.setattr(acme_renew, "_ordered", never)
    with pytest.raises(acme_renew.Failed, match=r"1 order\(s\) failed, the next one is in"):
        acme_renew.renew(settings, lines.append)
    assert len(lines) == 1
    Store(settings).forget_attempts()
    with pytest.raises(AssertionError, match="is asked"):
        acme_renew.renew(settings, lines.append)


def test_an_order_that_is_killed_counts_as_a_failure(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(settings, os.getgid())

    def killed(*_: object) -> tuple[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(acme_renew, "_ordered", killed)
    with pytest.raises(KeyboardInterrupt):
        acme_renew.renew(settings, print)
    with pytest.raises(acme_renew.Failed, match="the helper was stopped"):
        acme_renew.renew(settings, print)


def test_without_room_on_the_disk_the_authority_is_not_asked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(settings, os.getgid())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/var/lib/vmesh-acme")

    monkeypatch.setattr(acme_store, "write_whole", full)
    monkeypatch.setattr(acme_renew, "_ordered", lambda *_: pytest.fail("the authority is asked"))
    with pytest.raises(acme_renew.Failed, match="/var/lib/vmesh-acme: No space left"):
        acme_renew.renew(settings, print)


def test_where_envoy_sends_no_challenges_the_authority_is_not_asked_and_nothing_counts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acme_renew, "_ENVOY_SECONDS", 0.1)
    here = replace(settings, listens="127.0.0.1:9")
    prepare(here, os.getgid())
    for _ in range(2):
        with pytest.raises(acme_renew.Failed, match=r"Envoy at 127\.0\.0\.1:9 does not lead"):
            acme_renew.renew(here, print)
    assert Store(here).attempts() == Attempts()
    assert not Path(here.socket).exists()


def test_a_damaged_certificate_file_is_written_anew(settings: Settings) -> None:
    file = Path(settings.certificate)
    file.parent.mkdir(parents=True)
    file.write_text("half a fi")
    assert Store(settings).chain() == ""
    prepare(settings, os.getgid())
    assert Store(settings).chain().startswith("-----BEGIN CERTIFICATE-----")


def test_a_signature_is_two_numbers_of_32_bytes(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(acme_openssl.new_key())
    # One in 128 has a number with a leading zero byte, one in two a number with 33 in DER.
    assert {len(acme_openssl.signature(key_file, bytes([i]))) for i in range(40)} == {64}
    short = bytes.fromhex("300702010102020080")
    assert acme_openssl._numbers(short) == bytes(31) + b"\1" + bytes(31) + b"\x80"


def test_what_the_authority_says_is_told_with_each_name_and_its_wait() -> None:
    said = (
        b'{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many",'
        b' "subproblems": [{"type": "urn:ietf:params:acme:error:dns", "detail": "no A",'
        b' "identifier": {"type": "dns", "value": "a.example"}}]}'
    )
    failed = refusal("https://ca/order", Reply(429, {"retry-after": "3600"}, said), 0)
    assert (failed.kind, failed.wait) == ("rateLimited", 3600)
    expected = "https://ca/order answered 429: rateLimited too many; a.example: dns no A"
    assert str(failed) == expected
    assert str(refusal("https://ca", Reply(502, {}, b"<html>"), 0)) == "https://ca answered 502"
    assert problem_text({}) == ""
    assert wait_of({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, 10) == 50
    assert wait_of({"retry-after": "soon"}, 0) == wait_of({}, 0) == 0
    assert encoded(b"\xff\xfe") == "__4"


def test_the_command_says_what_there_is(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "envoy"
    (folder / "front").mkdir(parents=True)
    document = {**vars(settings), "domains": list(settings.domains)}
    (folder / "front" / "acme.json").write_text(text_of(document))
    assert vmesh_acme.main(["show", "front"], folder) == 0
    assert "no certificate of an authority yet" in capsys.readouterr().out
    prepare(settings, os.getgid())
    assert vmesh_acme.main(["renew", "front"], folder) == 1
    assert "vmesh-acme: shop.example, www.shop.example: https:" in capsys.readouterr().err
    assert vmesh_acme.main(["show", "--json", "front"], folder) == 0
    told = capsys.readouterr().out
    assert document_of(told)["front"]["failures"] == 1
    assert "PRIVATE" not in told
    assert vmesh_acme.main(["show", "other"], folder) == 1
    assert "other is no edge with tls.acme" in capsys.readouterr().err
    for wrong in ([], ["renew"], ["dance", "front"], ["renew", "--now"]):
        assert vmesh_acme.main(wrong, folder) == 2
    assert vmesh_acme.main(["--help"], folder) == 0
