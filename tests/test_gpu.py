"""What only a GPU shows: recorded graphs, waiting, mixed precision, NCCL. `pytest -m gpu -n 0`; benchmarks/gpu.sh runs it.

With PYROVAE_TEST_DEVICE=cpu the same tests run without CUDA, as far as they can, to try the tests themselves.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from conftest import X_SHAPE, Z_DIM, make_guide, tiny_images
from torch import nn

import pyrovae as pv
from pyrovae import testing
from pyrovae.capture import Capture, CaptureWarning, graph
from pyrovae.config import COMPONENTS
from pyrovae.inference import iwae
from pyrovae.training.loss import BatchLoss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings(f"error::{CaptureWarning.__module__}.{CaptureWarning.__name__}"),
]
DEVICE = torch.device(os.environ.get("PYROVAE_TEST_DEVICE", "cuda"))
IS_GPU = DEVICE.type == "cuda"
ACCELERATOR = "gpu" if IS_GPU else "cpu"
needs_cuda = pytest.mark.skipif(not IS_GPU, reason="about CUDA alone")
NETS = {
    "mlp": lambda: pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,)),
    "conv": lambda: pv.models.conv(X_SHAPE, Z_DIM, channels=(2, 4), widths=(8,)),
}
LOOPS = {
    "adam": {"lr": 0.05, "objective": pv.ELBO(num_particles=2)},
    "natural": {"optimizer": "natural", "lr": 0.1, "clip": 2.0, "lr_decay": "linear"},
    "adaptive": {"adapt": 0.3},
}


@pytest.fixture(autouse=True)
def _no_compiler() -> Iterator[None]:
    """Off the GPU, for which there would be no kernels to see."""
    with nullcontext() if IS_GPU else testing.interpreted():
        yield


@pytest.fixture
def recordings(monkeypatch):
    """The shapes of the arguments of every CUDA graph that is recorded."""
    made, record = [], graph._recorded

    def counted(function, fixed, args):
        made.append([tuple(arg.shape) for arg in args])
        return record(function, fixed, args)

    monkeypatch.setattr(graph, "_recorded", counted)
    return made


@contextmanager
def no_waiting() -> Iterator[None]:
    """Inside, an operation that waits for the GPU is an error."""
    if IS_GPU:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if IS_GPU:
            torch.cuda.set_sync_debug_mode("default")


def batch(size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(size, *X_SHAPE) < 0.4).to(DEVICE, dtype)


def parts(net: str = "mlp", family: str = "diagonal_normal", dtype: torch.dtype = torch.float32) -> tuple:
    return NETS[net]().to(DEVICE, dtype), COMPONENTS["family"][family](Z_DIM).to(DEVICE, dtype)


def seeded(choice: str, run, *args, **kwargs):
    torch.manual_seed(1)
    with pv.engine(choice):
        return run(*args, **kwargs)


# Captured graphs.


@pytest.mark.parametrize(
    ("net", "family", "loop"),
    [
        *(("mlp", "diagonal_normal", loop) for loop in LOOPS),
        ("mlp", "full_normal", "natural"),
        ("mlp", "flow", "adam"),
        ("conv", "low_rank_normal", "adam"),
    ],
)
def test_a_captured_loop_is_the_eager_one(net, family, loop):
    model, q = parts(net, family, torch.float64)
    refiner = pv.SVIRefiner(num_steps=5, **LOOPS[loop])
    for size in (7, 64, 1):
        x, start = batch(size, torch.float64), 0.3 * torch.randn(size, q.num_params, dtype=torch.float64, device=DEVICE)
        eager, compiled = (seeded(choice, refiner, model, q, x, start, record=True) for choice in ("eager", "compiled"))
        assert (eager.path[-1] - start).abs().max() > 1e-3  # something happened
        torch.testing.assert_close(compiled.path, eager.path, atol=1e-8, rtol=0)
        torch.testing.assert_close(compiled.terms, eager.terms, atol=1e-7, rtol=1e-9)
        assert torch.equal(compiled.reverted, eager.reverted)


def test_replays_draw_anew_and_repeat_by_seed():
    model, q = parts()
    refiner, x = pv.SVIRefiner(num_steps=3, safeguard=False), batch(9)
    start = torch.zeros(9, q.num_params, device=DEVICE)
    first, again = (seeded("compiled", refiner, model, q, x, start).params for _ in range(2))
    with pv.engine("compiled"):
        other = refiner(model, q, x, start).params
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_ragged_batches_and_moving_weights(recordings):
    model, q = parts(dtype=torch.float64)
    refiner, optimizer = pv.SVIRefiner(num_steps=3, safeguard=False), torch.optim.SGD(model.parameters(), lr=0.1)
    for size in (64, 64, 37, 64, 37, 1):
        x, start = batch(size, torch.float64), torch.zeros(size, q.num_params, dtype=torch.float64, device=DEVICE)
        eager, compiled = (seeded(choice, refiner, model, q, x, start).params for choice in ("eager", "compiled"))
        torch.testing.assert_close(compiled, eager, atol=1e-9, rtol=0)
        for param in model.parameters():
            param.grad = torch.randn_like(param)
        optimizer.step()
    assert len(recordings) == (3 if IS_GPU else 0)  # a size each, whatever the weights


def test_weights_that_went_elsewhere_are_found(recordings):
    model, q = parts(dtype=torch.float64)
    refiner = pv.SVIRefiner(num_steps=3, safeguard=False)
    x, start = batch(8, torch.float64), torch.zeros(8, q.num_params, dtype=torch.float64, device=DEVICE)
    kept = []  # or the next weights might lie in the place of these
    for _ in range(2):
        eager, compiled = (seeded(choice, refiner, model, q, x, start).params for choice in ("eager", "compiled"))
        torch.testing.assert_close(compiled, eager, atol=1e-9, rtol=0)
        for param in model.parameters():
            kept.append(param.data)
            param.data = param.data + 1.0
    assert len(recordings) == (2 if IS_GPU else 0)


def test_datapoints_that_stop():
    model, q = parts(dtype=torch.float64)
    refiner = pv.SVIRefiner(num_steps=33, lr=0.05, stop_below=0.05, safeguard=False)
    x, start = batch(40, torch.float64), torch.zeros(40, q.num_params, dtype=torch.float64, device=DEVICE)
    eager, compiled = (seeded(choice, refiner, model, q, x, start, record=True) for choice in ("eager", "compiled"))
    torch.testing.assert_close(compiled.path, eager.path, atol=1e-8, rtol=0)
    moved = (eager.path[1:] != eager.path[:-1]).any(-1).sum(0)  # (B,) steps taken
    assert moved.min() < 33, "nobody stopped"


def test_a_number_of_the_host_that_changes_is_seen():
    program, x = nn.Module(), torch.ones(3, 2, device=DEVICE)
    program.gain = torch.tensor(2.0)
    captured = Capture(lambda x: (x * program.gain,), program)
    with pv.engine("compiled"):
        for value in (2.0, 5.0):
            program.gain.fill_(value)
            assert torch.equal(captured(x)[0], value * x)


def test_gradients_through_the_loop():
    """They come back in a thread of autograd's for the device, where each step is replayed on its own noise."""
    model, q = parts(dtype=torch.float64)
    climbed = {"optimizer": "sgd", "lr": 0.05, "objective": pv.ELBO(path_gradient=False)}
    refiner = pv.SVIRefiner(num_steps=4, gradient="unrolled", safeguard=False, **climbed)
    x, found = batch(6, torch.float64), []
    for choice in ("eager", "compiled"):
        start = torch.zeros(6, q.num_params, dtype=torch.float64, device=DEVICE, requires_grad=True)
        inferred = seeded(choice, refiner, model, q, x, start)
        inputs = [start, *model.decoder.parameters()]
        found.append(torch.autograd.grad(inferred.params.square().sum(), inputs))
    torch.testing.assert_close(*found, atol=1e-8, rtol=1e-7)


