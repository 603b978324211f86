"""A web page over an artifact: labels for a picture, and pictures for a sentence.

pip install 'keras_lit[web]'
python examples/demo.py --artifact models/lit/1 --pictures photos
"""

import argparse
import pathlib

import gradio
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (the tokenizer's ops)

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


def main() -> None:
    """Embeds the folder once, then serves the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", required=True, help="a version that export.save wrote")
    parser.add_argument("--pictures", type=pathlib.Path, help="a folder to search in")
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args()
    page(args.artifact, args.pictures).launch(
        server_port=args.port, allowed_paths=[str(args.pictures)] if args.pictures else None
    )


def page(artifact: str, pictures: pathlib.Path | None) -> gradio.Blocks:
    """The two tabs."""
    signatures = tf.saved_model.load(artifact).signatures
    files, embeddings = embed(signatures["encode_image"], pictures)

    def scores(picture: str | None, labels: str) -> dict[str, float]:
        names = [label.strip() for label in labels.split(",") if label.strip()]
        if picture is None or not names:
            raise gradio.Error("Give a picture, and labels with commas between them.")
        contents = tf.constant([pathlib.Path(picture).read_bytes()])
        try:
            found = signatures["classify_labels"](image_bytes=contents, labels=tf.constant(names))
        except tf.errors.InvalidArgumentError as error:
            raise gradio.Error("The picture does not decode.") from error
        return dict(zip(names, found["scores"][0].numpy().tolist(), strict=True))

    def search(sentence: str) -> list[tuple[str, str]]:
        if not files:
            raise gradio.Error("Start the demo with --pictures FOLDER to search in it.")
        query = signatures["encode_text"](text=tf.constant([sentence]))["embedding"][0].numpy()
        cosines = embeddings @ query
        return [(str(files[i]), f"{cosines[i]:.3f}") for i in np.argsort(-cosines)[:12]]

    with gradio.Blocks(title="keras_lit") as blocks:
        with gradio.Tab("Labels for a picture"):
            picture = gradio.Image(type="filepath", label="Picture", format="png")
            labels = gradio.Textbox(label="Labels", value="a toucan, a red balloon, a banana")
            answer = gradio.Label(label="Scores")
            gradio.Button("Score").click(scores, [picture, labels], answer)
        with gradio.Tab("Pictures for a sentence"):
            sentence = gradio.Textbox(label="Sentence", value="a red balloon")
            gallery = gradio.Gallery(label="Nearest", columns=4)
            gradio.Button("Search").click(search, sentence, gallery)
    return blocks


def embed(encode_image: object, folder: pathlib.Path | None) -> tuple[list, np.ndarray]:
    """The pictures of a folder that decode, and their embeddings [n, dim]."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES) if folder else []
    kept, rows = [], []
    for file in files:
        try:
            found = encode_image(image_bytes=tf.constant([file.read_bytes()]))["embedding"]
        except tf.errors.InvalidArgumentError:
            print(f"{file} does not decode and is left out")
            continue
        kept.append(file)
        rows.append(found[0].numpy())
    return kept, np.array(rows)


if __name__ == "__main__":
    main()
