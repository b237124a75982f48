"""Configuration to objects."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import Config, ConfigError, load_config
from .data import DataError, Dataset
from .families import Family, Joint
from .guides import AmortizedGuide, Guide, SemiAmortizedGuide
from .inference import Inferred
from .models import VAE, HierarchicalVAE
from .schema import COMPONENTS
from .training import CheckpointError, check_support, read_checkpoint


class _Parts(Mapping[str, Any]):
    """Things by name, each made when it is first asked for."""

    def __init__(self, **makers: Callable[[], Any]) -> None:
        self.makers, self.made = makers, dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        if name not in self.made:
            self.made[name] = self.makers[name]()
        return self.made[name]

    def __contains__(self, name: object) -> bool:
        return name in self.makers  # without making it

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def _make(kind: str, block: Any, parts: Mapping[str, Any] = {}, tag: str = "type") -> Any:
    """Calls what `block` names: with those `parts` that it takes by position, and the block's own arguments."""
    make = COMPONENTS[kind][getattr(block, tag)]
    signature = inspect.signature(make.__init__ if inspect.isclass(make) else make)
    wiring = [parts[p.name] for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY and p.name in parts]
    keywords = {p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    arguments = {name: getattr(block, name) for name in type(block).model_fields if name in keywords}
    try:
        return make(*wiring, **arguments)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{kind}: {error}") from error


def build_data(config: Config) -> Dataset:
    """Reads the data set, and checks that the likelihood has a density for it.

    Raises:
        ConfigError: Settings that do not go together.
        DataError: Missing, damaged, or outside the likelihood's support: how many values, where, and what to set.
    """
    settings = config.dataset
    data = _make("dataset", settings, tag="name")
    augment = settings.augment and _make("augment", settings.augment)
    data = replace(data, augment=augment or data.augment, num_workers=settings.num_workers)
    check_views(config, data)
    if settings.normalize is not None:
        _check(config, data, "normal")  # one value that is not finite would be in every statistic
        data = data.normalized(_make("normalize", settings.normalize))
    _check(config, data, config.model.likelihood.type)
    taken = getattr(COMPONENTS["encoder"][config.model.encoder.type], "support", None)  # by the encoder; by most, all
    if taken is not None and (found := data.outside(taken.check)) is not None:
        raise DataError(f"dataset {data.source}: {found}; not for model.encoder: {config.model.encoder.type}; set mlp")
    return data


def check_views(config: Config, data: Dataset) -> None:
    """Raises `ConfigError` if training would start a datapoint's λ where that of another view of it ended."""
    if config.train.warm_start and (data.augment is not None or data.rows("train").anew):
        how = "augmented" if data.augment is not None else "cut anew"
        raise ConfigError(
            f"train.warm_start: {data.name} is {how} in each epoch, and each view would start at the λ of another; "
            "leave one of them out"
        )


def _check(config: Config, data: Dataset, likelihood: str) -> None:
    try:
        check_support(COMPONENTS["likelihood"][likelihood], data, keys=type(config.dataset).model_fields)
    except ValueError as error:
        raise DataError(f"dataset {data.source}: {error}") from error


def build_model(config: Config, x_shape: tuple[int, ...]) -> tuple[VAE | HierarchicalVAE, Guide]:
    """Model and guide, with weights drawn from `train.seed`."""
    torch.manual_seed(config.train.seed)
    section = config.model
    z_dims = section.z_dim if isinstance(section.z_dim, list) else [section.z_dim]  # of each layer, bottom first
    parts = _Parts(
        x_shape=lambda: x_shape,
        event_dim=lambda: len(x_shape),
        z_dim=lambda: z_dims[-1],
        prior=lambda: _make("prior", section.prior, parts),
        decoder=lambda: _make("decoder", section.decoder, {"in_shape": (z_dims[0],), "out_shape": x_shape}),
        likelihood=lambda: _make("likelihood", section.likelihood, parts),
        layers=lambda: [
            _make("decoder", section.layers, {"in_shape": (above,), "out_shape": (2, below)})
            for below, above in pairwise(z_dims)
        ],
        model=lambda: _model(z_dims, parts),
        family=lambda: _family(config.guide.family, z_dims, parts),
        encoder=lambda: _make(
            "encoder", section.encoder, {"in_shape": x_shape, "out_shape": (parts["family"].num_params,)}
        ),
        refiner=lambda: _make("refiner", config.guide.refiner, parts),
    )
    _check_prior(config)
    model = parts["model"]
    return model, _make("guide", config.guide, parts)


def _check_prior(config: Config) -> None:
    """Raises `ConfigError` where the prior is made of the guide's posteriors, and those are not to be had."""
    name, guide, family = config.model.prior.type, config.guide.type, config.guide.family.type
    if "encoder" not in inspect.signature(COMPONENTS["prior"][name].__init__).parameters:
        return
    if not issubclass(COMPONENTS["guide"][guide], AmortizedGuide | SemiAmortizedGuide):
        reason = f"mixes what the guide's encoder gives, and in guide {guide} none gives λ; use guide amortized"
    elif config.model.type == "vae_hierarchical":
        reason = "is for one latent layer, and vae_hierarchical has several; use prior mixture_normal"
    elif COMPONENTS["family"][family].density != "any":
        reason = f"scores each draw under many posteriors, which takes family {family} a pass a dimension; use another"
    else:
        return
    raise ConfigError(f"model.prior: {name} {reason}")


def _model(z_dims: list[int], parts: Mapping[str, Any]) -> VAE | HierarchicalVAE:
    if len(z_dims) == 1:
        return VAE(parts["prior"], parts["decoder"], parts["likelihood"])
    return HierarchicalVAE(z_dims, parts["prior"], parts["layers"], parts["decoder"], parts["likelihood"])


def _family(block: Any, z_dims: list[int], parts: Mapping[str, Any]) -> Family:
    """The family that `block` names; one for each layer, where it is not of the whole model by itself."""
    whole = "model" in inspect.signature(COMPONENTS["family"][block.type].__init__).parameters
    if len(z_dims) == 1 or whole:
        return _make("family", block, parts)
    layers = zip(parts["model"].sites, z_dims, strict=True)
    return Joint({site: _make("family", block, {"z_dim": z_dim}) for site, z_dim in layers})


def fit_arguments(config: Config) -> dict[str, Any]:
    """The keyword arguments of `pyrovae.fit` that the file sets."""
    train = config.train.model_dump(exclude={"name", "save_dir", "num_threads"})
    if config.train.beta_warmup is not None:
        train["beta_warmup"] = _make("warmup", config.train.beta_warmup)
    if config.train.aggressive is not None:
        train["aggressive"] = _make("aggressive", config.train.aggressive)
    train["objective"] = _make("objective", config.train.objective)
    return {**train, "lr": config.model.lr, "beta": config.model.beta, "batch_size": config.dataset.batch_size}


@dataclass(frozen=True)
class Trained:
    """A trained model and its guide.

    Attributes:
        model: p(x, z).
        guide: q(z | x).
        config: What they were built and trained with.
        x_shape: Of an image.
    """

    model: VAE | HierarchicalVAE
    guide: Guide
    config: Config
    x_shape: tuple[int, ...]

    @torch.no_grad()
    def infer(self, x: Tensor) -> Inferred:
        """λ₀ and λ_K for images (B, C, H, W), coded as in training; refinement draws from torch's generator."""
        return self.guide.infer(x)

    @torch.no_grad()
    def posterior(self, x: Tensor) -> Any:
        """q(z | x), batch shape (B,), event shape (D,)."""
        return self.guide.family(self.infer(x).params)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """E[x | z] at the posterior mean, the shape of `x`."""
        return self.model.decode(self.posterior(x).mean).mean

    @torch.no_grad()
    def sample(self, num_samples: int) -> Tensor:
        """E[x | z] at `num_samples` draws from the prior, shape (num_samples, C, H, W)."""
        return self.model.sample(num_samples)


def load(run_dir: str | Path, checkpoint: str = "best") -> Trained:
    """Loads a run: `best` by validation ELBO, or `last`.

    Raises:
        CheckpointError: No run there, or a damaged or foreign checkpoint.
    """
    run_dir = Path(run_dir)
    if checkpoint not in ("best", "last"):
        raise CheckpointError(f"checkpoint must be best or last, got {checkpoint!r}")
    if not (run_dir / "config.yaml").is_file():
        versions = sorted(run_dir.glob("version_*"), key=lambda path: (len(path.name), path.name))
        hint = f"name a run, {versions[-1]} say" if versions else "name a folder that scripts/train.py wrote"
        raise CheckpointError(f"{run_dir} holds no config.yaml; {hint}")
    path = run_dir / "checkpoints" / f"{checkpoint}.ckpt"
    state = read_checkpoint(path)
    config = load_config(run_dir / "config.yaml")
    x_shape = tuple(state["x_shape"])
    model, guide = build_model(config, x_shape)
    modules = nn.ModuleDict({"model": model, "guide": guide})
    weights = {name.removeprefix("elbo."): value for name, value in state["state_dict"].items()}
    try:
        modules.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit {run_dir / 'config.yaml'}: {' '.join(str(error).split())}"
        ) from error
    return Trained(model.eval(), guide.eval(), config, x_shape)
