"""A whole training step beside Hugging Face's model of the same shape: time and memory."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reformer.bench.contenders import HuggingFace, is_installed
from reformer.bench.measure import Work, measure_by_turns
from reformer.config import LSH, Local, ReformerConfig
from reformer.models.language import ReformerForCausalLM
from reformer.presets import preset

_LOCAL_CHUNK = 64


def models() -> dict[str, ReformerConfig]:
    """What is compared: the novel preset, and twelve layers in the pattern of enwik8's model."""
    novel, _ = preset("novel")
    local = Local(window_length=128)
    twelve = ReformerConfig(
        hidden_size=512,
        feed_forward_size=2048,
        num_heads=8,
        head_size=64,
        max_length=16384,
        layers=(local, local, LSH(num_hashes=4, window_length=64), local) * 3,
        activation="relu",
    )
    return {
        "novel, 2,048 tokens": novel,
        "novel, 16,384 tokens": dataclasses.replace(novel, max_length=16384),
        "12 layers, width 512, 16,384 tokens": twelve,
    }


def training_steps(
    *, num_repeats: int, most_seconds: float, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row per model and implementation: seconds, tokens a second and peak extra memory.

    A step is forward, backward and an AdamW update on one sequence of the model's length.
    """
    rows = []
    for name, config in models().items():
        works = {"reformer-core": _step(ReformerForCausalLM(config), config)}
        if is_installed(HuggingFace()):
            works["Hugging Face"] = _step(_hugging_face(config), config)
        measured = measure_by_turns(works, num_repeats=num_repeats, most_seconds=most_seconds)
        for who, one in measured.items():
            rows.append(
                {
                    "model": name,
                    "implementation": who,
                    "seconds": one.seconds,
                    "tokens_per_second": config.max_length / one.seconds,
                    "peak_extra_bytes": one.peak_extra_bytes,
                }
            )
            say(f"{name}: {who} {config.max_length / one.seconds:,.0f} tokens a second")
    return rows


def _step(model: nn.Module, config: ReformerConfig) -> Work:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # its state is part of the model, not of what a step adds
    rng = torch.Generator().manual_seed(0)
    input_ids = torch.randint(config.vocab_size, (1, config.max_length), generator=rng)

    def work() -> None:
        optimizer.zero_grad()
        loss: Tensor = model(input_ids, labels=input_ids).loss
        loss.backward()
        optimizer.step()

    return work


def _hugging_face(config: ReformerConfig) -> nn.Module:
    """transformers' model of the same widths, layers and rounds; its own rules of attention."""
    from transformers import ReformerConfig as PeerConfig
    from transformers import ReformerModelWithLMHead

    lsh = next(layer for layer in config.layers if isinstance(layer, LSH))
    peer = PeerConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        feed_forward_size=config.feed_forward_size,
        num_attention_heads=config.num_heads,
        attention_head_size=config.head_size,
        attn_layers=["lsh" if isinstance(layer, LSH) else "local" for layer in config.layers],
        num_hashes=lsh.num_hashes,
        lsh_attn_chunk_length=lsh.window_length,
        local_attn_chunk_length=_LOCAL_CHUNK,
        hidden_act=config.activation,
        axial_pos_shape=list(config.position_shape),
        axial_pos_embds_dim=list(config.position_sizes),
        max_position_embeddings=config.max_length,
        hidden_dropout_prob=0.0,
        local_attention_probs_dropout_prob=0.0,
        is_decoder=True,
        use_cache=False,
    )
    return ReformerModelWithLMHead(peer)
