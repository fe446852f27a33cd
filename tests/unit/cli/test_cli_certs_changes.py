"""`./mesh certs verify`, `rollover` and `revoke`: what they ask, change, say and exit with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.certificates import new_anchor
from tests.unit.cli.test_cli_certs import place, run, stand_in  # noqa: F401 - a fixture
from tests.unit.mesh import worlds
from vmesh.base.exits import CliError
from vmesh.compile import security
from vmesh.remote import answers, playbook
from vmesh.remote.mesh import read
from vmesh.render.renderer import Renderer
from vmesh.rollout import anchors, record

OK_ANSWER = {"tls": "TLSv1.3", "identity": "spiffe://a/b", "status": 200, "why": "", "said": ""}


@dataclass
class Played:
    """Playbooks that are played: `then` is done by each, and may say what failed."""

    then: Callable[[dict[str, Any]], playbook.Outcome] = lambda _: playbook.Outcome()
    books: list[str] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)

    def apply(self, _inventory: Any, _steps: Any, **options: Any) -> playbook.Outcome:
        self.books.append(str(options["playbook"]).rpartition("/")[2].removesuffix(".yml"))
        (path,) = (each for each in options["extra"] if "vars" in each)
        self.variables = json.loads(Path(path.partition("@")[2]).read_text())
        return self.then(self.variables)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Played:
    made = Played()
    stand_in(monkeypatch, tmp_path, made.apply)
    return made


def hosts(place: Path) -> list[str]:  # noqa: F811 - the fixture
    return [host for host, spec in read(place).spec.hosts.items() if spec.identity]


def test_verify_has_each_host_of_a_ask_each_host_of_b(
    place: Path,  # noqa: F811
    played: Played,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answered(variables: dict[str, Any]) -> playbook.Outcome:
        asked = variables["vmesh_verify"]
        for host, each in asked["requests"].items():
            found = [
                {**OK_ANSWER, **({"why": "timeout"} if item["host"] == refusing else {})}
                for item in each
            ]
            answers.write(Path(asked["answers"]), host, {"found": found})
        return playbook.Outcome()

    played.then, refusing = answered, ""
    anchors.keep(record.folder(place), {"store1": "its anchor"})
    assert run(place, "front", "stock", what="verify") == 0
    assert played.books == ["verify"]
    requests = played.variables["vmesh_verify"]["requests"]
    assert sorted(requests) == ["web1", "web2"]
    assert [(each["proxy"], each["host"]) for each in requests["web1"]] == [
        ("front", "store1"),
        ("front", "store2"),
    ]
    assert requests["web1"][0] == {
        "proxy": "front",
        "service": "stock",
        "host": "store1",
        "address": "10.0.0.4",
        "port": 9002,
        "identity": "spiffe://store1.shop.mesh/stock",
        "anchor": "its anchor",
    }
    said = capsys.readouterr().out
    assert "front on web1  stock on store1  ok (200)  TLSv1.3" in said
    refusing = "store2"
    assert run(place, "web1", "store2", what="verify") == 1
    assert "10.0.0.5:9002 does not answer: a firewall drops it" in capsys.readouterr().out
    assert run(place, "web1", "store2", what="verify", as_json=True) == 1
    (only,) = json.loads(capsys.readouterr().out)
    assert (only["ok"], only["declared"], only["why"]) == (False, True, "timeout")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("front", None), "./mesh certs verify A B"),
        (("front", "nobody"), "Nothing with an identity is called nobody"),
        (("shop", "front"), "nobody calls an edge by mTLS"),
    ],
)
def test_verify_wants_two_that_can_speak(
    place: Path,  # noqa: F811
    played: Played,
    names: tuple[str, str | None],
    why: str,
) -> None:
    with pytest.raises(CliError, match=why) as error:
        run(place, *names, what="verify")
    assert error.value.code == 2
    assert played.books == []


def test_a_host_that_cannot_be_reached_is_told_by_verify(
    place: Path,  # noqa: F811
    played: Played,
    capsys: pytest.CaptureFixture[str],
) -> None:
    played.then = lambda _: playbook.Outcome(code=4, unreachable={"shop1": "no route"})
    with pytest.raises(CliError, match="shop1: unreachable"):
        run(place, "shop", "stock", what="verify")
    assert "shop1 did not answer, so nothing was asked" in capsys.readouterr().out


def test_rollover_is_a_run_of_site_and_fails_where_a_host_keeps_its_anchor(
    place: Path,  # noqa: F811
    played: Played,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = record.folder(place)
    old, new = (new_anchor("store1.shop.mesh", 1_700_000_000).certificate for _ in range(2))
    anchors.keep(folder, {"store1": old})

    def become(anchor: str) -> Callable[[Any], playbook.Outcome]:
        def then(_: Any) -> playbook.Outcome:
            anchors.keep(folder, {"store1": anchor})
            return playbook.Outcome()

        return then

    played.then = become(old + new)
    assert run(place, "store1", what="rollover") == 1
    assert "Both anchors are trusted: store1." in capsys.readouterr().out
    played.then = become(new)
    assert run(place, "store1", what="rollover") == 0
    assert played.books == ["site", "site"]
    assert played.variables == {"vmesh_rollover": "store1"}
    assert "nobody trusts the former one: store1." in capsys.readouterr().out
    assert run(place, "store1", what="rollover") == 1
    assert "The anchor of before: store1." in capsys.readouterr().out
    run(place, "stock", what="rollover")
    assert played.variables == {"vmesh_rollover": "store1,store2"}
    run(place, what="rollover")
    assert played.variables == {"vmesh_rollover": ",".join(hosts(place))}


def applied(place: Path) -> None:  # noqa: F811 - the fixture
    """Record that the inventory was applied, with an anchor of each host."""
    of = read(place)
    known = {host: f"<{host}>" for host in hosts(place)}
    plan = security.target(of.spec.mesh, known)
    for host, state in worlds.states(of.inventory, render=Renderer().files, security=plan).items():
        record.write(record.folder(place), host, state)


def test_revoke_says_what_the_inventory_needs_and_changes_nothing(
    place: Path,  # noqa: F811
    played: Played,
    capsys: pytest.CaptureFixture[str],
) -> None:
    applied(place)
    assert run(place, "store1", what="revoke") == 1
    said = capsys.readouterr().out
    assert "mesh_security:\n    revoked: [store1]\n" in said
    assert "and take store1 out of group stores." in said
    assert "Nothing was changed: store1 is trusted." in said
    assert played.books == []
    with pytest.raises(CliError, match=r"Name one host to revoke. Known: .*store2") as error:
        run(place, "stock", what="revoke")
    assert error.value.code == 2


def test_revoke_now_changes_the_files_of_those_who_trust_the_host(
    place: Path,  # noqa: F811
    played: Played,
    capsys: pytest.CaptureFixture[str],
) -> None:
    applied(place)
    seen: dict[tuple[str, str], dict[str, str]] = {}

    def look(variables: dict[str, Any]) -> playbook.Outcome:
        for host, proxies in variables["vmesh_revoke"]["proxies"].items():
            for proxy in proxies:
                texts = {path: Path(proxy["folder"], path).read_text() for path in proxy["only"]}
                seen[host, proxy["name"]] = texts
        return outcome

    played.then, outcome = look, playbook.Outcome()
    assert run(place, "store1", what="revoke", now=True) == 0
    assert played.books == ["revoke"]
    shop = seen["shop1", "shop"]
    assert sorted(shop) == [
        "endpoints/stock.json",
        "routes/ingress.json",
        "trust/upstream_stock.json",
    ]
    assert "<store1>" not in shop["trust/upstream_stock.json"]
    assert "<store2>" in shop["trust/upstream_stock.json"]
    assert "spiffe://store1.shop.mesh/" in shop["routes/ingress.json"]
    assert not [host for host, _ in seen if host == "store1"]
    said = capsys.readouterr().out
    assert "refuse store1 now." in said
    assert "Until the inventory has the lines above" in said
    outcome = playbook.Outcome(code=4, unreachable={"shop1": "no route"})
    assert run(place, "store1", what="revoke", now=True) == 1
    assert "shop1 may still trust store1. Run this again." in capsys.readouterr().out


def test_revoke_follows_the_inventory_that_has_it(
    place: Path,  # noqa: F811
    played: Played,
    capsys: pytest.CaptureFixture[str],
) -> None:
    applied(place)
    data = json.loads(place.read_text())
    data["all"]["vars"]["mesh_security"]["revoked"] = ["store1"]
    del data["all"]["children"]["stores"]["hosts"]["store1"]
    place.write_text(json.dumps(data))
    assert run(place, "store1", what="revoke") == 0
    said = capsys.readouterr().out
    assert "refuse store1 now." in said
    assert "inventory" not in said
    # Where the run of site.yml came first, nothing is left to do.
    applied(place)
    played.books.clear()
    assert run(place, "store1", what="revoke") == 0
    assert "Nobody trusts store1." in capsys.readouterr().out
    assert played.books == []


def test_revoke_says_that_plaintext_needs_no_identity(
    place: Path,  # noqa: F811
    played: Played,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place.write_text(place.read_text().replace('"strict"', '"permissive"'))
    applied(place)
    assert run(place, "store1", what="revoke", now=True) == 0
    assert "In plaintext store1 is still heard" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "options", "why"),
    [
        ("renew", {"now": True}, "certs renew does not take --now"),
        ("rollover", {"as_json": True}, "certs rollover does not take --json"),
        ("revoke", {"names": ("store1", "store2")}, "certs revoke does not take a second name"),
    ],
)
def test_what_has_no_meaning_is_refused(
    place: Path,  # noqa: F811
    played: Played,
    what: str,
    options: dict[str, Any],
    why: str,
) -> None:
    with pytest.raises(CliError, match=why) as error:
        run(place, *options.pop("names", ()), what=what, **options)
    assert error.value.code == 2
    assert played.books == []


def test_revoke_does_not_guess_what_a_host_has(place: Path, played: Played) -> None:  # noqa: F811
    applied(place)
    folder = record.folder(place)
    state = record.read(folder)["shop1"]
    state["files"]["shop"]["trust/upstream_stock.json"] = "made by another release"
    record.write(folder, "shop1", state)
    with pytest.raises(CliError, match="what shop1 has is not known here to the letter"):
        run(place, "store1", what="revoke", now=True)
    assert played.books == []
