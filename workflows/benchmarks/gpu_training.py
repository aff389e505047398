"""The sections of gpu.py about training steps: U-Nets as the product trains them, and their parts alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from gpu import Run

    from pipeline.types import Batch

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "chase_vessels_little.yaml"


def little(run: Run) -> None:
    for batch in run.sizes.batches:
        config = little_config(run, batch)
        name = f"little U-Net, batch {batch}"
        rate = product(run, config, profiled=True)
        run.add(f"{name}: product", rate.crops, "crops/s", f"{rate.step_ms:.1f} ms a step", memory_gib=peak(run))
        rate.tell_kernels(run, name)
        alone(run, config, name)


def wide(run: Run) -> None:
    sizes = run.sizes
    config = little_config(run, 4, f"data.crop=[{sizes.wide_crop}, {sizes.wide_crop}]", f"model.widths={sizes.wide_widths}")
    rate = product(run, config, profiled=True)
    run.add("wide U-Net, batch 4: product", rate.crops, "crops/s", f"{rate.step_ms:.1f} ms a step", memory_gib=peak(run))
    rate.tell_kernels(run, "wide U-Net, batch 4")
    alone(run, config, "wide U-Net, batch 4")


def compiled(run: Run) -> None:
    """Last of the rates, because the compiler may take its time."""
    if run.device != "cuda":
        run.add("compiled: skipped", None, note="needs a GPU")
        return
    for batch in reversed(run.sizes.batches):
        config = little_config(run, batch, "train.compile=on")
        rate = product(run, config, profiled=True)
        name = f"little U-Net, batch {batch}, compiled"
        run.add(f"{name}: product", rate.crops, "crops/s", f"{rate.step_ms:.1f} ms a step, first step after {rate.first_s:.0f} s")
        rate.tell_kernels(run, name)
        run.add(f"{name}: network alone, not recorded", Parts(run, config).network_rate(run.sizes, compiled=True), "crops/s")
        torch.compiler.reset()


def agreement(run: Run) -> None:
    """One batch made for the CPU and for the device: are samples and losses the same?"""
    changes = "{rotation_deg: 20, scale: [0.8, 1.25], elastic: 4, gamma: 0.3, gain: 0.2, bias: 0.2, blur_sigma: 1}"
    parts = Parts(run, little_config(run, 4, f"data.augment={changes}", "train.precision=float32"))
    ours, theirs = parts.batch("cpu"), parts.batch(run.device)
    image = max(float((a - b.cpu()).abs().max()) for a, b in zip(ours.images, theirs.images, strict=True))
    assert ours.targets is not None
    assert theirs.targets is not None
    same = [
        float((a.mask == b.mask.cpu()).float().mean())
        for a, b in zip(ours.targets, theirs.targets, strict=True)
        if a.mask is not None and b.mask is not None
    ]
    run.add("CPU and device: greatest difference of a pixel", image, "standard deviations", "all augmentations on")
    run.add("CPU and device: equal pixels of the mask", 100 * min(same), "%")
    torch.manual_seed(0)
    task = parts.task("cpu").eval()
    with torch.no_grad():
        loss = sum(task(ours).values()).item()
        moved = sum(task.to(run.device)(theirs).values()).item()
    run.add("CPU and device: relative difference of the loss", abs(loss - moved) / abs(loss), "", "float32 or TF32")


def little_config(run: Run, batch: int, *more: str) -> Any:
    from pipeline.config import load_config

    size = run.sizes.crop
    base = [f"data.crop=[{size}, {size}]", f"model.widths={run.sizes.widths}", f"train.batch_size={batch}", "train.epochs=100000"]
    return load_config(CONFIG, [*base, "train.validate_every=100000", "train.minutes=null", *more])


def alone(run: Run, config: Any, name: str) -> None:
    parts = Parts(run, config)
    run.add(f"{name}: network alone, as written", parts.network_rate(run.sizes), "crops/s")
    run.add(f"{name}: loader alone", parts.loader_rate(run.sizes), "crops/s")


def peak(run: Run) -> float | None:
    """GiB that the device held at most since the last call."""
    if run.device != "cuda":
        return None
    held = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return held


class Parts:
    """A run's own parts, put together as training/run.py does."""

    def __init__(self, run: Run, config: Any) -> None:
        from pipeline.cards.card import load_card
        from pipeline.cards.find_cases import find_cases
        from pipeline.datasets.loader import CaseStore
        from pipeline.datasets.splits import make_split

        self.device, self.config, self.card = run.device, config, load_card(config.data.card)
        root = run.data / "chase_db1"
        cases = find_cases(self.card, root)
        self.keys = make_split(self.card, cases, config.data.split, config.seed).train
        self.store = CaseStore(self.card, [case for case in cases if case.key in self.keys], config.data.normalise)

    def batches(self, device: str) -> Iterator[Batch]:
        """Batches on ``device``, epoch after epoch."""
        from pipeline.datasets.loader import TrainingLoader

        data, train = self.config.data, self.config.train
        for epoch in itertools.count():
            yield from TrainingLoader(self.store, self.keys, data, train.batch_size, self.config.seed, epoch, device=device)

    def batch(self, device: str) -> Batch:
        return next(self.batches(device))

    def task(self, device: str) -> Any:
        from pipeline.bundles.bundle import build_task
        from pipeline.models.base import to_channels_last
        from pipeline.training.platform import channels_last_suits

        task = build_task(self.config, self.store.channels, self.card.label_map).to(device)
        if self.config.train.channels_last and channels_last_suits(task, device):
            to_channels_last(task)
        return task

    def network_rate(self, sizes: Any, *, compiled: bool = False) -> float:
        """Crops a second of forward, backward and optimiser on one batch."""
        from pipeline.models.base import memory_format
        from pipeline.models.precision import autocast, choose_precision
        from pipeline.training.compiling import compile_network
        from pipeline.training.optimise import make_optimizer

        task, batch = self.task(self.device), self.batch(self.device)
        optimizer = make_optimizer(task, self.config.train)
        precision = choose_precision(self.config.train.precision, self.device)  # type: ignore[arg-type]
        if compiled:
            images = torch.stack(list(batch.images)).contiguous(memory_format=memory_format(task.network))
            compile_network(task.train().network, images, precision)

        def step() -> None:
            with autocast(self.device, precision):
                losses = task(batch)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        return per_second(step, sizes, self.device) * len(batch)

    def loader_rate(self, sizes: Any) -> float:
        batches = self.batches(self.device)
        return per_second(lambda: next(batches), sizes, self.device) * self.config.train.batch_size  # type: ignore[no-any-return]


