"""From a command's words to its arguments."""

from collections.abc import Sequence
from typing import Any

from reformer.cli.arguments import (
    RUNS,
    AskArguments,
    BenchArguments,
    ChatArguments,
    ClassifyArguments,
    ConvertArguments,
    DoctorArguments,
    DrawArguments,
    EvaluateArguments,
    ExtendArguments,
    GenerateArguments,
    InspectArguments,
    PlanArguments,
    PresetsArguments,
    ReproduceArguments,
    ServeArguments,
    TokenizerArguments,
    TrainArguments,
    TranslateArguments,
)
from reformer.cli.model_flags import ModelArguments, defaults, peek
from reformer.cli.parsing import parse
from reformer.presets import TASK_PRESETS, preset

_ARGUMENTS: dict[str, Any] = {
    "train": TrainArguments,
    "evaluate": EvaluateArguments,
    "generate": GenerateArguments,
    "draw": DrawArguments,
    "extend": ExtendArguments,
    "chat": ChatArguments,
    "ask": AskArguments,
    "classify": ClassifyArguments,
    "translate": TranslateArguments,
    "serve": ServeArguments,
    "plan": PlanArguments,
    "presets": PresetsArguments,
    "tokenizer train": TokenizerArguments,
    "inspect": InspectArguments,
    "bench": BenchArguments,
    "reproduce": ReproduceArguments,
    "convert": ConvertArguments,
    "doctor": DoctorArguments,
}


def parse_command(command: str, words: Sequence[str]) -> Any:
    """The command's arguments; presets and runs that go on give the defaults of their flags."""
    cls = _ARGUMENTS[command]
    default = cls(**_defaults(words)) if issubclass(cls, ModelArguments) else None
    return parse(cls, command, words, default)


def _defaults(words: Sequence[str]) -> dict[str, Any]:
    early = peek(words)
    name = early.preset or TASK_PRESETS.get(early.task, "novel")
    if early.init is not None and not early.resume:
        from reformer.models.store import read_config

        _, config = read_config(early.init)
        return defaults(name, (config, preset(name)[1]))
    if not early.resume:
        return defaults(name, preset(name))
    from reformer.training.run import find_run

    description = find_run(RUNS, early.out, name).description
    return defaults(description.preset, (description.config, description.settings))
