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


def test_a_parameter_may_stand_in_the_middle_of_a_path() -> None:
    one = Route("DELETE", ("/v1/shops/{shop_id:path}",))
    items = Route("POST", ("/v1/shops/{shop_id:path}/items",))
    shop_map = Route("GET", ("/v1/{shop_id:path}/map",))
    table = RouteTable([shop_map, one, items])

    assert table.at("/v1/shops/a/b", True) == {"DELETE": one}
    assert table.at("/v1/shops/a/items", True) == {"POST": items}
    assert table.at("/v1/shops/items", True) == {"DELETE": one}  # nothing stands between the two
    assert table.at("/v1/a/map", True)["GET"] is shop_map
    assert table.at("/v1/map", True) == {}
    assert table.at("/v1/shops/a/map", True) == {"DELETE": one}  # a shop whose id ends so, and no map of the shop "shops/a"
    assert table.parameters(items, "/v1/shops/a/b/items") == {"shop_id": "a/b"}
    assert table.parameters(one, "/v1/shops/a/b") == {"shop_id": "a/b"}
