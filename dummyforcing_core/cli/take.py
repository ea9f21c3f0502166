"""`take`: goes on with takes, branches and decodes them, says what is in them. `generate --take DIR` makes one."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..clips.decode import decode_take
from ..clips.encoding import Encoding
from ..clips.pipeline import Decoder, decoder_of
from ..clips.take_view import rate_of_take, save_sheet, second_of, state_of_take
from ..errors import OutputError, shown
from ..models.families import DEMO
from ..takes.prune import prune
from ..takes.take import Take
from . import generate
from .clip_arguments import add_encoding_arguments, rate
from .common import load_vae, pick_device, pick_dtype, tile
from .names import check_ending, named
from .outputs import claimed_outputs
from .parser import Parser
from .take_call import changed_at, given, options_of, script_of
from .take_list import tell_takes
from .terminal import tell

CHANGES = ("prompt", "schedule", "seconds", "frames", "policy", "seed")  # of a clip, some of them


@dataclass(frozen=True)
class Action:
    """One of `take`'s: what it does, its arguments, and the function that does it."""

    about: str
    run: Callable[[argparse.Namespace], int]
    add: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `take` takes."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    for name, action in ACTIONS.items():
        one = actions.add_parser(name, help=action.about)
        one.add_argument("folder", type=named, metavar="DIR", help="a folder of takes" if name == "list" else "a take")
        action.add(one)
        one.set_defaults(action=action.run)


def run(args: argparse.Namespace) -> int:
    """What the action comes to."""
    code: int = args.action(args)
    return code


# ---- going on: the command that made the take, with what is said anew


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="options of generate; --out is the take's name with .mp4 by default"
    )


def _add_branch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("new", type=named, metavar="NEW", help="the branch, a new folder beside DIR")
    _add_options(parser)


def _go_on(args: argparse.Namespace) -> int:
    return _generate(args.folder, args.folder, args.options)


def _resume(args: argparse.Namespace) -> int:
    """The same to its end: nothing of the clip may be said anew."""
    said = given(generate.new_parser(), args.options)
    if changed := [name for name in CHANGES if name in said]:
        raise OutputError(f"expected resume without --{changed[0]}, which changes the clip, got it; use take continue")
    return _go_on(args)


def _branch(args: argparse.Namespace) -> int:
    if "from_chunk" not in given(generate.new_parser(), args.options):
        raise OutputError("expected --from-chunk N, got none; say how many chunks of the take are shared")
    return _generate(args.new, args.folder, ["--branch", str(args.folder), *args.options])


def _generate(folder: Path, source: Path, over: list[str]) -> int:
    """`generate` as the take says, but for the words `over`; a --prompt holds from where the clip goes on."""
    take, parser = Take(source), generate.new_parser()
    said = given(parser, over)
    words = [*options_of(parser, take.manifest.call, over), *over, "--take", str(folder)]
    if "out" not in said:
        words += ["--out", str(folder.with_name(f"{folder.name}.mp4"))]
    script = None
    if "schedule" not in said:
        script = script_of(take.manifest.call or {})
        if "prompt" in said:
            script = changed_at(script, _goes_on_at(take, said), str(said["prompt"]))
        else:
            words += ["--prompt", script.prompts[0]]
    args = parser.parse_args(words)
    args.words, args.script = words, script
    return generate.run(args)


def _goes_on_at(take: Take, said: Mapping[str, str | None]) -> int:
    """The first latent frame that is not there, or not shared, or in a rolling window that is begun."""
    shared = said.get("from_chunk") or ""
    entries = take.entries[: int(shared)] if shared.isdecimal() else take.entries
    if not entries:
        return 0
    last = entries[-1]
    return max(last.span.stop, *(one.frame + 1 for one in last.heard))


# ---- looking, decoding, pruning


def _list(args: argparse.Namespace) -> int:
    tell_takes(args.folder)
    return 0


