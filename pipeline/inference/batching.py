"""The networks on one case after another, or on several photographs of one size together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pipeline.inference.case_files import CaseResult
from pipeline.inference.infer import Finish, look
from pipeline.inference.journal import Entry
from pipeline.inference.profile import Profile
from pipeline.inference.writing import Job


class Batching:
    """Collects photographs until a batch of one size is complete.

    ``hand_over`` gets each case of which the network made something, and the rest of the work on it, which any thread may do; ``fail``
    each of which it made nothing. ``assess``: what is done last of that work (inference/assess.py). One case that fails does so alone:
    those that were in its batch are then looked at one by one.
    """

    def __init__(
        self,
        profile: Profile,
        keep_probabilities: bool,
        hand_over: Callable[[Job, Finish], None],
        fail: Callable[[Job, Exception], None],
        assess: Callable[[CaseResult], CaseResult],
    ) -> None:
        self._profile, self._keep = profile, keep_probabilities
        self._hand_over, self._fail, self._assess = hand_over, fail, assess
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

    def _results(self, jobs: Sequence[Job]) -> list[Finish]:
        with self._profile.stage("network"):
            made = look(
                [job.ready for job in jobs],
                [job.entry.case for job in jobs],
                [job.entry.seconds for job in jobs],
                keep_probabilities=self._keep,
                finishing=lambda: self._profile.stage("post-process"),
                assessing=self._assess,
            )
        self._profile.count(len(jobs) if jobs[0].ready.size is not None else jobs[0].ready.scan.geometry.slices)
        return made
