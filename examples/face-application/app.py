"""A small face application: it keeps people with their faces in a folder, and asks Phalanx for all that is computed.

    phalanx serve                                            # all four services, or each alone on its own port
    python app.py enrol eileen portrait.jpg                  # find the face, embed it, keep vector and thumbnail
    python app.py identify party.jpg                         # who is on a picture
    python app.py compare one.jpg two.jpg                    # whether two pictures show one person
    python app.py serve                                      # the same as a web page, on port 8080

FACE_DETECTION_URL, FACE_EMBEDDING_URL, IMAGE_PROCESSING_URL and SIMILARITY_URL say where the services are (PHALANX_URL where
all are one worker, by default http://127.0.0.1:8000), PHALANX_KEY is sent as the key, PEOPLE is the folder. Needs nothing
but Python. Where faces are many, a collection of Phalanx keeps and searches them better: docs/faces.md.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ALL = os.environ.get("PHALANX_URL", "http://127.0.0.1:8000")
SERVICES = {
    name: os.environ.get(f"{name.upper().replace('-', '_')}_URL", ALL)
    for name in ("face-detection", "face-embedding", "image-processing", "similarity")
}
PEOPLE = Path(os.environ.get("PEOPLE", "people"))
THUMBNAIL, MAX_UPLOAD = 160, 10 * 2**20


class Refused(Exception):
    """What a service did not do, in its own words, or what was typed wrong."""


def ask(service: str, path: str, body: dict[str, Any]) -> Any:
    """Ask a service. Raises `Refused`."""
    request = urllib.request.Request(  # noqa: S310  the operator names the address
        SERVICES[service] + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    if key := os.environ.get("PHALANX_KEY"):
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Refused(json.load(error)["error"]["message"]) from None
    except OSError as error:
        raise Refused(f"{service} at {SERVICES[service]} does not answer: {error}") from None


def faces_of(image: str) -> list[dict[str, Any]]:
    """Return the faces of a picture in base64, from left to right, each with its vector and what it is compared by."""
    seen = ask("face-detection", "/api/detect-face", {"image": image})
    if not seen["faces"]:
        return []
    known = ask("face-embedding", "/api/extract-embedding", {"image": image, "face": "all"})
    facts = {name: known[name] for name in ("model", "metric", "threshold")}
    return [{**face, **facts, "size": (seen["width"], seen["height"])} for face in known["faces"]]


def largest(image: str) -> dict[str, Any]:
    """Return the largest face. Raises `Refused` where there is none."""
    if not (faces := faces_of(image)):
        raise Refused("no face is on the picture")
    return max(faces, key=lambda face: face["bbox"]["width"] * face["bbox"]["height"])


def thumbnail(image: str, face: dict[str, Any]) -> bytes:
    """Return a face as a square JPEG, with something of what is around it."""
    box, (width, height) = face["bbox"], face["size"]
    side = min(1.6 * max(box["width"], box["height"]), width, height)
    left = min(max(0, box["x"] + box["width"] / 2 - side / 2), width - side)
    top = min(max(0, box["y"] + box["height"] / 2 - side / 2), height - side)
    crop = {"x": int(left), "y": int(top), "width": int(side), "height": int(side)}
    steps = [{"crop": crop}, {"resize": {"width": THUMBNAIL, "height": THUMBNAIL}}, {"convert": {"format": "jpeg"}}]
    made = ask("image-processing", "/api/process-image", {"image": image, "operations": steps})
    return base64.b64decode(made["image"])


def enrol(person: str, picture: bytes) -> dict[str, Any]:
    """Keep a person's face. Raises `Refused`."""
    if not re.fullmatch(r"[\w-]{1,60}", person):
        raise Refused("a person's name is of letters, digits, _ and -")
    image = base64.b64encode(picture).decode()
    face = largest(image)
    PEOPLE.mkdir(parents=True, exist_ok=True)
    (PEOPLE / f"{person}.jpg").write_bytes(thumbnail(image, face))
    record = {"person": person, **{name: face[name] for name in ("embedding", "model")}}
    (PEOPLE / f"{person}.json").write_text(json.dumps(record))
    return {"person": person, "quality": face["quality"]}


