"""A byte-level language model in a plain torch loop: nothing of the command, only the model.

python examples/language_model.py FILE [STEPS]
"""

import math
import sys
from pathlib import Path

import torch

from reformer import LSH, Local, ReformerConfig, ReformerForCausalLM

BATCH_SIZE, LENGTH = 4, 256


def main() -> None:
    text = torch.frombuffer(bytearray(Path(sys.argv[1]).read_bytes()), dtype=torch.uint8)
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    config = ReformerConfig(
        hidden_size=128,
        num_heads=4,
        head_size=32,
        max_length=LENGTH,
        layers=(Local(window_length=64, rotary_base=10000.0), LSH(num_hashes=2, window_length=32)),
    )
    model = ReformerForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        starts = torch.randint(len(text) - LENGTH, (BATCH_SIZE,), generator=generator)
        input_ids = torch.stack([text[start : start + LENGTH] for start in starts]).long()
        loss = model(input_ids, labels=input_ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step}: {loss.item() / math.log(2.0):.2f} bits per byte")


if __name__ == "__main__":
    main()
