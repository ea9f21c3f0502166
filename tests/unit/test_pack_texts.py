"""What the pack tells its users: translations and help pages, against the nodes' own sources."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dummyforcing_core.policies import POLICIES
from dummyforcing_core.policies.options import options_of

ROOT = Path(__file__).parents[2]
PAGES, LOCALES, LANGUAGES = ROOT / "web" / "docs", ROOT / "locales", ("en", "zh")
TROUBLE = ROOT / "docs" / "troubleshooting.md"
HAN = re.compile(r"[\u4e00-\u9fff]")


# What the nodes say about themselves, without a host: their sources, read as data.


@dataclass
class Node:
    """One schema(...) call: input ids with their tooltips, and output names."""

    display_name: str
    description: str
    inputs: dict[str, str | None] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)


def read_nodes(source: str) -> dict[str, Node]:
    """Every schema of a module by node id. Every field read here must be written out, not computed."""
    nodes, tree = {}, ast.parse(source)
    returned = {
        one.name: one.body[-1].value
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef) and isinstance(one.body[-1], ast.Return)
    }
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "schema"):
            continue
        said = {keyword.arg: keyword.value for keyword in call.keywords}
        if "node_id" not in said:
            continue  # the definition's own call of io.Schema
        node = Node(ast.literal_eval(said["display_name"]), ast.literal_eval(said["description"]))
        for put in elements(said["inputs"], returned):
            options = {keyword.arg: keyword.value for keyword in put.keywords}
            name = ast.literal_eval(put.args[0])
            node.inputs[name] = ast.literal_eval(options["tooltip"]) if "tooltip" in options else None
        for out in elements(said["outputs"], returned):
            node.outputs.append(
                next(ast.literal_eval(keyword.value) for keyword in out.keywords if keyword.arg == "display_name")
            )
        nodes[ast.literal_eval(said["node_id"])] = node
    return nodes


def elements(node: ast.expr | None, returned: dict[str, ast.expr | None]) -> Iterator[ast.Call]:
    """The calls in a list; *those() are what a function of that name returns."""
    assert isinstance(node, ast.List)
    for element in node.elts:
        if isinstance(element, ast.Starred):
            assert isinstance(element.value, ast.Call) and isinstance(element.value.func, ast.Name)
            yield from elements(returned[element.value.func.id], returned)
        else:
            assert isinstance(element, ast.Call)
            yield element


NODE_SOURCES = "\n".join(module.read_text(encoding="utf-8") for module in sorted((ROOT / "nodes").glob("*.py")))
HOST_SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "nodes/host").glob("*.py")))
NODES = read_nodes(NODE_SOURCES)


def locale(language: str) -> dict[str, Any]:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def said(message: str) -> str:
    """What the page's translator makes of a message: {'|'} is a bar."""
    return re.sub(r"\{'(.)'\}", r"\1", message)


def strings(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, str):
        yield path, tree
    else:
        for key, value in tree.items():
            yield from strings(value, f"{path}.{key}")


def test_the_reader_sees_every_node() -> None:
    listed = re.search(r"NODES.*?\[(.*?)\]\n", (ROOT / "nodes/extension.py").read_text(encoding="utf-8"), re.S)
    assert listed and len(NODES) == len(re.findall(r"\w+,", listed[1])) >= 15
    assert all(node_id.startswith("DummyForcing") for node_id in NODES)
    assert list(NODES["DummyForcingApplyCacheWindow"].inputs) == [
        "model", "window", "sink", "positions", "keep_at_switch"
    ]  # fmt: skip


class TestLocales:
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_every_node_input_and_output_and_nothing_else(self, language: str) -> None:
        texts = locale(language)
        assert set(texts) == set(NODES)
        for node_id, node in NODES.items():
            entry = texts[node_id]
            assert set(entry.get("inputs", {})) == set(node.inputs), node_id
            assert set(entry["outputs"]) == {str(index) for index in range(len(node.outputs))}, node_id
            assert set(entry) == {"display_name", "description", "outputs"} | ({"inputs"} if node.inputs else set())
            for name, put in [*entry.get("inputs", {}).items(), *entry["outputs"].items()]:
                assert set(put) == {"name", "tooltip"}, (node_id, name)
        assert [path for path, text in strings(texts) if not text.strip() or text != text.strip()] == []

    def test_english_says_what_the_schemas_say(self) -> None:
        for node_id, node in NODES.items():
            entry = locale("en")[node_id]
            assert said(entry["display_name"]) == node.display_name
            assert said(entry["description"]) == node.description
            for name, tooltip in node.inputs.items():
                assert entry["inputs"][name]["name"] == name, (node_id, name)
                assert tooltip is None or entry["inputs"][name]["tooltip"] == tooltip, (node_id, name)
            assert [entry["outputs"][str(i)]["name"] for i in range(len(node.outputs))] == node.outputs

    def test_chinese_is_chinese(self) -> None:
        sentences = [(p, t) for p, t in strings(locale("zh")) if p.endswith((".tooltip", ".description"))]
        assert len(sentences) > 80
        assert [path for path, text in sentences if not HAN.search(text)] == []
        names = [locale("zh")[node_id]["display_name"] for node_id in NODES]
        assert [name for name in names if not HAN.search(name)] == []
        assert len(set(names)) == len(names)

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_no_message_is_taken_for_syntax(self, language: str) -> None:
        """The page compiles names and descriptions (| splits plurals, @ links, {} fills in); tooltips stay raw."""
        for path, text in strings(locale(language)):
            rest = text if path.endswith(".tooltip") else re.sub(r"\{'[|@{}]'\}", "", text)
            assert not re.search(r"[|@{}]", rest), path

    def test_numbers_survive_translation(self) -> None:
        english, chinese = dict(strings(locale("en"))), dict(strings(locale("zh")))
        assert set(english) == set(chinese)
        paths = [path for path in english if not path.endswith(".name")]
        figures = {path: [set(re.findall(r"\d+(?:\.\d+)?", t[path])) for t in (english, chinese)] for path in paths}
        # Numbers that the English spells out ("one", "a quarter") may be digits or words in Chinese.
        assert {path: pair for path, pair in figures.items() if not pair[0] <= pair[1]} == {}


