"""Invented people and places of the embedded newswire, composed of stems and endings, one set of sounds a region.

Nobody and nowhere real is meant. Names of one region go together, so that a place tells which names may follow.
"""

import itertools

from harness.data.sources._wire_words import parse

VOWELS = "aeiou"

REGIONS = """
north
stem ald berg bir dal ek fal grim hav hol isk jor kal lind mar nor osk rav rund sel stor sund tor ulf ven vik
woman a hild ine ke ra vi
man an e gar mund ric var
surname berg dal gard holm kvist lund mark nes strom sen stad vang
place borg by fors havn land mark sund ton
people ish
south
stem alm bel cam cor dor esp fal gal lam lor mar mon nav oliv par pel quin rom sal sor tar tor val ver zan
woman ela ia ina isa ora ita
man elo ero ico ino io o
surname ado anza ares ato eira elli endo eno era ini ola oro
place alto ana anza ara ena ilo osa ova
people ese
east
stem bor cher dob dra gor jar kas kor lub mil nov pet pol rad rud sla stan tas tro ves vol yar zan zel zor
woman ana ena ila inka omira uska
man ek imir in islav omil or
surname anov chuk enko eski ev ic ik in ov ovic sky yak
place avets grad insk itsa ov ovar une any
people ian
west
stem al bar bren cal car con dun eth far gar glen har ken kil lan lor mor nev ow pen ros shan tre wen wyn
woman a dra eth nah ra wen
man an dan gan low ry ton
surname dock don drick ford ley low mont more nan ney ton well
place bridge bury cliff dale field haven mere wick
people ite
isles
stem ahu ala fana hia ila kahu kea kolo lani lelu mahi mano mele nalu nui ola palo rani rua tami tana tavi ula vai wai
woman hina lea nia rea tea we
man fo kai ko niu ro to
surname halo kana kea lani loa mai moa nui pau tane tau wai
place hiki keo lofa mua nea puna roa tonga
people n
steppe
stem abai aksu alt bat bek chim dal ergen gul jan kas kir mer nar oral sar sham tash tem tulu tyl ulan yer zar zul
woman ana ay eli gul nur ya
man bek bol dar han lan tan
surname aev alin atov bayev bekov dari ganov kent khan muk tayev zada
place abad balik bulak dar istan mura tau tobe
people i
"""


def _compose(stems: list[str], endings: list[str]) -> list[str]:
    """The stem-ending pairs that can be said: no vowel meets a vowel, no letter is doubled and no syllable repeated at the seam."""
    return [
        stem + ending
        for ending, stem in itertools.product(endings, stems)
        if not (stem[-1] in VOWELS and ending[0] in VOWELS) and stem[-1] != ending[0] and not ending.startswith(stem[-2:])
    ]


def names() -> dict[str, dict[str, list[str]]]:
    """region -> kind (`woman`, `man`, `surname`, `place`, `people`: its adjective) -> names."""
    found = {}
    for region, parts in parse(REGIONS).items():
        stem = parts["stem"]
        found[region] = {kind: _compose(stem, parts[kind]) for kind in ("woman", "man", "surname", "place")}
        found[region]["people"] = _compose([s for s in stem if len(s) > 2], parts["people"])[:8]
    return found
