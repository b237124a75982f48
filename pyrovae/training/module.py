"""The LightningModule: one `SVI.step` a batch."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from time import perf_counter
from typing import Any

import pyro
import pytorch_lightning as pl
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.optim import PyroOptim
from torch import Tensor, nn

from ..capture import Engine, isolated
from ..guides import Guide
from ..inference import ELBO, Inferred, Objective
from ..validation import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, validated
from .aggressive import AggressiveTraining, Turns
from .checkpoint import CheckpointError, is_of
from .loss import BatchLoss
from .noise import seed_noise
from .optimizers import LEARNING_RATES, LRSchedule, OptimizerName, lr_factor, make_optimizer
from .schedules import Schedule, Scheduled
from .scores import EvaluatedModule

MAX_BAD_STEPS = 3


class NumericsError(Exception):
    """Training met non-finite numbers that it cannot step over."""


class LightningOptim(PyroOptim):
    """Lets `SVI.step` step the optimizer that Lightning configured; what parameters Pyro saw is not asked."""

    def __init__(self, module: pl.LightningModule) -> None:
        self._module = (module,)  # in a tuple: no copy of the module may hang on this

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        optimizer: Any = self._module[0].optimizers()
        optimizer.step()
        optimizer.zero_grad()


class LitVAE(EvaluatedModule):
    """Trains a model and a guide by `pyro.infer.SVI` under Lightning's manual optimization.

    The loss is the negative β-ELBO, in nats a datapoint. Noise at a step is a function of (seed, step, rank) and of
    nothing that came before. A step whose loss or gradient is not finite is skipped; three in a row raise.

    Args:
        lr: Learning rate; by default 0.01 of Muon and 0.001 of Adam.
        optimizer: `muon`, which steps the weights of layers by Muon and all else by Adam, see `training.optimizers`;
            `adam`; or `adamw`.
        weight_decay: Of the weights that Muon steps, by default 0.03, or of all by AdamW, by default 0.01.
        lr_schedule, lr_warmup: `cosine` takes the learning rate to zero over all epochs, `constant` leaves it; before,
            it rises over that share of training.
        gradient_clip: Largest Euclidean norm of the whole gradient; none by default.
        beta, beta_warmup: Factors on the objective's own β, the weight of the KL term; the other over time.
        schedules: Factors over time on other numbers, by place, such as `family.temperature`: from `model`, `guide`,
            `family` or `objective` on to a 0-dim buffer or a number of the objective. Buffers that checkpoints hold
            load as they were.
        aggressive: Steps of the guide ahead of the model's, until z tells of x; by default both step at once.
        objective: What to maximise, of which a copy is taken; by default `ELBO()`, one draw and path gradients.
            `ELBO(path_gradient=False)` is `pyro.infer.Trace_ELBO`, gradient and all.
        eval_particles: Draws of z a datapoint for validation and test.
        log_every: Steps between logged training metrics.
        refine_from: Epochs of amortized training before a guide that refines does so.
        warm_start: Start refinement of an image where that of its last visit ended; keeps a row of λ per image.
        engine: `eager`, `compiled`, or `auto` for compiling where it pays; see `pyrovae.engine`.
        x_shape, sketch: Shape of a datapoint and a few numbers of the data, for checkpoints; one of others is refused.

    Raises:
        ValueError: `aggressive` with a guide that has no parameters, or a family without a density for any z;
            `schedules` that name no number.
        NumericsError: From the third non-finite step in a row, or at a checkpoint of non-finite parameters.

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((1, 6, 5), 3), pv.DiagonalNormal(3)
    >>> guide = pv.AmortizedGuide(family, pv.nets.MLP((1, 6, 5), (family.num_params,)))
    >>> trainer = pl.Trainer(max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    >>> batches = torch.utils.data.DataLoader(torch.ones(2, 5, 1, 6, 5), batch_size=None)
    >>> trainer.fit(pv.LitVAE(model, guide, lr=1e-2, beta=0.5), batches)
    >>> trainer.global_step
    6
    """

    @validated
    def __init__(
        self,
        model: nn.Module,
        guide: Guide,
        *,
        lr: PositiveFloat | None = None,
        optimizer: OptimizerName = "muon",
        weight_decay: NonNegativeFloat | None = None,
        lr_schedule: LRSchedule = "cosine",
        lr_warmup: Fraction = 0.0,
        gradient_clip: PositiveFloat | None = None,
        beta: NonNegativeFloat = 1.0,
        beta_warmup: Schedule | None = None,
        schedules: Mapping[str, Schedule] = {},
        aggressive: AggressiveTraining | None = None,
        objective: Objective | None = None,
        eval_particles: PositiveInt = 1,
        seed: NonNegativeInt = 0,
        log_every: PositiveInt = 25,
        refine_from: NonNegativeInt = 0,
        warm_start: bool = False,
        engine: Engine = "auto",
        x_shape: Sequence[int] = (),
        sketch: Sequence[float] = (),
    ) -> None:
        if aggressive is not None and not any(True for _ in guide.parameters()):
            raise ValueError(f"aggressive needs a guide with parameters of its own, got {type(guide).__name__}")
        if aggressive is not None and guide.family.density != "any":
            raise ValueError(f"aggressive needs a family with a density for any z, got {type(guide.family).__name__}")
        super().__init__()
        self.automatic_optimization = False
        own = (objective or ELBO()).scaled()  # a copy
        self.elbo, self.seed, self.eval_particles, self.engine = own(model, guide), seed, eval_particles, engine
        self.measures_information = aggressive is not None
        self.lr = LEARNING_RATES[optimizer] if lr is None else lr
        self.optimizer, self.weight_decay = optimizer, weight_decay
        self.lr_schedule, self.lr_warmup = lr_schedule, lr_warmup
        self.gradient_clip, self.log_every = gradient_clip, log_every
        self.refine_from, self.warm_start = refine_from, warm_start
        self.target_beta, self.beta_warmup = beta, beta_warmup
        self.x_shape, self.sketch = x_shape, sketch
        roots = {"model": model, "guide": guide, "family": guide.family, "objective": own}
        self._scheduled = [Scheduled(place, schedule, roots) for place, schedule in schedules.items()]
        self._objective, self._batch_loss = own, BatchLoss(self.elbo)
        self._turns, self.num_bad_steps = Turns(aggressive), 0
        self._rows: Tensor | None = None  # (N, P), λ of each datapoint's last visit; NaN before the first
        self._inferred: Inferred | None = None  # of the current step, for its log line
        self._loss, self._grad_norm = torch.tensor(0.0), torch.tensor(0.0)

    @cached_property
    def svi(self) -> SVI:
        """The outer SVI; built late, so that copies of this module get their own."""
        # Blocked: the optimizer knows the parameters, and Pyro is not to collect them again each step.
        model, guide = (poutine.block(part, hide_types=["param"]) for part in (self.model, self.guide))
        loss, loss_and_grads = self._objective.loss, self._loss_and_grads
        return SVI(model, guide, LightningOptim(self), loss=loss, loss_and_grads=loss_and_grads)

    @property
    def epoch_time(self) -> float:
        """Epochs trained so far, with the fraction of the current one."""
        batch = self.trainer.fit_loop.epoch_loop.batch_idx
        return self.current_epoch + max(batch, 0) / self.trainer.num_training_batches

    @property
    def beta(self) -> float:
        """The factor on the objective's β now."""
        return self.target_beta * (1.0 if self.beta_warmup is None else self.beta_warmup(self.epoch_time))

    @property
    def schedules_end(self) -> float:
        """Epoch from which on no schedule moves anything."""
        schedules = [self.beta_warmup, *(scheduled.schedule for scheduled in self._scheduled)]
        return max((schedule.until for schedule in schedules if schedule is not None), default=0.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # float16's scaler unscales between backward and step, which fused kernels would do themselves.
        fused = self.trainer.precision != "16-mixed"
        return make_optimizer(self, self.optimizer, self.lr, weight_decay=self.weight_decay, fused=fused)

    def on_train_start(self) -> None:
        # Of the whole training, also after a resume: whether to compile may not depend on where one is.
        self._num_batches: int = max(1, (self.trainer.max_epochs or 1) * int(self.trainer.num_training_batches))
        for scheduled in self._scheduled:
            scheduled.to(self.device)
        self.on_train_epoch_start()  # which a resume within an epoch leaves out

    def on_train_epoch_start(self) -> None:  # here, so that validation does not count
        self._num_images, self._since = 0, perf_counter()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        seed_noise(self.device, self.seed, "train", self.global_step, self.global_rank)
        factor = lr_factor(self.lr_schedule, self.lr_warmup, self.global_step, self._num_batches)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = self.lr * factor
        moved = {scheduled.place: scheduled.follow(self.epoch_time) for scheduled in self._scheduled}
        refine = self.current_epoch >= self.refine_from
        warm = self.warm_start and refine
        start = self._rows[batch.rows] if warm and self._rows is not None else None
        with pyro.validation_enabled(False), self.chosen_engine():
            self.svi.step(x, self.beta, refine, start)
        if warm and self._inferred is not None:
            params = self._inferred.params.detach()
            if self._rows is None:
                num_rows = len(x) * int(self.trainer.num_training_batches)  # of equal batches, but for the last
                self._rows = params.new_full((num_rows, params.shape[1]), torch.nan)
            self._rows[batch.rows] = params
        self._num_images += len(x) * self.trainer.world_size
        if self.global_step % self.log_every == 0:
            self._log_step(x, moved)
        self._inferred = None
        return self._loss

    def _loss_and_grads(self, model: Any, guide: Any, *args: Any) -> float:
        with isolated():  # λ of an inner loop is not this SVI's to step
            loss, self._inferred = self._batch_loss(*args)
        self.manual_backward(loss)
        self._loss = loss.detach()
        return 0.0  # a number, because SVI.step would call .item() on a tensor

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips after gradients were unscaled; drops them where they, or the loss, are not finite."""
        self._turns.keep(self.model, self.guide)
        params = [param for group in optimizer.param_groups for param in group["params"]]  # no walk over modules
        grads = [param.grad for param in params if param.grad is not None]
        self._grad_norm = nn.utils.get_total_norm(grads)
        if self.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(params, self.gradient_clip, self._grad_norm)
        # A gradient that overflows in float16 is the scaler's everyday business; the loss is ours.
        watched = self._loss if self.trainer.precision == "16-mixed" else self._loss + self._grad_norm
        finite = bool(watched.isfinite())  # the one host sync of a training step
        if self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            self.num_bad_steps = 0
            self._turns.after_step(self._loss, partial(self.trainer.strategy.reduce, reduce_op="mean"))
            return
        self.num_bad_steps += 1
        if self.num_bad_steps >= MAX_BAD_STEPS:
            remedy = f"lower model.lr ({self.lr}) or set train.gradient_clip"
            if self.global_step < MAX_BAD_STEPS:  # none was finite, so that the step size is not to blame
                remedy = "look at the largest values; counts want model.encoder: counts, others dataset.normalize"
            raise NumericsError(
                f"loss {float(self._loss):.4g}, gradient norm {float(self._grad_norm):.4g} at step {self.global_step}, "
                f"the third non-finite step in a row; {remedy}"
            )
        for param in params:
            param.grad = None  # an optimizer leaves a parameter without gradient, and its moments, alone

    def on_validation_epoch_end(self) -> None:
        summary = self.log_statistics("val")
        if self.measures_information and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._turns.after_epoch(summary["mutual_information"])

    def _log_step(self, x: Tensor, moved: Mapping[str, float]) -> None:
        rate, inferred = self._num_images / (perf_counter() - self._since), self._inferred
        assert inferred is not None
        terms_init, terms = inferred.terms_init, inferred.terms
        if terms is None or terms_init is None:
            terms_init, terms = self.score(x, inferred, num_particles=1)
        elbo, elbo_init = terms.elbo().mean(), terms_init.elbo().mean()
        lr = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        # Of the same names for every guide, so that runs overlay.
        values: dict[str, Any] = {"elbo": elbo, "elbo_init": elbo_init, "refinement_gain": elbo - elbo_init}
        values |= {"recon": terms.recon.mean(), "kl": terms.kl.mean(), "loss": self._loss, "grad_norm": self._grad_norm}
        values |= {"beta": self.beta * self._objective.beta, "lr": lr, "images_per_second": rate, **moved}
        if self.measures_information:
            values["aggressive"] = float(self._turns.active)
        if inferred.reverted is not None:
            values["num_reverted"] = inferred.reverted.float().sum()
        # Not by `self.log`, which takes longer for these than a step does.
        numbers = torch.stack([torch.as_tensor(value, device=self.device).float() for value in values.values()]).cpu()
        row = {f"train/{name}": number for name, number in zip(values, numbers, strict=True)}
        self.trainer.logged_metrics.update(row)
        self.trainer.callback_metrics.update(row)
        shown = ("train/elbo", "train/refinement_gain", "train/images_per_second")
        self.trainer.progress_bar_metrics.update({name: row[name].item() for name in shown})
        logged = {name: number.item() for name, number in row.items()} | {"epoch": self.current_epoch}
        for logger in self.trainer.loggers:
            logger.log_metrics(logged, self.global_step - 1)
        self.on_train_epoch_start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        bad = next((name for name, value in self.state_dict().items() if not value.isfinite().all()), None)
        if bad is not None:
            raise NumericsError(
                f"not saved: {bad} is not finite at step {self.global_step}; lower model.lr ({self.lr})"
            )
        checkpoint |= {"x_shape": list(self.x_shape), "sketch": list(self.sketch)}
        checkpoint |= {"last_rows": self._rows, "turns": self._turns.state_dict()}
        for logger in self.trainer.loggers:
            logger.save()  # a resume keeps metrics up to here, so they must be on disk

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if not is_of(checkpoint.get("sketch"), self.sketch):
            raise CheckpointError(
                "resume: these are not the data that the checkpoint was trained on; name the same files (dataset.path, "
                "dataset.root), or start a new run"
            )
        rows = checkpoint.get("last_rows")
        self._rows = None if rows is None else rows.to(self.device)
        self._turns.load_state_dict(checkpoint.get("turns", {}))
