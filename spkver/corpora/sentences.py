"""Sentences for the built-in corpus, put together from word lists that hold all sounds of English."""

import numpy as np


def _list(text: str) -> list[str]:
    return text.split("|")


_TIMES = _list(
    "This morning|Late last night|On Thursday|After the storm|Before breakfast|In early August|Once again|"
    "During the holidays|At half past four|To nobody's surprise|Years ago|While it rained"
)
_QUALITIES = _list(
    "quiet|clever|thirsty|young|rather gloomy|famous|joyful|shy|weary|unusual|fierce|polite|huge|nervous|old|"
    "cheerful|stubborn|generous|pale|brave"
)
_PEOPLE = _list(
    "carpenter|doctor|zookeeper|fisherman|violin teacher|judge|neighbour|shepherd|chemist|piano player|"
    "gardener|watchmaker|nurse|bus driver|thief|engineer|choir boy|postman|baker|astronomer"
)
_DEEDS = _list(
    "carried|measured|painted|forgot|borrowed|washed|threw away|discovered|photographed|exchanged|polished|"
    "gathered|chose|hid|sold|repaired|admired|wrapped|juggled|pushed"
)
_NUMBERS = _list("two|three|four|five|six|seven|eight|nine|eleven|thirty|a dozen|several")
_LOOKS = _list("yellow|purple|heavy|smooth|broken|orange|wooden|shiny|thin|strange|brown|frozen|empty|cheap")
_THINGS = _list(
    "boxes|letters|oranges|ladders|clocks|mushrooms|bottles|envelopes|watches|chairs|feathers|jars of honey|"
    "shoes|umbrellas|rings|towels|cheese rolls|bicycles|fish hooks|treasures|gloves|kites"
)
_PLACES = _list(
    "over the narrow bridge|behind the old church|near the village square|under a thick hedge|by the river|"
    "in the north of Egypt|through the garden|at the edge of the forest|outside the theatre|"
    "beyond the valley|from the top floor|beside a huge fire|across the frozen lake|"
    "along the southern coast|round the corner"
)


def draw_sentence(rng: np.random.Generator) -> str:
    """Draw one sentence of about 3 to 5 seconds, of some thousand million that there are."""

    def one(words: list[str]) -> str:
        return words[rng.integers(len(words))]

    who = f"the {one(_QUALITIES)} {one(_PEOPLE)}"
    what = f"{one(_NUMBERS)} {one(_LOOKS)} {one(_THINGS)}"
    if rng.random() < 0.5:
        return f"{one(_TIMES)}, {who} {one(_DEEDS)} {what}."
    ending = "?" if rng.random() < 0.2 else "."
    return f"{who.capitalize()} {one(_DEEDS)} {what} {one(_PLACES)}{ending}"
