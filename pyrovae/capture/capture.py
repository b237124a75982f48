"""A Pyro program and its compiled twin, and the switch between them."""

import logging
import math
import os
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from time import perf_counter
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import pyro
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from . import graph as graphs
from .graph import Graph, Modules, undone

Function = Callable[..., Any]
Made = TypeVar("Made")
Engine = Literal["auto", "eager", "compiled"]

_log = logging.getLogger(__name__)
_choice: ContextVar[tuple[Engine, int | None]] = ContextVar("engine", default=("auto", None))
# A captured call saves 1 to 9 ms, and compiling takes 1.5 to 5 s where nothing is on disk yet (docs/design.md).
REPAID_AFTER = 1000
MAX_GRAPHS = 16  # of one function; if it takes more, something changes at every call
MAX_PROGRAMS = 16  # of one owner
_NESTED = (list, tuple, dict)
_PLAIN = (str, type(None), bool, int, float, complex, bytes)
# What every module has, what `validated` and `programs_of` keep in it, and a recurrent one's list of its own weights.
_OWN = {"_arguments", "_programs", "_flat_weights", "_flat_weight_refs"}
_NO_PART = (frozenset(vars(nn.Module())) - {"training"}) | _OWN
# Where errors of a user's program pass through, but do not arise.
_LIBRARIES = (
    os.path.dirname(os.__file__) + os.sep,
    *(os.path.dirname(os.path.dirname(file)) + os.sep for file in (torch.__file__, pyro.__file__, __file__)),
)


@contextmanager
def engine(choice: Engine, num_batches: int | None = None) -> Iterator[None]:
    """Inside, what can be captured as a graph runs `eager` or `compiled`, to the same results.

    `auto` compiles what will be called at least 1,000 times in the `num_batches` batches to come. Where that number is
    unknown, it compiles what *was* called so often: then at most as much time is lost as eager calls have cost.

    Raises:
        ValueError: Another choice.

    >>> with engine("eager"):
    ...     Capture(lambda x: x * 2)(torch.ones(3))
    tensor([2., 2., 2.])
    """
    if choice not in get_args(Engine):
        raise ValueError(f"engine must be auto, eager or compiled, got {choice!r}")
    token = _choice.set((choice, num_batches))
    try:
        yield
    finally:
        _choice.reset(token)


class CaptureWarning(UserWarning):
    """Something could not be captured, and runs eagerly."""


class Reading(NamedTuple):
    """What modules are at one time."""

    weights: list[Tensor]  # parameters and buffers, shared ones once
    key: tuple[Hashable, ...]  # of what a graph holds fast: attributes' values, and which object every other one is
    objects: list[Any]  # those: to keep as long as the key, for Python gives their ids to others once they are gone

    @classmethod
    def of(cls, modules: Modules) -> "Reading":
        weights: dict[int, Tensor] = {}
        key: list[Any] = []
        objects: list[Any] = []
        todo, seen = list(modules), set()
        while todo:  # not by `nn.Module.modules`, for this runs at every batch
            module = todo.pop()
            if module is None or module in seen:
                continue
            seen.add(module)
            attributes = module.__dict__
            todo += attributes["_modules"].values()
            for tensors in (attributes["_parameters"], attributes["_buffers"]):
                weights.update((id(tensor), tensor) for tensor in tensors.values() if tensor is not None)
            key.append(type(module))
            key += [(name, held(value, objects)) for name, value in attributes.items() if name not in _NO_PART]
        found = list(weights.values())
        return cls(found, (*key, *(weight.requires_grad for weight in found)), objects)


def held(value: Any, objects: list[Any]) -> Hashable:
    """What is equal as long as `value` is; what it only knows by identity is added to `objects`, for the key to keep.

    >>> held([1, {"a": 2.0}], [])
    ((<class 'int'>, 1), (('a', (<class 'float'>, 2.0)),))
    """
    if isinstance(value, _PLAIN):
        return value if isinstance(value, str) else (type(value), value)  # True is not 1, nor is 1.0
    if isinstance(value, _NESTED):
        return tuple([held(item, objects) for item in (value.items() if isinstance(value, dict) else value)])
    objects.append(value)
    return id(value)


class _Kept(NamedTuple):
    objects: list[Any]  # that the key knows by identity
    lacks: str  # why there is no graph
    graph: Graph | None = None
    call: Any = None  # by `_caller`


