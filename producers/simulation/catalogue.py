"""Texts and prices of the simulated shop, from which the world is built."""

from typing import NamedTuple


class Category(NamedTuple):
    """Category of products: its typical price in the shop's currency, nouns and attributes of its queries."""

    name: str
    price: float
    nouns: tuple[str, ...]
    attributes: tuple[str, ...]


CATEGORIES = (
    Category("shoes", 90, ("running shoes", "trail shoes", "sneakers"), ("light", "wide", "cushioned")),
    Category("boots", 140, ("hiking boots", "winter boots", "chelsea boots"), ("waterproof", "leather", "lined")),
    Category("jackets", 160, ("rain jacket", "down jacket", "fleece jacket"), ("packable", "warm", "hooded")),
    Category("shirts", 45, ("linen shirt", "flannel shirt", "polo shirt"), ("slim", "striped", "white")),
    Category("trousers", 70, ("chinos", "jeans", "cargo trousers"), ("stretch", "black", "tapered")),
    Category("dresses", 85, ("summer dress", "wrap dress", "evening dress"), ("long", "red", "floral")),
    Category("knitwear", 75, ("wool sweater", "cardigan", "turtleneck"), ("merino", "chunky", "grey")),
    Category("socks", 15, ("wool socks", "sport socks", "compression socks"), ("thick", "short", "seamless")),
    Category("bags", 110, ("backpack", "shoulder bag", "duffel bag"), ("small", "canvas", "laptop")),
    Category("hats", 30, ("beanie", "sun hat", "baseball cap"), ("knitted", "foldable", "blue")),
    Category("gloves", 35, ("ski gloves", "leather gloves", "mittens"), ("touchscreen", "insulated", "brown")),
    Category("belts", 40, ("leather belt", "canvas belt", "woven belt"), ("narrow", "reversible", "tan")),
)

INTENTS_PER_CATEGORY = 5

REFORMULATIONS = ("{attribute} {noun}", "{noun} {attribute}", "best {attribute} {noun}", "{noun} {attribute} sale")
"""Texts of one intent. An intent has the first two, three or all four."""


def intent_texts(category: Category, number: int) -> tuple[str, ...]:
    """Return the query texts of a category's intent `number`, from 0: two to four, all different."""
    noun = category.nouns[number % len(category.nouns)]
    attribute = category.attributes[(number // len(category.nouns) + number) % len(category.attributes)]
    forms = REFORMULATIONS[: 2 + number % 3]
    return tuple(form.format(attribute=attribute, noun=noun) for form in forms)
