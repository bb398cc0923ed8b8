"""Damage to the content of files, drawn from a random generator: the same seed gives the same bytes.

`damaged` knows by a file's suffix what it is made of. Half of the time it damages bytes, whatever they mean; otherwise
it takes the file apart, damages a part, and puts it together again with right lengths and checksums, so that the damage
comes past the first check.
"""

import copy
import datetime
import io
import json
import math
import struct
import tarfile
import zipfile
from collections.abc import Callable
from random import Random

import torch
import yaml

LONG = "x" * 100_000

WORDS = (
    "", " ", "NaN", "nan", "inf", "-inf", "1e999", "-0", "0", "-1", "1", "1e-320", "99999999999999999999", "9" * 400,
    "true", "null", "~", "target", "nontarget", "0x10", "1_000", "\\x00", "ä", "声", "\u202e", "a\tb", "'",
    '"', "#", "..",
    "../..", "/dev/zero", "/dev/null", "/proc/self/mem", ".", "/", "|cat", "cat|", "a:99999999999999999999",
    "a[0:1]", LONG,
)  # fmt: skip
RAW = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\r",
    b"\n",
    b"\n\n",
    b"\x1b[2J",
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"\x85",
)
NUMBERS = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
VALUES = (
    None, True, False, 0, 1, -1, 2**63, 10**400, 0.5, -1e308, math.nan, math.inf, -math.inf, "", "x", "NaN", "1e5",
    LONG,
    [], [[]], {}, {"a": 1}, [None], ["x", "x"], {"": {}}, list(range(1000)),
)  # fmt: skip
YAML_WORDS = (
    "2020-01-01", "2020-01-01T10:00:00Z", "!!python/object/apply:os.system [id]", "!!binary eA==", "!!set {a, b}",
    "!x y",
    "&a [*a]", "*nowhere", "<<: {a: 1}", "{? [a, b] : c}", "[" * 5000, "{a: " * 3000, "- " * 2000, "|", ">", "@",
    "%", "`",
    "{1: 2}", "{null: 1}", "{1.5: x}", "{true: x}", "[]", "{}", "0o7", "1:30", "=", "<<", "? ", "--- ", "... ",
    "\tx", "!!float x",
    "!!int ''", "!!null x", "!!timestamp x", "!!pairs [a: 1]", "!!omap [a: 1]", "&x", "2020-99-99", "base: .",
    "base: /dev/zero",
)  # fmt: skip
BOMB = "".join(
    [f"a0: &a0 [{', '.join(['x'] * 9)}]\n", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))]
)
MERGE_BOMB = "m0: &m0 {x: 1}\n" + "".join(
    f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)


def damaged(content: bytes, suffix: str, rng: Random) -> bytes:
    """The content of a file after damage of one kind that its suffix allows."""
    kinds = [damaged_bytes, *_KINDS.get(suffix, ())]
    kind = rng.choice(kinds) if rng.random() < 0.5 else rng.choice(kinds[1:] or kinds)
    return kind(content, rng)


