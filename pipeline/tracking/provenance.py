"""What a result came from: code version, package versions, device, and the hashes of the data."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGES = (
    "accelerate",
    "mlflow",
    "monai",
    "nibabel",
    "numpy",
    "ocuseg",
    "pillow",
    "pydantic",
    "pydicom",
    "safetensors",
    "scikit-image",
    "scipy",
    "segmentation-models-pytorch",
    "torch",
    "torchvision",
    "transformers",
)


def text_digest(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def folder_digest(folder: Path, pattern: str = "**/*", *, only: str | None = None) -> str:
    """SHA-256 over the names (relative to ``folder``) and contents of its files; ``only``: of that one file's content."""
    if only is not None:
        with (folder / only).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    total = hashlib.sha256()
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            with path.open("rb") as stream:
                total.update(f"{hashlib.file_digest(stream, 'sha256').hexdigest()} {path.relative_to(folder).as_posix()}\n".encode())
    return total.hexdigest()


def _canonical(row: Mapping[str, Any]) -> str:
    return json.dumps(dict(row), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def manifest_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """One SHA-256 over a data manifest, whatever the order of its rows."""
    return text_digest("\n".join(sorted(_canonical(row) for row in rows)))


@dataclass(frozen=True)
class ManifestDifference:
    """Cases that differ between a recorded manifest and the data at hand; all empty when they agree."""

    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.missing or self.added)

    def __str__(self) -> str:
        parts = []
        for name, cases in (("changed", self.changed), ("missing", self.missing), ("added", self.added)):
            if cases:
                more = f" and {len(cases) - 3} more" if len(cases) > 3 else ""
                parts.append(f"{len(cases)} {name} ({', '.join(cases[:3])}{more})")
        return ", ".join(parts) or "same"


def compare_manifests(recorded: Sequence[Mapping[str, Any]], present: Sequence[Mapping[str, Any]]) -> ManifestDifference:
    """Which cases differ. A row holds at least ``case``; a case may have several rows (slices)."""

    def by_case(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
        cases: dict[str, list[str]] = {}
        for row in rows:
            cases.setdefault(str(row["case"]), []).append(_canonical(row))
        return {case: sorted(lines) for case, lines in cases.items()}

    # Through JSON, as the recorded rows have been: a tuple and a list are then the same.
    before, now = by_case(recorded), by_case(json.loads(json.dumps([dict(row) for row in present])))
    return ManifestDifference(
        changed=tuple(sorted(case for case in before.keys() & now.keys() if before[case] != now[case])),
        missing=tuple(sorted(before.keys() - now.keys())),
        added=tuple(sorted(now.keys() - before.keys())),
    )


def code_version(plugins: Sequence[Path] = ()) -> dict[str, Any]:
    """``version``, ``commit`` and ``dirty`` (both None outside a git checkout), ``source_sha256`` over the package's
    ``.py`` files (which also tells versions apart where there is no git), and the hash of each plugin file.
    """
    code: dict[str, Any] = {
        "version": _version("ocuseg"),
        "commit": None,
        "dirty": None,
        "source_sha256": folder_digest(PACKAGE, "**/*.py"),
    }
    # A virtual environment may lie inside some other project's checkout: only a checkout that tracks us counts.
    if _git("ls-files", "--error-unmatch", "errors.py") is not None:
        code["commit"] = _git("rev-parse", "HEAD")
        code["dirty"] = bool(_git("status", "--porcelain", "--", str(PACKAGE)))
    if plugins:
        code["plugins"] = {path.name: folder_digest(path.parent, only=path.name) for path in plugins}
    return code


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def environment(device: str, plugins: Sequence[Path] = ()) -> dict[str, Any]:
    """Everything about code and machine that a result may depend on, without host or user names (JSON value).

    ``{"code": see code_version, "packages": {name: version}, "python", "platform", "device": {"type", "name", "threads"}}``;
    ``device`` is what torch calls it: "cpu", "cuda", "cuda:1".
    """
    import torch

    kind = device.partition(":")[0]
    used: dict[str, Any] = {"type": kind, "name": _processor(), "threads": torch.get_num_threads()}
    if kind == "cuda":
        used.update(name=torch.cuda.get_device_name(device), count=torch.cuda.device_count(), cuda=torch.version.cuda)
    return {
        "code": code_version(plugins),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": used,
    }
