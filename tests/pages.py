"""Pages as tests read them, and the browser that shows them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@dataclass
class Page(HTMLParser):
    """What is on a page: tables by caption, as rows of texts; tags; what it would load."""

    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._rows: list[list[str]] = []
        self._inside = ""
        self._caption = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows, self._caption = [], ""
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag in ("td", "th", "caption", "script", "style"):
            self._inside = tag
        if tag == "small":
            self._rows[-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "caption", "script", "style"):
            self._inside = ""
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        if self._inside == "caption":
            self._caption += data
        elif self._inside in ("td", "th"):
            self._rows[-1][-1] += data
        elif not self._inside:
            self.texts.append(data)


def parsed(text: str) -> Page:
    page = Page()
    page.feed(text)
    return page


def board_of(page: Page) -> tuple[list[str], dict[str, list[str]]]:
    """Return the head of a page's leaderboard, and its rows by their names."""
    caption = next(name for name in page.tables if name.startswith("All families together"))
    head, *rows = page.tables[caption]
    return head, {row[0]: row[1:] for row in rows}
