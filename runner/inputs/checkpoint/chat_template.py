"""Whether a chat template can be read at all: else each prompt would fail for it, after the model was loaded.

Knows the language that chat templates are written in, Jinja with transformers' own tag. Renders nothing.
"""

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser


class _Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}`, around what the assistant said."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def why_broken(template: str) -> str | None:
    """What is wrong with a template, and in which line; None if it can be read."""
    try:
        Environment(extensions=[_Generation, "jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except RecursionError:
        return "it is nested too deeply"
    return None
