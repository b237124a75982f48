"""The YAML file: reading it, overriding values, and errors that say what to do."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ..validation import either, problem, shown
from .components import COMPONENTS, ConfigError, nearest, tag_of
from .schema import Block, Config, fitted


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which by itself lets the last of two equal keys win in silence."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"line {line}: a key must be a word, not a {key.id}")
            if key.value in seen:
                raise ConfigError(f"{key.value}: given twice, again in line {line}; remove one")
            seen.add(key.value)
            if key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"  # `no` and `1` are names here
        return node


def find_config(name: str | Path) -> Path:
    """The YAML file of this path or, where there is none, pyrovae's own of this name, `ivae` or `compare/quick`.

    Raises:
        ConfigError: Neither; the message lists pyrovae's own.

    >>> find_config("compare/quick").name
    'quick.yaml'
    """
    path = Path(name)
    if path.is_file():
        return path
    package = Path(__file__).parent.parent  # which holds `configs/` when installed, and lies beside it in a checkout
    home = next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())
    own = {file.relative_to(home).with_suffix("").as_posix(): file for file in sorted(home.rglob("*.yaml"))}
    if path.as_posix() in own:
        return own[path.as_posix()]
    reason = "is a folder" if path.is_dir() else "No such file or directory"
    raise ConfigError(f"{name}: {reason}; name a YAML file, or one of pyrovae's own: {nearest(path.stem, own)}")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The sections of a file that `find_config` finds; a `ConfigError` of none, no YAML, or no sections."""
    path = find_config(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a YAML file that you may read") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, not sections; it needs dataset, model, train")
    return values


def load_config(path: str | Path, overrides: Iterable[str] = (), allow: Collection[str] | None = None) -> Config:
    """Reads a YAML file, applies overrides such as `model.z_dim=16`, and checks everything.

    Args:
        path: The file, or the name of one of pyrovae's own, `ivae`.
        overrides: As on the command line.
        allow: Packages beside pyrovae that its components may come from; by default any: the file is the caller's word.

    Raises:
        ConfigError: One line for each problem: dotted key, value, remedy.
        CheckpointError: A package that is not among those allowed.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "small.yaml").write_text("model: {z_dim: 3}")
    ...     load_config(f"{folder}/small.yaml", ["model.lr=0.01"]).model.z_dim
    3
    """
    values = read_yaml(path)
    train = values.get("train")
    if train is None or isinstance(train, dict):
        values["train"] = {"name": Path(path).stem, **(train or {})}
    for override in overrides:
        apply_override(values, override)
    return check(values, allow)


def check(values: Mapping[str, Any], allow: Collection[str] | None = None) -> Config:
    """Validates plain values; `allow` and errors are those of `load_config`.

    >>> check({"model": {"z_dim": 3}}).guide.family.type
    'diagonal_normal'
    >>> check({"model": {"z_dim": 0, "lr": "fast"}})
    Traceback (most recent call last):
        ...
    pyrovae.config.components.ConfigError: model.z_dim: must be >= 1, got 0
    model.lr: must be a number, got 'fast'
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"the file must hold sections dataset, model, guide, train, got {shown(values)}")
    schema, written = fitted(values, allow)
    try:
        return schema.model_validate(written)
    except ValidationError as error:
        raise ConfigError(explained(error, schema, written)) from error


def to_yaml(config: Config) -> str:
    """The resolved configuration, every default filled in.

    >>> "num_steps: 10" in to_yaml(check({"guide": "svi"}))
    True
    """
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def apply_override(values: dict, text: str) -> None:
    """Sets one value, `model.z_dim=16`, in place; a `ConfigError` of what is not written so.

    >>> values = {"guide": "svi"}
    >>> apply_override(values, "guide.refiner.num_steps=5")
    >>> values
    {'guide': {'type': 'svi', 'refiner': {'num_steps': 5}}}
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text}: an override is written section.key=value")
    *sections, last = key.split(".")
    for name in sections:
        inner = values.get(name)
        if isinstance(inner, str):  # a bare name, about to get arguments
            inner = {tag_of(name): inner}
        if not isinstance(inner, dict | bool | None):
            raise ConfigError(f"{key}: {name} is {shown(inner)}, which has no keys")
        values[name] = values = dict(inner) if isinstance(inner, dict) else {}
    try:
        read = values[last] = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: {value!r} is not a YAML value") from error
    if isinstance(read, dict) and any(inner is None and ":" in str(name) for name, inner in read.items()):
        raise ConfigError(f"{key}: {value!r} lacks a space after a colon; write '{{type: zca, epsilon: 0.1}}', quoted")


