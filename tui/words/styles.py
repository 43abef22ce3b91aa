"""The names of the styles that lines are written in, and how each looks, in variables of a theme.

None of the colours says anything that the text beside it does not say.
"""

RANK_COLOURS = 8
"""Ranks beyond this many share colours with earlier ones; their number stands beside it anyway."""


STYLES = {
    "dim": "$quiet",
    "strong": "bold",
    "key": "bold $primary",
    "good": "$success",
    "warn": "$warning",
    "warn-strong": "bold $warning",
    "bad": "bold $error",
    "bar": "$primary",
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
"""Every style name a piece of a line may have, and how it looks, in variables of the theme."""


def rank_style(rank: int | None) -> str:
    """The style of a rank, the same wherever it is named."""
    return "dim" if rank is None else f"rank-{rank % RANK_COLOURS}"
