"""Scoring by other processes, of a Dask cluster or one for each device: each loads the bundle once and scores cases apart; what is kept of
them comes back in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pipeline.bundles.bundle import open_bundle
from pipeline.cards.card import CardCase, DataCard
from pipeline.cluster.work import Lost, Workers, in_order
from pipeline.errors import TrainingError
from pipeline.evaluation.case_scores import CaseScores, Kept, named_case
from pipeline.evaluation.objects import Shared
from pipeline.inference.predict import Predictor
from pipeline.training.platform import enough_memory, prepare_machine
from pipeline.types import LabelMap

Numbered = tuple[int, CardCase]


@dataclass(frozen=True)
class ScoringWork:
    """What each worker does with cases; ``bundle`` and the data lie at the same paths on all machines."""

    bundle: Path | str
    card: DataCard
    shared: Shared
    theirs: LabelMap
    out: Path
    proposals: bool
    device: str
    engine: str
    remedy: str

    def on(self, device: str) -> Self:
        return replace(self, device=device)

    def open(self, held: ExitStack) -> Callable[[Sequence[Numbered]], list[Kept]]:
        predictor = Predictor(open_bundle(self.bundle), prepare_machine(self.device), self.engine)
        scores = CaseScores(predictor, self.card, self.shared, self.theirs, self.out, self.proposals)

        def score(cases: Sequence[Numbered]) -> list[Kept]:
            found = []
            for number, case in cases:
                with named_case(case), enough_memory(self.remedy):
                    found.append(scores.kept_of(number, case))
            return found

        return score


def scored_by_cluster(workers: Workers, work: ScoringWork, cases: Sequence[CardCase]) -> Iterator[Kept]:
    """What is kept of each case, in their order.

    Raises
    ------
    CardError: a case that cannot be used. TrainingError: one whose workers were killed each time, as nothing may be left out of a score.
    """

    def found() -> Iterator[tuple[Numbered, Kept | Lost[Numbered]]]:
        return workers.results(work, ([pair] for pair in enumerate(cases)))

    for (_, case), kept in in_order(found()):  # nothing else holds it, so that the workers end with the loop
        if isinstance(kept, Lost):
            raise TrainingError(f"case {case.key}: {kept.reason}; {work.remedy}")
        yield kept
