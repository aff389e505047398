"""Several runs at once: ``compare`` configs under one budget, ``crossvalidate`` one over folds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.console import command, emit, progress
from pipeline.cli.data import AsJson, FollowLinks, SiteKey, existing_folder, existing_run_file, follow
from pipeline.cli.runs import Device, Plugin, WeightsDir, load_plugin, use_weights
from pipeline.errors import EXIT_SOME_REJECTED

if TYPE_CHECKING:
    from pipeline.studies.study import Study  # at run time it would bring torch along

Override = Annotated[list[str] | None, typer.Option("--set", help="Change one setting of every config: dotted.key=value. May be repeated.")]
Minutes = Annotated[
    float | None, typer.Option(min=0.01, help="Training time of each run, validations included; default: as its config says.")
]
Out = Annotated[Path, typer.Option(help="Folder of the study; an unfinished one is finished.")]
Root = Annotated[Path, typer.Option(help="Folder that holds the data set.")]


def add_to(app: typer.Typer) -> None:
    app.command("compare")(command(compare))
    app.command("crossvalidate")(command(crossvalidate))


def compare(
    configs: Annotated[
        list[Path], typer.Argument(help="YAML run files or folders of them, or names of either in configs/, on one data set.")
    ],
    root: Root,
    out: Out = Path("studies/compare"),
    budget_minutes: Minutes = None,
    split: Annotated[Literal["validation", "test"], typer.Option(help="Part to score.")] = "test",
    override: Override = None,
    device: Device = "auto",
    plugin: Plugin = None,
    weights_dir: WeightsDir = None,
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Train and evaluate several configs, under one budget where it is given: one table, one MLflow run with a child each.

    One that fails is named, and the others go on.
    """
    existing_folder(root, "--root")
    follow(follow_links)
    for path in configs:
        existing_run_file(path)
    for path in plugin or []:
        load_plugin(path)
    use_weights(weights_dir)
    from pipeline.config import load_config, run_files
    from pipeline.studies.study import run_study, with_budget

    files = [file for path in configs for file in run_files(path)]
    wanted = [with_budget(load_config(file, override or ()), budget_minutes) for file in files]
    with progress("comparing") as advance:
        study = run_study(
            out.name,
            wanted,
            root,
            out,
            part=split,
            device=device,
            key_path=site_key,
            plugins=plugin or (),
            keep_going=True,
            progress=advance,
        )
    emit(study.to_json(), as_json, study.lines())
    _leave(study)


def crossvalidate(
    config: Annotated[Path, typer.Argument(help="YAML run file, or the name of one in configs/.")],
    root: Root,
    out: Out = Path("studies/folds"),
    folds: Annotated[int, typer.Option(min=3, help="How many folds, by patient; each is tested once.")] = 5,
    budget_minutes: Minutes = None,
    override: Override = None,
    device: Device = "auto",
    plugin: Plugin = None,
    weights_dir: WeightsDir = None,
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Train one network a fold and test it on the patients that it has never met; the fold after it chooses epoch and thresholds."""
    existing_folder(root, "--root")
    follow(follow_links)
    existing_run_file(config)
    for path in plugin or []:
        load_plugin(path)
    use_weights(weights_dir)
    from pipeline.config import load_config
    from pipeline.studies.study import folds_of, over_folds, run_study, with_budget

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
    means = over_folds(study)
    emit(study.to_json() | {"over_folds": means}, as_json, study.lines() + over_folds_lines(means))
    _leave(study)


def _leave(study: Study) -> None:
    """Say by the exit code, too, that a config has no row."""
    if study.failed:
        names = ", ".join(study.failed)
        typer.echo(
            f"error: failed: {names}; mend the cause and run the same command again, what is finished is not trained again", err=True
        )
        raise typer.Exit(EXIT_SOME_REJECTED)


def over_folds_lines(means: dict[str, dict[str, float]]) -> list[str]:
    return ["over the folds, each weighing alike:"] + [
        f"  {name}: mean {value['mean']:.4f}, lowest {value['lowest']:.4f}, highest {value['highest']:.4f}" for name, value in means.items()
    ]
