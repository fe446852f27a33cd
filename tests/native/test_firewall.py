"""The firewall as nft and the kernel take it: who passes, what stays, that nobody is locked out.

The host and its peers are network namespaces, and systemd is played.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from plugins.module_utils import firewall
from plugins.module_utils.firewall import CLOSE, OPEN, REOPEN, Host, Refused, apply, confirm, target
from plugins.module_utils.firewall_rules import Rule, ruleset
from plugins.module_utils.ssh_session import Session
from plugins.module_utils.systemd import Done
from tests.native.network import HOST, STRANGER, WEB1, Namespace, cable, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "there are networks")

SSH_PORT, SERVICE, OTHER = 2222, 9002, 9003


def rule(port: int | str, *sources: str, what: str = "service2") -> Rule:
    return {"port": str(port), "protocol": "tcp", "what": what, "sources": list(sources)}


SSH = rule("ssh", f"{WEB1}/32", what="ssh")
CALLED = rule(SERVICE, f"{WEB1}/32")


class Systemd:
    """Knows whether the unit is enabled, and keeps what it is to do later."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace, self.enabled = namespace, False
        self.later: Sequence[str] = ()

    def __call__(self, arguments: Sequence[str]) -> Done:
        command = list(arguments)
        if command[0] == "systemd-run":
            self.later = command[command.index("--") + 1 :]
        elif command[:2] == ["systemctl", "stop"]:
            self.later = ()
        elif command[:2] in (["systemctl", "enable"], ["systemctl", "disable"]):
            self.enabled = command[1] == "enable"
        elif command[:2] in (["systemctl", "is-enabled"], ["systemctl", "is-active"]):
            return Done(0 if self.enabled else 1)
        elif command[0] != "systemctl":
            return self.namespace.run(command)
        return Done(0)

    def a_minute_passes(self) -> None:
        if self.later:
            assert self.namespace.run(self.later).code == 0
        self.later = ()


class Stage:
    """A host with listeners, its peer, and what a run does there."""

    def __init__(self, root: Path, host: Namespace, peer: Namespace) -> None:
        self.root, self.host, self.peer = root, host, peer
        self.systemd, self.connections = Systemd(host), 0
        unit = root / "etc/systemd/system" / firewall.UNIT
        unit.parent.mkdir(parents=True)
        unit.write_text("# Written by the role firewall.\n")
        for port in (SSH_PORT, SERVICE, OTHER):
            host.tell("listen", HOST, port)

    def through(self, connection: int) -> Host:
        """Return the host as it is reached by an ssh connection."""
        return Host(self.root, self.systemd, Session(WEB1, 40000 + connection, SSH_PORT))

    def change(self, operation: str, *rules: Rule) -> bool:
        """Change the rules and confirm that as a run does; return whether `close` has work."""
        by = self.through(self.connections)
        result = apply(by, target(by, operation, rules))
        if result["pending"]:
            self.connections += 1
            by = self.through(self.connections)
            confirm(by, target(by, operation, rules))
        return bool(result["more"])

    def protect(self, *rules: Rule) -> None:
        assert self.change(OPEN, *rules)
        self.change(CLOSE, *rules)

    def reached(self, port: int, source: str = WEB1) -> str:
        return str(self.peer.tell("connect", source, HOST, port))

    def table(self) -> str:
        return self.host.run([firewall.NFT, "-s", "list", "table", "inet", "vmesh"]).out


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with cable() as (host, peer):
        yield Stage(tmp_path, host, peer)


def test_only_who_is_named_gets_in(stage: Stage) -> None:
    assert [stage.reached(SERVICE, each) for each in (WEB1, STRANGER)] == ["open", "open"]
    stage.protect(SSH, CALLED)
    assert [stage.reached(SERVICE, each) for each in (WEB1, STRANGER)] == ["open", "dropped"]
    assert [stage.reached(SSH_PORT, each) for each in (WEB1, STRANGER)] == ["open", "dropped"]
    assert [stage.reached(OTHER, each) for each in (WEB1, STRANGER)] == ["dropped", "dropped"]
    assert [stage.reached(7777, each) for each in (WEB1, STRANGER)] == ["dropped", "dropped"]


