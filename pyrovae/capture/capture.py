"""A Pyro program and its compiled twin, and the switch between them."""

import logging
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, get_args

import pyro
import torch
from torch import Tensor, nn

from .graph import Function, Program, Tensors, is_isolated

if TYPE_CHECKING:
    from .graph import Graph


Engine = Literal["auto", "eager", "compiled"]

# A captured call saves 1.5 to 5 ms of Pyro's and autograd's time, and compiling takes 5 to 15 s (docs/results.md).
REPAID_AFTER = 5000


class _Choice(NamedTuple):
    engine: Engine
    num_batches: int | None


_AUTO = _Choice("auto", None)
_choice: ContextVar[_Choice] = ContextVar("engine", default=_AUTO)


@contextmanager
def engine(choice: Engine, num_batches: int | None = None) -> Iterator[None]:
    """Inside, what can be captured as a graph runs `eager` or `compiled`, to the same results.

    `auto` compiles what will be called at least 5,000 times in `num_batches` batches. Where that number is unknown, it
    compiles what *was* called so often: then at most as much time is lost as eager calls have cost by then.

    Args:
        choice: `auto`, `eager` or `compiled`.
        num_batches: How many batches are to come in all.

    Raises:
        ValueError: Another choice.
    """
    if choice not in get_args(Engine):
        raise ValueError(f"engine must be auto, eager or compiled, got {choice!r}")
    token = _choice.set(_Choice(choice, num_batches))
    try:
        yield
    finally:
        _choice.reset(token)


def compiling_pays(calls_a_batch: int, calls_so_far: int) -> bool:
    """The rule of `engine`, for a function that is called `calls_a_batch` times a batch."""
    choice = _choice.get()
    if choice.engine != "auto":
        return choice.engine == "compiled"
    calls = calls_so_far if choice.num_batches is None else calls_a_batch * choice.num_batches
    return calls >= REPAID_AFTER


_log = logging.getLogger(__name__)

# Where errors of a user's program pass through, but do not arise.
_LIBRARIES = (
    os.path.dirname(os.__file__) + os.sep,
    *(os.path.dirname(os.path.dirname(file)) + os.sep for file in (torch.__file__, pyro.__file__, __file__)),
)

MAX_GRAPHS = 16  # of one function; if it takes more, something changes at every call


class CaptureWarning(UserWarning):
    """Something could not be captured, and runs eagerly."""


class Capture:
    r"""A function of tensors that runs Pyro programs, and its compiled twin.

    `make_fx` records every operation of a call, autograd's and the optimizer's included, as one flat graph, which
    Inductor compiles. Parameters and buffers of `modules` are inputs of the graph, so it sees every update. The leading
    dimension is a symbol, so one graph serves every batch size; a function that makes a number of it, by `len(x)` say,
    is captured for each size. Data type, device, shapes, autocast, training mode, and the attributes of the
    modules are part of the key: where one changes, the function is captured anew.

    Whether a call is eager is up to `engine`. It also is where a Pyro handler is at work, which a graph would not see;
    and where capturing or compiling fails, or a graph's first result is not the eager one: one warning says so.

    Args:
        function: Takes tensors of shape () or (B, ...) and returns a tuple of tensors; no other effect.
        modules: All that it runs.
        name: What messages call it; by default what Python does.
    """

    def __init__(self, function: Function, *modules: nn.Module, name: str = "") -> None:
        self.function = function
        self._program = Program(function, modules)
        self._graphs: dict[tuple, Graph | str] = {}  # or why there is none
        self._warned: set[str] = set()
        self._given_up = ""  # why, for good
        self._num_calls = 0
        self.name = name or getattr(function, "__qualname__", type(function).__qualname__)

    def __call__(self, *args: Tensor) -> Tensors:
        """`function(*args)`."""
        return self.bind(*args)(*args)

    def bind(self, *args: Tensor, calls: int = 1) -> Function:
        """The function to call `calls` times with arguments like these, while no weight changes."""
        self._num_calls += calls
        if not (compiling_pays(calls, self._num_calls) and is_isolated()):
            return self.function
        batch = next(len(arg) for arg in args if arg.dim() > 0)
        if batch == 0 or self._given_up:
            return self.function
        weights, state = self._program.read()
        key = (*_modes(args), state)
        for size in (None, batch):  # a graph for every batch size, else one for this
            bound = self._bound((key, size), weights, args, batch)
            if bound is not None:
                return bound
        reason = self._given_up or str(self._graphs[key, batch])
        if reason not in self._warned:
            self._warned.add(reason)
            message = f"{self.name} is not compiled, which makes it slower: {reason}"
            warnings.warn(message, CaptureWarning, stacklevel=2)
        return self.function

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_graphs": {}}  # copies and pickles capture anew

    def _bound(self, place: tuple, weights: list[Tensor], args: Tensors, batch: int) -> Function | None:
        """The graph kept at `place`, made if it is not there yet, with its weights; None if there can be none."""
        from .graph import Graph  # noqa: PLC0415 - takes a second to import, with sympy

        graph = self._graphs.get(place)
        if graph is None and len(self._graphs) >= MAX_GRAPHS:
            self._given_up = f"its modules, shapes or modes have changed {MAX_GRAPHS} times"
        if self._given_up:
            return None
        try:
            if graph is None:
                graph = self._graphs[place] = Graph(self._program, args, place[1])
                if self._program.read()[1] != place[0][-1]:
                    self._given_up = "it changes attributes of its modules as it runs"
                    return None
            if isinstance(graph, str) or not graph.admits(batch):
                return None
            start = perf_counter()
            bound = graph.bind(weights, args)
            if not graph.verified:
                sizes = "" if place[1] is None else f" for batches of {batch}"
                _log.info("compiled %s%s in %.1f s", self.name, sizes, perf_counter() - start)
            alone = batch == 1  # the one size at which a symbol could mean something else
            if alone not in graph.verified:
                self._verify(bound, args)
                graph.verified.add(alone)
            return bound
        except Exception as error:  # whatever a user's program does that cannot be traced; a missing compiler
            self._graphs[place] = _explain(error)
            return None

    def _verify(self, bound: Function, args: Tensors) -> None:
        """Runs both twins on the same noise and compares."""
        devices = [args[0].device] if args[0].is_cuda else []
        # A layer may count in a buffer.
        buffers = [(buffer, buffer.clone()) for module in self._program.modules for buffer in module.buffers()]
        results = []
        for function in (bound, self.function):
            with torch.random.fork_rng(devices):
                results.append(function(*args))
            for buffer, value in buffers:
                buffer.data.copy_(value)
        worst = max(_distance(*pair) for pair in zip(*results, strict=True))
        # Loose, for rounding in bfloat16 changes the sign of Adam's first step where the gradient is small.
        if not worst < (0.5 if torch.is_autocast_enabled(args[0].device.type) else 0.02):
            raise RuntimeError(f"its compiled results differ from the eager ones by {worst:.2g} of their norm")


