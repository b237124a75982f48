"""Training in one call."""

import logging
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.callbacks import ProgressBar as BaseProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import nn

from ..guides import Guide, RefinedGuide
from ..models.likelihoods import Likelihood
from ..validation import Fraction, NonNegativeInt, PositiveInt, validated
from . import start
from .callbacks import Averaging, PatientEarlyStopping, Pictures, ProgressBar, Stopwatch, checkpoints, run_loggers
from .checkpoint import AtomicCheckpointIO, read_checkpoint
from .checks import check_shapes, check_support, hint_at_bright_images, warn_if_unused
from .module import LitVAE
from .scores import SplitStatistics

if "MASTER_ADDR" in os.environ:  # Lightning takes the first process of each machine for rank 0 until there is a Trainer
    node_rank = int(os.environ.get("NODE_RANK", "0"))
    rank_zero_only.rank = getattr(rank_zero_only, "rank", 0) or node_rank  # type: ignore[attr-defined]


class SettingsError(ValueError):
    """Settings that this machine or Lightning cannot follow."""


class TerminatedError(Exception):
    """SIGTERM ended training; what it had reached is saved, and `fit(resume=...)` goes on from there."""


@runtime_checkable
class Data(Protocol):
    """What training asks of a data set; `pyrovae.data.Dataset` is one.

    With `outside` and `sketch`, as a `Dataset` has them, all values are checked, not those of one batch alone, and a
    checkpoint of other data is refused.

    >>> class Noise:
    ...     x_shape = (30,)
    ...     def batches(self, split, batch_size, **options):
    ...         return [torch.rand(batch_size, 30).round() for _ in range(4)]
    >>> isinstance(Noise(), Data)
    True
    """

    @property
    def x_shape(self) -> tuple[int, ...]: ...

    def batches(self, split: Literal["train", "val", "test"], batch_size: int, **options: Any) -> Iterable[Any]:
        """Batches x (B, *x_shape) as a function of the options seed, rank, world_size, device and position.

        For `warm_start` the option `numbered=True` asks for pairs with attribute `rows`, the number of each image.
        """


