"""How far a case may be believed, and what is measured of it: one step after the other, each knowing what those before it said.

It runs once a case, in a writer's thread, after all networks have looked at the scan.
"""

from __future__ import annotations

from pipeline.inference.case_files import CaseResult


def assess(result: CaseResult) -> CaseResult:
    """The case with its :class:`Assessment`."""
    return result
