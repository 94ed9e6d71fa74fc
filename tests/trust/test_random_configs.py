"""Any configuration gives a model, or an error that names the field; memory is estimated first."""

import contextlib
import dataclasses
import json
import math
import random
import signal
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from reformer.config import LSH, ConfigError, Full, Labels, Local, ReformerConfig
from reformer.interop.errors import ConversionError
from reformer.interop.huggingface.configuration import CAUSAL, DEFAULTS, import_config
from reformer.interop.lucidrains import import_settings
from reformer.models.language import ReformerForCausalLM
from reformer.nn.streams import StreamRangeError
from reformer.settings import TrainingSettings
from reformer.training.planner import plan
from tests.models.small import small_config
from tests.trust.children import calling
from tests.trust.mutations import mutate_json
from tests.trust.slots import LUCIDRAINS
from tests.trust.test_mutations import cap_memory
from tests.trust.tiers import record, tiers

pytestmark = pytest.mark.usefixtures("server")

AFFORDABLE = 500 * 2**20
"""A plan below this is carried out; the process may take twice as much."""

OURS = {
    **small_config(axial_shape=(8, 8), axial_sizes=(8, 8)).to_dict(),
    "layers": [
        {"kind": kind, **dataclasses.asdict(layer)}
        for kind, layer in (
            ("lsh", LSH(2, 8, (2, 4), rule="chunk")), ("local", Local(8, rotary_base=10.0)),
            ("full", Full()), ("lsh", LSH(2, 8)),
        )
    ],
    "labels": dataclasses.asdict(Labels(2, names=("a", "b"))),
}  # fmt: skip
THEIRS = {
    **DEFAULTS, "is_decoder": True, "vocab_size": 32, "hidden_size": 16, "feed_forward_size": 24,
    "num_attention_heads": 2, "attention_head_size": 8, "attn_layers": ["local", "lsh"],
    "axial_pos_shape": [4, 8], "axial_pos_embds_dim": [6, 10], "max_position_embeddings": 32,
    "lsh_attn_chunk_length": 4, "local_attn_chunk_length": 4, "num_buckets": 8, "num_hashes": 2,
}  # fmt: skip


def _ours(values: Mapping[str, Any]) -> None:
    config = ReformerConfig.from_dict(values)
    total = plan(config, TrainingSettings()).total
    assert 0 < total < math.inf
    if total > AFFORDABLE or not config.causal:
        return
    model = ReformerForCausalLM(config)
    input_ids = torch.zeros(1, min(12, config.max_length), dtype=torch.int64)
    # Exact streams say what to do about weights that begin too large.
    with contextlib.suppress(StreamRangeError):
        model(input_ids, labels=input_ids).loss.backward()


def _settings(values: Mapping[str, Any]) -> None:
    plan(small_config(), TrainingSettings.from_dict(values))


def _huggingface(values: Mapping[str, Any]) -> None:
    import_config(values, CAUSAL)


def _lucidrains(values: Mapping[str, Any]) -> None:
    import_settings(values)


KINDS: tuple[tuple[Mapping[str, Any], Callable[[Mapping[str, Any]], None]], ...] = (
    (OURS, _ours),
    (TrainingSettings().to_dict(), _settings),
    (THEIRS, _huggingface),
    (LUCIDRAINS, _lucidrains),
)
FIELDS = {
    *(field.name for cls in (ReformerConfig, LSH, Local, Full, Labels, TrainingSettings)
      for field in dataclasses.fields(cls)),
    *THEIRS, *LUCIDRAINS, "kind", "layers[",
}  # fmt: skip


def _names_a_field(message: str) -> bool:
    unknown = "no field" in message or "is no setting" in message
    return unknown or any(name in message for name in FIELDS)


def _try_all(scratch: Path, count: int) -> None:
    cap_memory()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    found = {"made": 0, "refused": 0}
    for trial in range(count):
        found["trial"] = trial
        (scratch / "progress.json").write_text(json.dumps(found))
        base, make = KINDS[trial % len(KINDS)]
        values = mutate_json(base, random.Random(trial))
        signal.alarm(60)
        try:
            make(values)
            found["made"] += 1
        except BaseException as error:
            if isinstance(error, (ConfigError, ConversionError)) and _names_a_field(str(error)):
                found["refused"] += 1
                continue
            print(f"trial {trial}, {make.__name__}: {traceback.format_exc()}", flush=True)
            raise SystemExit(9) from None
        signal.alarm(0)
    (scratch / "progress.json").write_text(json.dumps(found))


@tiers(small=300, middle=3000, full=12_000)
def test_a_model_or_an_error_that_names_the_field(scratch: Path, count: int) -> None:
    child = calling(_try_all, (scratch, count), scratch / "output")
    code = child.wait(5.0 * count)  # a trial that takes 60 s is ended by its alarm
    found = json.loads((scratch / "progress.json").read_text())
    assert code == 0, f"exit code {code} in trial {found['trial']}: {child.text()}"
    assert found["refused"] > count / 3 and found["made"] > count / 20
    record("I4", "random configurations of ours, theirs and of training", count,
           other_errors=0, refused_by_name=found["refused"], made=found["made"])  # fmt: skip
