import csv
import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import pytorch_lightning as pl
import torch
from conftest import GUIDES, X_SHAPE, Z_DIM, make_guide, tiny_images
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import constraints, register_kl
from torch.utils.data import DataLoader

import pyrovae as pv
from pyrovae.training import (
    CheckpointError,
    CyclicalWarmup,
    LinearWarmup,
    LitVAE,
    NumericsError,
    TerminatedError,
    is_of,
)
from pyrovae.training.callbacks import PatientEarlyStopping, Pictures, run_loggers
from pyrovae.training.checkpoint import AtomicCheckpointIO
from pyrovae.training.figures import kl_per_dim
from pyrovae.training.noise import seed_noise

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}
PIXELS = torch.rand(6, 8, *X_SHAPE, generator=torch.Generator().manual_seed(0))
BATCHES = DataLoader((PIXELS < 0.4).float(), batch_size=None)  # six batches of eight


def fresh(name: str = "semi_amortized", seed: int = 0):
    torch.manual_seed(seed)
    model = pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,))
    return model, make_guide(name, "diagonal_normal", model)


class Automatic(pl.LightningModule):
    """The usual way to train a Pyro pair under Lightning: no SVI."""

    def __init__(self, model, guide):
        super().__init__()
        self.elbo = Trace_ELBO()(model, guide)

    def training_step(self, x, _):
        seed_noise(self.device, 0, "train", self.global_step, 0)
        return self.elbo(x) / len(x)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2, fused=True)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        if gradient_clip_val:  # Lightning's own refuses fused optimizers under mixed precision
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)


@pytest.mark.parametrize("precision", [None, "bf16-mixed"])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("name", GUIDES)
def test_svi_driver_is_automatic_optimization_bit_for_bit(name, clip, precision):
    weights = []
    for svi in (True, False):
        model, guide = fresh(name)
        before = [p.clone() for p in model.parameters()]
        if svi:
            # hybrid's own ELBO takes path gradients on both sides; the outer one is stock here
            usual = {"optimizer": "adam", "lr": 1e-2, "lr_schedule": "constant"}
            lit: pl.LightningModule = LitVAE(
                model, guide, gradient_clip=clip, objective=pv.ELBO(path_gradient=False), **usual
            )
            trainer = pl.Trainer(max_epochs=2, precision=precision, **QUIET)
        else:
            lit = Automatic(model, guide)
            trainer = pl.Trainer(max_epochs=2, precision=precision, gradient_clip_val=clip, **QUIET)
        trainer.fit(lit, BATCHES)
        assert trainer.global_step == 12
        weights.append([*model.parameters(), *guide.parameters()])
        assert not torch.equal(before[0], weights[-1][0])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_training_step_is_one_outer_svi_step(monkeypatch):
    model, guide = fresh()
    lit, steps, original = LitVAE(model, guide), [], SVI.step

    def step(self, *args):
        steps.append(self)
        return original(self, *args)

    monkeypatch.setattr(SVI, "step", step)
    pl.Trainer(max_epochs=1, **QUIET).fit(lit, BATCHES)
    assert sum(svi is lit.svi for svi in steps) == 6
    assert len(steps) == 6 * (1 + 3)  # and three inner ones each


def test_second_model_in_one_process_is_trained_too(images):
    for name in GUIDES:
        model, guide = fresh(name)
        before = [p.clone() for p in (*model.parameters(), *guide.parameters())]
        pv.fit(model, guide, images, epochs=1, batch_size=20, progress=False)
        assert not any(
            torch.equal(a, b) for a, b in zip(before, (*model.parameters(), *guide.parameters()), strict=True)
        )


class Poison(LitVAE):
    """Some batches are NaN."""

    def __init__(self, *args, bad, **kwargs):
        super().__init__(*args, **kwargs)
        self.bad, self.snapshots = bad, []

    def training_step(self, batch, batch_idx):
        result = super().training_step(batch * float("nan") if batch_idx in self.bad else batch, batch_idx)
        kept = [state for part in self.trainer.optimizers[0].state_dict()["steps"] for state in part["state"].values()]
        self.snapshots.append([*(p.clone() for p in self.parameters()), *(v.clone() for s in kept for v in s.values())])
        return result


def test_a_nan_step_is_skipped():
    lit = Poison(*fresh(), bad=[2, 4])
    pl.Trainer(max_epochs=1, **QUIET).fit(lit, BATCHES)
    assert all(p.isfinite().all() for p in lit.parameters())
    same = [
        all(torch.equal(a, b) for a, b in zip(*pair, strict=True))
        for pair in zip(lit.snapshots, lit.snapshots[1:], strict=False)
    ]
    assert same == [False, True, False, True, False]


