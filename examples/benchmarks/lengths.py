"""Captions as long as they are, beside captions that are padded to 32 tokens.

    python examples/benchmarks/lengths.py                          # OpenPictures' captions
    python examples/benchmarks/lengths.py --captions captions.txt  # yours, one a line

`fit` on features of pictures and `encode_text`, through a text tower of MiniLM's size (six layers,
384 wide) with its vocabulary. "Trimmed", a batch is as wide as its longest caption; "in groups", as
`fit` does it for 256 and more, so is each of up to eight groups of a batch's captions. "Loss" is
that of the last epoch, "gap" its distance from that of padded captions. Pairs per CPU second (over
all threads) are to be read where others use the machine, too.
"""

import argparse
import contextlib
import pathlib
import sys
from unittest import mock

import harness
import keras
import keras_nlp
import numpy as np
from heads import Clock

import keras_lit
from keras_lit.towers import lengths

IMAGE_DIM = 1280


def captions_of(source: str, count: int) -> list[str]:
    """The first `count` captions of a file, or of OpenPictures, again and again if need be."""
    if source == "open_pictures":
        builder = keras_lit.demo.OpenPictures()
        builder.download_and_prepare()
        rows = keras_lit.data.image_text_pairs(builder, captions="first").take(count)
        found = [row["text"].decode() for row in rows.as_numpy_iterator()]
    else:
        found = pathlib.Path(source).read_text().splitlines()
    return (found * -(-count // len(found)))[:count]


def run(case: harness.Case) -> dict[str, float]:
    """Epochs of `fit`, and calls of `encode_text`; the first, which traces, does not count."""
    captions = captions_of(case["captions"], case["pairs"])
    with contextlib.ExitStack() as stack:
        if case["text"] != "in groups":
            stack.enter_context(mock.patch.object(lengths, "groups_gain", lambda *_: False))
        if case["text"] == "padded":
            as_they_are = mock.patch.object(lengths, "trimmed", lambda token_ids, _: token_ids)
            stack.enter_context(as_they_are)
        return measured(case, captions)


def measured(case: harness.Case, captions: list[str]) -> dict[str, float]:
    """Of captions with so much padding."""
    keras.utils.set_random_seed(0)
    tokenizer = keras_lit.demo.minilm_tokenizer()
    if case["vocabulary"]:
        tokenizer = keras_lit.tokenizers.train_wordpiece(captions, case["vocabulary"])
    sizes = (case["layers"], case["width"] // 32, case["width"], 4 * case["width"])
    bert = keras_nlp.models.BertBackbone(tokenizer.vocabulary_size(), *sizes, dropout=0.0)
    text_tower = keras_lit.TextTower(bert, tokenizer, case["tokens"], "mean", 512)
    model = keras_lit.LiT(keras_lit.ImageTower.from_features(IMAGE_DIM, 512), text_tower, "LU")
    model.compile("adam")
    features = np.random.default_rng(0).normal(size=[len(captions), IMAGE_DIM])
    pairs = {"image_features": features.astype("float32"), "text": captions}
    options = {"batch_size": case["batch"], "verbose": 0}
    epochs, of_fit, of_encoding = case["repeats"] + 1, Clock(), Clock()
    fit = model.fit(pairs, epochs=epochs, shuffle=False, callbacks=[of_fit], **options)
    for epoch in range(epochs):
        of_encoding.on_epoch_begin(epoch)
        model.encode_text(captions, **options)
        of_encoding.on_epoch_end(epoch)
    counts = np.minimum(text_tower.preprocessor.token_counts(captions), case["tokens"])
    found = {"mean_tokens": float(counts.mean()), "loss": fit.history["loss"][-1]}
    for name, clock in (("pairs", of_fit), ("encoded", of_encoding)):
        found[f"{name}_per_second"] = len(captions) / np.median(clock.seconds[1:])
        found[f"{name}_per_cpu_second"] = len(captions) / np.median(clock.cpu_seconds[1:])
    return found


def main() -> None:
    """Runs the cases in turns, prints the table with the ratios to padding, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", default="open_pictures", help="a file, one a line")
    parser.add_argument("--pairs", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=0, help="of the captions; 0: MiniLM's")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/lengths.json"))
    args = parser.parse_args([] if "--case" in sys.argv else None)
    options = {k: v for k, v in vars(args).items() if k not in ("rounds", "output")}
    if args.captions != "open_pictures":
        options["captions"] = str(pathlib.Path(args.captions).resolve())
    texts = ("padded", "trimmed", "in groups")
    cases = [{"library": "keras_lit", "text": text, **options} for text in texts]
    results = harness.main(__file__, run, cases, args.rounds, "")
    for result in results:
        for name in [x for x in result if x.endswith("_second")]:
            result[f"{name}_ratio"] = result[name] / results[0][name]
        result["gap"] = abs(result["loss"] - results[0]["loss"])
    harness.report(results, args.output)


if __name__ == "__main__":
    main()
