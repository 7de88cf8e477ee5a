"""Query of GET /v1/plan. The answer is the plan itself, `twotower.planning.training_plan.TrainingPlan`."""

import msgspec


class PlanQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query parameters of GET /v1/plan, which plans a training run. The answer needs no model and is of no release."""

    flops: float  # training compute to spend, such as 1e18
    metric: str  # the metric that you serve, such as ndcg@10
    items: float | None = None  # items of the catalogue
    events: float | None = None  # training events that there are, repeats not counted
    gpu_memory: str | None = None  # memory of one device, such as 80GB
    rate: float | None = None  # FLOPs that your hardware does in a second of training
