"""Fixtures for the tests in this folder; they run in the host's interpreter (see run.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bootstrap import Pack, loaded_pack
from node_calls import Called, call_node
from tiny_models import CAUSAL_WAN_FILE, TEXT_DIM, VAE_FILE, WAN_FILE

PACK_FOLDER, PROBE_FOLDER = "ComfyUI-DummyForcing", "ComfyUI-Harness-Probe"
TEXT_TOKENS = 512
"""Wan's prompts are padded to this many tokens."""


class Fixtures:
    """A pytest plugin: ``base`` is the host's base directory, with the tiny models in it."""

    def __init__(self, base: Path) -> None:
        self._base = base

    @pytest.fixture(scope="session")
    def base(self) -> Path:
        """The host's base directory: models/, custom_nodes/, output/, temp/."""
        return self._base

    @pytest.fixture(scope="session")
    def pack(self) -> Pack:
        """This repository as the host loaded it, exactly once."""
        return loaded_pack(self._base, PACK_FOLDER)

    @pytest.fixture(scope="session")
    def probe(self) -> Pack:
        """The harness's own pack."""
        return loaded_pack(self._base, PROBE_FOLDER)

    @pytest.fixture(scope="session")
    def call(self) -> Callable[..., Called]:
        """``call("NodeId", input=value)`` runs a node as the executor would; see node_calls.py."""
        return call_node

    @pytest.fixture(scope="session")
    def tiny_model(self) -> Callable[..., Any]:
        """``tiny_model(causal=True)``: a fresh MODEL of 2 layers and 2 heads from the stock loader."""

        def load(causal: bool = False) -> Any:
            name = CAUSAL_WAN_FILE if causal else WAN_FILE
            return call_node("UNETLoader", unet_name=name, weight_dtype="default").outputs[0]

        return load

    @pytest.fixture
    def tiny_vae(self) -> Any:
        """A VAE of the Wan2.1 architecture with 8 base channels, from the stock loader."""
        return call_node("VAELoader", vae_name=VAE_FILE).outputs[0]

    @pytest.fixture(scope="session")
    def conditioning(self) -> Callable[..., list[Any]]:
        """``conditioning(seed)``: what CLIPTextEncode would give, (1, 512, 4096) seeded noise for an embedding."""

        def make(seed: int = 0, batch: int = 1) -> list[Any]:
            generator = torch.Generator().manual_seed(seed)
            return [[torch.randn(batch, TEXT_TOKENS, TEXT_DIM, generator=generator), {}]]

        return make
