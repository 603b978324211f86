"""Results as JSON that CLIP_benchmark reads, and as one page of HTML that needs nothing else."""

import base64
import html
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lit import files
from keras_lit.evaluation import sheets
from keras_lit.evaluation.reliability import Reliability
from keras_lit.evaluation.results import Result, shown

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; overflow-wrap: anywhere }
h1 { font-size: 1.6rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .25rem .8rem; text-align: left; border-bottom: 1px solid #eee }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.sheet td { border: 0; padding: .2rem } .sheet td:first-child { max-width: 16rem }
.sheet img { display: block; border: 4px solid #ccc; border-radius: 3px }
.sheet img.right { border-color: #228b3c } .sheet small, .note { color: #666 }
"""


def report(
    results: Sequence[Result],
    directory: str | os.PathLike,
    title: str = "Evaluation",
    model: str = "",
) -> pathlib.Path:
    """Writes `results.json` and `report.html`, and a file for each result in `clip_benchmark/`.

    Those are the records of `results.json` one by one, as CLIP_benchmark writes and reads them:
    `clip_benchmark build report/clip_benchmark --output benchmark.csv`.

    Args:
        results: what `classify` and `retrieve` return.
        directory: where to write; made if need be.
        title: str, of the page.
        model: str, the name of the model.

    Returns:
        The path of the page, one file that opens without a network.

    Raises:
        ValueError: no results.

    Example:

    >>> import tempfile
    >>> result = keras_lit.evaluation.Result(
    ...     "pets", "zeroshot_classification", {"accuracy@1": 0.5}, count=10)
    >>> keras_lit.evaluation.report([result], tempfile.mkdtemp()).name
    'report.html'
    """
    if not results:
        raise ValueError("There should be at least one result to report. Received none.")
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    records = [_record(result, model) for result in results]
    _write(directory / "results.json", _json(records))
    folder = directory / "clip_benchmark"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9][0-9][0-9]_*.json"):
        old.unlink()
    for i, record in enumerate(records):
        name = re.sub(r"[^\w-]+", "_", record["dataset"]).strip("_")[-80:]
        _write(folder / f"{i:03d}_{name}.json", _json(record))
    page = directory / "report.html"
    rows = [(result.dataset, *_metrics(result)[0]) for result in results]
    body = _table(("dataset", "metric", "value"), rows) + "".join(map(_section, results))
    head = f"<h1>{html.escape(title)}</h1>" + (f"<p>{html.escape(model)}</p>" if model else "")
    _write(
        page,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>{head}{body}</body></html>\n",
    )
    return page


def _write(path: pathlib.Path, content: str) -> None:
    with files.whole(path) as working:
        working.write_text(content, encoding="utf-8")


def _json(content: Any) -> str:
    # Numbers of NumPy's, too.
    return json.dumps(content, indent=2, default=lambda x: np.asarray(x).tolist()) + "\n"


def benchmark_key(name: str) -> str:
    """The name of a metric in CLIP_benchmark, which names a retrieval after what is found."""
    name = re.sub(r"^accuracy@(\d+)", r"acc\1", name)
    return re.sub(r"^\w+_to_(image|text)_", r"\1_retrieval_", name)


def _record(result: Result, model: str) -> dict[str, Any]:
    return {
        "dataset": result.dataset,
        "model": model,
        "pretrained": "",
        "task": result.task,
        "language": "en",
        "metrics": {benchmark_key(k): value for k, value in result.to_dict()["metrics"].items()},
        "count": result.count,
        "settings": result.settings,
        "confusions": result.confusions,
    }


def _section(result: Result) -> str:
    settings = {name.replace("_", " "): value for name, value in result.settings.items()}
    said = ", ".join(f"{name}: {value}" for name, value in settings.items())
    note = html.escape(f"{result.task}, {result.count} images; {said}")
    page = f'<h2>{html.escape(result.dataset)}</h2><p class="note">{note}</p>'
    page += _table(("metric", "value"), _metrics(result))
    if result.confusions:
        rows = [(a, b, str(n), f"{100 * part:.1f}%") for a, b, n, part in result.confusions]
        page += "<h3>Worst confusions</h3>"
        page += _table(("class", "taken for", "images", "of the class"), rows)
    if result.reliability is not None:
        page += "<h3>Reliability</h3>" + _diagram(result.reliability)
    if result.sheet:
        page += "<h3>Nearest pictures</h3>" + _sheet(result.sheet)
    if result.heat_maps:
        page += "<h3>Heat maps</h3>" + _heat_maps(result.heat_maps)
    return page


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cell(text: str) -> str:
        kind = ' class="number"' if re.fullmatch(r"[\d.]+%?", text) else ""
        return f"<td{kind}>{html.escape(text)}</td>"

    lines = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    titles = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    return f"<table><tr>{titles}</tr>{lines}</table>"


def _diagram(curve: Reliability) -> str:
    """Bars of the accuracy in each bin of confidence, beside the diagonal."""
    width = 200 / len(curve.counts)
    bars = "".join(
        f'<rect x="{i * width:.1f}" y="{200 * (1 - accuracy):.1f}" width="{width:.1f}" height="'
        f'{200 * accuracy:.1f}"><title>{count} answers of confidence {confidence:.2f}: '
        f"{accuracy:.1%} right</title></rect>"
        for i, (confidence, accuracy, count) in enumerate(zip(*curve[:3], strict=True))
        if count
    )
    note = (
        f"How often answers are right, over their probability. Expected calibration error "
        f"{curve.ece:.3f}; on as many answers perfect probabilities would have about "
        f"{curve.ece_noise:.3f}."
    )
    return (
        '<svg viewBox="-32 -4 236 236" width="320" role="img" font-size="10"><title>Reliability '
        f'diagram</title><g fill="#7aa6d8" stroke="#fff">{bars}</g><path d="M0 0V200H200M0 200L200 '
        '0" fill="none" stroke="#666"/><text x="-6" y="8" text-anchor="end">1</text><text x="-6" '
        'y="200" text-anchor="end">0</text><text x="200" y="212" text-anchor="end">1</text><text '
        'x="100" y="224" text-anchor="middle">probability</text><text x="-12" y="100" text-anchor='
        '"middle" transform="rotate(-90 -12 100)">right</text></svg>'
        f'<p class="note">{note}</p>'
    )


def _sheet(rows: Sequence[sheets.SheetRow]) -> str:
    def cell(hit: sheets.Hit) -> str:
        kind, text = ("right", "right") if hit.right else ("wrong", "")
        return (
            f'<td><img class="{kind}" alt="{text}" src="{_png(hit.pixels)}">'
            f"<small>{hit.similarity:.2f}</small></td>"
        )

    lines = [
        f"<tr><td>{html.escape(row.query)}</td>{''.join(map(cell, row.hits))}</tr>" for row in rows
    ]
    note = "A green frame marks a right picture; below it is its cosine similarity to the text."
    return f'<table class="sheet">{"".join(lines)}</table><p class="note">{note}</p>'


def _heat_maps(rows: Sequence[sheets.HeatRow]) -> str:
    def cell(pixels: np.ndarray, text: str) -> str:
        text = html.escape(text)
        return f'<td><img alt="{text}" src="{_png(pixels)}"><small>{text}</small></td>'

    lines = [
        f"<tr>{cell(row.pixels, '')}{''.join(cell(y, x) for x, y in row.maps)}</tr>" for row in rows
    ]
    note = "Yellow is where the cosine similarity to the text is highest in the picture."
    return f'<table class="sheet">{"".join(lines)}</table><p class="note">{note}</p>'


def _png(pixels: np.ndarray) -> str:
    png = base64.b64encode(tf.io.encode_png(pixels).numpy()).decode()
    return f"data:image/png;base64,{png}"


def _metrics(result: Result) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), value) for name, value in shown(result.metrics)]
