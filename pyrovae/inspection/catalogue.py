"""What data sets there are."""

import inspect
import textwrap
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import yaml

from ..config import COMPONENTS
from ..config.components import Setting, signature
from ..config.schema import COMMON


def catalogue(width: int = 100) -> str:
    """Every data set by its YAML name, what it is, and its keys with their defaults and what else they may be.

    >>> "binarize: dynamic (or static | none)" in catalogue(width=100)
    True
    """
    parts = []
    for name, make in COMPONENTS["dataset"].items():
        about = (inspect.getdoc(make) or "").split("\n")[0]
        parts.append(f"{name}\n  {about}\n{_keys(signature(make)[1], width)}")
    common = {key: Setting(hint, default) for key, (hint, default) in COMMON["dataset"].items()}
    return "\n".join([*parts, f"all of them\n{_keys(common, width)}"])


def _keys(settings: Mapping[str, Setting], width: int) -> str:
    text = ", ".join(f"{name}: {_default(setting)}".replace(" ", "\0") for name, setting in settings.items())
    lines = textwrap.wrap(text, width - 4, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"    {line}" for line in lines).replace("\0", " ")


def _default(setting: Setting) -> str:
    value: Any = setting.default
    if value is inspect.Parameter.empty:
        return "(required)"
    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True)
    kinds = [setting.hint, *get_args(setting.hint)]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    others = [str(word) for word in words if word != value]  # the other words that may stand there
    return text.strip().removesuffix("...").strip() + (f" (or {' | '.join(others)})" if others else "")
