"""mTLS between real Envoys: who is let in, who is not, and what each side is told."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from plugins.module_utils import mutual_tls
from plugins.module_utils.canary import QUERY, count
from plugins.module_utils.certificates import new_anchor, new_leaf
from plugins.module_utils.envoy_apply import Refused
from plugins.module_utils.unix_http import status_of
from tests.native.mutual import DOMAIN, HOSTS, UNDECLARED, MutualMesh, logged, mesh
from tests.native.native import Client, ask, eventually
from vmesh.compile.security import BOTH, MTLS, PLAINTEXT

SERVICE1, SERVICE2 = (f"spiffe://web{n}.{DOMAIN}/service{n}" for n in (1, 2))
PAIR = ("service1", "service2")


@pytest.fixture
def made(envoy: Path, tmp_path: Path) -> Iterator[MutualMesh]:
    with ExitStack() as stack:
        yield MutualMesh(envoy, tmp_path, stack)


def speaks_plaintext(made: MutualMesh, source: str = "127.0.0.1") -> bool:
    try:
        return ask(made.port("service2"), source=source).status == 200
    except OSError:
        return False


def test_off_is_plaintext(made: MutualMesh) -> None:
    made.apply(mesh("off"), PAIR)
    assert made.call("service1").status == 200
    assert speaks_plaintext(made)
    assert not made.stat("service2", "[.]ssl[.]")


def test_permissive_takes_both_and_counts_plaintext_apart(made: MutualMesh) -> None:
    made.apply(mesh("permissive"), PAIR)
    assert made.call("service1").status == 200
    assert logged(made, "service2", peer=SERVICE1, tls="TLSv1.3", status=200)
    assert speaks_plaintext(made)
    assert logged(made, "service2", peer=None, tls=None, status=200)
    counted = made.stat("service2", "downstream_rq_total")
    assert counted["http.ingress.downstream_rq_total"] == 1
    assert counted["http.ingress_plain.downstream_rq_total"] == 1
    # Who watches a canary sees either kind.
    assert count(made.proxies["service2"].proxy.admin.get(QUERY)[1])["requests"] == 2


def test_strict_takes_mtls_alone(made: MutualMesh) -> None:
    made.apply(mesh("strict"), PAIR)
    for _ in range(3):
        assert made.call("service1").status == 200
    with pytest.raises(ConnectionError):
        ask(made.port("service2"))
    # A TLS client without a certificate, and the oldest version that is spoken.
    with pytest.raises(OSError):
        ask_tls(made, ssl.TLSVersion.TLSv1_3)
    with pytest.raises(ssl.SSLError):
        ask_tls(made, ssl.TLSVersion.TLSv1_2)
    assert len(made.app.requests) == 3
    # Who calls is no secret, but nobody has asked for it.
    assert "x-forwarded-client-cert" not in made.app.requests[-1].headers


def ask_tls(made: MutualMesh, version: ssl.TLSVersion) -> int:
    """Ask service2 by TLS without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    client = Client(made.port("service2"))
    client.connection.connect()
    client.connection.sock = context.wrap_socket(client.connection.sock)
    return client.ask().status


def test_every_connection_is_verified_anew(made: MutualMesh) -> None:
    """A resumed session would let an expired identity in."""
    made.apply(mesh("strict"), ["service2"])
    leaf = made.leaf("web1", "service1")
    (file := made.root / "service1.pem").write_text(leaf.certificate + leaf.key)
    context = ssl.create_default_context(cadata=made.pems()["web2"])
    context.check_hostname = False
    context.load_cert_chain(file)
    session = None
    for _ in range(2):
        plain = socket.create_connection(("127.0.0.1", made.port("service2")), 10)
        with context.wrap_socket(plain, session=session) as secured:
            secured.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert secured.recv(20).startswith(b"HTTP/1.1 200")
            assert not secured.session_reused
            session = secured.session
            assert session is None or not session.has_ticket


