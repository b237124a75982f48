"""A tree of pictures, whose folders are classes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..dataset import Binarize, Dataset
from ..splits import stratified
from .decoding import OnBad, decoded
from .pictures import Color, Crop, picture_files, read_picture


@dataclass(frozen=True)
class PictureTree:
    """The pictures below a folder.

    Attributes:
        folder: Of all.
        files: Its pictures, sorted.
        folders: The folder of each, relative to `folder`, as a/abbey; `.` is `folder` itself.
    """

    folder: Path
    files: Sequence[Path]
    folders: Sequence[str]

    @classmethod
    def below(cls, folder: Path) -> "PictureTree":
        """What there is: nothing, if there is no such folder."""
        files = picture_files(folder) if folder.is_dir() else []
        parents = [os.path.dirname(file) for file in files]
        known = {parent: Path(parent).relative_to(folder).as_posix() for parent in set(parents)}
        return cls(folder, files, [known[parent] for parent in parents])


@dataclass(frozen=True)
class Pictures:
    """How the pictures of a tree become a data set. What each means is told where YAML sets it."""

    image_size: int
    color: Color
    crop: Crop
    binarize: Binarize
    cache: bool | str
    on_bad: OnBad
    seed: int
    num_workers: int

    def dataset(
        self,
        name: str,
        title: str,
        tree: PictureTree,
        classes: Sequence[str],
        split: Callable[[Tensor], Sequence[Tensor]],
        how_split: str,
    ) -> Dataset:
        """Decodes a tree and parts it.

        Args:
            name, title: Of the data set, as in YAML and for people.
            tree: Of pictures.
            classes: Of each picture; if all are `.` there are no labels.
            split: From the labels of all pictures, (N,), to the numbers of those that train, validate and test.
                Damaged ones are left out afterwards, so that they do not move others from split to split.
            how_split: For people.
        """
        settings = {"image_size": self.image_size, "color": self.color, "crop": self.crop}
        rows, good = decoded(
            title,
            tree.files,
            partial(read_picture, image_size=self.image_size, color=self.color, crop=self.crop),
            shape=(1 if self.color == "grey" else 3, self.image_size, self.image_size),
            settings=settings,
            cache=self.cache,
            on_bad=self.on_bad,
            num_workers=self.num_workers,
        )
        names = {label: number for number, label in enumerate(sorted(set(classes)))}
        labels = torch.tensor([names[label] for label in classes])
        labelled = set(names) != {"."}
        what = f"{len(good)} images" + (f" of {len(names)} classes" if labelled else "")
        return Dataset.parted(
            name,
            f"{what} in {tree.folder}, {how_split}",
            rows,
            [part[torch.isin(part, good)] for part in split(labels)],
            labels if labelled else None,
            binarize=self.binarize,
            seed=self.seed,
            class_names=tuple(names) if labelled else (),
            num_workers=self.num_workers,
        )


def hold_out(name: str, numbers: Tensor, labels: Tensor, seed: int, **fractions: float) -> list[Tensor]:
    """`stratified` for some of the datapoints: of `numbers`, with the labels (N,) of all."""
    return [numbers[part] for part in stratified(name, labels[numbers], seed, **fractions)]
