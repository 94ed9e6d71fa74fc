"""Other libraries' models and tools: Hugging Face, Trax, reformer-pytorch."""
