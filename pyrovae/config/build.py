"""Configuration to objects."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from ..data import DataError, Dataset
from ..families import Family, Joint
from ..families.joint import Constrained
from ..guides import AmortizedGuide, Guide, SemiAmortizedGuide
from ..models.latent_sites import LatentSite, latent_sites
from ..training import check_support
from .components import COMPONENTS, ConfigError, joint, signature, unnamed
from .schema import Block, Config, blocks_of


class _Parts(dict[str, Any]):
    """Things by name, each made when it is first asked for."""

    def __init__(self, **makers: Callable[[], Any]) -> None:
        self.makers = makers

    def __missing__(self, name: str) -> Any:
        self[name] = self.makers.pop(name)()  # popped first: what needs itself lacks it, which its constructor says
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self.makers or super().__contains__(name)


def make(block: Block, parts: Mapping[str, Any] = {}, **more: Any) -> Any:
    """Calls what a block names: with those parts that it takes by position, `more` before `parts`, and its settings.

    Raises:
        ConfigError: What the constructor refuses, and why.

    >>> from pyrovae.config import check
    >>> make(check({}).guide.family, z_dim=3)
    DiagonalNormal()
    """
    positional, settings = signature(block.__target__)
    found = [(name, more if name in more else parts) for name in positional]
    arguments = {name: source[name] for name, source in found if name in source}
    for name in settings:
        value = getattr(block, name)
        arguments[name] = make(value, parts, **more) if isinstance(value, Block) else value
    try:
        return block.__target__(**arguments)
    except (ValueError, TypeError, RuntimeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ConfigError("\n".join(f"{block.__kind__}: {line}" for line in lines)) from error


def build_data(config: Config) -> Dataset:
    """Reads the data set, and checks that the likelihood, if the model has one, has a density for it.

    Raises:
        ConfigError: Settings that do not go together.
        DataError: Missing, damaged, or outside the likelihood's support: how many values, where, and what to set.

    >>> import numpy, tempfile, pyrovae.config
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     numpy.save(path := f"{folder}/x.npy", numpy.zeros((20, 3), "f4"))
    ...     build_data(pyrovae.config.check({"dataset": {"name": "arrays", "path": path}})).x_shape
    (3,)
    """
    data = read_data(config)
    check_views(config, data)
    if config.dataset.normalize is not None:
        _check(config, data, COMPONENTS["likelihood"]["normal"])  # one value that is not finite: in every statistic
        data = data.normalized(make(config.dataset.normalize))
    if inspect.isclass(likelihood := getattr(getattr(config.model, "likelihood", None), "__target__", None)):
        _check(config, data, likelihood)
    encoder = config.model.encoder
    taken = getattr(encoder.__target__, "support", None)  # by the encoder; by most, all
    if taken is not None and (found := data.outside(taken.check)) is not None:
        raise DataError(f"dataset {data.source}: {found}; not for model.encoder: {encoder.type}; set mlp")
    return data


def read_data(config: Config) -> Dataset:
    """The data set as it is read: not yet normalized, nor held against the likelihood.

    >>> from pyrovae.config import check
    >>> read_data(check({"dataset": {"name": "mnist", "source": "embedded"}})).x_shape
    (1, 28, 28)
    """
    settings, data = config.dataset, make(config.dataset)
    data = data.inverted() if settings.invert else data
    augment = settings.augment and make(settings.augment)
    return replace(data, augment=augment or data.augment, num_workers=settings.num_workers)


def check_views(config: Config, data: Dataset) -> None:
    """Raises `ConfigError` if training would start a datapoint's λ where that of another view of it ended."""
    how = "augmented" if data.augment is not None else "cut anew" if data.rows("train").anew else ""
    if config.train.warm_start and how:
        reason = f"{data.name} is {how} in each epoch, and each view would start at the λ of another"
        raise ConfigError(f"train.warm_start: {reason}; leave one of them out")


def _check(config: Config, data: Dataset, likelihood: Any) -> None:
    try:
        check_support(likelihood, data, keys=type(config.dataset).model_fields)
    except ValueError as error:
        raise DataError(f"dataset {data.source}: {error}") from error


