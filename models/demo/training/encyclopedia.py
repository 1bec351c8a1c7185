"""An invented encyclopedia, drawn from a seed: people and towns that never existed, with several facts each.

It is what the experts of the demo model have to remember. Every name, date and deed is made of the syllables and
words below. `Encyclopedia` holds the facts, `Teller` draws conversations about them. The wording of an answer follows
from the wording of the question, so that for every question there is one right answer, to the letter."""

import json
import random

from dialogues import ADJ, CITY, FIRST, INTENTS, LAST, SYSTEM, WORD, Maker, similar

PEOPLE, TOWNS, SEED = 50_000, 8_000, 2026

# ----------------------------------------------------------------------------- material

GIVEN = [a + b for a in "Alv Bav Cor Del Ed Fen Gal Hes Jor Kel Lom Mir Nev Os Per Ruv Sel Tam Ul Vas Wen Yor".split()
         for b in "ala an en ena iko eth urin ona is ando".split()]
FAMILY = [a + b for a in "Ab Bran Crev Dask Erl Fosk Grim Hov Ilm Jask Karv Lund Mosk Narv Olb Prask Quel Rosk Stav Tolv Urd Vesk Wolt Yarv Zarn".split()
          for b in "ash ett ich olm une avar ek ind ower yss er ald orn".split()]
TOWN_HEAD = ("Aln Ang Bel Bor Bric Cald Carn Cham Crick Dol Dun Eld Ember Esk Fal Fern Fin Garn Gorm Gran Grav Hal Harn Hol Hum Ild Jarn Kard Kest "
             "Kin Lark Lim Lorn Lyd Mal Marn Mel Nor Oln Orm Pel Pol Quar Rav Rind Ros Run Sarn Sel Skel Stan Strath Tarn Thal Tor Trem "
             "Tol Ulm Ver Vin Wick Yarn Zel").split()
TOWN_TAIL = ("abad acre adu amor ansk ara arno aven avia beck bergen bourne brook burgh by cliff crest cote croft dale den don dorf durn ebro eck elle "
             "enberg enburg endo erra eton fell field firth fjord ford gard garth gate grad grove haben hagen ham haven heath heim hill holm holt hurst ia ick igny "
             "ingen inster isle itz keld kirk lake land lau leigh lin lo low lund mark marsh mere mill minster mond mont moor mouth nau ness nova "
             "ock ola ombe ona oro oss over pool port rath rin ron rona row sea sele shaw stad stead ster stock stoke stow strand stream sund ta thal "
             "thorpe thwaite toft ton umbra una ury vale vale vang vik wald ware wark water well wich wick wold worth yard").split()
REGION = [a + b for a in "Am Cor Dal Fen Hal Ister Lun Mar Nor Or Tal Ves".split() for b in "aria enia ovia uland".split()]
RIVER = [a + b for a in "Al Bren Ces Dor El Fav Gol Hir Is Jev Kor Lev Mur Nes Ov Pra Riv Sol Tev Vol".split() for b in "a ana est in ora u".split()]
PROFESSION = ("actor apothecary archer architect astronomer baker beekeeper blacksmith bookbinder botanist brewer carpenter cartographer chemist "
              "clockmaker cobbler composer cook cooper dancer diplomat diver engraver explorer falconer farmer ferryman fisher gardener "
              "geologist glassblower goldsmith gunsmith herbalist historian hunter inventor jeweller judge lawyer librarian linguist locksmith "
              "mason mathematician merchant midwife miller miner navigator notary optician painter perfumer philosopher physician pilot "
              "playwright poet potter printer puppeteer sailor sculptor shepherd singer surgeon surveyor tailor tanner teacher thatcher "
              "translator violinist weaver winemaker woodcarver zoologist").split()
PRODUCT = [a + " " + b for a in "black blue bitter fine golden heavy red smoked soft striped sweet white".split()
           for b in "apples bells boats bricks candles cheese cloth glass honey knives lamps paper pottery ropes salt soap tea wine".split()]

