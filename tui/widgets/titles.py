"""What stands in the border of a box: data, never markup. Painted only when it changes, for it is painted whole."""

from textual.content import Content
from textual.widget import Widget


class Titles:
    """The two titles of a box, above and below; a mistake, which begins with a cross, is red."""

    def __init__(self, box: Widget) -> None:
        self._box = box
        self._above = self._below = ""

    def show(self, above: str, below: str) -> None:
        if above != self._above:
            self._above = above
            self._box.border_title = Content(above)
        if below != self._below:
            self._below = below
            self._box.border_subtitle = Content.styled(below, "$error" if below.startswith("✗") else "")
