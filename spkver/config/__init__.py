"""Configuration: YAML files checked against a typed schema. `schema` has every key, `load` reads files."""

from spkver.config.load import complete, dump_config, load_config, load_run, scoring_overrides
from spkver.config.schema import Config

__all__ = ["Config", "complete", "dump_config", "load_config", "load_run", "scoring_overrides"]
