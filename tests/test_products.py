"""Products with weights that stand still: packed where that repays, to the same numbers."""

import pyro
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.capture import Capture, products
from pyrovae.capture.graph import Graph
from pyrovae.inference import iwae

Z_DIM, SHAPE = 16, (1, 14, 14)

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, products.PACK)), reason="torch lacks oneDNN"
)


@pytest.fixture
def packs(monkeypatch):
    """Packed products win on every machine; which weights were packed."""
    packed, pack = [], products.pack

    def counted(weight):
        packed.append(tuple(weight.shape))
        return pack(weight)

    monkeypatch.setattr("pyrovae.capture.graph.packed_is_faster", lambda: True)
    monkeypatch.setattr(products, "pack", counted)
    return packed


@pytest.fixture
def model():
    net = pv.nets.MLP((Z_DIM,), SHAPE, widths=(64,))
    return pv.VAE(pv.models.priors.StandardNormal(Z_DIM), nn.Sequential(net), pv.models.likelihoods.Bernoulli())


def batch(size):
    return (torch.rand(size, *SHAPE) < 0.4).float()


def run(choice, function, *args, **kwargs):
    torch.manual_seed(1)
    with pv.engine(choice):
        return function(*args, **kwargs)


def layer(**kwargs):
    net = nn.Linear(128, 128, **kwargs)
    return net, Capture(lambda x: (net(x),), net)


@pytest.mark.usefixtures("interpreted")
def test_the_loop_is_the_eager_one_and_packs_each_matrix_once(model, packs):
    q, x = pv.DiagonalNormal(Z_DIM), batch(256)
    refiner = pv.SVIRefiner(num_steps=40, lr=0.02, optimizer="sgd", momentum=0.0, clip=1.0, safeguard=False)
    start = 0.3 * torch.randn(256, q.num_params)
    eager, compiled = (run(choice, refiner, model, q, x, start).params for choice in ("eager", "compiled"))
    assert packs == [(196, 64), (64, 196)]  # there, and back; the first layer is too small
    assert (eager - start).abs().max() > 0.1
    torch.testing.assert_close(eager, compiled, atol=2e-5, rtol=0)


def test_so_when_compiled(model, packs):
    q, x = pv.DiagonalNormal(Z_DIM), batch(64)
    params = 0.3 * torch.randn(64, q.num_params)
    eager, compiled = (run(choice, iwae, model, q, x, params, 4000, 200) for choice in ("eager", "compiled"))
    assert (196, 64) in packs
    torch.testing.assert_close(eager, compiled, atol=1e-3, rtol=0)


@pytest.mark.usefixtures("interpreted", "packs")
def test_a_row_alone_is_a_row_in_a_batch():
    net, captured = layer()
    x = torch.randn(512, 128)
    with pv.engine("compiled"), torch.no_grad():
        together = captured.bind(x, calls=1000)(x)[0]
        for rows in (16, 1):
            part = captured.bind(x[:rows], calls=100_000)(x[:rows])[0]
            torch.testing.assert_close(part, together[:rows], atol=1e-5, rtol=0)
            torch.testing.assert_close(part, net(x[:rows]), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("change", [lambda w: w.add_(1.0), lambda w: w.data.add_(1.0)], ids=["in place", "by .data"])
def test_weights_are_packed_anew_where_they_changed_and_only_there(packs, change):
    net, captured = layer()
    x = torch.randn(512, 128)
    with pv.engine("compiled"), torch.no_grad():
        for changed in (True, False, False, False, True, True, False, False):
            if changed:
                change(net.weight)
            bound = captured.bind(x, calls=1000)
            torch.testing.assert_close(bound(x)[0], net(x), atol=1e-3, rtol=1e-5)
    assert 4 <= len(packs) <= 5  # at each change, and once more where they are seen to stand


@pytest.mark.usefixtures("interpreted")
def test_the_choice_knows_sizes_and_no_history(packs):
    """Or a run that is resumed would not be, bit by bit, the one that was not."""
    (net, captured), x = layer(), torch.randn(512, 128)
    other = Capture(captured.function, net)
    with pv.engine("compiled"), torch.no_grad():
        captured.bind(x, calls=1)(x)
        captured.bind(x[:1], calls=1000)
        assert packs == []
        results = [each.bind(x, calls=1000)(x)[0] for each in (captured, other)]
        assert len(packs) == 2
        captured.bind(x, calls=1)
        assert len(packs) == 2
    assert torch.equal(*results)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    ("dtype", "size", "calls"), [(torch.float64, 128, 1000), (torch.float32, 8, 10**6), (torch.float32, 128, 1)]
)
def test_the_rest_stays_with_torch(packs, dtype, size, calls):
    net = nn.Linear(size, size, dtype=dtype)
    captured, x = Capture(lambda x: (net(x),), net), torch.randn(512, size, dtype=dtype)
    with pv.engine("compiled"), torch.no_grad():
        assert torch.equal(captured.bind(x, calls=calls)(x)[0], net(x))
    assert packs == []


@pytest.mark.usefixtures("interpreted")
def test_a_product_with_rows_of_data_on_both_sides_stays(packs):
    captured, x = Capture(lambda x: (x @ x[:128].T, x.T @ x)), torch.randn(512, 128)
    with pv.engine("compiled"):
        captured.bind(x, calls=1000)(x)
    assert packs == []


@pytest.fixture
def asked(monkeypatch):
    """Sets how much slower than packed products the machine's own are, and counts measurements."""
    times = []

    def ratio(value):
        taken = iter([value, 1.0])
        products.packed_is_faster.cache_clear()
        monkeypatch.setattr(products, "seconds", lambda run: times.append(run) or next(taken))

    yield ratio, times
    products.packed_is_faster.cache_clear()


def test_the_machine_is_measured_once_and_packed_products_win_by_a_margin(asked):
    ratio, times = asked
    for value, expected in ((0.6, False), (1.2, False), (1.3, True), (2.2, True)):
        ratio(value)
        assert [products.packed_is_faster() for _ in range(3)] == [expected] * 3
        assert len(times) == 2
        times.clear()


def test_every_measurement_on_this_machine_ends_alike():
    """As those of two processes have to, or resuming would change the last bits."""
    measure = products.packed_is_faster.__wrapped__
    assert len({measure() for _ in range(8)}) == 1


@pytest.mark.parametrize("name", ["PACK", "LINEAR"])
def test_torch_without_the_private_names_keeps_its_own(asked, monkeypatch, name):
    ratio, times = asked
    ratio(2.0)
    monkeypatch.setattr(products, name, "_gone")
    assert not products.packed_is_faster()
    assert times == []


def test_packing_never_repays_a_row_alone_nor_a_short_loop():
    layers = [products.Product(rows, 512, 784) for rows in (1, 128)]
    assert not products.repay([layers[0]], {}, 10**9)
    assert not products.repay([layers[1]], {}, 1)
    assert products.repay([layers[1]], {}, 10)
    assert not products.repay([], {}, 10**9)


def test_graphs_are_traced_once_for_both(monkeypatch, packs, interpreted):
    made, init = [], Graph.__init__
    monkeypatch.setattr(Graph, "__init__", lambda self, *args: made.append(self) or init(self, *args))
    (_, captured), x = layer(), torch.randn(512, 128)
    with pv.engine("compiled"), torch.no_grad(), pyro.validation_enabled(False):
        for calls in (1, 1000, 1, 1000):
            captured.bind(x, calls=calls)(x)
    assert len(made) == 1
