import pytest

from service.api.errors import ApiError
from service.http.route_table import Route, RouteTable, choose

ROUTES = (
    Route("GET", ("/v1/users/{user_id:path}",), scope="admin"),
    Route("DELETE", ("/v1/users/{user_id:path}",), scope="users:delete"),
    Route("POST", ("/v1/recommend", "/recommend"), scope="recommend"),
    Route("GET", ("/metrics",), scope="metrics", private=True),
)


def test_a_route_is_found_by_each_of_its_paths_and_by_what_lies_below() -> None:
    table = RouteTable(ROUTES)
    assert table.at("/recommend", True) == table.at("/v1/recommend", True) == {"POST": ROUTES[2]}
    assert choose(table.at("/v1/users/a/b\n", True), "DELETE", "") is ROUTES[1]
    assert choose(table.at("/v1/users/", True), "HEAD", "") is ROUTES[0]


@pytest.mark.parametrize("path", ["", "/", "/v1/users", "/v1/recommend/", "/v1/recommend\n", "//recommend", "/metrics"])
def test_what_is_not_in_the_table_is_not_there(path: str) -> None:
    with pytest.raises(ApiError) as refused:
        choose(RouteTable(ROUTES).at(path, False), "GET", path)
    assert refused.value.code == "not_found"


def test_another_method_is_not_allowed() -> None:
    with pytest.raises(ApiError) as refused:
        choose(RouteTable(ROUTES).at("/metrics", True), "POST", "/metrics")
    assert refused.value.code == "method_not_allowed"


@pytest.mark.parametrize("value", ["", "a", "a/b", "/", "a\nb", "{user_id}"])
def test_the_parameter_is_all_that_follows_the_prefix(value: str) -> None:
    table = RouteTable(ROUTES)
    assert table.parameters(ROUTES[0], "/v1/users/" + value) == {"user_id": value}
    assert table.parameters(ROUTES[2], "/recommend") == {}
