"""What a network costs: frames a second and operations of prediction, measured on real scans, and the memory of training."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.bundles.bundle import load_bundle
from pipeline.cards.card import load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.inference.predict import Predictor
from pipeline.memory import give_back_freed_memory
from pipeline.models.lean_monai import lean_monai
from pipeline.scans.identity import Pseudonyms
from pipeline.training.platform import prepare_machine

IMAGES, LONGEST_S = 12, 30.0
_LIBRARIES, _OF_MONAI = ("accelerate", "torch._dynamo"), ("monai.inferers.utils", "monai.networks.nets")
"""What training loads when it first needs it, whichever network it is."""


def frames_per_second(
    bundle_path: Path, card_name: str, root: Path, summary: Mapping[str, Any], device: str = "auto", key_path: Path | None = None
) -> dict[str, float]:
    """``{"images/s": ..., "GFLOPs": ..., "parameters": ...}``; images/s is the reciprocal of the median time of one image (of a volume, a
    slice), reading its file not included.

    GFLOPs: billions of multiplications and additions of the first file's image (or slice) at its own size, all tiles together, as
    torch.utils.flop_counter counts them: convolutions and matrix products, nothing else.

    The first file warms up and does not count; at most IMAGES of the evaluated ones (``summary["scans"]``), at most LONGEST_S
    seconds. Normalisation, network, and the way back to the source frame are all counted, one file at a time; of a
    volume on a GPU, several slices together.
    """
    bundle, card = load_bundle(bundle_path, device="cpu"), load_card(card_name)
    predictor = Predictor(bundle, prepare_machine(device))
    names = None if key_path is None else Pseudonyms.load_or_create(key_path)
    cases = [case for case in find_cases(card, root, pseudonyms=names) if str(case.key) in summary["scans"]]
    times: list[float] = []
    warm, spent, operations = False, 0.0, 0.0
    for case in itertools.islice(itertools.cycle(cases[:IMAGES]), IMAGES + 1):
        scan = read_scan(card, case)
        began = time.perf_counter()
        with contextlib.nullcontext() if warm else FlopCounterMode(display=False) as counter:
            slices = sum(1 for _ in predictor.slices(predictor.ready(scan)))
        if counter is not None:
            operations = counter.get_total_flops() / slices
        if predictor.device.type == "cuda":
            torch.cuda.synchronize(predictor.device)
        seconds = time.perf_counter() - began
        if warm:
            times.append(seconds / slices)
            spent += seconds
        warm = True
        if spent > LONGEST_S:
            break
    parameters = float(sum(p.numel() for p in bundle.task.parameters()))
    return {"images/s": 1 / statistics.median(times), "GFLOPs": operations / 1e9, "parameters": parameters}


@dataclass
class Peak:
    """``gigabytes`` (10^9 bytes) that a block needed at most, once it has ended."""

    gigabytes: float = 0.0


@contextmanager
def peak_memory(device: str) -> Iterator[Peak]:
    """The memory that a block needs at most, beyond what was there before it.

    On a GPU what torch allocates there; on a CPU the process's resident memory, sampled twenty times a second, after what earlier
    blocks have freed was given back to the system. Libraries are loaded before, so that the first block of a process is not the one
    that pays for them.
    """
    peak = Peak()
    for library in _LIBRARIES:
        importlib.import_module(library)
    with lean_monai():
        for library in _OF_MONAI:
            importlib.import_module(library)
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        try:
            yield peak
        finally:
            peak.gigabytes = (torch.cuda.max_memory_allocated() - before) / 1e9
        return
    import psutil

    give_back_freed_memory()
    process, ended = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss] * 2

    def watch() -> None:
        while not ended.wait(0.05):
            seen[1] = max(seen[1], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()
        peak.gigabytes = (max(seen[1], process.memory_info().rss) - seen[0]) / 1e9
