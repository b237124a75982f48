import copy

import pytest
import torch
from conftest import tiny_images
from test_training import assert_same, fresh, plug_pulled, state_of
from torch import nn

import pyrovae as pv
from pyrovae.training.optimizers import LEARNING_RATES, WEIGHT_DECAYS, Muon, lr_factor, make_optimizer, parted


def gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ConvTranspose2d(6, 4, 3), nn.Flatten(), nn.Linear(30, 20), nn.Linear(20, 5)
    )


def test_each_parameter_is_stepped_once_by_the_rule():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.rnn, self.names = net(), nn.GRU(3, 4), nn.Embedding(7, 3)
            self.again, self.table = self.layers[3], nn.Parameter(torch.zeros(5, 6))
            self.held = nn.Linear(3, 3).requires_grad_(False)

    module = Own()
    matrices, rest = parted(module)
    assert [id(p) for p in matrices] == [id(layer.weight) for layer in (*module.layers[:2], *module.layers[3:])]
    assert {id(p) for p in rest} == {id(p) for p in module.parameters() if p.requires_grad} - set(map(id, matrices))


def test_a_matrix_moves_along_the_orthogonal_factor_of_its_momentum_at_the_size_of_adams_steps():
    layer, lr = nn.Linear(48, 32, bias=False), 0.01
    optimizer, before, momentum = Muon(layer, lr), layer.weight.detach().clone(), torch.zeros(32, 48)
    for seed in range(3):
        gradients(layer, seed)
        momentum = momentum + (1 - 0.95) * (layer.weight.grad - momentum)  # up to a factor, which does not matter
        last, start = torch.lerp(layer.weight.grad, momentum, 0.95), layer.weight.detach().clone()
        optimizer.step()
    u, _, v = torch.linalg.svd(last, full_matrices=False)
    step = (start * (1 - lr * WEIGHT_DECAYS["muon"]) - layer.weight.detach()) / (0.2 * lr * 48**0.5)
    assert not torch.equal(start, before)
    singular = torch.linalg.svdvals(step)
    assert singular.min() > 0.5
    assert singular.max() < 1.4  # five iterations come near one, not to it
    assert torch.nn.functional.cosine_similarity(step.flatten(), (u @ v).flatten(), 0) > 0.95
    assert abs(step.norm() * 0.2 * 48**0.5 / (32 * 48) ** 0.5 - 0.2) < 0.05  # root mean square 0.2 η


def test_is_torchs_muon_and_adam():
    ours, theirs = net(), net()
    optimizer = Muon(ours, 0.01)
    matrices = [layer.weight for layer in theirs if hasattr(layer, "weight") and layer.weight.dim() == 2]
    biases = [layer.bias for layer in theirs if hasattr(layer, "bias")]
    both = [
        torch.optim.Muon(matrices, lr=0.01, momentum=0.95, weight_decay=0.03, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(biases, lr=0.01),
    ]
    for seed in range(4):
        gradients(ours, seed)
        gradients(theirs, seed)
        for each in [optimizer, *both]:
            each.step()
    for layer, other in zip(ours, theirs, strict=True):
        if isinstance(layer, nn.Linear):
            torch.testing.assert_close(layer.weight, other.weight)
        if hasattr(layer, "bias"):
            torch.testing.assert_close(layer.bias, other.bias)


def test_weights_stay_within_bounds_under_gradients_that_never_agree():
    """Steps of one size add up: without decay a matrix grows as the square root of their number, for ever."""
    norms = {}
    for decay in (0.0, 1.0):
        layer = nn.Linear(20, 20, bias=False)
        optimizer = make_optimizer(layer, "muon", 0.1, weight_decay=decay)
        norms[decay] = []
        for step in range(600):
            gradients(layer, step)
            optimizer.step()
            norms[decay] += [layer.weight.norm().item()] * (step in (299, 599))
    assert norms[0.0][1] > 1.3 * norms[0.0][0]
    assert norms[1.0][1] < 1.1 * norms[1.0][0]
    assert norms[1.0][1] < 0.2 * norms[0.0][1]


def test_a_kernel_moves_as_the_matrix_it_is():
    kernel, matrix = nn.Conv2d(3, 8, 5, bias=False), nn.Linear(75, 8, bias=False)
    with torch.no_grad():
        matrix.weight.copy_(kernel.weight.flatten(1))
    for module in (kernel, matrix):
        optimizer = Muon(module, 0.1)
        for seed in range(2):
            gradients(module, seed)
            optimizer.step()
    assert torch.equal(kernel.weight.flatten(1), matrix.weight)


@pytest.mark.parametrize("name", LEARNING_RATES)
def test_state_goes_through_a_checkpoint(name, tmp_path):
    whole, cut = net(), net()
    optimizers = [make_optimizer(module, name, 0.01) for module in (whole, cut)]
    for seed in range(4):
        if seed == 2:
            torch.save((optimizers[1].state_dict(), cut.state_dict()), tmp_path / "state")
            state, weights = torch.load(tmp_path / "state", weights_only=True)
            cut = net()
            cut.load_state_dict(weights)
            optimizers[1] = make_optimizer(cut, name, 0.5)
            optimizers[1].load_state_dict(state)
            assert all(group["lr"] == 0.01 for group in optimizers[1].param_groups)
        for module, optimizer in zip((whole, cut), optimizers, strict=True):
            gradients(module, seed)
            optimizer.step()
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_has_no_gradient_stays_with_its_momentum():
    module = net()
    optimizer = Muon(module, 0.1)
    gradients(module, 0)
    optimizer.step()
    before, state = [p.detach().clone() for p in module.parameters()], copy.deepcopy(optimizer.state_dict())
    optimizer.zero_grad()
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))
    for now, then in zip(optimizer.state_dict()["steps"], state["steps"], strict=True):
        for key in now["state"]:
            assert all(torch.equal(value, then["state"][key][name]) for name, value in now["state"][key].items())


