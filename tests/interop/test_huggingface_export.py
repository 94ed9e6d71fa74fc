"""Exporting gives back what was imported: every tensor, every field; or says what cannot be."""

import dataclasses
import json

import pytest
import torch
import transformers

from reformer import LSH, Full, Local, ReformerConfig, ReformerForCausalLM, ReformerModel
from reformer.interop.huggingface import ConversionError, export, load
from reformer.interop.huggingface.configuration import CLASSIFICATION, export_config, import_config
from reformer.interop.huggingface.fields import DEFAULTS, typed_fields
from tests.interop.their_models import CLASSES, SMALL, random_model, their_model

# Set by saving and loading themselves.
_OWN = {"architectures", "dtype", "_name_or_path", "transformers_version"}


@pytest.mark.parametrize("index", range(15))
def test_exporting_an_import_gives_the_same_tensors_and_fields(index, tmp_path):
    theirs, _ = random_model(index)
    export(load(theirs), tmp_path)
    again, report = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    expected = theirs.state_dict()
    assert set(again.state_dict()) == set(expected)
    assert not report["missing_keys"]
    # Versions before 5.24 do not have it; here it is zero.
    assert set(report["unexpected_keys"]) <= {"lm_head.decoder.bias"}
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    before, after = theirs.config.to_dict(), again.config.to_dict()
    assert {k: after[k] for k in after if k not in _OWN} == {
        k: before[k] for k in before if k not in _OWN
    }
    assert after["architectures"] == [type(theirs).__name__]


def test_fields_that_mean_nothing_here_survive_our_own_folder(tmp_path):
    theirs = their_model(
        eos_token_id=7, pad_token_id=3, bos_token_id=5, axial_norm_std=0.7, use_cache=False,
        chunk_size_lm_head=2, initializer_range=0.0, attn_layers=["lsh"], local_attn_chunk_length=9,
    )  # fmt: skip
    load(theirs).save_pretrained(tmp_path / "ours")
    export(ReformerForCausalLM.from_pretrained(tmp_path / "ours"), tmp_path / "theirs")
    again = transformers.ReformerConfig.from_pretrained(tmp_path / "theirs")
    before, after = theirs.config.to_dict(), again.to_dict()
    assert {k: after[k] for k in after if k not in _OWN} == {
        k: before[k] for k in before if k not in _OWN
    }


# Each field of theirs with another value than in SMALL.
OTHER_VALUES = {
    "attention_head_size": 12, "attn_layers": ["lsh", "local"], "axial_norm_std": 0.5,
    "axial_pos_embds": False, "axial_pos_embds_dim": [10, 6], "axial_pos_shape": [2, 16],
    "bos_token_id": 3, "chunk_size_feed_forward": 3, "chunk_size_lm_head": 5,
    "classifier_dropout": 0.3, "dtype": "bfloat16", "eos_token_id": 4, "feed_forward_size": 40,
    "hash_seed": None, "hidden_act": "silu", "hidden_dropout_prob": 0.3, "initializer_range": 0.5,
    "is_decoder": False, "is_encoder_decoder": True, "layer_norm_eps": 1e-5,
    "local_attention_probs_dropout_prob": 0.2, "local_attn_chunk_length": 8,
    "local_num_chunks_after": 1, "local_num_chunks_before": 2,
    "lsh_attention_probs_dropout_prob": 0.2, "lsh_attn_chunk_length": 8,
    "lsh_num_chunks_after": 1, "lsh_num_chunks_before": 2, "max_position_embeddings": 30,
    "num_attention_heads": 4, "num_buckets": [2, 4], "num_hashes": 3, "output_attentions": True,
    "output_hidden_states": True, "pad_token_id": 5, "problem_type": "regression",
    "return_dict": False, "tie_word_embeddings": True, "use_cache": False, "vocab_size": 40,
    "hidden_size": 20, "id2label": {"0": "a", "1": "b"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1},
}  # fmt: skip
# Follow from others, or say nothing about the model.
_DERIVED = {"num_hidden_layers", "model_type"}
_REFUSED = {"tie_word_embeddings": "tie_word_embeddings", "hidden_size": "axial_pos_embds_dim"}


def test_no_field_of_theirs_is_forgotten_here():
    fields = set(transformers.ReformerConfig().to_dict())
    assert set(OTHER_VALUES) | _DERIVED | _OWN == fields
    for name, value in typed_fields(transformers.ReformerConfig().to_dict()).items():
        ours = DEFAULTS[name]
        assert name == "id2label" or value == ours, name


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_each_field_comes_back_or_is_named_in_an_error(name):
    values = json.loads(json.dumps(transformers.ReformerConfig(**SMALL).to_dict()))
    values |= {name: OTHER_VALUES[name]}
    if name in _REFUSED:
        with pytest.raises(ConversionError, match=_REFUSED[name]):
            import_config(values, CLASSIFICATION)
        return
    again = export_config(import_config(values, CLASSIFICATION), CLASSIFICATION)
    assert json.loads(json.dumps(again))[name] == OTHER_VALUES[name]


