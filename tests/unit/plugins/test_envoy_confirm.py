"""When a file counts as refused by Envoy, and when as accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils import envoy_apply
from plugins.module_utils.envoy_apply import Proxy, Refused
from plugins.module_utils.envoy_files import CLUSTERS, Store, stat_prefix

FILES = {CLUSTERS: json.dumps({"version_info": "new", "resources": []})}
UPDATE, CREATE = "cluster_manager.cds.update_failure", "listener_manager.listener_create_failure"


class Played:
    """An Envoy that counts refusals, and accepts the file at the `accepts`th look at it."""

    def __init__(self, refusals: dict[str, int], accepts: int) -> None:
        self.counted, self.accepts, self.looks = refusals, accepts, 0

    def refusals(self) -> dict[str, int]:
        return self.counted

    def versions(self) -> dict[str, str]:
        self.looks += 1
        version = "new" if self.looks >= self.accepts else "old"
        return {str(stat_prefix(CLUSTERS)): version}

    def is_ready(self) -> bool:
        return True


def confirm(played: Played, tmp_path: Path, before: dict[str, int] | None = None) -> None:
    admin: Any = played
    unused: Any = None
    Proxy(Store(tmp_path, -1), unused, admin, timeout=1)._confirm(FILES, before or {})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy_apply, "REFUSED_SECONDS", 0.3)


def test_a_refusal_of_a_process_that_drains_does_not_count(tmp_path: Path) -> None:
    """It counts in the process that has taken over, which accepts the file a moment later."""
    confirm(Played({UPDATE: 1}, accepts=1), tmp_path)
    confirm(Played({UPDATE: 1}, accepts=2), tmp_path)


def test_a_file_that_is_not_accepted_after_a_refusal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"counted a refusal in cluster_manager\.cds\.update_failure"):
        confirm(Played({UPDATE: 1}, accepts=1000), tmp_path)


def test_without_a_new_refusal_a_file_is_waited_for(tmp_path: Path) -> None:
    confirm(Played({UPDATE: 1}, accepts=6), tmp_path, {UPDATE: 1})
    with pytest.raises(Refused, match="has not accepted"):
        confirm(Played({UPDATE: 1}, accepts=1000), tmp_path, {UPDATE: 1})


def test_a_listener_that_cannot_be_opened_is_refused_though_its_file_was_accepted(
    tmp_path: Path,
) -> None:
    with pytest.raises(Refused, match="listener_create_failure"):
        confirm(Played({CREATE: 1}, accepts=1), tmp_path)
