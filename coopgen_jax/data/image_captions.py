"""Images and their captions: a table with a caption a row, or JSON in COCO's form.

What cannot be used is left out, counted and named: a caption without image, an empty caption, an
image whose file is missing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coopgen_jax.data.sources import Row, read_rows
from coopgen_jax.errors import UserError
from coopgen_jax.files import read_text
from coopgen_jax.tokenizer import has_half_character


@dataclass(frozen=True)
class ImageCaptions:
    """Images and captions, in the order of the file.

    Attributes:
      captions: by image, a file's name or a number as a string, its captions, one or more.
      broken: what is wrong with what was left out, a sentence each.
    """

    captions: dict[str, tuple[str, ...]]
    broken: tuple[str, ...] = ()


def read_image_captions(
    where: str | Path,
    *,
    image: str = "image",
    caption: str = "caption",
    folder: Path | None = None,
    empty: bool = False,
) -> ImageCaptions:
    """Reads images and captions.

    Args:
      where: a .csv, .tsv or .jsonl file with a caption a row; or a .json file in COCO's form, an
        object with "images" (each with "id" and "file_name") and "annotations" (each with
        "image_id" and "caption"), or a list of the latter, whose images are then called by number;
        or a .json file of `coopgen caption`, an object with "captions" (each with "image" and
        "caption").
      image: the column of the images.
      caption: the column of the captions.
      folder: where the images are; None not to look for them.
      empty: whether empty captions are kept, as of captions that a model wrote.

    Raises:
      UserError: the file cannot be read, has no such columns, or holds no sound caption.
    """
    path = Path(where).expanduser()
    if path.suffix.lower() == ".json":
        rows = _coco(path)
    else:
        columns, found = read_rows(path)
        for column in (image, caption):
            if column not in columns:
                raise UserError(
                    f"{path} has no column {column!r}, only {', '.join(columns)}: it needs one of "
                    "images and one of captions"
                )
        rows = (_row_of(row, image, caption) for row in found)
    captions: dict[str, list[str]] = {}
    broken = []
    for row in rows:
        fault = _fault(row, empty)
        if fault:
            broken.append(f"{row.place}: {fault}")
            continue
        captions.setdefault(str(row.values["image"]), []).append(row.values["caption"].strip())
    if folder is not None:
        for name in [name for name in captions if not _is_there(folder / name)]:
            broken.append(f"{name}: there is no such file in {folder}")
            del captions[name]
    if not captions:
        first = f" ({broken[0]})" if broken else ""
        raise UserError(f"{path} holds no sound caption of an image{first}")
    return ImageCaptions({name: tuple(own) for name, own in captions.items()}, tuple(broken))


def _is_there(path: Path) -> bool:
    """Returns whether there is a file, False also of what can be no name of one."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_number_or_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _row_of(row: Row, image: str, caption: str) -> Row:
    values = {"image": row.values.get(image), "caption": row.values.get(caption)}
    return replace(row, values=values)


def _fault(row: Row, empty: bool) -> str | None:
    """Returns what is wrong with a caption, None where nothing is."""
    if row.fault is not None:
        return row.fault
    image, caption = row.values["image"], row.values["caption"]
    if not _is_number_or_name(image) or not str(image).strip():
        return "a caption without image"
    if not isinstance(caption, str):
        return "no caption that is a string"
    if has_half_character(caption) or has_half_character(str(image)):
        return "half a character"
    return "an empty caption" if not caption.strip() and not empty else None


def _coco(path: Path) -> Iterator[Row]:
    """Yields the captions of a JSON file in COCO's form, or in that of `coopgen caption`."""
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error})") from error
    kind = "annotation"
    if isinstance(found, dict) and "annotations" not in found and "captions" in found:
        found, kind = found["captions"], "caption"
    listed = found.get("annotations") if isinstance(found, dict) else found
    images = found.get("images") if isinstance(found, dict) else []
    if not isinstance(listed, list) or not isinstance(images, list):
        raise UserError(
            f'{path} is not in COCO\'s form: give an object with "images" and "annotations", or '
            'a list of captions with "image_id"'
        )
    names = {
        one["id"]: one["file_name"]
        for one in images
        if isinstance(one, dict)
        and _is_number_or_name(one.get("id"))
        and isinstance(one.get("file_name"), str)
    }
    named = isinstance(found, dict)
    for number, one in enumerate(listed, start=1):
        place = f"{kind} {number}"
        if not isinstance(one, dict):
            yield Row(place, {}, "no JSON object")
            continue
        image: Any = one.get("image_id", one.get("image"))
        if named:
            image = names.get(image) if _is_number_or_name(image) else None
        yield Row(place, {"image": image, "caption": one.get("caption")})