def test_follows_a_module_to_other_tensors_and_its_rate():
    module, same = net(), net()
    first, second = Muon(module, 0.1), Muon(same, 0.3)
    for p in module.parameters():
        p.data = p.data.clone()  # as moving to another device does
    for optimizer, each in ((first, module), (second, same)):
        for group in optimizer.param_groups:
            group["lr"] = 0.2
        gradients(each, 0)
        optimizer.step()
    for a, b in zip(module.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_learning_rate_over_training():
    for schedule in ("constant", "cosine"):
        factors = [lr_factor(schedule, 0.25, k, 100) for k in range(100)]
        assert factors[0] == 0.04
        assert max(factors) > 0.85
        assert (factors[-1] < 1e-3) is (schedule == "cosine")
        assert [lr_factor(schedule, 0.0, 0, 9), lr_factor("constant", 0.0, 9, 9)] == [1.0, 1.0]


def test_muon_resumes_to_the_bit(tmp_path, monkeypatch):
    images, options = (
        tiny_images(),
        {"epochs": 3, "batch_size": 10, "checkpoint_every": 3, "progress": False, "optimizer": "muon"},
    )
    pv.fit(*fresh(), images, run_dir=tmp_path / "whole", **options)
    with plug_pulled(6, monkeypatch):
        pv.fit(*fresh(), images, run_dir=tmp_path / "cut", **options)
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    pv.fit(*fresh(), images, run_dir=tmp_path / "cut", resume=last, **options)
    assert_same(state_of(tmp_path / "cut")[1], state_of(tmp_path / "whole")[1])


def test_a_file_without_a_learning_rate_has_its_optimizers():
    from pyrovae.config import check

    rates = {name: check({"train": {"optimizer": name}}).model.lr for name in LEARNING_RATES}
    assert rates == LEARNING_RATES
    assert check({}).model.lr == LEARNING_RATES[check({}).train.optimizer]
    assert check({"model": {"lr": 0.5}, "train": {"optimizer": "adam"}}).model.lr == 0.5


def test_the_average_of_weights_is_kept_and_the_weights_train_on(tmp_path, monkeypatch):
    options = {"epochs": 3, "batch_size": 10, "progress": False, "engine": "eager"}
    plain, averaged = fresh("amortized"), fresh("amortized")
    average: dict[str, torch.Tensor] = {}
    step = pv.LitVAE.on_train_batch_end

    def follow(self, *args):
        step(self, *args)
        for name, value in self.state_dict().items():
            average[name] = torch.lerp(average[name], value, 0.25) if name in average else value.clone()

    monkeypatch.setattr(pv.LitVAE, "on_train_batch_end", follow)
    pv.fit(*plain, tiny_images(), run_dir=tmp_path / "plain", **options)
    monkeypatch.undo()
    pv.fit(*averaged, tiny_images(), run_dir=tmp_path / "averaged", ema_decay=0.75, **options)
    last = torch.load(tmp_path / "averaged" / "checkpoints" / "last.ckpt", weights_only=True)
    raw = torch.load(tmp_path / "plain" / "checkpoints" / "last.ckpt", weights_only=True)
    for name, value in average.items():
        torch.testing.assert_close(last["state_dict"][name], value)
        assert torch.equal(last["current_model_state"][name], raw["state_dict"][name])
    rows = [
        pv.training.callbacks.csv.DictReader((tmp_path / name / "metrics.csv").open()) for name in ("plain", "averaged")
    ]
    scores = [[row[key] for row in r if row[key]] for r, key in zip(rows, ("val/elbo", "val/elbo_raw"), strict=True)]
    assert scores[0] == scores[1]


def test_an_averaged_run_resumes_to_the_bit(tmp_path, monkeypatch):
    options = {"epochs": 3, "batch_size": 10, "checkpoint_every": 3, "progress": False, "ema_decay": 0.9}
    pv.fit(*fresh(), tiny_images(), run_dir=tmp_path / "whole", **options)
    with plug_pulled(6, monkeypatch):
        pv.fit(*fresh(), tiny_images(), run_dir=tmp_path / "cut", **options)
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    pv.fit(*fresh(), tiny_images(), run_dir=tmp_path / "cut", resume=last, **options)
    assert_same(state_of(tmp_path / "cut")[1], state_of(tmp_path / "whole")[1])
