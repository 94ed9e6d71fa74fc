"""The same small language model with different attention: bits per byte of held-out text."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from reformer.data.sources import TextSource
from reformer.models.language import ReformerForCausalLM
from reformer.reproduce.journal import Row
from reformer.reproduce.short_run import train_briefly
from reformer.reproduce.texts import corpus_of
from reformer.reproduce.variants import VARIANTS
from reformer.settings import TrainingSettings
from reformer.training.evaluation import score_text

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One model to train: which variant, how long its sequences, which seed, how many steps."""

    variant: str
    length: int
    seed: int
    steps: int
    text: str = "novel"
    """On what, as ``texts.corpus_of`` has it."""

    @property
    def name(self) -> str:
        text = Path(self.text).stem
        return f"{self.variant}-{text}-{self.length}-{self.steps}-{self.seed}"


def measure_language(case: Comparison, folder: Path, say: Say) -> Row:
    """Train one variant on a text, one sequence a step, and score the last 5 % of it.

    The model is kept in ``folder``; the row says what it reached and what a step cost.
    """
    corpus = corpus_of(case.text, folder)
    config = dataclasses.replace(VARIANTS[case.variant](case.length), seed=case.seed)
    model = ReformerForCausalLM(config)
    source = TextSource(corpus.train, case.length, case.seed)

    def on_step(step: int, loss: float) -> None:
        if step % max(1, case.steps // 10) == 0:
            say(f"{case.name}: step {step} of {case.steps}, loss {loss:.3f}")

    outcome = train_briefly(model, source, settings(case.steps), on_step)
    bits = score_text(model, corpus.validation, length=case.length).bits_per_byte
    model.save_pretrained(folder / case.name)
    say(f"{case.name}: {bits:.4f} bits per byte, {outcome.seconds_per_step:.2f} s a step")
    return {
        **dataclasses.asdict(case),
        "bits_per_byte": bits,
        "seconds_per_step": outcome.seconds_per_step,
        "losses": [round(loss, 4) for loss in outcome.losses],
    }


def settings(steps: int) -> TrainingSettings:
    """The same for every variant: one sequence a step, a high rate for a short run."""
    return TrainingSettings(
        steps=steps,
        batch_size=1,
        learning_rate=3e-3,
        final_learning_rate=0.02,
        warmup_steps=min(30, steps // 4),
        adam_beta2=0.99,
    )
