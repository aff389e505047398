#!/usr/bin/env python3
"""A small Slurm for tests, called as sbatch, srun or scontrol: what a script asks of it is done at once, task after task.

It runs array tasks with the variables that Slurm sets, honours ``--dependency`` and ``scontrol requeue``, and kills the task named by
FAKE_SLURM_KILLS once it has begun, as a node that fails or a wall time that is over does, and queues it again. What it did is in
FAKE_SLURM_STATE/log, a line of JSON each.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM_STATE"])


def note(**what: object) -> None:
    with (STATE / "log").open("a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")


def run(script: str, environment: dict[str, str], killed: bool) -> int:
    """A task in a session of its own; ``killed``: with all its processes, once its program has said that it has begun."""
    begun = STATE / "begun"
    begun.unlink(missing_ok=True)
    with (STATE / "output").open("ab") as output:  # Slurm's own go to --output
        task = subprocess.Popen(
            ["bash", "-c", script], env=os.environ | environment, start_new_session=True, stdout=output, stderr=subprocess.STDOUT
        )
    if killed:
        while not begun.exists() and task.poll() is None:
            time.sleep(0.01)
        os.killpg(task.pid, signal.SIGKILL)
    return task.wait()


def sbatch(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("array", "dependency", "export", "job-name", "time", "cpus-per-task", "mem", "output", "open-mode", "wrap"):
        parser.add_argument(f"--{name}")
    for name in ("parsable", "requeue"):
        parser.add_argument(f"--{name}", action="store_true")
    asked = parser.parse_args(arguments)
    script = asked.wrap if asked.wrap is not None else sys.stdin.read()
    job = str(4000 + len(list(STATE.glob("job-*"))))
    if asked.dependency:
        kind, _, before = asked.dependency.partition(":")
        assert kind == "afterany"
        assert (STATE / f"job-{before}").exists(), "the job that this one hangs on is not done"
    tasks = [""]
    if asked.array:
        first, last = re.fullmatch(r"(\d+)-(\d+)", asked.array).groups()  # type: ignore[union-attr]
        tasks = [str(number) for number in range(int(first), int(last) + 1)]
    for task in tasks:
        environment = {"SLURM_JOB_ID": job}
        if task:
            environment |= {
                "SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_MIN": tasks[0], "SLURM_ARRAY_TASK_MAX": tasks[-1],
                "SLURM_ARRAY_TASK_STEP": "1", "SLURM_ARRAY_TASK_COUNT": str(len(tasks)),
            }  # fmt: skip
        for restarts in range(5):
            killed = bool(task) and task == os.environ.get("FAKE_SLURM_KILLS") and restarts == 0
            code = run(script, environment | ({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}), killed)
            note(job=asked.job_name, task=task, code=code, restarts=restarts)
            again = STATE / f"requeue-{job}_{task}"
            if not (killed and asked.requeue) and not again.exists():
                break
            again.unlink(missing_ok=True)
    (STATE / f"job-{job}").touch()
    sys.stdout.write(f"{job};cluster\n" if asked.parsable else f"Submitted batch job {job}\n")


def scontrol(arguments: list[str]) -> None:
    what, name = arguments
    assert what == "requeue"
    (STATE / f"requeue-{name}").touch()


if __name__ == "__main__":
    called = Path(sys.argv[0]).name
    if called == "srun":
        os.execvp(sys.argv[1], sys.argv[1:])
    {"sbatch": sbatch, "scontrol": scontrol}[called](sys.argv[1:])
