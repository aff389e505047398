"""The machine under a run: memory allocator, threads, device."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.cluster.processes import DeviceWorkers
from pipeline.cluster.work import Workers
from pipeline.errors import ConfigError, TrainingError
from pipeline.models.base import Network

log = logging.getLogger(__name__)

_NUMBERED = r"cuda:\d{1,4}"
SWITCH_SECONDS = 5e-4
"""After so long Python lets the other thread go on, where one launches steps and one makes batches: its own 5 ms are as long as a step."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h> of glibc


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed instead of giving it back to the system; True where that was possible.

    By default every tensor above a few MB is mapped and unmapped anew: some 200,000 page faults for a forward pass at 512 x 512.
    Keeping the memory makes a training step 1.2 to 1.5 times and inference twice as fast. It is not done where the user has
    chosen by MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_THRESHOLD_.
    """
    if not sys.platform.startswith("linux") or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version  # noqa: B018 (other C libraries have mallopt, too, with other meanings)
        return bool(libc.mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False


def usable_cores() -> int:
    """Cores that this process may use: affinity and container limits count, not what the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def set_threads() -> int:
    """Share this machine's cores between the processes that torchrun, accelerate or ``--device cpu,cpu`` started on it; OMP_NUM_THREADS has
    the last word."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    return torch.get_num_threads()


def choose_device(name: str) -> str:
    """``auto`` (a GPU where there is one), ``cpu`` or ``cuda`` -> "cpu" or "cuda".

    Raises
    ------
    ConfigError: an unknown name, or a GPU asked for where torch finds none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return "cpu"
    if name == "cuda":
        if torch.cuda.is_available():
            return "cuda"
        why = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no NVIDIA GPU or driver"
        raise ConfigError(f"--device cuda: {why}; use --device cpu, or auto")
    if re.fullmatch(_NUMBERED, name) or "," in name:
        raise ConfigError(
            f"--device {name}: predict, segment and evaluate take GPUs by their numbers; here say cuda (CUDA_VISIBLE_DEVICES says which; "
            "torchrun trains on several)"
        )
    raise ConfigError(f"--device {name}: must be auto, cpu or cuda")


def choose_devices(names: str) -> list[str]:
    """One device as of :func:`choose_device`, GPUs by their numbers (``cuda:1``, ``cuda:0,1``), or ``cpu,cpu``: each is for a process.

    Raises
    ------
    ConfigError: as of :func:`choose_device`, a number that torch has no GPU for, or several that are not of one of these forms.
    """
    if re.fullmatch(rf"{_NUMBERED}(,(cuda:)?\d{{1,4}})*", names):
        choose_device("cuda")
        there, numbers = torch.cuda.device_count(), [int(name.removeprefix("cuda:")) for name in names.split(",")]
        if max(numbers) >= there:
            raise ConfigError(f"--device {names}: there is no cuda:{max(numbers)}; torch finds {there} here, counted from cuda:0")
        return [f"cuda:{number}" for number in numbers]
    if re.fullmatch(r"cpu(,cpu)+", names):
        return names.split(",")
    if "," in names:
        raise ConfigError(f"--device {names}: several devices are GPUs by their numbers, such as cuda:0,1, or cpu,cpu for two processes")
    return [choose_device(names)]


@contextmanager
def fast_convolutions(one_size: bool) -> Iterator[None]:
    """Let cuDNN try its algorithms on the first images inside the block and keep the fastest, where all have ``one_size``."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = one_size
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def channels_last_suits(network: nn.Module, device: str) -> bool:
    """Whether ``network`` is to be trained in channels_last (the fast format of most) on ``device``.

    On a CPU, some networks say that they are slower in it, and oneDNN's gradient of a strided 1 x 1 convolution of fewer than 16
    channels writes past its workspace in that format: wrong gradients, or a crash much later
    (github.com/uxlfoundation/oneDNN/issues/6035; found here with torch 2.14.1). Volumes are taken to be as images in this.
    """
    return device != "cpu" or not any(
        (isinstance(layer, Network) and layer.slow_in_channels_last)
        or (
            isinstance(layer, nn.Conv2d | nn.Conv3d)
            and set(layer.kernel_size) == {1}
            and max(layer.stride) > 1
            and layer.in_channels // layer.groups < 16
        )
        for layer in network.modules()
    )


def device_workers(device: str, cluster: Workers | None) -> tuple[str, Workers | None]:
    """The device of this process, as of :func:`choose_devices` the first one, and who works in its place: a process for each device
    where there are several, else the ``cluster``.

    Raises
    ------
    ConfigError: as of :func:`choose_devices`, or there are both.
    """
    devices = choose_devices(device)
    if len(devices) == 1:
        return devices[0], cluster
    if cluster is not None:
        raise ConfigError(f"--device {device} and --cluster cannot be combined: start a worker of the cluster for each device")
    return devices[0], DeviceWorkers(devices)


def prepare_machine(device: str) -> str:
    """Allocator, threads and device, once at the start of a program; gives "cpu", "cuda" or "cuda:1".

    Raises
    ------
    ConfigError: as of :func:`choose_devices`, or ``device`` names several.
    """
    chosen = choose_devices(device)
    if len(chosen) > 1:
        raise ConfigError(f"--device {device}: one device is meant here")
    kept = keep_freed_memory()
    if chosen[0].startswith("cuda"):
        sys.setswitchinterval(SWITCH_SECONDS)
    log.debug("device %s, %d threads, freed memory %s", chosen[0], set_threads(), "kept" if kept else "given back")
    return chosen[0]


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Say in one sentence, with the remedy, that memory did not suffice for what is done inside the block, the GPU's or the machine's.

    Raises
    ------
    TrainingError: in place of torch's or Python's own error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"GPU memory did not suffice: {remedy}") from error
    except MemoryError as error:
        raise TrainingError(f"memory did not suffice: {remedy}") from error
