"""Replay a compiled function on a GPU without launching its kernels one by one."""

from typing import Any

import torch
from torch import Tensor

from .program import Function, Tensors

MAX_REPLAYS = 8
WARMUP = 3  # runs before recording, on which kernels are loaded and libraries take their workspaces


class CUDAGraphs:
    """A CUDA graph for each batch size, with its own memory for arguments.

    Weights are read where they lie: an optimizer updates them in place. What was computed from them, casts say, lies
    elsewhere each time, and is copied in. Draws stay live: a CUDA graph advances torch's generator at each replay.
    """

    def __init__(self) -> None:
        self._replays: dict[tuple, tuple[list[Tensor], Function]] = {}

    def bind(self, function: Any, weights: list[Tensor], computed: list[Tensor], args: Tensors) -> Function:
        """`function(*weights, *computed, *args)` as a function of `args`."""
        key = tuple(weight.data_ptr() for weight in weights), tuple(arg.shape for arg in args)
        if key not in self._replays:
            if len(self._replays) >= MAX_REPLAYS:
                self._replays.pop(next(iter(self._replays)))  # the oldest
            own = [value.clone() for value in computed]
            self._replays[key] = own, _record(function, [*weights, *own], args)
        own, replay = self._replays[key]
        if own:
            torch._foreach_copy_(own, computed)
        return replay


def _record(function: Any, fixed: list[Tensor], args: Tensors) -> Function:
    held = [arg.clone() for arg in args]
    state = torch.cuda.get_rng_state(args[0].device)
    stream = torch.cuda.Stream(args[0].device)
    stream.wait_stream(torch.cuda.current_stream(args[0].device))
    with torch.cuda.stream(stream):
        for _ in range(WARMUP):
            function(*fixed, *held)
    torch.cuda.current_stream(args[0].device).wait_stream(stream)
    torch.cuda.set_rng_state(state, args[0].device)  # as if nothing had been drawn
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function(*fixed, *held)

    def replay(*args: Tensor) -> Tensors:
        torch._foreach_copy_(held, list(args))
        graph.replay()
        return tuple(result.clone() for result in results)  # the next replay writes over them

    return replay
