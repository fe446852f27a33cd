"""The mesh as the user describes it: the classes of what the inventory's mesh_* variables say.

Only their shape and the constants of the model stand here. `vmesh.model.parse` makes the objects.

What is wrong is left out (None), so that the rest can be checked; such a mesh is for no other use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmesh.model.access_types import Firewall, Security

Given = Mapping[str, Any]

# What an upstream speaks.
HTTP1, HTTP2, GRPC = "http1", "http2", "grpc"
# A timeout that never comes.
NONE = "none"


@dataclass(frozen=True)
class FlaskApp:
    """A Flask application that gunicorn serves.

    `source` is a folder, relative to the project. `preload`: gunicorn imports it before it
    forks. `grace` are the seconds that running requests get when a new process takes over, `health`
    the path that it must answer first. `network` is whom it may reach: "mesh" or "any".
    """

    source: str
    wsgi: str
    workers: int
    threads: int
    preload: bool
    grace: int
    health: str
    network: str
    environment: dict[str, str]


@dataclass(frozen=True)
class ExternalApp:
    """Something that listens already: `listening` is "address:port" or "unix:/path"."""

    listening: str


@dataclass(frozen=True)
class Tls:
    """TLS to an upstream; `ca_file` is a path on the controller, None the host's own bundle."""

    sni: str | None
    verify: bool
    ca_file: str | None


@dataclass(frozen=True)
class Address:
    """An address outside the mesh. `host` is a DNS name or an IPv4 address.

    `propagate_trace` are the forms of trace context that its requests carry.
    """

    host: str
    port: int
    tls: Tls | None
    propagate_trace: tuple[str, ...] = ()
    protocol: str = HTTP1


@dataclass(frozen=True)
class Retries:
    """`attempts` beside the first, seconds for each, and the budget all calls share."""

    attempts: int
    retry_on: tuple[str, ...]
    per_try_timeout: float | None
    budget_percent: float
    min_concurrent: int


@dataclass(frozen=True)
class Policies:
    """How an upstream is called, with every default in place. Times are in seconds.

    The mappings have the keys of the schema; None is "off" or "not said", of `timeout` "no end".
    """

    timeout: float | None
    idle_timeout: float
    connect_timeout: float
    retries: Retries
    request_body_buffer_limit: int
    load_balancing: str
    hash_on: dict[str, Any] | None
    circuit_breaker: dict[str, int]
    outlier_detection: dict[str, Any]
    health_check: dict[str, Any] | None


@dataclass(frozen=True)
class Call:
    """How one service or edge calls another, or an address outside the mesh.

    `given` is what the user said of its policies; see `policies`.
    """

    upstream: str
    address: Address | None
    given: Given


@dataclass(frozen=True)
class Service:
    """One service of the mesh; every host of `group` runs an instance of it.

    plaintext_from: networks whose callers speak plaintext, whatever the mesh does
    identify_callers: whether its app is told which proxy calls
    """

    name: str
    group: str
    port: int | None
    app: FlaskApp | ExternalApp | None
    protocol: str
    operation: str
    calls: tuple[Call, ...]
    given: Given  # its own policies, for all its callers
    plaintext_from: tuple[str, ...] = ()
    identify_callers: bool = False


@dataclass(frozen=True)
class Tracing:
    """What an edge or a route says of its spans; None is "as in the place around"."""

    sampling: float | None
    tags: dict[str, dict[str, str | None]]


@dataclass(frozen=True)
class Match:
    """What a request must look like. `kind` is "path", "regex", "path_prefix" or "prefix".

    `value` is empty where the user's match is wrong, so that nothing is known of it.
    """

    kind: str
    value: str
    methods: tuple[str, ...]
    headers: dict[str, dict[str, str | bool]]


@dataclass(frozen=True)
class Route:
    """What an edge does with the requests that `match`.

    Exactly one of `to` (upstream -> weight), `redirect` and `answer` is set. `timeout` is NONE or
    seconds; it and `idle_timeout` are None where the policies decide.
    `filters` has what the route itself says of require, rate_limit, max_request_bytes, cors,
    compression and fault.
    """

    match: Match
    to: dict[str, int]
    redirect: dict[str, Any] | None
    answer: dict[str, Any] | None
    timeout: float | str | None
    idle_timeout: float | None
    retries: Given | None
    request_body_buffer_limit: int | None
    rewrite: dict[str, str] | None
    mirror: dict[str, Any] | None
    websocket: bool
    filters: dict[str, Any]
    operation: str | None
    tracing: Tracing

    @property
    def upstreams(self) -> tuple[str, ...]:
        """Where it leads, its mirror last."""
        mirrored = self.mirror["to"] if self.mirror else None
        return tuple(self.to) if mirrored is None else (*self.to, mirrored)


