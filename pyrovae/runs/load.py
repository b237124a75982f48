"""A trained run as objects: `pyrovae.load`."""

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config, ConfigError, build_data, build_model, changes, load_config
from ..data import DataError, Dataset
from ..guides import Guide
from ..inference import Inferred
from ..training import CheckpointError, is_of, read_checkpoint

Array = Tensor | np.ndarray


@dataclass(frozen=True)
class Trained:
    """A trained model and its guide. Datapoints may be tensors or NumPy arrays, coded as in training.

    >>> from pyrovae.config import check
    >>> config = check({"model": {"z_dim": 3}})
    >>> trained = Trained(*build_model(config, (1, 6, 6)), config, (1, 6, 6))
    >>> trained.reconstruct(np.zeros((5, 1, 6, 6))).shape
    torch.Size([5, 1, 6, 6])
    >>> trained.infer(np.zeros((5, 36)))
    Traceback (most recent call last):
    ValueError: x must be (B, 1, 6, 6), datapoints as in training, got (5, 36)
    """

    model: Any
    guide: Guide
    config: Config  # what they were built and trained with
    x_shape: tuple[int, ...]  # of a datapoint

    @torch.no_grad()
    def infer(self, x: Array) -> Inferred:
        """λ₀ and λ_K for x (B, *x_shape), a ValueError for others; refinement draws from torch's generator."""
        return self.guide.infer(self._datapoints(x))

    @torch.no_grad()
    def posterior(self, x: Array) -> Any:
        """q(z | x), batch shape (B,), event shape (D,)."""
        return self.guide.family(self.infer(x).params)

    @torch.no_grad()
    def reconstruct(self, x: Array) -> Tensor:
        """E[x | z] at the posterior mean, the shape of `x`; of a model with `decode`."""
        return self.model.decode(self.posterior(x).mean).mean

    @torch.no_grad()
    def sample(self, num_samples: int) -> Tensor:
        """E[x | z] at `num_samples` draws from the prior, shape (num_samples, *x_shape); of a model with `sample`."""
        return self.model.sample(num_samples)

    def evaluate(self, data: Dataset, *, progress: bool = False, **settings: Any) -> dict[str, Any]:
        """What `pyrovae.evaluate` gives of `data`."""
        from .evaluate import evaluate  # noqa: PLC0415 - imports much

        self.check(data)
        return evaluate(self.model, self.guide, data, config=self.config, progress=progress, **settings)

    def check(self, data: Dataset) -> None:
        """Raises `DataError` unless datapoints are shaped as those of training."""
        if data.x_shape != self.x_shape:
            other = f"its {noun(data)}s are {data.x_shape}, and the run was trained on {self.x_shape}"
            raise DataError(f"dataset {data.name}: {other}; name the data that it was trained on")

    def moved(self) -> torch.device:
        """Moves model and guide to where `train.accelerator` has them; returns that."""
        from .folder import device_of  # noqa: PLC0415 - which imports this module

        device = device_of(self.config)
        self.model.to(device)
        self.guide.to(device)
        return device

    def _datapoints(self, x: Array) -> Tensor:
        if tuple(x.shape[1:]) != self.x_shape:
            expected = ", ".join(map(str, ("B", *self.x_shape)))
            raise ValueError(f"x must be ({expected}), datapoints as in training, got {tuple(x.shape)}")
        like = next(chain(self.guide.parameters(), self.model.parameters()))
        return torch.as_tensor(x, dtype=like.dtype, device=like.device)


