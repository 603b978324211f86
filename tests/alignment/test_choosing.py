"""What cross-validation chooses is what naive loops find best."""

import json

import numpy as np
import pytest

from keras_lit.alignment import Folds, cca, choose, ridge
from keras_lit.alignment.choosing import best_scale, group_recalls
from keras_lit.alignment.folds import total

NAMES = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def naive_recalls(images, texts, image_keys, text_keys):
    """Ranks groups by their best member, in plain Python."""
    found = []
    for queries, own, answers, others in (
        (images, image_keys, texts, text_keys),
        (texts, text_keys, images, image_keys),
    ):
        before = []
        for query, key in zip(queries, own, strict=True):
            best = {}
            for answer, other in zip(answers, others, strict=True):
                best[other] = max(best.get(other, -2), query @ answer)
            before.append(sum(best[x] >= best[key] - 1e-6 for x in best if x != key))
        found += [np.mean([b < k for b in before]) for k in (1, 5, 10)]
    return found


def noisy_pairs(count=240, image_dim=12, text_dim=8, meanings=6, noise=1.5):
    rng = np.random.default_rng(3)
    meaning = rng.normal(size=[count, meanings])
    images, texts = (
        meaning @ rng.normal(size=[meanings, dim]) + noise * rng.normal(size=[count, dim])
        for dim in (image_dim, text_dim)
    )
    return images.astype("float32"), texts.astype("float32"), np.arange(count) // 2


@pytest.fixture(scope="module")
def folds():
    folds = Folds(12, 8, count=3)
    folds.add(*noisy_pairs())
    return folds


@pytest.fixture(scope="module")
def result(folds):
    return choose(folds, penalties=(0.1, 1.0, 10.0), verbose=0)


def test_prints_as_a_table_and_goes_to_json(result):
    lines = str(result).splitlines()
    assert len(lines) == 6 and lines[0].startswith("cca of 240 pairs, ")
    recall = f"{result.recalls['text_to_image_recall@10']:.2%}"
    assert lines[4].startswith("  text to image") and lines[4].endswith(recall)
    found = json.loads(json.dumps(result.to_dict()))
    assert "heads" not in found and found["recalls"] == result.recalls
    best = {name: found[name] for name in ("image_penalty", "text_penalty", "mean_recall")}
    assert any(best.items() <= tried.items() for tried in found["scores"])


def held_out_recalls(folds, make):
    """Means over the folds, each of heads made of the others."""
    return np.mean(recalls_of_folds(folds, make), axis=0)


def recalls_of_folds(folds, make):
    found = []
    for fold in range(3):
        others = [x for i, x in enumerate(folds.moments) if i != fold]
        heads, rows = make(total(others)), folds.kept(fold)
        images, texts = heads.image.project(rows.images), heads.text.project(rows.texts)
        keys = rows.keys.tolist()
        found.append(naive_recalls(unit(images), unit(texts), keys, [keys[i] for i in rows.owners]))
    return np.array(found)


def test_recalls_are_those_of_naive_loops_on_held_out_pairs(folds, result):
    expected = held_out_recalls(
        folds, lambda m: cca(m, result.image_penalty, result.text_penalty, result.dim)
    )
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_allclose([result.recalls[name] for name in NAMES], expected, atol=1e-9)
    np.testing.assert_allclose(result.mean_recall, expected.mean())
    assert result.pairs == 240 and result.held_out == 40


def test_no_neighbour_is_better(result):
    """Along each penalty, at the other's best."""
    full = [(key, value) for key, value in result.scores.items() if key[2] is None]
    chosen = result.scores[result.image_penalty, result.text_penalty, None]
    lines = [
        value
        for (image, text, _), value in full
        if image == result.image_penalty or text == result.text_penalty
    ]
    assert len(lines) == 5 and chosen == max(lines)


@pytest.mark.parametrize(("noise", "narrow"), [(1.5, False), (1.2, True)])
def test_narrower_only_where_it_is_better_beyond_the_standard_error(noise, narrow):
    images, texts, groups = noisy_pairs(meanings=4 if narrow else 6, noise=noise)
    folds = Folds(12, 8, count=3)
    folds.add(images, texts, groups)
    result = choose(folds, verbose=0)
    assert {key[2] for key in result.scores} == {None, 1, 2, 4}
    penalties = result.image_penalty, result.text_penalty
    of_width = {
        dim: recalls_of_folds(folds, lambda m, d=dim: cca(m, *penalties, d)).mean(axis=1)
        for dim in (1, 2, 4, 8)
    }
    best = max((1, 2, 4), key=lambda dim: of_width[dim].mean())
    gain = of_width[best] - of_width[8]
    clearly = gain.mean() > gain.std(ddof=1) / 3**0.5
    assert clearly == narrow and result.dim == (best if narrow else 8)


