"""``reformer chat``: a conversation in the terminal."""

import contextlib
import sys
from collections.abc import Callable

from reformer.cli.arguments import ChatArguments
from reformer.cli.devices import find_device
from reformer.cli.generate import require_whole, sampling_of
from reformer.cli.terminal import printable
from reformer.data.chat_template import ChatTemplate, chat_encoder, opening, read_template
from reformer.data.tokenizer import tokenizer_in
from reformer.generation.chat import Chat, ChatError
from reformer.models.language import ReformerForCausalLM
from reformer.training.run import require_vocabulary

_HELP = """/save FILE     write the conversation to a file
/load FILE     go on with a conversation from a file
/undo          take back your last message and its answer
/system TEXT   tell the model how to behave; without TEXT, no more
/as NAME       who answers, of those that the model has learned; without NAME, its choice
/help          this list
/quit          leave, as Ctrl-D does; Ctrl-C stops an answer"""


def run(arguments: ChatArguments) -> int:
    """Read lines, answer them."""
    for name, least in (("max_new_tokens", 1), ("seed", 0)):
        require_whole(name, getattr(arguments, name), least)
    model = ReformerForCausalLM.from_pretrained(arguments.run)
    model.to(find_device(arguments.device))
    tokenizer = tokenizer_in(arguments.run)
    require_vocabulary(tokenizer, model.config.vocab_size)
    template = read_template(arguments.run)
    chat = Chat(
        model,
        chat_encoder(template or ChatTemplate(), tokenizer),
        sampling=sampling_of(arguments),
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
    )
    if arguments.system:
        chat.set_system(arguments.system)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    if template is None:
        _note("This model was not trained on conversations (reformer train --task dialogue).")
    if sys.stdin.isatty():
        _note("Type a message, or /help.")
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - makes input() editable
    _converse(chat)
    return 0


def _converse(chat: Chat) -> None:
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if line == "/quit":
            return
        if not line:
            continue
        try:
            if line.startswith("/"):
                _command(chat, line)
            else:
                _say(chat, line)
        except ChatError as error:
            _note(str(error))


def _say(chat: Chat, line: str) -> None:
    forgotten = chat.forgotten
    pieces = chat.reply(line)
    if chat.forgotten > forgotten:
        _note(
            f"(The conversation is longer than the model's {chat.model.config.max_length} "
            f"tokens: its first {chat.forgotten} messages are no longer seen.)"
        )
    shown = printable if sys.stdout.isatty() else str
    if chat.name is not None:
        print(shown(opening(chat.name)), end="", flush=True)
    try:
        for piece in pieces:
            print(shown(piece), end="", flush=True)
    except KeyboardInterrupt:
        pieces.close()
        print(" …", end="")
    print(flush=True)


def _command(chat: Chat, line: str) -> None:
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    commands: dict[str, Callable[[], None]] = {
        "/save": lambda: _save(chat, rest),
        "/load": lambda: _load(chat, rest),
        "/undo": lambda: _undo(chat),
        "/system": lambda: _system(chat, rest),
        "/as": lambda: _answer_as(chat, rest),
        "/help": lambda: _note(_HELP),
    }
    if name not in commands:
        raise ChatError(f"there is no {name}; /help lists what there is")
    commands[name]()


def _save(chat: Chat, path: str) -> None:
    if not path:
        raise ChatError("/save needs the name of a file")
    chat.save(path)
    _note(f"Saved {len(chat.messages)} messages to {path}.")


def _load(chat: Chat, path: str) -> None:
    if not path:
        raise ChatError("/load needs the name of a file")
    chat.load(path)
    _note(f"Going on after {len(chat.messages)} messages.")


def _undo(chat: Chat) -> None:
    chat.undo()
    _note(f"Back to {len(chat.messages)} messages.")


def _system(chat: Chat, content: str) -> None:
    chat.set_system(content)
    _note("The system message is set." if content else "There is no system message.")


def _answer_as(chat: Chat, name: str) -> None:
    chat.answer_as(name or None)
    _note(f"{name} answers." if name else "The model chooses who answers.")


def _note(text: str) -> None:
    """What is not part of the conversation goes to standard error."""
    print(text, file=sys.stderr, flush=True)
