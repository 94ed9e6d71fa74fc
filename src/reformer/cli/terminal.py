"""Text that a model wrote, made safe to show."""


def printable(text: str) -> str:
    """The text without control characters (now U+FFFD): they could steer the terminal.

    Line breaks and tabs stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
