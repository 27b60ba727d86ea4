"""What the command line shows people of models."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from workers.table import Column, Document, ago, bounded, fitted, megabytes, printable

_STYLES = {"promoted": "green", "previous": "cyan", "rolled back": "yellow", "": ""}


def models(document: Document, width: int, limit: int) -> RenderableType:
    """Each configuration with its versions, the newest first; at most `limit` of them, the promoted one always."""
    parts: list[RenderableType] = []
    for each in document["configs"]:
        rows = [
            row for at, row in enumerate(each["versions"]) if at < limit or row["stands"] in ("promoted", "previous")
        ]
        parts += [
            Text(_headline(each, document["now"]), style="bold"),
            fitted(_columns(document["nodes"]), rows, document["now"], width, lambda row: _STYLES[row["stands"]]),
        ]
        if left_out := bounded(len(rows), len(each["versions"]), f"versions of {each['config']}"):
            parts.append(left_out)
        parts.append(Text())
    if not document["configs"]:
        parts.append(
            Text(
                f"No models in {document['store']} yet: a training job leaves one in models/new/ of its node, "
                "and model_sync publishes it.",
                style="yellow",
            )
        )
    if document["refused"]:
        parts.append(Text(f"{len(document['refused'])} records are refused:", style="red"))
        parts += [
            Text(printable(f"  {key}: {why}"[:300], keep="")) for key, why in list(document["refused"].items())[:limit]
        ]
    return Group(*parts)


def _headline(each: Document, now: float) -> str:
    if each["promoted"] is None:
        return f"{each['config']}: none is promoted"
    why = f": {each['why']}" if each["why"] else ""
    by = each["promoted_by"] or "nobody named"
    return printable(f"{each['config']}: promoted {ago(each['promoted_at'], now)} by {by}{why}", keep="")


def _columns(nodes: int) -> tuple[Column, ...]:
    return (
        Column("version", lambda row, _: row["version"], right=False),
        Column("stands", lambda row, _: row["stands"], right=False),
        Column("Elo", lambda row, _: _rating(row)),
        Column("matches", lambda row, _: "" if row["rated_games"] is None else f"{row['rated_games']}", optional=2),
        Column("nodes", lambda row, _: f"{row['nodes']} of {nodes}"),
        Column("size", lambda row, _: megabytes(row["size"]) if row["stored"] else "pruned", optional=1),
        Column("games", lambda row, _: f"{row['games']:,}", optional=3),
        Column("trained", lambda row, now: ago(row["created_at"], now)),
        Column("on", lambda row, _: row["node"], right=False, optional=4),
    )


def _rating(row: Document) -> str:
    return "" if row["rating"] is None else f"{row['rating']:.0f} ± {1.96 * (row['deviation'] or 0):.0f}"
