"""A server for one model. The engine knows token ids and no HTTP, the routes no tensors."""
