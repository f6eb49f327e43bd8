"""Ask for an order's money back."""

from hashlib import sha256

from pydantic import BaseModel, Field

from agents.demo.company import OrderId, company
from agents.tools.base import Effect, ToolContext, ToolError, ToolNotFound, ToolResult, tool


class OrderNotRefundable(ToolError):
    """Nothing of this order is left to be paid back."""

    code = "order_not_refundable"


class OpenRefundRequest(BaseModel):
    """Arguments of `open_refund_request`."""

    order_id: OrderId
    reason: str = Field(min_length=3, max_length=500, description="Why the customer wants the money back, in the customer's words.")


@tool(effect=Effect.IRREVERSIBLE, timeout=5.0)
async def open_refund_request(args: OpenRefundRequest, ctx: ToolContext) -> ToolResult:
    """Open a refund request for one order of this customer. A human approves it first. Look the order up with find_order before."""
    order = company().order(ctx.customer_id, args.order_id)
    if order is None:
        raise ToolNotFound(f"This customer has no order {args.order_id}. Ask the customer to check the number.")
    if order.status in ("cancelled", "refunded"):
        raise OrderNotRefundable(f"Order {order.id} is already {order.status}. Tell the customer so.")
    return {
        # Made from the key, so that the same request sent twice is one request.
        "request_id": f"RR-{sha256(ctx.idempotency_key.encode()).hexdigest()[:8].upper()}",
        "status": "submitted",
        "order_id": order.id,
        "amount_eur": order.total_eur,
        "reason": args.reason,
    }