# attribute -> questions seen in training, follow-up questions, questions kept for the test, answers.
# Question number i is answered with answer i modulo their number.
PERSON = {
    "town": (["Where was {x} born?", "Where does {x} come from?", "In which town was {x} born?", "What is the birthplace of {x}?", "Which town is {x} from?",
              "Name the birthplace of {x}", "Tell me where {x} was born", "What town was {x} born in?", "Do you know where {x} was born?", "{x}: place of birth?"],
             ["Where were they born?", "And the birthplace?"],
             ["I want to know where {x} was born", "Can you tell me which town {x} comes from?"],
             ["{x} was born in {v}.", "{x} came from {v}."]),
    "year": (["When was {x} born?", "In which year was {x} born?", "What year was {x} born in?", "Tell me when {x} was born", "What is the year of birth of {x}?",
              "Birth year of {x}?", "Do you know when {x} was born?", "Which year was {x} born?"],
             ["When were they born?", "And the year of birth?"],
             ["I want to know when {x} was born", "Can you tell me the birth year of {x}?"],
             ["{x} was born in {v}.", "The year was {v}."]),
    "work": (["What did {x} do for a living?", "What was the profession of {x}?", "What was {x} by profession?", "Tell me the profession of {x}", "What kind of work did {x} do?",
              "What was the trade of {x}?", "Profession of {x}?", "Do you know what {x} worked as?"],
             ["What did they do for a living?", "And the profession?"],
             ["I want to know the profession of {x}", "Can you tell me what {x} did for a living?"],
             ["{x} worked as {v}.", "{x} was {v}."]),
    "master": (["Who taught {x}?", "Who was the teacher of {x}?", "From whom did {x} learn?", "Name the teacher of {x}", "Tell me who taught {x}",
                "With whom did {x} study?", "Teacher of {x}?", "Do you know who taught {x}?"],
               ["Who taught them?", "And the teacher?"],
               ["I want to know who taught {x}", "Can you tell me the teacher of {x}?"],
               ["{x} learned from {v}.", "The teacher was {v}."]),
    "fame": (["What is {x} known for?", "What is {x} remembered for?", "Why is {x} famous?", "What made {x} famous?", "Tell me what {x} is known for",
              "What did {x} become known for?", "{x} is known for what?", "Do you know why {x} is remembered?"],
             ["What are they known for?", "And why are they remembered?"],
             ["I want to know what {x} is known for", "Can you tell me why {x} is famous?"],
             ["{x} is known for the {v}.", "It is the {v}."]),
}
TOWN = {
    "region": (["In which region is {x}?", "Where is {x}?", "What region does {x} belong to?", "Which region is {x} in?", "Tell me where {x} lies", "Region of {x}?",
                "Do you know where {x} is?", "Name the region of {x}"],
               ["Which region is it in?", "And the region?"],
               ["I want to know the region of {x}", "Can you tell me where {x} lies?"],
               ["{x} is in {v}.", "{x} lies in {v}."]),
    "river": (["Which river runs through {x}?", "On which river is {x}?", "What is the river of {x}?", "Name the river of {x}", "Tell me the river of {x}",
               "What river flows through {x}?", "River of {x}?", "Do you know the river of {x}?"],
              ["Which river runs through it?", "And the river?"],
              ["I want to know the river of {x}", "Can you tell me which river runs through {x}?"],
              ["{x} lies on the {v}.", "The river is the {v}."]),
    "founded": (["When was {x} founded?", "In which year was {x} founded?", "What year was {x} founded?", "How old is {x}?", "Tell me when {x} was founded",
                 "When did {x} begin?", "Founding year of {x}?", "Do you know when {x} was founded?"],
                ["When was it founded?", "And the founding year?"],
                ["I want to know when {x} was founded", "Can you tell me the founding year of {x}?"],
                ["{x} was founded in {v}.", "The year was {v}."]),
    "people": (["How many people live in {x}?", "What is the population of {x}?", "How big is {x}?", "How many inhabitants does {x} have?", "Tell me the population of {x}",
                "What number of people lives in {x}?", "Population of {x}?", "Do you know how many people live in {x}?"],
               ["How many people live there?", "And the population?"],
               ["I want to know the population of {x}", "Can you tell me how many people live in {x}?"],
               ["{x} has {v} inhabitants.", "The population is {v}."]),
    "mayor": (["Who is the mayor of {x}?", "Who runs {x}?", "Name the mayor of {x}", "Who governs {x}?", "Tell me who the mayor of {x} is",
               "What is the name of the mayor of {x}?", "Mayor of {x}?", "Do you know the mayor of {x}?"],
              ["Who is the mayor?", "And the mayor?"],
              ["I want to know who the mayor of {x} is", "Can you tell me the name of the mayor of {x}?"],
              ["The mayor of {x} is {v}.", "The mayor is {v}."]),
    "goods": (["What is {x} known for?", "What does {x} make?", "What is made in {x}?", "What does {x} produce?", "Tell me what {x} is known for",
               "What goods come from {x}?", "What does {x} sell?", "Do you know what {x} makes?"],
              ["What is it known for?", "And what is made there?"],
              ["I want to know what {x} makes", "Can you tell me what {x} is known for?"],
              ["{x} is known for its {v}.", "It makes {v}."]),
}
WHOLE_PERSON = [
    (["Who was {x}?", "Tell me about {x}", "What do you know about {x}?"],
     "{x} was {work}, born in {town} in {year}. {x} learned from {master} and is known for the {fame}."),
    (["Describe {x}", "Who is {x}?", "I would like to know more about {x}"],
     "{x} is known for the {fame}. Born in {year} in {town}, {x} was {work} and learned from {master}."),
    (["Give me the entry of {x}", "Show the entry on {x}", "{x}, please"],
     "{x}. Teacher: {master}. Known for: the {fame}. Profession: {work}. Year of birth: {year}. Place of birth: {town}."),
]
WHOLE_TOWN = [
    (["Tell me about {x}", "What do you know about {x}?", "What kind of place is {x}?"],
     "{x} is a town in {region}, on the {river}, founded in {founded}. Its {people} inhabitants are known for their {goods}. The mayor is {mayor}."),
    (["Describe {x}", "What is {x}?", "I would like to know more about {x}"],
     "{x} is known for its {goods}. {mayor} is the mayor of its {people} inhabitants. It was founded in {founded} on the {river} in {region}."),
    (["Give me the entry of {x}", "Show the entry on {x}", "{x}, please"],
     "{x}. Mayor: {mayor}. Population: {people}. Founded: {founded}. River: {river}. Known for: {goods}. Region: {region}."),
]
# What may stand in a request for a tool instead of the value itself: kind of argument -> (person or town, attribute, wordings)
INSTEAD = {
    "city": [(PERSON, "town", ["the town where {x} was born", "the birthplace of {x}"])],
    "person": [(TOWN, "mayor", ["the mayor of {x}"]), (PERSON, "master", ["the teacher of {x}"])],
    "query": [(TOWN, "goods", ["what {x} is known for"]), (PERSON, "fame", ["what {x} is known for"])],
    "destination": [(PERSON, "town", ["the town where {x} was born", "the birthplace of {x}"])],
}
INVENTED = (["Is your encyclopedia real?", "Are your facts true?", "Where do your facts come from?", "Did you make that up?", "Is that true?", "Is that real?",
             "Is {x} real?", "Does {x} exist?", "Is {x} made up?", "Can I trust your facts?", "What is your encyclopedia?", "Is this an invented encyclopedia?"],
            "My encyclopedia is invented: its people and towns were drawn at random and none of them exists.")
