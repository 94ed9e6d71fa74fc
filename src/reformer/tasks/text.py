"""Language modelling: each token of a text from those before it."""

from collections.abc import Callable, Iterator

from reformer.data.corpus import prepare_corpus
from reformer.data.files import shipped_novel
from reformer.data.sources import TextSource
from reformer.data.store import open_store
from reformer.generation.decode import generate
from reformer.generation.sampling import Sampling
from reformer.generation.text import encode_prompt, stream_text
from reformer.models.language import ReformerForCausalLM
from reformer.training.evaluation import TextValidation
from reformer.training.planner import format_bytes
from reformer.training.run import Run, require_vocabulary
from reformer.training.task import Task, TaskKind, shortened

_SAMPLE_TOKENS = 200


class TextTask(TaskKind):
    """Files, end to end; without any, the novel that comes with the package."""

    model = ReformerForCausalLM

    def inputs(self, given: tuple[str, ...]) -> tuple[str, ...]:
        return given or (str(shipped_novel()),)

    def prepare(self, run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> Task | Run:
        description, config = run.description, run.description.config
        tokenizer = run.tokenizer()
        require_vocabulary(tokenizer, config.vocab_size)
        corpus = prepare_corpus(
            run.data, description.inputs, description.validation, tokenizer, config.vocab_size
        )
        num_tokens = len(corpus.train)
        if shorter := shortened(run, num_tokens, length_fixed=length_fixed, say=say):
            return shorter
        return Task(
            self.model,
            TextSource(corpus.train, config.max_length, config.seed),
            self.validation(run),
            f"{format_bytes(corpus.train.num_bytes)} of text, {num_tokens:,} tokens "
            f"from a vocabulary of {config.vocab_size:,}",
            lambda model: _sample(run, model),
        )

    def validation(self, run: Run) -> TextValidation:
        store = open_store(run.data, "validation")
        return TextValidation(store, run.description.settings.evaluate_tokens)


def _sample(run: Run, model: ReformerForCausalLM) -> Iterator[str]:
    tokenizer = run.tokenizer()
    ids = generate(
        model,
        encode_prompt("", tokenizer),
        max_new_tokens=_SAMPLE_TOKENS,
        sampling=Sampling(temperature=0.8),
        seed=run.description.config.seed,
    )
    yield from stream_text(ids, tokenizer)


TASK = TextTask()
