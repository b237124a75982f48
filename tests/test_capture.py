"""A captured program is the program: same numbers, whatever changes around it."""

import copy
import gc
import os
import pickle
import random
import subprocess
import sys
import warnings
import weakref
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import FAMILIES, X_SHAPE, Z_DIM, tiny_images
from pyro.nn import PyroModule
from torch import nn

import pyrovae as pv
from pyrovae.capture import (
    Capture,
    CaptureWarning,
    capture,
    graph,
    isolated,
    noise_state,
    programs_of,
    seed_generators,
    set_noise_state,
)
from pyrovae.capture.capture import REPAID_AFTER
from pyrovae.capture.graph import CUDAGraphs, Graph
from pyrovae.config import COMPONENTS

NETS = {
    "mlp": lambda: pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,)),
    "conv": lambda: pv.models.conv(X_SHAPE, Z_DIM, channels=(2, 4), widths=(8,)),
}
LOOPS = {
    "adam": {"lr": 0.05, "objective": pv.ELBO(num_particles=2)},
    "sgd": {
        "optimizer": "sgd",
        "lr": 1e-3,
        "clip": 3.0,
        "lr_decay": "linear",
        "objective": pv.ELBO(path_gradient=False),
    },
    "natural": {"optimizer": "natural", "lr": 0.1, "clip": 2.0},
    "pace": {"adapt": 0.3, "stop_below": 0.02, "num_steps": 13},
}


@pytest.fixture
def graphs(monkeypatch):
    """Every graph that is traced."""
    made, init = [], Graph.__init__

    def counted(self, *args, **kwargs):
        init(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Graph, "__init__", counted)
    return made


@pytest.fixture(autouse=True)
def _no_fallback():
    with warnings.catch_warnings():
        warnings.simplefilter("error", CaptureWarning)
        yield


def both(refiner, model, family, x, start, **kwargs):
    """The outcome under either engine, from the same noise."""
    results = []
    for choice in ("eager", "compiled"):
        torch.manual_seed(1)
        with pv.engine(choice):
            results.append(refiner(model, family, x, start, **kwargs))
    return results


def batch(size, dtype=torch.float32):
    return (torch.rand(size, *X_SHAPE) < 0.4).to(dtype)


def check_refiner(net, family, loop, dtype, **kwargs):
    model, q = NETS[net]().to(dtype), COMPONENTS["family"][family](Z_DIM).to(dtype)
    refiner = pv.SVIRefiner(**{"num_steps": 5, **LOOPS[loop], **kwargs})
    for size in (7, 64, 1):
        start = 0.3 * torch.randn(size, q.num_params, dtype=dtype)
        eager, compiled = both(refiner, model, q, batch(size, dtype), start, record=True, beta=0.7)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-10
        assert (eager.path[-1] - start).abs().max() > 100 * tolerance  # something happened
        assert (eager.params - compiled.params).abs().max() < tolerance
        assert (eager.path - compiled.path).abs().max() < tolerance
        if eager.terms is not None:
            torch.testing.assert_close(eager.terms, compiled.terms)
            assert torch.equal(eager.reverted, compiled.reverted)


@pytest.mark.parametrize(
    ("net", "family", "loop", "dtype"),
    [
        ("mlp", "diagonal_normal", "pace", torch.float64),
        ("mlp", "full_normal", "adam", torch.float64),
        ("mlp", "full_normal", "natural", torch.float64),
        ("conv", "diagonal_normal", "sgd", torch.float64),
    ],
)
def test_the_compiled_loop_is_the_eager_one(net, family, loop, dtype):
    check_refiner(net, family, loop, dtype, safeguard=False)


def test_so_for_a_flow(interpreted):  # whose graph is long
    check_refiner("mlp", "flow", "adam", torch.float64, safeguard=False)


