"""Time, memory and recall of `search.Index`, beside bare calls of NumPy, faiss and usearch.

    python examples/benchmarks/search.py                                    # 100,000 x 512, exact
    python examples/benchmarks/search.py --count 1000000 --dtypes int8 --approximate

All answer the same queries in turns, so that whatever else the machine does meets all of them; the
ratio is that of the medians, "cpu_ms" of all threads. faiss and usearch get vectors of the same
dtype; usearch is left out where it is not installed. Memory is what searching adds to a process
that has searched in another index before. The vectors are made: 5,000 clusters whose spectrum falls
as that of embeddings does, the queries a vector each, moved by noise and by an offset that all
share, as sentences lie beside pictures.
"""

import argparse
import importlib.util
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import harness
import numpy as np

_K, _AT_A_TIME = 10, 50_000


def run(case: harness.Case) -> dict[str, float]:
    """Measures one case in this process."""
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # faiss' threads would spin on, in others' turns.
    from keras_lit.search import Index
    from keras_lit.search.store import Picture, Store
    from keras_lit.search.writing import writing

    rng, count = np.random.default_rng(0), case["count"]
    make = maker(rng, case["dim"])

    def fill(folder: str, count: int) -> Store:
        settings = {"dim": case["dim"], "dtype": case["dtype"], "folder": None, "tower": {}}
        store = Store.create(pathlib.Path(folder), {**settings, "approximate": False})
        with writing(store) as writer:
            for first in range(0, count, _AT_A_TIME):
                numbers = range(first, min(first + _AT_A_TIME, count))
                rows = [Picture(f"{i}.jpg", b"%d" % i, None, "{}") for i in numbers]
                writer.append(rows, make(len(rows)))
        return store

    with tempfile.TemporaryDirectory(dir=case["directory"] or None) as folder:
        fill(f"{folder}/other", 20_000)
        Index(f"{folder}/other").search(make(1)[0])
        store = fill(f"{folder}/index", count)
        start = time.process_time()
        if case["approximate"]:
            with writing(store) as writer:
                writer.make_lists(verbose=False)
        lists_seconds = time.process_time() - start
        queries = moved(rng, make(case["queries"]))
        index = Index(f"{folder}/index")
        before = resident()
        index.search(queries[0])
        calls: dict[str, Callable] = {"": lambda q: index.search(q, _K)}
        for query in queries[1:]:
            calls[""](query)
        memory = resident() - before
        binary = case["dtype"] == "binary"
        size = count * case["dim"] * (1 / 8 if binary else np.dtype(case["dtype"]).itemsize)
        recall = index.recall(list(queries), _K) if case["approximate"] or binary else 1.0
        with store.reading() as (_, snapshot):
            calls |= peers(case, snapshot)
            seconds: dict[str, list[float]] = {name: [] for name in calls}
            cpu = dict.fromkeys(calls, 0.0)
            for query in [*queries[:3], *queries]:
                for name, call in calls.items():
                    start, before = time.perf_counter(), time.process_time()
                    call(query)
                    seconds[name].append(time.perf_counter() - start)
                    cpu[name] += time.process_time() - before
        found = {"recall": recall, "memory_ratio": memory / size, "lists_cpu_s": lists_seconds}
        for name, times in seconds.items():
            times = times[3:]
            shown = f"{name}_" if name else ""
            found[f"{shown}median_ms"] = 1e3 * float(np.median(times))
            found[f"{shown}p99_ms"] = 1e3 * float(np.quantile(times, 0.99))
            found[f"{shown}cpu_ms"] = 1e3 * cpu[name] / (len(times) + 3)
            if name:
                found[f"times_{name}"] = float(np.median(seconds[""][3:]) / np.median(times))
        return found


