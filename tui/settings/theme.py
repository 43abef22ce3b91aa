"""rankdeck's themes, and values of its own variables for all other themes.

The colours can be told apart with the common kinds of colour blindness, and none says anything that the text does not
say too. Surfaces are so close to grey that terminals with 256 colours show them grey. Knows no widget.
"""

from textual.theme import Theme

_ON_DARK = ("#72b7ff", "#e39654", "#6ed3a7", "#db88bc", "#e3cf6d", "#7c9dff", "#ef8979", "#c0ccd8")
_ON_LIGHT = ("#0b62b8", "#7e3d00", "#057360", "#a14089", "#7b6302", "#484ec4", "#af3c2f", "#4d5a67")

_SIXTEEN_ON_DARK = (
    *("bright_blue", "bright_yellow", "cyan", "bright_magenta"),
    *("green", "magenta", "bright_red", "default"),
)
_SIXTEEN_ON_LIGHT = ("blue", "red", "green", "magenta", "cyan", "bright_blue", "bright_red", "default")


def _ranks(colours: tuple[str, ...]) -> dict[str, str]:
    return {f"rank-{number}": colour for number, colour in enumerate(colours)}


def variable_defaults(dark: bool, ansi: bool) -> dict[str, str]:
    """Values of rankdeck's own variables for themes that do not set them."""
    if ansi:
        return {
            **_ranks(tuple(f"ansi_{name}" for name in (_SIXTEEN_ON_DARK if dark else _SIXTEEN_ON_LIGHT))),
            "track": "ansi_bright_black" if dark else "ansi_white",
            "off": "ansi_bright_black" if dark else "ansi_white",
            "chart": "ansi_cyan",
            "on-chart": "ansi_black",
            "busy": "ansi_blue",
            "quiet": "ansi_default",
            "mark": "ansi_default",
        }
    colours = _ON_DARK if dark else _ON_LIGHT
    track, quiet, chart = ("#40474f", "#8f9ba9", "#3b9e90") if dark else ("#c3ccd6", "#5b6875", "#3a9d90")
    off = "#6b7580" if dark else "#808b97"
    mark, busy = ("#d9e1ea", "#3f6f9f") if dark else ("#1c2630", "#6f9cc9")
    on_chart = "#11161d" if dark else "#1c2630"
    return {
        **_ranks(colours),
        "track": track,
        "off": off,
        "quiet": quiet,
        "chart": chart,
        "on-chart": on_chart,
        "mark": mark,
        "busy": busy,
    }


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
    accent="#9a5200",
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

SIXTEEN = Theme(
    name="rankdeck-ansi",
    ansi=True,
    dark=True,
    primary="ansi_bright_blue",
    secondary="ansi_cyan",
    accent="ansi_bright_yellow",
    success="ansi_bright_green",
    warning="ansi_bright_yellow",
    error="ansi_bright_red",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    variables={
        **variable_defaults(dark=True, ansi=True),
        "ansi-background": "ansi_black",
        "ansi-foreground": "ansi_white",
        "border": "ansi_bright_black",
        "border-blurred": "ansi_bright_black",
        "footer-key-foreground": "ansi_bright_yellow",
        "block-cursor-foreground": "ansi_black",
        "block-cursor-background": "ansi_white",
        "block-cursor-text-style": "none",
        "input-cursor-foreground": "ansi_black",
        "input-cursor-background": "ansi_bright_white",
        "input-cursor-text-style": "none",
        "input-selection-foreground": "ansi_black",
        "input-selection-background": "ansi_bright_blue",
        "screen-selection-foreground": "ansi_black",
        "screen-selection-background": "ansi_bright_blue",
    },
)
"""In the terminal's own colours, on its own background: for terminals with sixteen colours or none."""

SIXTEEN_LIGHT = "ansi-light"
"""Textual's theme for such a terminal with a light background."""

THEMES = (DARK, LIGHT, SIXTEEN)


def toggled(current: Theme) -> str:
    """The dark theme for a light one and the reverse; with sixteen colours if the current one has them."""
    if current.ansi:
        return SIXTEEN_LIGHT if current.dark else SIXTEEN.name
    return LIGHT.name if current.dark else DARK.name
