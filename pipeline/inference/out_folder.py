"""The output folder of a prediction: one bundle, one site key, one set of options; begun once, continued as often as needed, by any number
of processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.inference.case_files import write_json
from pipeline.inference.crew import Crew
from pipeline.inference.measurement_table import CSV_FILE, PARQUET_FILE
from pipeline.inference.model_set import ModelSet
from pipeline.inference.object_files import COCO_FILE
from pipeline.scans.identity import Pseudonyms
from pipeline.types.run_record import RUN_FILE, EngineRecord, RunRecord
from pipeline.types.stated import Stated
from pipeline.types.visits import VISITS_FILE

WORK, REMOVED = ".work", "removed-"
"""Of what processes tell each other; in there, the beginning of the name of a case that is being removed."""
_JOURNAL = {"journal.sqlite", "journal.sqlite-journal", "ledger.csv", VISITS_FILE}
_OWN = {RUN_FILE, *_JOURNAL, COCO_FILE, CSV_FILE, PARQUET_FILE, "cases", "report", ".staging", ".lock", WORK}
_BEGIN = "begin"


@contextmanager
def open_out(out: Path, folder: Path, models: ModelSet, pseudonyms: Pseudonyms, probabilities: bool, stated: Stated) -> Iterator[Crew]:
    """Make ``out`` ready, or check that it was begun with the same bundles, key and options; be one of those who work on it inside the
    block.

    Raises
    ------
    ConfigError: ``out`` lies in ``folder`` or the other way round, holds something else, belongs to another bundle or site key,
        or was begun with other options.
    """
    _check_apart(out, folder)
    with ExitStack() as held:
        try:
            out.mkdir(parents=True, exist_ok=True)
            strange = sorted(p.name for p in out.iterdir() if p.name not in _OWN and not p.name.endswith(".part"))
            if strange and not (out / RUN_FILE).exists():
                raise ConfigError(f"the output folder holds {strange[0]!r} and no prediction; give a new or an empty folder")
            crew = held.enter_context(closing(Crew(out / WORK)))
            with crew.turn(_BEGIN):
                _begin_or_continue(out, models, pseudonyms, probabilities, stated)
            (out / "cases").mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the output folder cannot be written ({error.strerror or type(error).__name__})") from error
        yield crew


def record_engine(out: Path, crew: Crew, bundle_id: str, engine: EngineRecord) -> None:
    """Note in an open output folder what runs a bundle's network from now on; each case has the name of its own."""
    with crew.turn(_BEGIN):
        data = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))
        engines = data.get("engines", {})
        if engines.get(bundle_id) != engine.to_json():
            write_json(out / RUN_FILE, data | {"engines": engines | {bundle_id: engine.to_json()}})


def _check_apart(out: Path, folder: Path) -> None:
    real_out, real_folder = out.resolve(), folder.resolve()
    if real_out == real_folder or real_folder in real_out.parents:
        raise ConfigError("the output folder lies inside the folder of scans, so results would be read as scans; give one outside")
    if real_out in real_folder.parents:
        raise ConfigError("the folder of scans lies inside the output folder; give an output folder of its own")


def check_key(out: Path, pseudonyms: Pseudonyms) -> None:
    """Raises ConfigError where the results in ``out`` were made with another site key, or are none."""
    try:
        found = RunRecord.read(out)
    except (OSError, ValueError) as error:
        raise ConfigError("the folder of results holds none; give the one that `ocuseg segment` or `ocuseg predict` wrote") from error
    if found.key_check != _key_check(pseudonyms):
        raise ConfigError("the results were made with another site key, which alone leads back from their pseudonyms; give that key")


def _key_check(pseudonyms: Pseudonyms) -> str:
    return pseudonyms.token("path", "ocuseg key check")


def _begin_or_continue(out: Path, models: ModelSet, pseudonyms: Pseudonyms, probabilities: bool, stated: Stated) -> None:
    key_check = _key_check(pseudonyms)
    path = out / RUN_FILE
    if not path.exists():
        write_json(path, _record(models, key_check, probabilities, stated).to_json())
        return
    try:
        found = RunRecord.read(out)
        if not found.bundle_id or not found.key_check:
            raise ValueError("it names no bundle or site key")
    except ValueError as error:
        raise ConfigError(f"{RUN_FILE} in the output folder is damaged; give a new output folder") from error
    if found.bundle_id != models.id:
        raise ConfigError(
            f"the output folder holds results of bundle {found.bundle_id}, not of {models.id}; give a new folder, or that bundle"
        )
    if found.key_check != key_check:
        raise ConfigError(
            "the output folder was begun with another site key, so its pseudonyms would not match; give that key, or a new folder"
        )
    for option, before, now in (("probabilities", found.probabilities, probabilities), ("doubt", found.doubt, models.doubts)):
        if before != now:
            raise ConfigError(
                f"the output folder was begun {'with' if before else 'without'} --{option}, and all its cases have the same files; go on "
                "as it was begun, or give a new folder"
            )
    if found.stated != stated:
        raise ConfigError(
            f"the output folder was begun with {found.stated.options() or 'nothing stated of its scans'}, not with "
            f"{stated.options() or 'nothing'}, and all its cases are read alike; go on as it was begun, or give a new folder"
        )


def _record(models: ModelSet, key_check: str, probabilities: bool, stated: Stated) -> RunRecord:
    bundles = models.bundles
    several = len(bundles) > 1
    return RunRecord(
        bundle_id=models.id,
        bundle_name=" + ".join(bundle.config.name for bundle in bundles),
        ocuseg=version("ocuseg"),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        task=" + ".join(dict.fromkeys(bundle.config.task.family for bundle in bundles)),  # type: ignore[attr-defined]
        objects=models.finds_objects,
        answers=models.answers,
        modality=bundles[0].modality if len({bundle.modality for bundle in bundles}) == 1 else "unknown",
        classes=models.all_classes().to_json(),
        thresholds=models.thresholds(),
        metrics={f"{b.config.name}/{name}" if several else name: value for b in bundles for name, value in b.metrics.items()},
        card_sha256="+".join(bundle.card_sha256 for bundle in bundles),
        key_check=key_check,
        probabilities=probabilities,
        doubt=models.doubts,
        stated=stated,
    )