def test_heads_are_of_all_pairs(folds, result):
    expected = cca(total(folds.moments), result.image_penalty, result.text_penalty, result.dim)
    np.testing.assert_allclose(result.heads.image.kernel, expected.image.kernel)
    np.testing.assert_allclose(result.heads.text.bias, expected.text.bias)


def test_ridge_is_chosen_likewise():
    images, texts, groups = noisy_pairs()
    folds = Folds(12, 8, count=3)
    folds.add(images, unit(texts), groups)
    result = choose(folds, "ridge", penalties=(0.1, 1.0, 10.0), verbose=0)
    expected = {
        (penalty, None, None): held_out_recalls(folds, lambda m, p=penalty: ridge(m, p)).mean()
        for penalty in (0.1, 1.0, 10.0)
    }
    assert result.scores == pytest.approx(expected)
    assert result.scores[result.image_penalty, None, None] == max(expected.values())
    assert (result.text_penalty, result.dim) == (None, 8)


def test_groups_of_several_images_and_texts_and_ties():
    rng = np.random.default_rng(0)
    images, texts = unit(rng.normal(size=[30, 4])), unit(rng.normal(size=[50, 4]))
    texts[7] = texts[23]  # As near to everything.
    image_keys = np.sort(np.concatenate([np.arange(12), rng.integers(0, 12, 18)]))
    text_keys = np.sort(np.concatenate([np.arange(12), rng.integers(0, 12, 38)]))
    found = group_recalls(images @ texts.T, image_keys, text_keys)
    np.testing.assert_allclose(found, naive_recalls(images, texts, image_keys, text_keys))


def test_what_is_drawn_at_random_is_not_found_in_classes_either():
    """Pictures of a class were all that a fold held out, and found among themselves."""
    rng = np.random.default_rng(0)
    folds = Folds(6, 5)
    labels = np.arange(20 * 600) % 20
    for part in np.split(np.arange(len(labels)), 10):
        folds.add(rng.normal(size=[len(part), 6]), rng.normal(size=[len(part), 5, 5]), labels[part])
    found = choose(folds, penalties=[0.3], verbose=0)
    assert found.held_out == 4  # 20 classes in 5 folds.
    for way in ("image_to_text", "text_to_image"):
        assert 0.15 < found.recalls[f"{way}_recall@1"] < 0.4


def test_temperature_has_the_least_loss():
    rng = np.random.default_rng(0)
    images = unit(rng.normal(size=[20, 6]))
    texts = unit(images + 0.5 * rng.normal(size=[20, 6]))
    tables = [images @ texts.T, images[:9] @ texts[:9].T]

    def softmax(temperature):
        found = 0.0
        for table in tables:
            for logits in (temperature * table, temperature * table.T):
                each = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
                found += each.mean()
        return found

    temperature, bias = best_scale(tables, "softmax")
    assert bias is None and 1 < temperature < 99
    assert softmax(temperature) <= min(softmax(x) for x in np.linspace(1, 100, 500)) + 1e-6

    def sigmoid(temperature, bias):
        found = 0.0
        for table in tables:
            labels = 2 * np.eye(len(table)) - 1
            logits = labels * (temperature * table + bias)
            found += np.log1p(np.exp(-logits)).sum() / len(table)
        return found

    temperature, bias = best_scale(tables, "sigmoid")
    grid = [(x, y) for x in np.linspace(1, 40, 40) for y in np.linspace(-30, 5, 71)]
    assert sigmoid(temperature, bias) <= min(sigmoid(x, y) for x, y in grid) + 1e-4


def test_bad_arguments_are_refused(folds):
    with pytest.raises(ValueError, match="`method` should be one of 'cca', 'ridge'"):
        choose(folds, "pca")
    with pytest.raises(ValueError, match="`penalties` should be a positive number"):
        choose(folds, penalties=(0.0, 1.0))
    for penalties in (0.3, [], (x for x in (0.1, 1.0))):
        with pytest.raises(ValueError, match="`penalties` should be a list of positive numbers"):
            choose(folds, penalties=penalties)
    with pytest.raises(ValueError, match="`dim` should be a positive whole number. Received: 2.0"):
        choose(folds, dim=2.0)
    with pytest.raises(ValueError, match="Ridge has the width of the text features"):
        choose(folds, "ridge", dim=3)
    with pytest.raises(ValueError, match=r"some different captions.*Received 20 pairs"):
        same = Folds(12, 8)
        images, texts, _ = noisy_pairs(20)
        same.add(images, texts, [0] * 20)
        choose(same)


@pytest.mark.parametrize(
    ("side", "method"), [("image", "cca"), ("image", "ridge"), ("text", "cca")]
)
def test_features_without_differences_are_refused(side, method):
    images, texts, _ = noisy_pairs(40)
    folds = Folds(12, 8)
    images, texts = (
        x if name != side else 0 * x + 1 for name, x in (("image", images), ("text", texts))
    )
    folds.add(images, texts, np.arange(40))
    with pytest.raises(ValueError, match=f"The {side} features are the same in all rows"):
        choose(folds, method, verbose=0)
