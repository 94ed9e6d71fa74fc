"""Axial and rotary positions against the formula, digit by digit."""

import math

import pytest
import torch

from reformer.ops.positions import axial_positions, rotate


@pytest.mark.parametrize("shape", [(7,), (4, 5), (3, 4, 2), (2, 3, 2, 2), (1, 6), (6, 1)])
def test_an_axial_embedding_joins_the_rows_of_its_digits(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    tables = [
        torch.randn(extent, axis + 1, generator=generator, dtype=torch.float64)
        for axis, extent in enumerate(shape)
    ]
    total = math.prod(shape)
    found = axial_positions(tables, torch.arange(total))
    for position in range(total):
        digits, rest = [], position
        for extent in reversed(shape):
            rest, digit = divmod(rest, extent)
            digits.insert(0, digit)
        expected = torch.cat([table[d] for table, d in zip(tables, digits, strict=True)])
        assert torch.equal(found[position], expected)


def test_any_positions_in_any_order_and_their_gradients() -> None:
    tables = [torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)]
    tables = [t.requires_grad_() for t in tables]
    positions = torch.tensor([[19, 0, 7], [7, 7, 3]])
    found = axial_positions(tables, positions)
    assert found.shape == (2, 3, 5)
    assert torch.equal(found[0, 2], found[1, 0])
    assert torch.autograd.gradcheck(lambda *t: axial_positions(t, positions), tables)


@pytest.mark.parametrize("position", [-1, 20, 2**40])
def test_positions_outside_the_table_are_refused(position: int) -> None:
    tables = [torch.zeros(4, 3), torch.zeros(5, 2)]
    with pytest.raises(IndexError, match=f"position {position} is"):
        axial_positions(tables, torch.tensor([3, position]))


def test_rotation_turns_pairs_by_their_angle() -> None:
    x = torch.randn(1, 1, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    positions = torch.tensor([0, 1, 2, 100, 5])
    found = rotate(x, positions, base=50.0)
    for place, position in enumerate(positions.tolist()):
        for m in range(3):
            turn = complex(math.cos(angle := position * 50.0 ** (-2 * m / 6)), math.sin(angle))
            pair = complex(float(x[0, 0, place, m]), float(x[0, 0, place, m + 3])) * turn
            assert found[0, 0, place, m] == pytest.approx(pair.real, abs=1e-12)
            assert found[0, 0, place, m + 3] == pytest.approx(pair.imag, abs=1e-12)


def test_scores_of_rotated_vectors_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, 9, 8, generator=generator, dtype=torch.float64) for _ in "qk")
    positions = torch.arange(9)

    def scores(shift: int) -> torch.Tensor:
        turned = [rotate(x, positions + shift, 10000.0) for x in (query, key)]
        return turned[0] @ turned[1].transpose(-1, -2)

    assert (scores(0) - scores(12345)).abs().max() <= 1e-10
    per_row = rotate(query, torch.stack([positions, positions + 3]), 10000.0)
    assert torch.equal(per_row[1], rotate(query, positions + 3, 10000.0)[1])
