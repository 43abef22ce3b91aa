"""rankdeck's two themes, and the names of the styles that lines are written in.

Colours are from a palette that the common kinds of colour blindness keep apart, and none of them says anything
that the text beside it does not say. Surfaces are so nearly grey that 256 colours leave them grey. Knows no widget.
"""

from textual.theme import Theme

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
    "bar-off": "$track",
    "cursor": "$block-cursor-foreground on $block-cursor-background",
    **{f"rank-{number}": f"bold $rank-{number}" for number in range(RANK_COLOURS)},
}
"""Every style name a piece of a line may have, and how it looks, in variables of the theme."""

_ON_DARK = ("#72b7ff", "#e39654", "#6ed3a7", "#db88bc", "#e3cf6d", "#7c9dff", "#ef8979", "#c0ccd8")
_ON_LIGHT = ("#0b62b8", "#7e3d00", "#057360", "#a14089", "#7b6302", "#484ec4", "#af3c2f", "#4d5a67")


def rank_style(rank: int | None) -> str:
    """The style of a rank, the same wherever it is named."""
    return "dim" if rank is None else f"rank-{rank % RANK_COLOURS}"


def _ranks(colours: tuple[str, ...]) -> dict[str, str]:
    return {f"rank-{number}": colour for number, colour in enumerate(colours)}


def variable_defaults(dark: bool, ansi: bool) -> dict[str, str]:
    """rankdeck's own variables for themes that are not rankdeck's."""
    if ansi:
        names = ("blue", "yellow", "cyan", "magenta", "green", "bright_blue", "red", "default")
        return {
            **_ranks(tuple(f"ansi_{name}" for name in names)),
            "track": "ansi_bright_black",
            "chart": "ansi_cyan",
            "quiet": "ansi_default",
            "mark": "ansi_default",
        }
    colours = _ON_DARK if dark else _ON_LIGHT
    track, quiet, chart = ("#40474f", "#8f9ba9", "#3b9e90") if dark else ("#c3ccd6", "#5b6875", "#3a9d90")
    mark = "#d9e1ea" if dark else "#1c2630"
    return {**_ranks(colours), "track": track, "quiet": quiet, "chart": chart, "mark": mark}


DARK = Theme(
    name="rankdeck-dark",
    dark=True,
    primary="#6cb6ff",
    secondary="#4ecdb4",
    accent="#f0a35e",
    success="#55cfb5",
    warning="#f8ab61",
    error="#f17d6f",
    foreground="#d9e1ea",
    background="#11161d",
    surface="#161d26",
    panel="#20252b",
    variables={
        **variable_defaults(dark=True, ansi=False),
        "border": "#3a424b",
        "border-blurred": "#3a424b",
        "footer-background": "#161d26",
        "footer-key-foreground": "#f0a35e",
        "footer-description-foreground": "#a3b0bf",
        "block-cursor-background": "#24486c",
        "block-cursor-foreground": "#ffffff",
        "block-cursor-text-style": "none",
    },
)

LIGHT = Theme(
    name="rankdeck-light",
    dark=False,
    primary="#0b62b8",
    secondary="#057360",
    accent="#a85a00",
    success="#007365",
    warning="#8f5b00",
    error="#b0123f",
    foreground="#1c2630",
    background="#fbfcfd",
    surface="#f1f4f7",
    panel="#e9ebed",
    variables={
        **variable_defaults(dark=False, ansi=False),
        "border": "#bfc4c9",
        "border-blurred": "#bfc4c9",
        "footer-background": "#eef2f5",
        "footer-key-foreground": "#8f5b00",
        "footer-description-foreground": "#45525f",
        "block-cursor-background": "#cfe3f7",
        "block-cursor-foreground": "#10202f",
        "block-cursor-text-style": "none",
    },
)

OURS = (DARK, LIGHT)

SIXTEEN = "ansi-dark"
"""Textual's theme in the terminal's own colours, for terminals with sixteen of them or none."""
