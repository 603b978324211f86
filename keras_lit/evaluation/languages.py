"""Retrieval in each language of captions that come in several."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_lit.evaluation.retrieval import retrieval_recall


def recall_by_language(
    encode_text: Callable[[list[str]], np.ndarray],
    image_embeddings: np.ndarray,
    captions: Sequence[Mapping[str, str]],
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, dict[str, float]]:
    """Recall@k both ways among the images that have a caption in a language, for each language.

    Images with the same caption in that language are equally right.

    Args:
        encode_text: from a list of n strings to [n, dim] unit-length rows: `LiT.encode_text`.
        image_embeddings: [images, dim] float array of unit-length rows.
        captions: for each image {language: caption}.
        ks: the k to report.

    Returns:
        {language: {"images": their number, "image_to_text_recall@1": ..., ...}}, by name.

    Raises:
        ValueError: as many captions as images are wanted.

    Example:

    >>> eye = np.eye(2)
    >>> encode = lambda texts: eye[[int("cat" in text) for text in texts]]
    >>> captions = [{"en": "a dog", "fr": "un chien"}, {"en": "a cat"}]
    >>> keras_lit.evaluation.recall_by_language(encode, eye, captions, ks=(1,))["fr"]["images"]
    1

    Reference: the LiT paper, section 5.7 and Appendix J.
    """
    if len(image_embeddings) != len(captions):
        raise ValueError(
            "`captions` should hold one {language: caption} for each image. Received: "
            f"{len(captions)} for {len(image_embeddings)} images."
        )
    found = {}
    for language in sorted({name for texts in captions for name in texts}):
        rows = [i for i, texts in enumerate(captions) if language in texts]
        texts = [captions[i][language] for i in rows]
        groups = np.unique(texts, return_inverse=True)[1]
        recalls = retrieval_recall(
            image_embeddings[rows], encode_text(texts), np.arange(len(rows)), ks, groups
        )
        found[language] = {"images": len(rows), **recalls}
    return found
