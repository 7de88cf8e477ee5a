"""The page of a map as text. A browser opens it in tests/service/playground/test_map.py."""

import base64
import gzip
import json
import re

from service.release.map_page import code, map_page


def test_the_page_holds_the_map_and_every_title_and_asks_nobody() -> None:
    body = gzip.compress(b"TTM1")
    page = map_page("Tea <shop>", "release-1", body, [("1", "Green tea"), ("2", None)])
    constants = dict(re.findall(r'^const (MAP|ITEMS|RELEASE) = "(.*)";$', page, re.MULTILINE))
    assert base64.b64decode(constants["MAP"]) == body
    assert json.loads(gzip.decompress(base64.b64decode(constants["ITEMS"]))) == [["1", "Green tea"], ["2", None]]
    assert constants["RELEASE"] == "release-1"
    assert "<h1>Tea &lt;shop&gt;</h1>" in page
    page = page.replace("http://www.w3.org/2000/svg", "")  # the name of a kind of elements, which nobody asks
    assert re.findall(r'(?:src|href)="|https?://', page) == []


def test_the_modules_are_joined_to_one() -> None:
    assert not re.search(r"^(import|export) ", code(), re.MULTILINE)
    assert "function mountMap(" in code()


def test_a_name_that_would_end_the_script_does_not() -> None:
    page = map_page("shop", "</script><b>", b"", [])
    assert page.count("</script>") == 1
