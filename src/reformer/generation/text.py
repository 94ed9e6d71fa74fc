"""Between text and token ids while text is being written."""

from collections.abc import Iterable, Iterator, Sequence

from reformer.data.tokenizer import Tokenizer


def encode_text(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a text; bytes that were not UTF-8 (surrogate escapes) come out as they were."""
    data = text.encode("utf-8", errors="surrogateescape")
    return [int(token_id) for ids in tokenizer.encode([data]) for token_id in ids]


def encode_prompt(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a prompt; an empty one becomes a line break, after which any text may start."""
    return encode_text(text or "\n", tokenizer)


def stream_text(token_ids: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Ids as pieces of text; a character that takes several ids comes out whole."""
    decoder = tokenizer.decoder()
    for token_id in token_ids:
        if piece := decoder.feed(token_id):
            yield piece
    if piece := decoder.finish():
        yield piece


class StopStrings:
    """Watches text for strings that end it; what could become one is held back until it cannot."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""
        self.found: str | None = None
        """The stop string that was met; it and what follows are never given out."""

    def feed(self, piece: str) -> str:
        """The text that may now be shown."""
        if self.found is not None:
            return ""
        text = self._held + piece
        places = [(text.find(string), string) for string in self._strings]
        met = [(place, -len(string), string) for place, string in places if place >= 0]
        if met:
            place, _, self.found = min(met)
            self._held = ""
            return text[:place]
        keep = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """The length of the longest end of ``text`` with which ``string`` begins."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0


class WrittenText:
    """The text of one sequence as it is written, up to the first stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._decoder, self._stop = tokenizer.decoder(), StopStrings(stop)
        self.text = ""

    @property
    def ended(self) -> bool:
        """Whether a stop string was met."""
        return self._stop.found is not None

    def feed(self, token_id: int) -> str:
        """The text that may be shown with this token; may be empty."""
        return self._show(self._stop.feed(self._decoder.feed(token_id)))

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        shown = self._stop.feed(self._decoder.finish())
        return self._show(shown + self._stop.finish())

    def _show(self, piece: str) -> str:
        self.text += piece
        return piece
