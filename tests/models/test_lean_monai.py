"""MONAI's networks come without what only other parts of MONAI use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAY = """
import sys, threading
from pipeline.models.lean_monai import EXTRAS, lean_monai
elsewhere = []
with lean_monai():
    from monai.networks.nets import UNet
    other = threading.Thread(target=lambda: elsewhere.append(__import__("scipy").__name__))
    other.start(); other.join()
    inside = sorted(EXTRAS & set(sys.modules))
import skimage
print(inside, elsewhere, skimage.__name__, UNet(2, 1, 1, (2, 4), (2,)).__class__.__name__)
"""


def test_monai_is_imported_without_its_extras_which_others_may_import_meanwhile_and_afterwards() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", SAY], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "['scipy'] ['scipy'] skimage UNet"