def per_second(step: Callable[[], Any], sizes: Any, device: str) -> float:
    """Calls of ``step`` a second, after a warm-up."""
    for _ in range(sizes.warm_up):
        step()
    synchronize(device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < sizes.seconds:
        step()
        count += 1
    synchronize(device)
    return count / (time.perf_counter() - began)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def product(run: Run, config: Any, *, profiled: bool = False) -> Rate:
    """`train` as everybody calls it, until its rate is known."""
    from pipeline.training.run import train

    rate = Rate(run, config.train.batch_size, profiled and run.device == "cuda")
    try:
        train(config, run.data / "chase_db1", run.work / f"run{time.monotonic_ns()}", device=run.device, progress=rate)
    except Enough:
        return rate
    raise AssertionError("the run ended before its rate was known")


PROFILED = 10  # steps


class Enough(Exception):
    """Ends a training from within its progress."""


class Rate:
    """Progress of a training that measures its steps, profiles a few more where asked, and then ends it."""

    def __init__(self, run: Run, batch: int, profiled: bool) -> None:
        self.run, self.batch, self.profiled = run, batch, profiled
        self.made = time.perf_counter()
        self.start: Any = None  # (seconds, steps done) when the measurement began
        self.profile: Any = None
        self.problem = ""
        self.crops = self.step_ms = self.kernel_ms = self.kernels = self.launches = self.first_s = 0.0

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        if not note.startswith("epoch"):
            return
        now = time.perf_counter()
        self.first_s = self.first_s or now - self.made
        if done < self.run.sizes.warm_up:
            return
        if self.profile is not None:
            if done - self.start[1] >= PROFILED:
                try:
                    self._read_profile(done - self.start[1])
                except Exception as error:  # the rate is known all the same
                    self.problem = f"the profile could not be read: {type(error).__name__}: {error}"
                raise Enough
        elif self.start is None:
            synchronize(self.run.device)
            self.start = time.perf_counter(), done
        elif now - self.start[0] >= self.run.sizes.seconds and done > self.start[1]:
            synchronize(self.run.device)
            steps, seconds = done - self.start[1], time.perf_counter() - self.start[0]
            self.crops, self.step_ms = steps * self.batch / seconds, 1000 * seconds / steps
            if not self.profiled:
                raise Enough
            self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self.profile.start()
            self.start = time.perf_counter(), done

    def _read_profile(self, steps: int) -> None:
        """How long a kernel ran in these steps, on whatever stream; how many kernels there were, and how many launches."""
        synchronize(self.run.device)
        self.profile.stop()
        spans = []
        for event in self.profile.events():
            if event.device_type == torch.autograd.DeviceType.CUDA:
                if not event.name.startswith(("Memcpy", "Memset")) and "#" not in event.name:
                    spans.append((event.time_range.start, event.time_range.end))
            elif "Launch" in event.name:
                self.launches += 1 / steps
        end = 0.0
        for first, last in sorted(spans):  # of two that run at once, the time counts once
            self.kernel_ms += max(last - max(first, end), 0) / 1000 / steps
            end = max(end, last)
        self.kernels = len(spans) / steps

    def tell_kernels(self, run: Run, name: str) -> None:
        if self.problem:
            run.add(f"kernel fraction of a step, {name}", None, note=self.problem[:200])
        elif self.kernel_ms:
            note = f"{name}: {self.kernel_ms:.2f} of {self.step_ms:.2f} ms, {self.kernels:.0f} kernels by {self.launches:.0f} launches"
            run.add(f"kernel fraction of a step, {name}", 100 * self.kernel_ms / self.step_ms, "%", note)
