"""From labels to scores: ``train`` and ``evaluate``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.clusters import ClusterOptions
from pipeline.cli.console import command, emit, progress
from pipeline.cli.data import (
    AsJson,
    FollowLinks,
    Root,
    SiteKey,
    existing_bundle,
    existing_folder,
    existing_run_file,
    follow,
)
from pipeline.cli.options import spread
from pipeline.errors import EXIT_OK, EXIT_SOME_REJECTED, ConfigError
from pipeline.plugins import load_plugin

BundlePath = Annotated[Path, typer.Argument(help="Bundle folder of a trained network, or the name of a model that comes with ocuseg.")]
Card = Annotated[str, typer.Option(help="Card of the labelled data: a name, or a path.")]
Runs = Annotated[Path, typer.Option(help="Folder for runs; each gets a folder of its own.")]
Override = Annotated[list[str] | None, typer.Option("--set", help="Change one setting: dotted.key=value. May be repeated.")]
SameClasses = Annotated[
    list[str] | None,
    typer.Option("--classes", help="OURS=THEIRS: a class by its name in the bundle and in the card. May be repeated."),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Devices = Annotated[str, typer.Option(help="auto, cpu or cuda; or several, with a process each: cuda:0,1 or cpu,cpu.")]
Engine = Annotated[
    str, typer.Option(help="What runs a segmentation network: torch, onnxruntime (on a CPU), or auto: the faster one on the first image.")
]
Doubt = Annotated[
    bool, typer.Option("--doubt", help="Also look at flips of each picture, and show where they disagree (four times the network's time).")
]
Plugin = Annotated[list[Path] | None, typer.Option(help="Python file that registers models, losses or tasks of your own.")]
WeightsDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder with ImageNet weights, for `weights: imagenet` in a config (default: OCUSEG_WEIGHTS, torch's hub cache, packages)."
    ),
]


def add_to(app: typer.Typer) -> None:
    app.command("train")(command(train))
    app.command("evaluate")(command(spread(evaluate)))


def train(
    config: Annotated[
        Path | None, typer.Argument(help="YAML run file, a run of a study (STUDY/RUN), or the name of one in configs/.")
    ] = None,
    card: Annotated[str | None, typer.Option(help="Without a CONFIG: plan one for this card first, as `ocuseg plan` does.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that holds the data set.")] = None,
    out: Runs = Path("runs"),
    override: Override = None,
    # Not --run: torchrun would take that for the beginning of an option of its own.
    run_dir: Annotated[Path | None, typer.Option(help="With CONFIG: this run's folder; a run that is in it goes on.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run folder instead of starting a new run.")] = None,
    from_run: Annotated[str | None, typer.Option(help="Repeat a run recorded in MLflow, by its run id, and compare.")] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow server of --from-run.")] = None,
    send: Annotated[Path | None, typer.Option(help="Only send what this run folder could not deliver to MLflow earlier.")] = None,
    device: Device = "auto",
    plugin: Plugin = None,
    weights_dir: WeightsDir = None,
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Train a network, record the run in MLflow, and leave a bundle."""
    ways = (("CONFIG", config), ("--card", card), ("--resume", resume), ("--from-run", from_run), ("--send", send))
    given = [name for name, value in ways if value is not None]
    if len(given) != 1:
        raise ConfigError(
            f"give exactly one of CONFIG, --card CARD, --resume RUN, --from-run ID, --send RUN (given: {', '.join(given) or 'none'})"
        )
    if send is not None:
        from pipeline.tracking.tracker import send_unsent

        delivery = send_unsent(existing_folder(send, "--send"))
        emit(delivery.to_json(), as_json, delivery.lines())
        raise typer.Exit(EXIT_SOME_REJECTED if delivery.unsent else EXIT_OK)
    follow(follow_links)
    if root is None:
        raise ConfigError(needs_root(from_run is not None, resume is not None))
    if run_dir is not None and config is None:
        raise ConfigError("--run-dir belongs to a CONFIG; with --resume give that folder alone")
    existing_folder(root, "--root")
    if config is not None:
        existing_run_file(config)
    if resume is not None and not (existing_folder(resume, "--resume") / "config.yaml").is_file():
        raise ConfigError(f"--resume {str(resume)!r} is not a run folder (it has no config.yaml); give a run folder, or start a new run")
    for path in plugin or []:
        load_plugin(path)
    use_weights(weights_dir)
    if from_run is not None:
        from pipeline.training.repeat import repeat_run

        with progress("training") as advance:
            comparison = repeat_run(
                from_run, root, out, tracking_uri=tracking_uri, device=device, key_path=site_key, plugins=plugin or (), progress=advance
            )
        return emit(comparison.to_json(), as_json, comparison.lines())

    if resume is not None and (resume / "finetune.json").is_file():
        from pipeline.studies.finetune import resume_finetuning

        with progress("finetuning") as advance:
            found = resume_finetuning(
                resume, root, override or (), device=device, key_path=site_key, plugins=plugin or (), progress=advance
            )
        return emit(found.to_json(), as_json, found.lines())

    from pipeline.config import load_config, named_by_changes, parse_config
    from pipeline.planning.plan import make_plan
    from pipeline.training.platform import choose_device
    from pipeline.training.run import new_run_dir, train
    from pipeline.training.run_folder import PLAN

    plan = None
    if resume is not None:
        settings, run_dir = load_config(resume / "config.yaml", override or ()), resume
    else:
        choose_device(device)  # fails before a folder is made for a run that cannot start
        if config is not None:
            settings = load_config(config, override or ())
        else:
            assert card is not None
            with progress("planning") as advance:
                plan = make_plan(card, root, device=device, key_path=site_key, progress=advance)
            settings = parse_config(plan.text, override or (), where="plan")
        settings = named_by_changes(settings, override or ())
        run_dir = run_dir or new_run_dir(out, settings.name)
    with progress("training") as advance:
        result = train(
            settings,
            root,
            run_dir,
            device=device,
            resume=resume is not None or (run_dir / "config.yaml").is_file(),
            key_path=site_key,
            plugins=plugin or (),
            progress=advance,
            texts=None if plan is None else {PLAN: plan.kept},
        )
    emit(result.to_json(), as_json, result.lines())


