"""Embedding extraction, and the folders and formats in which embeddings are kept."""
