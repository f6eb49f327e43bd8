"""What a call costs, from the price list that the `genai-prices` package ships."""

from __future__ import annotations

from genai_prices import Usage as BilledUsage
from genai_prices import calc_price


def cost_usd(provider: str, model: str, input_tokens: int, output_tokens: int) -> float:
    """US dollars; 0.0 for a model that is not in the list, such as one that is self-hosted or offline."""
    try:
        price = calc_price(BilledUsage(input_tokens=input_tokens, output_tokens=output_tokens), model_ref=model, provider_id=provider)
    except LookupError:
        return 0.0
    return float(price.total_price)
