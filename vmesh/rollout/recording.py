"""The end of a run: the records of the hosts and the line of the history, from their results."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vmesh.render.renderer import Renderer
from vmesh.rollout import changes, desired_state, history, record
from vmesh.rollout.host_result import HostResult
from vmesh.rollout.record import HostRecord

Results = Mapping[str, HostResult]


@dataclass
class MeshRun:
    """A run as it is written down in the folder `place`.

    number, who, asked: which run it is, who runs it, and what was asked for in a word or two
    whole: whether all of site.yml ran; what else did is no state that could be recorded
    earlier: the records of its hosts before it
    written: the hosts whose record has changed
    """

    place: Path
    number: int
    who: str
    asked: str
    whole: bool
    earlier: dict[str, HostRecord] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)

    def load_earlier(self, results: Results) -> None:
        """Read the records of the hosts."""
        self.earlier = record.earlier_of(self.place, results)

    def applied(
        self,
        results: Results,
        wanted: Mapping[str, HostRecord],
        sentences: Mapping[str, Sequence[str]],
    ) -> None:
        """Record the hosts that have what the run was to give them; raises OSError.

        wanted, sentences: as desired_state.load_decided returns them
        """
        states = {}
        for host, result in results.items():
            if result.result not in {history.APPLIED, history.UNCHANGED} or not self.whole:
                continue
            if host not in wanted:  # it has left the mesh, and nothing of it is there any more
                record.forget(self.place, [host])
                continue
            left = record.left_behind(self.earlier.get(host), wanted[host])
            states[host] = {**wanted[host], "left": [] if result.removed else left}
            self._write(host, result, states[host])
        self._write_line(results, states, sentences)

    def rolled_back(self, results: Results, parts: Sequence[str]) -> None:
        """Record the hosts that went back to an earlier state, as they were then; raises OSError.

        parts: those that went back; all without any
        """
        states = {}
        for host, result in results.items():
            present = self.earlier.get(host)
            if result.result != history.ROLLED_BACK or present is None:
                continue
            then = history.state(self.place, host, result.snapshot)
            states[host] = history.rolled_back(present, then, parts)
            self._write(host, result, states[host])
        # Only the hosts knew which state that would be, so what changed is not known before.
        rerender = desired_state.rerender(Renderer())
        sentences = changes.sentences(self.earlier, {**self.earlier, **states}, rerender)
        self._write_line(results, states, sentences)

    def _write(self, host: str, result: HostResult, state: HostRecord) -> None:
        earlier = self.earlier.get(host)
        if earlier and result.before == 0 < result.after and not history.numbers(self.place, host):
            # The host calls 0 what was there before it kept snapshots.
            history.keep(self.place, host, 0, earlier)
        if record.write(self.place, host, state):
            self.written.append(host)
        if history.UNRECORDED not in state and result.after:
            history.keep(self.place, host, result.after, state)

    def _write_line(
        self,
        results: Results,
        states: Mapping[str, HostRecord],
        sentences: Mapping[str, Sequence[str]],
    ) -> None:
        """Write the line of the run, if it changed anything or anything went wrong."""
        told = {host: each for host, each in results.items() if each.result != history.UNCHANGED}
        if all(each.result == history.NOT_BEGUN for each in told.values()):
            return
        hosts = {}
        for host, each in told.items():
            partial = each.result == history.APPLIED and not self.whole
            line = {
                "from": each.before,
                "to": each.after,
                "result": history.PARTIAL if partial else each.result,
            }
            if each.cause:
                line["cause"] = each.cause
            if state := states.get(host):
                if sentences.get(host):
                    line["what"] = list(sentences[host])
                line |= {"versions": history.versions(state), "state": history.short(state)}
            hosts[host] = line
        history.append(
            self.place,
            {
                "run": self.number,
                "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "who": self.who,
                "asked": self.asked,
                "hosts": hosts,
            },
        )


def by_result(results: Results) -> dict[str, list[str]]:
    """Return the hosts by what became of them; the keys have _ for a space."""
    return {
        word.replace(" ", "_"): [host for host, each in results.items() if each.result == word]
        for word in (
            history.APPLIED,
            history.RESTORED,
            history.FAILED,
            history.NOT_BEGUN,
            history.UNREACHABLE,
            history.UNCHANGED,
            history.ROLLED_BACK,
        )
    }