class Capture:
    """A function of tensors that runs Pyro programs, and its compiled twin.

    `make_fx` records every operation of a call, autograd's and the optimizer's included, as one flat graph, which
    Inductor compiles. Parameters and buffers of `modules` are inputs of the graph, so it sees every update. The leading
    dimension is a symbol, so one graph serves every batch size; a function that makes a number of it, by `len(x)` say,
    is captured for each size. It is captured anew where data type, device, shapes, autocast, training mode or an
    attribute of the modules changes.

    Whether a call is eager is up to `engine`. It also is where a Pyro handler is at work, which a graph would not see;
    and where capturing or compiling fails, or a graph's first result is not the eager one: one warning says so.

    Args:
        function: Of and to tensors of shape () or (B, ...), None, and nested tuples of them; no other effect.
        modules: All that it runs.
        name: What messages call it; by default what Python does.

    >>> layer = nn.Linear(3, 2)
    >>> capture = Capture(lambda x, state: (state[0] + 1, layer(x)), layer)
    >>> [tuple(result.shape) for result in capture(torch.ones(4, 3), (torch.tensor(0.0), None))]
    [(), (4, 2)]
    """

    def __init__(self, function: Function, *modules: nn.Module, name: str = "") -> None:
        self.function = function
        self.name = name or getattr(function, "__qualname__", type(function).__qualname__)
        self._modules = modules
        self._graphs: dict[tuple, _Kept] = {}
        self._warned: set[str] = set()
        self._given_up = ""  # why, for good
        self._num_calls = 0

    def __call__(self, *args: Any) -> Any:
        """`function(*args)`."""
        return self.bind(*args)(*args)

    def bind(self, *args: Any, calls: int = 1, still: bool = False) -> Function:
        """The function to call `calls` times with arguments like these, while no weight changes.

        If weights stand `still` beyond that, as in evaluation, what is made of them is kept for the next bind.

        Compiled, it raises `ValueError` for another batch size than these arguments have.
        """
        self._num_calls += calls
        choice, num_batches = _choice.get()
        repaid = (self._num_calls if num_batches is None else calls * num_batches) >= REPAID_AFTER
        if choice == "eager" or (choice == "auto" and not repaid):
            return self.function
        if am_i_wrapped():
            return self._eager(graphs.PYRO_LACKS)
        flat = leaves(args)
        batch = next((len(arg) for arg in flat if arg.dim() > 0), 0)
        if batch == 0 or self._given_up:
            return self.function
        now, device = Reading.of(self._modules), flat[0].device.type
        modes = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device), torch.get_num_threads()
        key = structure(args), modes, *((arg.shape[1:], arg.dim(), arg.dtype, arg.device) for arg in flat), now.key
        for size in (None, batch):  # a graph for every batch size, else one for this
            bound = self._bound((key, size), now, args, batch, math.inf if still else calls)
            if bound is not None:
                return bound
        return self._eager(self._given_up or self._graphs[key, batch].lacks)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_graphs": {}}  # copies and pickles capture anew

    def _eager(self, reason: str) -> Function:
        if reason and reason not in self._warned:
            self._warned.add(reason)
            message = f"{self.name} is not compiled, which makes it slower: {reason}"
            warnings.warn(message, CaptureWarning, stacklevel=3)
        return self.function

    def _bound(self, place: tuple, now: Reading, args: tuple[Any, ...], batch: int, calls: float) -> Function | None:
        """The graph kept at `place`, made if it is not there yet, with its weights; None if there can be none."""
        kept = self._graphs.get(place)
        if kept is None and len(self._graphs) >= MAX_GRAPHS:
            self._given_up = f"its modules, shapes or modes have changed {MAX_GRAPHS} times"
        if self._given_up:
            return None
        try:
            if kept is None:
                kept = self._graphs[place] = self._captured(now, args, place[1])
                if Reading.of(self._modules).key != now.key:
                    self._given_up = "it changes attributes of its modules as it runs"
                    return None
            if kept.graph is None or not kept.graph.admits(batch):
                return None
            start, packed = perf_counter(), kept.graph.packs(batch, calls)
            run, fixed = kept.graph.bind(now.weights, tuple(arg.contiguous() for arg in leaves(args)), packed)
            bound: Function = kept.call(run, fixed, batch, self.name)
            kind = packed, batch == 1  # the one size at which a symbol could mean something else
            if not any(packed == other for other, _ in kept.graph.verified):
                sizes = "" if place[1] is None else f" for batches of {batch}"
                _log.info("compiled %s%s in %.1f s", self.name, sizes, perf_counter() - start)
            if kind not in kept.graph.verified:
                self._verify(bound, args)
                kept.graph.verified.add(kind)
            return bound
        except Exception as error:  # whatever a user's program does that cannot be traced; a missing compiler
            self._graphs[place] = _Kept(now.objects, _explain(error))
            return None

    def _captured(self, now: Reading, args: tuple[Any, ...], size: int | None) -> _Kept:
        types: dict[str, Any] = {}
        calls, packed = [], eval(f"lambda flat: {_source(args, map('flat[{}]'.format, count()), types)}", types)

        def flat(*tensors: Tensor) -> list[Tensor]:
            results = self.function(*packed(tensors))
            calls.append(_caller(args, results))
            return leaves(results)

        graph = Graph(flat, self._modules, now.weights, tuple(leaves(args)), size)
        return _Kept(now.objects, "", graph, calls[-1])

    def _verify(self, bound: Function, args: tuple[Any, ...]) -> None:
        """Runs both twins on the same noise and compares."""
        device, results = leaves(args)[0].device, []
        for function in (bound, self.function):
            with undone(self._modules, device):
                results.append(leaves(function(*args)))
        worst = max(_distance(*pair) for pair in zip(*results, strict=True))
        # Loose, for rounding in bfloat16 changes the sign of Adam's first step where the gradient is small.
        if not worst < (0.5 if torch.is_autocast_enabled(device.type) else 0.02):
            raise RuntimeError(f"its compiled results differ from the eager ones by {worst:.2g} of their norm")