def test_a_bound_of_many_draws():
    model, q = parts(dtype=torch.float64)
    params = 0.3 * torch.randn(7, q.num_params, dtype=torch.float64, device=DEVICE)
    x = batch(7, torch.float64)
    eager, compiled = (seeded(choice, iwae, model, q, x, params, 300) for choice in ("eager", "compiled"))
    torch.testing.assert_close(compiled, eager, atol=1e-9, rtol=0)


# Waiting and memory.


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("family", ["diagonal_normal", "full_normal"])
def test_no_step_of_a_loop_waits(family, loop):
    model, q = parts(family=family)
    refiner, x = pv.SVIRefiner(num_steps=5, **LOOPS[loop]), batch(7)
    start = torch.zeros(7, q.num_params, device=DEVICE)
    seeded("compiled", refiner, model, q, x, start)  # compiles and records
    with no_waiting(), pv.engine("compiled"):
        params = refiner(model, q, x, start).params
    assert params.isfinite().all()


def test_no_loss_waits():
    model, _ = parts()
    guide = make_guide("semi_amortized", "diagonal_normal", model).to(DEVICE)
    loss, x = BatchLoss(pv.ELBO()(model, guide)), batch(16)
    for checked in (nullcontext(), no_waiting()):  # at first it compiles and records
        with checked, pv.engine("compiled"):
            loss(x)[0].backward()
    assert all(param.grad.isfinite().all() for param in model.parameters())


