"""Columns of text."""

from collections.abc import Sequence


def table(lines: Sequence[Sequence[str]]) -> str:
    """Columns, the first and long texts to the left, numbers to the right."""
    columns = list(zip(*lines, strict=True))
    padded = []
    for i, column in enumerate(columns):
        side, width = "<" if i == 0 or column[0] in ("raw", "lies in") else ">", max(map(len, column))
        padded.append([f"{text:{side}{width}}" for text in column])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))
