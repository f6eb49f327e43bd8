"""List the invoices of the customer who asks."""

from pydantic import BaseModel, Field

from agents.demo.company import InvoiceStatus, company
from agents.tools.base import Effect, ToolContext, ToolNotFound, ToolResult, tool


class ListInvoices(BaseModel):
    """Arguments of `list_invoices`."""

    limit: int = Field(default=5, ge=1, le=20, description="Most invoices to return, newest first.")
    status: InvoiceStatus | None = Field(default=None, description="Only invoices in this state; leave out for all.")


@tool(effect=Effect.READ, timeout=2.0)
async def list_invoices(args: ListInvoices, ctx: ToolContext) -> ToolResult:
    """List this customer's invoices, newest first, with amount, due date, status and lines. `total` counts those beyond the limit too."""
    if ctx.customer_id is None or company().account(ctx.customer_id) is None:
        raise ToolNotFound("There are no invoices for this conversation. Answer in general terms, or offer a human.")
    invoices = company().invoices_of(ctx.customer_id, args.status)
    return {
        "invoices": [invoice.model_dump(mode="json", exclude={"customer_id"}) for invoice in invoices[: args.limit]],
        "total": len(invoices),
    }
