"""A file of 200 prompts of very different lengths, whose answers end at very different lengths too. Pure.

    python -m tests.benchmarks.mixed > mixed.jsonl

Meant to be asked as chat. Many prompts are short and a few are long, as in a real file: a question, a question after
a few sentences, a task after a passage; what is asked for goes from a word to a story. The same file every time.

Prompts have 5 to 229 tokens, half of them at most 30; the chat template adds 30. Asked of the demo model for up to 200
tokens, answers have 2 to 200: a tenth at most 9, half at most 40, a quarter 131 and more, and 46 of 200 are cut at
200; 15,275 tokens in all. In the file's order and batches of 16, 62 % of the token slots are padding.
"""

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

COUNT = 200

PLACES = ("the harbour", "a mountain village", "the old town hall", "a bakery by the river", "the night train")
PLACES += ("a lighthouse", "the botanical garden", "a bicycle workshop", "the island school", "a quiet library")
PEOPLE = ("a retired carpenter", "the youngest of three sisters", "a patient gardener", "two travelling musicians")
PEOPLE += ("the new teacher", "a beekeeper", "the night porter", "an apprentice baker", "a map maker")
THINGS = ("a brass telescope", "an unsent letter", "a box of coloured chalk", "a broken clock", "a jar of honey")
THINGS += ("a wooden boat", "a red umbrella", "an empty birdcage", "a sack of flour", "a handful of seeds")
WEATHER = (
    "It had rained since the early morning",
    "The first snow lay on the roofs",
    "A warm wind came from the south",
)
WEATHER += ("Fog covered the fields", "The sun had just come out", "Thunder could be heard far away")
DEEDS = ("carried {thing} across the square", "asked everybody about {thing}", "had forgotten {thing} at home")
DEEDS += ("wanted to exchange {thing} for something useful", "kept {thing} in a drawer", "repaired {thing} in an hour")
DEEDS += ("lost {thing} on the way", "found {thing} under a bench")
AFTERWARDS = ("Nobody had seen anything like it.", "The neighbours talked about it for weeks.", "It cost four coins.")
AFTERWARDS += (
    "Then the bells rang and everybody went home.",
    "A child laughed and clapped.",
    "The dog slept through it.",
)
AFTERWARDS += ("By noon the whole street knew.", "In the evening there was soup and bread for all.")

WORDS = ("What is the opposite of {adjective}?", "Is {noun} an animal, a plant or a thing?", "Spell the word {noun}.")
WORDS += ("Is {noun} {adjective}? Answer yes or no.", "Translate {noun} into French.", "What is {small} plus {large}?")
WORDS += ("Which colour has {noun}?", "Name one word that rhymes with {rhyme}.", "How many letters has {noun}?")
SENTENCES = (
    "What is {noun} for? Answer in one sentence.",
    "Define {noun} in one sentence.",
    "Why is {noun} {adjective}?",
)
SENTENCES += ("Greet {person} politely.", "Thank {person} for {thing}.", "Make a title for a story about {noun}.")
LISTS = ("List three uses of {noun}.", "Name five things one finds in {place}.", "Give four tips on keeping {noun}.")
STORIES = ("Tell a story about {person} and {thing}.", "Explain how {noun} is made.", "Describe {place} at night.")
STORIES += ("Write a letter from {person} to {another}.", "Write a poem about {noun}.")
TASKS = ("Who had {thing}? Answer with a name or a few words.", "What was the weather like? Answer in three words.")
TASKS += ("Sum it up in one sentence.", "Give this text a title.", "Is the text sad? Answer yes or no.")
TASKS += ("List the people in the text.", "Write what happens next.", "Tell it again as a letter to a friend.")
NOUNS = ("bread", "a candle", "an apple", "the moon", "a bridge", "salt", "a violin", "rain", "a horse", "glass")
NOUNS += ("cheese", "a rose", "paper", "a ladder", "wool", "a clock", "iron", "a frog", "silk", "a garden")
ADJECTIVES = ("cold", "heavy", "soft", "bright", "old", "narrow", "quiet", "sweet", "deep", "dry", "early", "round")
RHYMES = ("tree", "night", "house", "rain", "moon", "stone", "day", "bell")


def prompts(count: int = COUNT, seed: int = 11) -> list[str]:
    """So many prompts, in shuffled order."""
    chance = random.Random(seed)
    asked = [_prompt(chance, number / count) for number in range(count)]
    chance.shuffle(asked)
    return asked


def about_one_passage(count: int = COUNT, seed: int = 12) -> list[str]:
    """So many questions, each after the same passage: some 400 tokens that all prompts begin with."""
    chance = random.Random(seed)
    passage = [_filled(chance, f"{chance.choice(WEATHER)}, and {{person}} {chance.choice(DEEDS)}.") for _ in range(20)]
    asked = (TASKS, WORDS, SENTENCES, LISTS)
    return [f"{' '.join(passage)}\n\n{_filled(chance, chance.choice(chance.choice(asked)))}" for _ in range(count)]


def write(path: Path, texts: Sequence[str]) -> None:
    """Prompts as .jsonl."""
    lines = (json.dumps({"id": str(number), "prompt": text}) for number, text in enumerate(texts))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _prompt(chance: random.Random, place: float) -> str:
    """A prompt for a `place` from 0 to 1 among all, shortest first: half are a question alone."""
    if place < 0.5:
        kind = chance.choices((WORDS, SENTENCES, LISTS, STORIES), weights=(5, 3, 2, 2))[0]
        return _filled(chance, chance.choice(kind))
    # From two sentences up to fifteen, few of them long.
    sentences = 2 + round(13 * ((place - 0.5) / 0.5) ** 2.5)
    passage: list[str] = []
    while len(passage) < sentences:
        passage.append(_filled(chance, f"{chance.choice(WEATHER)}, and {{person}} {chance.choice(DEEDS)}."))
        if len(passage) < sentences:
            passage.append(chance.choice(AFTERWARDS))
    return f"{' '.join(passage)} {_filled(chance, chance.choice(TASKS))}"


def _filled(chance: random.Random, text: str) -> str:
    person, another = chance.sample(PEOPLE, 2)
    return text.format(
        person=person,
        another=another,
        thing=chance.choice(THINGS),
        place=chance.choice(PLACES),
        noun=chance.choice(NOUNS),
        adjective=chance.choice(ADJECTIVES),
        rhyme=chance.choice(RHYMES),
        small=chance.randint(2, 9),
        large=chance.randint(10, 99),
    )


if __name__ == "__main__":
    for number, text in enumerate(prompts()):
        sys.stdout.write(json.dumps({"id": str(number), "prompt": text}) + "\n")
