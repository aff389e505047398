"""What the user states of scans, for those whose own files do not say it; kept in ``run.json``, because a run goes on with the same."""

from __future__ import annotations

from typing import Literal

from pipeline.types.assessment import Record

StatedModality = Literal["fundus", "oct", "octa", "slo"]


class Stated(Record):
    """``modality``: the kind of scan."""

    modality: StatedModality | None = None

    def options(self) -> str:
        """As a command line has it: "--modality oct"; "" where nothing is stated."""
        return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in self if value is not None)
