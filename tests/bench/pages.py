"""Pages with measured tables: a run replaces what stands between the markers, and nothing else.

<!-- bench: table -->
...
<!-- bench: end -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["NAMES", "write"]

#: all blocks that there are: three of `make bench`, one of `make profile`
NAMES = ("table", "bars", "costs", "profile")

MARKED = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- bench: end -->)", re.DOTALL)


def write(page: Path, blocks: Mapping[str, str]) -> None:
    """Put each block (Markdown, by name) where `page` has its marker; a page without markers is written anew.

    Markers of other blocks keep what they have. Raises ValueError for a marker that no block can fill.
    """
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if not MARKED.search(text):
        text = "\n".join(f"<!-- bench: {name} -->\n<!-- bench: end -->\n" for name in blocks)

    def block(found: re.Match[str]) -> str:
        if found[2] not in NAMES:
            raise ValueError(f"{page}: no block {found[2]!r}; there are {', '.join(NAMES)}")
        if found[2] not in blocks:
            return found[0]
        return f"{found[1]}\n{blocks[found[2]]}\n\n{found[3]}"

    page.write_text(MARKED.sub(block, text), encoding="utf-8")
