"""A user's own arrays, from files of named arrays, mapped wherever they lie as they are."""

import math
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat

from .dataset import SPLITS, Binarize, Dataset, Split, remembered
from .errors import DataError
from .normalization import Scaled, as_floats
from .rows import Column, Mapped, Rows
from .splits import stratified

Key = str | dict[Split, str]

_say = cache(print)  # once in a process, however often a file is opened
_LABELS = ("labels", "y")
_LOOKED_AT = 1000  # datapoints that must show that 8 bits are pixels
_COLOURS, _MOST_CHANNELS = (1, 3), 4  # sizes of a last index that is of channels; of a first one that may be
_LOCAL_HEADER = 30  # bytes of a zip member before its name; the lengths of name and extra field are the last four
_STRETCH = 4  # a stretch of rows is many times as fast as its rows one by one: so many times as many are worth it
_LARGEST_CACHE, _LEAST_CACHE, _SLOTS = 64 * 2**20, 2**20, 12_421  # bytes of chunks that are held; HDF5 asks for a prime
_DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, SyntaxError, struct.error, zipfile.BadZipFile, zlib.error),
    *(RuntimeError, NotImplementedError),  # zip files that are encrypted, or packed in a way that Python does not know
)


@remembered
def Arrays(  # noqa: N802 - a data set, as the others are
    *, path: str, key: Key | None = None, labels: str = "auto", labels_key: Key | None = None,
    layout: Literal["auto", "channels_first", "channels_last"] = "auto",
    scale: Literal["auto", "none"] | PositiveFloat = "auto", binarize: Binarize = "none", seed: int = 0,
    val_fraction: PositiveFloat = 0.1, test_fraction: PositiveFloat = 0.1, num_workers: NonNegativeInt = 0,
) -> Dataset:  # fmt: skip
    """Images, vectors or counts from a .npy, .npz or HDF5 file, mapped into memory where they lie as they are.

    Shapes: (N, D) vectors; (N, H, W), (N, C, H, W) and (N, H, W, C) images. Every other array of N rows, `NAME_test`
    of test, is a covariate, and goes along with its datapoints; labels that are no whole numbers or text too.

    Args:
        path: .npy, .npz, .h5 or .hdf5.
        key: Array in the file, `group/data` say; or one for each split, {train: a, val: b, test: c}. By default
            `x_train`, `x_val` and `x_test`, where x_train is there; else `x`; else the only array beside labels. A
            split that is missing is taken from the training datapoints.
        labels: A file of classes, whole numbers or text; `auto` takes those in the data's own file, `none` none.
        labels_key: As `key`; by default `labels`, or `y`.
        layout: Whether images are `channels_first` or `channels_last`; `auto` where the shape tells.
        scale: x = array / scale. `auto` is 255 for images of 8 bits and 1 for all else.
        val_fraction, test_fraction: Of all datapoints, class by class, where the file has no such split.
        binarize, seed, num_workers: As of `Dataset`; the seed is of the splits too.

    Raises:
        DataError: A file that is missing or damaged, or that does not hold what it should.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(path := f"{folder}/trials.npz", x=np.ones((50, 7)), speed=np.linspace(0, 1, 50))
    ...     data = Arrays(path=path)
    >>> len(data.train), list(data.covariates["train"])
    (40, ['speed'])
    """
    arrays = open_arrays(file := Path(path), "dataset.path")
    others = [name for name in arrays if _split_of(name)[0] not in _LABELS]
    names = _names(file, arrays, key, ("x",), "dataset.key", others)
    raw = {part: _rows(file, name, arrays[name], layout) for part, name in names.items()}
    covariates = _beside(arrays, names, raw)
    classes = {} if labels == "none" else _labels(file, arrays, raw, covariates, labels, labels_key)
    name = next(iter(names.values()))
    told = f"{file.name}: {name or 'array'} {' × '.join(map(str, arrays[name].shape))} {arrays[name].dtype.name}"
    fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    options = {"binarize": binarize, "preprocess": _preprocess(file, raw, scale), "num_workers": num_workers}
    return from_splits("arrays", told, raw, classes, covariates, fractions, seed, **options)


