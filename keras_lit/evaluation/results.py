"""What an evaluation returns: numbers by name, which print as a table."""

import dataclasses
import math
import re
from typing import Any, Literal

from keras_lit.evaluation import sheets
from keras_lit.evaluation.reliability import Reliability

Task = Literal[
    "zeroshot_classification", "zeroshot_retrieval", "zeroshot_segmentation", "linear_probe"
]
_LINES = 10  # Of a table, with its title.


@dataclasses.dataclass(repr=False)
class Result:
    """The evaluation of a model on a dataset; `print(result)` shows a table of at most ten lines.

    Args:
        dataset: its name.
        task: "zeroshot_classification", "zeroshot_retrieval", "zeroshot_segmentation" or
            "linear_probe".
        metrics: {name: value}.
        count: how many images were evaluated.
        settings: what else matters, such as the templates; strings and numbers.
        confusions: [(class, taken for, how many, part of the class)], the most frequent first.
        sheet: rows of a contact sheet.
        reliability: the reliability diagram of a calibration.
        heat_maps: rows of pictures with heat maps over them.

    Example:

    >>> result = keras_lit.evaluation.Result("flowers", "zeroshot_retrieval", {"recall@1": 0.5}, 8)
    >>> result.metrics["recall@1"]
    0.5
    >>> result
    flowers: zeroshot_retrieval, 8 images
      recall@1  50.00%
    """

    dataset: str
    task: Task
    metrics: dict[str, float]
    count: int
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    confusions: list[tuple[str, str, int, float]] = dataclasses.field(default_factory=list)
    sheet: list[sheets.SheetRow] = dataclasses.field(default_factory=list)
    reliability: Reliability | None = None
    heat_maps: list[sheets.HeatRow] = dataclasses.field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All but pictures and diagram, as `json.dump` takes it.

        Returns:
            {"dataset", "task", "metrics", "count", "settings", "confusions"}; a metric that is not
            defined, such as the precision where nothing is accepted, is None.

        Example:

        >>> result = keras_lit.evaluation.Result("flowers", "linear_probe", {"accuracy@1": 0.5}, 8)
        >>> result.to_dict()["metrics"]
        {'accuracy@1': 0.5}
        """
        fields = [field.name for field in dataclasses.fields(self)]
        names = [name for name in fields if name not in ("sheet", "reliability", "heat_maps")]
        return {
            **{name: getattr(self, name) for name in names},
            # JSON has no NaN.
            "metrics": {k: None if math.isnan(x) else x for k, x in self.metrics.items()},
            "settings": dict(self.settings),
            "confusions": [list(confusion) for confusion in self.confusions],
        }

    def __repr__(self) -> str:
        settings = [f"{name}: {value}" for name, value in self.settings.items()]
        title = ", ".join([self.task, f"{self.count:,} images", *settings])
        lines = [f"{self.dataset}: {title}" if self.dataset else title]
        lines += in_columns(shown(self.metrics), _LINES - 1)
        if self.confusions and len(lines) < _LINES:
            label, other, count, part = self.confusions[0]
            lines.append(f"  most often: {label} taken for {other}, {count} ({part:.0%} of it)")
        return "\n".join(lines)


def shown(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """Names and values: parts of 1 in per cent, ranks and counts as they are."""
    is_part = re.compile(
        "accuracy|recall|deviation|precision|coverage|accepted|^ece|iou|chance"
    ).search
    return [
        (name, f"{100 * value:.2f}%" if is_part(name) else f"{value:g}")
        for name, value in metrics.items()
    ]


def in_columns(cells: list[tuple[str, str]], most: int) -> list[str]:
    """At most `most` lines of names and values, column by column."""
    columns = max(math.ceil(len(cells) / most), 1 + (len(cells) > 4))
    height = math.ceil(len(cells) / columns)
    lines = [""] * height
    for start in range(0, len(cells), height):
        column = cells[start : start + height]
        names, values = (max(map(len, texts)) for texts in zip(*column, strict=True))
        for i, (name, value) in enumerate(column):
            lines[i] += f"  {name:<{names}}  {value:>{values}}"
    return lines
