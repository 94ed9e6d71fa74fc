"""From files to batches: files, tokenizer, store, sources."""
