"""The typed YAML file: its sections, its errors, and the way from it to objects and back."""

from .build import build_data, build_model, fit_arguments
from .changes import changes
from .components import COMPONENTS, ConfigError
from .load import apply_override, check, find_config, load_config, to_yaml
from .schema import Config

__all__ = ["COMPONENTS", "Config", "ConfigError", "apply_override", "build_data", "build_model"]
__all__ += ["changes", "check", "find_config", "fit_arguments", "load_config", "to_yaml"]
