"""Scoring: the stages from embeddings to scores and figures, and the files that pass between them."""
