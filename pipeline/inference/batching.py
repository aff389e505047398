"""The networks on one case after another, or on several photographs of one size together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch

from pipeline.inference.assemble import assemble, merge
from pipeline.inference.case_files import CaseResult
from pipeline.inference.journal import Entry
from pipeline.inference.predict import Predictor
from pipeline.inference.profile import Profile
from pipeline.inference.writing import Job
from pipeline.types import Prediction

Result = Callable[[], CaseResult]


class Batching:
    """Collects photographs until a batch of one size is complete.

    ``hand_over`` gets each case of which the network made something, and the rest of the work on it, which any thread may do; ``fail``
    each of which it made nothing. One case that fails does so alone: those that were in its batch are then looked at one by one.
    """

    def __init__(
        self,
        profile: Profile,
        keep_probabilities: bool,
        hand_over: Callable[[Job, Result], None],
        fail: Callable[[Job, Exception], None],
    ) -> None:
        self._profile, self._keep = profile, keep_probabilities
        self._hand_over, self._fail = hand_over, fail
        self._jobs: list[Job] = []

    @property
    def entries(self) -> list[Entry]:
        """Of the cases that wait for others."""
        return [job.entry for job in self._jobs]

    def add(self, job: Job) -> None:
        size = job.ready.size
        if self._jobs and size != self._jobs[0].ready.size:
            self.run()
        self._jobs.append(job)
        if size is None or len(self._jobs) >= job.ready.at_once:
            self.run()

    def run(self) -> None:
        """Wait for no more photographs."""
        jobs, self._jobs = self._jobs, []
        if not jobs:
            return
        try:
            results = self._results(jobs)
        except Exception as error:  # one scan must not end the run
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            if len(jobs) == 1:
                self._fail(jobs[0], error)
                return
            results = None
        if results is None:  # not inside `except`, whose traceback would keep the batch in memory
            for job in jobs:
                self._jobs = [job]
                self.run()
            return
        for job, result in zip(jobs, results, strict=True):
            self._hand_over(job, result)

    def _results(self, jobs: Sequence[Job]) -> list[Result]:
        began = time.perf_counter()
        predictors = jobs[0].ready.predictors
        with self._profile.stage("network"):
            if jobs[0].ready.size is None:  # a volume: each slice becomes a mask at once, as all of its probabilities would not fit
                (job,) = jobs
                seconds = job.entry.seconds / len(predictors)
                volumes = [
                    self._assembled(job, number, one.slices(job.ready.prepared[number]), seconds) for number, one in enumerate(predictors)
                ]
                made = merge(volumes, job.ready)
                self._profile.count(job.ready.scan.geometry.slices)
                return [lambda: made]
            found = [one.together([job.ready.prepared[number] for job in jobs]) for number, one in enumerate(predictors)]
        self._profile.count(len(jobs))
        spent = (time.perf_counter() - began) / len(jobs)
        pairs = zip(jobs, zip(*found, strict=True), strict=True)
        return [partial(self._photograph, job, own, job.entry.seconds + spent) for job, own in pairs]

    def _photograph(self, job: Job, found: Sequence[Prediction], seconds_before: float) -> CaseResult:
        """Runs in a writer's thread."""
        with self._profile.stage("post-process"):
            results = [self._flat(job, number, prediction, seconds_before / len(found)) for number, prediction in enumerate(found)]
            return merge(results, job.ready)

    def _flat(self, job: Job, number: int, found: Prediction, seconds_before: float) -> CaseResult:
        predictor, prepared = job.ready.predictors[number], job.ready.prepared[number]
        assert prepared.reduced is not None
        return self._assembled(job, number, [predictor.finished(found, prepared.reduced, prepared.warnings)], seconds_before)

    def _assembled(self, job: Job, number: int, predictions: Iterable[Prediction], seconds_before: float) -> CaseResult:
        predictor: Predictor = job.ready.predictors[number]
        keep = self._keep
        return assemble(predictor, job.ready.prepared[number], predictions, job.entry.case, seconds_before, keep_probabilities=keep)
