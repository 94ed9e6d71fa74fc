"""Named starting points: each is a model and the settings that train it well.

A preset is a function that returns ``(ReformerConfig, TrainingSettings)``; its docstring's
first line is what ``reformer presets`` prints. Any field can be changed afterwards, on the
command line or with ``dataclasses.replace``.
"""

import dataclasses
from collections.abc import Callable

from reformer.config import LSH, ConfigError, Local, ReformerConfig
from reformer.settings import TrainingSettings

Preset = tuple[ReformerConfig, TrainingSettings]


def novel() -> Preset:
    """One book in under ten minutes on two cores: local attention and LSH in turn."""
    lsh = LSH(num_hashes=4, window_length=64)
    config = ReformerConfig(
        hidden_size=192,
        feed_forward_size=576,
        num_heads=3,
        head_size=64,
        max_length=2048,
        layers=(
            Local(window_length=16, rotary_base=10000.0),
            lsh,
            Local(window_length=32, rotary_base=10000.0),
            lsh,
        ),
    )
    settings = TrainingSettings(
        steps=1200,
        batch_size=1,
        learning_rate=1.5e-3,
        final_learning_rate=0.02,
        warmup_steps=100,
        adam_beta2=0.99,
        weight_decay=0.01,
    )
    return config, settings


def tiny() -> Preset:
    """Two small layers that train in seconds: for trying things out, not for good text."""
    config = ReformerConfig(
        hidden_size=32,
        feed_forward_size=64,
        num_heads=2,
        head_size=16,
        max_length=64,
        layers=(
            Local(window_length=16, rotary_base=10000.0),
            LSH(num_hashes=2, window_length=16),
        ),
    )
    settings = TrainingSettings(
        steps=20,
        batch_size=4,
        learning_rate=5e-3,
        warmup_steps=5,
        evaluate_every=10,
        evaluate_tokens=1024,
        save_every=10,
    )
    return config, settings


def dialogue() -> Preset:
    """Conversations: the novel's model with room for 4,096 bytes, trained on what is answered."""
    config, settings = novel()
    config = dataclasses.replace(config, max_length=4096)
    settings = dataclasses.replace(settings, task="dialogue", batch_size=1)
    return config, settings


def copy() -> Preset:
    """The paper's duplication task: repeat 511 symbols, one LSH layer, 1,024 tokens."""
    config = ReformerConfig(
        vocab_size=128,
        hidden_size=256,
        feed_forward_size=256,
        num_heads=4,
        head_size=64,
        max_length=1024,
        # Eight buckets: a pair that must find each other does so in two of five draws, not in
        # one of eight, and only then is there a gradient. A bucket has 64 tokens in 511.
        layers=(LSH(num_hashes=4, window_length=128, num_buckets=8),),
        # One embedding a position: with axial ones, a few columns get stuck at length 128.
        axial_shape=(1024,),
        init_scale=0.1,
        position_scale=1.0,
    )
    settings = TrainingSettings(
        task="copy",
        steps=1000,
        batch_size=8,
        learning_rate=4e-3,
        warmup_steps=100,
        weight_decay=0.0,
        evaluate_every=200,
        save_every=200,
    )
    return config, settings


def enwik8() -> Preset:
    """The paper's enwik8 model: 12 layers, width 1,024, sequences of 65,536 bytes."""
    local = Local(window_length=128)
    lsh = LSH(num_hashes=4, window_length=256)
    config = ReformerConfig(
        hidden_size=1024,
        feed_forward_size=4096,
        num_heads=8,
        head_size=128,
        max_length=65536,
        layers=(local, local, lsh, local) * 3,
        axial_shape=(128, 512),
        axial_sizes=(256, 768),
        activation="relu",
    )
    settings = TrainingSettings(
        steps=20000,
        batch_size=8,
        learning_rate=5e-4,
        warmup_steps=1000,
        evaluate_every=500,
        evaluate_tokens=262144,
        save_every=500,
    )
    return config, settings


PRESETS: dict[str, Callable[[], Preset]] = {
    "novel": novel,
    "tiny": tiny,
    "dialogue": dialogue,
    "copy": copy,
    "enwik8": enwik8,
}


TASK_PRESETS: dict[str, str] = {"text": "novel", "dialogue": "dialogue", "copy": "copy"}
"""Where a task starts from when no preset is named."""


def preset(name: str) -> Preset:
    """The preset with this name; a ConfigError lists the names when there is none."""
    if name not in PRESETS:
        raise ConfigError(f"preset is {name!r}: it must be one of {', '.join(PRESETS)}")
    return PRESETS[name]()
