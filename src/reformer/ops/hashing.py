"""Angular locality-sensitive hashing (paper section 2, "Locality sensitive hashing").

    h_r(x) = argmax([x G_r ; -x G_r]),   G_r of shape [K, N/2]

A large N is factorised, N = n1 * n2 * …, each factor with its own rotations, and
``bucket = h1 + n1 * h2 + …``: N/2 projections become (n1 + n2 + …)/2.

The paper draws G_r from N(0, 1). Its longer columns win more often, and factors whose columns
happen to point the same way fill some pairs of buckets and not others: 32 * 32 * 32 buckets then
hold 2.7 times as many pairs of unrelated tokens as even ones would. Ours are of one length and at
right angles, so that vectors without a preferred direction fill all buckets alike; related ones
meet as often as before.

Where K is a power of two they are columns of

    S_0 H S_1 H S_b H / K^(3/2),   S diagonal matrices of random signs, H Hadamard's matrix

with a new S_b for every K projections (Andoni et al. 2015, section 6): a fast transform finds K of
them in K log K additions.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from reformer.ops import dispatch

# An N up to here is hashed by itself.
_LARGEST_WHOLE = 128
# Larger factors find a little more of what is close, for three times the hashing. Of these,
# four stand at right angles in a head of width 64.
_LARGEST_FACTOR = 32
# Elements of one slice's projections: 16 MB in float32.
_SLICE_ELEMENTS = 1 << 22


# Narrower heads are hashed by any rotations: there is little to be saved.
_SMALLEST_FAST = 16


class Rotations(NamedTuple):
    """What hashes the vectors of each head in every round."""

    matrix: Tensor
    """[H, K, R, sum(factors) / 2], float32."""
    signs: Tensor | None = None
    """The same as a product: [H, 2 + B, K] of 1 and -1, float32, the diagonals of S_0, S_1 and of
    an S_b for each of B blocks of K projections, as ``first_projections`` places them."""

    def to(self, device: torch.device) -> "Rotations":
        """The same on ``device``."""
        signs = self.signs
        return Rotations(self.matrix.to(device), None if signs is None else signs.to(device))


class LayerHashing(NamedTuple):
    """A layer's rotations in evaluation: drawn once, used for every token."""

    rotations: Rotations
    factors: tuple[int, ...]


def default_num_buckets(length: int, window_length: int) -> int:
    """About 2 * length / window_length, as a power of two and at least 2 (paper section 4)."""
    wanted = max(1.0, 2.0 * length / window_length)
    return max(2, 1 << round(math.log2(wanted)))


