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
    lsh = LSH(num_hashes=4, window_length=64, values="next")
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
            LSH(num_hashes=2, window_length=16, values="next"),
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
        layers=(LSH(num_hashes=4, window_length=128, num_buckets=8, values="next"),),
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


def image() -> Preset:
    """Pictures of 28 x 28 pixels or so, from a small set: local attention and LSH in turn."""
    # Two rows of Fashion-MNIST; with more columns or channels, give a window to match.
    local, lsh = Local(64, rotary_base=10000.0), LSH(4, 32, values="next")
    config = ReformerConfig(
        vocab_size=257,
        hidden_size=128,
        feed_forward_size=384,
        num_heads=4,
        head_size=32,
        max_length=785,
        layers=(local, lsh, local, lsh),
        axial_shape=(29, 28, 1),
        position_scale=1.0,
    )
    settings = TrainingSettings(
        task="image",
        steps=2000,
        batch_size=4,
        learning_rate=2e-3,
        final_learning_rate=0.02,
        warmup_steps=100,
        adam_beta2=0.99,
        evaluate_every=200,
        evaluate_tokens=40000,
        save_every=200,
    )
    return config, settings


def image64() -> Preset:
    """Colour pictures of 64 x 64 pixels, 12,288 values in a sequence as in the paper."""
    config, settings = image()
    # Four rows of 64 pixels in three colours; a hash bucket then finds what lies further away.
    local, lsh = Local(768, rotary_base=10000.0), LSH(4, 64, values="next")
    config = dataclasses.replace(
        config, max_length=12289, layers=(local, lsh, local, lsh), axial_shape=(65, 64, 3)
    )
    return config, dataclasses.replace(settings, batch_size=1, image_shape=(64, 64, 3))


def signal() -> Preset:
    """Sound, genomes and series of numbers: parts of 4,096 values, local attention and LSH."""
    config, settings = image()
    local, lsh = Local(128, rotary_base=10000.0), LSH(4, 32, values="next")
    config = dataclasses.replace(
        config,
        vocab_size=256,
        max_length=4096,
        layers=(local, lsh, local, lsh),
        axial_shape=None,
        position_scale=0.1,
    )
    settings = dataclasses.replace(settings, task="signal", batch_size=2, evaluate_tokens=32768)
    return config, settings


def classify() -> Preset:
    """Texts of any length into classes, by parts of 128 tokens and the mean of what these say."""
    # One layer that sees a few words about each: with more layers, local or LSH, or with longer
    # parts, as many tokens taught less (docs/tasks.md). Where what a text is hangs on how its
    # parts fit together, take --preset tag, which has LSH, and --length.
    config, settings = tag()
    config = dataclasses.replace(
        config,
        hidden_size=64,
        feed_forward_size=128,
        head_size=32,
        max_length=128,
        layers=(Local(16, rotary_base=100.0),),
    )
    settings = dataclasses.replace(
        settings,
        task="classify",
        steps=1000,
        batch_size=32,
        learning_rate=3e-3,
        evaluate_tokens=262144,
    )
    return config, settings


def tag() -> Preset:
    """A tag for every word of sentences of up to 4,096 tokens, from both sides."""
    config = ReformerConfig(
        hidden_size=128,
        feed_forward_size=256,
        num_heads=2,
        head_size=64,
        max_length=4096,
        layers=(Local(4, rotary_base=10.0), LSH(2, 32), Local(16, rotary_base=100.0)),
        causal=False,
    )
    settings = TrainingSettings(
        task="tag",
        steps=1000,
        batch_size=16,
        learning_rate=2e-3,
        warmup_steps=50,
        final_learning_rate=0.02,
        evaluate_every=100,
        evaluate_tokens=65536,
        save_every=100,
    )
    return config, settings


def masked() -> Preset:
    """Hidden spans of a text from both sides: what tag and classify (--preset tag) start from."""
    config, settings = tag()
    settings = dataclasses.replace(settings, task="masked", batch_size=1, evaluate_tokens=32768)
    return config, settings


