"""A password for a user of an edge."""

from __future__ import annotations

import re

import pytest

from vmesh.cli import main
from vmesh.cli.password import password_hash
from vmesh.model import schema


def test_a_password_is_shown_with_the_hash_that_the_inventory_gets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["password", "anna"]) == 0
    first = capsys.readouterr().out
    found = re.search(r"password of anna, .*: (\w{20})\n", first)
    assert found
    assert f"anna: '{password_hash(found[1])}'" in first
    main(["password", "anna"])
    assert found[1] not in capsys.readouterr().out


def test_the_hash_is_that_of_htpasswd_and_one_that_the_schema_takes() -> None:
    # As in https://httpd.apache.org/docs/2.4/misc/password_encryptions.html
    assert password_hash("myPassword") == "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE="
    rule = schema.load()["$defs"]["users"]
    assert schema.validator().evolve(schema=rule).is_valid({"anna": password_hash("any")})
