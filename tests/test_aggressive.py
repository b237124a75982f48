"""The guide ahead of the model, for as long as z tells more and more of x."""

import csv
import math

import pytest
import pytorch_lightning as pl
import torch
from conftest import FAMILIES, X_SHAPE, Z_DIM
from test_training import BATCHES, QUIET, fresh

import pyrovae as pv
from pyrovae.config import COMPONENTS
from pyrovae.inference import mutual_information
from pyrovae.training import AggressiveTraining, LitVAE
from pyrovae.training.aggressive import Turns

# The estimate of mutual information.


def test_information_of_normal_means_is_the_closed_form():
    """μ ~ N(0, τ²) and z | μ ~ N(μ, s²) make z ~ N(0, τ² + s²)."""
    torch.manual_seed(0)
    tau, scale, num, d = 2.0, 0.5, 2500, 2
    params = torch.cat([tau * torch.randn(num, d), torch.full((num, d), math.log(scale))], -1).double()
    rows = mutual_information(pv.DiagonalNormal(d), params)
    exact = 0.5 * d * math.log(1 + tau**2 / scale**2)
    assert rows.shape == (num,)
    assert abs(rows.mean().item() - exact) < 5 * rows.std().item() / num**0.5
    assert rows.std() / num**0.5 < 0.03


@pytest.mark.parametrize("family", FAMILIES)
def test_information_is_none_where_q_forgets_x_and_log_b_where_it_tells_all(family):
    q = COMPONENTS["family"][family](Z_DIM).double()
    params = 0.1 * torch.randn(1, q.num_params).double().expand(4, -1).clone()
    torch.testing.assert_close(mutual_information(q, params), torch.zeros(4).double(), atol=1e-10, rtol=0)
    logits = q.num_components if family == "mixture_normal" else 0
    num_locations = max(logits, 1) * Z_DIM
    params[:, logits : logits + num_locations] += 1000 * torch.arange(4)[:, None]
    torch.testing.assert_close(mutual_information(q, params), torch.full((4,), math.log(4)).double())


# Whose turn it is.


def turns_of(losses: list[float], **settings: int) -> list[str]:
    turns, order = Turns(AggressiveTraining(**settings)), []
    for loss in losses:
        order.append("model" if turns.models else "guide")
        turns.after_step(torch.tensor(loss), lambda total: total)
    return order


def test_the_model_steps_once_a_window_is_no_better():
    falling, level = [9.0, 8, 7, 6, 5, 4], [4.5, 4.5]
    assert turns_of([*falling, *level, 1, 1, 1], window=2) == 8 * ["guide"] + ["model"] + 2 * ["guide"]
    assert turns_of(list(range(9, 0, -1)), window=2, max_steps=3) == 2 * (3 * ["guide"] + ["model"]) + ["guide"]


def test_turns_end_for_good_when_the_information_falls():
    for patience, expected in ((1, [True, True, False, False, False]), (2, [True, True, True, False, False])):
        turns, active = Turns(AggressiveTraining(patience=patience)), []
        for information in (0.0, 1.0, 1.0, math.nan, 5.0):
            turns.after_epoch(information)
            active.append(turns.active)
        assert active == expected
    assert not Turns(None).active


class Watched(LitVAE):
    """Remembers who moved at each step, moments included."""

    def on_train_start(self):
        super().on_train_start()
        self.moved, self.before = [], self.snapshot()

    def snapshot(self):
        state = self.trainer.optimizers[0].state
        sides = []
        for side in (self.model, self.guide):
            params = list(side.parameters())
            moments = [state[p]["exp_avg"].clone() for p in params if p in state]
            sides.append([*(p.detach().clone() for p in params), *moments])
        return sides

    def on_train_batch_end(self, *args):
        now = self.snapshot()
        same = [
            len(a) == len(b) and all(torch.equal(*pair) for pair in zip(a, b, strict=True))
            for a, b in zip(self.before, now, strict=True)
        ]
        self.moved.append([name for name, still in zip(("model", "guide"), same, strict=True) if not still])
        self.before = now


