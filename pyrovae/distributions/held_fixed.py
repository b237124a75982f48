"""A distribution to score draws under, without gradient to its own parameters."""

from typing import Any

from pyro.distributions.util import detach


def held_fixed(q: Any) -> Any:
    """A copy of `q` whose parameters take no gradient; a draw's own path stays.

    A distribution that knows better than `pyro.distributions.util.detach`, a flow that remembers where its draws come
    from say, has a method `held_fixed` of its own.
    """
    return q.held_fixed() if hasattr(q, "held_fixed") else detach(q)
