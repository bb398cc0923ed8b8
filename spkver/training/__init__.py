"""Training: an encoder and a head from crops of speakers, checkpoints, and the final model."""
