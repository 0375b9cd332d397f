"""The word lists of the source `grammar`: domains with items and tips, and the parts of a text.

Good and bad alternatives of a part are about equally long, so that length says little about
quality. No item is contained in another, nor in any phrase.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """A topic: what one does with its items, the items, and advice that fits all of them."""

    name: str
    verb: str
    items: tuple[str, ...]
    tips: tuple[str, ...]


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(","))


DOMAINS: tuple[Domain, ...] = (
    Domain(
        "cooking",
        "cook",
        _items(
            "tomato soup, pancakes, lasagne, risotto, omelettes, dumplings, fish tacos, beef "
            "stew, fried rice, lentil curry, mashed potatoes, apple pie, waffles, paella, "
            "ramen, gnocchi, meatballs, porridge, cornbread, ratatouille, goulash, chili, "
            "noodles, falafel, mushroom sauce, roast chicken, bean salad, pizza, scrambled "
            "eggs, spring rolls, pumpkin bread, banana muffins"
        ),
        (
            "taste a little before you add salt",
            "heat the pan slowly and stir often",
            "read the whole recipe before you begin",
        ),
    ),
    Domain(
        "plants",
        "grow",
        _items(
            "basil, roses, cacti, tulips, sunflowers, lavender, orchids, ferns, mint, "
            "rosemary, strawberries, carrots, cucumbers, bonsai, ivy, lilies, daisies, "
            "peonies, thyme, radishes, spinach, lemon trees, sage, blueberries, bamboo, aloe, "
            "parsley, pansies, zucchini, sweet peas, palm trees, hydrangeas"
        ),
        (
            "water the roots in the early morning",
            "pick a pot with holes for the water",
            "feed the soil with compost in spring",
        ),
    ),
    Domain(
        "pets",
        "look after",
        _items(
            "hamsters, parrots, goldfish, rabbits, kittens, puppies, turtles, geckos, "
            "canaries, guinea pigs, ferrets, snakes, ponies, ducks, mice, iguanas, budgies, "
            "hedgehogs, chinchillas, old dogs, house cats, pigeons, tree frogs, goats, bees, "
            "hermit crabs, lizards, finches, gerbils, alpacas, donkeys, axolotls"
        ),
        (
            "see the vet at least once a year",
            "keep food and sleep at fixed hours",
            "make a calm corner where they can hide",
        ),
    ),
    Domain(
        "travel",
        "visit",
        _items(
            "Lisbon, Kyoto, Rome, Cairo, Oslo, Prague, Lima, Dublin, Vienna, Athens, Havana, "
            "Seoul, Boston, Madrid, Berlin, Krakow, Hanoi, Porto, Quebec, Sydney, Zagreb, "
            "Istanbul, Naples, Tallinn, Bergen, Marrakesh, Helsinki, Budapest, Montreal, "
            "Geneva, Nairobi, Santiago"
        ),
        (
            "book the rooms a few weeks ahead",
            "buy a day pass for bus and train",
            "walk the old town before the crowds come",
        ),
    ),
    Domain(
        "music",
        "practise",
        _items(
            "violin, piano, jazz guitar, drums, flute, cello, trumpet, banjo, harp, clarinet, "
            "saxophone, ukulele, accordion, oboe, mandolin, trombone, opera singing, "
            "bagpipes, organ, harmonica, bass, tuba, viola, recorder, bongos, sitar, "
            "xylophone, whistling, lute, beatboxing, bassoon, choir singing"
        ),
        (
            "use a metronome and begin very slowly",
            "repeat the hard bars ten times a day",
            "record yourself and listen to it later",
        ),
    ),
    Domain(
        "sports",
        "get into",
        _items(
            "tennis, rowing, judo, archery, fencing, surfing, climbing, running, badminton, "
            "golf, hockey, boxing, karate, yoga, cycling, skating, sailing, rugby, cricket, "
            "volleyball, football, squash, skiing, kayaking, wrestling, bowling, gymnastics, "
            "diving, handball, water polo, triathlon, snowboarding"
        ),
        (
            "warm up well and rest every third day",
            "join a club that welcomes beginners",
            "buy good shoes before any other gear",
        ),
    ),
    Domain(
        "repairs",
        "fix",
        _items(
            "leaky taps, flat tyres, squeaky doors, broken chairs, blocked drains, loose "
            "tiles, cracked windows, old lamps, bike brakes, torn jeans, wobbly tables, dead "
            "radios, rusty hinges, stuck drawers, noisy fans, toasters, kettles, zippers, "
            "clocks, umbrellas, suitcases, garden gates, fences, gutters, door locks, "
            "headphones, blinds, roof leaks, shelves, heaters, dishwashers, mattresses"
        ),
        (
            "switch off power and water at the mains",
            "take a photo before you remove a part",
            "measure twice before you cut or drill",
        ),
    ),
    Domain(
        "crafts",
        "make",
        _items(
            "candles, paper lanterns, clay pots, quilts, soap, kites, puppets, wool socks, "
            "baskets, greeting cards, scarves, bracelets, masks, origami, picture frames, "
            "pillows, bookmarks, birdhouses, mobiles, mosaics, rag rugs, earrings, tote bags, "
            "wreaths, stamps, dolls, model trains, hammocks, mittens, notebooks, lampshades, "
            "hats"
        ),
        (
            "draw the pattern on paper at full size",
            "test the colours on a small scrap first",
            "let each layer dry before the next one",
        ),
    ),
)

QUESTIONS: tuple[str, ...] = (
    "How do I {verb} {item}?",
    "Can you help me {verb} {item}?",
    "I want to {verb} {item}. Any advice?",
    "What should I know to {verb} {item}?",
    "Any tips on how to {verb} {item}?",
    "My friend wants to {verb} {item}. What helps?",
    "What is the best way to {verb} {item}?",
    "Please tell me how to {verb} {item}.",
    "I never tried to {verb} {item}. Where do I start?",
    "It is hard to {verb} {item}. What can I do?",
)

POLITE_OPENINGS: tuple[str, ...] = (
    "What a nice question!",
    "I am happy to help!",
    "Thank you for asking!",
)
RUDE_OPENINGS: tuple[str, ...] = (
    "Not that again, please.",
    "You could look it up.",
    "Why would you ask me?",
)
TOPICS: tuple[str, ...] = (
    "When you {verb} {topic},",
    "If you want to {verb} {topic},",
    "I would say, to {verb} {topic},",
)
VAGUE_TOPICS: tuple[str, ...] = ("all that", "such things")
EMPTY_ADVICE: tuple[str, ...] = (
    "there is a lot that one could say",
    "some people do it, and some do not",
    "it is what it is, and that is it",
)
CLOSINGS: tuple[str, ...] = (
    "I hope that this helps you.",
    "Good luck, and enjoy it!",
    "Let me know how it goes.",
)
TRAILING_OFF: tuple[str, ...] = (
    "And after that you just",
    "There was one more, but",
    "Or maybe you could try the",
)
