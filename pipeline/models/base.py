"""The registry of networks: one file each in this package, found by name."""

from __future__ import annotations

from pipeline.registry import Registry

MODELS = Registry("model.name", "pipeline.models")
