"""Every mistake of a manifest is told, at its line and in words, whatever else is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from jobs.errors import BrokenManifestError
from jobs.manifest_check import Fault, FaultyManifestError, read
from jobs.manifests import load
from jobs.param_schema import PARAM
from jobs.rules import ManifestFile

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs/examples/relax.toml"
SHIPPED = sorted(ROOT.glob("manifests/*.toml"))
#: Those that run a script which comes along.
SCRIPTED = [path for path in SHIPPED if "{manifest_dir}/" in load(path).file.run.command[1]]


def faults(text: str | bytes, stem: str = "relax") -> tuple[Fault, ...]:
    try:
        read(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"), stem)
    except FaultyManifestError as error:
        return error.faults
    return ()


@pytest.mark.parametrize("path", [*SHIPPED, EXAMPLE], ids=lambda path: path.stem)
def test_what_comes_with_outlast_is_sound(path: Path) -> None:
    assert faults(path.read_bytes(), path.stem) == ()


@pytest.mark.parametrize("path", SCRIPTED, ids=lambda path: path.stem)
def test_no_value_is_taken_for_an_option(path: Path) -> None:
    """The scripts read their arguments with argparse, to which the -1e-05 of `--x -1e-05` is an
    option that it does not know: such values have to be given as `--x=-1e-05`."""
    manifest = load(path)
    for name, table in manifest.file.params.items():
        if table.keys() & {"save_as", "format"}:  # an absolute path
            continue
        schema = Draft202012Validator(manifest.params_schema()["properties"][name])
        for odd in (-1e-05, -1, "-x"):
            for value in (odd, [odd] * table.get("minItems", 1)):
                if schema.is_valid(value):
                    assert str(odd) not in manifest.command({name: value}), name


#: A line of the example, what stands there instead, and what is told of it.
MISTAKES = {
    'name = "relax"': ('name = "relaks"', "`name`"),
    'description = "One edge': ("cite = 3", "`cite` must be a list, not 3."),
    'install = "cc': ('instal = "cc"', "Did you mean 'install'?"),
    "default = 151": ("default = 1", "less than the minimum of 3"),
    "minimum = 1": ("minimun = 1", "Did you mean 'minimum'?"),
    'type = "number"': ('type = "nummer"', "Did you mean 'number'?"),
    "exclusiveMinimum = 0": ('exclusiveMinimum = "0"', "'0' is not of type 'number'"),
    '2 = "the arguments': ('two = "x"', "The key `two` of [run.exit] must be a whole number."),
    'checkpoint = "plate.bin"': ('checkpoint = "/plate.bin"', "stay in the working directory"),
    'carry = ["plate.bin"]': ('carry = ["a", 3]', "`carry[1]` of [resume] must be a text"),
    'args = ["plate.bin"]': ('args = ["{cels}"]', "{cels}. Did you mean 'cells'?"),
    "cores = 1": ('cores = "{coers}"', "unknown placeholder {coers}"),
    "memory_mb = 256": ("memory = 256", "[resources] has no key `memory`. Did you mean"),
    "regex = '^iteration": ("regex = '(?P<step'", "not a valid regular expression"),
    'message = "iteration': ("count = 'x'", "exactly one of regex and count"),
    "regex = '^NOT": (
        "regex = '['",
        "`regex` of [[failure]]: it is not a valid regular expression",
    ),
    'meaning = "it ended': ("# no meaning", "[[success]] lacks the key `meaning`"),
    "keys = [": ("kees = []", "[summary] has no key `kees`. Did you mean 'keys'?"),
    'kind = "table"': ('kind = "tabel"', "\"tabel\". Did you mean 'table'?"),
    "plot = {": ("plot = { y = [] }", "`y` of [output.plot] must have at least 1 item."),
    'kind = "json"': ("kind = true", "not true."),
}
#: Where a mistake is told not at its own line but at the header of the table that lacks something.
HEADERS = {'message = "iteration': "[[progress]]", 'meaning = "it ended': "[[success]]"}


@settings(deadline=None)
@given(st.sets(st.sampled_from(sorted(MISTAKES))))
@example(set(MISTAKES))
def test_every_mistake_is_told_at_its_line(chosen: set[str]) -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    expected = {}
    for before in chosen:
        expected[before] = next(i for i, line in enumerate(lines) if line.startswith(before))
    for before, index in expected.items():
        lines[index] = MISTAKES[before][0]
        if before in HEADERS:
            expected[before] = lines.index(HEADERS[before])
    told = faults("\n".join(lines))
    assert {fault.line for fault in told} == {index + 1 for index in expected.values()}
    for before, index in expected.items():
        there = [fault.text for fault in told if fault.line == index + 1]
        assert any(MISTAKES[before][1] in text for text in there), (MISTAKES[before], told)


def test_what_is_missing_at_the_top_is_told_in_the_first_line() -> None:
    told = faults("# nothing\n")
    assert {fault.line for fault in told} == {1}
    assert {fault.text.split("`")[1] for fault in told} == {"schema", "name", "title", "run"}


def test_what_is_taken_out_of_a_list_moves_no_other_line() -> None:
    head = 'schema = 1\nname = "relax"\ntitle = ""\nrun = { command = ["x"] }\n[resume]\n'
    told = faults(f'{head}checkpoint = "x"\ncarry = [\n  3,\n  "fine",\n  "/etc/*",\n]\n')
    assert [fault.line for fault in told] == [8, 10]


@pytest.mark.parametrize(
    ("table", "line", "words"),
    [
        ("[params.a-b]\n", 6, "a parameter's name is letters, digits and '_'"),
        ("[params.cores]\n", 6, "{cores} has a meaning of its own"),
        ("[params.a]\npattern = '('\ndefault = ''", 7, "not a valid regular expression"),
        ("[params.a.items]\nminimun = 1", 7, "Did you mean 'minimum'?"),
        ("[params.a.items]\n'$ref' = 'file:///etc/passwd'", 7, "no key of a parameter"),
        ("[params.a]\nanyOf = [\n{},\n{ type = 'strin' }]", 9, "Did you mean 'string'?"),
        ("[params.a]\ninput = 'copy'", 7, 'format = "file-path"'),
        ("[params.a]\nsave_as = '../x'", 7, "plain file name"),
        ("[params.a]\ndefault = 1\noptional = true", 8, "cannot be optional"),
        ("[[progress]]\nregex = '(?P<step>x)'\nmessage = '{stop}'", 8, "Did you mean 'step'?"),
        ("[[progress]]\ncount = '*'\ntotal = '5'\nmessage = '{percent}'", 9, "{percent}"),
        ("[resources]\ngpus = 'two'", 7, "it is no number"),
        ("[software]\nname = 'x'\nrequires = [\n'a[b]>=1.2',\n'b>>8']", 10, "'b>>8' names no"),
        ("[[failure]]\nregex = 'x'\nmeaning = 'x'\nsource = '{prefx}.log'", 9, "{prefx}"),
        ("[[warning]]\nregex = 'x'\nmeaning = 'x'\nsource = '{cores}.log'", 9, "{cores}"),
        ("[[success]]\nregex = 'x'\nmeaning = 'x'\nsource = '{none}'", 9, "placeholder {none}"),
        ("[params.a]\n[[failure]]\nregex = '{a}'\nmeaning = 'x'", 8, "{a} stays"),
        ("[params.a]\n[params.3]\n[[warning]]\nregex = 'x{3}'\nmeaning = '{a}'", 10, "{a} stays"),
        ("[summary]\npath = '{prefix}.json'", 7, "unknown placeholder {prefix}"),
        ("[resume]\ncheckpoint = 'c'\ncarry = [\n'a',\n'{prefix}.log']", 10, "{prefix}"),
        ("[resume]\ncheckpoint = 'c'\nlink = ['{prefix}.log']", 8, "{prefix}"),
        ("[params.a]\noptional = true\n[[output]]\npath = '{a}'", 9, "{a} may have no value"),
    ],
)
def test_what_no_type_can_say(table: str, line: int, words: str) -> None:
    told = faults(f'schema = 1\nname = "relax"\ntitle = ""\n[run]\ncommand = ["x"]\n{table}\n')
    assert [fault.line for fault in told] == [line]
    assert words in told[0].text


def test_a_value_of_several_types_is_told_once() -> None:
    head = 'schema = 1\nname = "relax"\ntitle = ""\n[run]\n'
    told = faults(f'{head}command = [\n  "a",\n  3,\n  ["--x", 4],\n  {{ when = "x" }},\n]')
    assert [(fault.line, fault.text) for fault in told] == [
        (7, "`command[1]` of [run] must be a text, a list or a table, not 3."),
        (8, "`command[2][1]` of [run] must be a text, not 4."),
        (9, told[2].text),
    ]
    assert told[2].text.startswith("`command[3]` of [run] lacks the key `args`")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("schema = 1\nname = relax\n", 2, "not TOML"),
        ("a = 1\n\na = 2\n", 3, "not TOML"),
        ('a = 1\nb = """\n\n', 2, "at the file's end"),
        (b"a = 1\nb = '\xe9'\n", 2, "not UTF-8"),
        ("\ufeffschema = 1", 1, "not TOML"),
        ("a = " + "[" * 100_000, 1, "too deeply"),
        ("a = 1\n" + "#" * (1 << 20), 1, "larger than any manifest"),
    ],
    ids=["bare", "twice", "open", "latin", "mark", "deep", "large"],
)
def test_what_is_no_toml_is_told_alone(text: str | bytes, line: int, words: str) -> None:
    (told,) = faults(text)
    assert told.line == line
    assert words in told.text


