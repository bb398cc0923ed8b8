"""Configuration: YAML files checked against a typed schema. `schema` has every key, `load` reads files."""

from spkver.config.load import complete, config_of, dump_config, load_config, load_run, read_yaml, scoring_overrides
from spkver.config.schema import Config

__all__ = [
    "Config",
    "complete",
    "config_of",
    "dump_config",
    "load_config",
    "load_run",
    "read_yaml",
    "scoring_overrides",
]
