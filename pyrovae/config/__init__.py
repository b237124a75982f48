"""The typed YAML file: its sections, its errors, and the way from it to objects and back."""

from .build import build_data, build_model, check_views, fit_arguments
from .components import COMPONENTS, ConfigError, nearest
from .load import apply_override, check, load_config, read_yaml, to_yaml
from .schema import WHERE_DATA_LIE, Config, Strict

__all__ = [
    "COMPONENTS",
    "WHERE_DATA_LIE",
    "Config",
    "ConfigError",
    "Strict",
    "apply_override",
    "build_data",
    "build_model",
    "check",
    "check_views",
    "fit_arguments",
    "load_config",
    "nearest",
    "read_yaml",
    "to_yaml",
]
