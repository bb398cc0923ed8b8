"""The verbs ``spkver prepare CORPUS``: each turns a corpus as it is published into data directories or lists.

Heavy imports stand inside the verbs, so that ``spkver --help`` is instant.
"""

import argparse
from collections.abc import Callable
from pathlib import Path


def add_corpus_verbs(verb: Callable) -> None:
    """Give the parser of ``prepare`` its corpora; ``verb(name, function)`` adds one."""

    def corpus(
        name: str, function, gets: str = "where the data directories of training and test are made"
    ) -> argparse.ArgumentParser:
        added = verb(name, function)
        added.add_argument("folder", type=Path, help=gets)
        added.add_argument(
            "--corpus",
            type=Path,
            metavar="DIR",
            help="folder of the unpacked corpus, when it is here already: nothing is downloaded",
        )
        added.add_argument(
            "--downloads",
            type=Path,
            metavar="DIR",
            default=Path("downloads") / name,
            help="folder that archives are downloaded to (%(default)s)",
        )
        added.add_argument(
            "--partial", action="store_true", help="take an incomplete copy of the corpus too, and say what it lacks"
        )
        return added

    added = corpus("voxceleb", prepare_voxceleb)
    added.add_argument(
        "--train",
        default="vox2",
        help="training speakers: the development part of vox2, vox1 or both, vox1+vox2 (vox2)",
    )
    added.add_argument(
        "--lists",
        nargs="+",
        metavar="LIST",
        help="trial lists to make: vox1_O, vox1_E, vox1_H, or with _cleaned behind (all that --train allows)",
    )
    added.add_argument(
        "--converted", type=Path, metavar="DIR", help="folder that .m4a files are converted into (FOLDER/vox2)"
    )
    added.add_argument("--format", default="flac", help="format that .m4a files are converted to: flac or wav (flac)")
    added.add_argument("--jobs", type=int, help="how many files are converted at a time (one a core)")

    added = corpus("librispeech", prepare_librispeech)
    added.add_argument(
        "--train",
        nargs="+",
        metavar="SUBSET",
        default=["train-clean-100"],
        help="subsets to train on (train-clean-100)",
    )
    added.add_argument(
        "--test",
        nargs="+",
        metavar="SUBSET",
        default=["test-clean"],
        help="subsets to make trial lists of (test-clean)",
    )
    added.add_argument("--seed", type=int, default=12, help="random seed of the trials (12)")
    added.add_argument("--targets", type=int, default=20_000, help="at most so many target trials in a list (20000)")
    added.add_argument(
        "--nontargets", type=int, default=100_000, help="at most so many nontarget trials in a list (100000)"
    )

    added = corpus("cnceleb", prepare_cnceleb)
    added.add_argument(
        "--train", default="cn1+cn2", help="training speakers: those of cn1, cn2 or both, cn1+cn2 (cn1+cn2)"
    )

    corpus("musan", prepare_musan, "where the lists are made: noise, music, speech, noise_and_music")
    corpus(
        "rirs_noises",
        prepare_rirs_noises,
        "where the lists are made: simulated_rirs, small_and_medium_rirs, pointsource_noises",
    )


def prepare_voxceleb(options) -> None:
    """Turn VoxCeleb1 and 2 into data directories and trial lists; converts .m4a by ffmpeg, and goes on where it was."""
    from spkver.corpora.voxceleb import prepare_voxceleb

    print(
        prepare_voxceleb(
            options.corpus,
            options.folder,
            options.train,
            options.lists,
            options.downloads,
            options.converted,
            options.format,
            options.jobs,
            options.partial,
        )
    )


def prepare_librispeech(options) -> None:
    """Turn subsets of LibriSpeech into data directories and trial lists; without --corpus, download them first."""
    from spkver.corpora.librispeech import download_librispeech, prepare_librispeech

    corpus = options.corpus or download_librispeech(options.downloads, [*options.train, *options.test])
    drawn = options.seed, options.targets, options.nontargets
    print(prepare_librispeech(corpus, options.folder, options.train, options.test, *drawn, options.partial))


def prepare_cnceleb(options) -> None:
    """Turn CN-Celeb 1 and 2 into data directories and trial lists; without --corpus, download them first."""
    from spkver.corpora.cnceleb import download_cnceleb, prepare_cnceleb

    corpus = options.corpus or download_cnceleb(options.downloads, options.train)
    print(prepare_cnceleb(corpus, options.folder, options.train, options.partial))


def prepare_musan(options) -> None:
    """List MUSAN's noise, music and speech for augmentation; without --corpus, download it first (11 GB)."""
    from spkver.corpora.augmentation_sets import download_musan, prepare_musan

    print(prepare_musan(options.corpus or download_musan(options.downloads), options.folder, options.partial))


def prepare_rirs_noises(options) -> None:
    """List the room impulse responses of RIRS_NOISES; without --corpus, download them first (1.3 GB)."""
    from spkver.corpora.augmentation_sets import download_rirs_noises, prepare_rirs_noises

    print(
        prepare_rirs_noises(options.corpus or download_rirs_noises(options.downloads), options.folder, options.partial)
    )
