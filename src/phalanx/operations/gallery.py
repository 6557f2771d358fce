"""Rows about galleries: faces that are enrolled, found again, and forgotten."""

from __future__ import annotations

from phalanx.contract import gallery
from phalanx.operations.row import Body, Operation

IMAGE_NAMES = {"url": "image", "collection": "name"}

GALLERY: tuple[Operation, ...] = (
    Operation(
        name="faces.enrol", request=gallery.EnrolRequest, response=gallery.EnrolResponse, scope="faces", unit="image",
        http="POST /v1/collections/{name}/faces", grpc="Faces/Enrol", job=True, computed=True,
        job_names={**IMAGE_NAMES, "user_id": "person_id"},
        bodies=(Body.JSON, Body.IMAGE), run=lambda s, t, r: s.gallery.enrol(t, r),
        summary="Keep a face as a person's.",
    ),
    Operation(
        name="faces.reembed", request=gallery.ReembedFacesRequest, response=gallery.ReembedFacesResponse, scope="faces",
        http="POST /v1/collections/{name}/faces/reembed", grpc="Faces/Reembed", computed=True, metered=False,
        bodies=(Body.JSON, Body.IMAGE), run=lambda s, t, r: s.face_reembedding.carry(t, r),
        summary="Bring an image of enrolled faces, while their gallery moves to another network.",
    ),
    Operation(
        name="faces.identify", request=gallery.IdentifyRequest, response=gallery.IdentifyResponse, scope="faces",
        unit="image", http="POST /v1/collections/{name}/identify", grpc="Faces/Identify", job=True, computed=True,
        job_names=IMAGE_NAMES,
        bodies=(Body.JSON, Body.IMAGE), run=lambda s, t, r: s.gallery.identify(t, r),
        summary="Say which of the enrolled persons it is.",
    ),
    Operation(
        name="faces.persons", request=gallery.ListPersonsRequest, response=gallery.ListPersonsResponse, scope="faces",
        http="GET /v1/collections/{name}/persons", grpc="Faces/Persons", bodies=(Body.NONE,),
        run=lambda s, t, r: s.gallery.persons(t, r), summary="List the persons of a gallery.",
    ),
    Operation(
        name="faces.person", request=gallery.PersonRequest, response=gallery.PersonResponse, scope="faces",
        http="GET /v1/collections/{name}/persons/{id}", grpc="Faces/Person", bodies=(Body.NONE,),
        run=lambda s, t, r: s.gallery.person(t, r), summary="Show the faces of a person.",
    ),
    Operation(
        name="faces.forget", request=gallery.ForgetPersonRequest, response=gallery.ForgetPersonResponse, scope="faces",
        http="DELETE /v1/collections/{name}/persons/{id}", grpc="Faces/Forget", bodies=(Body.NONE,),
        run=lambda s, t, r: s.gallery.forget(t, r), summary="Forget a person entirely.",
    ),
)  # fmt: skip
