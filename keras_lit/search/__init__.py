"""Search your own pictures: an index on disk that grows, asked with sentences and pictures."""

from keras_lit.search.index import Hit, Index
from keras_lit.search.queries import Query
from keras_lit.search.updating import Changes

__all__ = ["Changes", "Hit", "Index", "Query"]
__dir__ = __all__.copy
