"""The verbs ``spkver prepare CORPUS``, which turn a published corpus into data directories or lists, and ``pack``.

Heavy imports stand inside the verbs, so that ``spkver --help`` is instant.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from spkver.errors import SpkverError

# The defaults of spkver.corpora.own_folder.Limits, which is not imported for a help text; a test holds them together.
LIMITS = {"min_seconds": 1.0, "long_seconds": 30.0, "segment_seconds": 10.0, "targets": 20_000, "nontargets": 100_000}


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
            help="folder that archives are downloaded to (default: %(default)s)",
        )
        added.add_argument(
            "--partial", action="store_true", help="take an incomplete copy of the corpus too, and say what it lacks"
        )
        return added

    added = corpus("voxceleb", prepare_voxceleb)
    added.add_argument(
        "--train",
        default="vox2",
        help="training speakers: the development part of vox2, vox1 or both, vox1+vox2 (default: vox2)",
    )
    added.add_argument(
        "--lists",
        nargs="+",
        metavar="LIST",
        help="trial lists to make: vox1_O, vox1_E, vox1_H, or with _cleaned behind (default: all that --train allows)",
    )
    added.add_argument(
        "--converted", type=Path, metavar="DIR", help="folder that .m4a files are converted into (default: FOLDER/vox2)"
    )
    added.add_argument(
        "--format", default="flac", help="format that .m4a files are converted to: flac or wav (default: flac)"
    )
    added.add_argument("--jobs", type=int, help="how many files are converted at a time (default: one a core)")

    added = corpus("librispeech", prepare_librispeech)
    added.add_argument(
        "--train",
        nargs="+",
        metavar="SUBSET",
        default=["train-clean-100"],
        help="subsets to train on (default: train-clean-100)",
    )
    added.add_argument(
        "--test",
        nargs="+",
        metavar="SUBSET",
        default=["test-clean"],
        help="subsets to make trial lists of (default: test-clean)",
    )
    added.add_argument("--seed", type=int, default=12, help="random seed of the trials (default: 12)")
    added.add_argument(
        "--targets", type=int, default=20_000, help="at most so many target trials in a list (default: 20000)"
    )
    added.add_argument(
        "--nontargets", type=int, default=100_000, help="at most so many nontarget trials in a list (default: 100000)"
    )

    added = corpus("cnceleb", prepare_cnceleb)
    added.add_argument(
        "--train", default="cn1+cn2", help="training speakers: those of cn1, cn2 or both, cn1+cn2 (default: cn1+cn2)"
    )

    corpus("musan", prepare_musan, "where the lists are made: noise, music, speech, noise_and_music")
    corpus(
        "rirs_noises",
        prepare_rirs_noises,
        "where the lists are made: simulated_rirs, small_and_medium_rirs, pointsource_noises",
    )
    corpus("esc10", prepare_esc10, "where the list is made: noise")

    added = verb("general", prepare_general)
    added.add_argument("folder", type=Path, help="where the data directories train/ and test/ are made")
    for name in ("speechocean762", "speech-commands"):
        added.add_argument(f"--{name}", type=Path, metavar="DIR", help="folder of this corpus, when it is here already")
    added.add_argument(
        "--downloads",
        type=Path,
        default=Path("downloads"),
        metavar="DIR",
        help="folder that archives are downloaded to (default: %(default)s)",
    )
    added.add_argument(
        "--seed", type=int, default=1, help="random seed of test speakers, trials and joined clips (default: 1)"
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


def prepare_esc10(options) -> None:
    """List the noises of ESC-10 for augmentation; without --corpus, download them first (0.6 GB, ESC-50)."""
    from spkver.corpora.augmentation_sets import download_esc50, prepare_esc10

    print(prepare_esc10(options.corpus or download_esc50(options.downloads), options.folder, options.partial))


def prepare_general(options) -> None:
    """Make one data directory of speechocean762 and Speech Commands; what is not here is downloaded first."""
    from spkver.corpora.general import prepare_general
    from spkver.corpora.speech_commands import download_speech_commands
    from spkver.corpora.speechocean762 import download_speechocean762

    sentences = options.speechocean762 or download_speechocean762(options.downloads)
    words = options.speech_commands or download_speech_commands(options.downloads)
    print(prepare_general(sentences, words, options.folder, options.seed))


def add_own_folder(verb: Callable, corpora: argparse._SubParsersAction) -> None:
    """Give ``spkver prepare`` its corpus ``folder``; ``verb(name, function, parent)`` adds one."""
    added = verb("folder", prepare_folder, corpora)
    added.add_argument(
        "folder", type=Path, help="folder to make: train/, test/, config.yaml, config_lmf.yaml, left_out.tsv"
    )
    added.add_argument(
        "--audio",
        type=Path,
        required=True,
        help="recordings: a folder with a folder a speaker, a .csv or .tsv table, or a Kaldi data directory",
    )
    added.add_argument(
        "--speaker-level",
        type=int,
        default=1,
        metavar="N",
        help="level of the folder that names the speaker: 1 is the first below --audio, -1 the last (default: 1)",
    )
    added.add_argument(
        "--genders",
        type=Path,
        metavar="FILE",
        help="file of genders, 'speaker f|m' a line, where --audio does not say them",
    )
    added.add_argument(
        "--sample-rate",
        type=int,
        metavar="HZ",
        help="sample rate to train at (default: 8000 if half of the audio is below 16 kHz, else 16000)",
    )
    added.add_argument(
        "--seed",
        type=int,
        default=1,
        help="random seed of the split into training and test speakers, and of the trials (default: 1)",
    )
    added.add_argument(
        "--test-speakers", type=int, metavar="N", help="number of test speakers (default: a fifth of all, 3 to 200)"
    )
    meanings = {
        "min_seconds": "seconds; shorter recordings are left out",
        "long_seconds": "seconds; longer recordings are cut by voice activity (needs the extra vad)",
        "segment_seconds": "seconds; the longest piece that a long recording is cut into",
        "targets": "at most so many target trials",
        "nontargets": "at most so many nontarget trials",
    }
    for name, meaning in meanings.items():
        default = LIMITS[name]
        option = "--" + name.replace("_", "-")
        added.add_argument(
            option, type=type(default), default=default, metavar="N", help=f"{meaning} (default: {default:g})"
        )
    added.add_argument("--workers", type=int, default=2, metavar="N", help="number of threads that decode (default: 2)")
    added.add_argument(
        "--configurations",
        type=Path,
        metavar="DIR",
        help="folder with own.yaml and its variants (default: those that come with spkver)",
    )


def prepare_folder(options) -> None:
    """Turn own recordings into data directories, and choose a configuration for them."""
    from spkver.config.shipped import CONFIGURATIONS
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


def add_pack_verb(verb: Callable) -> None:
    """Give the parser ``spkver pack``; ``verb(name, function)`` adds it."""
    added = verb("pack", pack)
    added.add_argument(
        "source",
        type=Path,
        help="data directory to pack; or shards that are there, which are only listed: a folder of .tar files, or a "
        "file that names one a line",
    )
    added.add_argument("out", type=Path, help="the data directory to make, with its shards in shards/")
    added.add_argument(
        "--utterances-per-shard", type=int, default=1000, metavar="N", help="utterances in a shard (default: 1000)"
    )
    added.add_argument(
        "--format",
        default="flac",
        choices=("flac", "wav"),
        help="format of the audio, where the source is lossless; lossy audio is taken as it is (default: flac)",
    )
    added.add_argument(
        "--sample-rate",
        type=int,
        default=16000,
        metavar="HZ",
        help="rate at which the audio is checked, data.sample_rate of the training (default: 16000)",
    )
    added.add_argument("--workers", type=int, metavar="N", help="number of threads (default: one a core)")


def pack(options) -> None:
    """Pack a data directory into shards (tars of WebDataset's form), or list the shards of another toolkit."""
    from spkver.config.schema import Data
    from spkver.data.audio_check import keep_usable
    from spkver.data.directory import read_data_directory
    from spkver.data.machine import usable_cores
    from spkver.data.packing import index_shards, pack_directory, shards_of

    workers = options.workers or usable_cores()
    for name, number in (("utterances-per-shard", options.utterances_per_shard), ("workers", workers)):
        if number < 1:
            raise SpkverError(f"pack: --{name} must be 1 or more, got {number}")
    if options.out.resolve() == options.source.resolve():
        raise SpkverError(f"pack: {options.out} is the source; give another folder to make")
    if not (options.source / "wav.scp").is_file():
        print(index_shards(shards_of(options.source), options.out.absolute(), workers))
        return
    directory = keep_usable(
        read_data_directory(options.source), options.sample_rate, workers, Data().max_unusable_share
    )
    print(pack_directory(directory, options.out.absolute(), options.utterances_per_shard, options.format, workers))
