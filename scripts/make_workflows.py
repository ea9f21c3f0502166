"""Writes workflows/*.json: python scripts/make_workflows.py [--check]

Every workflow is one function below; workflow_titles.py has the names of their files. --check writes nothing and fails
if a file is not what would be written.
Pictures are made by scripts/draw_thumbnails.py.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from workflow_files import links, note_text
from workflow_graph import Graph, Node
from workflow_layout import Column
from workflow_nodes import ROOT
from workflow_prompts import CITY, DEMO_PROMPT, IMAGE_MOTION, LIGHTHOUSE, PANDA, RECOLOURED, RETURN, STORY, SURFER
from workflow_titles import TITLES

WORKFLOWS = ROOT / "workflows"
SEED = 42
NOTE_WIDTH = 360
PICTURE, TEXT, REPORT = 320, 120, 70  # pixels at least: our nodes' videos need 316

TEXT_ENCODER, VAE = "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan_2.1_vae.safetensors"
SELF_FORCING, LONGLIVE, LONGLIVE_LORA = "self_forcing_dmd.pt", "longlive_base.pt", "lora.pt"
FRAMEWISE = "causal_forcing-framewise.safetensors"


def main(words: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Write workflows/*.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args(words).check
    stale = []
    for name, make in MAKERS.items():
        graph = Graph(name, NOTE_WIDTH)
        make(graph)
        path = WORKFLOWS / f"{TITLES[name]}.json"
        saved = graph.document(TITLES[name].partition(" ")[2], note_text(name, graph.files))
        text = json.dumps(saved, indent=2, ensure_ascii=False) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.stem)
            if not check:
                path.write_text(text, encoding="utf-8", newline="\n")
    strangers = sorted({path.stem for path in WORKFLOWS.glob("*.json")} - {TITLES[name] for name in MAKERS})
    if strangers:
        print(f"not made here: {', '.join(strangers)}", file=sys.stderr)
    if stale:
        print(f"{'out of date' if check else 'written'}: {', '.join(stale)}")
    return int(bool(strangers) or (check and bool(stale)))


# ---- parts that several share


def load_model(graph: Graph, name: str, lora: str = "none") -> Node:
    """Load AR Model."""
    files = links(name, *([] if lora == "none" else [lora]))
    return graph.add("DummyForcingLoadARModel", model=name, lora=lora, files=files)


def load_text_encoder(graph: Graph) -> Node:
    """The stock loader of umt5-xxl."""
    return graph.add("CLIPLoader", clip_name=TEXT_ENCODER, type="wan", device="default", files=links(TEXT_ENCODER))


def load_vae(graph: Graph) -> Node:
    """The stock loader of Wan2.1's VAE."""
    return graph.add("VAELoader", vae_name=VAE, files=links(VAE))


def loaders(graph: Graph, name: str, lora: str = "none", width: int = 290) -> tuple[Node, Node, Node]:
    """Model, text encoder, VAE."""
    graph.group("Models", width)
    model = load_model(graph, name, lora)
    graph.column(width)
    return model, load_text_encoder(graph), load_vae(graph)


def sampler(graph: Graph, model: Node, prompt: Node, size: Node, vae: Node, **more: Any) -> Node:
    """A Streaming Sampler, tall enough for its picture."""
    wires = {"model": model["MODEL"], "conditioning": prompt["CONDITIONING"], "latent": size["LATENT"]}
    inputs = {"seed": SEED, **wires, "vae": vae["VAE"], **more}
    return graph.add("DummyForcingStreamingSampler", room=PICTURE, **inputs)


def report(graph: Graph, source: Node, title: str = "Report", column: Column | None = None) -> Node:
    """The report of a sampler or a comparison as text."""
    return graph.add("PreviewAny", source=source["report"], title=title, room=REPORT, column=column)


def prompt_and_size(graph: Graph, clip: Node, text: str, preset: str, seconds: float) -> tuple[Node, Node]:
    """What the clip shows, how large and how long it is."""
    graph.group("Prompt and size", 320)
    prompt = graph.add("CLIPTextEncode", clip=clip["CLIP"], text=text, room=TEXT, title="Prompt")
    graph.column(270)
    return prompt, graph.add("DummyForcingClipSize", preset=preset, seconds=seconds)


def dummy_forcing(graph: Graph, model: Node, **more: Any) -> Node:
    """The policy in a group of its own."""
    graph.group("Memory of the heads", 280)
    return graph.add("DummyForcingApplyDummyForcing", model=model["MODEL"], **more)


# ---- the workflows: a row with what is given, a row with what is made


