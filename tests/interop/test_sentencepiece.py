"""tokenizer.json files made from SentencePiece models give SentencePiece's own ids."""

import io

import pytest
import transformers
from tokenizers import Tokenizer

from reformer.data.files import shipped_novel
from reformer.interop.errors import ConversionError
from reformer.interop.sentencepiece import tokenizer_from_sentencepiece

spm = pytest.importorskip("sentencepiece", reason="these tests compare with sentencepiece")
TEXT = shipped_novel().read_text(encoding="utf-8")[30_000:130_000]
PROBES = [
    *TEXT[:20_000].splitlines(), "", " ", "  two  spaces  ", "naïve ﬁne ½ Ｆｕｌｌ", "日本 🙂",
    "under▁score", "tab\tand\nline",
]  # fmt: skip


def _trained(folder, **changes):
    """A model as small as crime-and-punishment's, 320 pieces."""
    buffer = io.BytesIO()
    settings = {"vocab_size": 320, "model_type": "bpe", "minloglevel": 2, "num_threads": 1}
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=buffer, **(settings | changes)
    )
    path = folder / "spiece.model"
    path.write_bytes(buffer.getvalue())
    return path, spm.SentencePieceProcessor(model_proto=buffer.getvalue())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model_type": "unigram"},
        {"byte_fallback": True, "vocab_size": 600},
        {"user_defined_symbols": ["<sep>"], "normalization_rule_name": "identity"},
        {"add_dummy_prefix": False},
    ],
    ids=str,
)
def test_ids_are_those_of_sentencepiece(changes, tmp_path):
    path, theirs = _trained(tmp_path, **changes)
    ours = Tokenizer.from_str(tokenizer_from_sentencepiece(path))
    assert ours.get_vocab_size() == theirs.get_piece_size()
    for line in PROBES:
        expected = theirs.encode(line)
        assert ours.encode(line, add_special_tokens=False).ids == expected, line
        text = ours.decode(expected, skip_special_tokens=False)
        assert text == theirs.decode(expected).replace(" \u2047 ", "<unk>") or 0 in expected, line


def test_it_is_the_tokenizer_that_transformers_makes_of_the_file(tmp_path):
    pytest.importorskip("google.protobuf", reason="transformers reads spiece.model with protobuf")
    path, _ = _trained(tmp_path)
    theirs = transformers.ReformerTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.from_str(tokenizer_from_sentencepiece(path))
    for line in PROBES[:200]:
        if line and line == line.strip():
            ids = theirs(line, add_special_tokens=False)["input_ids"]
            assert ours.encode(line, add_special_tokens=False).ids == ids, line


def test_other_files_are_named(tmp_path):
    path = tmp_path / "spiece.model"
    with pytest.raises(ConversionError, match="cannot read"):
        tokenizer_from_sentencepiece(path)
    whole = _trained(tmp_path)[0].read_bytes()
    for data in (b"", b"hello there", whole[:1000], b"\xff" * 100):
        path.write_bytes(data)
        with pytest.raises(ConversionError, match="not a SentencePiece"):
            tokenizer_from_sentencepiece(path)
    path, _ = _trained(tmp_path, model_type="char", vocab_size=60)
    with pytest.raises(ConversionError, match="character model"):
        tokenizer_from_sentencepiece(path)