def needs_root(repeats: bool, resumes: bool) -> str:
    """Why --root is needed."""
    if repeats:
        return "--from-run needs --root: the folder with the data set (its hashes are compared with the record)"
    if resumes:
        return "--resume needs --root: the folder with the data set; paths of data are never stored"
    return "--root is missing: the folder that holds the data set named by the config's card"


def use_weights(folder: Path | None) -> None:
    """Look for `weights: imagenet` in ``folder`` from now on (models/weights.py)."""
    if folder is not None:
        os.environ["OCUSEG_WEIGHTS"] = str(existing_folder(folder, "--weights-dir"))


def evaluate(
    bundle: BundlePath,
    card: Card,
    root: Root,
    split: Annotated[str, typer.Option(help="Part to score: train, validation, test or all.")] = "test",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for summary.json, tables and curves (default: beside the bundle; evaluations/NAME for a model of ocuseg's own)."
        ),
    ] = None,
    classes: SameClasses = None,
    proposals: Annotated[
        bool, typer.Option("--proposals", help="Also score and draw what a two-stage detector's first stage proposes.")
    ] = False,
    tracking: Annotated[
        str | None, typer.Option(help="Record in a new run at this MLflow URI (default: in the run that made the bundle).")
    ] = None,
    device: Devices = "auto",
    engine: Engine = "torch",
    plugin: Plugin = None,
    *,
    cluster: ClusterOptions,
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Score a bundle against labels: native resolution, inside the field of view, with patient-bootstrap intervals."""
    bundle = existing_bundle(bundle)
    existing_folder(root, "--root")
    for path in plugin or []:
        load_plugin(path)
    from pipeline.bundles.shipped_models import is_shipped
    from pipeline.cards.card import load_card
    from pipeline.evaluation.evaluate import evaluate, summary_lines
    from pipeline.evaluation.recording import record_evaluation
    from pipeline.tracking.mlflow_store import resolve_uri

    follow(follow_links)
    beside = Path("evaluations") / bundle.name if is_shipped(bundle) else bundle.parent / "evaluation"
    folder = out or beside / f"{load_card(card).name}_{split}"
    resolve_uri(tracking, folder)  # a bad URI is refused before the work
    with cluster.workers() as workers, progress("evaluating") as advance:
        summary = evaluate(
            bundle,
            card,
            root,
            part=split,
            out=folder,
            device=device,
            engine=engine,
            key_path=site_key,
            classes=same_classes(classes or ()),
            proposals=proposals,
            progress=advance,
            workers=workers,
        )
    recorded = record_evaluation(bundle, folder, summary, tracking)
    found = {**summary, "mlflow_run_id": recorded.mlflow_run_id}
    emit(found, as_json, [*summary_lines(summary), f"written: {folder}", recorded.sentence])


def same_classes(pairs: Sequence[str]) -> dict[str, str]:
    """["optic_disc=disc"] -> {"optic_disc": "disc"}.

    Raises
    ------
    ConfigError: a pair without both names.
    """
    parted = [pair.partition("=") for pair in pairs]
    for pair, (ours, _, theirs) in zip(pairs, parted, strict=True):
        if not ours or not theirs:
            raise ConfigError(f"--classes {pair!r}: write it as OURS=THEIRS, such as optic_disc=disc")
    return {ours: theirs for ours, _, theirs in parted}
