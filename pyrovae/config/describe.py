"""Objects to configuration: what a run made in Python leaves for those who load it."""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import nn

from ..families import Joint
from ..guides import Guide
from ..training import CheckpointError
from ..validation import arguments_of
from .build import build_model, sites_of
from .components import BASES, ConfigError, block_of, name_of, plain, signature, tag_of
from .load import check
from .schema import PARTS, Config, TrainConfig


def described(model: nn.Module, guide: Guide, data: Any, options: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """The configuration that model, guide and data, and `pyrovae.fit`'s options, could come from; and what it lacks.

    Arguments of validated constructors are kept with the objects; a class of one's own keeps each as the attribute of
    its name, as in scikit-learn. What cannot be written down has the name `unnamed`, and says so when it is asked for.
    Model and guide are built from the configuration, to see that they are the same.

    >>> import pyrovae as pv
    >>> import torch
    >>> model, family = pv.models.mlp((6,), 2, likelihood=pv.models.likelihoods.Bernoulli(1)), pv.DiagonalNormal(2)
    >>> guide = pv.AmortizedGuide(family, nn.Linear(6, 4))
    >>> described(model, guide, pv.data.Dataset("zeros", "made", *torch.zeros(3, 5, 6)), {})[1]
    ['model.encoder: Linear takes in_features, out_features by position, which nothing fills in']
    """
    words, x_shape = _Words(), tuple(data.x_shape)
    values = {
        "dataset": _of_data(data),
        "model": words.model(model, guide, x_shape),
        "guide": words.parts("guide", guide),
    }
    settings = _settings(options)
    try:
        config = check({**settings, **{section: {**block, **settings[section]} for section, block in values.items()}})
    except ConfigError:  # of an option, which training refuses or which YAML does not have
        config = check(values)
    if not words.missing and (other := _difference(config, model, guide, x_shape)):
        words.missing.append(other)
        config = check({**config.model_dump(), "model": {"type": "unnamed", "what": other}})
    return config, words.missing


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

    def parts(self, kind: str, owner: Any) -> dict[str, Any]:
        """A model or a guide, with the blocks of the parts that it takes by position."""
        block = self.block(kind, owner, kind)
        for key, part in PARTS[kind].items() if block["type"] != "unnamed" else ():
            if key in signature(type(owner))[0]:
                thing = getattr(owner, key, None)
                block[key] = self.block(part, thing[0] if key == "layers" and thing else thing, f"{kind}.{key}")
        return block

    def model(self, model: nn.Module, guide: Guide, x_shape: tuple[int, ...]) -> dict[str, Any]:
        block, taken = self.parts("model", model), {*signature(type(model))[0]}
        if block["type"] != "unnamed":
            known, sites = {**vars(model), **(arguments_of(model) or {})}, [guide.family.z_dim]
            if guide.family.density != "none":  # whose sites may be discrete
                sites = [site.num_free for site in sites_of(model, x_shape).values()]
            if {"z_dims", "layers"} & taken:
                block["z_dim"] = plain(known.get("z_dims", sites))
            elif {"z_dim", "prior", "decoder"} & taken:
                block["z_dim"] = plain(known.get("z_dim", sites[0]))
        if "encoder" in signature(type(guide))[0]:
            encoder = {**(arguments_of(guide) or {}), **vars(guide)["_modules"]}.get("encoder")
            block["encoder"] = self.block("encoder", encoder, "model.encoder")
        return block


def _of_data(data: Any) -> dict[str, Any]:
    try:
        make, arguments = data.made_by
        return {"name": name_of("dataset", make), **{key: plain(value) for key, value in arguments.items()}}
    except (AttributeError, ValueError):
        return {"name": "unnamed", "what": str(getattr(data, "source", type(data).__name__))}


def _settings(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments of `pyrovae.fit` by section, without those that YAML does not hold, or that no section has."""
    sections: dict[str, dict[str, Any]] = {"train": {}, "model": {}, "guide": {}, "dataset": {}}
    places = {
        "lr": "model",
        "beta": "model",
        "batch_size": "dataset",
        **dict.fromkeys(TrainConfig.model_fields, "train"),
    }
    for name, value in options.items():
        kind = PARTS["train"].get(name) if value else None
        with suppress(ValueError):  # an objective of a script, say, which nobody who loads the run needs
            if name == "schedules":
                sections["train"][name] = {place: block_of("warmup", schedule) for place, schedule in value.items()}
            elif name in places:
                sections[places[name]][name] = block_of(kind, value) if kind else plain(value)
    return sections


def _difference(config: Config, model: nn.Module, guide: Guide, x_shape: tuple[int, ...]) -> str:
    """What is otherwise in model and guide built from a configuration; empty, if nothing is."""
    try:
        before, after = _content(model, guide), _content(*build_model(config, x_shape))
    except (ConfigError, CheckpointError) as error:
        return str(error).splitlines()[0]
    for key in {**before, **after}:
        if before.get(key) != after.get(key):
            return f"{key}: is {before.get(key, 'none')}, and would be built as {after.get(key, 'none')}"
    return ""


def _content(model: nn.Module, guide: Guide) -> dict[str, Any]:
    """Every module's class and plain arguments, those by position too, and the shape of every tensor."""
    modules, content = nn.ModuleDict({"model": model, "guide": guide}), dict[str, Any]()
    for name, module in modules.named_modules():
        content[name] = type(module).__name__
        if given := arguments_of(module):
            defaults = {key: p.default for key, p in inspect.signature(type(module).__init__).parameters.items()}
            for key, value in {**defaults, **given}.items():
                with suppress(ValueError):  # a part, which is compared by itself
                    content[f"{name}, {key}"] = plain(value)
    content |= {name: tuple(value.shape) for name, value in modules.state_dict().items()}
    if "refiner" in signature(type(guide))[0]:
        content["guide.refiner"] = block_of("refiner", getattr(guide, "refiner", None))
    return content
