"""What tests of the command share."""

import pytest

from spkver.cli import main


@pytest.fixture
def run(capsys):
    """``run(WORD, ..)``: exit status, standard output and standard error of the command."""

    def run(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
