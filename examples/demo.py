"""A web page over an artifact: labels for a picture, and pictures for a sentence.

pip install 'keras_lit[web]'
python examples/demo.py --artifact models/lit/1 --pictures photos
"""

import argparse
import functools
import glob
import os
import pathlib
import re
from typing import Any

import gradio
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (the tokenizer's ops)

from keras_lit.preprocessing.formats import FORMATS, SUFFIXES

KINDS = ", ".join(of.name for of in FORMATS)
Refusal = functools.partial(gradio.Error, print_exception=False)


def main() -> None:
    """Embeds the folder once, then serves the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", required=True, help="a version that export.save wrote")
    parser.add_argument("--pictures", type=pathlib.Path, help="a folder to search in")
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args()
    allowed = [str(args.pictures)] if args.pictures else None
    try:
        page(args.artifact, args.pictures).launch(server_port=args.port, allowed_paths=allowed)
    except (ValueError, OSError, OverflowError, tf.errors.OpError) as error:
        raise SystemExit(f"Error: {error}") from error


def page(artifact: str, pictures: pathlib.Path | None) -> gradio.Blocks:
    """The two tabs."""
    if pictures and not pictures.is_dir():
        raise ValueError(f"--pictures should be a folder. Received: {str(pictures)!r}.")
    signatures = signatures_of(pathlib.Path(artifact))
    files, embeddings = embed(signatures["encode_image"], pictures)
    if pictures and not files:
        raise ValueError(f"{str(pictures)!r} holds no picture that decodes: expected {KINDS}.")

    with gradio.Blocks(title="keras_lit") as blocks:
        with gradio.Tab("Labels for a picture"):
            picture = gradio.Image(type="filepath", label="Picture", format="png")
            # The file reaches the artifact as it is: gradio would turn transparent pixels black.
            picture.preprocess = lambda upload: upload and upload.path
            labels = gradio.Textbox(label="Labels", value="a toucan, a red balloon, a banana")
            shown = gradio.Label(label="Scores")
            gradio.on(
                [gradio.Button("Score").click, labels.submit],
                functools.partial(scores, signatures["classify_labels"]),
                [picture, labels],
                shown,
                api_name="scores",
                show_progress="minimal",  # What was found stays in reach after an error.
            )
        with gradio.Tab("Pictures for a sentence"):
            sentence = gradio.Textbox(label="Sentence", value="a red balloon")
            gallery = gradio.Gallery(label="Nearest", columns=4)
            gradio.on(
                [gradio.Button("Search").click, sentence.submit],
                functools.partial(search, signatures["encode_text"], files, embeddings),
                sentence,
                gallery,
                api_name="search",
                show_progress="minimal",  # What was found stays in reach after an error.
            )
    return blocks


def signatures_of(artifact: pathlib.Path) -> Any:
    """Those of an artifact that has what the page asks for."""
    if not (artifact / "saved_model.pb").is_file():
        versions = sorted(x.parent.name for x in artifact.glob("*/saved_model.pb"))
        raise ValueError(
            "--artifact should be a version that export.save wrote, a folder with saved_model.pb. "
            f"Received: {str(artifact)!r}"
            + (f", which holds the versions {', '.join(versions)}." if versions else ".")
        )
    signatures = tf.saved_model.load(str(artifact)).signatures
    wanted = ("encode_image", "encode_text", "classify_labels")
    if missing := [name for name in wanted if name not in signatures]:
        raise ValueError(
            f"{str(artifact)!r} lacks {', '.join(missing)}: the page needs the image tower and the "
            'text tower. Save it with `towers="both"`.'
        )
    return signatures


def scores(classify_labels: Any, picture: str | None, labels: str | None) -> dict[str, float]:
    """{label: score} of a picture; labels that are there twice count once."""
    names = list(dict.fromkeys(x.strip() for x in re.split(r"[,\n]", labels or "") if x.strip()))
    if picture is None or not names:
        raise Refusal("Give a picture, and labels with commas between them.")
    if len(names) < 2:
        raise Refusal("Give two labels or more: the scores compare them with each other.")
    contents = tf.constant([pathlib.Path(picture).read_bytes()])
    found = answer(classify_labels, image_bytes=contents, labels=tf.constant(names))
    if found is None:
        raise Refusal(f"The picture does not decode: give a whole {KINDS} file.")
    return dict(zip(names, found["scores"][0].numpy().tolist(), strict=True))


def search(
    encode_text: Any, files: list[pathlib.Path], embeddings: np.ndarray, sentence: str | None
) -> list[tuple[str, str]]:
    """The nearest files, with their cosines."""
    if not files:
        raise Refusal("Start the demo with --pictures FOLDER to search in it.")
    if not sentence or not sentence.strip():
        raise Refusal("Give a sentence to search for.")
    query = encode_text(text=tf.constant([sentence]))["embedding"][0].numpy()
    cosines = embeddings @ query
    return [(str(files[i]), f"{cosines[i]:.3f}") for i in np.argsort(-cosines)[:12]]


def embed(encode_image: Any, folder: pathlib.Path | None) -> tuple[list, np.ndarray]:
    """The pictures of a folder that decode, and their embeddings [n, dim]."""
    found = glob.glob("**", root_dir=folder, recursive=True) if folder else []
    files = [folder / x for x in sorted(found) if x.lower().endswith(SUFFIXES)]
    kept, rows, seen = [], [], set()
    for file in files:
        if file.is_dir() or (real := os.path.realpath(file)) in seen:
            continue
        seen.add(real)  # Links may lead round and round.
        name = os.fsencode(file).decode(errors="replace")
        if name != str(file):
            print(f"{name} is left out: gradio shows no file whose name is not UTF-8")
            continue
        try:
            found = answer(encode_image, image_bytes=tf.constant([file.read_bytes()]))
        except OSError:
            found = None
        if found is None:
            print(f"{name} does not decode and is left out")
            continue
        kept.append(file)
        rows.append(found["embedding"][0].numpy())
    return kept, np.array(rows)


def answer(signature: Any, **inputs: tf.Tensor) -> dict[str, tf.Tensor] | None:
    """What a signature answers, or None where the picture does not decode."""
    try:
        found = signature(**inputs)
    except tf.errors.InvalidArgumentError:
        return None
    # Made with on_corrupt="nan" or "zero", an artifact answers everything.
    return found if "valid" not in found or found["valid"].numpy().all() else None


if __name__ == "__main__":
    main()