@pytest.mark.parametrize("cls", CLASSES)
def test_folders_of_theirs_load(cls, tmp_path):
    causal = cls is not transformers.ReformerForMaskedLM
    theirs = their_model(cls, is_decoder=causal, dtype="float32")
    theirs.save_pretrained(tmp_path, max_shard_size="3KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = load(tmp_path)
    for name, tensor in load(theirs).state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)


def test_half_precision_becomes_float32(tmp_path):
    theirs = their_model().to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    weight = ours.state_dict()["head.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, theirs.lm_head.decoder.weight.float())


def _ours(**changes):
    layers = (Local(8, rule="chunk"), LSH(2, 8, 8, rule="chunk"))
    return ReformerForCausalLM(
        ReformerConfig(
            vocab_size=20, hidden_size=16, feed_forward_size=16, num_heads=2, head_size=4,
            max_length=64, **({"layers": layers} | changes),
        )
    )  # fmt: skip


def test_a_model_made_here_computes_the_same_there(tmp_path):
    changes = {"hash_seed": 3, "axial_shape": (8, 8), "activation": "gelu_tanh"}
    ours = _ours(streams="float", **changes).eval()
    export(ours, tmp_path)
    theirs = transformers.ReformerModelWithLMHead.from_pretrained(tmp_path)
    ids = torch.arange(64)[None] % 20
    assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-6)
    assert theirs.config.eos_token_id is None


CHUNKED = LSH(2, 8, 8, rule="chunk")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layers": (Local(8),)}, r"layers\[0\].rule"),
        ({"layers": (CHUNKED, Full())}, r"layers\[1\] is Full"),
        ({"layers": (dataclasses.replace(CHUNKED, score_scale=0.5),)}, "score_scale"),
        ({"layers": (dataclasses.replace(CHUNKED, num_buckets=None),)}, "num_buckets"),
        ({"layers": (CHUNKED, dataclasses.replace(CHUNKED, num_hashes=3))}, r"\[1\].num_hashes"),
        ({"layers": (Local(8, rule="chunk", rotary_base=100.0),)}, "rotary_base"),
        ({"layers": (dataclasses.replace(CHUNKED, chunks_after=1),)}, "lsh_num_chunks_after"),
        ({"dropout": 0.1, "dropout_shared": True}, "dropout_shared"),
    ],
)
def test_what_theirs_cannot_express_is_named_and_nothing_is_written(changes, named, tmp_path):
    with pytest.raises(ConversionError, match=named):
        export(_ours(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "swiglu"), ("attn_layers", ["lsh", "full"]), ("attn_layers", 3),
        ("num_hashes", 0), ("num_hashes", True), ("num_buckets", 5), ("num_buckets", [4, "x"]),
        ("axial_pos_shape", [4, None]), ("axial_pos_embds_dim", [3, 3]), ("hidden_size", -1),
        ("hidden_size", 2**63), ("hidden_size", "16"), ("vocab_size", None),
        ("layer_norm_eps", 0.0), ("hidden_dropout_prob", 1.5), ("lsh_attn_chunk_length", None),
        ("tie_word_embeddings", True), ("is_decoder", False), ("is_decoder", "yes"),
        ("hash_seed", -1), ("max_position_embeddings", 0), ("local_num_chunks_before", -1),
        ("lsh_num_chunks_after", 1), ("local_num_chunks_after", 1),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_is_named(field, value, tmp_path):
    their_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ConversionError, match=field):
        load(tmp_path)


@pytest.mark.parametrize("architectures", [None, [], ["BertModel"], "ReformerModel", [3]])
def test_an_unknown_architecture_is_refused(architectures, tmp_path):
    their_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": architectures}))
    with pytest.raises(ConversionError, match="architectures"):
        load(tmp_path)


def test_loading_leaves_the_model_and_the_global_generator_alone():
    theirs = their_model(transformers.ReformerModel)
    state = torch.get_rng_state()
    ours = load(theirs)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    ours(torch.arange(20)[None])
    assert torch.equal(torch.get_rng_state(), state)
    assert theirs.embeddings.word_embeddings.weight.abs().sum() > 0
    assert isinstance(ours, ReformerModel)
