"""Where refinement of each image last ended."""

import torch
from torch import Tensor


class LastRows:
    """A row of λ per training image; NaN for those not visited yet.

    Attributes:
        rows: (N, P), or None before the first visit.
    """

    def __init__(self) -> None:
        self.rows: Tensor | None = None

    def get(self, numbers: Tensor) -> Tensor | None:
        """λ (B, P) of the images numbered `numbers`."""
        return None if self.rows is None else self.rows[numbers]

    def put(self, numbers: Tensor, params: Tensor, num_rows: int) -> None:
        """Keeps λ (B, P) of the images numbered `numbers`, of at most `num_rows` in all."""
        if self.rows is None:
            self.rows = params.new_full((num_rows, params.shape[1]), torch.nan)
        self.rows[numbers] = params.detach()
