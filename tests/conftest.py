import os
from pathlib import Path

import pytest
import torch as th

REPOSITORY = Path(__file__).resolve().parents[1]
# Subprocesses started by tests inherit this: one torch thread per process everywhere.
os.environ["OMP_NUM_THREADS"] = "1"
th.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers computed outside this project; the folder lies beside the checkout."""
    folder = REPOSITORY.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip(f"the golden numbers are not beside this checkout ({folder})")
    return folder
