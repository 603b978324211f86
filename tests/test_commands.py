"""Every command that a document shows is run by a test, or is said here to need what none has."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]

# What a line starts with -> the test that runs it, with other paths or less data. Longest first.
RUN = {
    "python3 -m venv .venv && .venv/bin/pip install -e '.[test]'": "../.ci/run",
    "python examples/search.py": "test_examples.py::test_search",
    "python examples/demo.py": "test_demo.py::test_the_command_starts_the_page",
    "python examples/evaluate.py": "test_examples.py::test_evaluate",
    "python examples/serve/rest_client.py": "export/test_serving.py::test_rest_client",
    "python examples/serve/grpc_client.py": "export/test_serving.py::test_grpc_client",
    "python examples/edge/onnx_client.py": "export/test_edge.py::answers",
    "python examples/edge/litert_client.py": "export/test_edge.py::answers",
    "python examples/edge/serve_page.py": "export/test_edge_browser.py::test_the_command",
    "python examples/benchmarks/edge.py": "test_examples.py::test_benchmark_of_edge",
    "python examples/zero_shot_released.py": "test_examples.py::test_zero_shot_released",
    "python examples/multilingual.py": "test_examples.py::test_multilingual",
    "python examples/look_at_pictures.py": "test_examples.py::test_look_at_pictures",
    **{
        f"python examples/studies/{name}.py": "test_studies.py::test_a_study_runs"
        for name in (
            "design_choices why_locked batch_size text_towers sequence_length image_towers "
            "filters unlocking languages ask_in_your_language"
        ).split()
    },
    "python examples/train_multiworker.py": "test_examples.py::test_workers",
    "python -m build": "test_release.py::built",
    "pip install -e '.[docs]' && mkdocs serve": "test_site.py::site",
    "python examples/benchmarks/calibration.py": "test_examples.py::test_benchmark_of_calibration",
    "python examples/benchmarks/search.py": "test_examples.py::test_search_benchmark",
    "python examples/benchmarks/run_all.py": "test_run_all.py::test_quick",
    "python examples/benchmarks/speedrun.py": "test_run_all.py::test_speedrun",
}
CANNOT_RUN = {
    "pip install -e '.[demo]'": "a download",
    "python3 -m venv .venv && .venv/bin/pip install -e '.[demo]'": "a download, and minutes; its "
    "script runs on other data in test_quickstart.py",
    "docker run": "docker; tests/serving.py stands in for the server",
    "python examples/studies/repeated_captions.py": "all of OpenPictures, minutes",
    "python examples/studies/few_pairs.py": "all of OpenPictures, minutes; what it calls is tested",
    "python examples/studies/short_embeddings.py": "as few_pairs.py; its functions are tested",
    "python examples/studies/distillation.py": "as few_pairs.py; what it trains is tested",
    "python examples/studies/middle_ways.py": "as few_pairs.py; its functions are tested",
    "python examples/studies/heat_maps.py": "pretrained towers, minutes; its collages are tested",
    "python examples/train_tpu.py": "a TPU; test_model.py compiles its step with XLA",
}
KNOWN = {**RUN, **CANNOT_RUN}


def commands(path):
    """The lines of `sh` blocks, continued ones joined, and inline code that is a command."""
    text = path.read_text()
    blocks = "\n".join(re.findall(r"```(?:sh|bash|shell|console)\n(.*?)```", text, re.DOTALL))
    lines = re.sub(r"\\\n\s*", "", blocks).splitlines()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\n", " ")
    inline = re.findall(
        r"(?<!`)`((?:python3?|mkdocs|docker) [^`]+|examples/\S+\.py -[^`]+)`", prose
    )
    inline = [re.sub(r"^examples/", "python examples/", line) for line in inline]
    return [line.split("  #")[0].strip() for line in (*lines, *inline) if line.strip()]


ALL = [(path, line) for path in DOCUMENTS for line in commands(path)]


def start_of(line):
    """The longest known start of a command, or nothing."""
    return max((start for start in KNOWN if line.startswith(start)), key=len, default=None)


@pytest.mark.parametrize(("path", "line"), ALL, ids=[f"{p.name}-{c[:40]}" for p, c in ALL])
def test_command_is_run_somewhere(path, line):
    assert start_of(line), f"{path.name}: add `{line}` to RUN with its test, or to CANNOT_RUN."
    for script in re.findall(r"examples/\S+\.py", line):
        source = (ROOT / script).read_text()
        if "parse_arguments()" in source and "from train_multiworker" in source:
            source += (ROOT / "examples" / "train_multiworker.py").read_text()
        if "/studies/" in script:
            source += (ROOT / "examples" / "studies" / "full.py").read_text()
        if "/edge/" in script:
            source += (ROOT / "examples" / "edge" / "reference.py").read_text()
        for option in re.findall(r"(?<=\s)--[a-z-]+", line.split(script)[1]):
            assert f'"{option}"' in source, f"{path.name}: {script} has no {option}"


def test_known_commands_are_in_use():
    assert {start_of(line) for _, line in ALL} == set(KNOWN)


@pytest.mark.parametrize("command", RUN)
def test_named_test_exists_and_names_the_script(command):
    name, _, function = RUN[command].partition("::")
    text = (ROOT / "tests" / name).read_text()
    if not function:
        assert command.split("&&")[1].split()[-1] in text
        return
    nodes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert function in nodes
    words = text if "studies" in name else ast.get_source_segment(text, nodes[function])
    program = "mkdocs" if "mkdocs" in command else pathlib.Path(command.split()[-1]).stem
    assert program in words


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_files_that_a_document_names_exist(path):
    for name in re.findall(r"`((?:examples|tests|docs|keras_lit)/[\w/.]+\.\w+)`", path.read_text()):
        assert (ROOT / name).exists(), name
