"""Requests by mTLS that tell why they are refused, and a host that is revoked, with real Envoys."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils import mutual_request
from plugins.module_utils.certificates import new_leaf
from plugins.module_utils.envoy_apply import bring
from tests.native.mutual import DOMAIN, UNDECLARED, MutualMesh, mesh
from tests.native.native import ask, eventually, free_port
from vmesh.cli.output.certs_verify import Pair
from vmesh.rollout import revocation

SERVICE1, SERVICE2 = (f"spiffe://web{n}.{DOMAIN}/service{n}" for n in (1, 2))
LONG_AGO = 1_600_000_000


@pytest.fixture(scope="module")
def made(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MutualMesh]:
    with ExitStack() as stack:
        made = MutualMesh(envoy, tmp_path_factory.mktemp("verify"), stack)
        made.apply(mesh("strict"), ("service1", "service2", "service3", "service4"))
        yield made


def asked(made: MutualMesh, proxy: str = "service1", **other: Any) -> dict[str, Any]:
    """Return what came of a request to service2."""
    target = {
        "service": "service2",
        "address": "127.0.0.1",
        "port": made.port("service2"),
        "anchor": made.anchors["web2"].certificate,
        "identity": SERVICE2,
    }
    return mutual_request.ask(made.folder(proxy), {**target, **other}, seconds=2)


def note(found: dict[str, Any], *, declared: bool = False) -> str:
    """Return what a person is told of it."""
    return Pair("one", "web1", "service2", "web2", "10.0.0.2:9002", declared, **found).note


def test_a_caller_is_answered(made: MutualMesh) -> None:
    found = asked(made)
    assert found == {
        "why": "",
        "said": "",
        "tls": "TLSv1.3",
        "identity": SERVICE2,
        "status": 200,
    }
    assert made.app.requests[-1].headers["traceparent"].endswith("-00")
    assert note(found) == ""


def test_who_is_not_declared_is_told_who_refuses_it(made: MutualMesh) -> None:
    # On the host of a caller, and on another one.
    found = asked(made, "service3")
    assert (found["why"], found["status"], found["identity"]) == ("forbidden", 403, SERVICE2)
    assert "refuses its requests (RBAC) -> add service2 to `calls`" in note(found)
    assert "run site.yml: web2 does not have yet" in note(found, declared=True)
    found = asked(made, "service4")
    assert (found["why"], found["status"], found["tls"]) == ("unknown-authority", None, "TLSv1.3")
    assert "from which nobody may call it: an unknown authority" in note(found)


@pytest.mark.parametrize(
    ("name", "signer", "until", "why"),
    [
        (SERVICE1, "web1", LONG_AGO, "expired"),
        (f"spiffe://web4.{DOMAIN}/service4", "web4", None, "unknown-authority"),
        (f"spiffe://web2.{DOMAIN}/service1", "web1", None, "refused"),
    ],
    ids=["expired", "unknown authority", "name constraint"],
)
def test_the_callee_says_what_is_wrong_with_a_leaf(
    made: MutualMesh, name: str, signer: str, until: int | None, why: str
) -> None:
    leaf = new_leaf(made.anchors[signer], name, until or int(time.time()) + 3600)
    made.show("service1", leaf)
    found = asked(made)
    assert found["why"] == why
    assert " -> " in note(found)
    made.show("service1", made.leaf("web1", "service1"))
    assert asked(made)["why"] == ""


@pytest.mark.parametrize(
    ("name", "signer", "until", "why"),
    [
        (SERVICE2, "web2", LONG_AGO, "peer-expired"),
        (f"spiffe://web4.{DOMAIN}/service4", "web4", None, "peer-unknown-authority"),
        (f"spiffe://web4.{DOMAIN}/service2", "web2", None, "peer-foreign-name"),
        (f"spiffe://web2.{DOMAIN}/other", "web2", None, "peer-other-identity"),
    ],
    ids=["expired", "unknown authority", "name constraint", "SAN"],
)
def test_the_caller_says_what_is_wrong_with_a_leaf(
    made: MutualMesh, name: str, signer: str, until: int | None, why: str
) -> None:
    leaf = new_leaf(made.anchors[signer], name, until or int(time.time()) + 3600)
    made.show("service2", leaf)
    assert eventually(lambda: asked(made)["why"] == why), asked(made)
    assert " -> " in note(asked(made))
    made.show("service2", made.leaf("web2", "service2"))
    assert eventually(lambda: asked(made)["why"] == "")


def test_what_is_no_matter_of_identities_is_told_too(made: MutualMesh) -> None:
    found = asked(made, port=free_port())
    assert found["why"] == "nobody-listens"
    assert "nothing listens on 10.0.0.2:9002 -> ./mesh logs service2 --on web2" in note(found)
    found = asked(made, port=made.app.port)
    assert found["why"] == "plaintext"
    identity = made.folder("service1") / "identity/identity.json"
    text = identity.read_text()
    identity.write_text("{}")
    found = asked(made)
    assert found["why"] == "no-identity"
    assert "holds no secret" in found["said"]
    identity.write_text(text)
    assert asked(made, "service4", anchor="")["why"] == "no-anchor"


def test_a_firewall_that_drops_is_told_as_one(
    made: MutualMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dropped(*_: Any, **__: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", dropped)
    found = asked(made)
    assert found["why"] == "timeout"
    assert "a firewall drops it, or web2 is off" in note(found)


def test_a_revoked_host_is_refused_on_open_connections_and_on_new_ones(
    made: MutualMesh,
) -> None:
    """By `./mesh certs revoke`: of the files as they are, those change by which it was trusted."""
    declared = mesh("strict", **UNDECLARED)
    made.apply(declared, ("service2", "service4"))
    app = made.caller("service4")
    assert app.ask().status == 200
    assert asked(made, "service4")["why"] == ""
    before = made.stat("service4", "cluster.service2.upstream_cx_total")
    service2 = made.proxies["service2"]
    old = service2.files()
    view = revocation.without(service2.plan.view, "web4", f"spiffe://web4.{DOMAIN}/", "10.0.0.4")
    service2.plan = replace(service2.plan, view=view)
    new = service2.files()
    changed = {path for path in new if new[path] != old[path]}
    assert changed == {"trust/callers.json", "routes/ingress.json"}
    bring(service2.proxy, {**old, **{path: new[path] for path in changed}})
    assert app.ask().status == 403
    assert made.stat("service4", "cluster.service2.upstream_cx_total") == before
    assert asked(made, "service4")["why"] == "unknown-authority"
    # Others go on.
    assert made.call("service1").status == 200
    assert ask(made.port("service1", "egress-service2")).status == 200
