"""Downloads from a hub that misbehaves in every way we know of."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hub import FILES, Fault, Hub, Remembering, make_pins, write_files
from phalanx.errors import UpstreamFailed
from phalanx.models.catalogue import HubSource, Source, WebSource
from phalanx.models.pins import WrongBytes
from phalanx.models.sources import Access, fetch
from phalanx.models.sources.web import Downloader, is_loopback, require_safe

WEIGHTS = "model.safetensors"
SOURCE = HubSource(repository="org/model", revision="abc123")


def download(source: Source, folder: Path, access: Access, heard: Remembering | None = None) -> None:
    fetch(source, make_pins(FILES), folder, progress=heard or Remembering(), access=access)


def assert_complete(folder: Path) -> None:
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


def test_files_come_from_a_hub_through_its_redirect(
    tmp_path: Path, hub: Hub, access: Access, heard: Remembering
) -> None:
    download(SOURCE, tmp_path, access, heard)
    assert_complete(tmp_path)
    assert [one.server for one in hub.asked] == ["near", "far"] * 2
    assert heard.transfers == [(name, len(data), len(data)) for name, data in FILES.items()]


def test_files_come_from_any_address(tmp_path: Path, hub: Hub, access: Access) -> None:
    download(WebSource(url=hub.files_url), tmp_path, access)
    assert_complete(tmp_path)


def test_members_name_other_paths_at_the_source(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.files["onnx/weights.bin"] = FILES[WEIGHTS]
    source = HubSource(repository="org/model", revision="abc123", members={WEIGHTS: "onnx/weights.bin"})
    download(source, tmp_path, access)
    assert (tmp_path / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_a_cut_connection_is_gone_on_with_by_range(
    tmp_path: Path, hub: Hub, access: Access, pauses: list[float], heard: Remembering
) -> None:
    hub.faults[WEIGHTS] = [Fault(cut_after=1000), Fault(cut_after=900_000)]
    download(SOURCE, tmp_path, access, heard)
    assert_complete(tmp_path)
    asked = [(one.headers.get("Range"), one.headers.get("If-Range")) for one in hub.fetches(WEIGHTS)]
    assert asked == [(None, None), ("bytes=1000-", '"v1"'), ("bytes=900000-", '"v1"')]
    assert len(pauses) == 2
    assert "ended after 1000 of 1024000 bytes" in heard.notes[0]


def test_a_part_of_an_earlier_run_is_gone_on_with(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.faults[WEIGHTS] = [Fault(cut_after=5000)]
    once = Access(hub_endpoint=hub.endpoint, downloader=Downloader(attempts=1))
    with pytest.raises(UpstreamFailed, match="given up after 1 attempts"):
        download(SOURCE, tmp_path, once)
    assert (tmp_path / f"{WEIGHTS}.part").stat().st_size == 5000
    download(SOURCE, tmp_path, access)
    assert_complete(tmp_path)
    assert hub.fetches(WEIGHTS)[-1].headers["Range"] == "bytes=5000-"


@pytest.mark.parametrize("kept", [5000, 1_024_000])
def test_a_damaged_part_of_an_earlier_run_does_not_spoil_the_download(
    tmp_path: Path, hub: Hub, access: Access, heard: Remembering, kept: int
) -> None:
    hub.faults[WEIGHTS] = [Fault(cut_after=5000)]
    with pytest.raises(UpstreamFailed):
        download(SOURCE, tmp_path, Access(hub_endpoint=hub.endpoint, downloader=Downloader(attempts=1)))
    (tmp_path / f"{WEIGHTS}.part").write_bytes(b"\0" * kept)
    download(SOURCE, tmp_path, access, heard)
    assert_complete(tmp_path)
    assert "beginning anew" in heard.notes[0]


def test_a_changed_file_is_begun_anew_instead_of_spliced(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.faults[WEIGHTS] = [Fault(cut_after=5000)]
    hub.files[WEIGHTS] = b"?" * len(FILES[WEIGHTS])
    hub.linked = {"X-Linked-Etag": ""}
    with pytest.raises(UpstreamFailed):
        download(SOURCE, tmp_path, Access(hub_endpoint=hub.endpoint, downloader=Downloader(attempts=1)))
    hub.files[WEIGHTS], hub.etag = FILES[WEIGHTS], '"v2"'
    download(SOURCE, tmp_path, access)
    assert_complete(tmp_path)


def test_a_part_of_another_address_is_begun_anew(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.faults[WEIGHTS] = [Fault(cut_after=5000)]
    with pytest.raises(UpstreamFailed):
        download(SOURCE, tmp_path, Access(hub_endpoint=hub.endpoint, downloader=Downloader(attempts=1)))
    download(WebSource(url=hub.files_url), tmp_path, access)
    assert_complete(tmp_path)
    assert "Range" not in hub.fetches(WEIGHTS)[-1].headers


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
def test_without_a_strong_validator_a_cut_download_is_begun_anew(
    tmp_path: Path, hub: Hub, access: Access, etag: str | None
) -> None:
    hub.etag = etag
    hub.faults[WEIGHTS] = [Fault(cut_after=1000)]
    download(SOURCE, tmp_path, access)
    assert_complete(tmp_path)
    assert all("Range" not in one.headers for one in hub.fetches(WEIGHTS))


def test_a_server_that_ignores_ranges_sends_all_again(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.ranges = False
    hub.faults[WEIGHTS] = [Fault(cut_after=1000)]
    download(SOURCE, tmp_path, access)
    assert_complete(tmp_path)


def test_another_range_than_asked_for_is_not_appended(tmp_path: Path, hub: Hub, access: Access) -> None:
    wrong = {"Content-Range": f"bytes 0-{len(FILES[WEIGHTS]) - 1}/{len(FILES[WEIGHTS])}"}
    hub.faults[WEIGHTS] = [Fault(cut_after=1000), Fault(headers=wrong)]
    download(SOURCE, tmp_path, access)
    assert_complete(tmp_path)


def test_a_range_that_cannot_be_satisfied_is_begun_anew(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.faults[WEIGHTS] = [Fault(cut_after=1000), Fault(status=416)]
    download(SOURCE, tmp_path, access)
    assert_complete(tmp_path)


def test_busy_servers_are_asked_again_after_what_they_say(
    tmp_path: Path, hub: Hub, access: Access, pauses: list[float]
) -> None:
    hub.faults[WEIGHTS] = [Fault(status=503, headers={"Retry-After": "7"}), Fault(status=429)]
    download(SOURCE, tmp_path, access)
    assert_complete(tmp_path)
    assert pauses[0] == 7
    assert 0.5 < pauses[1] < 1.5


def test_a_server_that_stays_busy_is_given_up(tmp_path: Path, hub: Hub, access: Access, pauses: list[float]) -> None:
    hub.faults[WEIGHTS] = [Fault(status=500) for _ in range(9)]
    with pytest.raises(UpstreamFailed, match=r"answered 500 .* given up after 3 attempts"):
        download(SOURCE, tmp_path, access)
    assert len(pauses) == 2


def test_progress_resets_the_count_of_attempts(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.faults[WEIGHTS] = [Fault(cut_after=100 * turn) for turn in range(1, 9)]
    download(SOURCE, tmp_path, access)
    assert_complete(tmp_path)


def test_a_closed_port_is_reported_with_its_address(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.close()
    with pytest.raises(UpstreamFailed, match=r"127\.0\.0\.1:\d+ cannot be reached"):
        download(SOURCE, tmp_path, access)


def test_a_missing_file_is_final(tmp_path: Path, hub: Hub, access: Access, pauses: list[float]) -> None:
    del hub.files["config.json"]
    with pytest.raises(UpstreamFailed, match=r"answered 404 \(EntryNotFound\) for config\.json"):
        download(SOURCE, tmp_path, access)
    assert pauses == []


@pytest.mark.parametrize(("token", "had"), [(None, "no token was sent"), ("bad", "the token sent does not open it")])
def test_a_gated_model_says_what_to_do(tmp_path: Path, hub: Hub, token: str | None, had: str) -> None:
    hub.token = "good"
    with pytest.raises(UpstreamFailed, match=f"Access to org/model is restricted.*{had}"):
        download(SOURCE, tmp_path, Access(hub_endpoint=hub.endpoint, hub_token=token))


def test_a_token_opens_a_gated_model_and_stays_with_the_hub(tmp_path: Path, hub: Hub) -> None:
    hub.token = "good"
    access = Access(hub_endpoint=hub.endpoint, hub_token="good")
    download(SOURCE, tmp_path, access)
    assert_complete(tmp_path)
    assert {"Authorization" in one.headers for one in hub.asked if one.server == "far"} == {False}
    assert "good" not in repr(access)


def test_a_wrong_byte_is_refused_with_both_digests(tmp_path: Path, hub: Hub, access: Access) -> None:
    wrong = b"!" + FILES[WEIGHTS][1:]
    hub.files[WEIGHTS] = wrong
    hub.linked = {"X-Linked-Etag": '"0123456789012345678901234567890123456789"'}
    with pytest.raises(WrongBytes) as refusal:
        download(SOURCE, tmp_path, access)
    for part in (WEIGHTS, hashlib.sha256(wrong).hexdigest(), make_pins(FILES)[WEIGHTS].sha256):
        assert part in refusal.value.detail
    assert not list(tmp_path.glob("*.part"))


def test_a_digest_announced_by_the_hub_is_refused_before_the_download(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.linked = {"X-Linked-Etag": f'"{"0" * 64}"'}
    with pytest.raises(WrongBytes, match="has sha256 000"):
        download(SOURCE, tmp_path, access)
    assert hub.fetches(WEIGHTS) == []


def test_a_size_announced_by_the_hub_is_refused_before_the_download(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.linked = {"X-Linked-Size": "5"}
    with pytest.raises(WrongBytes, match="has 5 bytes, not 1024000"):
        download(SOURCE, tmp_path, access)
    assert hub.fetches(WEIGHTS) == []


def test_a_page_of_another_length_is_refused_unread(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.files[WEIGHTS] = b"<html>captive portal</html>"
    with pytest.raises(WrongBytes, match="has 27 bytes, not 1024000"):
        download(WebSource(url=hub.files_url), tmp_path, access)


def test_plain_http_is_for_loopback_only(tmp_path: Path, hub: Hub, access: Access) -> None:
    with pytest.raises(UpstreamFailed, match=r"http://example\.org is refused; use https"):
        download(WebSource(url="http://example.org/m"), tmp_path, access)
    hub.linked = {"Location": "http://example.org/m"}
    with pytest.raises(UpstreamFailed, match=r"http://example\.org is refused"):
        download(SOURCE, tmp_path, access)


def test_a_redirect_to_a_local_file_is_refused(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.linked = {"Location": "file:///etc/hostname"}
    with pytest.raises(UpstreamFailed):
        download(SOURCE, tmp_path, access)
    assert not (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://localhost/", "http://[::1]:8/", "https://a.org"])
def test_safe_addresses(url: str) -> None:
    require_safe(url)


@pytest.mark.parametrize("url", ["http://127.evil.org/", "http://localhost.evil.org", "ftp://127.0.0.1/", "file:///x"])
def test_unsafe_addresses(url: str) -> None:
    assert not is_loopback(url) or not url.startswith("http:")
    with pytest.raises(UpstreamFailed, match="refused"):
        require_safe(url)


def test_files_that_are_there_are_not_touched_by_a_failure(tmp_path: Path, hub: Hub, access: Access) -> None:
    write_files(tmp_path, {"other.bin": b"x"})
    hub.faults[WEIGHTS] = [Fault(status=500) for _ in range(9)]
    with pytest.raises(UpstreamFailed):
        download(SOURCE, tmp_path, access)
    assert (tmp_path / "other.bin").read_bytes() == b"x"
