"""Several runs at once: ``compare`` the runs of a study, ``crossvalidate`` one config over folds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.console import command, emit, progress
from pipeline.cli.data import AsJson, FollowLinks, Root, SiteKey, existing_folder, existing_run_file, follow
from pipeline.cli.runs import Device, Plugin, WeightsDir, use_weights
from pipeline.errors import EXIT_SOME_REJECTED, ConfigError
from pipeline.plugins import load_plugin

if TYPE_CHECKING:
    from pipeline.config.study_file import StudyFile  # at run time both would bring torch along
    from pipeline.studies.design import DataRoots
    from pipeline.studies.study import Study

Override = Annotated[list[str] | None, typer.Option("--set", help="Change one setting of every run: dotted.key=value. May be repeated.")]
Minutes = Annotated[
    float | None, typer.Option(min=0.01, help="Training time of each run, validations included; default: as its config says.")
]
Out = Annotated[Path, typer.Option(help="Folder of the study; an unfinished study is continued.")]
Roots = Annotated[list[str], typer.Option("--root", help="Folder of the data set, or CARD=DIR for each of several. May be repeated.")]


def add_to(app: typer.Typer) -> None:
    app.command("compare")(command(compare))
    app.command("crossvalidate")(command(crossvalidate))


def compare(
    configs: Annotated[
        list[Path], typer.Argument(help="Study file, or several run files, runs of studies (STUDY/RUN) or folders; or names in configs/.")
    ],
    root: Roots,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the study; an unfinished one is continued. Default: studies/STUDY, or studies/compare for several configs."
        ),
    ] = None,
    budget_minutes: Minutes = None,
    split: Annotated[
        Literal["validation", "test"] | None, typer.Option(help="Part to score (default: test, or as the study file says).")
    ] = None,
    override: Override = None,
    device: Device = "auto",
    plugin: Plugin = None,
    weights_dir: WeightsDir = None,
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Train and evaluate several configs under the same budget: one table, and one MLflow run with a child for each.

    A config that fails is named, and the others continue. Run the same command again to continue an interrupted study.
    """
    given = [split_root(text) for text in root]
    follow(follow_links)
    for path in configs:
        existing_run_file(path)
    for path in plugin or []:
        load_plugin(path)
    use_weights(weights_dir)
    from pipeline.config import load_config, run_files
    from pipeline.resources import find_run_file
    from pipeline.studies.design import evaluation_sets, folds_of, over_folds, with_budget
    from pipeline.studies.study import run_study

    # By its name, so that one study never writes over another.
    out = out or Path("studies") / (configs[0].stem if len(configs) == 1 else "compare")
    study = study_of(configs)
    wanted = [with_budget(load_config(file, override or ()), budget_minutes) for path in configs for file in run_files(path)]
    tested_on = {} if study is None else study.tested_on or {}
    if tested_on and split is not None:
        raise ConfigError(f"--split: {configs[0]} says what it is tested on; leave --split out")
    folds = None if study is None else study.folds
    roots = data_roots(given)
    with progress("comparing") as advance:
        done = run_study(
            out.name,
            wanted if folds is None else [part for config in wanted for part in folds_of(config, folds)],
            roots,
            out,
            part=split or "test",
            tested=evaluation_sets(tested_on, roots, find_run_file(configs[0]).parent),
            device=device,
            key_path=site_key,
            plugins=plugin or (),
            keep_going=True,
            progress=advance,
        )
    means = over_folds(done.rows) if folds is not None and len(wanted) == 1 else {}
    more = {"over_folds": means} if means else {}
    emit(done.to_json() | more, as_json, done.lines() + (over_folds_lines(means) if means else []))
    _leave(done)


def study_of(configs: Sequence[Path]) -> StudyFile | None:
    """The study file that is compared; None for run files.

    Raises
    ------
    ConfigError: several are given, of which one has folds or test sets of its own.
    """
    from pipeline.config.loading import load_study

    studies = {path: study for path in configs if (study := load_study(path)) is not None}
    if len(configs) == 1:
        return next(iter(studies.values()), None)
    for path, study in studies.items():
        key = "folds" if study.folds else "tested_on" if study.tested_on else None
        if key is not None:
            raise ConfigError(f"{path}: has {key}: of its own; compare it alone, or name single runs of it as {path}/RUN")
    return None


def split_root(text: str) -> tuple[str, Path]:
    """ "CARD=DIR" -> (CARD, DIR); of a folder alone the card is "".

    Raises
    ------
    ConfigError: it is no folder.
    """
    card, separator, folder = text.partition("=")
    if not separator or Path(text).is_dir():
        return "", existing_folder(Path(text), "--root")
    return card, existing_folder(Path(folder), f"--root {card}:")


def data_roots(given: Sequence[tuple[str, Path]]) -> DataRoots:
    """Raises ConfigError where a folder is given twice for one card."""
    from pipeline.studies.design import DataRoots

    for card in {card for card, _ in given}:
        if [name for name, _ in given].count(card) > 1:
            raise ConfigError(
                f"--root: several folders {f'for {card!r}' if card else 'without a card'}; write --root CARD=DIR for each data set"
            )
    folders = dict(given)
    return DataRoots(folders.pop("", None), folders)


def crossvalidate(
    config: Annotated[Path, typer.Argument(help="YAML run file, a run of a study (STUDY/RUN), or the name of one in configs/.")],
    root: Root,
    out: Out = Path("studies/folds"),
    folds: Annotated[int, typer.Option(min=3, help="Number of folds, by patient; each is tested once.")] = 5,
    budget_minutes: Minutes = None,
    override: Override = None,
    device: Device = "auto",
    plugin: Plugin = None,
    weights_dir: WeightsDir = None,
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Train one network per fold and test it on the held-out patients; the next fold chooses epoch and thresholds."""
    existing_folder(root, "--root")
    follow(follow_links)
    existing_run_file(config)
    for path in plugin or []:
        load_plugin(path)
    use_weights(weights_dir)
    from pipeline.config import load_config
    from pipeline.studies.design import folds_of, over_folds, with_budget
    from pipeline.studies.study import run_study

    settings = with_budget(load_config(config, override or ()), budget_minutes)
    with progress("cross-validating") as advance:
        study = run_study(
            out.name,
            folds_of(settings, folds),
            root,
            out,
            device=device,
            key_path=site_key,
            plugins=plugin or (),
            keep_going=True,
            progress=advance,
        )
    means = over_folds(study.rows)
    emit(study.to_json() | {"over_folds": means}, as_json, study.lines() + over_folds_lines(means))
    _leave(study)


def _leave(study: Study) -> None:
    """Say by the exit code, too, that a config has no row."""
    if study.failed:
        names = ", ".join(study.failed)
        typer.echo(f"error: failed: {names}; fix the cause and run the same command again; finished runs are not repeated", err=True)
        raise typer.Exit(EXIT_SOME_REJECTED)


def over_folds_lines(means: dict[str, dict[str, float]]) -> list[str]:
    return ["over the folds, all weighted equally:"] + [
        f"  {name}: mean {value['mean']:.4f}, lowest {value['lowest']:.4f}, highest {value['highest']:.4f}" for name, value in means.items()
    ]
