"""Trainer, pipelines, PEFT and the evaluation harness, the real libraries, on our models."""

import dataclasses
import json
import math
import runpy
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from reformer import ReformerForCausalLM
from reformer.interop.byte_tokenizer import byte_tokenizer
from tests.interop.ours import CONFIG, saved

TEXT = "It was the best of times, it was the worst of times. " * 20


@pytest.fixture
def folder(tmp_path):
    """A model with the tokenizer that has an id for each byte, beside two special ones."""
    saved(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text(byte_tokenizer(offset=2))
    return tmp_path / "model"


def _loaded(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def _rows(length=32, count=16):
    ids = [2 + byte for byte in TEXT.encode()]
    rows = [ids[start : start + length] for start in range(0, count * 7, 7)]
    return [{"input_ids": torch.tensor(row), "labels": torch.tensor(row)} for row in rows]


def _trained(model, out, steps=6, **changes):
    arguments = transformers.TrainingArguments(
        output_dir=str(out), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2,
        logging_steps=1, report_to=[], use_cpu=True, save_steps=steps, seed=0,
        disable_tqdm=True, dataloader_pin_memory=False, **changes,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=_rows(), eval_dataset=_rows(count=4)
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    return trainer, before, trainer.evaluate()["eval_loss"]


def test_trainer_trains_saves_and_our_own_model_reads_it(folder, tmp_path):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    trainer, before, after = _trained(_loaded(folder), tmp_path / "out")
    assert after < 0.9 * before
    own = ReformerForCausalLM.from_pretrained(tmp_path / "out" / "checkpoint-6")
    ids = _rows()[0]["input_ids"][None]
    assert torch.equal(own(ids).logits, trainer.model.eval()(ids).logits)


def test_trainers_accumulated_batches_equal_one_large_batch(tmp_path):
    # One draw of hash rotations and no dropout: both ways see the same model.
    saved(tmp_path / "model", dataclasses.replace(CONFIG, hash_seed=0, dropout=0.0))
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    weights = []
    for name, changes in (("one", {}), ("two", {"gradient_accumulation_steps": 2})):
        model = _loaded(tmp_path / "model")
        size = 4 // changes.get("gradient_accumulation_steps", 1)
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / name), max_steps=1, per_device_train_batch_size=size,
            learning_rate=1.0, optim="sgd", report_to=[], use_cpu=True, disable_tqdm=True,
            save_strategy="no", dataloader_pin_memory=False, lr_scheduler_type="constant",
            max_grad_norm=0.0, **changes,
        )  # fmt: skip
        transformers.Trainer(model=model, args=arguments, train_dataset=_rows()).train()
        weights.append(model.head.weight.detach())
    assert torch.allclose(weights[0], weights[1], atol=1e-5)


def test_the_loss_in_training_never_holds_the_logits(folder):
    model = _loaded(folder).train()
    ids = _rows()[0]["input_ids"][None]
    out = model(ids, labels=ids)
    assert out.logits is None
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_pipeline_generates_text(folder):
    write = transformers.pipeline("text-generation", model=str(folder))
    (result,) = write("It was", max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert result["generated_text"].startswith("It was")
    ids = write.tokenizer("It was")["input_ids"]
    assert ids == [2 + byte for byte in b"It was"]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's calls into transformers
def test_lora_trains_the_adapter_alone_and_merges(folder, tmp_path):
    peft = pytest.importorskip("peft", reason="this test trains a LoRA adapter with peft")
    base = _loaded(folder)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    targets = ["query_key", "query", "value", "inner", "head"]
    settings = peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, settings)
    _, loss, trained = _trained(model, tmp_path / "lora", steps=12)
    assert trained < 0.99 * loss
    for name, tensor in model.get_base_model().state_dict().items():
        if "lora" not in name:
            assert torch.equal(tensor, before[name.replace(".base_layer", "")])
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(_loaded(folder), tmp_path / "adapter")
    ids = _rows()[0]["input_ids"][None]
    adapted = model.eval()(ids).logits
    assert torch.allclose(again.eval()(ids).logits, adapted, atol=1e-5)
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    own = ReformerForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(own(ids).logits, adapted, atol=1e-3)
    assert not torch.allclose(own(ids).logits, _loaded(folder)(ids).logits, atol=1e-1)


def test_the_evaluation_harness_runs_a_task_of_local_files(folder, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="this test runs EleutherAI's lm-eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lines = [{"text": TEXT[start : start + 60]} for start in (0, 100)]
    data = tmp_path / "lines.json"
    data.write_text("\n".join(json.dumps(line) for line in lines))
    task = {
        "task": "local_lines", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }  # fmt: skip
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "local_lines.yaml").write_text(json.dumps(task))
    model = _loaded(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, eos_token="<|padding|>")
    harness = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=1)
    results = lm_eval.simple_evaluate(
        model=harness,
        tasks=["local_lines"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        bootstrap_iters=0,
    )
    found = results["results"]["local_lines"]["bits_per_byte,none"]
    assert math.isclose(found, _bits_per_byte(model, tokenizer, lines), rel_tol=1e-4)


def _bits_per_byte(model, tokenizer, lines):
    """By hand: each text after one end-of-text token."""
    total = count = 0
    for line in lines:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(line["text"])["input_ids"]]])
        with torch.no_grad():
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += len(line["text"].encode())
    return total / count / math.log(2)


def test_the_byte_tokenizer_keeps_every_byte():
    tokenizer = Tokenizer.from_str(byte_tokenizer(offset=2))
    for text in ("plain", "naïve café 🙂\n\t\x00 ", " leading", "<pad>"):
        ids = tokenizer.encode(text).ids
        assert ids == [2 + byte for byte in text.encode()]
        assert tokenizer.decode(ids) == text
    assert CONFIG.vocab_size == tokenizer.get_vocab_size()


def test_the_example_trains_and_writes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    (tmp_path / "text.txt").write_text(TEXT)
    example = Path(__file__).parents[2] / "examples" / "huggingface_trainer.py"
    arguments = [str(example), str(tmp_path / "text.txt"), str(tmp_path / "out"), "11"]
    monkeypatch.setattr("sys.argv", arguments)
    runpy.run_path(str(example), run_name="__main__")
    assert "It was" in capsys.readouterr().out
    assert ReformerForCausalLM.from_pretrained(tmp_path / "out").config.max_length == 256
