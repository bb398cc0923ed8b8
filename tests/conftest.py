"""What every test may use: the folder of real speech, and one torch thread a process."""

from pathlib import Path

import pytest
import torch

# Parallel test processes with several torch threads each slow one another down many times over.
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parent.parent / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def speechocean762() -> Path:
    """The corpus speechocean762 (real speech); the test skips where it is not on this machine."""
    folder = (SHARED / "speechocean762").resolve()
    if not folder.is_dir():
        pytest.skip(f"needs real speech: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def esc10() -> Path:
    """The noise corpus ESC-10; the test skips where it is not on this machine."""
    folder = (SHARED / "esc10").resolve()
    if not folder.is_dir():
        pytest.skip(f"needs real noise: no folder {folder}")
    return folder
