"""The layout of an experiment ``exp/NAME``: its paths, its model folder, its log and snapshots."""
