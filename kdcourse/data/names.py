"""The names of classes that the data sets of loaders have, compared."""

from torch.utils.data import ConcatDataset


def check_names(loaders: dict, classes: tuple[str, ...]) -> None:
    """Raise `ValueError` where the data sets number their classes otherwise than each other, or
    than `classes`.

    A data set's names are its attribute `classes`, also inside `Subset`, `ConcatDataset` and other
    wrappers with an attribute `dataset`. Those of a data set with a `target_transform` are not
    compared: its labels are other ones. `classes` may be other words for the same classes: it is
    compared where it shares a name with the data sets, and in its length.
    """
    found = [(part, names) for part, loader in loaders.items()
             for names in _names(getattr(loader, "dataset", None))]
    for part, names in found:
        first, others = found[0]
        if names != others:
            raise ValueError(f"Expected data sets that number their classes alike, "
                             f"{_difference(first, others, part, names)}")
        renamed = len(names) == len(classes) and not set(names) & set(classes)
        if names != list(classes) and not (renamed or _numbers(classes, names)):
            raise ValueError(f"Expected the classes of the data set of {part}, "
                             f"{_difference('classes', list(classes), part, names)}")


def _numbers(classes: tuple[str, ...], names: list[str]) -> bool:
    """Whether `classes` are as many numbers: they were given by their number."""
    return len(classes) == len(names) and classes == tuple(map(str, range(len(names))))


def _names(source) -> list[list[str]]:
    names = getattr(source, "classes", None)
    if isinstance(names, (list, tuple)):
        other = getattr(source, "target_transform", None) is not None
        return [] if other or not names else [list(map(str, names))]
    if isinstance(source, ConcatDataset):
        return [names for part in source.datasets for names in _names(part)]
    inner = getattr(source, "dataset", None)  # of Subset and wrappers
    return [] if inner is None else _names(inner)


def _difference(one: str, names: list[str], other: str, others: list[str]) -> str:
    numbers = range(max(len(names), len(others)))
    at = next(i for i in numbers if names[i : i + 1] != others[i : i + 1])
    said = [repr(some[at]) if at < len(some) else "nothing" for some in (names, others)]
    return (f"got {len(names)} in {one} and {len(others)} in {other}; number {at} is {said[0]} and "
            f"{said[1]}. A folder that lacks a class numbers those after it otherwise: give it an "
            "empty folder of that name (ImageFolder(…, allow_empty=True)). Where labels are "
            "renumbered on purpose, give the data set an attribute classes with their names.")