@validated
def fit(
    model: nn.Module,
    guide: Guide,
    data: Data,
    *,
    epochs: PositiveInt = 10,
    batch_size: PositiveInt = 128,
    seed: NonNegativeInt = 0,
    run_dir: Path | str | None = None,
    resume: Path | str | None = None,
    use_amp: bool = False,
    start_from_data: bool = False,
    early_stopping: bool | Mapping[str, Any] = False,
    ema_decay: Fraction | None = None,
    checkpoint_every: PositiveInt | None = None,
    accelerator: str = "auto",
    devices: int | str = 1,
    num_nodes: PositiveInt = 1,
    strategy: str = "auto",
    progress: bool = True,
    hparams: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    **options: Any,
) -> dict[str, float]:
    """Trains `model` and `guide` in place; returns final metrics.

    Args:
        model: Pyro model of plate `"data"`. Pictures take `decode` and `sample` of it, where it has them.
        guide: Guide for it.
        data: Datapoints in three splits.
        epochs: Passes over the training split.
        batch_size: Datapoints a batch and process: `devices` times `num_nodes` processes see as many times that a step.
        seed: Of the batches and the noise, which differ between processes.
        run_dir: Folder for metrics, TensorBoard, pictures and checkpoints; nothing is written by default.
        resume: Checkpoint to go on from.
        use_amp: Networks in bfloat16 where the device has it, else in float16 with a gradient scaler.
        start_from_data: Set the decoder's last bias by the data's mean first, as
            `training.start_from_data` does. A run from YAML does so by default; here models may come trained, so it is
            asked for. A resume never does.
        early_stopping: `True`, or a mapping with `monitor`, `patience`, `min_delta`, `start_epoch`.
        ema_decay: Of an average of the weights over steps, 0.999 say; it is what is validated, kept and returned, and
            `val/elbo_raw` is of the weights themselves. None by default.
        checkpoint_every: Steps between checkpoints within an epoch.
        accelerator, devices, num_nodes, strategy: As in Lightning's Trainer; a GPU is found by itself. Processes are
            found as Lightning finds them: of torchrun, of SLURM, or of one call on each machine with `MASTER_ADDR`,
            `MASTER_PORT` and `NODE_RANK`. The first one's machine writes `run_dir`.
        progress: Show a bar.
        hparams: What TensorBoard shows as this run's settings.
        callbacks, loggers: Lightning's, beside those of the run.
        options: To `LitVAE`: `lr`, `beta`, `beta_warmup`, `schedules`, `objective`, `gradient_clip` and more.

    Returns:
        `val/...` and `test/...` of the best epoch by `val/elbo` if there is a `run_dir`, else of the last; `seconds`.

    Raises:
        ValueError: Data outside the likelihood's support, or of another shape than model and guide take, or settings
            that cannot be followed.
        NumericsError: Three non-finite steps in a row.
        CheckpointError: `resume` cannot be read.
        TerminatedError: SIGTERM arrived; the step was finished and `last.ckpt` saved.

    >>> import pyrovae as pv
    >>> data = pv.data.Dataset("toy", "random bits", *torch.rand(3, 20, 1, 6, 5).round())
    >>> model, family = pv.models.mlp((1, 6, 5), 3), pv.DiagonalNormal(3)
    >>> guide = pv.AmortizedGuide(family, pv.nets.MLP((1, 6, 5), (family.num_params,)))
    >>> metrics = fit(model, guide, data, epochs=1, progress=False)
    >>> metrics["val/elbo"] < 0
    True
    """
    since = perf_counter()
    _quiet()
    likelihood = getattr(model, "likelihood", None)
    if isinstance(likelihood, Likelihood):
        check_support(type(likelihood), data, keys={"binarize"})
    sketch = data.sketch() if hasattr(data, "sketch") else ()
    module = LitVAE(model, guide, x_shape=data.x_shape, sketch=sketch, seed=seed, **options)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    check_shapes(model, guide, next(iter(data.batches("val", 2, seed=seed))).to(device))
    _begin(model, data, start_from_data and resume is None)
    run_dir = None if run_dir is None else Path(run_dir)
    used: list[Callback] = []
    if progress and not any(isinstance(callback, BaseProgressBar) for callback in callbacks):
        used.append(ProgressBar(refresh_rate=10))
    if early_stopping:
        used.append(_early_stopping(early_stopping, module))
    if ema_decay is not None:
        used.append(Averaging(decay=ema_decay))
    kept: list[Logger] = []
    if run_dir is not None:
        x = next(iter(data.batches("val", 64, seed=seed)))
        used += [Stopwatch(), Pictures(x, run_dir / "figures"), *checkpoints(run_dir / "checkpoints", checkpoint_every)]
        before = {} if resume is None else read_checkpoint(Path(resume))
        kept = run_loggers(run_dir, hparams or {}, before.get("global_step"), before.get("row"))
    where: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "num_nodes": num_nodes}
    where |= {"strategy": strategy}
    if strategy.endswith(("_spawn", "_fork", "_notebook")):
        raise SettingsError(
            f"train.strategy {strategy!r} copies this process with all its threads and data; set it to ddp"
        )
    try:
        trainer = pl.Trainer(
            max_epochs=epochs,
            precision=_precision(accelerator) if use_amp else None,
            logger=[*kept, *loggers],
            callbacks=[*used, *callbacks],
            enable_checkpointing=run_dir is not None or any(isinstance(each, Checkpoint) for each in callbacks),
            plugins=[AtomicCheckpointIO()],
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=module.log_every,
            use_distributed_sampler=False,
            **where,
        )
    except (MisconfigurationException, ValueError) as error:
        given = ", ".join(f"train.{name} {value!r}" for name, value in where.items())
        raise SettingsError(f"{given}: {str(error).splitlines()[0]}") from error
    _check_refinement(module, epochs, trainer.world_size)
    share: dict[str, Any] = {"seed": seed, "device": trainer.strategy.root_device}
    share |= {"rank": trainer.global_rank, "world_size": trainer.world_size}
    numbered, loop = {"numbered": True} if module.warm_start else {}, trainer.fit_loop.epoch_loop
    at: dict[str, Any] = {"position": lambda: (trainer.current_epoch, loop.batch_progress.current.ready)}
    train = data.batches("train", batch_size, **at, **numbered, **share)
    val, test = data.batches("val", batch_size, **share), data.batches("test", batch_size, **share)
    try:
        trainer.fit(module, train, val, ckpt_path=resume, weights_only=True)
    except SIGTERMException as error:
        onward = "nothing was kept, for want of a run_dir" if run_dir is None else f"--resume {run_dir} goes on"
        raise TerminatedError(f"terminated after {trainer.global_step} steps; {onward}") from error
    if run_dir is not None:  # a file of rank 0, which another machine may not see
        path = run_dir / "checkpoints" / "best.ckpt"
        best: Any = read_checkpoint(path)["state_dict"] if trainer.is_global_zero else None
        module.load_state_dict(trainer.strategy.broadcast(best))
    return {**_finished(trainer, module, val, test), "seconds": perf_counter() - since}