def peers(case: harness.Case, snapshot: Any) -> dict[str, Callable]:
    """{name: a function of a query} of other libraries over the same vectors."""
    vectors = snapshot.arrays["vectors"][range(case["count"])]
    calls: dict[str, Callable] = {}
    if "numpy" in case["peers"] and not case["approximate"]:
        calls["numpy"] = lambda q: np.argpartition(vectors @ q, -_K)[-_K:]
    if "faiss" in case["peers"] and importlib.util.find_spec("faiss"):
        calls["faiss"] = of_faiss(case, snapshot, vectors)
    if (
        case["dtype"] != "binary"
        and "usearch" in case["peers"]
        and importlib.util.find_spec("usearch")
    ):
        calls["usearch"] = of_usearch(case, vectors)
    return calls


def of_faiss(case: harness.Case, snapshot: Any, vectors: np.ndarray) -> Callable:
    """An exact index of the same dtype, or the lists themselves, without what stands around."""
    import faiss

    if case["approximate"]:
        index = faiss.read_index(str(snapshot.lists[0]))
        index.parallel_mode, index.nprobe = 1, -(-index.nlist // 16)
    elif case["dtype"] == "binary":  # Plain signs; nothing is scored again.
        index = faiss.IndexBinaryFlat(case["dim"])
        index.add(np.packbits(vectors > 0, axis=1))
        return lambda q: index.search(np.packbits(q > 0)[np.newaxis], _K)
    elif case["dtype"] == "float32":
        index = faiss.IndexFlatIP(case["dim"])
        index.add(vectors)
    else:
        kind = {"float16": "QT_fp16", "int8": "QT_8bit"}[case["dtype"]]
        kind = getattr(faiss.ScalarQuantizer, kind)
        index = faiss.IndexScalarQuantizer(case["dim"], kind, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:10_000])
        index.add(vectors)
    return lambda q: index.search(q[np.newaxis], _K)


def of_usearch(case: harness.Case, vectors: np.ndarray) -> Callable:
    """An exact search of the same dtype, or a graph."""
    from usearch import index as usearch

    short = {"float32": "f32", "float16": "f16", "int8": "i8"}[case["dtype"]]
    if case["approximate"]:
        graph = usearch.Index(ndim=case["dim"], metric="ip", dtype=short, expansion_search=256)
        graph.add(np.arange(len(vectors)), vectors)
        return lambda q: graph.search(q, _K)
    scale = 127 / np.abs(vectors).max() if case["dtype"] == "int8" else 1
    codes = (vectors * scale).astype(case["dtype"])
    as_code = lambda q: (q / np.abs(q).max() * 127 if scale != 1 else q).astype(codes.dtype)  # noqa: E731
    return lambda q: usearch.search(codes, as_code(q), _K, metric="ip", exact=True)


def maker(rng: np.random.Generator, dim: int) -> Callable[[int], np.ndarray]:
    """A function that makes n vectors of unit length."""
    spectrum = (1 + np.arange(dim)) ** -0.5
    centres = rng.normal(size=[5000, dim]) * spectrum

    def make(count: int) -> np.ndarray:
        around = 0.8 * rng.normal(size=[count, dim]) * spectrum
        return unit(centres[rng.integers(0, 5000, count)] + around)

    return make


def moved(rng: np.random.Generator, vectors: np.ndarray) -> np.ndarray:
    """Queries beside these vectors."""
    spectrum = (1 + np.arange(vectors.shape[1])) ** -0.5
    noise = unit(rng.normal(size=vectors.shape) * spectrum)
    return unit(vectors + 0.6 * noise + 0.03 * rng.normal(size=vectors.shape[1]))


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("float32")


def resident() -> int:
    """Bytes of this process in memory, what it has mapped included."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def main() -> None:
    """Runs the cases, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float16", "int8"])
    parser.add_argument("--approximate", action="store_true")
    parser.add_argument("--peers", nargs="*", default=["numpy", "faiss", "usearch"])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--directory", default="", help="where to write; a temporary folder")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/search.json"))
    args = parser.parse_args([] if "--case" in sys.argv else None)
    names = ("count", "dim", "approximate", "peers", "queries", "directory")
    case = {"library": "keras_lit", **{name: getattr(args, name) for name in names}}
    cases = [{**case, "dtype": dtype} for dtype in args.dtypes]
    results = harness.main(__file__, run, cases, args.rounds, "")
    harness.report(results, args.output)


if __name__ == "__main__":
    main()
