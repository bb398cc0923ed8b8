"""The Python interface: ``spkver.load(model)``, and speakers who are enrolled in a store."""
