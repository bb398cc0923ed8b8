"""Damaged lists, tables and metrics are read, or refused in one line that names the file: never a traceback."""

import json
from random import Random

import numpy as np
import pytest
from damage import damaged

from spkver.config.schema import Evaluation
from spkver.data.audio_check import Survey, read_survey, write_survey
from spkver.data.directory import read_data_directory
from spkver.data.lookup import Rows
from spkver.data.trials import read_trials
from spkver.embedding.folder import read_embeddings, write_embeddings
from spkver.errors import SpkverError
from spkver.experiment.provenance import data_record, file_record, write_record
from spkver.scoring.backends.enrolment import keep_models, kept_models, read_models
from spkver.scoring.evaluation import evaluate_foreign, evaluate_scores, results_table
from spkver.scoring.external_scores import match_scores
from spkver.scoring.score_files import read_scores
from spkver.scoring.system_files import System

SPEAKERS = [f"s{n}" for n in range(6)]
UTTS = [(f"{speaker}-ü{take}", speaker) for speaker in SPEAKERS for take in range(2)]
PAIRS = [(a, b, int(s == t)) for i, (a, s) in enumerate(UTTS) for b, t in UTTS[:i]]
SETTINGS = Evaluation(p_targets=[0.01], bootstrap=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every list and table about twelve utterances of six speakers."""
    made = tmp_path_factory.mktemp("lists")
    data, exp = made / "data", made / "exp"
    data.mkdir()
    exp.mkdir()
    for utt, _ in UTTS:
        (data / f"{utt}.wav").touch()
    (data / "wav.scp").write_text("".join(f"{utt} {utt}.wav\n" for utt, _ in UTTS))
    (data / "utt2spk").write_text("".join(f"{utt} {speaker}\n" for utt, speaker in UTTS))
    (data / "spk2utt").write_text("".join(f"{s} {' '.join(u for u, t in UTTS if t == s)}\n" for s in SPEAKERS))
    (data / "spk2gender").write_text("".join(f"{s} {'fm'[n % 2]}\n" for n, s in enumerate(SPEAKERS)))
    durations = {utt: 1.5 + n for n, (utt, _) in enumerate(UTTS)}
    write_survey(data, Survey.of(durations, [(UTTS[0][0], data / "a b.wav", "silent")]))
    rng = np.random.default_rng(0)
    rows = [(a, b, x, rng.normal(2 * x)) for a, b, x in PAIRS]
    words = ("nontarget", "target")
    lists = {
        "kaldi": lambda a, b, x, s: f"{a} {b} {words[x]}",
        "voxceleb": lambda a, b, x, s: f"{x} {a} {b}",
        "cnceleb": lambda a, b, x, s: f"{a} {b} {x}",
        "two_columns": lambda a, b, x, s: f"{a} {b}",
        "scores": lambda a, b, x, s: f"{a} {b} {s:.4f} {words[x]}",
        "espnet": lambda a, b, x, s: f"{a}*{b} {s:.4f} {x}",
        "scores_alone": lambda a, b, x, s: f"{s:.4f}",
    }
    for name, form in lists.items():
        (made / name).write_text("".join(form(*row) + "\n" for row in rows))
    table = [f"{a},{b},{words[x]},{s:.4f},{'desk' if x else 'phone'},{s:.1f}" for a, b, x, s in rows]
    (made / "table.csv").write_text("\n".join(["enroll,test,label,score,channel,noise", *table]) + "\n")
    (made / "table.tsv").write_text((made / "table.csv").read_text().replace(",", "\t"))
    (made / "models").write_text((data / "spk2utt").read_text())
    keep_models(made / "scores", made / "models")
    system = System(exp)
    path = exp / "scores" / "data" / "kaldi-cosine"
    path.parent.mkdir(parents=True)
    path.write_text((made / "scores").read_text())
    made_of = {"data": data_record(data), "trials": file_record(made / "kaldi"), "model": None}
    write_record(system.scores_record(data, made / "kaldi"), made_of)
    write_embeddings(made / "embeddings", rng.normal(size=(len(UTTS), 3)), [utt for utt, _ in UTTS])
    evaluate_scores(read_data_directory(data), made / "kaldi", system, SETTINGS, [])
    return made


def foreign(path, scores="scores", trials="kaldi", by=()):
    names = {"scores": path.parent / scores, "trials": path.parent / trials}
    return evaluate_foreign(names["scores"], names["trials"], path.parent / "data/utt2spk", SETTINGS, list(by))


def table_of(path):
    return evaluate_foreign(path, path, None, SETTINGS, ["channel", "noise"])


READERS = {
    "data/wav.scp": lambda path: read_data_directory(path.parent),
    "data/utt2spk": lambda path: read_data_directory(path.parent),
    "data/spk2utt": lambda path: read_data_directory(path.parent),
    "data/spk2gender": lambda path: read_data_directory(path.parent),
    "data/utt2dur": lambda path: (read_data_directory(path.parent), read_survey(path.parent)),
    "data/unusable": lambda path: read_survey(path.parent),
    "kaldi": lambda path: foreign(path, trials="kaldi"),
    "voxceleb": lambda path: foreign(path, trials="voxceleb"),
    "cnceleb": lambda path: foreign(path, trials="cnceleb"),
    "two_columns": read_trials,
    "scores": lambda path: (foreign(path), read_scores(path)),
    "espnet": lambda path: foreign(path, scores="espnet"),
    "scores_alone": lambda path: match_scores(path, read_trials(path.parent / "kaldi")),
    "table.csv": table_of,
    "table.tsv": table_of,
    "models": lambda path: read_models(path, Rows([utt for utt, _ in UTTS], "utts")),
    "enrolled/scores": lambda path: kept_models(path.parent.parent / "scores"),
    "embeddings/utts": lambda path: read_embeddings(path.parent),
    "exp/metrics.json": lambda path: results_table([path.parent]),
    "exp/scores/data/kaldi-cosine": lambda path: evaluate_scores(
        read_data_directory(path.parents[3] / "data"),
        path.parents[3] / "kaldi",
        System(path.parents[2]),
        SETTINGS,
        ["gender", "duration"],
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_list_is_read_or_refused_in_one_line_with_its_path(folder, name):
    path = folder / name
    whole = path.read_bytes()
    READERS[name](path)
    metrics = (folder / "exp/metrics.json").read_bytes()
    refused = 0
    try:
        for number in range(150):
            content = damaged(whole, path.suffix, Random(number))
            path.write_bytes(content)
            try:
                READERS[name](path)
            except SpkverError as error:
                refused += 1
                assert str(folder) in str(error) and "\n" not in str(error), (number, str(error))
                assert len(str(error)) < 1000, number
            except Exception as error:
                raise AssertionError(f"mutant {number}: {content[:300]!r}") from error
    finally:
        path.write_bytes(whole)
        if name != "exp/metrics.json":
            (folder / "exp/metrics.json").write_bytes(metrics)
    assert refused > 20


def test_metrics_that_are_read_can_be_shown(folder):
    record = {"eer": 0.1, "threshold": None, "speakers": 3, "later_versions": {"say": "more"}}
    (folder / "exp/metrics.json").write_text(json.dumps({"a/trials": {"cosine": record}, "b/trials": {}}))
    assert results_table([folder / "exp"]).text.startswith("a/trials: ? target, ? nontarget trials\nsystem")


def test_a_column_of_dates_is_a_condition_and_one_in_latin_1_is_refused(folder):
    table = folder / "table.csv"
    whole = table.read_bytes()
    try:
        table.write_bytes(whole.replace(b",desk,", b",2024-05-01,").replace(b",phone,", b",2024-06-01,"))
        assert "\n2024-05-01  (6 + 0 trials)" in table_of(table).text
        table.write_bytes(whole.replace(b",desk,", b",caf\xe9,"))
        with pytest.raises(SpkverError, match=r"table\.csv: column 'channel' is not UTF-8; save the table as UTF-8"):
            table_of(table)
    finally:
        table.write_bytes(whole)