def test_so_with_the_safeguard_in_single_precision():
    check_refiner("conv", "full_normal", "adam", torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("net", NETS)
def test_so_in_every_combination(net, family, loop, dtype):
    if loop == "natural" and not COMPONENTS["family"][family](3).has_natural_gradient:
        pytest.skip("refused by the refiner")
    check_refiner(net, family, loop, dtype)


class Affine(PyroModule):
    """A program with everything that may change from outside."""

    def __init__(self, name="data"):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("shift", torch.zeros(3))
        self.gain, self.offset, self.name = 1.0, torch.zeros(3), name
        self.more = {"factors": [1.0, torch.ones(3)]}
        self.calls = None  # counted if a number

    def forward(self, x):
        self.calls = None if self.calls is None else self.calls + 1
        x = x * self.more["factors"][0] * self.more["factors"][1]
        draw = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        return (self.gain * self.layer(x) + self.shift + self.offset + 0 * draw,)


def test_one_graph_serves_every_size_and_every_value_of_a_weight(graphs):
    program = Affine()
    captured = Capture(program, program)
    with pv.engine("compiled"), torch.no_grad():
        for size in (5, 3, 1, 200):
            for change in (program.layer.weight, program.shift, program.offset):
                change.add_(1.0)
                x = torch.randn(size, 3)
                torch.testing.assert_close(captured(x), program(x))
    assert len(graphs) == 1


def test_what_a_graph_holds_fast_makes_another(graphs):
    program = Affine()
    captured = Capture(program, program)
    changes = [
        lambda: None,
        lambda: setattr(program, "gain", 2.0),
        lambda: setattr(program, "offset", torch.ones(3)),
        lambda: program.more.update(factors=[2.0, torch.ones(3)]),
        lambda: program.more["factors"].__setitem__(1, torch.full((3,), 3.0)),
        lambda: setattr(program, "layer", nn.Sequential(nn.Linear(3, 3), nn.Tanh())),
        program.double,
        program.eval,
    ]
    with pv.engine("compiled"), torch.no_grad():
        for number, change in enumerate(changes, 1):
            change()
            program.offset = program.offset.to(program.shift.dtype) if number == 7 else program.offset
            x = torch.randn(4, 3, dtype=program.shift.dtype)
            torch.testing.assert_close(captured(x), program(x))
            torch.testing.assert_close(captured(x), program(x))
            assert len(graphs) == number


def test_an_object_that_is_gone_is_not_taken_for_the_one_in_its_place():
    class Gain:
        def __init__(self, value):
            self.value = value

    program = nn.Linear(3, 3)
    program.gain = Gain(1.0)
    captured, x = Capture(lambda x: (program.gain.value * program(x),), program), torch.ones(2, 3)
    with pv.engine("compiled"), torch.no_grad():
        for value in range(6):
            del program.gain
            program.gain = Gain(float(value))  # where the last one lay, as a rule
            torch.testing.assert_close(captured(x)[0], value * program(x))


def test_equal_numbers_of_other_types_make_other_graphs():
    program = nn.Module()
    captured = Capture(lambda x: (x * program.gain,), program)
    with pv.engine("compiled"):
        for gain in (1, 1.0, True):
            program.gain, x = gain, torch.ones(2, 2, dtype=torch.int32)
            assert captured(x)[0].dtype == (x * gain).dtype


class Moments(NamedTuple):
    mean: torch.Tensor
    square: torch.Tensor | None


class State(NamedTuple):
    k: torch.Tensor
    params: torch.Tensor
    slots: tuple[Moments, ...]
    prior: torch.Tensor | None = None


def test_arguments_and_results_are_nested_tuples(graphs):
    def program(x, scalars, state):
        mean, square = state.slots[0]
        params = state.params + scalars[0] * x
        slots = Moments(mean + params, None if square is None else square + params**2), Moments(mean, None)
        return State(state.k + 1, params, slots[: len(state.slots)], state.prior), ()

    captured = Capture(program)
    with pv.engine("compiled"):
        for size, square, prior in ((5, True, False), (1, True, False), (3, True, False), (3, False, True)):
            x = torch.randn(size, 3)
            slots = (Moments(torch.randn(size, 3), torch.rand(size, 3) if square else None),)
            args = x, (torch.tensor(0.5), None), State(torch.tensor(0.0), x, slots, x if prior else None)
            found, expected = captured.bind(*args)(*args), program(*args)
            assert capture.structure(found) == capture.structure(expected)
            torch.testing.assert_close(capture.leaves(found), capture.leaves(expected))
    assert len(graphs) == 2


def test_what_is_no_tensor_is_refused_by_name():
    with pv.engine("compiled"), pytest.raises(TypeError, match="must be tensors, None and tuples of them, got list"):
        Capture(lambda x: x)([torch.ones(2)])


@pytest.mark.parametrize("program", [lambda x, y: (x + y,), lambda x, y: (x + y + len(x),)], ids=["any size", "a size"])
def test_other_rows_than_were_bound_are_refused(program):
    x = torch.ones(7, 3)
    with pv.engine("compiled"):
        bound = Capture(program, name="the sum").bind(x, x)
        torch.testing.assert_close(bound(2 * x, x), program(2 * x, x))
        for rows in (1, 5):
            with pytest.raises(ValueError, match=f"the sum is bound for batches of 7, and called with {rows}; bind"):
                bound(x[:rows], x[:rows])
        with pytest.raises(ValueError, match="bound for batches of 7, and called with 1, 7"):
            bound(x, x[:1])


def test_arguments_may_lie_in_memory_as_they_like():
    captured, x = Capture(lambda x: (2 * x,)), torch.randn(4, 3)
    with pv.engine("compiled"):
        for arg in (x, torch.randn(3, 4).T, torch.randn(4, 1).expand(4, 3), torch.randn(8, 6)[::2, ::2]):
            assert torch.equal(captured(arg)[0], 2 * arg)


def test_beta_step_size_and_steps_are_no_new_graph(graphs, model):
    q, x = pv.DiagonalNormal(Z_DIM), batch(7)
    refiner = pv.SVIRefiner(num_steps=2, safeguard=False)
    for beta, lr, num_steps in ((1.0, 0.1, 2), (0.5, 0.2, 3)):
        refiner.lr, refiner.num_steps = lr, num_steps
        eager, compiled = both(refiner, model, q, x, torch.zeros(7, q.num_params), beta=beta)
        torch.testing.assert_close(eager.params, compiled.params, atol=1e-5, rtol=0)
    assert len(graphs) == 1


def test_training_and_evaluation_share_a_graph(graphs, model):
    guide = pv.SemiAmortizedGuide(
        model, pv.DiagonalNormal(Z_DIM), pv.nets.MLP(X_SHAPE, (2 * Z_DIM,)), pv.SVIRefiner(num_steps=2, safeguard=False)
    )
    with pv.engine("compiled"):
        guide.infer(batch(7))
        model.eval(), guide.eval()
        guide.infer(batch(6))
    assert len(graphs) == 1


def test_recurrent_networks_are_captured(graphs):
    """They keep a list of their own weights, which is not to hold those of another time."""
    net = nn.GRU(3, 4, batch_first=True, bidirectional=True)
    run = Capture(lambda x: net(x)[0], net)
    x = torch.randn(5, 7, 3)
    with pv.engine("compiled"), torch.no_grad():
        run(x)
        net.weight_hh_l0.mul_(2)
        torch.testing.assert_close(run(x), net(x)[0])
        net.bias_hh_l0 = nn.Parameter(torch.randn(12))
        torch.testing.assert_close(run(x), net(x)[0])
    assert len(graphs) == 1
    twin = copy.deepcopy(net)
    torch.testing.assert_close(twin(x)[0], net(x)[0])


def test_a_program_that_counts_its_batch_has_a_graph_for_each_size():
    def program(x):
        return (x * len(x),)

    captured = Capture(program)
    with pv.engine("compiled"):
        for size in (4, 6, 4):
            assert torch.equal(captured(torch.ones(size, 2))[0], torch.full((size, 2), float(size)))


def test_sites_draw_in_the_order_of_the_program():
    class TwoLayers(PyroModule):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 4)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z1 = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                z2 = pyro.sample("z2", dist.Normal(self.first(z1), 0.5).to_event(1))
                pyro.sample("x", dist.Normal(self.second(z2), 1.0).to_event(1), obs=x)

    class Both(pv.Family):
        num_params = 10

        def forward(self, params):
            raise NotImplementedError

        def sample(self, params):
            loc, scale = params[..., :5], params[..., 5:].exp()
            with pyro.plate("data", len(params)):
                pyro.sample("z1", dist.Normal(loc[..., :2], scale[..., :2]).to_event(1))
                return pyro.sample("z2", dist.Normal(loc[..., 2:], scale[..., 2:]).to_event(1))

    eager, compiled = both(pv.SVIRefiner(num_steps=4), TwoLayers(), Both(5), torch.randn(6, 4), torch.zeros(6, 10))
    torch.testing.assert_close(eager.params, compiled.params, atol=1e-5, rtol=0)


