"""One program, traced and compiled; and all that this takes of the inside of torch and Pyro, named at the top."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor, fx, nn

from . import cpu

Tensors = tuple[Tensor, ...]
Modules = tuple[nn.Module, ...]
Flat = Callable[..., Sequence[Tensor]]  # of tensors
Surroundings = tuple[list[Any], list[Any]]  # Pyro handlers at work, and plates that hold dimensions

TRACED_BATCH = 64  # the size that stands for any; always the same, so that caches on disk are found again
MAX_REPLAYS = 8  # batch sizes of one graph that have a CUDA graph
PACKED_AFTER = 32  # calls with the same weights, which save as much as packing takes
WARMUP = 3  # runs before recording, on which kernels are loaded and libraries take their workspaces

# Private names. Where a release lacks one, programs run eagerly and one `CaptureWarning` names it. Besides these:
# `_parameters`, `_buffers` and `_modules` of `nn.Module`, `torch._foreach_copy_`, and what `cpu.py` names.
PYRO_LACKS = ""
try:  # Pyro 1.9.1 and 1.9.2: the handlers at work, and the dimensions that plates hold
    from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
except ImportError as error:
    PYRO_LACKS = f"Pyro {pyro.__version__} lacks what graphs need: {error}"
OF_TORCH = {  # tested with 2.11 to 2.14
    "torch._decomp": "get_decompositions",
    "torch._dispatch.python": "enable_python_dispatcher",
    "torch._inductor": "standalone_compile",
    "torch._subclasses": "FakeTensorMode",
    "torch.fx.experimental.proxy_tensor": "make_fx",
    "torch.fx.experimental.symbolic_shapes": "DimDynamic ShapeEnv StatelessSymbolicContext",
}


def inside_torch() -> Any:
    """What `OF_TORCH` names, imported when the first graph is made, for that takes a second."""
    if torch.__version__ < "2.11" or torch.__version__ >= "2.15":
        logging.getLogger(__name__).debug("graphs are tested with torch 2.11 to 2.14, this is %s", torch.__version__)
    found = {name: getattr(import_module(place), name) for place, names in OF_TORCH.items() for name in names.split()}
    return SimpleNamespace(**found)


def surroundings() -> Surroundings:
    """The Pyro handlers and plates of here and now, for `isolated` to put in their place later.

    >>> surroundings()
    ([], [])
    """
    return ([], []) if PYRO_LACKS else (_PYRO_STACK[:], _DIM_ALLOCATOR._stack[:])


@contextmanager
def isolated(instead: Surroundings | None = None) -> Iterator[None]:
    """Inside, no handler from outside sees a site, and plates start again from the rightmost dimension.

    Or else the surroundings are those given `instead`, so that what ran there runs again as it did. (`poutine.block`
    hides sites, but the dimensions that plates outside hold are known to one global allocator, which has no public way
    to set them aside. An empty stack also tells `Capture` that no handler would be lost in the graph.)

    >>> with pyro.poutine.trace() as outside, isolated():
    ...     z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
    >>> "z" in outside.trace.nodes
    False
    """
    if PYRO_LACKS:
        with poutine.block():
            yield
        return
    before, (handlers, dims) = surroundings(), instead or ([], [])
    _PYRO_STACK[:], _DIM_ALLOCATOR._stack = handlers, dims[:]
    try:
        yield
    finally:
        _PYRO_STACK[:], _DIM_ALLOCATOR._stack = before


def noise_state(device: torch.device) -> Tensor:
    """The state of torch's generator for `device`: CPU, CUDA or MPS.

    >>> noise_state(torch.device("cpu")).dtype
    torch.uint8
    """
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def set_noise_state(state: Tensor, device: torch.device) -> None:
    """Goes back to a state that `noise_state` gave: the same draws follow.

    >>> state, first = noise_state(torch.device("cpu")), torch.randn(3)
    >>> set_noise_state(state, torch.device("cpu"))
    >>> torch.equal(torch.randn(3), first)
    True
    """
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)


def seed_generators(device: torch.device, value: int) -> None:
    """Seeds torch's generators for the CPU and for `device`.

    >>> seed_generators(torch.device("cpu"), 7)
    >>> torch.initial_seed()
    7
    """
    # Not torch.manual_seed: without CUDA it records a stack trace for a later initialisation, at every call.
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)


@contextmanager
def undone(modules: Modules, device: torch.device) -> Iterator[None]:
    """Puts the buffers of `modules` and the generators of CPU and `device` back afterwards: inside are trial runs."""
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    states = [(noise_state(place), place) for place in {torch.device("cpu"), device}]
    try:
        yield
    finally:
        for buffer, value in buffers:
            buffer.data.copy_(value)
        for state, place in states:
            set_noise_state(state, place)


def _lift_constants(graph: fx.GraphModule, num_weights: int) -> list[Tensor]:
    """Makes inputs, after the first `num_weights`, of the tensors that a program holds apart from its weights.

    As constants their values would be compiled in, and changes to them unseen. Returns those tensors.
    """
    lifted: list[Tensor] = []
    first_arg = list(graph.graph.find_nodes(op="placeholder"))[num_weights]
    for node in list(graph.graph.find_nodes(op="get_attr")):
        value = getattr(graph, str(node.target))
        made_here = any(user.target is torch.ops.aten.lift_fresh_copy.default for user in node.users)  # torch.tensor(1)
        if isinstance(value, Tensor) and not made_here:
            _replace_by_input(graph, node, first_arg)
            lifted.append(value)
    graph.recompile()
    return lifted


def _hoist(graph: fx.GraphModule, num_fixed: int) -> fx.GraphModule | None:
    """Takes out of `graph` what depends on its first `num_fixed` inputs alone: their casts to bfloat16, say.

    Returns a graph of that work, to be done once for many calls, if there is any; its results are new inputs of
    `graph`, after the fixed ones.
    """
    placeholders = list(graph.graph.find_nodes(op="placeholder"))
    fixed = dict.fromkeys(placeholders[:num_fixed])
    for node in graph.graph.nodes:
        if (
            node.op == "call_function"
            and node.all_input_nodes
            and all(source in fixed for source in node.all_input_nodes)
        ):
            if node.is_impure():
                return None  # it writes to a weight, a layer's running mean perhaps: order matters
            fixed[node] = None
    work = [node for node in fixed if node.op == "call_function" and not getattr(node.target, "is_view", False)]
    frontier = [node for node in work if any(user not in work for user in node.users)]
    if not frontier:
        return None
    prologue, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in fixed:  # in the order of the graph
        copies[node] = prologue.node_copy(node, copies.__getitem__)
    prologue.output([copies[node] for node in frontier])
    prologue.eliminate_dead_code()
    result = fx.GraphModule(graph, prologue)
    for node in frontier:
        _replace_by_input(graph, node, placeholders[num_fixed])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return result


def _replace_by_input(graph: fx.GraphModule, node: fx.Node, before: fx.Node) -> None:
    with graph.graph.inserting_before(before):
        new = graph.graph.placeholder(f"{node.name}_input")
    new.meta.update(node.meta)
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)


class CUDAGraphs:
    """A CUDA graph for each batch size, with its own memory for arguments.

    Weights are read where they lie: an optimizer updates them in place. What was computed from them, casts say, lies
    elsewhere each time, and is copied in. Draws stay live: torch registers its default generator with every CUDA graph,
    whose replay starts where the generator is, and advances it.

    The first `MAX_REPLAYS` sizes have a graph; further ones, those that `stop_below` leaves say, run kernel by kernel,
    for recording waits for the device and costs more than a loop. Weights that moved in memory make all graphs anew.
    """

    def __init__(self, modules: Modules) -> None:
        self.modules = modules
        self._weights: tuple[int, ...] = ()  # where they lay when the replays were recorded
        self._replays: dict[tuple, tuple[list[Tensor], Flat]] = {}

    def bind(self, function: Flat, weights: list[Tensor], computed: list[Tensor], args: Tensors) -> Flat:
        """`function(*weights, *computed, *args)` as a function of `args`."""
        at, key = tuple(weight.data_ptr() for weight in weights), tuple(arg.shape for arg in args)
        if at != self._weights:
            self._weights = at
            self._replays.clear()
        if key not in self._replays:
            # A value on the host would be a constant of the recording.
            elsewhere = any(value.device != args[0].device for value in (*weights, *computed, *args))
            if elsewhere or len(self._replays) >= MAX_REPLAYS:
                return partial(function, *weights, *computed)
            own = [value.clone() for value in computed]
            with undone(self.modules, args[0].device):
                self._replays[key] = own, _recorded(function, [*weights, *own], args)
        own, replay = self._replays[key]
        if own:
            torch._foreach_copy_(own, computed)
        return replay


def _recorded(function: Flat, fixed: list[Tensor], args: Tensors) -> Flat:
    held = [arg.detach().clone() for arg in args]
    with torch.cuda.device(args[0].device):
        now, stream, graph = torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                function(*fixed, *held)
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:  # what waits for the device raises here: within a recording it would leave the generator unusable
                function(*fixed, *held)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        now.wait_stream(stream)
        # Other threads, NCCL's watchdog among them, may call CUDA meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            results = function(*fixed, *held)

    def replay(*args: Tensor) -> Tensors:
        with torch.no_grad():
            torch._foreach_copy_(held, list(args))
            graph.replay()
            return tuple(result.clone() for result in results)  # the next replay writes over them

    return replay


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether they are equal; by numpy, which takes a fifth of `torch.equal`'s time."""
    numpy_has = a.dtype in (torch.float32, torch.float64)
    return np.array_equal(a.numpy(), b.detach().numpy()) if numpy_has else torch.equal(a, b)


