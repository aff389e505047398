"""From one file to its case: decode, prepare, network, assess. Nothing is written, and no other file counts.

:func:`infer` is the whole of it. Executors take its steps apart to have them side by side: processes decode (scans/workers.py), threads
prepare (inference/reading.py), the networks look at one case or at several of one size (:func:`look`), and what is left to do on each is
done in any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from pipeline.errors import ScanError
from pipeline.inference.assemble import assemble, merge
from pipeline.inference.assess import assess
from pipeline.inference.case_files import CaseResult
from pipeline.inference.model_set import ModelSet, PreparedCase
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.record import open_file
from pipeline.types import Prediction, Scan

Finish = Callable[[], CaseResult]
"""The rest of the work on a case after the network."""


def infer(
    path: Path,
    models: ModelSet,
    names: Pseudonyms,
    *,
    root: Path | None = None,
    fill: Callable[[Scan, Path], Scan] = lambda scan, path: scan,
    keep_probabilities: bool = False,
) -> CaseResult:
    """What ``models`` find in the file ``path``; the patient is named by its tags, or by its place below ``root``.

    The same file and models always give the same result, whatever was looked at before. ``fill`` adds what the user states.

    Raises
    ------
    ScanError: the file cannot become a Scan, or no model is for it.
    """
    began = time.perf_counter()
    opened = open_file(path, root or path.parent, names)
    if opened.scan is None:
        raise opened.error or ScanError("unreadable", "the file could not be read")
    ready = models.ready(fill(opened.scan, path))
    (finish,) = look([ready], [str(ready.scan.case)], [time.perf_counter() - began], keep_probabilities=keep_probabilities)
    return finish()


def look(
    cases: Sequence[PreparedCase],
    names: Sequence[str],
    seconds: Sequence[float],
    *,
    keep_probabilities: bool = False,
    finishing: Callable[[], AbstractContextManager[None]] = nullcontext,
    assessing: Callable[[CaseResult], CaseResult] = assess,
) -> list[Finish]:
    """The networks on photographs of one size together, or on one volume alone; then what is left to do on each.

    ``names`` of the cases; ``seconds`` that each took before. What is left of a volume is done at once: each slice becomes a mask
    as it is found, as all of its probabilities would not fit. ``finishing`` is entered around the rest of each photograph; ``assessing``
    is the last of it.
    """
    began = time.perf_counter()
    predictors = cases[0].predictors
    if cases[0].size is None:
        (case,) = cases
        found = (one.slices(case.prepared[number]) for number, one in enumerate(predictors))
        made = assessing(_made(case, names[0], found, seconds[0], keep_probabilities))
        return [lambda: made]
    together = [one.together([case.prepared[number] for case in cases]) for number, one in enumerate(predictors)]
    spent = (time.perf_counter() - began) / len(cases)

    def finish(case: PreparedCase, name: str, before: float, found: Sequence[Prediction]) -> CaseResult:
        with finishing():
            predictions = map(partial(_finished, case), range(len(found)), found)
            return assessing(_made(case, name, predictions, before + spent, keep_probabilities))

    rest = zip(cases, names, seconds, zip(*together, strict=True), strict=True)
    return [partial(finish, case, name, before, found) for case, name, before, found in rest]


def _finished(case: PreparedCase, number: int, found: Prediction) -> list[Prediction]:
    prepared = case.prepared[number]
    assert prepared.reduced is not None
    return [case.predictors[number].finished(found, prepared.reduced, prepared.warnings)]


def _made(case: PreparedCase, name: str, found: Iterable[Iterable[Prediction]], seconds: float, keep: bool) -> CaseResult:
    each = seconds / len(case.predictors)
    results = [
        assemble(one, case.prepared[number], predictions, name, each, keep_probabilities=keep)
        for number, (one, predictions) in enumerate(zip(case.predictors, found, strict=True))
    ]
    return merge(results, case)