def _begin(model: nn.Module, data: Data, from_data: bool) -> None:
    hint_at_bright_images(model, data)
    if from_data:
        start.start_from_data(model, data)


def _finished(trainer: pl.Trainer, module: LitVAE, val: Iterable[Any], test: Iterable[Any]) -> dict[str, Any]:
    trainer.loggers = []  # the curves end with training; what follows goes to the caller
    metrics = {**trainer.validate(module, val, verbose=False)[0], **trainer.test(module, test, verbose=False)[0]}
    warn_if_unused(metrics, module.guide.family)
    return metrics


def _check_refinement(module: LitVAE, epochs: int, world_size: int) -> None:
    for name in ("refine_from", "warm_start"):
        if getattr(module, name) and not isinstance(module.guide, RefinedGuide):
            raise SettingsError(f"train.{name} needs a guide that refines, got {type(module.guide).__name__}")
    if module.refine_from >= epochs:
        raise SettingsError(f"train.refine_from must be below train.epochs ({epochs}), got {module.refine_from}")
    if module.warm_start and world_size > 1:
        remedy = "set train.devices and train.num_nodes to 1"
        raise SettingsError(f"train.warm_start keeps its rows in one process, got {world_size}; {remedy}")


def _precision(accelerator: str) -> Literal["bf16-mixed", "16-mixed"]:
    cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "16-mixed" if cuda and not torch.cuda.is_bf16_supported(including_emulation=False) else "bf16-mixed"


def _early_stopping(choice: bool | Mapping[str, Any], module: LitVAE) -> Callback:
    given = choice if isinstance(choice, Mapping) else {}
    options: dict[str, Any] = {"monitor": "val/elbo", "mode": "max", "patience": 10, **given}
    start_epoch = max(options.pop("start_epoch", None) or 0, math.ceil(module.schedules_end))
    known = [f"val/{name}" for name in SplitStatistics.NAMES]
    if options["monitor"] not in known:
        raise SettingsError(f"early_stopping.monitor must be one of {', '.join(known)}, got {options['monitor']!r}")
    options |= {"mode": "min"} if options["monitor"] == "val/kl" else {}
    return PatientEarlyStopping(start_epoch, check_finite=False, **options)


def _quiet() -> None:
    """Silences what Lightning, and torch of its own forward-mode derivatives, say about choices made on purpose."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    expected = ["does not have many workers", "exists and is not empty", "smaller than the logging interval"]
    expected += ["no pre-optimization state was saved", "isinstance.treespec, LeafSpec", "torch.jit.script. is depreca"]
    for message in expected:
        warnings.filterwarnings("ignore", f".*{message}.*")
