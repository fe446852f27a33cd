"""`./mesh certs rollover [HOST]`: another anchor for a host, by a run of site.yml."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from vmesh.base import paths
from vmesh.base.exits import FAILED, OK
from vmesh.base.pem import certificates_in
from vmesh.base.words import plural, shortened
from vmesh.cli import certs_playbook
from vmesh.cli.certs_playbook import Planned
from vmesh.remote import playbook
from vmesh.remote.mesh import Mesh
from vmesh.rollout import anchors, record

SITE = paths.playbook("site")


def run(arguments: argparse.Namespace, mesh: Mesh, planned: Planned) -> int:
    """Have hosts sign by new anchors; exit code 1 where one does not in the end."""
    hosts = list(certs_playbook.proxies_of(arguments.name, planned))
    place = record.folder(*arguments.inventory)
    before = anchors.load(place)
    steps = certs_playbook.begin(arguments)
    text = f"rolling over {len(hosts)} {plural('anchor', len(hosts))}, by a run of site.yml"
    with steps.phase("rollover", text), tempfile.TemporaryDirectory(prefix="vmesh-") as folder:
        variables = playbook.extra_vars(Path(folder), **{anchors.ROLLOVER: ",".join(hosts)})
        outcome = playbook.apply(
            arguments.inventory, steps, fast=mesh.has_lab, playbook=SITE, extra=(variables,)
        )
    for line in playbook.summary(outcome):
        steps.note(f"      {line}")
    after = anchors.load(place)
    waiting = [host for host in hosts if len(certificates_in(after.get(host, ""))) > 1]
    same = [host for host in hosts if after.get(host) == before.get(host) and host not in waiting]
    done = [host for host in hosts if host not in (*waiting, *same)]
    if done:
        print(f"A new anchor, and nobody trusts the former one: {shortened(done)}.")
    if waiting:
        print(
            f"Both anchors are trusted: {shortened(waiting)}. The next run of site.yml, or this"
            " command again, goes on when all hosts of the mesh answer."
        )
    if same:
        print(f"The anchor of before: {shortened(same)}.")
    if outcome.code != 0 or waiting or same:
        steps.note(f"log: {steps.log_path}")
        return FAILED
    return OK
