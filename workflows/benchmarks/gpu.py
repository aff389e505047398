"""What a GPU makes of ocuseg, in one command and under eight minutes; with --smoke the same on a CPU, tiny, in about two.

    python workflows/benchmarks/gpu.py --out results [--data ../shared/data] [--only little,predict] [--budget 420] [--smoke]

Each section has a part of the time and is cut off when that is used up; what was measured until then stands in ``gpu.json`` and
``gpu.md``, which are written anew after every section. A section that fails says so in the table, and the next one follows.

``product`` rates are those of `train` as everybody calls it, seen through its progress: loading, network, optimiser and checkpoints, not
the start. ``network alone`` is the same network on one batch that stays on the device; ``loader alone`` makes batches on the device and
does nothing with them. Both sides of Mask R-CNN are described in detectors.py.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from photographs import SHARED


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    crop: int = 384
    batches: tuple[int, ...] = (4, 16)
    widths: str = "[12, 24, 48, 96]"
    wide_crop: int = 512
    wide_widths: str = "[32, 64, 128, 256, 512]"
    warm_up: int = 20  # steps before a rate is measured
    seconds: float = 3.0  # for which it is
    epochs: int = 24  # of the run that is stopped and resumed
    photographs: int = 1000
    transfer_seconds: float = 20.0
    detector: str = "resnet50"
    detector_size: int = 512
    detector_images: int = 64
    detector_steps: int = 20


SMOKE = Sizes(
    crop=64, batches=(4,), widths="[4, 8]", wide_crop=64, wide_widths="[8, 16]", warm_up=1, seconds=0.5, epochs=2, photographs=6,
    transfer_seconds=4, detector="mobilenet_v2", detector_size=64, detector_images=4, detector_steps=1,
)  # fmt: skip

TARGETS = {  # on an H100 or H200 with 16 cores
    "little U-Net, batch 16: product": "1,000 crops/s",
    "kernel fraction of a step": "80 %",
    "disc transfer: Drishti Dice": "0.94 after 20 s",
    "predict: photographs of 999 x 960": "60 a second",
    "Mask R-CNN: training": "1.5 x torchvision",
}


OURS = ("pipeline.training.run", "pipeline.inference.folder", "pipeline.evaluation.evaluate", "pipeline.cli")


class TimeUp(BaseException):
    """A section's part of the time is used up. No Exception, so that nothing takes it for a failed case."""


