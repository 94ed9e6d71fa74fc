"""Signals in files, as values and back."""

import gzip
import json
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reformer.data.files import InputError
from reformer.data.signals.files import (
    find_kind,
    find_signals,
    keep_kind,
    kept_kind,
    prepare_signals,
    read_signals,
)
from reformer.data.signals.genome import Genome
from reformer.data.signals.kind import SignalKind
from reformer.data.signals.series import Series
from reformer.data.signals.sound import Sound


def values_of(kind: SignalKind, file: Path) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.uint8), *kind.read(file)])


def write_wav(file: Path, samples: np.ndarray, *, width: int = 2, rate: int = 8000) -> Path:
    """samples: [N, channels] in -1 … 1."""
    whole = np.round(samples * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 1:
        whole += 128
    data = whole.astype("<i8").reshape(-1, 1).view(np.uint8)[:, :width]
    with wave.open(str(file), "wb") as sound:
        sound.setparams((samples.shape[1], width, rate, len(samples), "NONE", ""))
        sound.writeframes(data.tobytes())
    return file


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_is_its_samples_to_one_step_of_mu_law(
    tmp_path: Path, width: int, channels: int
) -> None:
    samples = np.sin(np.arange(600) / 9.0)[:, None] * np.linspace(0.001, 0.99, 600)[:, None]
    file = write_wav(tmp_path / "a.wav", np.repeat(samples, channels, axis=1), width=width)
    kind = Sound.of(file)
    values = values_of(kind, file)
    kind.write(values, tmp_path / "b.wav")
    with wave.open(str(tmp_path / "b.wav")) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (8000, 1, 2)
        again = np.frombuffer(sound.readframes(600), "<i2")[:, None] / 32767
    # Half a step of mu-law is 2.2 % of a sample, or of the softest that it tells apart; besides,
    # the file that is read and the one that is written have so many bits.
    error = np.abs(again - samples)
    assert (
        error <= 0.0225 * (np.abs(samples) + 1 / 255) + 1.5 / 2 ** (8 * min(width, 2) - 1)
    ).all()
    assert (values_of(kind, tmp_path / "b.wav") == values).all()


def test_channels_become_their_mean(tmp_path: Path) -> None:
    left = np.full((50, 1), 0.5)
    both = write_wav(tmp_path / "both.wav", np.hstack([left, -left]))
    assert set(values_of(Sound(8000), both)) <= {127, 128}


def test_sounds_of_two_rates_are_refused(tmp_path: Path) -> None:
    silence = np.zeros((20, 1))
    files = [write_wav(tmp_path / f"{rate}.wav", silence, rate=rate) for rate in (8000, 16000)]
    with pytest.raises(InputError, match=r"16000\.wav has 16000 samples per second.* 8000"):
        list(read_signals(files, find_kind(files, None)))


@pytest.mark.parametrize("data", [b"", b"RIFF", b"no sound at all, but long enough" * 4])
def test_what_is_no_sound_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.wav is no WAV file"):
        find_kind([file], None)


records = st.lists(st.text("ACGTN*-", max_size=150), min_size=1, max_size=5)


@given(records, st.integers(1, 70), st.sampled_from(["\n", "\r\n"]))
def test_a_genome_is_the_letters_of_its_records(
    tmp_path_factory: pytest.TempPathFactory, records: list[str], width: int, end: str
) -> None:
    file = tmp_path_factory.mktemp("genome") / "a.fa"
    lines = []
    for number, record in enumerate(records):
        lines += [
            f">record {number} of many",
            *(record[i : i + width] for i in range(0, len(record), width)),
        ]
    file.write_bytes(end.join(lines).encode())
    kind = Genome()
    values = values_of(kind, file)
    assert "".join(">ABCDEFGHIJKLMNOPQRSTUVWXYZ*-"[v] for v in values) == "".join(
        ">" + record for record in records
    )
    kind.write(values, file.with_name("b.fa"))
    assert (values_of(kind, file.with_name("b.fa")) == values).all()


def test_letters_are_read_across_parts_and_in_any_case(tmp_path: Path) -> None:
    file = tmp_path / "a.fna.gz"
    text = ">one\n" + "\n".join(["acgtnACGTN" * 7] * 40000) + "\n"
    file.write_bytes(gzip.compress(text.encode()))
    values = values_of(Genome(), file)
    assert len(values) == 1 + 40000 * 70
    assert (values[1:].reshape(-1, 5) == [1, 3, 7, 20, 14]).all()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ACGT\n", r"line 1: a FASTA file starts"),
        ("\n\nACGT\n", r"line 3: a FASTA file starts"),
        (">a\nACGT\nAC7T\n", r"line 3: '7' is no letter"),
        (">a\nACGT\n" * 30000 + "é\n", r"line 60001: 'Ã' is no letter"),
    ],
)
def test_a_broken_genome_is_refused_by_its_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "a.fa"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=problem):
        values_of(Genome(), file)


