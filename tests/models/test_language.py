"""The language model: one row, one order, one answer."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reformer.config import LSH, Full, Local
from reformer.models.language import ReformerForCausalLM
from reformer.ops.lsh_attention import hash_buckets
from reformer.ops.order import sort_tokens
from tests.models.small import (
    LENGTH,
    VOCABULARY,
    assert_near,
    gradients,
    loss_gradients,
    small_config,
    small_model,
    tokens,
    without_dropout,
)


def quiet_model(**values: object) -> ReformerForCausalLM:
    """Without dropout, in evaluation mode: local, LSH and exact attention with rotary positions."""
    settings = without_dropout(rotary=True, full=True)
    return small_model(small_config(**(settings | values))).eval()


def test_the_loss_is_the_cross_entropy_of_the_logits_one_step_ahead() -> None:
    model, input_ids = quiet_model().double(), tokens()
    output = model(input_ids, labels=input_ids)
    assert output.logits is None
    logits = model(input_ids).logits
    assert logits.shape == (2, LENGTH, VOCABULARY)
    expected = functional.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
    assert_near([output.loss], [expected], 1e-12)
    some = input_ids.clone()
    some[:, 5:40] = -100
    counted = torch.tensor([t for t in range(1, LENGTH) if not 5 <= t < 40])
    expected = functional.cross_entropy(
        logits[:, counted - 1].flatten(0, 1), input_ids[:, counted].flatten()
    )
    assert_near([model(input_ids, labels=some).loss], [expected], 1e-12)


@pytest.mark.parametrize("slice_length", [1, 7, 95, 96, 4096])
def test_the_slice_length_is_a_memory_choice_only(slice_length: int) -> None:
    expected = loss_gradients(quiet_model().double(), tokens())
    found = loss_gradients(quiet_model(slice_length=slice_length).double(), tokens())
    assert_near(found, expected, 1e-11)


@pytest.mark.parametrize("length", [1, 2, 3, 15, 16, 17, 63, 64])
def test_any_length_up_to_the_maximum_gives_the_logits_of_the_whole(length: int) -> None:
    model, input_ids = quiet_model(), tokens(length=64)
    whole = model(input_ids).logits
    assert_near([model(input_ids[:, :length]).logits], [whole[:, :length]], 1e-5)
    model(input_ids[:, :length], labels=input_ids[:, :length]).loss.backward()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("streams", ["exact", "float"])
def test_later_tokens_never_change_earlier_logits(
    dtype: torch.dtype, tolerance: float, streams: str
) -> None:
    model = quiet_model(streams=streams).to(dtype)
    for seed in range(5):
        before, after = tokens(seed=seed), tokens(seed=seed + 100)
        cut = 1 + 9 * seed
        after[:, :cut] = before[:, :cut]
        found, expected = (model(ids).logits.detach() for ids in (after, before))
        assert (found - expected)[:, :cut].abs().max() <= tolerance
        assert (found - expected)[:, cut:].abs().max() > 0.1


def test_later_tokens_never_change_the_buckets_or_order_of_earlier_ones() -> None:
    """The integers that decide who sees whom, taken inside the running model."""
    model = small_model(small_config(4, dropout=0.0)).eval()
    seen: list[Tensor] = []
    for block in model.reformer.blocks:
        if isinstance(block.attention.layer, LSH):
            block.attention.query_key.register_forward_hook(lambda *a: seen.append(a[2].detach()))
    before, after, cut = tokens(seed=1), tokens(seed=2), 20
    after[:, :cut] = before[:, :cut]
    sets = []
    for ids in (before, after):
        seen.clear()
        model(ids)
        assert len(seen) == 2
        for query_key in seen:
            heads = query_key.view(2, LENGTH, 2, 8).transpose(1, 2)
            _, code = sort_tokens(hash_buckets(heads, num_hashes=2, num_buckets=16), 8)
            distance = (code[..., :, None] - code[..., None, :])[..., :cut, :cut]
            sets.append((distance > 0) & (distance < 8))
    assert torch.equal(sets[0], sets[2])
    assert torch.equal(sets[1], sets[3])
    assert sets[0].any()


# Rounding differs with the shape of a product; where it meets the grid of exact streams,
# 2^-20 in float32, it grows to a step or two.
@pytest.mark.parametrize(
    ("streams", "dtype", "tolerance"),
    [
        ("float", torch.float32, 1e-6),
        ("exact", torch.float32, 5e-6),
        ("exact", torch.float64, 1e-11),
    ],
)
def test_a_row_alone_is_the_row_in_any_batch_and_padding(
    streams: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = quiet_model(streams=streams).to(dtype)
    for seed, length in enumerate([1, 5, 30, 47]):
        row = tokens(batch=1, length=length, seed=seed)
        alone = model(row).logits
        batch = tokens(batch=4, seed=seed + 10)
        batch[2, :length] = row
        segments = torch.zeros(4, LENGTH, dtype=torch.int64)
        segments[2, length:] = -1
        segments[0, 9:] = 1
        found = model(batch, segment_ids=segments).logits[2:3, :length]
        assert (found - alone).abs().max() <= tolerance * float(alone.detach().abs().max())


def test_packed_documents_are_each_document_alone() -> None:
    model = quiet_model()
    first, second = tokens(1, 20, seed=1), tokens(1, 28, seed=2)
    packed = torch.cat([first, second], dim=1)
    segments = torch.tensor([[0] * 20 + [1] * 28])
    positions = torch.cat([torch.arange(20), torch.arange(28)])
    together = model(packed, segment_ids=segments, positions=positions).logits
    assert_near([together[:, :20]], [model(first).logits], 1e-5)
    assert_near([together[:, 20:]], [model(second).logits], 1e-5)
    losses = [model(ids, labels=ids).loss for ids in (first, second)]
    loss = model(packed, labels=packed, segment_ids=segments, positions=positions).loss
    assert_near([loss], [(19 * losses[0] + 27 * losses[1]) / 46], 1e-5)


def test_gradients_of_parts_add_up_to_those_of_the_whole_batch() -> None:
    model, input_ids = quiet_model().double(), tokens(batch=4)
    expected = loss_gradients(model, input_ids)[1:]
    model.zero_grad()
    for part in input_ids.split(1):
        (model(part, labels=part).loss / 4).backward()
    assert_near(gradients(model), expected, 1e-10)


def test_evaluation_is_the_same_bits_every_time() -> None:
    model = small_model(small_config()).eval()
    expected = model(tokens()).logits
    torch.rand(1)
    for _ in range(2):
        assert torch.equal(model(tokens()).logits, expected)
    again = small_model(small_config()).eval()
    torch.manual_seed(123)
    assert torch.equal(again(tokens()).logits, expected)


def test_training_passes_draw_anew_and_a_number_names_the_draw() -> None:
    model, input_ids = small_model(small_config()), tokens()

    def losses(*draws: int | None) -> list[float]:
        return [float(model(input_ids, labels=input_ids, draw=d).loss.detach()) for d in draws]

    counted = losses(None, None, None)
    assert len(set(counted)) == 3
    assert losses(0, 1, 2) == counted
    model.eval()
    assert len(set(losses(None, 0, 1))) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"hash_seed": 1, "layers": (Local(window_length=8), LSH(window_length=8))},
        {"hash_seed": 1, "layers": (Local(window_length=8, dropout=0.5),), "dropout": 0.0},
        {"hash_seed": 1, "layers": (LSH(window_length=8, dropout=0.5),), "dropout": 0.0},
        {"layers": (LSH(window_length=8, num_hashes=1),), "dropout": 0.0},
    ],
    ids=["output dropout", "local dropout", "LSH dropout", "rotations"],
)
def test_each_source_of_randomness_is_drawn_anew(settings: dict[str, object]) -> None:
    model = small_model(small_config(**settings))
    losses = {float(model(tokens(), labels=tokens(), draw=d).loss.detach()) for d in range(3)}
    assert len(losses) == 3


def test_rounds_of_hashing_can_change_after_training() -> None:
    model = quiet_model()
    logits = [model(tokens()).logits]
    for rounds in (1, 8):
        other = ReformerForCausalLM(model.config.with_num_hashes(rounds)).eval()
        other.load_state_dict(model.state_dict())
        logits.append(other(tokens()).logits)
    assert all(torch.isfinite(found).all() for found in logits)
    assert not torch.equal(logits[1], logits[2])


@pytest.mark.parametrize(
    "layer", [LSH(window_length=64, num_buckets=1, num_hashes=1), Full(), Local(window_length=64)]
)
def test_every_kind_of_layer_alone_learns_to_copy_its_batch(layer: LSH | Full | Local) -> None:
    config = small_config(layers=(layer,), dropout=0.0, init_scale=0.1)
    model = ReformerForCausalLM(config)
    input_ids = tokens(batch=1, length=12)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(input_ids, labels=input_ids).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 2.5
    assert losses[-1] < 0.2


def test_bad_input_is_refused_by_name() -> None:
    model = quiet_model()
    for bad, message in [
        (tokens(length=65), "65 tokens: this model takes from 1 to max_length = 64"),
        (tokens(length=0), "0 tokens"),
        (tokens().float(), "must be an integer tensor"),
        (tokens()[0], r"must be an integer tensor \[B, L\]"),
        (tokens() + VOCABULARY, "vocabulary is 0 to 31"),
        (tokens() - VOCABULARY, "holds the id -"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(bad)
    with pytest.raises(ValueError, match="labels is .*: it must match input_ids"):
        model(tokens(), labels=tokens(length=5))
    with pytest.raises(ValueError, match="segment_ids must be"):
        model(tokens(), segment_ids=torch.zeros(1, 3, dtype=torch.int64))
