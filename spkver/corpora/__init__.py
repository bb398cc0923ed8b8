"""Corpora: each file turns one, as it is published, into data directories and trial lists."""
