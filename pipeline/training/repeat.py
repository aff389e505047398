"""``ocuseg train --from-run RUN_ID``: train a recorded run again from MLflow alone, and say whether data, code and result agree."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pipeline.config import Minutes, RunConfig, parse_config
from pipeline.datasets.splits import Split
from pipeline.errors import ConfigError
from pipeline.tracking.mlflow_store import connect, metric_name, resolve_uri
from pipeline.tracking.provenance import ManifestDifference, code_version, compare_manifests, folder_digest
from pipeline.tracking.record import RecordedInputs

CLOSE = 0.005  # another processor, thread count or library sums in another order; a Dice within this is the same finding
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedRun:
    """What MLflow holds of a run, checked and parsed. ``validated``: the epochs after which it was validated, counted from 1."""

    run_id: str
    config: RunConfig
    split: Split
    card_text: str
    manifest: tuple[dict[str, Any], ...]
    environment: dict[str, Any]
    metrics: dict[str, float]
    weights_sha256: str | None
    validated: tuple[int, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A run and its repetition.

    ``result``: "identical" (the same weights, bit by bit), "equal" (the same numbers), "close" (every number within 0.005),
    "differs", or "unknown" (the recorded run left no bundle to compare with).
    """

    run_id: str
    run_dir: Path
    images: int
    data: ManifestDifference
    code_same: bool
    code: str
    result: Literal["identical", "equal", "close", "differs", "unknown"]
    numbers: dict[str, tuple[float, float]]
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """For a person: a summary in one line, then what may explain a difference; nothing in the other processes of a distributed run."""
        if int(os.environ.get("RANK", "0")) > 0:
            return []
        data = f"same ({self.images} images)" if not self.data else f"differs: {self.data}"
        words = {
            "identical": "weights identical",
            "equal": "numbers equal, weights differ",
            "close": f"within {CLOSE}",
            "differs": "differs",
            "unknown": "the recorded run left no bundle to compare with",
        }
        result = words[self.result]
        if (name := headline(self.numbers)) is not None:
            before, now = self.numbers[name]
            result = f"{name} {before:.4f} -> {now:.4f} ({result})"
        summary = f"data: {data} · code: {'same' if self.code_same else 'differs'} ({self.code}) · result: {result}"
        return [summary, *self.notes, f"repeated in {self.run_dir}"]

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "run_dir": str(self.run_dir),
            "data": {"same": not self.data, "changed": self.data.changed, "missing": self.data.missing, "added": self.data.added},
            "code": {"same": self.code_same, "detail": self.code},
            "result": {"agreement": self.result, "numbers": {name: list(pair) for name, pair in self.numbers.items()}},
            "notes": list(self.notes),
        }


def headline(numbers: Mapping[str, Any]) -> str | None:
    """The name of the most important number: a Dice, of the test part if there is one."""
    ranked = sorted(numbers, key=lambda name: ("dice" not in name.lower(), "test" not in name.lower(), name.count("/"), name))
    return ranked[0] if ranked else None


def fetch_run(run_id: str, *, uri: str | None, beside: Path) -> RecordedRun:
    """Read a run's record; ``uri`` None is ``mlflow.db`` in the folder ``beside`` (where ``ocuseg train`` keeps its runs).

    Raises
    ------
    ConfigError: no such run, no such server, or a run that ocuseg has not recorded.
    """
    address, artifacts = resolve_uri(uri, beside / "run")
    if uri is None and not (beside / "mlflow.db").is_file():
        raise ConfigError(f"--from-run: there is no mlflow.db in {beside}; say where the run is recorded with --tracking-uri")
    if address.startswith("sqlite:///") and artifacts is not None and not Path(address.removeprefix("sqlite:///")).is_file():
        raise ConfigError(f"--tracking-uri: the database of {uri!r} does not exist")
    client = connect(address)
    try:
        run = client.get_run(run_id)
        with TemporaryDirectory() as temporary:
            folder = Path(client.download_artifacts(run_id, "provenance", temporary))
            texts = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
        validations = client.get_metric_history(run_id, "validation/seconds")
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"--from-run {run_id}: its record cannot be read from MLflow ({reason[:200]})") from error
    absent = {"config.yaml", "split.json", "card.md", "manifest.json", "environment.json"} - texts.keys()
    if absent:
        raise ConfigError(f"--from-run {run_id}: is no whole record of an ocuseg run; {', '.join(sorted(absent))} is missing")
    single = {name.removeprefix("values/"): value for name, value in run.data.metrics.items()}  # older records have no such prefix
    numbers = {name.removeprefix("bundle/"): value for name, value in single.items() if name.startswith("bundle/")}
    return RecordedRun(
        run_id=run_id,
        config=parse_config(texts["config.yaml"], where=f"run {run_id}"),
        split=Split.from_json(json.loads(texts["split.json"])),
        card_text=texts["card.md"],
        manifest=tuple(json.loads(texts["manifest.json"])),
        environment=json.loads(texts["environment.json"]),
        metrics=numbers,
        weights_sha256=run.data.tags.get("ocuseg.weights_sha256"),
        validated=tuple(sorted({validation.step for validation in validations})),
    )


