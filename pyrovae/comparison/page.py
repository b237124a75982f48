"""A page that needs no other file."""

import base64
import html
from collections.abc import Mapping, Sequence

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.87rem; }
.wide { overflow-x: auto; }
th, td { padding: 0.3rem 0.7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e5e5e5; }
th { border-bottom: 2px solid #888; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
td.long { text-align: left; white-space: normal; min-width: 16rem; }
p.note { color: #555; font-size: 0.87rem; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; }
pre { background: #f6f6f6; padding: 0.8rem; overflow-x: auto; font-size: 0.8rem; }
"""

_LONG = 40  # characters that no line of a table should be held to


class Page:
    """HTML, built from top to bottom; all text is escaped."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """A section starts."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def note(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f'<p class="note">{html.escape(text)}</p>')

    def table(self, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
        """A table; its first column, and what is long, is set left."""
        head = "".join(f"<th>{html.escape(text)}</th>" for text in header)
        body = "".join("<tr>" + "".join(map(_entry, line)) + "</tr>\n" for line in lines)
        self._parts.append(
            f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
        )

    def items(self, texts: Sequence[str]) -> None:
        """A list."""
        self._parts.append("<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>")

    def code(self, text: str) -> None:
        """Text as it stands."""
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def pictures(self, pictures: Mapping[str, bytes]) -> None:
        """PNGs, within the page."""
        for name, png in pictures.items():
            data = base64.b64encode(png).decode("ascii")
            alt = html.escape(name.replace("_", " "), quote=True)
            self._parts.append(f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"></figure>')

    def __str__(self) -> str:
        head = f'<meta charset="utf-8"><title>{html.escape(self.title)}</title><style>{_STYLE}</style>'
        body = "\n".join(self._parts)
        return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _entry(text: str) -> str:
    kind = ' class="long"' if len(text) > _LONG else ""
    return f"<td{kind}>{html.escape(text)}</td>"