def explained(error: ValidationError, schema: type[BaseModel], values: Mapping[str, Any]) -> str:
    """A line for each value that is wrong; what is wrong by each option of a union is one."""
    by_place: dict[str, list[str]] = {}
    whole: dict[str, str] = {}
    for item in error.errors():
        path = _path(item["loc"], values, missing=item["type"] == "missing")
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
        if item["type"] == "extra_forbidden":
            whole[key] = f"{key}: {_unknown(path, item['input'], schema)}"
        elif item["type"] == "component":
            got = "" if "; " in item["msg"] or "(" in item["msg"] else f", got {shown(item['input'])}"
            whole[key] = f"{key}{item['msg']}{got}"
        elif item["type"] == "missing":
            whole[key] = f"{key}: must be given"
        else:
            by_place.setdefault(key, []).append(problem(dict(item)) + _meant(item))
            whole[key] = f"{key}: {either(by_place[key])}"
    return "\n".join(whole.values())


def _meant(error: Any) -> str:
    """The nearest of the words that may stand there."""
    if error["type"] != "literal_error" or not isinstance(error["input"], str):
        return ""
    words = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
    hint = nearest(error["input"], words).rpartition("? ")[0]
    return f"; {hint}?" if hint else ""


def _path(loc: tuple[str | int, ...], values: Any, missing: bool) -> list[str | int]:
    """Where in `values` an error is: its place without the names that pydantic gives to the options of a union."""
    path: list[str | int] = []
    here: Any = values
    for part in loc:
        entries = here if isinstance(here, Mapping) else range(len(here)) if isinstance(here, list | tuple) else ()
        if part in entries or (missing and part == loc[-1]):
            path.append(part)
            here = here[part] if part in entries else None
    return path


def _unknown(path: list[str | int], value: Any, schema: type[BaseModel]) -> str:
    """What is said of a key that is not in the schema: where it belongs, or the nearest that is."""
    *sections, key = map(str, path)
    here: Any = schema
    for part in sections:
        if part in here.model_fields:
            here = _schema_in(here.model_fields[part].annotation)
    owner = ""
    if issubclass(here, Block) and len(COMPONENTS[here.__kind__]) > 1:
        owner = f" for {here.model_fields[tag_of(here.__kind__)].default}"
    valid = [*here.model_fields]
    elsewhere = [place for place in _places(schema) if place[-1] == key and len(place) > 1]
    elsewhere.sort(key=lambda place: (place[0] != sections[0] if sections else False, len(place)))
    hint = f"did you mean {'.'.join(elsewhere[0])}? valid: {', '.join(valid)}" if elsewhere else nearest(key, valid)
    return f"unknown key{owner} (value {shown(value)}); {hint}"


def _schema_in(annotation: Any) -> Any:
    """The schema that an annotation holds: of `dict[str, list | Range]`, `Range`."""
    found = [_schema_in(inner) for inner in get_args(annotation)] or [annotation]
    return next((one for one in found if hasattr(one, "model_fields")), None)


def _places(schema: Any, before: tuple[str, ...] = ()) -> Iterable[tuple[str, ...]]:
    """The path of every key of a schema."""
    for name, field in schema.model_fields.items():
        yield (*before, name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _places(inner, (*before, name))
