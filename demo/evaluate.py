"""Measures the demo model on fixed prompts and seeds; the last line printed is the JSON that --out holds.

python -m demo.evaluate --model dummyforcing_core/assets/demo_model.safetensors --out out/demo_eval.json
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dummyforcing_core.clips.demo_assets import load_demo_codec
from dummyforcing_core.models.checkpoints import load_model
from dummyforcing_core.models.wan import CausalWan
from dummyforcing_core.policies import Full, Policy, SlidingWindow
from dummyforcing_core.vae.demo_codec import DemoCodec

from . import measure
from .cases import (
    SWITCH,
    crowded_clips,
    gap_clips,
    long_clips,
    plain_clips,
    prompts_of,
    recoloured_clips,
    switch_clips,
)
from .sampling import decode, generate
from .world import CHUNK_FRAMES, Clips, render

BATCH = 16
LONG_CHUNKS = 40
LONG_CLIPS = 12

Task = tuple[Callable[[int, int], Clips], tuple[int, ...]]
"""Clips with a dark gap, by their number and the gap's chunks, and the gaps that are tried."""
DIALS: dict[str, Task] = {
    "colour_recall": (gap_clips, (0, 1, 3, 5)),
    "colour_recall_recoloured": (recoloured_clips, (1, 3, 5)),
}

Source = Callable[[Clips], Tensor]
"""Clips -> pixels (B, F, 3, H, W): a model under a policy, or the codec's round trip of the truth."""


def sampled(model: CausalWan, codec: DemoCodec, policy: Policy) -> Source:
    """Pixels the model makes of the clips' prompts."""

    def source(clips: Clips) -> Tensor:
        prompts = prompts_of(clips)
        batches = [
            decode(codec, generate(model, prompts[first : first + BATCH], policy, seed=1000 + first))
            for first in range(0, len(prompts), BATCH)
        ]
        return torch.cat(batches)

    return source


def round_trip(codec: DemoCodec) -> Source:
    """Pixels of the true clips through the codec: the ceiling of every measure."""

    def source(clips: Clips) -> Tensor:
        return decode(codec, codec.encode(render(clips).transpose(1, 2)))

    return source


def text_to_video(source: Source, clips: Clips) -> dict[str, float]:
    """Share of clips whose every judged shape is right in the second chunk, in the last, in all from the second on."""
    pixels = source(clips)
    right, judged = measure.shapes_right(pixels, clips)
    fine = right | ~judged

    def share(first: int, last: int) -> float:
        return float(fine[:, :, first:last].all(2).all(1).float().mean())

    chunks = judged.shape[2]
    most = 2 * (right & judged)[:, :, 1:].sum(2) > judged[:, :, 1:].sum(2)
    error = measure.position_error(pixels, clips)
    latent_ends = [8, 12 * chunks - 4]
    return {
        "clips": len(clips),
        "judged_share": float(judged.sum() / (clips.present.sum() * chunks)),
        "right_first_chunk": share(0, 1),
        "right_second_chunk": share(1, 2),
        "right_last_chunk": share(chunks - 1, chunks),
        "right_second_to_last": share(1, chunks),
        "right_in_most_chunks_from_second": float((most | ~judged[:, :, 1:].any(2)).all(1).float().mean()),
        "shape_chunks_right": float((right & judged).sum() / judged.sum()),
        "position_error_first_chunk_px": float(error[:, latent_ends[0]].nanmedian()),
        "position_error_last_frame_px": float(error[:, latent_ends[1]].nanmedian()),
        "background_error_levels": float(measure.background_drift(pixels).mean()),
    }


def memory_dial(source: Source, task: Task, count: int) -> dict[str, float]:
    """Colour recall in the first lit chunk after each dark gap; the prompts no longer name the colours."""
    clips_of, gaps = task
    result = {}
    for gap in gaps:
        clips = clips_of(count, gap)
        lit = clips.light.shape[1] - 2  # the last two chunks are
        result[f"gap_{gap}"] = float(measure.colour_recall(source(clips), clips, lit).mean())
    return result


