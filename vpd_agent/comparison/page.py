"""The report as a web page of one file: light and dark, and on paper."""

from __future__ import annotations

from html import escape
from pathlib import Path

from vpd_agent.comparison.sections import Block, Figure, Links, Section, Table

STYLE = """
:root { color-scheme: light dark; --ink: #1b1c1d; --soft: #5c6166; --line: #d9dcdf;
  --back: #fff; --band: #f5f6f7 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --soft: #9aa1a8; --line: #3a3f44; --back: #16181a; --band: #1e2124 } }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--back);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
a { color: inherit }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem }
h2 { font-size: 1.05rem; margin: 2.25rem 0 .5rem; padding-top: .6rem;
  border-top: 1px solid var(--line) }
p, ul { margin: .4rem 0; max-width: 48rem }
ul { padding-left: 1.1rem }
li { margin: .15rem 0 }
.soft, figcaption, .about { color: var(--soft); font-size: .87em }
code { font: .87em/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere }
.wide { overflow-x: auto; margin: .6rem 0 }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums }
th, td { padding: .22rem .75rem .22rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; color: var(--soft); vertical-align: bottom }
th.word, td.word { text-align: left }
td.long { white-space: normal; min-width: 12rem; overflow-wrap: anywhere }
tbody tr:hover { background: var(--band) }
figure { margin: .8rem 0 1rem }
figure svg { display: block; width: 100%; height: auto; color: var(--ink) }
summary { cursor: pointer; color: var(--soft); margin: .6rem 0; font-size: .9rem }
@media print {
  @page { size: A4; margin: 14mm }
  :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --back: #fff }
  body { max-width: none; padding: 0; font-size: 9.5pt }
  h2 { break-after: avoid; margin-top: 1.2rem }
  figure, tr { break-inside: avoid }
  thead { display: table-header-group }
  table { font-size: 7.6pt }
  th, td { padding-right: .5rem }
  .wide { overflow: visible }
}
"""
# A browser prints a closed fold closed; the page opens its folds for that time.
SCRIPT = """
const folds = document.querySelectorAll('details');
addEventListener('beforeprint', () => folds.forEach(f => { f.was = f.open; f.open = true; }));
addEventListener('afterprint', () => folds.forEach(f => { f.open = f.was; }));
"""
_LONG = 44  # characters from which a cell of words may break


def page(title: str, about: str, sections: list[Section], figures: Path) -> str:
    """figures: the folder with their SVGs."""
    body = [f"<h1>{escape(title)}</h1>", f'<p class="soft">{escape(about)}</p>']
    for section in sections:
        blocks = [_block(block, figures) for block in section.blocks]
        body.append(
            "\n".join(["<section>", f"<h2>{escape(section.title)}</h2>", *blocks, "</section>"])
        )
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    content = "\n".join(body)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{content}\n'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _block(block: Block, figures: Path) -> str:
    match block:
        case str():
            return f'<p class="about">{escape(block)}</p>'
        case Table():
            return _table(block)
        case Figure():
            svg = (figures / f"{block.name}.svg").read_text(encoding="utf-8")
            caption = f"<figcaption>{escape(block.caption)}</figcaption>"
            return f'<figure role="img" aria-label="{escape(block.name)}">{svg}{caption}</figure>'
        case Links():
            links = (f'<a href="{escape(to)}">{escape(w)}</a>' for w, to in block.targets.items())
            return f"<p>{' · '.join(links)}</p>"
        case _:
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in block) + "</ul>"


def _table(table: Table) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(_cell(cell, i, tag) for i, cell in enumerate(cells)) + "</tr>"

    def _cell(cell: str, column: int, tag: str) -> str:
        word = column < table.words
        kind = ("word long" if len(cell) > _LONG else "word") if word else ""
        return f'<{tag} class="{kind}">{escape(cell)}</{tag}>'

    head = row(table.header, "th") if any(table.header) else ""
    rows = "\n".join(row(cells, "td") for cells in table.rows)
    whole = f'<div class="wide"><table><thead>{head}</thead><tbody>\n{rows}\n</tbody></table></div>'
    if not table.folded:
        return whole
    return f"<details><summary>{escape(table.folded)}</summary>{whole}</details>"
