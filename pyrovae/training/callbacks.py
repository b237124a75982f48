"""What Lightning does beside the steps: progress, early stopping, checkpoints, pictures, metrics on disk."""

import csv
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import pytorch_lightning as pl
import yaml
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    LambdaCallback,
    ModelCheckpoint,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from ..inference import common_noise_terms
from ..models.protocol import can_decode, can_sample
from . import figures
from .figures import kl_per_dim
from .module import LitVAE
from .noise import seed_noise
from .scores import mean_of


def run_loggers(
    run_dir: Path, hparams: Mapping[str, Any], resume_step: int | None, row: Mapping[str, Any] | None = None
) -> list[Logger]:
    """Both loggers; after a resume, what was logged from step `resume_step` on is taken back, since it comes again.

    A kill right after a checkpoint may have lost what its step logged, which it keeps as `row`.
    """
    metrics, kept = run_dir / "metrics.csv", []
    if resume_step is not None and metrics.is_file():
        with metrics.open(newline="") as file:
            kept = [old for old in csv.DictReader(file) if int(old["step"]) < resume_step]
    csv_logger = CSVLogger(run_dir, name="", version="")  # starts the file anew
    for old in kept:
        values: Any = {key: value for key, value in old.items() if value and key != "step"}
        csv_logger.log_metrics(values, int(old["step"]))
    lost = dict(row or {})
    step = lost.pop("step", None)
    if any(old["step"] == str(step) and old.get("train/loss") for old in kept):
        lost = {}
    if lost:
        csv_logger.log_metrics(lost, step)
    csv_logger.save()  # back on disk before anything can go wrong again
    board = TensorBoardLogger(run_dir, name="", version="", default_hp_metric=False, purge_step=resume_step)
    board.log_hyperparams(dict(hparams))
    board.log_metrics(lost, step)
    if resume_step is None:
        text = yaml.safe_dump(dict(hparams), sort_keys=False, allow_unicode=True)
        board.experiment.add_text("settings", f"```yaml\n{text}```")
    return [csv_logger, board]


def checkpoints(folder: Path, every: int | None) -> list[Callback]:
    """`last.ckpt` at each epoch's end, each `every` steps if asked, and when SIGTERM, a scheduler's notice, ends
    training, which Lightning raises between two steps; `best.ckpt` by validation ELBO at β = 1."""

    def save(trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)  # the optimizer too

    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    best = ModelCheckpoint(filename="best", monitor="val/elbo", mode="max", save_on_train_epoch_end=True, **common)
    last = [ModelCheckpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **common)]
    if every is not None:
        last.append(ModelCheckpoint(filename="last", every_n_train_steps=every, **common))
    return [LambdaCallback(on_exception=save), best, *last]  # best first, so that `last` remembers it as it is now


class PatientEarlyStopping(EarlyStopping):
    """`EarlyStopping` that looks away until `start_epoch`: while β warms up, a worse ELBO at β = 1 means nothing."""

    def __init__(self, start_epoch: int, **options: Any) -> None:
        super().__init__(check_on_train_epoch_end=False, **options)  # at validation's, before checkpoints
        self.start_epoch = start_epoch

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch >= self.start_epoch:
            super().on_validation_end(trainer, pl_module)


class Averaging(EMAWeightAveraging):
    """Validates, checkpoints and ends with an exponential moving average of the weights over the steps.

    The weights themselves are validated beside it, as `val/elbo_raw`, and train on.
    """

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, LitVAE)
        if trainer.state.fn == "fit":
            pl_module.on_validation_epoch_start()
            loader: Any = trainer.val_dataloaders
            for index, batch in enumerate(loader):
                pl_module.validation_step(trainer.strategy.batch_to_device(batch), index)
            self._raw = pl_module.statistics.summary(trainer.strategy)["elbo"]
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            pl_module.log("val/elbo_raw", self._raw, rank_zero_only=True)
            super().on_validation_epoch_end(trainer, pl_module)


class Stopwatch(Callback):
    """Logs `train/seconds` at each validation: what training has taken so far, in all its runs, validation left out."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds + (0.0 if self._since is None else perf_counter() - self._since)}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.seconds = state_dict["seconds"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds, self._since = self.state_dict()["seconds"], None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            pl_module.log("train/seconds", self.seconds, rank_zero_only=True)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with short names."""

    SHOWN: ClassVar = {
        "train/elbo": ("ELBO", ".1f"),
        "train/refinement_gain": ("gain", "+.2f"),
        "train/images_per_second": ("images/s", ".0f"),
        "val/elbo": ("val ELBO", ".1f"),
    }

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        items: Any = super().get_metrics(trainer, pl_module)
        shown = {name: format(items[tag], form) for tag, (name, form) in self.SHOWN.items() if tag in items}
        if "images/s" in shown and len(getattr(pl_module, "x_shape", ())) != 3:
            shown["datapoints/s"] = shown.pop("images/s")
        return shown


class Pictures(Callback):
    """Draws, at the end of each validation, what people look at: to TensorBoard and as PNG.

    Of validation datapoints x (B, *x_shape) the first few are shown, and all make up the curves. What a model cannot
    give, by `decode` or `sample`, is left out, and one warning says so.
    """

    def __init__(self, x: Tensor, folder: Path) -> None:
        self.x, self.folder = x, folder

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        model: Any = pl_module.model
        lacking = [] if can_decode(model) else ["decode, so there are no pictures of reconstructions"]
        lacking += [] if can_sample(model) else ["sample, so there are none of samples"]
        if lacking:
            rank_zero_warn(f"{type(model).__name__} has no {'; and no '.join(lacking)}", category=UserWarning)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        assert isinstance(pl_module, LitVAE)
        seed_noise(pl_module.device, pl_module.seed, "pictures", 0, 0)
        for name, figure in self._draw(pl_module, trainer).items():
            self.folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(self.folder / f"{name}.png", dpi=150)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_figure(f"val/{name}", figure, trainer.global_step)

    def _draw(self, module: LitVAE, trainer: pl.Trainer) -> dict[str, Figure]:
        model, family, x = module.model, module.guide.family, self.x.to(module.device)
        with module.chosen_engine():
            inferred = module.guide.infer(x, record=True)
        ends, drawn = {"at λ₀": inferred.init}, dict[str, Figure]()
        if inferred.path is not None:
            ends["at λ_K"] = inferred.params
            curve = [terms.elbo().mean().item() for terms in common_noise_terms(model, family, x, *inferred.path)]
            drawn["trajectory"] = figures.trajectory(curve)
            points = {f"infer/elbo_step_{k}": value for k, value in enumerate(curve)}
            for logger in trainer.loggers:
                logger.log_metrics(points, step=trainer.global_step - 1)
        if can_decode(model):
            rows = {"input": x}
            for title, params in ends.items():
                z = mean_of(q := family(params))
                rows[title] = model.decode(q.sample() if z is None else z).mean
            drawn["reconstructions"] = figures.datapoint_rows(rows)
        if can_sample(model):
            drawn["samples"] = figures.datapoint_grid(model.sample(64), like=x)
        kl = kl_per_dim(model, family, x, inferred.params)
        if kl is not None:
            drawn["kl_per_dim"] = figures.kl_bars(kl)
        return drawn
