"""The names of the styles that lines are written in, and how each looks, in variables of a theme.

No colour tells more than the text beside it.
"""

RANK_COLOURS = 8
"""Ranks beyond this number share colours with earlier ones; the rank's number is always shown, too."""


STYLES = {
    "dim": "$quiet",
    "strong": "bold",
    "key": "bold $primary",
    "good": "$success",
    "warn": "$warning",
    "warn-strong": "bold $warning",
    "bad": "bold $error",
    "bar": "$primary",
    "quiet-bar": "$quiet",
    "memory": "$secondary",
    "track": "$track",
    "chart": "$chart",
    "axis": "$quiet",
    "mark": "$mark",
    "mark-on-chart": "$mark on $chart",
    "bar-key": "bold $footer-key-foreground",
    "bar-label": "$footer-description-foreground",
    "bar-off": "$off",
    "prefill": "$accent",
    "busy": "$busy",
    "dram": "$secondary",
    "decode": "$chart",
    "decode-label": "bold $on-chart on $chart",
    "decode-here": "$success",
    "decode-here-label": "bold $background on $success",
    "waiting": "$mark",
    "loading": "$quiet",
    "match": "reverse $accent",
    "match-here": "bold reverse underline $primary",
    "cursor": "$block-cursor-foreground on $block-cursor-background",
    **{f"rank-{number}": f"bold $rank-{number}" for number in range(RANK_COLOURS)},
}
"""Every style name that a piece of a line may have, and how it looks."""


def rank_style(rank: int | None) -> str:
    """The style of a rank, the same everywhere."""
    return "dim" if rank is None else f"rank-{rank % RANK_COLOURS}"
