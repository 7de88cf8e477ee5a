"""The route GET /v1/plan, which plans a training run. It reads no release and asks no model."""

from starlette.requests import Request
from starlette.responses import Response

from service.api.errors import ApiError
from service.api.plans import PlanQuery
from service.http.messages import read_query, reply
from service.http.route_table import Route
from twotower.planning.batch_choice import check_metric
from twotower.planning.memory_needs import to_bytes
from twotower.planning.planner import Ask, plan
from twotower.planning.training_plan import TrainingPlan


class PlanRoutes:
    """Handler of GET /v1/plan."""

    def routes(self) -> tuple[Route, ...]:
        """The route with its handler."""
        return (Route("GET", ("/v1/plan",), self.plan, asks=PlanQuery, gives=TrainingPlan, scope="recommend"),)

    async def plan(self, request: Request) -> Response:
        """GET /v1/plan: what a budget of compute is best spent on. It takes about a millisecond."""
        try:  # a missing or unknown metric is answered with those that there are
            check_metric(request.query_params.get("metric"))
        except ValueError as error:
            raise ApiError("invalid_request", str(error), "metric") from error
        query = read_query(request, PlanQuery)
        try:
            memory = None if query.gpu_memory is None else to_bytes(query.gpu_memory)
        except ValueError as error:
            raise ApiError("invalid_request", str(error), "gpu_memory") from error
        try:
            made = plan(
                Ask(
                    flops=query.flops,
                    metric=query.metric,
                    items=query.items,
                    events=query.events,
                    gpu_memory=memory,
                    rate=query.rate,
                )
            )
        except ValueError as error:
            raise ApiError("invalid_request", str(error)) from error
        return reply(made)
