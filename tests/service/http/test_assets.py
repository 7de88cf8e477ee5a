"""Files for browsers: compressed where that is taken, and kept for good under an address of their content."""

import gzip
import re

import pytest

from service.api.errors import ApiError
from service.http.assets import AssetSet, takes_gzip

PAGE = b'<!doctype html><script src="x/{{base}}/app.js"></script>' + b" " * 500
SCRIPT = b"export const n = 1;" * 50
FILES = {"index.html": PAGE, "app.js": SCRIPT, "dot.png": b"\x89PNG"}


@pytest.fixture
def assets() -> AssetSet:
    return AssetSet(FILES)


def test_a_page_names_its_files_by_the_digest_of_them_all(assets: AssetSet) -> None:
    body = assets.page("index.html", {}).body
    assert f"x/{assets.digest}/app.js".encode() in body
    assert b"{{base}}" not in body


def test_another_content_has_another_address(assets: AssetSet) -> None:
    assert AssetSet(FILES | {"app.js": SCRIPT + b"\n"}).digest != assets.digest
    assert AssetSet(FILES).digest == assets.digest


def test_a_file_is_kept_for_good_and_a_page_is_asked_for_again(assets: AssetSet) -> None:
    assert assets.file(f"{assets.digest}/app.js", {}).headers["cache-control"] == "public, max-age=31536000, immutable"
    assert assets.page("index.html", {}).headers["cache-control"] == "no-cache"


def test_a_client_that_has_the_page_gets_no_body(assets: AssetSet) -> None:
    tag = assets.page("index.html", {}).headers["etag"]
    again = assets.page("index.html", {b"if-none-match": tag.encode()})
    assert (again.status_code, again.body) == (304, b"")


def test_what_shrinks_is_compressed_for_those_who_take_it(assets: AssetSet) -> None:
    packed = assets.file(f"{assets.digest}/app.js", {b"accept-encoding": b"br, gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == SCRIPT
    assert len(packed.body) < len(SCRIPT)
    for headers in ({}, {b"accept-encoding": b"br"}, {b"accept-encoding": b"gzip;q=0"}):
        assert assets.file(f"{assets.digest}/app.js", headers).body == SCRIPT
    assert "content-encoding" not in assets.file(f"{assets.digest}/dot.png", {b"accept-encoding": b"gzip"}).headers


@pytest.mark.parametrize(
    "path", ["0000000000000000/app.js", "app.js", "", "../index.html", "{}/x.js", "{}/index.html", "{}/../app.js"]
)
def test_a_file_of_another_version_or_none_is_not_found(assets: AssetSet, path: str) -> None:
    with pytest.raises(ApiError) as refused:
        assets.file(path.format(assets.digest), {})
    assert refused.value.code == "not_found"


def test_a_page_may_load_from_this_server_alone_and_run_no_text(assets: AssetSet) -> None:
    policy = assets.page("index.html", {}).headers["content-security-policy"]
    rules = dict(re.findall(r"([a-z-]+) ([^;]+)", policy))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["form-action"] == rules["base-uri"] == "'none'"
    assert "unsafe" not in policy


@pytest.mark.parametrize("offer", [b"gzip", b"GZIP;q=0.5", b"*", b"br, gzip"])
def test_gzip_is_sent_where_it_is_accepted(offer: bytes) -> None:
    assert takes_gzip({b"accept-encoding": offer})


@pytest.mark.parametrize("offer", [b"", b"br", b"gzip; q=0", b"gzip;q=0.0"])
def test_gzip_is_not_sent_where_it_is_not_accepted(offer: bytes) -> None:
    assert not takes_gzip({b"accept-encoding": offer})
