"""Files that are whole or not there."""

from .npz_stream import NpzStream
from .replacing import check_writable, replacing

__all__ = ["NpzStream", "check_writable", "replacing"]