def bucket_factors(num_buckets: int | tuple[int, ...]) -> tuple[int, ...]:
    """The even factors that N is hashed by: itself up to 128, then near-equal powers of two,
    as few as can be when none passes 32.

    A tuple, 1, and an N above 128 that is not a power of two stay as they are. Raises
    ValueError for an odd or non-positive factor other than 1: argmax([xG; -xG]) is even.
    """
    factors = num_buckets if isinstance(num_buckets, tuple) else (num_buckets,)
    if not factors or any(factor < 1 or (factor % 2 and factor > 1) for factor in factors):
        raise ValueError(f"num_buckets is {num_buckets!r}: every factor must be even, or 1")
    if isinstance(num_buckets, tuple):
        return num_buckets
    if num_buckets <= _LARGEST_WHOLE or num_buckets & (num_buckets - 1):
        return (num_buckets,)
    bits = num_buckets.bit_length() - 1
    count = -(-bits // (_LARGEST_FACTOR.bit_length() - 1))
    share, rest = divmod(bits, count)
    return tuple(1 << (share + (index < rest)) for index in range(count))


def smallest_integer(num_buckets: int) -> torch.dtype:
    """The narrowest integer type that holds 0 … num_buckets - 1."""
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if num_buckets - 1 <= torch.iinfo(dtype).max:
            return dtype
    return torch.int64


DrawRotations = Callable[[int, int, int, tuple[int, ...], int], Rotations]
"""(num_heads, head_size, num_hashes, factors, seed) to rotations."""


def draw_rotations(
    num_heads: int, head_size: int, num_hashes: int, factors: tuple[int, ...], seed: int
) -> Rotations:
    """Unit projections from a private generator.

    Those of a round are orthogonal, as far as ``head_size`` has room for right angles; only a
    single factor's are not where ``head_size`` is no power of two from 16 on.
    """
    if head_size >= _SMALLEST_FAST and head_size & (head_size - 1) == 0:
        places = first_projections(num_hashes, sum(factors) // 2, head_size)
        num_blocks = -(-(places[-1] + sum(factors) // 2) // head_size)
        normal = _rotations_op([num_heads, 2 + num_blocks, head_size], seed)
        signs = torch.where(normal < 0, -1.0, 1.0)
        return Rotations(_multiply(signs, places, sum(factors) // 2), signs)
    normal = published_rotations(num_heads, head_size, num_hashes, factors, seed).matrix
    if len(factors) == 1:
        return Rotations(functional.normalize(normal, dim=1))
    return Rotations(_orthonormal_op(normal))


def published_rotations(
    num_heads: int, head_size: int, num_hashes: int, factors: tuple[int, ...], seed: int
) -> Rotations:
    """The paper's: with every number from N(0, 1).

    ``seed`` is the generator's own seed, so these are the numbers that Hugging Face's Reformer
    draws for the same ``hash_seed``.
    """
    return Rotations(_rotations_op([num_heads, head_size, num_hashes, sum(factors) // 2], seed))


def first_projections(num_hashes: int, num_projections: int, head_size: int) -> list[int]:
    """Where each round's projections begin among those of all blocks of ``head_size``.

    A block serves as many rounds as it has room for, or a round takes several whole blocks.
    """
    if num_projections > head_size:
        per_round = -(-num_projections // head_size) * head_size
        return [index * per_round for index in range(num_hashes)]
    together = head_size // max(1, num_projections)
    return [
        index // together * head_size + index % together * num_projections
        for index in range(num_hashes)
    ]


def _multiply(signs: Tensor, places: list[int], num_projections: int) -> Tensor:
    """The matrices of the signs. Sums of ones, scaled at the end: exact but for one rounding."""
    width = signs.shape[2]
    hadamard, pair = signs.new_ones(1, 1), signs.new_tensor([[1.0, 1.0], [1.0, -1.0]])
    while hadamard.shape[0] < width:
        hadamard = torch.kron(pair, hadamard)
    with torch.autocast(signs.device.type, enabled=False):
        shared = (signs[:, 0, :, None] * hadamard * signs[:, 1, None, :]) @ hadamard
        blocks = (shared[:, None] * signs[:, 2:, None, :]) @ hadamard
    columns = blocks.transpose(1, 2).flatten(2) * width**-1.5
    rounds = [columns[:, :, place : place + num_projections] for place in places]
    return torch.stack(rounds, dim=2)


# An operator, because torch.compile cannot make a generator inside a graph.
@torch.library.custom_op("reformer::draw_rotations", mutates_args=())
def _rotations_op(shape: list[int], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@_rotations_op.register_fake
def _(shape: list[int], seed: int) -> Tensor:
    return torch.empty(shape)


# Gram-Schmidt: the bits of LAPACK's QR depend on the number of threads. An operator, because
# torch.compile would unroll it.
@torch.library.custom_op("reformer::orthonormal", mutates_args=())
def _orthonormal_op(rotations: Tensor) -> Tensor:
    """Rotations [H, K, R, P], those of a head and round orthonormal, at most K at a time."""
    rows = rotations.permute(0, 2, 3, 1).to(torch.float64, memory_format=torch.contiguous_format)
    for part in rows.split(rotations.shape[1], dim=2):
        for index in range(part.shape[2]):
            row = part[:, :, index : index + 1]
            row /= row.norm(dim=-1, keepdim=True)
            rest = part[:, :, index + 1 :]
            rest -= (rest * row).sum(dim=-1, keepdim=True) * row
    return rows.permute(0, 3, 1, 2).float().contiguous()


@_orthonormal_op.register_fake
def _(rotations: Tensor) -> Tensor:
    return torch.empty_like(rotations, memory_format=torch.contiguous_format)


def hash_vectors(
    vectors: Tensor, rotations: Rotations, factors: tuple[int, ...], *, backend: str = "auto"
) -> Tensor:
    """Bucket of every vector in every round.

    vectors: [B, H, L, K], float.
    Returns [B, H, R, L] in the smallest integer type that holds the number of buckets.
    Projections are computed in float32 (float64 for float64 input) whatever autocast says;
    of equal projections the first wins; a vector with NaN lands in some valid bucket.
    """
    matrix, signs = rotations
    _check_hashing(vectors, matrix, factors)
    if math.prod(factors) == 1:
        batch, heads, length, _ = vectors.shape
        return vectors.new_zeros((batch, heads, matrix.shape[2], length), dtype=torch.uint8)
    return _hash_op(vectors.detach(), matrix, signs, list(factors), backend)


def _check_hashing(vectors: Tensor, rotations: Tensor, factors: tuple[int, ...]) -> None:
    if vectors.dim() != 4 or not vectors.is_floating_point():
        raise ValueError(
            "vectors must be a float tensor [B, H, L, K], "
            f"not {vectors.dtype} {list(vectors.shape)}"
        )
    expected = (vectors.shape[1], vectors.shape[3], sum(factors) // 2)
    if (
        rotations.dim() != 4
        or (rotations.shape[0], rotations.shape[1], rotations.shape[3]) != expected
    ):
        raise ValueError(
            f"rotations must be [H, K, R, sum(factors) / 2] = [{expected[0]}, {expected[1]}, R, "
            f"{expected[2]}] for these vectors and factors {factors}, not {list(rotations.shape)}"
        )


@torch.library.custom_op("reformer::hash_vectors", mutates_args=())
def _hash_op(
    vectors: Tensor, rotations: Tensor, signs: Tensor | None, factors: list[int], backend: str
) -> Tensor:
    run = dispatch.implementation("hash_vectors", backend, vectors)
    buckets: Tensor = run(vectors, rotations, signs, factors)
    return buckets


@_hash_op.register_fake
def _(
    vectors: Tensor, rotations: Tensor, signs: Tensor | None, factors: list[int], backend: str
) -> Tensor:
    batch, heads, length, _ = vectors.shape
    shape = (batch, heads, rotations.shape[2], length)
    return vectors.new_empty(shape, dtype=smallest_integer(math.prod(factors)))


@dispatch.register("hash_vectors", "torch")
def hash_vectors_torch(
    vectors: Tensor, rotations: Tensor, signs: Tensor | None, factors: list[int]
) -> Tensor:
    """The definition, in slices of positions so that [L, R, N] never exists; by matrices alone."""
    batch, heads, length, width = vectors.shape
    rounds, projections = rotations.shape[2:]
    dtype = torch.float64 if vectors.dtype == torch.float64 else torch.float32
    flat = rotations.to(vectors.device, dtype).reshape(heads, width, rounds * projections)
    buckets = vectors.new_empty(
        (batch, heads, rounds, length), dtype=smallest_integer(math.prod(factors))
    )
    step = max(1, _SLICE_ELEMENTS // max(1, batch * heads * rounds * projections))
    with torch.autocast(vectors.device.type, enabled=False):
        for start in range(0, length, step):
            part = vectors[:, :, start : start + step].to(dtype) @ flat
            part = part.unflatten(-1, (rounds, projections))
            found = _combine_factors(part, factors)
            buckets[..., start : start + step] = found.transpose(2, 3)
    return buckets


def _combine_factors(projected: Tensor, factors: list[int]) -> Tensor:
    """h1 + n1 * h2 + …, each h the argmax of its projections and their negatives."""
    bucket = torch.zeros(projected.shape[:-1], dtype=torch.int64, device=projected.device)
    offset, stride = 0, 1
    for factor in factors:
        part = projected[..., offset : offset + factor // 2]
        if factor > 1:
            bucket += stride * torch.cat((part, -part), dim=-1).argmax(dim=-1)
        offset += factor // 2
        stride *= factor
    return bucket