def switch(source: Source, clips: Clips, changed: Tensor) -> dict[str, float]:
    """After a prompt that names another colour or kind, chunk by chunk: share of clips in which that shape is as named,
    and in which the other one is as it was."""
    right, judged = measure.shapes_right(source(clips), clips)
    rows = torch.arange(len(clips))
    result: dict[str, float] = {"clips": len(clips)}
    for name, shape in (("named", changed), ("kept", 1 - changed)):
        for after in range(3):
            fine, counts = right[rows, shape, SWITCH + after], judged[rows, shape, SWITCH + after]
            result[f"{name}_right_chunk_{after + 1}_after"] = float((fine & counts).sum() / counts.sum())
    return result


def evenness(source: Source, clips: Clips) -> dict[str, float]:
    """Mean size of a step from frame to frame in levels of 255, inside a latent frame and between two."""
    inside, between = measure.step_sizes(source(clips)[:, 1:])
    return {"inside_levels": inside, "between_levels": between}


def long_run(source: Source, clips: Clips) -> dict[str, float]:
    """State of long clips at their end: the last five chunks of clips in which shape A moves."""
    pixels = source(clips)
    right, judged = measure.shapes_right(pixels, clips)
    chunks = judged.shape[2]
    fine = (right | ~judged).all(1)  # (B, chunks)
    # Long clips leave the true path, so either shape may stand behind the other at any time: A is what must show.
    ends = pixels[:, -5 * 12 :]
    return {
        "clips": len(clips),
        "latent_frames": CHUNK_FRAMES * chunks,
        "a_right_chunk_7": float(right[:, 0, 6].float().mean()),
        "a_right_chunk_20": float(right[:, 0, chunks // 2 - 1].float().mean()),
        "a_right_last_chunk": float(right[:, 0, -1].float().mean()),
        "both_right_last_five": float(fine[:, -5:].float().mean()),
        "a_travel_last_five_px": float(measure.travel(ends, clips.colour[:, 0, 0]).mean()),
        "a_travel_true_px": float((clips.centre[:, 0, -60:].amax(1) - clips.centre[:, 0, -60:].amin(1)).amax(1).mean()),
        "background_error_first_levels": float(measure.background_drift(pixels[:, :81]).mean()),
        "background_error_last_levels": float(measure.background_drift(ends).mean()),
    }


def policy_of(window_frames: int, sink_frames: int) -> Policy:
    return SlidingWindow(window_frames, sink_frames) if window_frames else Full()


def full_cache(source: Source, ceiling: Source, count: int) -> dict:
    """What needs no other memory: motion, switches, text to video."""
    plain, crowded = plain_clips(count), crowded_clips(count // 2)
    switched, changed = switch_clips(count)
    return {
        "evenness": {
            "truth": evenness(render, plain),
            "ceiling": evenness(ceiling, plain),
            "full cache": evenness(source, plain),
        },
        "switch": {
            "full cache": switch(source, switched, changed),
            "ceiling": switch(ceiling, switched, changed),
        },
        "text_to_video": {
            "full cache": text_to_video(source, plain),
            "full cache, crowded start": text_to_video(source, crowded),
            "ceiling": text_to_video(ceiling, plain),
            "ceiling, crowded start": text_to_video(ceiling, crowded),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("dummyforcing_core/assets/demo_model.safetensors"))
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument(
        "--windows", default="0+0,6+0,9+0,12+0,12+3,15+0", help="window+sink in latent frames; 0+0 is the full cache"
    )
    args = parser.parse_args()
    begin = time.monotonic()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # matrices this small gain nothing by more
    model = load_model(args.model, "demo", dtype=torch.float32).model
    codec = load_demo_codec()
    long, dial = long_clips(LONG_CLIPS, LONG_CHUNKS), 3 * args.clips // 8
    document = full_cache(sampled(model, codec, Full()), round_trip(codec), args.clips)
    document |= {name: {"ceiling": memory_dial(round_trip(codec), task, dial)} for name, task in DIALS.items()}
    document["long"] = {"ceiling": long_run(round_trip(codec), long)}
    for name in args.windows.split(","):
        source = sampled(model, codec, policy_of(*map(int, name.split("+"))))
        label = "full cache" if name == "0+0" else f"window {name.split('+')[0]}, sink {name.split('+')[1]}"
        for dialled, task in DIALS.items():
            document[dialled][label] = memory_dial(source, task, dial)
        document["long"][label] = long_run(source, long)
        print(f"{time.monotonic() - begin:.0f} s  {label}", flush=True)
    document["seconds"] = round(time.monotonic() - begin, 1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1), encoding="utf-8")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
