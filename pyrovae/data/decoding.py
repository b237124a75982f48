"""Many files to arrays of one shape."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .rows import Held, Rows

Item = TypeVar("Item")
OnBad = Literal["error", "skip"]


def decoded(
    name: str,
    items: Sequence[Item],
    read: Callable[[Item], np.ndarray],
    *,
    shape: tuple[int, ...],
    settings: Mapping[str, Any],
    dtype: str = "uint8",
    cache: bool | str = True,
    on_bad: OnBad = "error",
    num_workers: int = 2,
) -> tuple[Rows, Tensor]:
    """Rows, of which number i is `read(items[i])`, and the numbers of those that could be read.

    Args:
        name: Of the data set.
        items: Files, or whatever `read` takes.
        read: To an array of `shape`; raises `DataError` for a damaged item.
        shape: Of a datapoint.
        dtype: Of the arrays, as numpy and torch name it.
        settings: All that the arrays depend on, besides the items: plain values.
        cache: Keep arrays in a folder; `False` decodes when a batch is asked for.
        on_bad: Whether a damaged item is an error, or left out.
        num_workers: Threads that decode.
    """
    values = torch.empty(len(items), *shape, dtype=getattr(torch, dtype))
    with ThreadPoolExecutor(max(1, num_workers)) as pool:  # PIL releases the interpreter lock while it decodes
        made = pool.map(read, items)
        for i, array in enumerate(tqdm(made, f"decoding {name}", len(items), unit="image", disable=None)):
            values[i] = torch.from_numpy(array.copy())
    return Held(values), torch.arange(len(items))
