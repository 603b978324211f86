"""What a user writes, for mypy: test_types.py reads it, nobody runs it."""

import pathlib

import numpy as np

import keras_lit
from keras_lit import data, evaluation


def train(folder: pathlib.Path, captions: list[str]) -> keras_lit.LiT:
    pairs = data.image_text_pairs(folder, captions="random", test_fraction=0.1, split="train")
    tokenizer = keras_lit.tokenizers.train_sentencepiece(captions, 8_000)
    image_tower = keras_lit.ImageTower.from_preset("dinov2_base", pooling="first")
    text_tower = keras_lit.TextTower.from_size("S", tokenizer=tokenizer)
    model = keras_lit.LiT(image_tower, text_tower, tuning="Lu", loss="sigmoid")
    model.compile(keras_lit.optimizers.Adafactor(1e-3), micro_batch_size=64)
    recalls = keras_lit.callbacks.RetrievalEvaluation(pairs, ks=(1, 5))
    resume = keras_lit.callbacks.ExactResume(folder / "resume", save_freq="epoch")
    history = model.fit(pairs.batch(512), epochs=2, verbose="auto", callbacks=[recalls, resume])
    best: float = max(history.history["retrieval_image_to_text_recall@1"])
    print(f"{best:.1%}", model)
    return model


def use(model: keras_lit.LiT, files: list[str], names: list[str]) -> dict[str, str]:
    images: np.ndarray = model.encode_image(files)
    weights = evaluation.zero_shot_weights(model.encode_text, names)
    result = evaluation.classify(model, {"image": files}, names)
    page = evaluation.report([result], "report", title=f"{result.metrics['accuracy@1']:.1%}")
    version = keras_lit.export.save(model, page.parent / "lit", class_names=names, towers="both")
    print(version.name, result.to_dict())
    return {f: names[i] for f, i in zip(files, (images @ weights.T).argmax(axis=1), strict=True)}
