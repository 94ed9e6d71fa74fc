"""Long passages by novel: a Reformer beside TF-IDF and a linear model of scikit-learn.

Every tenth chapter of each book is held out and cut into passages of PASSAGE bytes, and another
tenth for validation, by which the Reformer's best weights are chosen; the other chapters give
passages that overlap by half. White space, quotation marks and headings are made alike, so that
words tell the books apart and typography does not. The names of a book's characters are enough for
that; --hide-names leaves out every word with a capital letter, for both. The Reformer is the preset
of the task, on words and parts of words.

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
_KEPT_ASIDE = {5: "held_out", 2: "validation"}
"""Of ten chapters, the numbers of those that are not trained on."""


def main() -> None:
    """Write the passages, train both, score both on the chapters that neither has seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("books", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passage", type=int, default=4096)
    parser.add_argument("--hide-names", action="store_true")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--seeds", type=int, default=2)
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
        "reformer": [_reformer(arguments, files, seed) for seed in range(arguments.seeds)],
    }
    (arguments.out / "classification.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def _chapters(book: Path, hide_names: bool) -> list[str]:
    chapters = _HEADING.split(book.read_text(encoding="utf-8").translate(_QUOTES))
    if hide_names:
        chapters = [_CAPITALISED.sub("", chapter) for chapter in chapters]
    return [" ".join(chapter.split()) for chapter in chapters]


def _passages(books: dict[str, list[str]], size: int) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "held_out": []}
    for book, chapters in books.items():
        chapters = [chapter for chapter in chapters if len(chapter) >= size]
        for number, chapter in enumerate(chapters):
            name = _KEPT_ASIDE.get(number % 10, "train")
            stride = size // 2 if name == "train" else size
            data = chapter.encode()
            found[name] += [
                (data[start : start + size].decode(errors="ignore"), book)
                for start in range(0, len(data) - size + 1, stride)
            ]
    return found


def _tfidf(passages: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.svm import LinearSVC

    began = time.process_time()
    words = TfidfVectorizer(sublinear_tf=True)
    texts, labels = zip(*passages["train"], strict=True)
    linear = LinearSVC().fit(words.fit_transform(texts), labels)
    seconds = time.process_time() - began
    scores: dict[str, Any] = {"processor_seconds": seconds}
    for part in ("validation", "held_out"):
        texts, labels = zip(*passages[part], strict=True)
        predicted = linear.predict(words.transform(texts))
        scores[part] = {
            "accuracy": float(accuracy_score(labels, predicted)),
            "macro_f1": float(f1_score(labels, predicted, average="macro")),
        }
    return scores


def _reformer(arguments: argparse.Namespace, files: dict[str, Path], seed: int) -> dict[str, Any]:
    began = time.process_time()
    tokenizer, run = arguments.out / "tokenizer.json", arguments.out / f"run-{seed}"
    if not tokenizer.exists():
        _command("tokenizer", "train", files["train"], "--vocab-size", arguments.vocab_size,
                 "--out", tokenizer)  # fmt: skip
    _command("train", files["train"], "--task", "classify", "--tokenizer", tokenizer,
             "--validation", files["validation"], "--seed", seed, "--out", run)  # fmt: skip
    scores: dict[str, Any] = {"processor_seconds": time.process_time() - began}
    for part in ("validation", "held_out"):
        scores[part] = json.loads(_command("evaluate", run, files[part], "--json"))
    return scores


def _command(*words: object) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if reformer([str(word) for word in words]) != 0:
            raise SystemExit(f"reformer {words[0]} failed")
    return printed.getvalue()


if __name__ == "__main__":
    main()
