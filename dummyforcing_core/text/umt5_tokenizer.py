"""A prompt to token ids as Wan's text encoder reads it: cleaned, cut to length, closed by the end token.

    tokenizer = load_tokenizer(path, None, spiece)
    ids = tokenizer.ids("a red  circle &amp; a blue square", 512)     # [..., EOS], at most 512 of them

Cleaning and cutting follow the official code (Wan-Video/Wan2.1, clean="whitespace"): ftfy, HTML entities twice,
white space collapsed; of a prompt that is too long the end token stays and the text before it is cut. ComfyUI does
none of these, reads "(word:1.2)" as a weight, and lets a long prompt grow past 512 rows.
"""

import html
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DummyForcingError, shown
from ..reading import unreadable

Warn = Callable[[str], None]
EOS = "</s>"
FILES = ("tokenizer.json", "spiece.model")  # the official code reads the first one
FOLDERS = (".", "google/umt5-xxl", "tokenizer", "../tokenizer")  # beside the encoder: official release, diffusers
FIX = "pass --tokenizer with google/umt5-xxl's folder, its tokenizer.json or its spiece.model"


@dataclass(frozen=True)
class Tokenizer:
    """`split` turns text into ids without the end token; `words` counts the vocabulary."""

    split: Callable[[str], list[int]]
    eos: int
    words: int

    def ids(self, prompt: str, longest: int, warn: Warn = lambda text: None) -> list[int]:
        """The prompt's 1 to `longest` ids, end token last; `warn` gets a line if text had to be cut."""
        ids = self.split(clean(prompt))
        if len(ids) >= longest:
            warn(
                f"the prompt that begins '{shown(prompt.strip()[:40])}' is {len(ids) + 1} tokens long, "
                f"{longest} fit: its end is not read"
            )
        return [*ids[: longest - 1], self.eos]


def package(name: str) -> Any:
    """An optional package of the text encoder; DummyForcingError if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DummyForcingError(
            f"the text encoder needs {name}, which is not installed ({error}): "
            "pip install transformers sentencepiece ftfy"
        ) from error


def clean(prompt: str) -> str:
    """The prompt with broken characters mended, entities resolved and white space collapsed."""
    text = package("ftfy").fix_text(prompt)
    return " ".join(html.unescape(html.unescape(text)).split())


def load_tokenizer(encoder: Path, given: Path | None, spiece: bytes | None) -> Tokenizer:
    """The tokenizer `given` (a file or a folder), else the encoder's own `spiece` bytes, else one that lies beside it.

    Raises CheckpointError when there is none or it cannot be read.
    """
    if given is not None:
        return _read(_find(given, ["."]))
    if spiece is not None:
        return _sentencepiece(spiece, encoder)
    folder = encoder if os.path.isdir(encoder) else encoder.parent
    return _read(_find(folder, FOLDERS))


def _find(where: Path, folders: list[str] | tuple[str, ...]) -> Path:
    candidates = [where, *(where / folder / name for folder in folders for name in FILES)]
    found = next((path for path in candidates if os.path.isfile(path)), None)
    if found is None and not os.path.isdir(where):
        raise CheckpointError(f"{shown(where, 200)}: {unreadable(where)}; {FIX}")
    if found is None:
        what = f"none of {', '.join(FILES)} is in it or in {', '.join(folders[1:])}" if len(folders) > 1 else (
            f"a folder with one of {', '.join(FILES)}, or such a file, was expected"
        )  # fmt: skip
        raise CheckpointError(f"{where}: holds no tokenizer, {what}; {FIX}")
    return found


def _read(path: Path) -> Tokenizer:
    if why := unreadable(path):
        raise CheckpointError(f"{shown(path, 200)}: the tokenizer cannot be read: {why}; {FIX}")
    return _json(path) if path.suffix.lower() == ".json" else _sentencepiece(path.read_bytes(), path)


def _json(path: Path) -> Tokenizer:
    library = package("tokenizers")
    try:
        tokenizer = library.Tokenizer.from_buffer(path.read_bytes())
    except Exception as error:  # the library raises bare Exception
        raise _unreadable(path, error) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    eos = tokenizer.token_to_id(EOS)
    if eos is None:
        raise CheckpointError(f"{path}: this tokenizer has no end token {EOS}, umt5's was expected; {FIX}")
    return Tokenizer(
        lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        eos,
        tokenizer.get_vocab_size(with_added_tokens=True),
    )


def _sentencepiece(model: bytes, path: Path) -> Tokenizer:
    library = package("sentencepiece")
    try:
        pieces = library.SentencePieceProcessor(model_proto=model)
        eos = pieces.eos_id()
    except Exception as error:  # the parser raises RuntimeError, the binding others
        raise _unreadable(path, error) from error
    if eos < 0:
        raise CheckpointError(f"{path}: this tokenizer has no end token {EOS}, umt5's was expected; {FIX}")
    return Tokenizer(lambda text: list(pieces.encode(text)), eos, pieces.get_piece_size())


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = shown(error, 120)
    return CheckpointError(f"{shown(path, 200)}: its tokenizer is damaged or of another kind ({reason}); {FIX}")
