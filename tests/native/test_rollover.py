"""A host gets another anchor while its proxies call and are called: no request fails."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from plugins.module_utils.certificates import CertificateError, Pair
from plugins.module_utils.envoy_admin import Admin
from plugins.module_utils.host_anchor import (
    CERTIFICATE,
    FORMER,
    KEY,
    NEXT,
    NEXT_KEY,
    anchors_of,
    ensure_anchor,
    ensure_next,
    take_next,
    voucher,
)
from plugins.module_utils.identities import SETTINGS, STATE, Settings, folder_of, renew
from plugins.module_utils.identity_install import facts, remove, roll_over
from plugins.module_utils.systemd import Done
from tests.native.mutual import DOMAIN, MutualMesh, mesh
from tests.native.native import eventually
from tests.native.test_stages import Load, load
from vmesh.base.pem import newest
from vmesh.rollout import anchors

PAIR = ("service1", "service2")
OFF, STRICT = mesh("off"), mesh("strict")


@pytest.fixture
def made(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MutualMesh]:
    # A folder of a short name: a socket's path has at most 107 characters.
    with ExitStack() as stack:
        yield MutualMesh(envoy, tmp_path_factory.mktemp("m"), stack)


class Host:
    """The host of a proxy of the mesh, with its own anchor, program and service manager."""

    def __init__(self, made: MutualMesh, name: str, proxy: str) -> None:
        self.name, self.full_name = name, f"{name}.{DOMAIN}"
        self.proxy, self.root = proxy, made.root / "hosts" / name
        for place in ("etc", "run"):
            (self.root / place).mkdir(parents=True)
            (self.root / place / "envoy").symlink_to(made.root / proxy / place)
        ensure_anchor(self.root, self.full_name, time.time())
        made.anchors[name] = Pair(self.text(CERTIFICATE), self.text(KEY))
        identity = f"spiffe://{self.full_name}/{proxy}"
        self.settings = Settings(self.full_name, {proxy: identity}, 72)
        (self.root / SETTINGS).write_text(self.settings.text())
        (self.root / STATE).mkdir(parents=True)

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def systemd(self, arguments: Sequence[str]) -> Done:
        if arguments[:2] == ["systemctl", "start"]:
            renew(self.root, self.root / KEY, time.time())
        return Done(0, "")

    def begin(self, known: dict[str, str]) -> dict[str, str]:
        """Make the next anchor; return what the controller trusts when it has been told."""
        assert ensure_next(self.root, self.full_name, time.time())
        assert not ensure_next(self.root, self.full_name, time.time())
        told = {self.name: "".join(anchors_of(self.root))}
        names = {self.name: self.full_name}
        now = datetime.datetime.now(datetime.UTC)
        found, refused = anchors.seen(
            known, told, names, now, vouchers={self.name: voucher(self.root)}
        )
        assert refused == []
        assert found[self.name] == told[self.name]
        return found

    def finish(self) -> None:
        assert roll_over(self.root, self.systemd, time.time(), Admin)
        assert len(anchors_of(self.root)) == 1

    def served(self) -> bool:
        """Tell whether Envoy shows the leaf that is in the file, and that one is good."""
        leaf = facts(self.root, time.time(), self.systemd, Admin)["leaves"][self.proxy]
        return leaf["served"] is True and leaf["why"] == ""


def trusting(made: MutualMesh, known: dict[str, str], names: Sequence[str] = PAIR) -> None:
    """Have proxies trust these anchors."""
    made.apply(STRICT, names, replace(made.target(STRICT), anchors=known))


def up(made: MutualMesh, *, renewing: bool) -> list[Host]:
    """Start both proxies, with leaves that their hosts have signed."""
    made.renewing = renewing
    hosts = [Host(made, "web1", "service1"), Host(made, "web2", "service2")]
    made.apply(STRICT, PAIR)
    for host in hosts:
        folder_of(host.root, host.proxy).chmod(0o2750)
        renew(host.root, host.root / KEY, time.time(), which=None)
        assert eventually(host.served)
    return hosts


def went_on(found: Load, count: int = 100) -> bool:
    sent = found.sent
    return eventually(lambda: found.sent > sent + count)


@pytest.mark.parametrize("renewing", [True, False], ids=["a connection a request", "kept"])
def test_no_request_fails_while_caller_and_callee_get_other_anchors(
    made: MutualMesh, renewing: bool
) -> None:
    hosts = up(made, renewing=renewing)
    known = before = made.pems()
    with load(made.port("service1", "egress-service2")) as found:
        for host, order in zip(hosts, (PAIR, PAIR[::-1]), strict=True):
            known = host.begin(known)
            trusting(made, known, order)
            assert went_on(found)
            host.finish()
            assert went_on(found)
            known = {**known, host.name: newest(known[host.name])}
            trusting(made, known, order)
            assert went_on(found)
    assert found.failed == []
    assert all(known[host.name] != before[host.name] for host in hosts)
    assert all(known[host.name] == host.text(CERTIFICATE) for host in hosts)
    # The former anchor of web2 is trusted no more.
    made.show("service2", made.leaf("web2", "service2"))
    made.renewing = True
    trusting(made, known)
    assert eventually(lambda: made.call("service1").status == 503)
    handshakes = made.stat("service2", "listener.*ssl.handshake")
    assert sum(handshakes.values()) > (found.sent / 2 if renewing else 0)


def test_an_envoy_that_spoke_plaintext_meanwhile_shows_its_new_leaf(made: MutualMesh) -> None:
    """It still drains the listener that had the former one."""
    hosts = up(made, renewing=False)
    made.apply(OFF, PAIR)
    for host in hosts:
        assert remove(host.root, host.systemd)
        ensure_anchor(host.root, host.full_name, time.time())
        (host.root / SETTINGS).write_text(host.settings.text())
        (host.root / STATE).mkdir(parents=True, exist_ok=True)
        folder_of(host.root, host.proxy).mkdir(exist_ok=True)
        folder_of(host.root, host.proxy).chmod(0o2750)
        renew(host.root, host.root / KEY, time.time(), which=None)
        made.anchors[host.name] = Pair(host.text(CERTIFICATE), host.text(KEY))
    made.apply(STRICT, PAIR)
    assert all(eventually(host.served) for host in hosts)
    assert made.call("service1").status == 200


def test_in_one_step_requests_fail(made: MutualMesh) -> None:
    """What the steps are for: others know the new anchor alone before the host signs by it."""
    _, host = up(made, renewing=True)
    known = host.begin(made.pems())
    with load(made.port("service1", "egress-service2")) as found:
        trusting(made, {**known, host.name: newest(known[host.name])})
        assert went_on(found, 20)
        host.finish()
    assert found.failed


def test_a_host_that_stops_anywhere_goes_on_from_there(
    made: MutualMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, host = up(made, renewing=True)
    known = host.begin(made.pems())
    trusting(made, known)
    both = anchors_of(host.root)
    rename = Path.replace
    for stops_at in (NEXT_KEY, NEXT):

        def stopping(source: Path, target: Path, last: Path = host.root / stops_at) -> Path:
            if source == last:
                raise OSError("the host stops")
            return rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", stopping)
            with pytest.raises(OSError, match="stops"):
                take_next(host.root)
        assert anchors_of(host.root) == both
        assert made.call("service1").status == 200
    # As the next run asks for it first, which would replace an anchor without its key.
    assert not ensure_anchor(host.root, host.full_name, time.time())
    assert not ensure_next(host.root, host.full_name, time.time())
    assert anchors_of(host.root) == both
    assert voucher(host.root) == ""
    # The leaf is still one of the former anchor, which others trust.
    assert made.call("service1").status == 200
    host.finish()
    assert made.call("service1").status == 200
    assert host.served()


def test_the_former_anchor_is_told_as_long_as_an_envoy_shows_its_leaf(
    made: MutualMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, host = up(made, renewing=True)
    trusting(made, host.begin(made.pems()))
    real = Admin.leaves
    stale = real(Admin(str(host.root / "run/envoy/service2/admin.sock")))
    monkeypatch.setattr(Admin, "leaves", lambda _: stale)
    with pytest.raises(CertificateError, match="service2: Envoy still shows a leaf of the former"):
        roll_over(host.root, host.systemd, time.time(), Admin, lambda _: None)
    assert (host.root / FORMER).exists()
    assert len(anchors_of(host.root)) == 2
    monkeypatch.setattr(Admin, "leaves", real)
    host.finish()


def test_what_is_told_vouches_for_itself_only_by_the_known_key(made: MutualMesh) -> None:
    host = Host(made, "web1", "service1")
    known = {"web1": host.text(CERTIFICATE)}
    found = host.begin(known)
    names, now = {"web1": host.full_name}, datetime.datetime.now(datetime.UTC)
    for wrong in ("", "00", "none", voucher(host.root)[:-2] + "00"):
        after, refused = anchors.seen(known, found, names, now, vouchers={"web1": wrong})
        assert after == known
        assert "another one than before" in refused[0]
    # Once it is known, nobody must vouch for it, and it may stay alone.
    assert anchors.seen(found, found, names, now) == (found, [])
    take_next(host.root)
    alone = {"web1": host.text(CERTIFICATE)}
    assert anchors.seen(found, alone, names, now) == (alone, [])
    three = {"web1": found["web1"] + known["web1"]}
    assert "it tells 3 of them" in anchors.seen(found, three, names, now)[1][0]