class TestPageTexts:
    """locales/<language>/main.json: what our scripts say."""

    SCRIPTS = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "web").glob("*.js")))

    def test_both_languages_say_the_same_things(self) -> None:
        english, chinese = page_texts("en"), page_texts("zh")
        assert set(english) == set(chinese)
        assert [key for key in english if set(FIELDS.findall(english[key])) != set(FIELDS.findall(chinese[key]))] == []
        assert [key for key, text in chinese.items() if not HAN.search(text)] == []

    def test_the_scripts_ask_for_every_text_and_for_no_other(self) -> None:
        keys = set(page_texts("en"))
        made = {*OUTCOMES, *(f"{outcome}_kept" for outcome in OUTCOMES), *(f"role_{role}" for role in ROLES)}
        assert made | set(re.findall(r'\btext\("(\w+)"', self.SCRIPTS)) <= keys
        choices = {key for key in keys if key.startswith("choice_")}
        told = {key for key in choices if f'"{key.removeprefix("choice_")}"' in NODE_SOURCES + HOST_SOURCES}
        assert {key.removeprefix("choice_") for key in choices - told} <= OF_POLICIES
        assert [key for key in keys - made - choices if f'"{key}"' not in self.SCRIPTS] == []


OF_POLICIES = {word for one in POLICIES.values() for about in options_of(one).values() for word in about.choices}
OUTCOMES, ROLES = ("stopped", "failed"), ("sink", "neighbour", "dummy")
FIELDS = re.compile(r"\{(\w+)\}")


def page_texts(language: str) -> dict[str, str]:
    return json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))["dummyforcing"]


class TestPages:
    def test_one_page_per_node_and_language(self) -> None:
        assert {path.stem for path in PAGES.glob("*.md")} == set(NODES)
        assert {path.parent.name for path in PAGES.glob("*/*")} == set(NODES)
        assert {path.name for path in PAGES.glob("*/*")} == {"zh.md"}  # the host asks for <node>/<language>.md first

    @pytest.mark.parametrize("node_id", sorted(NODES))
    def test_page(self, node_id: str) -> None:
        node = NODES[node_id]
        pages = (PAGES / f"{node_id}.md", PAGES / node_id / "zh.md")
        assert [str(page.relative_to(ROOT)) for page in pages if not page.exists()] == [], "help pages are missing"
        english, chinese = (page.read_text(encoding="utf-8") for page in pages)
        assert english.startswith(f"# {node.display_name}\n")
        assert chinese.startswith(f"# {locale('zh')[node_id]['display_name']}\n")
        for section in ("Inputs", "Outputs", "When to change what", "Messages", "How it works"):
            assert f"\n## {section}\n" in english
        for page in (english, chinese):
            rows = first_cells(page)
            assert [name for name in node.inputs if name not in rows] == []
            assert "arxiv.org/abs/" in page
            assert re.findall(r"\]\((?!https://)", page) == []  # nothing beside a page is served with it
        assert [name for name in node.outputs if name not in first_cells(english)] == []
        assert len(HAN.findall(chinese)) > 100

    @pytest.mark.parametrize("path", [*PAGES.rglob("*.md"), TROUBLE], ids=lambda p: "/".join(p.parts[-2:]))
    def test_quoted_messages_exist(self, path: Path) -> None:
        missing = [quote for quote in quotes(path) if not all(map(in_sources, fragments(quote)))]
        assert missing == []

    def test_there_are_quotes(self) -> None:
        assert sum(len(quotes(path)) for path in PAGES.glob("*.md")) > 35
        assert len(quotes(TROUBLE)) > 15
        assert not in_sources("no node has ever said this")


def first_cells(page: str) -> set[str]:
    """Words of the first column of every table."""
    return {word for row in re.findall(r"^\| *([^|]+?) *\|", page, re.M) for word in re.findall(r"\w+", row)}


def quotes(path: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    return [re.sub(r"\s+", " ", quote) for quote in re.findall(r"(?<![*\w])\*([^*]+?)\*(?![*\w])", text)]


def fragments(quote: str) -> list[str]:
    return [part.strip() for part in quote.split("...") if part.strip()]


CONSTANTS = "\0".join(
    constant.value
    for folder in ("nodes", "dummyforcing_core")
    for path in sorted((ROOT / folder).rglob("*.py"))
    for constant in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
)


def in_sources(fragment: str) -> bool:
    return fragment in CONSTANTS
