"""Where training starts, and what is said of data and latents that it may go wrong with."""

import copy
import math

import pytest
import torch
from conftest import X_SHAPE, Z_DIM
from torch import nn

import pyrovae as pv
from pyrovae.config import COMPONENTS, build_data, check, fit_arguments
from pyrovae.config.describe import described
from pyrovae.inference import Terms
from pyrovae.models import likelihoods
from pyrovae.training import start_from_data
from pyrovae.training.checks import hint_at_bright_images, warn_if_unused
from pyrovae.training.scores import SplitStatistics

LIKELIHOODS = sorted(COMPONENTS["likelihood"])
COUNTS = torch.tensor([[0.0, 1.0, 5.0, 2.0], [2.0, 0.0, 7.0, 3.0]])


def counts_data() -> pv.data.Dataset:
    return pv.data.Dataset("counts", "made", COUNTS.repeat(10, 1), COUNTS, COUNTS)


def amortized(model, x_shape, make=pv.nets.MLP, **net):
    return pv.AmortizedGuide(pv.DiagonalNormal(Z_DIM), make(x_shape, (2 * Z_DIM,), **net))


def halfway(x: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """A pseudo-count of as many datapoints as there are, whose entries are all the mean."""
    return (own + x.mean()) / 2


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_link_gives_the_h_of_a_mean(name, dtype):
    likelihood = COMPONENTS["likelihood"][name](1)
    mean = torch.linspace(0.1, 0.9, 81, dtype=dtype)
    h = likelihood.link(mean)
    assert h.dtype == dtype
    torch.testing.assert_close(likelihood.elementwise(h).mean, mean, rtol=2e-5, atol=2e-5)
    assert likelihood.link(torch.tensor([0.0, 1.0], dtype=dtype)).isfinite().all()


def test_an_unknown_link_changes_nothing(images):
    class Own(likelihoods.Bernoulli):
        def link(self, mean):
            return None

    model = pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,), likelihood=Own())
    before = copy.deepcopy(model.state_dict())
    start_from_data(model, images)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


@pytest.mark.parametrize("widths", [(8,), ()])
def test_a_dense_decoder_starts_halfway_between_the_mean_of_each_pixel_and_of_all(widths, images):
    model = pv.models.mlp(X_SHAPE, Z_DIM, widths=widths)
    grey, before = images.train.float() / 255, copy.deepcopy(model.decoder)
    start_from_data(model, images)
    with torch.no_grad():
        before.layers[-1].bias.copy_(halfway(grey, grey.mean(0)).logit().flatten())
    z = torch.randn(5, Z_DIM)
    torch.testing.assert_close(model.decoder(z), before(z))


def test_a_convolutional_decoder_starts_so_by_channel():
    x = torch.rand(3, 20, 3, 8, 8) * torch.tensor([0.2, 0.5, 1.0])[:, None, None]
    model = pv.models.conv((3, 8, 8), Z_DIM, channels=(4,), widths=(8,))
    start_from_data(model, pv.data.Dataset("colours", "drawn", *x))
    own = halfway(x[0], x[0].mean((0, 2, 3)))
    torch.testing.assert_close(model.decoder.convolutions[-1].bias.detach(), own.logit())


def test_the_bottom_of_several_layers_starts_so_and_the_others_as_they_are():
    model = pv.models.hierarchical_mlp((4,), (Z_DIM, 2), widths=(8,), likelihood=likelihoods.Poisson(1))
    before = copy.deepcopy(model.state_dict())
    start_from_data(model, counts_data())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder.layers.2.bias"}
    torch.testing.assert_close(model.decoder.layers[2].bias.detach(), halfway(COUNTS, COUNTS.mean(0)).log())


