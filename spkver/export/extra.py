"""Packages of the extra ``onnx``, which a plain installation has not."""

import importlib

from spkver.errors import SpkverError


def needs(*packages: str) -> None:
    """Make sure that packages of the extra can be imported.

    Raises:
        SpkverError: one cannot, with the command that installs it.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise SpkverError(f"onnx: cannot import {package} ({error}); pip install 'spkver[onnx]'") from None
