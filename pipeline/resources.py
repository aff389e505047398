"""What comes with ocuseg: run files, data cards and photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

EXAMPLES = Path(__file__).resolve().parent / "examples"
"""Openly licensed photographs of the fundus and their vessels; ``card.md`` is their data card and says whose they are."""


def shipped(kind: Literal["configs", "data_cards"]) -> Path:
    """The folder that holds them: inside an installed package, beside it in a checkout."""
    inside = Path(__file__).resolve().parent / "shipped" / kind
    return inside if inside.is_dir() else Path(__file__).resolve().parents[1] / kind


def find_run_file(path: Path) -> Path:
    """``path``, or ``path`` with .yaml, or either among the files that come with ocuseg: the first that exists, else ``path``."""
    names = (path, path.with_name(f"{path.name}.yaml")) if path.name else (path,)
    candidates = [folder / name for folder in (Path(), shipped("configs")) for name in names]
    return next((candidate for candidate in candidates if candidate.exists()), path)
