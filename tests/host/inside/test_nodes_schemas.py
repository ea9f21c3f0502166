"""Every node as the host reads it: a schema that one bad field would turn into a pack that does not load."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Any

import pytest

NODE_IDS = {
    f"DummyForcing{name}"
    for name in (
        "LoadARModel", "LoadDemoModel", "ClipSize", "ProfileHeads", "SaveHeadProfile", "LoadHeadProfile",
        "ApplyDummyForcing", "ApplyCacheWindow", "TeaCache", "PromptSchedule", "PromptAt", "StreamingSampler",
        "Sampler", "StreamingDecode", "CompareClips", "UpscaleVideo", "InterpolateVideo", "AddAudio",
    )
}  # fmt: skip
"""Saved workflows know nodes by these: none may ever be renamed or dropped. Add a new node's when it is released."""
STOCK_SOCKETS = {"MODEL", "CLIP", "VAE", "CONDITIONING", "LATENT", "IMAGE", "VIDEO", "SAMPLER", "SIGMAS"} | {
    "AUDIO", "UPSCALE_MODEL", "INTERP_MODEL"
}  # fmt: skip
CATEGORIES = {f"Dummy Forcing/{task}" for task in ("load", "prompts", "memory", "sample", "look")}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


@pytest.fixture(scope="session")
def schemas(pack: Any) -> dict[str, Any]:
    return {node_id: node.GET_SCHEMA() for node_id, node in pack.nodes.items()}


def plain_widgets(schema: Any) -> list[Any]:
    return [one for one in schema.inputs if one.get_io_type() in WIDGETS and not getattr(one, "advanced", None)]


def test_the_host_loaded_every_node(pack: Any) -> None:
    assert set(pack.nodes) >= NODE_IDS


def test_every_schema_is_valid_and_ours(schemas: dict[str, Any]) -> None:
    for node_id, schema in schemas.items():
        schema.validate()
        assert schema.node_id == node_id and node_id.startswith("DummyForcing")
        assert schema.category in CATEGORIES, node_id
        assert schema.display_name and not schema.display_name.startswith("DummyForcing"), node_id
        assert 20 < len(schema.description) < 400, node_id
    assert {schema.category for schema in schemas.values()} == CATEGORIES
    names = [schema.display_name for schema in schemas.values()]
    assert len(set(names)) == len(names)


def test_the_hosts_description_of_every_node_is_json(pack: Any) -> None:
    for node_id, node in pack.nodes.items():
        info = json.loads(json.dumps(vars(node.GET_SCHEMA().get_v1_info(node)), default=vars))
        assert info["name"] == node_id and info["python_module"] == "custom_nodes.ComfyUI-DummyForcing"


def test_sockets_are_the_hosts_or_named_after_us(schemas: dict[str, Any]) -> None:
    ours = set()
    for schema in schemas.values():
        types = {str(one.get_io_type()) for one in (*schema.inputs, *schema.outputs)}
        ours |= types - STOCK_SOCKETS - WIDGETS
    assert ours == {"DummyForcingHeadProfile"}


def test_few_plain_widgets_and_every_one_has_a_default_in_its_range(schemas: dict[str, Any]) -> None:
    for node_id, schema in schemas.items():
        assert len(plain_widgets(schema)) <= 5, node_id
        for one in schema.inputs:
            kind = one.get_io_type()
            if kind in ("INT", "FLOAT"):
                assert one.min <= one.default <= one.max, (node_id, one.id)
            elif kind == "COMBO" and one.default is not None:
                assert one.default in one.options, (node_id, one.id)
            elif kind in ("STRING", "BOOLEAN"):
                assert one.default is not None, (node_id, one.id)


def test_every_execute_takes_exactly_its_inputs(pack: Any) -> None:
    for node_id, node in pack.nodes.items():
        schema = node.GET_SCHEMA()
        parameters = inspect.signature(node.execute).parameters
        assert set(parameters) == {one.id for one in schema.inputs}, node_id
        for one in schema.inputs:
            may_lack = parameters[one.id].default is not inspect.Parameter.empty
            assert may_lack or not one.optional, (node_id, one.id)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_input_and_output_is_explained(schemas: dict[str, Any], pack: Any, language: str) -> None:
    locale = json.loads((Path(pack.directory) / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert set(locale) == set(schemas)
    for node_id, schema in schemas.items():
        told = locale[node_id].get("inputs", {})
        assert set(told) == {one.id for one in schema.inputs}, node_id
        for one in schema.inputs:
            assert len(told[one.id]["tooltip"]) > 3, (node_id, one.id)
        assert set(locale[node_id]["outputs"]) == {str(index) for index in range(len(schema.outputs))}, node_id


def test_seeds_draw_anew_and_nothing_else_does(schemas: dict[str, Any]) -> None:
    drawing = {
        (node_id, one.id)
        for node_id, schema in schemas.items()
        for one in schema.inputs
        if getattr(one, "control_after_generate", None)
    }
    assert drawing == {("DummyForcingStreamingSampler", "seed"), ("DummyForcingProfileHeads", "seed")}


def test_an_older_hosts_schema_gets_only_fields_that_it_knows(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = part("nodes.schema")
    old = make_dataclass("Schema", [(name, Any, None) for name in ("node_id", "display_name", "category", "inputs")])

    class OldIo:
        Schema = old

    monkeypatch.setattr(ours, "io", OldIo)
    made = ours.schema(node_id="X", category="y", search_aliases=["z"], is_output_node=True, inputs=[])
    assert {field.name for field in fields(made)} == {"node_id", "display_name", "category", "inputs"}
    assert (made.node_id, made.category) == ("X", "y")


def test_no_node_uses_the_schema_without_the_filter(pack: Any) -> None:
    for path in (Path(pack.directory) / "nodes").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert path.name == "schema.py" or not re.search(r"(return|=) io\.Schema\(", text), path.name


def test_the_entry_exports_no_old_mappings(pack: Any) -> None:
    """Even an empty NODE_CLASS_MAPPINGS hides the V3 entry from the host."""
    assert not {"NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"} & set(vars(pack.module))
    assert (Path(pack.directory) / pack.module.WEB_DIRECTORY).is_dir()


def test_rates_can_be_typed_with_three_digits(schemas: dict[str, Any]) -> None:
    """The page keeps as many digits as the step has, whatever it is rounded to."""
    for node_id, schema in schemas.items():
        for one in schema.inputs:
            if one.id == "fps":
                assert one.step == one.round == 0.001, node_id
            if one.get_io_type() == "FLOAT" and getattr(one, "round", None):
                assert one.step <= one.round, (node_id, one.id)
