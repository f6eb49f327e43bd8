"""Search the company's help centre."""

from pydantic import BaseModel, Field

from agents.demo.company import help_centre
from agents.tools.base import Effect, ToolContext, ToolResult, tool


class SearchHelpCentre(BaseModel):
    """Arguments of `search_help_centre`."""

    query: str = Field(min_length=1, max_length=2000, description="The customer's question in the customer's own words.")


@tool(effect=Effect.READ, timeout=2.0, knowledge=lambda: help_centre().version)
async def search_help_centre(args: SearchHelpCentre, ctx: ToolContext) -> ToolResult:
    """Find up to three help-centre articles that answer a question. Nothing found: no article covers it, so do not answer it."""
    hits = help_centre().search(args.query, ctx.language)
    return {"articles": [{"id": hit.article_id, "title": hit.title, "text": hit.text, "score": hit.score} for hit in hits]}
