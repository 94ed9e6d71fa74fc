"""Who says a line of a play: SQuAD-format questions on scenes or plays, and trivial answers.

TRAIN and VALIDATION hold whole plays, with the speaker's name in bold before each speech and
questions 'Who says: "…"'. This writes them with scenes, or plays, as documents, and the exact
match of answers that need no model: the most frequent speaker of the document, the name nearest to
the question (the document's first), and a search for the quotation. The search finds all of them:
what is measured is whether a model learns it from questions and answers alone.

    python benchmarks/who_says.py who-says-train.json.xz who-says-validation.json.xz --every 8 \
        --out scenes
    python benchmarks/who_says.py who-says-train.json.xz who-says-validation.json.xz --every 7 \
        --by play --out plays
    reformer tokenizer train plays/train.txt --vocab-size 4096 --out tokenizer.json
    reformer train scenes/train.json --task find --tokenizer tokenizer.json --steps 500 --out find
    reformer train plays/train.json --task qa --validation scenes/validation.json --init find \
        --length 256 --batch-size 16 --steps 200 --out short
    reformer evaluate short scenes/validation.json --json
    reformer evaluate short plays/validation.json --json

With --unanswerable, every third question is one on another play; the same model answers them.
Exact attention is the same course with --layers local full local in both trainings. Longer pages:

    reformer train plays/train.json --task qa --validation plays/validation.json --init short \
        --length 8192 --batch-size 2 --steps 160 --learning-rate 1e-3 --out pages

and whole plays as one sequence:

    reformer train plays/train.json --task qa --validation plays/validation.json --init pages \
        --length 65536 --batch-size 1 --steps 480 --learning-rate 5e-4 --warmup-steps 10 \
        --evaluate-every 1000 --out whole
"""

import argparse
import json
import lzma
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

_HEADING = re.compile(r"^#{2,3} ", re.MULTILINE)
_SPEAKER = re.compile(r"^\*\*(.+?)\*\*", re.MULTILINE)
_LEAST = 1000
_OTHER_EVERY = 3

Document = dict[str, Any]


def main() -> None:
    """Write train and validation as .json and .txt, and baselines.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--by", choices=("scene", "play"), default="scene")
    parser.add_argument("--longest", type=int, default=25000, help="characters of a scene")
    parser.add_argument(
        "--unanswerable", action="store_true", help="every third line from another play"
    )
    parser.add_argument(
        "--every", type=int, default=1, help="validate on one question in so many of a document"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    baselines = {}
    for name, path in (("train", arguments.train), ("validation", arguments.validation)):
        documents = _plays(path)
        if arguments.by == "scene":
            documents = [scene for play in documents for scene in _scenes(play, arguments.longest)]
        if name == "validation":
            documents = [{**d, "qas": d["qas"][:: arguments.every]} for d in documents]
        baselines[name] = _baselines(documents)
        if arguments.unanswerable:
            documents = _with_strangers(documents)
        articles = [
            {"title": d["title"], "paragraphs": [{"context": d["context"], "qas": d["qas"]}]}
            for d in documents
        ]
        contexts = "\n".join(document["context"] for document in documents)
        (arguments.out / f"{name}.txt").write_text(contexts, encoding="utf-8")
        text = json.dumps({"version": "2.0", "data": articles}, ensure_ascii=False)
        (arguments.out / f"{name}.json").write_text(text, encoding="utf-8")
    text = json.dumps(baselines, indent=2)
    (arguments.out / "baselines.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def _plays(path: Path) -> list[Document]:
    articles = json.loads(lzma.decompress(path.read_bytes()))["data"]
    return [{"title": a["title"], **p} for a in articles for p in a["paragraphs"]]


def _scenes(play: Document, longest: int) -> list[Document]:
    context = play["context"]
    cuts = [*(match.start() for match in _HEADING.finditer(context)), len(context)]
    scenes = []
    for start, end in pairwise(cuts):
        asked = [q for q in play["qas"] if start <= q["answers"][0]["answer_start"] < end]
        if asked and _LEAST <= end - start <= longest:
            qas = [_moved(question, -start) for question in asked]
            scenes.append({"title": play["title"], "context": context[start:end], "qas": qas})
    return scenes


def _moved(question: Document, offset: int) -> Document:
    answers = [{**a, "answer_start": a["answer_start"] + offset} for a in question["answers"]]
    return {**question, "answers": answers}


def _with_strangers(documents: list[Document]) -> list[Document]:
    """Every third question on a document is one on another play."""
    changed = []
    for number, document in enumerate(documents):
        others = [d for d in documents if d["title"] != document["title"]]
        qas = []
        for place, question in enumerate(document["qas"]):
            if place % _OTHER_EVERY == _OTHER_EVERY - 1:
                other = others[(31 * number + place) % len(others)]
                stranger = other["qas"][place % len(other["qas"])]
                question = {
                    "id": f"{question['id']}-none",
                    "question": stranger["question"],
                    "is_impossible": True,
                    "answers": [],
                }
            qas.append(question)
        changed.append({**document, "qas": qas})
    return changed


def _baselines(documents: list[Document]) -> dict[str, float]:
    hits: Counter[str] = Counter()
    total = 0
    for document in documents:
        names = _SPEAKER.findall(document["context"])
        searched = " ".join(document["context"].split())
        most_frequent = Counter(names).most_common(1)[0][0]
        for question in document["qas"]:
            wanted = question["answers"][0]["text"]
            total += 1
            hits["most_frequent_speaker"] += wanted == most_frequent
            hits["nearest_name"] += wanted == names[0]
            hits["search"] += wanted == _search(searched, question["question"])
    names = ("most_frequent_speaker", "nearest_name", "search")
    sizes = {"documents": len(documents), "questions": total}
    return sizes | {name: round(100 * hits[name] / total, 2) for name in names}


def _search(context: str, question: str) -> str:
    """The speaker before the first place where the quotation stands; spaces are made alike."""
    quotation = question.split('"', 1)[1].removesuffix('"')
    place = context.find(f"** {quotation}")
    return context[context.rfind("**", 0, place) + 2 : place] if place >= 0 else ""


if __name__ == "__main__":
    main()
