"""The record of a system, the table of systems, and metrics.json that keeps what others wrote."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from spkver.errors import SpkverError
from spkver.scoring.metrics import actual_dcf, equal_error_rate, min_dcf
from spkver.scoring.metrics.bootstrap import cllr_interval, intervals
from spkver.scoring.metrics.cllr import cllr, min_cllr
from spkver.scoring.metrics.summary import format_table, summary, update_metrics_json


@pytest.fixture
def trials():
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(10), 4)
    a, b = np.triu_indices(40, k=1)
    labels = (speaker[a] == speaker[b]).astype(np.int8)
    scores = (rng.normal(size=len(labels)) + 2 * labels).astype(np.float32)
    return scores, labels, speaker[a].astype(str), speaker[b].astype(str)


def test_the_record_holds_the_figures_under_the_agreed_names(trials):
    record = summary(*trials, n=50, seed=3)
    eer, threshold = equal_error_rate(*trials[:2])
    found = intervals(*trials, n=50, seed=3)
    assert record == {
        "act_dcf_0.01": actual_dcf(*trials[:2], 0.01),
        "act_dcf_0.05": actual_dcf(*trials[:2], 0.05),
        "cllr": cllr(*trials[:2]),
        "cllr_interval": list(cllr_interval(*trials, n=50, seed=3)),
        "min_cllr": min_cllr(*trials[:2]),
        "eer": eer,
        "eer_interval": list(found["eer"]),
        "threshold": threshold,
        "min_dcf_0.01": min_dcf(*trials[:2], 0.01)[0],
        "min_dcf_0.01_interval": list(found["min_dcf_0.01"]),
        "min_dcf_0.05": min_dcf(*trials[:2], 0.05)[0],
        "min_dcf_0.05_interval": list(found["min_dcf_0.05"]),
        "targets": 60,
        "nontargets": 720,
    }
    assert json.loads(json.dumps(record)) == record


def test_without_speakers_the_record_has_no_intervals(trials):
    assert set(summary(*trials[:2])) == {
        "eer",
        "threshold",
        "min_dcf_0.01",
        "min_dcf_0.05",
        "act_dcf_0.01",
        "act_dcf_0.05",
        "cllr",
        "min_cllr",
        "targets",
        "nontargets",
    }
    with pytest.raises(ValueError, match="give both"):
        summary(*trials[:3])


def test_the_table_shows_each_system_in_aligned_columns():
    record = {
        "eer": 0.0412,
        "eer_interval": [0.038, 0.1044],
        "threshold": 0.314,
        "min_dcf_0.01": 0.3517,
        "min_dcf_0.05": 0.21,
        "cllr": 0.5,
    }
    bare = {"eer": 0.5, "threshold": -0.1, "min_dcf_0.01": 1.0}
    assert format_table([("cosine, large margin", record), ("untrained", bare)]).split("\n") == [
        "system                 EER                    minDCF(0.01)   minDCF(0.05)   Cllr     threshold",
        "cosine, large margin    4.12 % (3.80-10.44)    0.352          0.210          0.500    0.314",
        "untrained              50.00 %                 1.000         -              -        -0.100",
    ]


def test_the_table_of_no_systems_is_its_header():
    assert " ".join(format_table([]).split()) == "system EER Cllr threshold"


def test_the_table_has_a_column_for_each_prior_that_was_measured():
    rows = [("a", {"min_dcf_0.05": 0.5, "min_dcf_0.001": 0.7}), ("b", {"min_dcf_1e-05": 0.9, "act_dcf_0.1": 0.1})]
    header, first, second = (line.split() for line in format_table(rows).split("\n"))
    assert header == ["system", "EER", "minDCF(1e-05)", "minDCF(0.001)", "minDCF(0.05)", "Cllr", "threshold"]
    assert first == ["a", "-", "-", "0.700", "0.500", "-", "-"]
    assert second == ["b", "-", "0.900", "-", "-", "-", "-"]


def test_a_record_joins_those_that_are_there(tmp_path):
    path = tmp_path / "exp" / "metrics.json"
    update_metrics_json(path, "vox1-O", "cosine", {"eer": 0.1, "old": 1})
    update_metrics_json(path, "vox1-O", "cosine+asnorm", {"eer": 0.09})
    update_metrics_json(path, "vox1-E", "cosine", {"eer": 0.2})
    update_metrics_json(path, "vox1-O", "cosine", {"eer": 0.08})
    assert json.loads(path.read_text()) == {
        "vox1-O": {"cosine": {"eer": 0.08}, "cosine+asnorm": {"eer": 0.09}},
        "vox1-E": {"cosine": {"eer": 0.2}},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {},\n "b": }', "metrics.json:2: not JSON"),
        ("", "metrics.json:1: not JSON"),
        ("[1]", "metrics.json: expected"),
        ('{"a": 3}', "metrics.json: expected"),
        ('{"a": {"b": 3}}', "metrics.json: the record of 'b' on 'a' is 3, expected figures"),
        ('{"a": {"b": {"eer": "5"}}}', """has "5" for 'eer', expected a number; mend or remove"""),
        ('{"a": {"b": {"threshold": NaN}}}', "has NaN for 'threshold', expected a number"),
        ('{"a": {"b": {"eer_interval": [1]}}}', "for 'eer_interval', expected two numbers"),
        ('{"a": {"b": {"made_of": {"data": []}}}}', "for 'made_of', not what was written"),
        ("[" * 100_000, "metrics.json: cannot be read"),
    ],
)
def test_a_file_that_is_no_record_is_named_and_left_alone(tmp_path, text, message):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(SpkverError, match=message):
        update_metrics_json(path, "a", "b", {})
    assert path.read_text() == text


def test_a_figure_that_is_nan_is_not_written(tmp_path):
    path = tmp_path / "metrics.json"
    update_metrics_json(path, "a", "b", {"eer": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        update_metrics_json(path, "a", "b", {"eer": float("nan")})
    assert json.loads(path.read_text()) == {"a": {"b": {"eer": 0.5}}}


RECORD = """
import sys
from spkver.scoring.metrics.summary import update_metrics_json
for number in range(25):
    update_metrics_json(sys.argv[1], "test/trials", f"{sys.argv[2]}-{number}", {"eer": 0.1})
"""


def test_processes_that_evaluate_at_the_same_time_lose_no_record(tmp_path):
    path = tmp_path / "metrics.json"
    processes = [subprocess.Popen([sys.executable, "-c", RECORD, str(path), name]) for name in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    systems = json.loads(path.read_text())["test/trials"]
    assert sorted(systems) == sorted(f"{name}-{number}" for name in "abc" for number in range(25))
    assert os.listdir(tmp_path) == ["metrics.json"]
