"""``reformer ask``: the answer to a question, and where it stands in the document."""

import json

from rich.console import Console
from rich.text import Text

from reformer.cli.arguments import AskArguments
from reformer.cli.devices import find_device
from reformer.cli.terminal import printable
from reformer.data.files import InputError, find_files
from reformer.data.records import read_text
from reformer.data.tokenizer import tokenizer_in
from reformer.generation.answering import answer
from reformer.models.question_answering import ReformerForQuestionAnswering
from reformer.training.run import require_vocabulary

_AROUND = 60


def run(arguments: AskArguments) -> int:
    """Parse, answer, print."""
    model = ReformerForQuestionAnswering.from_pretrained(arguments.run)
    tokenizer = tokenizer_in(arguments.run)
    require_vocabulary(tokenizer, model.config.vocab_size)
    document = "".join(read_text(file) for file in find_files([arguments.document]))
    if not document.strip() or not arguments.question.strip():
        raise InputError("the document and the question must not be empty")
    found = answer(model.to(find_device(arguments.device)), tokenizer, document, arguments.question)
    line = document.count("\n", 0, found.start) + 1
    if arguments.json:
        place = {"start": found.start, "end": found.end, "line": line} if found.text else {}
        values = {"answer": found.text or None, **place, "confidence": found.confidence}
        print(json.dumps(values, ensure_ascii=False))
        return 0
    console = Console(highlight=False)
    if not found.text:
        console.print(f"The document does not answer this ({found.confidence:.0%} sure).")
        return 0
    console.print(Text(printable(found.text), style="bold"), soft_wrap=True)
    console.print(
        f"line {line}, characters {found.start} to {found.end}, {found.confidence:.0%} sure"
    )
    before = document[max(0, found.start - _AROUND) : found.start].rpartition("\n")[2]
    after = document[found.end : found.end + _AROUND].partition("\n")[0]
    console.print(
        Text.assemble(
            printable(before), (printable(found.text), "bold"), printable(after), style="dim"
        ),
        soft_wrap=True,
    )
    return 0
