"""The typed YAML file: sections, overrides, and errors that say what to do."""

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from .capture import Engine
from .schema import COMPONENTS, Strict, block


class ConfigError(Exception):
    """A configuration that cannot be used; the message has a line for each thing wrong."""


# Sections.

_MODEL_DEFAULTS: dict[str, tuple[str, str]] = {  # model.type -> network, guide
    "vae_mlp": ("mlp", "amortized"),
    "vae_conv": ("conv", "amortized"),
    "ivae_iterative": ("mlp", "semi_amortized"),
    "vae_hierarchical": ("mlp", "amortized"),
}
_LAYERED: dict[str, Any] = {"z_dim": [50, 20], "layers": "mlp"}  # what vae_hierarchical has besides


class ModelConfig(Strict):
    """`model:`; what `type` leaves open is filled in from `_MODEL_DEFAULTS`."""

    type: Literal["vae_mlp", "vae_conv", "ivae_iterative", "vae_hierarchical"] = "vae_mlp"
    z_dim: PositiveInt | list[PositiveInt] = 50
    lr: PositiveFloat = 1e-3
    beta: NonNegativeFloat = 1.0
    prior: block("prior", "standard_normal") = "standard_normal"  # type: ignore[valid-type]
    likelihood: block("likelihood", "bernoulli") = "bernoulli"  # type: ignore[valid-type]
    encoder: block("encoder", "mlp") = "mlp"  # type: ignore[valid-type]
    decoder: block("decoder", "mlp") = "mlp"  # type: ignore[valid-type]
    layers: block("decoder", "mlp") | None = None  # type: ignore[valid-type]

    @field_validator("z_dim", "layers")
    @classmethod
    def _fits_type(cls, value: Any, info: ValidationInfo) -> Any:
        name, layered = info.data.get("type"), info.data.get("type") == "vae_hierarchical"
        if info.field_name == "layers":
            if value is not None and not layered:
                raise PydanticCustomError("layers", f"for model.type vae_hierarchical only, not {name}; leave it out")
        elif layered and not (isinstance(value, list) and len(value) > 1):
            raise PydanticCustomError("z_dim", "vae_hierarchical takes a list of two or more, bottom first: [50, 20]")
        elif isinstance(value, list) and not layered:
            raise PydanticCustomError("z_dim", f"a list is for model.type vae_hierarchical; {name} takes one number")
        return value


class EarlyStoppingConfig(Strict):
    """`train.early_stopping:` as a block."""

    monitor: str = "val/elbo"
    patience: PositiveInt = 10
    min_delta: NonNegativeFloat = 0.0
    start_epoch: NonNegativeInt = 0