def test_an_edge_speaks_mtls_to_its_services(made: MutualMesh) -> None:
    made.apply(mesh("strict"), ("front", "service1"))
    assert ask(made.port("front", "public")).status == 200
    assert logged(made, "service1", peer=f"spiffe://gw1.{DOMAIN}/front", tls="TLSv1.3")
    # Its own listener is for clients of any kind.
    assert logged(made, "front", listener="public", status=200)


def test_who_is_not_declared_gets_403_and_both_sides_have_a_span(made: MutualMesh) -> None:
    made.apply(mesh("strict"), PAIR)
    made.apply(mesh("strict", **UNDECLARED), ["service3"])
    answer = made.call("service3")
    assert (answer.status, answer.text) == (403, "RBAC: access denied")
    assert made.call("service1").status == 200
    assert not [each for each in made.app.requests if each.path != "/"]
    assert len(made.app.requests) == 1
    assert logged(
        made,
        "service2",
        peer=f"spiffe://web1.{DOMAIN}/service3",
        status=403,
        details="rbac_access_denied_matched_policy[none]",
    )

    def refusals() -> set[str]:
        return {
            span["localEndpoint"]["serviceName"]
            for span in made.spans()
            if span["tags"].get("http.status_code") == "403"
        }

    assert eventually(lambda: refusals() == {"service2", "service3"})


def test_a_host_that_does_not_call_is_refused_in_the_handshake(made: MutualMesh) -> None:
    made.apply(mesh("strict"), PAIR)
    made.apply(mesh("strict", **UNDECLARED), ["service4"])
    assert made.call("service4").status == 503
    (line,) = made.refused("service2")
    assert "unable to get local issuer certificate" in line["refused"]
    assert line["peer"] == f"spiffe://web4.{DOMAIN}/service4"
    assert line["downstream_direct"].startswith("127.0.0.1:")


def test_a_foreign_name_is_refused_on_either_side(made: MutualMesh) -> None:
    """root on a host signs leaves for another host's proxies with its own anchor."""
    made.apply(mesh("strict"), PAIR)
    made.show("service1", made.leaf("web2", "service1", signer="web1"))
    assert eventually(lambda: made.call("service1").status == 503)
    assert "permitted subtree violation" in made.refused("service2")[0]["refused"]
    made.show("service1", made.leaf("web1", "service1"))
    assert eventually(lambda: made.call("service1").status == 200)


def test_an_identity_of_another_host_is_no_upstream(made: MutualMesh) -> None:
    """Whoever has copied service1's leaf and key from web1 is not taken for service2."""
    made.apply(mesh("strict"), PAIR)
    made.show("service2", made.leaf("web1", "service1"))
    assert eventually(lambda: made.call("service1").status == 503)
    # Even one of the upstream's own host is not, where it is of another proxy.
    made.show("service2", made.leaf("web2", "other"))
    assert made.call("service1").status == 503
    assert eventually(
        lambda: any(
            "SAN_matcher" in str(each["upstream_failure"])
            for each in made.proxies["service1"].access_log()
        )
    )


def test_plaintext_from_a_network_that_is_named(made: MutualMesh) -> None:
    old = {"mesh_services__service2__plaintext_from": ["127.0.0.9/32"]}
    made.apply(mesh("strict", **old), PAIR)
    assert speaks_plaintext(made, source="127.0.0.9")
    assert not speaks_plaintext(made, source="127.0.0.8")
    assert made.call("service1").status == 200
    counted = made.stat("service2", "http.ingress.*downstream_rq_total")
    assert counted["http.ingress_plaintext_from.downstream_rq_total"] == 1
    # They are not among those for whose sake a service stays permissive.
    made.apply(mesh("permissive", **old), ["service2"])
    assert speaks_plaintext(made, source="127.0.0.9")
    assert speaks_plaintext(made, source="127.0.0.8")
    counted = made.stat("service2", "http.ingress.*downstream_rq_total")
    assert counted["http.ingress_plain.downstream_rq_total"] == 1


