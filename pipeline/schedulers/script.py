"""Scripts that run ocuseg on a site's own scheduler: short, filled from a template, for the site to read and change.

A script calls the command as many times as there are parts, each with ``--shard``, and then ``ocuseg merge``. It holds paths as they
are seen by the machines that will run it, quoted for the language that reads them there (shell, YAML, Groovy, Python).
"""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.errors import EXIT_NOTHING_USABLE, EXIT_SOME_REJECTED, EXIT_STOPPED, EXIT_USAGE, ConfigError

TEMPLATES = {"slurm": "slurm.sh", "kubernetes": "kubernetes.yaml", "nextflow": "nextflow.nf", "snakemake": "snakemake.smk"}
CALLS = {
    "predict": 'predict "$MODEL" "$SCANS" --out "$RESULTS"',
    "segment": 'segment "$SCANS" --out "$RESULTS"',
    "index": 'index "$SCANS" --out "$RESULTS"',
}
"""Of each command, how a task calls it: paths are variables of the script."""
MARGIN = 10
"""Minutes before its wall time at which a task stops by itself."""


@dataclass(frozen=True)
class Resources:
    """What a task may take. ``memory``: such as 16G; ``minutes``: its wall time; ``retries``: how often it may fail and begin again."""

    cores: int = 4
    memory: str = "16G"
    minutes: int = 240
    retries: int = 3


@dataclass(frozen=True)
class Inference:
    """``command`` (a key of :data:`CALLS`) over ``scans`` into ``results``, in ``shards`` parts; ``program``: how a task calls ocuseg."""

    command: str
    scans: str
    results: str
    model: str
    site_key: str
    program: str
    shards: int = 16
    image: str = "ocuseg:latest"


@dataclass(frozen=True)
class Training:
    """``ocuseg train CONFIG --run-dir RUN``, ``gpus`` processes on each of ``nodes`` machines (one on each without GPUs)."""

    config: str
    root: str
    run: str
    site_key: str
    python: str
    nodes: int = 1
    gpus: int = 1
    port: int = 29500


def inference_script(engine: str, file: str, work: Inference, resources: Resources) -> str:
    """The script for ``engine`` (a key of :data:`TEMPLATES`), which will be called ``file``.

    Raises
    ------
    ConfigError: a path that no script can hold.
    """
    call = CALLS[work.command]
    values = {"MODEL": work.model, "SCANS": work.scans, "RESULTS": work.results}
    literal, braced = call, call
    for name, value in values.items():
        literal = literal.replace(f'"${name}"', shlex.quote(value))
        braced = braced.replace(f'"${name}"', f"{{{name}:q}}")
    named = asdict(work) | {"model": work.model if "$MODEL" in call else "", "call": call, "literal": literal, "braced": braced}
    named |= {"first": 1, "last": work.shards, "mount": posixpath.dirname(work.results) if work.command == "index" else work.results}
    return _filled(TEMPLATES[engine], file, named, resources)


def training_script(file: str, work: Training, resources: Resources) -> str:
    """The script of a training on Slurm, which will be called ``file``.

    Raises
    ------
    ConfigError: a path that no script can hold.
    """
    return _filled("slurm_train.sh", file, asdict(work), resources)


def _filled(template: str, file: str, values: dict[str, Any], resources: Resources) -> str:
    for name, value in [("file", file), *values.items()]:
        if isinstance(value, str) and not value.isprintable():
            raise ConfigError(f"{name} {value!r} holds a character that cannot be printed; a script cannot hold it safely")
    codes = {"usage": EXIT_USAGE, "rejected": EXIT_SOME_REJECTED, "unusable": EXIT_NOTHING_USABLE, "stopped": EXIT_STOPPED}
    times = {"stop": f"{max(resources.minutes - MARGIN, 1)}m", "warn_s": 60 * MARGIN}
    environment = Environment(
        loader=PackageLoader("pipeline.schedulers", "templates"),
        undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True, autoescape=False,  # noqa: S701 (no HTML)
    )  # fmt: skip
    environment.filters |= QUOTING
    return environment.get_template(template).render(**values, **asdict(resources), **codes, **times, file=file)


def quoted_for_yaml(text: str) -> str:
    """A double-quoted YAML scalar: JSON is one, but for surrogates, which it writes as such."""
    return json.dumps(text, ensure_ascii=False)


def quoted_for_kubernetes(text: str) -> str:
    """The value of a container's variable, in which ``$(NAME)`` would be replaced."""
    return quoted_for_yaml(text.replace("$(", "$$("))


def quoted_for_groovy(text: str) -> str:
    """Text inside Groovy's three single quotes."""
    return text.replace("\\", "\\\\").replace("'", "\\'") if "\\" in text or "''" in text else text


QUOTING: dict[str, Callable[[str], str]] = {
    "sh": shlex.quote,
    "yaml": quoted_for_yaml,
    "kubernetes": quoted_for_kubernetes,
    "groovy": quoted_for_groovy,
    "python": repr,
}
