"""On a cluster: ``workflow`` writes a script for the site's own scheduler."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import command, emit
from pipeline.cli.data import AsJson, SiteKey
from pipeline.errors import ConfigError

_MEMORY = re.compile(r"[1-9][0-9]*[MGT]")


def add_to(app: typer.Typer) -> None:
    app.command("workflow")(command(workflow))


def workflow(
    engine: Annotated[str, typer.Argument(help="slurm, kubernetes, nextflow or snakemake.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    runs: Annotated[str, typer.Option("--command", help="What it runs: predict, segment or index.")] = "predict",
    shards: Annotated[int, typer.Option(min=1, max=100_000, help="Into how many parts the folder is cut.")] = 16,
    scans: Annotated[Path, typer.Option(help="Folder of scans, as the machines see it.")] = Path("scans"),
    results: Annotated[Path, typer.Option(help="Folder of results on a disk that all machines share (of index: the catalogue).")] = Path(
        "results"
    ),
    model: Annotated[str, typer.Option(help="Of predict: a bundle folder, or the name of a model that comes with ocuseg.")] = "vessels",
    train: Annotated[bool, typer.Option("--train", help="A training on several GPUs and machines instead (slurm).")] = False,
    config: Annotated[Path, typer.Option(help="Of --train: the run file.")] = Path("my_run.yaml"),
    root: Annotated[Path, typer.Option(help="Of --train: folder that holds the data set.")] = Path("data"),
    run: Annotated[Path, typer.Option(help="Of --train: folder of the run, on a disk that all machines share.")] = Path("runs/cluster"),
    nodes: Annotated[int, typer.Option(min=1, help="Of --train: machines.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="Of --train: GPUs of each machine (0: a process on its CPU).")] = 1,
    cores: Annotated[int, typer.Option(min=1, help="Cores of each task.")] = 4,
    memory: Annotated[str, typer.Option(help="Memory of each task, such as 16G.")] = "16G",
    hours: Annotated[float, typer.Option(min=0.5, help="Wall time of each task.")] = 4.0,
    image: Annotated[str, typer.Option(help="Of kubernetes: the container's image.")] = "ocuseg:latest",
    called: Annotated[str | None, typer.Option("--program", help="How a task calls ocuseg (default: this installation's command).")] = None,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Write a script that runs ocuseg on the site's own scheduler, for the site to read and change."""
    from pipeline.scans.identity import default_key_path
    from pipeline.schedulers.script import CALLS, TEMPLATES, Inference, Resources, Training, inference_script, training_script

    if engine not in TEMPLATES:
        raise ConfigError(f"workflow {engine!r}: must be one of {', '.join(TEMPLATES)}")
    if runs not in CALLS:
        raise ConfigError(f"--command {runs!r}: must be one of {', '.join(CALLS)}")
    if train and engine != "slurm":
        raise ConfigError(f"--train: there is a script for slurm, and none for {engine}; docs/scale.md says how torchrun is called")
    if not _MEMORY.fullmatch(memory):
        raise ConfigError(f"--memory {memory!r}: write it as 16G (or M, T)")
    key = str((site_key or default_key_path()).absolute())
    resources = Resources(cores, memory, round(60 * hours))
    if train:
        where = (str(config.absolute()), str(root.absolute()), str(run.absolute()))
        text = training_script(str(out), Training(*where, key, sys.executable, nodes, gpus), resources)
    else:
        beside = Path(sys.executable).with_name("ocuseg")
        own = "ocuseg" if engine == "kubernetes" or not beside.exists() else str(beside)
        work = Inference(runs, str(scans.absolute()), str(results.absolute()), in_place(model), key, called or own, shards, image)
        text = inference_script(engine, str(out), work, resources)
    out.write_text(text, encoding="utf-8")
    emit({"file": str(out)}, as_json, [f"written: {out}; read it, set what is special to your site, and run it as its first lines say"])


def in_place(model: str) -> str:
    """A bundle's folder by its whole path, so that it is found from every folder; a name stays a name."""
    return str(Path(model).absolute()) if Path(model).is_dir() or "/" in model else model