def test_watch_lets_in_and_counts(made: MutualMesh) -> None:
    watch = {"mesh_security__authorization": "watch"}
    made.apply(mesh("strict", **watch), PAIR)
    made.apply(mesh("strict", **watch, **UNDECLARED), ["service3", "service4"])
    assert made.call("service1").status == 200
    denied = "http.ingress.rbac.shadow_denied"
    assert made.stat("service2", denied).get(denied, 0) == 0
    assert made.call("service3").status == 200
    assert made.call("service4").status == 200
    assert made.stat("service2", denied)[denied] == 2


def test_calls_that_come_and_go_act_on_open_connections_and_cut_none(made: MutualMesh) -> None:
    made.apply(mesh("strict"), PAIR)
    made.apply(mesh("strict", **UNDECLARED), ["service3"])
    app = made.caller("service3")
    assert app.ask().status == 403
    before = made.stat("service3", "cluster.service2.upstream_cx_total")
    listeners = made.stat("service2", "listener_manager.listener_(modified|added|in_place_updated)")
    made.apply(mesh("strict", **UNDECLARED), ["service2"])
    assert app.ask().status == 200
    made.apply(mesh("strict"), ["service2"])
    assert app.ask().status == 403
    assert made.stat("service3", "cluster.service2.upstream_cx_total") == before
    after = made.stat("service2", "listener_manager.listener_(modified|added|in_place_updated)")
    assert after == listeners


def test_a_revoked_host_is_refused_on_open_connections(made: MutualMesh) -> None:
    """web4 has left the inventory, and another host may be called as its services were."""
    declared = mesh("strict", **UNDECLARED)
    made.apply(declared, [*PAIR, "service4"])
    app = made.caller("service4")
    assert app.ask().status == 200
    before = made.stat("service4", "cluster.service2.upstream_cx_total")
    without = {**HOSTS, "web4": ("10.0.0.4", []), "web5": ("10.0.0.5", ["service4"])}
    made.anchors["web5"] = new_anchor(f"web5.{DOMAIN}", 1_700_000_000)
    revoked = mesh("strict", **UNDECLARED, mesh_security__revoked=["web4"])
    made.apply(revoked, ["service2"], hosts=without)
    assert app.ask().status == 403
    assert made.stat("service4", "cluster.service2.upstream_cx_total") == before
    assert made.call("service1").status == 200


def test_a_new_caller_on_a_new_host_is_trusted_without_a_change_of_listeners(
    made: MutualMesh,
) -> None:
    made.apply(mesh("strict"), PAIR)
    made.apply(mesh("strict", **UNDECLARED), ["service4"])
    assert made.call("service4").status == 503
    app = made.caller("service1")
    assert app.ask().status == 200
    before = made.stat("service1", "cluster.service2.upstream_cx_total")
    listeners = made.stat("service2", "listener_manager.listener_(modified|added|in_place_updated)")
    made.apply(mesh("strict", **UNDECLARED), ["service2"])
    assert made.call("service4").status == 200
    # Those that were there have kept their connections.
    assert app.ask().status == 200
    assert made.stat("service1", "cluster.service2.upstream_cx_total") == before
    after = made.stat("service2", "listener_manager.listener_(modified|added|in_place_updated)")
    assert after == listeners


def test_callers_that_the_inventory_has_no_more_are_let_in_as_long_as_the_plan_says(
    made: MutualMesh,
) -> None:
    variables = mesh("strict")
    plan = replace(made.target(variables), still={"service2": [("web4", "service4")]})
    made.apply(variables, PAIR, plan)
    made.apply(mesh("strict", **UNDECLARED), ["service4"])
    app = made.caller("service4")
    assert app.ask().status == 200
    made.apply(variables, ["service2"])
    assert app.ask().status == 403
    # Its host is no longer trusted either.
    app.close()
    assert eventually(lambda: made.call("service4").status == 503)