def _modes(args: Tensors) -> tuple:
    """What of the arguments and of torch's state a graph holds fast."""
    device = args[0].device.type
    modes = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device), torch.get_num_threads()
    return *modes, *((arg.shape[1:], arg.dim(), arg.dtype, arg.device) for arg in args)


def _explain(error: Exception) -> str:
    """What went wrong, in a line, and where in the user's code."""
    name, lines = type(error).__name__, str(error).strip().splitlines()
    text = f"{name}: {lines[0]}" if lines else name
    if "DataDependent" in name:
        text = f"it asks for the value of a tensor, to branch on it perhaps ({name})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_LIBRARIES)]
    return f"{text}, at {frames[-1].filename}:{frames[-1].lineno}" if frames else text


def _distance(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖ where both are finite; infinite where only one is."""
    a, b = a.detach().double(), b.detach().double()
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return float("inf")
    return float((a - b)[finite].norm() / b[finite].norm().clamp_min(1e-6))


def _flatten(v, out):
    if isinstance(v, Tensor): out.append(v); return
    if v is None: return
    for p in v: _flatten(p, out)
def _unflatten(like, it):
    if isinstance(like, Tensor): return next(it)
    if like is None: return None
    parts=[_unflatten(p, it) for p in like]
    return type(like)(*parts) if hasattr(like,"_fields") else tuple(parts)
_Flat = Capture
class Capture(_Flat):
    def __init__(self, function, *modules, name=""):
        self.nested=function; self.modules=modules; self.made={}
        self._name=name; self.captures={}; self.function=function
    def __getstate__(self): return {**vars(self),"captures":{}}
    def bind(self, *args, calls=1):
        def struct(v):
            if isinstance(v,Tensor): return 0
            if v is None: return None
            return (type(v),*map(struct,v))
        key=struct(args)
        if key not in self.captures:
            box={}
            def flat(*tensors):
                it=iter(tensors); a=_unflatten(args,it)
                r=self.nested(*a); box["r"]=r; out=[]; _flatten(r,out); return tuple(out)
            self.captures[key]=(_Flat(flat,*self.modules,name=self._name or getattr(self.nested,"__qualname__",type(self.nested).__qualname__)),flat,box)
        cap,flat,box=self.captures[key]
        t=[]; _flatten(args,t)
        b=cap.bind(*t,calls=calls)
        if b is flat: return self.nested
        def run(*a):
            t=[]; _flatten(a,t)
            return _unflatten(box["r"],iter(b(*t)))
        return run
    def __call__(self,*a): return self.bind(*a)(*a)

MAX_PROGRAMS = 8

Made = TypeVar("Made")


class Programs(Generic[Made]):
    """The last few things that `make` made, by the objects and settings they were made of.

    Copies and pickles start empty, and capture anew.
    """

    def __init__(self) -> None:
        self._made: dict[tuple, tuple[tuple, Made]] = {}

    def get(self, make: Callable[[], Made], objects: tuple[Any, ...], *settings: Any) -> Made:
        """What was made of these `objects`, by identity, and `settings`, by value; made now if it was not."""
        key = *map(id, objects), *settings
        if key not in self._made:
            if len(self._made) == MAX_PROGRAMS:
                del self._made[next(iter(self._made))]  # the oldest
            self._made[key] = objects, make()  # with the objects, whose ids would else be given to others
        return self._made[key][1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": {}}




def programs_of(owner):
    return owner.__dict__.setdefault("_programs", Programs())
