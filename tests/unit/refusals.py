"""What every refused command must look like; shared by the command-line tests."""

from pathlib import Path


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(code: int, err: str, message: str) -> None:
    """Exit 2 and one error line with these words; before it, warnings only (a bar that was there is wiped away)."""
    assert code == 2, err
    assert "Traceback" not in err
    *before, last = (line.rsplit("\r", 1)[-1] for line in err.removesuffix("\n").split("\n"))
    assert last.startswith("error: "), err
    assert message.lower() in last.lower()
    assert all(line.startswith("warning: ") for line in before), err