def from_splits(
    name: str, source: str, raw: Mapping[str, Rows], labels: Mapping[str, np.ndarray],
    covariates: Mapping[str, Mapping[str, Any]], fractions: Mapping[str, float], seed: int, **options: Any,
) -> Dataset:  # fmt: skip
    """A data set of rows that are split already, {train: ...}, or not, {all: ...}; what is missing is taken from these.

    `labels` (N,), of any kind, and `covariates` (N, ...) are of each part that has them; `fractions` are `val_fraction`
    and `test_fraction`, and `options` further attributes of the data set.
    """
    known, numbers = np.unique(np.concatenate([*labels.values()] or [np.empty(0)]), return_inverse=True)
    each = torch.from_numpy(numbers.reshape(-1).astype(np.int64)).split([len(of) for of in labels.values()])
    classes = dict(zip(labels, each, strict=True))
    chosen = {part: (part, torch.arange(len(rows))) for part, rows in raw.items()}  # each split's part, and which rows
    if missing := {key: value for key, value in fractions.items() if key.removesuffix("_fraction") not in raw}:
        whole = "all" if "all" in raw else "train"
        taken = stratified(name, classes.get(whole, torch.zeros(len(raw[whole])).long()), seed, **missing)
        splits = ("train", *(key.removesuffix("_fraction") for key in missing))
        chosen |= {split: (whole, numbers) for split, numbers in zip(splits, taken, strict=True)}
    whose = {split: chosen[split] for split in SPLITS}
    told = tuple(value.decode() if isinstance(value, bytes) else str(value) for value in known.tolist())
    options |= {
        "labels": {split: classes[part][rows] for split, (part, rows) in whose.items() if part in classes},
        "rows_in_file": {split: rows for split, (_, rows) in whose.items()},
        "covariates": {
            split: {key: Column(array, rows) for key, array in covariates.get(part, {}).items()}
            for split, (part, rows) in whose.items()
        },
    }
    train, val, test = (raw[part].subset(rows) for part, rows in whose.values())
    source += f", {len(told)} classes" if told else ""
    return Dataset(name, source, train, val, test, seed=seed, class_names=told, **options)


def _names(
    file: Path, arrays: Mapping[str, Any], key: Key | None, defaults: Sequence[str],
    setting: str, others: Sequence[str] | None,
) -> dict[str, str]:  # fmt: skip
    """{"all": an array's name}, or those of the splits; by default one of `defaults`, or the only one of `others`."""
    if key is None:
        for name in defaults:
            own = {str(split): f"{name}_{split}" for split in SPLITS if f"{name}_{split}" in arrays}
            if "train" in own:
                return own
            if name in arrays:  # `x` beside `x_test` is the training data
                return {"train": name, **own} if own else {"all": name}
        if others is None:
            return {}
        if len(others) != 1 or _split_of(others[0])[1]:
            raise DataError(f"{file} holds no {defaults[0]}; set {setting} to one of: {_listed(arrays)}")
        key = others[0]
    names = {str(split): key[split] for split in SPLITS if split in key} if isinstance(key, Mapping) else {"all": key}
    missing = [name for name in names.values() if name not in arrays]
    if missing or not {"all", "train"} & names.keys():
        problem = f"{missing[0]!r} is not in {file}" if missing else "names no train"
        remedy = "leave it out" if "" in arrays else f"it holds: {_listed(arrays)}"
        raise DataError(f"{setting}: {problem}; {remedy}")
    return names


def _split_of(name: str) -> tuple[str, str]:
    """`y_test` is y of test; what names no split is of all, or of train."""
    base, _, split = name.rpartition("_")
    return (base, split) if base and split in SPLITS else (name, "")


def _beside(arrays: Mapping[str, Any], names: Mapping[str, str], raw: Mapping[str, Rows]) -> dict[str, dict[str, Any]]:
    """What else the file holds of each part's datapoints: a row for each."""
    found: dict[str, dict[str, Any]] = {part: {} for part in raw}
    for name, array in arrays.items():
        base, split = _split_of(name)
        base, part = (base, split) if split in raw else (name, next(iter(raw)))
        if name not in names.values() and array.shape[:1] == raw[part].shape[:1] and not array.dtype.hasobject:
            found[part][base] = array
    return found


