"""What is wrong with a mesh although each of its values is well formed.

Pure, and tolerant: a value that the schema refused is None here and was told already. This module
holds the list of the checks and their order; each is in the module of what it looks at:

- `checks_names`: services, edges, ports and domains, each of them once, and names that nothing has
- `checks_calls`: calls of services and edges, their policies, TLS, circles of calls
- `checks_edges`: whose word an edge takes, and which headers it lets through
- `checks_logins`: whom an edge lets in
- `checks_routes`: routes of edges, in themselves and one after another
- `checks_apps`: the environments of apps, and how long a release waits
- `checks_security`: whom the mesh trusts
- `checks_tls`: how an edge speaks TLS
- `checks_tracing`: tags of spans, and the collector
- `patches`: patches that say nothing, or two things
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vmesh.base.problems import Problem
from vmesh.base.secret_patterns import Hidden
from vmesh.compile import (
    checks_apps,
    checks_calls,
    checks_edges,
    checks_logins,
    checks_names,
    checks_routes,
    checks_security,
    checks_tls,
    checks_tracing,
    patches,
)
from vmesh.model.types import Mesh


def check(mesh: Mesh, hidden: Hidden = frozenset()) -> list[Problem]:
    """Return everything that is wrong with `mesh`, warnings included.

    `hidden` are the key paths of texts that do not stand in plain in the inventory.
    """
    checks: tuple[Callable[[Mesh], Iterable[Problem]], ...] = (
        checks_names.check_names,
        checks_names.check_ports,
        checks_calls.check_service_calls,
        checks_calls.check_edge_calls,
        checks_routes.check_routes,
        checks_edges.check_peers,
        checks_logins.check_logins,
        checks_tls.check_edge_tls,
        checks_security.check_security,
        checks_names.check_domains,
        checks_apps.check_environments,
        checks_tracing.check_tracing,
        checks_calls.check_cycles,
        checks_apps.check_grace,
        patches.check_form,
    )
    return [
        *(problem for each in checks for problem in each(mesh)),
        *checks_apps.check_plain_secrets(mesh, hidden),
        *checks_logins.check_plain_hashes(mesh, hidden),
        *checks_tracing.check_plain_headers(mesh, hidden),
        *checks_tls.check_plain_keys(mesh, hidden),
    ]
