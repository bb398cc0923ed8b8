"""The files of a speaker store: what is written is read again, anything else is refused, and others cannot read it."""

import hashlib
import json
import math

import numpy as np
import pytest

from spkver.errors import SpkverError
from spkver.verification import store_files
from spkver.verification.store_files import Enrolled, Recording, changing, is_name, read_enrolled, write_enrolled


@pytest.fixture
def enrolled():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
    speakers = {
        "anna": [Recording("a1.wav", 1.5, 2.0), Recording("", 3, 4.0)],
        "Jürgen": [Recording("j.wav", 2.0, 1.0)],
    }
    return Enrolled("0" * 64, "/models/m", speakers, rows)


@pytest.fixture
def store(tmp_path, enrolled):
    with changing(tmp_path / "store"):
        write_enrolled(tmp_path / "store", enrolled)
    return tmp_path / "store"


def test_a_store_is_read_as_it_was_written(store, enrolled):
    found = read_enrolled(store)
    assert (found.fingerprint, found.model, found.speakers) == ("0" * 64, "/models/m", enrolled.speakers)
    assert list(found.speakers) == ["anna", "Jürgen"]
    assert np.array_equal(found.embeddings, enrolled.embeddings)
    assert np.array_equal(found.rows("anna"), enrolled.embeddings[:2])
    assert np.array_equal(found.rows("Jürgen"), enrolled.embeddings[2:])


def test_its_format_is_that_of_earlier_versions(store, enrolled):
    array = store / f"embeddings-{hashlib.sha256(next(store.glob('*.npy')).read_bytes()).hexdigest()[:16]}.npy"
    assert sorted(path.name for path in store.iterdir()) == [array.name, "store.json"]
    assert np.array_equal(np.load(array), enrolled.embeddings)
    text = (store / "store.json").read_text(encoding="utf-8")
    assert "Jürgen" in text and text.startswith('{\n  "fingerprint"') and text.endswith("}\n")
    assert json.loads(text) == {
        "fingerprint": "0" * 64,
        "model": "/models/m",
        "embeddings": array.name,
        "speakers": {
            "anna": [
                {"file": "a1.wav", "seconds": 1.5, "magnitude": 2.0},
                {"file": "", "seconds": 3, "magnitude": 4.0},
            ],
            "Jürgen": [{"file": "j.wav", "seconds": 2.0, "magnitude": 1.0}],
        },
    }


def test_embeddings_are_stored_as_float32_and_a_new_array_takes_the_place_of_the_old(store, enrolled):
    (store / "notes.npy").write_bytes(b"mine")
    before = {path.name for path in store.glob("embeddings-*.npy")}
    write_enrolled(store, Enrolled("f", "m", enrolled.speakers, enrolled.embeddings.astype(np.float64) + 1))
    (array,) = store.glob("embeddings-*.npy")
    assert array.name not in before
    assert np.load(array).dtype == np.float32
    assert np.array_equal(read_enrolled(store).embeddings, enrolled.embeddings + 1)
    assert (store / "notes.npy").read_bytes() == b"mine"


def test_without_a_store_there_is_none_and_one_without_speakers_is_empty(tmp_path):
    assert read_enrolled(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()
    write_enrolled(tmp_path, Enrolled("f", "m"))
    found = read_enrolled(tmp_path)
    assert (found.speakers, found.embeddings.shape, found.embeddings.dtype) == ({}, (0, 0), np.float32)


@pytest.mark.parametrize(
    ("name", "can_be"),
    [
        ("anna", True),
        ("Jürgen Groß", True),
        ("x", True),
        ("x" * 200, True),
        ("x" * 201, False),
        ("", False),
        (" anna", False),
        ("anna ", False),
        ("an\nna", False),
        ("an\x00na", False),
        (7, False),
        (None, False),
        (b"anna", False),
    ],
)
def test_a_name_is_printable_text_without_spaces_at_its_ends(name, can_be):
    assert is_name(name) is can_be


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    ("changed", "finite"),
    [
        ({}, True),
        ({"embedding": math.nan}, False),
        ({"embedding": math.inf}, False),
        ({"seconds": math.nan}, False),
        ({"seconds": 0.0}, False),
        ({"seconds": math.inf}, False),
        ({"magnitude": math.nan}, False),
        ({"magnitude": -1.0}, False),
        ({"magnitude": 1e-9}, True),
    ],
)
def test_what_cannot_be_compared_is_known_of_its_speaker_alone(enrolled, place, changed, finite):
    owner, other = (("anna", "Jürgen"), ("anna", "Jürgen"), ("Jürgen", "anna"))[place]
    listed = enrolled.speakers[owner]
    one = listed[place if owner == "anna" else 0]
    if "embedding" in changed:
        enrolled.embeddings[place, 2] = changed["embedding"]
    listed[listed.index(one)] = Recording(
        one.file, changed.get("seconds", one.seconds), changed.get("magnitude", one.magnitude)
    )
    assert enrolled.is_finite(owner) is finite
    assert enrolled.is_finite(other) is True


