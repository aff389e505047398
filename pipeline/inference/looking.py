"""Kind and side of a scan by what its picture shows, where nothing is segmented: for the catalogue of `index --with`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.bundles.bundle import open_bundle
from pipeline.errors import ConfigError
from pipeline.inference.kinds import tells_kind, with_kind
from pipeline.inference.laterality import with_side
from pipeline.inference.model_set import likely_kind
from pipeline.inference.predict import Predictor
from pipeline.types import Scan


class Look:
    """Bundles of whole pictures on a device; called with a scan, in any thread, it gives the scan as they see it.

    ``id`` joins the bundles' ids by "+".

    Raises
    ------
    BundleError: one of them is not usable. ConfigError: one says nothing of whole pictures.
    """

    def __init__(self, bundles: Sequence[Path], device: str = "cpu") -> None:
        # Those that tell kinds first: which others are asked hangs on it.
        opened = sorted(map(open_bundle, bundles), key=lambda one: not tells_kind(one))
        for one in opened:
            if one.marks:
                raise ConfigError(f"--with: {one.config.name} marks a scan's pixels or objects; name models of whole pictures")
        self.id = "+".join(one.id for one in opened)
        self._predictors = [Predictor(one, device) for one in opened]

    def __call__(self, scan: Scan) -> Scan:
        """Raises ScanError (``not_retinal``) where the picture shows no scan of an eye; a slice of a volume is not looked at."""
        for one in self._predictors if scan.piece is None else ():
            if tells_kind(one.bundle):
                scan = with_kind(scan, one.said(one.look(scan)))
            elif one.bundle.modality in (likely_kind(scan), "unknown"):
                scan, flags = with_side(scan, (one.said(one.look(scan)),))
                scan = replace(scan, doubts=(*scan.doubts, *((flag.code, flag.text) for flag in flags)))
        return scan
