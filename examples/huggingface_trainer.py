"""Our model in Hugging Face's Trainer, then in their text-generation pipeline.

python examples/huggingface_trainer.py FILE FOLDER [STEPS]
"""

import sys
from pathlib import Path

import torch
import transformers

from reformer import LSH, Local, ReformerConfig, ReformerForCausalLM
from reformer.interop.byte_tokenizer import byte_tokenizer
from reformer.interop.huggingface import register

LENGTH = 256


def main() -> None:
    data, folder = torch.tensor(list(Path(sys.argv[1]).read_bytes())), Path(sys.argv[2])
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 200
    config = ReformerConfig(
        hidden_size=128,
        num_heads=4,
        head_size=32,
        max_length=LENGTH,
        layers=(Local(window_length=64), LSH(num_hashes=2, window_length=32)),
    )
    ReformerForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(byte_tokenizer(), encoding="utf-8")

    register()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    rows = [row for row in data.split(LENGTH) if len(row) == LENGTH]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=2e-3,
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
    )
    trainer.train()
    trainer.save_model(str(folder))  # ReformerForCausalLM.from_pretrained(folder) reads it too

    write = transformers.pipeline("text-generation", model=str(folder))
    print(write("It was", max_new_tokens=40, do_sample=True)[0]["generated_text"])


if __name__ == "__main__":
    main()