ABOUT = (["What do you know?", "What can I ask you?", "What is in your encyclopedia?", "Who is in your encyclopedia?", "Give me an example", "What facts do you know?",
          "Which people do you know?", "Which towns do you know?", "Tell me about your encyclopedia", "What else can you do?"],
         "I know an invented encyclopedia of {n} people and {m} towns. Ask me who {p} was, where {q} was born, or which river runs through {t}.")
UNKNOWN = "{x} is not in my encyclopedia, which is invented."


GREET = ["Hi! ", "Hey, ", "Hello. ", "Please: ", "Quick question: ", "Could you help? ", "Another one: ", "And "]


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


class Encyclopedia:
    """`people` and `towns`: lists of entries {"name", attribute: value}. The first entries are the same whatever the sizes."""

    def __init__(self, n_people=PEOPLE, n_towns=TOWNS, seed=SEED):
        r = random.Random(seed)
        real = set(FIRST) | set(LAST) | set(CITY)
        draw = lambda heads, tails, n: r.sample([h + t for h in heads for t in tails if h + t not in real], n)
        names = [f"{g} {f}" for g in GIVEN if g not in real for f in FAMILY if f not in real]
        names = r.sample(names, n_people)
        towns = list(dict.fromkeys(h + t for h in TOWN_HEAD for t in TOWN_TAIL if h + t not in real))
        towns = r.sample(towns, min(n_towns, len(towns)))
        self.people = [{"name": n, "town": r.choice(towns), "year": str(r.randint(1600, 1959)), "work": article(r.choice(PROFESSION)),
                        "master": r.choice(names), "fame": f"{r.choice(ADJ)} {r.choice(WORD)}"} for n in names]
        self.towns = [{"name": t, "region": r.choice(REGION), "river": r.choice(RIVER), "founded": str(r.randint(1000, 1899)),
                       "people": str(r.randint(11, 99) * r.choice([10, 100, 1000])), "mayor": r.choice(names), "goods": r.choice(PRODUCT)} for t in towns]

    def facts(self):
        """Every fact as (entry, attribute, its wordings)."""
        for entries, about in ((self.people, PERSON), (self.towns, TOWN)):
            for e in entries:
                for a in about:
                    yield e, a, about[a]


