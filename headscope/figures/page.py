"""A report: text, figures and tables as one web page that needs no network, light or dark as the reader's screen is."""

from collections.abc import Sequence
from html import escape

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from headscope.tables import html_table

Section = tuple[str, str | go.Figure | pd.DataFrame]
"""A heading and what stands under it. Text is shown as it is; an empty line starts a paragraph."""

# Nothing may be fetched, so the page shows the same in ten years and tells nobody that it was opened.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #24292f; --quiet: #57606a; --grid: #d8dee4; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15191f; --ink: #e6edf3; --quiet: #9ea7b3; --grid: #3a424c; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 2.5rem 0 .5rem; overflow-wrap: anywhere; }
p { max-width: 42rem; margin: .5rem 0; overflow-wrap: anywhere; white-space: pre-line; }
figure { margin: .5rem 0 0; }
.wide { overflow-x: auto; }
.wide:focus-visible { outline: 2px solid var(--quiet); }
table { width: max-content; border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); padding-bottom: .4rem; }
th, td { max-width: 22rem; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--grid); vertical-align: top;
  overflow-wrap: anywhere; }
"""

_PAINT = """
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function paint() {
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  for (const plot of document.querySelectorAll(".plotly-graph-div")) {
    const change = {"font.color": colour("--ink"), "paper_bgcolor": "rgba(0,0,0,0)"};
    for (const axis of Object.keys(plot.layout).filter(key => /^[xy]axis/.test(key))) {
      change[axis + ".gridcolor"] = change[axis + ".zerolinecolor"] = colour("--grid");
    }
    Plotly.relayout(plot, change);
    plot.data.forEach((trace, i) => trace.error_x && Plotly.restyle(plot, {"error_x.color": colour("--ink")}, [i]));
  }
}
window.addEventListener("load", paint);
dark.addEventListener("change", paint);
"""


def report(title: str, sections: Sequence[Section]) -> str:
    """One self-contained HTML page: headings with text, figures or tables, and plotly.js once if there is a figure."""
    parts = "\n".join(_section(i, heading, body) for i, (heading, body) in enumerate(sections))
    plotly = f"<script>{get_plotlyjs()}</script>" if any(isinstance(body, go.Figure) for _, body in sections) else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
{plotly}
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{parts}
</main>
{f"<script>{_PAINT}</script>" if plotly else ""}
</body>
</html>
"""


def _section(place: int, heading: str, body: str | go.Figure | pd.DataFrame) -> str:
    name = f"section-{place}"
    inside = _body(place, heading, body)
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(heading)}</h2>\n{inside}\n</section>'


def _body(place: int, heading: str, body: str | go.Figure | pd.DataFrame) -> str:
    if isinstance(body, go.Figure):
        config = {"displayModeBar": False, "responsive": True}
        drawn = body.to_html(config, full_html=False, include_plotlyjs=False, div_id=f"figure-{place}")
        return f'<figure aria-label="{escape(heading)}">{drawn}</figure>'
    if isinstance(body, pd.DataFrame):
        table = html_table(body)
        return f'<div class="wide" role="region" aria-label="{escape(heading)}" tabindex="0">{table}</div>'
    paragraphs = (part.strip() for part in body.split("\n\n"))
    return "\n".join(f"<p>{escape(part)}</p>" for part in paragraphs if part)
