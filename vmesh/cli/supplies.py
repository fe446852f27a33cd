"""The artifacts a command needs, and the packages needed to make those the cache lacks."""

from __future__ import annotations

from pathlib import Path

from vmesh import artifacts
from vmesh.artifacts import JaegerRelease
from vmesh.base.progress import Progress
from vmesh.cli import packages
from vmesh.remote.mesh import Mesh


def jaeger_release(mesh: Mesh) -> JaegerRelease | None:
    """Return the Jaeger archive that the inventory names, if it does."""
    for host, spec in mesh.spec.hosts.items():
        if spec.jaeger is not None:
            return JaegerRelease.from_variable(mesh.inventory.hosts[host].get("jaeger_release"))
    return None


def packages_for_making(
    release: JaegerRelease | None = None, envoy_version: str | None = None
) -> list[str]:
    """Return the missing packages without which nothing can be fetched; [] if nothing must be."""
    if all(
        artifacts.cached(name, jaeger_release=release, envoy_version=envoy_version)
        for name in artifacts.NAMES
    ):
        return []
    return packages.not_installed(artifacts.SYSTEM_PACKAGES)


def provide(
    progress: Progress,
    *,
    release: JaegerRelease | None = None,
    envoy_version: str | None = None,
    offline: bool = False,
) -> None:
    """Make or fetch what the VMs get, and the Envoy that this machine validates with."""
    own = artifacts.controller_arch()
    artifacts.ensure(
        None,
        offline=offline,
        progress=progress,
        jaeger_release=release,
        envoy_version=envoy_version,
    )
    artifacts.ensure(
        ["envoy"], arch=own, offline=offline, progress=progress, envoy_version=envoy_version
    )


def named_archive(source: str, sha256: str) -> JaegerRelease:
    """Return the archive named on the command line; a relative path is the caller's."""
    return JaegerRelease.named(source, sha256, Path.cwd())


def provide_envoy(progress: Progress, version: str | None = None) -> Path:
    """Return this machine's Envoy, fetched first when the cache lacks it."""
    own = artifacts.controller_arch()
    artifacts.ensure(["envoy"], arch=own, progress=progress, envoy_version=version)
    return artifacts.envoy_binary(version=version)


def has_envoy() -> bool:
    """Tell whether the cache has this machine's Envoy."""
    return artifacts.cached("envoy", artifacts.controller_arch()) is not None
