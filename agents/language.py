"""Spanish or English: which of the two a message is written in."""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["es", "en"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of one language that are no words of the other ("no", "me", "a", "son" decide nothing): the small words that
# hold sentences together, and what customers write when they write a single word.
_SPANISH = _words(
    """
    el la los las un una unos unas lo al del de y o u que qué quien quién cual cuál cuando cuándo cuanto cuánto cuanta cuántos
    cuantos donde dónde como cómo por porque para con sin sobre entre desde hasta pero si sí ya aun aún muy más mas también tambien
    todavía todavia nunca siempre ahora hoy ayer mañana aquí aqui ahí alguien algo nada nadie todo todos esta está este esto ese eso
    esa estos estas yo tú vos usted ustedes nosotros él ella ellos mi mis tu tus su sus se te le les nos es soy eres sos somos fue
    era están estan estoy hay ha han había tengo tiene tienen tenés tienes puedo puede pueden puedes podés podría podria quiero
    quiere querés quieren quisiera necesito necesita hago hace hacer hacen hacés haces hice debo dice dijo sale salió salio llega
    llegó llego llegar anda funciona funcionan deja dejan dejá va van voy vas ver saber cambiar sacar pagar cobrar cobraron cobran
    cobro mandar mandan hola buenas buenos días dias tardes noches gracias adiós adios chau che saludos vale dale bueno oye oigan
    disculpa perdón perdon ayuda ayúdame ayudame factura facturas boleta recibo pedido pedidos compra envío envio tarjeta cuenta
    contraseña contrasena clave dinero plata lana pago pagos saldo reembolso devolución devolucion cancelar cancela baja persona
    humano segunda segundo primera primero tercera tercero otra otro última ultima ultimo último tampoco pues mismo misma hablar
    mucho mucha cada dos tres
    """
)
_ENGLISH = _words(
    """
    the an and or but if of to in on at by for from with without about into over not this that these those there here what which who
    whom whose when where why how i you he she it we they my your his her its our their mine yours them us is am are was were be
    been being do does did done don doesn didn isn wasn won can could cannot would will should shall may might must have had having
    got get getting gets want need needs like know tell let make made give take took please help thanks thank hello hi hey bye
    goodbye yes yeah any some all also just still already yet too very really only more much many money new now today yesterday
    card cards account order orders invoice invoices bill bills payment payments charge charged fee fees refund password transfer
    balance delivery shipping track cancel change find check see show lost stolen forgot missing first second third last one
    two other another someone something nothing up out back so than then because after before again while until bot
    """
)
_SPANISH_SIGNS = re.compile(r"[¿¡ñ]")
_SPANISH_ENDINGS = re.compile(r"(?:ci[oó]n|ciones|mente|[aei]ndo|ado|ados|ada|adas|ería|idad|aron|[íá]a|aste)$")
_ENGLISH_ENDINGS = re.compile(r"(?:ing|tion|ness|ful|less|ould|ight|n't|'m|'s|'re|'ve|'ll)$")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def clear_language(text: str) -> Language | None:
    """The language that `text` is clearly written in, or None ("ok", an order number, a tie)."""
    spanish = 1.0 if _SPANISH_SIGNS.search(text.lower()) else 0.0
    english = 0.0
    for word in _WORD.findall(text.lower().replace("’", "'")):
        stem = word.split("'")[0]
        if word in _SPANISH:
            spanish += 1
        elif word in _ENGLISH or stem in _ENGLISH:
            english += 1
        elif _SPANISH_ENDINGS.search(word):
            spanish += 0.5
        elif _ENGLISH_ENDINGS.search(word):
            english += 0.5
    if spanish == english:
        return None
    return "es" if spanish > english else "en"


def detect_language(text: str, locale: str | None = None) -> Language:
    """The language to answer in: the message's where that is clear, else the locale's (BCP 47), else English."""
    if clear := clear_language(text):
        return clear
    return "es" if (locale or "").lower().startswith("es") else "en"