@dataclass
class Run:
    """What the sections share: where they run, how much they do, and the table that they fill."""

    device: str
    sizes: Sizes
    data: Path
    work: Path  # removed at the end
    out: Path
    head: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    bundle: Path | None = None  # that a section leaves for the next

    def add(self, what: str, value: float | str | None, unit: str = "", note: str = "", **more: Any) -> None:
        """One line of the table; printed at once."""
        target = next((text for name, text in TARGETS.items() if what.startswith(name)), "") if self.device == "cuda" else ""
        self.rows.append({"what": what, "value": value, "unit": unit, "note": note, "target": target, **more})
        print(f"  {what}: {shown(value)} {unit}{f' ({note})' if note else ''}", flush=True)

    def write(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu.json").write_text(json.dumps({"head": self.head, "sizes": asdict(self.sizes), "rows": self.rows}, indent=1) + "\n")
        lines = [f"{name}: {value}  " for name, value in self.head.items()]
        lines += ["", "| | measured | | aim |", "|---|---|---|---|"]
        lines += [f"| {row['what']} | {shown(row['value'])} {row['unit']} | {row['note']} | {row['target']} |" for row in self.rows]
        (self.out / "gpu.md").write_text("\n".join(lines) + "\n")


def shown(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 10 else f"{value:.4g}"


def sections() -> dict[str, tuple[float, Callable[[Run], None]]]:
    """By name: the most seconds each may take, and what it does; in the order of their worth."""
    import gpu_runs
    import gpu_training

    return {
        "agreement": (25, gpu_training.agreement),
        "little": (80, gpu_training.little),
        "stop_resume": (60, gpu_runs.stop_resume),
        "predict": (75, gpu_runs.predict),
        "transfer": (80, gpu_runs.transfer),
        "mask_rcnn": (75, gpu_runs.mask_rcnn),
        "wide": (45, gpu_training.wide),
        "out_of_memory": (30, gpu_runs.out_of_memory),
        "compiled": (100, gpu_training.compiled),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_results"), help="folder for gpu.json and gpu.md")
    parser.add_argument(
        "--data", type=Path, default=SHARED / "data", help="folder with chase_db1, idrid_codras_boxes, drishti_gs_half_train"
    )
    parser.add_argument("--weights", type=Path, help="folder with ImageNet weights (default: OCUSEG_WEIGHTS, or weights beside the data)")
    parser.add_argument("--only", default="", help="sections, parted by commas, in this order")
    parser.add_argument("--budget", type=float, default=420, help="seconds for everything")
    parser.add_argument("--smoke", action="store_true", help="on the CPU, with tiny networks: whether it runs, not how fast")
    options = parser.parse_args()
    deadline = time.monotonic() + options.budget
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    if options.weights or "OCUSEG_WEIGHTS" not in os.environ:
        os.environ["OCUSEG_WEIGHTS"] = str((options.weights or options.data.parent / "weights").resolve())
    logging.disable(logging.INFO)
    chosen = sections()
    names = options.only.split(",") if options.only else list(chosen)
    if unknown := set(names) - set(chosen):
        sys.exit(f"--only: no section {', '.join(sorted(unknown))}; there are {', '.join(chosen)}")
    device = "cpu" if options.smoke else "cuda"
    head = describe(device)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        run = Run(device, SMOKE if options.smoke else Sizes(), options.data.resolve(), Path(work), options.out, head)
        print("\n".join(f"{name}: {value}" for name, value in head.items()), flush=True)
        for name in names:
            seconds, section = chosen[name]
            try:
                go(run, name, section, seconds * (4 if options.smoke else 1), deadline)
            finally:
                run.write()
    print(f"\n{(options.out / 'gpu.md').read_text()}")
    sys.stdout.flush()
    if any(row["what"].endswith("FAILED") for row in run.rows):
        sys.exit(1)


def go(run: Run, name: str, section: Callable[[Run], None], seconds: float, deadline: float) -> None:
    """One section, within its ``seconds`` and what is left of the whole."""
    left = deadline - time.monotonic()
    if left < min(seconds / 3, 20):
        run.add(f"{name}: skipped", None, note="the time is used up")
        return
    print(f"{name} (at most {min(seconds, left):.0f} s)", flush=True)
    began = time.monotonic()
    try:
        with within(min(seconds, left)):
            section(run)
    except TimeUp:
        run.add(f"{name}: cut off", None, note=f"after its {min(seconds, left):.0f} s")
    except Exception as error:
        traceback.print_exc(limit=-6)
        run.add(f"{name}: FAILED", None, note=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    free(run.device)
    print(f"  {time.monotonic() - began:.1f} s", flush=True)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeUp inside the block when it takes longer."""

    def ring(*_: Any) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def free(device: str) -> None:
    """Give back what a section has left on the device."""
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def describe(device: str) -> dict[str, Any]:
    import psutil
    import torch

    from pipeline.training.platform import prepare_machine, usable_cores

    began = time.monotonic()
    for module in ("mlflow", "accelerate", "matplotlib.pyplot", "monai.networks.nets", "torchvision.models.detection", *OURS):
        importlib.import_module(module)  # now, so that no section's time is spent on it, nor an alarm rings in the middle
    prepare_machine(device)
    if device == "cuda":
        torch.zeros(1, device=device)
    name = f"CPU ({platform.machine()})"
    if device == "cuda":
        about = torch.cuda.get_device_properties(0)
        name = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, sm{about.major}{about.minor}, CUDA {torch.version.cuda}"
    return {
        "device": name,
        "torch": f"{torch.__version__}, Python {platform.python_version()}",
        "cores": f"{usable_cores()}, load average {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads",
        "start of the libraries": f"{time.monotonic() - began:.0f} s",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
    }


if __name__ == "__main__":
    main()
