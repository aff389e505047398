"""A hospital's PACS: ``pacs check``, ``pacs query``, ``pacs pull``, ``pacs push``, ``pacs watch``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.console import command, emit, progress, table
from pipeline.cli.data import AsJson, SiteKey, leave
from pipeline.cli.runs import Device
from pipeline.errors import ConfigError, NothingUsableError

if TYPE_CHECKING:
    from pipeline.pacs.connection import Connection
    from pipeline.pacs.settings import PacsSettings, Transport

Name = Annotated[str | None, typer.Argument(help="A PACS by its name in the PACS file (default: the only one).")]
Config = Annotated[Path | None, typer.Option(help="PACS file (default: OCUSEG_PACS, or .config/ocuseg/pacs.yaml in the home folder).")]
Over = Annotated[str | None, typer.Option(help="dicomweb or dimse (default: dicomweb where the PACS file has both).")]
PatientId = Annotated[str, typer.Option(help="Of these patients only; * stands for any characters.")]
PatientName = Annotated[str, typer.Option(help="The same by name, as in Doe^J*.")]
Date = Annotated[str, typer.Option(help="Day of the study, 20261127, or the first and last day, 20261101-20261127.")]
Modality = Annotated[str, typer.Option(help="Such as OP (photographs) or OPT (OCT).")]
Accession = Annotated[str, typer.Option(help="Accession number.")]

app = typer.Typer(help="Find, pull and push scans and results in a hospital's PACS (needs ocuseg[pacs]).", no_args_is_help=True)


def add_to(parent: typer.Typer) -> None:
    for own in (check, query, pull, push, watch):
        app.command(own.__name__)(command(own))
    parent.add_typer(app, name="pacs")


def check(name: Name = None, config: Config = None, over: Over = None, as_json: AsJson = False) -> None:
    """Ask a PACS one question, and say whether it answers."""
    from pipeline.pacs.query import Query, studies

    with _connected(name, config, over) as (pacs, connection, _):
        found = next(studies(connection, Query(), 1), None)
    answer = "holds studies" if found is not None else "shows us no study"
    emit({"pacs": pacs, "answers": True, "studies": found is not None}, as_json, [f"{pacs}: answers, and {answer}"])


def query(
    name: Name = None,
    patient_id: PatientId = "",
    patient_name: PatientName = "",
    date: Date = "",
    modality: Modality = "",
    accession: Accession = "",
    study: Annotated[str, typer.Option(help="A study by its UID: its series are shown.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many studies.")] = 100,
    config: Config = None,
    over: Over = None,
    as_json: AsJson = False,
) -> None:
    """Show what a PACS holds. The patients' names are on the screen, and nowhere else."""
    from pipeline.pacs.query import Query, series_of, studies, to_json

    asked = Query(patient_id, patient_name, date, modality, accession, study)
    with _connected(name, config, over) as (_, connection, _):
        found = list(islice(studies(connection, asked, limit + 1), limit + 1))
        series = [one for own in found[:1] for one in series_of(connection, own.uid)] if study else []
    more, found = len(found) > limit, found[:limit]
    if not found:
        raise NothingUsableError("the PACS has no study like that; ask for less, with * or a longer --date")
    found.sort(key=lambda own: own.date, reverse=True)
    rows = [[s.date, s.patient_id, s.patient_name, s.modalities, s.accession, _count(s.instances), s.uid] for s in found]
    lines = table(["date", "patient ID", "name", "modalities", "accession", "images", "study UID"], rows)
    if series:
        own = [[s.number, s.modality, s.description, s.manufacturer, _count(s.instances), s.uid] for s in series]
        lines += ["", *table(["series", "modality", "description", "manufacturer", "images", "series UID"], own)]
    if more:
        lines.append(f"there are more than {limit}; --limit shows more of them")
    told = [dict(to_json(own)) | ({"series_of_study": [dict(to_json(s)) for s in series]} if series else {}) for own in found]
    emit(told, as_json, lines)


