"""Writes workflows/*.json: python scripts/make_workflows.py [--check]

Every workflow is one function below. --check writes nothing and fails if a file is not what would be written.
Pictures are made by scripts/draw_thumbnails.py.
"""

import argparse
import json
import sys
from collections.abc import Callable

from workflow_files import links, note_text
from workflow_graph import Graph, Node
from workflow_nodes import ROOT
from workflow_prompts import CITY, DEMO_PROMPT, IMAGE_MOTION, LIGHTHOUSE, PANDA, STORY, SURFER

WORKFLOWS = ROOT / "workflows"
SEED = 42

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
        graph = Graph(name)
        make(graph)
        graph.note(note_text(name, graph.files))
        path = WORKFLOWS / f"{name}.json"
        text = json.dumps(graph.document(), indent=2, ensure_ascii=False) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8", newline="\n")
    strangers = sorted({path.stem for path in WORKFLOWS.glob("*.json")} - MAKERS.keys())
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


def loaders(graph: Graph, name: str, lora: str = "none") -> tuple[Node, Node, Node]:
    """The first column: model, text encoder, VAE."""
    graph.column("Models")
    return load_model(graph, name, lora), load_text_encoder(graph), load_vae(graph)


def sampler(graph: Graph, model: Node, prompt: Node, size: Node, vae: Node, **more: object) -> Node:
    """A Streaming Sampler, tall enough for its picture."""
    vae_wire = vae["VAE"]
    wires = {"model": model["MODEL"], "conditioning": prompt["CONDITIONING"], "latent": size["LATENT"], "vae": vae_wire}
    return graph.add("DummyForcingStreamingSampler", tall=650, **{"seed": SEED, **wires, **more})  # type: ignore


def report(graph: Graph, source: Node, title: str = "Report", tall: int = 420) -> Node:
    """The report of a sampler or a comparison as text."""
    return graph.add("PreviewAny", source=source["report"], title=title, tall=tall)


def prompt_and_size(graph: Graph, clip: Node, text: str, preset: str, seconds: float) -> tuple[Node, Node]:
    """The second column."""
    graph.column("Prompt and size", 400)
    prompt = graph.add("CLIPTextEncode", clip=clip["CLIP"], text=text, tall=240, title="Prompt")
    return prompt, graph.add("DummyForcingClipSize", preset=preset, seconds=seconds)


# ---- the workflows


def demo(graph: Graph) -> None:
    """Runs with nothing downloaded."""
    graph.column("Model", 280)
    model = graph.add("DummyForcingLoadDemoModel")
    graph.column("Prompt and size", 380)
    prompt = graph.add("CLIPTextEncode", clip=model["CLIP"], text=DEMO_PROMPT, tall=140, title="Prompt")
    size = graph.add("DummyForcingClipSize", preset="custom", seconds=5.0, width=64, height=64)
    graph.column("Memory of the heads")
    policy = graph.add("DummyForcingApplyDummyForcing", model=model["MODEL"])
    graph.column("Sample", 380)
    clip = sampler(graph, policy, prompt, size, model, filename_prefix="video/demo")
    graph.column("Report", 520)
    report(graph, clip, tall=560)


def dense_vs_dummy_forcing_480p(graph: Graph) -> None:
    """The same clip with and without Dummy Forcing."""
    model, clip, vae = loaders(graph, SELF_FORCING)
    prompt, size = prompt_and_size(graph, clip, SURFER, "480P", 5.0)
    seed = graph.add("PrimitiveInt", value=SEED, title="Seed of both")
    graph.column("Memory of the heads")
    dense = graph.add("DummyForcingApplyCacheWindow", model=model["MODEL"], window=21, sink=0, title="Dense: 21 frames")
    dummy = graph.add("DummyForcingApplyDummyForcing", model=model["MODEL"])
    graph.column("Sample dense", 400)
    first = sampler(graph, dense, prompt, size, vae, seed=seed["INT"], filename_prefix="video/dense")
    report(graph, first, "Report, dense")
    graph.column("Sample with Dummy Forcing", 400)
    second = sampler(graph, dummy, prompt, size, vae, seed=seed["INT"], filename_prefix="video/dummy_forcing")
    report(graph, second, "Report, Dummy Forcing")
    graph.column("Compare", 640)
    both = graph.add("DummyForcingCompareClips", first=first["VIDEO"], second=second["VIDEO"], tall=560)
    report(graph, both, "How they differ")