def test_three_nan_steps_in_a_row_stop_training():
    lit = Poison(*fresh(), bad=[1, 2, 3])
    with pytest.raises(NumericsError, match="third non-finite step in a row; lower model.lr"):
        pl.Trainer(max_epochs=1, **QUIET).fit(lit, BATCHES)
    assert all(p.isfinite().all() for p in lit.parameters())
    lit = Poison(*fresh(), bad=[0, 1, 2])
    with pytest.raises(
        NumericsError,
        match="third non-finite step in a row; look at the largest values; counts want model.encoder: counts",
    ):
        pl.Trainer(max_epochs=1, **QUIET).fit(lit, BATCHES)


def test_large_counts_want_an_encoder_of_their_logarithm():
    counts = torch.poisson((3 + 2 * torch.randn(40, 3) @ torch.randn(3, 30)).exp().clamp(max=1e5))
    data = pv.data.Dataset("spikes", "simulated", counts, counts, counts)
    family = pv.DiagonalNormal(3)
    for make in (pv.nets.MLP, pv.nets.CountsEncoder):
        torch.manual_seed(0)
        model = pv.models.mlp((30,), 3, widths=(8,), likelihood=pv.models.likelihoods.Poisson(event_dim=1))
        guide = pv.AmortizedGuide(family, make((30,), (family.num_params,), widths=(8,)))
        if make is pv.nets.MLP:
            with pytest.raises(NumericsError, match="encoder: counts"):
                pv.fit(model, guide, data, epochs=4, progress=False)
        else:
            assert math.isfinite(pv.fit(model, guide, data, epochs=4, progress=False)["val/elbo"])
            x = counts[:5]
            torch.testing.assert_close(guide.encoder(x), guide.encoder.layers((1 + x).log()))


def test_nan_is_never_checkpointed(tmp_path):
    model, guide = fresh()
    trainer = pl.Trainer(max_epochs=1, **QUIET)
    trainer.fit(LitVAE(model, guide), BATCHES)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(NumericsError, match="not saved"):
        trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert not list(tmp_path.iterdir())


def test_settings_that_cannot_be_followed(images):
    for options, message in (
        (
            {"early_stopping": {"monitor": "val/elbow"}},
            "early_stopping.monitor must be one of val/elbo, .* got 'val/elbow'",
        ),
        ({"beta_warmup": "linear"}, "beta_warmup must be a Schedule, got 'linear'"),
        ({"epochs": True}, "epochs must be a number, got True"),
        ({"lr": math.inf}, "lr must be finite, got inf"),
        ({"lr": -1, "engine": "fast"}, "lr must be > 0.*, got -1\nengine must be eager, compiled or auto|.*"),
        ({"callbacks": [1]}, r"callbacks\[0\] must be a Callback, got 1"),
        ({"schedules": {"family.loc": LinearWarmup()}}, "schedules: 'family.loc' can follow no schedule; name a 0-dim"),
    ):
        with pytest.raises(ValueError, match=message):
            pv.fit(*fresh(), images, progress=False, **options)


def test_data_outside_the_support_is_refused(images):
    grey = pv.data.Dataset("grey", "random pixels", images.train, images.val, images.test, "none")
    with pytest.raises(ValueError, match="outside the support of Bernoulli"):
        pv.fit(*fresh(), grey, progress=False)


def test_warmups():
    linear, cyclical = LinearWarmup(epochs=4), CyclicalWarmup(epochs=4, cycles=2, ratio=0.5)
    assert [linear(t) for t in (0, 1, 3, 4, 9)] == [0, 0.25, 0.75, 1, 1]
    assert [cyclical(t) for t in (0, 1, 2, 3.9, 4, 5, 6, 8, 9)] == [0, 0.5, 1, 1, 0, 0.5, 1, 1, 1]
    assert (linear.until, cyclical.until) == (4, 6)
    falling = LinearWarmup(start=1, end=0.2, epochs=2)
    assert [falling(t) for t in (0, 1, 2, 3)] == pytest.approx([1, 0.6, 0.2, 0.2])


def test_beta_follows_the_warmup_step_by_step(monkeypatch):
    lit, seen = LitVAE(*fresh(), beta=2.0, beta_warmup=LinearWarmup(epochs=2)), []
    original = type(lit.guide).infer
    monkeypatch.setattr(
        type(lit.guide),
        "infer",
        lambda self, x, beta=1.0, **options: (seen.append(beta), original(self, x, beta, **options))[1],
    )
    pl.Trainer(max_epochs=3, **QUIET).fit(lit, BATCHES)
    assert seen == pytest.approx([min(2.0, 2.0 * k / 12) for k in range(18)])