def damaged_bytes(content: bytes, rng: Random) -> bytes:
    """Bits turned, parts cut, put in, doubled, overwritten; more often at either end, where headers stand."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = _place(data, rng)
        n = rng.choice((1, 2, 4, 16, 100, 1000))
        what = rng.randrange(9)
        if what == 0:
            for _ in range(rng.choice((1, 1, 8, 64))):
                if data:
                    data[_place(data, rng) % len(data)] ^= 1 << rng.randrange(8)
        elif what == 1:
            del data[at:]
        elif what == 2:
            data[at:at] = rng.randbytes(n)
        elif what == 3:
            del data[at : at + n]
        elif what == 4:
            data[at:at] = data[at : at + n] * rng.choice((1, 2, 50))
        elif what == 5:
            data[at : at + n] = rng.choice((b"\0", b"\xff", b" ")) * n
        elif what == 6:
            number = rng.choice(NUMBERS) % 2**64
            width = rng.choice((1, 2, 4, 8))
            data[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, rng.choice(("little", "big")))
        elif what == 7:
            data[at:at] = rng.choice(RAW)
        else:
            data = bytearray(rng.choice((b"", b"\0", bytes(data) * 2, bytes(data[::-1]), bytes(len(data)))))
    return bytes(data)


def damaged_text(content: bytes, rng: Random) -> bytes:
    """Lines and words of a text doubled, lost, swapped, and put in place of others."""
    lines = content.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        number = rng.randrange(len(lines))
        words = lines[number].split(b" ")
        word = rng.randrange(len(words))
        what = rng.randrange(8)
        if what == 0:
            lines.insert(number, rng.choice(lines))
        elif what == 1 and len(lines) > 1:
            del lines[number]
        elif what == 2:
            words[word] = rng.choice(WORDS).encode()
        elif what == 3:
            words.insert(word, rng.choice(WORDS).encode())
        elif what == 4:
            del words[word]
        elif what == 5:
            words[word] = damaged_bytes(words[word], rng)
        elif what == 6:
            words = [rng.choice((b"\t", b"  ", b",", b";", b"\xc2\xa0", b"\0")).join(words)]
        else:
            words = [*words, *rng.choice(lines).split(b" ")]
        if what not in (0, 1):
            lines[number] = b" ".join(words)
    return b"\n".join(lines)


def damaged_csv(content: bytes, rng: Random) -> bytes:
    """A cell of a comma separated table."""
    lines = [line.split(b",") for line in content.split(b"\n")]
    row = rng.choice(lines)
    row[rng.randrange(len(row))] = rng.choice((*WORDS, '"', '"a', 'a"b', "a,b", "label", "enroll", "score")).encode()
    return b"\n".join(map(b",".join, lines))


def damaged_json(content: bytes, rng: Random) -> bytes:
    """A value of a JSON document, or of one of its lines where each is a document."""
    lines = content.split(b"\n")
    try:
        json.loads(content)
    except ValueError:
        number = rng.randrange(max(len(lines) - 1, 1))
        lines[number] = damaged_json(lines[number] or b"{}", rng)
        return b"\n".join(lines)
    if rng.random() < 0.1:
        return rng.choice((b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000, b"[]", b"null", b'"x"', b"{}", b"1e999"))
    return json.dumps(_damaged_tree(json.loads(content), rng)).encode()


def damaged_yaml(content: bytes, rng: Random) -> bytes:
    """A value of a YAML document, as a tree or as a text that other tools would not write."""
    what = rng.randrange(4)
    if what == 0:
        tree = _damaged_tree(
            yaml.safe_load(content), rng, extra=(datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1))
        )
        return yaml.safe_dump(tree, sort_keys=False).encode()
    if what == 1:
        return content + rng.choice((BOMB, MERGE_BOMB, f"{BOMB}seed: *a11\n", f"{MERGE_BOMB}data: *m11\n")).encode()
    lines = content.split(b"\n")
    number = rng.randrange(len(lines))
    key, colon, _ = lines[number].partition(b":")
    word = rng.choice(YAML_WORDS + WORDS).encode()
    lines[number] = key + colon + b" " + word if what == 2 else word
    return b"\n".join(lines)


def damaged_npy(content: bytes, rng: Random) -> bytes:
    """The header of an array, with its length right again."""
    length = struct.unpack("<H", content[8:10])[0]
    header, data = content[10 : 10 + length].decode(), content[10 + length :]
    shape = header[header.index("(") : header.index(")") + 1]
    replacements = (
        (shape, "(99999999999, 99999999999)"), (shape, "(10000000000,)"), (shape, "(-1, 2)"), (shape, "()"),
        (shape, "(0, 16)"),
        (shape, "(2**40,)"), (shape, "(True, 1)"), (shape, "(3.0,)"), (shape, "(" * 500),
        (shape, "(1,) * 9999999999"),
        ("'<f4'", "'|O'"), ("'<f4'", "'<f2'"), ("'<f4'", "'<f8'"), ("'<f4'", "'<U9999999'"), ("'<f4'", "'<M8[s]'"),
        ("'<f4'", "[('a', '<f4')]"), ("'<f4'", "'|V4'"), ("'<f4'", "'>f4'"), ("'<f4'", "'<c8'"), ("'<f4'", "3"),
        ("False", "True"), ("'descr'", "'x'"), ("{", "["), ("False", "__import__('os').system('id')"),
    )  # fmt: skip
    old, new = rng.choice(replacements)
    header = header.replace(old, new).rstrip() + "\n"
    return content[:8] + struct.pack("<H", min(len(header), 65535)) + header.encode() + data


def damaged_safetensors(content: bytes, rng: Random) -> bytes:
    """The header of a safetensors file, with its length right again."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    if rng.random() < 0.5:
        name = rng.choice([key for key in header if key != "__metadata__"])
        header[name] = rng.choice((
            {**header[name], "dtype": rng.choice(("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "X"))},
            {**header[name], "shape": rng.choice(([], [0], [2**62], [-1], [1.5], header[name]["shape"][::-1]))},
            {**header[name], "data_offsets": rng.choice(([0, 0], [0, 2**63], [5, 1], [0], "x"))},
        ))  # fmt: skip
    else:
        header = _damaged_tree(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def damaged_zip(content: bytes, rng: Random) -> bytes:
    """A member of a zip file, which is lost, doubled, renamed, damaged or encrypted; .npz and torch's are zip files."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    what = rng.randrange(7)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for member, data in members.items():
            if member != name or what not in (0, 1, 2):
                archive.writestr(member, data)
        if what == 1:
            archive.writestr(
                rng.choice(("/x", "../x", "x" * 300, "a\nb", "", "C:/x", *WORDS[:-1])) or "x", members[name]
            )
        if what == 2:
            damage = damaged_npy if name.endswith(".npy") and members[name][:6] == b"\x93NUMPY" else damaged_bytes
            archive.writestr(name, damage(members[name], rng))
        if what == 3:
            archive.writestr(name.replace("/data/0", "/data/00") + "x", members[name])
    written = bytearray(out.getvalue())
    if what >= 4:  # claims about a member: encrypted, by a method that nobody has, of a size that no disk has
        local, central = written.find(b"PK\3\4"), written.find(b"PK\1\2")
        if what == 4:
            for at in (local + 6, central + 8):
                written[at] |= 1
        if what == 5:
            for at in (local + 8, central + 10):
                written[at : at + 2] = struct.pack("<H", rng.choice((1, 6, 9, 12, 14, 93, 99)))
        if what == 6:
            written[central + 20 : central + 28] = struct.pack("<II", *rng.choices((0, 1, 2**31, 2**32 - 1), k=2))
    return bytes(written)


def damaged_state(content: bytes, rng: Random) -> bytes:
    """A value in a dictionary that torch wrote."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    tensors = (torch.zeros(0), torch.zeros(3), torch.tensor(math.nan), torch.zeros(2, 2, dtype=torch.int8))
    out = io.BytesIO()
    torch.save(_damaged_tree(state, rng, extra=tensors), out)
    return out.getvalue()


def damaged_wav(content: bytes, rng: Random) -> bytes:
    """A field of the header of a WAV file."""
    data = bytearray(content)
    at, width = rng.choice(((4, 4), (16, 4), (20, 2), (22, 2), (24, 4), (24, 4), (28, 4), (32, 2), (34, 2), (40, 4)))
    number = rng.choice((*NUMBERS, 3, 4000, 8000, 22051, 44101, 48000, 192000, 384000, 6, 7, 8, 24, 65534))
    data[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(data)


def damaged_tar(content: bytes, rng: Random) -> bytes:
    """A member of a tar archive, which becomes something that nobody wants unpacked."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(fileobj=out, mode="w") as new:
        members = old.getmembers()
        bad = rng.randrange(len(members))
        for number, member in enumerate(members):
            data = old.extractfile(member) if member.isfile() else None
            if number == bad:
                field, value = rng.choice((
                    ("name", "/etc/x"), ("name", "../x"), ("name", "a/../../x"), ("name", "x" * 5000), ("name",
                    "a\nb"),
                    ("name", "C:/x"), ("name", "x\\..\\..\\y"), ("name", members[0].name), ("name", "ä" * 200),
                    ("type", tarfile.SYMTYPE), ("type", tarfile.LNKTYPE), ("type", tarfile.CHRTYPE), ("type", b"Z"),
                    ("type", tarfile.FIFOTYPE), ("type", tarfile.DIRTYPE), ("mode", 0), ("uid", 2**40),
                    ("mtime", -(2**40)), ("mtime", 2**60), ("linkname", "/etc/passwd"), ("linkname", "../.."),
                ))  # fmt: skip
                setattr(member, field, value)
                if field == "linkname":
                    member.type = tarfile.SYMTYPE
            new.addfile(member, data if member.isfile() else None)
    return out.getvalue()


def _damaged_tree(value, rng: Random, extra: tuple = ()):
    """Nested dictionaries and lists with a value replaced, lost, doubled or renamed."""
    value = copy.deepcopy(value)
    containers = []

    def collect(node) -> None:
        if isinstance(node, dict | list) and node:
            containers.append(node)
            for child in node.values() if isinstance(node, dict) else node[:50]:
                collect(child)

    collect(value)
    if not containers or rng.random() < 0.03:
        return rng.choice(VALUES + extra)
    node = rng.choice(containers)
    key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
    what = rng.randrange(6)
    if what == 0:
        del node[key]
    elif what == 1 and isinstance(node, dict):
        node[rng.choice(("x", "", LONG, str(key) + " ", str(key).upper()))] = node.pop(key)
    elif what == 2:
        node[key] = [node[key]]
    else:
        node[key] = rng.choice(VALUES + extra)
    return value


def _place(data: bytes | bytearray, rng: Random) -> int:
    size = len(data)
    near = rng.random()
    if near < 0.35:
        return rng.randrange(min(size, 160) + 1)
    if near < 0.5:
        return size - rng.randrange(min(size, 300) + 1)
    return rng.randrange(size + 1)


Damage = Callable[[bytes, Random], bytes]
_KINDS: dict[str, tuple[Damage, ...]] = {
    "": (damaged_text, damaged_text),
    ".txt": (damaged_text,),
    ".scp": (damaged_text,),
    ".csv": (damaged_csv, damaged_text),
    ".tsv": (damaged_text,),
    ".json": (damaged_json, damaged_json, damaged_text),
    ".jsonl": (damaged_json, damaged_text),
    ".yaml": (damaged_yaml, damaged_yaml, damaged_text),
    ".npy": (damaged_npy,),
    ".npz": (damaged_zip,),
    ".safetensors": (damaged_safetensors,),
    ".pt": (damaged_zip, damaged_state, damaged_state),
    ".wav": (damaged_wav,),
    ".zip": (damaged_zip, damaged_zip),
    ".tar": (damaged_tar, damaged_tar),
}