# What cannot be captured.


def branches(x):
    return (x + 1 if x.sum() > 0 else x - 1,)


counter = Affine()


def counts(x):
    counter.calls = (counter.calls or 0) + 1
    return (x + counter.calls,)


def draws_from_elsewhere(x):
    return (x + random.random(),)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (branches, r"asks for the value of a tensor.* at .*test_capture\.py:\d+"),
        (draws_from_elsewhere, "differ from the eager"),
        (counts, "changes attributes of its modules"),
    ],
)
def test_the_rest_runs_eagerly_after_one_warning(program, reason):
    random.seed(0)
    counter.calls = 0  # an attribute of a module is part of the key
    captured, x = Capture(program, counter), torch.ones(3, 2)
    with pv.engine("compiled"):
        with pytest.warns(CaptureWarning, match=f"{program.__name__} is not compiled.*({reason})") as caught:
            captured(x)
        assert len([w for w in caught if w.category is CaptureWarning]) == 1
        results = []
        for run in (captured, program):  # and no further warning, which would be an error here
            random.seed(3)
            counter.calls = 0
            results.append(run(x)[0])
        assert torch.equal(*results)


def test_an_empty_batch_is_left_to_the_program():
    captured = Capture(lambda x: (x + 1,))
    with pv.engine("compiled"):
        captured(torch.ones(3, 2))
        assert captured(torch.ones(0, 2))[0].shape == (0, 2)


