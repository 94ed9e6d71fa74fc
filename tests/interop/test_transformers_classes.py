"""Our models inside transformers: the Auto classes, saving, heads, generate with our cache."""

import dataclasses
import json

import pytest
import torch
import transformers

import reformer
from reformer import LSH, Full, Labels, Local, ReformerForCausalLM
from reformer.interop.huggingface import load
from reformer.interop.huggingface.native import CACHE_NAME, ReformerCoreConfig
from tests.interop.ours import CONFIG, saved, some_ids
from tests.interop.their_models import their_model

GREEDY = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0}
LABELS = Labels(3, names=("a", "b", "c"))


@pytest.mark.parametrize(
    ("name", "auto", "changes"),
    [
        ("ReformerForCausalLM", "AutoModelForCausalLM", {}),
        ("ReformerForMaskedLM", "AutoModelForMaskedLM", {"causal": False}),
        ("ReformerForSequenceClassification", "AutoModelForSequenceClassification",
         {"causal": False, "labels": LABELS}),
        ("ReformerForQuestionAnswering", "AutoModelForQuestionAnswering", {"causal": False}),
        ("ReformerModel", "AutoModel", {}),
    ],
)  # fmt: skip
def test_each_head_loads_computes_the_same_and_is_ours_again(name, auto, changes, tmp_path):
    config = dataclasses.replace(CONFIG, **changes)
    ours = saved(tmp_path / "ours", config, getattr(reformer, name))
    theirs = getattr(transformers, auto).from_pretrained(tmp_path / "ours")
    assert theirs.config.model_type == "reformer_core"
    ids, mask = some_ids(), torch.ones(2, 20, dtype=torch.long)
    mask[1, 15:] = 0
    found, expected = theirs(ids, attention_mask=mask), ours(ids, segment_ids=mask - 1)
    field = next(f for f in ("logits", "start_logits", "last_hidden_state") if f in found)
    found, expected = found[field], getattr(expected, field)
    if found.shape[:2] == mask.shape:  # what stands at padding means nothing
        found, expected = found[mask > 0], expected[mask > 0]
    assert torch.equal(found, expected)
    assert torch.equal(theirs(ids, return_dict=False)[0], theirs(ids)[field])
    theirs.save_pretrained(tmp_path / "again")
    again = getattr(reformer, name).from_pretrained(tmp_path / "again")
    assert again.config == config
    for key, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


def test_names_of_labels_are_theirs_too(tmp_path):
    config = dataclasses.replace(CONFIG, labels=LABELS)
    saved(tmp_path, config, reformer.ReformerForSequenceClassification)
    found = transformers.AutoConfig.from_pretrained(tmp_path)
    assert found.id2label == {0: "a", 1: "b", 2: "c"} and found.num_labels == 3
    assert found.problem_type == "single_label_classification"


def test_a_language_model_becomes_a_classifier_with_a_new_head(tmp_path):
    trunk = saved(tmp_path / "lm").reformer.state_dict()
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "lm", num_labels=4, output_loading_info=True
    )
    assert {key.split(".")[0] for key in info["missing_keys"]} == {"head"}
    assert model(some_ids()).logits.shape == (2, 4)
    for key, tensor in model.reformer.state_dict().items():
        assert torch.equal(tensor, trunk[key])
    state = torch.get_rng_state()
    model.train()(some_ids(), labels=torch.tensor([0, 3])).loss.backward()
    assert torch.equal(torch.get_rng_state(), state)
    model.save_pretrained(tmp_path / "new")
    again = reformer.ReformerForSequenceClassification.from_pretrained(tmp_path / "new")
    assert again.config.labels == Labels(4)


def test_a_new_model_is_the_same_each_time():
    config = ReformerCoreConfig.of(CONFIG)
    first, second = (transformers.AutoModelForCausalLM.from_config(config) for _ in range(2))
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key])
        assert torch.isfinite(tensor).all()
    assert 0.4 < float(first.get_input_embeddings().weight.detach().std()) < 0.6


LAYERS = [(Local(8), LSH(2, 8)), (Full(), LSH(4, 4)), (Local(3),)]


@pytest.mark.parametrize("layers", LAYERS, ids=str)
@pytest.mark.parametrize("beams", [1, 3])
def test_generate_with_our_cache_equals_generate_without(layers, beams, tmp_path):
    saved(tmp_path, dataclasses.replace(CONFIG, layers=layers))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids, mask = some_ids(), torch.ones(2, 20, dtype=torch.long)
    mask[0, :7] = 0
    arguments = {**GREEDY, "attention_mask": mask, "num_beams": beams}
    cached = model.generate(ids, **arguments)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **arguments))
    alone = model.generate(ids[:1, 7:], num_beams=beams, **GREEDY)
    assert torch.equal(cached[:1, 7:], alone)


def test_the_cache_reads_each_token_once(tmp_path, monkeypatch):
    saved(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    lengths = []
    append = type(model.reformer).append

    def counted(self, input_ids, cache):
        lengths.append([len(ids) for ids in input_ids])
        return append(self, input_ids, cache)

    monkeypatch.setattr(type(model.reformer), "append", counted)
    model.generate(some_ids(), **GREEDY)
    assert lengths == [[20, 20]] + [[1, 1]] * 11


def test_sampling_follows_the_users_seed(tmp_path):
    saved(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    texts = []
    for seed in (1, 1, 2):
        transformers.set_seed(seed)
        texts.append(model.generate(some_ids(), do_sample=True, max_new_tokens=8, pad_token_id=0))
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_an_imported_model_generates_as_theirs_does_without_a_cache(tmp_path):
    theirs = their_model(attn_layers=["local", "lsh"], eos_token_id=None)
    load(theirs).save_pretrained(tmp_path)
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(1, 32, (1, 9), generator=torch.Generator().manual_seed(0))
    expected = theirs.generate(ids, use_cache=False, **GREEDY)
    assert torch.equal(ours.generate(ids, **GREEDY), expected)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_logits_of_the_cached_columns_equal_those_of_the_whole(name, tmp_path):
    saved(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = some_ids()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with torch.no_grad():
        whole = model(ids, attention_mask=mask).logits
        first = model(ids[:, :9], attention_mask=mask[:, :9], use_cache=True)
        second = model(ids[:, 9:], attention_mask=mask, **{name: first[CACHE_NAME]})
    found = torch.cat((first.logits, second.logits), dim=1)
    assert torch.allclose(found[mask > 0], whole[mask > 0], atol=1e-5)


def test_generate_goes_on_with_the_cache_that_it_returned(tmp_path):
    saved(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = model.generate(some_ids(), **GREEDY)
    settings = {**GREEDY, "max_new_tokens": 5, "return_dict_in_generate": True}
    begun = model.generate(some_ids(), **settings)
    cache = begun[CACHE_NAME]
    assert cache.get_seq_length() == 24
    whole = model.generate(begun.sequences, **{CACHE_NAME: cache}, **GREEDY)
    assert cache.get_seq_length() == 36
    assert torch.equal(whole[:, :32], expected)


def test_our_config_file_says_whose_it_is(tmp_path):
    saved(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["model_type"] == "reformer_core"
    assert set(values) == {"model_type", "architectures", "reformer"}
    assert ReformerForCausalLM.from_pretrained(tmp_path).config == CONFIG