def test_a_service_goes_from_plaintext_to_mtls_step_by_step(made: MutualMesh) -> None:
    """Who is called accepts both first; then callers speak mTLS; then plaintext goes."""
    variables = mesh("strict")
    for accept, speak in ((PLAINTEXT, PLAINTEXT), (BOTH, PLAINTEXT), (BOTH, MTLS), (MTLS, MTLS)):
        plan = replace(
            made.target(variables), accept={"service2": accept}, speak={"service2": speak}
        )
        made.apply(variables, PAIR, plan)
        assert made.call("service1").status == 200
        assert speaks_plaintext(made) is (accept != MTLS)


def test_an_app_is_told_who_calls_and_nobody_else_can_say_it(made: MutualMesh) -> None:
    told = {"mesh_services__service2__identify_callers": True}
    made.apply(mesh("permissive", **told), PAIR)
    forged = {"x-forwarded-client-cert": "URI=spiffe://web9.shop.mesh/admin"}
    assert ask(made.port("service1", "egress-service2"), headers=forged).status == 200
    seen = made.app.requests[-1].headers["x-forwarded-client-cert"]
    by, digest, uri = seen.split(";")
    assert (by, uri) == (f"By={SERVICE2}", f"URI={SERVICE1}")
    assert re.fullmatch("Hash=[0-9a-f]{64}", digest)
    assert ask(made.port("service2"), headers=forged).status == 200
    assert "x-forwarded-client-cert" not in made.app.requests[-1].headers


def test_a_service_can_be_asked_with_its_own_identity(made: MutualMesh) -> None:
    """As the role flask_service asks whether a release answers through its Envoy."""
    for mode in ("off", "permissive", "strict"):
        made.apply(mesh(mode), ["service2"])
        folder = made.folder("service2")
        connection = mutual_tls.connection_to(folder, "127.0.0.1", made.port("service2"))
        assert status_of(connection, "/healthz", {}) == 200
    counted = made.stat("service2", "http.ingress.*downstream_rq_total")
    assert counted.get("http.ingress_plain.downstream_rq_total", 0) == 0


def test_without_its_identity_a_proxy_does_not_come_up(made: MutualMesh) -> None:
    """Envoy itself would say that it is ready, and refuse all callers for ever."""
    made.apply(mesh("off"), ["service2"])
    (made.folder("service2") / "identity/identity.json").unlink()
    with pytest.raises(Refused, match="identity"):
        made.apply(mesh("permissive"), ["service2"])
    # What was there before is there again.
    assert speaks_plaintext(made)


def test_a_broken_bundle_is_refused_and_the_old_one_stays(made: MutualMesh) -> None:
    made.apply(mesh("strict"), PAIR)
    broken = replace(
        made.target(mesh("strict")), anchors={**made.pems(), "web1": "-----BEGIN CERTIFICATE-----"}
    )
    with pytest.raises(Refused, match=r"sds\.callers\.update_rejected"):
        made.apply(mesh("strict"), ["service2"], broken)
    assert made.call("service1").status == 200
    trusted = json.loads((made.folder("service2") / "trust/callers.json").read_text())
    assert made.pems()["web1"] in json.dumps(trusted).encode().decode("unicode_escape")


def test_no_anchor_known_is_nobody_trusted(made: MutualMesh) -> None:
    made.apply(mesh("strict"), PAIR)
    empty = replace(made.target(mesh("strict")), anchors={})
    with pytest.raises(Refused):
        made.apply(mesh("strict"), ["service2"], empty)
    assert made.call("service1").status == 200


def test_expired_identities_are_accepted_only_when_that_is_said(made: MutualMesh) -> None:
    made.apply(mesh("strict"), PAIR)
    expired = new_leaf(made.anchors["web1"], SERVICE1, 1_600_000_000)
    made.show("service1", expired)
    assert eventually(lambda: made.call("service1").status == 503)
    assert "certificate has expired" in made.refused("service2")[0]["refused"]
    made.apply(mesh("strict", mesh_security__accept_expired=True), ["service2"])
    assert made.call("service1").status == 200