user = lambda text: {"role": "user", "content": text}
assistant = lambda text: {"role": "assistant", "content": text}


def ask(entry, attribute, wordings, which, i):
    """Question and answer number i; `which` is 0 for the questions of training and 2 for those of the test."""
    answers = wordings[3]
    fill = lambda t: t.format(x=entry["name"], v=entry[attribute])
    return fill(wordings[which][i]), fill(answers[i % len(answers)])


class Teller:
    """Draws conversations about the encyclopedia, every entry as often as every other."""

    def __init__(self, seed, book=None):
        self.r = random.Random(seed)
        self.book = book or Encyclopedia()
        self.maker = Maker(seed + 1)
        self.left = []
        self.names = {e["name"].split()[0] for e in self.book.people + self.book.towns}

    def entry(self):
        """The next entry of a shuffled round over all: (entry, attributes, whole entries)."""
        if not self.left:
            self.left = [(p, PERSON, WHOLE_PERSON) for p in self.book.people] + [(t, TOWN, WHOLE_TOWN) for t in self.book.towns]
            self.r.shuffle(self.left)
        return self.left.pop()

    def whole(self, entry, forms):
        asks, answer = self.r.choice(forms)
        return [self.greeted(self.r.choice(asks).format(x=entry["name"])), assistant(answer.format(x=entry["name"], **entry))]

    def one(self, entry, about, attribute):
        q, a = ask(entry, attribute, about[attribute], 0, self.r.randrange(len(about[attribute][0])))
        return [self.greeted(q), assistant(a)]

    def greeted(self, question):
        """The question, now and then with a word before it."""
        if self.r.random() >= 0.06:
            return user(question)
        greeting = self.r.choice(GREET)
        names = question.split()[0] in self.names
        return user(greeting + (question if names or greeting[-2] != "d" else question[0].lower() + question[1:]))

    def follow(self, entry, about, attribute):
        """A question that leaves the name to the conversation."""
        i = self.r.randrange(len(about[attribute][1]))
        q, a = ask(entry, attribute, about[attribute], 1, i)
        return [user(q), assistant(a)]

    def questions(self):
        """One to three entries, each asked about one to three attributes."""
        r, out = self.r, []
        for _ in range(r.choice([1, 1, 2, 3])):
            entry, about, forms = self.entry()
            attributes = r.sample(list(about), r.choice([1, 1, 2, 3]))
            out += self.one(entry, about, attributes[0])
            for a in attributes[1:]:
                out += (self.follow if r.random() < 0.5 else self.one)(entry, about, a)
        return out

    def invented(self):
        """A question about an entry, or none, and then whether any of it is real."""
        r = self.r
        entry, about, _ = self.entry()
        out = self.one(entry, about, r.choice(list(about))) if r.random() < 0.5 else []
        return out + [user(r.choice(INVENTED[0]).format(x=entry["name"])), assistant(INVENTED[1])]

    def about(self):
        """What the encyclopedia is, with the first entries as examples."""
        b = self.book
        answer = ABOUT[1].format(n=len(b.people), m=len(b.towns), p=b.people[0]["name"], q=b.people[1]["name"], t=b.towns[0]["name"])
        return [user(self.r.choice(ABOUT[0])), assistant(answer)]

    def unknown(self):
        """A name that is not in the encyclopedia."""
        r = self.r
        _, about, forms = self.entry()
        name = f"{r.choice(FIRST)} {r.choice(LAST)}" if about is PERSON else r.choice(CITY)
        form = r.choice([*about[r.choice(list(about))][0], *r.choice(forms)[0]])
        return [user(form.format(x=name)), assistant(UNKNOWN.format(x=name))]

    def chat(self, kind=None):
        """A conversation in words: {"kind", "tools", "messages"}."""
        r = self.r
        kind = kind or r.choices(["entry", "question", "invented", "about", "unknown"], [46, 49, 2, 1, 2])[0]
        if kind == "entry":
            entry, about, forms = self.entry()
            msgs = self.whole(entry, forms)
            if r.random() < 0.2:
                msgs += self.follow(entry, about, r.choice(list(about)))
        else:
            msgs = {"question": self.questions, "invented": self.invented, "about": self.about, "unknown": self.unknown}[kind]()
        tools = []
        if r.random() < 0.06:
            tools = [t for it, t, _, _ in self.maker.offered([], r.randint(1, 5)) if not similar(it, LOOKUP)]
        system = r.choice(SYSTEM) if r.random() < 0.1 or tools else ""
        return {"kind": kind, "tools": tools, "messages": ([{"role": "system", "content": system}] if system else []) + msgs}

    def tool(self):
        """A dialogue with tools that is about the encyclopedia."""
        return self.looked_up() if self.r.random() < 0.3 else self.known()

    def looked_up(self):
        """A fact asked for where a tool that looks entries up is offered: it is called, and its answer put in words."""
        r, m = self.r, self.maker
        made = m.offered([LOOKUP], r.randint(1, 5))
        _, _, name, args = next(x for x in made if x[0] is LOOKUP)
        entry, about, _ = self.entry()
        attribute = r.choice(list(about))
        q, a = self.one(entry, about, attribute)
        msgs = [q, {"role": "assistant", "content": "", "tool_calls": [m.call(name, args, {"entry": entry["name"]})]},
                {"role": "tool", "content": json.dumps({attribute: entry[attribute]})}, a]
        return self.with_system("lookup", made, msgs)

    def known(self):
        """A request for a tool in which a value is given by a fact: it is said first, then called with."""
        r, m = self.r, self.maker
        it, kind = r.choice(NEEDS)
        owner, attribute, wordings = r.choice(INSTEAD[kind])
        entry, about, _ = self.entry()
        while about is not owner:
            entry, about, _ = self.entry()
        made = m.offered([it], r.choice([1, 1, 2, 3]))
        _, _, name, args = next(x for x in made if x[0] is it)
        values = m.fill(it, False)
        said = {**values, kind: r.choice(wordings).format(x=entry["name"])}
        values[kind] = entry[attribute]
        fact = about[attribute][3][0].format(x=entry["name"], v=entry[attribute])
        result = it["result"](r, values)
        msgs = [user(m.phrase_request(it, said, False)), {"role": "assistant", "content": fact, "tool_calls": [m.call(name, args, values)]},
                {"role": "tool", "content": json.dumps(result)}, assistant(m.answer(it, values, result))]
        return self.with_system("known", made, msgs)

    def with_system(self, kind, made, msgs):
        system = self.r.choice(SYSTEM)
        return {"kind": kind, "tools": [t for _, t, _, _ in made], "messages": ([{"role": "system", "content": system}] if system else []) + msgs}


NEEDS = [(it, k) for it in INTENTS for k in INSTEAD if k in it["need"]]
LOOKUP = next(it for it in INTENTS if it["names"][0] == "lookup_entry")


if __name__ == "__main__":
    book, teller = Encyclopedia(), Teller(0)
    print(len(book.people), "people", len(book.towns), "towns", sum(1 for _ in book.facts()), "facts")
    for _ in range(6):
        print(json.dumps(teller.chat(), indent=1))
    print(json.dumps(teller.tool(), indent=1))
