"""One program, traced and compiled."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._inductor import standalone_compile
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from .cuda_graphs import CUDAGraphs
from .isolated import isolated
from .passes import hoist, lift_constants
from .program import Function, Program, Tensors

TRACED_BATCH = 64  # the size that stands for any; always the same, so that caches on disk are found again


class Graph:
    """A program for one kind of argument.

    Args:
        program: What to trace.
        args: Arguments of the kind.
        batch: The one batch size it is for; by default any.
    """

    def __init__(self, program: Program, args: Tensors, batch: int | None = None) -> None:
        weights = program.read()[0]
        self._env = ShapeEnv()
        self._admitted: dict[int, bool] = {}
        self._symbols: list[Any] = []
        mode = FakeTensorMode(shape_env=self._env, allow_non_fake_inputs=True)
        fake_weights = [_stand_in(mode, weight) for weight in weights]
        fake_args = []
        for arg in args:
            example = arg.new_empty(batch or TRACED_BATCH, *arg.shape[1:]) if arg.dim() > 0 else arg
            fake_args.append(_stand_in(mode, example, dynamic=batch is None))
            sizes: Any = fake_args[-1].shape
            self._symbols += [size.node.expr for size in sizes if not isinstance(size, int)]

        def run(fake_weights: list[Tensor], fake_args: list[Tensor]) -> list[Tensor]:
            for fake, weight in zip(fake_weights, weights, strict=True):
                fake.requires_grad_(weight.requires_grad)
            with program.swapped(fake_weights):
                return [value.detach() for value in program.function(*fake_args)]

        with mode, _tracing():
            traced = make_fx(run, tracing_mode="real", _allow_non_fake_inputs=True)(fake_weights, fake_args)
        self._constants = lift_constants(traced, len(weights))
        self._prologue = hoist(traced, len(weights) + len(self._constants))
        self._traced = traced
        self._compiled: Any = None
        self._replays = CUDAGraphs()
        self.verified: set[bool] = set()  # alone in its batch, and not

    def admits(self, batch: int) -> bool:
        """Whether it serves this batch size, by what tracing asked of sizes."""
        if batch not in self._admitted:  # sympy takes its time
            sizes = dict.fromkeys(self._symbols, batch)
            self._admitted[batch] = all(bool(guard.expr.subs(sizes)) for guard in self._env.guards)
        return self._admitted[batch]

    def bind(self, weights: list[Tensor], args: Tensors) -> Function:
        """The graph as a function of arguments alone, for as long as no weight changes."""
        values = [*weights, *self._constants]
        with torch.no_grad():
            computed = [] if self._prologue is None else list(self._prologue(*values))
            values = [value.detach() for value in values]
            if self._compiled is None:
                self._compiled = _compiled(self._traced)
        if args[0].is_cuda:
            return self._replays.bind(self._compiled, values, computed, args)
        compiled, fixed = self._compiled, [*values, *computed]
        return lambda *args: compiled(*fixed, *args)


def _stand_in(mode: FakeTensorMode, tensor: Tensor, dynamic: bool = False) -> Tensor:
    """`tensor` without its values, and with a symbol for its leading size if `dynamic`."""
    dims = [DimDynamic.STATIC] * tensor.dim()
    if dynamic and dims:
        dims[0] = DimDynamic.DYNAMIC
    context: Any = StatelessSymbolicContext(dynamic_sizes=dims)
    return mode.from_tensor(tensor.detach(), symbolic_context=context)


@contextmanager
def _tracing() -> Iterator[None]:
    cache = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # it would keep stand-ins for weights
    try:
        with isolated(), pyro.validation_enabled(False), torch.enable_grad(), enable_python_dispatcher(), _calm():
            yield
    finally:
        torch.set_autocast_cache_enabled(cache)


@contextmanager
def _calm() -> Iterator[None]:
    """Silences what torch says to itself about its own next version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _compiled(traced: torch.fx.GraphModule) -> Any:
    """`traced` through Inductor."""
    # Stand-ins, not real tensors: of those it would take every size, of weights too, for a symbol.
    inputs = [node.meta["val"] for node in traced.graph.find_nodes(op="placeholder")]
    for node in traced.graph.output_node().all_input_nodes:
        node.meta["example_value"] = node.meta["val"]  # where torch before 2.15 looks for the mode of stand-ins
    # It mentions CUDA_HOME, if set, on every machine without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    options = {
        "fallback_random": True,  # draws come from torch's generators, so they are those of an eager run
        "reorder_for_locality": False,  # and in the program's order
        "triton.cudagraphs": False,  # our own: see cuda_graphs.py
    }
    quick = {**options, "cpp.vec_isa_ok": True}  # trust the processor's flags: saves 7 s of trial compilations
    with torch.inference_mode(False), _calm():
        try:
            return standalone_compile(traced, inputs, options={"config_patches": quick})
        except Exception:  # a compiler older than the processor, perhaps
            return standalone_compile(traced, inputs, options={"config_patches": options})