class Prologue:
    """What weights alone make, once for many calls: casts, packed weights.

    It `keeps` packed ones for the next bind, and makes them again where weights have changed.
    """

    def __init__(self, graph: fx.GraphModule | None, keeps: bool) -> None:
        self.graph, self.keeps = graph, keeps
        placeholders = [] if graph is None else graph.graph.find_nodes(op="placeholder")
        self._read = [i for i, node in enumerate(placeholders) if node.users]
        self._copies: list[Tensor] = []  # of the weights that `_made` is of
        self._made: list[Tensor] = []

    def __call__(self, values: list[Tensor]) -> list[Tensor]:
        """Of these fixed inputs of the graph."""
        if self.graph is None or not self.keeps:
            return [] if self.graph is None else list(self.graph(*values))
        read = [values[i] for i in self._read]
        # By equality, which takes a thirtieth of packing: versions miss what is written through `.data`.
        if not (self._copies and all(map(_same, self._copies, read))):
            self._made, self._copies = list(self.graph(*values)), [value.clone() for value in read]
        return self._made


class Variant(NamedTuple):
    """A graph as it is compiled, with its products as traced or packed."""

    prologue: Prologue
    traced: fx.GraphModule  # the rest
    run: Flat


class Graph:
    """`function`, which runs `modules` of these `weights`, for arguments like `args`: of any batch size, or `batch`."""

    def __init__(
        self, function: Flat, modules: Modules, weights: list[Tensor], args: Tensors, batch: int | None = None
    ) -> None:
        self._inside = inside = inside_torch()
        self._env = inside.ShapeEnv()
        self._symbols: list[Any] = []
        self._admitted: dict[int, bool] = {}
        self._variants: dict[bool, Variant] = {}  # with packed products, and without
        self._replays = CUDAGraphs(modules)
        self.verified: set[tuple[bool, bool]] = set()  # packed or not, alone in its batch or not
        mode = inside.FakeTensorMode(shape_env=self._env, allow_non_fake_inputs=True)
        fake_weights = [self._stand_in(mode, weight) for weight in weights]
        fake_args = []
        for arg in args:
            example = arg.new_empty(batch or TRACED_BATCH, *arg.shape[1:]) if arg.dim() > 0 else arg
            fake_args.append(self._stand_in(mode, example, dynamic=batch is None))
            self._symbols += [size.node.expr for size in fake_args[-1].shape if not isinstance(size, int)]

        def run(fake_weights: list[Tensor], fake_args: list[Tensor]) -> list[Tensor]:
            for fake, weight in zip(fake_weights, weights, strict=True):
                fake.requires_grad_(weight.requires_grad)
            with _swapped(modules, dict(zip(map(id, weights), fake_weights, strict=True))):
                return [value.detach() for value in function(*fake_args)]

        cache = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # it would keep stand-ins for weights
        try:
            with mode, isolated(), pyro.validation_enabled(False), torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # what torch says to itself about its next version
                options: Any = {"tracing_mode": "real", "_allow_non_fake_inputs": True}
                trace = inside.make_fx(
                    run, decomposition_table=cpu.decompositions(inside.get_decompositions), **options
                )
                with inside.enable_python_dispatcher():
                    self._traced = trace(fake_weights, fake_args)
        finally:
            torch.set_autocast_cache_enabled(cache)
        self._constants = _lift_constants(self._traced, len(weights))
        self._products = cpu.fixed_products(self._traced, len(weights) + len(self._constants))

    def _stand_in(self, mode: Any, tensor: Tensor, dynamic: bool = False) -> Any:
        """`tensor` without its values, and with a symbol for its leading size if `dynamic`."""
        kind = self._inside.DimDynamic
        dims = [kind.DYNAMIC if dynamic and dim == 0 else kind.STATIC for dim in range(tensor.dim())]
        context = self._inside.StatelessSymbolicContext(dynamic_sizes=dims)
        return mode.from_tensor(tensor.detach(), symbolic_context=context)

    def admits(self, batch: int) -> bool:
        """Whether it serves this batch size, by what tracing asked of sizes."""
        if batch not in self._admitted:  # sympy takes its time
            sizes = dict.fromkeys(self._symbols, batch)
            self._admitted[batch] = all(bool(guard.expr.subs(sizes)) for guard in self._env.guards)
        return self._admitted[batch]

    def packs(self, batch: int, calls: float) -> bool:
        """Whether products with weights are packed for so many calls: a rule without history, for a run that is resumed
        is to take the same products."""
        return batch >= cpu.LEAST_ROWS and calls >= PACKED_AFTER and bool(self._products) and cpu.onednn_is_faster()

    def bind(self, weights: list[Tensor], args: Tensors, packed: bool = False) -> tuple[Flat, list[Tensor]]:
        """A function of tensors and the first of them, for as long as no weight changes; `args` are the others."""
        values = [*weights, *self._constants]
        with torch.no_grad():
            if packed not in self._variants:
                self._variants[packed] = self._variant(packed, len(values))
            prologue, _, run = self._variants[packed]
            computed = prologue(values)
            values = [value.detach() for value in values]
        if args[0].is_cuda:
            return self._replays.bind(run, values, computed, args), []
        return run, [*values, *computed]

    def _variant(self, packed: bool, num_fixed: int) -> Variant:
        traced = cpu.with_onednn(self._traced, self._products if packed else ())
        prologue = Prologue(_hoist(traced, num_fixed), keeps=packed)
        return Variant(prologue, traced, _compiled(traced))