def read_config(run_dir: str | Path, overrides: Sequence[str] = (), allow: Collection[str] = ()) -> Config:
    """The configuration of a run's folder, which may come from anyone: nothing outside pyrovae is imported but `allow`.

    Raises:
        CheckpointError: No run there, or one that names other packages.
        ConfigError: An override that cannot be followed.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "config.yaml").is_file():
        versions = sorted(run_dir.glob("version_*"), key=lambda path: (len(path.name), path.name))
        hint = f"name a run, {versions[-1]} say" if versions else "name a folder that train wrote"
        raise CheckpointError(f"{run_dir} holds no config.yaml; {hint}")
    try:
        return load_config(run_dir / "config.yaml", overrides, allow)
    except CheckpointError as error:
        raise CheckpointError(f"{run_dir} {error}") from None


def load(
    run_dir: str | Path, checkpoint: str = "best",
    *, model: nn.Module | None = None, guide: Guide | None = None, allow: Collection[str] = (),
) -> Trained:  # fmt: skip
    """Loads a run: `best` by validation ELBO, or `last`. The global generator stays where it is.

    Args:
        model, guide: Built as for training, of a run that its folder cannot describe; the weights are loaded into them.
        allow: Packages beside pyrovae that the run's components may be imported from. A run's folder names classes, and
            importing one runs its code: allow what you trust.

    Raises:
        CheckpointError: No run there, a damaged or foreign checkpoint, or components from packages not allowed.

    >>> from tempfile import TemporaryDirectory
    >>> import pyrovae as pv
    >>> data = pv.data.Dataset("zeros", "made", *torch.zeros(3, 5, 6))
    >>> model, guide = build_model(pv.config.check({"model": {"z_dim": 3}}), (6,))
    >>> with TemporaryDirectory() as folder:
    ...     found = pv.fit(model, guide, data, epochs=1, run_dir=folder, progress=False)
    ...     pv.load(folder).posterior(torch.zeros(2, 6)).mean.shape
    torch.Size([2, 3])
    """
    run_dir = Path(run_dir)
    if checkpoint not in ("best", "last"):
        raise CheckpointError(f"checkpoint must be best or last, got {checkpoint!r}")
    if (model is None) != (guide is None):
        raise CheckpointError("model and guide go together; give both, or neither")
    given = [type(part).__module__ for whole in (model, guide) if whole is not None for part in whole.modules()]
    config = read_config(run_dir, allow=[*allow, *given])
    path = run_dir / "checkpoints" / f"{checkpoint}.ckpt"
    state = read_checkpoint(path)
    x_shape = tuple(state["x_shape"])
    if model is None or guide is None:
        model, guide = build_model(config, x_shape)
    modules = nn.ModuleDict({"model": model, "guide": guide})
    weights = {name.removeprefix("elbo."): value for name, value in state["state_dict"].items()}
    try:
        modules.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit {run_dir / 'config.yaml'}: {reason}") from error
    return Trained(model.eval(), guide.eval(), config, x_shape)


def open_run(
    run_dir: str | Path, checkpoint: str = "best", overrides: Sequence[str] = (), allow: Collection[str] = ()
) -> tuple[Trained, Dataset]:
    """A trained run and its data set; says on stderr if that is not the one it was trained on.

    `overrides` say where data lies by now, `dataset.root=DIR`; other sections are the run's own. Else as `load`.

    Raises:
        CheckpointError: As `load` has it.
        ConfigError: An override that is unknown, or of another section.
        DataError: Missing or damaged data, or of another shape.
    """
    if foreign := [override for override in overrides if not override.startswith("dataset.")]:
        remedy = "only dataset values can change, dataset.root=DIR say"
        raise ConfigError(f"{foreign[0]}: a run stays as it was trained; {remedy}")
    trained, config = load(run_dir, checkpoint, allow=allow), read_config(run_dir, overrides, allow)
    data = build_data(config)
    trained.check(data)
    for difference in _differences(Path(run_dir), trained.config, config, data):
        print(f"warning: not the data that {run_dir} was trained on: {difference}", file=sys.stderr)
    return trained, data


def _differences(run_dir: Path, before: Config, now: Config, data: Dataset) -> list[str]:
    """What makes the data set another than the one that the run was trained on."""
    free = ("model", "guide", "train", "dataset.source", "dataset.batch_size")  # a source shows in the number
    lines = [f"{key} was {old}, is {new}" for key, old, new in changes(before, now, ignoring=free)]
    summary = read_summary(run_dir)  # nothing, of a run that was stopped
    name, num = summary.get("dataset"), summary.get("num_train")
    sizes = {f"num_{split}": len(getattr(data, split)) for split in ("train", "val", "test")}
    if any(summary.get(key, size) != size for key, size in sizes.items()):
        lines.append(f"that was {name} ({num} training {noun(data)}s), this is {data.source} ({len(data.train)})")
    elif not lines and not is_of(summary.get("sketch"), data.sketch()):
        lines.append(f"that was {name}, this is {data.source}, with other values")
    return lines


def read_summary(run_dir: Path) -> dict[str, Any]:
    """What training summed up; empty, where it did not come to that or the file is damaged."""
    try:
        summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def noun(data: Any) -> str:
    """What a datapoint is called."""
    return "image" if len(data.x_shape) == 3 else "datapoint"