def qa() -> Preset:
    """Answers from documents of up to 32,768 tokens: what is near, what is alike, what is near."""
    # A model that sees both sides must learn what is left and what is right, and an answer's ends
    # hang on it: it does so many times sooner with small windows and fast rotary angles.
    config = ReformerConfig(
        hidden_size=64,
        feed_forward_size=128,
        num_heads=2,
        head_size=32,
        max_length=32768,
        layers=(Local(4, rotary_base=10.0), LSH(4, 32), Local(16, rotary_base=100.0)),
        causal=False,
        # Room for documents of 65,536 tokens, whatever the length that is trained: a model that
        # has learned from short parts goes on with longer ones.
        axial_shape=(512, 128),
        position_scale=0.3,
    )
    settings = TrainingSettings(
        task="qa",
        steps=1000,
        batch_size=4,
        learning_rate=2e-3,
        warmup_steps=50,
        final_learning_rate=0.05,
        evaluate_every=200,
        evaluate_tokens=524288,
        save_every=200,
    )
    return config, settings


def find() -> Preset:
    """Passages found again in parts of documents of 128 tokens: what qa should start from."""
    config, settings = qa()
    config = dataclasses.replace(config, max_length=128)
    settings = dataclasses.replace(
        settings, task="find", steps=600, batch_size=16, learning_rate=3e-3, evaluate_tokens=65536
    )
    return config, settings


def seq2seq() -> Preset:
    """A text from a text, up to 512 tokens each: translations, summaries, answers."""
    # A window of 128 sees all of a sentence; for documents, put LSH layers between.
    # The encoder is the deeper one: it runs once, the decoder for every token.
    local = Local(window_length=128, rotary_base=10000.0)
    config = ReformerConfig(
        hidden_size=128,
        feed_forward_size=384,
        num_heads=2,
        head_size=64,
        max_length=512,
        layers=(local, local),
        encoder_layers=(local, local, local),
        # One embedding a position: the decoder finds its place in the source by them.
        axial_shape=(2048,),
        position_scale=1.0,
    )
    settings = TrainingSettings(
        task="seq2seq",
        steps=2000,
        batch_size=32,
        learning_rate=2e-3,
        warmup_steps=200,
        final_learning_rate=0.02,
        evaluate_every=200,
        evaluate_tokens=32768,
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


def novel_512k() -> Preset:
    """A whole novel as one sequence of 524,288 bytes; a step needs less than 9 GB."""
    config = _whole_book(axial_shape=(512, 1024))
    settings = TrainingSettings(
        steps=300,
        batch_size=1,
        learning_rate=2e-3,
        warmup_steps=20,
        evaluate_every=20,
        evaluate_tokens=65536,
        save_every=20,
    )
    return config, settings


def million() -> Preset:
    """A whole novel as one sequence of 1,048,576 bytes; a step needs less than 16 GB."""
    _, settings = novel_512k()
    return _whole_book(axial_shape=(1024, 1024)), settings


def _whole_book(axial_shape: tuple[int, int]) -> ReformerConfig:
    """The sizes of the paper's authors for Crime and Punishment in one sequence."""
    return ReformerConfig(
        hidden_size=256,
        feed_forward_size=512,
        num_heads=2,
        head_size=64,
        max_length=axial_shape[0] * axial_shape[1],
        layers=(Local(window_length=64), LSH(num_hashes=2, window_length=64)) * 3,
        axial_shape=axial_shape,
        axial_sizes=(64, 192),
        activation="relu",
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    "novel": novel,
    "tiny": tiny,
    "dialogue": dialogue,
    "copy": copy,
    "classify": classify,
    "tag": tag,
    "masked": masked,
    "qa": qa,
    "find": find,
    "image": image,
    "image64": image64,
    "signal": signal,
    "seq2seq": seq2seq,
    "enwik8": enwik8,
    "novel-512k": novel_512k,
    "million": million,
}


TASK_PRESETS: dict[str, str] = {
    "text": "novel",
    "dialogue": "dialogue",
    "copy": "copy",
    "image": "image",
    "signal": "signal",
    "seq2seq": "seq2seq",
    "classify": "classify",
    "tag": "tag",
    "masked": "masked",
    "qa": "qa",
    "find": "find",
}
"""Where a task starts from when no preset is named."""


def preset(name: str) -> Preset:
    """The preset with this name; a ConfigError lists the names when there is none."""
    if name not in PRESETS:
        raise ConfigError(f"preset is {name!r}: it must be one of {', '.join(PRESETS)}")
    return PRESETS[name]()
