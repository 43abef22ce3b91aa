"""Messages reach the model whole, whether its chat template takes text or parts, and whichever the file has."""

import jinja2
import pytest

from rankdeck.runner.engine.generation.chat_content import ChatContent, Form
from rankdeck.runner.protocol import Prompt
from tests.runner.engine.lone import static, tiny, tokenizer

TEXT = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
TRIMMED = "{% for m in messages %}<{{ m['content'] | trim }}>{% endfor %}"
JOINED = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
JSON = "{{ messages | tojson }}"
SELECTED = (
    "{% for m in messages %}{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "<{{ part['text'] }}>{% endfor %}{% endfor %}"
)
BOTH = (
    "{% for m in messages %}{% if m['content'] is string %}<{{ m['content'] }}>{% else %}"
    "{% for part in m['content'] %}[{{ part['text'] }}]{% endfor %}{% endif %}{% endfor %}"
)
PARTS = [{"type": "text", "text": "ab"}, {"type": "text", "text": "cd"}]


def with_template(template: str | None):
    own = tokenizer()
    own.chat_template = template
    return own


@pytest.mark.parametrize(
    ("template", "takes"),
    [
        (TEXT, Form(text=True, parts=False)),
        (TRIMMED, Form(text=True, parts=False)),
        (SELECTED.replace("part['text']", "part['text'] | upper"), Form(text=False, parts=True)),
        (JOINED, Form(text=True, parts=False)),
        (JSON, Form(text=True, parts=False)),
        (SELECTED, Form(text=False, parts=True)),
        (BOTH, Form(text=True, parts=True)),
        ("{{ raise_exception('no') }}", Form(text=False, parts=False)),
        (None, Form(text=False, parts=False)),
    ],
)
def test_a_template_is_asked_what_it_takes(template, takes):
    assert ChatContent(with_template(template)).form("user") == takes


@pytest.mark.parametrize(
    ("template", "given", "rendered"),
    [
        (TEXT, "ab", "<ab>"),
        (TEXT, PARTS, "<abcd>"),
        (JOINED, PARTS, "user: abcd"),
        (SELECTED, "ab", "<ab>"),
        (SELECTED, PARTS, "<ab><cd>"),
        (BOTH, "ab", "<ab>"),
        (BOTH, PARTS, "[ab][cd]"),
    ],
)
def test_content_is_given_in_the_form_that_the_template_takes(template, given, rendered):
    own = with_template(template)
    messages = ChatContent(own).fitted([{"role": "user", "content": given}])
    assert own.apply_chat_template(messages, tokenize=False) == rendered


def test_a_template_that_takes_neither_is_given_what_there_is_and_parts_as_text():
    neither = ChatContent(with_template("{{ raise_exception('no') }}"))
    given = [{"role": "system", "content": PARTS}, {"role": "user", "content": "ab"}]
    assert neither.fitted(given) == [{"role": "system", "content": "abcd"}, {"role": "user", "content": "ab"}]


TEXT_OF_THE_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}[{{ messages[0]['content'] }}]{% set messages = messages[1:] %}{% endif %}"
    + SELECTED
)
ANSWERS_AS_TEXT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}[{{ m['content'] }}]{% else %}"
    "{% for part in m['content'] %}<{{ part['text'] }}>{% endfor %}{% endif %}{% endfor %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEXT


@pytest.mark.parametrize("content", ["ab", [{"type": "text", "text": "ab"}]])
@pytest.mark.parametrize(
    ("template", "role", "rendered"),
    [
        (TEXT_OF_THE_SYSTEM, "system", "[ab]<hello>"),
        (SELECTED, "system", "<ab><hello>"),
        (ANSWERS_AS_TEXT, "assistant", "[ab]<hello>"),
        (TEXT, "tool", "<ab><hello>"),
    ],
)
def test_each_role_has_the_form_that_the_template_takes_of_it(content, template, role, rendered):
    own = with_template(template)
    messages = ChatContent(own).fitted([{"role": role, "content": content}, {"role": "user", "content": "hello"}])
    assert own.apply_chat_template(messages, tokenize=False) == rendered


def test_a_role_that_a_template_does_not_know_is_its_to_refuse():
    own = with_template(NO_SYSTEM)
    content = ChatContent(own)
    assert content.form("user") == Form(text=True, parts=False)
    messages = content.fitted([{"role": "system", "content": "ab"}, {"role": "user", "content": "hello"}])
    with pytest.raises(jinja2.TemplateError, match="no system"):
        own.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("template", [TEXT, SELECTED, BOTH])
def test_the_engine_answers_text_and_parts_alike_and_shows_them_as_text(template):
    one = static(tiny(), chat=True)
    one.tokenizer.chat_template = template
    prompts = [
        Prompt(index=0, id="0", text="abcd"),
        Prompt(index=1, id="1", messages=[{"role": "user", "content": [{"type": "text", "text": "abcd"}]}]),
        Prompt(index=2, id="2", messages=[{"role": "user", "content": "abcd"}]),
    ]
    tokens, unfit = one.tokenise(prompts)
    assert unfit == {}
    expected = one.tokenizer("[abcd]" if template == BOTH else "<abcd>", add_special_tokens=False)["input_ids"]
    assert tokens[1] == expected
    assert tokens[0] == tokens[2] == one.tokenizer("<abcd>", add_special_tokens=False)["input_ids"]
    assert [record.prompt for record in one.generate(prompts).records] == ["abcd", "user: abcd", "user: abcd"]