def repeatable_config(recorded: RecordedRun) -> RunConfig:
    """The run's config; validations that followed the clock (``train.validate_every: {minutes: ...}``) come after the recorded epochs.

    Raises
    ------
    ConfigError: the record does not say which epochs those were.
    """
    config = recorded.config
    if not isinstance(config.train.validate_every, Minutes) or not recorded.split.validation:
        return config
    if not recorded.validated:
        raise ConfigError(
            f"--from-run {recorded.run_id}: it was validated by the clock (train.validate_every), and its record does not say after which "
            "epochs; train it anew from its config"
        )
    return config.model_copy(update={"train": config.train.model_copy(update={"validate_every": recorded.validated})})


def check_data(recorded: RecordedRun, present: Sequence[Mapping[str, Any]]) -> ManifestDifference:
    """Compare the data at hand with the record, and say at once, before any time is spent on training, what differs."""
    difference = compare_manifests(recorded.manifest, present)
    if difference:
        log.warning("the data differs from what run %s was trained on: %s", recorded.run_id, difference)
    return difference


def compare_code(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[bool, str]:
    """(whether the package's source is the same, the two versions in words)."""

    def words(code: Mapping[str, Any]) -> str:
        name = str(code["commit"])[:8] if code.get("commit") else f"version {code.get('version')}"
        return f"{name}, dirty" if code.get("dirty") else name

    same = before.get("source_sha256") == now.get("source_sha256") and before.get("plugins") == now.get("plugins")
    old, new = words(before), words(now)
    return same, old if same and old == new else f"{old} -> {new}"


def compare_result(
    recorded: RecordedRun, metrics: Mapping[str, float | None], weights_sha256: str
) -> tuple[Literal["identical", "equal", "close", "differs", "unknown"], dict[str, tuple[float, float]]]:
    """How well the repetition agrees, and the pairs of numbers (recorded, repeated) by name."""
    now = {metric_name(name): float(value) for name, value in metrics.items() if value is not None}
    pairs = {name: (before, now[name]) for name, before in recorded.metrics.items() if name in now}
    if recorded.weights_sha256 == weights_sha256:
        return "identical", pairs
    if recorded.weights_sha256 is None or not pairs:
        return "unknown", pairs
    if recorded.metrics.keys() != now.keys():  # a number that has become undefined is a difference
        return "differs", pairs
    if all(_same(a, b, 0.0) for a, b in pairs.values()):
        return "equal", pairs
    return ("close" if all(_same(a, b, CLOSE) for a, b in pairs.values()) else "differs"), pairs


def _same(a: float, b: float, within: float) -> bool:
    return abs(a - b) <= within or (math.isnan(a) and math.isnan(b))


def repeat_run(
    run_id: str,
    root: Path,
    out: Path,
    *,
    tracking_uri: str | None = None,
    device: str = "auto",
    key_path: Path | None = None,
    plugins: Sequence[Path] = (),
    progress: Callable[..., None] | None = None,
) -> Comparison:
    """Train run ``run_id`` again, with its config, split and card text, into a new folder below ``out``, and compare.

    Nothing but MLflow and the data set's folder ``root`` is needed. The repetition is recorded as a run of its own, tagged
    ``ocuseg.repeats`` with the run it repeats.

    Raises
    ------
    ConfigError: the record cannot be read, or cases of its split are not in ``root``.
    """
    from pipeline.training.run import new_run_dir, train

    recorded = fetch_run(run_id, uri=tracking_uri, beside=out)
    code_same, code = compare_code(recorded.environment.get("code", {}), code_version(plugins))
    if not code_same:
        log.warning("the code is not what run %s was trained with (%s)", run_id, code)
    config = repeatable_config(recorded)
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": tracking_uri})})
    differences: list[ManifestDifference] = []
    result = train(
        config,
        root,
        new_run_dir(out, config.name),
        device=device,
        key_path=key_path,
        progress=progress,
        given=RecordedInputs(run_id, recorded.split, recorded.card_text, lambda rows: differences.append(check_data(recorded, rows))),
        plugins=plugins,
    )
    run_dir = result.run_dir  # under torchrun that of the first process, whichever this one is
    agreement, numbers = compare_result(recorded, result.metrics, folder_digest(result.bundle, only="weights.safetensors"))
    notes = []
    if config.train.minutes is not None and agreement not in ("identical", "equal"):
        notes.append("train.minutes ends a run by the clock, so a repetition takes another number of steps")
    before, now = (env.get("device", {}).get("name") for env in (recorded.environment, _environment(run_dir)))
    if before != now:
        notes.append(f"device: {before} -> {now}; sums are then taken in another order")
    changed = _changed_packages(recorded.environment, _environment(run_dir))
    if changed:
        notes.append(f"packages: {', '.join(changed)}")
    return Comparison(run_id, run_dir, len(recorded.manifest), differences[0], code_same, code, agreement, numbers, tuple(notes))


def _environment(run_dir: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run_dir / "environment.json").read_text(encoding="utf-8"))
    return loaded


def _changed_packages(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = before.get("packages", {}), now.get("packages", {})
    return [f"{name} {old.get(name)} -> {new.get(name)}" for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
