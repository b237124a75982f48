"""A Pyro program and its compiled twin."""

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .engine import compiling_pays
from .isolated import is_isolated
from .program import Function, Program, Tensors

if TYPE_CHECKING:
    from .graph import Graph

MAX_GRAPHS = 16  # of one function; if it takes more, something changes at every call


class CaptureWarning(UserWarning):
    """Something could not be captured, and runs eagerly."""


class Capture:
    r"""A function of tensors that runs Pyro programs, and its compiled twin.

    `make_fx` records every operation of a call, autograd's and the optimizer's included, as one flat graph, which
    Inductor compiles. Parameters and buffers of `modules` are inputs of the graph, so it sees every update. The leading
    dimension is a symbol, so one graph serves every batch size; a function that makes a number of it, by `len(x)` say,
    is captured for each size. Data type, device, shapes, autocast, training mode, and every plain attribute of the
    modules are part of the key: where one changes, the function is captured anew.

    Whether a call is eager is up to `engine`. It also is where a Pyro handler is at work, which a graph would not see;
    and where capturing or compiling fails, or a graph's first result is not the eager one: one warning says so.

    Args:
        function: Takes tensors of shape () or (B, ...) and returns a tuple of tensors; no other effect.
        modules: All that it runs.
    """

    def __init__(self, function: Function, *modules: nn.Module) -> None:
        self.function = function
        self._program = Program(function, modules)
        self._graphs: dict[tuple, Graph | None] = {}  # None: to be run eagerly
        self._num_calls = 0

    def __call__(self, *args: Tensor) -> Tensors:
        """`function(*args)`."""
        return self.bind(*args)(*args)

    def bind(self, *args: Tensor, calls: int = 1) -> Function:
        """The function to call `calls` times with arguments like these, while no weight changes."""
        self._num_calls += calls
        if not (compiling_pays(calls, self._num_calls) and is_isolated()):
            return self.function
        weights, state = self._program.read()
        key = (*_modes(args), state)
        batch = next(len(arg) for arg in args if arg.dim() > 0)
        graph = self._graph(key, args, None)
        if graph is None or not graph.admits(batch):
            graph = self._graph(key, args, batch)
        if graph is None or graph.wrong:
            return self.function
        try:
            bound = graph.bind(weights, args)
        except Exception as error:  # a missing compiler, say
            self._give_up(graph, _first_line(error))
            return self.function
        alone = batch == 1  # the one size at which a symbol could mean something else
        if alone not in graph.verified:
            graph.verified.add(alone)
            self._verify(graph, bound, args)
        return self.function if graph.wrong else bound

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_graphs": {}}  # copies and pickles capture anew

    def _graph(self, key: tuple, args: Tensors, batch: int | None) -> "Graph | None":
        """The graph for any batch size, or for the given one; None where there is none."""
        from .graph import Graph  # noqa: PLC0415 - takes a second to import, with sympy

        if (key, batch) not in self._graphs:
            graph = None
            if len(self._graphs) < MAX_GRAPHS:
                try:
                    graph = Graph(self._program, args, batch)
                except Exception as error:  # whatever a user's program does that cannot be traced
                    if batch is not None:  # else it is tried for this one size
                        self._warn(_first_line(error))
            elif len(self._graphs) == MAX_GRAPHS:
                self._warn(f"its modules, shapes or modes have changed {MAX_GRAPHS} times")
            self._graphs[key, batch] = graph
        return self._graphs[key, batch]

    def _give_up(self, graph: "Graph", reason: str) -> None:
        graph.wrong = True
        self._warn(reason)

    def _verify(self, graph: "Graph", bound: Function, args: Tensors) -> None:
        """Runs both twins on the same noise and compares."""
        devices = [args[0].device] if args[0].is_cuda else []
        buffers = {buffer: buffer.clone() for buffer in self._program.buffers()}  # a layer may count in them
        results = []
        for function in (bound, self.function):
            with torch.random.fork_rng(devices):
                results.append(function(*args))
            for buffer, value in buffers.items():
                buffer.data.copy_(value)
        worst = max(_distance(*pair) for pair in zip(*results, strict=True))
        # Loose, for rounding in bfloat16 changes the sign of Adam's first step where the gradient is small.
        if not worst < (0.5 if torch.is_autocast_enabled(args[0].device.type) else 0.02):
            self._give_up(graph, f"its compiled results differ from the eager ones by {worst:.2g} of their norm")

    def _warn(self, reason: str) -> None:
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        warnings.warn(f"{name} is not compiled, which makes it slower: {reason}", CaptureWarning, stacklevel=2)


def _modes(args: Tensors) -> tuple:
    """What of the arguments and of torch's state a graph holds fast."""
    device = args[0].device.type
    modes = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device), torch.get_num_threads()
    return *modes, *((arg.shape[1:], arg.dim(), arg.dtype, arg.device) for arg in args)


def _distance(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖ where both are finite; infinite where only one is."""
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return float("inf")
    a, b = a[finite].double(), b[finite].double()
    return float((a - b).norm() / b.norm().clamp_min(1e-6))


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