def demo(graph: Graph) -> None:
    """Runs with nothing downloaded."""
    graph.row()
    graph.group("Model", 280)
    model = graph.add("DummyForcingLoadDemoModel")
    graph.group("Prompt and size", 340)
    prompt = graph.add("CLIPTextEncode", clip=model["CLIP"], text=DEMO_PROMPT, room=TEXT, title="Prompt")
    graph.column(280)
    size = graph.add("DummyForcingClipSize", preset="custom", seconds=5.0, width=64, height=64)
    graph.row()
    policy = dummy_forcing(graph, model)
    graph.group("Sample", 400)
    clip = sampler(graph, policy, prompt, size, model, filename_prefix="video/demo")
    graph.group("Report", 530)
    report(graph, clip)


def image_start(graph: Graph) -> None:
    """A clip that begins with a picture."""
    graph.row()
    model, clip, vae = loaders(graph, FRAMEWISE)
    prompt, size = prompt_and_size(graph, clip, IMAGE_MOTION, "480P", 5.0)
    graph.row()
    graph.group("First frame, memory of the heads", 280)
    picture = graph.add("LoadImage", image="example.png", room=PICTURE)
    graph.column(260)
    scaled = graph.add(
        "ImageScale", image=picture["IMAGE"], upscale_method="lanczos", width=832, height=480, crop="center"
    )
    start = graph.add("VAEEncode", pixels=scaled["IMAGE"], vae=vae["VAE"])
    policy = graph.add("DummyForcingApplyDummyForcing", model=model["MODEL"], local_chunks=6)
    graph.group("Sample", 330)
    prefix = "video/image_start"
    made = sampler(graph, policy, prompt, size, vae, start_latent=start["LATENT"], filename_prefix=prefix)
    graph.group("Report", 530)
    report(graph, made)


def interactive_story_60s(graph: Graph) -> None:
    """Four prompts in a minute."""
    graph.row()
    model, clip, vae = loaders(graph, LONGLIVE, LONGLIVE_LORA)
    graph.group("Story and size", 440)
    prompt = graph.add("DummyForcingPromptSchedule", clip=clip["CLIP"], text=STORY, room=TEXT)
    graph.column(270)
    size = graph.add("DummyForcingClipSize", preset="480P", seconds=60.0)
    graph.row()
    policy = dummy_forcing(graph, model)
    graph.group("Sample", 430)
    made = sampler(graph, policy, prompt, size, vae, filename_prefix="video/story", take="new")
    graph.group("Report", 530)
    report(graph, made)


def long_1080p(graph: Graph) -> None:
    """Thirty seconds at 1080P."""
    graph.row()
    model, clip, vae = loaders(graph, LONGLIVE, LONGLIVE_LORA)
    prompt, size = prompt_and_size(graph, clip, LIGHTHOUSE, "1080P", 30.0)
    graph.row()
    policy = dummy_forcing(graph, model)
    graph.group("Sample", 430)
    made = sampler(graph, policy, prompt, size, vae, filename_prefix="video/long_1080p", take="new")
    graph.group("Report", 530)
    report(graph, made)


def dense_vs_dummy_forcing_480p(graph: Graph) -> None:
    """The same clip with and without Dummy Forcing."""
    graph.row()
    model, clip, vae = loaders(graph, SELF_FORCING, width=240)
    words = graph.group("Prompt, size and seed", 255)
    prompt = graph.add("CLIPTextEncode", clip=clip["CLIP"], text=SURFER, room=TEXT, title="Prompt")
    graph.column(235)
    size = graph.add("DummyForcingClipSize", preset="480P", seconds=5.0)
    seed = graph.add("PrimitiveInt", column=words, value=SEED, title="Seed of both")
    graph.group("Memory of the heads", 220)
    dense = graph.add("DummyForcingApplyCacheWindow", model=model["MODEL"], window=21, sink=0, title="Dense: 21 frames")
    graph.column(220)
    dummy = graph.add("DummyForcingApplyDummyForcing", model=model["MODEL"])
    graph.row()
    left, right = graph.group("Sample dense", 310), graph.group("Sample with Dummy Forcing", 310)
    compared = graph.group("Compare", 380)
    reports = graph.group("Reports", 380)
    first = sampler(graph, dense, prompt, size, vae, seed=seed["INT"], filename_prefix="video/dense", column=left)
    report(graph, first, "Report, dense", reports)
    prefix = "video/dummy_forcing"
    second = sampler(graph, dummy, prompt, size, vae, seed=seed["INT"], filename_prefix=prefix, column=right)
    report(graph, second, "Report, Dummy Forcing", reports)
    videos = {"first": first["VIDEO"], "second": second["VIDEO"]}
    both = graph.add("DummyForcingCompareClips", room=PICTURE, column=compared, **videos)
    report(graph, both, "How they differ", reports)