def test_validation_scores_at_beta_one(images):
    model, guide = fresh("amortized")
    result = pv.fit(model, guide, images, epochs=1, batch_size=20, beta=7.0, eval_particles=2, progress=False)
    assert result["val/elbo"] == pytest.approx(result["val/recon"] - result["val/kl"], abs=1e-4)


def test_cosine_schedule_ends_near_zero(images, tmp_path):
    pv.fit(*fresh("amortized"), images, epochs=4, batch_size=10, lr=0.1, lr_schedule="cosine", log_every=1, run_dir=tmp_path, progress=False)  # fmt: skip
    rates = [float(r["train/lr"]) for r in csv.DictReader((tmp_path / "metrics.csv").open()) if r["train/lr"]]
    assert len(rates) == 16
    assert rates[0] == pytest.approx(0.1)
    assert rates[8] == pytest.approx(0.05)
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize(
    ("guide", "options", "message"),
    [
        ("semi_amortized", {"refine_from": 2}, r"refine_from must be below train.epochs \(2\), got 2"),
        ("amortized", {"refine_from": 1}, "refine_from needs a guide that refines, got AmortizedGuide"),
        ("amortized", {"warm_start": True}, "warm_start needs a guide that refines, got AmortizedGuide"),
    ],
)
def test_refinement_settings_that_mean_nothing(guide, options, message, images):
    with pytest.raises(ValueError, match=message):
        pv.fit(*fresh(guide), images, epochs=2, progress=False, **options)


def test_refinement_may_start_late(images, tmp_path):
    model, guide = fresh()
    pv.fit(model, guide, images, epochs=2, batch_size=10, refine_from=1, log_every=1, run_dir=tmp_path, progress=False)
    gains = [
        float(row["train/refinement_gain"])
        for row in csv.DictReader((tmp_path / "metrics.csv").open())
        if row["train/refinement_gain"]
    ]
    assert gains[:4] == [0, 0, 0, 0]
    assert all(gains[4:])


def test_warm_start_begins_where_the_last_visit_ended(images, monkeypatch):
    model, guide = fresh()
    visits, infer, steps = {}, guide.infer, []
    original = LitVAE.training_step

    def training_step(self, batch, batch_idx):
        steps.append(batch.rows)
        return original(self, batch, batch_idx)

    def inferred(x, beta=1.0, record=False, start=None):
        result = infer(x, beta, record, start)
        if start is None or not model.training:
            return result
        for row, first, last in zip(steps[-1].tolist(), start, result.params, strict=True):
            visits.setdefault(row, []).append((first, last))
        return result

    monkeypatch.setattr(LitVAE, "training_step", training_step)
    monkeypatch.setattr(guide, "infer", inferred)
    pv.fit(model, guide, images, epochs=3, batch_size=16, refine_from=1, warm_start=True, progress=False)
    assert sorted(visits) == list(range(40))
    pairs = [(first[1], second[0]) for first, second in (v[-2:] for v in visits.values() if len(v) > 1)]
    assert len(pairs) > 20  # the first batch found no rows at all
    assert all(torch.equal(ended, started) for ended, started in pairs)


def test_early_stopping_waits_out_the_warmup(images, tmp_path, monkeypatch):
    epochs = []
    original = PatientEarlyStopping._run_early_stopping_check
    monkeypatch.setattr(
        PatientEarlyStopping, "_run_early_stopping_check", lambda s, t: (epochs.append(t.current_epoch), original(s, t))
    )
    stop = {"patience": 1, "min_delta": 1e6, "start_epoch": 1}  # nothing ever counts as progress
    pv.fit(*fresh("amortized"), images, epochs=9, batch_size=20, beta_warmup=LinearWarmup(epochs=2.5), early_stopping=stop, progress=False)  # fmt: skip
    assert epochs == [3, 4]  # the first look at epoch 3, patience spent at 4


@pytest.mark.parametrize("name", ["amortized", "semi_amortized"])
def test_amp(name, images):
    model, guide = fresh(name)
    seen = []
    model.decoder.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    result = pv.fit(model, guide, images, epochs=2, batch_size=20, use_amp=True, progress=False)
    assert torch.bfloat16 in seen
    assert all(p.dtype == torch.float32 for p in (*model.parameters(), *guide.parameters()))
    assert result["val/elbo"] < 0


# Resume.


