"""Long passages by novel: a Reformer beside TF-IDF and a linear model of scikit-learn.

Every tenth chapter of each book is held out and cut into passages of PASSAGE bytes; the other
chapters give passages that overlap by half. White space, quotation marks and headings are made
alike, so that words tell the books apart and typography does not. The names of a book's characters
are enough for that; --hide-names leaves out every word with a capital letter, for both.

    python benchmarks/classification.py BOOK.txt… --out FOLDER     # each file is a class
    python benchmarks/classification.py BOOK.txt… --out FOLDER --hide-names
"""

import argparse
import contextlib
import io
import json
import re
import time
from pathlib import Path
from typing import Any

from reformer.cli import main as reformer

_HEADING = re.compile(r"^(?:chapter|volume|part)\b.*$", re.IGNORECASE | re.MULTILINE)
_QUOTES = str.maketrans("“”‘’", "\"\"''", "_")
_CAPITALISED = re.compile(r"\b[A-Z][\w'-]*")
_HELD_OUT = 10
# Parts of passages: four times the examples a step, and a passage is judged by all its parts.
_READ = ("--length", 512, "--batch-size", 16, "--hidden-size", 64, "--feed-forward-size", 128,
         "--head-size", 32, "--learning-rate", "3e-3")  # fmt: skip


def main() -> None:
    """Write the passages, train both, score both on the chapters that neither has seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("books", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passage", type=int, default=4096)
    parser.add_argument("--hide-names", action="store_true")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    books = {book.stem: _chapters(book, arguments.hide_names) for book in arguments.books}
    passages = _passages(books, arguments.passage)
    files = {name: arguments.out / f"{name}.jsonl" for name in passages}
    for name, rows in passages.items():
        records = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
        files[name].write_text("".join(records), encoding="utf-8")
    results = {
        "passage_bytes": arguments.passage,
        "names_hidden": arguments.hide_names,
        "passages": {name: len(rows) for name, rows in passages.items()},
        "tfidf": _tfidf(passages),
        "reformer": _reformer(arguments, files),
    }
    (arguments.out / "classification.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def _chapters(book: Path, hide_names: bool) -> list[str]:
    chapters = _HEADING.split(book.read_text(encoding="utf-8").translate(_QUOTES))
    if hide_names:
        chapters = [_CAPITALISED.sub("", chapter) for chapter in chapters]
    return [" ".join(chapter.split()) for chapter in chapters]


def _passages(books: dict[str, list[str]], size: int) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {"train": [], "held_out": []}
    for book, chapters in books.items():
        chapters = [chapter for chapter in chapters if len(chapter) >= size]
        for number, chapter in enumerate(chapters):
            name = "held_out" if number % _HELD_OUT == _HELD_OUT // 2 else "train"
            stride = size if name == "held_out" else size // 2
            data = chapter.encode()
            found[name] += [
                (data[start : start + size].decode(errors="ignore"), book)
                for start in range(0, len(data) - size + 1, stride)
            ]
    return found


def _tfidf(passages: dict[str, list[tuple[str, str]]]) -> dict[str, float]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.svm import LinearSVC

    began = time.monotonic()
    words = TfidfVectorizer(sublinear_tf=True)
    texts, labels = zip(*passages["train"], strict=True)
    linear = LinearSVC().fit(words.fit_transform(texts), labels)
    texts, labels = zip(*passages["held_out"], strict=True)
    predicted = linear.predict(words.transform(texts))
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
        "seconds": time.monotonic() - began,
    }


def _reformer(arguments: argparse.Namespace, files: dict[str, Path]) -> dict[str, Any]:
    began = time.monotonic()
    tokenizer, run = arguments.out / "tokenizer.json", arguments.out / "run"
    _command("tokenizer", "train", files["train"], "--vocab-size", arguments.vocab_size,
             "--out", tokenizer)  # fmt: skip
    _command("train", files["train"], "--task", "classify", "--tokenizer", tokenizer,
             "--steps", arguments.steps, *_READ, "--out", run)  # fmt: skip
    seconds = time.monotonic() - began
    scores = json.loads(_command("evaluate", run, files["held_out"], "--json"))
    return {**scores, "steps": arguments.steps, "seconds": seconds}


def _command(*words: object) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if reformer([str(word) for word in words]) != 0:
            raise SystemExit(f"reformer {words[0]} failed")
    return printed.getvalue()


if __name__ == "__main__":
    main()
