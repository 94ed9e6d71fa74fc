"""``reformer tokenizer train``: a byte-level BPE tokenizer from files."""

from reformer.cli.arguments import TokenizerArguments
from reformer.data.files import InputError, count_bytes, find_files, read_files
from reformer.data.tokenizer import train_tokenizer


def run(arguments: TokenizerArguments) -> int:
    """Parse, train, write."""
    if not arguments.inputs:
        raise InputError("name the files to make the tokenizer from")
    if arguments.out.exists():
        raise InputError(f"{arguments.out} exists already: name another file with --out")
    files = find_files(arguments.inputs)
    count_bytes(files)
    text = train_tokenizer(read_files(files), arguments.vocab_size)
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with open(arguments.out, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"cannot write {arguments.out}: {error.strerror}") from error
    print(f"wrote {arguments.out}")
    return 0