def pull(
    name: Annotated[str, typer.Argument(help="A PACS by its name in the PACS file.")],
    out: Annotated[Path, typer.Argument(help="Folder to fetch to; what is whole there already is not fetched again.")],
    study: Annotated[list[str] | None, typer.Option(help="A study by its UID. May be repeated.")] = None,
    series: Annotated[str, typer.Option(help="Of the study only this series, by its UID.")] = "",
    patient_id: PatientId = "",
    patient_name: PatientName = "",
    date: Date = "",
    modality: Modality = "",
    accession: Accession = "",
    config: Config = None,
    over: Over = None,
    as_json: AsJson = False,
) -> None:
    """Fetch studies to OUT/STUDY/SERIES/INSTANCE.dcm; interrupted, the same command goes on. The files name the patient."""
    from pipeline.pacs.pull import pull as fetch
    from pipeline.pacs.query import Query, studies

    given = list(study or ())
    asked = Query(patient_id, patient_name, date, modality, accession, given[0] if len(given) == 1 else "", series)
    if not given and not any((patient_id, patient_name, date, accession)):
        raise ConfigError("say which studies: --study, --patient-id, --patient-name, --date or --accession; a whole PACS is not pulled")
    if series and len(given) != 1:
        raise ConfigError("--series needs the one --study that it is of")
    with _connected(name, config, over) as (_, connection, settings), progress("pulling") as advance:
        uids = _checked(given) or [found.uid for found in studies(connection, asked)]
        ended = fetch(connection, uids, out, query=asked, retries=settings.retries, progress=advance)
    lines = [f"studies: {ended.studies}", f"fetched: {ended.fetched}", f"there already: {ended.there_already}"]
    if ended.failed:
        lines += [f"failed: {ended.failed}", *(f"  {count} times: {reason}" for reason, count in ended.reasons.most_common())]
    usable = ended.fetched + ended.there_already
    lines += [f"written: {out}"] if usable else [] if ended.failed else ["the PACS has no image like that"]
    emit(ended.to_json(), as_json, lines)
    leave(usable, ended.failed)


def push(
    name: Annotated[str, typer.Argument(help="A PACS by its name in the PACS file.")],
    folder: Annotated[Path, typer.Argument(help="Folder that `ocuseg export` wrote, or a file of it.")],
    everything: Annotated[bool, typer.Option("--any", help="Also DICOM files that ocuseg did not make.")] = False,
    outbox: Annotated[Path | None, typer.Option(help="Ledger of what was sent (default: outbox.sqlite in FOLDER).")] = None,
    config: Config = None,
    over: Over = None,
    as_json: AsJson = False,
) -> None:
    """Send what an export made, each object once; what a PACS refused is sent again by the same command."""
    from pipeline.pacs.connect import confirmation_of
    from pipeline.pacs.outbox import OUTBOX_FILE, Outbox
    from pipeline.pacs.push import dicom_files
    from pipeline.pacs.push import push as send
    from pipeline.pacs.settings import default_pacs_file

    if not folder.exists():
        raise ConfigError(f"{str(folder)!r} does not exist; give the folder that `ocuseg export` wrote")
    paths, left_out = dicom_files(folder, everything=everything)
    if not paths:
        hint = f"; --any would send the {left_out} DICOM files that ocuseg did not make" if left_out else ""
        raise NothingUsableError(f"there is nothing that an export made{hint}")
    top = folder if folder.is_dir() else folder.parent
    with (
        closing(Outbox(outbox or top / OUTBOX_FILE)) as ledger,
        _connected(name, config, over) as (pacs, connection, settings),
        progress("pushing") as advance,
    ):
        confirm = confirmation_of(pacs, settings, (config or default_pacs_file()).parent)
        ended = send(connection, pacs, paths, ledger, retries=settings.retries, confirm=confirm, progress=advance)
    refused = ended.refusals(top)
    told = {"sent": ended.sent, "sent_before": ended.sent_before, "left_out": left_out, "refused": refused}
    told |= {"unsent": ended.unsent, "why": ended.why}
    lines = [f"sent: {ended.sent}", f"sent before: {ended.sent_before}"]
    lines += [f"left out, not made by ocuseg: {left_out}"] if left_out else []
    lines += [f"refused: {file}: {reason}" for file, reason in refused.items()]
    lines += [f"not sent: {ended.unsent}: {ended.why}"] if ended.unsent else []
    emit(told, as_json, lines)
    leave(ended.sent + ended.sent_before, len(ended.refused) + ended.unsent)