def modes(store):
    return {path.name: path.stat().st_mode & 0o777 for path in [store, *store.iterdir()] if path.name != ".lock"}


def test_a_store_is_its_owners_alone_also_one_that_was_not(store, tmp_path):
    assert set(modes(store).values()) == {0o600, 0o700} and modes(store)["store"] == 0o700
    before = modes(store)
    store.chmod(0o755)
    for path in store.iterdir():
        path.chmod(0o644)
    with changing(store):
        assert modes(store) == before
    # A folder that holds no store stays as its owner made it.
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o755)
    mine.chmod(0o755)
    with changing(mine):
        assert modes(mine)["mine"] == 0o755


def test_a_folder_is_made_with_those_above_it(tmp_path):
    with changing(tmp_path / "a" / "b" / "store"):
        assert (tmp_path / "a" / "b" / "store").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SpkverError, match=rf"^{tmp_path}/file/store: cannot be made a speaker store \(File exists\)$"),
        changing(tmp_path / "file" / "store"),
    ):
        pass


def test_what_a_killed_change_left_behind_is_removed_by_the_next(store):
    left = store / ".store.json.abcdefgh.unfinished"
    left.write_text("half")
    with changing(store):
        assert not left.exists()
    assert read_enrolled(store) is not None


def with_record(change):
    def damage(store):
        record = json.loads((store / "store.json").read_text(encoding="utf-8"))
        change(record)
        (store / "store.json").write_text(json.dumps(record))

    return damage


def with_array(values):
    def damage(store):
        np.save(store / "new.npy", values)
        name = f"embeddings-{hashlib.sha256((store / 'new.npy').read_bytes()).hexdigest()[:16]}.npy"
        (store / "new.npy").rename(store / name)
        with_record(lambda record: record.update(embeddings=name))(store)

    return damage


def anna(**changed):
    return with_record(lambda record: record["speakers"]["anna"][0].update(changed))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_record(lambda record: record.update(fingerprint=7)), "fingerprint, model and embeddings must be text"),
        (with_record(lambda record: record.update(model=None)), "fingerprint, model and embeddings must be text"),
        (with_record(lambda record: record.update(embeddings=["a"])), "fingerprint, model and embeddings must be text"),
        (with_record(lambda record: record.pop("model")), r"is no speaker store \(KeyError: 'model'\); enrol again"),
        (with_record(lambda record: record.update(speakers=[])), r"is no speaker store \(AttributeError"),
        (anna(loudness=1), r"is no speaker store \(TypeError"),
        (anna(seconds="1.5"), "what it says of the speaker 'anna' is damaged"),
        (anna(magnitude=None), "what it says of the speaker 'anna' is damaged"),
        (anna(file=None), "what it says of the speaker 'anna' is damaged"),
        (with_record(lambda record: record["speakers"].update(anna=[])), "of the speaker 'anna' is damaged"),
        (with_record(lambda record: record["speakers"].update({" x": []})), "of the speaker ' x' is damaged"),
        (with_array(np.zeros((3, 4))), r"3 recordings of 2 speakers are listed, found float64 \(3, 4\)"),
        (with_array(np.zeros(3, np.float32)), r"3 recordings of 2 speakers are listed, found float32 \(3,\)"),
        (with_array(np.zeros((4, 4), np.float32)), r"3 recordings of 2 speakers are listed, found float32 \(4, 4\)"),
    ],
)
def test_a_store_that_is_not_what_was_written_is_refused(store, damage, message):
    damage(store)
    with pytest.raises(SpkverError, match=message) as caught:
        read_enrolled(store)
    assert str(caught.value).startswith(str(store)) and "\n" not in str(caught.value)


def test_an_array_elsewhere_is_never_read(store, tmp_path):
    (array,) = store.glob("embeddings-*.npy")
    array.rename(tmp_path / array.name)
    with_record(lambda record: record.update(embeddings=f"../{array.name}"))(store)
    with pytest.raises(SpkverError, match=rf"^{array}: cannot be read \(\[Errno 2\]"):
        read_enrolled(store)


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "store").write_text("")
    expected = (
        rf"^{tmp_path}/store/store.json: cannot be read \(Not a directory\); is this the folder of a speaker store\?$"
    )
    with pytest.raises(SpkverError, match=expected):
        read_enrolled(tmp_path / "store")


def test_a_store_that_changes_at_every_look_is_given_up(store, monkeypatch):
    contents = iter(range(1000))
    monkeypatch.setattr(store_files, "_content", lambda path: b"%d" % next(contents))
    with pytest.raises(SpkverError, match=rf"^{store}: is being changed all the time; try again later$"):
        read_enrolled(store)
    assert next(contents) == 101
