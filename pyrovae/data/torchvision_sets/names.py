"""The image sets that torchvision reads."""

import difflib
import inspect
import re
from functools import lru_cache
from pathlib import Path

# A set is taken for one of single images if its constructor takes a folder and a `transform` of the image alone: where
# the target is boxes, masks or a flow, torchvision changes both by `transforms`. This is what the rule gets wrong:
_ALSO = {"OxfordIIITPet"}
_NOT = {
    "DatasetFolder": "any folder",
    "ImageFolder": "any folder",
    "LSUNClass": "a part of LSUN",
    "LFWPairs": "pairs of images",
    "MovingMNIST": "videos",
    "PhotoTour": "patches without pictures",
    "SUN397": "in the order of the disk; pyrovae has its own",
    "WIDERFace": "boxes in large pictures",
}


def arguments(make: type) -> dict[str, inspect.Parameter]:
    """What a constructor takes; of one with `**kwargs` also what the class below it takes."""
    found: dict[str, inspect.Parameter] = {}
    for cls in make.__mro__:
        own = list(inspect.signature(cls.__init__).parameters.values())  # type: ignore[misc]
        found = {**{p.name: p for p in own[1:] if p.kind is not p.VAR_KEYWORD}, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in own):
            return found
    return found


@lru_cache
def image_sets() -> dict[str, type]:
    """Constructors of torchvision's sets of single images, by name."""
    from torchvision import datasets  # noqa: PLC0415 - slow to import

    found = {}
    for name in sorted(datasets.__all__):
        make = getattr(datasets, name)
        if not inspect.isclass(make) or name in _NOT:
            continue
        takes = arguments(make)
        fits = {"root", "transform"} <= takes.keys() and not {"transforms", "frames_per_clip"} & takes.keys()
        if fits or name in _ALSO:
            found[name] = make
    return found


def find(name: str) -> str:
    """torchvision's spelling of a set's name, which may be written without capitals and with underscores.

    Raises:
        ValueError: There is none.
    """
    spelled = {_plain(known): known for known in image_sets()}
    if _plain(name) in spelled:
        return spelled[_plain(name)]
    near = difflib.get_close_matches(_plain(name), spelled, n=3)
    hint = f"; did you mean {' or '.join(spelled[n] for n in near)}?" if near else ";"
    raise ValueError(f"set {name!r} is no image set of torchvision{hint} valid: {', '.join(image_sets())}")


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def folder_of(name: str, root: str) -> Path:
    """Where a set's files are looked for, as far as its class says."""
    from torchvision import datasets  # noqa: PLC0415 - slow to import

    make = image_sets()[name]
    if issubclass(make, datasets.MNIST):
        return Path(root) / name / "raw"
    folder = getattr(make, "base_folder", getattr(make, "folder", ""))
    return Path(root) / (folder if isinstance(folder, str) else "")
