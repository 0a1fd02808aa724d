"""What the texts for JSON extraction are about: fields, their values, and how a text says them.

Most of a kind's templates state the fields alone, the last ones something beside them that could be
taken for a field: an earlier quantity, a second person, a former price.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recipes.bundled_tasks.wordlists import (
    CITIES,
    COLOURS,
    DAYS,
    EVENTS,
    FIRMS,
    FIRST,
    GOODS,
    HOMES,
    JOBS,
    LAST,
    VENUES,
)

Values = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """What a text is about.

    Attributes:
        name: in the instruction.
        schema: the type of each field.
        draw: makes the fields and the other words that a template may name.
        templates: surfaces, each of which says every field.
    """

    name: str
    schema: dict[str, str]
    draw: Callable[[random.Random], Values]
    templates: tuple[str, ...]


def people(rng: random.Random) -> list[str]:
    """Two persons of different names."""
    first, last = rng.sample(FIRST, 2), rng.sample(LAST, 2)
    return [f"{first[n]} {last[n]}" for n in range(2)]


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def order(rng: random.Random) -> Values:
    customer, clerk = people(rng)
    item, other_item = rng.sample(GOODS, 2)
    quantity, other = rng.sample(range(3, 60), 2)
    return {
        "customer": customer,
        "item": item,
        "quantity": quantity,
        "clerk": clerk,
        "other_item": other_item,
        "other": other,
    }


def contact(rng: random.Random) -> Values:
    city, other_city = rng.sample(CITIES, 2)
    return {
        "name": people(rng)[0],
        "city": city,
        "phone": f"{rng.randint(200, 989)}-{rng.randint(1000, 9999)}",
        "other_city": other_city,
        "firm": rng.choice(FIRMS),
    }


def event(rng: random.Random) -> Values:
    day, other_day = rng.sample(DAYS, 2)
    return {
        "title": rng.choice(EVENTS),
        "day": day,
        "venue": rng.choice(VENUES),
        "other_day": other_day,
    }


def listing(rng: random.Random) -> Values:
    rent = rng.randint(45, 290) * 10
    city, other_city = rng.sample(CITIES, 2)
    return {
        "home": rng.choice(HOMES),
        "city": city,
        "rent": rent,
        "other_rent": rent + rng.randint(5, 30) * 10,
        "other_city": other_city,
        "agent": people(rng)[0],
    }


def trip(rng: random.Random) -> Values:
    end, stop = rng.sample(CITIES, 2)
    return {
        "passenger": people(rng)[0],
        "to": end,
        "day": rng.choice(DAYS),
        "stop": stop,
    }


def vacancy(rng: random.Random) -> Values:
    title = rng.choice(JOBS)
    return {
        "title": title,
        "company": rng.choice(FIRMS),
        "salary": rng.randint(24, 80) * 1000,
        "a_title": with_article(title),
        "city": rng.choice(CITIES),
        "staff": rng.randint(12, 900),
        "who": people(rng)[0],
    }


def lost(rng: random.Random) -> Values:
    thing, other = rng.sample("bag scarf wallet jacket umbrella suitcase hat phone".split(), 2)
    colour, other_colour = rng.sample(COLOURS, 2)
    return {
        "object": thing,
        "color": colour,
        "place": rng.choice(VENUES),
        "owner": people(rng)[0],
        "a_color": with_article(colour),
        "other": other,
        "a_other_color": with_article(other_colour),
    }


KINDS = (
    Kind(
        "order",
        {"customer": "string", "item": "string", "quantity": "integer"},
        order,
        (
            "{customer} ordered {quantity} {item}.",
            "Please send {quantity} {item} to {customer}.",
            "{customer} wants {quantity} {item} instead of {other} {other_item}.",
            "The order of {customer} for {quantity} {item} was taken by {clerk}.",
        ),
    ),
    Kind(
        "contact",
        {"name": "string", "city": "string", "phone": "string"},
        contact,
        (
            "{name} lives in {city}. The phone number is {phone}.",
            "You can call {name} in {city} at {phone}.",
            "{name} moved from {other_city} to {city}. The new number is {phone}.",
            "{name}, who works for {firm} in {city}, has the number {phone}.",
        ),
    ),
    Kind(
        "event",
        {"title": "string", "day": "string", "venue": "string"},
        event,
        (
            "The {title} is on {day} in the {venue}.",
            "Come to the {venue} on {day} for the {title}.",
            "The {title} in the {venue} was moved from {other_day} to {day}.",
            "{day} is the day of the {title} in the {venue}.",
        ),
    ),
    Kind(
        "listing",
        {"home": "string", "city": "string", "rent": "integer"},
        listing,
        (
            "To rent: a {home} in {city} for {rent} dollars a month.",
            "The {home} in {city} costs {rent} dollars a month.",
            "{agent} lets a {home} in {city} for {rent} dollars.",
            "The rent of the {home} in {city} fell from {other_rent} to {rent} dollars.",
        ),
    ),
    Kind(
        "trip",
        {"passenger": "string", "to": "string", "day": "string"},
        trip,
        (
            "{passenger} flies to {to} on {day}.",
            "On {day}, {passenger} takes the train to {to}.",
            "{passenger} has a ticket to {to} for {day}.",
            "{passenger} travels from {stop} to {to} on {day}.",
        ),
    ),
    Kind(
        "vacancy",
        {"title": "string", "company": "string", "salary": "integer"},
        vacancy,
        (
            "{company} is looking for {a_title}. The salary is {salary} dollars.",
            "Wanted: {title} at {company} for {salary} dollars a year.",
            "{company} has {staff} people in {city} and needs {a_title}. It pays {salary} dollars.",
            "{who} of {company} wants to hire {a_title} for {salary} dollars a year.",
        ),
    ),
    Kind(
        "report",
        {"object": "string", "color": "string", "place": "string"},
        lost,
        (
            "Lost: {a_color} {object} in the {place}.",
            "I left my {color} {object} in the {place}.",
            "{owner} found {a_color} {object} in the {place}.",
            "{owner} found {a_color} {object} in the {place}, not {a_other_color} {other}.",
        ),
    ),
)