class TrainConfig(Strict):
    """`train:`."""

    epochs: PositiveInt = 20
    save_dir: str = "runs"
    name: str = "run"
    seed: NonNegativeInt = 0
    use_amp: bool = False
    early_stopping: bool | EarlyStoppingConfig = False
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: NonNegativeFloat = 0.01
    lr_schedule: Literal["constant", "cosine"] = "constant"
    gradient_clip: PositiveFloat | None = None
    beta_warmup: block("warmup", "linear") | None = None  # type: ignore[valid-type]
    aggressive: block("aggressive", "aggressive") | None = None  # type: ignore[valid-type]
    objective: block("objective", "elbo") = "elbo"  # type: ignore[valid-type]
    eval_particles: PositiveInt = 1
    checkpoint_every: PositiveInt | None = None
    log_every: PositiveInt = 25
    refine_from: NonNegativeInt = 0
    warm_start: bool = False
    engine: Engine = "auto"
    num_threads: PositiveInt | None = None
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: PositiveInt | Literal["auto"] = 1
    strategy: str = "auto"

    @field_validator("aggressive", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return ({} if value else None) if isinstance(value, bool) else value


def _augment(value: Any) -> Any:
    if value is True:
        raise PydanticCustomError("augment", "say what: {flip: true, shift: 2}")
    return None if value is False else value


WHERE_DATA_LIE = frozenset({"root", "path", "cache", "num_workers"})  # of `dataset:`; the same data by other ways

_DATASET_COMMON: dict[str, Any] = {
    "batch_size": (PositiveInt, 128),
    "num_workers": (NonNegativeInt, 0),
    "augment": (Annotated[block("augment", "augmentation") | None, BeforeValidator(_augment)], None),
    "normalize": (
        Annotated[block("normalize", "standardize") | None, BeforeValidator(lambda v: None if v == "none" else v)],
        None,
    ),
}

_GUIDE_PARTS: dict[str, Any] = {
    "family": (block("family", "diagonal_normal"), "diagonal_normal"),
    "refiner": (block("refiner", "svi"), "svi"),
}


class Config(Strict):
    """The whole file."""

    dataset: block("dataset", "mnist", tag="name", common=_DATASET_COMMON) = "mnist"  # type: ignore[valid-type]
    model: ModelConfig = Field(default_factory=ModelConfig)
    guide: block("guide", "amortized", parts=_GUIDE_PARTS) = "amortized"  # type: ignore[valid-type]
    train: TrainConfig = Field(default_factory=TrainConfig)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            raise ValueError("the file must hold sections: dataset, model, guide, train")
        values = {key: value for key, value in values.items() if value is not None}  # `train:` and nothing below it
        model, given = values.get("model", {}), values.get("guide", {})
        if not isinstance(model, dict):
            return values
        network, guide = _MODEL_DEFAULTS.get(model.get("type", "vae_mlp"), ("mlp", "amortized"))
        more = _LAYERED if model.get("type") == "vae_hierarchical" else {}
        values["model"] = {"encoder": network, "decoder": network, **more, **model}
        values["guide"] = {"type": guide, **given} if isinstance(given, dict) else given
        return values


# Loading.


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which by itself lets the last of two equal keys win in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError(f"{key}: given twice, again in line {key_node.start_mark.line + 1}; remove one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The sections of a YAML file, as plain values.

    Raises:
        ConfigError: No such file, or not YAML, or no sections in it.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a YAML file, configs/ivae.yaml say") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, not sections; it needs dataset, model, train")
    return values


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a YAML file, applies overrides such as `model.z_dim=16`, and checks everything.

    Raises:
        ConfigError: One line for each problem: dotted key, value, remedy.
    """
    path = Path(path)
    values = read_yaml(path)
    values.setdefault("train", None)
    values["train"] = {"name": path.stem, **(values["train"] or {})}
    for override in overrides:
        apply_override(values, override)
    return check(values)


def check(values: Mapping[str, Any]) -> Config:
    """Validates plain values.

    Raises:
        ConfigError: One line for each problem.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        items = [e for e in error.errors() if not _is_of_other_option(e)]
        lines = [_explain(dict(item), values) for item in items if item["type"] != "model_type"] or [
            _explain(dict(item), values) for item in items
        ]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def to_yaml(config: Config) -> str:
    """The resolved configuration, every default filled in."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def apply_override(values: dict, text: str) -> None:
    """Sets one value, `model.z_dim=16`, in place.

    Raises:
        ConfigError: It is not written so.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text}: an override is written section.key=value")
    *sections, last = key.split(".")
    for name in sections:
        inner = values.get(name)
        if isinstance(inner, str):  # a bare name, about to get arguments
            inner = {"name" if name == "dataset" else "type": inner}
        values[name] = values = dict(inner) if isinstance(inner, dict) else {}
    try:
        read = values[last] = yaml.load(value, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: {value!r} is not a YAML value") from error
    if isinstance(read, dict) and any(inner is None and ":" in str(name) for name, inner in read.items()):
        raise ConfigError(f"{key}: {value!r} lacks a space after a colon; write '{{type: zca, epsilon: 0.1}}', quoted")


def _explain(error: dict[str, Any], values: Mapping[str, Any]) -> str:
    """One line for one of pydantic's errors."""
    loc = _strip_tags(error["loc"], values)
    key, value = ".".join(map(str, loc)), error["input"]
    if error["type"] == "extra_forbidden":
        kind = [part for part in error["loc"][-2:-1] if part not in loc and _is_component(part)]
        owner = f" for {kind[0]}" if kind else ""
        return f"{key}: unknown key{owner} (value {value!r}); {_nearest_key(loc, _valid_keys(error['loc'][:-1]))}"
    if error["type"] == "union_tag_invalid":
        tag, name = error["ctx"]["discriminator"].strip("'"), error["ctx"]["tag"]
        return f"{key}.{tag}: {name!r} is unknown; {nearest(name, _quoted(error['ctx']['expected_tags']))}"
    if error["type"] == "literal_error":
        return f"{key}: {value!r} is not valid; {nearest(str(value), _quoted(error['ctx']['expected']))}"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key}: {message}" if error["type"] == "missing" else f"{key}: {message}, got {value!r}"