def watch(
    name: Annotated[str, typer.Argument(help="A PACS by its name in the PACS file.")],
    work: Annotated[Path, typer.Argument(help="Folder of the watch: its memory and the predictions; the same folder goes on.")],
    models: Annotated[
        str | None, typer.Option(help="Names (see `ocuseg models`) or bundle folders, separated by commas (default: all that fit).")
    ] = None,
    formats: Annotated[str, typer.Option("--format", help="What is pushed back: seg, sr, sc, pdf.")] = "seg,sr,sc,pdf",
    modality: Annotated[str, typer.Option(help="Modalities that are taken, separated by commas.")] = "OP,OPT",
    since: Annotated[int, typer.Option(min=0, help="Studies of today and so many days before; what is older is left alone.")] = 1,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 30.0,
    rest: Annotated[float, typer.Option(min=0, help="Seconds without a new image after which a study is complete.")] = 60.0,
    listen: Annotated[bool, typer.Option("--listen", help="Wait for what the PACS sends to our own port, instead of asking it.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when what is there now is done.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep scans and objects, which name the patient, after they are pushed.")] = False,
    device: Device = "auto",
    config: Config = None,
    over: Over = None,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Predict studies as they arrive in a PACS and push the results back, each once, also after a crash. Ctrl-C or SIGTERM ends it."""
    from contextlib import ExitStack
    from importlib.util import find_spec

    from pipeline.bundles.shipped_models import choose_models
    from pipeline.export.exporter import DICOM_FORMATS
    from pipeline.export.objects import need_highdicom

    wanted, taken = (tuple(part.strip() for part in given.split(",") if part.strip()) for given in (formats, modality))
    if not wanted or set(wanted) - (DICOM_FORMATS - {"image"}):
        raise ConfigError(f"--format {formats!r}: a PACS takes seg, sr, sc and pdf")
    need_highdicom()
    if "pdf" in wanted and find_spec("weasyprint") is None:
        raise ConfigError("--format pdf needs WeasyPrint, which is not installed; run: pip install 'ocuseg[pdf]', or leave pdf out")
    choice = choose_models(models.split(",") if models is not None else None)
    path, (found, settings) = _of_file(name, config)
    from pipeline.pacs.connect import confirmation_of, connected
    from pipeline.pacs.listen import Receiver, listening
    from pipeline.pacs.study_steps import Wishes
    from pipeline.pacs.watch import Watch
    from pipeline.scans.identity import Pseudonyms, default_key_path

    confirm = confirmation_of(found, settings, path.parent)
    if listen and confirm is not None:
        raise ConfigError("--listen and dimse.commitment both need own_port; leave one of them out")
    names = Pseudonyms.load_or_create(site_key or default_key_path())
    wishes = Wishes(work, [*choice.bundles.values()], wanted, taken, keep, device)
    receiver = Receiver(work / "received", taken) if listen else None
    own = Watch(
        found,
        lambda: connected(found, settings, path.parent, _way(over)),
        wishes,
        names,
        rest_s=rest,
        since_days=since,
        retries=settings.retries,
        receiver=receiver,
        confirm=confirm,
    )
    with ExitStack() as stack:
        if receiver is not None:
            stack.enter_context(listening(found, settings, path.parent, receiver))
        typer.echo(f"watching {found}   (Ctrl-C ends)", err=True)
        try:
            counts = own.run(interval_s=interval, once=once)
        except KeyboardInterrupt:  # how a watch ends
            counts = own.counts()
    emit(counts, as_json, [f"{state}: {count}" for state, count in counts.items()] or ["no study has arrived"])
    if once:
        leave(counts.get("pushed", 0), sum(counts.values()) - counts.get("pushed", 0) - counts.get("nothing", 0))


@contextmanager
def _connected(name: str | None, config: Path | None, over: str | None) -> Iterator[tuple[str, Connection, PacsSettings]]:
    from pipeline.pacs.connect import connected

    path, (found, settings) = _of_file(name, config)
    with connected(found, settings, path.parent, _way(over)) as connection:
        yield found, connection, settings


def _of_file(name: str | None, config: Path | None) -> tuple[Path, tuple[str, PacsSettings]]:
    from pipeline.pacs.settings import default_pacs_file, load_pacs

    path = config or default_pacs_file()
    return path, load_pacs(path, name)


def _way(over: str | None) -> Transport | None:
    if over not in (None, "dicomweb", "dimse"):
        raise ConfigError(f"--over {over!r}: write dicomweb or dimse")
    return over  # type: ignore[return-value]


def _checked(uids: list[str]) -> list[str]:
    from pipeline.pacs.query import Query

    return [Query(study=uid).study for uid in uids]


def _count(number: Any) -> str:
    return "?" if number is None else str(number)
