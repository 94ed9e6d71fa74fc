"""The colour emoji of a font as PNG files, to learn from.

    apt-get install fonts-noto-color-emoji
    python benchmarks/emoji.py /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf emoji

The font holds each emoji as a PNG of 136 x 128 pixels (its CBDT table); fontTools, which comes
with matplotlib, finds them. Names are those of the font's glyphs, such as u1F600.png.
"""

import sys
from pathlib import Path

from fontTools.ttLib import TTFont


def main() -> None:
    font, folder = TTFont(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True)
    for strike in font["CBDT"].strikeData:
        for name, glyph in strike.items():
            # After the metrics, the picture's own file.
            start = glyph.data.find(b"\x89PNG")
            if start >= 0:
                (folder / f"{name}.png").write_bytes(glyph.data[start:])
    print(f"{len(list(folder.iterdir())):,} pictures in {folder}")


if __name__ == "__main__":
    main()
