"""Components by name, and what YAML may set of each.

A component block names a class and its arguments: `refiner: {type: svi, num_steps: 20}`. Its schema is the class's own
signature: keyword-only arguments are what YAML may set, positional ones are wired up in `build.py`.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Annotated, Any, Literal, Union, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from torch import nn

from . import data, families, guides, inference, nets, training
from .models import likelihoods, priors


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def members(
    package: ModuleType, role: str, other_roles: Iterable[str] = (), base: type | None = None
) -> dict[str, Any]:
    """The exported classes and factories of a package by YAML name: `SVIRefiner` in role `Refiner` is `svi`.

    With a `base`, its concrete subclasses alone.
    """
    found = {}
    exported = {name: getattr(package, name) for name in package.__all__}
    for name, thing in sorted(exported.items()):
        if base is None:
            fits = (inspect.isclass(thing) or inspect.isfunction(thing)) and not name.endswith(tuple(other_roles))
        else:
            fits = inspect.isclass(thing) and issubclass(thing, base)
        if fits and not _is_abstract(thing):
            found[_snake(name.removesuffix(role))] = thing
    return found


def _is_abstract(thing: Any) -> bool:
    # Not inspect.isabstract, which only knows classes whose metaclass is ABCMeta; a PyroModule's is another.
    return any(getattr(getattr(thing, name, None), "__isabstractmethod__", False) for name in dir(thing))


def _returns(make: Any) -> Any:
    return get_type_hints(make).get("return") if inspect.isfunction(make) else None


COMPONENTS: dict[str, dict[str, Any]] = {
    "dataset": {n: make for n, make in members(data, "").items() if _returns(make) is data.Dataset},
    "augment": {"augmentation": data.Augmentation},
    "normalize": dict(data.NORMALIZATIONS),
    "encoder": members(nets, "Encoder", ["Decoder"]),
    "decoder": members(nets, "Decoder", ["Encoder"]),
    "prior": members(priors, "", base=nn.Module),
    "likelihood": members(likelihoods, "", base=likelihoods.Likelihood),
    "family": {n: cls for n, cls in members(families, "", base=families.Family).items() if n != "joint"},
    "guide": members(guides, "Guide", base=guides.Guide),
    "refiner": {n: cls for n, cls in members(inference, "Refiner", base=inference.Refiner).items() if n != "compiled"},
    "objective": members(inference, "", base=inference.Objective),
    "aggressive": {"aggressive": training.AggressiveTraining},
    "warmup": members(training, "Warmup", base=training.Schedule),
}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, arbitrary_types_allowed=True)


def _schema(
    tag: str, name: str, make: Callable, parts: Mapping[str, Any], common: Mapping[str, Any]
) -> type[BaseModel]:
    """A pydantic model of the keyword-only arguments of `make`, and of those `parts` that it takes by position."""
    target = make.__init__ if inspect.isclass(make) else make
    hints = get_type_hints(target, include_extras=True)
    fields: dict[str, Any] = {tag: (Literal[name], name), **common}
    for p in inspect.signature(target).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            fields[p.name] = (hints[p.name], p.default if p.default is not p.empty else ...)
        elif p.name in parts:
            fields[p.name] = parts[p.name]
    return create_model(f"{tag}={name}", __base__=Strict, **fields)


def block(
    kind: str, default: str, tag: str = "type", parts: Mapping[str, Any] = {}, common: Mapping[str, Any] = {}
) -> Any:
    """The annotation of a component block; a bare name stands for a block, a block without name for the default."""

    def named(value: Any) -> Any:
        if isinstance(value, str):
            return {tag: value}
        return {tag: default, **value} if isinstance(value, Mapping) else value

    schemas = [_schema(tag, name, make, parts, common) for name, make in COMPONENTS[kind].items()]
    if len(schemas) == 1:
        return Annotated[schemas[0], BeforeValidator(named)]
    union: Any = Union[tuple(schemas)]  # type: ignore[valid-type] # noqa: UP007 - built at run time
    return Annotated[union, Field(discriminator=tag), BeforeValidator(named)]
