"""The registry of engines."""

from __future__ import annotations

from pipeline.registry import Registry

ENGINES = Registry("--engine", "pipeline.inference.engines")
"""Builders (task, channels of its images, device "cpu" or "cuda") -> :data:`~pipeline.tasks.base.Engine`, or None for torch itself; an
OcusegError says why an engine cannot serve."""
