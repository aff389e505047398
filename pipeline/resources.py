"""What comes with ocuseg: run files and data cards."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def shipped(kind: Literal["configs", "data_cards"]) -> Path:
    """The folder that holds them: inside an installed package, beside it in a checkout."""
    inside = Path(__file__).resolve().parent / "shipped" / kind
    return inside if inside.is_dir() else Path(__file__).resolve().parents[1] / kind


def find_run_file(path: Path) -> Path:
    """``path`` itself where it exists, else the run file or folder of them that comes with ocuseg under that name, else ``path``."""
    if path.exists() or path.is_absolute():
        return path
    candidates = (shipped("configs") / name for name in (path, path.with_name(f"{path.name}.yaml")))
    return next((candidate for candidate in candidates if candidate.exists()), path)
