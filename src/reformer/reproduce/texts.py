"""The texts of the comparisons: a novel, and the code of the Python that runs them."""

import sysconfig
from pathlib import Path

from reformer.data.corpus import Corpus, prepare_corpus
from reformer.data.files import shipped_novel
from reformer.data.tokenizer import ByteTokenizer


def corpus_of(text: str, folder: Path) -> Corpus:
    """The bytes of a text, made once in ``folder``; the last 5 % are its validation.

    text: "novel" (Moby-Dick), "code" (the modules of Python's standard library, one after the
    other by name: much of it is said again far away), or a file.
    """
    path = folder / "data" / Path(text).stem
    if text == "novel":
        book = shipped_novel()
    elif text == "code":
        book = folder / "code.txt"
        modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        book.write_text("".join(m.read_text("utf-8") for m in modules), "utf-8")
    else:
        book = Path(text)
    return prepare_corpus(path, [str(book)], None, ByteTokenizer(), 256)
