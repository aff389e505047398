"""One evaluation for the eye: a row of named scores with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pipeline.measurements.by_role import OF_MASKS
from pipeline.metrics.overlap import Presence

Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One run of a study.

    ``scores`` are named as the table's columns, ``intervals`` (95 %, over patients) are of those that have one; ``summary`` is what
    evaluation wrote, ``run_dir`` where the run lies. ``tested_on`` names the set, where the study has several.
    """

    name: str
    bundle_id: str
    facts: Mapping[str, float]
    scores: Mapping[str, float | None]
    summary: Mapping[str, Any]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    run_dir: Path = Path()
    tested_on: str = ""

    @property
    def evaluation(self) -> Path:
        """The folder that evaluation wrote."""
        return self.run_dir / evaluation_folder(self.tested_on)

    @property
    def place(self) -> str:
        """The run and, where there are several, the set that it was tested on."""
        return f"{self.name} on {self.tested_on}" if self.tested_on else self.name

    def cells(self) -> dict[str, float | str | None]:
        """By column; the ends of an interval follow its score."""
        cells: dict[str, float | str | None] = {"name": self.name, **self._set()}
        for name, value in self.scores.items():
            cells[name] = value
            if name in self.intervals:
                cells |= dict(zip((f"{name} low", f"{name} high"), self.intervals[name], strict=True))
        return {**cells, **self.facts}

    def shown(self, part: Literal["all", "scores", "facts"] = "all") -> dict[str, str]:
        """The same as texts, an interval beside its score; all of it, or a part."""
        scores = {name: shown(value) for name, value in self.scores.items()}
        scores |= {name: f"{scores[name]} [{shown(low)}, {shown(high)}]" for name, (low, high) in self.intervals.items()}
        facts = {name: shown(value) for name, value in self.facts.items()}
        told = {**self._set(), **scores} if part != "facts" else {}
        return {"name": self.name, **told, **(facts if part != "scores" else {})}

    def _set(self) -> dict[str, str]:
        return {"tested on": self.tested_on} if self.tested_on else {}


def evaluation_folder(tested_on: str) -> str:
    """Where, below a run's folder, its evaluation on a set lies; the only set of a study has no name."""
    return f"evaluation_on_{tested_on}" if tested_on else "evaluation"


def row_of(name: str, bundle_id: str, facts: Mapping[str, float], summary: Mapping[str, Any], run_dir: Path, tested_on: str = "") -> Row:
    """A row of what training and evaluation left."""
    found = headlines(summary)
    intervals = {score: (low, high) for score, (_, low, high) in found.items() if low is not None and high is not None}
    return Row(name, bundle_id, facts, {score: value for score, (value, _, _) in found.items()}, summary, intervals, run_dir, tested_on)


def headlines(summary: Mapping[str, Any]) -> dict[str, tuple[float | None, float | None, float | None]]:
    """The numbers of an evaluation that a table shows, whichever family it is of: value, and the ends of its interval."""
    scores: dict[str, tuple[float | None, float | None, float | None]] = {}
    for name, own in summary["classes"].items():
        for score in ("dice", "iou", "pixel_accuracy"):
            if score in own["mean_per_image"]:
                scores[f"{score.replace('_', ' ')} {name}"] = _ends(own["mean_per_image"][score], "value", "")
        scores |= _presence(name, own)
    for kind in ("box", "mask"):
        found = (summary.get("detection") or {}).get(kind)
        if found:
            scores[f"{kind} AP@.50"] = _ends(found, "ap50", "ap50_")
            scores |= {f"{kind} AP@.50 {name}": _ends(own, "ap50", "ap50_") for name, own in found["classes"].items()}
    for name, own in (summary.get("detection") or {}).get("located", {}).items():
        scores |= {} if own is None else {f"centre error {name}": _ends(own["centre_error"], "value", "")}
    for name, own in (summary.get("detection") or {}).get("presence", {}).items():
        scores |= {} if name in summary["classes"] else _presence(name, own)
    for name in ("accuracy", "balanced_accuracy", "auroc", "quadratic_kappa"):
        if (own := (summary.get("grades") or {"scores": {}})["scores"].get(name)) is not None:
            scores[name.replace("_", " ")] = _ends(own, "value", "")
    for of in OF_MASKS:
        if summary.get(of.name):
            scores[f"{of.column} error"] = _ends(summary[of.name]["mean_absolute_error"], "value", "")
    return scores


def _presence(name: str, own: Mapping[str, Any]) -> dict[str, tuple[int, None, None]]:
    """Images without the class, beside its score: how many were left empty, and how many were not."""
    kinds = ("empty_right", "empty_wrong") if own.get("empty_right", 0) + own.get("empty_wrong", 0) else ()
    return {f"{kind.replace('_', ' ')} {name}": (own[kind], None, None) for kind in kinds}


def not_found(summary: Mapping[str, Any]) -> list[str]:
    """What must be said of the classes of an evaluation: which were never found, and which no image holds."""
    objects = (summary.get("detection") or {}).get("presence", {})
    of = {f"object of {name}": own for name, own in objects.items()} | summary.get("classes", {})
    seen = {name: Presence(*(own[field.name] for field in fields(Presence))) for name, own in of.items() if "held" in own}
    return [sentence for name, presence in seen.items() if (sentence := presence.sentence(name)) is not None]


def _ends(found: Mapping[str, Any], value: str, start: str) -> tuple[float | None, float | None, float | None]:
    return found[value], found.get(f"{start}low"), found.get(f"{start}high")


def shown(value: float | str | None) -> str:
    """A cell for the eye: three significant decimals of a number, thousands set apart, a dash for what is undefined."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
