"""The table: outcomes in, Markdown out, aligned so that it also reads well on a terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from contestants import LIMIT, LLMGINE
from measurements import Size
from rows import Figure, Row
from schedule import MISSING, Outcome, Outcomes

NAMES = {
    LLMGINE: "LLMgine",
    "llmgine-metrics": "– metrics read",
    "llmgine-uvloop": "– on uvloop",
    "pydantic-ai-slim": "pydantic-ai",
}


def table(rows: Sequence[Row], contestants: Sequence[str], outcomes: Outcomes, size: Size) -> str:
    """Return one line per figure and one column per contestant, and below it why cells are empty."""
    head = ["work", "goal", *(NAMES.get(name, name) for name in contestants)]
    lines = [head] + [
        [
            figure.title.format(**asdict(size)),
            goal(figure),
            *(cell(row, figure, name, outcomes) for name in contestants),
        ]
        for row in rows
        for figure in row.figures
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |"
        for line in [head, rule, *lines[1:]]
    ]
    return "\n".join([*aligned, "", *notes(rows, contestants, outcomes)])


def cell(row: Row, figure: Figure, contestant: str, outcomes: Outcomes) -> str:
    outcome = outcomes[row.name, contestant]
    values = series(figure, outcome, outcomes[row.name, LIMIT])
    if outcome.instead or not values:
        text, reached = outcome.instead or MISSING, False
    else:
        value = median(values)
        text, reached = (
            amount(value, "×" if figure.ratio and contestant != LIMIT else figure.unit),
            figure.goal is not None and (value >= figure.goal if figure.least else value <= figure.goal),
        )
    return f"{'✓' if reached else '✗'} {text}" if contestant == LLMGINE and figure.goal is not None else text


def series(figure: Figure, outcome: Outcome, limit: Outcome) -> list[float]:
    """Return the figure of each round: the limit's as it is, that of others as a ratio to it where the goal is one."""
    values = [figures[figure.name] for figures in outcome.rounds if figure.name in figures]
    if figure.ratio and outcome is not limit:
        return [value / figures[figure.name] for value, figures in zip(values, limit.rounds, strict=False)]
    return values


def goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    return ("≥ " if figure.least else "≤ ") + amount(figure.goal, "×" if figure.ratio else figure.unit)


def amount(value: float, unit: str) -> str:
    """Return three significant digits."""
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return digits + (unit if unit == "×" else f" {unit}" if unit else "")


def notes(rows: Sequence[Row], contestants: Sequence[str], outcomes: Outcomes) -> list[str]:
    """Say for the empty cells why they are empty, and who they are that say so."""
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        for contestant in contestants:
            if reason := outcomes[row.name, contestant].reason:
                reasons.setdefault(reason, {})[NAMES.get(contestant, contestant)] = None
    return [f"- {reason}: {', '.join(names)}" for reason, names in reasons.items()]
