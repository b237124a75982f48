"""What data sets there are."""

import inspect
import textwrap
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from ..config import Config
from ..schema import COMPONENTS


def catalogue(width: int = 100) -> str:
    """Every data set by its YAML name, what it is, and its keys with their defaults and what else they may be.

    Args:
        width: Of a line, in characters.
    """
    parts = []
    common: dict[str, FieldInfo] = {}
    for schema in get_args(Config.model_fields["dataset"].annotation):
        fields = dict(schema.model_fields)
        name = fields.pop("name").default
        make = COMPONENTS["dataset"][name]
        own = [key for key in fields if key in inspect.signature(make).parameters]
        common |= {key: field for key, field in fields.items() if key not in own}
        about = (inspect.getdoc(make) or "").split("\n")[0]
        parts.append(f"{name}\n  {about}\n{_keys({key: fields[key] for key in own}.items(), width)}")
    return "\n".join([*parts, f"all of them\n{_keys(common.items(), width)}"])


def _keys(fields: Iterable[tuple[str, FieldInfo]], width: int) -> str:
    text = ", ".join(f"{name}: {_default(field)}".replace(" ", "\0") for name, field in fields)
    lines = textwrap.wrap(text, width - 4, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"    {line}" for line in lines).replace("\0", " ")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    value: Any = field.get_default(call_default_factory=True)
    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True)
    return text.strip().removesuffix("...").strip() + _choices(field)


def _choices(field: FieldInfo) -> str:
    """The other words that may stand there."""
    kinds = [field.annotation, *get_args(field.annotation)]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    others = [str(word) for word in words if word != field.default]
    return f" (or {' | '.join(others)})" if others else ""
