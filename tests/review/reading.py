"""A reviewer who needs no browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.review.corrections import CorrectedObject, Correction, CorrectionRecord, model_sha256, write_correction
from pipeline.review.log import AuditLog, Event, Role


def read(
    predictions: Path, case: str, verdict: str, *, by: str = "Dr. A", role: Role = "reader", correction: str = "", **more: Any
) -> None:
    """Append a verdict, as the server does."""
    log, action = AuditLog.of(predictions), {"accepted": "accept", "rejected": "reject", "edited": "edit"}[verdict]
    found = model_sha256(predictions / "cases" / case)
    event = Event(by, role, case, action, verdict, correction=correction, bundle_id="0123456789ab", mask_sha256=found, **more)  # type: ignore[arg-type]
    log.append(event, len(log.events(case)))


def edit(
    predictions: Path, case: str, masks: list[np.ndarray], *, objects: list[dict[str, Any]] | None = None, surfaces: Any = None, **more: Any
) -> str:
    """Append a correction; returns its name."""
    boxes = None if objects is None else tuple(map(CorrectedObject.model_validate, objects))
    record = CorrectionRecord(case=case, base=model_sha256(predictions / "cases" / case))
    name = write_correction(predictions, Correction(record, tuple(masks), surfaces or {}, boxes))
    read(predictions, case, "edited", correction=name, **more)
    return name
