"""Scripts for schedulers, run: by a small Slurm, as a pod would run them, by Snakemake where it is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.errors import EXIT_NOTHING_USABLE, EXIT_SOME_REJECTED, EXIT_STOPPED, EXIT_USAGE, ConfigError
from pipeline.schedulers.script import TEMPLATES, Inference, Resources, Training, inference_script, training_script
from tests.patience import LONG_S

HERE = Path(__file__).parent
SCANS = "/data/O'Brien's \"eyes\" $HOME `id` {x} 100% $(id) \\n"
PARTS = 4


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the small Slurm on the PATH; what happened is in its ``state``."""
    for name in ("sbatch", "srun", "scontrol", "ocuseg program"):
        source = (HERE / ("program.py" if " " in name else "slurm.py")).read_text(encoding="utf-8")
        # Isolated (-I) and without site (-S), Python starts in 15 ms.
        (tmp_path / name).write_text(source.replace("#!/usr/bin/env python3", f"#!{sys.executable} -IS", 1), encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("FAKE_SLURM_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("OCUSEG_SITE_KEY", raising=False)
    return tmp_path


def script(cluster: Path, engine: str, command: str = "predict") -> str:
    work = Inference(
        command, SCANS, str(cluster / "my results"), "a model", str(cluster / "the site's.key"), str(cluster / "ocuseg program"), PARTS
    )
    return inference_script(engine, "job 1", work, Resources(memory="2G", minutes=60))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(command: list[str], folder: Path, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=LONG_S, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def called_well(cluster: Path, arguments: list[list[str]], *, key: str | None = None) -> None:
    """Each part once (as a set of calls), then the merge, with paths as they are and one key for all."""
    calls = lines(cluster / "state" / "calls")
    assert sorted(map(json.dumps, (call["arguments"] for call in calls[:-1]))) == sorted(map(json.dumps, arguments))
    assert calls[-1]["arguments"] == ["merge", str(cluster / "my results")]
    assert {call["OCUSEG_SITE_KEY"] for call in calls} == {key or str(cluster / "the site's.key")}


def test_slurm_runs_each_part_queues_again_what_was_killed_or_stopped_and_merges_last(cluster: Path) -> None:
    (cluster / "job").write_text(script(cluster, "slurm"), encoding="utf-8")
    codes = f"1={EXIT_SOME_REJECTED},2={EXIT_STOPPED},3={EXIT_USAGE}"
    run(["bash", "job"], cluster, FAKE_SLURM_KILLS="0", FAKE_CODES=codes)
    call = ["predict", "a model", SCANS, "--out", str(cluster / "my results"), "--shard", "auto", "--stop-after", "50m"]
    called_well(cluster, [call] * 6)
    parts = [entry["SLURM_ARRAY_TASK_ID"] for entry in lines(cluster / "state" / "calls")]
    assert parts == ["0", "0", "1", "2", "2", "3", None]
    ends = [(entry["job"], entry["task"], entry["restarts"], entry["code"]) for entry in lines(cluster / "state" / "log")]
    assert ends == [
        ("ocuseg-predict", "0", 0, -9),  # killed, and queued again
        ("ocuseg-predict", "0", 1, 0),
        ("ocuseg-predict", "1", 0, 0),  # some files are rejected, which is no failure of the task
        ("ocuseg-predict", "2", 0, 0),  # stopped before its wall time, and has asked to be queued again
        ("ocuseg-predict", "2", 1, 0),
        ("ocuseg-predict", "3", 0, EXIT_USAGE),
        ("ocuseg-merge", "", 0, 0),
    ]


JOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "batch/v1"},
        "kind": {"const": "Job"},
        "metadata": {"properties": {"name": {"pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}}, "required": ["name"]},
        "spec": {
            "additionalProperties": False,
            "required": ["template"],
            "properties": {
                "completionMode": {"enum": ["Indexed", "NonIndexed"]},
                **{name: {"type": "integer"} for name in ("completions", "parallelism", "backoffLimit", "backoffLimitPerIndex")},
                "suspend": {"type": "boolean"},
                "podFailurePolicy": {"properties": {"rules": {"items": {"required": ["action"]}}}},
                "template": {
                    "properties": {
                        "spec": {
                            "additionalProperties": False,
                            "required": ["restartPolicy", "containers"],
                            "properties": {
                                "restartPolicy": {"const": "Never"},  # podFailurePolicy asks for it
                                "terminationGracePeriodSeconds": {"type": "integer"},
                                "volumes": {"items": {"required": ["name"], "maxProperties": 2}},
                                "containers": {
                                    "items": {
                                        "additionalProperties": False,
                                        "required": ["name", "image"],
                                        "properties": {
                                            "name": {"type": "string"},
                                            "image": {"type": "string"},
                                            "command": {"items": {"type": "string"}},
                                            "env": {"items": {"properties": {"value": {"type": "string"}}, "required": ["name", "value"]}},
                                            "volumeMounts": {"items": {"required": ["name", "mountPath"]}},
                                            "resources": {"properties": {"requests": {}, "limits": {}}, "additionalProperties": False},
                                        },
                                    }
                                },
                            },
                        }
                    }
                },
            },
        },
    },
}
"""What batch/v1 demands of the fields that the template uses."""


def test_kubernetes_jobs_have_the_apis_shape_and_their_pods_run(cluster: Path) -> None:
    found = yaml.safe_load(script(cluster, "kubernetes"))
    assert found["kind"] == "List"
    predict, merge = found["items"]
    for job in (predict, merge):
        jsonschema.validate(job, JOB)
        pod = job["spec"]["template"]["spec"]
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert merge["spec"]["suspend"]  # until all indexes are complete
    spec = predict["spec"]
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", PARTS)
    assert spec["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [EXIT_USAGE]
    for job, indexes in ((predict, [str(index) for index in range(PARTS)]), (merge, [""])):
        (container,) = job["spec"]["template"]["spec"]["containers"]
        # As Kubernetes reads them: "$$(" stands for "$(".
        variables = {entry["name"]: entry["value"].replace("$$(", "$(") for entry in container["env"]}
        for index in indexes:
            own = {"JOB_COMPLETION_INDEX": index} if index else {}
            run(container["command"], cluster, **variables, **own, FAKE_CODES=f"1={EXIT_SOME_REJECTED},2={EXIT_NOTHING_USABLE}")
    call = ["predict", "a model", SCANS, "--out", str(cluster / "my results"), "--shard", "auto"]
    called_well(cluster, [call] * PARTS, key="/etc/ocuseg/site.key")
    calls = lines(cluster / "state" / "calls")[:-1]
    assert [(c["JOB_COMPLETION_INDEX"], c["JOB_COMPLETION_COUNT"]) for c in calls] == [(str(i), str(PARTS)) for i in range(PARTS)]


def test_nextflows_tasks_are_what_a_shell_reads_as_meant(cluster: Path) -> None:
    """Read, not run: Nextflow is no package of a registry, and loads parts of itself over the network when it starts."""
    text = script(cluster, "nextflow")
    for pair in ("{}", "()", "[]"):
        outside = re.sub(r"'''.*?'''|'[^'\n]*'|//[^\n]*", "", text, flags=re.DOTALL)
        assert outside.count(pair[0]) == outside.count(pair[1])
    predict, merge = re.findall(r"script:\n +'''\n(.*?)\n +'''", text, flags=re.DOTALL)
    for block, parts in ((predict, range(1, PARTS + 1)), (merge, [0])):
        assert "'''" not in block
        shell = re.sub(r"\\(.)", r"\1", block)  # as Groovy reads it
        for part in parts:
            run(["bash", "-euc", shell], cluster, PART=str(part), FAKE_CODES=f"2={EXIT_SOME_REJECTED}")
    calls = [["predict", "a model", SCANS, "--out", str(cluster / "my results"), "--shard", f"{n}/{PARTS}"] for n in range(1, PARTS + 1)]
    called_well(cluster, calls)


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="snakemake is not installed")
def test_snakemake_runs_each_part_and_merges_last(cluster: Path) -> None:
    (cluster / "Snakefile").write_text(script(cluster, "snakemake"), encoding="utf-8")
    run(["snakemake", "--cores", "2", "--quiet"], cluster, FAKE_CODES=f"1={EXIT_SOME_REJECTED},2=1")
    numbers = [1, 2, 2, 3, 4]  # what has failed is tried again
    called_well(cluster, [["predict", "a model", SCANS, "--out", str(cluster / "my results"), "--shard", f"{n}/{PARTS}"] for n in numbers])


@pytest.mark.parametrize("engine", TEMPLATES)
@pytest.mark.parametrize("command", ["segment", "index"])
def test_other_commands_name_no_model(cluster: Path, engine: str, command: str) -> None:
    text = script(cluster, engine, command)
    assert "model" not in text.lower()
    assert re.search(rf"{command} (\S*SCANS|\\?'/data/)", text)


def test_a_training_meets_at_its_first_host_and_goes_on_with_its_run(cluster: Path) -> None:
    work = Training("my run.yaml", SCANS, "runs/one", "a key", str(cluster / "ocuseg program"), nodes=2, gpus=4)
    text = training_script("job 1", work, Resources())
    hosts = cluster / "scontrol"
    hosts.write_text('#!/bin/bash\necho node7; echo node8\n[ "$3" = "node[7-8]" ]\n', encoding="utf-8")
    run(["bash", "-c", text], cluster, SLURM_JOB_NODELIST="node[7-8]", SLURM_JOB_NUM_NODES="2", SLURM_JOB_ID="12")
    (call,) = lines(cluster / "state" / "calls")
    assert call["arguments"] == [
        *("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=4", "--max-restarts=3"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=node7:29500", "--rdzv-id=12"),
        *("-m", "pipeline", "train", "my run.yaml", "--root", SCANS, "--run-dir", "runs/one"),
    ]
    assert "#SBATCH --job-name=ocuseg-train --nodes=2 --ntasks-per-node=1 --gpus-per-node=4" in text


def test_a_path_that_no_script_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scans '.*' holds a character that cannot be printed"):
        inference_script("slurm", "job", Inference("predict", "a\nb", "out", "vessels", "key", "ocuseg"), Resources())
