"""Sentences to click, in the languages that a text tower knows."""

import numpy as np
from search_page.collection import Collection

# The same six in each.
SENTENCES = {
    "en": "a bird in the sky|something to drink|a red flower|a smiling face|a fast car"
    "|a house in the snow",
    "de": "ein Vogel am Himmel|etwas zu trinken|eine rote Blume|ein lächelndes Gesicht"
    "|ein schnelles Auto|ein Haus im Schnee",
    "es": "un pájaro en el cielo|algo para beber|una flor roja|una cara sonriente|un coche rápido"
    "|una casa en la nieve",
    "fr": "un oiseau dans le ciel|quelque chose à boire|une fleur rouge|un visage souriant"
    "|une voiture rapide|une maison sous la neige",
    "ru": "птица в небе|что-нибудь попить|красный цветок|улыбающееся лицо|быстрая машина"
    "|дом в снегу",
    "ja": "空を飛ぶ鳥|何か飲むもの|赤い花|笑っている顔|速い車|雪の中の家",
    "zh": "天空中的鸟|喝的东西|红色的花|笑脸|跑得快的汽车|雪中的房子",
    "ar": "طائر في السماء|شيء للشرب|زهرة حمراء|وجه مبتسم|سيارة سريعة|بيت في الثلج",
}
ENGLISH = 4  # so many, one of each other language


def understood(collection: Collection) -> list[tuple[str, str]]:
    """[(language, sentence)]: English, and languages in which the sentences mean the same.

    A language is known if nearly all of its sentences are nearest to their own translation.
    """
    texts = {language: x.split("|") for language, x in SENTENCES.items()}
    every = collection.encode([x for of in texts.values() for x in of])
    english, *others = np.split(every, len(texts))
    found = [("en", x) for x in texts["en"][:ENGLISH]]
    for i, (language, vectors) in enumerate(zip(list(texts)[1:], others, strict=True)):
        cosines = vectors @ english.T
        own = np.diag(cosines).copy()
        np.fill_diagonal(cosines, -1)
        if (own > cosines.max(axis=1) + 1e-3).sum() >= len(own) - 1:
            found.append((language, texts[language][(i + 2) % len(own)]))
    return found
