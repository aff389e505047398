"""What a run is, as data: YAML in, a frozen and fully checked RunConfig out."""

from pipeline.config.editor_schema import schema, study_schema
from pipeline.config.loading import dump_config, load_config, named_by_changes, parse_config, run_files
from pipeline.config.run_config import DataConfig, Minutes, RunConfig, TrackingConfig, TrainConfig

__all__ = [
    "DataConfig",
    "Minutes",
    "RunConfig",
    "TrackingConfig",
    "TrainConfig",
    "dump_config",
    "load_config",
    "named_by_changes",
    "parse_config",
    "run_files",
    "schema",
    "study_schema",
]
