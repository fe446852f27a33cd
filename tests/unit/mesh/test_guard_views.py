"""Jaeger and the Envoy before it: where each listens, who may send spans, what a run says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from plugins.module_utils.envoy_unit import Systemd
from plugins.module_utils.transaction import begin, restore
from plugins.plugin_utils.host_plan import what_runs_on
from tests.unit.mesh import worlds
from tests.unit.mesh.played import Host, asked
from tests.unit.mesh.test_rollout import SETTINGS
from tests.unit.mesh.test_security_views import STRICT, Edit, compiled, proxy, target
from vmesh.compile.host_spec import HostSpec
from vmesh.compile.security import BOTH, MTLS
from vmesh.model.access_types import STRICT as STRICT_MODE
from vmesh.rollout import changes
from vmesh.rollout.batches import rollout
from vmesh.rollout.record import parts_of
from vmesh.rollout.stages import Seen, Wanted, stages

OFF: Edit = ("mesh_security", {"mtls": "off"})
SPANS = {"4317", "4318", "9411"}


def jaegers(*edits: Edit) -> HostSpec:
    return compiled(*edits).hosts["jaeger1"]


def endpoints(*edits: Edit) -> dict[str, str]:
    found = jaegers(*edits).jaeger
    assert found is not None
    return found.endpoints


def test_in_plaintext_jaeger_has_its_ports_itself() -> None:
    host = jaegers(OFF)
    assert [each.name for each in host.proxies] == ["stock-next"]
    assert endpoints(OFF)["otlp_grpc"] == "10.0.0.6:4317"
    assert endpoints(OFF)["ui"] == "10.0.0.6:16686"
    assert what_runs_on(host, Path("/build"))["guarded"] is False


@pytest.mark.parametrize("mode", ["permissive", "strict"])
def test_with_mtls_an_envoy_has_them_and_jaeger_is_on_loopback(mode: str) -> None:
    edit = ("mesh_security", {"mtls": mode, "trust_domain": "shop.mesh"})
    host = jaegers(edit)
    guard = host.proxies[-1]
    assert (guard.name, guard.unit, guard.user) == (
        "jaeger",
        "envoy@jaeger.service",
        "envoy-jaeger",
    )
    assert {f"{port.address}:{port.port}" for port in guard.ports} == {
        f"10.0.0.6:{port}" for port in SPANS
    }
    assert {each["mtls"]["accept"] for each in guard.view["listeners"]} == {
        BOTH if mode == "permissive" else MTLS
    }
    assert {address.partition(":")[0] for address in endpoints(edit).values()} == {"127.0.0.1"}
    leads = {cluster["name"]: cluster["endpoints"][0] for cluster in guard.view["clusters"]}
    for listener in guard.view["listeners"]:
        to = leads[listener["hands_on_to"]]
        assert (to["address"], to["port"]) == ("127.0.0.1", listener["port"])
    assert host.identity is not None
    assert host.identity.identities["jaeger"] == "spiffe://jaeger1.shop.mesh/jaeger"
    told = what_runs_on(host, Path("/build"))
    assert told["guarded"] is True
    (started,) = [each for each in told["proxies"] if each["name"] == "jaeger"]
    assert started["started_by"] == "jaeger.service"


def test_pages_are_on_the_address_that_the_user_names() -> None:
    found = endpoints(STRICT, ("mesh_operator_bind", "0.0.0.0"))
    assert found["ui"] == "0.0.0.0:16686"
    assert found["otlp_grpc"] == "127.0.0.1:4317"


def test_all_hosts_with_a_proxy_may_send_spans_but_those_that_are_revoked() -> None:
    every = proxy(compiled(STRICT), "jaeger1", "jaeger").view["trust"]["callers"]
    assert every["anchors"] == {host: f"<{host}>" for host in worlds.HOSTS}
    revoked = ("mesh_security", {"mtls": "strict", "trust_domain": "a.mesh", "revoked": ["gone"]})
    plan = replace(target(STRICT), anchors={"gone": "<gone>", "web1": "<web1>"})
    left = proxy(compiled(revoked, plan=plan), "jaeger1", "jaeger").view["trust"]["callers"]
    assert left["anchors"] == {"web1": "<web1>"}


def test_a_proxy_sends_its_spans_to_the_envoy_on_jaegers_host_alone() -> None:
    view = proxy(compiled(STRICT), "shop1", "shop").view
    assert view["trust"]["upstream_jaeger"] == {
        "anchors": {"jaeger1": "<jaeger1>"},
        "identities": ["spiffe://jaeger1.shop.mesh/jaeger"],
        "accept_expired": False,
    }


def test_a_collector_outside_is_spoken_to_as_before() -> None:
    outside = ("mesh_tracing", {"collector": {"host": "spans.example.com"}})
    spec = compiled(STRICT, outside)
    assert not any(each.name == "jaeger" for host in spec.hosts.values() for each in host.proxies)
    (cluster,) = [
        each
        for each in proxy(spec, "shop1", "shop").view["clusters"]
        if each["name"] == "tracing_collector"
    ]
    assert "mtls" not in cluster


@pytest.mark.parametrize("mode", ["off", "strict"])
def test_a_firewall_lets_in_who_sends_spans_and_nobody_else(mode: str) -> None:
    host = jaegers(
        ("mesh_security", {"mtls": mode, "trust_domain": "shop.mesh"}),
        ("mesh_firewall", {"enabled": True, "operators": ["192.0.2.0/24"]}),
    )
    assert host.firewall is not None
    ports = {str(each.port): each for each in host.firewall if each.port != "ssh"}
    # The pages are reached by operators where they are on an address of the host.
    assert ports.keys() == ({"4318", "16686"} if mode == "off" else {"4318"})
    assert ports["4318"].sources == tuple(f"10.0.0.{n}/32" for n in (1, 2, 3, 4, 5))


@pytest.mark.parametrize("mode", ["off", "strict"])
def test_a_firewall_lets_others_send_spans_to_each_of_jaegers_ports(mode: str) -> None:
    host = jaegers(
        ("mesh_security", {"mtls": mode, "trust_domain": "shop.mesh"}),
        ("mesh_firewall", {"enabled": True}),
        ("mesh_tracing/plaintext_from", ["10.9.0.0/24"]),
    )
    assert host.firewall is not None
    open_to_others = {str(each.port) for each in host.firewall if "10.9.0.0/24" in each.sources}
    assert open_to_others == SPANS


def test_a_plan_says_what_becomes_of_jaeger() -> None:
    before, after = (
        worlds.states(worlds.inventory(worlds.changed(edit))) for edit in (OFF, STRICT)
    )
    found = changes.compare(before, after, lambda _: {}, worlds.HOSTS)
    told = {f"{each.part}: {each.text}" for each in found if each.host == "jaeger1"}
    assert "jaeger's Envoy: new Envoy in front of Jaeger, ports 4317, 4318, 9411" in told
    assert "stock-next's Envoy: calls to the collector of spans plaintext -> mTLS" in told


def test_the_envoy_waits_for_jaeger_to_let_go_of_its_ports() -> None:
    after = worlds.states(worlds.inventory(worlds.changed(STRICT)))["jaeger1"]
    assert "envoy@jaeger" in parts_of(after)
    before = worlds.states(worlds.inventory(worlds.changed(OFF)))["jaeger1"]
    there = {"jaeger1": parts_of(before)}
    plan = rollout({"jaeger1": after}, {"jaeger1": before}, there, SETTINGS)
    assert (plan.new, plan.batches) == ({}, (("jaeger1",),))
    bare = rollout({"jaeger1": after}, {}, {"jaeger1": []}, SETTINGS)
    assert "envoy@jaeger" in bare.new["jaeger1"]


def test_a_jaeger_that_takes_no_part_stops_no_new_host() -> None:
    """It knows nobody who is new; spans that are lost are less than a change that cannot be."""
    hosts = {"shop": ["web1", "web9"], "jaeger": ["obs"]}
    anchors = {"web1": "one", "web9": "nine"}
    wanted = Wanted(STRICT_MODE, hosts, {"shop": ["jaeger"]}, ["shop", "jaeger"], anchors)
    shop = Seen(MTLS, {"jaeger": MTLS})
    reports = {"obs": {"jaeger": Seen(MTLS, {}, frozenset({"one"}), None)}, "web1": {"shop": shop}}
    alone = stages(wanted, reports, {"web1", "web9"})
    assert alone.refused == ()
    assert alone.stays == (
        "jaeger on obs takes no spans of web9, which it does not know: it takes no part in this"
        " run. Run site.yml again with obs.",
    )
    together = stages(wanted, reports, {"web1", "web9", "obs"})
    assert together.grant == {"obs": ("jaeger",)}
    assert together.stays == together.refused == ()


def test_jaeger_lets_go_of_its_ports_before_its_envoy_starts(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.jaeger("2.13.0")
    host.systemd.calls.clear()
    unit = "envoy@jaeger.service"
    leaving = tmp_path / "run/vmesh/leaving"
    Systemd(unit, leaving, host.systemd, started_by="jaeger.service").start()
    # One job, by which systemd starts both; and no process that began with other files.
    assert host.systemd.told("stop", "restart") == [["stop", unit], ["restart", "jaeger.service"]]
    host.systemd.calls.clear()
    Systemd("envoy@shop.service", leaving, host.systemd).start()
    assert host.systemd.told("stop", "restart") == [["restart", "envoy@shop.service"]]


def test_a_failed_run_gives_jaeger_its_ports_back(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.jaeger("2.13.0")
    begin(host.machine, asked(1))
    host.jaeger("2.13.0", hours=1)
    host.write("etc/envoy/jaeger/bootstrap.json", "{}")
    host.systemd._do("start", ["envoy@jaeger.service"])
    host.systemd.calls.clear()
    restore(host.machine, asked(1), to=None, cause="it failed")
    told = host.systemd.told("stop", "restart")
    assert told.index(["stop", "envoy@jaeger.service"]) < told.index(["restart", "jaeger.service"])
    assert host.systemd.units["envoy@jaeger.service"].active == "inactive"
    assert not (tmp_path / "etc/envoy/jaeger").exists()
