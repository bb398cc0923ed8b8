"""Back ends: from embeddings of two sides to scores, and from scores to log-likelihood ratios."""
