"""What each command accepts: dataclasses, and nothing that takes long to import."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from reformer.cli.model_flags import ModelArguments

DeviceName = Literal["auto", "cpu", "cuda"]
Inputs = Positional[Annotated[tuple[str, ...], arg(metavar="INPUT…")]]
RunFolder = Positional[Annotated[Path, arg(metavar="RUN")]]
RUNS = Path("runs")
"""Where runs go by default."""


@dataclass(frozen=True)
class TrainArguments(ModelArguments):
    """Train a Reformer: a language model, or whatever --task says.

    INPUTS are text or binary files, also .gz, .xz and .zst, folders, or globs. Without any,
    the model learns Moby-Dick, which comes with the package.
    """

    inputs: Inputs = ()
    """Files, folders or globs; end to end they are the text."""
    out: Path | None = None
    """Folder for the run; by default runs/PRESET-1, -2, …"""
    resume: bool = False
    """Go on with the run in --out (by default the last one of the preset)."""
    tokenizer: Path | None = None
    """A tokenizer.json of the `tokenizers` library; without it, bytes."""
    validation: str | None = None
    """Validate on this file, instead of on the last 5 % of the text."""
    init: Path | None = None
    """Run or model folder whose model, weights and tokenizer to start from: fine-tuning."""
    memory: str | None = None
    """Memory that training may take, such as 16GB: a new run's slices are chosen to fit, or it
    is refused. By default all that this machine has, and the preset's slices."""
    sharded: bool = False
    """Started by torchrun: divide the model among the processes, instead of one copy in each."""
    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU when there is one."""


@dataclass(frozen=True)
class EvaluateArguments:
    """Bits per byte and perplexity per token of whole files.

    Windows as long as the model supports overlap by half. Without files, the run's own
    validation part is used.
    """

    run: RunFolder
    """Run or model folder."""
    inputs: Inputs = ()
    """Files, folders or globs."""
    json: bool = False
    """Print one JSON object instead of a table."""
    length: int | None = None
    """Context in tokens; by default all that the model supports."""
    num_hashes: Annotated[int | None, arg(help="Rounds of hashing, instead of the model's.")] = None
    tokenizer: Path | None = None
    """A tokenizer.json, instead of the run's own."""
    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU when there is one."""


@dataclass(frozen=True, kw_only=True)
class SamplingArguments:
    """How tokens are drawn."""

    temperature: float = 0.8
    """Below 1: safer; above 1: wilder; 0: always the likeliest token."""
    top_k: int | None = None
    """Choose among the k likeliest tokens only."""
    top_p: float | None = None
    """Choose among the likeliest tokens that together have this probability."""
    min_p: float | None = None
    """Leave out tokens less likely than this share of the likeliest."""
    repetition_penalty: float = 1.0
    """Above 1: what has occurred becomes less likely."""
    seed: int = 0
    """The same seed gives the same text."""


@dataclass(frozen=True)
class GenerateArguments(SamplingArguments):
    """Write text that continues a prompt. Only new text is written; a terminal shows the prompt
    before it."""

    run: RunFolder
    """Run or model folder."""
    prompt: str = ""
    """Text to continue; - reads it from standard input."""
    prompt_file: Path | None = None
    """File with the text to continue, a whole book for example; also .gz, .xz, .zst."""
    max_new_tokens: int = 500
    """Tokens to write."""
    samples: int = 1
    """Texts to write; the prompt is read once. Several are shown when all are finished."""
    stop: UseAppendAction[tuple[str, ...]] = ()
    """A string that ends a text and is not written; may be given several times."""
    json: bool = False
    """Print one JSON object per text: text, token_ids, finish_reason, seed, sample."""
    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU when there is one."""


