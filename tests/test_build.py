"""Every configuration file builds, and takes two steps."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import pyrovae as pv
from pyrovae.config import COMPONENTS, ConfigError, build_data, build_model, check, fit_arguments, load_config
from pyrovae.data import DataError, Dataset
from pyrovae.training import CheckpointError

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_takes_two_steps(path):
    config = load_config(path)
    shape = (1, 28, 28) if config.dataset.name == "mnist" else (1, 32, 32)
    model, guide = build_model(config, shape)
    options = fit_arguments(config)
    lit = pv.LitVAE(model, guide, lr=options["lr"], beta=options["beta"])
    x = torch.rand(2, 4, *shape)
    if config.model.likelihood.type == "bernoulli":
        x = (x < 0.3).float()
    before = [p.clone() for p in lit.parameters()]
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(lit, torch.utils.data.DataLoader(x, batch_size=None))
    assert trainer.global_step == 2
    assert not any(torch.equal(a, b) for a, b in zip(before, lit.parameters(), strict=True))


def test_first_line_of_a_config_is_the_command_that_runs_it():
    for path in CONFIGS:
        first = path.read_text().splitlines()[0]
        expected = "" if path.stem == "default" else f" --config configs/{path.name}"
        assert first.startswith(f"# python scripts/train.py{expected}")


@pytest.mark.parametrize("decoder", sorted(COMPONENTS["decoder"]))
@pytest.mark.parametrize("encoder", sorted(COMPONENTS["encoder"]))
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 30), (2, 5, 1)])
def test_encoders_and_decoders_mix_at_any_image_size(encoder, decoder, shape):
    config = check({"model": {"encoder": encoder, "decoder": decoder, "z_dim": 4}})
    model, guide = build_model(config, shape)
    x = torch.zeros(3, *shape)
    assert model.decode(torch.zeros(5, 3, 4)).mean.shape == (5, 3, *shape)
    assert torch.isfinite(pv.ELBO(num_particles=2)(model, guide)(x))


@pytest.mark.parametrize("prior", sorted(COMPONENTS["prior"]))
@pytest.mark.parametrize("likelihood", sorted(COMPONENTS["likelihood"]))
def test_priors_and_likelihoods(prior, likelihood):
    prior_block = {"type": prior, "num_components": 7} if prior == "vamp_prior" else prior
    config = check({"model": {"type": "ivae_iterative", "prior": prior_block, "likelihood": likelihood, "z_dim": 4}})
    model, guide = build_model(config, (1, 6, 6))
    support = COMPONENTS["likelihood"][likelihood].support
    z = model.prior().sample((9,))
    x = model.decode(z).sample()
    assert support.check(x).all()
    loss = pv.ELBO()(model, guide)(x)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_densities_are_normalised():
    h = torch.linspace(-4, 4, 9).double()
    x = torch.linspace(0, 1, 20001).double()[:, None]
    density = pv.models.likelihoods.ContinuousBernoulli(0)(h).log_prob(x).exp()
    torch.testing.assert_close(torch.trapezoid(density, x, dim=0), torch.ones_like(h), rtol=1e-5, atol=0)
    mixture = COMPONENTS["prior"]["mixture_normal"](1, num_components=3)()
    grid = torch.linspace(-12, 12, 20001)[:, None]
    assert torch.trapezoid(mixture.log_prob(grid).exp(), grid[:, 0]).item() == pytest.approx(1, abs=1e-3)


def test_constructor_errors_become_config_errors():
    config = check({"model": {"encoder": "conv", "z_dim": 4}})
    with pytest.raises(
        ConfigError, match=r"encoder: in_shape must be \(channels, height, width\), got \(7,\); use MLP"
    ):
        build_model(config, (7,))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model": {"z_dim": 4}, "guide": "svi"}, "mixes .* in guide svi none gives λ; use guide amortized"),
        ({"model": {"type": "vae_hierarchical"}, "guide": {"family": "ladder"}}, "is for one latent layer"),
        ({"guide": {"family": "flow"}}, "takes family flow a pass a dimension; use another"),
    ],
)
def test_a_prior_of_posteriors_needs_posteriors_that_score(values, reason):
    config = check({**values, "model": {**values.get("model", {}), "prior": "vamp_prior"}})
    with pytest.raises(ConfigError, match=f"model.prior: vamp_prior .*{reason}"):
        build_model(config, (1, 6, 6))


def test_data_outside_the_support_is_refused():
    with pytest.raises(DataError, match="outside the support of Bernoulli, 0 and 1; set dataset.binarize: dynamic"):
        build_data(check({"dataset": {"source": "embedded", "binarize": "none"}}))


@pytest.fixture
def run(tmp_path, images: Dataset):
    config = check({"model": {"type": "ivae_iterative", "z_dim": 3}, "guide": {"refiner": {"num_steps": 2}}})
    model, guide = build_model(config, images.x_shape)
    pv.fit(model, guide, images, epochs=2, batch_size=20, run_dir=tmp_path, progress=False)
    import yaml

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return tmp_path, model, guide


def test_load(run, images):
    folder, model, guide = run
    trained = pv.load(folder)
    x = next(iter(images.batches("test", 5)))
    for a, b in zip((*model.parameters(), *guide.parameters()), (*trained.model.parameters(), *trained.guide.parameters()), strict=True):  # fmt: skip
        assert torch.equal(a, b)
    inferred = trained.infer(x)
    assert inferred.params.shape == (5, 6)
    torch.manual_seed(1)
    reconstruction = trained.reconstruct(x)
    torch.manual_seed(1)
    assert torch.equal(reconstruction, model.decode(guide.family(guide.infer(x).params).mean).mean)
    assert trained.sample(4).shape == (4, *images.x_shape)
    assert trained.posterior(x).event_shape == (3,)


def test_load_says_what_it_wanted(run):
    (run[0] / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match="holds no config.yaml; name a folder that train wrote"):
        pv.load(run[0])
    (run[0] / "version_0").mkdir()
    with pytest.raises(CheckpointError, match="name a run, .*version_0 say"):
        pv.load(run[0])


@pytest.mark.parametrize("damage", ["missing", "truncated", "malicious", "foreign", "other"])
def test_load_refuses(run, damage, tmp_path):
    path = run[0] / "checkpoints" / "best.ckpt"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "malicious":

        class Bomb:
            def __reduce__(self):
                return (open, (str(tmp_path / "boom"), "w"))

        torch.save({"state_dict": Bomb()}, path)
    elif damage == "foreign":
        torch.save({"weights": 1}, path)
    else:
        text = (run[0] / "config.yaml").read_text()
        (run[0] / "config.yaml").write_text(text.replace("z_dim: 3", "z_dim: 4"))
    with pytest.raises(CheckpointError, match=r"best\.ckpt"):
        pv.load(run[0])
    assert not (tmp_path / "boom").exists()
