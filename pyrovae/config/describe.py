"""Objects to configuration: what a run made in Python leaves for those who load it."""

import inspect
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import nn

from ..families import Joint
from ..guides import Guide
from ..models.latent_sites import latent_sites
from ..training import CheckpointError
from ..validation import arguments_of
from .build import build_model, undrawn
from .components import BASES, ConfigError, block_of, name_of, plain, signature, tag_of
from .load import check
from .schema import PARTS, Config, TrainConfig


class Described(NamedTuple):
    """A run's configuration, and what of its model and guide it cannot hold."""

    config: Config
    missing: list[str]


def described(model: nn.Module, guide: Guide, data: Any, options: Mapping[str, Any]) -> Described:
    """The configuration that model, guide and data could have been built from, and are, to see that it is so.

    Arguments of validated constructors are kept with the objects; a class of one's own keeps each as the attribute of
    its name, as in scikit-learn. What cannot be written down has the name `unnamed`, and says so when it is asked for.

    Args:
        model: p(x, z).
        guide: q(z | x).
        data: As `pyrovae.fit` takes it.
        options: Further arguments of `pyrovae.fit`.

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((6,), 2, likelihood=pv.models.likelihoods.Bernoulli(1)), pv.DiagonalNormal(2)
    >>> guide = pv.AmortizedGuide(family, torch.nn.Linear(6, 4))
    >>> x = torch.zeros(3, 6)
    >>> described(model, guide, pv.data.Dataset("zeros", "made", x, x, x), {}).missing
    ['model.encoder: Linear keeps no attribute device, so that nobody knows what it was made with']
    """
    words = _Words()
    x_shape = tuple(data.x_shape)
    values = {
        "dataset": _of_data(data),
        "model": words.model(model, guide, x_shape),
        "guide": words.guide(guide),
        "train": {},
    }
    settings = _settings(options)
    try:
        config = check({section: {**block, **settings.get(section, {})} for section, block in values.items()})
    except ConfigError:  # of an option, which training refuses or which YAML does not have
        config = check(values)
    if not words.missing and (other := _difference(config, model, guide, x_shape)):
        words.missing.append(other)
        config = check({**config.model_dump(), "model": {"type": "unnamed", "what": other}})
    return Described(config, words.missing)


class _Words:
    """Writes components down, and keeps what cannot be."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def block(self, kind: str, thing: Any, where: str) -> dict[str, Any]:
        try:
            if isinstance(thing, Joint):
                inner: Any = thing.families[0]
                return {"type": "joint", "base": block_of("family", getattr(inner, "family", inner))}
            if not isinstance(thing, BASES[kind]):
                raise ValueError(f"{type(thing).__name__} is no {BASES[kind].__name__}")
            return block_of(kind, thing)
        except ValueError as error:
            self.missing.append(f"{where}: {error}")
            return {tag_of(kind): "unnamed", "what": str(error)}

    def parts(self, kind: str, owner: Any, block: dict[str, Any]) -> dict[str, Any]:
        """`block` with the blocks of the parts that it takes by position."""
        if block["type"] == "unnamed":
            return block
        for key, part in PARTS[kind].items():
            if key in signature(type(owner))[0]:
                thing = getattr(owner, key, None)
                block[key] = self.block(part, thing[0] if key == "layers" and thing else thing, f"{kind}.{key}")
        return block

    def model(self, model: nn.Module, guide: Guide, x_shape: tuple[int, ...]) -> dict[str, Any]:
        block = self.parts("model", model, self.block("model", model, "model"))
        if block["type"] != "unnamed":
            positional, known = signature(type(model))[0], {**vars(model), **(arguments_of(model) or {})}
            sites = [site.num_free for site in latent_sites(undrawn(model), torch.zeros(2, *x_shape)).values()]
            if {"z_dims", "layers"} & {*positional}:
                block["z_dim"] = plain(known.get("z_dims", sites))
            elif {"z_dim", "prior", "decoder"} & {*positional}:
                block["z_dim"] = plain(known.get("z_dim", sites[0]))
        if getattr(guide, "encoder", None) is not None and "encoder" in signature(type(guide))[0]:
            block["encoder"] = self.block("encoder", guide.encoder, "model.encoder")
        return block

    def guide(self, guide: Guide) -> dict[str, Any]:
        return self.parts("guide", guide, self.block("guide", guide, "guide"))


def _of_data(data: Any) -> dict[str, Any]:
    try:
        make, arguments = data.made_by
        return {"name": name_of("dataset", make), **{key: plain(value) for key, value in arguments.items()}}
    except (AttributeError, ValueError):
        return {"name": "unnamed", "what": str(getattr(data, "source", type(data).__name__))}


def _settings(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments of `pyrovae.fit` by section."""
    kinds = {"objective": "objective", "beta_warmup": "warmup", "aggressive": "aggressive"}
    sections: dict[str, dict[str, Any]] = {"train": {}, "model": {}, "dataset": {}}
    for name, value in options.items():
        section = {"lr": "model", "beta": "model", "batch_size": "dataset"}.get(name, "train")
        if section == "train" and name not in TrainConfig.model_fields:
            continue
        try:
            sections[section][name] = block_of(kinds[name], value) if value and name in kinds else plain(value)
        except ValueError:
            continue  # an objective of a script, say, which nobody who loads the run needs
    return sections


def _difference(config: Config, model: nn.Module, guide: Guide, x_shape: tuple[int, ...]) -> str:
    """What is otherwise in model and guide built from a configuration; empty, if nothing is."""
    try:
        again = build_model(config, x_shape)
    except (ConfigError, CheckpointError) as error:
        return str(error).splitlines()[0]
    for which, before, after in (("model", model, again[0]), ("guide", guide, again[1])):
        for (name, one), (_, other) in zip_longest(before.named_modules(), after.named_modules(), fillvalue=("", None)):
            where = f"{which}.{name}".rstrip(".")
            if type(one) is not type(other):
                return f"{where}: is {type(one).__name__}, and would be built as {type(other).__name__}"
            if (given := _facts(one)) != (built := _facts(other)):
                key = next(key for key in given if given[key] != built.get(key))
                return f"{where}: {key} is {given[key]}, and would be built as {built.get(key)}"
        shapes, others = ({key: tuple(value.shape) for key, value in m.state_dict().items()} for m in (before, after))
        for key in {**shapes, **others}:
            if shapes.get(key) != others.get(key):
                return f"{which}.{key}: is {shapes.get(key)}, and would be built as {others.get(key)}"
    refiners = [getattr(part, "refiner", None) for part in (guide, again[1])]
    if refiners[0] is not None and block_of("refiner", refiners[0]) != block_of("refiner", refiners[1]):
        return "guide.refiner: would be built otherwise"
    return ""


def _facts(thing: Any) -> dict[str, Any]:
    """Plain arguments of a validated constructor, those by position too, defaults filled in."""
    given = arguments_of(thing)
    if given is None:
        return {}
    defaults = {name: p.default for name, p in inspect.signature(type(thing).__init__).parameters.items()}
    facts = {}
    for name, value in {**defaults, **given}.items():
        try:
            facts[name] = plain(tuple(value) if isinstance(value, torch.Size) else value)
        except ValueError:
            continue  # a part, which is compared by itself
    return facts
