"""The content of chat messages as the model's template takes it: as text, or as a list of parts of text.

A template that knows only the other form leaves the text out, or prints a list as it stands, and raises nothing. So it
is asked once with a word that it cannot know. Knows no tokens and no batches.
"""

import re
from dataclasses import dataclass
from typing import Any

from rankdeck.runner.protocol.records import Content, Messages, content_text

_WORD = "zq7-word-of-a-probe"
_LIST_AS_IT_STANDS = re.compile(r"['\"]type['\"]\s*:")


@dataclass(frozen=True)
class Form:
    """What a chat template takes as the `content` of a message."""

    text: bool
    parts: bool

    def fitted(self, content: Content) -> Content:
        """The content in a form that the template takes: as it was given, if it takes both or neither."""
        if isinstance(content, str):
            return [_part(content)] if self.parts and not self.text else content
        return content if self.parts else content_text(content)


class ChatContent:
    """The forms that a tokenizer's chat template takes, for each role: it may treat a system message in its own way."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._forms: dict[str, Form] = {}

    def fitted(self, messages: Messages) -> Messages:
        """The messages with content that the template takes."""
        return [
            {"role": message["role"], "content": self.form(str(message["role"])).fitted(message["content"])}
            for message in messages
        ]

    def form(self, role: str) -> Form:
        """What the template takes of this role, in a conversation that has a place for it."""
        if role not in self._forms:
            self._forms[role] = Form(
                text=self._takes(role, _WORD),
                parts=self._takes(role, [_part(_WORD)]),
            )
        return self._forms[role]

    def _takes(self, role: str, content: Content) -> bool:
        probe = {"role": role, "content": content}
        messages = [probe]
        if role != "user":
            user = {"role": "user", "content": self.form("user").fitted("hello")}
            messages = [probe, user] if role in ("system", "developer") else [user, probe]
        try:
            said = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception:  # a template may raise whatever it likes
            return False
        return _WORD in said.lower() and not _LIST_AS_IT_STANDS.search(said)


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
