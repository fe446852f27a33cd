"""Release archives: the same bytes for the same content."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from vmesh.artifacts.archives import Member, write_archive


def test_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    one, two = tmp_path / "one.tar.gz", tmp_path / "elsewhere" / "two.tar.gz"
    two.parent.mkdir()
    file = tmp_path / "file"
    file.write_text("content")
    members = [Member("bin/run", file, executable=True), Member("a/b/c", b"text")]
    write_archive(one, members)
    os.utime(file, (1, 1))
    file.chmod(0o600)
    write_archive(two, reversed(members))
    assert one.read_bytes() == two.read_bytes()
    file.write_text("other")
    write_archive(two, members)
    assert one.read_bytes() != two.read_bytes()


def test_everything_belongs_to_root_and_only_programs_are_executable(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar.gz"
    top = write_archive(path, [Member("bin/run", b"x", executable=True), Member("ui/a/b", b"y")])
    assert top == ("bin", "ui")
    with tarfile.open(path) as tar:
        assert [(m.name, oct(m.mode), m.uid, m.uname, m.mtime) for m in tar] == [
            ("bin", "0o755", 0, "root", 0),
            ("ui", "0o755", 0, "root", 0),
            ("ui/a", "0o755", 0, "root", 0),
            ("bin/run", "0o755", 0, "root", 0),
            ("ui/a/b", "0o644", 0, "root", 0),
        ]