def test_the_host_reaches_itself_and_everybody_and_answers_pings(stage: Stage) -> None:
    stage.protect(SSH)
    assert stage.host.tell("connect", HOST, HOST, OTHER) == "open"
    stage.peer.tell("listen", WEB1, 7000)
    assert stage.host.tell("connect", HOST, WEB1, 7000) == "open"
    assert stage.peer.tell("ping", STRANGER, HOST) == 0  # the type of an echo reply


def call_out(stage: Stage) -> None:
    """Have the host call its peer, which may then speak at any time."""
    stage.peer.tell("listen", WEB1, 7000)
    assert stage.host.tell("connect", HOST, WEB1, 7000) == "open"
    stage.peer.tell("accept", 7000)


def test_a_call_that_is_under_way_outlives_the_first_rules(stage: Stage) -> None:
    call_out(stage)
    assert stage.change(OPEN, SSH)
    assert stage.reached(7777) == "refused"  # nothing is dropped yet
    stage.peer.tell("say", "1")
    assert stage.host.tell("hear") == "1"
    stage.change(CLOSE, SSH)
    stage.peer.tell("say", "2")
    assert stage.host.tell("hear") == "2"


def test_rules_that_drop_at_once_would_cut_it(stage: Stage) -> None:
    call_out(stage)
    stage.change(CLOSE, SSH)
    stage.peer.tell("say", "1")
    assert stage.host.tell("hear") == "nothing"


def test_a_connection_outlives_the_end_of_its_rule_and_a_new_one_is_dropped(stage: Stage) -> None:
    stage.protect(SSH, CALLED)
    assert stage.reached(SERVICE) == "open"
    stage.host.tell("accept", SERVICE)
    assert stage.change(OPEN, SSH), "open closes nothing, and says that there is something to close"
    assert CALLED["what"] in stage.table()
    stage.change(CLOSE, SSH)
    stage.host.tell("say", "alive")
    assert stage.peer.tell("hear") == "alive"
    assert stage.reached(SERVICE) == "dropped"


def test_rules_that_nobody_confirms_give_way_to_the_earlier_ones(stage: Stage) -> None:
    stage.protect(SSH, CALLED)
    before = stage.table()
    by = stage.through(7)
    assert apply(by, target(by, CLOSE, [rule("ssh", "192.0.2.0/24", what="ssh")]))["pending"]
    assert stage.reached(SSH_PORT) == "dropped"
    stage.systemd.a_minute_passes()
    assert stage.reached(SSH_PORT) == "open"
    assert stage.table() == before
    # What comes back at boot has never been another.
    assert "192.0.2.0" not in (stage.root / firewall.RULESET).read_text()
    assert "192.0.2.0" not in (stage.root / firewall.STATE).read_text()


def test_the_first_rules_that_nobody_confirms_give_way_to_none_that_drop(stage: Stage) -> None:
    stage.change(OPEN, SSH)
    by = stage.through(7)
    assert apply(by, target(by, CLOSE, [CALLED]))["pending"]
    stage.systemd.a_minute_passes()
    assert stage.reached(SSH_PORT, STRANGER) == "open"
    assert not (stage.root / firewall.RULESET).exists()
    assert not stage.systemd.enabled


def test_the_connection_that_changed_the_rules_proves_nothing(stage: Stage) -> None:
    stage.change(OPEN, SSH)
    by = stage.through(7)
    apply(by, target(by, CLOSE, [SSH]))
    with pytest.raises(Refused, match="no new one"):
        confirm(by, target(by, CLOSE, [SSH]))
    assert stage.systemd.later, "the way back must still be due"
    assert not (stage.root / firewall.RULESET).exists()


def test_a_confirmation_that_comes_too_late_counts_for_nothing(stage: Stage) -> None:
    stage.change(OPEN, SSH)
    by, late = stage.through(7), stage.through(8)
    apply(by, target(by, CLOSE, [SSH]))
    stage.systemd.a_minute_passes()
    with pytest.raises(Refused, match="No new connection came within"):
        confirm(late, target(late, CLOSE, [SSH]))
    assert not (stage.root / firewall.RULESET).exists()


