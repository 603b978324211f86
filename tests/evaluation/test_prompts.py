import pytest

from keras_lit.evaluation import prompts, zero_shot


def test_templates():
    assert len(set(prompts.templates("clip_80"))) == 80
    assert prompts.templates("clip_best_7") == [
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ]
    assert set(prompts.templates("clip_best_7")) < set(prompts.templates())
    assert prompts.templates("photo") == ["A photo of a {}"]
    assert prompts.templates("name") == ["{}"]


def test_every_set_makes_prompts():
    assert len(prompts.template_sets()) > 20
    for name in prompts.template_sets():
        zero_shot.check_prompts(["x"], prompts.templates(name))
        zero_shot.check_prompts(["x"], prompts.templates(name, canonical=True))


def test_class_names():
    names = prompts.class_names("imagenet2012")
    assert len(names) == 1000
    # Well-known places in ImageNet's order.
    for label, name in {
        0: "tench",
        1: "goldfish",
        207: "Golden Retriever",
        281: "tabby cat",
        999: "toilet paper",
    }.items():
        assert names[label] == name
    for name in prompts.class_name_sets():
        assert all(text.strip() for text in prompts.class_names(name))
        assert len(set(prompts.class_names(name))) == len(prompts.class_names(name))
    # Two of ImageNet's classes are missiles, and two sunglasses.
    assert [names[i] for i in (657, 744)] == ["missile", "projectile missile"]
    assert [names[i] for i in (836, 837)] == ["sunglass", "sunglasses"]


@pytest.mark.parametrize(
    ("name", "known", "absent"),
    [
        # Stingray, cockroach and umbrella are in ImageNet-A; goldfish and husky in -R.
        ("imagenet_a", {6: "stingray", 314: "cockroach", 879: "umbrella"}, [0, 999]),
        ("imagenet_r", {1: "goldfish", 207: "Golden Retriever", 250: "Siberian Husky"}, [0, 999]),
    ],
)
def test_subsets(name, known, absent):
    labels = prompts.imagenet_subset(name)
    names = prompts.class_names(name)
    assert len(set(labels)) == len(names) == 200 and not set(absent) & set(labels)
    for label, expected in known.items():
        assert names[labels.index(label)] == expected


@pytest.mark.parametrize(
    ("text", "keep", "expected"),
    [
        ("Hot_Dog", "", "hot dog"),
        ("jack-o'-lantern", "", "jackolantern"),
        ("A photo, of  a {}!", "{}", "a photo of a {}"),
        ("a {b} {}.", "{}", "a b {}"),
        ("Tench, Tinca tinca.", ",", "tench, tinca tinca"),
        (" a\tb ", "", "a b"),
    ],
)
def test_canonicalize(text, keep, expected):
    assert prompts.canonicalize(text, keep) == expected


def test_canonical_lists():
    assert prompts.templates("photo", canonical=True) == ["a photo of a {}"]
    assert prompts.class_names("imagenet2012", canonical=True)[207] == "golden retriever"


def test_unknown_names():
    for function in (prompts.templates, prompts.class_names, prompts.imagenet_subset):
        with pytest.raises(ValueError, match="`name` should be one of .*Received: 'clip'"):
            function("clip")