@dataclass(frozen=True)
class DrawArguments(SamplingArguments):
    """Draw with a model that was trained on pictures: new ones, or the lower part of given ones.

    The result is one PNG file. With pictures each line shows the picture, what the model sees of
    it, and its completions.
    """

    run: RunFolder
    """Run or model folder."""
    inputs: Inputs = ()
    """Picture files or folders to complete; they are scaled to the model's shape."""
    out: Path | None = None
    """PNG file to write, never overwritten; by default RUN/drawing-1.png, -2, …"""
    samples: int = 8
    """New pictures, or completions of each."""
    pictures: int = 8
    """How many of the given pictures to complete, from the first on."""
    keep: float = 0.5
    """Share of a picture's rows that the model sees."""
    temperature: float = field(default=1.0, kw_only=True)
    """Below 1: safer; above 1: wilder; 0: always the likeliest value."""
    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU when there is one."""


@dataclass(frozen=True)
class ExtendArguments(SamplingArguments):
    """Continue a signal, with a model trained by `reformer train --task signal`.

    The result is a file of the same kind: the signal as the model sees it, and what follows.
    """

    run: RunFolder
    """Run or model folder."""
    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """The signal to continue; the model sees the end of it, as long as its sequences."""
    values: int = 1000
    """Values to write: samples, letters or numbers."""
    out: Path | None = None
    """File to write, never overwritten; by default RUN/extended-1 with the ending of FILE, -2, …"""
    temperature: float = field(default=1.0, kw_only=True)
    """Below 1: safer; above 1: wilder; 0: always the likeliest value."""
    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU when there is one."""


@dataclass(frozen=True)
class ChatArguments(SamplingArguments):
    """Talk with a model. Lines that begin with / are commands; /help lists them."""

    run: RunFolder
    """Run or model folder."""
    system: str = ""
    """Tells the model how to behave."""
    max_new_tokens: int = 500
    """Longest answer, in tokens."""
    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU when there is one."""


@dataclass(frozen=True)
class AskArguments:
    """Answer a question from a document, with a model trained by `reformer train --task qa`."""

    run: RunFolder
    """Run or model folder."""
    document: Positional[Annotated[Path, arg(metavar="DOCUMENT")]]
    """The text to read, of any length; also .gz, .xz, .zst."""
    question: Positional[Annotated[str, arg(metavar="QUESTION")]]
    """What to ask."""
    json: bool = False
    """Print one JSON object: answer (null for none), start and end in characters, line,
    confidence."""
    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU when there is one."""


@dataclass(frozen=True)
class ClassifyArguments:
    """Label texts, with a model trained by `reformer train --task classify`.

    Of .csv, .tsv and .jsonl files, each record's text; any other file is one text.
    """

    run: RunFolder
    """Run or model folder."""
    file: Positional[Annotated[str, arg(metavar="FILE")]]
    """The texts; - reads one from standard input."""
    json: bool = False
    """Print one JSON object per text: line, labels (or values), and scores, the probability of
    each label."""
    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU when there is one."""


@dataclass(frozen=True)
class TranslateArguments:
    """Write a text from each line, with a model trained by `reformer train --task seq2seq`.

    One line in, one line out, as soon as it is written. Of .jsonl and .csv files each record's
    source is read, of .tsv files what stands before the tab.
    """

    run: RunFolder
    """Run or model folder."""
    file: Positional[Annotated[str, arg(metavar="FILE")]] = "-"
    """The lines; - reads standard input."""
    num_beams: int | None = None
    """Search for the likeliest text with so many beams, instead of taking the likeliest token at
    each step."""
    length_penalty: float = 1.0
    """Beams' scores are divided by length^length_penalty: above 1, longer texts."""
    max_new_tokens: int | None = None
    """Longest text, in tokens; by default all that the model supports."""
    temperature: float = 0.0
    """0: always the likeliest token; up to 1 or above: drawn."""
    top_p: float | None = None
    """Draw among the likeliest tokens that together have this probability."""
    seed: int = 0
    """The same seed draws the same text."""
    batch_size: int = 16
    """Lines that are written together; at a terminal, and with beams, one."""
    json: bool = False
    """Print one JSON object per line: line, target, finish_reason, with beams log_probability."""
    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU when there is one."""


@dataclass(frozen=True)
class ServeArguments:
    """Serve a model over HTTP: OpenAI's completions and chats, and a page to try it.

    The environment variable REFORMER_API_KEY, or --api-key-file, sets the key that clients must
    send; without one, only this machine may connect.
    """

    run: RunFolder
    """Run or model folder."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    name: str | None = None
    """The model's name for clients; by default the folder's."""
    api_key_file: Path | None = None
    """File that holds the API key."""
    slots: int = 8
    """Texts that are written together."""
    queue_length: int = 32
    """Requests that may wait; more are refused with 429."""
    request_seconds: int = 300
    """Time for a request, waiting included."""
    grace_seconds: int = 30
    """Time to finish what was accepted, after SIGTERM or Ctrl-C."""
    max_body_megabytes: int = 8
    """Longest request."""
    prefix_megabytes: int = 512
    """Memory for conversations that may go on, so that they need not be read again."""
    batch_invariant: bool = False
    """Give each text the same rounding whatever runs beside it; slower under load."""
    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU when there is one."""


@dataclass(frozen=True)
class PlanArguments(ModelArguments):
    """Estimate the memory of a training run, term by term."""

    memory: str | None = None
    """Memory that it may take, such as 16GB: choose slices that fit, or refuse."""
    json: bool = False
    """Print one JSON object, in bytes, instead of a table."""


@dataclass(frozen=True)
class PresetsArguments:
    """List the presets of `reformer train`."""


@dataclass(frozen=True)
class TokenizerArguments:
    """Make a tokenizer.json (byte-level BPE) for `reformer train --tokenizer`."""

    inputs: Inputs
    """Files, folders or globs of UTF-8 text."""
    vocab_size: int = 4096
    """Number of token ids, the 256 bytes among them."""
    out: Path = Path("tokenizer.json")
    """Where to write it; an existing file is never overwritten."""


@dataclass(frozen=True)
class ConvertArguments:
    """Make a model of this library from another's, or a Hugging Face Reformer from ours.

    What SOURCE is decides: a Hugging Face Reformer (folder or hub id), a model or run of ours,
    a Trax model (.pkl, .pkl.gz), or a reformer-pytorch state dict (.pt, .safetensors).
    """

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """Folder, file or hub id."""
    target: Positional[Annotated[Path, arg(metavar="TARGET")]]
    """New folder for the result."""
    config: Path | None = None
    """For files of weights alone: JSON with what they do not say. Trax: a config.json of ours;
    reformer-pytorch: the arguments of its ReformerLM."""
    weights_file: Literal["model.safetensors", "pytorch_model.bin"] = "model.safetensors"
    """pytorch_model.bin: read that file, as plain weights, where there are no safetensors."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    rule: Literal["chunk", "window"] = "chunk"
    """window: near to a Hugging Face Reformer rather than equal, and fast to generate with."""