def leaves(value: Any) -> list[Tensor]:
    """The tensors of nested tuples, from left to right."""
    if isinstance(value, tuple):
        return [leaf for item in value for leaf in leaves(item)]
    if not isinstance(value, Tensor | None):
        raise TypeError(f"arguments and results must be tensors, None and tuples of them, got {type(value).__name__}")
    return [] if value is None else [value]


def structure(value: Any) -> Hashable:
    """Nested tuples without their tensors."""
    return (type(value), *map(structure, value)) if isinstance(value, tuple) else value is None


def _caller(args: tuple[Any, ...], results: Any) -> Any:
    """(run, fixed, rows, name) to `run(*fixed, *tensors)` as a function of nested tuples like these, of so many rows.

    It is written out as source, as Python's `NamedTuple` and torch's `fx` do, for it runs at every inner step.
    """
    batched = {f"t{i}": leaf.dim() > 0 for i, leaf in enumerate(leaves(args))}
    sizes = [f"{name}.shape[0]" for name in batched if batched[name]]
    scope: dict[str, Any] = {}
    source = f"""
def make(run, fixed, rows, name):
    def call(*args):
        {_source(args, iter(batched), None)} = args
        if not {" == ".join(sizes)} == rows:
            sizes = ", ".join(sorted({{str(size) for size in ({", ".join(sizes)},)}}))
            raise ValueError(f"{{name}} is bound for batches of {{rows}}, and called with {{sizes}}; bind it again")
        flat = run(*fixed, {", ".join(f"{t}.contiguous()" if batched[t] else t for t in batched)})
        return {_source(results, map("flat[{}]".format, count()), scope)}
    return call"""
    exec(source, scope)
    return scope["make"]


def _source(value: Any, leaf: Iterator[str], types: dict[str, Any] | None) -> str:
    """Nested tuples like `value`, of types that `types` learns, or as a target to assign to."""
    if not isinstance(value, tuple):
        return next(leaf) if value is not None else "_" if types is None else "None"
    name = ""
    if types is not None and type(value) is not tuple:
        types[name := f"type{len(types)}"] = type(value)
    return f"{name}({''.join(f'{_source(item, leaf, types)}, ' for item in value)})"


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


class Programs:
    """The last few things made for one owner, by what they were made of. Copies and pickles of it start empty.

    >>> Programs().get(lambda: "step", (), 2)
    'step'
    """

    def __init__(self) -> None:
        self._made: dict[tuple, tuple[tuple, Any]] = {}

    def get(self, make: Callable[[], Made], objects: tuple[Any, ...], *settings: Hashable) -> Made:
        """What `make` made of these `objects`, by identity, and `settings`, by value; made now if it was not."""
        key = getattr(make, "__code__", make), *map(id, objects), *settings
        # With the objects, whose ids would else be given to others; the last used comes last.
        self._made[key] = self._made.pop(key) if key in self._made else (objects, make())
        if len(self._made) > MAX_PROGRAMS:
            del self._made[next(iter(self._made))]
        return self._made[key][1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": {}}


def programs_of(owner: nn.Module) -> Programs:
    """The captured programs that `owner`, a model mostly, carries along: they die with it.

    >>> model = nn.Linear(3, 2)
    >>> step, again = (programs_of(model).get(lambda: Capture(model, model), (model,)) for _ in range(2))
    >>> step is again
    True
    """
    programs: Programs = owner.__dict__.setdefault("_programs", Programs())
    return programs