def run(folder: Path, name: str, images, resume: Path | None = None):
    model, guide = fresh("amortized" if name == "aggressive" else name)
    return pv.fit(
        model, guide, images, epochs=4, batch_size=10, lr=1e-2, lr_schedule="cosine", log_every=1, checkpoint_every=3,
        beta_warmup=LinearWarmup(epochs=3), gradient_clip=1.0, early_stopping=True, seed=3, run_dir=folder, resume=resume,
        progress=False, refine_from=int(name in ("semi_amortized", "svi")), warm_start=name == "semi_amortized",
        aggressive=pv.training.AggressiveTraining(window=2, max_steps=3) if name == "aggressive" else None,
    )  # fmt: skip


def state_of(folder: Path) -> tuple[dict, list[dict]]:
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    rows = [
        {k: v for k, v in row.items() if v and k not in ("train/images_per_second", "train/seconds")}
        for row in csv.DictReader((folder / "metrics.csv").open())
    ]
    return {k: checkpoint[k] for k in ("state_dict", "optimizer_states", "global_step", "epoch")}, rows


def assert_same(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


class PulledPlugError(Exception):
    pass


@contextmanager
def plug_pulled(stop, monkeypatch):
    """Inside, a run dies right after it has saved `last.ckpt` at step `stop`, and must."""
    original = AtomicCheckpointIO.save_checkpoint

    def pulled(self, checkpoint, path, storage_options=None):
        original(self, checkpoint, path, storage_options)
        if checkpoint["global_step"] == stop and Path(path).name == "last.ckpt":
            raise PulledPlugError

    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", pulled)
        with pytest.raises(PulledPlugError):
            yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Runs each guide once without a break."""
    done = {}

    def get(name):
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = folder, run(folder, name, tiny_images())
        return done[name]

    return get


# Of 16 steps, with checkpoints at 3, 6, 9, ... and at the epochs' ends 4, 8, 12.
@pytest.mark.parametrize(("how", "stop"), [("killed", 5), ("killed", 8), ("killed", 14), ("terminated", 6)])
@pytest.mark.parametrize("name", [*GUIDES, "aggressive"])
def test_resume_is_bit_exact(name, how, stop, images, uninterrupted, tmp_path, monkeypatch):
    whole, result = uninterrupted(name)
    original = LitVAE.training_step

    def pulled(self, batch, batch_idx):
        if self.global_step == stop and how == "killed":
            raise PulledPlugError
        if self.global_step == stop:
            self.trainer._signal_connector.received_sigterm = True  # what the handler of SIGTERM does
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LitVAE, "training_step", pulled)
        with pytest.raises((PulledPlugError, TerminatedError)):
            run(tmp_path / "cut", name, images)
    torch.manual_seed(99)  # what the generator was doing must not matter
    resumed = run(tmp_path / "cut", name, images, resume=tmp_path / "cut" / "checkpoints" / "last.ckpt")
    assert_same(state_of(tmp_path / "cut")[0], state_of(whole)[0])
    assert_same(state_of(tmp_path / "cut")[1], state_of(whole)[1])
    assert {**resumed, "seconds": 0} == {**result, "seconds": 0}


def test_a_termination_names_no_run_where_there_is_none(images):
    class Terminates(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            trainer._signal_connector.received_sigterm = True

    model, guide = fresh("amortized")
    with pytest.raises(TerminatedError, match="after 1 steps; nothing was kept, for want of a run_dir"):
        pv.fit(model, guide, images, epochs=2, callbacks=[Terminates()], progress=False)


@pytest.mark.parametrize("stop", [3, 4, 6])  # the first and last within an epoch, the other at its end
def test_what_the_checkpointed_step_logged_survives_a_kill_right_after(
    stop, images, uninterrupted, tmp_path, monkeypatch
):
    whole, _ = uninterrupted("amortized")
    with plug_pulled(stop, monkeypatch):
        run(tmp_path, "amortized", images)
    run(tmp_path, "amortized", images, resume=tmp_path / "checkpoints" / "last.ckpt")
    assert_same(state_of(tmp_path)[1], state_of(whole)[1])


def test_metrics_survive_a_second_kill_right_after_resume(images, tmp_path):
    run(tmp_path, "amortized", images)
    _, before = state_of(tmp_path)
    run_loggers(tmp_path, {}, resume_step=8)  # and the plug is pulled again, before a step is taken
    _, after = state_of(tmp_path)
    assert after == [row for row in before if int(row["step"]) < 8]
    assert after


def test_a_torn_save_leaves_the_old_checkpoint(images, tmp_path, monkeypatch):
    run(tmp_path, "amortized", images)
    path = tmp_path / "checkpoints" / "last.ckpt"
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["best.ckpt", "last.ckpt"]
    monkeypatch.undo()
    (path.parent / ".last.ckpt.99999.part").write_text("of a process that was killed")
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_what_a_run_leaves(images, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, "semi_amortized", images)
    names = {p.name.split(".out.")[0] for p in tmp_path.iterdir()}
    assert names == {
        "config.yaml",
        "summary.json",
        "metrics.csv",
        "events",
        "hparams.yaml",
        "checkpoints",
        "figures",
    }
    assert {p.stem for p in (tmp_path / "figures").iterdir()} == {
        "reconstructions",
        "samples",
        "trajectory",
        "kl_per_dim",
    }
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    for split in ("train", "val"):
        for tag in ("elbo", "elbo_init", "refinement_gain", "recon", "kl"):
            assert f"{split}/{tag}" in tags["scalars"]
    assert {"val/dims_in_use", "train/loss", "train/grad_norm", "train/beta", "train/images_per_second"} <= set(
        tags["scalars"]
    )
    assert {f"infer/elbo_step_{k}" for k in range(4)} <= set(tags["scalars"])
    assert {"val/reconstructions", "val/samples", "val/trajectory", "val/kl_per_dim"} <= set(tags["images"])
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    scores = [float(r["val/elbo"]) for r in csv.DictReader((tmp_path / "metrics.csv").open()) if r["val/elbo"]]
    assert best["epoch"] == max(range(4), key=scores.__getitem__)


def test_other_data_are_not_resumed(images, tmp_path):
    model, guide = fresh()
    pv.fit(model, guide, images, epochs=1, run_dir=tmp_path, progress=False)
    other = replace(images, train=images.train.flip(0))  # as many, of the same shape
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match="not the data that the checkpoint was trained on"):
        pv.fit(*fresh(), other, epochs=2, run_dir=tmp_path, resume=last, progress=False)
    pv.fit(*fresh(), images, epochs=2, run_dir=tmp_path, resume=last, progress=False)


def test_a_sketch_tells_data_apart_but_not_decoders(images):
    here = images.sketch()
    assert is_of(here, here)
    assert is_of(here, [mean + 0.3 for mean in here])  # of 8-bit pixels
    assert not is_of(here, replace(images, test=images.val.flip(0)).sketch())
    assert is_of(None, here)
    assert is_of(here, ())


# What a caller hands in.


def weights_after(make=fresh, **options) -> list[torch.Tensor]:
    model, guide = make()
    pv.fit(model, guide, tiny_images(), **{"epochs": 2, "batch_size": 10, "progress": False, **options})
    return [*(p.detach() for p in model.parameters()), *(p.detach() for p in guide.parameters())]


def same(*runs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_the_objective_keeps_its_beta(engine, interpreted):
    objective = pv.ELBO(4.0)
    betas = weights_after(objective=objective, engine=engine), weights_after(beta=4.0, engine=engine)
    assert same(*betas)
    assert not same(betas[0], weights_after(engine=engine))
    halved = {"beta": 0.5, "beta_warmup": LinearWarmup(start=0.5, end=0.5), "engine": engine}
    assert same(weights_after(objective=objective, **halved), weights_after())
    assert objective.beta == 4.0


class Tempered(pv.DiagonalNormal):
    """Scales that a temperature multiplies."""

    def __init__(self, z_dim):
        super().__init__(z_dim)
        self.register_buffer("temperature", torch.tensor(2.0))

    def forward(self, params):
        q = super().forward(params)
        return pv.DiagonalNormal.forward(self, torch.cat([q.mean, (q.stddev * self.temperature).log()], -1))


def tempered():
    torch.manual_seed(0)
    model, family = pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,)), Tempered(Z_DIM)
    return model, pv.AmortizedGuide(family, pv.nets.MLP(X_SHAPE, (family.num_params,), widths=(8,)))


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_numbers_follow_schedules(engine, interpreted, tmp_path):
    model, guide = tempered()
    falling = LinearWarmup(start=1, end=0.1, epochs=1)
    schedules = {"family.temperature": falling, "objective.beta": LinearWarmup(epochs=2)}
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append((guide.family.temperature.item(), module.elbo.elbo.beta.item()))

    objective = pv.ELBO(3.0)
    pv.fit(
        model, guide, tiny_images(), epochs=3, batch_size=10, schedules=schedules, objective=objective, engine=engine,
        log_every=1, run_dir=tmp_path, callbacks=[Watch()], progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(seen, [(2 * falling(k / 4), 3 * min(1, k / 8)) for k in range(12)], atol=1e-6)
    assert objective.beta == 3.0
    rows = [row for row in csv.DictReader((tmp_path / "metrics.csv").open()) if row["train/beta"]]
    logged = [(float(row["train/family.temperature"]), float(row["train/beta"])) for row in rows]
    np.testing.assert_allclose(logged, seen, atol=1e-6)


def test_compiled_graphs_see_what_a_schedule_moves(interpreted):
    options = {"make": tempered, "schedules": {"family.temperature": LinearWarmup(epochs=2)}}
    eager, compiled, still = (
        weights_after(engine="eager", **options),
        weights_after(engine="compiled", **options),
        weights_after(make=tempered),
    )
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert not same(eager, still)


def test_callbacks_and_loggers_of_the_caller(images, tmp_path):
    bar, logger = pl.callbacks.TQDMProgressBar(), pl.loggers.CSVLogger(tmp_path / "mine")
    kept = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="mine")
    pv.fit(*fresh("amortized"), images, epochs=1, batch_size=10, log_every=1, callbacks=[bar, kept], loggers=[logger])
    assert (tmp_path / "mine.ckpt").is_file()
    assert "train/elbo" in (Path(logger.log_dir) / "metrics.csv").read_text()
    run_dir = tmp_path / "run"
    pv.fit(*fresh("amortized"), images, epochs=1, run_dir=run_dir, loggers=[logger], progress=False)
    assert (run_dir / "metrics.csv").is_file()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda q: (Z_DIM, (4, 4), (q.num_params,)), r"encoder takes x of shape \(4, 4\), and that .* is \(1, 6, 5\)"),
        (lambda q: (Z_DIM, X_SHAPE, (5,)), r"AmortizedGuide gives λ of shape \(2, 5\) for x of shape .*, not \(2, 6\)"),
        (
            lambda q: (4, X_SHAPE, (q.num_params,)),
            r"model VAE does not take z of shape \(3,\), that of the guide's family: mat1",
        ),
    ],
)
def test_other_shapes_are_one_line(build, message, images):
    family = pv.DiagonalNormal(Z_DIM)
    z_dim, *shapes = build(family)
    guide = pv.AmortizedGuide(family, pv.nets.MLP(*shapes, widths=(8,)))
    with pytest.raises(ValueError, match=message) as error:
        pv.fit(pv.models.mlp(X_SHAPE, z_dim, widths=(8,)), guide, images, progress=False)
    assert "\n" not in str(error.value)


def test_a_model_of_other_data_is_one_line(images):
    with pytest.raises(ValueError, match=r"the model VAE gives x of shape \(1, 4, 4\), and that of the data is \(1, 6"):
        pv.fit(pv.models.mlp((1, 4, 4), Z_DIM), fresh("amortized")[1], images, progress=False)


class Adds(pv.AmortizedGuide):
    """Needs the right width."""

    def infer(self, x, beta=1.0, record=False):
        params = self.encoder(x) + torch.zeros(2 * Z_DIM)
        return pv.Inferred(params, params)


class AddsGradient(Adds):
    def infer(self, x, beta=1.0, record=False):
        init = self.encoder(x)
        return pv.Inferred(init, init - torch.autograd.grad(init.square().sum(), init, create_graph=True)[0])


class GivesTensor(Adds):
    def infer(self, x, beta=1.0, record=False):
        return self.encoder(x)


@pytest.mark.parametrize(
    ("Guide", "width", "message"),
    [
        (Adds, 5, r"Adds does not take x .*; the guide's encoder gives \(2, 5\), the family takes 6$"),
        (AddsGradient, 6, r"AddsGradient.infer fails under torch.inference_mode\(\), .* and clone x: element 0"),
        (GivesTensor, 6, r"GivesTensor.infer must return pv.Inferred, got Tensor"),
    ],
)
def test_checks_say_what_is_wrong_with_a_guide(Guide, width, message, images):
    guide = Guide(pv.DiagonalNormal(Z_DIM), pv.nets.MLP(X_SHAPE, (width,), widths=(8,)))
    with pytest.raises(ValueError, match=message):
        pv.fit(fresh()[0], guide, images, progress=False)


@pytest.mark.parametrize("event_dim", [1, 4, 5])
def test_shapes_that_event_dim_does_not_fit(event_dim, images):
    model = pv.models.mlp(X_SHAPE, Z_DIM, likelihood=pv.models.likelihoods.Bernoulli(event_dim))
    with pytest.raises(ValueError, match=r"model VAE .*; set event_dim=3, the number of dimensions of a datapoint"):
        pv.fit(model, fresh("amortized")[1], images, progress=False)


def test_data_that_are_none_are_one_line():
    with pytest.raises(ValueError, match=r"data is a list; give an array \(N, \*x_shape\)"):
        pv.fit(*fresh(), [[1, 0]], progress=False)


def test_an_array_of_few_datapoints_still_holds_some_out():
    assert pv.fit(*fresh(), PIXELS[0, :4].round().numpy(), epochs=1, progress=False)["val/elbo"] < 0


# Looking changes nothing.


class Normed(torch.nn.Module):
    """Batch statistics, and dropout."""

    def __init__(self, net):
        super().__init__()
        self.net, self.norm = net, torch.nn.BatchNorm1d(8)
        self.last = torch.nn.Linear(8, net.out_shape[-1] if len(net.out_shape) == 1 else 30)
        self.shape = net.out_shape

    def forward(self, h):
        first = self.net.layers[0](h.flatten(-len(self.net.in_shape)))
        first = self.norm(first.reshape(-1, 8)).view(first.shape)
        return self.last(torch.nn.functional.dropout(first, 0.3, self.training)).unflatten(-1, self.shape)


def normed(name="amortized"):
    model, guide = fresh(name)
    model.decoder, guide.encoder = Normed(model.decoder), Normed(guide.encoder)
    return model, guide


@pytest.mark.parametrize("name", ["amortized", "semi_amortized"])
def test_logging_does_not_change_training(name):
    states = []
    for log_every in (1, 1000):
        model, guide = normed(name)
        pv.fit(model, guide, tiny_images(), epochs=2, batch_size=10, log_every=log_every, progress=False)
        states.append([*model.state_dict().values(), *guide.state_dict().values()])
    assert same(*states)


@pytest.mark.parametrize("name", ["amortized", "semi_amortized"])
def test_compiled_training_moves_batch_statistics_once(name, interpreted):
    states = []
    for engine in ("eager", "compiled"):
        model, guide = normed(name)
        pv.fit(model, guide, tiny_images(), epochs=2, batch_size=10, engine=engine, progress=False)
        assert guide.encoder.norm.num_batches_tracked == 8
        states.append({**model.state_dict(), **guide.state_dict()})
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], atol=1e-3, rtol=1e-2)


def test_a_parameter_without_gradient_keeps_still_under_adamw(interpreted):
    """It gets None, not zeros, which AdamW would decay; and where the other engine leaves it."""
    unused = []
    for engine in ("eager", "compiled"):
        model, guide = fresh()
        model.unused = torch.nn.Parameter(torch.ones(3))
        guide.unused = torch.nn.Parameter(torch.ones(()))
        options = {"optimizer": "adamw", "weight_decay": 0.5, "engine": engine, "progress": False}
        pv.fit(model, guide, tiny_images(), epochs=1, batch_size=10, **options)
        unused += [*model.unused.tolist(), guide.unused.item()]
    assert unused == [1.0] * 8


def test_noise_of_every_device_is_seeded(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.mps, "manual_seed", seeds.append)
    for step in (1, 2, 1):
        seed_noise(torch.device("mps"), 0, "train", step, 0)
    assert seeds[0] == seeds[2] != seeds[1]


@pytest.mark.parametrize(("every", "stop"), [(2, 3), (2, 4), (2, 6), (3, 6)])
def test_rows_survive_a_kill_where_not_every_step_is_logged(every, stop, images, tmp_path, monkeypatch):
    options = {"epochs": 4, "batch_size": 10, "log_every": every, "checkpoint_every": 3, "progress": False}
    pv.fit(*fresh("amortized"), images, run_dir=tmp_path / "whole", **options)
    with plug_pulled(stop, monkeypatch):
        pv.fit(*fresh("amortized"), images, run_dir=tmp_path / "cut", **options)
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    pv.fit(*fresh("amortized"), images, run_dir=tmp_path / "cut", resume=last, **options)
    assert_same(state_of(tmp_path / "cut")[1], state_of(tmp_path / "whole")[1])


# Models and families of other kinds.

TIMES, WIDTH, LATENT = 4, 5, 2  # T, N, D


class Sequence(pv.nets.MLP):
    """A model of x (T, N) with z of event shape (T, D), and nothing else: neither decode nor sample."""

    def __init__(self):
        super().__init__((LATENT,), (WIDTH,), widths=(6,))

    def forward(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([TIMES, LATENT]).to_event(2))
            pyro.sample("x", dist.Normal(super().forward(z), 1.0).to_event(2), obs=x)


class OverTime(pv.Family):
    """A normal for each entry of z (T, D)."""

    make = staticmethod(dist.Normal)

    def __init__(self):
        super().__init__(TIMES * LATENT)
        self.num_params = 2 * self.z_dim

    def forward(self, params):
        loc, log_scale = params.unflatten(-1, (2, TIMES, LATENT)).unbind(-3)
        return self.make(loc, log_scale.exp()).to_event(2)


class Undensed(dist.TorchDistribution):
    """A normal that can be drawn and has a KL, and nothing else."""

    has_rsample, arg_constraints, support = True, {}, constraints.real

    def __init__(self, loc, scale, validate_args=None):
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return Undensed(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * torch.randn(self._extended_shape(torch.Size(sample_shape)))


@register_kl(Undensed, torch.distributions.Normal)
def _kl_undensed(q, p):
    return torch.distributions.kl_divergence(torch.distributions.Normal(q.loc, q.scale), p)


class WithoutDensity(OverTime):
    make, density = staticmethod(Undensed), "none"


def sequences(family):
    torch.manual_seed(0)
    x = torch.randn(3, 20, TIMES, WIDTH)
    guide = pv.AmortizedGuide(family, pv.nets.MLP((TIMES, WIDTH), (family.num_params,), widths=(8,)))
    return Sequence(), guide, pv.data.Dataset("walks", "random", *x)


def test_a_model_that_cannot_be_drawn_trains_and_says_so_once(tmp_path):
    model, guide, data = sequences(OverTime())
    with pytest.warns(UserWarning, match="Sequence has no decode, so .* reconstructions; and no sample, so") as caught:
        metrics = pv.fit(model, guide, data, epochs=2, lr=1e-2, run_dir=tmp_path, progress=False)
    assert len([w for w in caught if "Sequence" in str(w.message)]) == 1
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["kl_per_dim.png"]
    assert metrics["val/dims_in_use"] <= TIMES * LATENT
    x = data.val[:5]
    kl = kl_per_dim(model, guide.family, x, guide.infer(x).params)
    q = guide.family(guide.infer(x).params)
    exact = torch.distributions.kl_divergence(q.base_dist, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl, exact.flatten(1).mean(0).detach())


def test_kl_per_dim_takes_no_density():
    model, guide, data = sequences(WithoutDensity())
    x = data.val[:5]
    params = guide.infer(x).params.detach()
    torch.testing.assert_close(kl_per_dim(model, guide.family, x, params), kl_per_dim(model, OverTime(), x, params))


def test_a_family_without_density_trains(tmp_path):
    model, guide, data = sequences(WithoutDensity())
    with pytest.warns(UserWarning, match="Sequence has no decode"):
        metrics = pv.fit(
            model, guide, data, epochs=2, lr=1e-2, objective=pv.AnalyticELBO(), run_dir=tmp_path, progress=False
        )
    assert "val/dims_in_use" in metrics  # its KL is in closed form
    assert math.isfinite(metrics["val/elbo"])


def test_a_logged_step_is_in_lightnings_dicts_and_in_the_loggers(tmp_path):
    seen: dict[str, list[float]] = {"callback_metrics": [], "logged_metrics": [], "progress_bar_metrics": []}

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            for name, values in seen.items():
                values.append(float(getattr(trainer, name)["train/elbo"]))

    model, family = pv.models.mlp((6,), 2, widths=(4,)), pv.DiagonalNormal(2)
    guide = pv.AmortizedGuide(family, pv.nets.MLP((6,), (4,), widths=(4,)))
    data = pv.data.Dataset("coins", "drawn", *torch.rand(3, 20, 6).round())
    how = {"batch_size": 5, "log_every": 1, "progress": False, "callbacks": [Look()], "run_dir": tmp_path}
    pv.training.fit(model, guide, data, epochs=2, **how)
    rows = [row for row in csv.DictReader((tmp_path / "metrics.csv").open()) if row["train/elbo"]]
    assert [(int(row["epoch"]), int(row["step"])) for row in rows] == [(k // 4, k) for k in range(8)]
    for values in seen.values():
        assert values == pytest.approx([float(row["train/elbo"]) for row in rows], rel=1e-6)


@pytest.mark.parametrize(("epochs", "drawn"), [(4, [1, 2, 3, 4]), (7, [1, 2, 3, 4, 6, 7])])
def test_pictures_are_drawn_in_epochs_that_grow_apart_and_at_the_end(tmp_path, monkeypatch, epochs, drawn):
    found = []
    monkeypatch.setattr(Pictures, "_draw", lambda self, module, trainer: found.append(trainer.global_step) or {})
    model, family = pv.models.mlp((6,), 2, widths=(4,)), pv.DiagonalNormal(2)
    guide = pv.AmortizedGuide(family, pv.nets.MLP((6,), (4,), widths=(4,)))
    data = pv.data.Dataset("coins", "drawn", *torch.rand(3, 20, 6).round())
    pv.training.fit(model, guide, data, epochs=epochs, batch_size=10, progress=False, run_dir=tmp_path)
    assert found == [2 * epoch for epoch in drawn]
