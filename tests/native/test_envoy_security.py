"""What a host reads of its Envoy's files is how that Envoy speaks: seen by asking it both ways."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from plugins.module_utils.envoy_apply import bring
from plugins.module_utils.envoy_documents import text_of
from plugins.module_utils.envoy_files import CLUSTERS, LISTENERS
from plugins.module_utils.envoy_security import BOTH, MTLS, PLAINTEXT, digests, security_of
from tests.native.edges import service_plan
from tests.native.mtls import Document, Proof, matching
from tests.native.native import Native, Upstream, native, port_of, send_to
from vmesh.rollout.stages import Seen


@dataclass
class Shop:
    """A running Envoy of a service, and what its callers prove themselves with."""

    made: Native
    proof: Proof

    def with_chains(self, make: Callable[[Document], list[Document]]) -> None:
        """Give the ingress the chains that `make` makes of its plaintext one."""
        files = self.made.files()
        document = json.loads(files[LISTENERS])
        document["version_info"] += make.__name__
        for listener in document["resources"]:
            if listener["name"] == "ingress":
                self.proof.replace_chains(listener, make(listener["filter_chains"][0]))
        bring(self.made.proxy, {**files, LISTENERS: text_of(document)})

    def accepts(self) -> str | None:
        """Return what is found in its files."""
        found: str | None = security_of(self.made.proxy.store.read())["accepts"]
        return found

    def answers(self) -> set[str]:
        """Return the ways in which it can be asked."""
        return self.proof.answers(port_of(self.made.plan, "ingress"))


@pytest.fixture(scope="module")
def shop(envoy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("security")
    plan = service_plan("shop")
    with Upstream("app") as app, native(envoy, folder, plan) as made:
        send_to(plan, "local_app", app.port)
        bring(made.proxy, made.files())
        yield Shop(made, Proof(folder))


def test_an_envoy_of_today_speaks_plaintext(shop: Shop) -> None:
    bring(shop.made.proxy, shop.made.files())
    assert shop.answers() == {PLAINTEXT}
    assert security_of(shop.made.proxy.store.read()) == {
        "accepts": PLAINTEXT,
        "speaks": {"stock": PLAINTEXT, "pay": PLAINTEXT, "jaeger": PLAINTEXT},
        "knows": [],
        "lets": [],
    }


def test_an_envoy_with_a_chain_of_each_kind_accepts_both(shop: Shop) -> None:
    def both(plain: dict[str, Any]) -> list[dict[str, Any]]:
        return [shop.proof.mtls_chain(plain), matching(plain, transport_protocol="raw_buffer")]

    shop.with_chains(both)
    before = shop.made.proxy.admin.plaintext_requests()
    assert shop.answers() == {PLAINTEXT, MTLS}
    assert shop.accepts() == BOTH
    # One of the two requests.
    assert shop.made.proxy.admin.plaintext_requests() == before + 1


def test_an_envoy_without_a_plaintext_chain_accepts_mtls(shop: Shop) -> None:
    def strict(plain: dict[str, Any]) -> list[dict[str, Any]]:
        return [shop.proof.mtls_chain(plain)]

    shop.with_chains(strict)
    assert shop.answers() == {MTLS}
    assert shop.accepts() == MTLS


def test_plaintext_for_some_networks_is_not_for_callers_in_the_mesh(shop: Shop) -> None:
    def for_one(plain: dict[str, Any]) -> list[dict[str, Any]]:
        one = [{"address_prefix": "127.0.0.9", "prefix_len": 32}]
        only = matching(plain, transport_protocol="raw_buffer", source_prefix_ranges=one)
        return [shop.proof.mtls_chain(plain), only]

    shop.with_chains(for_one)
    assert shop.answers() == {MTLS}
    assert shop.accepts() == MTLS


def test_a_run_takes_its_stages_from_what_the_files_say(shop: Shop) -> None:
    seen = Seen.told(security_of(shop.made.files()))
    assert seen == Seen(PLAINTEXT, {"stock": PLAINTEXT, "pay": PLAINTEXT, "jaeger": PLAINTEXT})


def test_calls_of_services_are_told_from_others(shop: Shop) -> None:
    files = shop.made.files()
    document = json.loads(files[CLUSTERS])
    for cluster in document["resources"]:
        if cluster["name"] == "stock":
            cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls"}
    found = security_of({**files, CLUSTERS: text_of(document)})
    assert found["speaks"] == {"stock": MTLS, "pay": PLAINTEXT, "jaeger": PLAINTEXT}


def test_who_may_call_is_told_by_digests_and_names(shop: Shop) -> None:
    bundle = shop.proof.authority.file.read_text()
    context = {"trusted_ca": {"inline_string": bundle + bundle}}
    principal = {"authenticated": {"principal_name": {"suffix": "/front"}}}
    files = {
        **shop.made.files(),
        "trust/callers.json": text_of({"resources": [{"validation_context": context}]}),
        "routes/ingress.json": text_of({"resources": [{"rules": {"principals": [principal]}}]}),
    }
    found = security_of(files)
    one = x509.load_pem_x509_certificate(bundle.encode()).fingerprint(hashes.SHA256()).hex()[:32]
    assert found["knows"] == [one, one] == digests(bundle + bundle)
    assert found["lets"] == ["front"]


def test_an_envoy_of_an_earlier_release_speaks_plaintext() -> None:
    files = dict.fromkeys(
        (
            "bootstrap.yaml",
            "listeners/listeners.yaml",
            "clusters/clusters.yaml",
            "routes/ingress.yaml",
            "routes/egress-stock.yaml",
            "endpoints/stock.yaml",
            "endpoints/tracing_collector.yaml",
        ),
        "version_info: x",
    )
    found = security_of(files)
    assert (found["accepts"], found["speaks"]) == (
        PLAINTEXT,
        {"stock": PLAINTEXT, "jaeger": PLAINTEXT},
    )
    del files["routes/ingress.yaml"]
    assert security_of(files)["accepts"] is None
