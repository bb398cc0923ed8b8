"""Keys that came after the first experiments, with the value by which a run from before them goes on as it was.

Configurations that a run has stored are completed with these; a user's own file is not, as there a missing
key is a mistake. A key that is added to the schema gets its line here.
"""

YOUNGER_KEYS = {
    "augment": {"formant_factors": [1.0]},
    "features": {"formant_envelope_hz": None},
    "model": {
        "embedding_norms": "batch",
        "aggregate_layers": False,
        "average_spectrum": False,
        "average_spectrum_dropout": 0.5,
    },
    "optimizer": {"momentum": 0.9, "freeze": [], "lr_factors": {}},
    "init": {"required": False, "head": "keep", "utterances": 10, "subcenter_spread": 0.1},
    "snapshots": {"speakers": 0, "utterances": 1},
    "training": {"chunked_head_rows": 20000, "chunked_head_products": "float32", "sampled_share": 1.0},
    "scoring": {
        "views": [[1.0, 1.0]],
        "norm": {"method": "as", "top_n": 50, "centre": True},
        "plda": {"lda_dim": None, "iterations": 20, "adapt_within": 0.7, "adapt_between": 0.3},
        "calibration": {
            "p_target": 0.05,
            "quality": ["duration", "magnitude"],
            "regularisation": 1e-6,
            "max_nontargets": 20000,
            "joined_pairs": 40,
            "joined_seconds": [2.0, 60.0],
        },
    },
}
