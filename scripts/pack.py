"""Makes the archive that the ComfyUI registry installs: git's files, less what .comfyignore names.

python scripts/pack.py [OUT.zip]

Files are taken as they lie in the work tree; what git does not track is never packed. The same files give the same
bytes. Standard library and git only.
"""

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IGNORE = ".comfyignore"
MAX_BYTES = 15 * 2**20
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold
PERMISSIONS = 0o644 << 16


class PackError(Exception):
    """The archive cannot be made; one line."""


def tracked(root: Path, *options: str) -> list[str]:
    """Files of git's index below `root`, with forward slashes."""
    try:
        done = subprocess.run(["git", "-C", str(root), "ls-files", "-z", *options], capture_output=True, check=True)
    except FileNotFoundError as error:
        raise PackError("git was not found; install it, the archive holds what git tracks") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr.decode("utf-8", "replace").strip().splitlines() or [""])[-1]
        raise PackError(f"git cannot list the files of {root} ({said}); run this in a clone") from error
    return [name for name in done.stdout.decode("utf-8").split("\0") if name]


def packed_files(root: Path = ROOT) -> list[str]:
    """Names of the archive's files, sorted."""
    ignored: set[str] = set()
    if (root / IGNORE).is_file():
        ignored = set(tracked(root, "--cached", "--ignored", f"--exclude-from={IGNORE}"))
    return sorted(set(tracked(root)) - ignored)


def pack(target: Path, root: Path = ROOT) -> tuple[int, int]:
    """Writes the archive; returns its bytes and its number of files. PackError leaves no new archive behind."""
    names = [name for name in packed_files(root) if (root / name).resolve() != target.resolve()]
    if not names:
        raise PackError(f"git tracks no file of {root} that {IGNORE} leaves in; nothing to pack")
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise PackError(f"{missing[0]} is tracked by git but not in the work tree ({len(missing)} such); restore it")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name in names:
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, PERMISSIONS
                entry.create_system = 3  # the same bytes on every system
                archive.writestr(entry, (root / name).read_bytes())
        size = part.stat().st_size
        if size > MAX_BYTES:
            raise PackError(f"the archive has {size / 2**20:.1f} MiB, {MAX_BYTES >> 20} at most; extend {IGNORE}")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return size, len(names)


def main(words: list[str] | None = None) -> int:
    """The command; 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(description="Make the archive that the ComfyUI registry installs.")
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "dist" / "dummyforcing.zip", metavar="OUT.zip")
    target = parser.parse_args(words).out
    try:
        size, count = pack(target)
    except (PackError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{target}: {count} files, {size / 2**20:.2f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
