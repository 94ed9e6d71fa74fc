"""Sound from WAV files: samples in 256 steps that are fine where it is soft (mu-law, G.711)."""

import math
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reformer.data.files import InputError
from reformer.data.signals.kind import SignalKind, Values

_MU = 255.0
_FRAMES_PER_PART = 1 << 18
_WORKS = "PCM works, as `ffmpeg -i FILE -c:a pcm_s16le NEW.wav` writes it"


@dataclass(frozen=True)
class Sound(SignalKind):
    """WAV files of integers with 8 to 32 bits; several channels become their mean."""

    rate: int
    """Samples per second."""

    name = "sound"
    value_name = "samples"
    endings = frozenset({".wav"})
    vocab_size = num_levels = 256

    @classmethod
    def of(cls, file: Path) -> "Sound":
        """The kind of this file."""
        with _open(file) as sound:
            return cls(sound.getframerate())

    def read(self, file: Path) -> Iterator[Values]:
        with _open(file) as sound:
            if sound.getframerate() != self.rate:
                raise InputError(
                    f"{file} has {sound.getframerate()} samples per second where others have "
                    f"{self.rate}: bring them to one rate (`sox FILE -r {self.rate} NEW.wav`)"
                )
            width, channels = sound.getsampwidth(), sound.getnchannels()
            while data := sound.readframes(_FRAMES_PER_PART):
                if len(data) % (width * channels):
                    raise InputError(f"{file} is damaged: it ends within a sample")
                samples = _samples(data, width).reshape(-1, channels).mean(axis=1)
                yield _compress(samples)

    def write(self, values: Values, file: Path) -> None:
        samples = np.round(_expand(values) * 32767).astype("<i2")
        with wave.open(str(file), "wb") as sound:
            sound.setparams((1, 2, self.rate, len(samples), "NONE", "not compressed"))
            sound.writeframes(samples.tobytes())


def _open(file: Path) -> wave.Wave_read:
    try:
        return wave.open(str(file), "rb")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except (wave.Error, EOFError) as error:
        raise InputError(f"{file} is no WAV file of whole numbers ({error}): {_WORKS}") from error


def _samples(data: bytes, width: int) -> npt.NDArray[np.float64]:
    """Samples in -1 … 1 from their bytes."""
    if width == 1:  # the only width without a sign
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128.0) / 128.0
    digits = np.frombuffer(data, np.uint8).reshape(-1, width)
    whole = np.zeros((len(digits), 4), np.uint8)
    whole[:, 4 - width :] = digits
    return whole.view("<i4")[:, 0] / 2.0**31


def _compress(samples: npt.NDArray[np.float64]) -> Values:
    loud = np.log1p(_MU * np.abs(samples)) / math.log1p(_MU)
    return np.round((np.sign(samples) * loud + 1.0) * 127.5).astype(np.uint8)


def _expand(values: Values) -> npt.NDArray[np.float64]:
    loud = values / 127.5 - 1.0
    size = np.expm1(np.abs(loud) * math.log1p(_MU)) / _MU
    return np.asarray(np.sign(loud) * size, np.float64)