def _is_of_other_option(error: Any) -> bool:
    """Whether it only says that a value is not what it need not be, where one of two kinds may stand."""
    kind, value = error["type"], error["input"]
    return (
        (kind.startswith("bool") and isinstance(value, Mapping))
        or (kind == "int_type" and isinstance(value, list))
        or (kind == "string_type" and error["loc"][-1] == "str")
        or (kind == "list_type" and str(error["loc"][-1]).startswith("list["))
    )


def _quoted(text: str) -> list[str]:
    return [word or number for word, number in re.findall(r"'([^']*)'|(\d+)", text)]


def nearest(name: str, valid: list[str]) -> str:
    """The end of an error line: what was perhaps meant, and what can be."""
    close = difflib.get_close_matches(name, valid, n=1)
    return (f"did you mean {close[0]}? " if close else "") + f"valid: {', '.join(valid)}"


def _is_component(name: Any) -> bool:
    return any(name in names for names in COMPONENTS.values())


def _nearest_key(loc: list, valid: list[str]) -> str:
    for section, field in Config.model_fields.items():  # the right key in the wrong section
        if section != loc[0] and loc[-1] in getattr(field.annotation, "model_fields", ()):
            return f"did you mean {section}.{loc[-1]}? valid: {', '.join(valid)}"
    return nearest(str(loc[-1]), valid)


_OPTIONS = ("bool", "str", "list[", "dict[", "literal[", "constrained-", "EarlyStoppingConfig")  # kinds of a value


def _strip_tags(loc: tuple, values: Any) -> list:
    """A dotted path without the component names that pydantic weaves into it."""
    path = []
    for i, part in enumerate(loc):
        inside = isinstance(values, Mapping) and part in values
        is_tag = _is_component(part) and not inside
        is_option = not inside and str(part).startswith(_OPTIONS)
        if "=" in str(part) or is_option or (is_tag and i > 0):
            continue
        path.append(part)
        values = values[part] if inside else None
    return path


def _valid_keys(loc: tuple) -> list[str]:
    """The fields at a location, found by walking the schema as pydantic does."""
    here: Any = Config
    for part in loc:
        here = _step(here, part)
    while not inspect.isclass(here):  # a block that may be left out
        here = (getattr(here, "__args__", None) or [object])[0]
    return list(here.model_fields) if issubclass(here, BaseModel) else []


def _step(here: Any, part: Any) -> Any:
    if inspect.isclass(here) and issubclass(here, BaseModel):
        return here.model_fields[part].annotation
    for option in getattr(here, "__args__", ()):
        name = getattr(option, "__name__", "")
        if name == part or name.endswith(f"={part}"):
            return option
        if getattr(option, "__args__", None):
            return _step(option, part)
    return here
