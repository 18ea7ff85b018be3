from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _alone(empty_folder):
    """No `./methods` but what a test puts there."""


@pytest.fixture
def mine(tmp_path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder
