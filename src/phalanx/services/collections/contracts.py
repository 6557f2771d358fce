"""What a collection's vectors mean, as it is pinned to the collection, and whether the models that serve now still mean that."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from phalanx.contract.collections import (
    Contract,
    CreateCollectionRequest,
    FacesContract,
    TextsContract,
    VectorsContract,
)
from phalanx.errors import ContractMismatch, InvalidRequest, ModelNotFound, PhalanxError, Unavailable
from phalanx.services.serving.face_models import FaceModels, ServedDetector, ServedEmbedder
from phalanx.services.serving.text_models import ModelRegistry, ServedText

QUERY_PROMPTS = ("query",)
DOCUMENT_PROMPTS = ("document", "passage")

_DECODER = msgspec.json.Decoder(Contract)


def encode_contract(contract: Contract) -> str:
    """Return a contract as a record keeps it."""
    return msgspec.json.encode(contract).decode()


def decode_contract(text: str) -> Contract:
    """Return the contract of a record."""
    contract: Contract = _DECODER.decode(text)
    return contract


def texts_contract(served: ServedText) -> TextsContract:
    """Return what vectors of a text model are pinned to."""
    spec = served.model.spec
    return TextsContract(
        model=spec.name, version=spec.version, sha256=spec.sha256, dimensions=spec.dimensions, pooling=spec.pooling,
        max_tokens=spec.max_tokens, document_prompt=_first(DOCUMENT_PROMPTS, spec.prompts),
        query_prompt=_first(QUERY_PROMPTS, spec.prompts),
    )  # fmt: skip


def faces_contract(embedder: ServedEmbedder, detector: ServedDetector) -> FacesContract:
    """Return what vectors of faces are pinned to."""
    spec = embedder.embedder.spec
    return FacesContract(
        model=spec.name, version=spec.version, sha256=spec.sha256, dimensions=spec.dimensions, template=spec.template,
        metric=spec.metric, threshold=spec.threshold, detector=detector.name, detector_version=detector.version,
        preprocessing=spec.preprocessing,
    )  # fmt: skip


class Contracts:
    """The contracts that the models of this worker stand for."""

    def __init__(self, texts: ModelRegistry, faces: FaceModels) -> None:
        self._texts = texts
        self._faces = faces

    def asked(self, request: CreateCollectionRequest) -> Contract:
        """Return the contract that a new collection is to have.

        Raises `InvalidRequest` for fields that do not go with its kind, `ModelNotFound`, `Unavailable`.
        """
        if request.detector is not None and request.kind != "faces":
            raise InvalidRequest("detector goes with faces only", param="detector")
        if request.kind == "vectors":
            if request.model is not None:
                raise InvalidRequest("model does not go with vectors: they are the caller's own", param="model")
            if request.dimensions is None:
                raise InvalidRequest("dimensions is missing: a collection of vectors has them", param="dimensions")
            return VectorsContract(dimensions=request.dimensions, metric=request.metric or "cosine")
        for name in ("dimensions", "metric"):
            if getattr(request, name) is not None:
                said = f"{name} goes with vectors only; {request.kind} have that of their model"
                raise InvalidRequest(said, param=name)
        if request.kind == "texts":
            return self.texts(request.model)
        return self.faces(request.model, request.detector)

    def texts(self, model: str | None = None, version: str | None = None) -> TextsContract:
        """Return the contract of a text model that serves now, or of the default, in a version or that with most weight.

        Raises `ModelNotFound`, `Unavailable`.
        """
        served = self._texts.text(model) if version is None else self._texts.exact(model, version)
        return texts_contract(served)

    def serving(self, name: str, pinned: TextsContract) -> ServedText:
        """Return the model that a collection of texts is pinned to.

        Raises `ContractMismatch` when it does not serve, `Unavailable` while it is loading.
        """
        try:
            served = self._texts.exact(pinned.model, pinned.version)
        except ModelNotFound:
            raise mismatch(name, pinned, None) from None
        except Unavailable:
            # Another version serves, or none does yet.
            served = self._texts.text(pinned.model)
        require_same(name, pinned, texts_contract(served))
        return served

    def faces(self, model: str | None = None, detector: str | None = None, version: str | None = None) -> FacesContract:
        """Return the contract of a face model and a detector that serve now, or of the defaults.

        Raises `InvalidRequest` for an unknown detector, `ModelNotFound`, `Unavailable`.
        """
        embedders = self._faces.embedders
        embedder = embedders.heaviest(model) if version is None else embedders.exact(model, version)
        return faces_contract(embedder, self._faces.detector(wanted=detector))

    def has_detector(self, name: str) -> bool:
        """Whether the worker has a face detector of that name."""
        return self._faces.detectors.find(name) is not None

    def has_faces(self, pinned: FacesContract) -> bool:
        """Whether the models that a contract names serve now."""
        try:
            embedder = self._faces.embedders.exact(pinned.model, pinned.version)
            detector = self._faces.detectors.exact(pinned.detector, pinned.detector_version)
            require_same("", pinned, faces_contract(embedder, detector))
        except PhalanxError:
            return False
        return True


def require_same(name: str, pinned: Contract, serving: Contract) -> None:
    """Raise `ContractMismatch` when a collection is pinned to another contract than the one that serves now.

    The threshold that a collection of faces has is its own.
    """
    if isinstance(pinned, FacesContract) and isinstance(serving, FacesContract):
        serving = msgspec.structs.replace(serving, threshold=pinned.threshold)
    if pinned != serving:
        raise mismatch(name, pinned, serving)


def mismatch(name: str, pinned: Contract, serving: Contract | None) -> ContractMismatch:
    """Word that a collection is pinned to another contract than the one that serves now, None being none."""
    if serving is None:
        said = f"is pinned to the model {getattr(pinned, 'model', '')!r}, which this worker does not serve"
    else:
        differing = ", ".join(_differences(pinned, serving))
        said = f"is pinned to another contract than the model that serves now has ({differing})"
    if isinstance(pinned, FacesContract):
        mend = f"`phalanx collections reembed {name} --images FOLDER` moves it, given the images, of which only the digests are kept"
    else:
        mend = f"`phalanx collections reembed {name}` moves it to the model that serves, while it goes on answering"
    return ContractMismatch(f"the collection {name!r} {said}; {mend}")


def _differences(pinned: Contract, serving: Contract) -> Iterable[str]:
    for field in pinned.__struct_fields__:
        was, now = getattr(pinned, field), getattr(serving, field, None)
        if was != now:
            yield f"{field} {_short(was)}, now {_short(now)}"


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 40 else text


def _first(names: Iterable[str], there: Iterable[str]) -> str | None:
    known = set(there)
    return next((name for name in names if name in known), None)
