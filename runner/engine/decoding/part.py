"""What is generated together: prompts, in the groups that are prefilled together. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Prompts that are prefilled together; `at` are their positions in the batch.

    All begin with `prefix`, which is prefilled apart; what follows is padded to `width`, or, where it is `ragged`, has
    at most so many tokens.
    """

    at: list[int]
    width: int
    prefix: tuple[int, ...] = ()
    ragged: bool = False

    @property
    def reach(self) -> int:
        """Slots of a row before its answer: prefix, padding, and the rest of the prompt."""
        return len(self.prefix) + self.width


@dataclass(frozen=True)
class Part:
    """Prompts that are generated together, in their groups; token ids by position."""

    tokens: dict[int, list[int]]
    groups: list[Group]
    new_tokens: int

    @property
    def width(self) -> int:
        """Slots of a row before its answer, the same for all."""
        return max(group.reach for group in self.groups)

    @property
    def rows(self) -> list[int]:
        """The positions, group by group."""
        return [at for group in self.groups for at in group.at]

    @property
    def prompt_slots(self) -> int:
        """Slots of the prompts with their padding, as they are prefilled; without those of prefixes."""
        return sum(
            sum(len(self.tokens[at]) - len(group.prefix) for at in group.at)
            if group.ragged
            else len(group.at) * group.width
            for group in self.groups
        )

    @property
    def shared_tokens(self) -> int:
        """Prompt tokens that are in a prefix: of all rows together."""
        return sum(len(group.at) * len(group.prefix) for group in self.groups)