@needs_cuda
def test_memory_does_not_grow_with_calls():
    model, q = parts()
    refiner, x = pv.SVIRefiner(num_steps=5), batch(32)
    start, held = torch.zeros(32, q.num_params, device=DEVICE), []
    with pv.engine("compiled"):
        for _ in range(20):
            refiner(model, q, x, start)
            held.append(torch.cuda.memory_allocated())
    assert held[-1] == held[1]


@needs_cuda
@pytest.mark.filterwarnings(f"default::{CaptureWarning.__module__}.{CaptureWarning.__name__}")
def test_draws_go_on_after_a_program_that_waits():
    """Such a program runs eagerly; a recording that broke would leave the generator refusing every draw."""
    captured = Capture(lambda x: (torch.linalg.cholesky(x) + torch.randn_like(x),))
    x = torch.eye(3, device=DEVICE)[None]
    torch.manual_seed(0)
    expected = torch.linalg.cholesky(x) + torch.randn_like(x)
    torch.manual_seed(0)
    with pv.engine("compiled"):
        torch.testing.assert_close(captured(x)[0], expected)
    assert torch.randn(3, device=DEVICE).isfinite().all()


# Training.


def trained(guide: str = "semi_amortized", choice: str = "compiled", **options) -> tuple[dict, dict]:
    torch.manual_seed(0)
    model = NETS["mlp"]()
    made = make_guide(guide, "diagonal_normal", model)
    how = {"batch_size": 16, "epochs": 3, "lr": 0.01, "engine": choice, "progress": False, "accelerator": ACCELERATOR}
    metrics = pv.fit(model, made, tiny_images(), **{**how, **options})
    weights = {**model.state_dict(), **{f"guide.{name}": value for name, value in made.state_dict().items()}}
    return {name: value.detach().cpu() for name, value in weights.items()}, metrics


def assert_trained(weights: dict, metrics: dict) -> None:
    assert all(value.isfinite().all() for value in weights.values())
    start, _ = trained(choice="eager", lr=1e-9)
    assert max(float((weights[name] - start[name]).abs().max()) for name in weights) > 0.01
    assert metrics["test/elbo"] > -30


@pytest.mark.parametrize("guide", ["amortized", "semi_amortized", "learned_iterative"])
def test_training_is_the_same_under_either_engine(guide):
    (eager, _), (compiled, _) = (trained(guide, choice) for choice in ("eager", "compiled"))
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, atol=2e-4, rtol=0, msg=name)


def test_bfloat16():
    weights, metrics = trained(use_amp=True)
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert_trained(weights, metrics)
    assert metrics["test/elbo"] == pytest.approx(trained()[1]["test/elbo"], abs=1.0)


@needs_cuda
def test_float16_with_its_scaler(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: False)
    unscaled, scale = [], torch.amp.GradScaler.step

    def step(self, optimizer, *args, **kwargs):
        unscaled.append(self.get_scale())
        return scale(self, optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.amp.GradScaler, "step", step)
    weights, metrics = trained(use_amp=True)
    assert unscaled, "no scaler was at work"
    assert_trained(weights, metrics)


class PulledPlugError(Exception):
    pass


def test_a_resumed_run_ends_where_the_other_did(tmp_path, monkeypatch):
    """On a CPU to the bit; on a GPU as exactly as its kernels repeat themselves."""
    whole, _ = trained(run_dir=tmp_path / "whole", checkpoint_every=2)
    step = pv.LitVAE.training_step

    def pulled(self, batch, batch_idx):
        if self.global_step == 5:
            raise PulledPlugError
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(pv.LitVAE, "training_step", pulled)
        with pytest.raises(PulledPlugError):
            trained(run_dir=tmp_path / "cut", checkpoint_every=2)
    last: Path = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    torch.manual_seed(99)
    resumed, _ = trained(run_dir=tmp_path / "cut", checkpoint_every=2, resume=last)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-6 if IS_GPU else 0, rtol=0, msg=name)


def test_ddp_of_one_process():
    """With NCCL on a GPU, whose watchdog calls CUDA while graphs are recorded."""
    try:
        alone, _ = trained()
        weights, _ = trained(strategy="ddp", devices=1)
        used = torch.distributed.is_initialized() and torch.distributed.get_backend()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert used in (("nccl",) if IS_GPU else ("gloo", False))
    for name, value in alone.items():
        torch.testing.assert_close(weights[name], value, atol=2e-4, rtol=0, msg=name)