@pytest.mark.parametrize("name", ["amortized", "semi_amortized"])
def test_one_side_moves_at_a_time_until_the_phase_ends(name, monkeypatch):
    information = iter([1.0, 0.5])  # falls at the end of the second epoch
    monkeypatch.setattr(
        "pyrovae.training.scores.mutual_information",
        lambda family, params: params.new_full((1,), next(information, 0.0)),
    )
    lit = Watched(*fresh(name), aggressive=AggressiveTraining(window=1, max_steps=2))
    val = BATCHES.dataset[0][None]
    trainer = pl.Trainer(max_epochs=3, num_sanity_val_steps=0, **QUIET)
    trainer.fit(lit, BATCHES, torch.utils.data.DataLoader(val, batch_size=None))
    assert lit.moved[:12] == 4 * [["guide"], ["guide"], ["model"]]
    assert lit.moved[12:] == 6 * [["model", "guide"]]


def test_what_both_sides_share_learns_with_the_guide():
    """A VampPrior's encoder is the guide's: the model may stand still on the guide's turns, the encoder may not."""
    family = pv.DiagonalNormal(Z_DIM)
    encoder = pv.nets.MLP(X_SHAPE, (family.num_params,), widths=(8,))
    prior = pv.models.priors.VampPrior(X_SHAPE, family, encoder, num_components=4)
    model = pv.VAE(prior, pv.nets.MLP((Z_DIM,), X_SHAPE, widths=(8,)), pv.models.likelihoods.Bernoulli())
    lit = LitVAE(model, pv.AmortizedGuide(family, encoder), aggressive=AggressiveTraining(window=99, max_steps=3))
    own = {"encoder": encoder.parameters(), "decoder": model.decoder.parameters(), "prior": [prior.pseudo_inputs]}
    own, moved = {name: list(params) for name, params in own.items()}, []

    class Watch(pl.Callback):
        def on_train_batch_start(self, *_):
            self.before = {name: [p.detach().clone() for p in params] for name, params in own.items()}

        def on_train_batch_end(self, *_):
            moved.append({n for n, params in own.items() if not all(map(torch.equal, params, self.before[n]))})

    pl.Trainer(max_epochs=1, callbacks=[Watch()], **QUIET).fit(lit, BATCHES)
    assert moved == [{"encoder"}, {"encoder"}, {"encoder"}, {"decoder", "prior"}, {"encoder"}, {"encoder"}]


def test_what_is_logged(images, tmp_path):
    model, guide = fresh("amortized")
    with torch.no_grad():
        guide.encoder.layers[-1].weight.mul_(10)  # so that z tells of x, more than the estimate's noise
    metrics = pv.fit(
        model, guide, images, epochs=1, batch_size=20, log_every=1, aggressive=AggressiveTraining(), run_dir=tmp_path,
        progress=False,
    )  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [float(row["train/aggressive"]) for row in rows if row["train/aggressive"]] == [1.0, 1.0]
    assert 0 < metrics["val/mutual_information"] < math.log(10)
    assert "val/mutual_information" not in pv.fit(*fresh("amortized"), images, epochs=1, progress=False)


class Fixed(pv.Guide):
    """No parameters at all."""

    def infer(self, x, beta=1.0, record=False):
        params = self.family.init_params().expand(x.shape[0], -1)
        return pv.Inferred(params, params)


def test_errors_name_value_and_remedy(model):
    with pytest.raises(ValueError, match="window must be >= 1, got 0"):
        AggressiveTraining(window=0)
    with pytest.raises(ValueError, match="aggressive must be a AggressiveTraining, got True"):
        LitVAE(*fresh("amortized"), aggressive=True)
    with pytest.raises(ValueError, match="aggressive needs a guide with parameters of its own, got Fixed"):
        LitVAE(model, Fixed(pv.DiagonalNormal(Z_DIM)), aggressive=AggressiveTraining())
    guide = fresh("amortized")[1]
    guide.family.density = "none"
    with pytest.raises(ValueError, match="aggressive needs a family with a density for any z, got DiagonalNormal"):
        LitVAE(model, guide, aggressive=AggressiveTraining())


@pytest.mark.parametrize(("value", "window"), [("false", None), ("true", 10), ("{window: 5}", 5)])
def test_yaml(value, window, tmp_path):
    from pyrovae.config import fit_arguments, load_config

    (tmp_path / "mine.yaml").write_text(f"train: {{aggressive: {value}}}")
    made = fit_arguments(load_config(tmp_path / "mine.yaml"))["aggressive"]
    assert (made is None) == (window is None)
    assert made is None or made.window == window
