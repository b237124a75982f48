"""What graphs do their own way on a CPU: products by oneDNN, packed where weights stand still, and `log1p`."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrovae as pv
from pyrovae.capture import Capture, cpu
from pyrovae.capture.graph import PACKED_AFTER, Graph
from pyrovae.inference import iwae

Z_DIM, SHAPE = 16, (1, 14, 14)
onednn = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, cpu.PACK)), reason="torch lacks oneDNN"
)

PRODUCT = torch.ops.pyrovae.product.default


def test_log1p_is_good_to_a_few_units_in_the_last_place():
    u = torch.cat([torch.logspace(-12, 12, 20001), -torch.logspace(-12, -1e-4, 20001)])
    exact = u.double().log1p()
    assert ((cpu.log1p(u) - exact) / exact).abs().max() < 3e-7
    odd = torch.tensor([0.0, -1.0, -2.0, torch.inf, torch.nan])
    assert torch.equal(cpu.log1p(odd).nan_to_num(7.0), odd.log1p().nan_to_num(7.0))


@pytest.mark.parametrize("batch", [1, 7, 128])
@pytest.mark.parametrize("bias", [False, True])
def test_a_product_is_the_product_whatever_the_strides(batch, bias):
    torch.manual_seed(0)
    b = torch.randn(96) if bias else None
    for x in (torch.randn(batch, 64), torch.randn(64, batch).t(), torch.randn(batch, 1).expand(batch, 64)):
        for weight in (torch.randn(96, 64), torch.randn(64, 96).t(), torch.randn(96, 128)[:, ::2]):
            exact = F.linear(x.double(), weight.double(), None if b is None else b.double())
            torch.testing.assert_close(PRODUCT(x, weight, b).double(), exact, atol=1e-4, rtol=1e-5)


def test_matrices_with_gaps_stay_with_torch(monkeypatch):
    """oneDNN takes forty milliseconds for what takes a twentieth of one."""
    asked = []
    monkeypatch.setattr(cpu, "_linear", lambda: lambda x, weight, *_: asked.append((x, weight)) or x @ weight.t())
    whole, gaps = torch.randn(512, 32), torch.randn(512, 132)[:, :32]
    x = torch.randn(512, 128)
    for weight, right in ((whole.t(), 1), (gaps.t(), 0)):
        torch.testing.assert_close(PRODUCT(x.t(), weight, None), x.t() @ weight.t())
        assert len(asked) == right
        asked.clear()
    PRODUCT(gaps.t(), x.t(), None)
    assert not asked
    PRODUCT(gaps, torch.randn(100, 32), None)  # rows of a wider matrix are no trouble
    assert len(asked) == 1


@pytest.mark.parametrize("faster", [False, True])
def test_all_products_of_a_float32_step_go_where_they_are_faster(monkeypatch, faster):
    monkeypatch.setattr(cpu, "onednn_is_faster", lambda: faster)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 300), nn.Softplus(), nn.Linear(300, 20))
    weights = list(net.parameters())

    def step(x: Tensor) -> list[Tensor]:
        loss = F.binary_cross_entropy_with_logits(net(x), (x > 0).to(x))
        return [loss, *torch.autograd.grad(loss, list(net.parameters()))]

    x = torch.randn(50, 20)
    traced = cpu.with_onednn(Graph(step, (net,), weights, (x,))._traced)
    targets = [node.target for node in traced.graph.nodes]
    assert targets.count(PRODUCT) == (5 if faster else 0)  # two forward, an input's gradient, two of weights
    assert not {torch.ops.aten.mm.default, torch.ops.aten.addmm.default} & set(targets) or not faster
    assert torch.ops.aten.log1p.default not in targets
    for found, expected in zip(traced(*[w.detach() for w in weights], x), step(x), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_products_of_other_types_stay(monkeypatch):
    monkeypatch.setattr(cpu, "onednn_is_faster", lambda: True)
    layer = nn.Linear(3, 2, dtype=torch.float64)
    traced = Graph(lambda x: [layer(x)], (layer,), list(layer.parameters()), (torch.ones(4, 3).double(),))._traced
    assert PRODUCT not in [node.target for node in cpu.with_onednn(traced).graph.nodes]


@pytest.fixture
def packs(monkeypatch):
    """Packed products win on every machine; which weights were packed."""
    packed, pack = [], cpu.pack

    def counted(weight):
        packed.append(tuple(weight.shape))
        return pack(weight)

    monkeypatch.setattr(cpu, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(cpu, "pack", counted)
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
    eager, compiled = (run(choice, iwae, model, q, x, params, 4000, 50) for choice in ("eager", "compiled"))
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
        for changed in (True, False, False, True, True, False, False):
            if changed:
                change(net.weight)
            bound = captured.bind(x, still=True)
            torch.testing.assert_close(bound(x)[0], net(x), atol=1e-3, rtol=1e-5)
    assert len(packs) == 3


@pytest.mark.usefixtures("interpreted")
def test_the_choice_is_a_rule_without_history(packs):
    """Or a run that is resumed would not be, bit by bit, the one that was not."""
    (net, captured), x = layer(), torch.randn(512, 128)
    other = Capture(captured.function, net)
    with pv.engine("compiled"), torch.no_grad():
        captured.bind(x, calls=PACKED_AFTER - 1)(x)
        captured.bind(x[:1], calls=1000)
        assert packs == []
        results = [each.bind(x, calls=PACKED_AFTER)(x)[0] for each in (captured, other)]
        assert len(packs) == 2
        captured.bind(x, calls=1)
        assert len(packs) == 2
    assert torch.equal(*results)


@pytest.mark.usefixtures("interpreted")
def test_a_loop_packs_where_weights_stand_still_beyond_it(model, packs):
    q, x, start = pv.DiagonalNormal(Z_DIM), batch(64), torch.zeros(64, 2 * Z_DIM)
    refiner = pv.SVIRefiner(num_steps=3)
    run("compiled", refiner, model, q, x, start)
    assert packs == []  # in training
    with torch.no_grad():
        run("compiled", refiner, model, q, x, start)
        many = len(packs)
        run("compiled", refiner, model, q, x, start)
    assert 0 < many == len(packs)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("dtype", "size", "calls"), [(torch.float64, 128, 1000), (torch.float32, 8, 10**6)])
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
    """Sets how much slower than oneDNN's products the machine's own are, and counts measurements."""
    times = []

    def ratio(value):
        taken = iter([value, 1.0])
        cpu.onednn_is_faster.cache_clear()
        monkeypatch.setattr(cpu, "seconds", lambda run: times.append(run) or next(taken))

    yield ratio, times
    cpu.onednn_is_faster.cache_clear()


def test_the_machine_is_measured_once_and_packed_products_win_by_a_margin(asked):
    ratio, times = asked
    for value, expected in ((0.6, False), (1.2, False), (1.3, True), (2.2, True)):
        ratio(value)
        assert [cpu.onednn_is_faster() for _ in range(3)] == [expected] * 3
        assert len(times) == 2
        times.clear()


def test_every_measurement_on_this_machine_ends_alike():
    """As those of two processes have to, or resuming would change the last bits."""
    measure = cpu.onednn_is_faster.__wrapped__
    assert len({measure() for _ in range(8)}) == 1


@pytest.mark.parametrize("name", ["PACK", "LINEAR"])
def test_torch_without_the_private_names_keeps_its_own(asked, monkeypatch, name):
    ratio, times = asked
    ratio(2.0)
    monkeypatch.setattr(cpu, name, "_gone")
    assert not cpu.onednn_is_faster()
    assert times == []


def test_graphs_are_traced_once_for_both(monkeypatch, packs, interpreted):
    made, init = [], Graph.__init__
    monkeypatch.setattr(Graph, "__init__", lambda self, *args: made.append(self) or init(self, *args))
    (_, captured), x = layer(), torch.randn(512, 128)
    with pv.engine("compiled"), torch.no_grad():
        for calls in (1, 1000, 1, 1000):
            captured.bind(x, calls=calls)(x)
    assert len(made) == 1