def test_the_way_back_of_a_run_that_broke_off_is_not_lost_to_the_next(stage: Stage) -> None:
    stage.protect(SSH, CALLED)
    before = stage.table()
    for port in (OTHER, 7777):
        by = stage.through(port)
        apply(by, target(by, CLOSE, [rule(port, f"{WEB1}/32")]))
    stage.systemd.a_minute_passes()
    assert stage.table() == before


def test_a_second_run_changes_nothing_and_one_after_a_flush_brings_all_back(stage: Stage) -> None:
    stage.protect(SSH, CALLED)
    by = stage.through(20)
    unchanged = {"changed": False, "more": False, "pending": False}
    assert apply(by, target(by, OPEN, [SSH, CALLED])) == unchanged
    assert stage.host.run([firewall.NFT, "flush", "ruleset"]).code == 0
    assert apply(by, target(by, OPEN, [SSH, CALLED]), dry=True)["changed"]
    assert stage.table() == ""
    stage.protect(SSH, CALLED)
    assert stage.reached(SERVICE, STRANGER) == "dropped"


def test_the_rules_of_others_stay(stage: Stage) -> None:
    stage.host.run([firewall.NFT, "add", "table", "inet", "theirs"])
    stage.protect(SSH)
    assert firewall.remove(stage.through(0))
    assert stage.host.run([firewall.NFT, "list", "tables"]).out == "table inet theirs\n"


def test_a_rollback_opens_what_the_last_three_runs_have_closed(stage: Stage) -> None:
    stage.protect(SSH, *(rule(port, f"{WEB1}/32") for port in (9001, SERVICE, OTHER)))
    for left in ((9001, SERVICE), (9001,), ()):
        stage.change(CLOSE, SSH, *(rule(port, f"{WEB1}/32") for port in left))
    assert stage.reached(OTHER) == "dropped"
    stage.change(REOPEN)
    assert [stage.reached(port) for port in (SERVICE, OTHER)] == ["open", "open"]
    assert stage.reached(OTHER, STRANGER) == "dropped"


def test_what_is_kept_for_the_next_boot_makes_the_same_table(stage: Stage) -> None:
    stage.protect(SSH, CALLED, rule(53, "2001:db8::/32", what="front's admin pages"))
    loaded = stage.table()
    stage.host.run([firewall.NFT, "flush", "ruleset"])
    # As the unit does it, twice as a reload would.
    for _ in range(2):
        done = stage.host.run([firewall.NFT, "-f", str(stage.root / firewall.RULESET)])
        assert (done.code, done.err) == (0, "")
    assert stage.table() == loaded


def test_a_host_that_knows_no_names_of_protocols_takes_the_rules(tmp_path: Path) -> None:
    path = tmp_path / "firewall.nft"
    path.write_text(ruleset([SSH, CALLED], 22, drop=True))
    nameless = '[ ! -e /etc/protocols ] || mount --bind /dev/null /etc/protocols; exec "$0" -f "$1"'
    done = subprocess.run(
        ["unshare", "-rnm", "sh", "-c", nameless, firewall.NFT, path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_rules_that_nft_refuses_change_nothing(stage: Stage) -> None:
    stage.protect(SSH)
    before = stage.table()
    by = stage.through(20)
    with pytest.raises(Refused, match="unshare --net sh:"):
        apply(by, target(by, CLOSE, [rule(99999, f"{WEB1}/32")]))
    assert stage.table() == before


def test_removal_opens_the_host_and_leaves_nothing(stage: Stage) -> None:
    stage.protect(SSH)
    assert firewall.remove(stage.through(0), dry=True)
    assert stage.reached(OTHER) == "dropped"
    assert firewall.remove(stage.through(0))
    assert stage.reached(OTHER, STRANGER) == "open"
    assert [path for path in stage.root.rglob("*") if path.is_file()] == []
    assert not firewall.remove(stage.through(0))
