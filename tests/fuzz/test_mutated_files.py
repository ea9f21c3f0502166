"""Some spoiled files for every reader; more by hand: python -m tests.fuzz.mutated_files --cases 5000."""

from pathlib import Path

import pytest

from tests.fuzz.mutated_files import READERS, fault, run_cases

SEED, CASES = 20, 16


@pytest.mark.parametrize("name", READERS)
def test_a_sound_file_is_read(tmp_path: Path, name: str) -> None:
    """The fuzzer would prove nothing with files that are refused anyway."""
    reader = READERS[name]
    (tmp_path / name).write_bytes(reader.make(tmp_path))
    reader.read(tmp_path / name)


@pytest.mark.parametrize("name", READERS)
def test_spoiled_files_are_read_or_refused_in_one_line(name: str) -> None:
    faults = list(run_cases(READERS[name], SEED, range(1, CASES + 1)))
    assert not faults, "\n".join(faults)


def test_the_fuzzer_sees_other_errors_long_messages_and_vast_requests(tmp_path: Path) -> None:
    import torch

    from dummyforcing_core.errors import CheckpointError
    from tests.fuzz.mutated_files import MOST_BYTES, Reader

    class Unbounded(CheckpointError):
        """What a message would be without the bounds of errors.py."""

        def __init__(self, text: str):
            self.text = text

        def __str__(self) -> str:
            return self.text

    def raises(error: Exception) -> Reader:
        def read(path: Path) -> None:
            raise error

        return Reader("x", lambda folder: b"", read, ())

    path = tmp_path / "x"
    assert "KeyError" in fault(raises(KeyError("a")), path)
    assert "characters" in fault(raises(Unbounded("x" * 2000)), path)
    assert "no line" in fault(raises(Unbounded("two\nlines")), path)
    assert fault(raises(CheckpointError("one line")), path) == ""
    vast = Reader("x", lambda folder: b"", lambda path: torch.empty(2 * MOST_BYTES, dtype=torch.uint8), ())
    assert "allocate" in fault(vast, path) or not Path("/proc/self/statm").exists()
