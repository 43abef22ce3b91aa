"""The colours: text is readable on its background, and colours can be told apart, by the colour-blind too."""

from itertools import combinations

import pytest
from rich.color import ColorSystem
from textual.color import Color, Lab, rgb_to_lab
from textual.theme import Theme

from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.settings import theme
from rankdeck.tui.words import styles

# How an eye without one kind of cone sees a colour, in linear light (Viénot, Brettel and Mollon 1999).
SEEN_BY = {
    "every cone": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protanopia": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deuteranopia": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
}

SOLID = ("bar", "memory", "chart", "track", "mark-on-chart", "bar-off", "prefill", "decode", "decode-here", "busy")
"""Styles not for text that has to be read: bars, and disabled keys."""


def seen(colour: Color, matrix: tuple[tuple[float, float, float], ...]) -> Lab:
    light = [
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in colour.normalized
    ]
    mixed = [max(0.0, min(1.0, sum(share * part for share, part in zip(row, light, strict=True)))) for row in matrix]
    back = [channel * 12.92 if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055 for channel in mixed]
    return rgb_to_lab(Color(*(round(channel * 255) for channel in back)))


def difference(one: Color, other: Color, matrix: tuple[tuple[float, float, float], ...]) -> float:
    """Delta E of 1976: about 2 is just noticeable, 10 is seen at a glance."""
    first, second = seen(one, matrix), seen(other, matrix)
    return float(
        sum((a - b) ** 2 for a, b in zip((first.L, first.a, first.b), (second.L, second.a, second.b), strict=True))
        ** 0.5
    )


def variables(of: Theme) -> dict[str, str]:
    app = RankdeckApp(None)
    app.theme = of.name
    return app.get_css_variables()


def ratio(one: Color, other: Color) -> float:
    """The contrast ratio of WCAG 2, from 1 to 21."""

    def luminance(colour: Color) -> float:
        light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour.normalized]
        return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("of", [theme.DARK, theme.LIGHT], ids=lambda of: of.name)
def test_all_text_has_a_contrast_of_at_least_4_5(of: Theme) -> None:
    known = variables(of)
    low = []
    for name, look in styles.STYLES.items():
        words = [known[word[1:]] for word in look.split() if word.startswith("$")]
        if name in SOLID or not words:
            continue
        grounds = words[1:] or [known[ground] for ground in ("background", "surface", "panel")]
        low += [
            (name, ground, round(ratio(Color.parse(words[0]), Color.parse(ground)), 2))
            for ground in grounds
            if ratio(Color.parse(words[0]), Color.parse(ground)) < 4.5
        ]
    for name in ("foreground", "primary", "error", "warning", "success", "quiet", "footer-description-foreground"):
        low += [
            (name, ground, 0.0)
            for ground in (known["background"], known["surface"])
            if ratio(Color.parse(known[name]), Color.parse(ground)) < 4.5
        ]
    assert low == []


@pytest.mark.parametrize("eye", SEEN_BY)
@pytest.mark.parametrize("of", [theme.DARK, theme.LIGHT], ids=lambda of: of.name)
def test_good_warning_and_bad_can_be_told_apart_with_any_colour_vision(of: Theme, eye: str) -> None:
    known = variables(of)
    colours = {name: Color.parse(known[name]) for name in ("success", "warning", "error")}
    close = {
        (one, other): round(difference(colours[one], colours[other], SEEN_BY[eye]), 1)
        for one, other in combinations(colours, 2)
        if difference(colours[one], colours[other], SEEN_BY[eye]) < 15
    }
    assert close == {}


@pytest.mark.parametrize("eye", SEEN_BY)
@pytest.mark.parametrize("of", [theme.DARK, theme.LIGHT], ids=lambda of: of.name)
def test_ranks_can_be_told_apart_with_any_colour_vision(of: Theme, eye: str) -> None:
    """The first four, enough for most runs, at a glance; all eight on a closer look. The number is always beside it."""
    known = variables(of)
    ranks = [Color.parse(known[f"rank-{number}"]) for number in range(styles.RANK_COLOURS)]
    close = {
        (one, other): round(difference(ranks[one], ranks[other], SEEN_BY[eye]), 1)
        for one, other in combinations(range(len(ranks)), 2)
        if difference(ranks[one], ranks[other], SEEN_BY[eye]) < (18 if max(one, other) < 4 else 10)
    }
    assert close == {}


@pytest.mark.parametrize("of", [theme.DARK, theme.LIGHT], ids=lambda of: of.name)
def test_with_256_colours_what_is_grey_stays_grey(of: Theme) -> None:
    """Most terminals over SSH report no more than 256: a grey panel must not turn navy there."""
    known = variables(of)
    for name in ("background", "surface", "panel", "border", "track", "quiet", "footer-background"):
        was = Color.parse(known[name])
        nearest = was.rich_color.downgrade(ColorSystem.EIGHT_BIT).get_truecolor()
        assert max(nearest) - min(nearest) <= 16, name


def test_dark_and_light_are_exchanged_with_as_many_colours() -> None:
    assert theme.toggled(theme.DARK) == "rankdeck-light"
    assert theme.toggled(theme.LIGHT) == "rankdeck-dark"
    app = RankdeckApp(None)
    assert app.available_themes[theme.toggled(theme.SIXTEEN)].ansi
    assert theme.toggled(app.available_themes["ansi-light"]) == theme.SIXTEEN.name


def test_a_theme_of_sixteen_colours_has_no_other() -> None:
    app = RankdeckApp(None)
    app.theme = theme.SIXTEEN.name
    known = app.get_css_variables()
    for name, look in styles.STYLES.items():
        for word in look.split():
            if word.startswith("$"):
                assert Color.parse(known[word[1:]]).ansi is not None, name
