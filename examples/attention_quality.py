"""How many rounds of hashing find the attention that matters?

Compares LSH attention with exact attention on the same inputs: vectors that gather around a
few directions, as a trained model's do. Prints the relative error of the output per number of
rounds; it falls as rounds are added.

    python examples/attention_quality.py
"""

import torch

import reformer

LENGTH, NUM_DIRECTIONS = 1024, 32


def clustered_vectors(generator: torch.Generator) -> torch.Tensor:
    """[1, 4, LENGTH, 64]: each vector is one of a few directions, plus noise."""
    directions = torch.randn(NUM_DIRECTIONS, 64, generator=generator)
    choice = torch.randint(NUM_DIRECTIONS, (1, 4, LENGTH), generator=generator)
    noise = torch.randn(1, 4, LENGTH, 64, generator=generator)
    return directions[choice] + 0.5 * noise


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    query_key = clustered_vectors(generator)
    value = torch.randn(query_key.shape, generator=generator)
    # One bucket and a window over everything: the same attention, exactly.
    exact = reformer.lsh_attention(
        query_key, value, num_hashes=1, num_buckets=1, window_length=LENGTH + 1
    )
    for num_hashes in (1, 2, 4, 8):
        out = reformer.lsh_attention(query_key, value, num_hashes=num_hashes, window_length=64)
        error = (out - exact).norm() / exact.norm()
        print(f"{num_hashes} rounds: relative error {error:.3f}")


if __name__ == "__main__":
    main()
