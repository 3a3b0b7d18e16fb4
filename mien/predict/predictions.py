"""All pictures of one call, as a table, a data frame or a page in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mien.errors import DataError
from mien.predict.notebook import html_of
from mien.predict.results import FacePrediction, PicturePrediction, counted
from mien.predict.rows import Layout, table_of


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """All pictures of one call, in order."""

    pictures: tuple[PicturePrediction, ...]
    classes: tuple[str, ...]
    """Expressions in logit order."""
    action_units: tuple[str, ...]
    """Action units that were looked for."""
    explained: bool
    """Whether an explanation was asked for."""

    def __repr__(self) -> str:
        return f"Predictions({counted(len(self.faces), 'face')} in {counted(len(self), 'picture')}; classes {', '.join(self.classes)})"

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pictures)

    def __iter__(self) -> Iterator[PicturePrediction]:
        return iter(self.pictures)

    def __getitem__(self, index: int) -> PicturePrediction:
        return self.pictures[index]

    @property
    def faces(self) -> tuple[FacePrediction, ...]:
        """All faces of all pictures."""
        return tuple(face for picture in self.pictures for face in picture.faces)

    def to_table(self) -> Any:
        """pyarrow.Table: a row a face, and one for each picture without a face (columns: docs/predict-table.md)."""
        return table_of(self.pictures, Layout(self.classes, self.action_units, self.explained))

    def to_frame(self) -> Any:
        """pandas.DataFrame of `to_table`; DataError where pandas is missing."""
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise DataError("to_frame needs pandas: pip install 'mien[frame]'; or use to_table().") from None
        return self.to_table().to_pandas()

    def _repr_html_(self) -> str:
        return html_of(self.pictures)
