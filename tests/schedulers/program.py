#!/usr/bin/env python3
"""Stands for ocuseg where scripts of schedulers are tested: notes how it was called in FAKE_SLURM_STATE/calls, and ends as it is told.

A part that is listed in FAKE_CODES ("PART=CODE,...") ends with that code when it is called for the first time.
"""

import json
import os
import sys
import time
from pathlib import Path

state = Path(os.environ["FAKE_SLURM_STATE"])
names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "JOB_COMPLETION_INDEX", "JOB_COMPLETION_COUNT", "OCUSEG_SITE_KEY")
call = {"arguments": sys.argv[1:], **{name: os.environ.get(name) for name in names}}
part = call["SLURM_ARRAY_TASK_ID"] or call["JOB_COMPLETION_INDEX"] or sys.argv[-1].partition("/")[0]
calls = state / "calls"
before = sum(json.loads(line) == call for line in calls.read_text().splitlines()) if calls.exists() else 0
with calls.open("a", encoding="utf-8") as file:
    file.write(json.dumps(call) + "\n")
(state / "begun").touch()
sys.stdout.write("a task's output is no part of what sbatch prints\n")
if sys.argv[1] != "merge" and before == 0:
    if part == os.environ.get("FAKE_SLURM_KILLS"):
        time.sleep(600)
    sys.exit(int(dict(pair.split("=") for pair in os.environ.get("FAKE_CODES", "").split(",") if pair).get(part, 0)))