@dataclass(frozen=True)
class DoctorArguments:
    """Show versions, the machine, and which kernels are in use and why."""

    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True)
class BenchArguments:
    """Time attention beside exact attention and the other Reformers, in one process, by turns.

    Peers that are not installed are left out; the extra `bench` brings them.
    """

    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
    """Sequence lengths in tokens."""
    rounds: tuple[int, ...] = (8,)
    """Rounds of hashing."""
    repeats: int = 3
    """Turns of each; the median counts."""
    most_seconds: float = 10.0
    """Who needs longer for one turn has no second one."""
    full: bool = False
    """Also measure arithmetic rates, a million tokens, peak memory, and whole training steps."""
    out: Path = Path("bench")
    """Folder for attention.json, attention.md and attention.png."""


@dataclass(frozen=True)
class InspectArguments:
    """Show what the LSH layers of a model do on a text: how full buckets are, what share of exact
    attention's mass hashing finds and one more round would add, and who attends to whom."""

    run: RunFolder
    """Run or model folder."""
    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """The text; its beginning is read, as long as the model's sequences."""
    length: int | None = None
    """Tokens to read, instead of all that the model supports."""
    num_hashes: Annotated[int | None, arg(help="Rounds of hashing, instead of the model's.")] = None
    queries: int = 256
    """Positions at which attention is compared with exact attention."""
    out: Path | None = None
    """Folder for inspection.json and the pictures; by default RUN/inspection."""
    json: bool = False
    """Print the JSON instead of a table."""


@dataclass(frozen=True)
class ReproduceArguments:
    """Measure a result of the paper, or a claim of this project, on this machine.

    Writes a table, a plot and JSON with pass or fail, and exits with 1 where a claim fails. What
    has been measured is kept: the same command goes on where it stopped.
    """

    what: Positional[
        Annotated[Literal["table2", "speed", "memory", "quality", "retrieval"], arg(metavar="WHAT")]
    ]
    """table2: the duplication task. speed: time per step by length (figure 5). memory: by depth
    and length (table 3). quality: bits per byte beside exact attention. retrieval: needles
    found from far away, beside exact attention."""
    full: bool = False
    """What is compared with the paper, up to hours; without it, about two minutes."""
    out: Path = Path("reproduced")
    """Folder for the results, and for what goes on from them."""
    json: bool = False
    """Print the JSON instead of a table."""
