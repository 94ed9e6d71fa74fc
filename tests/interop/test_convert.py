"""``reformer convert``, both directions and every kind of source, as a user calls it."""

import json
import pickle

import pytest
import torch
import transformers

import reformer
from reformer import LSH, Local, ReformerConfig, ReformerForCausalLM
from reformer.interop import convert as conversion
from reformer.interop.byte_tokenizer import byte_tokenizer
from reformer.interop.huggingface import ConversionError, load
from tests.cli.conftest import call
from tests.interop import test_lucidrains, test_trax
from tests.interop.their_models import CLASSES, their_model

IDS = torch.arange(20)[None]


@pytest.mark.parametrize("cls", CLASSES)
def test_there_and_back_keeps_every_tensor(cls, tmp_path):
    theirs = their_model(cls, is_decoder=cls is not transformers.ReformerForMaskedLM)
    theirs.save_pretrained(tmp_path / "theirs")
    answer = call("convert", tmp_path / "theirs", tmp_path / "ours")
    assert (answer.code, answer.err) == (0, "")
    name = type(load(theirs)).__name__
    assert name in answer.out
    own = getattr(reformer, name).from_pretrained(tmp_path / "ours")
    for key, tensor in load(theirs).state_dict().items():
        assert torch.equal(own.state_dict()[key], tensor)
    assert call("convert", tmp_path / "ours", tmp_path / "back").code == 0
    back = cls.from_pretrained(tmp_path / "back")
    assert all(torch.equal(back.state_dict()[k], t) for k, t in theirs.state_dict().items())


def test_a_converted_model_writes_with_our_command(tmp_path):
    their_model(vocab_size=258, max_position_embeddings=64, axial_pos_shape=[8, 8]).save_pretrained(
        tmp_path / "theirs"
    )
    assert call("convert", tmp_path / "theirs", tmp_path / "ours").code == 0
    # As google/reformer-enwik8: 258 ids and no tokenizer are bytes after two special ids.
    assert (tmp_path / "ours" / "tokenizer.json").read_text() == byte_tokenizer(2)
    answer = call("generate", tmp_path / "ours", "--prompt", "Call me", "--max-new-tokens", 4)
    assert answer.code == 0
    assert len(answer.out) > 1


def test_our_own_model_and_its_bytes_become_a_model_of_theirs(tmp_path):
    layers = (Local(8, rule="chunk"), LSH(2, 8, 8, rule="chunk"))
    config = ReformerConfig(
        hidden_size=16, feed_forward_size=16, num_heads=2, head_size=8, max_length=64,
        layers=layers, hash_seed=1,
    )  # fmt: skip
    ReformerForCausalLM(config).save_pretrained(tmp_path / "ours")
    assert call("convert", tmp_path / "ours", tmp_path / "theirs").code == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    assert type(theirs) is transformers.ReformerModelWithLMHead
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    ids = tokenizer("café", return_tensors="pt").input_ids
    assert ids.tolist() == [list("café".encode())]
    assert tokenizer.decode(ids[0]) == "café"
    own = ReformerForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.allclose(theirs(ids).logits, own(ids).logits, atol=1e-5)


def test_trax_files_are_converted(tmp_path):
    model = test_trax._model()
    weights = {"weights": test_trax.trax_weights(model, chunked=True)}
    (tmp_path / "trax.pkl").write_bytes(pickle.dumps(weights))
    model.save_pretrained(tmp_path / "settings")
    answer = call(
        "convert", tmp_path / "trax.pkl", tmp_path / "a", "--config", tmp_path / "settings"
    )
    assert answer.code == 0, answer.err
    found = ReformerForCausalLM.from_pretrained(tmp_path / "a")
    assert torch.equal(found(IDS).logits, model(IDS).logits)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")
def test_reformer_pytorch_files_are_converted(tmp_path):
    torch.save(test_lucidrains._theirs().state_dict(), tmp_path / "model.pt")
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(test_lucidrains.SETTINGS))
    answer = call("convert", tmp_path / "model.pt", tmp_path / "b", "--config", settings)
    assert answer.code == 0, answer.err
    assert ReformerForCausalLM.from_pretrained(tmp_path / "b").config.vocab_size == 23


def test_wrong_input_is_one_sentence_and_harms_nothing(tmp_path):
    their_model().save_pretrained(tmp_path / "theirs")
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious").write_text("x")
    (tmp_path / "weights.pkl").write_bytes(b"")
    (tmp_path / "words.txt").write_text("words")
    (tmp_path / "empty").mkdir()
    ours = tmp_path / "window"
    ReformerForCausalLM(ReformerConfig(max_length=64)).save_pretrained(ours)
    new = tmp_path / "new"
    for words, named in (
        ((tmp_path / "theirs", full), "exists already"),
        ((tmp_path / "nothing", new), "neither a folder"),
        ((tmp_path / "empty", new), "config.json"),
        ((tmp_path / "weights.pkl", new), "--config"),
        ((tmp_path / "words.txt", new, "--config", tmp_path / "theirs"), "no known kind"),
        ((tmp_path / "theirs", new, "--config", tmp_path / "theirs"), "has its own"),
        ((tmp_path / "theirs", new, "--weights-file", "pytorch_model.bin"), "model.safetensors"),
        ((ours, new), "rule"),
        (("no-such/model-of-anyone", new), "could not be fetched"),
    ):
        answer = call("convert", *words)
        assert answer.code == 2, named
        assert named in answer.err
        assert answer.err.count("\n") == 1
        assert not new.exists()
    assert (full / "precious").read_text() == "x"


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x\0.safetensors"]
)
def test_an_index_cannot_lead_out_of_its_folder(name, tmp_path):
    theirs = their_model()
    theirs.save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.rename(tmp_path / "secret.safetensors")
    index = {"weight_map": dict.fromkeys(theirs.state_dict(), name)}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConversionError, match="same folder"):
        load(tmp_path / "model")


def test_a_tokenizer_file_named_in_a_configuration_is_not_followed(tmp_path):
    their_model().save_pretrained(tmp_path / "model")
    (tmp_path / "secret.json").write_text("secret")
    values = {"tokenizer_file": "../secret.json", "vocab_file": "../secret.json"}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(values))
    conversion.convert(str(tmp_path / "model"), tmp_path / "ours")
    held = [path for path in (tmp_path / "ours").iterdir() if b"secret" in path.read_bytes()]
    assert held == []


@pytest.mark.parametrize("damage", ["truncated", "header", "json", "deep"])
def test_damaged_files_give_one_typed_error(damage, tmp_path):
    their_model().save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "header":
        weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])
    elif damage == "json":
        config.write_text("{" + config.read_text())
    else:
        config.write_text("[" * 100_000)
    with pytest.raises(ConversionError):
        load(tmp_path)
