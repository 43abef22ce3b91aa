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
class ChatContent:
    """What a chat template takes as `content`."""

    text: bool
    parts: bool

    def fitted(self, messages: Messages) -> Messages:
        """The messages with content that the template takes: as it was given, if it takes both or neither."""
        return [{"role": message["role"], "content": self._fitted(message["content"])} for message in messages]

    def _fitted(self, content: Content) -> Content:
        if isinstance(content, str):
            return [_part(content)] if self.parts and not self.text else content
        return content if self.parts else content_text(content)


def content_of(tokenizer: Any) -> ChatContent:
    """What the tokenizer's chat template takes."""
    return ChatContent(text=_takes(tokenizer, _WORD), parts=_takes(tokenizer, [_part(_WORD)]))


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _takes(tokenizer: Any, content: Content) -> bool:
    messages = [{"role": "user", "content": content}]
    try:
        said = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception:  # a template may raise whatever it likes
        return False
    return _WORD in said and not _LIST_AS_IT_STANDS.search(said)
