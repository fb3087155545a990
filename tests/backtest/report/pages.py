"""A page taken apart: its elements, tables and plots, and names that a page must survive."""

import json
import re
from html.parser import HTMLParser
from typing import Any

Tree = dict[str, Any]
HOSTILE = (
    "BTC/USDT",
    "</script><script>document.title='owned'</script>/USDT",
    "<img src=x onerror=document.title='owned'>/USDT",
    '"><a href="javascript:document.title=1">x</a>/USDT',
    "%{x}<b>&lt;i&gt;/USDT",
    "\x1b[31m\u202ered/USDT",
)


class Elements(HTMLParser):
    """What a page holds: tags with their attributes, table rows by section, and the text of scripts."""

    def __init__(self, text: str) -> None:
        """Parse a page."""
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self._section, self._cell = "", False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = str(dict(attrs)["id"])
            self.rows[self._section] = []
        elif tag == "tr":
            self.rows[self._section].append([])
        elif tag in {"td", "th"}:
            self.rows[self._section][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        """Leave a cell."""
        if tag in {"td", "th"}:
            self._cell = False

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.texts.append(data)
        if self._cell:
            self.rows[self._section][-1][-1] += data

    def table(self, section: str) -> dict[str, list[str]]:
        """Return a section's rows by their first cell."""
        return {row[0]: row[1:] for row in self.rows[section]}


def figures(text: str) -> dict[str, Tree]:
    """Return the plots of a page."""
    match = re.search(r'<script type="application/json" id="plots">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    found: dict[str, Tree] = json.loads(match[1])
    return found
