"""When a human must take over whatever a model thinks (design D10): rules over the customer's words.

They stand beside the model, not instead of it: a model that reads many languages is told the same rules in its prompt,
and these hold when it does not listen, or is offline.
"""

from __future__ import annotations

import re
import unicodedata

# Stems, because the words are inflected; folded to ASCII before matching. English, Spanish, Portuguese, French, German, Italian.
_CANCEL = re.compile(
    r"\b(cancel\w*|annul\w*|anul\w*|rescind\w*|kundig\w*|storn\w*|disdir\w*|disdett\w*|resili\w*"
    r"|(clos\w+|delet\w+|terminat\w+|shut\w* down|deactivat\w+)\b.{0,20}\b(account|subscription)"
    r"|(my|the) (account|subscription)\b.{0,10}\b(closed|deleted|terminated|ended)"
    r"|(cerr\w+|cierr\w+|elimin\w+|borr\w+|dar de baja|de baja)\b.{0,25}\b(cuenta|suscripcion|servicio|plan)"
    r"|(dar(me|nos)?|den|dame|dadme|deme|doy|quiero|solicit\w+|tramit\w+) (de |la )?baja"
    r"|(encerrar|fermer|supprimer|chiudere|losch\w+)\b.{0,20}\b(conta|compte|conto|konto))"
)
_REFUND = re.compile(
    r"\b(refund\w*|money back|reimburs\w*|charge ?back\w*|reembols\w*|devolucion\w*|reintegr\w*"
    r"|return (all )?(of )?(my|the) money"
    r"|(devolver|devuelv\w+|devolved|regres\w+)\w*\b.{0,20}\b(dinero|plata|importe|pago|pague|lana)"
    r"|(dinero|plata|lana) de (vuelta|regreso)"
    r"|rembours\w*|ruckerstatt\w*|erstatt\w*|geld zuruck|rimbors\w*)"
)
_HUMAN = re.compile(
    r"\b(human|real person|live (agent|person)|(speak|talk|chat)\b.{0,15}\b(someone|somebody|person|agent|manager|representative|operator)"
    r"|supervisor|representative|operator"
    r"|(hablar|comunic\w+|pas(a|e|ar)me|contactar|atiend\w+|atend\w+)\b.{0,25}\b(persona|humano|alguien|agente|asesor\w*|operador\w*|encargado|responsable|gerente)"
    r"|persona real|ser humano|un humano|una persona de verdad)"
)
_ANGRY = re.compile(
    r"\b(furious|outrag\w+|unacceptable|ridiculous|disgust\w+|angry|fed up|sick of|terrible|awful|worst|scam\w*|useless"
    r"|incompetent\w*|lawyer|sue"
    r"|furios\w*|indignad\w*|inaceptable|vergonzos\w*|verguenza|ridicul\w*|hart[oa]s?|asco|estafa\w*|pesim\w*|inutil\w*|enfadad\w*"
    r"|enojad\w*|cabread\w*|molest[oa]|abogad\w*|denunci\w*|hasta las narices)\b|!{3,}"
)
_ORDER = re.compile(r"\b[A-Z]{2}-\d{4,6}\b", re.IGNORECASE)


def escalation_reason(text: str, *, is_vip: bool) -> str | None:
    """`cancellation_requested`, `refund_requested`, `vip_asked_for_human` or `vip_is_angry`; None: no rule applies."""
    folded = _fold(text)
    if _CANCEL.search(folded):
        return "cancellation_requested"
    if _REFUND.search(folded):
        return "refund_requested"
    if is_vip and _HUMAN.search(folded):
        return "vip_asked_for_human"
    if is_vip and _ANGRY.search(folded):
        return "vip_is_angry"
    return None


def order_reference(text: str) -> str | None:
    """The first order number in `text`, as the shop writes it (`AZ-10234`)."""
    found = _ORDER.search(text)
    return found.group().upper() if found else None


def _fold(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.lower())
    return "".join(char for char in decomposed if not unicodedata.combining(char))