def test_other_decoders_are_left_alone():
    no_bias, positive = nn.Linear(Z_DIM, 4, bias=False), nn.Sequential(nn.Linear(Z_DIM, 4), nn.Softplus())
    two_numbers = nn.Sequential(nn.Linear(Z_DIM, 8), nn.Unflatten(-1, (2, 4)))
    for decoder in (no_bias, positive, two_numbers, nn.Linear(Z_DIM, 8)):
        model = pv.VAE(pv.models.priors.StandardNormal(Z_DIM), decoder, likelihoods.Poisson(1))
        before = copy.deepcopy(model.state_dict())
        start_from_data(model, counts_data())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_data_without_an_average_change_nothing(images):
    class Plain:
        x_shape, batches = images.x_shape, images.batches

    model = pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,))
    guide, before = amortized(model, X_SHAPE), copy.deepcopy(model.state_dict())
    metrics = pv.training.fit(model, guide, Plain(), epochs=1, lr=1e-9, start_from_data=True, progress=False)
    assert math.isfinite(metrics["val/elbo"])
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=1e-6)


def test_the_elbo_starts_higher():
    data = pv.data.MNIST(source="embedded")
    x, elbo = data.take("val", 100)[0], []
    for start in (False, True):
        torch.manual_seed(0)
        model = pv.models.mlp((1, 28, 28), Z_DIM, widths=(8,))
        guide = amortized(model, (1, 28, 28), widths=(8,))
        if start:
            start_from_data(model, data)
        elbo.append(pv.elbo_terms(model, guide.family, x, guide.infer(x).params).elbo().mean().item())
    assert elbo[1] > elbo[0] + 200  # of 784 pixels at log 2 each, to their entropy and a half


def trained(folder, images, epochs, **options):
    torch.manual_seed(0)
    model = pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,))
    guide = amortized(model, X_SHAPE, widths=(8,))
    options |= {"lr": 1e-2, "lr_schedule": "constant", "run_dir": folder, "progress": False}
    pv.fit(model, guide, images, epochs=epochs, batch_size=10, **options)
    return model, guide


def test_a_resume_does_not_start_again_and_a_run_is_loaded_as_it_was(images, tmp_path):
    whole, guide = trained(tmp_path / "whole", images, 4, start_from_data=True)
    trained(tmp_path / "cut", images, 2, start_from_data=True)
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    resumed, again = trained(tmp_path / "cut", images, 4, start_from_data=True, resume=last)
    for one, other in ((whole, resumed), (guide, again)):
        torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=0, atol=0)
    loaded = pv.load(tmp_path / "cut")
    assert loaded.config.train.start_from_data
    x = torch.rand(5, *X_SHAPE).round()
    torch.testing.assert_close(loaded.infer(x).params, again.infer(x).params)


def test_in_python_a_start_is_asked_for(images, tmp_path):
    model, guide = trained(tmp_path, images, 1)
    assert not pv.load(tmp_path).config.train.start_from_data
    with torch.no_grad():
        model.decoder.layers[-1].bias.fill_(3.0)  # as one may have set it
    pv.fit(model, guide, images, epochs=1, lr=1e-9, progress=False)
    torch.testing.assert_close(model.decoder.layers[-1].bias.detach(), torch.full((30,), 3.0))


def test_a_run_from_yaml_starts_from_the_data():
    assert fit_arguments(check({}))["start_from_data"]
    assert not fit_arguments(check({"train": {"start_from_data": False}}))["start_from_data"]


def test_an_average_is_that_of_grey_values_in_the_training_split(images):
    torch.testing.assert_close(images.average(), (images.train.float() / 255).mean(0))


def test_inverted_images_are_one_minus_x(images):
    inverted = images.inverted()
    torch.testing.assert_close(inverted.average(), 1 - images.average())
    grey = pv.data.Dataset("grey", "drawn", images.train, images.val, images.test)
    for split in ("train", "val", "test"):
        x = grey.take(split)[0]
        torch.testing.assert_close(grey.inverted().take(split)[0], 1 - x)
        torch.testing.assert_close(grey.inverted().inverted().take(split)[0], x)
    x = torch.cat([next(iter(inverted.batches("train", 40, seed=seed))) for seed in range(60)])
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert (x.mean() - inverted.average().mean()).abs() < 0.01  # 72,000 draws: a standard error below 0.002
    centred = grey.inverted().normalized(pv.data.Centering())
    torch.testing.assert_close(centred.take("val")[0], 1 - grey.take("val")[0] - (1 - grey.average()))


