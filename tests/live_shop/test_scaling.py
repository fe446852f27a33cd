"""One more instance of a service: its callers learn of it, and nothing that runs is disturbed."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from bench.live.site import run_site
from bench.live.waiting import until
from tests.live_shop.shop import Shop, instances, names

pytestmark = pytest.mark.side_effect

# What an Envoy counts when listeners or clusters come, go or change.
DISTURBED = (
    "^listener_manager[.](listener_(added|modified|removed|in_place_updated)"
    "|total_(listeners|filter_chains)_draining)"
    "|^cluster_manager[.]cluster_(added|modified|removed)"
)
# The one task that an existing instance's or caller's host has anything to do for.
CONFIGURE = "vmesh.mesh.envoy : Bring each proxy its configuration and see it accepted"
LINES = 1750
PAUSE = 0.5


@dataclass
class Download:
    """What has come of an export so far."""

    lines: list[str] = field(default_factory=list)
    ended: bool = False


@contextmanager
def download(url: str, path: str) -> Iterator[Download]:
    """Read a slow answer line by line, in a thread of its own, until the test is over."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=120)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 200
    state = Download()
    leave = threading.Event()

    def read() -> None:
        try:
            while not leave.is_set() and (line := response.readline()):
                state.lines.append(line.decode())
        except (OSError, http.client.HTTPException, ValueError):
            pass  # how far it came is what counts
        state.ended = True

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield state
    finally:
        leave.set()
        reader.join(10)
        connection.close()


def disturbed(shop: Shop) -> dict[tuple[str, str], dict[str, int]]:
    """Return what each Envoy of the shop has counted."""
    return {
        (host, proxy): shop.stats(host, proxy, DISTURBED)
        for host, plan in shop.plans()
        for proxy in sorted(names(plan))
    }


def callers_of(shop: Shop, service: str, but: str) -> Iterator[str]:
    """Yield the hosts but one whose proxies call `service`."""
    for host, plan in shop.plans():
        clusters = [cluster["name"] for proxy in plan.proxies for cluster in proxy.view["clusters"]]
        if service in clusters and host != but:
            yield host


def test_one_more_instance_disturbs_nobody(shop: Shop, tmp_path: Path) -> None:
    """It stays when the test is over; applying the inventory itself takes it out again."""
    [there] = shop.hosts_of("catalog")
    new = "east2"
    assert there in shop.hosts_of("catalog", "west")
    assert set(instances(shop.many(8, "/catalog"), "catalog")) == {there}
    more = tmp_path / "more.yml"
    more.write_text(yaml.safe_dump({"catalog": {"hosts": {new: {}}}}))

    before = disturbed(shop)
    assert all(before.values())
    with download(shop.url("backoffice"), f"/export?lines={LINES}&pause={PAUSE}") as export:
        until("the first lines", lambda: len(export.lines) > 3, 30)
        result = run_site([shop.target.inventory, more])
        assert result.outcome.code == 0, result.summary
        print(result.summary)
        # Of the other hosts, only those that call it are changed, and only in that.
        others = {host: tasks for host, tasks in result.changed.items() if host != new}
        assert others == dict.fromkeys(callers_of(shop, "catalog", new), (CONFIGURE,))
        # The edge is in the new instance's zone, so all of its requests go there from now on.
        seen = instances(shop.many(8, "/catalog"), "catalog")
        assert set(seen) == {new}
        so_far = len(export.lines)
        until("more lines of the download", lambda: len(export.lines) > so_far + 3, 60)
        assert not export.ended
    wanted = [f"catalog {number} of {LINES}\n" for number in range(1, len(export.lines) + 1)]
    assert export.lines == wanted
    after = disturbed(shop)
    assert [
        (proxy, before[proxy], after[proxy]) for proxy in before if after[proxy] != before[proxy]
    ] == []