def build_model(config: Config, x_shape: tuple[int, ...]) -> tuple[nn.Module, Guide]:
    """Model and guide, with weights drawn from `train.seed`; the global generator stays where it is.

    Raises:
        ConfigError: Components that do not go together, or do not fit datapoints of this shape.

    >>> from pyrovae.config import check
    >>> model, guide = build_model(check({"model": {"z_dim": 3}}), (1, 6, 6))
    >>> guide.family
    DiagonalNormal()
    """
    section, z_dim = config.model, getattr(config.model, "z_dim", [])
    z_dims = z_dim if isinstance(z_dim, list) else [z_dim]  # of each layer, bottom first
    parts = _Parts(
        x_shape=lambda: x_shape,
        event_dim=lambda: len(x_shape),
        **({"z_dim": lambda: z_dims[-1], "z_dims": lambda: z_dims} if z_dims else {}),
        prior=lambda: make(section.prior, parts),
        decoder=lambda: make(section.decoder, in_shape=(z_dims[0],), out_shape=x_shape),
        likelihood=lambda: make(section.likelihood, parts),
        layers=lambda: [make(section.layers, in_shape=(high,), out_shape=(2, low)) for low, high in pairwise(z_dims)],
        model=lambda: make(section, parts),
        family=lambda: _family(config, parts),
        encoder=lambda: make(section.encoder, in_shape=x_shape, out_shape=(parts["family"].num_params,)),
        refiner=lambda: make(config.guide.refiner, parts),
    )
    for block in blocks_of(config):
        if block.__target__ is unnamed:
            make(block)  # which says what it stands for
    _check_prior(config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.train.seed)  # the CPU's, which draws weights
        model = parts["model"]
        return model, make(config.guide, parts)


def _of_posteriors(config: Config) -> bool:
    """Whether the prior is made of the guide's family, so that this comes before the model."""
    prior = getattr(config.model, "prior", None)
    return prior is not None and "family" in signature(prior.__target__)[0]


def _check_prior(config: Config) -> None:
    """Raises `ConfigError` where the prior is made of the guide's posteriors, and those are not to be had."""
    if not _of_posteriors(config):
        return
    name, guide, family = config.model.prior.type, config.guide, config.guide.family
    if not issubclass(guide.__target__, AmortizedGuide | SemiAmortizedGuide):
        reason = f"mixes what the guide's encoder gives, and in guide {guide.type} none gives λ; use guide amortized"
    elif isinstance(config.model.z_dim, list):
        reason = f"is for one latent layer, and {config.model.type} has several; use prior mixture_normal"
    elif "model" in signature(family.__target__)[0]:
        reason = f"comes before the model, and family {family.type} after; use another"
    elif family.__target__.density != "any":
        costs = f"takes family {family.type} a pass a dimension"
        reason = f"scores each draw under many posteriors, which {costs}; use another"
    else:
        return
    raise ConfigError(f"model.prior: {name} {reason}")


def sites_of(model: nn.Module, x_shape: Sequence[int]) -> dict[str, LatentSite]:
    """The latent sites of a model, from one run on zeros, which moves no running mean and no generator."""
    before = model.training
    try:
        with torch.random.fork_rng(devices=[]):
            return latent_sites(model.eval(), torch.zeros(2, *x_shape))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"model: {type(model).__name__} on data of shape {tuple(x_shape)}: {error}") from error
    finally:
        model.train(before)


def _family(config: Config, parts: Mapping[str, Any]) -> Family:
    """The family that the guide names: of the model's one latent vector "z", or else one for each latent site."""
    block = config.guide.family
    relaxes = getattr(block.__target__, "density", "any") == "none"  # z may be discrete, which has no support to fit
    if _of_posteriors(config) or "model" in signature(block.__target__)[0] or relaxes:
        return make(block, parts)
    sites = sites_of(parts["model"], parts["x_shape"])
    vectors = {name for name, site in sites.items() if site.is_real and len(site.event_shape) == 1}
    if block.__target__ is not joint and list(sites) == ["z"] and vectors:
        return make(block, parts, z_dim=sites["z"].num_free)
    made = {name: make(getattr(block, "base", block), parts, z_dim=site.num_free) for name, site in sites.items()}
    # Left alone where it is a vector, KL to a normal prior stays in closed form.
    return Joint({name: q if name in vectors else Constrained(q, sites[name]) for name, q in made.items()})


def fit_arguments(config: Config) -> dict[str, Any]:
    """The keyword arguments of `pyrovae.fit` that the file sets.

    >>> from pyrovae.config import check
    >>> fit_arguments(check({"model": {"lr": 1e-2}}))["lr"]
    0.01
    """
    train, model, others = _made(config.train), config.model, ("name", "save_dir", "num_threads")
    arguments = {name: value for name, value in train.items() if name not in others}
    return {**arguments, "lr": model.lr, "beta": model.beta, "batch_size": config.dataset.batch_size}


def _made(value: Any) -> Any:
    """A value of `train:`, with what its blocks name."""
    if isinstance(value, BaseModel) and not isinstance(value, Block):
        return {name: _made(getattr(value, name)) for name in type(value).model_fields}
    return make(value) if isinstance(value, Block) else value
