"""A configuration folder that a person has written: the one in the README of the role envoy."""

from __future__ import annotations

import http.server
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleActionFail

from plugins.action.envoy_config import ActionModule
from plugins.module_utils.envoy_admin import Admin
from plugins.module_utils.envoy_apply import Proxy, bring
from plugins.module_utils.envoy_files import Store
from plugins.plugin_utils.envoy_folder import FolderError, read
from tests import role_example
from tests.native.native import NativeEnvoy, free_port
from tests.role_example import FILES

PLACE, SOCKET = "/etc/envoy/web", "/run/envoy/web/admin.sock"
ROUTES = "routes/http.json"
ENDPOINTS = "endpoints/app.json"
RDS = {
    "route_config_name": "http",
    "config_source": {
        "resource_api_version": "V3",
        "path_config_source": {"path": f"{PLACE}/{ROUTES}"},
    },
}
TABLE = {
    "version_info": "1",
    "resources": [
        {"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "http"}
    ],
}

Documents = dict[str, Any]


def documents() -> Documents:
    return {name: json.loads(text) for name, text in FILES.items()}


def written(folder: Path, content: Documents) -> Path:
    """Write documents, and texts as they are."""
    for name, document in content.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(document if isinstance(document, str) else json.dumps(document))
    return folder


def problems(folder: Path, content: Documents) -> list[str]:
    """Return the lines about each problem."""
    with pytest.raises(FolderError) as caught:
        read(written(folder, content), PLACE, SOCKET)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{len(lines)} problem(s) in {folder}; the proxy was not changed:"
    return [line.removeprefix("- ") for line in lines]


def with_rds(content: Documents) -> Documents:
    listener = content["listeners/listeners.json"]["resources"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["route_config"]
    manager["rds"] = RDS
    return content


def test_the_example_is_accepted(tmp_path: Path) -> None:
    written(tmp_path, FILES)
    assert read(tmp_path, PLACE, SOCKET) == documents()
    assert len(FILES) == 3


class App(http.server.BaseHTTPRequestHandler):
    """Answers each request with a status that Envoy itself never gives."""

    def do_GET(self) -> None:
        self.send_response(418)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def app() -> Iterator[int]:
    """Return the port of an app."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), App) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextmanager
def host(envoy: Path, root: Path) -> Iterator[Proxy]:
    """A host's Envoy with the folder root/web, as the module envoy_config sees it."""
    service = NativeEnvoy(envoy, root / "web" / "bootstrap.json", root / "envoy.log")
    store = Store(root / "web", os.getgid(), os.getuid())
    try:
        yield Proxy(store, service, Admin(str(root / "admin.sock")), timeout=20)
    finally:
        service.stop()


def test_the_module_applies_the_example_and_its_changes(
    envoy: Path, app: int, tmp_path: Path
) -> None:
    port = free_port()
    moved = {
        PLACE: str(tmp_path / "web"),
        SOCKET: str(tmp_path / "admin.sock"),
        "0.0.0.0": "127.0.0.1",
        "8080": str(port),
        "7000": str(app),
    }
    folder = role_example.written(tmp_path / "mine", moved)
    with host(envoy, tmp_path) as proxy:

        def apply() -> int:
            content = read(folder, moved[PLACE], moved[SOCKET])
            bring(proxy, {name: json.dumps(document) for name, document in content.items()})
            return _status(f"http://127.0.0.1:{port}/")

        assert apply() == 418
        # A route table of its own, as the README says, and another answer in it then.
        content = {name: json.loads((folder / name).read_text()) for name in FILES}
        with_rds(content)[ROUTES] = json.loads(json.dumps(TABLE))
        table = content[ROUTES]["resources"][0]
        match = {"match": {"prefix": "/"}}
        table["virtual_hosts"] = [
            {"name": "all", "domains": ["*"], "routes": [{**match, "route": {"cluster": "app"}}]}
        ]
        content["listeners/listeners.json"]["version_info"] = "2"
        written(folder, json.loads(json.dumps(content).replace(PLACE, moved[PLACE])))
        assert apply() == 418
        table["virtual_hosts"][0]["routes"] = [{**match, "direct_response": {"status": 204}}]
        content[ROUTES]["version_info"] = "2"
        written(folder, {ROUTES: content[ROUTES]})
        assert apply() == 204


def _status(url: str) -> int:
    """Return the status of a request, once the server is there."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_a_folder_with_routes_and_endpoints_is_accepted(tmp_path: Path) -> None:
    content = with_rds(documents())
    cluster = content["clusters/clusters.json"]["resources"][0]
    cluster["type"] = "EDS"
    endpoints = {
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        **cluster.pop("load_assignment"),
    }
    source = {"path_config_source": {"path": f"{PLACE}/{ENDPOINTS}"}}
    cluster["eds_cluster_config"] = {"eds_config": source}
    content |= {ROUTES: TABLE, ENDPOINTS: {"version_info": "1", "resources": [endpoints]}}
    assert set(read(written(tmp_path, content), PLACE, SOCKET)) == set(content)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=f"{tmp_path}/none is no folder"):
        read(tmp_path / "none", PLACE, SOCKET)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    content = documents()
    del content[name]
    (problem,) = problems(tmp_path, content)
    assert problem.startswith(f"{name} is missing.")


@pytest.mark.parametrize(
    "name",
    ["README.md", "bootstrap.yaml", "routes/a/b.json", "routes/http.yaml", "listeners/x.json"],
)
def test_an_unknown_file_is_named(name: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, documents() | {name: "{}"})
    assert problem.startswith(f"{name} is none of an Envoy's files. Remove it")


def _without_version(content: Documents) -> None:
    del content["clusters/clusters.json"]["version_info"]


def _number_as_version(content: Documents) -> None:
    content["listeners/listeners.json"]["version_info"] = 3


def _more_keys(content: Documents) -> None:
    content["listeners/listeners.json"]["nonce"] = "1"


def _without_name(content: Documents) -> None:
    del content["clusters/clusters.json"]["resources"][0]["name"]


def _wrong_type(content: Documents) -> None:
    listener = content["listeners/listeners.json"]["resources"][0]
    listener["@type"] = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


def _twice(content: Documents) -> None:
    content["clusters/clusters.json"]["resources"] *= 2


def _no_list(content: Documents) -> None:
    content["clusters/clusters.json"]["resources"] = {}


def _text_as_resource(content: Documents) -> None:
    content["clusters/clusters.json"]["resources"] = ["app"]


def _static_listeners(content: Documents) -> None:
    del content["bootstrap.json"]["dynamic_resources"]["lds_config"]


def _other_clusters(content: Documents) -> None:
    source = content["bootstrap.json"]["dynamic_resources"]["cds_config"]["path_config_source"]
    source["path"] = "/etc/envoy/other/clusters/clusters.json"


def _other_admin(content: Documents) -> None:
    content["bootstrap.json"]["admin"] = {"address": {"pipe": {"path": "/tmp/admin.sock"}}}


def _no_bootstrap_version(content: Documents) -> None:
    content["bootstrap.json"]["node"]["metadata"] = {}


def _missing_routes(content: Documents) -> None:
    with_rds(content)


def _unused_routes(content: Documents) -> None:
    content[ROUTES] = TABLE


def _other_routes(content: Documents) -> None:
    with_rds(content)[ROUTES] = {
        **TABLE,
        "resources": [{**TABLE["resources"][0], "name": "other"}],  # type: ignore[dict-item]
    }


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_without_version, "clusters/clusters.json: version_info is null. Set it to a text"),
        (_number_as_version, "listeners/listeners.json: version_info is 3. Set it to a text"),
        (_more_keys, "listeners/listeners.json: nonce has no meaning there."),
        (_without_name, "clusters/clusters.json: resource 1 has no name. Set its name to a text."),
        (_wrong_type, "listeners/listeners.json: resource 1: @type is "),
        (_twice, 'clusters/clusters.json: "app" is there more than once.'),
        (_no_list, "clusters/clusters.json: resources is {}. Set it to a list"),
        (_text_as_resource, 'clusters/clusters.json: resource 1 is "app". Make it an object'),
        (
            _static_listeners,
            "bootstrap.json: dynamic_resources.lds_config.path_config_source.path is null."
            ' Set it to "/etc/envoy/web/listeners/listeners.json".',
        ),
        (
            _other_clusters,
            "bootstrap.json: dynamic_resources.cds_config.path_config_source.path is",
        ),
        (_other_admin, f'is "/tmp/admin.sock". Set it to "{SOCKET}".'),
        (_no_bootstrap_version, "bootstrap.json: node.metadata.bootstrap_version is null."),
        (_missing_routes, f'listeners/listeners.json names the file "{PLACE}/{ROUTES}", which is'),
        (_unused_routes, f"No path_config_source names {PLACE}/{ROUTES}."),
        (_other_routes, f'{ROUTES}: its resources are ["other"]. Give the file one'),
    ],
)
def test_a_mistake_is_told_with_its_file_and_the_remedy(
    spoil: Callable[[Documents], None], told: str, tmp_path: Path
) -> None:
    content = documents()
    spoil(content)
    (problem,) = problems(tmp_path, content)
    assert told in problem


@pytest.mark.parametrize(("text", "told"), [("{", "is not JSON"), ("[]", "is not a JSON object")])
def test_a_file_that_is_no_json_object_is_named(text: str, told: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, documents() | {"clusters/clusters.json": text})
    assert problem.startswith(f"clusters/clusters.json {told}")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    content = documents()
    for spoil in (_without_version, _other_admin, _wrong_type):
        spoil(content)
    assert len(problems(tmp_path, content | {"notes.txt": "x"})) == 4


def test_files_elsewhere_on_the_host_may_be_named(tmp_path: Path) -> None:
    content = documents()
    secret = {"sds_config": {"path_config_source": {"path": "/etc/ssl/web/secret.json"}}}
    content["clusters/clusters.json"]["resources"][0]["transport_socket"] = secret
    assert read(written(tmp_path, content), PLACE, SOCKET)


def test_the_action_reaches_no_host_with_a_folder_that_is_wrong(tmp_path: Path) -> None:
    content = documents()
    del content["clusters/clusters.json"]
    arguments = {
        "name": "web",
        "config_dir": str(written(tmp_path, content)),
        "path": PLACE,
        "admin_socket": SOCKET,
    }
    task = SimpleNamespace(
        args=arguments, async_val=0, check_mode=False, diff=False, delegate_to=""
    )
    action = ActionModule(task, *(MagicMock() for _ in range(5)))
    action._execute_module = MagicMock(return_value={"changed": False})
    with pytest.raises(AnsibleActionFail, match=r"clusters/clusters\.json is missing"):
        action.run(task_vars={})
    action._execute_module.assert_not_called()
    written(tmp_path, documents())
    assert action.run(task_vars={}) == {"changed": False}