@contextmanager
def _swapped(modules: Modules, weights: dict[int, Tensor]) -> Iterator[None]:
    """Inside, `weights` stand in the places of the parameters and buffers that have their ids.

    By hand: `torch.func.functional_call` does not put back what it swapped in a module that has two names.
    """
    everything = {module for part in modules for module in part.modules()}
    owners: list[Any] = [tensors for module in everything for tensors in (module._parameters, module._buffers)]
    places = [(tensors, name, old) for tensors in owners for name, old in tensors.items() if old is not None]
    try:
        for tensors, name, old in places:
            tensors[name] = weights[id(old)]
        yield
    finally:
        for tensors, name, old in places:
            tensors[name] = old


def _compiled(traced: fx.GraphModule) -> Flat:
    """`traced` through Inductor."""
    compiled = inside_torch().standalone_compile
    # Stand-ins, not real tensors: of those it would take every size, of weights too, for a symbol.
    inputs = [node.meta["val"] for node in traced.graph.find_nodes(op="placeholder")]
    for node in traced.graph.output_node().all_input_nodes:
        node.meta["example_value"] = node.meta["val"]  # where torch before 2.15 looks for the mode of stand-ins
    # It mentions CUDA_HOME, if set, on every machine without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # Draws are an eager run's: of torch's generators, in the program's order. CUDA graphs are our own.
    options = {"fallback_random": True, "reorder_for_locality": False, "triton.cudagraphs": False}
    with torch.inference_mode(False), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:  # trust the processor's flags: saves 7 s of trial compilations
            return compiled(traced, inputs, options={"config_patches": {**options, "cpp.vec_isa_ok": True}})
        except Exception:  # a compiler older than the processor, perhaps
            return compiled(traced, inputs, options={"config_patches": options})
