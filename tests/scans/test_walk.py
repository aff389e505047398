"""What lies in a folder: each file in its own place, links that leave it left alone, in every command alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.scans.walk import FOLLOW_LINKS, LINK, UNLISTED, names_below, walk


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """``tree/a/1``, ``tree/b/2`` beside ``archive/old`` and ``other/secret``, with links of every kind among them."""
    tree, archive, other = tmp_path / "tree", tmp_path / "archive", tmp_path / "other"
    for file in (tree / "a" / "1", tree / "b" / "2", archive / "old", other / "secret"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    (archive / "back").symlink_to(tree)
    (archive / "self").symlink_to(archive)
    (tree / "a" / "root").symlink_to(tree)
    (tree / "a" / "sideways").symlink_to(tree / "b")
    (tree / "a" / "same").symlink_to(tree / "a" / "1")
    (tree / "a" / "round").symlink_to("round")
    (tree / "archive").symlink_to(archive)
    (tree / "archive again").symlink_to(archive)
    (tree / "file").symlink_to(other / "secret")
    (tree / "gone").symlink_to(tmp_path / "nowhere")
    (tree / "parent").symlink_to("..")
    (tree / "chain").symlink_to("parent/other")
    return tree


def listed(tree: Path) -> dict[str, str]:
    found = [(path.relative_to(tree).as_posix(), problem.code if problem else "") for path, problem in walk(tree)]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_links_that_leave_the_folder_are_left_alone_and_told(tree: Path) -> None:
    inside = {"a/1": "", "a/round": "", "a/same": "", "b/2": ""}
    left = dict.fromkeys(("archive", "archive again", "chain", "file", "gone", "parent"), LINK)
    assert listed(tree) == inside | left
    files, left_out = names_below(tree)
    assert files == list(inside)
    assert [name for name, _ in left_out] == sorted(left)
    assert all("--follow-links" in why for _, why in left_out)
    assert listed(tree.parent / "archive" / "back") == inside | left  # a link that is the root itself is the user's own


def test_followed_links_lead_nowhere_twice_and_never_round(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLLOW_LINKS, "1")
    found = listed(tree)
    assert set(found.values()) == {""}
    assert sorted(found) == ["a/1", "a/round", "a/same", "archive/old", "b/2", "chain/secret", "file", "gone"]


def test_a_folder_that_cannot_be_listed_is_told_and_what_was_listed_too(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def refuse(path: Any) -> Any:
        if path == os.fsencode(tree / "a"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    seen: list[Path] = []
    found = {path.name: problem.code for path, problem in walk(tree, on_folder=seen.append) if problem}
    assert found["a"] == UNLISTED
    assert seen == [tree, tree / "b"]


def test_the_order_is_by_bytes_and_folders_stay_together(tmp_path: Path) -> None:
    for name in (b"b/2", b"b/10", b"a.txt", b"\xff\xfe", b"new\nline", b"Z/1"):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(b"")
    found = [os.fsencode(p.relative_to(tmp_path)) for p, _ in walk(tmp_path)]
    assert found == [b"Z/1", b"a.txt", b"b/10", b"b/2", b"new\nline", b"\xff\xfe"]
