"""docs/manifests.md and the schema for editors say what the types say, and show what is tested."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic.fields import FieldInfo

from jobs import rules
from jobs.limits import Model
from jobs.manifest_check import read
from jobs.manifest_schema import editor_schema, editor_schema_text
from jobs.manifests import load
from jobs.param_schema import PARAM
from jobs.progress import OWN_REPORT

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/manifests.md").read_text(encoding="utf-8")
SCHEMA_FILE = ROOT / "manifests/manifest.schema.json"
MANIFESTS = [*sorted(ROOT.glob("manifests/*.toml")), ROOT / "docs/examples/relax.toml"]

#: The heading under which each type is described.
SECTIONS: dict[str, type[Model]] = {
    "The file": rules.ManifestFile,
    "`[software]`": rules.Software,
    "`[run]`": rules.Run,
    "Arguments that depend on a parameter": rules.When,
    "`[stop]`": rules.Stop,
    "`[resume]`": rules.Resume,
    "`[resources]`": rules.ManifestResources,
    "`[[progress]]`": rules.ProgressRule,
    "`[[failure]]`, `[[warning]]`, `[[success]]`": rules.Finding,
    "`[summary]`": rules.Summary,
    "`[[output]]`": rules.OutputRule,
    "`plot`": rules.Plot,
}


def section(heading: str) -> str:
    """What stands between this heading and the next."""
    _, found, rest = PAGE.partition(f"\n### {heading}\n")
    assert found, f"{heading} is missing"
    return re.split(r"\n##+ ", rest)[0]


def row(name: str, field: FieldInfo) -> str:
    words = [field.description]
    if field.is_required():
        words.append("Required.")
    elif isinstance(field.default, str | int) and field.default not in ("", False):
        words.append(f"Default: `{json.dumps(field.default)}`.")
    return f"| `{field.alias or name}` | {' '.join(filter(None, words))} |"


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_reference_has_every_key_and_no_other(heading: str) -> None:
    rows = re.findall(r"^\| `.*$", section(heading), re.MULTILINE)
    assert rows == [row(*item) for item in SECTIONS[heading].model_fields.items()]


def test_the_reference_has_every_key_of_a_parameter() -> None:
    text = section("`[params.NAME]`")
    for name, schema in PARAM["properties"].items():
        assert f"| `{name}` | {schema['description']} |" in text
    rows = re.findall(r"^\| `(\w+)`", text, re.MULTILINE)
    assert rows == list(PARAM["properties"])


def test_every_type_of_the_language_has_its_section() -> None:
    used = set(editor_schema()["$defs"]) | {"ManifestFile"}
    assert used == {model.__name__ for model in SECTIONS.values()}


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return found


@pytest.mark.parametrize(("language", "name"), [("c", "relax.c"), ("toml", "relax.toml")])
def test_the_worked_example_is_shown_as_it_is(language: str, name: str) -> None:
    assert (ROOT / "docs/examples" / name).read_text(encoding="utf-8") in blocks(language)


SMALLEST = next(block for block in blocks("toml") if block.startswith("schema"))


@pytest.mark.parametrize("block", blocks("toml"))
def test_every_piece_of_a_manifest_that_is_shown_is_valid(block: str) -> None:
    params = "\n[params.cells]\ntype = 'integer'\ndefault = 5\n"
    text = block if "schema = 1" in block else f"{SMALLEST}{params}{block}"
    read(text.encode(), "relax")


def test_elements_of_a_command_become_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "relax.toml").write_text(
        SMALLEST.rpartition("command")[0]
        + """command = ["a{one}", "{none}", ["-n", "{none}"], ["-x", "{many}"], "{many}",
        "{off} { it }", { when = "off", args = ["--off"] },
        { when = "zero", args = ["--zero={zero}"] }]
        [params]
        one.type = "number"
        none.type = "string"
        many.type = "array"
        off.type = "boolean"
        zero.type = "integer"
        """,
        encoding="utf-8",
    )
    given = {"one": 1e-6, "many": ["p", "q"], "off": False, "zero": 0}
    assert load(tmp_path / "relax.toml").command(given, resumes=False) == [
        *("a1e-06", "-x", "p", "-x", "q", "p", "q", "false { it }", "--zero=0"),
    ]


def test_progress_is_reported_as_is_said() -> None:
    shell = next(block for block in blocks("bash") if "outlast: progress" in block)
    said = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout
    match = re.match(OWN_REPORT.regex or "", said)
    assert match is not None
    assert match.groupdict() == {"fraction": "0.4", "message": "aligned 4 of 10 samples"}


def test_the_smallest_manifest_is_as_small_as_is_said() -> None:
    assert len(SMALLEST.splitlines()) == 5


def test_every_link_leads_somewhere() -> None:
    headings = re.findall(r"^##+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        assert (ROOT / "docs" / path).exists(), target
        assert path or anchor in anchors, target


def test_the_committed_schema_is_that_of_the_types() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == editor_schema_text(), (
        "run: python -m server manifests schema > manifests/manifest.schema.json"
    )


def objects(node: Any) -> list[dict[str, Any]]:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    found = [one for item in inner for one in objects(item)]
    return [*found, node] if isinstance(node, dict) else found


def test_the_schema_is_sound_and_explains_every_key() -> None:
    schema = editor_schema()
    Draft202012Validator.check_schema(schema)
    assert not [node for node in objects(schema) if node.get("type") == "null"]
    for node in objects(schema):
        properties = node.get("properties")
        if isinstance(properties, dict) and node.get("type") == "object":
            for name, one in properties.items():
                assert one.get("description"), name


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_schema_takes_every_manifest_that_there_is(path: Path) -> None:
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    validator = Draft202012Validator(editor_schema())
    assert not list(validator.iter_errors(document))
    document["output"][0]["kind"] = "tabel"
    document["stop"] = {"signl": "TERM"}
    document["params"]["x"] = {"minimun": 1}
    assert {tuple(error.absolute_path) for error in validator.iter_errors(document)} == {
        ("output", 0, "kind"),
        ("stop",),
        ("params", "x"),
    }
