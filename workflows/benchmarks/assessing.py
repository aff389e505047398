"""Assessing cases (quality, doubt, measurements) in threads, and in processes that threads wait for: cases a second of each, in turns.

    .venv/bin/python workflows/benchmarks/assessing.py [--workers 2] [--cases 24] [--chase ../shared/data/chase_db1]

The cases are what `vessels_little` finds in photographs of CHASE_DB1, again and again. Processes have started before the clock does. With
as many workers as cores and nothing else to do this is the most that `predict` can gain by them; a network that computes on the same cores
leaves less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from photographs import CHASE

from pipeline.bundles.bundle import load_bundle
from pipeline.bundles.shipped_models import find_bundle
from pipeline.inference.assemble import assemble, merge
from pipeline.inference.assess import assess
from pipeline.inference.assessors import Assessors
from pipeline.inference.case_files import CaseResult
from pipeline.inference.model_set import ModelSet
from pipeline.inference.predict import Predictor
from pipeline.scans.open import open_scan
from pipeline.training.platform import prepare_machine, usable_cores


def found_in(paths: Sequence[Path]) -> list[CaseResult]:
    predictor = Predictor(load_bundle(find_bundle("vessels_little")), prepare_machine("cpu"))
    results = []
    for path in paths:
        case = ModelSet([predictor]).ready(open_scan(path))
        (ready,) = case.prepared
        results.append(merge([assemble(predictor, ready, predictor.slices(ready), path.stem, 0.0, keep_probabilities=False)], case))
    return results


def rate(cases: Sequence[CaseResult], workers: int, one: Callable[[CaseResult], CaseResult]) -> float:
    """Cases a second."""
    with ThreadPoolExecutor(workers) as threads:
        began = time.perf_counter()
        list(threads.map(one, cases))
        return len(cases) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=usable_cores(), help="threads, and processes")
    parser.add_argument("--cases", type=int, default=24, help="assessed in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chase", type=Path, default=CHASE, help="folder of CHASE_DB1, as data_cards/chase_db1.md describes it")
    options = parser.parse_args()
    few = found_in(sorted((options.chase / "images").glob("*.jpg"))[:4])
    cases = [few[number % len(few)] for number in range(options.cases)]
    processes = Assessors(options.workers)
    processes._here.acquire()  # none of them in these threads
    ways: dict[str, Callable[[CaseResult], CaseResult]] = {"threads": assess, "processes": processes}
    try:
        rate(cases[: 2 * options.workers], options.workers, processes)
        found = {name: [0.0] * options.rounds for name in ways}
        for number in range(options.rounds):
            for name, one in ways.items():
                found[name][number] = rate(cases, options.workers, one)
    finally:
        processes.close()
    print(f"{options.workers} workers, {usable_cores()} cores, load {os.getloadavg()[0]:.1f}, {options.cases} cases a round")
    for name, rates in found.items():
        print(f"{name:10} {statistics.median(rates):6.2f} cases a second ({', '.join(f'{own:.2f}' for own in rates)})")
    ratios = [theirs / ours for theirs, ours in zip(found["processes"], found["threads"], strict=True)]
    print(f"processes are {statistics.median(ratios):.2f} x as fast")


if __name__ == "__main__":
    main()