def write_csv(file: Path, numbers: list[float]) -> Path:
    lines = [f"day {number},{value!r}" for number, value in enumerate(numbers)]
    file.write_text("\n".join(["date,level", *lines]) + "\n", encoding="utf-8")
    return file


numbers = st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=60).filter(lambda x: len(set(x)) > 1)


@given(numbers)
def test_a_series_is_its_numbers_to_half_a_step(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float]
) -> None:
    file = write_csv(tmp_path_factory.mktemp("series") / "a.csv", numbers)
    kind = Series.of([file], None)
    values = values_of(kind, file)
    half = (max(numbers) - min(numbers)) / 255 / 2
    again = min(numbers) + values * (2 * half)
    assert np.abs(again - numbers).max() <= half * 1.0001
    kind.write(values, file.with_name("b.csv"))
    written = np.loadtxt(file.with_name("b.csv"), skiprows=1)
    assert np.abs(written - again).max() <= 1e-5 * np.abs(numbers).max()


def test_numbers_that_training_never_saw_become_the_nearest(tmp_path: Path) -> None:
    kind = Series.of([write_csv(tmp_path / "a.csv", [0.0, 10.0])], None)
    assert values_of(kind, write_csv(tmp_path / "b.csv", [-5.0, 10.0, 99.0])).tolist() == [
        0,
        255,
        255,
    ]


@pytest.mark.parametrize(
    ("text", "column", "problem"),
    [
        ("a,b\n1,2\n", None, r"2 columns of numbers \(a, b\): say with --column"),
        ("a,b\nx,y\n", None, r"line 2: there is no number"),
        ("a,b\n1,x\n2,y\n", "c", r"no column 'c'; it has a, b"),
        ("a\n1\n2\nnan\n", None, r"line 4: a is 'nan': it must be a number"),
        ("a\n1\n\n1\n", None, r"holds 1 and nothing else"),
        ("a\n", None, r"no line below its header"),
        ("a\n", "a", r"holds no numbers"),
    ],
)
def test_a_broken_series_is_refused(
    tmp_path: Path, text: str, column: str | None, problem: str
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=problem):
        find_kind([file], column)


def test_a_folder_stands_for_the_signals_below_it(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    files = [write_wav(tmp_path / name, np.zeros((9, 1))) for name in ("b.wav", "below/a.WAV")]
    (tmp_path / "notes.txt").write_text("not sound")
    assert find_signals([tmp_path]) == sorted(files)
    write_csv(tmp_path / "c.csv", [1.0, 2.0])
    with pytest.raises(InputError, match="one kind of signal"):
        find_signals([tmp_path])
    with pytest.raises(InputError, match=r"notes\.txt is none of the signals"):
        find_signals([tmp_path / "notes.txt"])
    with pytest.raises(InputError, match="holds no signals"):
        find_signals([_empty(tmp_path)])


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_files_without_values_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.fa"
    file.touch()
    with pytest.raises(InputError, match=r"a\.fa holds no letters"):
        prepare_signals(tmp_path / "data", [str(file)], None, Genome())


def test_the_end_is_kept_for_validation(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "a.csv", [float(number) for number in range(400)])
    kind = find_kind([file], None)
    corpus = prepare_signals(tmp_path / "data", [str(file)], None, kind)
    whole = np.concatenate([corpus.train.tokens, corpus.validation.tokens])
    assert (whole == values_of(kind, file)).all()
    assert 17 <= len(corpus.validation) <= 20


@pytest.mark.parametrize("kind", [Sound(8000), Genome(), Series("level", -1.5, 2.5)])
def test_a_run_remembers_its_kind(tmp_path: Path, kind: SignalKind) -> None:
    keep_kind(tmp_path, kind)
    assert kept_kind(tmp_path) == kind
    with pytest.raises(InputError, match=f"this model learns a {kind.name}"):
        list(read_signals([tmp_path / ("a.csv" if kind.name != "series" else "a.wav")], kind))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "smell"}', '{"kind": "sound"}'])
def test_a_damaged_kind_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "signal.json").write_text(text)
    with pytest.raises(InputError, match=r"signal\.json cannot be read"):
        kept_kind(tmp_path)


def test_a_kind_is_plain_json(tmp_path: Path) -> None:
    keep_kind(tmp_path, Series("level", 0.0, 2.0))
    kept = json.loads((tmp_path / "signal.json").read_text())
    assert kept == {"kind": "series", "column": "level", "low": 0.0, "high": 2.0}
