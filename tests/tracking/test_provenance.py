"""What a result came from: hashes that do not depend on order, code versions that do not need git, no names of people."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
from pathlib import Path

import pytest

from pipeline.tracking import provenance
from pipeline.tracking.provenance import code_version, compare_manifests, environment, folder_digest, manifest_digest, text_digest

ROWS = [{"case": f"p{i}_R_v1_i1", "sha256": f"{i}" * 64, "shape": (37, 53)} for i in range(6)]


def test_manifest_digest_is_of_the_set_of_rows() -> None:
    assert manifest_digest(ROWS) == manifest_digest(ROWS[::-1])
    assert manifest_digest(ROWS) == manifest_digest([dict(reversed(row.items())) for row in ROWS])
    assert manifest_digest(ROWS) != manifest_digest([*ROWS[:-1], {**ROWS[-1], "sha256": "f" * 64}])
    assert manifest_digest(ROWS) != manifest_digest(ROWS[:-1])


def test_known_digests(tmp_path: Path) -> None:
    # printf '' | sha256sum; printf 'abc' | sha256sum (FIPS 180-2, appendix B.1)
    assert text_digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "a").write_text("abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert folder_digest(tmp_path, only="a") == abc
    assert folder_digest(tmp_path) == text_digest(f"{abc} a\n")
    before = folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert folder_digest(tmp_path) != before


def test_manifests_are_compared_by_case() -> None:
    recorded = json.loads(json.dumps(ROWS))
    assert not compare_manifests(recorded, ROWS)
    assert str(compare_manifests(recorded, ROWS[::-1])) == "same"
    present = [{**ROWS[0], "sha256": "e" * 64}, *ROWS[2:], {"case": "new_L_v1_i1", "sha256": "d" * 64}]
    difference = compare_manifests(recorded, present)
    assert difference.changed == ("p0_R_v1_i1",)
    assert difference.missing == ("p1_R_v1_i1",)
    assert difference.added == ("new_L_v1_i1",)
    assert str(difference) == "1 changed (p0_R_v1_i1), 1 missing (p1_R_v1_i1), 1 added (new_L_v1_i1)"
    assert str(compare_manifests(recorded, [])) == "6 missing (p0_R_v1_i1, p1_R_v1_i1, p2_R_v1_i1 and 3 more)"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "checkout" / "pipeline"
    package.mkdir(parents=True)
    (package / "errors.py").write_text("one = 1\n")
    git(package.parent, "init", "-q")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    return package


def test_commit_and_dirty_flag(checkout: Path) -> None:
    untracked = code_version()
    assert (untracked["commit"], untracked["dirty"]) == (None, None)  # inside a repository that does not track us
    git(checkout.parent, "add", "pipeline")
    git(checkout.parent, "commit", "-q", "-m", "first")
    clean = code_version()
    assert clean["commit"] == git(checkout.parent, "rev-parse", "HEAD")
    assert clean["dirty"] is False
    assert clean["source_sha256"] == untracked["source_sha256"]
    (checkout / "errors.py").write_text("one = 2\n")
    changed = code_version()
    assert changed["dirty"] is True
    assert changed["source_sha256"] != clean["source_sha256"]
    git(checkout.parent, "checkout", "-q", "pipeline/errors.py")
    (checkout / "forgotten.py").write_text("")
    assert code_version()["dirty"] is True


def test_plugins_are_hashed_by_content(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text("abc")
    assert code_version([plugin])["plugins"] == {"mine.py": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert "plugins" not in code_version()


def test_environment_names_versions_and_no_one() -> None:
    import torch

    record = environment("cpu")
    assert record["packages"]["torch"] == torch.__version__.partition("+")[0] or record["packages"]["torch"] == torch.__version__
    assert record["device"]["type"] == "cpu"
    assert record["device"]["threads"] == torch.get_num_threads()
    text = json.dumps(record)
    assert platform.node() not in text
    assert f'"{getpass.getuser()}"' not in text
    assert str(Path.home()) + "/" not in text