def test_a_launch_is_told_of_the_first_and_of_how_many_there_are(tmp_path: Path) -> None:
    path = tmp_path / "relax.toml"
    lines = EXAMPLE.read_text(encoding="utf-8").replace("default = 151", "default = 1")
    path.write_text(lines.replace("cores =", "coers ="), encoding="utf-8")
    with pytest.raises(BrokenManifestError) as refusal:
        load(path)
    assert refusal.value.cause.startswith(f"{path}, line 12: `default` of [params.cells]")
    assert refusal.value.cause.endswith("There is 1 more mistake.")


def well_told(told: tuple[Fault, ...], text: str | bytes) -> None:
    ends = text.count("\n") if isinstance(text, str) else text.count(b"\n")
    for fault in told:
        assert 1 <= fault.line <= ends + 1
        assert fault.text.endswith((".", "?"))
        assert "\n" not in fault.text


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_text_breaks_it(text: str | bytes) -> None:
    well_told(faults(text), text)


words = sorted(
    {field.alias or name for name, field in ManifestFile.model_fields.items()}
    | {"command", "exit", "regex", "count", "total", "path", "plot", "y", "when", "args", "x"}
    | {"checkpoint", "carry", "signal", "cores", "env", *PARAM["properties"]}
)
values: st.SearchStrategy[Any] = st.recursive(
    st.integers(-2, 70) | st.booleans() | st.floats() | st.sampled_from(["", "{x}", "(", "x", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(words), inner),
    max_leaves=20,
)


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(written, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else repr(value).lower()


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(words), values, max_size=6), st.booleans())
def test_no_document_breaks_it(document: dict[str, Any], whole: bool) -> None:
    if whole:
        document = {"schema": 1, "name": "relax", "title": "", "run": {"command": ["a"]}} | document
    text = "\n".join(f"{key} = {written(value)}" for key, value in document.items())
    well_told(faults(text), text)