@dataclass(frozen=True)
class VirtualHost:
    """A site of an edge: the hosts it answers for, and how."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]
    filters: dict[str, Any]
    where: str  # the variable that describes it


@dataclass(frozen=True)
class Acme:
    """Certificates for `domains` from an authority that speaks ACME, whose `directory` is a URL.

    directory_ca_file: PEM on the controller with who signed the certificate of that URL, None for
        the authorities that each host trusts
    """

    domains: tuple[str, ...]
    email: str | None
    directory: str
    directory_ca_file: str | None


@dataclass(frozen=True)
class EdgeTls:
    """How an edge speaks TLS: with one of four kinds of certificates.

    certificate, key: the path of a PEM file on the controller, and the text of its private key
    certificate_on_host, key_on_host: the paths of PEM files on the edge's hosts
    acme: who signs certificates for keys that the hosts make
    local: whether each host signs its certificate itself
    minimum: the oldest version, 1.2 or 1.3
    """

    certificate: str | None
    key: str | None = field(repr=False)
    certificate_on_host: str | None
    key_on_host: str | None
    acme: Acme | None
    local: bool
    minimum: float


@dataclass(frozen=True)
class ExternalAuthorization:
    """The upstream `to` decides about requests, within `timeout` seconds.

    `path` comes before the request's own; `forward` are the headers that it gets beside Envoy's.
    """

    to: str
    path: str | None
    timeout: float
    forward: tuple[str, ...]


@dataclass(frozen=True)
class Jwt:
    """Whose tokens count, and for whom they must be; `claims` are claim -> header of the app.

    Exactly one of the first two has the issuer's public keys.

    jwks_file: a path on the controller
    jwks_url: where the edge's Envoys fetch them
    jwks_ca_file: PEM on the controller with who signed the certificate of that URL, None for the
        authorities that each host trusts
    """

    issuer: str
    audiences: tuple[str, ...]
    jwks_file: str | None
    jwks_url: str | None
    jwks_ca_file: str | None
    claims: dict[str, str]


@dataclass(frozen=True)
class Edge:
    """An Envoy that takes requests from outside the mesh.

    Peers in `trusted_cidrs` may bring their own trace context and request id, and tell how their
    client came. Those in `control_cidrs` may set Envoy's control headers, too. `trusted_hops`
    trusted proxies stand in front, None for as many as usual; `proxy_protocol` is "required",
    "optional" or None. `headers_with_underscores` and `escaped_slashes` say what becomes of such
    requests, in the words of the schema.
    `admin_port` serves the read-only admin pages on the operators' address. With `tls` it speaks
    HTTPS; `redirect_port` answers HTTP with redirects there, and `hsts` are the seconds for which
    browsers remember that.
    `users` are groups of users, each with the hashes of their passwords by name; `require` of a
    virtual host or route names one, an issuer of tokens in `jwt`, or an `external_authorization`.
    """

    name: str
    group: str
    port: int | None
    virtual_hosts: tuple[VirtualHost, ...]
    calls: tuple[Call, ...]
    address: str
    admin_port: int
    trusted_cidrs: tuple[str, ...]
    control_cidrs: tuple[str, ...]
    trusted_hops: int | None
    proxy_protocol: str | None
    headers_with_underscores: str
    escaped_slashes: str
    merge_slashes: bool
    http10: bool
    tls: EdgeTls | None
    redirect_port: int | None
    hsts: int
    tracing: Tracing
    users: dict[str, dict[str, str]] = field(repr=False)
    jwt: dict[str, Jwt]
    external_authorization: dict[str, ExternalAuthorization]

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes of all its virtual hosts."""
        return tuple(route for host in self.virtual_hosts for route in host.routes)

    @property
    def upstreams(self) -> frozenset[str]:
        """Where it sends requests: what its routes lead to, and whom it asks about them."""
        asked = {each.to for each in self.external_authorization.values()}
        return frozenset(name for route in self.routes for name in route.upstreams) | asked


@dataclass(frozen=True)
class MeshTracing:
    """Where spans go: to the mesh's own Jaeger on `group`, or to a `collector`.

    `path` is where requests over HTTP go, `headers` what the collector wants beside spans.
    plaintext_from: networks of others that send spans, in plaintext
    """

    group: str | None
    collector: Address | None
    path: str
    headers: dict[str, str] = field(repr=False)
    export: str
    sampling: float
    tags: dict[str, dict[str, str | None]]
    plaintext_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class RolloutPolicy:
    """How a change goes from host to host.

    `batch` is a number of hosts or a share as in "25%". `observe` is in seconds,
    `max_error_increase` in percentage points.
    """

    canary: int
    batch: int | str
    max_fail: int
    observe: int
    max_error_increase: float
    max_slowdown: float


@dataclass(frozen=True)
class Patch:
    """A change of Envoy's configuration: what stands in one item of mesh_patches.

    variable: where it stands, as in mesh_patches[2]
    proxies, name: patterns of fnmatch
    merge, patch: one of them; a merge patch (RFC 7396) or the operations of a JSON patch (RFC 6902)
    """

    variable: str
    proxies: tuple[str, ...]
    kind: str
    name: str
    merge: Mapping[str, Any] | None
    patch: Sequence[Any] | None


@dataclass(frozen=True)
class Mesh:
    """All that the mesh_* variables say."""

    services: dict[str, Service]
    edges: dict[str, Edge]
    tracing: MeshTracing
    rollout: RolloutPolicy
    firewall: Firewall
    security: Security
    patches: tuple[Patch, ...] = ()
    operator_bind: str | None = None
    envoy_version: str | None = None
    given: Given = field(default_factory=dict)  # the variables as the user wrote them


# What a call says of an address outside the mesh; all else are policies.
ADDRESS_KEYS = ("host", "port", "tls", "protocol", "propagate_trace")
# The most specific first; of two prefixes the longer one is.
MATCH_KINDS = ("path", "regex", "path_prefix", "prefix")
FILTERS = ("require", "rate_limit", "max_request_bytes", "cors", "compression", "fault")
OTLP_GRPC_PORT = 4317
OTLP_HTTP_PORT = 4318
ZIPKIN_PORT = 9411
# How spans are sent: port, protocol, and path over HTTP.
OTLP, OTLP_HTTP, ZIPKIN = "otlp", "otlp_http", "zipkin"
EXPORTS = {
    OTLP: (OTLP_GRPC_PORT, GRPC, ""),
    OTLP_HTTP: (OTLP_HTTP_PORT, HTTP1, "/v1/traces"),
    ZIPKIN: (ZIPKIN_PORT, HTTP1, "/api/v2/spans"),
}
DEFAULT_JAEGER_GROUP = "jaeger"
# The virtual host that an edge's own `routes` and `domains` make.
MAIN = "main"
