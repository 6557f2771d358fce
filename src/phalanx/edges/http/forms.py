"""Forms: `multipart/form-data`, taken apart into files and fields."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from phalanx.contract.images import MAX_IMAGES
from phalanx.errors import InvalidRequest

MAX_FORM_FIELDS = 64


class _Parser(MultiPartParser):
    """Knows whether the form came to its end: a part without one is not among those that are returned."""

    has_ended = False

    def on_end(self) -> None:
        self.has_ended = True


async def read_form(data: bytes, headers: dict[bytes, bytes]) -> tuple[list[bytes], dict[str, Any]]:
    """Return the files of a form, in order, and its other fields.

    Raises `InvalidRequest` for one that is damaged or cut short, or names a field twice.
    """

    async def whole() -> Any:
        yield data

    parser = _Parser(
        Headers(raw=list(headers.items())),
        whole(),
        max_files=MAX_IMAGES,
        max_fields=MAX_FORM_FIELDS,
        max_part_size=len(data) + 1,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise InvalidRequest(f"the form cannot be read: {error}") from None
    files: list[bytes] = []
    fields: dict[str, Any] = {}
    try:
        if not parser.has_ended:
            raise InvalidRequest("the form cannot be read: it breaks off before its last boundary")
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.append(await value.read())
            elif name in fields:
                raise InvalidRequest(f"the form names {name!r} twice", param=name)
            else:
                fields[name] = value
    finally:
        await form.close()
    return files, fields
