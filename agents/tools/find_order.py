"""Look up one order of the customer who asks."""

from pydantic import BaseModel

from agents.demo.company import OrderId, company
from agents.tools.base import Effect, ToolContext, ToolNotFound, ToolResult, tool


class FindOrder(BaseModel):
    """Arguments of `find_order`."""

    order_id: OrderId


@tool(effect=Effect.READ, timeout=2.0)
async def find_order(args: FindOrder, ctx: ToolContext) -> ToolResult:
    """Look up one order of this customer: items, total, status, delivery option and estimate. Ask for the number if you do not have it."""
    order = company().order(ctx.customer_id, args.order_id)
    if order is None:
        raise ToolNotFound(f"This customer has no order {args.order_id}. Ask the customer to check the number.")
    return {"order": order.model_dump(mode="json", exclude={"customer_id"})}
