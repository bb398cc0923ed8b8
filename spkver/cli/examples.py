"""What ``spkver`` alone prints, and the examples at the end of each verb's help; the tests parse every line."""

GUIDE = """\
spkver: speaker verification. Train a speaker encoder, score trials, say how good it is.

  spkver verify a.wav b.wav                  are two recordings of one speaker? by the model that comes with spkver
  spkver recipe mini .                       a first training in minutes: then recipes/mini/run.sh
  spkver recipe own_folder .                 your recordings: then recipes/own_folder/run.sh --audio DIR
  spkver report exp/own                      a page about a run: curves, figures, a map that can be heard
  spkver verify a.wav b.wav --model exp/own  the same by a model of yours
  spkver evaluate --scores FILE --trials FILE   EER, minDCF and Cllr of any toolkit's scores

  spkver --help                              all verbs
  spkver VERB --help                         the options of one, with examples
  spkver doctor                              what this machine and installation have
  eval "$(spkver completion bash)"           verbs, options and files at the tab key (pip install shtab)
"""

EXAMPLES = {
    "prepare mini": ["spkver prepare mini data/mini"],
    "prepare speechocean762": [
        "spkver prepare speechocean762 data/ocean",
        "spkver prepare speechocean762 data/ocean --corpus speechocean762",
    ],
    "prepare voxceleb": ["spkver prepare voxceleb data/voxceleb --corpus VoxCeleb"],
    "prepare librispeech": [
        "spkver prepare librispeech data/libri --train train-clean-100 --test test-clean",
    ],
    "prepare cnceleb": ["spkver prepare cnceleb data/cnceleb"],
    "prepare musan": ["spkver prepare musan data/musan --corpus musan"],
    "prepare rirs_noises": ["spkver prepare rirs_noises data/rirs --corpus RIRS_NOISES"],
    "prepare esc10": ["spkver prepare esc10 data/esc10 --corpus ESC-50"],
    "prepare general": [
        "spkver prepare general data/general",
        "spkver prepare general data/general --speechocean762 speechocean762 --speech-commands speech_commands",
    ],
    "prepare folder": ["spkver prepare folder data/own --audio recordings"],
    "config": ["spkver config --list", "spkver config mini optimizer.lr=0.001"],
    "pack": ["spkver pack data/own/train data/own_shards"],
    "recipe": ["spkver recipe --list", "spkver recipe own_folder ."],
    "train": [
        "spkver train mini --data data/mini/train",
        "spkver train conf/own.yaml --data data/own/train --exp exp/own batch.speakers=32",
        "spkver train exp/own/config.yaml --data data/own/train --exp exp/own --resume",
    ],
    "average": ["spkver average exp/own"],
    "embed": ["spkver embed data/own/test exp/own", "spkver embed data/own/test exp/own --onnx own.onnx"],
    "import-embeddings": ["spkver import-embeddings data/own/test exp/theirs xvector.scp"],
    "export-embeddings": ["spkver export-embeddings data/own/test exp/own own.npz"],
    "score": [
        "spkver score data/own/test exp/own",
        "spkver score data/own/test exp/own --system cosine+asnorm --trials more_trials",
    ],
    "norm": ["spkver norm data/own/test exp/own --train data/own/train"],
    "plda": ["spkver plda data/own/test exp/own --train data/own/train scoring.plda.lda_dim=100"],
    "calibrate": ["spkver calibrate data/own/test exp/own --train data/own/train --system cosine+asnorm"],
    "fuse": ["spkver fuse data/own/test exp/own exp/own:plda --train data/own/train --exp exp/fused"],
    "evaluate": [
        "spkver evaluate data/own/test exp/own --system cosine+asnorm --by gender",
        "spkver evaluate --scores scores.txt --trials veri_test.txt --json",
    ],
    "threshold": ["spkver threshold data/own/test exp/own --far 0.01", "spkver threshold data/own/test exp/own --save"],
    "compare": ["spkver compare data/own/test exp/own exp/own:cosine+asnorm"],
    "results": ["spkver results exp/own exp/own_lmf", "spkver results exp/own --json"],
    "export": [
        "spkver export exp/own own.onnx --int8",
        "spkver export exp/own --huggingface own_model",
    ],
    "import-model": [
        "spkver import-model voxceleb_resnet34.onnx exp/theirs --like wespeaker",
        "spkver import-model exp/theirs --weights avg_model.pt --like wespeaker",
    ],
    "download-model": ["spkver download-model"],
    "verify": [
        "spkver verify a.wav b.wav",
        "spkver verify a.wav b.wav --model exp/own",
        "spkver verify a.wav b.wav --model exp/own --prior 0.01 --json",
    ],
    "enroll": [
        "spkver enroll anna anna1.wav anna2.wav --store people --model exp/own",
        "spkver enroll anna anna3.wav --add --store people",
    ],
    "identify": ["spkver identify x.wav --store people", "spkver identify meeting.flac --windows --store people"],
    "speakers": ["spkver speakers --store people", "spkver speakers --store people --remove anna"],
    "plot margin": ["spkver plot margin --margin 0.2 0.5", "spkver plot margin --interactive margin.html"],
    "plot run": ["spkver plot run exp/own", "spkver plot run exp/own --only records det --format svg"],
    "plot det": ["spkver plot det exp/own exp/own_lmf --systems cosine"],
    "plot architecture": ["spkver plot architecture exp/own/model"],
    "animate": ["spkver animate exp/own --method pca-window --confusion"],
    "report": ["spkver report exp/own exp/own_lmf --audio"],
    "doctor": ["spkver doctor"],
    "completion": ['eval "$(spkver completion bash)"', "spkver completion zsh >_spkver"],
}
"""Verb -> lines that show its use."""
