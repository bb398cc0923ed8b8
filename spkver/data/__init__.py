"""Data: directories, trial lists, audio, and what makes crops and batches of them."""