def profile_heads_and_save(graph: Graph) -> None:
    """Scores the heads once and keeps the result."""
    graph.row()
    model, clip, vae = loaders(graph, SELF_FORCING)
    prompt, size = prompt_and_size(graph, clip, PANDA, "480P", 5.0)
    graph.row()
    graph.group("Profile, memory of the heads", 280)
    profile = graph.add(
        "DummyForcingProfileHeads",
        model=model["MODEL"],
        conditioning=prompt["CONDITIONING"],
        latent=size["LATENT"],
        seed=SEED,
        room=TEXT,
    )
    saved = graph.add("DummyForcingSaveHeadProfile", head_profile=profile["HEAD_PROFILE"], name="self_forcing_480p")
    graph.column(280)
    graph.add("PreviewImage", images=profile["IMAGE"], room=TEXT, title="Head map")
    policy = graph.add("DummyForcingApplyDummyForcing", model=model["MODEL"], head_profile=saved["HEAD_PROFILE"])
    graph.group("Sample", 330)
    made = sampler(graph, policy, prompt, size, vae, filename_prefix="video/profiled")
    graph.group("Report", 530)
    report(graph, made)


def teacache_on_top(graph: Graph) -> None:
    """Fewer heads with a history, and fewer steps."""
    graph.row()
    model, clip, vae = loaders(graph, SELF_FORCING)
    prompt, size = prompt_and_size(graph, clip, CITY, "480P", 5.0)
    graph.row()
    policy = dummy_forcing(graph, model)
    steps = graph.add("DummyForcingTeaCache", model=policy["MODEL"])
    graph.group("Sample", 430)
    made = sampler(graph, steps, prompt, size, vae, filename_prefix="video/teacache")
    graph.group("Report", 530)
    report(graph, made)


def long_memory_demo(graph: Graph) -> None:
    """What the second prompt named comes back after the dark, or does not; nothing downloaded."""
    graph.row()
    graph.group("Model", 260)
    model = graph.add("DummyForcingLoadDemoModel")
    words = graph.group("Prompts, size and seed", 390)
    prompt = graph.add("DummyForcingPromptSchedule", clip=model["CLIP"], text=RECOLOURED, room=TEXT)
    graph.column(260)
    size = graph.add("DummyForcingClipSize", preset="custom", seconds=6.5, width=64, height=64)
    seed = graph.add("PrimitiveInt", column=words, value=SEED, title="Seed of both")
    graph.group("Memory of the heads", 260)
    window = graph.add("DummyForcingApplyCacheWindow", model=model["MODEL"], window=6, sink=0)
    graph.column(260)
    bank = graph.add("DummyForcingApplyHeadForcing", model=model["MODEL"], memory_ratio=0.5)
    graph.row()
    left, right = graph.group("Sample with a window", 310), graph.group("Sample with Head Forcing", 310)
    compared = graph.group("Compare", 380)
    reports = graph.group("Reports", 380)
    first = sampler(graph, window, prompt, size, model, seed=seed["INT"], filename_prefix="video/window", column=left)
    report(graph, first, "Report, window", reports)
    prefix = "video/head_forcing"
    second = sampler(graph, bank, prompt, size, model, seed=seed["INT"], filename_prefix=prefix, column=right)
    report(graph, second, "Report, Head Forcing", reports)
    videos = {"first": first["VIDEO"], "second": second["VIDEO"]}
    both = graph.add("DummyForcingCompareClips", room=PICTURE, column=compared, **videos)
    report(graph, both, "How they differ", reports)


def returning_character_120s(graph: Graph) -> None:
    """Eight prompts in two minutes; who was there in the first three comes back in the last two."""
    graph.row()
    model, clip, vae = loaders(graph, LONGLIVE, LONGLIVE_LORA)
    graph.group("Story and size", 440)
    prompt = graph.add("DummyForcingPromptSchedule", clip=clip["CLIP"], text=RETURN, room=TEXT)
    graph.column(270)
    size = graph.add("DummyForcingClipSize", preset="480P", seconds=120.0)
    graph.row()
    graph.group("Memory of the heads", 280)
    policy = graph.add("DummyForcingApplyHeadForcing", model=model["MODEL"], bank_chunks=6)
    graph.group("Sample", 430)
    made = sampler(graph, policy, prompt, size, vae, filename_prefix="video/returning_character", take="new")
    graph.group("Report", 530)
    report(graph, made)


MAKERS: dict[str, Callable[[Graph], None]] = {
    make.__name__: make
    for make in (
        demo,
        image_start,
        interactive_story_60s,
        long_1080p,
        dense_vs_dummy_forcing_480p,
        profile_heads_and_save,
        teacache_on_top,
        long_memory_demo,
        returning_character_120s,
    )
}

if __name__ == "__main__":
    sys.exit(main())
