"""The routes GET /v1/users, and GET and DELETE /v1/users/{id}."""

from starlette.requests import Request
from starlette.responses import Response

from service.api import schemas
from service.api.catalogue import ListedUser, ListUsersQuery, ListUsersResponse
from service.http.messages import path_id, read_query, reply
from service.http.route_table import Route
from service.routes.context import Context
from service.routes.listings import describe


class UserRoutes:
    """Handlers of GET /v1/users, and of GET and DELETE /v1/users/{id}."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> tuple[Route, ...]:
        """The routes with their handlers."""
        path = "/v1/users/{user_id:path}"
        return (
            Route("GET", ("/v1/users",), self.users, asks=ListUsersQuery, gives=ListUsersResponse, scope="admin"),
            Route("GET", (path,), self.user, gives=schemas.UserResponse, scope="admin"),
            Route("DELETE", (path,), self.delete_user, gives=schemas.DeletedResponse, scope="users:delete"),
        )

    async def users(self, request: Request) -> Response:
        """GET /v1/users: users whose histories are stored, in the order of their ids; null if the store cannot list them."""
        query, histories = read_query(request, ListUsersQuery), self._context.histories
        listed = await histories.confirmed("list", histories.store.list_users(query.after or "", query.prefix, query.limit + 1))
        if listed is None:
            return reply(ListUsersResponse(users=None, more=False))
        users = [ListedUser(user_id=user_id, num_events=count) for user_id, count in listed[: query.limit]]
        return reply(ListUsersResponse(users=users, more=len(listed) > query.limit))

    async def user(self, request: Request) -> Response:
        """GET /v1/users/{id}: all that is stored about a user. An unknown user has an empty history."""
        user_id, histories = path_id(request, "user_id"), self._context.histories
        history = await histories.confirmed("read", histories.store.read(user_id))
        return reply(describe(user_id, history))

    async def delete_user(self, request: Request) -> Response:
        """DELETE /v1/users/{id}: delete the stored history, and the cached states of the user in all releases."""
        user_id, histories = path_id(request, "user_id"), self._context.histories
        count = await histories.confirmed("delete", histories.store.delete(user_id))
        for release in self._context.served.now.releases:
            await self._context.calls.forget(release, ("user", user_id))
        self._context.follow_ups.forget(user_id)
        return reply(schemas.DeletedResponse(user_id=user_id, deleted_events=count))
