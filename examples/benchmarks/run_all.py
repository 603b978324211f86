"""Runs every benchmark and writes one page of tables and plots, with the date and the machine.

    python examples/benchmarks/run_all.py --peer PYTHON       # docs/benchmarks.md; half an hour
    python examples/benchmarks/run_all.py --only loss tokens  # these, then the page anew
    python examples/benchmarks/run_all.py --quick             # small, runs/benchmarks_quick.md

The result of each command is kept as JSON in the folder beside the page, and is not measured again
unless --force. What has no result yet is said on the page to be not run.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from typing import Any, NamedTuple

import page

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
PACKAGES = ("tensorflow", "keras", "keras-hub", "numpy", "torch", "open-clip-torch")


class Benchmark(NamedTuple):
    """One section of the page.

    Attributes:
        title: of its table.
        commands: script and arguments, several to see how cost grows.
        quick: the same on small sizes.
        peer: whether open_clip can run beside.
        growth: what is plotted over what, if anything: (x, the y of each panel).
        found: what came out, to be formatted with the rows of the commands' results.
    """

    title: str
    commands: tuple[str, ...]
    quick: tuple[str, ...] = ()
    peer: bool = False
    growth: tuple[str, ...] = ()
    found: str = ""


COST = ("seconds", "growth_mb")
BENCHMARKS = {
    "loss": Benchmark(
        "The contrastive loss and its text-side gradient by batch (plain: all logits at once)",
        ("loss.py --batches 1024 4096 16384",),
        ("loss.py --losses softmax --batches 16 32 --dims 8 --repeats 1",),
        peer=True,
        growth=("batch", *COST),
    ),
    "train_step": Benchmark(
        "A training step of a text tower of 12 layers",
        ("train_step.py --repeats 3 --rounds 1",),
        peer=True,
    ),
    "gpu": Benchmark(
        "On a GPU: right, fast, large batches",
        ("gpu.py",),
        peer=True,
    ),
    "micro_batches": Benchmark(
        "A batch of 4,096 in micro-batches of 256",
        ("train_step.py --micro --rounds 1",),
    ),
    "batch": Benchmark(
        "A training step, over the batch",
        ("train_step.py --grow batch 16 64 256 --repeats 2 --rounds 1",),
        ("train_step.py --grow batch 2 4 --repeats 1 --rounds 1",),
        peer=True,
        growth=("batch", *COST),
    ),
    "tokens": Benchmark(
        "A training step, over the tokens of a text",
        ("train_step.py --grow tokens 8 16 32 --repeats 2 --rounds 1",),
        peer=True,
        growth=("tokens", *COST),
    ),
    "tower": Benchmark(
        "A training step, over the width of the text tower",
        ("train_step.py --grow width 256 512 1024 --repeats 2 --rounds 1",),
        peer=True,
        growth=("width", *COST),
    ),
    "features_encode": Benchmark(
        "Encoding images with a ViT-B/32",
        ("features.py encode --repeats 5 --rounds 3",),
        peer=True,
    ),
    "features_convolutions": Benchmark(
        "Locked convolutional towers, beside Keras' own layers",
        ("features.py convolutions --batch 32 --repeats 5 --rounds 3",),
        ("features.py convolutions --batch 1 --backbones MobileNet --repeats 1 --rounds 1",),
        found="{0[backbone]} is {1[ratio]:.2f} times as fast as a locked tower as by Keras.",
    ),
    "features_step": Benchmark(
        "A training step from cached features, and from images",
        ("features.py step --towers B/32 --repeats 5 --rounds 3",),
        ("features.py step --towers Ti/32 --batch 2 --repeats 1 --rounds 1",),
        found="A step from the cache is {1[ratio]:.2f} times as fast as one from images.",
    ),
    "features_fit": Benchmark(
        "`fit` from the cache, and from tensors in memory",
        ("features.py fit --sizes S --pairs 2048 --repeats 3 --rounds 1",),
        found="`fit` from the cache has {0[ratio]:.0%} of the speed of `fit` from memory.",
    ),
    "features_heads": Benchmark(
        "Heads alone from two caches, and a text tower of MiniLM's size",
        ("heads.py --pairs 16384 --repeats 2 --rounds 1",),
        ("heads.py --batch 32 --pairs 64 --lu-batch 4 --lu-pairs 8 --repeats 1 --rounds 1",),
        found="Heads alone are {0[ratio_per_second]:.0f} times as fast as a text tower.",
    ),
    "lengths": Benchmark(
        "Captions without padding, beside captions padded to 32 tokens",
        ("lengths.py --pairs 2048 --batch 512 --repeats 2 --rounds 1",),
        found="Training is {2[pairs_per_cpu_second_ratio]:.2f} times, `encode_text` "
        "{2[encoded_per_cpu_second_ratio]:.2f} times as fast a CPU second; the loss after as many "
        "steps differs by {2[gap]:.0e}.",
    ),
    "last_blocks": Benchmark(
        "Training the last two blocks of a ViT from what enters them, beside from pictures",
        ("last_blocks.py --pictures 128 --rounds 1",),
        ("last_blocks.py --layers 3 --width 64 --size 32 --pictures 8 --batch 4 --rounds 1",),
        found="From the cache training is {1[pictures_per_cpu_second_ratio]:.2f} times as fast a "
        "CPU second; the FLOPs predict {1[mflop_ratio]:.2f}. The loss after the same steps differs "
        "by {1[loss_gap]:.0e}.",
    ),
    "features_read": Benchmark(
        "Reading cached features, over their number",
        tuple(f"features.py read --pairs {n} --repeats 3 --rounds 1" for n in (10**4, 10**5)),
        tuple(f"features.py read --pairs {n} --repeats 1 --rounds 1" for n in (100, 600)),
        growth=("pairs", *COST),
        found="{3[pairs_per_second]:,.0f} shuffled pairs a second, in constant memory.",
    ),
    "features_stream": Benchmark(
        "Memory while features are written and read",
        ("features.py stream --pairs 200000 --repeats 2 --rounds 1",),
        found="Memory stays the same while {0[pairs]:,} pairs are written and read.",
    ),
    "million": Benchmark(
        "A million pairs, from features on the disk to heads that have trained",
        ("million.py",),
        ("million.py --pairs 600 --image-dim 16 --text-dim 8 --batch 64 --epochs 2",),
        found="{0[pairs]:,} pairs, {0[gb]:.1f} GB: `align` in {0[align_seconds]:.0f} s, "
        "{0[epochs]} epochs in {0[fit_seconds]:.0f} s; memory grows by {0[fit_growth]:.1%}.",
    ),
    "align": Benchmark(
        "Heads in closed form of cached pairs, over their number",
        tuple(f"align.py --pairs {n}" for n in (10_000, 100_000)),
        ("align.py --pairs 500 --image-dim 8 --text-dim 4",),
        growth=("pairs", *COST),
    ),
    "input_pipeline": Benchmark(
        "The input pipeline, images a second on one core",
        ("input_pipeline.py --records 2560 --rounds 2",),
        ("input_pipeline.py --records 80 --batch 8 --warm-up 2 --rounds 1",),
        found="{0[images_per_second]:,.0f} images/s, a plain pipeline {1[images_per_second]:,.0f}.",
    ),
    "retrieval": Benchmark(
        "Recall both ways, over the number of texts",
        tuple(
            f"retrieval.py --images {n} --texts {5 * n} --rate-seconds 3 --repeats 3"
            for n in (5_000, 10_000, 20_000)
        ),
        tuple(
            f"retrieval.py --images {n} --texts {5 * n} --dim 8 --rate-seconds 0.1 --rate-size 256"
            for n in (20, 40)
        ),
        growth=("texts", *COST),
        found="{2[images]:,} images, {2[texts]:,} texts: {2[seconds]:.0f} s, {2[growth_mb]:.0f} MB",
    ),
    "duplicates": Benchmark(
        "Near-duplicates, over the number of images",
        tuple(f"duplicates.py --images {n}" for n in (10_000, 20_000, 40_000)),
        growth=("images", "seconds", "peak_mb"),
        found="{8[images]:,} images: embeddings {8[seconds]:.1f} s (all pairs {9[seconds]:.1f} s), "
        "hashes {10[seconds]:.1f} s (all pairs {11[seconds]:.1f} s).",
    ),
    "index": Benchmark(
        "Searching an index exactly, over its pictures",
        tuple(
            f"search.py --count {n} --dim 256 --dtypes float32 --peers --queries 50"
            for n in (10_000, 30_000, 100_000)
        ),
        growth=("count", "median_ms", "cpu_ms"),
    ),
    "classes": Benchmark(
        "Weights of a zero-shot classifier, over its classes",
        ("zero_shot.py --classes 300 1000 3000",),
        ("zero_shot.py --classes 3 6 --templates 2 --width 16 --layers 1",),
        growth=("classes", "cpu_seconds", "growth_mb"),
        found="{2[classes]:,} classes of {2[templates]} prompts take {2[of_encode_text]:.2f} times "
        "the CPU time of `encode_text` of as many sentences.",
    ),
    "workers": Benchmark(
        "What workers say to each other",
        ("workers.py",),
        found="{0[workers]} workers send {0[measured_to_model]:.2f} times the formula's bytes, "
        "{1[workers]} workers {1[measured_to_model]:.2f} times.",
    ),
    "search": Benchmark(
        "Searching 100,000 vectors of 512 exactly, beside bare calls",
        ("search.py --peers numpy faiss usearch --queries 100",),
    ),
    "calibration": Benchmark(
        "Calibrated scores, on halves that they were not fitted on",
        ("calibration.py",),
        ("calibration.py --rows 300 --repeats 2 --precision 0.7",),
    ),
    "speedrun": Benchmark(
        "Minutes to a recall of pictures that training has not seen",
        ("speedrun.py --threads 1",),
    ),
    "import_time": Benchmark(
        "`import keras_lit`, beside `import keras_nlp`",
        ("import_time.py --rounds 5",),
        ("import_time.py --rounds 1",),
        found="keras_lit takes {1[of_keras_nlp]:.2f} times as long to import as keras_nlp.",
    ),
    "checkpoints": Benchmark(
        "Loading a released checkpoint",
        ("checkpoints.py --rounds 1",),
        found="{5[model]}, a file of {5[file_mb]:.0f} MB, loads in {5[seconds]:.1f} s.",
    ),
    "serving": Benchmark(
        "Requests to an artifact, beside the bare forward pass",
        ("serving.py --batches 1 8 32 --repeats 9",),
        found="One text takes {0[request_ms]:.1f} ms, its forward pass {0[forward_ms]:.1f}; "
        "32 images take {7[request_ms]:.0f} ms, theirs {7[forward_ms]:.0f}.",
    ),
    "edge": Benchmark(
        "A model as ONNX and LiteRT, in float32 and int8, beside its SavedModel",
        ("edge.py --towers pretrained",),
    ),
    "edge_client": Benchmark(
        "Embeddings of the ONNX and LiteRT clients, without TensorFlow, beside Keras' own",
        tuple(f"edge.py --client --towers {kind}" for kind in ("pretrained", "own", "hub")),
    ),
}


def main() -> None:
    """Measures what has no result yet, then writes the page."""
    args = parse_arguments()
    folder = args.output or ROOT / ("runs/benchmarks_quick" if args.quick else "docs/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in BENCHMARKS if args.only is None else args.only:
        benchmark = BENCHMARKS[name]
        path = folder / f"{name}.json"
        if (commands := commands_of(benchmark, args.quick)) and (args.force or not path.exists()):
            peer = args.peer if benchmark.peer else ""
            try:
                path.write_text(json.dumps(measure(commands, peer), indent=1))
            except subprocess.CalledProcessError as error:
                failed.append(f"{name}: {error}")
    sections = []
    for name, benchmark in BENCHMARKS.items():
        path = folder / f"{name}.json"
        record = json.loads(path.read_text()) if path.exists() else None
        commands = commands_of(benchmark, args.quick)
        sections.append(page.section(name, benchmark, commands, record, folder))
    text = page.HEAD + "\n".join(sections)
    folder.with_suffix(".md").write_text(text)
    print(f"written to {folder.with_suffix('.md')}")
    if failed:
        raise SystemExit("\n".join(failed))


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="NAME", help="none: write the page again")
    parser.add_argument("--quick", action="store_true", help="the cheap ones, on small sizes")
    parser.add_argument("--force", action="store_true", help="measure again what has a result")
    parser.add_argument("--peer", default="", help="a Python that has open_clip_torch")
    parser.add_argument(
        "--output", type=pathlib.Path, help="folder of the results; the page is .md"
    )
    return parser.parse_args()


def commands_of(benchmark: Benchmark, quick: bool) -> tuple[str, ...]:
    """What to run; nothing for a benchmark that is not cheap where --quick is asked for."""
    return benchmark.quick if quick else benchmark.commands


def measure(commands: tuple[str, ...], peer: str) -> dict[str, Any]:
    """Runs the commands; their results with the date and the machine."""
    results, start = [], time.perf_counter()
    scratch = ROOT / "runs" / f"benchmark.{os.getpid()}.json"
    for command in commands:
        script, *arguments = command.split()
        print(f"$ {command}", flush=True)
        arguments += ["--output", str(scratch)] + (["--peer", peer] if peer else [])
        subprocess.run([sys.executable, HERE / script, *arguments], check=True)
        results += json.loads(scratch.read_text())
        for path in scratch.parent.glob(f"{scratch.stem}.*"):
            path.unlink()
    return {
        "date": datetime.date.today().isoformat(),
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "commands": commands,
        "peer": bool(peer),
        "machine": machine(),
        "versions": versions(sys.executable) | (versions(peer) if peer else {}),
        "results": results,
    }


def machine() -> str:
    """Processor, cores and memory."""
    model = platform.processor() or platform.machine()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GB"


def versions(python: str) -> dict[str, str]:
    """The versions of what matters that this Python has."""
    code = "import importlib.metadata as m, json\n"
    code += "print(json.dumps({d.name: d.version for d in m.distributions()}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    installed = {n.replace("_", "-"): version for n, version in json.loads(found.stdout).items()}
    return {name: installed[name] for name in PACKAGES if name in installed}


if __name__ == "__main__":
    main()