def test_what_has_no_black_and_white_is_not_inverted():
    with pytest.raises(pv.data.DataError, match=r"invert is for images \(C, H, W\), and x is \(4,\)"):
        counts_data().inverted()
    x = torch.full((3, 10, 1, 4, 4), 3.0)
    with pytest.raises(pv.data.DataError, match=r"values in \[0, 1\].*the first is -2"):
        pv.data.Dataset("large", "made", *x).inverted()


def test_yaml_inverts_any_set_of_images():
    def read(**keys):
        return build_data(check({"dataset": {"name": "mnist", "source": "embedded", "binarize": "none", **keys},
                                 "model": {"likelihood": "continuous_bernoulli"}}))  # fmt: skip

    x = read().take("val", 5)[0]
    torch.testing.assert_close(read(invert=True).take("val", 5)[0], 1 - x)
    made = pv.data.MNIST(source="embedded").inverted()
    model = pv.models.mlp((1, 28, 28), Z_DIM, widths=(8,))
    config, missing = described(model, amortized(model, (1, 28, 28), widths=(8,)), made, {})
    assert config.dataset.invert
    assert not missing


def test_ink_on_paper_is_remarked_upon(images, recwarn):
    model, dark = pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,)), images.train // 4
    data = pv.data.Dataset("dark", "made", dark, images.val, images.test, "dynamic")
    hint_at_bright_images(model, data)
    hint_at_bright_images(pv.models.mlp(X_SHAPE, Z_DIM, likelihood=likelihoods.Normal()), data.inverted())
    assert not recwarn
    with pytest.warns(UserWarning, match="most pixels are white .*dataset.invert: true"):
        hint_at_bright_images(model, data.inverted())


@pytest.mark.parametrize(
    ("kl", "used", "says"),
    [(1.5, 3, True), (1.5, 50, False), (4.0, 0, True), (25.0, 30, False), (1.5, None, True), (3.0, None, False)],
)
def test_a_z_that_is_hardly_used_is_remarked_upon(kl, used, says, recwarn):
    warn_if_unused({"val/kl": kl, **({} if used is None else {"val/dims_in_use": used})}, pv.DiagonalNormal(50))
    assert bool(recwarn) == says
    if says:
        text = str(recwarn[0].message)
        assert f"KL {kl:.2g} nats" in text
        assert used is None or f"{used} of 50 dimensions above 0.1 nats" in text


def test_a_training_without_use_of_z_ends_with_a_word(images):
    model = pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,))
    guide = amortized(model, X_SHAPE, widths=(8,))
    with pytest.warns(UserWarning, match="z is hardly used: KL .* 0 of 3 dimensions above 0.1 nats"):
        metrics = pv.fit(model, guide, images, epochs=30, lr=1e-2, beta=20.0, progress=False)
    assert metrics["val/dims_in_use"] == 0


def test_dimensions_in_use_are_counted_by_kl_and_not_by_jitter():
    model, x = pv.models.mlp(X_SHAPE, 4, widths=(8,)), torch.ones(500, *X_SHAPE)
    loc = torch.randn(500, 4) * torch.tensor([1.5, 0.3, 0.3, 0.0])  # variance of the means 2.25, 0.09, 0.09, 0
    kl = pv.training.figures.kl_per_dim(model, pv.DiagonalNormal(4), x, torch.cat([loc, torch.zeros(500, 4)], 1))
    statistics, zeros = SplitStatistics(8, torch.device("cpu")), Terms(torch.zeros(500), torch.zeros(500))
    for part in (kl, 2 * kl):  # in two batches
        statistics.add(zeros, zeros, kl_per_dim=part, reverted=None, information=None)

    class Alone:
        def reduce(self, value, reduce_op):
            return value

    assert statistics.summary(Alone())["dims_in_use"] == 1
    torch.testing.assert_close(statistics.sums["kl_per_dim"][:4], 1500 * kl.double())
