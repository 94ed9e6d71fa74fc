"""Sequence to sequence, measured: pairs to learn from, and trivial answers to compare with.

    python benchmarks/seq2seq.py reversal DATA
    python benchmarks/seq2seq.py bible bible-en-es.tsv.xz DATA
    python benchmarks/seq2seq.py descriptions Packages.xz Translation-en.xz DATA
    python benchmarks/seq2seq.py trivial DATA/train.tsv DATA/heldout.tsv
    python benchmarks/seq2seq.py score DATA/heldout.tsv WRITTEN.txt

``reversal`` writes lines of random letters with the same letters backwards, ``bible`` the verses of
two translations, every twentieth chapter held out, ``descriptions`` the descriptions of Debian's
packages with their one-line synopses, one source package in twenty held out; each writes train.tsv,
validation.tsv and heldout.tsv. The rest is `reformer train --task seq2seq` and `reformer
translate`; the whole recipe is in benchmarks/README.md.
"""

import argparse
import json
import random
import re
import statistics
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from reformer.data.files import find_files
from reformer.data.pairs import read_pairs
from reformer.data.records import read_text
from reformer.training.text_scores import text_scores

Pair = tuple[str, str]
_HELD_OUT = 20
"""One chapter (or source package) in so many is held out, and another one for validation."""
_LONGEST_VERSE = 1000
"""Characters of both languages. Longer is no verse: behind the last one stands a glossary."""
_DESCRIPTION, _SYNOPSIS = range(60, 501), range(15, 71)
"""Characters of the descriptions and synopses that are kept."""


def reversal(folder: Path, *, count: int = 40000, longest: int = 24, seed: int = 0) -> None:
    """Strings of 4 to ``longest`` letters, none of the held-out ones in training."""
    draw = random.Random(seed)
    strings: dict[str, None] = {}
    while len(strings) < count:
        length = draw.randint(4, longest)
        strings["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=length))] = None
    pairs = [(text, text[::-1]) for text in strings]
    _write(folder, pairs[2000:], pairs[1000:2000], pairs[:1000])


def bible(file: Path, folder: Path) -> None:
    """Verses by chapter: two neighbouring verses, or one told twice, are on one side only."""
    sides: list[list[Pair]] = [[], [], []]
    numbers: dict[str, int] = {}
    for line in read_text(file).removesuffix("\n").split("\n"):
        reference, english, spanish = line.split("\t")
        if len(english) + len(spanish) > _LONGEST_VERSE:
            continue
        chapter = numbers.setdefault(reference.rpartition(":")[0], len(numbers)) % _HELD_OUT
        side = {_HELD_OUT // 2: 1, _HELD_OUT - 1: 2}.get(chapter, 0)
        sides[side].append((english, spanish))
    known = {english for english, _ in sides[0]}
    _write(
        folder, *([p for p in side if i == 0 or p[0] not in known] for i, side in enumerate(sides))
    )


def descriptions(packages: Path, translations: Path, folder: Path) -> None:
    """Debian's packages by source package: those built from one source share much of their texts.

    ``packages`` says which source that is, ``translations`` has the texts in full. The checksum of
    its name decides a source's side, so that it stays there when Debian adds others.
    """
    origins = {}
    for fields in _stanzas(packages):
        name = fields["Package"]
        origins[name] = fields.get("Source", name).split(" ")[0]  # without its version
    sides: list[dict[str, str]] = [{}, {}, {}]
    for fields in _stanzas(translations):
        synopsis, _, text = fields.get("Description-en", "").partition("\n")
        # A line with nothing but a dot parts paragraphs.
        source = " ".join(word for line in text.split("\n") if line != "." for word in line.split())
        target = " ".join(synopsis.split())
        if fields["Package"] not in origins or not _kept(source, target):
            continue
        place = zlib.crc32(origins[fields["Package"]].encode()) % _HELD_OUT
        sides[{0: 1, 1: 2}.get(place, 0)].setdefault(source, target)
    train, *others = sides
    told = set(train.values())
    new = [[(s, t) for s, t in side.items() if not (s in train or t in told)] for side in others]
    _write(folder, train.items(), *new)


def _kept(source: str, target: str) -> bool:
    return len(source) in _DESCRIPTION and len(target) in _SYNOPSIS


def _stanzas(file: Path) -> Iterator[dict[str, str]]:
    """Debian's control files: paragraphs of "Field: value", the value's next lines indented."""
    for stanza in read_text(file).split("\n\n"):
        fields = re.findall(r"^([^\s:]+): *(.*(?:\n[ \t].*)*)", stanza, flags=re.MULTILINE)
        if fields:
            yield {name: re.sub(r"\n[ \t]", "\n", value) for name, value in fields}


def trivial(train: Path, heldout: Path) -> None:
    """Copying the source or its beginning, and the target of the likest training source by TF-IDF.

    The beginning: the first sentence, or as many words as training's targets have (the median).
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    known, asked = _read(train), _read(heldout)
    sources, wanted = [s for s, _ in asked], [t for _, t in asked]
    length = round(statistics.median(len(target.split()) for _, target in known))
    vectors = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    index = vectors.fit_transform([source for source, _ in known])
    nearest = np.asarray((vectors.transform(sources) @ index.T).argmax(axis=1)).ravel()
    results = {
        "copy of the source": text_scores(sources, wanted),
        "first sentence": text_scores([re.split(r"(?<=[.!?]) ", s)[0] for s in sources], wanted),
        f"first {length} words": text_scores([_first(length, s) for s in sources], wanted),
        "nearest training source": text_scores([known[n][1] for n in nearest], wanted),
    }
    print(json.dumps(results, indent=2))


def _first(count: int, text: str) -> str:
    return " ".join(text.split()[:count])


def score(heldout: Path, written: Path) -> None:
    """What `reformer translate` wrote, one line for each held-out source."""
    wanted = [target for _, target in _read(heldout)]
    found = written.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if len(found) != len(wanted):
        sys.exit(f"{written} has {len(found)} lines, {heldout} {len(wanted)} pairs")
    print(json.dumps(text_scores(found, wanted), indent=2))


def _read(file: Path) -> list[Pair]:
    return [(p.text("source"), p.text("target")) for p in read_pairs(find_files([file]))]


def _write(folder: Path, *sides: Iterable[Pair]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in zip(("train", "validation", "heldout"), sides, strict=True):
        lines = [f"{source}\t{target}\n" for source, target in pairs]
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
        print(f"{folder / name}.tsv: {len(lines):,} pairs")


def main() -> None:
    functions = (reversal, bible, descriptions, trivial, score)
    commands = {function.__name__: function for function in functions}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=commands)
    parser.add_argument("paths", nargs="+", type=Path)
    arguments = parser.parse_args()
    commands[arguments.command](*arguments.paths)


if __name__ == "__main__":
    main()
