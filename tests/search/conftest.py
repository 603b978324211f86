import pytest

from tests import small

SENTENCES = ["a red dog", "the moon", "a cat", "a dog"]


@pytest.fixture(scope="package")
def model():
    return small.make_model()


@pytest.fixture(scope="package")
def vectors(model):
    """The embeddings of sentences and of the files of pictures, by themselves."""
    files = [pair["image"] for pair in small.encoded_pairs(42).as_numpy_iterator()]
    found = dict(zip(files, model.encode_image(files), strict=True))
    return found | dict(zip(SENTENCES, model.encode_text(SENTENCES), strict=True))


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures at two depths, of noise."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for i, pair in enumerate(small.encoded_pairs(12).as_numpy_iterator()):
        (folder / ("deep" if i % 2 else ".") / f"{i}.png").write_bytes(pair["image"])
    return folder
