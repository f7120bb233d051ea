"""English inflection for the word lists of the embedded newswire: plurals, third person, past and -ing forms."""

IRREGULAR_PLURALS = {
    "cactus": "cacti", "crisis": "crises", "diagnosis": "diagnoses", "hypothesis": "hypotheses", "loaf": "loaves", "nebula": "nebulae",
    "flyby": "flybys", "monarch": "monarchs", "quiz": "quizzes", "scarf": "scarves", "series": "series", "shelf": "shelves",
    "wolf": "wolves",
}  # fmt: skip
ES_AFTER_O = {"embargo", "fresco", "potato", "tornado"}
IRREGULAR_PASTS = {
    "build": "built", "buy": "bought", "cast": "cast", "catch": "caught", "cut": "cut", "feed": "fed", "forecast": "forecast",
    "hear": "heard", "hit": "hit", "hold": "held", "lead": "led", "leave": "left", "lose": "lost",
    "proofread": "proofread", "read": "read",
    "rebuild": "rebuilt", "repay": "repaid", "sell": "sold", "set": "set", "shut": "shut", "spread": "spread", "sweep": "swept",
    "teach": "taught", "uphold": "upheld", "win": "won", "withhold": "withheld",
}  # fmt: skip
DOUBLED = {
    "acquit", "admit", "ban", "cut", "debug", "drop", "dub", "equal", "fuel", "hit", "level", "map", "model", "plan", "patrol",
    "program", "regret", "scan", "scrap", "set", "shovel", "shut", "skip", "slip", "spot", "stop", "swap", "tag", "trial", "trim",
    "win",
}  # fmt: skip
VOWELS = "aeiou"
HISSES = ("s", "x", "z", "ch", "sh")


def _with_s(word: str) -> str:
    if word.endswith(HISSES):
        return word + "es"
    if word.endswith("y") and word[-2] not in VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def plural(noun: str) -> str:
    """The plural of a noun."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith("man"):
        return noun[:-2] + "en"
    return noun + "es" if noun in ES_AFTER_O else _with_s(noun)


def third(verb: str) -> str:
    """The third person singular of a verb."""
    return _with_s(verb + "e" if verb.endswith("o") else verb)


def past(verb: str) -> str:
    """The past tense of a verb, which for every verb of the lists is its participle too."""
    if verb in IRREGULAR_PASTS:
        return IRREGULAR_PASTS[verb]
    if verb in DOUBLED:
        return verb + verb[-1] + "ed"
    if verb.endswith("e"):
        return verb + "d"
    return verb[:-1] + "ied" if verb.endswith("y") and verb[-2] not in VOWELS else verb + "ed"


def gerund(verb: str) -> str:
    """The -ing form of a verb."""
    if verb in DOUBLED:
        return verb + verb[-1] + "ing"
    return verb[:-1] + "ing" if verb.endswith("e") and not verb.endswith(("ee", "ye")) else verb + "ing"
