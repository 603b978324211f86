"""How the files beside this one were made, with the code of 65fb67d; the tests do not run it.

They stand for what users have on disk. Never make them anew: that they are old is what they are for.

    git worktree add /tmp/before 65fb67d && cd /tmp/before
    PYTHONPATH=. python .../tests/golden/before/make.py
"""

import pathlib

import numpy as np

import keras_lit
from tests.small import make_model, make_pairs

directory = pathlib.Path(__file__).parent
model = make_model(
    "LU", loss="sigmoid", temperature=12.0, bias=-3.0, max_temperature=50.0, lock_heads=False
)
model.compile(keras_lit.optimizers.Adafactor(3e-3), micro_batch_size=4)
model.fit(make_pairs(16).batch(8), epochs=1, verbose=0)
model.save(directory / "before.keras")

features_model = keras_lit.LiT(
    keras_lit.ImageTower.from_features(8, fingerprint={"weights": "a"}),
    keras_lit.TextTower(
        keras_lit.backbones.TextTransformer(30, 6, 16, 1, 32, 2), sequence_length=6
    ),
)
features_model.save(directory / "before_features.keras")

# The warm-up records that this writes beside the model were left out here.
keras_lit.export.save(
    model, directory / "artifact", class_names=["dog", "moon"], templates=["a {}"]
)

rng = np.random.default_rng(7)
images = rng.integers(0, 256, [3, 12, 14, 3]).astype("uint8")
texts = ["a red dog and a blue one", "a white moon", "a grey toucan"]
token_ids = rng.integers(1, 30, [3, 6])
features = rng.normal(size=[3, 8]).astype("float32")
np.savez(
    directory / "before.npz",
    images=images,
    texts=np.array(texts),
    image_embeddings=model.encode_image(images),
    text_embeddings=model.encode_text(texts),
    token_ids=token_ids,
    features=features,
    features_image=features_model.encode_image(features),
    features_text=features_model.encode_text(token_ids),
    temperature=float(model.temperature),
    iterations=int(model.optimizer.iterations),
)
