"""What a turn of a conversation costs as the conversation grows, and whether it is forgotten.

    python benchmarks/conversation.py --out benchmarks/results/conversation.json

200 turns with the dialogue preset's model (random weights): 40 bytes are said, 60 tokens are
answered. CPU seconds of each turn, on one thread. Every tenth answer is compared with the one
that the same sampler gives after the whole conversation is read from its beginning.
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path

import torch

from reformer import ReformerForCausalLM
from reformer.data.chat_template import ChatTemplate, chat_encoder
from reformer.data.tokenizer import ByteTokenizer
from reformer.generation.chat import Chat
from reformer.generation.decode import Continuation, advance
from reformer.generation.extend import new_cache
from reformer.generation.sampling import Sampler, Sampling
from reformer.presets import preset

TURNS, ANSWER = 200, 60


def answer_from_scratch(chat, number):
    """The ids of turn ``number``, an answer, after reading everything before it at once."""
    before = [token_id for turn in chat.turns[:number] for token_id in turn.token_ids]
    markers = chat.encoder.markers
    cache = new_cache(chat.model)
    continuation = Continuation(
        cache.new_row(),
        [*chat.encoder.start(), *before, markers["assistant"]],
        Sampler(chat.sampling, chat.model.config.vocab_size, chat.seed, number),
        max_new_tokens=chat.max_new_tokens,
        stop_ids=markers.values(),
    )
    while continuation.finish_reason is None:
        advance(chat.model, cache, [continuation])
    ids = continuation.output[: -1 if continuation.finish_reason == "stop" else None]
    return [markers["assistant"], *ids, markers["end"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config, _ = preset("dialogue")
    model = ReformerForCausalLM(dataclasses.replace(config, max_length=32768)).eval()
    # A mild temperature: a model that has learned nothing would end most answers at once.
    encoder = chat_encoder(ChatTemplate(), ByteTokenizer())
    chat = Chat(model, encoder, max_new_tokens=ANSWER, sampling=Sampling(0.9))
    seconds, tokens = [], []
    for number in range(TURNS):
        held = sum(len(turn.token_ids) for turn in chat.turns)
        started = time.process_time()
        for _ in chat.reply(f"{number:4d} times I have asked you for whales."):
            pass
        seconds.append(time.process_time() - started)
        tokens.append(sum(len(turn.token_ids) for turn in chat.turns) - held)
    cost = [1000 * s / n for s, n in zip(seconds, tokens, strict=True)]
    compared = range(1, 2 * TURNS, 20)
    same = [chat.turns[n].token_ids == answer_from_scratch(chat, n) for n in compared]
    results = {
        "torch": torch.__version__,
        "turns": TURNS,
        "tokens": sum(tokens),
        "milliseconds_per_token_of_turns": {
            f"{start + 1} to {start + 25}": statistics.median(cost[start : start + 25])
            for start in range(0, TURNS, 25)
        },
        "answers_compared": len(same),
        "answers_as_from_scratch": sum(same),
    }
    print(json.dumps(results, indent=2))
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