def identify(picture: bytes) -> list[dict[str, Any]]:
    """Return who is on a picture: of each face the nearest person, None where nobody is near enough."""
    known = [json.loads(path.read_text()) for path in sorted(PEOPLE.glob("*.json"))]
    found = []
    for face in faces_of(base64.b64encode(picture).decode()):
        person, score = None, None
        # Vectors of another model cannot be compared: such people must be enrolled anew.
        if people := [one for one in known if one["model"] == face["model"]]:
            asked = {"query": face["embedding"], "candidates": [one["embedding"] for one in people]}
            asked |= {"top_k": 1, "metric": face["metric"]}
            (match,) = ask("similarity", "/api/calculate-similarity", asked)["matches"]
            score = match["score"]
            person = people[match["index"]]["person"] if is_same(face, score) else None
        found.append({"person": person, "score": score, "bbox": face["bbox"]})
    return found


def compare(one: bytes, other: bytes) -> dict[str, Any]:
    """Return whether the largest faces of two pictures are one person's."""
    first, second = (largest(base64.b64encode(picture).decode()) for picture in (one, other))
    asked = {"a": first["embedding"], "b": second["embedding"], "metric": first["metric"]}
    score = ask("similarity", "/api/calculate-similarity", asked)["similarity"]
    return {"same": is_same(first, score), "score": score, "threshold": first["threshold"]}


def is_same(face: dict[str, Any], score: float) -> bool:
    """Whether a score stands for one person: a distance is small, a cosine large."""
    return bool(score <= face["threshold"] if face["metric"] == "euclidean" else score >= face["threshold"])


class Page(BaseHTTPRequestHandler):
    """The application in a browser: people with their thumbnails, and two forms that send a picture as it is."""

    def do_GET(self) -> None:
        """Show the page, or a thumbnail."""
        if match := re.fullmatch(r"/thumbnails/([\w-]{1,60})\.jpg", self.path):
            path = PEOPLE / f"{match[1]}.jpg"
            self.answer(200, "image/jpeg", path.read_bytes()) if path.is_file() else self.answer(404, "text/plain", b"")
            return
        people = "".join(
            f'<figure><img src="/thumbnails/{path.stem}.jpg" alt=""><figcaption>{html.escape(path.stem)}</figcaption></figure>'
            for path in sorted(PEOPLE.glob("*.jpg"))
        )
        self.answer(200, "text/html; charset=utf-8", PAGE.replace("PEOPLE", people).encode())

    def do_POST(self) -> None:
        """Enrol or identify the picture that is the body."""
        url = urllib.parse.urlsplit(self.path)
        size = int(self.headers.get("Content-Length") or 0)
        if not 0 < size <= MAX_UPLOAD:
            self.answer(413, "application/json", b'{"error": "send a picture of at most 10 MiB"}')
            return
        picture, asked = self.rfile.read(size), urllib.parse.parse_qs(url.query)
        try:
            done = enrol(asked.get("person", [""])[0], picture) if url.path == "/enrol" else identify(picture)
            self.answer(200, "application/json", json.dumps(done).encode())
        except Refused as error:
            self.answer(422, "application/json", json.dumps({"error": str(error)}).encode())

    def answer(self, status: int, kind: str, body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


PAGE = """<!doctype html><meta charset="utf-8"><title>Faces</title>
<style>body{font:16px system-ui;margin:2rem}figure{display:inline-block;margin:.5rem}img{border-radius:8px}</style>
<h1>Faces</h1><p><input type="file" id="file"> <input id="person" placeholder="name"> <button onclick="send('/enrol?person='+
encodeURIComponent(person.value))">Enrol</button> <button onclick="send('/identify')">Who is it?</button></p><pre id="said"></pre>
<div>PEOPLE</div><script>async function send(path){const answer=await fetch(path,{method:'POST',body:file.files[0]});
said.textContent=JSON.stringify(await answer.json(),null,1);if(path!='/identify'&&answer.ok)location.reload()}</script>"""


def main(words: list[str]) -> int:
    """Do what was typed; return the exit status."""
    try:
        match words:
            case ["serve", *port]:
                with ThreadingHTTPServer(("127.0.0.1", int(*port) if port else 8080), Page) as server:
                    sys.stderr.write(f"http://127.0.0.1:{server.server_port}/\n")
                    server.serve_forever()
            case ["enrol", person, picture]:
                done: Any = enrol(person, Path(picture).read_bytes())
            case ["identify", picture]:
                done = identify(Path(picture).read_bytes())
            case ["compare", one, other]:
                done = compare(Path(one).read_bytes(), Path(other).read_bytes())
            case _:
                raise Refused(__doc__)
    except (Refused, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(done, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
