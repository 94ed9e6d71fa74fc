"""From logits to text: sampling and decoding."""
