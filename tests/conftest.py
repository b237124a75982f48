"""One thread, fixed seeds, and the small things that many tests need."""

import inspect
import os
import tempfile
from collections.abc import Iterator

import pytest
import torch

import pyrovae as pv
from pyrovae import testing
from pyrovae.config import COMPONENTS

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start: threads beside busy cores spin
_CACHE = tempfile.TemporaryDirectory(prefix="pyrovae-cache-")
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's clusters listen to loopback alone
os.environ["PYROVAE_CACHE"] = (
    _CACHE.name
)  # nothing is written into a home folder, here or in processes that tests start

X_SHAPE, Z_DIM = (1, 6, 5), 3
GUIDES = sorted(COMPONENTS["guide"])
# Those over one site, of any model; families over several have tests of their own.
FAMILIES = sorted(
    n for n, make in COMPONENTS["family"].items() if n != "joint" and "model" not in inspect.signature(make).parameters
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("PYROVAE_TEST_DEVICE", "cuda") == "cuda" and not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU, and torch finds none"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_guide(name: str, family: str | pv.Family, model: torch.nn.Module, **refiner: object) -> pv.Guide:
    """Any guide by its YAML name, over a small dense encoder; the family by name too, or itself."""
    make, q = COMPONENTS["guide"][name], COMPONENTS["family"][family](Z_DIM) if isinstance(family, str) else family
    parts = {
        "model": lambda: model,
        "family": lambda: q,
        "encoder": lambda: pv.nets.MLP(X_SHAPE, (q.num_params,), widths=(8,)),
        "refiner": lambda: pv.SVIRefiner(**{"num_steps": 3, **refiner}),
    }
    return make(*[parts[name]() for name in inspect.signature(make.__init__).parameters if name in parts])


def encoder_loss(kind: str, guide: pv.RefinedGuide, x: torch.Tensor, inferred: pv.Inferred) -> torch.Tensor:
    """What teaches the proposal, summed."""
    guide.encoder_loss = kind
    (loss,) = guide.taught(x, inferred, 1.0).teaching
    return loss.sum()


@pytest.fixture
def model() -> pv.VAE:
    return pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,))


@pytest.fixture
def x() -> torch.Tensor:
    return (torch.rand(7, *X_SHAPE) < 0.4).float()


@pytest.fixture
def interpreted() -> Iterator[None]:
    """Captured graphs run operation by operation."""
    with testing.interpreted():
        yield


def tiny_images() -> pv.data.Dataset:
    """A tiny data set: 40 training images."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, *X_SHAPE), dtype=torch.uint8, generator=generator)
    return pv.data.Dataset("tiny", "random pixels", pixels[:40], pixels[40:50], pixels[50:], "dynamic")


@pytest.fixture
def images() -> pv.data.Dataset:
    return tiny_images()
