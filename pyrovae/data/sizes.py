"""Bytes, for people."""


def size(num_bytes: int) -> str:
    """Bytes in GiB, MiB or KiB."""
    for unit, worth in (("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= worth:
            return f"{num_bytes / worth:,.1f} {unit}"
    return f"{num_bytes / 2**10:,.1f} KiB"
