"""The verb ``spkver prepare folder``: own recordings to data directories and a configuration.

Heavy imports stand inside the verb, so that ``spkver --help`` is instant.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

# The defaults of spkver.corpora.own_folder.Limits, which is not imported for a help text; a test holds them together.
LIMITS = {"min_seconds": 1.0, "long_seconds": 30.0, "segment_seconds": 10.0, "targets": 20_000, "nontargets": 100_000}


def add_own_folder(verb: Callable, corpora: argparse._SubParsersAction) -> None:
    """Give ``spkver prepare`` its corpus ``folder``; ``verb(name, function, parent)`` adds one."""
    added = verb("folder", prepare_folder, corpora)
    added.add_argument("folder", type=Path, help="gets train/, test/, config.yaml, config_lmf.yaml, left_out.tsv")
    added.add_argument(
        "--audio", type=Path, required=True, help="a folder of speakers' folders, a .csv or .tsv, a Kaldi directory"
    )
    added.add_argument(
        "--speaker-level", type=int, default=1, metavar="N", help="folder that is a speaker: 1 first, -1 last (1)"
    )
    added.add_argument("--genders", type=Path, metavar="FILE", help="'speaker f|m' a line, where the source says none")
    added.add_argument(
        "--sample-rate", type=int, metavar="HZ", help="(8000 if half the audio is below 16 kHz, or 16000)"
    )
    added.add_argument("--seed", type=int, default=1, help="of split and trials (1)")
    added.add_argument("--test-speakers", type=int, metavar="N", help="(a fifth, 3 to 200)")
    meanings = {
        "min_seconds": "shorter recordings are left out",
        "long_seconds": "longer ones are cut by voice activity (extra vad)",
        "segment_seconds": "at most so long",
        "targets": "at most so many target trials",
        "nontargets": "at most so many",
    }
    for name, meaning in meanings.items():
        default = LIMITS[name]
        option = "--" + name.replace("_", "-")
        added.add_argument(option, type=type(default), default=default, metavar="N", help=f"{meaning} ({default:g})")
    added.add_argument("--workers", type=int, default=2, metavar="N", help="threads that decode (2)")
    added.add_argument("--configurations", type=Path, metavar="DIR", help="with own.yaml (conf/ of this repository)")


def prepare_folder(options) -> None:
    """Turn own recordings into data directories, and choose a configuration for them."""
    from spkver.corpora.configuration_choice import CONFIGURATIONS
    from spkver.corpora.own_folder import Limits, prepare_own_folder

    limits = Limits(test_speakers=options.test_speakers, **{name: getattr(options, name) for name in LIMITS})
    print(
        prepare_own_folder(
            options.audio,
            options.folder,
            options.seed,
            options.speaker_level,
            options.sample_rate,
            options.genders,
            limits,
            options.workers,
            options.configurations or CONFIGURATIONS,
        )
    )
