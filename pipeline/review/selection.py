"""Which reviewed cases go into a labelled set, and why others do not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.cards.card import DataCard
from pipeline.errors import ConfigError, OcusegError
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.review.reviewed import by_pixels, find_cases, only
from pipeline.review.state import ReviewState, states
from pipeline.types import LabelMap, Modality


@dataclass(frozen=True)
class Choice:
    """What goes into the set: cases of this ``modality`` and these ``classes`` of theirs; None and (): all of the only kind there is ·
    ``originals``: a folder whose files are taken in place of the pictures of the predictions · ``update``: labels that have changed
    replace those exported earlier · ``validation`` and ``test``: fractions of the patients."""

    modality: Modality | None = None
    classes: tuple[str, ...] = ()
    originals: Path | None = None
    update: bool = False
    validation: float = 0.2
    test: float = 0.2

    def as_in(self, card: DataCard) -> Choice:
        """The same for a set that is there already, whose card says which kind of cases it holds.

        Raises
        ------
        ConfigError: another kind is asked for.
        """
        names = card.label_map.names
        if self.modality not in (None, card.modality) or (self.classes and set(self.classes) != set(names)):
            raise ConfigError(f"this set holds {', '.join(names)} of {card.modality} scans; give another folder for other classes")
        return replace(self, modality=card.modality, classes=names)


@dataclass(frozen=True, eq=False)
class Ready:
    """A case that goes into the set, under its ``name`` there, with the classes that were chosen of it."""

    case: ReportCase
    state: ReviewState
    name: str
    label_map: LabelMap
    by_pixels: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Its classes, for a person."""
        names = self.label_map.names
        some = "" if len(self.by_pixels) in (0, len(names)) else f" (pixel by pixel: {', '.join(self.by_pixels)})"
        return ", ".join(names) + (some if self.by_pixels else " (as objects)")


@dataclass
class Selection:
    """``rejected``: (name in the set, state) · ``waiting`` for an adjudicator · ``left_out``: (case, reason)."""

    ready: list[Ready] = field(default_factory=list)
    rejected: list[tuple[str, ReviewState]] = field(default_factory=list)
    unreviewed: int = 0
    waiting: tuple[str, ...] = ()
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def check_one_kind(self) -> None:
        """Raises ConfigError where there are several kinds, with what to choose by."""
        modalities = Counter(one.case.modality for one in self.ready)
        if len(modalities) > 1:
            raise ConfigError(f"scans of several kinds were reviewed ({_counts(modalities)}): choose one by --modality")
        if len({json.dumps([one.label_map.to_json(), one.by_pixels]) for one in self.ready}) > 1:
            kinds = Counter(one.kind for one in self.ready)
            raise ConfigError(f"the cases were looked at for different classes ({_counts(kinds)}): choose those of all by --classes")

    def why_none(self) -> str:
        numbers = f"{self.unreviewed} are not reviewed, {len(self.rejected)} rejected, {len(self.waiting)} wait for an adjudicator"
        left = self.left_out
        return numbers + (f", {len(left)} are left out ({left[0][0]}: {left[0][1]})" if left else "")


def select(predictions: Path, run: RunFacts, choice: Choice) -> Selection:
    """Look at each case's record and review; no mask is read yet."""
    known, found, waiting = states(predictions), Selection(), list[str]()
    for case in find_cases(predictions):
        name = case[0] if isinstance(case, tuple) else case.folder.name
        state = known.get(name)
        if state is None or state.verdict == "unreviewed":
            found.unreviewed += 1
        elif isinstance(case, tuple):
            found.left_out.append(case)
        elif choice.modality not in (None, case.modality):
            continue
        elif state.disagreement:
            waiting.append(name)
        elif state.verdict == "rejected":
            found.rejected.append((_name(case, state), state))
        else:
            try:
                found.ready.append(_ready(run, case, state, choice.classes))
            except OcusegError as error:
                found.left_out.append((name, str(error)))
    found.waiting = tuple(waiting)
    return found


def _ready(run: RunFacts, case: ReportCase, state: ReviewState, classes: Sequence[str]) -> Ready:
    """Raises OcusegError: the case cannot be in a set of such classes."""
    label_map = run.of(case).label_map
    label_map = only(label_map, classes) if classes else label_map
    if not label_map.classes:
        raise OcusegError("nothing is marked in it")
    marked = tuple(name for name in by_pixels(run, case) if name in label_map.names)
    if case.volume and len(marked) < len(label_map):
        raise OcusegError("objects in the slices of a volume cannot be said in a card")
    return Ready(case, state, _name(case, state), label_map, marked)


def _name(case: ReportCase, state: ReviewState) -> str:
    """The case's name, with the eye that a reviewer has set."""
    eye: Literal["R", "L", "U"] = "R" if state.eye == "R" else "L" if state.eye == "L" else case.side
    return str(replace(case.key, eye=eye))


def few(names: Sequence[str]) -> str:
    """Some of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _counts(of: Counter[Any]) -> str:
    return "; ".join(f"{name}: {count}" for name, count in of.most_common())
