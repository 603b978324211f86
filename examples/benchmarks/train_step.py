"""Time and memory of a LiT training step on image features: forward, backward, AdamW.

    python examples/benchmarks/train_step.py --peer PYTHON
    python examples/benchmarks/train_step.py --micro        # batch 4,096 in micro-batches of 256
    python examples/benchmarks/train_step.py --grow tokens 8 16 32 64     # or batch, width, layers

The text tower has 12 layers of width 512, 16 tokens and a vocabulary of 32,000, as open_clip's of
the comparison, unless it grows or --width and --layers say otherwise. "products" are its matrix
products alone, by TensorFlow.
"""

import argparse
import pathlib
import sys
from typing import Any

import harness
import numpy as np

HEAD_WIDTH, VOCABULARY = 64, 32_000


def run(case: harness.Case) -> dict[str, float]:
    """Measures one case in this process."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=[case["batch"], case["width"]]).astype("float32")
    token_ids = rng.integers(1, VOCABULARY, [case["batch"], case["tokens"]]).astype("int32")
    steps = {"open_clip": open_clip_step, "products": matrix_products}
    make = steps.get(case["library"], keras_lit_step)
    result = harness.measure(make(features, token_ids, case), case["repeats"])
    return {**result, "pairs_per_second": case["batch"] / result["seconds"]}


def keras_lit_step(features: np.ndarray, token_ids: np.ndarray, case: harness.Case) -> Any:
    """What `fit` runs for each batch."""
    import keras
    import tensorflow as tf

    import keras_lit

    if case["dtype"] == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    images = keras.Sequential([keras.Input([8, 8, 3]), keras.layers.Conv2D(case["width"], 8)])
    text = keras_lit.TextTower(
        keras_lit.backbones.TextTransformer(
            VOCABULARY,
            case["tokens"],
            case["width"],
            case["layers"],
            4 * case["width"],
            case["width"] // HEAD_WIDTH,
            pooling="last",
        ),
        sequence_length=case["tokens"],
    )
    model = keras_lit.LiT(keras_lit.ImageTower(images), text, "LU")
    model.compile(
        keras.optimizers.AdamW(1e-4),
        jit_compile=case["jit"] or "auto",
        micro_batch_size=case["micro_batch_size"],
    )
    model.make_train_function()
    batch = {"image_features": tf.constant(features), "text": tf.constant(token_ids)}
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    return lambda: float(model.train_function(batches)["loss"])


def matrix_products(features: np.ndarray, token_ids: np.ndarray, case: harness.Case) -> Any:
    """What bounds a step from below: the products of its Dense layers, forward and backward."""
    import tensorflow as tf

    width, tokens = case["width"], token_ids.size
    shapes = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
    kernels = [
        tf.cast(tf.random.normal(shape), case["dtype"])
        for shape in shapes
        for _ in range(case["layers"])
    ]
    of_width = {x: tf.ones([tokens, x], case["dtype"]) for x in (width, 4 * width)}

    @tf.function
    def step(kernels: list[tf.Tensor], of_width: dict[int, tf.Tensor]) -> list[tf.Tensor]:
        products = []
        for kernel in kernels:
            x, gradient = (of_width[size] for size in kernel.shape)
            y = tf.matmul(x, kernel)
            products += [y, tf.matmul(y + gradient, kernel, transpose_b=True)]
            products += [tf.matmul(x, y, transpose_a=True)]
        return products

    return lambda: step(kernels, of_width)[-1].numpy()


def open_clip_step(features: np.ndarray, token_ids: np.ndarray, case: harness.Case) -> Any:
    """open_clip's text tower and loss with torch's AdamW."""
    import torch
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.set_num_threads(2)
    model = CLIP(
        case["width"],
        CLIPVisionCfg(layers=1, width=768, patch_size=32, image_size=224),
        CLIPTextCfg(
            context_length=case["tokens"],
            vocab_size=VOCABULARY,
            width=case["width"],
            heads=case["width"] // HEAD_WIDTH,
            layers=case["layers"],
        ),
    )
    model.lock_image_tower()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, 1e-4)
    loss = ClipLoss()
    images = torch.nn.functional.normalize(torch.tensor(features), dim=1)
    token_ids = torch.tensor(token_ids, dtype=torch.int64)
    bfloat16 = case["dtype"] == "bfloat16"
    device = token_ids.device.type

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            texts = model.encode_text(token_ids, normalize=True)
            value = loss(images.to(texts.dtype), texts, model.logit_scale.exp().to(texts.dtype))
        value.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    """Runs the cases, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--micro", action="store_true", help="memory of micro-batches instead")
    parser.add_argument("--grow", nargs="+", metavar=("WHAT", "VALUE"), help="see above")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", default="", help="a Python that has open_clip_torch")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/train_step.json"))
    args = parser.parse_args([] if "--case" in sys.argv else None)
    defaults = {"dtype": "float32", "jit": False, "micro_batch_size": None, "repeats": args.repeats}
    shape = {"batch": args.batch, "tokens": 16, "width": args.width, "layers": args.layers}
    ours = {"library": "keras_lit", **shape, **defaults}
    peer, bound = {**ours, "library": "open_clip"}, {**ours, "library": "products"}
    cases = [ours, {**ours, "jit": True}, bound, peer]
    cases += [{**case, "dtype": "bfloat16"} for case in (ours, bound, peer)]
    if args.micro:
        cases = [
            {**ours, "batch": 256, "repeats": 1},
            {**ours, "batch": 4096, "micro_batch_size": 256, "repeats": 1},
        ]
    if args.grow:
        what, *values = args.grow
        cases = [{**case, what: int(value)} for value in values for case in (ours, peer)]
    harness.report(harness.main(__file__, run, cases, args.rounds, args.peer), args.output)


if __name__ == "__main__":
    main()