def _check(args: argparse.Namespace) -> int:
    take = Take(args.folder)
    take.read_all()
    take.stored()  # warns of one that is damaged, which no clip depends on
    mute = take.mute
    lost = [take.missing, f"text features of chunks from latent frame {mute[0]} on" if mute else ""]
    damaged = " and ".join(filter(None, lost))
    whole = f"; damaged: {damaged}, `take resume` makes them anew" if damaged else "; whole"
    tell(f"{shown(args.folder, 500)}: {state_of_take(take)}{whole}")
    return 1 if damaged else 0


def _add_sheet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sheet", type=named, metavar="FILE", help="also write a picture per chunk on a sheet (.png)")


def _show(args: argparse.Namespace) -> int:
    take = Take(args.folder)
    for name, value in {**take.manifest.conditions, **take.manifest.machine}.items():
        tell(f"{shown(name):<20}{shown(value, 200)}")
    for entry in take.entries:
        banked = sorted(frame for frame in entry.log.marked[-1]) if entry.log.marked else []
        marks = f"  marked: latent frames {', '.join(map(str, banked))}" if banked else ""
        observed = "  heads observed" if entry.log.observed else ""
        tell(f"chunk {entry.span.chunk:<6} from {second_of(take, entry.span.start)}{observed}{marks}")
    tell(state_of_take(take))
    if args.sheet is not None:
        check_ending("--sheet", args.sheet, ".png")
        missing = save_sheet(take, args.sheet)
        tell(f"wrote {args.sheet}" + (f"; {missing} chunks have no picture" if missing else ""))
    return 0


def _add_decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=named, required=True, help="video to write (.mp4)")
    parser.add_argument("--vae", type=named, metavar="FILE", help="Wan2.1 VAE or tiny decoder; the demo has its own")
    parser.add_argument("--vae-tile", type=tile, metavar="RxC", help="decode in tiles of so many latent rows x columns")
    parser.add_argument("--fps", type=rate, metavar="F", help="of the video (default: the take's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu (default: auto)")
    parser.add_argument("--dtype", help="bf16, fp16, fp32 (default: bf16 on a GPU, fp32 on the CPU)")
    add_encoding_arguments(parser)


def _decode(args: argparse.Namespace) -> int:
    take, device = Take(args.folder), pick_device(args.device)
    demo = take.manifest.conditions.get("family") == DEMO
    vae = load_vae(args.vae, device, pick_dtype(args.dtype, device)) if args.vae else None
    decoder, scale = decoder_of(demo, device, Decoder(vae, args.vae_tile))
    encoding = Encoding(args.codec, args.crf)
    encoding.check_encoder()
    with claimed_outputs(args, {"out": ".mp4"}):
        frames = decode_take(take, decoder, args.out, encoding, args.fps or rate_of_take(take), scale)
    tell(f"wrote {args.out}, {frames} frames")
    return 0


def _add_prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="the whole take, if no branch needs any of it")
    parser.add_argument("--yes", action="store_true", help="do it; without it only what would go is said")


def _prune(args: argparse.Namespace) -> int:
    found = prune(args.folder, everything=args.all, do=args.yes)
    tell(f"{found}{'' if args.yes else '; --yes does it'}")
    return 0


ACTIONS = {
    "list": Action("the takes in a folder", _list),
    "show": Action("how a take is made, and its chunks", _show, _add_sheet),
    "check": Action("reads every byte of a take; ends with 1 if it is not whole", _check),
    "resume": Action("goes on with a take to its end, as it was begun", _resume, _add_options),
    "continue": Action("goes on with more seconds, another prompt from here on", _go_on, _add_options),
    "branch": Action("a new take that shares the first chunks of one", _branch, _add_branch),
    "decode": Action("writes the video of a take anew, by any decoder", _decode, _add_decode),
    "prune": Action("takes away what is not needed: snapshots, or with --all the take", _prune, _add_prune),
}