def _labels(
    file: Path, arrays: Mapping[str, Any], raw: Mapping[str, Rows], covariates: dict[str, dict[str, Any]],
    labels: str, key: Key | None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Classes (N,) of each part that has them; what is continuous is added to the covariates."""
    if labels != "auto":
        file = Path(labels) if Path(labels).exists() else file.parent / labels
        arrays = open_arrays(file, "dataset.labels")
    names = _names(file, arrays, key, _LABELS, "dataset.labels_key", None if labels == "auto" else list(arrays))
    if "all" in names and "all" not in raw:  # `y` beside `x_train`
        names = {"train": names["all"]}
    found = {part: arrays[name] for part, name in names.items() if part in raw}
    for part, array in found.items():
        num, what = array.shape[0] if array.shape else 1, f"({names[part] or 'the array'}) for"
        if array.dtype.hasobject or num != len(raw[part]):
            what = f"{num} {'objects' if array.dtype.hasobject else 'labels'} {what} {len(raw[part])} datapoints"
            raise DataError(f"{file}: {what}; mend them, or set dataset.labels: none")
    odd = [a for a in found.values() if a.dtype.kind not in "biuSU" or a.shape[1:] not in ((), (1,))]
    for part, array in found.items():
        name = _split_of(names[part])[0] or "labels"
        if odd:
            covariates[part][name] = array
        elif labels == "auto":
            covariates[part].pop(name, None)
    if odd:
        told = f"labels are {odd[0].dtype} {odd[0].shape}: a covariate; classes are whole numbers or text, (N,)"
        _say(f"{file}: {told}", file=sys.stderr)
    return {} if odd else {part: np.asarray(array[:]).reshape(-1) for part, array in found.items()}


def _rows(file: Path, name: str, array: Any, layout: str) -> Rows:
    what, shape, dtype = f"{file}{name and f' ({name})'}", array.shape, array.dtype
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise DataError(f"{what}: holds {dtype}; save real numbers, float32 or uint8 say")
    if not 2 <= len(shape) <= 4 or 0 in shape:
        raise DataError(f"{what}: has shape {shape}; it must be (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C)")
    if len(shape) < 4:
        return Mapped(array, "HW" if len(shape) == 3 else "")
    if layout == "auto" and shape[3] in _COLOURS and shape[1] <= _MOST_CHANNELS:
        how = "set dataset.layout to channels_first or channels_last"
        raise DataError(f"{what}: shape {shape} may be (N, C, H, W) or (N, H, W, C); {how}")
    last = shape[3] in _COLOURS if layout == "auto" else layout == "channels_last"
    return Mapped(array, "HWC" if last else "CHW")


def _preprocess(file: Path, raw: Mapping[str, Rows], scale: str | float) -> Any:
    rows = next(iter(raw.values()))
    if scale != "auto" or len(rows.shape) == 2:
        return Scaled(1.0 if isinstance(scale, str) else float(scale))
    if rows.dtype == torch.uint8 and (top := int(rows.read(torch.arange(min(len(rows), _LOOKED_AT))).max())) < 128:
        what = f"images of 8 bits whose values end at {top} may be counts, masks or dark pixels"
        raise DataError(f"{file}: {what}; set dataset.scale: none for counts and masks, 255 for pixels")
    return as_floats


def _listed(arrays: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {a.shape}" for name, a in arrays.items()) or "nothing"


class Objects(NamedTuple):
    """Stands for an array of Python objects, which is not read."""

    shape: tuple[int, ...]
    dtype: np.dtype


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Damage, which has many names, becomes a `DataError`."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read {path} ({reason}); it is cut short, damaged, or of another format") from error


def open_arrays(path: Path, setting: str) -> dict[str, Any]:
    """The arrays of a file by name: mapped, in memory, or objects that read the rows that they are asked for.

    The one array of a .npy file is named "". A `DataError` names the `setting`, if there is no such file.
    """
    kinds: dict[str, Callable[[Path], dict[str, Any]]]
    kinds = {".npy": lambda path: {"": _array(path, 0)}, ".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5}
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{setting}: {path} {what}; name a file: {', '.join(kinds)}")
    if path.suffix.lower() not in kinds:
        raise DataError(f"{setting}: {path} has the suffix {path.suffix!r}; it must be one of {', '.join(kinds)}")
    with readable(path):
        return kinds[path.suffix.lower()](path)


def _npz(path: Path) -> dict[str, Any]:
    """Members that are stored plainly are mapped within the zip file; compressed ones are read."""
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in [of for of in archive.infolist() if of.filename.endswith(".npy")]:
            with archive.open(member) as packed:  # which refuses what is encrypted
                shape, _, dtype = _header(packed)
                if dtype.hasobject:
                    array: Any = Objects(shape, dtype)
                elif member.compress_type == zipfile.ZIP_STORED:
                    file.seek(member.header_offset)
                    lengths = struct.unpack("<HH", file.read(_LOCAL_HEADER)[-4:])
                    array = _array(path, member.header_offset + _LOCAL_HEADER + sum(lengths))
                else:
                    packed.seek(0)
                    array = np.lib.format.read_array(packed)
                arrays[member.filename.removesuffix(".npy")] = array
    return arrays


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first index varies fastest, and dtype of a .npy; `file` is then at the first value."""
    version, formats = np.lib.format.read_magic(file), np.lib.format
    read = {(1, 0): formats.read_array_header_1_0, (2, 0): formats.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"format {version} of .npy")
    return read(file)


def _array(path: Path, offset: int) -> Any:
    """The array whose .npy header begins at byte `offset`, mapped."""
    with path.open("rb") as file:
        file.seek(offset)
        shape, fortran_order, dtype = _header(file)
        if dtype.hasobject:
            return Objects(shape, dtype)
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran_order else "C")


