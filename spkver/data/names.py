"""Names of utterances and speakers: how they are written, wherever they come from."""

import unicodedata


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC), by which names are compared: macOS writes ``ü`` as two characters."""
    return unicodedata.normalize("NFC", name)


def is_utf8(name: str) -> bool:
    """Whether a name can be written as UTF-8, which the name of a file in another encoding cannot."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)