def test_a_program_that_never_stays_the_same_is_left_alone(monkeypatch):
    monkeypatch.setattr("pyrovae.capture.capture.MAX_GRAPHS", 2)
    program = Affine()
    captured, x = Capture(program, program), torch.ones(3, 3)
    with pv.engine("compiled"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for gain in range(5):
            program.gain = gain
            torch.testing.assert_close(captured(x), program(x))
    messages = [str(w.message) for w in caught if w.category is CaptureWarning]
    assert len(messages) == 1
    assert "have changed 2 times" in messages[0]


def test_without_a_compiler_it_runs_eagerly(tmp_path):
    code = (
        "import warnings, torch, pyrovae as pv\n"
        "m, q = pv.models.mlp((1, 6, 5), 3, widths=(8,)), pv.DiagonalNormal(3)\n"
        "with pv.engine('compiled'):\n"
        "    print(pv.SVIRefiner(num_steps=2, safeguard=False)(m, q, torch.zeros(4, 1, 6, 5), torch.zeros(4, 6)).params.shape)"
    )
    env = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "torch.Size([4, 6])\n"
    assert done.stderr.count("CaptureWarning") == 1
    assert "C++ compiler" in done.stderr


@pytest.mark.parametrize(("place", "names"), graph.OF_TORCH.items())
def test_where_torch_lacks_a_private_name_it_runs_eagerly(place, names, monkeypatch):
    for name in names.split():
        with monkeypatch.context() as patched:
            patched.delattr(f"{place}.{name}")
            captured, x = Capture(lambda x: (x + 1,), name="the sum"), torch.ones(3, 2)
            with pv.engine("compiled"), pytest.warns(CaptureWarning, match=f"the sum is not compiled.*{name}"):
                assert torch.equal(captured(x)[0], x + 1)
            with pv.engine("compiled"):
                captured(x), captured(x.double())  # and no further warning, which would be an error here


def test_so_where_pyro_does(monkeypatch):
    monkeypatch.setattr(graph, "PYRO_LACKS", "Pyro 2 lacks what graphs need: _PYRO_STACK")
    program = Affine()
    captured, x = Capture(program, program), torch.ones(3, 3)
    with pyro.poutine.trace() as trace, pv.engine("compiled"), isolated():
        with pytest.warns(CaptureWarning, match="Pyro 2 lacks what graphs need: _PYRO_STACK"):
            captured(x)
        torch.testing.assert_close(captured(x), program(x))  # and no further warning
    assert not trace.trace.nodes


def test_no_compiler_is_imported_before_it_is_needed():
    code = (
        "import sys, types, torch\n"
        "package = sys.modules['pyrovae'] = types.ModuleType('pyrovae')\n"  # without what the package imports
        f"package.__path__ = [{os.path.dirname(pv.__file__)!r}]\n"
        "import pyrovae.capture\n"
        "print([name for name in ('sympy', 'torch._inductor', 'torch._dynamo') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_handlers_are_never_lost_in_a_graph():
    program = Affine()
    captured, x = Capture(program, program), torch.ones(3, 3)
    with pv.engine("compiled"):
        captured(x)
        with pyro.poutine.trace() as trace:
            captured(x)
    assert "z" in trace.trace.nodes


def test_a_layer_that_counts_is_counted_once():
    torch.manual_seed(0)
    program = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    captured, twin = Capture(lambda x: (program(x),), program), copy.deepcopy(program)
    with pv.engine("compiled"), torch.no_grad():
        for _ in range(3):
            x = torch.randn(8, 3)
            torch.testing.assert_close(captured(x)[0], twin(x))
    assert program[1].num_batches_tracked == 3
    torch.testing.assert_close(program[1].running_mean, twin[1].running_mean)


def test_copies_of_a_guide_capture_anew(model):
    guide = pv.SVIGuide(model, pv.DiagonalNormal(Z_DIM), pv.SVIRefiner(num_steps=2, safeguard=False))
    with pv.engine("compiled"):
        x, results = batch(4), []
        for each in (guide, copy.deepcopy(guide)):
            torch.manual_seed(1)
            results.append(each.infer(x).params)
    assert torch.equal(*results)


# What lives how long.


def test_programs_are_made_once_and_the_last_used_are_kept():
    made = []

    def get(number, *objects):
        return programs_of(model).get(lambda: made.append(number) or [number], objects, number)

    model, thing = nn.Linear(2, 2), object()
    assert get(0) is get(0)
    assert get(0, thing) is get(0, thing)
    assert made == [0, 0]
    for number in range(1, capture.MAX_PROGRAMS):
        get(number)
        get(0)
    assert made == [0, 0, *range(1, capture.MAX_PROGRAMS)]  # that of `thing` made way
    get(0, thing)
    assert made[-1] == 0
    assert programs_of(model).get(lambda: "another maker's", (), 0) == "another maker's"
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.__dict__["_programs"] is not programs_of(model)
        assert programs_of(twin).get(lambda: "anew", (), 0) == "anew"
    assert "_programs" not in model.state_dict()


def test_programs_on_a_model_are_no_change_of_the_model(graphs):
    model, x = nn.Linear(2, 2), torch.ones(3, 2)
    with pv.engine("compiled"):
        for _ in range(2):
            captured = programs_of(model).get(lambda: Capture(model, model), (model,))
            captured(x)
    assert len(graphs) == 1


def test_a_model_dies_with_its_last_user():
    model = NETS["mlp"]()
    q, x = pv.DiagonalNormal(Z_DIM), batch(3)
    with pv.engine("compiled"):
        captured = programs_of(model).get(partial(Capture, model.decoder, model), (model,))
        captured(torch.zeros(3, Z_DIM))
        pv.SVIRefiner(num_steps=2)(model, q, x, torch.zeros(3, q.num_params))
    alive = weakref.ref(model), weakref.ref(q)
    del model, q, captured
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


# Noise.


def test_noise_is_set_and_seeded_where_it_is_drawn(monkeypatch):
    ran = []
    device = SimpleNamespace(type="mps")
    for name in ("get_rng_state", "set_rng_state", "manual_seed"):
        monkeypatch.setattr(torch.mps, name, lambda *args, name=name: ran.append((name, *args)) or "state")
    set_noise_state(noise_state(device), device)
    seed_generators(device, 7)
    assert ran == [("get_rng_state",), ("set_rng_state", "state"), ("manual_seed", 7)]
    first = torch.randn(3)
    seed_generators(torch.device("cpu"), 7)
    assert torch.equal(torch.randn(3), first)


# When.


def test_auto_compiles_what_repays_it():
    calls = []

    def program(x):
        calls.append(x)
        return (x,)

    x = torch.ones(2, 2)
    for num_batches, calls_a_batch, compiled in (
        (REPAID_AFTER, 1, True),
        (REPAID_AFTER - 1, 1, False),
        (500, 10, True),
    ):
        captured = Capture(program)
        with pv.engine("auto", num_batches):
            assert (captured.bind(x, calls=calls_a_batch) is not program) == compiled
    captured = Capture(program)  # nothing known of what is to come
    assert captured.bind(x, calls=REPAID_AFTER - 1) is program
    assert captured.bind(x, calls=1) is not program
    with pv.engine("eager"):
        assert captured.bind(x) is program
    with pytest.raises(ValueError, match="engine must be auto, eager or compiled, got 'fast'"), pv.engine("fast"):
        pass


# bfloat16.


def test_bfloat16_weights_are_cast_once_a_call_and_not_once_a_step(graphs, model):
    q, x = pv.DiagonalNormal(Z_DIM), batch(7)
    refiner = pv.SVIRefiner(num_steps=5, lr=0.05, optimizer="sgd", safeguard=False)
    with torch.autocast("cpu", torch.bfloat16):
        eager, compiled = both(refiner, model, q, x, torch.zeros(7, q.num_params))
    torch.testing.assert_close(eager.params, compiled.params, atol=0.05, rtol=0.05)
    full = both(refiner, model, q, x, torch.zeros(7, q.num_params))[1]
    torch.testing.assert_close(full.params, compiled.params, atol=0.05, rtol=0.05)
    assert not torch.equal(full.params, compiled.params)
    half, single = (graph._variants[False] for graph in graphs)
    num_weights = len(list(model.decoder.parameters()))
    casts = [n for n in half.prologue.graph.graph.nodes if n.target is torch.ops.aten._to_copy.default]
    assert len(casts) == num_weights
    hoisted = single.prologue.graph
    assert hoisted is None or not any("_to_copy" in str(n.target) for n in hoisted.graph.nodes)
    weights = half.traced.graph.find_nodes(op="placeholder")[:num_weights]
    assert not any(weight.users for weight in weights), "the step still reads weights in single precision"


# Training.


def trained(guide_name, choice, net="mlp", **options):
    torch.manual_seed(0)
    model = NETS[net]()
    q = pv.DiagonalNormal(Z_DIM)
    encoder = pv.nets.MLP(X_SHAPE, (q.num_params,), widths=(8,))
    loop = pv.SVIRefiner(num_steps=3, lr=0.05)
    guide = {
        "amortized": lambda: pv.AmortizedGuide(q, encoder),
        "semi_amortized": lambda: pv.SemiAmortizedGuide(model, q, encoder, loop),
        "learned_iterative": lambda: pv.LearnedIterativeGuide(model, q, encoder, num_steps=1, widths=(8,)),
        "through the loop": lambda: pv.LearnedIterativeGuide(
            model, q, encoder, num_steps=2, widths=(8,), gradient="unrolled"
        ),
    }[guide_name]()
    metrics = pv.fit(model, guide, tiny_images(), batch_size=16, epochs=2, engine=choice, progress=False, **options)
    return {n: p.detach() for n, p in [*model.named_parameters(), *guide.named_parameters()]}, metrics


@pytest.mark.parametrize(
    ("guide", "net", "objective"),
    [
        ("semi_amortized", "mlp", pv.AnalyticELBO(num_particles=2, free_bits=0.1)),
        ("amortized", "mlp", pv.IWAE(num_particles=3)),
        ("learned_iterative", "mlp", pv.ELBO()),
        ("through the loop", "mlp", pv.ELBO()),
    ],
)
def test_training_is_the_same_under_either_engine(guide, net, objective, interpreted):
    check_training(guide, net, objective)


@pytest.mark.parametrize(
    ("guide", "net"),
    [
        ("amortized", "conv"),
        ("semi_amortized", "mlp"),
        *(pytest.param(name, "mlp", marks=pytest.mark.slow) for name in ("learned_iterative", "through the loop")),
    ],
)
def test_so_when_compiled(guide, net):
    check_training(guide, net, pv.ELBO())


def check_training(guide, net, objective):
    options = {"optimizer": "adam", "gradient_clip": 30.0, "lr": 0.01, "beta": 0.5, "objective": objective}
    (eager, eager_metrics), (compiled, metrics) = (trained(guide, e, net, **options) for e in ("eager", "compiled"))
    start, _ = trained(guide, "eager", net, lr=1e-9)
    for name, value in eager.items():
        torch.testing.assert_close(value, compiled[name], atol=1e-4, rtol=0, msg=name)
        assert (value - start[name]).abs().max() > 0.01, name
    assert eager_metrics["test/elbo"] == pytest.approx(metrics["test/elbo"], abs=1e-2)


def test_compiled_training_in_bfloat16():
    weights, metrics = trained("semi_amortized", "compiled", use_amp=True)
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in weights.values())
    assert metrics["test/elbo"] > -30


# CUDA graphs, with stand-ins for CUDA; on a GPU, tests/test_gpu.py.


def fake_cuda(monkeypatch, graph, record=lambda graph, **how: nullcontext()):
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, fake in {
        "device": lambda device: nullcontext(),
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda stream: nullcontext(),
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda mode: None,
        "CUDAGraph": graph,
        "graph": record,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)


class Recorder:
    """A function, and a stand-in for the CUDA graph that records its last call."""

    def __init__(self):
        self.ran = ran = []  # (arguments, results)

        class Recorded:
            def replay(self):  # runs on the memory it was recorded with
                (weight, cast, x), (result,) = ran[-1]
                result.copy_(weight * cast * x)

        self.graph = Recorded

    def __call__(self, weight, cast, x):
        self.ran.append(((weight, cast, x), [weight * cast * x]))
        return self.ran[-1][1]


def test_replays_copy_arguments_in_and_results_out(monkeypatch):
    function = Recorder()
    fake_cuda(monkeypatch, function.graph)
    weight, graphs = torch.tensor([1.0, 2.0]), CUDAGraphs(())
    x = torch.ones(3, 2)
    replay = graphs.bind(function, [weight], [torch.ones(2)], (x,))
    first = replay(x)[0]
    recorded = len(function.ran)
    weight.mul_(10)  # in place, as an optimizer does
    again = graphs.bind(function, [weight], [torch.full((2,), 3.0)], (x,))  # what is computed lies elsewhere each time
    assert again is replay
    assert len(function.ran) == recorded
    assert torch.equal(again(2 * x)[0], x * torch.tensor([60.0, 120.0]))
    assert torch.equal(first, x * torch.tensor([1.0, 2.0])), "a replay wrote over an earlier result"
    assert graphs.bind(function, [weight], [torch.ones(2)], (torch.ones(4, 2),)) is not replay  # another batch size
    assert graphs.bind(function, [weight.clone()], [torch.ones(2)], (x,)) is not replay  # another place in memory


def test_an_argument_with_gradient_leaves_none_in_the_memory_of_a_replay(monkeypatch):
    function = Recorder()
    fake_cuda(monkeypatch, function.graph)
    x = torch.ones(3, 2, requires_grad=True)
    replay = CUDAGraphs(()).bind(function, [torch.ones(2)], [torch.ones(2)], (x,))
    for factor in (1.0, 2.0):
        (result,) = replay(factor * x)
        assert not result.requires_grad
        assert torch.equal(result, factor * torch.ones(3, 2))


def test_sizes_beyond_the_first_run_kernel_by_kernel(monkeypatch):
    """`stop_below` leaves another number of rows at every look; recording each would cost more than its steps."""
    monkeypatch.setattr(graph, "MAX_REPLAYS", 2)
    function = Recorder()
    fake_cuda(monkeypatch, function.graph)
    weight, graphs = torch.ones(2), CUDAGraphs(())
    bound = [graphs.bind(function, [weight], [torch.ones(2)], (torch.ones(rows, 2),)) for rows in (8, 7, 6, 5)]
    recorded = len(function.ran)
    assert graphs.bind(function, [weight], [torch.ones(2)], (torch.ones(8, 2),)) is bound[0], "the first made way"
    assert len(function.ran) == recorded
    assert torch.equal(bound[2](3 * torch.ones(6, 2))[0], 3 * torch.ones(6, 2))
    assert len(function.ran) == recorded + 1
    moved = weight.clone()
    graphs.bind(function, [moved], [torch.ones(2)], (torch.ones(5, 2),))
    assert len(function.ran) > recorded + 2, "weights lie elsewhere, and nothing was recorded anew"
    assert len(graphs._replays) == 1


def test_what_lies_on_the_host_is_no_constant_of_a_recording(monkeypatch):
    fake_cuda(monkeypatch, lambda: pytest.fail("recorded"))
    x, scale = torch.empty(3, 2, device="meta"), torch.tensor(2.0)
    run = CUDAGraphs(()).bind(lambda scale, x: [x * scale], [scale], [], (x,))
    assert run(x)[0].shape == (3, 2)


def test_a_program_that_waits_for_the_gpu_is_found_before_recording(monkeypatch):
    """A recording that fails leaves torch's generator refusing every later draw."""
    modes = []

    def function(x):
        if modes[-1:] == ["error"]:
            raise RuntimeError("called a synchronizing CUDA operation")
        return [x]

    fake_cuda(monkeypatch, SimpleNamespace, lambda graph, **how: pytest.fail("recorded"))
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.raises(RuntimeError, match="synchronizing"):
        CUDAGraphs(()).bind(function, [], [], (torch.ones(3, 2),))
    assert modes == ["error", 0]


def test_it_is_recorded_on_the_stream_it_ran_on_before(monkeypatch):
    """torch's own stream for recording lies on the GPU that was current first."""
    how = []
    fake_cuda(monkeypatch, SimpleNamespace, lambda graph, **options: how.append(options) or nullcontext())
    CUDAGraphs(()).bind(lambda x: [x], [], [], (torch.ones(3, 2),))
    assert how == [{"stream": torch.cuda.Stream(), "capture_error_mode": "thread_local"}]


def test_recording_moves_neither_buffers_nor_generators(monkeypatch):
    fake_cuda(monkeypatch, SimpleNamespace)
    layer, x = nn.BatchNorm1d(2), torch.randn(4, 2)
    before, noise = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    CUDAGraphs((layer,)).bind(lambda *args: [layer(args[-1]) + torch.randn(2)], list(layer.buffers()), [], (x,))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), noise)


@pytest.mark.usefixtures("interpreted")
def test_a_proposal_of_one_row_has_one_graph():
    """`len(x)` in it would make one for each batch size."""
    model = NETS["mlp"]()
    guide = pv.SVIGuide(model, pv.DiagonalNormal(Z_DIM), pv.SVIRefiner(num_steps=2, safeguard=False))
    initial = Capture(lambda x: guide.initial(x) + 0, guide)
    with pv.engine("compiled"):
        for size in (7, 5, 3):
            assert initial(batch(size)).shape == (size, 2 * Z_DIM)
    assert len(initial._graphs) == 1
