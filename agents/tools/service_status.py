"""Say which services of the company work now."""

from pydantic import BaseModel, Field, JsonValue

from agents.demo.company import Component, ComponentStatus, company
from agents.tools.base import Effect, ToolContext, ToolResult, tool


class ServiceStatus(BaseModel):
    """Arguments of `service_status`."""

    component: Component | None = Field(default=None, description="One service; leave out for all.")


@tool(effect=Effect.READ, timeout=2.0)
async def service_status(args: ServiceStatus, ctx: ToolContext) -> ToolResult:
    """Say whether the app, card payments, top-ups, transfers and the shop work now, and describe the incident if one is going on."""
    asked = [s for s in company().services if args.component in (None, s.component)]
    return {"services": [_told(service, ctx.language) for service in asked]}


def _told(service: ComponentStatus, language: str) -> dict[str, JsonValue]:
    incident: JsonValue = None
    if service.incident:
        summary = service.incident.summary
        incident = {"since": service.incident.since.isoformat(), "summary": summary.get(language, summary["en"])}
    return {"component": service.component, "status": service.status, "incident": incident}