def _hdf5(path: Path) -> dict[str, Any]:
    """Data sets by their path in the file; one that lies in one piece is mapped, any other is read by rows."""
    import h5py  # type: ignore[import-untyped] # noqa: PLC0415 - slow to import

    arrays: dict[str, Any] = {}

    def note(name: str, thing: Any) -> None:
        if not isinstance(thing, h5py.Dataset) or thing.shape is None:
            return
        in_pieces = thing.chunks is not None or thing.external or thing.is_virtual
        if h5py.check_string_dtype(thing.dtype) is not None:
            arrays[name] = np.asarray(thing.asstr()[...]).astype(str)
        elif thing.dtype.hasobject:
            arrays[name] = Objects(thing.shape, thing.dtype)
        elif 0 in thing.shape or not thing.shape:
            arrays[name] = thing[...]
        elif in_pieces or (at := thing.id.get_offset()) is None:  # where nothing was ever written
            arrays[name] = HDF5Array(path, thing)
        else:
            arrays[name] = np.memmap(path, thing.dtype, "r", at, thing.shape)

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return arrays


class HDF5Array:
    """Rows of an open HDF5 data set in chunks, read when they are asked for; h5py lets one thread in at a time."""

    def __init__(self, path: Path, dataset: Any) -> None:
        self.path, self.name, self.shape, self.dtype = path, dataset.name, dataset.shape, dataset.dtype
        # Bytes of the chunks that hold one row: if the cache cannot hold them, each read decompresses anew.
        chunks = dataset.chunks or self.shape
        widths = [math.ceil(whole / part) * part for whole, part in zip(self.shape[1:], chunks[1:], strict=True)]
        num_bytes = chunks[0] * math.prod(widths) * self.dtype.itemsize
        self._cache = max(num_bytes, _LEAST_CACHE) if num_bytes <= _LARGEST_CACHE else _LEAST_CACHE
        self._opened: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, numbers: Any) -> np.ndarray:
        """The rows numbered `numbers` (B,), in that order, repeated ones too; or a slice of them."""
        with readable(self.path):
            if isinstance(numbers, slice) or len(numbers) == 0:
                return self._dataset()[numbers]
            rows, places = np.unique(numbers, return_inverse=True)  # h5py takes increasing numbers only
            first, last = rows[0], rows[-1] + 1
            near = last - first <= _STRETCH * len(rows)
            return (self._dataset()[first:last][rows - first] if near else self._dataset()[rows])[places]

    def _dataset(self) -> Any:
        import h5py  # type: ignore[import-untyped] # noqa: PLC0415 - slow to import

        if self._opened[0] != os.getpid():  # HDF5 does not survive a fork
            file = h5py.File(self.path, "r", rdcc_nbytes=self._cache, rdcc_nslots=_SLOTS)
            self._opened = (os.getpid(), file[self.name])
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": (-1, None)}
