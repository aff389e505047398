"""What dciodvfy, which checks DICOM objects against the standard, has to say of one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def errors(path: Path, kind: str) -> list[str]:
    """Its errors; a visible skip where it is not installed. ``kind``: a word of the object's name, so that nothing passes unrecognised."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert any(kind in line for line in lines), "dciodvfy did not recognise the object"
    return [line for line in lines if line.startswith("Error")]
