"""A trace as one HTML page that needs nothing else: no script, no other file, no network."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from llmgine.cli.log_text import clock, duration, one_line
from llmgine.cli.trace_rows import Row, facts_of, rows_of, said_by
from llmgine.observability.log_chain import Chain
from llmgine.observability.log_trace import Trace

__all__ = ["trace_page"]

_MOST = 500
"""Events alike that are listed one by one."""
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #8888; --command: #2a78c8; --tool: #b8860b; --span: #9a4fb8;
  --model: #3a9a5b; --event: #7a8793; --error: #d1333f; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.2rem; margin: 0; overflow-wrap: anywhere; }
p { color: var(--event); margin: .2rem 0 1rem; }
details { border-top: 1px solid var(--line); }
details details { margin-left: 1.1rem; }
summary { display: grid; grid-template-columns: minmax(0, 1fr) 6.5rem var(--bars); align-items: center;
  gap: .6rem; padding: .12rem 0; }
summary { cursor: pointer; }
summary::-webkit-details-marker { display: none; }
summary::before { content: "▸"; position: absolute; margin-left: -.9rem; color: var(--faint); }
details[open] > summary::before { content: "▾"; }
summary:hover { background: #8881; }
body { --bars: 45vw; padding-left: .9rem; }
.what { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.what b { font-weight: 600; margin-right: .5rem; }
.what span { color: var(--event); }
.took { text-align: right; font-variant-numeric: tabular-nums; }
.bars { position: relative; height: 1rem; background: #8881; }
.bar { position: absolute; top: .2rem; height: .6rem; min-width: 3px; border-radius: 2px; background: var(--event); }
.command .bar { background: var(--command); } .command b { color: var(--command); }
.tool .bar { background: var(--tool); } .tool b { color: var(--tool); }
.model .bar { background: var(--model); } .model b { color: var(--model); }
.span .bar { background: var(--span); } .span b { color: var(--span); }
.missing b { font-style: italic; font-weight: 400; }
.error .bar { background: var(--error); } .error b, .failure { color: var(--error); }
.unfinished .bar { border-right: 4px dotted; }
.failure { margin: 0 0 .3rem 1.1rem; overflow-wrap: anywhere; }
.data { margin: 0 0 .4rem 1.1rem; color: var(--event); font: 12px/1.5 ui-monospace, monospace;
  overflow-wrap: anywhere; }
"""


def trace_page(chain: Chain, trace: Trace) -> str:
    """Return the page. Every text from the log is escaped, and the page's policy forbids it to load or run anything."""
    body, rules = _body(trace)
    style = _STYLE + rules
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = escape(one_line(chain.correlation_id))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Trace {title}</title>
<style>{style}</style>
</head>
<body>
<h1>Trace {title}</h1>
<p>{escape(facts_of(chain, trace))}</p>
{body}
</body>
</html>
"""


def _body(trace: Trace) -> tuple[str, str]:
    """Return the tree, and where each bar of it is."""
    parts: list[str] = []
    rules: list[str] = []
    open_: list[int] = []  # the depths of the steps that what comes next may be inside
    for number, row in enumerate(rows_of(trace)):
        while open_ and open_[-1] >= row.step.depth:
            open_.pop()
            parts.append("</details>")
        rules.append(_rule(trace, row, number))
        head = _head(row, number)
        expanded = " open" if row.step.children or row.step.error is not None else ""
        parts.append(f"<details{expanded}><summary{_classes(row)}>{head}</summary>{_inner(row)}")
        open_.append(row.step.depth)
    parts.extend("</details>" for _ in open_)
    return "\n".join(parts), "\n".join(rules)


def _classes(row: Row) -> str:
    step = row.step
    names = [step.kind.value]
    if step.error is not None:
        names.append("error")
    if step.is_unfinished:
        names.append("unfinished")
    return f' class="{" ".join(names)}"'


def _head(row: Row, number: int) -> str:
    step = row.step
    more = said_by(step) if len(row.steps) == 1 else ""
    took = "unfinished" if step.is_unfinished else "" if step.seconds is None else duration(step.seconds)
    return (
        f'<span class="what"><b>{escape(one_line(row.name))}</b><span>{escape(more)}</span></span>'
        f'<span class="took">{took}</span><span class="bars"><span class="bar" id="b{number}"></span></span>'
    )


def _inner(row: Row) -> str:
    """Return what a row shows when it is opened, besides what its step caused."""
    if len(row.steps) > 1:
        shown = [f"{clock(step.start)} {said_by(step)}" for step in row.steps[:_MOST]]
        if len(row.steps) > _MOST:
            shown.append(f"and {len(row.steps) - _MOST} more")
        return "".join(f'<div class="data">{escape(each)}</div>' for each in shown)
    step = row.step
    said = said_by(step)
    handler = f"handler {step.handler}" if step.handler and step.handler not in said else ""
    facts = (f"{step.kind.value} {step.id}", clock(step.start).strip(), handler, said)
    parts = [f'<div class="data">{escape(one_line(" · ".join(filter(None, facts))))}</div>']
    if step.error is not None:
        parts.append(f'<div class="failure">✗ {escape(one_line(step.error))}</div>')
    return "".join(parts)


def _rule(trace: Trace, row: Row, number: int) -> str:
    start = row.step.start or row.step.end
    if trace.start is None or start is None or not trace.seconds:
        return f"#b{number}{{left:0}}"
    end = row.last.end or (trace.end if row.step.is_unfinished else None) or start
    left = min(99.5, max(0.0, (start - trace.start).total_seconds() / trace.seconds * 100))
    width = min(100 - left, max(0.0, (end - start).total_seconds() / trace.seconds * 100))
    return f"#b{number}{{left:{left:.3f}%;width:{width:.3f}%}}"