def long_1080p(graph: Graph) -> None:
    """Thirty seconds at 1080P."""
    model, clip, vae = loaders(graph, LONGLIVE, LONGLIVE_LORA)
    prompt, size = prompt_and_size(graph, clip, LIGHTHOUSE, "1080P", 30.0)
    graph.column("Memory of the heads")
    policy = graph.add("DummyForcingApplyDummyForcing", model=model["MODEL"])
    graph.column("Sample", 560)
    made = sampler(graph, policy, prompt, size, vae, filename_prefix="video/long_1080p")
    graph.column("Report", 520)
    report(graph, made, tall=560)


def interactive_story_60s(graph: Graph) -> None:
    """Four prompts in a minute."""
    model, clip, vae = loaders(graph, LONGLIVE, LONGLIVE_LORA)
    graph.column("Story and size", 480)
    prompt = graph.add("DummyForcingPromptSchedule", clip=clip["CLIP"], text=STORY, tall=460)
    size = graph.add("DummyForcingClipSize", preset="480P", seconds=60.0)
    graph.column("Memory of the heads")
    policy = graph.add("DummyForcingApplyDummyForcing", model=model["MODEL"])
    graph.column("Sample", 560)
    made = sampler(graph, policy, prompt, size, vae, filename_prefix="video/story")
    graph.column("Report", 520)
    report(graph, made, tall=560)


def image_start(graph: Graph) -> None:
    """A clip that begins with a picture."""
    graph.column("Models")
    model, clip, vae = load_model(graph, FRAMEWISE), load_text_encoder(graph), load_vae(graph)
    prompt, size = prompt_and_size(graph, clip, IMAGE_MOTION, "480P", 5.0)
    graph.column("First frame", 320)
    picture = graph.add("LoadImage", image="example.png", tall=340)
    scaled = graph.add(
        "ImageScale", image=picture["IMAGE"], upscale_method="lanczos", width=832, height=480, crop="center"
    )
    start = graph.add("VAEEncode", pixels=scaled["IMAGE"], vae=vae["VAE"])
    graph.column("Memory of the heads")
    policy = graph.add("DummyForcingApplyDummyForcing", model=model["MODEL"], local_chunks=6)
    graph.column("Sample", 560)
    made = sampler(graph, policy, prompt, size, vae, start_latent=start["LATENT"], filename_prefix="video/image_start")
    graph.column("Report", 520)
    report(graph, made, tall=560)


def profile_heads_and_save(graph: Graph) -> None:
    """Scores the heads once and keeps the result."""
    model, clip, vae = loaders(graph, SELF_FORCING)
    prompt, size = prompt_and_size(graph, clip, PANDA, "480P", 5.0)
    graph.column("Profile", 400)
    profile = graph.add(
        "DummyForcingProfileHeads",
        model=model["MODEL"],
        conditioning=prompt["CONDITIONING"],
        latent=size["LATENT"],
        seed=SEED,
        tall=360,
    )
    saved = graph.add(
        "DummyForcingSaveHeadProfile", head_profile=profile["HEAD_PROFILE"], name="self_forcing_480p", tall=110
    )
    graph.add("PreviewImage", images=profile["IMAGE"], tall=420, title="Head map")
    graph.column("Memory of the heads")
    policy = graph.add("DummyForcingApplyDummyForcing", model=model["MODEL"], head_profile=saved["HEAD_PROFILE"])
    graph.column("Sample", 560)
    made = sampler(graph, policy, prompt, size, vae, filename_prefix="video/profiled")
    graph.column("Report", 520)
    report(graph, made, tall=560)


def teacache_on_top(graph: Graph) -> None:
    """Fewer heads with a history, and fewer steps."""
    model, clip, vae = loaders(graph, SELF_FORCING)
    prompt, size = prompt_and_size(graph, clip, CITY, "480P", 5.0)
    graph.column("Memory and steps")
    policy = graph.add("DummyForcingApplyDummyForcing", model=model["MODEL"])
    steps = graph.add("DummyForcingTeaCache", model=policy["MODEL"])
    graph.column("Sample", 560)
    made = sampler(graph, steps, prompt, size, vae, filename_prefix="video/teacache")
    graph.column("Report", 520)
    report(graph, made, tall=560)


MAKERS: dict[str, Callable[[Graph], None]] = {
    make.__name__: make
    for make in (
        demo,
        dense_vs_dummy_forcing_480p,
        long_1080p,
        interactive_story_60s,
        image_start,
        profile_heads_and_save,
        teacache_on_top,
    )
}

if __name__ == "__main__":
    sys.exit(main())
