"""Read the account of the customer who asks."""

from pydantic import BaseModel

from agents.demo.company import company
from agents.tools.base import Effect, ToolContext, ToolNotFound, ToolResult, tool


class GetCustomer(BaseModel):
    """Arguments of `get_customer`: none, the customer is known."""


@tool(effect=Effect.READ, timeout=2.0)
async def get_customer(args: GetCustomer, ctx: ToolContext) -> ToolResult:
    """Read the account of the customer you are talking to: plan, tier, whether the identity is verified, and the state of the card."""
    account = company().account(ctx.customer_id)
    if account is None:
        raise ToolNotFound("There is no account for this conversation. Answer in general terms, or offer a human.")
    return {"customer": account.model_dump(mode="json")}
